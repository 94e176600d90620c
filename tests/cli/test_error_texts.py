"""What a person reads when something is wrong, word for word, and with which exit code the command ends.

`TRTFORGE_UPDATE_GOLDEN=1 pytest tests/cli/test_error_texts.py` writes the texts anew; read the difference before you
commit it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parent / "golden"
ORIN = (("target: host", "target: orin-agx-64gb/gpu"), ("backend: onnxruntime", 'backend: tensorrt\ntensorrt: "8.6"'))


@dataclass(frozen=True)
class Case:
    """``prepare`` brings about what is wrong; ``command`` is what a person types then.

    ``fixture``: the project it happens in; `ward` has scans, and its engine for them is built.
    """

    command: str
    prepare: Callable[[Any, pytest.MonkeyPatch], object] = lambda workshop, monkeypatch: None
    fixture: str = "workshop"


CASES: dict[str, Case] = {}


def case(
    name: str, command: str, fixture: str = "workshop"
) -> Callable[[Callable[..., object]], Callable[..., object]]:
    def keep(prepare: Callable[..., object]) -> Callable[..., object]:
        CASES[name] = Case(command, prepare, fixture)
        return prepare

    return keep


BUILD = "build recipes/host.yaml --quiet"
CALIBRATE = "calibrate recipes/host.yaml --quiet"

# -- the command line --------------------------------------------------------------------------------------

CASES["use-unknown-command"] = Case("biuld recipes/host.yaml")
CASES["use-unknown-option"] = Case("build recipes/host.yaml --onyl net")
CASES["use-missing-argument"] = Case("run engines/host/net")
CASES["use-bad-choice"] = Case("scales convert a b --to yaml")
CASES["use-unknown-code"] = Case("explain RCP999")
CASES["use-unknown-schema"] = Case("schema biuld")
CASES["use-native-of-another-backend"] = Case(f"{CALIBRATE} --native")
CASES["use-no-such-file"] = Case("inspect models/nte.onnx")


@case("use-two-engines-one-file", "surgery recipes/two.yaml --out after.onnx")
def _(workshop, monkeypatch) -> None:
    text = workshop.bend("two").read_text()
    workshop.recipe("two", text + text.partition("engines:\n")[2].replace("  net:", "  second:"))


@case("use-nothing-to-calibrate", "calibrate recipes/host.yaml")
def _(workshop, monkeypatch) -> None:
    workshop.bend("host", ("precision: int8", "precision: fp32"))


@case("use-plain-of-no-model", "scales convert net.scales.json out.json --to json --plain plain.onnx")
def _(workshop, monkeypatch) -> None:
    assert workshop.forge("calibrate", "recipes/host.yaml").code == 0


CASES["use-recipe-for-an-engine"] = Case("run recipes/host.yaml data/7.npy")
CASES["use-model-for-a-recipe"] = Case("lint models/net.onnx")
CASES["use-option-without-its-value"] = Case("run engines/host/net data/7.npy --picture")


# -- recipes -----------------------------------------------------------------------------------------------

CASES["recipe-missing"] = Case("build recipes/hots.yaml")
CASES["recipe-unknown-engine"] = Case("build recipes/host.yaml --only nte")
CASES["recipe-bad-override"] = Case("recipe show recipes/host.yaml --set engines.net.precisoin=fp32")
CASES["target-unknown"] = Case("targets a100-sxm-8gb")


@case("recipe-wrong-types", BUILD)
def _(workshop, monkeypatch) -> None:
    workshop.bend("host", ("shape: [1, 3, 16, 16]", "shape: [one, 3, 16, 16]"), ("at_least: 0.9", "at_least: high"))


@case("recipe-unknown-key", BUILD)
def _(workshop, monkeypatch) -> None:
    workshop.bend("host", ("precision:", "precison:"))


@case("recipe-unknown-target", BUILD)
def _(workshop, monkeypatch) -> None:
    workshop.bend("host", ("target: host", "target: a100"))


@case("recipe-extends-cycle", BUILD)
def _(workshop, monkeypatch) -> None:
    workshop.recipe("host", "extends: other.yaml\ntarget: host\n")
    workshop.recipe("other", "extends: host.yaml\n")


@case("recipe-path-outside", BUILD)
def _(workshop, monkeypatch) -> None:
    workshop.bend("host", ("../models/net.onnx", "../../net.onnx"))


@case("recipe-not-yaml", BUILD)
def _(workshop, monkeypatch) -> None:
    workshop.bend("host", ("target: host", "target: [host"))


# -- models ------------------------------------------------------------------------------------------------


@case("model-missing", BUILD)
def _(workshop, monkeypatch) -> None:
    (workshop.root / "models/net.onnx").unlink()


@case("model-truncated", BUILD)
def _(workshop, monkeypatch) -> None:
    path = workshop.root / "models/net.onnx"
    path.write_bytes(path.read_bytes()[:1000])


@case("model-random", BUILD)
def _(workshop, monkeypatch) -> None:
    (workshop.root / "models/net.onnx").write_bytes(workshop.rng(1).bytes(5000))


@case("model-external-data-missing", BUILD)
def _(workshop, monkeypatch) -> None:
    import onnx

    path = workshop.root / "models/net.onnx"
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (workshop.root / "models/weights.bin").unlink()


@case("model-other-digest", BUILD)
def _(workshop, monkeypatch) -> None:
    workshop.bend("host", ("onnx: ../models/net.onnx", f"onnx: ../models/net.onnx, sha256: {'a' * 64}"))


@case("model-of-missing-package", BUILD)
def _(workshop, monkeypatch) -> None:
    workshop.bend("host", ("../models/net.onnx", "package:trtforge-no-such-package/net.onnx"))


@case("model-without-the-input", BUILD)
def _(workshop, monkeypatch) -> None:
    workshop.bend("host", ("inputs: {x:", "inputs: {image:"))


@case("model-with-another-shape", BUILD)
def _(workshop, monkeypatch) -> None:
    workshop.bend("host", ("[1, 3, 16, 16]", "[1, 3, 15, 16]"))


@case("threads-no-number", BUILD)
def _(workshop, monkeypatch) -> None:
    monkeypatch.setenv("TRTFORGE_THREADS", "many")


@case("model-with-an-unknown-operator", BUILD)
def _(workshop, monkeypatch) -> None:
    import onnx

    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17, "my.ops": 1]>
        g (float[1, 3, 16, 16] x) => (float[1, 3, 16, 16] y) { y = my.ops.Swirl(x) }
    """)
    onnx.save(model, workshop.root / "models/net.onnx")
    workshop.recipe("host", workshop.bend("host", ("int8", "fp32")).read_text().partition("    verify")[0])


