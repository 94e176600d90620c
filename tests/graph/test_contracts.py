"""What `run` guarantees of any pass, and that passes which break it are caught."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from trtforge.errors import graph as errors
from trtforge.graph import shapes
from trtforge.graph.passes import registry
from trtforge.graph.passes.base import Pass, PassResult

MODEL = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[2, 3] x) => (float[2, 3] y) { a = Relu(x)  b = Neg(a)  y = Abs(b) }
"""


def broken(edit) -> Pass:
    class Broken(Pass):
        """A pass with a defect."""

        name = "broken"

        def apply(self, model, context):
            edit(model.proto.graph)
            return PassResult(True, "done")

    return Broken()


def swap_for_int(graph: onnx.GraphProto) -> None:
    graph.node[1].output[0] = "n"
    graph.node[2].input[0] = "n"
    graph.node.insert(1, onnx.helper.make_node("Shape", ["a"], ["b"]))
    graph.value_info.append(onnx.helper.make_tensor_value_info("b", onnx.TensorProto.INT64, [2]))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda graph: setattr(graph.input[0], "name", "z"), "reads the tensor 'x'"),
        (
            lambda graph: graph.output.append(onnx.helper.make_tensor_value_info("b", 1, [2, 3])),
            "outputs were y and are y, b",
        ),
        (
            lambda graph: graph.input.append(onnx.helper.make_tensor_value_info("i", 1, [1])),
            "inputs were x and are x, i",
        ),
        (lambda graph: graph.node.__delitem__(1), "which nothing before it produces"),
        (
            lambda graph: setattr(graph.output[0].type.tensor_type, "elem_type", 10),
            "'y' was float32 [2, 3] and is float16",
        ),
        (swap_for_int, "'b' was float32 [2, 3] and is int64 [2]"),
        (lambda graph: graph.node.__getitem__(0).output.__setitem__(0, "x"), "exists already"),
    ],
)
def test_a_broken_pass_is_named(parse, monkeypatch: pytest.MonkeyPatch, edit, words: str) -> None:
    monkeypatch.setattr(registry, "_PASSES", (broken(edit),))
    model = shapes.infer_shapes(parse(MODEL))
    with pytest.raises(errors.PassBrokeContract) as caught:
        registry.run(model, ["broken"])
    assert words in caught.value.why
    assert "'broken'" in caught.value.what


def test_an_exception_inside_a_pass_names_it(parse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_PASSES", (broken(lambda graph: graph.node[99]),))
    with pytest.raises(errors.PassFailed) as caught:
        registry.run(parse(MODEL), ["broken"])
    assert "'broken'" in caught.value.what and "IndexError" in caught.value.why


def test_an_error_of_ours_inside_a_pass_keeps_its_advice(parse) -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (float[2] x, float[3] z) => (float[n] y) { y = Add(x, z) }'
    )
    with pytest.raises(errors.PassFailed) as caught:
        registry.run(model, ["infer-shapes"])
    assert "infer-shapes" in caught.value.what and "ONX108" in caught.value.why and caught.value.next


def test_unknown_passes_are_refused_before_any_work(parse) -> None:
    with pytest.raises(errors.UnknownPass) as caught:
        registry.run(parse(MODEL), ["infer-shapes", "fold-batch-norm"])
    assert "did you mean 'fold-batchnorm'" in caught.value.what


def test_a_pass_that_cannot_start_says_why(parse) -> None:
    model = parse('<ir_version: 5, opset_import: ["": 9]> g (float[2, 5] x) => (float[2, 5] y) { y = Softmax(x) }')
    with pytest.raises(errors.PassPrecondition) as caught:
        registry.run(model, ["topk-head"])
    assert "run upgrade-opset before it" in caught.value.why


def test_weights_listed_as_inputs_become_plain_weights(parse) -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["": 9]> g (float[2] x) => (float[2] y) { y = Add(x, w) }', w=np.ones(2, "f")
    )
    model.proto.graph.input.append(onnx.helper.make_tensor_value_info("w", 1, [2]))
    model.proto.ir_version = 3
    onnx.checker.check_model(model.proto)
    result, _ = registry.run(model, ["upgrade-opset"])
    assert [value.name for value in result.proto.graph.input] == ["x"]
    onnx.checker.check_model(result.proto)


def test_what_graphsurgeon_cannot_express_survives_it(parse) -> None:
    model = parse(MODEL.replace("y = Abs(b)", "i = Identity(b)  y = Abs(i)"))
    node = model.proto.graph.node[0]
    node.doc_string = "where it came from"
    node.metadata_props.add(key="namespace", value="block1")
    node.attribute.add(name="kinds", type=onnx.AttributeProto.STRINGS).strings.append(b"\xff\xfe")
    node.domain = "custom"
    model.proto.opset_import.add(domain="custom", version=3)
    model.proto.metadata_props.add(key="a", value="b")
    model.proto.graph.metadata_props.add(key="c", value="d")
    node.attribute[0].ClearField("strings")
    node.attribute[0].type = onnx.AttributeProto.TYPE_PROTO
    node.attribute[0].tp.tensor_type.elem_type = 1
    result, (report,) = registry.run(model, ["remove-identity"])
    assert report.modified
    expected = onnx.ModelProto()
    expected.CopyFrom(model.proto)
    del expected.graph.node[2]
    expected.graph.node[2].input[0] = "b"
    assert result.proto == expected
