"""What keeps a layer off the DLA, one layer at a time."""

from __future__ import annotations

import re
from typing import Any

import pytest

from trtforge.lint.context import Context

MAP = "float[1, 8, 16, 16] x"


def reason(context: Context, op: str) -> str:
    """Why the only node of this operator is not on the DLA; "" when it is, with `?` in front when that is in doubt."""
    (place,) = [place for place in context.placement.places if place.node.op_type == op]
    if place.device == "dla":
        return f"? {place.doubts[0].why}" if place.doubts else ""
    assert place.why is not None
    return place.why.why


def graph(node: str, weights: str = "", shape: str = MAP) -> str:
    return f"g ({shape}) => (float[a, b, c, d] y) {f'<{weights}>' if weights else ''} {{ {node} }}"


@pytest.mark.parametrize(
    ("node", "weights", "says"),
    [
        ("y = Clip(x, lo, hi)", "float lo = {0}, float hi = {6}", ""),
        ("y = Clip(x, lo, hi)", "float lo = {-1}, float hi = {6}", "clips from -1 to 6"),
        ("y = Clip(x, lo, hi)", "float lo = {0}, float hi = {128}", "clips from 0 to 128"),
        ("y = Clip(x, lo)", "float lo = {0}", "no upper bound that is known"),
        ("y = Clip(x)", "", "it has no bound that is known"),
        ("y = LRN<size = 5>(x)", "", ""),
        ("y = LRN<size = 4>(x)", "", "window is 4"),
        ("y = Softmax<axis = 1>(x)", "", ""),
        ("y = Softmax<axis = 0>(x)", "", "axis 0 of 4"),
        ("y = Transpose<perm = [0, 2, 3, 1]>(x)", "", ""),
        ("y = Transpose<perm = [1, 0, 2, 3]>(x)", "", "moves the batch"),
        ("y = Reshape(x, s)", "int64[4] s = {1, 4, 32, 16}", ""),
        ("y = Reshape(x, s)", "int64[4] s = {2, 4, 16, 16}", "moves the batch"),
        ("y = Reshape(x, s)", "int64[3] s = {1, 8, 256}", "3 dimensions of 4"),
        ("y = Resize(x, , f)", "float[4] f = {1, 1, 2, 2}", ""),
        ("y = Resize(x, , f)", "float[4] f = {1, 1, 1.5, 2}", "1.5"),
        ('y = Resize<mode = "linear">(x, , f)', "float[4] f = {1, 1, 8, 8}", "up to 4"),
        ('y = Resize<mode = "linear", coordinate_transformation_mode = "align_corners">(x, , f)',
         "float[4] f = {1, 1, 2, 2}", "align_corners"),
        ('y = Resize<mode = "linear", coordinate_transformation_mode = "pytorch_half_pixel">(x, , f)',
         "float[4] f = {1, 1, 2, 2}", ""),
        ('y = Resize<coordinate_transformation_mode = "pytorch_half_pixel">(x, , f)',
         "float[4] f = {1, 1, 2, 2}", "pytorch_half_pixel"),
        ('y = Resize<nearest_mode = "ceil">(x, , f)', "float[4] f = {1, 1, 2, 2}", "half_pixel, ceil"),
        ("y = Resize(x, , , s)", "int64[4] s = {1, 8, 32, 32}", "given sizes"),
        ('y = Resize<mode = "cubic">(x, , f)', "float[4] f = {1, 1, 2, 2}", "cubic"),
        ("y = Slice(x, b, e, a)", "int64[1] b = {0}, int64[1] e = {4}, int64[1] a = {1}", ""),
        ("y = Slice(x, b, e, a, t)", "int64[1] b = {0}, int64[1] e = {8}, int64[1] a = {2}, int64[1] t = {2}", "steps"),
        ("y = Max(x, c)", "float[1, 8, 1, 1] c", ""),
        ("y = Add(x, c)", "float[16] c", "spreads `c` of [16] over [1, 8, 16, 16]"),
        ("y = Add(x, c)", "float[8, 1, 1] c", ""),
        ("y = Add(x, c)", "float c = {2}", ""),
        ("y = Add(x, c)", "float[8, 16, 16] c", ""),
        ('y = Resize<axes = [-2, 3], coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">(x, , f)',
         "float[2] f = {2, 3}", ""),
        ("y = Resize<axes = [1, 2]>(x, , f)", "float[2] f = {2, 2}", "scales are 1, 2, 2, 1"),
        ("y = MatMul(w, x)", "float[4, 16] w", "weights are the left factor"),
        ("y = MaxPool<kernel_shape = [3, 3], dilations = [2, 1]>(x)", "", "dilation 2"),
        ("y = MaxPool<kernel_shape = [8, 8], pads = [7, 7, 7, 7]>(x)", "", ""),
        ("y = MaxPool<kernel_shape = [9, 9]>(x)", "", "kernel 9"),
        ("y = Conv<pads = [3, 0, 3, 0]>(x, w)", "float[4, 8, 3, 3] w", "not smaller than its kernel"),
        ("r = Relu(x) y = Conv(x, r)", "", "weights are not constant"),
        ("y = Where(m, x, x)", "bool[1, 8, 16, 16] m", "does not run Where"),
    ],
)  # fmt: skip
def test_parameters(examined, node: str, weights: str, says: str) -> None:
    shape = "float[8, 8, 1, 1] x" if "Conv(x, r)" in node else MAP
    sizes = [8, 8, 1, 1] if "Conv(x, r)" in node else [1, 8, 16, 16]
    op = re.findall(r"y = (\w+)", node)[0]
    opset = 18 if "axes = " in node else 17
    found = reason(examined(graph(node, weights, shape), {"x": sizes}, opset=opset), op)
    assert says in found
    assert bool(says) == bool(found), found


