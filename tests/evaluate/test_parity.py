"""Parity on real sessions: what is compared, what is summed up, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from trtforge.backends.onnxruntime_.session import configured, open_file
from trtforge.errors.verify import NothingToVerify, OutputsDiffer, ReferenceRefused
from trtforge.evaluate import reference as reference_module
from trtforge.evaluate.parity import compare, largest
from trtforge.evaluate.reference import reference_session
from trtforge.ort import open_session
from trtforge.samples.base import Sample


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTFORGE_THREADS", "1")


def classifier(path: Path, *, noise: float = 0.0, batch: str = "n", output: str = "y", classes: int = 4) -> Path:
    """y = x W, with W the identity plus noise."""
    proto = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 17]> g (float[{batch}, {classes}] x) => '
        f"(float[{batch}, {classes}] {output}) {{ {output} = MatMul (x, w) }}"
    )
    weight = np.eye(classes) + np.random.default_rng(0).normal(0, 1, (classes, classes)) * noise
    proto.graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), "w"))
    onnx.save(proto, path)
    return path


def samples(count=5, classes=4):
    rng = np.random.default_rng(1)
    return [Sample(f"s{i}", "", {"x": rng.normal(size=(1, classes)).astype(np.float32)}) for i in range(count)]


def test_a_model_against_itself(tmp_path):
    session = reference_session(classifier(tmp_path / "a.onnx"))
    report = compare(session, session, samples(), "cosine", 1.0 - 1e-12)
    assert report.passed
    assert report.missed(where="engine") is None
    assert [row.id for row in report.rows] == [f"s{i}" for i in range(5)]
    assert all(row.top1_equal and row.max_abs_error == 0 and row.sqnr_db == math.inf for row in report.rows)


@pytest.mark.parametrize("metric", ["cosine", "top1", "sqnr_db"])
def test_a_bound_just_met_and_just_missed(tmp_path, metric):
    reference = reference_session(classifier(tmp_path / "a.onnx"))
    candidate = open_file(classifier(tmp_path / "b.onnx", noise=0.4), {})
    value = compare(reference, candidate, samples(), metric).value
    assert compare(reference, candidate, samples(), metric, value).passed is True
    missed = compare(reference, candidate, samples(), metric, value + 1e-6)
    assert missed.passed is False
    error = missed.missed(where="engines/host/net/1")
    assert error.code == "VER101"
    assert error.exit_code == 8
    assert repr(missed.worst.id) in error.why
    assert metric in error.what


def test_summaries_are_those_of_the_rows(tmp_path):
    reference = reference_session(classifier(tmp_path / "a.onnx"))
    candidate = open_file(classifier(tmp_path / "b.onnx", noise=0.4), {})
    by_cosine = compare(reference, candidate, samples(), "cosine")
    cosines = [row.cosine for row in by_cosine.rows]
    assert by_cosine.value == min(cosines) == by_cosine.worst.cosine
    assert by_cosine.mean == pytest.approx(sum(cosines) / 5)
    assert by_cosine.passed is None
    by_top1 = compare(reference, candidate, samples(), "top1")
    assert by_top1.value == by_top1.mean == sum(row.top1 for row in by_top1.rows) / 5
    by_sqnr = compare(reference, candidate, samples(), "sqnr_db")
    assert min(row.sqnr_db for row in by_sqnr.rows) <= by_sqnr.value <= max(row.sqnr_db for row in by_sqnr.rows)


@pytest.mark.parametrize("batch", [2, 3, 5, 8])
def test_an_engine_with_a_fixed_batch(tmp_path, batch):
    reference = reference_session(classifier(tmp_path / "a.onnx"))
    candidate = open_file(classifier(tmp_path / "b.onnx", noise=0.4, batch=str(batch)), {})
    alone = open_file(classifier(tmp_path / "c.onnx", noise=0.4), {})
    found, expected = compare(reference, candidate, samples(), "cosine"), compare(reference, alone, samples(), "cosine")
    assert [row.id for row in found.rows] == [row.id for row in expected.rows]
    for row, other in zip(found.rows, expected.rows, strict=True):
        assert row.cosine == pytest.approx(other.cosine, abs=1e-6)
        assert [score.index for score in row.candidate] == [score.index for score in other.candidate]


def test_samples_are_read_once_and_outputs_handed_on(tmp_path):
    session = reference_session(classifier(tmp_path / "a.onnx"))

    class Once:
        name = "once"
        reads = 0

        def __len__(self):
            return 5

        def __iter__(self):
            self.reads += 1
            yield from samples()

    once, seen = Once(), []
    compare(session, session, once, on_outputs=lambda sample, outputs: seen.append((sample.id, outputs["y"].shape)))
    assert once.reads == 1
    assert seen == [(f"s{i}", (1, 4)) for i in range(5)]


def test_json_is_strict_even_with_nan(tmp_path):
    session = reference_session(classifier(tmp_path / "a.onnx"))
    bad = [*samples(2), Sample("bad", "", {"x": np.full((1, 4), np.nan, np.float32)})]
    report = compare(session, session, bad, "cosine", 0.5)
    assert report.passed is False
    assert report.worst.id == "bad"
    value = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert value["value"] is None
    assert value["worst"] == "bad"
    assert value["rows"][0]["top1_equal"] is True
    assert value["rows"][0]["sqnr_db"] == 999.0
    assert set(value) == {"metric", "value", "at_least", "passed", "samples", "mean", "worst", "rows"}


def test_no_samples(tmp_path):
    session = reference_session(classifier(tmp_path / "a.onnx"))
    with pytest.raises(NothingToVerify):
        compare(session, session, [])


def test_outputs_of_other_names_or_shapes(tmp_path):
    reference = reference_session(classifier(tmp_path / "a.onnx"))
    renamed = open_file(classifier(tmp_path / "b.onnx", output="z"), {})
    with pytest.raises(OutputsDiffer) as caught:
        compare(reference, renamed, samples())
    assert "y" in caught.value.why
    assert "z" in caught.value.why
    proto = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17]> g (float[n, 4] x) => (float[n, 1] y) { y = ReduceMax <axes=[1]> (x) }'
    )
    onnx.save(proto, tmp_path / "c.onnx")
    with pytest.raises(OutputsDiffer) as caught:
        compare(reference, open_file(tmp_path / "c.onnx", {}), samples())
    assert "[1, 4]" in caught.value.why
    assert "[1, 1]" in caught.value.why


def test_a_reference_that_cannot_be_loaded(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ReferenceRefused) as caught:
        reference_session(tmp_path / "bad.onnx")
    assert caught.value.where.endswith("bad.onnx")


def test_largest_scores():
    scores = largest(np.asarray([[0.1, 0.5, 0.5, 0.2]], np.float32))
    assert [(score.index, round(score.value, 3)) for score in scores] == [(1, 0.5), (2, 0.5), (3, 0.2)]
    assert len(largest(np.asarray([1.0], np.float32))) == 1


def test_a_reference_with_q_dq_of_its_own_is_computed_in_float(tmp_path, monkeypatch):
    """Integer kernels saturate on CPUs without VNNI; a reference must be right on all."""
    proto = onnx.parser.parse_model(
        """
        <ir_version: 9, opset_import: ["" : 17]>
        g (float[1, 256] x) => (float[1, 8] y) {
            q = QuantizeLinear (x, s, z)
            d = DequantizeLinear (q, s, z)
            v = DequantizeLinear (w, t, o)
            y = MatMul (d, v)
        }
        """
    )
    constants = {"s": np.float32(0.013), "z": np.uint8(128), "t": np.float32(0.0071), "o": np.int8(0)}
    constants["w"] = np.random.default_rng(0).integers(-127, 128, (256, 8)).astype(np.int8)
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items())
    onnx.save(proto, tmp_path / "q.onnx")
    opened = []
    monkeypatch.setattr(
        reference_module, "open_file", lambda path, config: opened.append(config) or open_file(path, config)
    )
    assert reference_session(tmp_path / "q.onnx").run({"x": np.ones((1, 256), np.float32)})["y"].shape == (1, 8)
    for config, operator in ((opened[0], "MatMul"), ({}, "MatMulIntegerToFloat")):
        options = configured(config)
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        open_session(proto, None, options)
        assert operator in {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
