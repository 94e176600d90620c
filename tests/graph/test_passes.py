"""Each pass: what it does, what it leaves alone and why, and that values stay."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest

from trtforge.graph import shapes
from trtforge.graph.passes.registry import available, run

rng = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def ops(model) -> list[str]:
    return [node.op_type for node in model.proto.graph.node]


def apply(model, name):
    """The result of one pass, its report, and proof that it is idempotent and left the given model alone."""
    before = model.proto.SerializeToString()
    result, (report,) = run(model, [name])
    assert model.proto.SerializeToString() == before
    again, (second,) = run(result, [name])
    assert not second.modified, second.reason
    assert again.proto == result.proto
    assert report.reason and "\n" not in report.reason
    onnx.checker.check_model(result.proto, full_check=True)
    return result, report


# upgrade-opset -----------------------------------------------------------------------------------------------


def test_upgrade_keeps_names_and_values(parse, values, agree) -> None:
    model = parse("""
        <ir_version: 6, opset_import: ["": 11]>
        g (float[2, 3, 4] x) => (float[2, 3, 4] y) {
            s = Softmax<axis = 1>(x)
            u = Unsqueeze<axes = [0]>(s)
            _v_1 = Relu(u)
            q = Squeeze<axes = [0]>(_v_1)
            r = ReduceSum<axes = [2], keepdims = 1>(q)
            y = Add(q, r)
        }
    """)
    result, report = apply(model, "upgrade-opset")
    assert report.modified and result.proto.opset_import[0].version == 17 and result.proto.ir_version >= 8
    feeds = {"x": weight(2, 3, 4)}
    before, after = values(model, feeds), values(result, feeds)
    assert before.keys() <= after.keys()
    agree(before, after)
    added = after.keys() - before.keys()
    assert all(name.startswith(("opset17_", "s_")) for name in added), added


def test_upgrade_reaches_into_branches_and_keeps_metadata(parse, values, agree) -> None:
    model = parse("""
        <ir_version: 7, opset_import: ["": 11, "mine": 1], metadata_props: ["key": "value"]>
        g (float[2, 3] x, bool c) => (float[2, 3] y) {
            y = If(c) <
                then_branch = a () => (float[2, 3] t) { t0 = Unsqueeze<axes = [0]>(x)  t = Squeeze<axes = [0]>(t0) },
                else_branch = b () => (float[2, 3] e) { e = Relu(x) }
            >
        }
    """)
    result, _ = apply(model, "upgrade-opset")
    assert result.proto.metadata_props[0].value == "value"
    assert {entry.domain: entry.version for entry in result.proto.opset_import} == {"": 17, "mine": 1}
    for condition in (True, False):
        feeds = {"x": weight(2, 3), "c": np.array(condition)}
        agree(values(model, feeds), values(result, feeds))


def test_upgrade_leaves_newer_models(parse) -> None:
    model = parse('<ir_version: 9, opset_import: ["": 18]> g (float[1] x) => (float[1] y) { y = Relu(x) }')
    result, report = apply(model, "upgrade-opset")
    assert not report.modified and "opset 18" in report.reason
    assert result.proto == model.proto


def test_upgrade_carries_functions(parse) -> None:
    model = parse("""
        <ir_version: 8, opset_import: ["": 16, "mine": 1]>
        g (float[2] x) => (float[2] y) { y = mine.twice(x) }
        <domain: "mine", opset_import: ["": 16]> twice (a) => (b) { b = Add(a, a) }
    """)
    result, report = apply(model, "upgrade-opset")
    assert report.modified
    assert result.proto.functions == model.proto.functions


def test_upgrade_writes_out_functions_whose_operators_changed(parse, values, agree) -> None:
    """Softmax 11 flattens; onnxruntime reads a function's body by the model's opset and would not."""
    model = parse("""
        <ir_version: 8, opset_import: ["": 11, "mine": 1]>
        g (float[1, 2, 4, 3] x) => (float[1, 2, 4, 3] y) {
            a = mine.outer(x)
            y = mine.rows(a)
        }
        <domain: "mine", opset_import: ["": 11]> rows (a) => (b) { b = Softmax<axis = 1>(a) }
        <domain: "mine", opset_import: ["": 11, "mine": 1]> outer (a) => (b) { c = Abs(a)  b = mine.rows(c) }
    """)
    result, report = apply(model, "upgrade-opset")
    assert report.modified
    assert not result.proto.functions
    onnx.checker.check_model(result.proto)
    feeds = {"x": np.random.default_rng(0).normal(size=(1, 2, 4, 3)).astype(np.float32)}
    agree(values(model, feeds), values(result, feeds), {"y"})


# fold-constants ----------------------------------------------------------------------------------------------


def test_fold_shape_chain(parse, values, agree) -> None:
    model = parse("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[2, 3, 4] x) => (float[2, 12] y) {
            zero = Constant<value_ints = [0]>()
            minus = Constant<value = int64[1] {-1}>()
            shape = Shape(x)
            n = Gather(shape, zero)
            wanted = Concat<axis = 0>(n, minus)
            half = Constant<value_float = 0.5>()
            scaled = Mul(x, half)
            y = Reshape(scaled, wanted)
        }
    """)
    result, report = apply(model, "fold-constants")
    assert report.modified
    assert ops(result) == ["Mul", "Reshape"]
    assert {tensor.name for tensor in result.proto.graph.initializer} == {"half", "wanted"}
    feeds = {"x": weight(2, 3, 4)}
    agree(values(model, feeds), values(result, feeds))


