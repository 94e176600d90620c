from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtforge.digest import sha256_bytes
from trtforge.engines import kit as module
from trtforge.engines.kit import KIT, KitInfo, read_kit, schema, write_kit
from trtforge.errors.engine import KitDamaged, KitNotWritten, KitUnsafe

INFO = KitInfo(
    engine="net",
    target="orin-agx-64gb/dla",
    backend="tensorrt",
    key="a" * 64,
    key_inputs={"model": "b" * 64},
    recipe={"precision": "int8"},
    facts={"origin": "package:x/y.onnx"},
)
FILES: dict[str, Path | bytes] = {"model.onnx": b"graph" * 1000, "scales/net.json": b"{}", "empty": b""}
NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,120}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,120})?", fullmatch=True)


def test_round_trip(tmp_path: Path) -> None:
    written = write_kit(tmp_path / "net.kit.tar", FILES, INFO)
    assert read_kit(tmp_path / "net.kit.tar", into=tmp_path / "out") == written
    assert written.members["model.onnx"].sha256 == sha256_bytes(b"graph" * 1000)
    assert (tmp_path / "out" / "scales" / "net.json").read_bytes() == b"{}"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["empty", "model.onnx", "scales"]
    jsonschema.validate(written.to_json(), schema())


def test_any_tar_opens_it(tmp_path: Path) -> None:
    write_kit(tmp_path / "kit.tar", FILES, INFO)
    with tarfile.open(tmp_path / "kit.tar") as archive:
        assert archive.getnames() == [KIT, "empty", "model.onnx", "scales/net.json"]
        assert {(entry.mtime, entry.uid, entry.gid, entry.uname, entry.mode) for entry in archive} == {
            (0, 0, 0, "", 0o644)
        }
        head = archive.extractfile(KIT)
        assert head is not None and json.load(head)["engine"] == "net"


@settings(max_examples=50, deadline=None)
@given(files=st.dictionaries(NAMES, st.binary(max_size=2000), max_size=6), mtime=st.integers(0, 2**31))
def test_equal_content_gives_equal_bytes(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], mtime: int
) -> None:
    folder = tmp_path_factory.mktemp("kit")
    on_disk: dict[str, Path | bytes] = {}
    for number, (name, content) in enumerate(reversed(files.items())):
        path = folder / f"source{number}"
        path.write_bytes(content)
        os.utime(path, (mtime, mtime))
        path.chmod(0o600)
        on_disk[name] = path
    write_kit(folder / "a.tar", dict(files), INFO)
    write_kit(folder / "b.tar", on_disk, INFO)
    assert (folder / "a.tar").read_bytes() == (folder / "b.tar").read_bytes()
    assert read_kit(folder / "a.tar").members.keys() == files.keys()


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "a/../b", "", ".hidden", "a/.b", KIT, "a\nb"])
def test_a_member_name_that_no_kit_has(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        write_kit(tmp_path / "kit.tar", {name: b""}, INFO)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_write_leaves_no_kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KitNotWritten, match="No such file"):
        write_kit(tmp_path / "kit.tar", {"model.onnx": tmp_path / "absent"}, INFO)
    source = tmp_path / "source"
    source.write_bytes(b"a" * 5000)
    record = module._record

    def changed_later(file: Path | bytes) -> Any:
        found = record(file)
        source.write_bytes(b"b" * 5000)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(module, "_record", changed_later)
        with pytest.raises(KitNotWritten, match="changed while it was read"):
            write_kit(tmp_path / "kit.tar", {"model.onnx": source}, INFO)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


# Kits that others made, or that a copy spoiled


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "kit.tar"
    write_kit(path, {"a": b"x" * 700, "b": b"y"}, INFO)
    return path.read_bytes()


