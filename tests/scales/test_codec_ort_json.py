"""onnxruntime's JSON, written by onnxruntime itself and read by its own loader."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtforge.errors.calibration import OnnxruntimeTableInvalid
from trtforge.ort import import_onnxruntime
from trtforge.scales.codecs import ort_json
from trtforge.scales.table import ScaleTable, TensorRange

import_onnxruntime()
from onnxruntime.quantization.calibrate import (  # noqa: E402
    CalibrationMethod,
    TensorsData,
    load_tensors_data,
    save_tensors_data,
)
from onnxruntime.quantization.quant_utils import write_calibration_table  # noqa: E402

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


def as_onnxruntime(ranges: dict[str, tuple[float, float]]) -> TensorsData:
    limits = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    return TensorsData(CalibrationMethod.MinMax, {n: tuple(np.array(v) for v in pair) for n, pair in limits.items()})


RANGES = {"x:0": (-5.0, 2.0), "relu": (0.0, 6.25)}
TABLE = ScaleTable({name: TensorRange(low, high, 0) for name, (low, high) in RANGES.items()})


def test_reads_what_save_tensors_data_writes(tmp_path: Path) -> None:
    save_tensors_data(as_onnxruntime(RANGES), tmp_path / "t.json")
    assert ort_json.load(tmp_path / "t.json").ranges == TABLE.ranges


def test_reads_calibration_json_and_keeps_the_larger_side(tmp_path: Path) -> None:
    write_calibration_table(as_onnxruntime(RANGES).data, dir=str(tmp_path))
    table = ort_json.load(tmp_path / "calibration.json")
    assert table.ranges == TABLE.ranges
    assert table.ranges["x:0"].amax == 5.0
    # the text file beside it holds the signed maximum, which is why it is not read
    assert "x:0 2.0" in (tmp_path / "calibration.cache").read_text()


@given(st.dictionaries(st.text(), st.tuples(finite, finite).map(sorted)))
def test_onnxruntime_loads_what_is_written_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, limits: dict[str, list[float]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "written.json"
    table = ScaleTable({name: TensorRange(low, high, 4) for name, (low, high) in limits.items()})
    ort_json.save(table, path)
    loaded = load_tensors_data(path)
    assert loaded.calibration_method == CalibrationMethod.MinMax
    for name, (low, high) in limits.items():
        assert loaded[name].lowest == np.float32(low)
        assert loaded[name].highest == np.float32(high)
        assert loaded[name].lowest.dtype == np.float32
    if limits:
        again = ort_json.load(path)
        assert {n: (r.min, r.max) for n, r in again.ranges.items()} == {n: tuple(v) for n, v in limits.items()}


def test_reads_the_lists_of_old_versions() -> None:
    assert ort_json.from_ort_json('{"x": [-1.0, 2.0]}').ranges == {"x": TensorRange(-1.0, 2.0, 0)}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("{", "not JSON"),
        ("[1]", "not an object"),
        ("{}", "not an object"),
        ('{"x": 1}', "no `lowest`"),
        ('{"x": [0, 1], "x": [0, 2]}', "twice"),
        ('{"x": {"lowest": 0}}', "no `lowest` and `highest`"),
        ('{"x": {"lowest": [0, 1], "highest": [1, 2]}}', "per tensor"),
        ('{"x": {"lowest": "0", "highest": 1}}', "not a finite number"),
        ('{"x": [0, NaN]}', "NaN"),
        ('{"x": [0, 1e999]}', "not a finite number"),
        ('{"x": [2, 1]}', "greater"),
        (f'{{"x": [0, {"9" * 400}]}}', "too large"),
        (f'{{"x": [0, {"9" * 5000}]}}', "thousands of digits"),
    ],
)
def test_bad_tables_name_the_reason(text: str, why: str) -> None:
    with pytest.raises(OnnxruntimeTableInvalid) as caught:
        ort_json.from_ort_json(text)
    assert why in caught.value.why


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(OnnxruntimeTableInvalid):
        ort_json.load(tmp_path / "none.json")


def test_wide_imported_range_stays_finite() -> None:
    table = ScaleTable({"x": TensorRange.from_scale(np.finfo(np.float32).max)})
    highest = json.loads(ort_json.to_ort_json(table))["data"]["x"]["highest"]["data"]
    assert highest == float(np.finfo(np.float32).max)


def test_scales_that_limits_in_float32_move_are_named() -> None:
    """127 times a scale may need more bits than a float32 has; ranges that were measured in float32 have them."""
    moved, kept = np.float32(0.02846253), np.float32(0.5)
    table = ScaleTable({"a": TensorRange.from_scale(moved), "b": TensorRange.from_scale(kept)})
    assert ort_json.rounded(table) == ("a",)
    read = ort_json.from_ort_json(ort_json.to_ort_json(table)).ranges["a"].scale
    assert read == np.nextafter(moved, np.float32(1))
    assert ort_json.rounded(TABLE) == ort_json.rounded(ScaleTable({})) == ()
