"""Inputs and outputs of networks that say their types: computed by onnxruntime, compiled by TensorRT-RTX.

Both get the very graph that TensorRT 11 is handed. TensorRT-RTX is strongly typed too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from trtforge.backends.base import CompileRequest
from trtforge.backends.nvidia.answer import Compiled, CompileJob, Compiler
from trtforge.backends.nvidia.features import documented
from trtforge.backends.nvidia.options import Options, Tensor
from trtforge.backends.nvidia.process import run
from trtforge.backends.tensorrt_.lower import lower
from trtforge.backends.tensorrt_.typed_borders import with_border
from trtforge.backends.tensorrt_rtx_ import environment
from trtforge.errors.native import NotOffered
from trtforge.graph.io import save
from trtforge.graph.model import Model
from trtforge.graph.shapes import input_specs, output_specs
from trtforge.ort import import_onnxruntime, open_session, session_options
from trtforge.progress import QUIET
from trtforge.recipe.models import InputSpec, OutputSpec, Quantize
from trtforge.targets.load import get

Ask = Callable[..., CompileRequest]


@pytest.fixture
def asked(residual: Any, tmp_path: Path) -> Ask:
    """``asked("int8", x="float16", logits="int8")``: with these types at the border; for an A30 if none is named."""

    def asked(
        precision: str = "int8",
        x: str = "float32",
        logits: str = "float32",
        skip: tuple[str, ...] = (),
        target: str = "a30",
    ) -> CompileRequest:
        request = residual.request(tmp_path, precision=precision)
        said = {
            "inputs": {"x": InputSpec(shape=residual.shape, dtype=x)},
            "outputs": {"logits": OutputSpec(dtype=logits)},
            "quantize": Quantize(skip=skip),
        }
        return replace(request, target=get(target), engine=request.engine.model_copy(update=said))

    return asked


def typed(request: CompileRequest) -> Model:
    known = documented("11.4.1")
    assert known is not None
    return lower(request, known, "11.4.1").model


def computed(model: Model, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Node by node, as the graph says it."""
    exact = session_options()
    exact.graph_optimization_level = import_onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
    onnx.checker.check_model(model.proto, full_check=True)
    result: np.ndarray[Any, Any] = open_session(model.proto, None, exact).run(None, {"x": x})[0]
    return result


def quantized(values: np.ndarray[Any, Any], request: CompileRequest, name: str) -> np.ndarray[Any, Any]:
    assert request.scales is not None
    scale = np.float32(request.scales.ranges[name].usable_scale)
    return np.clip(np.rint(values / scale), -128, 127).astype(np.int8)


def kinds(model: Model) -> list[str]:
    return [node.op_type for node in model.proto.graph.node]


def test_an_int8_input_is_quantized_by_the_caller(asked: Ask, residual: Any) -> None:
    """By the scale that the graph would use: to the last bit the same."""
    request = asked(x="int8")
    inside, outside = typed(asked()), typed(request)
    assert input_specs(outside)["x"].dtype == "int8"
    assert kinds(outside).count("QuantizeLinear") == kinds(inside).count("QuantizeLinear") - 1
    for sample in residual.samples:
        x = sample.inputs["x"]
        np.testing.assert_array_equal(computed(outside, quantized(x, request, "x")), computed(inside, x))


def test_an_int8_input_that_a_float_layer_reads_comes_back_to_float(asked: Ask, residual: Any) -> None:
    request = asked(x="int8", skip=("c0",))
    inside, outside = typed(asked(skip=("c0",))), typed(request)
    assert kinds(outside)[0] == "DequantizeLinear" and kinds(outside).count("QuantizeLinear") == kinds(inside).count(
        "QuantizeLinear"
    )
    x = residual.samples[0].inputs["x"]
    q = quantized(x, request, "x")
    assert request.scales is not None
    rounded = q.astype(np.float32) * np.float32(request.scales.ranges["x"].usable_scale)
    np.testing.assert_array_equal(computed(outside, q), computed(inside, rounded))


def test_an_int8_output_is_the_float_one_in_steps_of_its_scale(asked: Ask, residual: Any) -> None:
    request = asked(logits="int8")
    inside, outside = typed(asked()), typed(request)
    assert output_specs(outside)["logits"].dtype == "int8"
    for sample in residual.samples:
        x = sample.inputs["x"]
        np.testing.assert_array_equal(computed(outside, x), quantized(computed(inside, x), request, "logits"))


