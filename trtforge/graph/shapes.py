"""Shapes and types of a graph's tensors, and fixing the sizes a model leaves open."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, TensorProto, TypeProto, ValueInfoProto

from trtforge.errors.graph import DynamicShape, InvalidGraph, ShapeMismatch, UnknownInput
from trtforge.graph.labels import first_output
from trtforge.graph.model import Model
from trtforge.graph.weights import SMALL, is_external, is_parked, nbytes, park, read_tensor

Shape = tuple[int | str | None, ...]


class TensorType(NamedTuple):
    """``dtype``: numpy (or ml_dtypes) name, e.g. "float32". ``shape``: one entry per axis, a size, a symbol's
    name, or None for unknown; the whole shape is None when not even the rank is known."""

    dtype: str
    shape: Shape | None

    @property
    def is_static(self) -> bool:
        return self.shape is not None and all(isinstance(size, int) for size in self.shape)


def infer_shapes(model: Model) -> Model:
    """A model with the types of all tensors that onnx's shape inference can find; the given one is not changed.

    Inline weights are copied once and not looked at; external ones are not read, except integers of at most
    4 KiB and scalars, whose values (axes, target shapes, scales) inference needs. Raises InvalidGraph when
    types or shapes contradict each other.
    """
    skeleton, parked = park(model.proto)
    infer_in_place(Model(skeleton, model.folder))
    parked.restore(skeleton)
    return Model(skeleton, model.folder)


def infer_in_place(model: Model) -> None:
    """Infer shapes on a skeleton (see ``weights.park``), whose serialized form is small. Raises InvalidGraph."""
    skeleton = model.proto
    seen = ModelProto()
    seen.CopyFrom(skeleton)
    for tensor in seen.graph.initializer:
        if is_external(tensor) and not is_parked(tensor) and _may_steer_shapes(tensor):
            tensor.CopyFrom(onnx.numpy_helper.from_array(read_tensor(model, tensor), tensor.name))
    _hide_integers(seen)
    for place, node in enumerate(seen.graph.node):
        node.name = f"#{place}"  # names may be missing, or shared
    try:
        inferred = onnx.shape_inference.infer_shapes(seen, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:  # onnx has others for bad types
        raise _contradiction(skeleton.graph, " ".join(str(error).split())) from error
    graph = skeleton.graph
    graph.ClearField("value_info")
    graph.value_info.extend(inferred.graph.value_info)
    for stated, found in zip(graph.output, inferred.graph.output, strict=True):
        stated.CopyFrom(found)


def _contradiction(graph: GraphProto, text: str) -> InvalidGraph:
    """The error of the first node that inference complains of; those behind it follow from that one."""
    where, why = f"graph {graph.name!r}", text
    _, *rest = _AT_NODE.split(text)  # in turns: the place of a node, and what is said of it
    if rest:
        node = graph.node[int(rest[0])]
        where, why = f"node {node.name or first_output(node)!r} ({node.op_type})", _ERROR_KIND.sub("", rest[1]).strip()
    return InvalidGraph(
        "the shapes or types of the graph contradict each other",
        where=where,
        why=why,
        next="check the shapes given for the inputs, then the node named above",
    )


_AT_NODE = re.compile(r"\(op_type:[^,()]+, node name: #(\d+)\): ?")
_ERROR_KIND = re.compile(r"\[\w+Error\] |Inference error\(s\): ")


def _hide_integers(seen: ModelProto) -> None:
    """External integers become inputs of the graph, of which inference looks at the type alone.

    They are too many to be anybody's shape, and where arithmetic is done with them inference asks for their values and
    fails without.
    """
    kinds = (TensorProto.INT64, TensorProto.INT32)
    stated = {value.name for value in seen.graph.input}
    for place in range(len(seen.graph.initializer) - 1, -1, -1):
        tensor = seen.graph.initializer[place]
        if tensor.data_type in kinds and is_external(tensor):
            if tensor.name not in stated:
                value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
                seen.graph.input.append(value)
            del seen.graph.initializer[place]


def _may_steer_shapes(tensor: TensorProto) -> bool:
    """Axes, sizes, paddings are short integers; the scales of Resize are one float per axis."""
    integer = tensor.data_type in (TensorProto.INT64, TensorProto.INT32)
    return nbytes(tensor) <= (SMALL if integer else 64)


def tensor_types(model: Model) -> dict[str, TensorType]:
    """Type of every tensor the graph states one for: inputs, outputs, value infos, initializers.

    Run :func:`infer_shapes` first to have the activations too.
    """
    graph = model.proto.graph
    types = {value.name: value_type(value) for value in [*graph.value_info, *graph.output, *graph.input]}
    for tensor in graph.initializer:
        types[tensor.name] = TensorType(dtype_name(tensor.data_type), tuple(tensor.dims))
    return types


def input_specs(model: Model) -> dict[str, TensorType]:
    """The inputs a caller must give, in order."""
    weights = {tensor.name for tensor in model.proto.graph.initializer}
    return {value.name: value_type(value) for value in model.proto.graph.input if value.name not in weights}


def output_specs(model: Model) -> dict[str, TensorType]:
    """The graph's outputs, in order."""
    return {value.name: value_type(value) for value in model.proto.graph.output}


