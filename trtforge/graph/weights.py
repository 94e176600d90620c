"""Weights: where each tensor's bytes are, how to read them, and how to set big ones aside during surgery.

Passes work on a *skeleton*. :func:`park` replaces the bytes of every big inline tensor by a short marker and
:meth:`Parked.restore` puts them back, so that a chain of passes copies inline weights once, not once a pass.
External weights are never touched at all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from trtforge.errors.graph import ExternalDataEscapes, ExternalDataTooShort, MissingExternalData, UnreadableWeight
from trtforge.graph.model import Model

SMALL = 4096
"""Bytes up to which a tensor stays inline during surgery: shapes, axes and scalars that inference needs."""

_MARKER = "trtforge-parked:"
_parkings = itertools.count()  # a parking inside another one must not take its markers for its own
_SUBBYTE_BITS = {
    getattr(TensorProto, name): bits
    for name, bits in (("INT4", 4), ("UINT4", 4), ("FLOAT4E2M1", 4), ("INT2", 2), ("UINT2", 2))
    if hasattr(TensorProto, name)
}


@dataclass(frozen=True)
class ExternalRange:
    """A byte range in a data file; ``location`` is relative to the model's folder, as stored in the model."""

    location: str
    offset: int
    length: int


def walk_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Every tensor stored in a graph: initializers, attributes, and those of subgraphs."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    yield from _node_tensors(graph.node)


def model_tensors(proto: ModelProto) -> Iterator[TensorProto]:
    """Every tensor stored in a model, those in the bodies of its functions included."""
    yield from walk_tensors(proto.graph)
    for function in proto.functions:
        yield from _node_tensors(function.node)


