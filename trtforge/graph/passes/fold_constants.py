"""Compute once what does not depend on the input.

The evaluation is trtforge's own rather than GraphSurgeon's: that one turns a `value_float` constant into
float64, ignores `Shape`'s start and end, and folds random generators.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from trtforge.graph.branches import inline_known_branches
from trtforge.graph.index import Index, subgraphs, used_names
from trtforge.graph.model import Model
from trtforge.graph.passes.base import Context, Pass, PassResult, count
from trtforge.graph.shapes import TensorType, infer_in_place, tensor_types
from trtforge.graph.weights import nbytes
from trtforge.ort import import_onnxruntime, open_session, session_options

GROWTH = 1 << 20
"""A folded tensor may take this many bytes, or as many as the weights it is computed from."""

_NEVER = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Constant", "Dropout"} | {
    *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
}


class FoldConstants(Pass):
    """Replace what can be computed without the input by its value.

    `Constant` nodes become weights; `Shape` of a tensor of known shape becomes a number; nodes that depend on
    constants only are evaluated with onnxruntime; an `If` with a known condition becomes its branch. Repeats
    until nothing is left. Q/DQ and random nodes stay, and so does a node whose result would be over 1 MiB and
    larger than the weights it comes from. Only weights that feed a folded node are read.
    """

    name = "fold-constants"

    def apply(self, model: Model, context: Context) -> PassResult:
        scratch = Model(ModelProto(), model.folder)
        scratch.proto.CopyFrom(model.proto)
        folding = _Folding(scratch, context)
        while folding.round():
            pass
        if not folding.changes:
            why = folding.failures()
            return PassResult(False, f"nothing was folded{why}" if why else "nothing is computed from constants alone")
        model.proto.CopyFrom(scratch.proto)
        done = [count(number, label) for label, number in folding.changes.items() if number]
        return PassResult(True, "folded " + ", ".join(done) + folding.failures())


class _Folding:
    """The state of one application: what was done so far, and which nodes turned out not to be computable."""

    def __init__(self, model: Model, context: Context) -> None:
        self.model, self.context = model, context
        self.changes: dict[str, int] = {}
        self._last_error = ""
        self.failed: dict[str, tuple[NodeProto, str]] = {}  # by first output: a node, why it could not be computed

    def round(self) -> int:
        graph = self.model.proto.graph
        infer_in_place(self.model)
        types = tensor_types(self.model)
        done = 0
        for label, number in (
            ("Constant node", _lift_constants(graph)),
            ("shape", _fold_shapes(graph, types, self.context)),
            ("If branch", inline_known_branches(graph, self.context.values)),
            ("node", self._evaluate(graph, types)),
        ):
            if number:
                self.changes[label] = self.changes.get(label, 0) + number
            done += number
        return done

    def failures(self) -> str:
        if not self.failed:
            return ""
        node, why = next(iter(self.failed.values()))
        operator = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
        first = f"{(node.name or node.output[0])!r} ({operator})"
        return f"; could not compute {count(len(self.failed), 'node')}, first {first}: {why}"

    def _give_up(self, node: NodeProto, why: str) -> None:
        copy = NodeProto()
        copy.CopyFrom(node)  # the graph it is in will be edited
        self.failed[node.output[0]] = (copy, why)

    def _evaluate(self, graph: GraphProto, types: dict[str, TensorType]) -> int:
        nodes = self._candidates(graph, types)
        if not nodes:
            return 0
        index = Index(graph)
        folded = {node.output[0] for node in nodes}
        frontier = [
            name
            for node in nodes
            for name in node.output
            if name and any(user.output[0] not in folded for user in index.consumers_of(name))
        ]
        values = self._compute(nodes, frontier, index)
        if values is None:
            return self._compute_one_by_one(nodes, index)
        _replace(graph, folded, values)
        return len(nodes)

    def _candidates(self, graph: GraphProto, types: dict[str, TensorType]) -> list[NodeProto]:
        """Nodes that can be computed from constants, in order, whose results are not too big."""
        outputs = {value.name for value in graph.output}
        sizes = {tensor.name: nbytes(tensor) for tensor in graph.initializer}
        nodes = []
        for node in graph.node:
            inputs = [name for name in node.input if name]
            if (
                node.op_type in _NEVER
                or not node.output[0]
                or node.output[0] in self.failed
                or any(True for _ in subgraphs(node))
                or not inputs
                or any(name not in sizes for name in inputs)
                or not outputs.isdisjoint(node.output)
            ):
                continue
            if node.domain not in ("", "ai.onnx"):
                self._give_up(node, "it is no operator of ONNX's own")
                continue
            results = {name: _size(types.get(name)) for name in node.output if name}
            if any(size > max(GROWTH, sum(sizes[name] for name in inputs)) for size in results.values()):
                continue
            sizes.update(results)
            nodes.append(node)
        return nodes

    def _compute(self, nodes: list[NodeProto], wanted: list[str], index: Index) -> dict[str, Any] | None:
        """Values of ``wanted``, from one onnxruntime session over ``nodes``; None when that fails."""
        names = dict.fromkeys(name for node in nodes for name in node.input if name in index.initializers)
        weights = [numpy_helper.from_array(self.context.values(index.initializers[name]), name) for name in names]
        graph = helper.make_graph(nodes, "folding", [], [ValueInfoProto(name=name) for name in wanted], weights)
        proto = ModelProto(ir_version=self.model.proto.ir_version, graph=graph)
        proto.opset_import.extend(self.model.proto.opset_import)
        options = session_options(threads=1)
        options.graph_optimization_level = import_onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        try:
            results = open_session(proto, None, options).run(wanted, {})
        except Exception as error:  # onnxruntime has no common error class; recorded, told in the pass's reason
            self._last_error = " ".join(str(error).split())
            return None
        if not all(isinstance(value, np.ndarray) for value in results):
            self._last_error = "its result is not a tensor"
            return None
        return dict(zip(wanted, results, strict=True))

    def _compute_one_by_one(self, nodes: list[NodeProto], index: Index) -> int:
        """Fold the nodes that read only weights, each on its own; remember those that fail."""
        folded: dict[str, Any] = {}
        for node in nodes:
            if all(name in index.initializers for name in node.input if name):
                values = self._compute([node], [name for name in node.output if name], index)
                if values is None:
                    self._give_up(node, self._last_error)
                else:
                    folded.update(values)
        if not folded:  # what is left no longer depends on the nodes that failed
            return self._evaluate(index.graph, tensor_types(self.model))
        computed = {node.output[0] for node in nodes if node.output[0] in folded}
        _replace(index.graph, computed, folded)
        return len(computed)


def _size(stated: TensorType | None) -> int:
    """Bytes of a tensor, 0 when its shape is not known."""
    if stated is None or stated.shape is None or stated.dtype in ("unknown", "string"):
        return 0
    sizes = [size for size in stated.shape if isinstance(size, int)]
    return math.prod(sizes) * np.dtype(stated.dtype).itemsize if len(sizes) == len(stated.shape) else 0


def _replace(graph: GraphProto, folded: set[str], values: dict[str, Any]) -> None:
    """Drop the folded nodes (named by their first output) and the weights only they used; add their results."""
    gone = [position for position, node in enumerate(graph.node) if node.output[0] in folded]
    used_before = {name for position in gone for name in used_names(graph.node[position])}
    for position in reversed(gone):
        del graph.node[position]
    kept = list(graph.node)
    used = {name for node in kept for name in used_names(node)} | {value.name for value in graph.output}
    for position in range(len(graph.initializer) - 1, -1, -1):
        name = graph.initializer[position].name
        if name in used_before and name not in used:
            del graph.initializer[position]
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items() if name in used)
    produced = {name for node in kept for name in node.output} | {value.name for value in graph.input}
    for position in range(len(graph.value_info) - 1, -1, -1):
        if graph.value_info[position].name not in produced:
            del graph.value_info[position]


def _lift_constants(graph: GraphProto) -> int:
    outputs = {value.name for value in graph.output}
    lifted: dict[int, TensorProto] = {}
    for position, node in enumerate(graph.node):
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx") and node.output[0] not in outputs:
            tensor = _constant_value(node)
            if tensor is not None:
                lifted[position] = tensor
    for position in sorted(lifted, reverse=True):
        del graph.node[position]
    graph.initializer.extend(lifted.values())
    return len(lifted)


def _constant_value(node: NodeProto) -> TensorProto | None:
    """The value of a Constant node under its output's name; None for the kinds that are no dense tensor."""
    tensor = TensorProto()
    if len(node.attribute) != 1:
        return None
    attribute = node.attribute[0]
    if attribute.name == "value":
        tensor.CopyFrom(attribute.t)
    elif attribute.name in ("value_float", "value_floats"):
        values = attribute.f if attribute.name == "value_float" else list(attribute.floats)
        tensor = numpy_helper.from_array(np.array(values, dtype=np.float32))
    elif attribute.name in ("value_int", "value_ints"):
        values = attribute.i if attribute.name == "value_int" else list(attribute.ints)
        tensor = numpy_helper.from_array(np.array(values, dtype=np.int64))
    else:
        return None
    tensor.name = node.output[0]
    return tensor


