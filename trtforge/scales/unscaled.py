"""The tensors that a table leaves without a scale, and what that does to the layers around them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from onnx import NodeProto

from trtforge.graph.index import Index
from trtforge.graph.labels import label
from trtforge.graph.model import Model
from trtforge.graph.shapes import infer_shapes, tensor_types
from trtforge.scales.precisions import FLOATS
from trtforge.scales.table import ScaleTable, TensorRange
from trtforge.targets.dla_layers import dla_layers
from trtforge.targets.model import Target


@dataclass(frozen=True)
class Unscaled:
    """``made_by``: the node, or "" for an input of the graph. ``read_by``: nodes. All as "Op name"."""

    tensor: str
    made_by: str
    read_by: tuple[str, ...]
    consequence: str


def without_scale(
    model: Model, ranges: Mapping[str, TensorRange], target: Target | None = None
) -> tuple[Unscaled, ...]:
    """Float activations of a plain graph that no scale is known for, in the order of the graph.

    TensorRT runs a layer in INT8 only where each tensor it makes or reads has a scale. Without a ``target`` the
    consequence is that on a GPU.
    """
    index = Index(model.proto.graph)
    types = tensor_types(infer_shapes(model))
    names = [*index.inputs, *(name for node in index.graph.node for name in node.output)]
    return tuple(
        _unscaled(name, index, target)
        for name in names
        if name in types
        and types[name].dtype in FLOATS
        and name not in ranges
        and index.constant(name) is None
        and (index.consumers_of(name) or name in index.outputs)
    )


def fill(table: ScaleTable, other: ScaleTable, model: Model) -> tuple[ScaleTable, tuple[str, ...]]:
    """The table with ranges of ``other`` for the tensors of ``model`` it leaves out, and their names.

    Ranges that the table has stay: a trained scale is not replaced by a measured one.
    """
    names = tuple(e.tensor for e in without_scale(model, table.ranges) if e.tensor in other.ranges)
    ranges = {**table.ranges, **{name: other.ranges[name] for name in names}}
    return ScaleTable(ranges, table.receipt, table.notes), names


def cost_of_half(target: Target) -> str:
    """What FP16 costs on a DLA, in one sentence; empty for a target that has none."""
    if target.dla is None or not target.is_dla:
        return ""
    if target.dla.generation == 1:
        return "this DLA runs FP16 at half the rate of INT8"
    return (
        "INT8 is the native precision of this DLA: in a published ResNet-50 measurement on Orin the FP16 engine was "
        "13.9x slower"
    )


def _unscaled(name: str, index: Index, target: Target | None) -> Unscaled:
    maker, readers = index.producer(name), index.consumers_of(name)
    around = [*([maker] if maker is not None else []), *readers]
    told = _on_dla(around, index, target) if target is not None and target.is_dla else _on_gpu(around)
    return Unscaled(name, _shown(maker) if maker is not None else "", tuple(map(_shown, readers)), told)


def _on_gpu(around: Iterable[NodeProto]) -> str:
    return f"{_listed(map(label, around))} in FP16 or FP32"


def _on_dla(around: Iterable[NodeProto], index: Index, target: Target) -> str:
    """What becomes of each layer: FP16 on the DLA where it can, the GPU otherwise."""
    half, gpu = list[str](), list[str]()
    for node in around:
        (half if _runs_in_half(node, index, target) else gpu).append(label(node))
    parts = [f"{_listed(half)} in FP16 on the DLA"] if half else []
    parts += [f"{_listed(gpu)} on the GPU"] if gpu else []
    return "; ".join(parts)


def _runs_in_half(node: NodeProto, index: Index, target: Target) -> bool:
    """By its operator; `trtforge lint` looks at its parameters and shapes too."""
    row = dla_layers().get(node.op_type)
    if row is None or not row.runs or "fp16" not in row.precisions:
        return False
    if node.op_type in ("Gemm", "MatMul") and index.constant(node.input[1]) is None:
        return False  # the DLA's layer has its weights on the right, and they are constant
    return row.v1 or target.dla is None or target.dla.generation > 1


def _shown(node: NodeProto) -> str:
    return f"{node.op_type} {label(node)}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))