def repacked(sound: bytes, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(sound)) as archive:
        entries = [(entry, (archive.extractfile(entry) or io.BytesIO()).read()) for entry in archive]
    change(entries)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for entry, content in entries:
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def entry(name: str, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(made, field, value)
    return made, b""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda entries: entries.pop(), KitDamaged),
        (lambda entries: entries.pop(0), KitDamaged),
        (lambda entries: entries.clear(), KitDamaged),
        (lambda entries: entries.append(entry("c")), KitDamaged),
        (lambda entries: entries.append(entries[1]), KitDamaged),
        (lambda entries: entries.insert(0, entries[1]), KitDamaged),
        (lambda entries: entries.__setitem__(1, (entries[1][0], b"z" * 700)), KitDamaged),
        (lambda entries: entries.__setitem__(1, (entries[1][0], b"x" * 701)), KitDamaged),
        (lambda entries: entries.__setitem__(0, (entries[0][0], b"{}")), KitDamaged),
        (lambda entries: entries.__setitem__(0, (entries[0][0], b"not JSON")), KitDamaged),
        (lambda entries: entries.__setitem__(0, (entries[0][0], entries[0][1].replace(b"orin", b"Orin"))), KitDamaged),
        (lambda entries: entries.append(entry("../escape")), KitUnsafe),
        (lambda entries: entries.append(entry("/etc/cron.d/x")), KitUnsafe),
        (lambda entries: entries.append(entry("a/../../x")), KitUnsafe),
        (lambda entries: entries.append(entry("link", type=tarfile.SYMTYPE, linkname="/etc/passwd")), KitUnsafe),
        (lambda entries: entries.append(entry("hard", type=tarfile.LNKTYPE, linkname="a")), KitUnsafe),
        (lambda entries: entries.append(entry("device", type=tarfile.CHRTYPE)), KitUnsafe),
        (lambda entries: entries.append(entry("fifo", type=tarfile.FIFOTYPE)), KitUnsafe),
        (lambda entries: entries.append(entry("folder", type=tarfile.DIRTYPE)), KitUnsafe),
    ],
)
def test_a_repacked_kit_is_refused_and_leaves_nothing(
    tmp_path: Path, sound: bytes, change: Any, expected: type[Exception]
) -> None:
    path = tmp_path / "kit.tar"
    path.write_bytes(repacked(sound, change))
    for into in (None, tmp_path / "out"):
        with pytest.raises(expected):
            read_kit(path, into=into)
    assert [entry.name for entry in tmp_path.iterdir()] == ["kit.tar"]


def test_what_lies_behind_the_end_is_refused(tmp_path: Path, sound: bytes) -> None:
    path = tmp_path / "kit.tar"
    for padding in (0, 100_000):
        path.write_bytes(sound + bytes(padding) + b"appended")
        with pytest.raises(KitDamaged, match="behind its end"):
            read_kit(path)


def test_a_few_bytes_do_not_unpack_to_a_full_disk(tmp_path: Path) -> None:
    """A sparse member: 512 bytes in the archive, a megabyte of zeros with the right digest out of it."""
    path, size = tmp_path / "kit.tar", 1 << 20
    write_kit(path, {"zeros": bytes(size)}, INFO)

    def hollow(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        header = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(size)}
        made, _ = entry("zeros", pax_headers={**header, "GNU.sparse.name": "zeros"})
        entries[1] = (made, b"0\n".ljust(512, b"\0"))

    path.write_bytes(repacked(path.read_bytes(), hollow))
    assert path.stat().st_size < size / 10
    with pytest.raises(KitUnsafe, match="not safe"):
        read_kit(path, into=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damage_ends_in_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, sound: bytes, data: st.DataObject
) -> None:
    """Cut anywhere, or with one byte changed, a kit is refused or (in tar's padding) says the same as before."""
    place = data.draw(st.integers(0, len(sound) - 1))
    if data.draw(st.booleans()):
        damaged = sound[:place]
    else:
        changed = bytearray(sound)
        changed[place] = data.draw(st.integers(0, 255))
        damaged = bytes(changed)
    path = tmp_path_factory.mktemp("damaged") / "kit.tar"
    path.write_bytes(damaged)
    try:
        info = read_kit(path)
    except (KitDamaged, KitUnsafe) as error:
        assert error.why and error.next
    else:
        untouched = path.with_name("sound.tar")
        untouched.write_bytes(sound)
        assert info == read_kit(untouched)


@pytest.mark.parametrize("data", [b"", b"not a tar", bytes(10240), os.urandom(5000)])
def test_what_is_no_kit(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "kit.tar"
    path.write_bytes(data)
    with pytest.raises(KitDamaged):
        read_kit(path)


def test_an_absent_kit_and_a_taken_place(tmp_path: Path) -> None:
    with pytest.raises(KitDamaged, match="No such file"):
        read_kit(tmp_path / "kit.tar")
    write_kit(tmp_path / "kit.tar", FILES, INFO)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("stays")
    with pytest.raises(KitNotWritten):
        read_kit(tmp_path / "kit.tar", into=tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "stays"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kit.tar", "out"]
