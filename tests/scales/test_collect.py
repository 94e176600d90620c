"""The collector: every float activation, the model's own names, the values of a naive run, and nothing hidden."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from trtforge.digest import sha256_bytes
from trtforge.errors import calibration as cal
from trtforge.graph.digests import digests
from trtforge.graph.model import Model
from trtforge.ort import import_onnxruntime, open_session, session_options
from trtforge.samples.base import Sample
from trtforge.scales.collect import collect
from trtforge.scales.table import ScaleTable


class Given:
    """A sample set of arrays in memory."""

    def __init__(self, samples: list[Mapping[str, np.ndarray]], name: str = "given") -> None:
        self.name = name
        self.samples = [
            Sample(f"sample-{number}", sha256_bytes(b"".join(array.tobytes() for array in inputs.values())), inputs)
            for number, inputs in enumerate(samples)
        ]

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def identities(self) -> list[tuple[str, str]]:
        return [(sample.id, sample.digest) for sample in self.samples]

    def describe(self) -> dict[str, Any]:
        return {"set": self.name, "inputs": {"x": "as they are"}}


def parsed(text: str, weights: Mapping[str, np.ndarray] | None = None) -> Model:
    proto = onnx.parser.parse_model(text)
    for name, values in (weights or {}).items():
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return Model(proto)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def naive(model: Model, samples: Given, batch: int = 1) -> dict[str, tuple[float, float]]:
    """The slow way: every tensor is an output, numpy does the rest."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    names = [name for node in proto.graph.node for name in node.output if name]
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = session_options(threads=1)
    options.graph_optimization_level = import_onnxruntime().GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = open_session(proto, model.folder, options)
    seen: dict[str, list[np.ndarray]] = {}
    for sample in samples:
        feeds = {name: np.repeat(array, batch, axis=0) for name, array in sample.inputs.items()}
        for name, array in [*feeds.items(), *zip(names, session.run(names, feeds), strict=True)]:
            if array.dtype.kind == "f" and array.size:
                seen.setdefault(name, []).append(array)
    return {
        name: (float(min(a.min() for a in arrays)) + 0.0, float(max(a.max() for a in arrays)) + 0.0)
        for name, arrays in seen.items()
    }


def bounds(table: ScaleTable) -> dict[str, tuple[float, float]]:
    return {name: (seen.min, seen.max) for name, seen in table.ranges.items()}


MIXED = """<ir_version: 8, opset_import: ["": 17]>
mixed (float[n, 4, 8, 8] x) => (float[n, 8] y) {
    convolved = Conv <pads = [1, 1, 1, 1]> (x, w)
    relu = Relu (convolved)
    six = Constant <value = float {6.0}> ()
    zero = Constant <value = float {0.25}> ()
    clipped = Clip (convolved, zero, six)
    pooled = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (relu)
    smooth = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (clipped)
    both = Concat <axis = 1> (pooled, smooth)
    negative = Neg (both)
    turned = Transpose <perm = [0, 2, 3, 1]> (negative)
    left, right = Split <axis = 3> (turned)
    gate = Sigmoid (left)
    mixed = Mul (gate, right)
    mean = ReduceMean <axes = [1, 2], keepdims = 0> (mixed)
    total = ReduceSum <keepdims = 0> (mean)
    scaled = Div (mean, total)
    y = Identity (scaled)
}"""


def mixed() -> Model:
    return parsed(MIXED, {"w": normal(8, 4, 3, 3, seed=7)})


def test_every_float_activation_has_the_range_of_a_naive_run_bit_for_bit() -> None:
    samples = Given([{"x": normal(1, 4, 8, 8, seed=seed)} for seed in range(5)])
    table = collect(mixed(), samples, threads=1)
    expected = {name: seen for name, seen in naive(mixed(), samples).items() if name not in ("six", "zero")}
    assert bounds(table) == expected
    assert {seen.count for seen in table.ranges.values()} == {5}
    assert "relu" in table.ranges and table.notes["derived"] >= 6


def test_the_receipt_says_how_the_table_came_to_be() -> None:
    samples = Given([{"x": normal(1, 4, 8, 8, seed=seed)} for seed in range(3)])
    model = mixed()
    receipt = collect(model, samples).receipt
    assert receipt is not None
    assert dict(receipt.samples) == dict(samples.identities())
    assert (receipt.model_graph, receipt.model_weights) == (digests(model).graph, digests(model).weights)
    assert receipt.preprocessing == {"x": "as they are"}
    assert receipt.method == "minmax" and receipt.uncovered == ()
    assert receipt.tools["onnxruntime"] == import_onnxruntime().__version__