def test_what_leaves_a_dla_in_int8_is_not_quantized_twice(asked: Ask, residual: Any) -> None:
    """There every output has a pair already, whose first half is what is wanted."""
    request = asked(logits="int8", target="orin-agx-64gb/dla")
    inside, outside = typed(asked(target="orin-agx-64gb/dla")), typed(request)
    assert kinds(inside)[-2:] == ["QuantizeLinear", "DequantizeLinear"] and kinds(outside) == kinds(inside)[:-1]
    x = residual.samples[0].inputs["x"]
    np.testing.assert_array_equal(computed(outside, x), quantized(computed(inside, x), request, "logits"))


@pytest.mark.parametrize("precision", ["int8", "fp16", "fp32"])
def test_halves_at_both_ends(asked: Ask, residual: Any, precision: str) -> None:
    inside, outside = typed(asked(precision)), typed(asked(precision, "float16", "float16"))
    types = input_specs(outside)["x"].dtype, output_specs(outside)["logits"].dtype
    assert types == ("float16", "float16")
    more = {"int8": 2, "fp32": 2, "fp16": -2}[precision]  # in FP16 they are inside already: no cast is left
    assert kinds(outside).count("Cast") == kinds(inside).count("Cast") + more
    for sample in residual.samples:
        x = sample.inputs["x"].astype(np.float16)
        wanted = computed(inside, x.astype(np.float32)).astype(np.float16)
        np.testing.assert_array_equal(computed(outside, x), wanted)


def test_a_model_that_takes_halves_itself(asked: Ask, residual: Any) -> None:
    """The recipe's type counts, whichever the model has."""
    half, why = with_border(residual.model, "x", "float16", None)
    assert why == ""
    same, floats = (typed(replace(asked("fp32", x=x), model=half)) for x in ("float16", "float32"))
    assert kinds(same) == kinds(half) and kinds(floats) == kinds(residual.model)
    assert [input_specs(model)["x"].dtype for model in (same, floats)] == ["float16", "float32"]
    x = residual.samples[0].inputs["x"]
    x = x.astype(np.float16)
    np.testing.assert_array_equal(computed(floats, x.astype(np.float32)), computed(same, x))


TWICE = """<ir_version: 8, opset_import: ["": 17]>
net (float[2] x) => (float[2] y, float[2] z)
{ h = Cast<to = 10>(x)  r = Relu(h)  y = Cast<to = 1>(r)  z = Neg(y) }"""


def test_an_output_that_a_node_reads_too() -> None:
    model = Model(onnx.parser.parse_model(TWICE))
    model = Model(onnx.shape_inference.infer_shapes(model.proto))
    x = np.array([1.5, -2], np.float32)
    for dtype in ("float16", "int8"):
        made, why = with_border(model, "y", dtype, 0.5 if dtype == "int8" else None)
        assert why == ""
        onnx.checker.check_model(made.proto, full_check=True)
        y, z = open_session(made.proto, None, session_options()).run(None, {"x": x})
        assert (y.dtype.name, y.tolist(), z.tolist()) == (dtype, [3, 0] if dtype == "int8" else [1.5, 0], [-1.5, 0])


BRANCH = """<ir_version: 8, opset_import: ["": 17]>
net (bool c, float[2] x) => (float[2] y)
{ y = If(c) <then_branch = a () => (float[2] t) { t = Relu(x) }, else_branch = b () => (float[2] e) { e = Neg(x) }> }"""


def test_a_branch_reads_the_input() -> None:
    made, why = with_border(Model(onnx.parser.parse_model(BRANCH)), "x", "int8", 0.5)
    assert why == ""
    session = open_session(made.proto, None, session_options())
    (y,) = session.run(None, {"c": np.array(False), "x": np.array([4, -6], np.int8)})
    assert y.tolist() == [-2, 3]