@pytest.mark.parametrize(
    ("kernel", "stride", "runs"),
    [([2, 2], [2, 2], True), ([1, 64], [1, 64], True), ([1, 65], [1, 65], False), ([1, 64], [1, 2], False)],
)
def test_long_deconvolutions(examined, kernel: list[int], stride: list[int], runs: bool) -> None:
    weights = f"float[8, 4, {kernel[0]}, {kernel[1]}] w"
    body = graph(f"y = ConvTranspose<kernel_shape = {kernel}, strides = {stride}>(x, w)", weights)
    assert (reason(examined(body, {"x": [1, 8, 16, 16]}), "ConvTranspose") == "") == runs


def test_division_and_power_since_10(examined) -> None:
    """Documentation and header disagree, and the documentation that has them is of TensorRT 10 (8.6.12 is DRIVE's)."""
    values = ", ".join(map(str, range(1, 17)))
    for node, weights, says in (
        ("y = Pow(x, c)", "float c = {2}", "? NVIDIA's documentation and header disagree"),
        ("y = Div(x, c)", f"float[16] c = {{{values}}}", "different constants"),
    ):
        op = node[4:7]
        assert says in reason(examined(graph(node, weights), {"x": [1, 8, 16, 16]}, tensorrt="10.3"), op)
        early = reason(examined(graph(node, weights), {"x": [1, 8, 16, 16]}, tensorrt="8.6.2"), op)
        assert early == f"the DLA runs {op} from TensorRT 10.0, and this is 8.6.2"


@pytest.mark.parametrize(
    ("node", "says"),
    [
        ("y = Conv(x, w)", "its window has one dimension"),
        ("y = MaxPool<kernel_shape = [100]>(x)", "its window has one dimension"),
        ("y = AveragePool<kernel_shape = [2]>(x)", "its window has one dimension"),
        ("y = Relu(x)", "? one of its tensors has fewer than four dimensions"),
        ("y = Concat<axis = 0>(x, x)", "joins along axis 0 of 3"),
        ("y = Softmax<axis = 2>(x)", "axis 2 of 3"),
    ],
)
def test_three_dimensions_are_too_few(examined, node: str, says: str) -> None:
    body = f"g (float[1, 8, 256] x) => (float[a, b, c] y) <float[4, 8, 3] w> {{ {node} }}"
    found = reason(examined(body, {"x": [1, 8, 256]}), re.findall(r"y = (\w+)", node)[0])
    assert says in found and found.startswith("?") == says.startswith("?")


