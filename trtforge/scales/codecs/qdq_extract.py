"""Q/DQ nodes read back: the plain float graph and the ScaleTable that were one quantized model.

Reads the spellings of trtforge, onnxruntime's quantizer and modelopt: scales of rank 0 or shape [1]; int8, or uint8
with zero point 128; weights per tensor or per channel, prequantized behind a DequantizeLinear or float behind a pair;
an int32 bias behind a DequantizeLinear; scales in initializers or Constant nodes; several equal pairs on one tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from trtforge.graph.index import Index, subgraphs
from trtforge.graph.labels import label
from trtforge.graph.model import Model
from trtforge.graph.weights import Parked, park, read_tensor
from trtforge.scales.codecs.extraction import (
    CLIPPED_INPUTS,
    NOTE,
    Conflict,
    Extraction,
    OnConflict,
    QuantizedWeight,
    Read,
)
from trtforge.scales.codecs.hidden_relu import restore_relus, top_of
from trtforge.scales.codecs.prune import drop_unused_constants
from trtforge.scales.codecs.qdq_refused import (
    AS_QDQ,
    FOLD,
    TO_INT8,
    disagree,
    is_integer,
    is_linear,
    linear_in_functions,
    linear_inside,
    not_plain,
    nothing_found,
)
from trtforge.scales.codecs.weights import along
from trtforge.scales.table import ScaleTable, TensorRange

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Params:
    """Scale and zero point of one Q or DQ node; scale has shape [] or [channels]."""

    scale: Array
    zero: Array
    axis: int

    def same(self, other: _Params) -> bool:
        return (
            self.scale.tobytes() == other.scale.tobytes()
            and self.zero.dtype == other.zero.dtype
            and np.array_equal(self.zero, other.zero)
            and (self.scale.size == 1 or self.axis == other.axis)
        )


def extract(model: Model) -> tuple[Model, ScaleTable]:
    """Take the Q/DQ nodes out of a model.

    Returns the float model under its original tensor names, and the ranges of its activations. The ``scale`` of a
    symmetric range is the one in the graph, bit for bit. Weights that were stored in INT8 come back as what they
    dequantize to; float weights behind a Q/DQ pair come back unchanged. An asymmetric pair (onnxruntime's default)
    yields its range, and the tensor is listed in the table's notes; a ReLU that its zero point stood for is a node
    again. Not so at an input of the graph, where no quantizer drops one: the notes list the inputs that were clipped.

    Raises:
        QdqNotPlain: no Q/DQ at all, or a form that has no counterpart in a ScaleTable; the message names the node.
    """
    found = take_apart(model)
    return found.model, found.table


def take_apart(model: Model, on_conflict: OnConflict = "refuse") -> Extraction:
    """What :func:`extract` returns, and what only the quantized graph knew.

    Args:
        on_conflict: what becomes of a tensor with several scales, which a ScaleTable cannot hold: an error, or the
            widest of them, under which no value is clipped that was not clipped before.

    Raises:
        QdqNotPlain: see :func:`extract`. QdqScalesDisagree: a tensor has several scales and the answer is "refuse".
    """
    skeleton, parked = park(model.proto)
    reader = _Reader(Model(skeleton, model.folder), parked)
    reader.read()
    conflicts = reader.conflicts()
    if conflicts and on_conflict == "refuse":
        raise disagree(conflicts)
    graph = skeleton.graph
    kept = [NodeProto.FromString(node.SerializeToString()) for node in graph.node if not is_linear(node)]
    renamed = reader.outputs_to_keep(kept)
    replace = {name: renamed.get(source, source) for name, source in reader.alias.items()} | renamed
    reads: set[Read] = set()
    for node in kept:
        through = [slot for slot, name in enumerate(node.input) if name in reader.alias]
        _rename_inputs(node, replace)
        for slot, name in enumerate(node.output):
            node.output[slot] = renamed.get(name, name)
        reads |= {(next(filter(None, node.output), ""), slot) for slot in through}
    given = {value.name for value in graph.output}
    outputs = frozenset(name for name in reader.alias if name in given)
    del graph.node[:]
    graph.node.extend(kept)
    clipped = {renamed.get(name, name): top for name, top in reader.clipped.items()}
    relus, reads = restore_relus(Model(skeleton, model.folder), clipped, reads, outputs)
    drop_unused_constants(skeleton)
    _drop_stale_types(graph)
    parked.restore(skeleton)
    found = reader.ranges()
    names = {name: relus.get(renamed.get(name, name), renamed.get(name, name)) for name in found}
    ranges = {names[name]: seen for name, seen in found.items()}
    inputs = reader.clipped_inputs()
    listed = {NOTE: [names[name] for name in reader.asymmetric], CLIPPED_INPUTS: inputs}
    notes = {note: tensors for note, tensors in listed.items() if tensors}
    return Extraction(
        Model(skeleton, model.folder),
        ScaleTable(ranges, notes=notes),
        frozenset(reads),
        outputs,
        tuple(reader.weights.values()),
        conflicts,
        tuple(relus.values()),
        tuple(inputs),
    )


class _Reader:
    """``alias``: output of a DQ node -> the float tensor it stands for."""

    def __init__(self, model: Model, parked: Parked) -> None:
        self._model = model
        self._graph = model.proto.graph
        self._parked = parked
        self._index = Index(self._graph)
        self._taken = self._index.names()
        self._quantized: dict[str, tuple[str, _Params]] = {}
        self._restored: dict[tuple[str, ...], str] = {}
        self.alias: dict[str, str] = {}
        self.weights: dict[str, QuantizedWeight] = {}
        self.asymmetric: dict[str, None] = {}  # in the order of the graph
        self.clipped: dict[str, int | None] = {}  # tensor -> the whole number that its range from 0 ends at
        self._seen: dict[str, dict[TensorRange, str]] = {}  # tensor -> its ranges -> the first node of each

    def read(self) -> None:
        found = False
        for node in self._graph.node:
            if node.domain == "trt" and "uantize" in node.op_type:  # TRT_FP8QuantizeLinear, TRT_FP4DynamicQuantize, ...
                raise not_plain(node, "it is modelopt's own operator, for other types than INT8", next=TO_INT8)
            if not is_linear(node):
                continue
            found = True
            if node.op_type == "QuantizeLinear":
                self._read_quantize(node)
            else:
                self._read_dequantize(node)
        if hidden := next(linear_inside(self._graph), None):
            raise not_plain(*hidden)
        if inside := next(linear_in_functions(self._model.proto), None):
            inline = "write the functions out first: `onnx.inliner.inline_local_functions(model)`"
            raise not_plain(*inside, next=inline)
        if not found:
            raise nothing_found(self._graph)

    def ranges(self) -> dict[str, TensorRange]:
        """One range a tensor: the widest that the model gives it."""
        return {tensor: max(seen, key=_amax) for tensor, seen in self._seen.items()}

    def clipped_inputs(self) -> list[str]:
        """Inputs of the graph whose negative values a zero point cuts off."""
        return [name for name in self._index.inputs if name in self.clipped]

    def conflicts(self) -> tuple[Conflict, ...]:
        found = []
        for tensor, seen in self._seen.items():
            if len(seen) > 1:
                widest_first = sorted(seen, key=_amax, reverse=True)
                nodes, limits = tuple(map(seen.__getitem__, widest_first)), tuple(map(_amax, widest_first))
                found.append(Conflict(tensor, nodes, limits))
        return tuple(found)

    def _read_quantize(self, node: NodeProto) -> None:
        output = node.output[0]
        readers = self._index.consumers_of(output)
        if other := next((reader for reader in readers if reader.op_type != "DequantizeLinear"), None):
            form = "; this is onnxruntime's QOperator form, which TensorRT does not read" if is_integer(other) else ""
            why = f"its integer output {output!r} is read by {other.op_type} {label(other)!r}, not only by"
            raise not_plain(node, f"{why} DequantizeLinear{form}", next=AS_QDQ if form else "")
        if output in self._index.outputs:
            why = f"its integer output {output!r} is an output of the graph"
            raise not_plain(node, why, next="put a DequantizeLinear behind it, so that the graph gives float")
        source = self.alias.get(node.input[0], node.input[0])
        self._quantized[output] = source, self._params(node)

    def _read_dequantize(self, node: NodeProto) -> None:
        name, output = node.input[0], node.output[0]
        params = self._params(node)
        if name in self._quantized:
            source, before = self._quantized[name]
            if not params.same(before):
                raise not_plain(node, "its scale, zero point or axis is not that of the QuantizeLinear before it")
            self.alias[output] = source
            if self._index.constant(weight := self._behind(source)) is None:
                self._add_range(node, source, params)
            else:
                self._add_weight(weight, params, before.zero.dtype)
        elif self._index.constant(self._behind(name)) is not None:
            self.alias[output] = self._restore_weight(node, params)
        elif name in self._index.inputs:
            why = f"its input {name!r} is an integer input of the graph"
            raise not_plain(node, why, next="give the graph a float input and put a QuantizeLinear behind it")
        else:
            raise not_plain(node, f"its input {name!r} is neither quantized in the graph nor a constant", next=FOLD)

    def _add_range(self, node: NodeProto, tensor: str, params: _Params) -> None:
        if params.scale.size != 1:
            why = f"{tensor!r} has {params.scale.size} scales; activations are quantized per tensor"
            raise not_plain(node, why, next="if it is a weight that the graph computes, fold it to a constant first")
        scale, zero = float(params.scale), int(params.zero)
        if not np.isfinite(scale) or scale <= 0:
            raise not_plain(node, f"the scale of {tensor!r} is {scale}")
        if params.zero.dtype not in (np.int8, np.uint8):
            why = f"{tensor!r} is quantized to {params.zero.dtype.name}; TensorRT's INT8 has 8-bit integers only"
            raise not_plain(node, why, next=TO_INT8)
        limits = np.iinfo(params.zero.dtype)
        symmetric = zero == (int(limits.min) + int(limits.max) + 1) // 2
        if symmetric:
            seen = TensorRange.from_scale(scale)
        else:
            seen = TensorRange((limits.min - zero) * scale, (limits.max - zero) * scale, 0)
        self._seen.setdefault(tensor, {}).setdefault(seen, label(node))
        if zero == limits.min:
            top = top_of(params.scale)
            self.clipped[tensor] = top if self.clipped.get(tensor, top) == top else None
        if not symmetric:
            self.asymmetric[tensor] = None

    def _add_weight(self, tensor: str, params: _Params, stored: np.dtype[Any]) -> None:
        if stored.name == "int32":
            return  # a bias: it stays float
        axis = params.axis if params.scale.size > 1 else None
        symmetric = bool((params.zero.astype(np.float32) == (128 if stored.name == "uint8" else 0)).all())
        self.weights[tensor] = QuantizedWeight(tensor, params.scale, axis, symmetric, stored.name)

    def _restore_weight(self, node: NodeProto, params: _Params) -> str:
        """Name of a float initializer with the dequantized values; one for all nodes that dequantize alike."""
        key = (*node.input, str(params.axis))
        if key in self._restored:
            return self._restored[key]
        values = self._constant(node, 0)
        if values.dtype.kind not in "iu" and values.dtype.name not in ("int2", "uint2", "int4", "uint4"):
            raise not_plain(node, f"its weight is stored as {values.dtype.name}, not as integers", next=TO_INT8)
        axis = params.axis if params.scale.size > 1 else None
        if axis is not None and (axis >= values.ndim or values.shape[axis] != params.scale.size):
            raise not_plain(node, f"{params.scale.size} scales do not fit axis {axis} of shape {list(values.shape)}")
        scale, zero = (along(part, axis, values.ndim) for part in (params.scale, params.zero))
        restored = _dequantized(node, values, scale, zero)
        name = self._restored[key] = self._float_name(node)
        self._graph.initializer.append(numpy_helper.from_array(restored, name))
        self._add_weight(name, params, values.dtype)
        return name

    def _float_name(self, node: NodeProto) -> str:
        """What the tensor was called before it was quantized: a name without the suffix a quantizer adds.

        Without any suffix it is the output of the DequantizeLinear itself, as onnxruntime names biases.
        """
        for name, suffix in ((node.output[0], "_DequantizeLinear_Output"), (node.input[0], "_quantized")):
            original = str(name).removesuffix(suffix)
            if original != name and original not in self._taken:
                self._taken.add(original)
                return original
        return str(node.output[0])

    def _params(self, node: NodeProto) -> _Params:
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        if attributes.get("block_size"):
            raise not_plain(node, "it quantizes in blocks")
        scale = self._constant(node, 1)
        if len(node.input) > 2 and node.input[2]:
            zero = self._constant(node, 2)
        else:
            zero = np.zeros(scale.shape, self._default_dtype(node, attributes))
        if scale.size == 1:
            scale, zero = scale.reshape(()), zero.reshape(())
        rank = self._rank_of(node.input[0])
        axis = attributes.get("axis", 1)
        return _Params(scale, zero, axis + rank if axis < 0 and rank else axis)

    def _default_dtype(self, node: NodeProto, attributes: dict[str, int]) -> np.dtype[Any]:
        """Without a zero point: what the values are stored in, or `output_dtype`, or uint8, as ONNX defines it."""
        stored = self._index.constant(self._behind(node.input[0]))
        if node.op_type == "DequantizeLinear" and node.input[0] in self._quantized:
            return np.dtype(self._quantized[node.input[0]][1].zero.dtype)
        if node.op_type == "DequantizeLinear" and stored is not None:
            return np.dtype(helper.tensor_dtype_to_np_dtype(stored.data_type))
        stated = attributes.get("output_dtype") or TensorProto.UINT8
        return np.dtype(helper.tensor_dtype_to_np_dtype(stated))

    def _rank_of(self, name: str) -> int:
        source = self._quantized[name][0] if name in self._quantized else name
        tensor = self._index.constant(self._behind(source))
        return len(tensor.dims) if tensor is not None else 0

    def _constant(self, node: NodeProto, slot: int) -> Array:
        name = self._behind(node.input[slot])
        tensor, maker = self._index.constant(name), self._index.producer(name)
        if tensor is not None:
            return read_tensor(self._model, self._parked.find(tensor))
        if maker is None:
            raise not_plain(node, f"its input {node.input[slot]!r} is given by whoever runs the graph, not constant")
        if maker.op_type == "Constant" and maker.attribute[0].name in ("value_float", "value_floats"):
            return np.asarray(helper.get_attribute_value(maker.attribute[0]), np.float32)
        if maker.op_type == "DequantizeLinear":
            raise not_plain(node, f"its input {node.input[slot]!r} is quantized itself")
        why = f"its input {node.input[slot]!r} is computed in the graph, not constant"
        raise not_plain(node, why, next=FOLD)

    def _behind(self, name: str) -> str:
        """What a tensor is called before the Identity nodes that exporters put behind shared constants."""
        while (maker := self._index.producer(name)) is not None and maker.op_type == "Identity":
            name = maker.input[0]
        return name

    def outputs_to_keep(self, nodes: list[NodeProto]) -> dict[str, str]:
        """Graph outputs that were outputs of DQ nodes keep their names: old name -> output name.

        Where the tensor behind one cannot be renamed (it is an input, a constant or an output itself), an Identity is
        added to ``nodes``.
        """
        renamed: dict[str, str] = {}
        made_here = {name for node in nodes for name in node.output}
        for output in self._index.outputs:
            source = self.alias.get(output)
            if source is None:
                continue
            if source in made_here and source not in self._index.outputs and source not in renamed:
                renamed[source] = output
            else:
                nodes.append(helper.make_node("Identity", [source], [output], name=f"{output}_Identity"))
        return renamed


def _dequantized(node: NodeProto, values: Array, scale: Array, zero: Array) -> Array:
    """In the type of the scale, and computed in float32: the integers of a bias are beyond what a half holds.

    Raises QdqNotPlain where the products are beyond it too.
    """
    wide = (values.astype(np.int32) - zero.astype(np.int32)).astype(np.float32) * scale.astype(np.float32)
    with np.errstate(over="ignore"):
        stored = wide.astype(scale.dtype)
    if not np.isfinite(stored).all():
        largest = np.abs(wide).max()
        why = f"it dequantizes to numbers up to {largest:g}, and {scale.dtype.name} does not hold them"
        raise not_plain(node, why, next="export it with scales in float32, or start from the float model")
    return np.asarray(stored)


def _amax(seen: TensorRange) -> float:
    return seen.amax


def _rename_inputs(node: NodeProto, names: dict[str, str]) -> None:
    """Replace what a node reads, also inside its subgraphs: ONNX names are unique across them."""
    for slot, name in enumerate(node.input):
        node.input[slot] = names.get(name, name)
    for subgraph in subgraphs(node):
        for inner in subgraph.node:
            _rename_inputs(inner, names)
        for value in subgraph.output:
            value.name = names.get(value.name, value.name)


def _drop_stale_types(graph: GraphProto) -> None:
    """Remove type annotations of tensors that are gone."""
    present = Index(graph).names()
    for position in reversed(range(len(graph.value_info))):
        if graph.value_info[position].name not in present:
            del graph.value_info[position]