def test_fold_known_sizes_of_open_shapes_only(parse, values, agree) -> None:
    model = parse("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[n, 3, 4] x) => (int64[2] y, int64 z, int64[2] tail) {
            shape = Shape(x)
            known = Constant<value = int64[2] {-1, 1}>()
            open = Constant<value = int64 {0}>()
            a = Gather(shape, known)
            y = Neg(a)
            b = Gather(shape, open)
            z = Neg(b)
            end = Shape<start = 1>(x)
            size = Size(end)
            t = Mul(end, size)
            tail = Neg(t)
        }
    """)
    result, _ = apply(model, "fold-constants")
    names = {tensor.name for tensor in result.proto.graph.initializer}
    assert "a" in names and "b" not in names
    for batch in (1, 5):
        feeds = {"x": weight(batch, 3, 4)}
        agree(values(model, feeds), values(result, feeds))


def test_fold_leaves_what_must_stay(parse) -> None:
    model = parse(
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[4] x) => (float[4] y, float[4] constant) {
            shape = Constant<value_ints = [4]>()
            noise = RandomUniform<shape = [4], dtype = 1>()
            like = RandomNormalLike(w)
            q = QuantizeLinear(w, scale, zero)
            d = DequantizeLinear(q, scale, zero)
            a = Add(noise, like)
            b = Add(a, d)
            y = Add(x, b)
            constant = Neg(w)
        }
        """,
        w=weight(4),
        scale=np.float32(0.1),
        zero=np.int8(0),
    )
    result, report = apply(model, "fold-constants")
    assert ops(result) == [op for op in ops(model) if op != "Constant"]
    assert report.reason == "folded 1 Constant node"


def test_fold_does_not_blow_up_weights(parse) -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1024, 1024] x) => (float[1024, 1024] y) {
            big = Expand(w, size)
            small = Expand(v, size2)
            a = Add(x, big)
            y = Add(a, small)
        }
    """
    size = np.array([1024, 1024], np.int64)
    model = parse(text, w=weight(1), v=weight(1), size=size, size2=np.array([1024, 1], np.int64))
    result, _ = apply(model, "fold-constants")
    assert ops(result) == ["Expand", "Add", "Add"]
    assert "small" in {tensor.name for tensor in result.proto.graph.initializer}


def test_fold_computes_big_weights_that_stay_as_big(parse, values, agree) -> None:
    model = parse(
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1, 600] x) => (float[1, 700] y) { t = Transpose<perm = [1, 0]>(w)  y = MatMul(x, t) }
        """,
        w=weight(700, 600),
    )
    result, _ = apply(model, "fold-constants")
    assert ops(result) == ["MatMul"]
    assert [tensor.name for tensor in result.proto.graph.initializer] == ["t"]
    feeds = {"x": weight(1, 600)}
    agree(values(model, feeds), values(result, feeds))


