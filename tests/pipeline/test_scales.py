"""Where the scales of a build come from, and which are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trtforge.pipeline import job as jobs
from trtforge.recipe.load import load


def key(name: str = "host") -> str:
    return jobs.plan(load(Path(f"recipes/{name}.yaml")))[0].key


def engine(result: dict[str, Any]) -> dict[str, Any]:
    (only,) = result["engines"]
    return dict(only)


def test_scales_made_earlier_give_the_same_engine(workshop, steady) -> None:
    first = engine(workshop.build())
    assert workshop.forge("calibrate", "recipes/host.yaml", "--out", "recipes").code == 0
    workshop.bend("scales", ("{set: ../data/cal.yaml}", "{scales: net.scales.json}"))
    second = engine(workshop.build(recipe="scales"))
    files = [
        json.loads((workshop.root / done["path"] / "manifest.json").read_text())["files"] for done in (first, second)
    ]
    assert files[0] == files[1]
    assert second["key"] != first["key"]


def test_another_scales_file_changes_the_key(workshop) -> None:
    assert workshop.forge("calibrate", "recipes/host.yaml", "--out", "recipes").code == 0
    workshop.bend("scales", ("{set: ../data/cal.yaml}", "{scales: net.scales.json}"))
    before = key("scales")
    workshop.write_sample(1, scale=3.0)
    assert workshop.forge("calibrate", "recipes/host.yaml", "--out", "recipes").code == 0
    assert key("scales") != before


def test_scales_of_another_model_are_refused_and_the_digest_is_named(workshop) -> None:
    assert workshop.forge("calibrate", "recipes/host.yaml", "--out", "recipes").code == 0
    made_for = json.loads((workshop.root / "recipes/net.scales.json").read_text())["receipt"]["model_graph"]
    workshop.write_model(seed=1)
    workshop.bend("scales", ("{set: ../data/cal.yaml}", "{scales: net.scales.json}"))
    error = workshop.build(recipe="scales", code=5)["error"]
    assert error["code"] == "CAL204"
    assert "graph" in error["what"]
    assert made_for[:12] in error["why"]
    assert not (workshop.root / "engines/scales").exists() or not list((workshop.root / "engines/scales").glob("net/*"))


def test_scales_with_external_weights_changed_are_refused_too(workshop) -> None:
    import onnx

    path = workshop.root / "models/net.onnx"
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert workshop.forge("calibrate", "recipes/host.yaml", "--out", "recipes").code == 0
    weights = workshop.root / "models/weights.bin"
    data = bytearray(weights.read_bytes())
    data[0] ^= 1
    weights.write_bytes(data)
    workshop.bend("scales", ("{set: ../data/cal.yaml}", "{scales: net.scales.json}"))
    error = workshop.build(recipe="scales", code=5)["error"]
    assert error["what"] == "the scales were made for another weights"


def test_one_calibration_serves_two_recipes(workshop) -> None:
    workshop.build()
    workshop.bend("second", ("[infer-shapes]", "[infer-shapes, dead-code]"))
    done = workshop.forge("build", "recipes/second.yaml")
    assert "calibrated earlier" in done.out
    assert len(list((workshop.cache / "scales").glob("*.json"))) == 1


def test_a_damaged_cached_table_is_made_again(workshop) -> None:
    workshop.build()
    (table,) = (workshop.cache / "scales").glob("*.json")
    whole = table.read_bytes()
    table.write_bytes(whole[:100])
    done = workshop.forge("build", "recipes/host.yaml", "--force")
    assert done.code == 0
    assert "warning: calibrating again" in done.err
    assert "calibrated now" in done.out
    assert table.read_bytes() == whole


def test_a_method_of_calibration_has_its_own_table(workshop) -> None:
    workshop.build()
    second = engine(workshop.build("--set", "engines.net.calibration.method=minmax-fused"))
    assert second["version"] == 2
    assert len(list((workshop.cache / "scales").glob("*.json"))) == 2


def test_relu6_as_relu_takes_the_ranges_of_relu6(workshop) -> None:
    """Gathered behind the pass they would grow, and what the Clips cut off would come through."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(workshop.write_model())
    graph = model.graph
    for name, value in (("low", 0.0), ("high", 6.0)):
        graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
    weight = next(each for each in graph.initializer if each.name == "w0")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 20, "w0"))
    graph.node[1].CopyFrom(helper.make_node("Clip", ["c0", "low", "high"], ["r0"], name="relu0"))
    onnx.save(model, workshop.root / "models/net.onnx")
    strict = ("at_least: 0.9}", "at_least: 0.99}")
    workshop.bend("clip", strict)
    workshop.bend("relu", strict, ("[infer-shapes]", "[infer-shapes, relu6-to-relu]"))
    made = {}
    for name in ("clip", "relu"):
        assert workshop.forge("calibrate", f"recipes/{name}.yaml", "--out", "recipes").code == 0
        made[name] = json.loads((workshop.root / "recipes/net.scales.json").read_text())["ranges"]
        assert engine(workshop.build(recipe=name))["parity"]["passed"]
    assert made["clip"] == made["relu"]
    assert made["relu"]["r0"]["max"] == 6.0 < made["relu"]["c0"]["max"]
    workshop.bend("listed", strict, ("{set: ../data/cal.yaml}", "{scales: net.scales.json}"),
                  ("[infer-shapes]", "[infer-shapes, relu6-to-relu]"))  # fmt: skip
    assert engine(workshop.build(recipe="listed"))["parity"]["passed"]