def test_a_factor_of_three_dimensions_beside_one_of_four_is_a_doubt(examined) -> None:
    body = f"g ({MAP}, float[8, 1, 1] z) => (float[a, b, c, d] y) {{ y = Mul(x, z) }}"
    found = reason(examined(body, {"x": [1, 8, 16, 16], "z": [8, 1, 1]}), "Mul")
    assert found.startswith("? one of its tensors has fewer")


def test_gemm_was_seen_on_the_dla_with_two_dimensions(examined) -> None:
    body = "g (float[1, 8] x) => (float[1, 4] y) <float[8, 4] w> { y = OP(x, w) }"
    assert reason(examined(body.replace("OP", "Gemm"), {"x": [1, 8]}), "Gemm") == ""
    assert reason(examined(body.replace("OP", "MatMul"), {"x": [1, 8]}), "MatMul").startswith("? one of its tensors")


@pytest.mark.parametrize(
    ("size", "attributes", "says"),
    [
        ([22, 22], "strides = [22, 22]", ""),
        ([24, 24], "strides = [24, 24]", "its kernel is 24x24"),
        ([32, 32], "strides = [2, 2]", "its kernel is 32x32"),
        ([4, 4], "strides = [23, 23]", "its stride is 23x23"),
        ([24, 8], "strides = [24, 8]", ""),
        ([2, 2], "strides = [2, 2], output_padding = [0, 0]", ""),
        ([2, 2], "strides = [2, 2], output_padding = [0, 1]", "its output_padding is [0, 1]"),
        ([2, 2], 'strides = [2, 2], auto_pad = "SAME_UPPER"', ""),
        ([3, 3], 'strides = [2, 2], auto_pad = "SAME_UPPER"', "its auto_pad is SAME_UPPER"),
        ([2, 2], "strides = [2, 2], output_shape = [32, 32]", ""),
        ([4, 4], "strides = [2, 2], output_shape = [32, 32]", "its output_shape is [32, 32] where [34, 34] fits"),
    ],
)
def test_deconvolutions_pad_nothing_and_are_not_square_and_large(
    examined, size: list[int], attributes: str, says: str
) -> None:
    body = graph(f"y = ConvTranspose<{attributes}>(x, w)", f"float[8, 4, {size[0]}, {size[1]}] w")
    found = reason(examined(body, {"x": [1, 8, 16, 16]}), "ConvTranspose")
    assert says in found and bool(says) == bool(found)


def test_a_gemm_takes_its_input_as_it_is(examined) -> None:
    for transposed, says in ((0, ""), (1, "it transposes its input (transA)")):
        body = f"g (float[8, 8] x) => (float[8, 4] y) <float[8, 4] w> {{ y = Gemm<transA = {transposed}>(x, w) }}"
        assert (reason(examined(body, {"x": [8, 8]}), "Gemm")).startswith(says) and bool(says) == bool(transposed)
        assert bool(reason(examined(body, {"x": [8, 8]}), "Gemm")) == bool(says)


def test_a_normalization_has_constant_statistics(examined) -> None:
    constants = "float[8] s, float[8] b, float[8] m, float[8] v"
    constant = graph("y = BatchNormalization(x, s, b, m, v)", constants)
    assert reason(examined(constant, {"x": [1, 8, 16, 16]}), "BatchNormalization") == ""
    body = f"""g ({MAP}, float[8] s, float[8] b) => (float[a, c, d, e] y) <float[8] m, float[8] v>
    {{ y = BatchNormalization(x, s, b, m, v) }}"""
    found = reason(examined(body, {"x": [1, 8, 16, 16], "s": [8], "b": [8]}), "BatchNormalization")
    assert found.startswith("its scale, bias are not constant")


@pytest.mark.parametrize(("op", "opset"), [("Upsample", 9), ("Resize", 10)])
def test_before_opset_11_every_resize_is_asymmetric(examined, op: str, opset: int) -> None:
    for mode, says in (("nearest", ""), ("linear", "samples asymmetric")):
        body = graph(f'y = {op}<mode = "{mode}">(x, f)', "float[4] f = {1, 1, 2, 2}")
        found = reason(examined(body, {"x": [1, 8, 16, 16]}, opset=opset), op)
        assert says in found and bool(says) == bool(found)