def value_type(value: ValueInfoProto) -> TensorType:
    return _type_of(value.type.SerializeToString())


@functools.lru_cache(4096)
def _type_of(serialized: bytes) -> TensorType:
    """Of a TypeProto. A graph has thousands of tensors and some dozens of types: each is taken apart once."""
    stated = TypeProto.FromString(serialized)
    kind = stated.tensor_type
    if not stated.HasField("tensor_type"):
        return TensorType(stated.WhichOneof("value") or "unknown", None)
    shape: Shape | None = None
    if kind.HasField("shape"):
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None) for dim in kind.shape.dim)
    return TensorType(dtype_name(kind.elem_type), shape)


@functools.cache
def dtype_name(elem_type: int) -> str:
    if elem_type == TensorProto.UNDEFINED:
        return "unknown"
    if elem_type == TensorProto.STRING:
        return "string"
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type)).name


def freeze_inputs(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> Model:
    """A model whose inputs have the given concrete shapes, with all other shapes inferred from them.

    Raises UnknownInput, ShapeMismatch (both shapes named), DynamicShape (an input without a shape stays open).
    """
    specs = input_specs(model)
    for name in shapes:
        if name not in specs:
            near = difflib.get_close_matches(name, specs, n=1)
            raise UnknownInput(
                f"the model has no input {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
                where=f"graph {model.proto.graph.name!r}",
                why="its inputs are " + ", ".join(f"{key} {show_shape(spec.shape)}" for key, spec in specs.items()),
                next="use one of these names under `inputs:`",
            )
    for name, spec in specs.items():
        if name in shapes:
            _check_fits(name, spec, tuple(shapes[name]))
        elif not spec.is_static:
            raise DynamicShape(
                f"the input {name!r} has no fixed shape",
                where=f"graph {model.proto.graph.name!r}",
                why=f"the model states {show_shape(spec.shape)} and no shape was given",
                next=f"add `{name}: {{shape: [...]}}` under `inputs:`",
            )
    skeleton, parked = park(model.proto)
    for value in skeleton.graph.input:
        if value.name in shapes:
            dims = value.type.tensor_type.shape.dim
            del dims[:]
            for size in shapes[value.name]:
                dims.add(dim_value=size)
    stated = _forget_shapes(skeleton, keep_static=True)
    try:
        infer_in_place(Model(skeleton, model.folder))
    except InvalidGraph:  # perhaps only of stated shapes, which exporters leave behind for another input size
        stated.update(_forget_shapes(skeleton, keep_static=False))
        infer_in_place(Model(skeleton, model.folder))
    for value in skeleton.graph.output:
        if value.name in stated and value_type(value).shape is None:
            value.CopyFrom(stated[value.name])  # nothing better is known, and an output must state its rank
    parked.restore(skeleton)
    return Model(skeleton, model.folder)


def _check_fits(name: str, spec: TensorType, shape: tuple[int, ...]) -> None:
    reason = ""
    if any(size <= 0 for size in shape):
        reason = "every size must be at least 1"
    elif spec.shape is not None and len(spec.shape) != len(shape):
        reason = f"the model has rank {len(spec.shape)}, the given shape rank {len(shape)}"
    elif spec.shape is not None:
        for axis, (stated, size) in enumerate(zip(spec.shape, shape, strict=True)):
            if isinstance(stated, int) and stated != size:
                reason = f"axis {axis} is fixed to {stated} in the model, {size} was given"
                break
    if reason:
        raise ShapeMismatch(
            f"the shape {list(shape)} does not fit the input {name!r} {show_shape(spec.shape)}",
            where=f"input {name!r}",
            why=reason,
            next="give a shape that keeps the model's fixed sizes",
        )


def _forget_shapes(proto: ModelProto, *, keep_static: bool) -> dict[str, ValueInfoProto]:
    """Drop stated shapes: those with symbols were made for open inputs and would hide what is now known.

    Returns what was stated.
    """
    dropped: dict[str, ValueInfoProto] = {}
    for value in [*proto.graph.value_info, *proto.graph.output]:
        if value.type.tensor_type.HasField("shape") and not (keep_static and value_type(value).is_static):
            dropped[value.name] = ValueInfoProto.FromString(value.SerializeToString())
            value.type.tensor_type.ClearField("shape")
    return dropped


def show_shape(shape: Shape | None) -> str:
    """`[n, 3, 224, 224]`; `[?, 3]` where a size has no name; `of unknown rank`."""
    if shape is None:
        return "of unknown rank"
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"