@case("surgery-unknown-pass", "surgery recipes/host.yaml")
def _(workshop, monkeypatch) -> None:
    workshop.bend("host", ("[infer-shapes]", "[infer-shape]"))


def normalizing(workshop: Any) -> None:
    """The network with an InstanceNormalization between its convolution and its ReLU."""
    import onnx

    path = workshop.root / "models/net.onnx"
    proto = onnx.load(path)
    ones = onnx.numpy_helper.from_array(workshop.rng(1).normal(1, 0.1, 8).astype("float32"), "gain")
    proto.graph.initializer.append(ones)
    proto.graph.node[1].input[0] = "n0"
    norm = onnx.helper.make_node("InstanceNormalization", ["c0", "gain", "b0"], ["n0"], name="norm0")
    proto.graph.node.insert(1, norm)
    onnx.save(proto, path)


@case("plugin-without-a-lowering", BUILD)
def _(workshop, monkeypatch) -> None:
    normalizing(workshop)
    plugin = "[instance-norm-relu]\n    plugins: {instance-norm-relu: [stock, trtforge]}"
    workshop.bend("host", ("[infer-shapes]", plugin))


@case("plugin-without-a-lowering-on-a-device", "build recipes/orin.yaml --quiet")
def _(workshop, monkeypatch) -> None:
    normalizing(workshop)
    plugin = "[instance-norm-relu]\n    plugins: {instance-norm-relu: [trtforge]}"
    workshop.bend("orin", *ORIN, ("[infer-shapes]", plugin))


@case("plugins-overlap", "build recipes/orin.yaml --quiet")
def _(workshop, monkeypatch) -> None:
    """No two plugins of trtforge take one node: under the name of res2 comes a second one for normalizations."""
    from trtforge import plugins

    norm = plugins.ops()["instance-norm-relu"]
    monkeypatch.setitem(plugins.ops(), "res2", type("Twin", (type(norm),), {"name": "res2"})())
    normalizing(workshop)
    workshop.bend("orin", *ORIN, ("[infer-shapes]", "[infer-shapes, instance-norm-relu, res2]"))


