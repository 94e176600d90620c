"""What a placement says beside the devices: sizes, fusions, precisions, rewrites."""

from __future__ import annotations

import json

import pytest

from trtforge.lint.dla.rewrites import REWRITES, helps, merged, with_shapes, worth_trying
from trtforge.lint.dla.sizes import pool_bytes, sized, tensor_bytes

BLOCK = """g (float[2, 64, 8, 8] x) => (float[2, 64, 4, 4] y) <float[64, 64, 3, 3] w, float[64] b, float[64] s>
{ [c1] c1 = Conv<pads = [1, 1, 1, 1]>(x, w, b) [n1] n1 = BatchNormalization(c1, s, s, s, s) [r1] r1 = Relu(n1)
  [c2] c2 = Conv<pads = [1, 1, 1, 1]>(r1, w, b) [a2] a2 = Add(c2, x) [r2] r2 = Relu(a2)
  [c3] c3 = Conv<pads = [1, 1, 1, 1]>(r2, w, b) [r3] r3 = Relu(c3)
  [p3] y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r3) }"""
X = {"x": [2, 64, 8, 8]}


def test_fusions_are_those_that_nvidia_shows(examined) -> None:
    placement = examined(BLOCK, X).placement
    assert [fusion.operators for fusion in placement.fusions] == [
        ("Conv", "BatchNormalization", "Relu"),
        ("Conv", "Add", "Relu"),
        ("Conv", "Relu", "MaxPool"),
    ]


def test_of_two_convolutions_in_front_of_an_add_one_takes_it(examined) -> None:
    body = """g (float[1, 8, 4, 4] x) => (float[1, 8, 4, 4] y) <float[8, 8, 1, 1] w>
    { [a] a = Conv(x, w) [b] b = Conv(x, w) [s] s = Add(a, b) [r] y = Relu(s) }"""
    (fusion,) = examined(body, {"x": [1, 8, 4, 4]}).placement.fusions
    assert [node.name for node in fusion.nodes] == ["b", "s", "r"]


def test_a_loadable_is_weighed(examined) -> None:
    (loadable,) = examined(BLOCK, X).placement.loadables
    kernels, others = 3 * 64 * 64 * 9, (3 * 64 + 4 * 64) * 4
    assert loadable.weights == kernels + others, "one byte a weight, four for all else"
    tensor = 2 * 64 * 8 * 8
    assert (loadable.largest, loadable.total) == (tensor, 2 * tensor), "r1 and r2; the others are inside a fusion"
    assert loadable.batch == 2
    (half,) = examined(BLOCK, X, precision="fp16").placement.loadables
    assert (half.weights, half.largest) == (2 * kernels + others, 2 * tensor)


@pytest.mark.parametrize(
    ("shape", "precision", "size"),
    [
        ((1, 64, 2, 2), "int8", 256),
        ((1, 3, 2, 2), "int8", 128),
        ((1, 3, 2, 2), "fp16", 128),
        ((1, 17, 2, 2), "fp16", 256),
        ((2, 5, 64, 2, 2), "int8", 2560),
        ((1, 1000), "int8", 1024),
        ((), "fp16", 32),
    ],
)
def test_channels_come_in_vectors_of_32_bytes(shape, precision, size: int) -> None:
    assert tensor_bytes(shape, precision) == size


def test_sizes_that_are_nothing_or_not_known_are_no_bytes(examined) -> None:
    lone = "g (float[1, 8, 4, 4] x) => (float[1, 8, 4, 4] y) { y = Relu(x) }"
    (loadable,) = examined(lone, {"x": [1, 8, 4, 4]}).placement.loadables
    assert [sized(size) for size in (loadable.weights, loadable.largest, loadable.total)] == ["-", "-", "-"]
    open_ = "g (float[n, 8, 4, 4] x) => (float[n, 8, 4, 4] y) { a = Relu(x) y = Relu(a) }"
    (loadable,) = examined(open_, {}).placement.loadables
    assert (loadable.largest, loadable.total, sized(loadable.total)) == (None, None, "?")
    assert loadable.to_json()["internal_bytes"] is None
    (loadable,) = examined(open_, {"x": [1, 8, 4, 4]}).placement.loadables
    assert sized(loadable.largest) == "512 B"