def _fold_shapes(graph: GraphProto, types: dict[str, TensorType], context: Context) -> int:
    """`Shape` and `Size` of static tensors, and `Gather` of the known sizes of partly open shapes."""
    index = Index(graph)
    outputs = {value.name for value in graph.output}
    values: dict[str, Any] = {}
    for node in graph.node:
        value = None
        if node.domain in ("", "ai.onnx") and node.output and node.output[0] not in outputs:
            value = _known_sizes(node, index, types, context)
        if value is not None:
            values[node.output[0]] = value
    if values:
        _replace(graph, set(values), values)
    return len(values)


def _known_sizes(node: NodeProto, index: Index, types: dict[str, TensorType], context: Context) -> Any:
    """What a Shape, a Size, or a Gather from a Shape returns; None when a size it returns is open."""
    source = node if node.op_type in ("Shape", "Size") else None
    positions = None
    if node.op_type == "Gather":
        source, indices = index.producer(node.input[0]), index.constant(node.input[1])
        if source is None or source.op_type != "Shape" or indices is None:
            return None
        positions = context.values(indices)
    sizes = _shape_of(source, types) if source is not None else None
    if sizes is None:
        return None
    numbers = np.array([size if isinstance(size, int) else _OPEN for size in sizes], dtype=np.int64)
    if positions is not None:
        if positions.size and not -len(sizes) <= positions.min() <= positions.max() < len(sizes):
            return None  # onnxruntime will say so
        numbers = numbers[positions]
    if np.any(numbers == _OPEN):
        return None
    return np.array(math.prod(numbers.tolist()), dtype=np.int64) if node.op_type == "Size" else np.asarray(numbers)


_OPEN = -1  # no size of a tensor is negative


def _shape_of(node: NodeProto, types: dict[str, TensorType]) -> tuple[int | str | None, ...] | None:
    """What a Shape node returns, open sizes included; None when the rank is not known."""
    stated = types.get(node.input[0])
    if stated is None or stated.shape is None:
        return None
    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    return stated.shape[bounds.get("start", 0) : bounds.get("end", len(stated.shape))]