@case("plugin-not-in-surgery", BUILD)
def _(workshop, monkeypatch) -> None:
    workshop.bend("host", ("[infer-shapes]", "[infer-shapes]\n    plugins: {res2: [plain]}"))


@case("plugin-unknown", BUILD)
def _(workshop, monkeypatch) -> None:
    workshop.bend("host", ("[infer-shapes]", "[infer-shapes, rse2]"))


CASES["use-no-placement"] = Case("lint recipes/host.yaml --placement")


@case("lint-refused-by-a-dla", "lint recipes/dla.yaml --placement", fixture="ward")
def _(ward, monkeypatch) -> None:
    text = (ward.root / "recipes/scan.yaml").read_text()
    ward.recipe(
        "dla",
        text.replace("target: host", "target: orin-agx-64gb/dla").replace(
            "onnxruntime", 'tensorrt\ntensorrt: "8.6"', 1
        ),
    )


@case("lint-errors", "lint recipes/host.yaml")
def _(workshop, monkeypatch) -> None:
    workshop.bend("host", ("inputs: {x:", "inputs: {image:"))


# -- samples and scales ------------------------------------------------------------------------------------


@case("set-empty", CALIBRATE)
def _(workshop, monkeypatch) -> None:
    (workshop.root / "data/cal.yaml").write_text("samples: []\n")


@case("set-missing", CALIBRATE)
def _(workshop, monkeypatch) -> None:
    (workshop.root / "data/cal.yaml").unlink()


CASES["set-is-a-folder"] = Case(f"{CALIBRATE} --set engines.net.calibration.set=../data")
CASES["set-is-a-sample"] = Case(f"{CALIBRATE} --set engines.net.calibration.set=../data/3.npy")


@case("set-mistyped", CALIBRATE)
def _(workshop, monkeypatch) -> None:
    workshop.bend("host", ("data/cal.yaml", "data/hled.yaml"))


@case("sample-mistyped", "run engines/host/net data/cofee.npy")
def _(workshop, monkeypatch) -> None:
    workshop.build()
    (workshop.root / "data/3.npy").rename(workshop.root / "data/coffee.npy")


@case("image-of-another-shape", BUILD)
def _(workshop, monkeypatch) -> None:
    image = "[1, 1, 16, 16], preprocess: {kind: image, resize: 16, crop: [16, 16]}"
    workshop.bend("host", ("[1, 3, 16, 16]", image))


@case("sample-missing", CALIBRATE)
def _(workshop, monkeypatch) -> None:
    (workshop.root / "data/3.npy").unlink()


@case("sample-of-wrong-shape", CALIBRATE)
def _(workshop, monkeypatch) -> None:
    workshop.save(3, workshop.rng(1).normal(size=(3, 8, 8)).astype("float32"))


@case("sample-of-wrong-dtype", CALIBRATE)
def _(workshop, monkeypatch) -> None:
    workshop.save(3, workshop.rng(1).normal(size=(3, 16, 16)))


@case("sample-with-nan", CALIBRATE)
def _(workshop, monkeypatch) -> None:
    array = workshop.rng(1).normal(size=(3, 16, 16)).astype("float32")
    array[1, 2, 3] = float("nan")
    workshop.save(3, array)


