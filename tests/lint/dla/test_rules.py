"""The rules that look at a whole placement."""

from __future__ import annotations

from typing import Any

import pytest

from trtforge.lint.context import Context
from trtforge.lint.rule import Finding
from trtforge.lint.run import findings

X = {"x": [1, 8, 16, 16]}
CONV = "g (float[1, 8, 16, 16] x) => (float[1, 8, a, b] y) <float[8, 8, 3, 3] w> { [c] t = Conv(x, w) [r] y = Relu(t) }"


def found(context: Context, code: str) -> list[Finding]:
    return [finding for finding in findings(context) if finding.code == code]


def cut(times: int) -> str:
    body = " ".join(f"[e{i}] e{i} = Exp(r{i}) [r{i}] r{i + 1} = Relu(e{i})" for i in range(times))
    return f"g (float[1, 8, 16, 16] x) => (float[1, 8, 16, 16] r{times}) {{ [r] r0 = Relu(x) {body} }}"


@pytest.mark.parametrize(
    ("times", "fallback", "severity", "says"),
    [
        (0, True, None, ""),
        (1, True, "hint", "2 loadables, of 16 that a core holds"),
        (16, True, "warning", "17 loadables and a core holds 16: 1 more node on the GPU"),
        (16, False, "error", "the build fails"),
    ],
)
def test_dla108_loadables(examined, times: int, fallback: bool, severity: str | None, says: str) -> None:
    said = found(examined(cut(times), X, dla={"gpu_fallback": fallback}), "DLA108")
    assert [finding.severity for finding in said] == ([severity] if severity else [])
    assert all(says in finding.message and finding.where.startswith("Exp `e0`") for finding in said)


def test_dla108_names_no_layer_where_none_cuts(examined) -> None:
    body = """g (float[1, 8, 4, 4] x, float[1, 8, 4, 4] z) => (float[1, 8, 4, 4] y, float[1, 8, 4, 4] u)
    { y = Relu(x) u = Tanh(z) }"""
    (finding,) = found(examined(body, {"x": [1, 8, 4, 4], "z": [1, 8, 4, 4]}), "DLA108")
    assert finding.where == "target orin-agx-64gb/dla"
    assert finding.fix == "nothing: no layer of the GPU lies between them"


HEAD = """g (float[1, 8, 16, 16] x) => (float[1, 256, 8] boxes, float[1, 256, 8] scores)
<float[8, 8, 1, 1] w, int64[3] flat = {1, 8, 256}>
{ [box] b = Conv(x, w) [cls] c = Conv(x, w) [rbox] d = Reshape(b, flat) [tbox] boxes = Transpose<perm = [0, 2, 1]>(d)
  [rcls] e = Reshape(c, flat) [tcls] f = Transpose<perm = [0, 2, 1]>(e) scores = Sigmoid(f) }"""


def test_findings_and_placement_agree_about_a_detectors_head(examined) -> None:
    """`rcls` and `tcls` cut the network, `tbox` moves data at its end, `rbox` moves none."""
    context = examined(HEAD, X)
    said = {text.split("`")[1]: one.severity for one in found(context, "DLA105") for text in one.places}
    assert {name: said.get(name) for name in ("rbox", "tbox", "rcls", "tcls")} == {
        "rbox": None,
        "tbox": "hint",
        "rcls": "warning",
        "tcls": "warning",
    }
    silent = [place.name for place in context.placement.places if "no finding" in place.reason]
    assert silent == ["rbox"]
    off = examined(HEAD, X, dla={"gpu_fallback": False})
    errors = {text.split("`")[1] for one in found(off, "DLA105") if one.severity == "error" for text in one.places}
    assert errors == {"rbox", "tbox", "rcls", "tcls"}
    assert not any("no finding" in place.reason for place in off.placement.places)


