from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from trtforge.engines.manifest import BuiltFor, Manifest, ModelOrigin, TensorRecord
from trtforge.engines.store import EngineVersion, Store


@pytest.fixture
def make_manifest() -> Callable[..., Manifest]:
    """A manifest as the pipeline hands it to a publish; `seed` decides its key."""

    def make(seed: int = 0, **changes: Any) -> Manifest:
        fields: dict[str, Any] = {
            "engine": "net",
            "key_inputs": {"model": "0" * 64, "seed": seed},
            "target": BuiltFor(key="host"),
            "backend": "onnxruntime",
            "platform": "onnxruntime_onnx",
            "tools": {"onnxruntime": "1.32.0"},
            "model": ModelOrigin("package:somewhere/net.onnx", "a" * 64),
            "recipe": {"precision": "int8"},
            "inputs": (TensorRecord("input:0", (1, 224, 224, 3), "float32"),),
            "outputs": (TensorRecord("outputs", (1, 2), "float32"),),
        }
        return Manifest(**fields | changes)

    return make


@pytest.fixture
def publish(tmp_path: Path, make_manifest: Callable[..., Manifest]) -> Callable[..., EngineVersion]:
    """Publish an engine of one small file."""

    def publish(
        store: Store, seed: int = 0, *, content: bytes = b"engine", engine: str = "net", **changes: Any
    ) -> EngineVersion:
        built = tmp_path / "built"
        built.write_bytes(content)
        name = "model.plan" if changes.get("platform") == "tensorrt_plan" else "model.onnx"
        return store.publish(engine, {name: built}, make_manifest(seed, **changes))

    return publish


@pytest.fixture
def rtx_plan() -> Callable[..., bytes]:
    """Bytes with the header of a TensorRT-RTX plan. `mask`: bit 1 is SM 8.0, bit 2 is SM 8.6."""

    def plan(mask: int = 0b10, version: tuple[int, int, int, int] = (1, 7, 1, 116), size: int = 0x200) -> bytes:
        data = bytearray(size)
        data[0:4] = data[0x1C:0x20] = b"vtrt"
        struct.pack_into("<QQ", data, 0x08, 2, size)
        data[0x18:0x1C] = bytes(version)
        struct.pack_into("<Q", data, 0x20, mask)
        for entry in (0x40, 0x58):
            struct.pack_into("<QQ", data, entry + 8, 0x74, 16)
        return bytes(data)

    return plan


class Recorder:
    """A progress that remembers what was said."""

    def __init__(self) -> None:
        self.logs: list[str] = []
        self.warnings: list[str] = []

    @contextmanager
    def task(self, label: str, total: int | None) -> Iterator[Any]:
        yield self

    def advance(self, steps: int = 1) -> None: ...

    def note(self, text: str) -> None: ...

    def log(self, message: str) -> None:
        self.logs.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()
