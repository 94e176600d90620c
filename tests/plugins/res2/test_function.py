"""The ONNX functions of res2: the float one against a plain graph, the INT8 one against NumPy and the float one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.plugins.res2 import stage
from trtforge.ort import open_session, session_options
from trtforge.plugins.res2.function import CONVOLUTIONS, RANGES, float_function, int8_function, quantized
from trtforge.plugins.res2.launch import CHANNELS_IN

Array = np.ndarray[Any, Any]
USED = [at for at in range(RANGES) if at not in (4, 8, 12)]


def floats_of(mid: int) -> tuple[list[Array], list[Array]]:
    rng = np.random.default_rng(mid)
    shapes = stage.shapes(mid)
    weights = [rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32) for shape in shapes]
    return weights, [rng.normal(0, 0.1, shape[0]).astype(np.float32) for shape in shapes]


def computed(x: Array, weights: list[Array], biases: list[Array]) -> dict[str, Array]:
    """The stage in NumPy, float64: every activation by name."""
    parts = dict(zip(CONVOLUTIONS, zip(weights, biases, strict=True), strict=True))
    made: dict[str, Array] = {"x": x.astype(np.float64)}

    def conv(name: str, source: str) -> Array:
        weight, bias = parts[name]
        made[name] = stage.convolved(made[source], weight.astype(np.float64)) + bias[None, :, None, None]
        return made[name]

    source = "x"
    for block in "abc":
        shortcut = conv("a_branch1", "x") if block == "a" else made[source]
        made[f"{block}_2a_relu"] = np.maximum(conv(f"{block}_2a", source), 0)
        made[f"{block}_2b_relu"] = np.maximum(conv(f"{block}_2b", f"{block}_2a_relu"), 0)
        source = f"{block}_out"
        made[source] = np.maximum(conv(f"{block}_2c", f"{block}_2b_relu") + shortcut, 0)
    return made


def ranges_of(made: dict[str, Array]) -> list[float]:
    """In MLPerf's order."""
    names = ["x", "a_branch1"]
    for block in "abc":
        names += [f"{block}_2a_relu", f"{block}_2b_relu", f"{block}_2c", f"{block}_out"]
    return [float(np.abs(made[name]).max()) for name in names]


def interleaved(weights: list[Array], biases: list[Array]) -> list[Array]:
    return [each for pair in zip(weights, biases, strict=True) for each in pair]


@pytest.mark.parametrize("mid", [16, 64])
def test_the_float_function_is_the_stage(mid: int) -> None:
    weights, biases = floats_of(mid)
    x = np.random.default_rng(0).normal(size=(2, CHANNELS_IN, 6, 5)).astype(np.float32)
    got = stage.run(float_function(), [x, *interleaved(weights, biases)])
    np.testing.assert_allclose(got, computed(x, weights, biases)["c_out"], rtol=1e-4, atol=1e-4)


def test_the_float_function_is_the_graph_it_stands_for() -> None:
    """The 22 nodes written out, one by one, in onnxruntime, which may fuse them otherwise than in a function."""
    weights, biases = floats_of(16)
    x = np.random.default_rng(0).normal(size=(1, CHANNELS_IN, 9, 7)).astype(np.float32)
    nodes, source = [], "x"

    def node(operator: str, inputs: list[str], **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [f"t{len(nodes)}"], **attributes))
        return f"t{len(nodes) - 1}"

    def conv(name: str, tensor: str) -> str:
        return node("Conv", [tensor, f"{name}_w", f"{name}_b"], pads=[1] * 4 if name.endswith("2b") else [0] * 4)

    for block in "abc":
        inner = source
        for part in ("2a", "2b"):
            inner = node("Relu", [conv(f"{block}_{part}", inner)])
        inner = conv(f"{block}_2c", inner)
        source = node("Relu", [node("Add", [inner, conv("a_branch1", "x") if block == "a" else source])])
    assert len(nodes) == 22
    feeds = dict(zip(float_function().input, [x, *interleaved(weights, biases)], strict=True))
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, each.shape) for name, each in feeds.items()]
    output = helper.make_tensor_value_info(source, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "plain", infos, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (want,) = open_session(model, None, session_options(threads=1)).run(None, feeds)
    got = stage.run(float_function(), list(feeds.values()))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mid", [32, 64])
def test_the_int8_function_is_its_formula(mid: int) -> None:
    if not stage.onnxruntime_is_exact():
        pytest.skip("onnxruntime's int8 sums saturate on this CPU: it has no VNNI")
    x, constants = stage.images((2, CHANNELS_IN, 5, 8)), stage.constants_of(mid)
    got = stage.run(int8_function(), [x, *constants.inputs()])
    assert np.array_equal(got, stage.by_formula(x, constants))


def test_int8_follows_the_float_function(reference) -> None:
    weights, biases = floats_of(32)
    x = np.random.default_rng(3).normal(size=(2, CHANNELS_IN, 12, 12)).astype(np.float32)
    made = computed(x, weights, biases)
    ranges = ranges_of(made)
    fed = np.clip(np.rint(x / (ranges[0] / 127)), -127, 127).astype(np.int8)
    got = reference(fed, quantized(weights, biases, ranges)) * (ranges[13] / 127)
    want = made["c_out"]
    noise = np.square(got - want).sum() / np.square(want).sum()
    assert noise < 2e-3


def test_scales_are_as_documented() -> None:
    weights, biases = floats_of(32)
    weights[3][5] = 0
    ranges = [float(at + 1) for at in range(RANGES)]
    made = quantized(weights, biases, ranges)
    a_2c = made.convolutions[3]
    of_channel = np.abs(weights[3][7]).max() / 127  # a_2c: range 3 in, 5 out
    np.testing.assert_allclose(a_2c.multiplier[7], (4 / 127) * of_channel / (6 / 127), rtol=1e-6)
    np.testing.assert_allclose(a_2c.bias[:, 0, 0], biases[3] / (6 / 127), rtol=1e-6)
    assert np.abs(a_2c.weight[7]).max() == 127
    assert not a_2c.weight[5].any()
    np.testing.assert_allclose(made.residual, [2 / 6, 6 / 10, 10 / 14], rtol=1e-6)
    assert [each.dtype for each in made.inputs()] == [np.int8, np.float32, np.float32] * 10 + [np.float32]
    assert len(made.inputs()) == len(int8_function().input) - 1


@pytest.mark.parametrize("at", range(RANGES))
def test_all_ranges_count_but_those_of_2c(at: int) -> None:
    weights, biases = floats_of(32)
    ranges = [3.0] * RANGES
    before = quantized(weights, biases, ranges).inputs()
    ranges[at] = 5.0
    after = quantized(weights, biases, ranges).inputs()
    same = all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    assert same == (at not in USED)


def test_what_is_no_number_is_refused() -> None:
    weights, biases = floats_of(32)
    with pytest.raises(ValueError, match="13"):
        quantized(weights, biases, [1.0] * 13)
    biases[4][0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        quantized(weights, biases, [1.0] * RANGES)


def test_a_range_of_zeros_has_scale_one() -> None:
    weights, biases = floats_of(32)
    made = quantized(weights, biases, [0.0] * RANGES)
    assert made.residual.tolist() == [1, 1, 1]