def test_dla109_is_about_layers_with_arithmetic(examined) -> None:
    products = " ".join(f"a{i} = MatMul(p{i}, p{i}) p{i + 1} = Relu(a{i})" for i in range(3))
    body = f"g (float[1, 1, 4, 4] p0) => (float[1, 1, 4, 4] p3) {{ {products} }}"
    (refused,) = found(examined(body, {"p0": [1, 1, 4, 4]}), "DLA109")
    assert refused.severity == "error" and refused.fix.startswith("write target: orin-agx-64gb/gpu")
    assert refused.message.startswith("0 of 3 ")
    assert "two activations; the DLA needs constant weights (3 nodes)" in refused.message
    assert not found(examined(CONV, X), "DLA109")
    assert not found(examined("g (float[1, 8, 16, 16] x) => (float[1, 8, 16, 16] y) { y = Exp(x) }", X), "DLA109")
    assert not found(examined(body, {"p0": [1, 1, 4, 4]}, target="orin-agx-64gb/gpu"), "DLA109")


JOIN = "g (float[1, 8, 4, 4] a, float[1, 8, 4, 4] b) => (float[1, c, 4, 4] y) { [j] y = OP(a, b) }"


@pytest.mark.parametrize("op", ["Concat<axis = 1>", "Add", "Max"])
@pytest.mark.parametrize(("ratio", "says"), [(3.9, None), (4.0, "4 times"), (100.0, "100 times")])
def test_dla110_scales(examined, op: str, ratio: float, says: str | None) -> None:
    inputs = {"a": [1, 8, 4, 4], "b": [1, 8, 4, 4]}
    context = examined(JOIN.replace("OP", op), inputs, scales={"a": 2.0, "b": 2.0 * ratio, "y": 2.0 * ratio})
    said = found(context, "DLA110")
    assert bool(said) == (says is not None)
    assert not said or (says in said[0].message and said[0].where == f"{op.split('<', maxsplit=1)[0]} `j`")


def test_dla110_needs_scales_and_int8(examined) -> None:
    inputs = {"a": [1, 8, 4, 4], "b": [1, 8, 4, 4]}
    body, scales = JOIN.replace("OP", "Add"), {"a": 1.0, "b": 90.0, "y": 90.0}
    assert not found(examined(body, inputs), "DLA110"), "not calibrated yet"
    assert not found(examined(body, inputs, precision="fp16", scales=scales), "DLA110")
    assert not found(examined(body, inputs, target="orin-agx-64gb/gpu", scales=scales), "DLA110")
    assert not found(examined(body, inputs, scales=scales, quantize={"skip": ["j"]}), "DLA110")
    assert not found(examined(body, inputs, scales=scales | {"a": 0.0}), "DLA110"), "nothing but zeros has no range"


def test_dla111_weights(examined) -> None:
    body = "g (float[1, 8, 4, 4] x) => (float[1, 8, 4, 4] y) <float[8, 8, 1, 1] w> { [c] y = Conv(x, w) }"
    assert not found(examined(body, {"x": [1, 8, 4, 4]}, dla={"global_dram": "1KiB"}), "DLA111")
    wide = body.replace("[1, 8, 4, 4]", "[1, 64, 4, 4]").replace("[8, 8, 1, 1]", "[64, 64, 1, 1]")
    inputs = {"x": [1, 64, 4, 4]}
    (said,) = found(examined(wide, inputs, dla={"global_dram": "4KiB"}), "DLA111")
    assert "its weights are 4.0 KiB, its pool has 4KiB" in said.message
    assert said.fix == "write dla: {global_dram: 1MiB}", "INT8 it is already"
    assert not found(examined(wide, inputs, dla={"global_dram": "8KiB"}), "DLA111")
    assert found(examined(wide, inputs, dla={"global_dram": "8KiB"}, precision="fp16"), "DLA111"), "twice the bytes"
    assert not found(examined(wide, inputs), "DLA111"), "512 MiB when left out"


