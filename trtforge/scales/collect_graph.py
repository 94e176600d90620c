"""The measuring graph: a model with a reduction behind every activation, and nothing of the activations as output.

Where the reductions sit decides what calibration costs. Right behind each producer, and executed in that order,
an activation is reduced while it is in the cache and dies as early as in the plain model; reductions at the end
of the graph would keep all activations alive.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

from trtforge.errors.calibration import ModelDoesNotRun, NothingToCalibrate
from trtforge.graph.index import Index, subgraphs, used_names
from trtforge.graph.io import default_opset
from trtforge.graph.model import Model
from trtforge.graph.weights import park
from trtforge.ort import import_onnxruntime, open_session, session_options
from trtforge.scales.derive import Rule, derivation

_FLOATS = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16"}
_FLOATS |= {"tensor(bfloat16)": "bfloat16"}
_FLOAT_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_PREFIX = "trtforge.range."
_AXES = f"{_PREFIX}axes"


@dataclass(frozen=True)
class Activation:
    """A float tensor that depends on the graph's inputs.

    ``rank``: None when it is 0 or unknown. ``channels``: size of axis 1 when fixed. ``source``: the tensor that
    holds its values in the measuring graph. ``unpad``: that one is in blocks of channels filled up with zeros.
    """

    name: str
    dtype: str
    rank: int | None
    channels: int | None
    source: str
    unpad: bool = False


@dataclass(frozen=True)
class Plan:
    """What to measure, what to derive from it, and what cannot be seen (tensors inside If, Loop and Scan bodies)."""

    measured: tuple[Activation, ...]
    derived: Mapping[str, tuple[list[str], Rule]]
    hidden: tuple[str, ...] = ()
    inputs: Mapping[str, tuple[str, tuple[int | None, ...]]] = field(default_factory=dict)
    """Graph input -> (onnxruntime type, shape with None for open axes)."""


def plan(model: Model) -> Plan:
    """Choose the tensors to measure. Raises ModelDoesNotRun (CAL123), NothingToCalibrate (CAL124)."""
    index = Index(model.proto.graph)
    session = _typing_session(model, index)
    activations = _activations(session, index)
    if not activations:
        raise NothingToCalibrate(
            "the model has no float tensor that depends on its inputs",
            where=f"graph {model.proto.graph.name!r}",
            next="calibrate the float model, before it is quantized",
        )
    derived = derivable(index, set(activations))
    measured = tuple(item for name, item in activations.items() if name not in derived)
    inputs = {
        value.name: (value.type, tuple(size if isinstance(size, int) else None for size in value.shape))
        for value in session.get_inputs()
    }
    return Plan(measured, derived, tuple(_hidden_floats(model)), inputs)


def derivable(index: Index, known: set[str]) -> dict[str, tuple[list[str], Rule]]:
    """The tensors whose range follows from those in ``known``, in graph order; see ``trtforge.scales.derive``."""
    derived: dict[str, tuple[list[str], Rule]] = {}
    for node in index.graph.node:
        found = derivation(node, index)
        if found and all(source in known or source in derived for source in found[0]):
            derived[node.output[0]] = found
    return derived


def measuring_model(model: Model, measured: Sequence[Activation], exact: frozenset[str] = frozenset()) -> ModelProto:
    """The model with, for every measured tensor, its minimum, its maximum and a guard; nothing else is an output.

    The guard is the sum of the tensor: it is finite only if every value is, which the minimum and maximum of
    onnxruntime do not tell (its vectorized reductions drop NaN). A sum of huge finite values may overflow, so for
    the tensors in ``exact`` the guard sums ``x - x``, which is 0 or NaN. Some tensors share a guard, see ``_guards``.

    Output ``i`` holds the values of ``grouped(measured)[i]``: first all minima, then all maxima, then all guards.
    """
    edited = ModelProto()
    edited.CopyFrom(model.proto)
    graph = edited.graph
    modern = (default_opset(edited) or 0) >= 13
    guards = _guards(measured, Index(model.proto.graph), exact)
    behind = {
        item.source: _Reductions(
            item, guarded=guards[item.source] == item.source, exact=item.name in exact, modern=modern
        )
        for item in measured
    }
    _rewrite_nodes(graph, model.proto.graph, behind)
    del graph.output[:]
    for number, group in enumerate(grouped(measured)):
        parts = [behind[item.source].results[kind] for kind in ("ReduceMin", "ReduceMax") for item in group]
        parts += [behind[guards[item.source]].results["ReduceSum"] for item in group]
        graph.node.append(helper.make_node("Concat", parts, [f"{_PREFIX}{number}"], axis=0))
        graph.output.append(onnx.ValueInfoProto(name=f"{_PREFIX}{number}"))
    if any(item.rank is None for item in measured) and modern:
        graph.initializer.append(helper.make_tensor(_AXES, TensorProto.INT64, [1], [0]))
    return edited


def _guards(measured: Sequence[Activation], index: Index, exact: frozenset[str]) -> dict[str, str]:
    """Whose guard watches over each tensor (by source): its own, or that of arithmetic it goes into.

    A NaN survives + - * /, so the guard of their result will do for an operand of the same rank and type (unless the
    result is empty because the other operand is). In a residual network this spares the largest tensors.
    """
    by_source = {item.source: item for item in measured}
    guards: dict[str, str] = {}
    for item in reversed(measured):  # graph order: what consumes a tensor comes after it
        guards[item.source] = item.source
        if item.name in exact or item.unpad:
            continue
        for node in index.consumers_of(item.source):
            result = by_source.get(node.output[0])
            arithmetic = node.domain in ("", "ai.onnx") and node.op_type in ("Add", "Sub", "Mul", "Div")
            if arithmetic and result is not None and (result.rank, result.dtype) == (item.rank, item.dtype):
                guards[item.source] = guards[result.source]
                break
    return guards


def _rewrite_nodes(graph: onnx.GraphProto, source: onnx.GraphProto, behind: Mapping[str, _Reductions]) -> None:
    """Put every tensor's reductions right behind what makes it; those of graph inputs come first."""
    del graph.node[:]
    for value in source.input:
        graph.node.extend(behind[value.name].nodes if value.name in behind else ())
    for node in source.node:
        graph.node.append(node)
        for name in node.output:
            graph.node.extend(behind[name].nodes if name in behind else ())


