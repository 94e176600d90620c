from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trtforge.digest import sha256_bytes
from trtforge.engines import state as states
from trtforge.engines import store as store_module
from trtforge.engines.config_pbtxt import render
from trtforge.engines.manifest import Manifest, TensorRecord
from trtforge.engines.store import EngineVersion, Store
from trtforge.engines.store_errors import explained
from trtforge.errors.engine import (
    EngineNotFound,
    ManifestChanged,
    NotServable,
    StoreFull,
    StoreNotAFolder,
    StoreReadOnly,
    StoreUnreadable,
)
from trtforge.errors.environment import refusal
from trtforge.files import without_temporary_name

Publish = Callable[..., EngineVersion]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_layout_is_a_triton_repository(store: Store, publish: Publish) -> None:
    version = publish(store, content=b"the engine")
    assert version.path == store.root / "net" / "1"
    assert sorted(path.name for path in version.path.iterdir()) == ["manifest.json", "model.onnx"]
    assert version.engine_file.read_bytes() == b"the engine"
    assert version.manifest.files["model.onnx"].sha256 == sha256_bytes(b"the engine")
    assert version.manifest.created.endswith("Z")
    assert 'name: "net"' in (store.root / "net" / "config.pbtxt").read_text()
    # Triton takes every folder in the root for a model, hidden or not.
    assert [path.name for path in store.root.iterdir() if path.is_dir()] == ["net"]


def test_reading_an_absent_store_creates_nothing(store: Store) -> None:
    assert store.engines() == []
    assert store.find("net", "0" * 64) is None
    with pytest.raises(EngineNotFound):
        store.latest("net")
    assert not store.root.exists()


def test_get_latest_and_references(store: Store, publish: Publish) -> None:
    for seed in range(11):
        publish(store, seed)
    publish(store, 0, engine="other")
    assert store.latest("net").version == 11  # not "9", as text would sort
    assert store.get("net", 3).version == 3
    assert store.engines() == ["net", "other"]
    assert store.references()[:2] == ["net/11", "net/10"]
    with pytest.raises(EngineNotFound) as caught:
        store.get("net", 12)
    assert "net/12" in caught.value.what and "net/11" in caught.value.why
    with pytest.raises(EngineNotFound) as caught:
        store.latest("nett")
    assert f"did you mean {store.root}/net?" in caught.value.next