OTHERS = """<ir_version: 8, opset_import: ["": 17]>
net (float[2] x, int64[2] i) => (int8[2] q, float[2] y, float[2] x2)
<float s = {0.5}, int8 z = {0}, uint8 u = {0}> {
  q = QuantizeLinear(x, s, z)  o = QuantizeLinear(x, s, u)  d = DequantizeLinear(o, s, u)  f = Cast<to = 1>(i)
  y = Add(d, f)  x2 = Relu(x) }"""


def test_only_the_callers_own_quantization_goes() -> None:
    """One to UINT8, and one whose result is an output, stay."""
    made, why = with_border(Model(onnx.parser.parse_model(OTHERS)), "x", "int8", 0.5)
    assert why == "" and kinds(made).count("QuantizeLinear") == 2
    session = open_session(made.proto, None, session_options())
    feeds = {"x": np.array([4, -6], np.int8), "i": np.array([1, 1])}
    assert [each.tolist() for each in session.run(None, feeds)] == [[4, -6], [3, 1], [2, 0]]


OLD = """<ir_version: 3, opset_import: ["": 13]>
net (float[2] x, float s, int8 z, float w) => (float[2] y) <float s = {0.5}, int8 z = {0}, float w = {2}>
{ q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, t, z)  y = Mul(d, w) }"""


def test_constants_of_old_models_are_no_inputs_afterwards() -> None:
    """Before IR 4 each initializer is an input too: one that goes must not stay as an input that a caller gives."""
    proto = onnx.parser.parse_model(OLD)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0.5, np.float32), "t"))
    proto.graph.input.append(onnx.helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, []))
    made, why = with_border(Model(proto), "x", "int8", 0.5)
    assert why == "" and [value.name for value in made.proto.graph.input] == ["x", "z", "w", "t"]
    (y,) = open_session(made.proto, None, session_options()).run(None, {"x": np.array([4, -6], np.int8)})
    assert y.tolist() == [4, -6]


def test_what_cannot_be(asked: Ask) -> None:
    others = Model(onnx.parser.parse_model(OTHERS))
    assert with_border(others, "i", "int8", 0.5) == (others, "the graph says int64 there")
    assert with_border(others, "y", "int8", None)[1] == "calibration has no range for 'y'"
    assert with_border(others, "w", "int8", 1.0)[1] == "the network has no 'w' at its border: it has x, i, q, y, x2"
    with pytest.raises(NotOffered) as caught:
        typed(asked("fp16", logits="int8"))
    assert caught.value.what == "`outputs.logits.dtype: int8` cannot be had of this build"
    assert "no range for 'logits'" in caught.value.why


@pytest.mark.rtx
@pytest.mark.skipif(bool(environment.missing()), reason="TensorRT-RTX is not installed (extra `rtx`)")
@pytest.mark.parametrize(
    ("precision", "x", "logits"),
    [
        ("int8", "int8", "int8"),
        ("int8", "float16", "int8"),
        ("int8", "int8", "float16"),
        ("fp16", "float16", "float16"),
        ("fp32", "float16", "float32"),
    ],
)
def test_they_compile_for_an_a30(asked: Ask, tmp_path: Path, precision: str, x: str, logits: str) -> None:
    made = build(typed(asked(precision, x, logits)), tmp_path)
    names = {"int8": "INT8", "float16": "HALF", "float32": "FLOAT"}
    assert (made.inputs[0]["dtype"], made.outputs[0]["dtype"]) == (names[x], names[logits])


@pytest.mark.rtx
@pytest.mark.skipif(bool(environment.missing()), reason="TensorRT-RTX is not installed (extra `rtx`)")
def test_an_int8_input_beside_a_float_layer_compiles(asked: Ask, tmp_path: Path) -> None:
    assert build(typed(asked(x="int8", skip=("c0",))), tmp_path).inputs[0]["dtype"] == "INT8"


def build(model: Model, folder: Path) -> Compiled:
    save(model, folder / "net.onnx")
    compiler = Compiler("tensorrt_rtx", "TensorRT-RTX", environment.INSTALL, environment.child_environment())
    sides: dict[str, Any] = {"inputs": {"x": Tensor()}, "outputs": {"logits": Tensor()}}
    options = Options(1 << 28, compute_capabilities=("SM80",), **sides)
    job = CompileJob(compiler, folder / "net.onnx", folder / "net.plan", options, "test")
    return run(job, timeout=120, progress=QUIET)
