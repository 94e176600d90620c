"""A Q/DQ graph in TensorRT's form, rewritten into the form that onnxruntime's CPU kernels take as integers.

onnxruntime replaces ``Q(Conv(DQ(x), DQ(w), DQ(b)))`` by one integer kernel, and only that: a float bias, a missing Q,
or a Relu in front of a signed Q keeps the convolution in float. The rewrite supplies what is missing:

* Activations become uint8 with the same scale: zero point 0 where the tensor cannot be negative (the Relu then vanishes
  into the kernel), else 128. The integers are those of TensorRT, shifted by the zero point. Above amax, a tensor with
  zero point 0 is clipped only at twice amax, since uint8 reaches 255: such values come out better than on TensorRT.
* Behind a Clip from 0 (ReLU6), the whole of uint8 is laid over [0, amax]: half TensorRT's step. Only a range inside
  that of the Clip lets the kernel take the Clip in.
* Biases, also those added behind a MatMul, become int32 with scale s_x * s_w, half a unit of the accumulator away from
  the float bias at most.
* The output of a convolution that is read in float gets a Q/DQ pair of its own, with its calibrated minimum and
  maximum. TensorRT has no rounding there; ``slack`` bounds how coarse the new step may be against the step of the sum
  that reads it. Where only a Concat or a MaxPool stands between the convolution and a Q, the pair is that Q's own,
  which changes nothing: rounding commutes with choosing and moving values.
* Where sums of two u8 x s8 products saturate at 16 bits (AVX2 and AVX-512 without VNNI), weights that meet signed
  activations, or ReLU6's, need care, one of two ways. "narrow": 7 bits, within [-64, 64], as 255 * (64 + 64) < 2^15.
  "uint8": the same integers shifted to zero point 128, for which the kernels are exact and slower. Other activations
  with zero point 0 stay within [0, 127] up to amax, and 127 * (127 + 127) < 2^15, so their weights stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from trtforge.backends.onnxruntime_ import biases
from trtforge.backends.onnxruntime_.signs import nonnegative
from trtforge.graph.index import Index, fresh_name
from trtforge.graph.model import Model
from trtforge.graph.weights import Parked, park, read_tensor
from trtforge.scales.codecs.prune import drop_unused_constants
from trtforge.scales.codecs.weights import channel_scales, quantize
from trtforge.scales.table import ScaleTable, TensorRange

NARROW_LIMIT = 64
SignedWeights = Literal["int8", "narrow", "uint8"]
_ACTIVATIONS = frozenset({"Relu", "Clip"})
_COMMUTES = frozenset({"Concat", "MaxPool", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice"})


@dataclass
class LoweringReport:
    """Counts for the manifest.

    ``finer``: unsigned activations with half TensorRT's step. ``adapted_weights``: rewritten so that kernels cannot
    saturate. ``extra_pairs``: convolution outputs that got a Q/DQ pair where TensorRT's graph has none.
    """

    unsigned: int = 0
    signed: int = 0
    finer: int = 0
    integer_biases: int = 0
    adapted_weights: list[str] = field(default_factory=list)
    extra_pairs: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "unsigned_activations": self.unsigned,
            "signed_activations": self.signed,
            "finer_activations": self.finer,
            "integer_biases": self.integer_biases,
            "adapted_weights": self.adapted_weights,
            "extra_pairs": self.extra_pairs,
        }


def lower(
    quantized: Model, floating: Model, table: ScaleTable, *, slack: float, signed_weights: SignedWeights
) -> tuple[Model, LoweringReport]:
    """The graph for onnxruntime's integer kernels; the given models are not changed.

    Args:
        quantized: what ``trtforge.scales.codecs.qdq.insert`` made of ``floating``.
        floating: the float graph, for weights that are quantized again.
        table: ranges of the convolution outputs.
        slack: largest step of an added pair, in steps of the sum that reads it; 0 adds only
            those that change nothing, inf all.
        signed_weights: the form of weights that meet signed activations.

    Raises the errors of ``trtforge.graph.weights.read_tensor``.
    """
    skeleton, parked = park(quantized.proto)
    rewriter = _Lowering(Model(skeleton, quantized.folder), parked, floating, table)
    rewriter.unsign_activations()
    rewriter.quantize_weights_and_biases(signed_weights)
    rewriter.quantize_outputs(slack)
    drop_unused_constants(skeleton)
    parked.restore(skeleton)
    return Model(skeleton, quantized.folder), rewriter.report


class _Lowering:
    """One rewrite of a skeleton, in place. ``index`` is of the graph before it: names of tensors do not change."""

    def __init__(self, model: Model, parked: Parked, floating: Model, table: ScaleTable) -> None:
        self._model = model
        self._graph = model.proto.graph
        self._parked = parked
        self._floating = floating
        self._floating_index = Index(floating.proto.graph)
        self._table = table
        self._index = Index(self._graph)
        self._nonnegative = nonnegative(self._index)
        self._taken = self._index.names()
        self._added_after: dict[str, list[NodeProto]] = {}
        self._adapted: set[str] = set()
        self._finer: set[str] = set()
        self.report = LoweringReport()

    def unsign_activations(self) -> None:
        for quantizer in self._graph.node:
            if quantizer.op_type != "QuantizeLinear" or not self._is_signed_activation(quantizer):
                continue
            tensor = quantizer.input[0]
            unsigned = tensor in self._nonnegative
            zero = self._add(f"{tensor}_zero_point_u8", np.asarray(0 if unsigned else 128, np.uint8))
            scale = self._finer_scale(quantizer) if unsigned else ""
            self.report.unsigned += unsigned
            self.report.signed += not unsigned
            for node in [quantizer, *self._index.consumers_of(quantizer.output[0])]:
                node.input[2] = zero
                if scale:
                    node.input[1] = scale
                    self._finer.add(node.output[0])

    def quantize_weights_and_biases(self, signed_weights: SignedWeights) -> None:
        products = {node.output[0]: node for node in self._graph.node if self._is_integer_product(node)}
        for node in products.values():
            if node.input[0] not in self._nonnegative or node.input[0] in self._finer:
                self._adapt(node, self._index.producers[node.input[1]], signed_weights)
        self._make_room_for_biases(list(products.values()))
        # Weights may be shared: their scales must be final before the first bias is taken by them.
        self._replace_nodes(
            added
            for node in self._graph.node
            for added in [*(self._integer_bias(node) if node.output[0] in products else []), node]
        )

    def quantize_outputs(self, slack: float) -> None:
        for node in self._graph.node:
            if node.op_type == "Conv" and _dequantizes(self._index.producer(node.input[0])):
                self._quantize_output(self._fused_output(node), slack)
        self._replace_nodes(
            added for node in self._graph.node for added in [node, *self._added_after.get(node.output[0], [])]
        )

    def _adapt(self, node: NodeProto, dequantizer: NodeProto, form: SignedWeights) -> None:
        """Rewrite the weight of a node whose activation is signed, once for all nodes that read it."""
        integers = self._index.constant(dequantizer.input[0])
        name = self._float_weight(node)
        if form == "int8" or integers is None or name is None or dequantizer.output[0] in self._adapted:
            return
        self._adapted.add(dequantizer.output[0])
        self.report.adapted_weights.append(name)
        if form == "uint8":
            shifted = self._read(integers).astype(np.int16) + 128
            zeros = np.full(self._shape(dequantizer.input[1]), 128, np.uint8)
            dequantizer.input[0] = self._add(f"{name}_quantized_u8", shifted.astype(np.uint8))
            dequantizer.input[2] = self._add(f"{name}_zero_point_u8", zeros)
            return
        constant = self._floating_index.constant(name)
        assert constant is not None
        weight = np.asarray(read_tensor(self._floating, constant), np.float32)
        axis = _axis(dequantizer) if self._shape(dequantizer.input[1]) else None
        scales = np.asarray(channel_scales(weight, axis) * np.float32(127 / NARROW_LIMIT), np.float32)
        narrow = np.clip(quantize(weight, scales, axis), -NARROW_LIMIT, NARROW_LIMIT)
        dequantizer.input[0] = self._add(f"{name}_quantized_narrow", narrow)
        dequantizer.input[1] = self._add(f"{name}_scale_narrow", scales)

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
        return all(_dequantizes(self._index.producer(name)) for name in node.input[:2])

    def _make_room_for_biases(self, products: list[NodeProto]) -> None:
        """Choose the scales of weight channels by their bias where the weight does not, see ``biases``."""
        least: dict[str, np.ndarray[Any, Any]] = {}
        for node in products:
            bias, (activation, weight) = self._float_bias(node), self._scales(node)
            if bias is not None and activation is not None and weight is not None and weight.shape == bias.shape:
                wanted = biases.least_weight_scale(bias, activation)
                least[node.input[1]] = np.maximum(wanted, least.get(node.input[1], 0.0))
        for output, wanted in least.items():
            dequantizer = self._index.producers[output]
            integers, scale, zero = (self._values(name) for name in dequantizer.input)
            if integers is None or scale is None or zero is None:
                continue  # two activations, no weight
            found = biases.with_room(integers, zero, scale, wanted, _axis(dequantizer))
            if found is not None:
                dequantizer.input[0] = self._add(f"{dequantizer.input[0]}_room", found[0])
                dequantizer.input[1] = self._add(f"{dequantizer.input[1]}_room", found[1])

    def _integer_bias(self, node: NodeProto) -> list[NodeProto]:
        """The nodes that make a bias of integers, which the reader of the float bias then reads; none if it stays."""
        place, bias, (activation, weight) = self._bias(node), self._float_bias(node), self._scales(node)
        if place is None or bias is None or activation is None or weight is None:
            return []
        unit = biases.units(activation, weight)
        integers = biases.as_integers(bias, unit)
        if integers is None:
            return []
        self.report.integer_biases += 1
        reader, slot = place
        name = reader.input[slot]
        reader.input[slot] = self._fresh(f"{name}_DequantizeLinear_Output")
        inputs = [
            self._add(f"{name}_int32", integers),
            self._add(f"{name}_scale", np.broadcast_to(unit, bias.shape).copy()),
            self._add(f"{name}_zero_point", np.zeros(bias.shape, np.int32)),
        ]
        return [helper.make_node("DequantizeLinear", inputs, [reader.input[slot]], axis=0)]

    def _float_bias(self, node: NodeProto) -> np.ndarray[Any, Any] | None:
        place = self._bias(node)
        values = None if place is None else self._values(place[0].input[place[1]])
        return None if values is None else np.asarray(values, np.float32)

    def _scales(self, node: NodeProto) -> tuple[np.ndarray[Any, Any] | None, np.ndarray[Any, Any] | None]:
        """Scales of the two factors of a product, None where one is not constant."""
        left, right = (self._index.producers[name] for name in node.input[:2])
        return self._values(left.input[1]), self._values(right.input[1])

    def _bias(self, node: NodeProto) -> tuple[NodeProto, int] | None:
        """The node and input slot that read this node's bias: its own third, or that of the Add behind a MatMul."""
        if node.op_type != "MatMul":
            has_bias = len(node.input) > 2 and node.input[2] and _plain_bias(node)
            return (node, 2) if has_bias else None
        adder = self._index.only_consumer(node.output[0])
        if adder is None or adder.op_type != "Add":
            return None
        slot = 1 - list(adder.input).index(node.output[0])
        return (adder, slot) if self._index.constant(adder.input[slot]) is not None else None

    def _finer_scale(self, quantizer: NodeProto) -> str:
        """A scale that lays all of uint8 over [0, amax], for a tensor that a Clip from 0 makes; else empty."""
        clip = self._index.producer(quantizer.input[0])
        if clip is None or clip.op_type != "Clip" or len(clip.input) < 3:
            return ""
        low, high = self._values(clip.input[1]), self._values(clip.input[2])
        if low is None or high is None or low.size != 1 or float(low.reshape(())) != 0:
            return ""
        top = np.float32(min(self._step(quantizer) * 127, float(high.reshape(()))))
        scale = np.float32(top / np.float32(255))
        while np.float32(255) * scale > top:  # the last bit decides whether the range is inside that of the Clip
            scale = np.nextafter(scale, np.float32(0))
        self.report.finer += 1
        return self._add(f"{quantizer.input[0]}_scale_u8", np.asarray(scale, np.float32))

    def _fused_output(self, node: NodeProto) -> str:
        """The tensor a convolution's kernel writes: behind the activation function that only it feeds."""
        user = self._index.only_consumer(node.output[0])
        if user is not None and user.op_type in _ACTIVATIONS and user.output[0] in self._nonnegative:
            output: str = user.output[0]
            return output
        written: str = node.output[0]
        return written

    def _quantize_output(self, tensor: str, slack: float) -> None:
        """Give the float readers of a tensor its dequantized form, when that is possible and fine enough."""
        readers = [node for node in self._index.consumers_of(tensor) if node.op_type != "QuantizeLinear"]
        if not readers or tensor in self._index.outputs or tensor in self._added_after:
            return
        own = self._quantizer(tensor)
        borrowed = self._commuting_quantizer(readers) if own is None else None
        if borrowed is not None:
            scale, zero, step = borrowed.input[1], borrowed.input[2], 0.0
        elif own is not None:
            scale, zero, step = own.input[1], own.input[2], self._step(own)
        elif tensor in self._table.ranges:
            step, offset = _affine(self._table.ranges[tensor])
            scale = zero = ""
        else:
            return
        if math.isfinite(slack) and any(step > slack * self._reader_step(node) for node in readers):
            return
        if not scale:
            scale = self._add(f"{tensor}_scale", np.asarray(step, np.float32))
            zero = self._add(f"{tensor}_zero_point", np.asarray(offset, np.uint8))
        self._read_dequantized(tensor, readers, own, scale, zero)
        self.report.extra_pairs.append(tensor)

    def _read_dequantized(
        self, tensor: str, readers: list[NodeProto], own: NodeProto | None, scale: str, zero: str
    ) -> None:
        if own is not None:
            output = self._index.consumers_of(own.output[0])[0].output[0]
        else:
            middle = self._fresh(f"{tensor}_QuantizeLinear_Output")
            output = self._fresh(f"{tensor}_DequantizeLinear_Output")
            self._added_after[tensor] = [
                helper.make_node("QuantizeLinear", [tensor, scale, zero], [middle]),
                helper.make_node("DequantizeLinear", [middle, scale, zero], [output]),
            ]
        for node in readers:
            for slot, name in enumerate(node.input):
                if name == tensor:
                    node.input[slot] = output

    def _reader_step(self, reader: NodeProto) -> float:
        """The step a sum is rounded to itself: what a step of its inputs is measured against.

        0, so that no finite ``slack`` allows it, for other readers and for a sum that stays float.
        """
        quantizer = self._quantizer(reader.output[0])
        user = self._index.only_consumer(reader.output[0])
        if quantizer is None and user is not None and user.op_type in _ACTIVATIONS:
            quantizer = self._quantizer(user.output[0])
        return self._step(quantizer) if quantizer is not None and reader.op_type == "Add" else 0.0

    def _commuting_quantizer(self, readers: list[NodeProto]) -> NodeProto | None:
        """The Q behind the one node that reads a tensor, where quantizing before it or behind it is the same.

        It is not where something else reads what that node makes in float.
        """
        if len(readers) != 1 or readers[0].op_type not in _COMMUTES:
            return None
        user = self._index.only_consumer(readers[0].output[0])
        return user if user is not None and user.op_type == "QuantizeLinear" else None

    def _quantizer(self, tensor: str) -> NodeProto | None:
        users = (node for node in self._index.consumers_of(tensor) if node.op_type == "QuantizeLinear")
        return next(users, None)

    def _step(self, quantizer: NodeProto) -> float:
        values = self._values(quantizer.input[1])
        return math.inf if values is None or values.size != 1 else float(values.reshape(()))

    def _is_signed_activation(self, node: NodeProto) -> bool:
        zero = self._index.constant(node.input[2]) if len(node.input) > 2 else None
        scalar = zero is not None and zero.data_type == TensorProto.INT8 and not zero.dims
        return scalar and self._index.constant(node.input[0]) is None

    def _values(self, name: str) -> np.ndarray[Any, Any] | None:
        """A constant of the graph, also one this rewrite has added."""
        tensor = self._index.constant(name)
        return None if tensor is None else self._read(tensor)

    def _read(self, tensor: TensorProto) -> np.ndarray[Any, Any]:
        return read_tensor(self._model, self._parked.find(tensor))

    def _shape(self, name: str) -> tuple[int, ...]:
        tensor = self._index.constant(name)
        return () if tensor is None else tuple(tensor.dims)

    def _add(self, wanted: str, values: np.ndarray[Any, Any]) -> str:
        name = self._fresh(wanted)
        tensor = numpy_helper.from_array(values, name)
        self._graph.initializer.append(tensor)
        self._index.initializers[name] = tensor
        return name

    def _fresh(self, wanted: str) -> str:
        return fresh_name(wanted, self._taken)

    def _replace_nodes(self, nodes: Iterable[NodeProto]) -> None:
        """Put a new node list in place. Copies, since the index holds the nodes; so it is made anew."""
        copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del self._graph.node[:]
        self._graph.node.extend(copies)
        self._index = Index(self._graph)


def _dequantizes(node: NodeProto | None) -> bool:
    return node is not None and node.op_type == "DequantizeLinear"


def _axis(dequantizer: NodeProto) -> int:
    return next((int(attribute.i) for attribute in dequantizer.attribute if attribute.name == "axis"), 1)


def _plain_bias(node: NodeProto) -> bool:
    """A Gemm scales its product and bias by alpha and beta; only 1 and 1 leave the integers as they are."""
    return all(attribute.f == 1.0 for attribute in node.attribute if attribute.name in ("alpha", "beta"))


def _affine(seen: TensorRange) -> tuple[float, int]:
    """(scale, zero point) of uint8 over the range seen, widened to hold 0."""
    low, high = min(seen.min, 0.0), max(seen.max, 0.0)
    step = float(np.float32((high - low) / 255)) or 1.0
    return step, round(-low / step)
