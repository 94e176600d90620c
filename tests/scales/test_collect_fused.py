"""The fast mode: fewer tensors, the same names, the same ranges to rounding, proven on the first sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from trtforge.errors.calibration import FusedNameWrong, TensorNotFinite
from trtforge.graph.model import Model
from trtforge.samples.base import Sample
from trtforge.scales import collect_fused
from trtforge.scales.collect import collect
from trtforge.scales.table import ScaleTable


class Noise:
    """Three samples of 1 x 3 x 12 x 12."""

    name = "noise"

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Sample]:
        for seed in range(len(self)):
            x = np.random.default_rng(seed).standard_normal((1, 3, 12, 12)).astype(np.float32)
            yield Sample(str(seed), f"{seed:064x}", {"x": x})

    def identities(self) -> list[tuple[str, str]]:
        return [(sample.id, sample.digest) for sample in self]

    def describe(self) -> dict[str, Any]:
        return {}


def network(channels: int) -> Model:
    """Conv+Relu, Conv+Add+Relu with a skip, an unfused tail: what fusion renames, in small."""
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    net (float[n, 3, 12, 12] x) => (float[n, {channels}] y) {{
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        r1 = Relu (c1)
        p1 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r1)
        c2 = Conv <pads = [1, 1, 1, 1]> (p1, w2, b2)
        r2 = Relu (c2)
        c3 = Conv <pads = [1, 1, 1, 1]> (r2, w3, b3)
        a3 = Add (c3, p1)
        r3 = Relu (a3)
        c4 = Conv <pads = [1, 1, 1, 1]> (r3, w4, b4)
        s4 = Sigmoid (c4)
        m4 = Mul (c4, s4)
        g = GlobalAveragePool (m4)
        y = Flatten (g)
    }}"""
    proto = onnx.parser.parse_model(text)
    random = np.random.default_rng(3)
    for number in range(1, 5):
        inputs = 3 if number == 1 else channels
        weight = random.standard_normal((channels, inputs, 3, 3)).astype(np.float32) / inputs**0.5
        bias = random.standard_normal(channels).astype(np.float32)
        if number == 1:
            bias += 50.0  # all of r1 is far above zero, so that zeros of the padding would show
        proto.graph.initializer.append(numpy_helper.from_array(weight, f"w{number}"))
        proto.graph.initializer.append(numpy_helper.from_array(bias, f"b{number}"))
    return Model(proto)


def agree(fused: ScaleTable, plain: ScaleTable) -> None:
    for name, seen in fused.ranges.items():
        wanted = plain.ranges[name]
        assert (seen.min, seen.max) == pytest.approx((wanted.min, wanted.max), abs=1e-5 * wanted.amax), name
        assert seen.count == wanted.count


@pytest.mark.parametrize("channels", [8, 12, 16, 32])
def test_ranges_carry_the_models_names_and_agree_with_the_plain_ones(channels: int) -> None:
    """12 channels are filled up to 16 with zeros inside onnxruntime, which must not reach a range."""
    fused = collect(network(channels), Noise(), fused=True)
    plain = collect(network(channels), Noise())
    agree(fused, plain)
    assert {"x", "r1", "r2", "r3", "y"} <= set(fused.ranges)
    assert fused.receipt is not None and plain.receipt is not None
    assert set(plain.ranges) == {*fused.ranges, *fused.receipt.uncovered}
    assert fused.receipt.method != plain.receipt.method
    assert fused.receipt.model_graph == plain.receipt.model_graph


def test_a_convolution_whose_result_is_used_twice_keeps_its_own_range() -> None:
    model = network(16)
    model.proto.graph.output.append(onnx.ValueInfoProto(name="a3"))
    agree(collect(model, Noise(), fused=True), collect(model, Noise()))


def test_a_wrong_name_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the rule for fused additions broken, the first sample shows it."""
    honest = collect_fused._blocked

    def confused(node: Any, index: Any, known: Mapping[str, Any]) -> Any:
        found = honest(node, index, known)
        if found is not None and found.name == "r2":
            return collect_fused.replace(known["c3"], source=found.source, rank=4)
        return found

    if "r2" not in collect(network(16), Noise(), fused=True).ranges:
        pytest.skip("this CPU does not run convolutions in blocks")
    monkeypatch.setattr(collect_fused, "_blocked", confused)
    with pytest.raises(FusedNameWrong, match="`c3`"):
        collect(network(16), Noise(), fused=True)


def test_nan_is_found_here_too() -> None:
    class Bad(Noise):
        def __iter__(self) -> Iterator[Sample]:
            for sample in super().__iter__():
                if sample.id == "2":
                    sample.inputs["x"][0, 1, 5, 5] = np.inf
                yield sample

    with pytest.raises(TensorNotFinite, match="`x`"):
        collect(network(16), Bad(), fused=True)
