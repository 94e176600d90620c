"""fc-as-conv and merge-sibling-convs: what they make of a network's head, and each reason not to touch it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from trtforge.graph import io, shapes
from trtforge.graph.passes.registry import run

rng = np.random.default_rng(0)


def weight(*shape: int, dtype: str = "float32") -> np.ndarray:
    return rng.normal(size=shape).astype(dtype)


def named(text: str, **constants: np.ndarray) -> dict[str, np.ndarray]:
    """The constants that the nodes of a text read."""
    return {name: value for name, value in constants.items() if f"{name}," in text or f"{name})" in text}


def ops(model) -> list[str]:
    return [node.op_type for node in model.proto.graph.node]


def initializers(model) -> dict[str, list[int]]:
    return {tensor.name: list(tensor.dims) for tensor in model.proto.graph.initializer}


def apply(model, name: str):
    """The result of one pass after shape inference, its report, and proof that it is idempotent and sound."""
    model = shapes.infer_shapes(model)
    before = model.proto.SerializeToString()
    result, (report,) = run(model, [name])
    assert model.proto.SerializeToString() == before
    again, (second,) = run(result, [name])
    assert not second.modified, second.reason
    assert again.proto == result.proto
    assert report.modified or "If" in ops(model) or result.proto == model.proto  # a branch is written anew
    assert report.reason and "\n" not in report.reason
    assert result.proto.graph.output == model.proto.graph.output
    onnx.checker.check_model(result.proto, full_check=True)
    return result, report


# fc-as-conv --------------------------------------------------------------------------------------------------


CONSTANTS = {
    "w": weight(5, 3),
    "wt": weight(3, 5),
    "twos": np.full((5, 3), 2, np.float32),
    "deep": weight(10, 3),
    "wide": weight(60, 3),
    "cube": weight(1, 5, 3),
    "b": weight(3),
    "row": weight(1, 3),
    "rows": weight(2, 3),
    "scalar": np.float32(0.7),
    "two": np.array([-1, 5], np.int64),
    "three": np.array([-1, 1, 5], np.int64),
    "four": np.array([0, 1, 1, 5], np.int64),
    "space": np.array([2, 3], np.int64),
}
"""For layers with 5 channels and 3 classes."""


def classifier(parse, layer: str, *, opset: int = 17, x: str = "float[2, 5, 3, 4]", y: str = "[2, 3]", **weights):
    kind = x.partition("[")[0]
    text = f"""<ir_version: 8, opset_import: ["": {opset}]> g ({x} x) => ({kind}{y} y) {{ {layer} }}"""
    return parse(text, **weights)


@pytest.mark.parametrize(
    "layer",
    [
        "f = Flatten(p)  y = Gemm(f, w, b)",
        "f = Flatten(p)  y = Gemm<transB = 1, alpha = 0.5, beta = -2.0>(f, wt, b)",
        "f = Flatten(p)  y = Gemm(f, w)",
        "f = Flatten(p)  y = Gemm<alpha = 3.0>(f, w, row)",
        "f = Flatten(p)  y = Gemm<beta = 4.0>(f, w, scalar)",
        "f = Reshape(p, two)  y = MatMul(f, w)",
        "f = Squeeze(p, space)  m = MatMul(f, w)  y = Add(m, b)",
        "f = Squeeze(p, space)  m = MatMul(f, w)  y = Add(row, m)",
        "t = Transpose<perm = [0, 2, 3, 1]>(p)  f = Flatten(t)  y = Gemm(f, w, b)",
        "t = Reshape(p, four)  f = Reshape(t, two)  m = MatMul(f, w)  y = Add(m, b)",
        "c = Constant<value = float[5, 3] {1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6, 5, 4, 3}>() "
        "f = Flatten(p)  y = Gemm(f, c, b)",
    ],
)
@pytest.mark.parametrize("batch", ["2", "n"])
def test_fc_as_conv(parse, values, agree, layer: str, batch: str) -> None:
    used = named(layer, **CONSTANTS)
    text = f"p = GlobalAveragePool(x) {layer}"
    model = classifier(parse, text, x=f"float[{batch}, 5, 3, 4]", y=f"[{batch}, 3]", **used)
    result, report = apply(model, "fc-as-conv")
    assert report.reason == "wrote 1 of 1 fully connected layer as Conv"
    assert [op for op in ops(result) if op != "Constant"] == ["GlobalAveragePool", "Conv", "Flatten"]
    assert not {"w", "wt"} & initializers(result).keys()
    feeds = {"x": weight(2, 5, 3, 4)}
    agree(values(model, feeds), values(result, feeds), {"p", "y"})


def test_fc_as_conv_in_3d_and_float16(parse, values) -> None:
    model = classifier(
        parse,
        "p = GlobalAveragePool(x)  f = Flatten(p)  y = Gemm<transB = 1>(f, w, b)",
        x="float16[2, 5, 2, 3, 4]",
        w=weight(3, 5, dtype="float16"),
        b=weight(3, dtype="float16"),
    )
    result, _ = apply(model, "fc-as-conv")
    assert [3, 5, 1, 1, 1] in initializers(result).values()
    feeds = {"x": weight(2, 5, 2, 3, 4, dtype="float16")}
    before, after = values(model, feeds)["y"], values(result, feeds)["y"]
    assert before.dtype == after.dtype == np.float16
    np.testing.assert_allclose(after.astype("f"), before.astype("f"), atol=4e-3)  # one step of float16 in 2..4


def test_what_others_read_stays(parse, values, agree) -> None:
    """The flattened tensor, the shared weights, and the product that is an output have other uses."""
    model = parse(
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[2, 5, 3, 4] x) => (float[2, 3] m, float[2, 3] y, float[2, 5] r, float[2, 3] z) {
            p = GlobalAveragePool(x)
            f = Flatten(p)
            m = MatMul(f, w)
            y = Add(m, b)
            r = Relu(f)
            z = MatMul(r, w)
        }
        """,
        w=weight(5, 3),
        b=weight(3),
    )
    result, report = apply(model, "fc-as-conv")
    assert ops(result) == ["GlobalAveragePool", "Flatten", "Conv", "Flatten", "Add", "Relu", "MatMul"]
    assert report.reason.startswith("wrote 1 of 2 fully connected layers as Conv; 'z' stays: it reads 'r'")
    assert {"w", "b"} <= initializers(result).keys()
    feeds = {"x": weight(2, 5, 3, 4)}
    before, after = values(model, feeds), values(result, feeds)
    assert before.keys() <= after.keys()
    agree(before, after)


