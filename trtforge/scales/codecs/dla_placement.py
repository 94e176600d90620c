"""The pairs that a DLA needs beside those of a GPU: one on every tensor that its INT8 layers read or write.

A GPU's compiler decides layer by layer what runs in INT8. A DLA's takes a whole region as one layer, in INT8 only where
every tensor in it has a scale; one that has none puts the region into FP16 or on the GPU (NVIDIA, Model-Optimizer, pull
request 1661, "Q/DQ node placement for DLA"). No pair goes between a layer and what it fuses with.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

from onnx import GraphProto, NodeProto

from trtforge.graph.index import Index
from trtforge.graph.labels import label
from trtforge.scales.codecs.placement import FUSES_AFTER_CONV, WEIGHTED, Placement, of_float32
from trtforge.scales.table import TensorRange
from trtforge.targets.dla_layers import dla_layers

_FUSING = (*WEIGHTED, "BatchNormalization", "Add", "Sub", "Mul", "Sum")


def cover(placement: Placement, graph: GraphProto, ranges: Mapping[str, TensorRange], skip: Container[str]) -> None:
    """Add them to a placement, in place. ``skip``: labels of nodes that stay float."""
    index, ranges = Index(graph), of_float32(graph, ranges)
    int8 = {node.output[0] for at, node in enumerate(graph.node) if _is_int8(placement, at, node, skip)}

    def touches(node: NodeProto | None) -> bool:
        return node is not None and node.output[0] in int8

    for position, node in enumerate(graph.node):
        for slot, name in enumerate(node.input):
            maker = index.producer(name)
            if name not in ranges or index.constant(name) is not None or not (touches(node) or touches(maker)):
                continue
            edges = placement.activations.get(name, ())
            if (position, slot) not in edges and not _fuses(index, maker, node):
                placement.read(name, (position, slot))
    for name in index.outputs:
        if name in ranges and touches(index.producer(name)):
            placement.outputs.append(name)
            placement.activations.setdefault(name, [])


def _is_int8(placement: Placement, position: int, node: NodeProto, skip: Container[str]) -> bool:
    if node.op_type in WEIGHTED:
        return position in placement.quantized
    row = dla_layers().get(node.op_type)
    known = row is not None and row.runs and "int8" in row.precisions
    return known and node.domain in ("", "ai.onnx") and label(node) not in skip


def _fuses(index: Index, maker: NodeProto | None, reader: NodeProto) -> bool:
    """An activation or norm behind what it fuses with, or the bias behind a product; nothing else reads in between."""
    if maker is None or maker.op_type not in _FUSING or index.only_consumer(maker.output[0]) is None:
        return False
    bias = reader.op_type == "Add" and any(index.constant(name) is not None for name in reader.input)
    return reader.op_type in FUSES_AFTER_CONV or (bias and maker.op_type in WEIGHTED)
