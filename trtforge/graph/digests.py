"""Identity of a model: two digests that stay the same when nothing that affects its results changed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from onnx import ModelProto, TensorProto

from trtforge.digest import digest_json, sha256_bytes
from trtforge.graph.model import Digests, Model
from trtforge.graph.weights import (
    SMALL,
    external_range,
    is_external,
    model_tensors,
    nbytes,
    park,
    resolve_location,
    too_short,
    walk_tensors,
)

_CHUNK = 1 << 20

NO_EXTERNAL_WEIGHTS = digest_json([])
"""``Digests.weights`` of a model whose weights are all inline."""


def show_weights(digest: str) -> str:
    """``Digests.weights`` for a person, to whom the digest of nothing would look like that of weights."""
    return "inline (in the graph digest)" if digest == NO_EXTERNAL_WEIGHTS else digest


def digests(model: Model) -> Digests:
    """The digests of a model; reads external weights once, streamed, in constant memory.

    ``graph`` covers structure, types and inline weights; not producer, doc strings, metadata, nor in which
    file and at which offset a weight is stored. ``weights`` covers the bytes of every external weight.
    Raises MissingExternalData, ExternalDataEscapes, ExternalDataTooShort.
    """
    return Digests(graph=_graph_digest(model.proto), weights=_weights_digest(model))


def _graph_digest(proto: ModelProto) -> str:
    skeleton, parked = park(proto, above=SMALL)
    for tensor in walk_tensors(skeleton.graph):
        original = parked.find(tensor)
        if original is not tensor:
            # the content stands in for itself: 32 bytes instead of megabytes to serialize
            tensor.raw_data = hashlib.sha256(original.SerializeToString(deterministic=True)).digest()
    for tensor in model_tensors(skeleton):
        tensor.ClearField("external_data")
        tensor.ClearField("doc_string")
    _clear_volatile(skeleton)
    return sha256_bytes(skeleton.SerializeToString(deterministic=True))


def _clear_volatile(proto: ModelProto) -> None:
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string", "metadata_props"):
        proto.ClearField(name)
    graph = proto.graph
    for name in ("doc_string", "metadata_props"):
        graph.ClearField(name)
    described = [*graph.node, *graph.value_info, *graph.input, *graph.output, *proto.functions]
    described += [node for function in proto.functions for node in function.node]
    for item in described:
        for name in ("doc_string", "metadata_props"):
            if name in item.DESCRIPTOR.fields_by_name:
                item.ClearField(name)


def _weights_digest(model: Model) -> str:
    entries = [
        [tensor.name, _range_digest(model.folder or Path.cwd(), tensor)]
        for tensor in model_tensors(model.proto)
        if is_external(tensor)
    ]
    return digest_json(entries)  # in graph order: values of Constant nodes often share a name, or have none


def _range_digest(folder: Path, tensor: TensorProto) -> str:
    place = external_range(tensor)
    path = resolve_location(folder, place.location, tensor.name)
    digest = hashlib.sha256()
    left = nbytes(tensor)  # a stored length may include padding
    with path.open("rb", buffering=0) as stream:
        stream.seek(place.offset)
        while left:
            chunk = stream.read(min(left, _CHUNK))
            if not chunk:
                raise too_short(tensor, path, place, path.stat().st_size)
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()