@case("tensor-becomes-infinite", CALIBRATE)
def _(workshop, monkeypatch) -> None:
    import onnx

    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[n, 3, 16, 16] x) => (float[n, 3, 16, 16] y) { big = Exp(x)  y = Neg(big) }
    """)
    onnx.save(model, workshop.root / "models/net.onnx")
    workshop.write_sample(3, scale=100.0)


CASES["scales-missing"] = Case("scales show net.scales.json")


@case("scales-cache-with-a-bad-line", "scales show net.cache")
def _(workshop, monkeypatch) -> None:
    text = "TRT-8602-MinMaxCalibration\nx: 3c010a14\nc0: 3c01z\n"
    (workshop.root / "net.cache").write_text(text)


@case("scales-damaged", "scales diff net.scales.json net.scales.json")
def _(workshop, monkeypatch) -> None:
    (workshop.root / "net.scales.json").write_text('{"format": "trtforge-scales", "ranges": {')


@case("scales-of-another-model", "build recipes/scales.yaml --quiet")
def _(workshop, monkeypatch) -> None:
    assert workshop.forge("calibrate", "recipes/host.yaml", "--out", "recipes").code == 0
    workshop.write_model(seed=1)
    workshop.bend("scales", ("{set: ../data/cal.yaml}", "{scales: net.scales.json}"))


# -- stores and engines ------------------------------------------------------------------------------------


@case("store-full", BUILD)
def _(workshop, monkeypatch) -> None:
    fsync = os.fsync

    def full(handle: int) -> None:
        if ".staging" in str(Path(f"/proc/self/fd/{handle}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)


@case("store-read-only", BUILD)
def _(workshop, monkeypatch) -> None:
    mkdir = os.mkdir

    def refused(path: Any, *args: Any, **keywords: Any) -> None:
        if "engines" in Path(path).parts:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        mkdir(path, *args, **keywords)

    monkeypatch.setattr(os, "mkdir", refused)


CASES["store-is-a-file"] = Case(BUILD + " --store models/net.onnx")


CASES["lock-missing"] = Case(BUILD + " --locked")


@case("lock-drift", BUILD + " --locked")
def _(workshop, monkeypatch) -> None:
    workshop.build()
    workshop.write_model(seed=1)
    workshop.write_sample(2, scale=2.0)


@case("lock-damaged", BUILD)
def _(workshop, monkeypatch) -> None:
    (workshop.root / "recipes/trtforge.lock").write_text("<<<<<<< HEAD\n")


@case("verify-missed", BUILD)
def _(workshop, monkeypatch) -> None:
    workshop.bend("host", ("metric: cosine, at_least: 0.9", "metric: sqnr_db, at_least: 500"))


@case("run-unknown-engine", "run engines/host/nte data/7.npy")
def _(workshop, monkeypatch) -> None:
    workshop.build()


@case("run-changed-engine", "run engines/host/net data/7.npy")
def _(workshop, monkeypatch) -> None:
    workshop.build()
    path = workshop.store / "net/1/model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@case("run-changed-manifest", "run engines/host/net data/7.npy")
def _(workshop, monkeypatch) -> None:
    workshop.build()
    path = workshop.store / "net/1/manifest.json"
    path.write_text(path.read_text().replace('"precision": "int8"', '"precision": "fp32"'))


@case("run-without-the-model", "run engines/host/net data/7.npy")
def _(workshop, monkeypatch) -> None:
    workshop.build()
    (workshop.root / "models/net.onnx").unlink()


@case("run-sample-of-wrong-shape", "run engines/host/net data/7.npy")
def _(workshop, monkeypatch) -> None:
    workshop.build()
    workshop.save(7, workshop.rng(1).normal(size=(3, 8, 8)).astype("float32"))


CASES["inspect-another-file"] = Case("inspect recipes/host.yaml")


@case("inspect-no-plan", "inspect notes.txt")
def _(workshop, monkeypatch) -> None:
    (workshop.root / "notes.txt").write_text("the engine is on the other machine")


@case("inspect-damaged-kit", "inspect engines/orin/net.kit.tar.zst")
def _(workshop, monkeypatch) -> None:
    workshop.bend("orin", *ORIN)
    assert workshop.forge("build", "recipes/orin.yaml").code == 10
    path = workshop.root / "engines/orin/net.kit.tar.zst"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@case("kit-waits-for-its-device", "build recipes/orin.yaml --quiet")
def _(workshop, monkeypatch) -> None:
    workshop.bend("orin", *ORIN)


CASES["finish-no-kit"] = Case("finish models/net.onnx")


@case("finish-on-another-machine", "finish engines/orin/net.kit.tar.zst")
def _(workshop, monkeypatch) -> None:
    workshop.bend("orin", *ORIN)
    assert workshop.forge("build", "recipes/orin.yaml").code == 10


@case("finish-unsigned", "finish net.kit.tar.zst --require-signature kit_key.pub")
def _(workshop, monkeypatch) -> None:
    pytest.importorskip("cryptography", reason="extra `sign`")
    assert workshop.forge("build", "recipes/host.yaml", "--out", "net.kit.tar.zst").code == 0
    key = "AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
    (workshop.root / "kit_key.pub").write_text(f"ssh-ed25519 {key} kits\n")


CASES["sign-with-no-key"] = Case("build recipes/host.yaml --kit --sign models/net.onnx")
CASES["kit-of-two-places"] = Case("build recipes/host.yaml --on ssh://orin --out net.kit.tar.zst")

# -- devices -----------------------------------------------------------------------------------------------

CASES["device-bad-address"] = Case("build recipes/host.yaml --on nvidia@orin")


def on_device(name: str, *said: str) -> None:
    """OpenSSH ends with these words."""

    @case(name, "build recipes/host.yaml --quiet --on ssh://nvidia@orin:2222")
    def _(workshop, monkeypatch) -> None:
        lines = "".join(f"echo '{line}' >&2\n" for line in said)
        ssh = workshop.root / "ssh"
        ssh.write_text(f"#!/bin/sh\n{lines}exit 255\n")
        ssh.chmod(0o755)
        monkeypatch.setenv("TRTFORGE_SSH", str(ssh))


on_device(
    "device-host-key-unknown",
    "No ED25519 host key is known for [orin]:2222 and you have requested strict checking.",
    "Host key verification failed.",
)
on_device(
    "device-host-key-changed",
    "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @",
    "The fingerprint for the ED25519 key sent by the remote host is",
    "SHA256:Xzv0rJgkWBzSVqEQjZfLzZ4lKdXZl9BPJUEb1zL4IJ8.",
    "Offending ED25519 key in /home/me/.ssh/known_hosts:12",
    "Host key verification failed.",
)
on_device("device-login-refused", "nvidia@orin: Permission denied (publickey,password).")
on_device("device-not-reached", "ssh: Could not resolve hostname orin: Name or service not known")


@case("device-without-a-client", "build recipes/host.yaml --quiet --on ssh://orin")
def _(workshop, monkeypatch) -> None:
    monkeypatch.setenv("TRTFORGE_SSH", "no-such-ssh")


@case("out-is-no-folder", "run engines/host/net data/7.npy --out scores.txt")
def _(workshop, monkeypatch) -> None:
    workshop.build()


CASES["scales-are-no-yaml"] = Case("calibrate recipes/host.yaml --out scales.yaml")
CASES["out-is-a-file"] = Case("calibrate recipes/host.yaml --quiet --out models/net.onnx")


@case("option-for-scans", "run engines/host/net data/7.npy --truth labels.nii.gz")
def _(workshop, monkeypatch) -> None:
    workshop.build()


# -- scans -------------------------------------------------------------------------------------------------

SEG = "run engines/scan/seg"
ONE = "data/case_4/imaging.nii.gz"


def on_scans(name: str, command: str) -> Callable[[Callable[..., object]], Callable[..., object]]:
    return case(name, command, "ward")


def bent(source: Any, **header: Any) -> None:
    """The scan of case 4 with another header."""
    import nibabel

    path = source.root / ONE
    image = nibabel.load(path)
    for name, value in header.items():
        image.header[name] = value
    nibabel.Nifti1Image(image.get_fdata(), None, image.header).to_filename(path)


@on_scans("scan-missing", f"{SEG} data/case_9/imaging.nii.gz")
def _(ward, monkeypatch) -> None: ...


@on_scans("scan-pattern-matches-nothing", f"{SEG} data/cases/*.nii.gz --out-dir labels")
def _(ward, monkeypatch) -> None: ...


@on_scans("scan-truncated", f"{SEG} {ONE}")
def _(ward, monkeypatch) -> None:
    path = ward.root / ONE
    path.write_bytes(path.read_bytes()[:-40])


@on_scans("scan-of-two-dimensions", f"{SEG} {ONE}")
def _(ward, monkeypatch) -> None:
    import nibabel
    import numpy as np

    nibabel.Nifti1Image(np.zeros((4, 5), np.int16), np.eye(4)).to_filename(ward.root / ONE)


@on_scans("scan-over-time", f"{SEG} {ONE}")
def _(ward, monkeypatch) -> None:
    import nibabel
    import numpy as np

    nibabel.Nifti1Image(np.zeros((8, 8, 8, 3), np.int16), np.eye(4)).to_filename(ward.root / ONE)


@on_scans("scan-without-voxels", f"{SEG} {ONE}")
def _(ward, monkeypatch) -> None:
    import nibabel
    import numpy as np

    nibabel.Nifti1Image(np.zeros((8, 0, 8), np.int16), np.eye(4)).to_filename(ward.root / ONE)


@on_scans("scan-with-nan", f"{SEG} {ONE}")
def _(ward, monkeypatch) -> None:
    import nibabel
    import numpy as np

    voxels = np.zeros((8, 9, 10), np.float32)
    voxels[3, 4, 5] = np.nan
    nibabel.Nifti1Image(voxels, np.eye(4)).to_filename(ward.root / ONE)


@on_scans("scan-without-spacing", f"{SEG} {ONE}")
def _(ward, monkeypatch) -> None:
    import gzip

    path = ward.root / ONE
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[80:84] = bytes(4)  # pixdim[1]
    path.write_bytes(gzip.compress(bytes(data)))


@on_scans("scan-in-metres", f"{SEG} {ONE}")
def _(ward, monkeypatch) -> None:
    bent(ward, xyzt_units=1)


@on_scans("truth-of-another-shape", f"{SEG} {ONE} --truth other.nii.gz")
def _(ward, monkeypatch) -> None:
    import nibabel
    import numpy as np

    nibabel.Nifti1Image(np.zeros((10, 12, 8), np.uint8), np.eye(4)).to_filename(ward.root / "other.nii.gz")


@on_scans("truth-on-another-grid", f"{SEG} {ONE} --truth other.nii.gz")
def _(ward, monkeypatch) -> None:
    import nibabel
    import numpy as np

    affine = nibabel.load(ward.root / ONE).affine.copy()
    affine[0, 3] += 4
    nibabel.Nifti1Image(np.zeros((10, 12, 9), np.uint8), affine).to_filename(ward.root / "other.nii.gz")


@on_scans("truth-of-unknown-classes", f"{SEG} {ONE} --truth other.nii.gz")
def _(ward, monkeypatch) -> None:
    import nibabel
    import numpy as np

    affine = nibabel.load(ward.root / ONE).affine
    nibabel.Nifti1Image(np.full((10, 12, 9), 7, np.uint8), affine).to_filename(ward.root / "other.nii.gz")


@on_scans("labels-of-another-format", f"{SEG} {ONE} --out labels.png")
def _(ward, monkeypatch) -> None: ...


@on_scans("labels-into-a-file", f"{SEG} {ONE} --out models/seg.onnx/labels.nii.gz")
def _(ward, monkeypatch) -> None: ...


@on_scans("one-file-for-two-scans", f"{SEG} {ONE} data/case_5/imaging.nii.gz --out labels.nii.gz")
def _(ward, monkeypatch) -> None: ...


@on_scans("two-scans-of-one-name", f"{SEG} a/4/imaging.nii.gz b/4/imaging.nii.gz --out-dir out")
def _(ward, monkeypatch) -> None:
    for place in "ab":
        shutil.copytree(ward.root / "data/case_4", ward.root / place / "4")


@on_scans("labels-over-the-scan", f"{SEG} {ONE} --out {ONE}")
def _(ward, monkeypatch) -> None: ...


@on_scans("labels-over-scans", f"{SEG} flat/*.nii.gz --out-dir flat")
def _(ward, monkeypatch) -> None:
    (ward.root / "flat").mkdir()
    for number in (4, 5):
        shutil.copy(ward.root / f"data/case_{number}/imaging.nii.gz", ward.root / f"flat/{number}.nii.gz")


@on_scans("prepared-over-the-raw", "prepare kits19 data data")
def _(ward, monkeypatch) -> None: ...


@on_scans(
    "one-truth-for-two-scans", f"{SEG} data/*/imaging.nii.gz --out-dir out --truth data/case_4/segmentation.nii.gz"
)
def _(ward, monkeypatch) -> None: ...


@on_scans("truth-with-an-unknown-placeholder", f"{SEG} data/*/imaging.nii.gz --out-dir out --truth {{fodler}}/x.nii.gz")
def _(ward, monkeypatch) -> None: ...


@on_scans("classes-of-another-network", "build recipes/scan.yaml --quiet")
def _(ward, monkeypatch) -> None:
    text = (ward.root / "recipes/scan.yaml").read_text()
    ward.recipe("scan", text.replace("[background, organ, lesion]", "[background, organ]"))


@on_scans("pictures-without-a-folder", f"{SEG} {ONE} --pictures")
def _(ward, monkeypatch) -> None: ...


@on_scans("picture-of-another-kind", f"{SEG} {ONE} --picture scan.jpg")
def _(ward, monkeypatch) -> None: ...


@on_scans("axes-that-are-none", f"{SEG} {ONE} --mirror xyz")
def _(ward, monkeypatch) -> None: ...


@on_scans("scan-larger-than-memory", f"{SEG} {ONE} --out labels.nii.gz")
def _(ward, monkeypatch) -> None:
    monkeypatch.setattr("trtforge.memory.available", lambda: 1000)


@on_scans("scores-are-nan", f"{SEG} {ONE} --out labels.nii.gz")
def _(ward, monkeypatch) -> None:
    import numpy as np

    from trtforge.backends.onnxruntime_.session import OnnxruntimeSession

    run = OnnxruntimeSession.run
    monkeypatch.setattr(
        OnnxruntimeSession, "run", lambda self, feed: {name: a * np.nan for name, a in run(self, feed).items()}
    )


@on_scans("prepared-for-another-network", f"{SEG} prepared/case_4/imaging.nii")
def _(ward, monkeypatch) -> None:
    assert ward.forge("prepare", "kits19", "data", "prepared", "--cases", "case_4").code == 0


@on_scans("nothing-to-prepare", "prepare kits19 models prepared")
def _(ward, monkeypatch) -> None: ...


@on_scans("unknown-case", "prepare kits19 data prepared --cases validation")
def _(ward, monkeypatch) -> None: ...


@case("network-is-not-voxelwise", "build recipes/odd.yaml --quiet", "ward")
def _(ward, monkeypatch) -> None:
    import onnx

    model = onnx.load(ward.root / "models" / "seg.onnx")
    model.graph.node.append(onnx.helper.make_node("ArgMax", ["y"], ["l"], name="argmax", axis=1))
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("l", onnx.TensorProto.INT64, None))
    onnx.save(model, ward.root / "models" / "seg.onnx")
    recipe = (ward.root / "recipes" / "scan.yaml").read_text()
    text = recipe.replace("precision: int8", "precision: fp32").replace("calibration: {set: ../data/ward.yaml}", "")
    ward.recipe("odd", text)


# ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def engine_of_scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engine store of a ward, built once."""
    from tests.conftest import Ward

    root = tmp_path_factory.mktemp("ward")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("TRTFORGE_CACHE", str(root / ".cache"))
        patch.setenv("TRTFORGE_THREADS", "1")
        Ward(root).build(recipe="scan")
    return root / "engines"


