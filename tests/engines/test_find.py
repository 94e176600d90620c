from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trtforge.engines.find import find_engine
from trtforge.engines.store import EngineVersion, Store
from trtforge.errors.engine import EngineAmbiguous, EngineNotFound, ManifestUnreadable

Publish = Callable[..., EngineVersion]


@pytest.fixture
def stores(tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> Path:
    """engines/host/{net/1,net/2,cam/1} and engines/a100/net/1, seen from the folder above."""
    monkeypatch.chdir(tmp_path)
    host, a100 = Store(Path("engines/host")), Store(Path("engines/a100"))
    publish(host), publish(host), publish(host, engine="cam"), publish(a100)
    return Path("engines")


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("engines/host/net", "host/net/2"),
        ("engines/host/net/", "host/net/2"),
        ("./engines/host/net/1", "host/net/1"),
        ("engines/host/net/1/model.onnx", "host/net/1"),
        ("engines/host/net/1/manifest.json", "host/net/1"),
        ("engines/a100", "a100/net/1"),
        ("engines/a100/../host/net", "host/net/2"),
        ("cam", "host/cam/1"),
        ("cam/1", "host/cam/1"),
        ("host/net", "host/net/2"),
        ("host/net/1", "host/net/1"),
        ("a100/net", "a100/net/1"),
    ],
)
def test_references(stores: Path, reference: str, found: str) -> None:
    for given in (reference, Path(reference)):
        assert find_engine(given).path.resolve() == (stores / found).resolve()


def test_from_inside(stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(stores / "host" / "net")
    assert find_engine(".").version == 2
    assert find_engine("1").version == 1
    monkeypatch.chdir("1")
    assert find_engine(".").version == 1
    assert find_engine("..").version == 2


def test_absolute_paths(stores: Path) -> None:
    assert find_engine(stores.absolute() / "host" / "net").version == 2
    assert find_engine(stores.absolute() / "host" / "net" / "1").version == 1


def test_a_store_as_root_of_names(stores: Path) -> None:
    assert find_engine("net", store_root=stores / "a100").path == stores / "a100" / "net" / "1"


def test_an_unrelated_folder_does_not_hide_a_name(stores: Path) -> None:
    Path("cam").mkdir()
    assert find_engine("cam").engine == "cam"


@pytest.mark.parametrize("reference", ["net", "net/1", "engines", "engines/host"])
def test_ambiguous(stores: Path, reference: str) -> None:
    with pytest.raises(EngineAmbiguous) as caught:
        find_engine(reference)
    assert "engines/host/net" in caught.value.why
    assert "engines/" in caught.value.next


@pytest.mark.parametrize(
    ("reference", "guess", "listed"),
    [
        ("host/nte", "engines/host/net/2", "a100/net/1"),
        ("engines/host/net/9", "engines/host/net/2", "net/1"),
        ("host/net/9", "engines/host/net/2", "net/1"),
        ("cma", "trtforge build", "host/cam/1"),
    ],
)
def test_not_found_lists_what_is_there(stores: Path, reference: str, guess: str, listed: str) -> None:
    with pytest.raises(EngineNotFound) as caught:
        find_engine(reference)
    assert listed in caught.value.why
    assert guess in caught.value.next


def test_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineNotFound) as caught:
        find_engine("net")
    assert caught.value.why == "no engine is in engines"
    assert "trtforge build" in caught.value.next


@pytest.mark.parametrize(
    "reference", ["", ".", "..", "/", "//", "a\0b", "x" * 5000, "../../etc/passwd", "net/../../.."]
)
def test_odd_references_end_in_an_error_of_ours(stores: Path, reference: str) -> None:
    from trtforge.errors import TrtforgeError

    with pytest.raises(TrtforgeError):
        find_engine(reference)


def test_a_version_without_its_manifest_says_so(stores: Path) -> None:
    (stores / "a100" / "net" / "1" / "manifest.json").unlink()
    with pytest.raises(ManifestUnreadable, match=r"no manifest\.json"):
        find_engine("engines/a100/net/1")
