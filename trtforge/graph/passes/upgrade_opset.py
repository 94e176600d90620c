"""Lift a model to a newer version of the standard operator set."""

from __future__ import annotations

import re

import onnx
from onnx import GraphProto, ModelProto

from trtforge.errors.graph import PassFailed
from trtforge.graph.index import Index, rename_tensors, subgraphs
from trtforge.graph.io import default_opset
from trtforge.graph.model import Model
from trtforge.graph.passes.base import Context, Pass, PassResult
from trtforge.graph.shapes import infer_in_place

_IR_VERSION = 8  # the one that opset 17 came with (onnx 1.12)
_INVENTED = re.compile(r"_v_\d+")  # names onnx's converter gives to the tensors it adds


class UpgradeOpset(Pass):
    """Convert the model to opset 17 if it is older.

    Q/DQ nodes with one scale per channel need opset 13, `LayerNormalization` 17, and TensorRT's parsers are
    best tested from there on. The conversion is onnx's own; tensors keep their names, and those the converter
    adds are named after the version. Model-local functions are carried over as they are.
    """

    name = "upgrade-opset"
    target = 17

    def requires(self, model: Model) -> str:
        return "" if default_opset(model.proto) else "the model states no opset for the standard operators"

    def apply(self, model: Model, context: Context) -> PassResult:
        before = default_opset(model.proto) or 0
        if before >= self.target:
            return PassResult(False, f"the model uses opset {before} already")
        if before < 13:
            infer_in_place(model)  # the conversion of Softmax is simpler where the rank is known
        proto = model.proto
        kept = {name: f"kept{name}" for name in _all_names(proto.graph) if _INVENTED.fullmatch(name)}
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
        return PassResult(True, f"converted opset {before} to {self.target}")

    def ensures(self, model: Model) -> str:
        opset = default_opset(model.proto) or 0
        return "" if opset >= self.target else f"the model still states opset {opset}"


def _without_functions(proto: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(proto)
    del copy.functions[:]
    return copy


def _all_names(graph: GraphProto) -> set[str]:
    names = Index(graph).names()
    for node in graph.node:
        for subgraph in subgraphs(node):
            names |= _all_names(subgraph)
    return names


def _own_names(graph: GraphProto, target: int) -> dict[str, str]:
    """Stable names for the tensors the converter added: numbered in the order of the graph."""
    taken = _all_names(graph)
    invented = sorted((name for name in taken if _INVENTED.fullmatch(name)), key=lambda name: int(name[3:]))
    names: dict[str, str] = {}
    number = 0
    for name in invented:
        while f"opset{target}_{number}" in taken:
            number += 1
        names[name] = f"opset{target}_{number}"
        number += 1
    return names