def test_the_model_given_is_not_changed() -> None:
    model = mixed()
    before = model.proto.SerializeToString(deterministic=True)
    collect(model, Given([{"x": normal(1, 4, 8, 8)}]))
    assert model.proto.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("batch", [2, 3, 8])
def test_a_fixed_batch_is_filled_and_changes_nothing(batch: int) -> None:
    samples = Given([{"x": normal(1, 4, 6, seed=seed)} for seed in range(5)])
    text = """<ir_version: 8, opset_import: ["": 17]>
        net (float[N, 4, 6] x) => (float[N, 4, 6] y) { a = Softmax (x) b = Mul (a, x) y = Tanh (b) }"""
    single = collect(parsed(text.replace("N", "1")), samples)
    grouped = collect(parsed(text.replace("N", str(batch))), samples)
    assert bounds(single) == bounds(grouped)
    assert {seen.count for seen in grouped.ranges.values()} == {5}


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(6)), batch=st.integers(1, 7))
def test_order_and_grouping_of_samples_do_not_matter(order: list[int], batch: int) -> None:
    arrays = [{"x": normal(1, 3, 5, seed=seed)} for seed in range(6)]
    text = """<ir_version: 8, opset_import: ["": 17]>
        net (float[N, 3, 5] x) => (float[N, 3, 5] y) { a = Exp (x) y = Sub (a, x) }"""
    expected = bounds(collect(parsed(text.replace("N", "1")), Given(arrays)))
    shuffled = Given([arrays[number] for number in order])
    assert bounds(collect(parsed(text.replace("N", str(batch))), shuffled)) == expected


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 18, 21])
def test_opsets_differ_in_spelling_not_in_result(opset: int) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Softmax", ["f"], ["y"], axis=1),
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Cast", ["n"], ["scalar"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["y", "scalar"], ["z"]),
    ]
    values = [numpy_helper.from_array(normal(4, 2, 3, 3), "w"), numpy_helper.from_array(np.array(0), "zero")]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 5, 5])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 4])],
        values,
    )
    model = Model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8))
    samples = Given([{"x": normal(1, 2, 5, 5, seed=seed)} for seed in range(2)])
    table = collect(model, samples)
    assert bounds(table) == naive(model, samples)
    assert "scalar" in table.ranges


ARITHMETIC = """<ir_version: 8, opset_import: ["": 17]>
    net (TYPE[n, 5] x) => (TYPE[n, 5] y) { a = Mul (x, x) y = Sub (a, x) }"""


def test_double_is_measured_in_double() -> None:
    text = ARITHMETIC.replace("TYPE", "double")
    samples = Given([{"x": normal(1, 5, seed=seed).astype(np.float64) / 3} for seed in range(3)])
    assert bounds(collect(parsed(text), samples)) == naive(parsed(text), samples)


def test_float16_ranges_are_float16_values() -> None:
    """onnxruntime's CPU has no float16 arithmetic and skips roundings, so a naive run agrees to one rounding only."""
    text = ARITHMETIC.replace("TYPE", "float16")
    samples = Given([{"x": normal(1, 5, seed=seed).astype(np.float16)} for seed in range(3)])
    got, expected = bounds(collect(parsed(text), samples)), naive(parsed(text), samples)
    assert got.keys() == expected.keys()
    assert got["x"] == expected["x"]
    for name, (low, high) in got.items():
        assert low == float(np.float16(low)) and high == float(np.float16(high))
        assert (low, high) == pytest.approx(expected[name], rel=2e-3)


def test_bfloat16_between_casts_is_measured() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        net (float[n, 5] x) => (float[n, 5] y) { narrow = Cast <to = 16> (x) y = Cast <to = 1> (narrow) }"""
    table = collect(parsed(text), Given([{"x": np.array([[0.1, 1.00390625, -3.3, 0, 0]], np.float32)}]))
    assert table.ranges["narrow"].max == 1.0 and table.ranges["narrow"].min == -3.296875


def test_integer_tensors_and_constants_have_no_range() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        net (int64[n, 3] x) => (float[n, 3, 4] y) {
            table = Constant <value = float[2, 4] {1, 2, 3, 4, -5, 6, 7, 8}> ()
            doubled = Add (table, table)
            y = Gather (doubled, x)
        }"""
    table = collect(parsed(text), Given([{"x": np.array([[0, 1, 1]])}]))
    assert bounds(table) == {"y": (-10.0, 16.0)}