@pytest.mark.parametrize("name", CASES)
def test_error_text(name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = CASES[name]
    workshop = request.getfixturevalue(chosen.fixture)
    if chosen.fixture == "ward":
        shutil.copytree(request.getfixturevalue("engine_of_scans"), workshop.root / "engines")
    chosen.prepare(workshop, monkeypatch)
    before = workshop.files()
    done = workshop.forge(*chosen.command.split())
    monkeypatch.undo()
    assert done.code not in (0, 1)
    assert "Traceback" not in done.err
    ended = f"$ trtforge {chosen.command}\nexit code {done.code}\n"
    text = scrubbed(ended + heading("stdout", done.out) + heading("stderr", done.err), workshop.root)
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("TRTFORGE_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()
    left = {file for file in workshop.files() if file not in before and not file.endswith(".lock")}
    assert {file for file in left if not file.startswith((".cache/", "engines/orin/"))} <= {
        "engines/host/.trtforge.json"  # a publish that failed has burnt its number
    }


def heading(name: str, text: str) -> str:
    return f"--- {name}\n{text}" if text else ""


def scrubbed(text: str, root: Path) -> str:
    """Without what differs between machines: the project's path, digests, measured values."""
    text = text.replace(str(root), "PROJECT").replace(str(root.parent), "OUTSIDE")
    text = re.sub(r"\b[0-9a-f]{12,64}\b", "DIGEST", text)
    text = re.sub(r"\b0\.\d{4,}\b", "0.VALUE", text)
    text = re.sub(r"(sqnr_db) \d+\.\d+", r"\1 VALUE", text)
    text = re.sub(r"\[ONNXRuntimeError\].*", "[ONNXRuntimeError] ITS OWN WORDS", text)
    return re.sub(r"\b\d+\.\d [KMG]iB are", "N MiB are", text)


def test_every_golden_text_has_its_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(CASES)


def test_every_family_of_errors_is_met() -> None:
    from trtforge.errors import EXIT_CODES

    families = {
        line[6:9] for path in GOLDEN.glob("*.txt") for line in path.read_text().splitlines() if line[:6] == "error["
    }
    assert families == set(EXIT_CODES)