def test_pools() -> None:
    assert [pool_bytes(text) for text in ("4KiB", "512MiB", "1GiB")] == [1 << 12, 1 << 29, 1 << 30]


def test_a_tensor_without_a_scale_makes_its_layer_fp16(examined) -> None:
    placement = examined(BLOCK, X, scales=["x", "c1", "n1", "r1", "c2", "a2", "r2", "c3", "y"]).placement
    half = [place.name for place in placement.places if place.precision == "fp16"]
    assert half == ["r3", "p3"]
    skipped = examined(BLOCK, X, quantize={"skip": ["c2"]}).placement
    assert [place.name for place in skipped.places if place.precision == "fp16"] == ["c2"]


def test_skip_names_a_node_without_a_name_by_its_output(examined) -> None:
    body = "g (float[1, 8, 4, 4] x) => (float[1, 8, 4, 4] y) <float[8, 8, 1, 1] w> { a = Conv(x, w) y = Conv(a, w) }"
    placement = examined(body, {"x": [1, 8, 4, 4]}, quantize={"skip": ["y"]}).placement
    assert [place.precision for place in placement.places] == ["int8", "fp16"]


@pytest.mark.parametrize(
    ("tensorrt", "precision", "says"),
    [
        ("8.5", "fp16", "in FP16, the DLA runs Split in no other precision before TensorRT 8.6"),
        ("8.6", "int8", "that it runs in INT8 from TensorRT 8.6 on is recalled: build to know"),
        ("10.3", "int8", "that it runs in INT8 from TensorRT 8.6 on is recalled: build to know"),
    ],
)
def test_splits_know_int8_since_8_6(examined, tensorrt: str, precision: str, says: str) -> None:
    body = "g (float[1, 8, 4, 4] x) => (float[1, 4, 4, 4] a, float[1, 4, 4, 4] b) { a, b = Split<axis = 1>(x) }"
    (place,) = examined(body, {"x": [1, 8, 4, 4]}, tensorrt=tensorrt).placement.places
    assert (place.precision, place.reason) == (precision, says)
    half = examined(body, {"x": [1, 8, 4, 4]}, tensorrt="10.3", quantize={"skip": ["a"]}).placement.places[0]
    assert (half.precision, half.reason) == ("fp16", "")


def test_layers_that_know_fp16_only_say_so(examined) -> None:
    body = "g (float[1, 8, 4, 4] x) => (float[1, 8, 4, 4] y) { y = Sigmoid(x) }"
    (place,) = examined(body, {"x": [1, 8, 4, 4]}).placement.places
    assert (place.precision, place.reason) == ("fp16", "in FP16, the DLA runs Sigmoid in no other precision")


def test_identities_do_not_cut(examined) -> None:
    body = "g (float[1, 8, 4, 4] x) => (float[1, 8, 4, 4] y) { a = Relu(x) b = Identity(a) y = Relu(b) }"
    assert len(examined(body, {"x": [1, 8, 4, 4]}).placement.loadables) == 1


def test_control_flow_goes_whole(examined) -> None:
    body = """g (float[1, 8, 4, 4] x, bool c) => (float[1, 8, 4, 4] y)
    { a = Relu(x) y = If(c) <then_branch = t () => (float[1, 8, 4, 4] u) { u = Relu(a) },
                             else_branch = e () => (float[1, 8, 4, 4] v) { v = Sigmoid(a) }> }"""
    placement = examined(body, {"x": [1, 8, 4, 4], "c": []}).placement
    assert [(place.node.op_type, place.device) for place in placement.places] == [("Relu", "dla"), ("If", "gpu")]


def test_it_is_json(examined) -> None:
    placement = examined(BLOCK, X).placement
    written = json.loads(json.dumps(placement.to_json()))
    assert written["loadables"][0]["nodes"] == 9
    assert written["nodes"][0] == {
        "node": "c1", "output": "c1", "op": "Conv", "device": "dla", "loadable": 1, "precision": "int8", "cuts": False,
        "why": [], "doubts": [],
    }  # fmt: skip
    assert written["fusions"][1] == ["c2", "a2", "r2"]


