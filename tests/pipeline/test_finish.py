"""Finishing a kit: on the machine that wrote it, which must give what a build there gives; and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from trtforge.backends.onnxruntime_.backend import OnnxruntimeBackend
from trtforge.engines.kit import read_kit, write_kit
from trtforge.pipeline import finish as module
from trtforge.pipeline.finish import fits

KIT = "net.kit.tar.zst"


def write(workshop, *args: str, recipe: str = "host", out: str = KIT) -> Path:
    done = workshop.forge("build", f"recipes/{recipe}.yaml", "--out", out, *args)
    assert done.code == 0, done.err
    return workshop.root / out


def manifest(store: Path, name: str = "net", version: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((store / name / str(version) / "manifest.json").read_text())
    return found


def without_times(value: dict[str, Any]) -> dict[str, Any]:
    """A manifest without what two builds of the same inputs differ in: times, and what was measured in them."""
    value = {key: item for key, item in value.items() if key not in ("created", "seal")}
    value["surgery"] = [{**report, "seconds": 0} for report in value["surgery"]]
    report = dict(value["report"])
    for key in ("seconds", "self_check", "form", "session"):
        report.pop(key, None)
    return value | {"report": report}


def change(kit: Path, into: Path, **changed: Any) -> Path:
    """The kit with other fields of `kit.json`, sealed anew."""
    folder = into.with_suffix(".unpacked")
    shutil.rmtree(folder, ignore_errors=True)
    info = read_kit(kit, into=folder).info
    files: dict[str, Path | bytes] = {name: folder / name for name in info.members}
    drop = changed.pop("drop", None)
    files = {name: file for name, file in files.items() if name != drop}
    import dataclasses

    write_kit(into, files, dataclasses.replace(info, **changed))
    return into


def test_a_finished_kit_is_what_a_build_gives(workshop, steady) -> None:
    kit = write(workshop)
    done = workshop.forge("finish", kit, "--store", "finished", "--json")
    assert done.code == 0, done.err
    row = done.json["engine"]
    assert "checking and unpacking" in done.err and "net: int8 for host, made by onnxruntime" in done.err
    workshop.build()
    direct = manifest(workshop.store)
    finished = manifest(workshop.root / "finished")
    assert row["status"] == "built" and row["key"] == direct["key"]
    assert without_times(finished) == without_times(direct)
    assert finished["parity"]["measured_on"] == "the machine that built it, by the engine itself"
    assert workshop.forge("run", "finished/net", "data/held.yaml").code == 0


def test_nothing_of_the_project_is_needed(workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kit = shutil.move(write(workshop), tmp_path / "elsewhere.zst")
    for folder in ("models", "data", "recipes", ".cache"):
        shutil.rmtree(workshop.root / folder)
    (tmp_path / "device").mkdir()
    monkeypatch.chdir(tmp_path / "device")
    done = workshop.forge("finish", kit)
    assert done.code == 0, done.err
    assert "engines/host/net/1: built" in done.out
    assert "parity: cosine" in done.out


def test_a_second_time_there_is_nothing_to_do(workshop) -> None:
    kit = write(workshop)
    assert workshop.forge("finish", kit).code == 0
    again = workshop.forge("finish", kit)
    assert (again.code, again.out) == (0, "engines/host/net/1: up to date, nothing to do\n")
    assert workshop.build()["engines"][0]["status"] == "up-to-date"
    forced = workshop.forge("finish", kit, "--force")
    assert "engines/host/net/2: built" in forced.out


def test_a_float_engine_of_photographs_needs_no_probes(workshop) -> None:
    workshop.bend("host", ("precision: int8", "precision: fp32"))
    kit = write(workshop)
    info = read_kit(kit).info
    assert "scales.json" not in info.members
    assert workshop.forge("finish", kit).code == 0


def test_scans_are_kept_with_the_labels_of_the_fp32_model(ward, steady) -> None:
    kit = write(ward, recipe="scan", out="seg.kit.tar.zst")
    assert {"engine/windows.json", "samples.json", "samples.bin"} <= set(read_kit(kit).info.members)
    assert ward.forge("finish", kit, "--store", "finished").code == 0
    ward.build(recipe="scan")
    finished, direct = manifest(ward.root / "finished", "seg"), manifest(ward.root / "engines/scan", "seg")
    assert without_times(finished) == without_times(direct)
    assert finished["parity"]["metric"] == "dice"
    scan = "data/case_4/imaging.nii.gz"
    assert ward.forge("run", "finished/seg", scan, "--out", "labels.nii.gz").code == 0


def test_of_many_samples_the_first_are_kept_and_the_verdict_says_so(workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    from trtforge.pipeline import kit_samples

    monkeypatch.setattr(kit_samples, "MOST", 2)
    assert workshop.forge("finish", write(workshop), "--store", "finished").code == 0
    parity = manifest(workshop.root / "finished")["parity"]
    assert parity["samples"] == 2
    assert parity["measured_on"].endswith("; on the first 2 of 3 of the set, which the kit keeps")


def test_samples_too_large_to_keep_leave_the_verdict_of_the_kit(workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    from trtforge.pipeline import kit_samples

    monkeypatch.setattr(kit_samples, "MOST_BYTES", 100)
    kit = write(workshop)
    assert read_kit(kit).info.members["samples.bin"].size == 0
    assert workshop.forge("finish", kit, "--store", "finished").code == 0
    parity = manifest(workshop.root / "finished")["parity"]
    assert parity["measured_on"].startswith("the machine that wrote the kit")


def test_a_kit_without_samples(workshop) -> None:
    kit = write(workshop, "--no-samples")
    folder = workshop.root / "unpacked"
    read_kit(kit, into=folder)
    assert (folder / "samples.bin").read_bytes() == b""
    done = workshop.forge("finish", kit, "--store", "finished")
    assert done.code == 0 and "no samples to check INT8 kernels with" in done.err
    assert manifest(workshop.root / "finished")["parity"]["measured_on"].startswith("the machine that wrote the kit")
    again = workshop.forge("build", "recipes/host.yaml", "--out", KIT)  # now with samples: another kit
    assert "already there" not in again.out


def test_an_engine_that_misses_its_bound_on_the_device_is_not_published(workshop, monkeypatch) -> None:
    kit = write(workshop)
    load = OnnxruntimeBackend.load

    class Off:
        def __init__(self, session: Any) -> None:
            self.session, self.inputs, self.outputs = session, session.inputs, session.outputs

        def run(self, inputs: Any) -> Any:
            return {name: -array for name, array in self.session.run(inputs).items()}

    monkeypatch.setattr(OnnxruntimeBackend, "load", lambda *args: Off(load(*args)))
    done = workshop.forge("finish", kit, "--store", "finished")
    assert done.code == 8 and "VER101" in done.err
    assert not (workshop.root / "finished" / "net").exists()


def test_only_checking_writes_nothing(workshop) -> None:
    kit = write(workshop)
    before = set(workshop.files())
    done = workshop.forge("finish", kit, "--only-check", "--json")
    assert (done.code, done.json["engine"], done.json["signature_held"]) == (0, None, False)
    assert {file for file in workshop.files() if not file.endswith(".lock")} <= before
    said = workshop.forge("finish", kit, "--only-check").out
    assert "sound" in said and "net for host with onnxruntime" in said


def test_a_signed_kit_end_to_end(workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cryptography", reason="extra `sign`")
    from tests.engines.test_signature import pem_pair

    private, public = pem_pair(workshop.root, "ours")
    _, stranger = pem_pair(workshop.root, "theirs")
    unsigned = write(workshop, out="unsigned.zst")
    kit = write(workshop, "--sign", str(private))
    assert "by SHA256:" in workshop.forge("inspect", kit).out
    for bad, key in ((unsigned, public), (kit, stranger)):
        done = workshop.forge("finish", bad, "--require-signature", key, "--json")
        assert (done.code, done.json["error"]["code"]) == (7, "ENG134")
    monkeypatch.setenv("TRTFORGE_REQUIRE_SIGNATURE", str(public))
    assert workshop.forge("finish", unsigned).code == 7
    done = workshop.forge("finish", kit, "--json")
    assert done.code == 0 and done.json["signature_held"] is True
    # who signs a kit that is there unsigned gets it written again
    monkeypatch.setenv("TRTFORGE_SIGN_KEY", str(private))
    assert "already there" not in workshop.forge("build", "recipes/host.yaml", "--out", "unsigned.zst").out
    assert "already there" in workshop.forge("build", "recipes/host.yaml", "--out", "unsigned.zst").out
    assert workshop.forge("finish", unsigned, "--only-check").code == 0


def test_a_kit_that_only_the_device_can_finish_is_refused_here(workshop) -> None:
    orin = ("target: host", "target: orin-agx-64gb/gpu"), ("backend: onnxruntime", 'backend: tensorrt\ntensorrt: "8.6"')
    workshop.bend("orin", *orin)
    assert workshop.forge("build", "recipes/orin.yaml").code == 10
    for extra in ((), ("--only-check",)):
        done = workshop.forge("finish", "engines/orin/net.kit.tar.zst", *extra, "--json")
        assert (done.code, done.json["error"]["code"]) == (10, "KIT101")
        assert done.json["error"]["why"] and done.json["error"]["next"]
    asked = workshop.forge("build", "recipes/orin.yaml", "--kit")
    assert asked.code == 0 and "KIT101" not in asked.err  # who asks for a kit has got it


@pytest.mark.parametrize(
    ("sm", "version", "said"),
    [("8.6", "8.6.2", "SM 8.7"), ("8.7", "10.3.0", "TensorRT 8.6"), ("8.7", "8.6.2.3", None), (None, "unknown", None)],
)
def test_a_kit_for_another_device(workshop, monkeypatch, sm: str | None, version: str, said: str | None) -> None:
    from trtforge.backends.base import Availability
    from trtforge.backends.registry import get

    orin = ("target: host", "target: orin-agx-64gb/gpu"), ("backend: onnxruntime", 'backend: tensorrt\ntensorrt: "8.6"')
    workshop.bend("orin", *orin)
    assert workshop.forge("build", "recipes/orin.yaml").code == 10
    native = type(get("tensorrt"))
    monkeypatch.setattr(native, "availability", lambda self: Availability(True, True, version))
    monkeypatch.setattr(module, "compute_capability", lambda: sm)
    done = workshop.forge("finish", "engines/orin/net.kit.tar.zst", "--only-check", "--json")
    if said is None:
        assert done.code == 0, done.err
    else:
        assert (done.code, done.json["error"]["code"]) == (7, "ENG136")
        assert said in done.json["error"]["why"]


def test_an_engine_that_a_device_made_is_up_to_date_here(workshop, monkeypatch) -> None:
    """Its key has the device's TensorRT in it, which this machine does not know."""
    kit = write(workshop)
    versions = OnnxruntimeBackend.tool_versions
    with monkeypatch.context() as device:
        device.setattr(OnnxruntimeBackend, "tool_versions", lambda self: versions(self) | {"driver": "540.4"})
        assert workshop.forge("finish", kit, "--store", "engines/host").code == 0
    monkeypatch.setattr("trtforge.pipeline.build.needs_device", lambda job: True)
    assert workshop.build()["engines"][0]["status"] == "up-to-date"
    assert manifest(workshop.store)["tools"]["driver"] == "540.4"
    workshop.write_model(seed=1)
    assert workshop.build()["engines"][0]["status"] == "kit"


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"trtforge": "0.0.1"}, "ENG137"),
        ({"facts": {}}, "ENG131"),
        ({"engine": "other"}, "ENG131"),
        ({"target": "moon"}, "ENG131"),
        ({"key_inputs": {}}, "ENG131"),
        ({"drop": "recipe.json"}, "ENG131"),
        ({"drop": "samples.bin"}, "ENG131"),
    ],
)
def test_kits_that_say_less_than_they_must(workshop, changed: dict[str, Any], code: str) -> None:
    bad = change(write(workshop), workshop.root / "bad.zst", **changed)
    done = workshop.forge("finish", bad, "--store", "finished", "--json")
    assert (done.code, done.json["error"]["code"]) == (7, code)
    assert not (workshop.root / "finished" / "net").exists()