def test_one_version_of_many_is_read_without_looking_at_the_others(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`inspect STORE` reads each: with a look at all of them for each, hundreds of versions took seconds."""
    for _ in range(5):
        publish(store)
    looked: list[Path] = []
    is_file = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda path: looked.append(path) or is_file(path))
    assert store.get("net", 3).version == 3
    assert {path.parent.name for path in looked} == {"3"}


def test_a_folder_without_a_manifest_or_with_an_odd_name_is_no_version(store: Store, publish: Publish) -> None:
    publish(store)
    for name in ("7", "007", "0", "8x", "-3"):
        (store.root / "net" / name).mkdir()
    (store.root / "net" / "007" / "manifest.json").write_text("{}")
    assert store.versions("net") == [1]
    assert publish(store).version == 8  # 7 is taken, whatever it is


@pytest.mark.parametrize("deleted", ["net/3", "net"])
def test_a_number_is_never_used_again(store: Store, publish: Publish, deleted: str) -> None:
    for _ in range(3):
        publish(store)
    shutil.rmtree(store.root / deleted)
    assert publish(store).version == 4


def test_numbering_goes_on_when_the_notes_are_lost(store: Store, publish: Publish) -> None:
    publish(store)
    (store.root / states.STATE).unlink()
    assert publish(store).version == 2


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 1}', '{"schema": 2, "engines": {}}', "[" * 100_000])
def test_damaged_notes_are_an_error(store: Store, publish: Publish, text: str) -> None:
    publish(store)
    (store.root / states.STATE).write_text(text)
    with pytest.raises(StoreUnreadable) as caught:
        publish(store)
    assert states.STATE in caught.value.where


def test_find_by_key(store: Store, publish: Publish, make_manifest: Callable[..., Manifest]) -> None:
    first, second, again = publish(store, 1), publish(store, 2), publish(store, 1)
    assert first.manifest.key == again.manifest.key != second.manifest.key
    found = store.find("net", first.manifest.key)
    assert found is not None and found.version == 3
    assert store.find("net", make_manifest(99).sealed().key) is None
    assert store.find("other", first.manifest.key) is None


def test_a_damaged_version_is_not_found_and_an_older_whole_one_is(store: Store, publish: Publish) -> None:
    key = publish(store).manifest.key
    newest = publish(store)
    newest.engine_file.write_bytes(b"cut")
    found = store.find("net", key)
    assert found is not None and found.version == 1
    found.engine_file.unlink()
    assert store.find("net", key) is None
    (newest.path / "manifest.json").write_text(f"not JSON, but it has {key}")
    assert store.find("net", key) is None


def test_a_renamed_version_is_refused(store: Store, publish: Publish) -> None:
    version = publish(store)
    version.path.rename(version.path.with_name("5"))
    with pytest.raises(ManifestChanged, match="net/5 holds the engine net/1"):
        store.get("net", 5)
    assert store.find("net", version.manifest.key) is None


@pytest.mark.parametrize("name", ["../e", "a/b", "/e", "", ".", "..", ".hidden", "e\n"])
def test_a_name_that_leaves_the_store_writes_nothing(store: Store, publish: Publish, name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        publish(store, engine=name)
    assert not store.root.exists() and not (store.root.parent / "e").exists()


def test_config_follows_the_newest_version(store: Store, publish: Publish) -> None:
    publish(store)
    newest = publish(store, 1, outputs=(TensorRecord("outputs", (8, 2), "float16"),))
    text = (store.root / "net" / "config.pbtxt").read_text()
    assert text == render(newest.manifest)
    assert "dims: [8, 2]" in text


def test_an_edited_config_is_kept_and_said(store: Store, publish: Publish, recorder: Any, tmp_path: Path) -> None:
    first = publish(store)
    config = store.root / "net" / "config.pbtxt"
    config.write_text(config.read_text() + "dynamic_batching { }\n")
    store.publish("net", {"model.onnx": first.engine_file}, first.manifest, progress=recorder)
    assert config.read_text().endswith("dynamic_batching { }\n")
    assert any("edited by hand" in warning for warning in recorder.warnings)
    config.unlink()
    publish(store)
    assert config.read_text() == render(first.manifest)


def test_an_unservable_dtype_publishes_nothing(store: Store, publish: Publish) -> None:
    with pytest.raises(NotServable, match="float8"):
        publish(store, outputs=(TensorRecord("outputs", (1,), "float8_e4m3fn"),))
    assert not store.root.exists()


# What a file system can do to a store


def test_store_path_is_a_file(tmp_path: Path, publish: Publish) -> None:
    (tmp_path / "store").write_text("I was here first")
    store = Store(tmp_path / "store")
    with pytest.raises(StoreNotAFolder) as caught:
        publish(store)
    assert str(tmp_path / "store") in caught.value.where and "--store" in caught.value.next
    with pytest.raises(StoreNotAFolder) as caught:
        Store(tmp_path / "store" / "deeper").engines()
    assert f"move {tmp_path / 'store'} away" in caught.value.next
    with pytest.raises(StoreNotAFolder):
        store.engines()
    with pytest.raises(StoreNotAFolder), store.build_lock("net"):
        pass


def test_a_file_where_the_engine_belongs(store: Store, publish: Publish) -> None:
    publish(store)
    (store.root / "other").write_text("")
    assert store.engines() == ["net"]
    with pytest.raises(StoreNotAFolder):
        publish(store, engine="other")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], check=False, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"mounting needs privileges: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_disk_full(small_disk: Path, publish: Publish) -> None:
    store = Store(small_disk / "store")
    key = publish(store, content=b"a" * 100_000).manifest.key
    with pytest.raises(StoreFull) as caught:
        publish(store, 1, content=b"b" * 600_000)
    assert "585.9 KiB are needed, 4" in caught.value.why
    assert store.versions("net") == [1] and store.find("net", key) is not None
    assert not (store.root / "net" / ".staging").exists()
    assert publish(store, 1, content=b"c" * 100_000).version in (2, 3)


def test_read_only_file_system(small_disk: Path, publish: Publish) -> None:
    store = Store(small_disk / "store")
    key = publish(store).manifest.key
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert store.find("net", key) is not None  # reading needs no lock and writes nothing
    with pytest.raises(StoreReadOnly) as caught:
        publish(store)
    assert "--store" in caught.value.next
    with pytest.raises(StoreReadOnly), store.build_lock("net"):
        pass


@pytest.mark.parametrize(
    ("number", "expected"),
    [(28, StoreFull), (122, StoreFull), (30, StoreReadOnly), (13, StoreReadOnly), (5, StoreUnreadable)],
)
def test_a_failing_sync_leaves_nothing(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[Exception]
) -> None:
    """The same without privileges: the system call that first hears of a full disk on many file systems fails."""
    publish(store)

    def fail(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(store_module.os, "fsync", fail)
        with pytest.raises(expected):
            publish(store, 1)
        with pytest.raises(expected):
            publish(store, 1, engine="new")
    assert store.versions("net") == [1] and store.engines() == ["net"]
    assert not (store.root / "net" / ".staging").exists() and not (store.root / "new").exists()
    assert publish(store, 1).version >= 2


# Interruptions


class Killed(BaseException):
    """Stands for a kill: nothing in trtforge catches it."""


@pytest.mark.parametrize("first", [True, False], ids=["first version", "later version"])
@pytest.mark.parametrize("survives", range(5))
def test_a_kill_at_each_step_is_healed(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch, first: bool, survives: int
) -> None:
    """Stop a publish after each of its writes, without any clean-up, and see the next one repair the store."""
    if not first:
        publish(store, 0)
    steps = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal steps
            if steps >= survives:
                raise Killed
            steps += 1
            return function(*args, **kwargs)

        return wrapper

    with monkeypatch.context() as patch:
        patch.setattr(store_module.states, "write", counted(states.write))
        patch.setattr(store_module, "write_text", counted(store_module.write_text))
        patch.setattr(Path, "rename", counted(Path.rename))
        patch.setattr(store_module, "_sync", counted(store_module._sync))
        patch.setattr(store_module.shutil, "rmtree", lambda *args, **kwargs: None)
        with pytest.raises(Killed):
            publish(store, 1, outputs=(TensorRecord("outputs", (4, 2), "float32"),))
    before = store.versions("net")
    with store.build_lock("net"):
        pass
    assert store.versions("net") == before
    config = store.root / "net" / "config.pbtxt"
    if before:
        assert config.read_text() == render(store.latest("net").manifest)
    newest = publish(store, 2)
    assert newest.version > max(before, default=0)
    assert config.read_text() == render(newest.manifest)
    assert store.find("net", newest.manifest.key) is not None


PUBLISHER = """
import sys
from dataclasses import replace
from pathlib import Path
from trtforge.engines.manifest import BuiltFor, Manifest, ModelOrigin, TensorRecord
from trtforge.engines.store import Store

store, built, count = Store(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
for seed in range(count):
    manifest = Manifest(
        engine="net", key_inputs={"seed": seed}, target=BuiltFor("host"), backend="onnxruntime",
        platform="onnxruntime_onnx", tools={}, model=ModelOrigin("net.onnx", "a" * 64), recipe={}, inputs=(),
        outputs=(TensorRecord("outputs", (seed % 3 + 1,), "float32"),),
    )
    print(store.publish("net", {"model.onnx": built, "weights.bin": built}, manifest).version, flush=True)
"""


def start_publisher(store: Store, built: Path, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, str(store.root), str(built), str(count)], stdout=subprocess.PIPE, text=True
    )


def test_sigkill_at_random_points(store: Store, publish: Publish, tmp_path: Path) -> None:
    """Whatever a kill interrupts: every visible version is whole, no number is used twice, and publishing goes on."""
    built = tmp_path / "big"
    built.write_bytes(os.urandom(1 << 20))
    told: list[int] = []
    for attempt in range(15):
        with start_publisher(store, built, 10_000) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            timer = threading.Timer(0.004 + 0.009 * attempt, process.kill)
            timer.start()
            told += [int(line) for line in process.stdout if line.endswith("\n")]
            timer.cancel()
        for number in store.versions("net"):
            version = store.get("net", number)  # sealed and readable
            assert version.manifest.files.keys() == {"model.onnx", "weights.bin"}
            for name, record in version.manifest.files.items():
                assert sha256_bytes((version.path / name).read_bytes()) == record.sha256
        assert set(told) <= set(store.versions("net"))
    assert told == sorted(set(told)) and told, "each number once, growing"
    newest = publish(store)
    assert newest.version > max(told)
    assert (store.root / "net" / "config.pbtxt").read_text() == render(newest.manifest)
    assert not (store.root / "net" / ".staging").exists()


def test_publishes_at_once(store: Store, tmp_path: Path) -> None:
    built = tmp_path / "built"
    built.write_bytes(b"engine")
    processes = [start_publisher(store, built, 5) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    for process in processes:
        assert process.stdout is not None
        process.stdout.close()
    assert store.versions("net") == list(range(1, 16))


HOLDER = """
import sys
from pathlib import Path
from trtforge.engines.store import Store

with Store(Path(sys.argv[1])).build_lock("net"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("ends_by", ["release", "kill"])
def test_the_second_build_waits_and_says_so(store: Store, recorder: Any, ends_by: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "held\n"
        entered = threading.Event()

        def build() -> None:
            with store.build_lock("net", progress=recorder):
                entered.set()

        with store.build_lock("other"):  # another engine does not wait
            pass
        thread = threading.Thread(target=build)
        thread.start()
        assert not entered.wait(0.3)
        if ends_by == "kill":
            process.kill()
        else:
            process.stdin.close()
        thread.join(30)
    assert entered.is_set()
    assert recorder.logs == [f"another process is building 'net' in {store.root}; waiting for it"]


def test_looking_up_an_engine_imports_nothing_heavy(store: Store, publish: Publish) -> None:
    key = publish(store).manifest.key
    code = (
        "import json, sys; from pathlib import Path; from trtforge.engines.store import Store\n"
        f"assert Store(Path({str(store.root)!r})).find('net', {key!r}) is not None\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numpy", "onnx", "onnxruntime", "pydantic", "filelock", "jsonschema", "rich", "typer"}
    assert heavy.isdisjoint(json.loads(done.stdout))


def test_an_engine_that_may_not_be_read_is_not_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(StoreUnreadable) as caught, explained(tmp_path, "read the engine net/1"):
        raise PermissionError(13, "Permission denied", str(tmp_path / "model.onnx"))
    assert "written" not in str(caught.value)
    assert caught.value.next == f"make it readable for you: ls -l {tmp_path / 'model.onnx'}"


def test_messages_name_the_file_and_not_its_temporary_neighbour() -> None:
    assert without_temporary_name("/a/.my-net.scales.json.67u0faix.tmp") == "/a/my-net.scales.json"
    assert without_temporary_name("/a/.hidden.json") == "/a/.hidden.json"


def test_a_refused_cache_is_called_by_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))
    error = refusal(OSError(30, "Read-only file system", str(tmp_path / "cache/work")))
    assert error is not None and "TRTFORGE_CACHE" in error.why and "TRTFORGE_CACHE" in error.next
    elsewhere = refusal(OSError(13, "Permission denied", "/elsewhere/.out.json.abcd1234.tmp"))
    assert elsewhere is not None and elsewhere.where == "/elsewhere/out.json"
    assert "TRTFORGE_CACHE" not in elsewhere.why
