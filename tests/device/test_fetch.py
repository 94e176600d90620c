"""What a device may send as an engine; nothing of it is believed."""

from __future__ import annotations

import io
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from trtforge.device import fetch as module
from trtforge.device.address import Address
from trtforge.device.fetch import fetch
from trtforge.errors.device import NotUnderstood
from trtforge.errors.engine import ManifestUnreadable
from trtforge.errors.environment import FileRefused
from trtforge.progress import QUIET

MANIFEST = {"name": "manifest.json", "size": 2}


class Sender:
    """A link whose device answers `fetch` with this header."""

    name, address = "orin", Address("orin")

    def __init__(self, header: Any) -> None:
        self.header = header

    @contextmanager
    def content(self, *words: str) -> Iterator[tuple[Any, Any]]:
        yield self.header, io.BytesIO(b"{}" + b"x" * 100)


def fetched(header: Any, folder: Path) -> Any:
    return fetch("0" * 64, cast(Any, SimpleNamespace(name="net")), cast(Any, Sender(header)), folder, QUIET)


def of(*files: Any, **other: Any) -> dict[str, Any]:
    return {"engine": "net", "version": 1, "files": list(files)} | other


@pytest.mark.parametrize(
    "header",
    [
        None,
        [],
        {},
        of(),
        of(MANIFEST, engine="other"),
        of(MANIFEST, version=-5),
        of(MANIFEST, version="../1"),
        of("manifest.json"),
        of({"name": "model.onnx", "size": 2}),
        of(MANIFEST, {"name": "..", "size": 2}),
        of(MANIFEST, {"name": ".", "size": 2}),
        of(MANIFEST, {"name": "", "size": 2}),
        of(MANIFEST, {"name": "../../x", "size": 2}),
        of(MANIFEST, {"name": ".bashrc", "size": 2}),
        of(MANIFEST, {"name": "a\nb", "size": 2}),
        of(MANIFEST, {"name": ["x"], "size": 2}),
        of(MANIFEST, MANIFEST),
        of(MANIFEST, {"name": "x", "size": -5}),
        of(MANIFEST, {"name": "x", "size": True}),
        of(MANIFEST, {"name": "x", "size": 1.5}),
        of(MANIFEST, {"name": "x", "size": "5"}),
        of(MANIFEST, {"name": "x", "size": 1 << 50}),
    ],
)
def test_what_no_engine_looks_like_is_refused_before_anything_is_written(header: Any, tmp_path: Path) -> None:
    with pytest.raises(NotUnderstood):
        fetched(header, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_looks_like_one_is_read_as_one(tmp_path: Path) -> None:
    with pytest.raises(ManifestUnreadable):
        fetched(of(MANIFEST, {"name": "x", "size": 5}), tmp_path)
    assert (tmp_path / "fetched/net/1/x").read_bytes() == b"xxxxx"


def test_an_engine_for_which_there_is_no_room_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda place: usage(6))
    with pytest.raises(FileRefused, match="too little room"):
        fetched(of(MANIFEST, {"name": "x", "size": 5}), tmp_path)
    assert list(tmp_path.iterdir()) == []