def test_layers_right_behind_one_another_go_together(parse, values, agree) -> None:
    layers = "p = GlobalAveragePool(x)  f = Flatten(p)  h = Gemm(f, v, c)  y = Gemm(h, w, b)"
    model = classifier(parse, layers, v=weight(5, 4), c=weight(4), w=weight(4, 3), b=weight(3))
    result, report = apply(model, "fc-as-conv")
    assert report.reason == "wrote 2 of 2 fully connected layers as Conv"
    assert ops(result) == ["GlobalAveragePool", "Conv", "Conv", "Flatten"]
    feeds = {"x": weight(2, 5, 3, 4)}
    agree(values(model, feeds), values(result, feeds), {"y"})


@pytest.mark.parametrize(
    ("tail", "expected"),
    [("y = Add(m, rows)", ["Add"]), ("a = Add(m, b)  n = Neg(m)  y = Mul(a, n)", ["Add", "Neg", "Mul"])],
)
def test_a_sum_that_is_no_bias_or_not_alone_stays(parse, values, agree, tail: str, expected: list[str]) -> None:
    layers = f"p = GlobalAveragePool(x)  f = Flatten(p)  m = MatMul(f, w)  {tail}"
    model = classifier(parse, layers, **named(layers, **CONSTANTS))
    result, _ = apply(model, "fc-as-conv")
    assert ops(result) == ["GlobalAveragePool", "Conv", "Flatten", *expected]
    feeds = {"x": weight(2, 5, 3, 4)}
    agree(values(model, feeds), values(result, feeds), {"m", "y"})


