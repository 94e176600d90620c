from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtforge.digest import sha256_bytes
from trtforge.engines import kit as module
from trtforge.engines.key import engine_key
from trtforge.engines.kit import SUFFIX, KitInfo, read_kit, schema, write_kit
from trtforge.engines.kit_errors import KIT
from trtforge.engines.manifest import seal
from trtforge.errors.kit import KitDamaged, KitNotOpened, KitNotWritten, KitOfAnotherVersion, KitUnsafe

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

INFO = KitInfo(
    recipe_name="orin",
    engine="net",
    target="orin-agx-64gb/dla",
    backend="tensorrt",
    key=engine_key({"model": "b" * 64}),
    key_inputs={"model": "b" * 64},
    recipe={"precision": "int8"},
    facts={"origin": "package:x/y.onnx"},
)
FILES: dict[str, Path | bytes] = {"model.onnx": b"graph" * 1000, "scales/net.json": b"{}", "empty": b""}
NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,120}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,120})?", fullmatch=True)


def test_round_trip(tmp_path: Path) -> None:
    written = write_kit(tmp_path / "net.kit.tar.zst", FILES, INFO)
    assert read_kit(tmp_path / "net.kit.tar.zst", into=tmp_path / "out").info == written
    assert written.members["model.onnx"].sha256 == sha256_bytes(b"graph" * 1000)
    assert (tmp_path / "out" / "scales" / "net.json").read_bytes() == b"{}"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["empty", "model.onnx", "scales"]
    jsonschema.validate(written.to_json(), schema())


def test_any_tar_opens_it(tmp_path: Path) -> None:
    write_kit(tmp_path / "kit.tar.zst", FILES, INFO)
    with tarfile.open(fileobj=io.BytesIO(zstd.decompress((tmp_path / "kit.tar.zst").read_bytes()))) as archive:
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
    write_kit(folder / "a.tar.zst", dict(files), INFO)
    write_kit(folder / "b.tar.zst", on_disk, INFO)
    assert (folder / "a.tar.zst").read_bytes() == (folder / "b.tar.zst").read_bytes()
    assert read_kit(folder / "a.tar.zst").info.members.keys() == files.keys()


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "a/../b", "", ".hidden", "a/.b", KIT, "a\nb"])
def test_a_member_name_that_no_kit_has(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        write_kit(tmp_path / "kit.tar.zst", {name: b""}, INFO)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_write_leaves_no_kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KitNotWritten, match="No such file"):
        write_kit(tmp_path / "kit.tar.zst", {"model.onnx": tmp_path / "absent"}, INFO)
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
            write_kit(tmp_path / "kit.tar.zst", {"model.onnx": source}, INFO)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


# Kits that others made, or that a copy spoiled


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "kit.tar.zst"
    write_kit(path, {"a": b"x" * 700, "b": b"y"}, INFO)
    return path.read_bytes()


def repacked(sound: bytes, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(zstd.decompress(sound))) as archive:
        entries = [(entry, (archive.extractfile(entry) or io.BytesIO()).read()) for entry in archive]
    change(entries)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for entry, content in entries:
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return zstd.compress(out.getvalue())


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
    path = tmp_path / "kit.tar.zst"
    path.write_bytes(repacked(sound, change))
    for into in (None, tmp_path / "out"):
        with pytest.raises(expected):
            read_kit(path, into=into)
    assert [entry.name for entry in tmp_path.iterdir()] == ["kit.tar.zst"]


def test_what_lies_behind_the_end_is_refused(tmp_path: Path, sound: bytes) -> None:
    path = tmp_path / "kit.tar.zst"
    archive = zstd.decompress(sound)
    for appended in (b"more", bytes(15_000), bytes(10_240) + b"more"):
        for content in (zstd.compress(archive + appended), sound + appended, sound + zstd.compress(appended)):
            path.write_bytes(content)
            with pytest.raises(KitDamaged, match="behind its end"):
                read_kit(path)