def grouped(measured: Iterable[Activation]) -> list[list[Activation]]:
    """Measured tensors by the rank and type in which their results are concatenated."""
    groups: dict[tuple[int, str], list[Activation]] = {}
    for item in measured:
        groups.setdefault((item.rank or 0, _result_dtype(item)), []).append(item)
    return list(groups.values())


def read_outputs(outputs: Sequence[np.ndarray[Any, Any]], order: Sequence[Activation]) -> np.ndarray[Any, Any]:
    """[3, tensors] float64 from the session's outputs: minima, maxima, guards, in the order of ``grouped``.

    onnxruntime computes 16-bit floats in float32 and may leave out the rounding in between. Rounding is monotone, so
    rounding the bounds gives the bounds of the rounded tensor.
    """
    values = np.concatenate([output.astype(np.float64).reshape(3, -1) for output in outputs], axis=1)
    for dtype in ("float16", "bfloat16"):
        narrow = [position for position, item in enumerate(order) if item.dtype == dtype]
        if narrow:
            with np.errstate(over="ignore"):  # beyond the type: infinite, as the tensor itself is
                values[:2, narrow] = values[:2, narrow].astype(np.dtype(dtype)).astype(np.float64)
    return values


class _Reductions:
    """The nodes behind one tensor. Reductions keep the rank, because a Reshape would cost as much as they do."""

    def __init__(self, item: Activation, *, guarded: bool, exact: bool, modern: bool) -> None:
        self.nodes: list[NodeProto] = []
        self._item = item
        self._modern = modern
        source = item.source
        if item.unpad:
            reorder = {"domain": "com.microsoft.nchwc", "channels": item.channels}
            source = self._add("ReorderOutput", [source], "unpadded", **reorder)
        if item.dtype in ("float16", "bfloat16"):  # onnxruntime reduces float and double
            source = self._add("Cast", [source], "cast", to=TensorProto.FLOAT)
        self.results = {op_type: self._reduce(op_type, source) for op_type in ("ReduceMin", "ReduceMax")}
        if exact:
            source = self._add("Sub", [source, source], "zero")
        if guarded:
            self.results["ReduceSum"] = self._reduce("ReduceSum", source)

    def _reduce(self, op_type: str, source: str) -> str:
        if self._item.rank is not None:
            return self._add(op_type, [source], op_type, keepdims=1)
        scalar = self._add(op_type, [source], op_type, keepdims=0)
        if self._modern:
            return self._add("Unsqueeze", [scalar, _AXES], f"{op_type}.lifted")
        return self._add("Unsqueeze", [scalar], f"{op_type}.lifted", axes=[0])

    def _add(self, op_type: str, inputs: list[str], suffix: str, **attributes: Any) -> str:
        output = f"{_PREFIX}{self._item.name}.{suffix}"
        self.nodes.append(helper.make_node(op_type, inputs, [output], output, **attributes))
        return output


