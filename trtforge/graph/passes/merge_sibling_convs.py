"""Heads that read the same tensor as one wider convolution.

Output channel k of a convolution depends on row k of its weights and on nothing else of them, so convolutions of one
tensor with the same window are one convolution with their weights and biases one below the other. The values are
exactly those before, up to the order in which a kernel adds them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from trtforge.graph import surgeon
from trtforge.graph.io import default_opset
from trtforge.graph.model import Model
from trtforge.graph.passes.base import Context, Pass, PassResult, count

_STANDARD = (None, "", "ai.onnx")
_CLOSING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Concat", "Identity", "Sigmoid", "Softmax")
"""What may lie between a head and the graph's outputs: the layout, and the scores."""
_SELECTING = (
    "NonMaxSuppression",
    "EfficientNMS_TRT",
    "BatchedNMS_TRT",
    "BatchedNMSDynamic_TRT",
    "NMS_TRT",
    "NMSDynamic_TRT",
    "NMS_OPT_TRT",
)
"""Operators that take boxes and scores raw; what follows them does not matter to a head."""
_DECODING = ("Split", "Slice", "Gather", "Add", "Sub", "Mul", "Div", "Exp", "Neg", "Clip", "Min", "Max")
"""What may lie between a head and a non-maximum suppression too: boxes are decoded, background is cut off."""


class MergeSiblingConvs(Pass):
    """Merge the heads of a detector that read the same tensor into one `Conv`, and `Split` its channels behind it.

    MLPerf's merge of SSD's box and class heads: fewer and wider convolutions, and one tensor a scale from the DLA
    to the GPU. The outputs of the Split keep the names of the heads' outputs; a head without bias gets zeros.

    Merged are Conv nodes of group 1 with constant weights and the same kernel, strides, pads, dilations and
    auto_pad, when each is a head: behind it come only `Reshape`, `Flatten`, `Squeeze`, `Unsqueeze`, `Transpose`,
    `Concat`, `Identity`, `Sigmoid` and `Softmax`, up to graph outputs or a non-maximum suppression; in front of one
    boxes may be decoded too (`Exp`, `Mul`, `Add` and the like). Other siblings, such as the two branches of a residual
    block, stay: their results go on into INT8 layers, where a Split in front of the addition costs more than the wider
    convolution wins. Boxes decoded in a graph without suppression hide the box heads: cut it before the decoding.

    In INT8 the merged output is one tensor with one scale, for boxes and scores both: calibrate after this pass,
    and verify.
    """

    name = "merge-sibling-convs"

    def apply(self, model: Model, context: Context) -> PassResult:
        merged: list[gs.Node] = []
        gone: list[gs.Node] = []
        stays = "no two Conv nodes read the same tensor"
        with surgeon.edit(model.proto) as graph:
            names, opset = surgeon.FreshNames(graph), default_opset(model.proto) or 0
            ends, escaping = {tensor.name for tensor in graph.outputs}, surgeon.subgraph_outputs(graph)
            around = _Suppression(graph)
            for source, siblings in _siblings(graph):
                alike: dict[Hashable, list[gs.Node]] = {}
                for conv in siblings:
                    why = _obstacle(conv, ends, escaping, around)
                    if why:
                        stays = f"{_label(conv)!r}, one of {len(siblings)} Conv nodes on {source!r}, stays: {why}"
                    else:
                        alike.setdefault(_window(conv), []).append(conv)
                if len(alike) > 1 and all(len(group) == 1 for group in alike.values()):
                    stays = f"the heads that read {source!r} differ in kernel, strides, pads, dilations or type"
                for group in alike.values():
                    if len(group) > 1:
                        _merge(graph, group, names, opset, context)
                        merged.append(group[0])
                        gone += group[1:]
            surgeon.remove(graph, gone)
        if not merged:
            return PassResult(False, stays)
        return PassResult(True, f"merged {count(len(merged) + len(gone), 'Conv node')} into {len(merged)}")


def _siblings(graph: gs.Graph) -> list[tuple[str, list[gs.Node]]]:
    readers: dict[str, list[gs.Node]] = {}
    for node in graph.nodes:
        if node.op == "Conv" and node.domain in _STANDARD:
            readers.setdefault(node.inputs[0].name, []).append(node)
    return [(name, nodes) for name, nodes in readers.items() if len(nodes) > 1]


def _label(node: gs.Node) -> str:
    return str(node.name or node.outputs[0].name)


class _Suppression:
    """Nodes in front of the non-maximum suppressions of a graph, and nodes behind them."""

    def __init__(self, graph: gs.Graph) -> None:
        chosen = [node for node in graph.nodes if node.op in _SELECTING]
        self.before = _reached(chosen, _producers)
        self.behind = _reached(chosen, _readers)


