"""Models from and to disk: the graph in memory, external weights left in their files.

Loading checks what would otherwise fail later and less clearly; saving never holds more than one weight in
memory, and hard-links external data where the file system can.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto

from trtforge.errors.graph import (
    CannotWriteModel,
    InvalidGraph,
    ModelNotFound,
    ModelTooLarge,
    NotAModel,
    TruncatedModel,
    UnsupportedVersion,
)
from trtforge.files import atomic_open
from trtforge.graph.index import captured_names, every_node
from trtforge.graph.model import Model
from trtforge.graph.readable import unreadable_part
from trtforge.graph.sniff import looks_like, missing_bytes
from trtforge.graph.weights import (
    external_range,
    is_external,
    model_tensors,
    nbytes,
    park,
    resolve_location,
    too_short,
)

INLINE_LIMIT = 1_900_000_000
"""Bytes of inline weights above which :func:`save` moves them to a data file; protobuf ends at 2^31 - 1."""

_ALIGN = 4096  # lets a reader map each weight on its own


def load(path: Path) -> Model:
    """The model at ``path``; external weights are checked to be there and are not read.

    Raises ModelNotFound, NotAModel, TruncatedModel, UnsupportedVersion, InvalidGraph, MissingExternalData,
    ExternalDataEscapes, ExternalDataTooShort.
    """
    path = Path(path)
    proto = _parse(path)
    _check_readable(proto, path)
    _check_versions(proto, path)
    _check_graph(proto, path)
    model = Model(proto, None)
    if any(is_external(tensor) for tensor in model_tensors(proto)):
        model.folder = path.absolute().parent
        check_external(model)
    return model


def _parse(path: Path) -> ModelProto:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelNotFound(
            "the model cannot be read",
            where=str(path),
            why="it is a folder" if path.is_dir() else (error.strerror or str(error)),
            next=f"check the path: ls -l {path}",
        ) from error
    if not data:
        raise NotAModel("the file is not an ONNX model", where=str(path), why="it is empty (0 bytes)", next=_AGAIN)
    proto = ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        missing = missing_bytes(data)
        if missing is not None:
            raise TruncatedModel(
                "the model ends too early",
                where=str(path),
                why=f"the file has {len(data):,} bytes, and {missing:,} more are announced in it",
                next=_AGAIN,
            ) from error
        raise _not_a_model(path, data) from error
    if not proto.graph.node and proto.opset_import:
        raise InvalidGraph(
            "the model computes nothing", where=str(path), why="its graph has no nodes", next="export the model again"
        )
    if not proto.graph.node:
        raise _not_a_model(path, data)
    return proto


_AGAIN = "copy, download or export the model again, and compare its size or sha256"


def _not_a_model(path: Path, data: bytes) -> NotAModel:
    return NotAModel(
        "the file is not an ONNX model", where=f"{path} ({len(data):,} bytes)", why=looks_like(data), next=_AGAIN
    )


def _check_readable(proto: ModelProto, path: Path) -> None:
    fault = unreadable_part(proto)
    if fault:
        raise InvalidGraph("the model is damaged", where=str(path), why=fault, next=_AGAIN)


def _check_versions(proto: ModelProto, path: Path) -> None:
    opset, newest = default_opset(proto), onnx.defs.onnx_opset_version()
    why = ""
    if opset is None and any(node.domain in ("", "ai.onnx") for node in proto.graph.node):
        why = "it states no opset for the standard operators: cut off, or written by hand"
    elif opset is not None and not 1 <= opset <= newest:
        why = f"it uses opset {opset}; the installed onnx {onnx.__version__} knows 1 to {newest}"
    elif not 1 <= proto.ir_version <= onnx.IR_VERSION:
        why = (
            f"it has IR version {proto.ir_version}; the installed onnx {onnx.__version__} knows 1 to {onnx.IR_VERSION}"
        )
    if why:
        raise UnsupportedVersion(
            "the model's version is not supported",
            where=str(path),
            why=why,
            next="export it with opset 17, or upgrade: pip install --upgrade onnx onnxruntime",
        )
    imported = {"", "ai.onnx", *(entry.domain for entry in proto.opset_import)}
    for node in every_node(proto.graph):
        if node.domain not in imported:
            entry = f'model.opset_import.append(onnx.helper.make_opsetid("{node.domain}", 1))'
            raise UnsupportedVersion(
                f"the model states no version of the operators of `{node.domain}`",
                where=f"{path}: node {node.name or next(iter(node.output), '?')!r} ({node.op_type})",
                why=f"its opset_import has no entry for `{node.domain}`, and nothing can tell which version is meant",
                next=f"export it again, or add the entry and save the model: {entry}",
            )


def default_opset(proto: ModelProto) -> int | None:
    """Version of the standard operator set a model uses; None when it states none."""
    versions = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    return max(versions) if versions else None


def _check_graph(proto: ModelProto, path: Path) -> None:
    """Every tensor is produced once, before its first use; every graph output is produced."""
    problem = graph_problem(proto)
    if problem:
        raise InvalidGraph("the graph is not valid", where=str(path), why=problem, next="export the model again")


def graph_problem(proto: ModelProto) -> str:
    """A sentence for the first defect of the graph's wiring, empty when there is none."""
    graph = proto.graph
    known = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    known |= {sparse.values.name for sparse in graph.sparse_initializer}
    produced: set[str] = set(known)
    for position, node in enumerate(graph.node):
        label = f"node {node.name or position!r} ({node.op_type})"
        used = [name for name in node.input if name]
        for attribute in node.attribute:
            for subgraph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                used += captured_names(subgraph)
        for name in used:
            if name not in produced:
                return f"{label} reads the tensor {name!r}, which nothing before it produces"
        for name in node.output:
            if name and name in produced:
                return f"{label} produces the tensor {name!r}, which exists already"
            produced.add(name)
    for value in graph.output:
        if value.name not in produced:
            return f"the graph output {value.name!r} is produced by no node"
    return ""