def _node_tensors(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from walk_tensors(attribute.g)
            for subgraph in attribute.graphs:
                yield from walk_tensors(subgraph)


def is_external(tensor: TensorProto) -> bool:
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def is_parked(tensor: TensorProto) -> bool:
    """Whether a tensor is a marker of some parking."""
    return any(entry.key == "location" and entry.value.startswith(_MARKER) for entry in tensor.external_data)


def nbytes(tensor: TensorProto) -> int:
    """Bytes the values take in the raw (little-endian, packed) form, from shape and type alone."""
    elements: int = math.prod(tensor.dims)
    if tensor.data_type == TensorProto.STRING:
        return sum(len(text) for text in tensor.string_data)
    bits = _SUBBYTE_BITS.get(tensor.data_type)
    if bits is not None:
        return (elements * bits + 7) // 8
    itemsize: int = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    return elements * itemsize


def external_range(tensor: TensorProto) -> ExternalRange:
    """Where an external tensor's bytes are. A missing length means: as many bytes as the shape needs.

    Raises UnreadableWeight when offset or length is no number.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries["length"]) if entries.get("length") else nbytes(tensor)
        if offset < 0 or length < 0:
            raise ValueError(f"offset {offset}, length {length}")
    except ValueError as error:
        raise UnreadableWeight(
            f"the weight {tensor.name!r} states an impossible place in its data file",
            where=entries.get("location", ""),
            why=str(error),
            next="export the model again",
        ) from error
    return ExternalRange(entries.get("location", ""), offset, length)


def resolve_location(folder: Path, location: str, tensor: str) -> Path:
    """The data file of a location, checked to exist and to lie inside ``folder``.

    Raises ExternalDataEscapes, MissingExternalData.
    """
    relative = PurePosixPath(location.replace("\\", "/"))
    reason = ""
    if not location or relative == PurePosixPath("."):
        reason = "the model gives no file name"
    elif relative.is_absolute() or (len(location) > 1 and location[1] == ":"):
        reason = f"{location!r} is an absolute path"
    elif ".." in relative.parts:
        reason = f"{location!r} climbs out of the folder"
    path = folder / relative
    if not reason and not path.resolve().is_relative_to(folder.resolve()):
        reason = f"{location!r} is a link to {path.resolve()}"
    if reason:
        raise ExternalDataEscapes(
            f"the data file of the weight {tensor!r} is outside the model's folder",
            where=str(folder),
            why=reason,
            next=f"put a real copy of the data file into {folder}, or export the model again",
        )
    if not path.is_file():
        raise MissingExternalData(
            f"the data file {location!r} with the weight {tensor!r} is missing",
            where=str(path),
            why="the path is not a regular file" if path.exists() else "no such file",
            next=f"copy {relative.name} into {path.parent}",
        )
    return path


def read_tensor(model: Model, tensor: TensorProto) -> np.ndarray[Any, Any]:
    """The values of a tensor, inline or external; only its own bytes are read.

    Returns an array of the tensor's shape and dtype (ml_dtypes for the types numpy lacks).
    Raises ExternalDataEscapes, MissingExternalData, ExternalDataTooShort, UnreadableWeight.
    """
    if is_external(tensor):
        tensor = _inline_copy(model, tensor)
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise UnreadableWeight(
            f"the values of the weight {tensor.name!r} cannot be read",
            where=f"shape {list(tensor.dims)}, {TensorProto.DataType.Name(tensor.data_type)}",
            why=str(error),
            next="export the model again",
        ) from error


def _inline_copy(model: Model, tensor: TensorProto) -> TensorProto:
    place = external_range(tensor)
    path = resolve_location(model.folder or Path.cwd(), place.location, tensor.name)
    with path.open("rb") as stream:
        stream.seek(place.offset)
        data = stream.read(place.length)
    if len(data) < max(place.length, nbytes(tensor)):
        raise too_short(tensor, path, place, path.stat().st_size)
    return TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type, raw_data=data[: nbytes(tensor)])


def too_short(tensor: TensorProto, path: Path, place: ExternalRange, size: int) -> ExternalDataTooShort:
    needed = max(place.length, nbytes(tensor))
    return ExternalDataTooShort(
        f"the data file {place.location!r} is too short for the weight {tensor.name!r}",
        where=str(path),
        why=f"the weight needs {needed:,} bytes from offset {place.offset:,}"
        + (
            f", the file has {size:,}"
            if place.offset + needed > size
            else f", the model says its length is {place.length:,}"
        ),
        next="copy the .onnx file and all its data files again, from one export",
    )


class Parked:
    """Big inline tensors set aside; they still belong to the model they came from and must not be edited."""

    def __init__(self) -> None:
        self._tensors: list[TensorProto] = []
        self._prefix = f"{_MARKER}{next(_parkings)}:"

    def find(self, tensor: TensorProto) -> TensorProto:
        """The tensor with its bytes, if this one is a marker of this parking; else the tensor itself."""
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value.startswith(self._prefix):
                return self._tensors[int(entry.value.removeprefix(self._prefix))]
        return tensor

    def keep(self, tensor: TensorProto) -> str:
        """Set a tensor aside; returns the location its marker carries."""
        self._tensors.append(tensor)
        return f"{self._prefix}{len(self._tensors) - 1}"

    def restore(self, proto: ModelProto) -> None:
        """Put the bytes back, in place. Tensors may have been renamed, moved or dropped in between."""
        for tensor in walk_tensors(proto.graph):
            original = self.find(tensor)
            if original is not tensor:
                name = tensor.name
                tensor.CopyFrom(original)
                tensor.name = name


def park(proto: ModelProto, *, above: int = SMALL, into: Parked | None = None) -> tuple[ModelProto, Parked]:
    """A copy of a model in which inline tensors over ``above`` bytes are markers; the original is not changed.

    The bytes are not copied: a marker refers to the tensor in ``proto``. ``into``: an earlier parking of the
    same model to add to.
    """
    parked = into or Parked()
    skeleton = ModelProto()
    _copy_shallow(proto, skeleton, skip=("graph",))
    graph, source = skeleton.graph, proto.graph
    _copy_shallow(source, graph, skip=("initializer", "node"))
    for tensor in source.initializer:
        _copy_or_mark(tensor, graph.initializer.add(), parked, above)
    for node in source.node:
        copy = graph.node.add()
        _copy_shallow(node, copy, skip=("attribute",))
        for attribute in node.attribute:
            added = copy.attribute.add()
            _copy_shallow(attribute, added, skip=("t",))
            if attribute.HasField("t"):
                _copy_or_mark(attribute.t, added.t, parked, above)
    return skeleton, parked


def _copy_shallow(source: Any, target: Any, skip: tuple[str, ...]) -> None:
    """Copy the fields that are set, except ``skip``: keeps big weights out of the copy."""
    for descriptor, value in source.ListFields():
        name = descriptor.name
        if name in skip:
            continue
        if hasattr(value, "extend"):
            getattr(target, name).extend(value)
        elif descriptor.message_type is not None:
            getattr(target, name).CopyFrom(value)
        else:
            setattr(target, name, value)


def has_parkable(proto: ModelProto) -> bool:
    """Whether :func:`park` would set anything aside."""
    return any(_parkable(tensor, SMALL) for tensor in walk_tensors(proto.graph))


def _parkable(tensor: TensorProto, above: int) -> bool:
    return not is_external(tensor) and tensor.data_type != TensorProto.STRING and nbytes(tensor) > above


def _copy_or_mark(source: TensorProto, target: TensorProto, parked: Parked, above: int) -> None:
    if not _parkable(source, above):
        target.CopyFrom(source)
        return
    target.name, target.data_type = source.name, source.data_type
    target.dims.extend(source.dims)
    target.data_location = TensorProto.EXTERNAL
    target.external_data.add(key="location", value=parked.keep(source))