def test_tensors_without_values_or_out_of_reach_are_listed() -> None:
    body = """<ir_version: 8, opset_import: ["": 17]>
        net (float[n, 3] x, bool[n] flag) => (float[n, 3] y) {
            none = Constant <value = int64[1] {0}> ()
            empty = Slice (x, none, none)
            nothing = Relu (empty)
            first = Squeeze (flag)
            y = If (first) <
                then_branch = a () => (float[n, 3] p) { twice = Add (x, x) p = Exp (twice) },
                else_branch = b () => (float[n, 3] q) { q = Neg (x) }
            >
        }"""
    table = collect(parsed(body), Given([{"x": normal(1, 3), "flag": np.array([True])}]))
    assert table.receipt is not None
    assert set(table.ranges) == {"x", "y"}
    assert {"empty", "nothing", "twice"} <= set(table.receipt.uncovered)
    assert table.ranges["y"].max == pytest.approx(float(np.exp(2 * normal(1, 3).max())))


def test_functions_and_contrib_operators_are_measured() -> None:
    text = """<ir_version: 8, opset_import: ["": 17, "local": 1, "com.microsoft": 1]>
        net (float[n, 4] x) => (float[n, 4] z) { y = local.square (x) a = com.microsoft.Gelu (y) z = Tanh (a) }
        <opset_import: ["": 17], domain: "local"> square (u) => (v) { v = Mul (u, u) }"""
    samples = Given([{"x": normal(1, 4)}])
    table = collect(parsed(text), samples)
    assert set(table.ranges) == {"x", "y", "a", "z"}
    assert table.ranges["y"].max == float((normal(1, 4) ** 2).max())


DIVIDED = """<ir_version: 8, opset_import: ["": 17]>
net (float[N, 100] x) => (float[N, 100] y) {
    root = Sqrt (x)
    bad = Relu (root)
    y = Add (bad, x)
}"""


@pytest.mark.parametrize("position", range(0, 100, 7))
@pytest.mark.parametrize("batch", [1, 3])
def test_a_single_nan_is_found_wherever_it_is_and_named(position: int, batch: int) -> None:
    """onnxruntime's ReduceMin and ReduceMax drop most NaN; without the guard they would pass unseen."""
    good, bad = np.full((1, 100), 2.0, np.float32), np.full((1, 100), 2.0, np.float32)
    bad[0, position] = -1.0
    with pytest.raises(cal.TensorNotFinite, match="`root` became NaN") as caught:
        collect(parsed(DIVIDED.replace("N", str(batch))), Given([{"x": good}, {"x": bad}, {"x": good}]))
    assert caught.value.where == "sample sample-1"


@pytest.mark.parametrize("tail", ["y = Add (c, x)", "y = Relu (c)", "d = Sub (x, c) y = Max (d, x)"])
def test_nan_is_named_where_it_arises_although_guards_are_shared(tail: str) -> None:
    text = f"""<ir_version: 8, opset_import: ["": 17]>
        net (float[n, 64] x) => (float[n, 64] y) {{ a = Sqrt (x) b = Add (a, x) c = Mul (b, x) {tail} }}"""
    bad = np.full((1, 64), 2.0, np.float32)
    bad[0, 33] = -1.0
    with pytest.raises(cal.TensorNotFinite, match="`a` became NaN"):
        collect(parsed(text), Given([{"x": bad}]))


def test_infinity_is_named() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        net (float[n, 5] x) => (float[n, 5] y) { e = Exp (x) y = Sub (x, e) }"""
    with pytest.raises(cal.TensorNotFinite, match="`e` became infinite"):
        collect(parsed(text), Given([{"x": np.full((1, 5), 100.0, np.float32)}]))


def test_a_concat_with_an_empty_tensor_has_the_range_of_the_rest() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        net (float[n, 4, 8] x) => (float[n, m, 8] y) {
            i = Constant <value_ints = [0]> () a = Constant <value_ints = [1]> ()
            e = Slice (x, i, i, a) k = Concat <axis = 1> (x, e) y = Tanh (k) }"""
    samples = Given([{"x": normal(1, 4, 8, seed=seed)} for seed in range(3)])
    table = collect(parsed(text), samples)
    assert table.ranges["k"] == table.ranges["x"]
    assert table.ranges["k"].count == 3
    assert table.receipt is not None
    assert table.receipt.uncovered == ("e",)