def test_what_a_branch_captures_stays(parse, values, agree) -> None:
    model = parse(
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[2, 5, 3, 4] x, bool c) => (float[2, 3] y) {
            p = GlobalAveragePool(x)
            f = Flatten(p)
            m = MatMul(f, w)
            y = If(c) <
                then_branch = one () => (float[2, 3] t) { t = Add(m, b) },
                else_branch = two () => (float[2, 3] e) { e = MatMul(f, w) }
            >
        }
        """,
        w=weight(5, 3),
        b=weight(3),
    )
    result, _ = apply(model, "fc-as-conv")
    assert ops(result) == ["GlobalAveragePool", "Flatten", "Conv", "Flatten", "If"]
    for condition in (True, False):
        feeds = {"x": weight(2, 5, 3, 4), "c": np.array(condition)}
        agree(values(model, feeds), values(result, feeds), {"f", "m", "y"})


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ("y = Relu(x)", "the graph has no Gemm and no MatMul nodes"),
        ("p = GlobalAveragePool(x) f = Flatten(p) v = Abs(w) y = Gemm(f, v)", "its weights 'v' are not constant"),
        ("p = GlobalAveragePool(x) f = Flatten(p) v = Abs(b) y = Gemm(f, w, v)", "its bias 'v' is not constant"),
        ("p = GlobalAveragePool(x) f = Flatten(p) y = Gemm(f, w, rows)", "or not one value a class"),
        (
            "p = GlobalAveragePool(x) f = Flatten<axis = 0>(p) y = Gemm(f, deep)",
            "take 10 values, and 'p' has 5 channels",
        ),
        ("p = GlobalAveragePool(x) f = Flatten<axis = 2>(p) y = Gemm<transA = 1>(f, deep)", "transposes its input"),
        ("f = Flatten(x) y = Gemm(f, wide)", "it reads 'x' of shape [2, 5, 3, 4], not a global pooling's"),
        ("p = GlobalAveragePool(x) f = Reshape(p, three) y = MatMul(f, w)", "'f' has 3 axes, not 2"),
        ("p = GlobalAveragePool(x) f = Reshape(p, two) y = MatMul(f, cube)", "'cube' have 3 axes, not 2"),
        ("p = GlobalAveragePool(x) f = Flatten(p) y = Gemm<alpha = 3.0e38>(f, twos)", "is not finite in float32"),
        (
            "p = GlobalAveragePool(x) t = Transpose<perm = [1, 2, 3, 0]>(p) f = Reshape(t, two) y = MatMul(f, w)",
            "it reads 't' of shape [5, 1, 1, 2], not a global pooling's",
        ),
    ],
)
def test_fc_as_conv_says_why_not(parse, layer: str, reason: str) -> None:
    used = named(layer, **CONSTANTS)
    value = "float[2, 5, 3, 4]" if "Relu" in layer else "float[a, c]"
    if "three" in layer or "cube" in layer:
        value = "float[a, b, c]"
    model = parse(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[2, 5, 3, 4] x) => ({value} y) {{ {layer} }}', **used
    )
    result, report = apply(model, "fc-as-conv")
    assert not report.modified and reason in report.reason
    assert ops(result) == ops(model)


def test_fc_as_conv_needs_shapes_and_float_weights(parse) -> None:
    layers = "p = GlobalAveragePool(x)  f = Reshape(p, two)  y = MatMul(f, w)"
    model = classifier(parse, layers, w=weight(5, 3), two=np.array([2, 5], np.int64))
    _, (report,) = run(model, ["fc-as-conv"])  # without infer-shapes
    assert not report.modified and "the shape of 'f' is not known: run infer-shapes before" in report.reason
    layers = "p = GlobalAveragePool(x)  f = Flatten(p)  y = Gemm(f, w)"
    _, report = apply(classifier(parse, layers, x="double[2, 5, 3, 4]", w=weight(5, 3, dtype="float64")), "fc-as-conv")
    assert not report.modified and "neither float32 nor float16" in report.reason


def test_fc_as_conv_on_opennsfw(opennsfw_path: Path, values, agree) -> None:
    """Its head is AveragePool, two Reshapes, MatMul, Add, Softmax, and the batch size is open."""
    model = io.load(opennsfw_path)
    names = ["upgrade-opset", "fold-constants", "infer-shapes", "global-average-pool", "fc-as-conv"]
    result, reports = run(model, names)
    assert reports[-1].reason == "wrote 1 of 1 fully connected layer as Conv"
    assert ops(result)[-4:] == ["AveragePool", "Conv", "Flatten", "Softmax"] and "MatMul" not in ops(result)
    onnx.checker.check_model(result.proto, full_check=True)
    assert not run(result, ["fc-as-conv"])[1][0].modified
    feeds = {"input:0": np.random.default_rng(0).normal(0, 60, (2, 224, 224, 3)).astype(np.float32)}
    before, after = values(model, feeds), values(result, feeds)
    assert before.keys() - after.keys() == {"pool/AvgPool__437:0", "Reshape:0", "fc_nsfw/MatMul:0"}
    agree(before, after)


# merge-sibling-convs -----------------------------------------------------------------------------------------

DETECTOR = """
    <ir_version: {ir}, opset_import: ["": {opset}]>
    g (float[2, 4, 6, 5] x) => (float[2, 30, 4] boxes, float[2, 30, 3] scores) {{
        a = Relu(x)
        loc = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(a, w_loc, b_loc)
        conf = Conv<pads = [1, 1, 1, 1]>(a, w_conf)
        loc_t = Transpose<perm = [0, 2, 3, 1]>(loc)
        boxes = Reshape(loc_t, four)
        conf_t = Transpose<perm = [0, 2, 3, 1]>(conf)
        logits = Reshape(conf_t, three)
        scores = Softmax<axis = 2>(logits)
    }}
