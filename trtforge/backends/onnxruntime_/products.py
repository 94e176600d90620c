"""The factors of integer products and what is added to them: weights and biases."""

from __future__ import annotations

from typing import Literal

import numpy as np
from onnx import NodeProto, helper

from trtforge.backends.onnxruntime_ import biases
from trtforge.backends.onnxruntime_.rewrite import Array, Rewrite, dequantizes
from trtforge.graph.index import Index
from trtforge.graph.model import Model
from trtforge.graph.weights import read_tensor
from trtforge.scales.codecs.weights import channel_scales, quantize

NARROW_LIMIT = 64
SignedWeights = Literal["int8", "narrow", "uint8"]


class Products:
    """Weights in the form their activations need, biases in int32. ``floating``: weights to quantize again."""

    def __init__(self, rewrite: Rewrite, floating: Model) -> None:
        self._rewrite = rewrite
        self._floating = floating
        self._floating_index = Index(floating.proto.graph)
        self._adapted: set[str] = set()

    def quantize_weights_and_biases(self, signed_weights: SignedWeights) -> None:
        products = {node.output[0]: node for node in self._rewrite.graph.node if self._is_integer_product(node)}
        for node in products.values():
            if node.input[0] not in self._rewrite.nonnegative:
                self._adapt(node, self._rewrite.index.producers[node.input[1]], signed_weights)
        self._make_room_for_biases(list(products.values()))
        # Weights may be shared: their scales must be final before the first bias is taken by them.
        self._rewrite.replace_nodes(
            added
            for node in self._rewrite.graph.node
            for added in [*(self._integer_bias(node) if node.output[0] in products else []), node]
        )

    def _adapt(self, node: NodeProto, dequantizer: NodeProto, form: SignedWeights) -> None:
        """Rewrite the weight of a node whose activation is signed, once for all nodes that read it."""
        integers = self._rewrite.index.constant(dequantizer.input[0])
        name = self._float_weight(node)
        if form == "int8" or integers is None or name is None or dequantizer.output[0] in self._adapted:
            return
        self._adapted.add(dequantizer.output[0])
        self._rewrite.report.adapted_weights.append(name)
        if form == "uint8":
            shifted = self._rewrite.read(integers).astype(np.int16) + 128
            zeros = np.full(self._rewrite.shape(dequantizer.input[1]), 128, np.uint8)
            dequantizer.input[0] = self._rewrite.add(f"{name}_quantized_u8", shifted.astype(np.uint8))
            dequantizer.input[2] = self._rewrite.add(f"{name}_zero_point_u8", zeros)
            return
        constant = self._floating_index.constant(name)
        assert constant is not None
        weight = np.asarray(read_tensor(self._floating, constant), np.float32)
        axis = _axis(dequantizer) if self._rewrite.shape(dequantizer.input[1]) else None
        scales = np.asarray(channel_scales(weight, axis) * np.float32(127 / NARROW_LIMIT), np.float32)
        narrow = np.clip(quantize(weight, scales, axis), -NARROW_LIMIT, NARROW_LIMIT)
        dequantizer.input[0] = self._rewrite.add(f"{name}_quantized_narrow", narrow)
        dequantizer.input[1] = self._rewrite.add(f"{name}_scale_narrow", scales)

    def _float_weight(self, node: NodeProto) -> str | None:
        """The float initializer behind this node's weight: the same node of the float graph reads it."""
        twin = self._floating_index.producer(node.output[0])
        if twin is None or self._floating_index.constant(twin.input[1]) is None:
            return None
        name: str = twin.input[1]
        return name

    def _is_integer_product(self, node: NodeProto) -> bool:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            return False
        return all(dequantizes(self._rewrite.index.producer(name)) for name in node.input[:2])

    def _make_room_for_biases(self, products: list[NodeProto]) -> None:
        """Choose the scales of weight channels by their bias where the weight does not, see ``biases``."""
        least: dict[str, Array] = {}
        for node in products:
            bias, (activation, weight) = self._float_bias(node), self._scales(node)
            if bias is not None and activation is not None and weight is not None and weight.shape == bias.shape:
                wanted = biases.least_weight_scale(bias, activation)
                least[node.input[1]] = np.maximum(wanted, least.get(node.input[1], 0.0))
        for output, wanted in least.items():
            dequantizer = self._rewrite.index.producers[output]
            integers, scale, zero = (self._rewrite.values(name) for name in dequantizer.input)
            if integers is None or scale is None or zero is None:
                continue  # two activations, no weight
            found = biases.with_room(integers, zero, scale, wanted, _axis(dequantizer))
            if found is not None:
                dequantizer.input[0] = self._rewrite.add(f"{dequantizer.input[0]}_room", found[0])
                dequantizer.input[1] = self._rewrite.add(f"{dequantizer.input[1]}_room", found[1])

    def _integer_bias(self, node: NodeProto) -> list[NodeProto]:
        """The nodes that make a bias of integers, which the reader of the float bias then reads; none if it stays."""
        place, bias, (activation, weight) = self._bias(node), self._float_bias(node), self._scales(node)
        if place is None or bias is None or activation is None or weight is None:
            return []
        unit = biases.units(activation, weight)
        integers = biases.as_integers(bias, unit)
        if integers is None:
            return []
        self._rewrite.report.integer_biases += 1
        reader, slot = place
        name = reader.input[slot]
        reader.input[slot] = self._rewrite.fresh(f"{name}_DequantizeLinear_Output")
        inputs = [
            self._rewrite.add(f"{name}_int32", integers),
            self._rewrite.add(f"{name}_scale", np.broadcast_to(unit, bias.shape).copy()),
            self._rewrite.add(f"{name}_zero_point", np.zeros(bias.shape, np.int32)),
        ]
        return [helper.make_node("DequantizeLinear", inputs, [reader.input[slot]], axis=0)]

    def _float_bias(self, node: NodeProto) -> Array | None:
        place = self._bias(node)
        values = None if place is None else self._rewrite.values(place[0].input[place[1]])
        return None if values is None else np.asarray(values, np.float32)

    def _scales(self, node: NodeProto) -> tuple[Array | None, Array | None]:
        """Scales of the two factors of a product, None where one is not constant."""
        left, right = (self._rewrite.index.producers[name] for name in node.input[:2])
        return self._rewrite.values(left.input[1]), self._rewrite.values(right.input[1])

    def _bias(self, node: NodeProto) -> tuple[NodeProto, int] | None:
        """The node and input slot that read this node's bias: its own third, or that of the Add behind a MatMul."""
        if node.op_type != "MatMul":
            has_bias = len(node.input) > 2 and node.input[2] and _plain_bias(node)
            return (node, 2) if has_bias else None
        adder = self._rewrite.index.only_consumer(node.output[0])
        if adder is None or adder.op_type != "Add":
            return None
        slot = 1 - list(adder.input).index(node.output[0])
        return (adder, slot) if self._rewrite.index.constant(adder.input[slot]) is not None else None


def _axis(dequantizer: NodeProto) -> int:
    return next((int(attribute.i) for attribute in dequantizer.attribute if attribute.name == "axis"), 1)


def _plain_bias(node: NodeProto) -> bool:
    """A Gemm scales its product and bias by alpha and beta; only 1 and 1 leave the integers as they are."""
    return all(attribute.f == 1.0 for attribute in node.attribute if attribute.name in ("alpha", "beta"))
