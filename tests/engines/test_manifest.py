from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtforge.engines import manifest as module
from trtforge.engines.key import engine_key
from trtforge.engines.manifest import (
    MANIFEST,
    SCHEMA_PATH,
    BuiltFor,
    FileRecord,
    Manifest,
    ModelOrigin,
    TensorRecord,
    read_manifest,
    schema,
)
from trtforge.engines.store import EngineVersion, Store
from trtforge.errors.engine import ManifestChanged, ManifestUnreadable
from trtforge.files import write_json

FULL = Manifest(
    engine="net",
    version=3,
    created="2026-11-30T12:00:00Z",
    key_inputs={"model": "0" * 64, "samples": {"a": 1, "b": [1.5, None, True]}},
    target=BuiltFor("orin-agx-64gb/dla", "8.7", ("asimddp",), 1, {"memory_gb": 64}),
    backend="tensorrt",
    platform="tensorrt_plan",
    tools={"tensorrt": "8.6.2"},
    model=ModelOrigin("package:x/y.onnx", "a" * 64),
    recipe={"precision": "int8"},
    inputs=(TensorRecord("in", (None, 3, 4), "int8", "dla_hwc4"),),
    outputs=(TensorRecord("out", (), "float32"),),
    engine_file="model.plan",
    files={"model.plan": FileRecord("b" * 64, 12)},
    surgery=({"pass": "fold-constants", "modified": True},),
    calibration={"method": "minmax"},
    parity={"metric": "cosine", "value": 0.999, "at_least": 0.99, "passed": True},
    report={"seconds": 1.25},
).sealed()


def write(folder: Path, value: Any) -> Path:
    path = folder / MANIFEST
    write_json(path, value)
    return path


def test_the_committed_schema_is_current() -> None:
    assert json.loads(SCHEMA_PATH.read_text()) == schema(), "run `python -m trtforge.engines.manifest`"


def test_a_published_manifest_fits_the_schema(tmp_path: Path, publish: Callable[..., EngineVersion]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    version = publish(Store(tmp_path / "store"))
    jsonschema.validate(json.loads((version.path / MANIFEST).read_text()), schema())
    jsonschema.validate(FULL.to_json(), schema())


@pytest.mark.parametrize(
    "change",
    [
        {"version": 0},
        {"schema": 2},
        {"seal": "no digest"},
        {"extra": 1},
        {"inputs": [{"name": "x"}]},
        {"files": {"x": 1}},
    ],
)
def test_the_schema_refuses_what_is_no_manifest(change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(FULL.to_json() | change, schema())


def test_round_trip(tmp_path: Path) -> None:
    assert read_manifest(write(tmp_path, FULL.to_json())) == FULL
    assert FULL.key == engine_key(FULL.key_inputs)


def test_the_seal_survives_what_json_does_to_keys_and_tuples(
    tmp_path: Path, make_manifest: Callable[..., Manifest]
) -> None:
    sealed = make_manifest(
        report={"counts": {2: 1, 10: 2}, "shape": (1, 2)}, files={"m": FileRecord("b" * 64, 1)}, engine_file="m"
    ).sealed()
    assert sealed.report == {"counts": {"2": 1, "10": 2}, "shape": [1, 2]}
    assert read_manifest(write(tmp_path, sealed.to_json())) == sealed


def test_nan_cannot_be_written_down(make_manifest: Callable[..., Manifest]) -> None:
    with pytest.raises(ValueError, match="JSON"):
        make_manifest(report={"value": float("nan")}).sealed()


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(found for key, child in children for found in _places(child, (*place, key)))]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_edit_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Replace any value, at any depth, by any other: the manifest is refused, and nothing but ENG is raised."""
    value = FULL.to_json()
    place = data.draw(st.sampled_from(_places(value)[1:]))
    parent = value
    for key in place[:-1]:
        parent = parent[key]
    other = data.draw(
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.floats(allow_nan=False, allow_infinity=False))
    )
    same = type(other) is type(parent[place[-1]]) and other == parent[place[-1]]
    parent[place[-1]] = other
    path = write(tmp_path_factory.mktemp("edited"), value)
    if same:
        assert read_manifest(path) == FULL
    else:
        with pytest.raises((ManifestChanged, ManifestUnreadable)):
            read_manifest(path)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xfe", b"[]", b"null", b"{}", b"[" * 100_000, b'{"schema": 1}', b'{"a":' * 50_000],
    ids=["empty", "not UTF-8", "list", "null", "no schema", "deep list", "nothing else", "deep object"],
)
def test_what_is_no_manifest(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / MANIFEST
    path.write_bytes(data)
    with pytest.raises(ManifestUnreadable) as caught:
        read_manifest(path)
    assert str(path) == caught.value.where and caught.value.why


def test_a_missing_or_unreadable_manifest(tmp_path: Path) -> None:
    with pytest.raises(ManifestUnreadable, match="cannot be read"):
        read_manifest(tmp_path / MANIFEST)
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(ManifestUnreadable, match="directory"):
        read_manifest(tmp_path / MANIFEST)


def test_a_huge_manifest_is_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    with pytest.raises(ManifestUnreadable, match="larger"):
        read_manifest(write(tmp_path, FULL.to_json()))


def test_a_newer_schema_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestUnreadable, match="manifest schema 2"):
        read_manifest(write(tmp_path, FULL.to_json() | {"schema": 2}))


@pytest.mark.parametrize("name", ["../model.plan", "/etc/passwd", "a/b", "", ".hidden", "a\\b"])
def test_a_file_name_that_leaves_the_folder_is_refused_even_when_sealed(tmp_path: Path, name: str) -> None:
    from dataclasses import replace

    sealed = replace(FULL, files={name: FileRecord("b" * 64, 1)}, engine_file=name).sealed()
    with pytest.raises(ManifestUnreadable, match="not a plain file name"):
        read_manifest(write(tmp_path, sealed.to_json()))


def test_the_engine_file_must_be_listed(tmp_path: Path) -> None:
    from dataclasses import replace

    with pytest.raises(ManifestUnreadable, match=r"other\.plan"):
        read_manifest(write(tmp_path, replace(FULL, engine_file="other.plan").sealed().to_json()))