@pytest.mark.parametrize("appended", [1 << 20, 1 << 30])
def test_a_bomb_behind_the_end_is_not_unpacked(tmp_path: Path, sound: bytes, appended: int) -> None:
    """A GiB of zeros in some kB: reading stops at once, with some MB of memory."""
    packer = zstd.ZstdCompressor()
    bomb = [packer.compress(zstd.decompress(sound))]
    bomb += [packer.compress(bytes(1 << 20)) for _ in range(appended >> 20)]
    path = tmp_path / "kit.tar.zst"
    path.write_bytes(b"".join([*bomb, packer.flush()]))
    assert path.stat().st_size < 200_000
    tracemalloc.start()
    try:
        with pytest.raises(KitDamaged, match="behind its end"):
            read_kit(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def bomb(path: Path, claimed: int, held: int) -> None:
    """A kit of one member of zeros: ``claimed`` bytes by `kit.json`, ``held`` by tar."""
    write_kit(path, {"zeros": b""}, INFO)
    with tarfile.open(fileobj=io.BytesIO(zstd.decompress(path.read_bytes()))) as archive:
        head = json.load(archive.extractfile(KIT))  # type: ignore[arg-type]
    digest = hashlib.sha256()
    for _ in range(claimed >> 20):
        digest.update(bytes(1 << 20))
    head["members"]["zeros"] = {"sha256": digest.hexdigest(), "size": claimed}
    head["seal"] = seal(head)
    packer = zstd.ZstdCompressor()
    pieces = []
    content = json.dumps(head).encode()
    for name, size, data in ((KIT, len(content), content), ("zeros", held, None)):
        entry = tarfile.TarInfo(name)
        entry.size = size
        pieces.append(packer.compress(entry.tobuf()))
        if data is not None:
            pieces.append(packer.compress(data.ljust(-(-size // 512) * 512, b"\0")))
        else:
            pieces += [packer.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    pieces.append(packer.compress(bytes(10_240)))
    path.write_bytes(b"".join([*pieces, packer.flush()]))


def test_a_kit_that_claims_to_hold_far_more_than_it_is_large_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "kit.tar.zst"
    bomb(path, 2 << 30, 2 << 20)  # the claim alone is enough
    for into in (None, tmp_path / "out"):
        with pytest.raises(KitUnsafe, match="not safe") as caught:
            read_kit(path, into=into)
        assert "claim to hold" in caught.value.why
    assert [file.name for file in tmp_path.iterdir()] == ["kit.tar.zst"]


def test_a_member_larger_than_the_kit_says_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "kit.tar.zst"
    bomb(path, 1 << 20, 64 << 20)
    with pytest.raises(KitDamaged, match=r"not one that kit\.json lists"):
        read_kit(path, into=tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["kit.tar.zst"]


def test_a_header_of_a_gigabyte_is_not_held_in_memory(tmp_path: Path) -> None:
    """tar's long names are read into memory whole: a gigabyte of them stops after some kB."""
    path = tmp_path / "kit.tar.zst"
    packer = zstd.ZstdCompressor()
    entry = tarfile.TarInfo("././@LongLink")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    pieces = [packer.compress(entry.tobuf()), *(packer.compress(b"a" * (1 << 20)) for _ in range(1 << 10))]
    path.write_bytes(b"".join([*pieces, packer.flush()]))
    tracemalloc.start()
    try:
        with pytest.raises(KitUnsafe, match="not safe"):
            read_kit(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_kit_that_does_not_fit_the_disk_is_said_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kit.tar.zst"
    write_kit(path, FILES, INFO)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=5000))
    with pytest.raises(KitNotWritten) as caught:
        read_kit(path, into=tmp_path / "out")
    assert "5,002 bytes; 5,000 are free" in caught.value.why
    assert [file.name for file in tmp_path.iterdir()] == ["kit.tar.zst"]


def forge(path: Path, changes: dict[str, Any]) -> None:
    """A kit without members whose `kit.json` says something else, under a seal that fits."""
    write_kit(path, {}, INFO)

    def forged(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        head = json.loads(entries[0][1]) | changes
        head["seal"] = seal(head)
        entries[0] = (entries[0][0], json.dumps(head).encode())

    path.write_bytes(repacked(path.read_bytes(), forged))


@pytest.mark.parametrize(
    "changes",
    [
        *({"engine": name} for name in ("../../x", "a b", "", ".a", "a\n")),
        *({"recipe_name": name} for name in ("../x", "", ".", "..", "/x", "a\0b", "a\x1b[2Jb", "a\nb")),
        {"key": "c" * 64},
    ],
)
def test_names_and_key_of_a_kit_are_not_taken_on_trust(tmp_path: Path, changes: dict[str, str]) -> None:
    path = tmp_path / "kit.tar.zst"
    forge(path, changes)
    with pytest.raises(KitDamaged):
        read_kit(path)


@pytest.mark.parametrize("name", ["größe", "net (1)", "a+b", "模型", "_base", ".hidden", "x" * 150])
def test_a_recipe_may_be_called_as_files_are(tmp_path: Path, name: str) -> None:
    write_kit(tmp_path / "kit.tar.zst", FILES, replace(INFO, recipe_name=name))
    assert read_kit(tmp_path / "kit.tar.zst").info.recipe_name == name


def test_a_member_name_of_very_many_folders_costs_no_time(tmp_path: Path) -> None:
    """Each of its folders spelled out would take minutes: before a signature is looked at, so anybody could ask it."""
    path = tmp_path / "kit.tar.zst"
    forge(path, {"members": {"/".join("a" * 100_000): {"sha256": "0" * 64, "size": 0}}})
    began = time.process_time()
    with pytest.raises(KitDamaged, match="damaged") as caught:
        read_kit(path)
    assert caught.value.why.startswith("the member 'a/a/a/") and len(caught.value.why) < 500
    assert time.process_time() - began < 5


def test_an_uncompressed_kit_of_an_older_trtforge_is_told(tmp_path: Path, sound: bytes) -> None:
    path = tmp_path / "kit.tar"
    path.write_bytes(zstd.decompress(sound))
    with pytest.raises(KitDamaged) as caught:
        read_kit(path)
    assert "older trtforge" in caught.value.why


def test_a_few_bytes_do_not_unpack_to_a_full_disk(tmp_path: Path) -> None:
    """A sparse member: 512 bytes in the archive, a megabyte of zeros with the right digest out of it."""
    path, size = tmp_path / "kit.tar.zst", 1 << 20
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
    path = tmp_path_factory.mktemp("damaged") / "kit.tar.zst"
    path.write_bytes(damaged)
    try:
        info = read_kit(path)
    except (KitDamaged, KitUnsafe) as error:
        assert error.why and error.next
    else:
        untouched = path.with_name("sound.tar.zst")
        untouched.write_bytes(sound)
        assert info == read_kit(untouched)


@pytest.mark.parametrize("data", [b"", b"not a tar", bytes(10240), os.urandom(5000)])
def test_what_is_no_kit(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "kit.tar.zst"
    path.write_bytes(data)
    with pytest.raises(KitDamaged):
        read_kit(path)


def test_an_absent_kit_and_a_taken_place(tmp_path: Path) -> None:
    with pytest.raises(KitNotOpened, match="cannot be opened") as absent:
        read_kit(tmp_path / "kit.tar.zst")
    assert absent.value.why == "No such file or directory" and "trtforge build RECIPE --kit" in absent.value.next
    write_kit(tmp_path / "kit.tar.zst", FILES, INFO)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("stays")
    with pytest.raises(KitNotWritten):
        read_kit(tmp_path / "kit.tar.zst", into=tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "stays"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kit.tar.zst", "out"]


def test_a_folder_is_no_name_for_a_kit(tmp_path: Path) -> None:
    with pytest.raises(KitNotWritten) as caught:
        write_kit(tmp_path, FILES, INFO)
    assert caught.value.next == f"write it elsewhere: --out {tmp_path}/net{SUFFIX}"
    assert list(tmp_path.iterdir()) == []


def test_a_member_that_is_the_folder_of_another(tmp_path: Path) -> None:
    path = tmp_path / "kit.tar.zst"
    write_kit(path, {"a": b"x", "a-c": b"z", "a.c": b"z", "a/b": b"y"}, INFO)  # by ASCII, others come between the two
    with pytest.raises(KitDamaged, match="damaged"):
        read_kit(path, into=tmp_path / "out")


def test_for_a_folder_the_kit_in_it_is_named(tmp_path: Path) -> None:
    inside = tmp_path / "host" / f"net{SUFFIX}"
    write_kit(inside, FILES, INFO)
    (tmp_path / f"a{SUFFIX}").mkdir()
    with pytest.raises(KitNotOpened, match="cannot be opened") as folder:
        read_kit(tmp_path)
    assert folder.value.why == "Is a directory"
    assert str(inside) in folder.value.next


def test_a_kit_of_a_later_schema_is_not_called_damaged(tmp_path: Path, sound: bytes) -> None:
    def later(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        members[0] = (members[0][0], b'{"schema": 3}')

    (tmp_path / "kit.tar.zst").write_bytes(repacked(sound, later))
    with pytest.raises(KitOfAnotherVersion) as caught:
        read_kit(tmp_path / "kit.tar.zst")
    assert "schema 3" in caught.value.why