def test_fold_takes_the_branch_of_a_known_condition(parse, values, agree) -> None:
    model = parse("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[2, 3] x) => (float[2, 3] y, float[p, 3] z) {
            rank = Shape(x)
            two = Constant<value = int64 {2}>()
            length = Size(rank)
            c = Equal(length, two)
            a = Relu(x)
            u = If(c) <
                then_branch = p () => (float[2, 3] t) { a1 = Neg(a)  w = Abs(a1)  t = Add(w, a) },
                else_branch = q () => (float[2, 3] e) { e = Sigmoid(a) }
            >
            n = Not(c)
            v = If(n) <
                then_branch = r () => (float[2, 3] t) { t = Neg(a) },
                else_branch = s () => (float[1, 3] k) <float[1, 3] k = {1, 2, 3}> { }
            >
            w = Abs(u)
            y = Add(w, v)
            z = Neg(v)
        }
    """)
    result, report = apply(model, "fold-constants")
    assert "If" not in ops(result), report.reason
    feeds = {"x": weight(2, 3)}
    agree(values(model, feeds), values(result, feeds))


def test_fold_names_what_onnxruntime_cannot_compute(parse, values, agree) -> None:
    model = parse(
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[2] x) => (float[2] y, float[3] z) {
            bad = Gather(w, far)
            good = Neg(w)
            after = Neg(good)
            y = Add(x, after)
            z = Relu(bad)
        }
        """,
        w=weight(2),
        far=np.array([5, 6, 7], np.int64),
    )
    result, report = apply(model, "fold-constants")
    assert ops(result) == ["Gather", "Add", "Relu"]
    assert "; could not compute 1 node, first 'bad' (Gather): " in report.reason


def test_fold_says_which_node_is_not_of_onnx(parse) -> None:
    model = parse(
        """
        <ir_version: 8, opset_import: ["": 17, "com.acme": 1]>
        g (float[2] x) => (float[2] y) { [mine] made = com.acme.Foo(w)  y = Add(x, made) }
        """,
        w=weight(2),
    )
    result, report = apply(model, "fold-constants")
    assert ops(result) == ["Foo", "Add"]
    assert report.reason == (
        "nothing was folded; could not compute 1 node, first 'mine' (com.acme::Foo): it is no operator of ONNX's own"
    )


# remove-identity ---------------------------------------------------------------------------------------------


def test_remove_identity(parse, values, agree) -> None:
    model = parse("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[4] x) => (float[4] y, float[4] z) {
            a = Identity(x)
            b = Relu(a)
            d = Dropout(b)
            i = Identity(d)
            n = Neg(i)
            y = Identity(n)
            m = Abs(n)
            z = Identity(m)
        }
    """)
    result, _ = apply(model, "remove-identity")
    assert ops(result) == ["Relu", "Neg", "Abs"]
    feeds = {"x": weight(4)}
    agree(values(model, feeds), values(result, feeds))
    assert values(result, feeds).keys() == {"b", "y", "z"}


def test_identities_that_must_stay(parse) -> None:
    model = parse(
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[4] x) => (float[4] y, float[4] z, float[4] v, float[4] t) {
            y = Identity(x)
            z = Identity(w)
            v = Relu(x)
            t = Identity(v)
        }
        """,
        w=weight(4),
    )
    _, report = apply(model, "remove-identity")
    assert not report.modified and "3 Identity or Dropout nodes must stay" in report.reason


