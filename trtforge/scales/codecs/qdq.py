"""Q/DQ nodes: a ScaleTable written into a graph, in the one form that TensorRT, TensorRT-RTX and onnxruntime share.

Activation scales and zero points are rank 0: TensorRT-RTX takes a scale of shape [1] without a word and then computes
the convolution in floating point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from trtforge.errors.calibration import (
    QdqNeedsOpset,
    QdqNothingToDo,
    QdqNotPlain,
    QdqUnknownSkip,
    QdqWeightsInvalid,
)
from trtforge.graph.index import Index, fresh_name
from trtforge.graph.labels import label
from trtforge.graph.model import Model
from trtforge.graph.weights import Parked, park, read_tensor
from trtforge.recipe.models import Quantize
from trtforge.scales.codecs.dla_placement import cover
from trtforge.scales.codecs.placement import WEIGHTED, FloatNode, Placement, WeightRead, place
from trtforge.scales.codecs.prune import drop_unused_constants
from trtforge.scales.codecs.qdq_extract import extract
from trtforge.scales.codecs.qdq_refused import is_linear
from trtforge.scales.codecs.weights import channel_scales, quantize
from trtforge.scales.table import ScaleTable

__all__ = ["MIN_OPSET", "QdqReport", "WeightForm", "expected_int8_convolutions", "extract", "insert"]

MIN_OPSET = 13
WeightForm = Literal["int8", "float"]


@dataclass(frozen=True)
class QdqReport:
    """What became INT8 and what did not, for the manifest and for a backend to check its engine against.

    ``conv``, ``conv_transpose``, ``gemm``, ``matmul``, ``residual_adds`` and ``pools`` are node names; ``tensors`` the
    activations with a Q/DQ pair; ``weights`` the quantized initializers; ``zero_range`` the tensors that calibration
    saw as zero only (scale 1).
    """

    conv: tuple[str, ...] = ()
    conv_transpose: tuple[str, ...] = ()
    gemm: tuple[str, ...] = ()
    matmul: tuple[str, ...] = ()
    residual_adds: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    zero_range: tuple[str, ...] = ()
    left_float: tuple[FloatNode, ...] = ()

    @property
    def quantized_conv(self) -> int:
        return len(self.conv)

    @property
    def quantized_conv_transpose(self) -> int:
        return len(self.conv_transpose)

    @property
    def quantized_gemm(self) -> int:
        return len(self.gemm)

    @property
    def quantized_matmul(self) -> int:
        return len(self.matmul)

    def to_json(self) -> dict[str, Any]:
        return {
            "quantized": {
                "conv": self.quantized_conv,
                "conv_transpose": self.quantized_conv_transpose,
                "gemm": self.quantized_gemm,
                "matmul": self.quantized_matmul,
                "residual_adds": len(self.residual_adds),
                "pools": len(self.pools),
                "tensors": len(self.tensors),
                "weights": len(self.weights),
            },
            "zero_range": list(self.zero_range),
            "left_float": [dict(vars(node)) for node in self.left_float],
        }


def expected_int8_convolutions(report: QdqReport) -> int:
    """Convolutions a TensorRT-RTX plan must hold in INT8. ConvTranspose is not among them: it always runs in float."""
    return report.quantized_conv


def insert(
    model: Model,
    table: ScaleTable,
    policy: Quantize | None = None,
    *,
    weights: WeightForm = "int8",
    for_dla: bool = False,
) -> tuple[Model, QdqReport]:
    """Write the scales into a copy of the model as Q/DQ nodes, by TensorRT's placement rules.

    Every float tensor keeps its name; new tensors are called ``<tensor>_QuantizeLinear_Output`` and
    ``<tensor>_DequantizeLinear_Output``, as onnxruntime's quantizer calls them. A node whose input has no range stays
    float, and the report says so.

    Args:
        model: float32 graph, opset >= 13. Weights may be external; they are read one at a time.
        table: ranges by tensor name; activations get scale amax / 127 (1 where the range is zero).
        policy: what to leave out; the default quantizes Conv, Gemm, MatMul.
        weights: "int8" stores quantized weights behind a DequantizeLinear; "float" keeps the float weights behind a
            Q/DQ pair: larger, but :func:`extract` gives the very same graph back.
        for_dla: pairs on every tensor that INT8 layers read or write, see ``dla_placement``.

    Raises:
        QdqNeedsOpset, QdqNotPlain (already quantized), QdqUnknownSkip, QdqNothingToDo, QdqWeightsInvalid; the errors
        of ``trtforge.graph.weights.read_tensor``.
    """
    policy = policy or Quantize()
    _check_ready(model.proto, policy)
    placement = place(model.proto.graph, table.ranges, policy)
    if not placement.quantized:
        _raise_nothing_to_do(model.proto, placement)
    if for_dla:
        cover(placement, model.proto.graph, table.ranges, policy.skip)
    skeleton, parked = park(model.proto)
    writer = _Writer(Model(skeleton, model.folder), parked, table, weights)
    writer.write(placement)
    drop_unused_constants(skeleton)
    parked.restore(skeleton)
    return Model(skeleton, model.folder), _report(model.proto, placement, table, writer)


def _check_ready(proto: ModelProto, policy: Quantize) -> None:
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < MIN_OPSET:
        raise QdqNeedsOpset(
            "the model's opset is too old for INT8",
            why=f"it has opset {opset}; per-channel weights need opset {MIN_OPSET} or newer",
            next="put `upgrade-opset` at the head of this engine's `surgery`",
        )
    refuse_quantized(proto)
    labels = [label(node) for node in proto.graph.node]
    for name in policy.skip:
        if name not in labels:
            raise _unknown_skip(name, labels)


def refuse_quantized(proto: ModelProto) -> None:
    """Raises QdqNotPlain (CAL232) for a model that has Q/DQ nodes already."""
    if (node := next(filter(is_linear, proto.graph.node), None)) is not None:
        raise QdqNotPlain(
            "the model is quantized already",
            where=label(node),
            why=f"it holds a {node.op_type} node, and a recipe with `precision: int8` takes the float model",
            next="`trtforge scales convert MODEL OUT --to json --plain FLOAT` makes one of it: name FLOAT as "
            "`model.onnx`; it is calibrated anew",
        )


def _unknown_skip(name: str, labels: list[str]) -> QdqUnknownSkip:
    import difflib

    close = difflib.get_close_matches(name, labels, n=3)
    return QdqUnknownSkip(
        f"the graph has no node {name!r}",
        where="quantize.skip",
        why="node names are those of the graph after surgery",
        next=(f"did you mean {' or '.join(map(repr, close))}? " if close else "")
        + "`trtforge surgery RECIPE --out m.onnx` writes the graph with its names",
    )


def _raise_nothing_to_do(proto: ModelProto, placement: Placement) -> None:
    if not placement.left_float:
        raise QdqNothingToDo(
            "no node can run in INT8",
            where=f"graph {proto.graph.name!r}",
            why=f"the graph has none of {', '.join(WEIGHTED)}",
            next="set `precision: fp16` for this engine, `fp32` for the target `host`",
        )
    first = placement.left_float[0]
    raise QdqNothingToDo(
        "no node could be quantized with these scales",
        where=f"{first.op} {first.node}",
        why=f"{first.reason} ({len(placement.left_float)} nodes are left in float)",
        next="run `trtforge calibrate RECIPE` for this graph, or set `precision: fp16`, `fp32` for the target `host`",
    )


class _Writer:
    """Adds the nodes and initializers of one placement to a skeleton, in place."""

    def __init__(self, model: Model, parked: Parked, table: ScaleTable, form: WeightForm) -> None:
        self._model = model
        self._graph = model.proto.graph
        self._parked = parked
        self._table = table
        self._form = form
        self._index = Index(self._graph)
        self._taken = self._index.names()
        self._weight_outputs: dict[WeightRead, str] = {}
        self.weights: list[str] = []

    def write(self, placement: Placement) -> None:
        old = [NodeProto.FromString(node.SerializeToString()) for node in self._graph.node]
        given = {name: self._fresh(f"{name}_float") for name in placement.outputs}
        outputs = {
            name: name if name in given else self._fresh(f"{name}_DequantizeLinear_Output")
            for name in placement.activations
        }
        replaced = {edge: outputs[name] for name, edges in placement.activations.items() for edge in edges}
        new: list[NodeProto] = []
        for name in self._index.inputs:
            if name in outputs:
                new += self._activation_pair(name, name, outputs[name])
        for position, node in enumerate(old):
            for slot in range(len(node.input)):
                edge = (position, slot)
                if edge in placement.weights:
                    new += self._weight_nodes(placement.weights[edge])
                    node.input[slot] = self._weight_outputs[placement.weights[edge]]
                elif edge in replaced:
                    node.input[slot] = replaced[edge]
            new.append(node)
            for slot, name in enumerate(list(node.output)):
                node.output[slot] = given.get(name, name)
                if name in outputs:
                    new += self._activation_pair(name, node.output[slot], outputs[name])
        del self._graph.node[:]
        self._graph.node.extend(new)

    def _activation_pair(self, name: str, source: str, output: str) -> list[NodeProto]:
        scale = self._add(f"{name}_scale", np.asarray(self._table.ranges[name].usable_scale, np.float32))
        zero = self._add(f"{name}_zero_point", np.asarray(0, np.int8))
        return self._pair(name, source, scale, zero, output, axis=None)

    def _pair(self, name: str, source: str, scale: str, zero: str, output: str, axis: int | None) -> list[NodeProto]:
        quantized = self._fresh(f"{name}_QuantizeLinear_Output")
        return [
            _linear("QuantizeLinear", name, [source, scale, zero], quantized, axis),
            _linear("DequantizeLinear", name, [quantized, scale, zero], output, axis),
        ]

    def _weight_nodes(self, read: WeightRead) -> list[NodeProto]:
        """The nodes that turn one weight into its dequantized form; none when an earlier node made them."""
        if read in self._weight_outputs:
            return []
        name, axis = read.tensor, read.axis
        self.weights.append(name)
        weight = self._read(name)
        scales = channel_scales(weight, axis)
        if not np.isfinite(scales).all():
            raise QdqWeightsInvalid(
                f"the weight {name!r} cannot be quantized",
                where=name,
                why="it holds NaN or Inf",
                next="check the model where it comes from; its FP32 results are broken too",
            )
        scale = self._add(f"{name}_scale", scales)
        zero = self._add(f"{name}_zero_point", np.zeros(scales.shape, np.int8))
        output = self._weight_outputs[read] = self._fresh(f"{name}_DequantizeLinear_Output")
        if self._form == "float":
            return self._pair(name, name, scale, zero, output, axis)
        quantized = self._add(f"{name}_quantized", quantize(weight, scales, axis))
        return [_linear("DequantizeLinear", name, [quantized, scale, zero], output, axis)]

    def _read(self, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        tensor = self._index.constant(name)
        assert tensor is not None  # placement only names constants
        return np.asarray(read_tensor(self._model, self._parked.find(tensor)), np.float32)

    def _add(self, wanted: str, values: np.ndarray[Any, Any]) -> str:
        name = self._fresh(wanted)
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def _fresh(self, wanted: str) -> str:
        return fresh_name(wanted, self._taken)


def _linear(op: str, tensor: str, inputs: list[str], output: str, axis: int | None) -> NodeProto:
    node = helper.make_node(op, inputs, [output], name=f"{tensor}_{op}")
    if axis is not None:
        node.attribute.append(helper.make_attribute("axis", axis))
    return node


def _report(proto: ModelProto, placement: Placement, table: ScaleTable, writer: _Writer) -> QdqReport:
    def nodes(op: str) -> tuple[str, ...]:
        return tuple(label(proto.graph.node[place]) for place, kind in placement.quantized.items() if kind == op)

    return QdqReport(
        conv=nodes("Conv"),
        conv_transpose=nodes("ConvTranspose"),
        gemm=nodes("Gemm"),
        matmul=nodes("MatMul"),
        residual_adds=tuple(placement.residual_adds),
        pools=tuple(placement.pools),
        tensors=tuple(placement.activations),
        weights=tuple(writer.weights),
        zero_range=tuple(
            name for name in placement.activations if table.ranges[name].usable_scale != table.ranges[name].scale
        ),
        left_float=tuple(placement.left_float),
    )