def check_external(model: Model) -> None:
    """Every external weight's file exists, lies inside the folder and is long enough. Reads no weight."""
    folder = model.folder or Path.cwd()
    sizes: dict[Path, int] = {}
    paths: dict[str, Path] = {}
    for tensor in model_tensors(model.proto):
        if not is_external(tensor):
            continue
        place = external_range(tensor)
        if place.location not in paths:
            paths[place.location] = resolve_location(folder, place.location, tensor.name)
            sizes[paths[place.location]] = paths[place.location].stat().st_size
        path = paths[place.location]
        if place.length < nbytes(tensor) or place.offset + place.length > sizes[path]:
            raise too_short(tensor, path, place, sizes[path])


def to_bytes(model: Model) -> bytes:
    """The model as one message; external weights stay references. Raises ModelTooLarge."""
    inline = inline_bytes(model.proto)
    if inline > INLINE_LIMIT:
        raise ModelTooLarge(
            "the model does not fit into one message",
            where=f"graph {model.proto.graph.name!r}",
            why=f"its inline weights take {inline:,} bytes, the limit is {INLINE_LIMIT:,}",
            next="save it to a file: its weights then go to a data file beside it",
        )
    data: bytes = model.proto.SerializeToString(deterministic=True)
    return data


def inline_bytes(proto: ModelProto) -> int:
    """Bytes of the weights stored inside the model."""
    return sum(nbytes(tensor) for tensor in model_tensors(proto) if not is_external(tensor))


def save(model: Model, path: Path) -> Model:
    """Write a model; returns it as it is at ``path``. Files appear only when whole, the `.onnx` last.

    External data files are hard-linked beside it (copied where that fails), keeping their names; inline
    weights over 1.9 GB go to `<name>.data`. Raises CannotWriteModel, MissingExternalData,
    ExternalDataEscapes, ExternalDataTooShort.
    """
    path = Path(path).absolute()
    check_external(model)
    with _write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        written = model.proto
        if inline_bytes(model.proto) > INLINE_LIMIT:
            written = _externalize(written, path)
        moves = _place_external(model, path)
        if moves:
            written, parked = park(written)
            _relocate(written, moves)
            parked.restore(written)
        with atomic_open(path) as stream:
            stream.write(written.SerializeToString(deterministic=True))
    external = any(is_external(tensor) for tensor in model_tensors(written))
    return Model(written, path.parent if external else None)


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CannotWriteModel(
            f"the model {path.name!r} cannot be written",
            where=str(error.filename or path),
            why=error.strerror or str(error),
            next=f"check free space and permissions: df -h {path.parent}; ls -ld {path.parent}",
        ) from error


def _externalize(proto: ModelProto, path: Path) -> ModelProto:
    """A copy of the model with its big initializers in `<name>.data`, written one at a time."""
    skeleton, parked = park(proto)
    target = _free_name(path.parent / f"{path.name}.data")
    with atomic_open(target) as stream:
        for tensor in skeleton.graph.initializer:
            original = parked.find(tensor)
            if original is tensor:
                continue
            stream.seek(-stream.tell() % _ALIGN, os.SEEK_CUR)
            offset = stream.tell()
            data = original.raw_data or onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(original)).raw_data
            stream.write(data)
            tensor.ClearField("external_data")
            for key, value in (("location", target.name), ("offset", str(offset)), ("length", str(len(data)))):
                tensor.external_data.add(key=key, value=value)
    parked.restore(skeleton)  # what is left sits in attributes, where engines do not look for external data
    return skeleton


def _place_external(model: Model, path: Path) -> dict[str, str]:
    """Bring every external data file beside ``path``; returns old -> new location for those renamed."""
    folder = model.folder or Path.cwd()
    moves: dict[str, str] = {}
    locations = dict.fromkeys(
        external_range(tensor).location for tensor in model_tensors(model.proto) if is_external(tensor)
    )
    for location in locations:
        source = resolve_location(folder, location, location)
        target = path.parent / location
        if target == path or (target.exists() and not target.samefile(source)):
            target = _free_name(path.parent / f"{path.name}.data", unless=source)
            moves[location] = target.name
        if not target.exists():
            _link_or_copy(source, target)
    return moves


def _relocate(proto: ModelProto, moves: dict[str, str]) -> None:
    for tensor in model_tensors(proto):
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value in moves:
                entry.value = moves[entry.value]


def _free_name(path: Path, *, unless: Path | None = None) -> Path:
    """A name that is not taken; or one that an earlier save has already linked to the file ``unless``."""
    candidate, number = path, 1
    while candidate.exists() and not (unless is not None and candidate.samefile(unless)):
        candidate = path.with_name(f"{path.name}-{number}")
        number += 1
    return candidate


def _link_or_copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without hard links: a copy does the same
        with source.open("rb") as reader, atomic_open(target) as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