def _typing_session(model: Model, index: Index) -> Any:
    """A session that knows the type of every tensor: onnxruntime's own inference, custom operators included."""
    probe = ModelProto()
    probe.CopyFrom(model.proto)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in index.producers)
    options = session_options(threads=1)
    options.graph_optimization_level = import_onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    return open_measuring(probe, model, options)


def open_measuring(proto: ModelProto, model: Model, options: Any) -> Any:
    """Open a session; onnxruntime's refusal becomes ModelDoesNotRun (CAL123)."""
    try:
        return open_session(proto, model.folder, options)
    except Exception as error:  # onnxruntime raises a dozen unrelated classes; all mean the same here
        raise ModelDoesNotRun(
            "onnxruntime does not accept the model",
            where=f"graph {model.proto.graph.name!r}",
            why=" ".join(str(error).split()),
            next="""check it: python -c "import onnx; onnx.checker.check_model('MODEL.onnx', full_check=True)\"""",
        ) from error


def _activations(session: Any, index: Index) -> dict[str, Activation]:
    """Float tensors that depend on the inputs, in graph order, inputs first."""
    types = {value.name: value for value in [*session.get_inputs(), *session.get_outputs()]}
    dependent = list(index.inputs)
    reached = set(dependent)
    for node in index.graph.node:
        if not reached.isdisjoint(used_names(node)):
            dependent += [name for name in node.output if name]
            reached.update(node.output)
    return {name: _activation(types[name]) for name in dependent if types[name].type in _FLOATS}


def _activation(value: Any) -> Activation:
    shape = tuple(value.shape or ())
    channels = shape[1] if len(shape) > 1 and isinstance(shape[1], int) else None
    return Activation(value.name, _FLOATS[value.type], len(shape) or None, channels, value.name)


def _hidden_floats(model: Model) -> Iterator[str]:
    """Float tensors inside the bodies of If, Loop and Scan: no reduction of the outer graph sees them."""
    if not any(True for node in model.proto.graph.node for _ in subgraphs(node)):
        return
    skeleton, _ = park(model.proto)
    yield from _body_floats(onnx.shape_inference.infer_shapes(skeleton).graph)


def _body_floats(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        for body in subgraphs(node):
            for value in [*body.value_info, *body.output]:
                if value.type.tensor_type.elem_type in _FLOAT_TYPES:
                    yield value.name
            yield from _body_floats(body)


def _result_dtype(item: Activation) -> str:
    return "float64" if item.dtype == "float64" else "float32"
