"""The committed JSON Schema, the guide's table and the shipped recipes agree with the models."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from trtforge.errors.base import TrtforgeError
from trtforge.errors.recipe import MissingKey
from trtforge.recipe.load import load
from trtforge.recipe.schema import GUIDE_FILE, SCHEMA_FILE, json_schema, render, with_key_table

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
TARGETS = {
    "a100": "a100-sxm-80gb",
    "a2": "a2",
    "a30": "a30",
    "host": "host",
    "orin_dla": "orin-agx-64gb/dla",
    "orin_gpu": "orin-agx-64gb/gpu",
    "plugins_a100": "a100-sxm-80gb",
    "plugins_a2": "a2",
    "plugins_a30": "a30",
    "kits19_a100": "a100-sxm-80gb",
    "kits19_a2": "a2",
    "kits19_a30": "a30",
    "kits19_host": "host",
    "kits19_orin_gpu": "orin-agx-64gb/gpu",
    "mlperf_a100": "a100-sxm-80gb",
    "mlperf_a2": "a2",
    "mlperf_a30": "a30",
    "mlperf_orin_dla": "orin-agx-64gb/dla",
    "mlperf_orin_gpu": "orin-agx-64gb/gpu",
    "minilm_a100": "a100-sxm-80gb",
    "minilm_a2": "a2",
    "minilm_a30": "a30",
    "minilm_host": "host",
    "minilm_orin_gpu": "orin-agx-64gb/gpu",
}
BASES = {"base", "kits19", "minilm", "mlperf", "plugins"}
AGAIN = "out of date: run python -m trtforge.recipe.schema"


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def _yaml(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


def test_committed_files_are_current() -> None:
    assert (ROOT / SCHEMA_FILE).read_text(encoding="utf-8") == render(), AGAIN
    guide = (ROOT / GUIDE_FILE).read_text(encoding="utf-8")
    assert with_key_table(guide) == guide, AGAIN


def test_guide_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="markers"):
        with_key_table("# Recipes\n")


def test_the_guide_shows_recipes_that_load(tmp_path: Path) -> None:
    guide = (ROOT / GUIDE_FILE).read_text(encoding="utf-8")
    whole, gray, samples, over = [block.partition("```")[0] for block in guide.split("```yaml\n")[1:]]
    assert {key: type(value) for key, value in YAML(typ="safe").load(samples).items()} == {"name": str, "samples": list}
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "detector.yaml").write_text(whole)
    (tmp_path / "recipes" / "detector_orin.yaml").write_text(over)
    assert load(tmp_path / "recipes" / "detector.yaml").target.key == "a30"
    mnist = "extends: detector.yaml\nengines:\n  detector:\n" + textwrap.indent(gray, "    ")
    (tmp_path / "recipes" / "mnist.yaml").write_text(mnist)
    digits = load(tmp_path / "recipes" / "mnist.yaml").recipe.engines["detector"].inputs["images"]
    assert digits.shape == (1, 1, 28, 28) and digits.preprocess.model_dump()["channels"] == "gray"
    with pytest.raises(TrtforgeError, match="shape of the preprocessed image") as caught:
        load(
            tmp_path / "recipes" / "detector_orin.yaml", overrides=["engines.detector.inputs.images.shape=[8, 3, 9, 9]"]
        )
    assert caught.value.code == "RCP117"
    assert load(tmp_path / "recipes" / "detector_orin.yaml").recipe.engines["detector"].verify is None


def test_every_target_is_shipped() -> None:
    assert {path.stem for path in RECIPES} == {*TARGETS, *BASES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipe(path: Path, validator: Draft202012Validator, monkeypatch: pytest.MonkeyPatch) -> None:
    for network in ("KITS19_UNET", "RESNET50", "SSD_MOBILENET", "BERT_LARGE"):
        monkeypatch.setenv(f"{network}_SHA256", "0" * 64)
    assert path.read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=./recipe.schema.json\n")
    assert [error.message for error in validator.iter_errors(_yaml(path))] == []
    if path.stem in BASES:
        with pytest.raises(TrtforgeError, match="2 problems"):
            load(path)
        return
    loaded = load(path)
    assert loaded.target.key == TARGETS[path.stem]
    assert loaded.root == ROOT
    for engine in loaded.selected().values():
        # MLPerf's give class numbers, boxes in order of their scores and places in a text: no metric here is of these.
        assert (engine.verify is None) == path.stem.startswith("mlperf")
        if engine.verify is not None:
            assert loaded.resolve(engine.verify.set).is_file()
        if engine.precision == "int8":
            assert engine.calibration is not None and engine.calibration.set is not None
            assert loaded.resolve(engine.calibration.set).is_file()
            assert engine.verify is None or engine.calibration.set != engine.verify.set


def _recipe() -> dict[str, Any]:
    engine = {"model": {"onnx": "m.onnx"}, "inputs": {"x": {"shape": [1, 3]}}, "precision": "fp32"}
    return {"target": "host", "backend": "onnxruntime", "engines": {"net": engine}}


def _set(recipe: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, last = path.split(".")
    node = recipe
    for part in parents:
        node = node.setdefault(part, {})
    node[last] = value
    return recipe


CHANGES: list[tuple[str, Any]] = [
    ("target", 3),
    ("target", None),
    ("backend", "onnx"),
    ("zzz", 1),
    ("store", None),
    ("tensorrt", 10.3),
    ("engines", {}),
    ("engines", {"a b": {"model": {"onnx": "m"}, "inputs": {}, "precision": "fp32"}}),
    ("engines.net.model", {}),
    ("engines.net.model.sha256", "abc"),
    ("engines.net.model.sha256", "a" * 64),
    ("engines.net.model.onnx", ""),
    ("engines.net.precision", "int4"),
    ("engines.net.precision", "${P:-fp32}"),
    ("engines.net.precision", None),
    ("engines.net.surgery", ["a"]),
    ("engines.net.surgery", "a"),
    ("engines.net.surgery", [1]),
    ("engines.net.workspace", "1 GB"),
    ("engines.net.inputs.x.shape", [1, 0]),
    ("engines.net.inputs.x.shape", ["${N:-2}", 3]),
    ("engines.net.inputs.x.shape", 3),
    ("engines.net.inputs.x.dtype", "float"),
    ("engines.net.inputs.x.preprocess", {"kind": "array"}),
    ("engines.net.inputs.x.preprocess", {"kind": "array", "mean": [0, 0, 0]}),
    ("engines.net.inputs.x.preprocess", {"kind": "picture"}),
    ("engines.net.inputs.x.preprocess", {}),
    ("engines.net.inputs.x.preprocess", {"kind": "image", "resize": 3}),
    ("engines.net.inputs.x.preprocess", {"kind": "image", "resize": [3], "crop": [3, 3]}),
    ("engines.net.verify", {"set": "v.yaml"}),
    ("engines.net.verify", {"set": "v.yaml", "at_least": 0.5, "samples": 3}),
    ("engines.net.verify", {"set": "v.yaml", "at_least": "much"}),
    ("engines.net.verify", {"set": "v.yaml", "at_least": 1, "metric": "mse"}),
    ("engines.net.quantize.skip", ["n"]),
    ("engines.net.dla", None),
]


@pytest.mark.parametrize(("path", "value"), CHANGES, ids=[f"{path}={value!r}"[:70] for path, value in CHANGES])
def test_schema_and_loader_agree(tmp_path: Path, validator: Draft202012Validator, path: str, value: Any) -> None:
    recipe = _set(_recipe(), path, value)
    if value is None and path == "engines.net.precision":
        recipe["engines"]["net"]["calibration"] = {"set": "c.yaml"}  # null means the default, int8
    file = tmp_path / "r.yaml"
    with file.open("w", encoding="utf-8") as stream:
        YAML(typ="safe", pure=True).dump(recipe, stream)
    try:
        load(file, environ={})
        loads = True
    except TrtforgeError:
        loads = False
    assert validator.is_valid(recipe) == loads


def test_parts_need_not_be_complete_but_must_be_right(validator: Draft202012Validator) -> None:
    part = {
        "extends": "base.yaml",
        "target": "a2",
        "engines": {"net": {"inputs": {"x": {"preprocess": {"crop": [1, 1]}}}}},
    }
    assert validator.is_valid(part)
    assert validator.is_valid({"engines": {"net": {"verify": {"at_least": 0.5}, "calibration": None}}})
    assert validator.is_valid({"extends": "base.yaml", "engines": {"net": None}})
    assert not validator.is_valid({"extends": "base.yaml", "engines": {"net": {"precison": "fp16"}}})
    assert not validator.is_valid({"engines": {"net": {"verify": {"at_least": "high"}}}})
    del part["extends"]
    assert not validator.is_valid(part), "a file with a target that extends nothing is a whole recipe"


def test_base_alone_says_it_is_a_base() -> None:
    with pytest.raises(TrtforgeError) as caught:
        load(ROOT / "recipes" / "base.yaml", overrides=["backend=onnxruntime"])
    assert isinstance(caught.value, MissingKey) and "base for others" in caught.value.next


def test_room_imports_nothing_heavy() -> None:
    program = "import sys, trtforge.recipe.load; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    heavy = {"numpy", "onnx", "onnxruntime", "onnx_graphsurgeon", "PIL", "nibabel", "urllib.request", "rich", "typer"}
    assert heavy.isdisjoint(loaded)


def test_generated_files_are_written_where_asked(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    guide = (ROOT / GUIDE_FILE).read_text(encoding="utf-8")
    begin = guide.index("| key |")
    (tmp_path / GUIDE_FILE).write_text(guide[:begin] + guide[guide.index("<!-- end of keys") :], encoding="utf-8")
    subprocess.run([sys.executable, "-m", "trtforge.recipe.schema", str(tmp_path)], check=True, cwd=ROOT)
    assert (tmp_path / SCHEMA_FILE).read_text(encoding="utf-8") == render()
    assert (tmp_path / GUIDE_FILE).read_text(encoding="utf-8") == guide