def test_training_dropout_stays(parse) -> None:
    model = parse(
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[4] x) => (float[4] y) { d = Dropout(x, ratio, yes)  e = Dropout(d, ratio, no)  y = Relu(e) }
        """,
        ratio=np.float32(0.5),
        yes=np.array(True),
        no=np.array(False),
    )
    result, _ = apply(model, "remove-identity")
    assert ops(result) == ["Dropout", "Relu"]


def test_identity_seen_by_a_branch(parse, values, agree) -> None:
    model = parse("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[2] x, bool c) => (float[2] y) {
            r = Relu(x)
            i = Identity(r)
            j = Identity(r)
            y = If(c) <
                then_branch = p () => (float[2] t) { t = Neg(i) },
                else_branch = q () => (float[2] e) { e = Identity(j) }
            >
        }
    """)
    result, _ = apply(model, "remove-identity")
    for condition in (True, False):
        feeds = {"x": weight(2), "c": np.array(condition)}
        agree(values(model, feeds), values(result, feeds), {"y"})


# dead-code ---------------------------------------------------------------------------------------------------


def test_dead_code(parse, values, agree) -> None:
    model = parse(
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[4] x, float[4] unused) => (float[4] y) <float[4] b> {
            a = Add(x, w)
            b = Neg(a)
            c = Abs(b)
            y = Relu(a)
        }
        """,
        w=weight(4),
        v=weight(4),
    )
    result, report = apply(model, "dead-code")
    assert ops(result) == ["Add", "Relu"]
    assert report.reason == "removed 2 nodes and 1 weight"
    assert list(shapes.input_specs(result)) == ["x", "unused"]
    assert not result.proto.graph.value_info
    feeds = {"x": weight(4), "unused": weight(4)}
    agree(values(model, feeds), values(result, feeds), {"a", "y"})


def test_what_a_branch_captures_is_alive(parse) -> None:
    model = parse("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[2] x, bool c) => (float[2] y) {
            r = Relu(x)
            y = If(c) <
                then_branch = p () => (float[2] t) { t = Neg(r) },
                else_branch = q () => (float[2] e) { e = Neg(x) }
            >
        }
    """)
    _, report = apply(model, "dead-code")
    assert not report.modified


# fold-batchnorm ----------------------------------------------------------------------------------------------

NORM = {name: weight(4) for name in ("gamma", "beta", "mean")} | {"variance": np.abs(weight(4)) + 0.1}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("shape", "kernel"), [((1, 2, 6, 6), (4, 2, 3, 3)), ((1, 4, 3, 4, 5), (4, 2, 2, 2, 2))])
def test_fold_batchnorm(parse, values, agree, bias: bool, shape, kernel) -> None:
    groups = shape[1] // kernel[1]
    dims = ", ".join(map(str, shape))
    model = parse(
        f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[{dims}] x) => (float[{", ".join("abcde"[: len(shape)])}] y) {{
            c = Conv<group = {groups}>(x, w{", b" if bias else ""})
            n = BatchNormalization<epsilon = 0.001>(c, gamma, beta, mean, variance)
            y = Relu(n)
        }}
        """,
        w=weight(*kernel),
        **({"b": weight(4)} if bias else {}),
        **NORM,
    )
    result, report = apply(model, "fold-batchnorm")
    assert ops(result) == ["Conv", "Relu"], report.reason
    assert sorted(tensor.name for tensor in result.proto.graph.initializer) == ["w_bn", "w_bn_bias"]
    feeds = {"x": weight(*shape)}
    agree(values(model, feeds), values(result, feeds))
    assert values(result, feeds).keys() == {"n", "y"}


def test_fold_batchnorm_with_a_shared_weight_and_parked_values(parse, values, agree) -> None:
    model = parse(
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1, 64, 4, 4] x) => (float[a, b, c, d] y, float[e, f, g, h] z, float[i, j, k, l] o) {
            c1 = Conv(x, w)
            y = BatchNormalization(c1, gamma, beta, mean, variance)
            c2 = Conv(x, w)
            z = BatchNormalization(c2, gamma, beta, mean, variance)
            o = Conv(x, w)
        }
        """,
        w=weight(4, 64, 3, 3),
        **NORM,
    )
    result, _ = apply(model, "fold-batchnorm")
    assert ops(result) == ["Conv", "Conv", "Conv"]
    feeds = {"x": weight(1, 64, 4, 4)}
    agree(values(model, feeds), values(result, feeds))


