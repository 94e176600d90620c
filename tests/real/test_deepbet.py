"""A network with real weights on real heads: deepbet, calibrated on Colin27, on MNI152, through the window loop.

`make test-real` installs what it needs (torch to export the network, deepbet, nilearn for MNI152) and runs it.
Colin27 is in Debian's mricron-data. Minutes, so not part of `make test`.
"""

from __future__ import annotations

import warnings
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

COLIN27 = Path("/usr/share/mricron/templates/ch2.nii.gz")
MNI152 = "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"

missing = [name for name in ("torch", "deepbet", "nilearn") if find_spec(name) is None]
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}; make test-real"),
    pytest.mark.skipif(not COLIN27.exists(), reason="Colin27 is missing: apt-get install mricron-data"),
]

RECIPE = """\
target: host
backend: onnxruntime
engines:
  deepbet:
    model: {onnx: ../models/deepbet.onnx}
    inputs:
      input:
        shape: [1, 1, 192, 192, 192]
        preprocess: {kind: volume, orientation: RAS, spacing: [0.8, 0.8, 0.8], pad: -0.3}
    windows: {overlap: 0.25, classes: [outside, brain], per_volume: 6}
    surgery: [upgrade-opset, fold-constants, infer-shapes]
    precision: int8
    calibration: {set: ../data/colin.yaml}
    verify: {set: ../data/mni.yaml, metric: dice, at_least: 0.99}
"""


def export(path: Path) -> None:
    import torch

    weights = Path(str(metadata.distribution("deepbet").locate_file("data/models/model.pt")))
    model = torch.jit.load(str(weights), map_location="cpu").eval()
    axes = {name: {0: "n", 2: "d", 3: "h", 4: "w"} for name in ("input", "output")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            torch.zeros(1, 1, 64, 64, 64),
            str(path),
            opset_version=13,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes=axes,
            dynamo=False,
        )


def normalised(source: Path, target: Path) -> np.ndarray:
    """deepbet's own normalisation, which takes each head's own quantiles. Returns the voxels as they were."""
    image: Any = nibabel.load(source)
    voxels = image.get_fdata(dtype=np.float32)
    low, high = np.quantile(voxels, [0.005, 0.995])
    values = ((voxels - low) / (high - low)).clip(0, 1)
    values = 0.226 * (values - values.mean()) / values.std() + 0.449
    made = nibabel.Nifti1Image(values.astype(np.float32), image.affine)
    made.header.set_xyzt_units("mm")
    made.to_filename(target)
    return voxels


def test_int8_segments_a_real_head_as_fp32_does(workshop) -> None:
    root = workshop.root
    export(root / "models" / "deepbet.onnx")
    normalised(COLIN27, root / "data" / "colin.nii.gz")
    mni = Path(str(metadata.distribution("nilearn").locate_file(MNI152)))
    voxels = normalised(mni, root / "data" / "mni.nii.gz")
    mask = nibabel.Nifti1Image((voxels > 0).astype(np.uint8), nibabel.load(mni).affine)  # the template is brain only
    mask.to_filename(root / "data" / "mask.nii.gz")
    for name in ("colin", "mni"):
        (root / "data" / f"{name}.yaml").write_text(f"samples: [{name}.nii.gz]\n")
    workshop.recipe("deepbet", RECIPE)

    parity = workshop.build(recipe="deepbet")["engines"][0]["parity"]
    assert parity["metric"] == "dice" and parity["value"] >= 0.99
    done = workshop.forge(
        "run", "engines/deepbet/deepbet", "data/mni.nii.gz", "--truth", "data/mask.nii.gz", "--against", "fp32",
        "--out", "labels.nii.gz", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    (case,) = done.json["cases"]
    assert case["windows"] > 1
    assert case["dice"]["FP32"]["brain"] >= 0.99
    assert case["dice"]["truth"]["brain"] >= 0.9
