"""The table: exact round trip, strict reading, exact merge, and the refusal of scales for another model."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtforge.digest import set_digest
from trtforge.errors.calibration import InvalidRange, MergeRefused, ScalesFileInvalid, ScalesMismatch, ScalesTooNew
from trtforge.graph.model import Digests
from trtforge.scales.table import Receipt, ScaleTable, TensorRange, check_matches, merge, merge_ranges
from trtforge.scales.table_json import SCHEMA

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
ranges = st.tuples(finite, finite, st.integers(0, 10**9)).map(lambda t: TensorRange(min(t[:2]), max(t[:2]), t[2]))
positive_scales = st.floats(
    min_value=float(np.finfo(np.float32).smallest_subnormal), max_value=float(np.finfo(np.float32).max), width=32
)


def receipt(**changes: object) -> Receipt:
    samples = {"cat.png": "a" * 64, "dog.png": "b" * 64}
    made = Receipt(
        method="minmax",
        samples=samples,
        set_digest=set_digest(list(samples.values())),
        preprocessing={"kind": "image", "mean": [104.0, 117.0, 123.0]},
        model_graph="c" * 64,
        model_weights="d" * 64,
        tools={"onnxruntime": "1.32.0"},
        uncovered=("dead",),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def table(**changes: object) -> ScaleTable:
    return ScaleTable({"x": TensorRange(-1.5, 0.25, 2), "y:0": TensorRange(0.0, 3.0, 2)}, receipt(**changes))


@given(st.dictionaries(st.text(), ranges, max_size=6))
def test_json_round_trip_keeps_every_bit(entries: dict[str, TensorRange]) -> None:
    original = ScaleTable(entries, receipt())
    again = ScaleTable.from_json(json.loads(json.dumps(original.to_json())))
    assert again == original
    assert again.digest == original.digest
    for name, seen in entries.items():
        assert np.float32(again.ranges[name].max).tobytes() == np.float32(seen.max).tobytes()


@given(positive_scales)
def test_a_scale_survives_as_a_range(scale: float) -> None:
    seen = TensorRange.from_scale(np.float32(scale))
    assert seen.scale.tobytes() == np.float32(scale).tobytes()
    stored = ScaleTable.from_json(json.loads(json.dumps(ScaleTable({"x": seen}).to_json())))
    assert stored.ranges["x"].scale.tobytes() == np.float32(scale).tobytes()


@given(finite)
def test_scale_of_a_float32_amax_is_the_correctly_rounded_quotient(value: float) -> None:
    seen = TensorRange(-abs(value), 0.0, 1)
    assert seen.scale == np.float32(abs(value)) / np.float32(127)


def test_zero_range_has_a_usable_scale() -> None:
    assert TensorRange(0.0, 0.0, 5).scale == 0
    assert TensorRange(0.0, 0.0, 5).usable_scale == 1
    assert TensorRange(0.0, 1e-38, 5).usable_scale == 1  # its scale is subnormal: hardware may flush it to zero
    assert TensorRange(0.0, 127.0, 5).usable_scale == 1
    assert TensorRange(0.0, 1e-30, 5).usable_scale == np.float32(1e-30 / 127)


def test_file_matches_its_schema_and_loads(tmp_path: Path) -> None:
    path = tmp_path / "scales.json"
    table().save(path)
    jsonschema.validate(json.loads(path.read_text()), SCHEMA)
    assert ScaleTable.load(path) == table()
    ScaleTable({}).save(path)
    jsonschema.validate(json.loads(path.read_text()), SCHEMA)
    assert ScaleTable.load(path) == ScaleTable({})


def test_digest_does_not_depend_on_order() -> None:
    one, two = TensorRange(0.0, 1.0, 1), TensorRange(0.0, 2.0, 1)
    assert ScaleTable({"a": one, "b": two}).digest == ScaleTable({"b": two, "a": one}).digest
    assert ScaleTable({"a": one, "b": two}).digest != ScaleTable({"a": two, "b": one}).digest


@pytest.mark.parametrize(
    ("low", "high", "count", "why"),
    [
        (math.nan, 1.0, 1, "finite"),
        (0.0, math.inf, 1, "finite"),
        (2.0, 1.0, 1, "greater"),
        (0.0, 1e300, 1, "float32"),
        (0.0, 1.0, -1, "count"),
    ],
)
def test_impossible_ranges_are_refused(low: float, high: float, count: int, why: str) -> None:
    with pytest.raises(InvalidRange) as caught:
        ScaleTable({"conv1": TensorRange(low, high, count)})
    assert why in caught.value.why
    assert "conv1" in str(caught.value)


def edited(**changes: object) -> str:
    return json.dumps({**table().to_json(), **changes})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("{", "not JSON"),
        ("[" * 100_000, "nested"),
        ("TRT-8201-MinMaxCalibration\nx: 3c010204\n", "TensorRT calibration cache"),
        ("[]", "the file is an array, not an object"),
        ("null", "the file is null, not an object"),
        ('{"format": "trtforge.scales", "format": "x"}', "twice"),
        (edited(format="other"), "`format`"),
        (edited(version="1"), "`version`"),
        (edited(version=True), "`version`"),
        ('{"format": ' + "9" * 5000 + "}", "an integer of thousands of digits, which is no range"),
        (edited(extra=1), "unknown field `extra`"),
        (json.dumps({"format": "trtforge.scales", "version": 1}), "lacks `ranges`"),
        (edited(ranges={"x": {"amax": 1, "min": 0, "max": 1}}), "lacks `count`"),
        (edited(ranges={"x": {"amax": 1, "min": "0", "max": 1, "count": 1}}), "not a number"),
        (edited(ranges={"x": {"amax": 1, "min": 0, "max": True, "count": 1}}), "not a number"),
        (edited(ranges={"x": {"amax": 1, "min": 0, "max": 1, "count": 1.5}}), "not an integer"),
        (edited(ranges={"x": {"amax": 1, "min": 0, "max": 10**400, "count": 1}}), "too large"),
        (edited(ranges={"x": 1}), "not an object"),
        (edited(receipt={"method": "minmax"}), "lacks"),
        (edited(receipt={**table().to_json()["receipt"], "samples": {"a": 1}}), "not a string"),
        (edited(receipt={**table().to_json()["receipt"], "uncovered": "x"}), "list of strings"),
        (edited().replace("3.0", "NaN"), "NaN"),
    ],
)
def test_bad_files_name_the_reason(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "scales.json"
    path.write_text(text)
    with pytest.raises(ScalesFileInvalid) as caught:
        ScaleTable.load(path)
    assert why in caught.value.why
    assert str(path) in caught.value.where
    assert caught.value.next


def test_json_errors_carry_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "scales.json"
    path.write_text('{\n "format" 1}')
    with pytest.raises(ScalesFileInvalid) as caught:
        ScaleTable.load(path)
    assert caught.value.where == f"{path}:2:11"


@pytest.mark.parametrize("amax", [-1.0, 2.0])
def test_amax_must_agree_with_min_and_max(amax: float) -> None:
    value = json.loads(edited(ranges={"x": {"amax": amax, "min": -1.0, "max": 0.5, "count": 1}}))
    with pytest.raises(InvalidRange, match="contradicts"):
        ScaleTable.from_json(value)


def test_missing_file_binary_file_and_newer_version(tmp_path: Path) -> None:
    with pytest.raises(ScalesFileInvalid, match="cannot be opened"):
        ScaleTable.load(tmp_path / "none.json")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ScalesFileInvalid):
        ScaleTable.load(tmp_path / "b.json")
    with pytest.raises(ScalesTooNew):
        ScaleTable.from_json({**table().to_json(), "version": 2})


@given(ranges, ranges, ranges)
def test_merging_ranges_is_associative_and_commutative_bit_for_bit(
    a: TensorRange, b: TensorRange, c: TensorRange
) -> None:
    def bits(seen: TensorRange) -> tuple[bytes, bytes, int]:
        return np.float64(seen.min).tobytes(), np.float64(seen.max).tobytes(), seen.count

    assert bits(merge_ranges(a, b)) == bits(merge_ranges(b, a))
    assert bits(merge_ranges(merge_ranges(a, b), c)) == bits(merge_ranges(a, merge_ranges(b, c)))


@st.composite
def disjoint_tables(draw: st.DrawFn) -> list[ScaleTable]:
    """Three tables of one model, on disjoint samples, with different coverage, notes and tool versions."""
    made = []
    for part in range(3):
        entries = draw(st.dictionaries(st.sampled_from("abcd"), ranges))
        samples = {f"{part}/{key}": key * 64 for key in draw(st.sets(st.sampled_from("0123")))}
        uncovered = tuple(sorted(set("abcd") - set(entries)))
        tools = {"onnxruntime": draw(st.sampled_from(["1.31.0", "1.32.0"]))}
        notes = draw(st.dictionaries(st.sampled_from("nm"), st.integers(0, 1)))
        digest = set_digest(list(samples.values()))
        made.append(
            ScaleTable(entries, receipt(samples=samples, set_digest=digest, uncovered=uncovered, tools=tools), notes)
        )
    return made


@given(disjoint_tables())
def test_merging_tables_is_associative_and_commutative(parts: list[ScaleTable]) -> None:
    a, b, c = parts
    assert merge(a, b).digest == merge(b, a).digest
    left, right = merge(merge(a, b), c), merge(a, merge(b, c))
    assert left.digest == right.digest
    assert left.receipt is not None
    assert set(left.receipt.uncovered) == set("abcd") - set(left.ranges)
    assert left.receipt.set_digest == set_digest(list(left.receipt.samples.values()))


def test_merge_adds_counts_and_keeps_the_wider_limits() -> None:
    other = {"cat2.png": "e" * 64}
    b = ScaleTable({"x": TensorRange(-1.0, 9.0, 1)}, receipt(samples=other, tools={"onnxruntime": "1.31.0"}))
    merged = merge(table(), b)
    assert merged.ranges == {"x": TensorRange(-1.5, 9.0, 3), "y:0": TensorRange(0.0, 3.0, 2)}
    assert merged.receipt is not None
    assert merged.receipt.tools == {"onnxruntime": "1.31.0 | 1.32.0"}
    assert len(merged.receipt.samples) == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_graph": "0" * 64}, "model graph"),
        ({"model_weights": "0" * 64}, "model weights"),
        ({"method": "entropy"}, "calibration method"),
        ({"preprocessing": {}}, "preprocessing"),
        ({}, "in both"),
    ],
)
def test_merge_refuses_what_does_not_belong_together(changes: dict[str, object], said: str) -> None:
    fresh = {} if not changes else {"samples": {"new": "f" * 64}}
    with pytest.raises(MergeRefused, match=said):
        merge(table(), table(**changes, **fresh))


def test_merge_needs_both_receipts_or_none() -> None:
    bare = ScaleTable({"x": TensorRange(0.0, 1.0, 0)})
    assert merge(bare, bare).receipt is None
    with pytest.raises(MergeRefused, match="no receipt"):
        merge(table(), bare)


def test_scales_of_this_model_are_accepted() -> None:
    same = Digests("c" * 64, "d" * 64)
    check_matches(table(), same)
    check_matches(table(), same, preprocessing={"mean": [104.0, 117.0, 123.0], "kind": "image"})


@pytest.mark.parametrize(
    ("graph", "weights", "preprocessing", "named"),
    [
        ("0" * 64, "d" * 64, None, "another graph"),
        ("c" * 64, "0" * 64, None, "another weights"),
        ("0" * 64, "0" * 64, None, "another graph and weights"),
        ("c" * 64, "d" * 64, {"kind": "array"}, "another preprocessing"),
    ],
)
def test_scales_of_another_model_are_refused_and_the_digest_named(
    graph: str, weights: str, preprocessing: dict[str, object] | None, named: str
) -> None:
    with pytest.raises(ScalesMismatch, match=named) as caught:
        check_matches(table(), Digests(graph, weights), preprocessing=preprocessing, where="s.json")
    assert caught.value.exit_code == 5
    assert caught.value.where == "s.json"
    assert "scales" in caught.value.why and "here" in caught.value.why
    assert "trtforge calibrate" in caught.value.next


def test_scales_without_receipt_are_refused() -> None:
    with pytest.raises(ScalesMismatch, match="no receipt"):
        check_matches(ScaleTable({}), Digests("c" * 64, "d" * 64))


def test_a_cache_in_place_of_scales_is_told_why_not_and_what_it_is_good_for(tmp_path: Path) -> None:
    path = tmp_path / "the cache.txt"
    path.write_text("TRT-8201-MinMaxCalibration\nx: 3c010204\n")
    with pytest.raises(ScalesFileInvalid) as caught:
        ScaleTable.load(path)
    assert "which model and samples it is of" in caught.value.why
    assert caught.value.next.startswith("trtforge calibrate RECIPE") and "scales convert" in caught.value.next
