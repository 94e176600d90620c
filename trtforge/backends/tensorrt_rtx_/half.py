"""A float32 graph to float16, for a strongly typed compiler: weights converted, casts only where ONNX asks for them.

Which inputs and outputs of a node may be half is looked up in ONNX's own operator schemas, so that an operator that
knows no float16 (or one slot of it, as the scales of Resize) stays in float32 between casts. The graph's inputs and
outputs keep their types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

from trtforge.errors.backend import Fp16OutOfRange, RtxRequestRefused
from trtforge.graph.model import Model
from trtforge.graph.shapes import infer_shapes, tensor_types
from trtforge.graph.weights import read_tensor
from trtforge.plugins import kinds
from trtforge.surgery.op import DOMAIN

_LIMIT = float(np.finfo(np.float16).max)
_HALF = "tensor(float16)"
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")


@dataclass
class HalfReport:
    """``float_nodes``: nodes that stay in float32. ``clamped``: single values beyond 65504 (mask fills) cut to it."""

    weights: int = 0
    casts: int = 0
    float_nodes: list[str] = field(default_factory=list)
    clamped: list[str] = field(default_factory=list)


def convert(model: Model) -> tuple[Model, HalfReport]:
    """A copy of the model that computes in float16.

    Raises:
        Fp16OutOfRange: a weight is beyond 65504.
        RtxRequestRefused: the graph has nodes with graphs inside (If, Loop), or is quantized.
        the errors of ``trtforge.graph.weights.read_tensor``.
    """
    inferred = infer_shapes(model)
    types = tensor_types(inferred)
    floats = {name for name, kind in types.items() if kind.dtype == "float32"}
    floats.update(tensor.name for tensor in model.proto.graph.initializer if tensor.data_type == TensorProto.FLOAT)
    conversion = _Conversion(inferred, floats)
    conversion.run()
    return conversion.model, conversion.report


class _Conversion:
    def __init__(self, model: Model, floats: set[str]) -> None:
        self.report = HalfReport()
        self._source = model
        self._floats = floats
        self._weights = {tensor.name: tensor for tensor in model.proto.graph.initializer}
        graph = model.proto.graph
        self._half: dict[str, str] = {}  # float tensor -> name of its float16 form, where there is one already
        self._single: dict[str, str] = {value.name: value.name for value in graph.input} | {
            name: name for name in self._weights
        }
        self._outputs = {value.name for value in graph.output}
        self._suffix = _free_suffix(graph)
        self._nodes: list[NodeProto] = []
        self._opsets = {entry.domain: entry.version for entry in model.proto.opset_import}
        self._new_weights: list[TensorProto] = []

    def run(self) -> None:
        graph = self._source.proto.graph
        for node in graph.node:
            self._convert(node)
        proto = onnx.ModelProto()
        proto.CopyFrom(self._without_weights())
        proto.graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input} | self._outputs
        proto.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in used)
        proto.graph.initializer.extend(self._new_weights)
        self.model = infer_shapes(Model(proto, self._source.folder))

    def _without_weights(self) -> onnx.ModelProto:
        source = self._source.proto
        graph = GraphProto(name=source.graph.name)
        graph.input.extend(source.graph.input)
        graph.output.extend(source.graph.output)
        functions, opsets = source.functions, source.opset_import
        return helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=source.ir_version)

    def _convert(self, node: NodeProto) -> None:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") or any(
            attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for attribute in node.attribute
        ):
            raise RtxRequestRefused(
                "the model cannot be converted to float16",
                where=f"node {node.name!r} ({node.op_type})",
                why="quantized graphs and nodes that hold graphs of their own are not converted",
                next="set `precision: fp32`",
            )
        copy = NodeProto()
        copy.CopyFrom(node)
        takes, gives = self._slots(node)
        for slot, name in enumerate(node.input):
            if name in self._floats:
                copy.input[slot] = self._as_half(name) if takes[slot] else self._as_single(name)
        if any(gives):
            self._retype_attributes(copy)
        elif any(name in self._floats for name in node.output):
            self.report.float_nodes.append(node.name)
        casts = [self._rename_output(copy, slot, half) for slot, half in enumerate(gives)]
        self._nodes.append(copy)
        self._nodes.extend(cast for cast in casts if cast is not None)

    def _slots(self, node: NodeProto) -> tuple[list[bool], list[bool]]:
        """For each input and output: is it float here, and may it be float16 by ONNX, or by our plugin of that name?"""
        if node.domain == DOMAIN and (kind := kinds().get(node.op_type)) is not None:
            taken, made = (
                [kind.half and name in self._floats for name in names] for names in (node.input, node.output)
            )
            return taken, made
        try:
            schema = onnx.defs.get_schema(node.op_type, self._opsets.get(node.domain, 1), node.domain)
        except onnx.defs.SchemaError as error:
            raise RtxRequestRefused(
                "the model cannot be converted to float16",
                where=f"node {node.name!r} ({node.op_type})",
                why=f"ONNX does not define this operator: {error}",
                next="rewrite it by surgery to standard ONNX, or set `precision: fp32`",
            ) from error
        allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
        return self._may_be_half(node.input, schema.inputs, allowed), self._may_be_half(
            node.output, schema.outputs, allowed
        )

    def _may_be_half(
        self,
        names: Sequence[str],
        parameters: Sequence[onnx.defs.OpSchema.FormalParameter],
        allowed: Mapping[str, Sequence[str]],
    ) -> list[bool]:
        return [
            name in self._floats
            and _HALF in allowed.get((slot := parameters[min(index, len(parameters) - 1)]).type_str, [slot.type_str])
            for index, name in enumerate(names)
        ]

    def _retype_attributes(self, node: NodeProto) -> None:
        """Float32 named in an attribute becomes float16: target types of casts, constants, fill values."""
        if node.op_type == "Constant":
            self._retype_constant(node)
        for attribute in node.attribute:
            if attribute.name in _TYPE_ATTRIBUTES and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
            elif attribute.type == AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(self._half_tensor(attribute.t, node.name))
        if node.op_type == "ConstantOfShape" and not node.attribute:
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1, np.float16))))

    def _retype_constant(self, node: NodeProto) -> None:
        attribute = node.attribute[0]
        if attribute.name in ("value_float", "value_floats"):
            values = attribute.f if attribute.name == "value_float" else list(attribute.floats)
            tensor = numpy_helper.from_array(np.array(values, np.float32))
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("value", tensor))

    def _rename_output(self, node: NodeProto, slot: int, half: bool) -> NodeProto | None:
        """The output under its new name; a cast back where the graph gives it out in float32."""
        name = node.output[slot]
        if not half:
            self._single[name] = name
            return None
        node.output[slot] = self._half[name] = name + self._suffix
        if name not in self._outputs:
            return None
        self._single[name] = name
        return self._cast(node.output[slot], name, TensorProto.FLOAT)

    def _as_half(self, name: str) -> str:
        if name not in self._half:
            self._half[name] = name + self._suffix
            if name in self._weights:
                tensor = self._half_tensor(self._weights[name], name)
                tensor.name = self._half[name]
                self._new_weights.append(tensor)
                self.report.weights += 1
            else:
                self._nodes.append(self._cast(name, self._half[name], TensorProto.FLOAT16))
        return self._half[name]

    def _as_single(self, name: str) -> str:
        if name not in self._single:
            self._single[name] = name
            self._nodes.append(self._cast(self._half[name], name, TensorProto.FLOAT))
        return self._single[name]

    def _cast(self, source: str, result: str, to: int) -> NodeProto:
        self.report.casts += 1
        return helper.make_node("Cast", [source], [result], name=f"{result}_cast", to=to)

    def _half_tensor(self, tensor: TensorProto, name: str) -> TensorProto:
        values = read_tensor(self._source, tensor)
        beyond = np.isfinite(values) & (np.abs(values) > _LIMIT)
        if beyond.any():
            if values.size > 1:
                worst = float(np.abs(values[beyond]).max())
                raise Fp16OutOfRange(
                    "the model cannot be converted to float16",
                    where=f"weight {name!r}",
                    why=f"it holds {int(beyond.sum())} values beyond {_LIMIT:g}, the largest {worst:g}",
                    next="set `precision: int8` or `precision: fp32` in the recipe",
                )
            values = np.clip(values, -_LIMIT, _LIMIT)
            self.report.clamped.append(name)
        return numpy_helper.from_array(values.astype(np.float16), tensor.name)


def _free_suffix(graph: GraphProto) -> str:
    """A suffix that no tensor of the graph ends in."""
    names = {name for node in graph.node for name in node.output} | {tensor.name for tensor in graph.initializer}
    suffix = "_half"
    while any(name.endswith(suffix) for name in names):
        suffix += "_"
    return suffix
