"""Samples into batches and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtforge.backends.base import TensorSpec
from trtforge.backends.batching import batch_size, batches, results
from trtforge.backends.onnxruntime_.session import open_file
from trtforge.errors.engine import SessionFailed
from trtforge.samples.base import Sample


def samples(count):
    return [Sample(str(i), "", {"x": np.full((1, 2), i, np.float32)}) for i in range(count)]


class Doubling:
    """A session that doubles its input and also returns something without a batch axis."""

    def __init__(self, batch):
        self.inputs = (TensorSpec("x", (batch, 2), "float32"),)
        self.outputs = (TensorSpec("y", (batch, 2), "float32"), TensorSpec("version", (), "float32"))
        self.runs = 0

    def run(self, inputs):
        self.runs += 1
        assert inputs["x"].shape == (self.inputs[0].shape[0] or 1, 2)
        return {"y": inputs["x"] * 2, "version": np.float32(7)}


@given(count=st.integers(0, 13), batch=st.one_of(st.none(), st.integers(1, 5)))
def test_every_sample_gets_its_own_result(count, batch):
    session = Doubling(batch)
    found = list(results(session, samples(count)))
    assert [sample.id for sample, _ in found] == [str(i) for i in range(count)]
    for number, (_, outputs) in enumerate(found):
        np.testing.assert_array_equal(outputs["y"], np.full((1, 2), 2 * number))
        assert outputs["version"] == 7
    assert session.runs == -(-count // (batch or 1))


def test_last_batch_is_padded_with_its_last_sample():
    specs = (TensorSpec("x", (4, 2), "float32"),)
    (batch,) = batches(samples(3), specs)
    assert [sample.id for sample in batch.samples] == ["0", "1", "2"]
    np.testing.assert_array_equal(batch.arrays["x"][:, 0], [0, 1, 2, 2])


def test_samples_are_read_no_further_than_needed():
    read = []

    def source():
        for sample in samples(10):
            read.append(sample.id)
            yield sample

    next(batches(source(), (TensorSpec("x", (4, 2), "float32"),)))
    assert len(read) == 4


def test_an_input_a_sample_lacks_is_left_out_for_the_session_to_name():
    (batch,) = batches(samples(1), (TensorSpec("x", (1, 2), "float32"), TensorSpec("mask", (1,), "bool")))
    assert set(batch.arrays) == {"x"}


def test_batch_size():
    assert batch_size((TensorSpec("x", (8, 3), "float32"), TensorSpec("y", (8,), "float32"))) == 8
    assert batch_size((TensorSpec("x", (None, 3), "float32"),)) == 1
    assert batch_size((TensorSpec("x", (), "float32"),)) == 1


def test_a_failed_run_names_its_samples(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A token id beyond the vocabulary: onnxruntime's own log stays silent, the error says all of it."""
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        g (int64[2, 2] ids) => (float[2, 2, 1] y) <float[3, 1] table = {0.0, 1.0, 2.0}> { y = Gather(table, ids) }""")
    onnx.save(model, tmp_path / "m.onnx")
    session = open_file(tmp_path / "m.onnx", {})
    samples = [Sample(name, "", {"ids": np.array([[0, token]])}) for name, token in [("a", 1), ("b", 99)]]
    with pytest.raises(SessionFailed) as caught:
        list(results(session, samples))
    assert caught.value.where == "sample a, b"
    assert "idx=99" in caught.value.why
    assert "token id" in caught.value.next
    assert capfd.readouterr().err == ""
