"""Kits with plugins: sources are held to those here, and nobody can hold binaries to anything."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline import test_plugins
from tests.pipeline.test_finish import write
from trtforge.engines.kit import read_kit, write_kit
from trtforge.errors.environment import MissingPackage
from trtforge.kernels import cubins
from trtforge.pipeline.kit import kernel_sets

hospital = test_plugins.hospital
NORM = "plugins/instance_norm_relu"
EVIL = b"not what its sources say"


def added(kit: Path, into: Path, **members: bytes) -> Path:
    """The kit with further members, sealed anew."""
    folder = into.with_suffix(".unpacked")
    info = read_kit(kit, into=folder).info
    write_kit(into, {name: folder / name for name in info.members} | members, info)
    return into


def evil(kit: Path, into: Path, sm: str = "80") -> Path:
    """The kit with true sources of a plugin, and a binary that was made of others."""
    (norm,) = kernel_sets({"instance_norm_relu"}).values()
    sources = {f"{NORM}/{name}": norm.source(name).read_bytes() for name in norm.sources}
    return added(kit, into, **sources, **{f"{NORM}/instance_norm_relu.sm{sm}.cubin": EVIL})


@pytest.fixture
def no_nvrtc(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(kernels: Any) -> Any:
        raise MissingPackage("no NVRTC")

    monkeypatch.setattr(cubins, "_Nvrtc", lacking)


@pytest.mark.parametrize("extra", [(), ("--only-check",)])
def test_binaries_of_a_kit_go_into_no_other_build(workshop, no_nvrtc: None, extra: tuple[str, ...]) -> None:
    kit = evil(write(workshop), workshop.root / "evil.zst")
    before = set(workshop.files(workshop.cache))
    done = workshop.forge("finish", kit, "--store", "finished", *extra)
    assert done.code == 0, done.err
    new = set(workshop.files(workshop.cache)) - before
    assert {file for file in new if not file.endswith(".lock")} == set()
    (norm,) = kernel_sets({"instance_norm_relu"}).values()
    with pytest.raises(MissingPackage):
        norm.compile(["8.0"])


def test_binaries_are_taken_in_one_block_only_and_their_digests_told(tmp_path: Path, no_nvrtc: None) -> None:
    (norm,) = kernel_sets({"instance_norm_relu"}).values()
    file = tmp_path / norm.file_name("8.0")
    file.write_bytes(EVIL)
    with cubins.brought({file.name: file}) as binaries:
        assert binaries.taken == {}
        assert norm.compile(["8.0"]) == {"8.0": EVIL}
        assert binaries.taken == {file.name: hashlib.sha256(EVIL).hexdigest()}
        with pytest.raises(MissingPackage):
            norm.compile(["8.0", "8.7"])
    with pytest.raises(MissingPackage):
        norm.compile(["8.0"])


def test_who_can_compile_kernels_takes_no_binaries(workshop, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="extra `rtx`")
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))
    (norm,) = kernel_sets({"instance_norm_relu"}).values()
    file = tmp_path / norm.file_name("8.0")
    file.write_bytes(EVIL)
    with cubins.brought({file.name: file}) as binaries:
        assert norm.compile(["8.0"])["8.0"] != EVIL
    assert binaries.taken == {}


@pytest.mark.rtx
def test_an_engine_says_which_kernels_are_the_kits(hospital: Any, monkeypatch: pytest.MonkeyPatch, request) -> None:
    pytest.importorskip("tensorrt_rtx", reason="extra `rtx`")
    kit = write(hospital, recipe="volume", out="volume.kit.tar.zst")
    request.getfixturevalue("no_nvrtc")
    monkeypatch.setenv("TRTFORGE_CACHE", str(hospital.root / "other"))
    done = hospital.forge("finish", kit, "--store", "finished")
    assert done.code == 0, done.err
    assert "kernels: instance_norm_relu.sm80.cubin is the kit's own" in done.out
    manifest = json.loads((hospital.root / "finished/volume/1/manifest.json").read_text())
    told = manifest["report"]["kernels_of_kit"]
    assert told and told == {name: manifest["files"][name]["sha256"] for name in manifest["files"] if "cubin" in name}
    assert not (hospital.root / "other" / "cubins").exists()


@pytest.mark.parametrize("name", ["plugins/x", "plugins/x/y/z"])
def test_a_member_that_is_no_file_of_a_plugin(workshop, name: str) -> None:
    bad = added(write(workshop), workshop.root / "bad.zst", **{name: b"x"})
    for extra in ((), ("--only-check",)):
        done = workshop.forge("finish", bad, "--store", "finished", "--json", *extra)
        assert (done.code, done.json["error"]["code"]) == (7, "ENG131")
        assert repr(name) in done.json["error"]["why"]


@pytest.mark.parametrize(
    "name", [f"{NORM}/other.cu", f"{NORM}/__init__.py", f"{NORM}/x.cubin", f"{NORM}/kernel.cu", "plugins/none/x.cu"]
)
def test_files_of_plugins_that_are_not_here(workshop, name: str) -> None:
    bad = added(write(workshop), workshop.root / "bad.zst", **{name: b"x"})
    done = workshop.forge("finish", bad, "--store", "finished", "--json")
    assert (done.code, done.json["error"]["code"]) == (7, "ENG115")