def test_dla111_tensors(examined) -> None:
    body = "g (float[1, 8, 16, 16] x) => (float[1, 8, 16, 16] y) { [a] t = Relu(x) [b] y = Relu(t) }"
    (said,) = found(examined(body, X, dla={"local_dram": "8KiB"}), "DLA111")
    assert "up to 8.0 KiB" in said.message, "8 channels are padded to 32, one byte each"
    assert said.where == "loadable 1, a to b"
    assert not found(examined(body, X, dla={"local_dram": "16KiB"}), "DLA111")


@pytest.mark.parametrize(
    ("times", "sram", "target", "says", "fix"),
    [
        (0, "1MiB", "orin-agx-64gb/dla", None, ""),
        (0, "512KiB", "orin-agx-64gb/dla", "could have all 1MiB", "try dla: {sram: 1MiB} too; trtforge tune"),
        (1, "1MiB", "orin-agx-64gb/dla", "each of 2 loadables may take 1MiB", "try dla: {sram: 512KiB} too"),
        (1, "512KiB", "orin-agx-64gb/dla", None, ""),
        (0, "2MiB", "orin-agx-64gb/dla", "a core has 1MiB", "write dla: {sram: 1MiB}"),
        (0, "2MiB", "xavier-agx/dla", None, ""),
        (0, "8MiB", "xavier-agx/dla", "all cores share 4MiB", "write dla: {sram: 4MiB}"),
    ],
)
def test_dla112_sram(examined, times: int, sram: str, target: str, says: str | None, fix: str) -> None:
    said = found(examined(cut(times), X, target=target, tensorrt="8.5", dla={"sram": sram}), "DLA112")
    assert len(said) == (says is not None)
    assert says is None or (says in said[0].message and said[0].fix.startswith(fix))


def test_dla112_says_nothing_where_the_recipe_does_not(examined) -> None:
    assert not found(examined(cut(1), X), "DLA112")


IMAGE = """g (float[1, 3, 16, 16] x) => (float[1, 8, 14, 14] y) <float[8, 3, 3, 3] w>
{ [c] t = Conv(x, w) y = Relu(t) }"""
HWC4 = {"shape": [1, 3, 16, 16], "dtype": "int8", "format": "dla_hwc4"}
CHW32 = {"y": {"dtype": "int8", "format": "chw32"}}


def formats(examined: Any, body: str, spec: dict[str, Any], **more: Any) -> list[Finding]:
    context = examined(body, {"x": spec["shape"]}, **more)
    given = context.engine.inputs["x"].model_copy(update={"dtype": spec["dtype"], "format": spec["format"]})
    context.engine.inputs["x"] = given
    return found(context, "DLA113")


def test_dla113_an_image_for_a_convolution(examined) -> None:
    assert not formats(examined, IMAGE, HWC4)
    (said,) = formats(examined, IMAGE, HWC4 | {"dtype": "float16"})
    assert "computes in int8, and the input is float16" in said.message
    assert (said.where, said.fix) == ("inputs.x.dtype", "write dtype: int8")
    assert not formats(examined, IMAGE, HWC4 | {"dtype": "float16"}, precision="fp16")
    (said,) = formats(examined, CONV, HWC4 | {"shape": [1, 8, 16, 16]})
    assert "1, 3 or 4 channels" in said.message
    other = "g (float[1, 3, 16, 16] x) => (float[1, 3, 16, 16] y) { [r] y = Relu(x) }"
    (said,) = formats(examined, other, HWC4)
    assert "needs a convolution" in said.message