def test_what_is_finite_is_not_blamed_for_an_infinity_behind_it() -> None:
    """`a` and `b` are guarded by what is made of them, and that divides by infinity: nothing shows there."""
    text = """<ir_version: 8, opset_import: ["": 17]>
        net (float[n, 64] x) => (float[n, 64] y) {
            a = Abs (x) z = Constant <value_float = 1e38> () b = Mul (a, z) c = Mul (b, z) y = Div (x, c) }"""
    with pytest.raises(cal.TensorNotFinite, match="`c` became infinite"):
        collect(parsed(text), Given([{"x": normal(1, 64)}]))


def test_a_sum_that_overflows_is_not_mistaken_for_infinity() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        net (float[n, 5] x) => (float[n, 5] y) { big = Mul (x, x) y = Sqrt (big) }"""
    samples = Given([{"x": np.full((1, 5), value, np.float32)} for value in (1.8e19, 1.0, 1.7e19)])
    table = collect(parsed(text), samples)
    assert bounds(table) == naive(parsed(text), samples)
    assert table.ranges["big"].max > 3e38


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"x": normal(1, 4, 8, 8).astype(np.float64)}, "float64, the model takes float32"),
        ({"x": normal(1, 8, 8, 4)}, "[1, 8, 8, 4], the model takes [?, 4, 8, 8]"),
        ({"x": normal(2, 4, 8, 8)}, "batch axis of 1"),
        ({"x": normal(1, 4, 8)}, "[1, 4, 8]"),
    ],
)
def test_samples_that_do_not_fit_the_model_are_refused(inputs: Mapping[str, np.ndarray], reason: str) -> None:
    with pytest.raises(cal.ModelInputMismatch) as caught:
        collect(mixed(), Given([inputs]))
    assert reason in caught.value.why and "sample-0" in caught.value.where


def test_nothing_to_run_and_nothing_to_measure_are_refused() -> None:
    with pytest.raises(cal.EmptySet):
        collect(mixed(), Given([]))
    integers = """<ir_version: 8, opset_import: ["": 17]>
        net (int64[n] x) => (int64[n] y) { y = Add (x, x) }"""
    with pytest.raises(cal.NothingToCalibrate):
        collect(parsed(integers), Given([{"x": np.zeros(1, np.int64)}]))


def test_a_model_onnxruntime_refuses_or_cannot_run_is_an_error_with_its_reason() -> None:
    unknown = """<ir_version: 8, opset_import: ["": 17, "nowhere": 1]>
        net (float[n] x) => (float[n] y) { y = nowhere.Op (x) }"""
    with pytest.raises(cal.ModelDoesNotRun) as caught:
        collect(parsed(unknown), Given([{"x": normal(1)}]))
    assert "nowhere" in caught.value.why
    reshaped = """<ir_version: 8, opset_import: ["": 17]>
        net (float[n, k] x) => (float[p, q] y) { s = Constant <value = int64[2] {7, 7}> () y = Reshape (x, s) }"""
    with pytest.raises(cal.ModelDoesNotRun) as caught:
        collect(parsed(reshaped), Given([{"x": normal(1, 5)}]))
    assert caught.value.where == "sample-0"


def test_external_weights_stay_in_their_file(tmp_path: Path) -> None:
    inline = mixed()
    onnx.save(inline.proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    skeleton = Model(onnx.load(tmp_path / "m.onnx", load_external_data=False), tmp_path)
    samples = Given([{"x": normal(1, 4, 8, 8)}])
    assert bounds(collect(skeleton, samples)) == bounds(collect(mixed(), samples))


@pytest.mark.parametrize(
    ("names", "advice"),
    [(["z"], "rename `z` to `x`"), (["x", "extra"], "remove `extra`"), (["xx", "other"], "rename `xx` to `x`")],
)
def test_names_that_are_not_the_models_are_laid_to_the_recipe(names: list[str], advice: str) -> None:
    with pytest.raises(cal.ModelInputMismatch) as caught:
        collect(mixed(), Given([{name: normal(1, 4, 8, 8) for name in names}]))
    assert "the model takes `x`" in caught.value.why
    assert caught.value.where.startswith("inputs: ")
    assert advice in caught.value.next