def test_before_opset_13_softmax_takes_all_that_is_behind_its_axis(examined) -> None:
    for shape, axis, says in (
        ([1, 10, 8, 8], 1, "all 640 values from axis 1 on"),
        ([1, 10, 8, 8], 3, ""),
        ([1, 1000, 1, 1], 1, ""),
    ):
        body = graph(f"y = Softmax<axis = {axis}>(x)", "", f"float[{', '.join(map(str, shape))}] x")
        found = reason(examined(body, {"x": shape}, opset=11), "Softmax")
        assert says in found and bool(says) == bool(found)
        assert reason(examined(body, {"x": shape}, opset=13), "Softmax") == ""


def test_a_maximum_keeps_its_dimensions(examined) -> None:
    for keep, says in ((1, ""), (0, "drops the axes")):
        body = f"g ({MAP}) => (float y) {{ y = ReduceMax<axes = [2, 3], keepdims = {keep}>(x) }}"
        found = reason(examined(body, {"x": [1, 8, 16, 16]}, tensorrt="10.3"), "ReduceMax")
        assert says in found and bool(says) == bool(found)


def test_a_doubt_hides_no_other_obstacle(examined) -> None:
    body = graph("y = Pow(x, c)", "float c = {2}", "float[1, 8, 1, 8193] x")
    assert "8193 long" in reason(examined(body, {"x": [1, 8, 1, 8193]}, tensorrt="10.3"), "Pow")


def test_constants_may_be_the_same_for_all_images(examined) -> None:
    body = graph("y = Mul(x, c)", "float[1, 8, 1, 1] c", "float[2, 8, 16, 16] x")
    assert reason(examined(body, {"x": [2, 8, 16, 16]}), "Mul") == ""


def test_a_slice_may_keep_the_whole_batch(examined) -> None:
    text = "int64[4] b = {0, 0, 0, 0}, int64[4] e = {BATCH, 4, 16, 16}"
    for batch, says in (("2", ""), ("1", "cuts the batch")):
        body = graph("y = Slice(x, b, e)", text.replace("BATCH", batch), "float[2, 8, 16, 16] x")
        assert says in reason(examined(body, {"x": [2, 8, 16, 16]}), "Slice")


def test_a_long_softmax_wants_nothing_else(examined) -> None:
    for shape, runs in (([1, 8192, 1, 1], True), ([1, 1024, 2, 2], True), ([1, 1025, 2, 2], False)):
        stated = ", ".join(map(str, shape))
        context = examined(graph("y = Softmax<axis = 1>(x)", "", f"float[{stated}] x"), {"x": shape})
        assert (reason(context, "Softmax") == "") == runs


def test_two_activations_are_spread_by_channel_or_image_only(examined) -> None:
    for shape, runs in (("1, 8, 16, 16", True), ("1, 8, 1, 1", True), ("1, 1, 1, 1", True), ("1, 1, 16, 16", False)):
        body = f"g ({MAP}, float[{shape}] z) => (float[a, b, c, d] y) {{ y = Mul(x, z) }}"
        sizes = [int(size) for size in shape.split(",")]
        assert (reason(examined(body, {"x": [1, 8, 16, 16], "z": sizes}), "Mul") == "") == runs


def test_a_view_beside_a_join_is_not_taken(examined) -> None:
    body = graph("t = Transpose<perm = [0, 1, 3, 2]>(x) y = Concat<axis = 1>(t, x)")
    context = examined(body, {"x": [1, 8, 16, 16]})
    assert "right beside" in reason(context, "Transpose")
    place = next(place for place in context.placement.places if place.node.op_type == "Transpose")
    assert place.why is not None and (place.why.origin, place.why.versions) == ("observed", "10.3")


