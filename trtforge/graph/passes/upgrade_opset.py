"""Lift a model to a newer version of the standard operator set."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import onnx
import onnx.inliner
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto

from trtforge.errors.graph import PassFailed
from trtforge.graph.index import Index, names_within, rename_tensors, subgraphs
from trtforge.graph.io import default_opset
from trtforge.graph.model import Model
from trtforge.graph.passes.base import Context, Pass, PassResult
from trtforge.graph.shapes import infer_in_place, tensor_types

_IR_VERSION = 8  # the one that opset 17 came with (onnx 1.12)
_INVENTED = re.compile(r"_v_\d+")  # names onnx's converter gives to the tensors it adds


class UpgradeOpset(Pass):
    """Convert the model to opset 17 if it is older.

    Q/DQ nodes with one scale per channel need opset 13, `LayerNormalization` 17, and TensorRT's parsers are
    best tested from there on. The conversion is onnx's own; tensors keep their names, and those the converter
    adds are named after the version. Model-local functions are carried over as they are, but for those with an
    operator that has a newer definition by now (Softmax, from 13): engines read a function's body by the model's
    opset, so these are written out in the graph first, and converted with it.
    """

    name = "upgrade-opset"

    def __init__(self, target: int = 17) -> None:
        self.target = target

    def requires(self, model: Model) -> str:
        stated = default_opset(model.proto)
        if not stated:
            return "the model states no opset for the standard operators"
        if stated < self.target and (mixed := _functions_that_change(model.proto, stated)):
            return f"the function {mixed[0].name!r} is written for another opset than the model's, {stated}"
        return ""

    def apply(self, model: Model, context: Context) -> PassResult:
        before = default_opset(model.proto) or 0
        if before >= self.target:
            return PassResult(False, f"the model uses opset {before} already")
        while outdated := _functions_that_change(model.proto, self.target):
            ids = [(function.domain, function.name) for function in outdated]
            model.proto.CopyFrom(onnx.inliner.inline_selected_functions(model.proto, ids))
        if before < 13:
            infer_in_place(model)  # the conversion of Softmax is simpler where the rank is known
        proto = model.proto
        kept = {name: f"kept{name}" for name in names_within(proto.graph) if _INVENTED.fullmatch(name)}
        rename_tensors(proto.graph, kept)
        try:
            converted = onnx.version_converter.convert_version(_without_functions(proto), self.target)
        except (RuntimeError, onnx.version_converter.ConvertError) as error:
            raise PassFailed(
                f"the pass {self.name!r} failed",
                where=f"opset {before} to {self.target}",
                why=" ".join(str(error).split()),
                next=f"export the model with opset {self.target}, or leave {self.name!r} out of `surgery:`",
            ) from error
        rename_tensors(converted.graph, _own_names(converted.graph, self.target))
        rename_tensors(converted.graph, {new: old for old, new in kept.items()})
        proto.graph.CopyFrom(converted.graph)
        for entry in proto.opset_import:
            if entry.domain in ("", "ai.onnx"):
                entry.version = self.target
        proto.ir_version = max(proto.ir_version, _IR_VERSION)
        infer_in_place(model)
        if before < 13:
            _rejoin_softmax(model)
        return PassResult(True, f"converted opset {before} to {self.target}")

    def ensures(self, model: Model) -> str:
        opset = default_opset(model.proto) or 0
        return "" if opset >= self.target else f"the model still states opset {opset}"


def _rejoin_softmax(model: Model) -> None:
    """Flatten, Softmax, Reshape to one Softmax, in place, where it is along the last axis.

    The converter writes these three where it does not know the rank, which before opset 13 is so behind every Reshape
    to a computed shape; in the newer operators the rank is inferred. Compilers know attention by the one Softmax.
    """
    graph = model.proto.graph
    index, types = Index(graph), tensor_types(model)
    gone: set[str] = set()
    for node in graph.node:
        if node.op_type not in ("Softmax", "LogSoftmax") or node.domain not in ("", "ai.onnx"):
            continue
        flat, back = index.producer(node.input[0]), index.only_consumer(node.output[0])
        if flat is None or flat.op_type != "Flatten" or back is None or back.op_type != "Reshape":
            continue
        shape, stated = index.producer(back.input[1]), types.get(flat.input[0])
        same = shape is not None and shape.op_type == "Shape" and shape.input[0] == flat.input[0]
        if not same or stated is None or stated.shape is None or index.only_consumer(flat.output[0]) is None:
            continue
        if [attribute.i for attribute in flat.attribute] != [len(stated.shape) - 1] or index.only_consumer(
            back.input[1]
        ) is None:
            continue
        gone.update((flat.output[0], back.output[0], back.input[1]))
        node.input[0], node.output[0] = flat.input[0], back.output[0]
    kept = [node for node in graph.node if node.op_type in ("Softmax", "LogSoftmax") or gone.isdisjoint(node.output)]
    if gone:
        copies = [NodeProto.FromString(node.SerializeToString()) for node in kept]
        graph.ClearField("node")
        graph.node.extend(copies)
        made = {name for node in copies for name in node.output}
        stale = [place for place, value in enumerate(graph.value_info) if value.name not in made]
        for place in reversed(stale):
            del graph.value_info[place]


def _functions_that_change(proto: ModelProto, opset: int) -> list[FunctionProto]:
    """Model-local functions with a standard operator that has another definition in ``opset`` than in their own."""
    return [function for function in proto.functions if _changes(function, opset)]


def _changes(function: FunctionProto, opset: int) -> bool:
    own = max((entry.version for entry in function.opset_import if entry.domain in ("", "ai.onnx")), default=opset)
    return any(
        _definition(node.op_type, own) != _definition(node.op_type, opset)
        for node in _all_nodes(function.node)
        if node.domain in ("", "ai.onnx")
    )


def _all_nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    for node in nodes:
        yield node
        for subgraph in subgraphs(node):
            yield from _all_nodes(subgraph.node)


def _definition(op: str, opset: int) -> int | None:
    """Opset in which the definition of an operator that holds in ``opset`` came; None when there is none."""
    try:
        return int(onnx.defs.get_schema(op, opset).since_version)
    except onnx.defs.SchemaError:
        return None


def _without_functions(proto: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(proto)
    del copy.functions[:]
    return copy


def _own_names(graph: GraphProto, target: int) -> dict[str, str]:
    """Stable names for the tensors the converter added: numbered in the order of the graph."""
    taken = names_within(graph)
    invented = sorted((name for name in taken if _INVENTED.fullmatch(name)), key=lambda name: int(name[3:]))
    names: dict[str, str] = {}
    number = 0
    for name in invented:
        while f"opset{target}_{number}" in taken:
            number += 1
        names[name] = f"opset{target}_{number}"
        number += 1
    return names