def test_batchnorm_whose_product_float16_cannot_hold_stays(parse, values, agree) -> None:
    """1000 * 100 is more than 65504; with small inputs the two nodes one after the other stay in range."""
    model = parse(
        """
        <ir_version: 8, opset_import: ["": 15]> g (float16[1, 2, 4, 4] x) => (float16[1, 2, 4, 4] y) {
            c = Conv(x, w)
            y = BatchNormalization(c, s, z, z, v)
        }
        """,
        w=np.full((2, 2, 1, 1), 1000, np.float16),
        s=np.full(2, 100, np.float16),
        z=np.zeros(2, np.float16),
        v=np.ones(2, np.float16),
    )
    feeds = {"x": np.full((1, 2, 4, 4), 0.01, np.float16)}
    assert np.isfinite(values(model, feeds)["y"]).all()
    result, report = apply(model, "fold-batchnorm")
    assert not report.modified
    assert "can hold" in report.reason
    agree(values(model, feeds), values(result, feeds))


def test_batchnorm_that_must_stay(parse) -> None:
    model = parse(
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1, 2, 6, 6] x, float[4, 2, 3, 3] dynamic) => (float[a, b, c, d] y, float[e, f, g, h] c2) {
            c1 = Conv(x, dynamic)
            n1 = BatchNormalization(c1, gamma, beta, mean, variance)
            c2 = Conv(x, w)
            n2 = BatchNormalization(c2, gamma, beta, mean, variance)
            y = Add(n1, n2)
        }
        """,
        w=weight(4, 2, 3, 3),
        **NORM,
    )
    result, report = apply(model, "fold-batchnorm")
    assert not report.modified and "none of 2 BatchNormalization nodes" in report.reason
    assert result.proto == model.proto


# global-average-pool -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "node", "expected"),
    [
        ((2, 3, 5, 7), "GlobalAveragePool(x)", ["AveragePool", "Relu"]),
        ((2, 3, 4, 5, 6), "GlobalAveragePool(x)", ["AveragePool", "Relu"]),
        ((2, 3, 5, 7), "ReduceMean<axes = [2, 3]>(x)", ["AveragePool", "Relu"]),
        ((2, 3, 5, 7), "ReduceMean<axes = [-1, -2], keepdims = 0>(x)", ["AveragePool", "Flatten", "Relu"]),
        ((2, 3, 4, 5, 6), "ReduceMean<axes = [2, 3, 4], keepdims = 0>(x)", ["AveragePool", "Flatten", "Relu"]),
        ((2, 3, 5, 7), "ReduceMean<axes = [1]>(x)", ["ReduceMean", "Relu"]),
        ((2, 3, 5, 7), "ReduceMean<axes = [3]>(x)", ["ReduceMean", "Relu"]),
        ((2, 3, 5), "GlobalAveragePool(x)", ["GlobalAveragePool", "Relu"]),
    ],
)
def test_global_average_pool(parse, values, agree, shape, node: str, expected: list[str]) -> None:
    dims = ", ".join(map(str, shape))
    rank = 2 if "keepdims = 0" in node else len(shape)
    model = parse(f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[{dims}] x) => (float[{", ".join("abcde"[:rank])}] y) {{ p = {node}  y = Relu(p) }}
    """)
    result, report = apply(model, "global-average-pool")
    assert ops(result) == expected, report.reason
    feeds = {"x": weight(*shape)}
    agree(values(model, feeds), values(result, feeds))


def test_global_average_pool_with_axes_as_input(parse, values, agree) -> None:
    model = parse(
        """
        <ir_version: 9, opset_import: ["": 18]>
        g (float[1, 2, 3, 4] x) => (float[1, 2, 1, 1] y) { y = ReduceMean(x, a) }
        """,
        a=np.array([2, 3], np.int64),
    )
    result, _ = apply(model, "global-average-pool")
    assert ops(result) == ["AveragePool"] and not result.proto.graph.initializer
    feeds = {"x": weight(1, 2, 3, 4)}
    agree(values(model, feeds), values(result, feeds))