def _reached(nodes: list[gs.Node], step: Callable[[gs.Node], list[gs.Node]]) -> set[int]:
    """Ids of the nodes that one gets to from these, one step or more."""
    found: set[int] = set()
    waiting = list(nodes)
    while waiting:
        for node in step(waiting.pop()):
            if id(node) not in found:
                found.add(id(node))
                waiting.append(node)
    return found


def _producers(node: gs.Node) -> list[gs.Node]:
    return [producer for tensor in node.inputs for producer in tensor.inputs]


def _readers(node: gs.Node) -> list[gs.Node]:
    return [reader for tensor in node.outputs for reader in tensor.outputs]


def _obstacle(conv: gs.Node, ends: set[str], escaping: set[str], around: _Suppression) -> str:
    """Why a convolution cannot be merged with any other, empty when it can."""
    if conv.attrs.get("group", 1) != 1:
        return f"it has {conv.attrs['group']} groups"
    if any(surgeon.constant_proto(tensor) is None for tensor in _weights(conv)):
        return "its weights are not constant"
    waiting, seen = [conv.outputs[0]], set()
    while waiting:
        tensor = waiting.pop()
        if tensor.name in escaping:
            return f"a subgraph returns {tensor.name!r}"
        if not tensor.outputs and tensor.name not in ends:
            return f"nothing reads {tensor.name!r}"
        for node in tensor.outputs:
            if node.op in (*_SELECTING, "Shape") or id(node) in around.behind:
                continue
            decodes = node.op in _DECODING and id(node) in around.before
            if not (node.op in _CLOSING or decodes) or node.domain not in _STANDARD:
                return f"it is not a head, {node.op} {_label(node)!r} comes behind it"
            if id(node) not in seen:
                seen.add(id(node))
                waiting += node.outputs
    return ""


def _weights(conv: gs.Node) -> list[gs.Tensor]:
    return [tensor for tensor in conv.inputs[1:] if not tensor.is_empty()]


def _window(conv: gs.Node) -> Hashable:
    """What must be equal: two convolutions with the same window differ in their values alone."""
    stored = surgeon.constant_proto(conv.inputs[1])
    assert stored is not None  # _obstacle looked
    kernel, spatial = tuple(stored.dims[2:]), len(stored.dims) - 2
    defaults = {"strides": [1] * spatial, "dilations": [1] * spatial, "pads": [0] * 2 * spatial}
    lists = tuple(tuple(conv.attrs.get(key, default)) for key, default in defaults.items())
    return stored.data_type, kernel, lists, conv.attrs.get("auto_pad", "NOTSET")


def _merge(graph: gs.Graph, convs: list[gs.Node], names: surgeon.FreshNames, opset: int, context: Context) -> None:
    def values(tensor: gs.Tensor) -> np.ndarray[Any, Any]:
        stored = surgeon.constant_proto(tensor)
        assert stored is not None  # _obstacle looked
        return context.values(stored)

    kernels = [values(conv.inputs[1]) for conv in convs]
    channels = [len(kernel) for kernel in kernels]
    first, outputs = convs[0], [conv.outputs[0] for conv in convs]
    constants = [gs.Constant(names.make(f"{first.inputs[1].name}_merged"), np.concatenate(kernels))]
    if any(len(_weights(conv)) > 1 for conv in convs):
        biases = [
            values(conv.inputs[2]) if len(_weights(conv)) > 1 else np.zeros(len(kernel), kernel.dtype)
            for conv, kernel in zip(convs, kernels, strict=True)
        ]
        constants.append(gs.Constant(names.make(f"{first.inputs[1].name}_merged_bias"), np.concatenate(biases)))
    shape = None if outputs[0].shape is None else [outputs[0].shape[0], sum(channels), *outputs[0].shape[2:]]
    wide = gs.Variable(names.make(f"{outputs[0].name}_merged"), outputs[0].dtype, shape)

    label = f"{_label(first)}_split"
    first.inputs = [first.inputs[0], *constants]
    for conv in convs:
        conv.outputs.clear()
    first.outputs = [wide]
    attributes: dict[str, Any] = {"axis": 1}
    inputs = [wide]
    if opset < 13:
        attributes["split"] = channels
    else:  # opset 18 has num_outputs beside it, for equal parts, and forbids both
        inputs.append(gs.Constant(names.make(f"{wide.name}_sizes"), np.array(channels, dtype=np.int64)))
    # at the end of the list: writing back puts it before what reads it
    graph.nodes.append(gs.Node("Split", label, attributes, inputs, outputs))