def test_what_inspect_says_of_a_kit(workshop) -> None:
    """Target, compiler, content, sizes, signature, and the command that finishes it."""
    workshop.bend(
        "orin", ("target: host", "target: orin-agx-64gb/gpu"), ("onnxruntime", 'tensorrt\ntensorrt: ">=8.6, <11"')
    )
    kit = write(workshop, "--no-samples", recipe="orin")
    said = workshop.forge("inspect", kit).out
    page = " ".join(said.split())
    for text in (
        "engine net of the recipe orin",
        "target orin-agx-64gb/gpu: Jetson AGX Orin 64 GB (GPU), SM 8.7",
        "compiler tensorrt >=8.6, <11",
        "precision int8",
        "signature none",
        "calibration minmax, 6 samples",
        "samples none are kept",
        "parity cosine",
        "the float graph after surgery",
        "copy it to the device, and finish it there: trtforge finish net.kit.tar.zst",
        "unpacked (tar -xf): trtexec",
    ):
        assert text in page, said
    odd = workshop.forge("inspect", change(kit, workshop.root / "odd.zst", facts={"parity": {"x": 1}}, target="moon"))
    assert odd.code == 0 and "moon, which this trtforge does not know" in odd.out and "cannot be finished" in odd.out


def with_members(kit: Path, into: Path, **members: bytes) -> Path:
    folder = into.with_suffix(".unpacked")
    info = read_kit(kit, into=folder).info
    files: dict[str, Path | bytes] = {name: folder / name for name in info.members}
    write_kit(into, files | members, info)
    return into