def test_global_average_pool_needs_sizes(parse) -> None:
    model = parse("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1, 2, h, w] x) => (float[1, 2, 1, 1] y) { y = GlobalAveragePool(x) }
    """)
    _, report = apply(model, "global-average-pool")
    assert not report.modified and "'x' is not known" in report.reason


# opt-in passes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "perm"), [((1, 4, 5, 3), [0, 3, 1, 2]), ((1, 4, 5, 6, 3), [0, 4, 1, 2, 3])])
def test_nhwc_to_nchw_input(parse, values, agree, shape, perm) -> None:
    dims, free = ", ".join(map(str, shape)), ", ".join("abcde"[: len(shape)])
    model = parse(f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[{dims}] x) => (float[{free}] y, float[{free}] z) {{
            t = Transpose<perm = {perm}>(x)
            u = Transpose<perm = {perm}>(x)
            y = Relu(t)
            z = Neg(u)
        }}
    """)
    result, report = apply(model, "nhwc-to-nchw-input")
    assert report.modified and ops(result) == ["Relu", "Neg"]
    assert shapes.input_specs(result)["x"].shape == tuple(shape[axis] for axis in perm)
    image = weight(*shape)
    agree(values(model, {"x": image}), values(result, {"x": image.transpose(perm)}))


def test_other_transposes_are_no_layout_change(parse) -> None:
    for perm in ("[0, 2, 1, 3]", "[3, 2, 1, 0]"):
        model = parse(f"""
            <ir_version: 8, opset_import: ["": 17]>
            g (float[1, 4, 5, 3] x) => (float[a, b, c, d] y) {{ t = Transpose<perm = {perm}>(x)  y = Relu(t) }}
        """)
        result, report = apply(model, "nhwc-to-nchw-input")
        assert not report.modified and result.proto == model.proto


def test_topk_head(parse, values) -> None:
    model = parse("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[n, 5] x) => (float[n, 5] probabilities) { l = Neg(x)  probabilities = Softmax<axis = -1>(l) }
    """)
    result, report = apply(model, "topk-head")
    assert report.modified and ops(result) == ["Neg", "TopK"]
    assert shapes.output_specs(result) == {"topk_index": ("int64", ("n", 1))}
    feeds = {"x": weight(7, 5)}
    expected = values(model, feeds)["probabilities"].argmax(axis=1, keepdims=True)
    np.testing.assert_array_equal(values(result, feeds)["topk_index"], expected)


@pytest.mark.parametrize("argmax", ["ArgMax<axis = 1, keepdims = 0>(l)", "ArgMax<axis = -1, keepdims = 0>(p)"])
@pytest.mark.parametrize("outputs", ["float[n, 5] p, int64[n] c", "int64[n] c, float[n, 5] p"])
def test_topk_head_takes_the_classes_of_the_same_scores_along(parse, values, argmax: str, outputs: str) -> None:
    model = parse(f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[n, 5] x) => ({outputs}) {{ l = Neg(x)  p = Softmax(l)  c = {argmax} }}
    """)
    result, report = apply(model, "topk-head")
    assert report.modified and ops(result) == ["Neg", "TopK"]
    assert report.reason == f"{', '.join(value.name for value in model.proto.graph.output)} became topk_index"
    feeds = {"x": weight(7, 5)}
    np.testing.assert_array_equal(values(result, feeds)["topk_index"][:, 0], values(model, feeds)["c"])