def test_nodes_of_one_name_are_told_apart(examined) -> None:
    body = """g (float[1, 8, 4, 4] x) => (float[1, 8, 4, 4] y) <float[8, 8, 1, 1] w>
    { [conv] a = Conv(x, w) [relu] b = Relu(a) [s] c = Sigmoid(b) [conv] d = Conv(c, w) [relu] y = Relu(d) }"""
    written = examined(body, {"x": [1, 8, 4, 4]}).placement.to_json()
    assert written["fusions"] == [["a", "b"], ["d", "y"]]
    assert [(node["node"], node["output"]) for node in written["nodes"]] == [
        ("conv", "a"), ("relu", "b"), ("s", "c"), ("conv", "d"), ("relu", "y"),
    ]  # fmt: skip


def test_a_range_of_versions_is_not_judged(examined) -> None:
    assert examined(BLOCK, X, tensorrt=">=10.3,<11").placement.counts == {"dla": 9}
    assert examined(BLOCK, X, tensorrt=None).placement.counts == {"dla": 9}


TAIL = """g (float[1, 8, 7, 7] x) => (float[1, 4] y) <float[8, 4] w, float lo = {0}, float hi = {6}>
{ a = Clip(x, lo, hi) b = GlobalAveragePool(a) c = Flatten(b) y = Gemm(c, w) }"""


def test_rewrites_worth_trying(examined) -> None:
    inputs = {"x": [1, 8, 7, 7]}
    names = [one.name for one in worth_trying(examined(TAIL, inputs))]
    assert names == ["global-average-pool", "fc-as-conv", "relu6-to-relu"]
    assert [one.name for one in worth_trying(examined(TAIL, inputs, surgery=["fc-as-conv"]))] == [
        "global-average-pool",
        "relu6-to-relu",
    ]
    assert not worth_trying(examined(BLOCK, X))


def test_a_loadable_is_not_saved_by_a_layer(examined) -> None:
    head = "{{ a = Conv(x, w) b = {0}(a) y = Conv(b, w) }}"
    signature = "g (float[1, 8, 7, 7] x) => (float[1, 8, 7, 7] y) <float[8, 8, 1, 1] w>"
    cut, whole, shed = (
        examined(f"{signature} {body}", {"x": [1, 8, 7, 7]})
        for body in (head.format("Erf"), head.format("Relu"), "{ a = Conv(x, w) b = Erf(a) y = Erf(b) }")
    )
    assert [context.placement.wanted for context in (cut, whole, shed)] == [2, 1, 1]
    rewrite = REWRITES[0]
    assert helps(rewrite, cut, whole)
    assert not helps(rewrite, cut, shed), "one loadable fewer, and one layer more on the GPU"
    assert not helps(rewrite, cut, cut)


@pytest.mark.parametrize(
    ("surgery", "more", "expected"),
    [
        ([], ["fc-as-conv", "global-average-pool"], ["global-average-pool", "fc-as-conv"]),
        (["infer-shapes", "topk-head"], ["fc-as-conv"], ["infer-shapes", "fc-as-conv", "topk-head"]),
        (["topk-head", "infer-shapes"], ["fc-as-conv"], ["topk-head", "infer-shapes", "fc-as-conv"]),
        (["infer-shapes", "nms"], ["relu6-to-relu"], ["infer-shapes", "relu6-to-relu", "nms"]),
        (["fc-as-conv"], ["fc-as-conv"], ["fc-as-conv"]),
    ],
)
def test_a_pass_comes_behind_those_before_it(surgery: list[str], more: list[str], expected: list[str]) -> None:
    assert merged(surgery, more) == expected


def test_shapes_come_first() -> None:
    assert with_shapes(["fc-as-conv"]) == ["upgrade-opset", "fold-constants", "infer-shapes", "fc-as-conv"]