def test_a_kit_cannot_put_another_engine_in_the_place_of_the_one_that_was_measured(workshop) -> None:
    """`engine/` is for what an engine for scans keeps; any other file there would be published as it is."""
    kit = write(workshop)
    for number, name in enumerate(("engine/model.onnx", "engine/manifest.json", "engine/windows.json", "engine/a/b")):
        odd = with_members(kit, workshop.root / f"{number}.zst", **{name: b"x"})
        done = workshop.forge("finish", odd, "--store", "finished", "--json")
        assert (done.code, done.json["error"]["code"]) == (7, "ENG131"), name
        assert name in done.json["error"]["why"]
    assert not (workshop.root / "finished" / "net").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b'"at_least": 0.9', b'"at_least": 0.8', None),  # the bound has a digest with that of its samples
        (b'"precision": "int8"', b'"precision": "fp32"', "recipe"),
        (b'"backend": "onnxruntime"', b'"backend": "tensorrt_rtx"', "backend"),
        (b'"target": "host"', b'"target": "a100-sxm-80gb"', "target"),
    ],
)
def test_a_recipe_that_is_not_the_one_of_the_key(workshop, old: bytes, new: bytes, said: str | None) -> None:
    kit = write(workshop)
    folder = workshop.root / "read"
    read_kit(kit, into=folder)
    text = (folder / "recipe.json").read_bytes()
    assert old in text
    odd = with_members(kit, workshop.root / "odd.zst", **{"recipe.json": text.replace(old, new)})
    done = workshop.forge("finish", odd, "--only-check", "--json")
    if said is None:
        assert done.code == 0
    else:
        assert done.json["error"]["code"] == "ENG131" and said in done.json["error"]["why"]


def test_a_flipped_byte(workshop) -> None:
    kit = write(workshop)
    data = bytearray(kit.read_bytes())
    data[len(data) // 2] ^= 1
    kit.write_bytes(data)
    done = workshop.forge("finish", kit, "--json")
    assert (done.code, done.json["error"]["code"]) == (7, "ENG131")
    assert not workshop.store.joinpath("net").exists()


@pytest.mark.parametrize(
    ("said", "version", "fit"),
    [
        ("8.6", "8.6.2", True),
        ("8.6", "8.60.1", False),
        ("10.3.0", "10.3.0.30", True),
        (">=10.3,<11", "10.7.0", True),
        (">=10.3,<11", "11.0.0", False),
        ("8.6", "installed, version unknown", True),
    ],
)
def test_releases_that_fit(said: str, version: str, fit: bool) -> None:
    assert fits(said, version) is fit