def test_topk_head_leaves_a_softmax_that_others_read(parse, values) -> None:
    model = parse("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[n, 5] x) => (float[n, 5] p, int64[n] c) {
            [softmax] p = Softmax(x)  t = Neg(p)  c = ArgMax<axis = 1, keepdims = 0>(t)
        }
    """)
    result, report = apply(model, "topk-head")
    assert not report.modified and report.reason == "the output 'c' is the ArgMax of something else than 'p'"
    assert result.proto == model.proto


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("g (float[2, 5] x) => (float[2, 5] y) { y = Relu(x) }", "not produced by a Softmax"),
        (
            "g (float[2, 5] x) => (float[2, 5] y, int64[5] z) { y = Softmax(x) z = ArgMax<axis = 0, keepdims = 0>(x) }",
            "is not taken over axis 1",
        ),
        (
            "g (float[2, 5] x) => (float[2, 5] y, int64[2, 1] z) "
            "{ y = Softmax(x) z = ArgMax<axis = 1, select_last_index = 1>(x) }",
            "takes the last of equal scores, and TopK the first",
        ),
        ("g (float[2, 5] x) => (float[2, 5] y) { y = Softmax<axis = 0>(x) }", "does not normalise over axis 1"),
        ("g (float[2] x) => (float[2] y, float[2] z) { y = Relu(x)  z = Neg(x) }", "2 outputs"),
    ],
)
def test_topk_head_says_why_not(parse, text: str, reason: str) -> None:
    model = parse('<ir_version: 8, opset_import: ["": 17]> ' + text)
    result, report = apply(model, "topk-head")
    assert not report.modified and reason in report.reason
    assert result.proto == model.proto


def test_relu6_to_relu(parse, values) -> None:
    model = parse(
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[4] x) => (float[4] y) { a = Clip(x, zero, six)  b = Clip(a, zero, five)  y = Clip(b, , six) }
        """,
        zero=np.float32(0),
        six=np.float32(6),
        five=np.float32(5),
    )
    result, report = apply(model, "relu6-to-relu")
    assert ops(result) == ["Relu", "Clip", "Clip"] and report.reason == "replaced 1 Clip node"
    feeds = {"x": np.array([-1, 3, 7, 100], np.float32)}
    np.testing.assert_array_equal(values(result, feeds)["a"], [0, 3, 7, 100])


def test_relu6_as_attributes(parse) -> None:
    model = parse(
        '<ir_version: 5, opset_import: ["": 10]> g (float[4] x) => (float[4] y) { y = Clip<min = 0.0, max = 6.0>(x) }'
    )
    result, _ = apply(model, "relu6-to-relu")
    assert ops(result) == ["Relu"] and not result.proto.graph.node[0].attribute


@pytest.mark.parametrize(
    ("kind", "dtype", "opset", "made"),
    [
        ("float16", np.float16, 17, "Relu"),
        ("double", np.float64, 12, "Relu"),
        ("bfloat16", ml_dtypes.bfloat16, 17, "Relu"),
        ("int32", np.int32, 14, "Relu"),
        ("int32", np.int32, 13, "Clip"),
        ("int64", np.int64, 17, "Clip"),
        ("uint8", np.uint8, 17, "Clip"),
    ],
)
def test_relu6_of_types_that_relu_takes(parse, kind: str, dtype: type, opset: int, made: str) -> None:
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g ({kind}[4] x) => ({kind}[4] y) {{ y = Clip(x, low, high) }}'
    model = parse(text, low=np.asarray(0, dtype), high=np.asarray(6, dtype))
    result, report = apply(model, "relu6-to-relu")
    assert ops(result) == [made]
    if made == "Clip":
        why = "none of 1 Clip node has the constant bounds 0 and 6, of a type that Relu takes"
        assert not report.modified and report.reason == why


def test_a_clip_of_another_domain_is_no_relu6(parse) -> None:
    model = parse(
        """
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[4] x) => (float[4] y) { a = Relu(x)  y = mine.Clip(a, low, high) }
        """,
        low=np.float32(0),
        high=np.float32(6),
    )
    _, (report,) = run(model, ["relu6-to-relu"])
    assert not report.modified and report.reason == "the graph has no Clip nodes"


def test_every_pass_has_a_page() -> None:
    for name, one in available().items():
        assert name == one.name
        first = one.doc.splitlines()[0]
        assert first.endswith(".") and len(one.doc) > len(first)
