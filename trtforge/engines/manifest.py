"""The manifest: everything worth knowing about an engine, in `manifest.json` beside its files.

It says what the engine was built from (every input by digest), for which target and with which tools, what its
inputs and outputs are, how it was calibrated and what the check against the FP32 model gave. It decides whether an
engine is loaded, so it carries a seal over itself. Plans stay bare: nothing is ever put in front of their bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from trtforge.digest import canonical_json, sha256_bytes
from trtforge.engines.key import engine_key
from trtforge.engines.records import Doc, RecordError, from_json, json_schema, parse, to_json
from trtforge.errors.engine import ManifestChanged, ManifestUnreadable

if TYPE_CHECKING:
    from trtforge.backends.base import TensorSpec

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
SCHEMA_PATH = Path(__file__).with_name("manifest.schema.json")
MAX_BYTES = 64 << 20
"""A manifest lists each calibration sample (about 100 bytes); 64 MiB is far above any real one."""

Json = dict[str, Any]  # free-form: what another room says about its own work
_Digest = Annotated[str, Doc("Hex sha256", pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class FileRecord:
    """One file of the version folder."""

    sha256: _Digest
    size: Annotated[int, Doc("Bytes", minimum=0)]


@dataclass(frozen=True)
class TensorRecord:
    """One input or output of the engine."""

    name: Annotated[str, Doc("As in the ONNX model")]
    shape: Annotated[tuple[int | None, ...], Doc("Batch included; null: dynamic")]
    dtype: Annotated[str, Doc("numpy name of the element type, e.g. float32")]
    format: Annotated[str, Doc("Memory format: linear, chw4, dla_hwc4, ...")] = "linear"

    @classmethod
    def of(cls, spec: TensorSpec, format: str = "linear") -> TensorRecord:
        return cls(spec.name, tuple(spec.shape), spec.dtype, format)


@dataclass(frozen=True)
class BuiltFor:
    """What the engine runs on; loading compares it with the machine at hand."""

    key: Annotated[str, Doc("Target key of the recipe")]
    sm: Annotated[str | None, Doc('Compute capability such as "8.0"; null: no GPU')] = None
    isa: Annotated[tuple[str, ...], Doc("CPU instruction sets without which results would be wrong")] = ()
    dla_core: Annotated[int | None, Doc("DLA core; null: not on the DLA")] = None
    facts: Annotated[Json, Doc("The target's data sheet")] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelOrigin:
    """Where the ONNX model came from, so that the FP32 reference can be found again."""

    origin: Annotated[str, Doc("A path, `package:DISTRIBUTION/path`, or a URL")]
    sha256: _Digest


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """An engine version: what it is, what it was built from, and what its check against FP32 gave.

    A caller gives the fields without a default and those after ``recipe`` that apply; ``Store.publish`` fills in
    ``version``, ``created``, ``key``, ``engine_file``, ``files`` and ``seal``, whatever they held before.
    """

    schema: Annotated[int, Doc("Version of this format", const=SCHEMA_VERSION)] = SCHEMA_VERSION
    engine: Annotated[str, Doc("Name; also the name of the engine's folder")]
    version: Annotated[int, Doc("Also the name of the version folder", minimum=1)] = 0
    created: Annotated[str, Doc("UTC, ISO 8601, to the second")] = ""
    key: Annotated[str, Doc("Digest of key_inputs: the cache key", pattern="^[0-9a-f]{64}$")] = ""
    key_inputs: Annotated[Json, Doc("Every input that decides the engine's bytes, by name")]
    target: BuiltFor
    backend: Annotated[str, Doc("Compiler that made it: onnxruntime, tensorrt_rtx or tensorrt")]
    platform: Annotated[str, Doc("Triton's `platform`, e.g. tensorrt_plan")]
    tools: Annotated[Mapping[str, str], Doc("Versions of the tools that made it")]
    model: ModelOrigin
    recipe: Annotated[Json, Doc("The engine's recipe after extends, variables and overrides")]
    inputs: Annotated[tuple[TensorRecord, ...], Doc("In the engine's order")]
    outputs: Annotated[tuple[TensorRecord, ...], Doc("In the engine's order")]
    engine_file: Annotated[str, Doc("The file a runtime opens; one of `files`")] = ""
    files: Annotated[Mapping[str, FileRecord], Doc("Every file of the version folder but the manifest")] = field(
        default_factory=dict
    )
    surgery: Annotated[tuple[Json, ...], Doc("Per pass: what it changed, or why it did not apply")] = ()
    plugins: Annotated[
        tuple[Json, ...],
        Doc("TensorRT plugins in the engine: name, version, namespace, digest of the kernels' source, fields per node"),
    ] = ()
    calibration: Annotated[Json | None, Doc("Receipt of the scales; null: not INT8")] = None
    parity: Annotated[
        Json | None,
        Doc("Check against FP32: metric, value, at_least, passed, where measured; null: not measured"),
    ] = None
    report: Annotated[Json, Doc("The compiler's own facts")] = field(default_factory=dict)
    seal: Annotated[str, Doc("Digest of every other field", pattern="^[0-9a-f]{64}$")] = ""

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = to_json(self)
        return value

    def sealed(self) -> Manifest:
        """The same manifest with its key and seal computed. Raises ValueError, TypeError for what JSON cannot say."""
        keyed = replace(self, key=engine_key(self.key_inputs))
        as_read_back = json.loads(canonical_json(keyed.to_json()))  # JSON turns 1 into "1" where it is a key
        return from_json(Manifest, as_read_back | {"seal": seal(as_read_back)})


def schema() -> dict[str, Any]:
    """The JSON Schema of `manifest.json`; committed as `manifest.schema.json`."""
    return json_schema(Manifest, id="urn:trtforge:manifest:1", title="trtforge engine manifest")


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest by itself: JSON, shape, seal and key. Raises ENG108, ENG109.

    Whether the files beside it are the ones it lists is for :mod:`trtforge.engines.load`.
    """
    value = _read_object(path)
    made_by = value.get("schema")
    if made_by != SCHEMA_VERSION:
        raise _unreadable(path, f"it has manifest schema {made_by!r}; this trtforge reads schema {SCHEMA_VERSION}")
    try:
        manifest = from_json(Manifest, value)
        expected = seal(value)
    except (RecordError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    if manifest.seal != expected or manifest.key != engine_key(manifest.key_inputs):
        raise ManifestChanged(
            f"the manifest of {manifest.engine} was changed after the engine was published",
            where=str(path),
            why=f"its seal is {manifest.seal[:12]}, the rest of it digests to {expected[:12]}",
            next="restore the version folder from where it was copied, or run `trtforge build` again",
        )
    _check_names(manifest, path)
    return manifest


def _read_object(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise _unreadable(path, "there is no manifest.json in the folder") from error
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    if len(data) > MAX_BYTES:
        raise _unreadable(path, f"it is larger than {MAX_BYTES >> 20} MiB")
    try:
        value = parse(data)
    except RecordError as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(value, dict):
        raise _unreadable(path, "it is JSON, but not an object")
    return value


def _check_names(manifest: Manifest, path: Path) -> None:
    # File names are joined to the version folder: a name that leaves it must never be followed.
    for name in manifest.files:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
            raise _unreadable(path, f"files[{name!r}]: not a plain file name")
    if manifest.engine_file not in manifest.files:
        raise _unreadable(path, f"engine_file {manifest.engine_file!r} is not one of its files")


def seal(value: Mapping[str, Any]) -> str:
    """Digest of every field of a JSON object but `seal` itself: finds edits and damage, is no signature."""
    return sha256_bytes(canonical_json({key: item for key, item in value.items() if key != "seal"}).encode())


def _unreadable(path: Path, why: str) -> ManifestUnreadable:
    return ManifestUnreadable(
        "the manifest of an engine cannot be read",
        where=str(path),
        why=why,
        next="copy the whole version folder again, or run `trtforge build` again",
    )


if __name__ == "__main__":
    from trtforge.files import write_json

    write_json(SCHEMA_PATH, schema())