def test_dla113_without_the_gpu_nothing_converts(examined) -> None:
    alone = {"dla": {"gpu_fallback": False}}
    assert not formats(examined, IMAGE, HWC4, outputs=CHW32, **alone)
    (said,) = formats(examined, IMAGE, HWC4, **alone)
    assert (said.where, said.severity) == ("outputs.y", "error")
    (said,) = formats(examined, IMAGE, HWC4 | {"dtype": "float32", "format": "linear"}, outputs=CHW32, **alone)
    assert "float32 in linear is converted by the GPU" in said.message
    assert said.fix == "write dtype: int8 and format: dla_linear or dla_hwc4 or chw32"
    half = {"y": {"dtype": "float16", "format": "dla_linear"}}
    plain = HWC4 | {"shape": [1, 8, 16, 16], "dtype": "float32", "format": "linear"}
    (said,) = formats(examined, CONV, plain, outputs=half, precision="fp16", **alone)
    assert said.fix == "write dtype: float16 and format: dla_linear"
    assert not formats(examined, IMAGE, HWC4 | {"dtype": "float32", "format": "linear"})


def test_dla113_a_standalone_loadable_is_one(examined) -> None:
    alone = {"dla": {"gpu_fallback": False, "standalone": True}}
    said = found(examined(cut(1), X, **alone), "DLA113")
    assert any("2 loadables, a standalone one is in one piece" in finding.message for finding in said)
    assert not any("in one piece" in finding.message for finding in found(examined(cut(0), X, **alone), "DLA113"))


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ("t = Conv(x, w) y = Relu(t)", None),
        ("t = Conv(x, w) y = Clip(t, lo, hi)", "Clip comes behind it"),
        ("t = Conv(x, w) a = Relu(t) b = Sigmoid(t) y = Mul(a, b)", "2 layers read its output"),
        ("t = Conv<group = 8>(x, v) y = MaxPool<kernel_shape = [2, 2]>(t)", "it has groups"),
        ("t = Conv(x, w) y = MaxPool<kernel_shape = [2, 2]>(t)", None),
    ],
)
def test_dla114_fusions(examined, nodes: str, says: str | None) -> None:
    weights = "<float[8, 8, 3, 3] w, float[8, 1, 3, 3] v, float lo = {0}, float hi = {6}>"
    body = f"g (float[1, 8, 16, 16] x) => (float[1, 8, a, b] y) {weights} {{ {nodes} }}"
    said = found(examined(body, X), "DLA114")
    assert len(said) == (says is not None)
    assert says is None or (says in said[0].message and said[0].severity == "hint")
    assert not found(examined(body, X, target="orin-agx-64gb/gpu"), "DLA114")


@pytest.mark.parametrize(("bound", "names_it"), [(6, True), (5, False)])
def test_dla114_names_a_pass_only_where_it_does_something(examined, bound: int, names_it: bool) -> None:
    weights = f"<float[8, 8, 3, 3] w, float lo = {{0}}, float hi = {{{bound}}}>"
    body = f"g (float[1, 8, 16, 16] x) => (float[1, 8, a, b] y) {weights} {{ t = Conv(x, w) y = Clip(t, lo, hi) }}"
    (said,) = found(examined(body, X), "DLA114")
    assert ("relu6-to-relu" in said.fix) == names_it


@pytest.mark.parametrize(
    ("more", "fix"),
    [
        ({"precision": "fp16"}, "write precision: int8 and calibration"),
        ({"quantize": {"skip": ["c"]}}, "take them out of quantize.skip"),
        ({"scales": ["x"]}, "trtforge calibrate RECIPE"),
    ],
)
def test_dla107_says_what_makes_them_int8(examined, more: dict[str, Any], fix: str) -> None:
    (said,) = found(examined(CONV, X, **more), "DLA107")
    assert said.message.startswith("one convolution would run in FP16") and said.fix.startswith(fix)


def test_fp16_convolutions_are_those_on_the_dla(examined) -> None:
    body = CONV.replace("Conv(x, w)", "Conv<strides = [9, 9]>(x, w)")
    assert found(examined(CONV, X, precision="fp16"), "DLA107")
    assert not found(examined(body, X, precision="fp16"), "DLA107"), "the GPU has it, where FP16 is fast"
