"""Digests change with whatever changes results, and with nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from trtforge.errors.graph import ExternalDataTooShort, MissingExternalData
from trtforge.graph import io
from trtforge.graph.digests import NO_EXTERNAL_WEIGHTS, digests, show_weights
from trtforge.graph.model import Model


def copy(model: Model) -> Model:
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    return Model(proto, model.folder)


def test_volatile_fields_do_not_count(external_model: Path) -> None:
    model = io.load(external_model)
    other = copy(model)
    other.proto.producer_name, other.proto.doc_string = "someone", "text"
    other.proto.metadata_props.add(key="date", value="today")
    other.proto.graph.doc_string = "text"
    other.proto.graph.node[0].doc_string = "stack trace"
    other.proto.graph.input[0].doc_string = "text"
    assert digests(other) == digests(model)


@pytest.mark.parametrize(
    "change",
    [
        lambda proto: setattr(proto.graph.node[0], "op_type", "Gemm"),
        lambda proto: proto.graph.node[0].input.__setitem__(0, "y"),
        lambda proto: setattr(proto.opset_import[0], "version", 16),
        lambda proto: setattr(proto.graph.initializer[0], "data_type", 2),
        lambda proto: proto.graph.input[0].type.tensor_type.shape.dim[0].__setattr__("dim_value", 2),
    ],
)
def test_structure_counts(external_model: Path, change) -> None:
    model = io.load(external_model)
    other = copy(model)
    change(other.proto)
    assert digests(other).graph != digests(model).graph


def test_inline_weights_count(external_model: Path) -> None:
    model = Model(onnx.load(external_model))
    assert digests(model).weights == NO_EXTERNAL_WEIGHTS
    for position in (0, 1):  # 64 KiB, set aside while digesting; 4 bytes, digested in place
        other = copy(model)
        tensor = other.proto.graph.initializer[position]
        tensor.raw_data = tensor.raw_data[:-1] + bytes([tensor.raw_data[-1] ^ 1])
        assert digests(other).graph != digests(model).graph
        assert digests(copy(model)) == digests(model)


def test_external_weights_count_wherever_they_are(external_model: Path, tmp_path: Path) -> None:
    before = digests(io.load(external_model))
    moved = tmp_path / "moved" / "m.onnx"
    shutil.copytree(external_model.parent, moved.parent)
    assert digests(io.load(moved)) == before

    padded = io.load(moved)
    data = (moved.parent / "w.bin").read_bytes()
    (moved.parent / "other.bin").write_bytes(bytes(64) + data)
    for tensor in padded.proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "other.bin"
            if entry.key == "offset":
                entry.value = str(int(entry.value) + 64)
    assert digests(padded) == before

    with (moved.parent / "w.bin").open("r+b") as stream:
        stream.seek(65535)
        stream.write(bytes([data[65535] ^ 1]))
    after = digests(io.load(moved))
    assert after.graph == before.graph
    assert after.weights != before.weights


def test_swapped_weights_are_other_weights(external_model: Path) -> None:
    model = io.load(external_model)
    swapped = copy(model)
    first, second = swapped.proto.graph.initializer
    first.name, second.name = second.name, first.name
    assert digests(swapped).weights != digests(model).weights


def test_files_that_vanish_or_shrink_are_noticed(external_model: Path) -> None:
    model = io.load(external_model)
    data = external_model.parent / "w.bin"
    with data.open("r+b") as stream:
        stream.truncate(100)
    with pytest.raises(ExternalDataTooShort):
        digests(model)
    data.unlink()
    with pytest.raises(MissingExternalData):
        digests(model)


def test_digests_of_a_file_do_not_depend_on_how_it_was_saved(opennsfw_path: Path, tmp_path: Path) -> None:
    model = io.load(opennsfw_path)
    io.save(model, tmp_path / "again.onnx")
    assert digests(io.load(tmp_path / "again.onnx")) == digests(model)


def test_external_values_of_constant_nodes_that_change_places_change_the_digest(parse, tmp_path: Path) -> None:
    """Such tensors have no name of their own: only their place in the graph tells them apart."""
    (tmp_path / "w.bin").write_bytes(np.array([1.0, 2.0], np.float32).tobytes())

    def model(*offsets: int) -> Model:
        result = parse("""
            <ir_version: 8, opset_import: ["": 17]> g (float[1] x) => (float[1] y) {
                one = Constant<value = float[1] {0}>()
                two = Constant<value = float[1] {0}>()
                scaled = Mul(x, one)
                y = Add(scaled, two)
            }
        """)
        for node, offset in zip(result.proto.graph.node, offsets, strict=False):
            value = node.attribute[0].t
            value.Clear()
            value.dims.append(1)
            value.data_type = onnx.TensorProto.FLOAT
            value.data_location = onnx.TensorProto.EXTERNAL
            for key, text in (("location", "w.bin"), ("offset", str(offset)), ("length", "4")):
                value.external_data.add(key=key, value=text)
        return Model(result.proto, tmp_path)

    assert digests(model(0, 4)) == digests(model(0, 4))
    assert digests(model(0, 4)) != digests(model(4, 0))


def test_inline_weights_have_no_digest_to_show() -> None:
    assert show_weights(NO_EXTERNAL_WEIGHTS) == "inline (in the graph digest)"
    assert show_weights("ab" * 32) == "ab" * 32
