"""Shapes: inference, and giving open inputs a size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from trtforge.errors import graph as errors
from trtforge.graph import io, shapes
from trtforge.graph.model import Model

CONV = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[n, 3, h, w] image) => (float[n, 8, a, b] y) {
        c = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(image, k)
        y = Relu(c)
    }
"""


def conv(parse):
    return parse(CONV, k=np.ones((8, 3, 3, 3), np.float32))


def test_freezing_an_input_fixes_everything_behind_it(parse) -> None:
    model = conv(parse)
    before = model.proto.SerializeToString()
    frozen = shapes.freeze_inputs(model, {"image": (2, 3, 10, 20)})
    types = shapes.tensor_types(frozen)
    assert types["c"] == types["y"] == ("float32", (2, 8, 5, 10))
    assert types["k"].shape == (8, 3, 3, 3)
    assert shapes.input_specs(frozen) == {"image": ("float32", (2, 3, 10, 20))}
    assert shapes.output_specs(frozen)["y"].is_static
    assert model.proto.SerializeToString() == before


def test_open_shapes_keep_their_symbols(parse) -> None:
    types = shapes.tensor_types(shapes.infer_shapes(conv(parse)))
    assert types["image"].shape == ("n", 3, "h", "w")
    assert types["c"].shape is not None and types["c"].shape[:2] == ("n", 8)
    assert not types["c"].is_static


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"imag": (1, 3, 8, 8)}, errors.UnknownInput, "did you mean 'image'"),
        ({"image": (1, 8, 8, 3)}, errors.ShapeMismatch, "axis 1 is fixed to 3 in the model, 8 was given"),
        ({"image": (1, 3, 8)}, errors.ShapeMismatch, "rank 4"),
        ({"image": (0, 3, 8, 8)}, errors.ShapeMismatch, "at least 1"),
        ({}, errors.DynamicShape, "[n, 3, h, w]"),
    ],
)
def test_shapes_that_do_not_fit(parse, given, error, words: str) -> None:
    with pytest.raises(error) as caught:
        shapes.freeze_inputs(conv(parse), given)
    assert words in str(caught.value)


def test_a_contradiction_inside_the_graph_names_its_node(parse) -> None:
    model = parse("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[n, 4] x, float[m, 5] z) => (float[p, q] y) { y = Add(x, z) }
    """)
    with pytest.raises(errors.InvalidGraph) as caught:
        shapes.freeze_inputs(model, {"x": (1, 4), "z": (1, 5)})
    assert (caught.value.where, caught.value.why) == ("node 'y' (Add)", "Incompatible dimensions")


@pytest.mark.parametrize(
    ("node", "where", "says"),
    [
        ("[twin] a = Relu(x) [twin] y = MaxPool(a)", "node 'twin' (MaxPool)", "kernel_shape"),
        ("a = MaxPool(x) [behind] y = Relu(a)", "node 'a' (MaxPool)", "kernel_shape"),
        ("[cast] y = Cast<to = 0>(x)", "graph 'g'", "data type 0"),
    ],
)
def test_the_first_of_several_contradictions_is_told(node: str, where: str, says: str) -> None:
    proto = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[1, 4, 8, 8] x) => (float[a, b, c, d] y) {{ {node} }}""")
    with pytest.raises(errors.InvalidGraph) as caught:
        shapes.infer_shapes(Model(proto))
    assert caught.value.where == where and says in caught.value.why
    assert "[" not in caught.value.why and "op_type" not in caught.value.why


def test_weights_listed_as_inputs_are_no_inputs(parse) -> None:
    model = conv(parse)
    model.proto.graph.input.add().CopyFrom(onnx.helper.make_tensor_value_info("k", 1, [8, 3, 3, 3]))
    assert list(shapes.input_specs(model)) == ["image"]


def test_external_constants_that_inference_needs_are_read(external_model: Path, tmp_path: Path) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1, 6] x) => (float[a, b] y) { y = Reshape(x, s) }
    """)
    (tmp_path / "s.bin").write_bytes(np.array([2, 3], np.int64).tobytes())
    tensor = model.graph.initializer.add(name="s", dims=[2], data_type=7, data_location=1)
    tensor.external_data.add(key="location", value="s.bin")
    (tmp_path / "s.onnx").write_bytes(model.SerializeToString())
    inferred = shapes.freeze_inputs(io.load(tmp_path / "s.onnx"), {})
    assert shapes.output_specs(inferred)["y"].shape == (2, 3)


def test_custom_operators_stop_inference_and_raise_nothing(parse) -> None:
    model = parse("""
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[2] x) => (float[2] y) { a = Relu(x)  b = mine.Magic(a)  y = Neg(b) }
    """)
    types = shapes.tensor_types(shapes.infer_shapes(model))
    assert types["a"].shape == (2,)
    assert "b" not in types


def test_shapes_left_from_another_size_do_not_hinder(parse) -> None:
    model = parse("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[n, 4] x) => (float[1, 4] y) <float[1, 4] a> { a = Relu(x)  y = Neg(a) }
    """)
    types = shapes.tensor_types(shapes.freeze_inputs(model, {"x": (2, 4)}))
    assert types["a"].shape == types["y"].shape == (2, 4)


def test_outputs_of_custom_operators_keep_what_they_state(parse) -> None:
    model = parse("""
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[n, 4] x) => (float[m, 4] y) { y = mine.Magic(x) }
    """)
    assert shapes.output_specs(shapes.freeze_inputs(model, {"x": (2, 4)}))["y"].shape == ("m", 4)
