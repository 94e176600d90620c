"""Graphs written as text, what they compute, what plugins make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from onnx import helper, numpy_helper

from trtforge.graph.model import Model
from trtforge.graph.shapes import infer_shapes
from trtforge.surgery.choose import as_functions
from trtforge.surgery.op import Op, Situation
from trtforge.surgery.rules import View

Array = np.ndarray[Any, Any]
AMPERE = {"backend": "tensorrt_rtx", "sm": "8.0", "probed": True}


def parsed(text: str, weights: Mapping[str, Array], opset: int = 17, ir: int = 8) -> Model:
    """A graph's text and its weights as a model, shapes inferred."""
    head = f'<ir_version: {ir}, opset_import: ["": {opset}, "test": 1]>\n'
    proto = onnx.parser.parse_model(head + text)
    proto.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in weights.items())
    return infer_shapes(Model(proto))


def feeds(model: Model, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    sizes = {
        value.name: [dim.dim_value or 2 for dim in value.type.tensor_type.shape.dim]
        for value in model.proto.graph.input
    }
    return {name: rng.normal(0.5, 2, shape).astype(np.float32) for name, shape in sizes.items()}


def run(model: Model, given: Mapping[str, Array]) -> dict[str, Array]:
    """All outputs by name, without onnxruntime's own rewriting."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.proto.SerializeToString(), options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(given)), strict=True))


def assert_same(before: Model, after: Model, relative: float = 1e-5) -> None:
    """Both are valid ONNX and compute the same, to a part of the largest value."""
    onnx.checker.check_model(after.proto, full_check=True)
    given = feeds(before)
    want, got = run(before, given), run(after, given)
    assert list(want) == list(got)
    for name, values in want.items():
        assert np.abs(got[name] - values).max() <= relative * np.abs(values).max(), name


def replaced(model: Model, *ops: Op) -> Model:
    """`as_functions`, held to what it promises: equal, valid, a fixed point, all other tensors there by their names."""
    after = as_functions(model, ops)
    assert_same(model, after)
    assert as_functions(after, ops).proto.SerializeToString() == after.proto.SerializeToString()
    swallowed = {name for op in ops for match in op.rule.find(View(model)).matches for name in match.inner}
    made = {name for node in model.proto.graph.node for name in node.output}
    assert {name for node in after.proto.graph.node for name in node.output} == made - swallowed
    return after


def near(op: Op, model: Model) -> list[str]:
    """Why the one place is not a match."""
    found = op.rule.find(View(model))
    assert found.matches == ()
    assert as_functions(model, [op]) is model
    return [miss.why for miss in found.near]


def calls(model: Model) -> list[str]:
    """Operators of our domain, in the graph's order."""
    return [node.op_type for node in model.proto.graph.node if node.domain == "trtforge"]


def only_match(op: Op, model: Model) -> Any:
    (match,) = op.rule.find(View(model)).matches
    return match


def refusal(op: Op, model: Model, lowering: str = "trtforge", **situation: Any) -> str:
    """Why a lowering cannot serve the graph's one match."""
    chosen = next(each for each in op.lowerings if each.name == lowering)
    where = Situation(**{**AMPERE, "precision": "int8", **situation})
    return str(chosen.refuses(only_match(op, model), View(model), where))


def lowered(op: Op, model: Model, lowering: str = "trtforge", **situation: Any) -> Any:
    """The nodes a lowering makes of the graph's one match, in the graph; and what it says it made."""
    from trtforge.surgery.choose import Choice, Plan, apply

    chosen = next(each for each in op.lowerings if each.name == lowering)
    where = Situation(**{**AMPERE, "precision": "int8", **situation})
    after, (made,) = apply(model, model, Plan((Choice(op, only_match(op, model), chosen),)), where)
    return after, made


def onnx_shape(function: onnx.FunctionProto, types: Sequence[tuple[str, Sequence[int]]], fields: Any) -> list[int]:
    """The shape ONNX infers for the first output of a function of ours. ``types``: dtype and shape of each input."""
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(shape))
        for name, (dtype, shape) in zip(function.input, types, strict=True)
    ]
    node = helper.make_node(function.name, list(function.input), ["y"], domain="trtforge", **fields)
    made = helper.make_tensor_value_info("y", 0, None)
    model = helper.make_model(
        helper.make_graph([node], "g", inputs, [made]),
        functions=[function],
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("trtforge", 1)],
        ir_version=10,
    )
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    return [dim.dim_value for dim in inferred.graph.output[0].type.tensor_type.shape.dim]