"""


def detector(parse, opset: int = 17):
    return parse(
        DETECTOR.format(opset=opset, ir=10 if opset > 17 else 8),
        w_loc=weight(4, 4, 3, 3),
        b_loc=weight(4),
        w_conf=weight(3, 4, 3, 3),
        four=np.array([2, 30, 4], np.int64),
        three=np.array([2, 30, 3], np.int64),
    )


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 20])
def test_heads_are_merged(parse, values, agree, opset: int) -> None:
    model = detector(parse, opset)
    result, report = apply(model, "merge-sibling-convs")
    assert report.reason == "merged 2 Conv nodes into 1"
    assert ops(result) == ["Relu", "Conv", "Split", "Transpose", "Reshape", "Transpose", "Reshape", "Softmax"]
    split = result.proto.graph.node[2]
    assert list(split.output) == ["loc", "conf"]
    stated = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in split.attribute}
    assert stated == ({"axis": 1, "split": [4, 3]} if opset < 13 else {"axis": 1})
    assert len(split.input) == (1 if opset < 13 else 2)
    assert initializers(result).keys() & {"w_loc", "b_loc", "w_conf"} == set()
    feeds = {"x": weight(2, 4, 6, 5)}
    before, after = values(model, feeds), values(result, feeds)
    assert after.keys() - before.keys() == {"loc_merged"} and before.keys() <= after.keys()
    agree(before, after)


def pair(parse, body: str, outputs: str = "float[2, 3, 6, 5] y, float[2, 3, 6, 5] z", **more):
    """``body`` on an x of four channels; weights v, w 1x1, k 3x3, all to three channels, d depthwise, b a bias."""
    used = named(
        body,
        v=weight(3, 4, 1, 1),
        w=weight(3, 4, 1, 1),
        k=weight(3, 4, 3, 3),
        d=weight(4, 1, 1, 1),
        b=weight(3),
        u=weight(3, 3, 1, 1),
        **more,
    )
    header = f'<ir_version: 8, opset_import: ["": 17]> g (float[2, 4, 6, 5] x, bool c) => ({outputs})'
    return parse(f"{header} {{ {body} }}", **used)


def test_heads_cut_open_three_together_and_shared_weights(parse, values, agree) -> None:
    """Graph outputs right behind the heads, as after cutting the network there; no head has a bias."""
    outputs = ", ".join(f"float[2, 3, 6, 5] {name}" for name in ("y", "z", "s", "k3"))
    body = "y = Conv(x, v)  k3 = Conv<pads = [1, 1, 1, 1]>(x, k)  z = Conv(x, w)  t = Conv(x, v)  s = Sigmoid(t)"
    model = pair(parse, body, outputs)
    result, report = apply(model, "merge-sibling-convs")
    assert report.reason == "merged 3 Conv nodes into 1"
    assert sorted(ops(result)) == ["Conv", "Conv", "Sigmoid", "Split"]
    merged = next(node for node in result.proto.graph.node if node.output[0] == "y_merged")
    assert len(merged.input) == 2 and initializers(result)[merged.input[1]] == [9, 4, 1, 1]
    feeds = {"x": weight(2, 4, 6, 5), "c": np.array(True)}
    agree(values(model, feeds), values(result, feeds), {"y", "z", "s", "k3", "t"})


def test_weights_that_others_read_stay(parse, values, agree) -> None:
    outputs = "float[2, 3, 6, 5] y, float[2, 3, 6, 5] z, float[3, 4, 1, 1] kept"
    model = pair(parse, "y = Conv(x, v, b)  z = Conv(x, w, b)  kept = Neg(v)", outputs)
    result, report = apply(model, "merge-sibling-convs")
    assert report.modified and "v" in initializers(result) and "w" not in initializers(result)
    feeds = {"x": weight(2, 4, 6, 5), "c": np.array(True)}
    agree(values(model, feeds), values(result, feeds))


def test_windows_are_compared_with_their_defaults(parse, values, agree) -> None:
    explicit = "kernel_shape = [1, 1], strides = [1, 1], dilations = [1, 1], pads = [0, 0, 0, 0], group = 1"
    model = pair(parse, f'y = Conv(x, v)  z = Conv<{explicit}, auto_pad = "NOTSET">(x, w)')
    result, report = apply(model, "merge-sibling-convs")
    assert report.modified and ops(result) == ["Conv", "Split"]
    feeds = {"x": weight(2, 4, 6, 5), "c": np.array(True)}
    agree(values(model, feeds), values(result, feeds), {"y", "z"})


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = Conv(x, v)  z = Sigmoid(y)", "no two Conv nodes read the same tensor"),
        ("y = Conv<strides = [2, 1]>(x, v)  z = Conv(x, w)", "differ in kernel, strides, pads, dilations or type"),
        ("y = Conv(x, v)  z = Conv(x, k)", "differ in kernel, strides, pads, dilations or type"),
        ('y = Conv(x, v)  z = Conv<auto_pad = "SAME_UPPER">(x, w)', "differ in kernel, strides, pads, dilations"),
        ("y = Conv<group = 4>(x, d)  z = Conv<group = 4>(x, d)", "it has 4 groups"),
        ("e = Exp(v)  y = Conv(x, w)  z = Conv(x, e)", "'z', one of 2 Conv nodes on 'x', stays: its weights are not"),
        ("y = Conv(x, v)  r = Conv(x, w)  z = Relu(r)", "it is not a head, Relu 'z' comes behind it"),
        ("y = Conv(x, v)  unread = Conv(x, w)  z = Sigmoid(y)", "nothing reads 'unread'"),
        # the two branches of a residual block
        (
            "a = Conv(x, v, b)  r = Conv(x, w, b)  m = Relu(r)  n = Conv(m, u)  y = Add(a, n)  z = Relu(y)",
            "it is not a head, Relu 'm' comes behind it",
        ),
        # a concatenation inside the network
        ("p = Conv(x, v)  q = Conv(x, w)  y = Concat<axis = 1>(p, q)  z = Relu(y)", "not a head, Relu 'z' comes"),
        (
            "r = Conv(x, v)  y = Conv(x, w)  z = If(c) <then_branch = one () => (float[2, 3, 6, 5] t) { t = Abs(y) },"
            "else_branch = two () => (float[2, 3, 6, 5] e) { e = Identity(r) } >",
            "it is not a head, Abs 't' comes behind it",
        ),
    ],
)
def test_merging_says_why_not(parse, body: str, reason: str) -> None:
    model = pair(parse, body, "float[a, k, i, j] y, float[p, q, s, t] z")
    result, report = apply(model, "merge-sibling-convs")
    assert not report.modified and reason in report.reason
    assert ops(result) == ops(model)


def test_heads_that_a_suppression_takes_raw(parse) -> None:
    """What EfficientNMS_TRT selects is no business of the heads; the operator is a plugin's, not ONNX's."""
    model = parse(
        """
        <ir_version: 8, opset_import: ["": 17, "trt": 1]>
        g (float[2, 4, 6, 5] x) => (float[n] kept) {
            loc = Conv(x, v)
            conf = Conv(x, w)
            scores = Sigmoid(conf)
            selected = trt.EfficientNMS_TRT(loc, scores)
            kept = Relu(selected)
        }
        """,
        v=weight(4, 4, 1, 1),
        w=weight(6, 4, 1, 1),
    )
    result, (report,) = run(model, ["merge-sibling-convs"])
    assert report.modified and ops(result) == ["Conv", "Split", "Sigmoid", "EfficientNMS_TRT", "Relu"]
    assert not run(result, ["merge-sibling-convs"])[1][0].modified


def test_the_residual_blocks_of_opennsfw_stay(opennsfw_path: Path) -> None:
    model, _ = run(io.load(opennsfw_path), ["upgrade-opset"])
    result, (report,) = run(model, ["merge-sibling-convs"])
    assert not report.modified and result.proto == model.proto
    assert "it is not a head, Relu" in report.reason