def test_a_comparison_and_its_cast_run_together(examined) -> None:
    body = graph("m = Equal(x, x) y = Cast<to = 1>(m)")
    context = examined(body, {"x": [1, 8, 16, 16]})
    assert (reason(context, "Equal"), reason(context, "Cast")) == ("", "")
    assert "INT8 only" in reason(examined(body, {"x": [1, 8, 16, 16]}, precision="fp16"), "Equal")
    half = "g (float[1, 8, 16, 16] x) => (float16[a, b, c, d] y) { y = Cast<to = 10>(x) }"
    lone = "g (float[1, 8, 16, 16] x) => (bool[a, b, c, d] y) { y = Equal(x, x) }"
    assert "not cast at once" in reason(examined(lone, {"x": [1, 8, 16, 16]}), "Equal")
    assert "does not run Cast" in reason(examined(half, {"x": [1, 8, 16, 16]}), "Cast")


def test_integers_are_not_for_the_dla(examined) -> None:
    body = "g (int64[1, 8, 16, 16] x) => (int64[1, 8, 16, 16] y) { y = Add(x, x) }"
    assert "int64" in reason(examined(body, {"x": [1, 8, 16, 16]}), "Add")


def test_xavier_has_its_own_limits(examined) -> None:
    body = graph("y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x)")
    options: dict[str, Any] = {"target": "xavier-agx/dla", "tensorrt": "8.5"}
    assert "leaves the padding out" in reason(examined(body, {"x": [1, 8, 16, 16]}, **options), "AveragePool")
    assert reason(examined(body, {"x": [1, 8, 16, 16]}), "AveragePool") == ""
    included = body.replace("pads", "count_include_pad = 1, pads")
    assert reason(examined(included, {"x": [1, 8, 16, 16]}, **options), "AveragePool") == ""


def test_the_convolution_buffer_decides_on_xavier_and_is_a_doubt_on_orin(examined) -> None:
    """The example that NVIDIA's rule refuses: 1024 channels, 3x3, dilated by 6, 100 pixels wide."""
    body = graph("y = Conv<dilations = [6, 6]>(x, w)", "float[4, 1024, 3, 3] w", "float[1, 1024, 100, 100] x")
    inputs = {"x": [1, 1024, 100, 100]}
    assert "convolution buffer" in reason(examined(body, inputs, target="xavier-agx/dla", tensorrt="8.5"), "Conv")
    assert reason(examined(body, inputs), "Conv").startswith("? weights and data of one step need 1 + 41 banks")


def test_what_a_typed_int8_network_leaves_in_float_is_doubtful(examined) -> None:
    """Through 10 TensorRT makes it FP16 by itself; since 11 nothing does."""
    body, inputs = graph("s = Sigmoid(x) y = Relu(s)"), {"x": [1, 8, 16, 16]}
    assert reason(examined(body, inputs, tensorrt="10.3"), "Sigmoid") == ""
    typed = examined(body, inputs, tensorrt="11.4.1")
    assert reason(typed, "Sigmoid").startswith("? it stays FP32 in a network that says its types")
    assert reason(typed, "Relu") == ""
    assert reason(examined(body, inputs, tensorrt="11.4.1", precision="fp16"), "Sigmoid") == ""


def test_sizes_up_to_8192(examined) -> None:
    body = graph("y = Relu(x)", "", "float[1, 8, 1, 8193] x")
    assert "8193 long" in reason(examined(body, {"x": [1, 8, 1, 8193]}), "Relu")
    body = "g (float[2, 8] x) => (float[2, 8193] y) <float[8, 8193] w> { y = Gemm(x, w) }"
    assert "`y` is 8193 long" in reason(examined(body, {"x": [2, 8]}), "Gemm")


def test_what_is_constant_is_folded_and_identities_are_no_layers(examined) -> None:
    context = examined(graph("f = Exp(w) i = Identity(x) d = Dropout(i) y = Mul(d, f)", "float[1, 8, 1, 1] w"),
                       {"x": [1, 8, 16, 16]})  # fmt: skip
    assert [place.device for place in context.placement.places] == ["folded", "folded", "folded", "dla"]
    assert [place.reason for place in context.placement.places[:2]] == ["known when the engine is built", ""]


def test_every_reason_says_how_it_is_known(examined) -> None:
    context = examined(graph("a = Exp(x) b = Mish(a) y = Softmax<axis = 0>(b)"), {"x": [1, 8, 16, 16]}, opset=18)
    for place in context.placement.places:
        assert "(documented, TensorRT 8.2 to 10.3)" in place.reason
        assert place.to_json()["why"][0]["origin"] == "documented"
