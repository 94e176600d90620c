"""`trtforge inspect` and `trtforge scales`: what a file is, and which command it belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

ENGINE = "engines/host/net"


@pytest.fixture
def built(workshop):
    workshop.build()
    return workshop


def facts(shown: str) -> dict[str, str]:
    """The rows of a page's first table."""
    rows = shown.split("\n\n")[1].splitlines()[2:]
    return {key.strip(): value.strip() for key, _, value in (row.partition("  ") for row in rows)}


def test_an_engine_is_told_in_words(built) -> None:
    page = facts(built.forge("inspect", ENGINE).out)
    assert page["target"] == "host"
    assert page["calibration"] == "minmax, 6 samples"
    assert page["quantized"].startswith("Conv 2")
    assert page["parity"].startswith("cosine 0.99")
    assert not any("_" in key or value in ("True", "False", "None") for key, value in page.items())


def test_a_comparison_without_noise_is_exact(workshop) -> None:
    workshop.bend("host", ("precision: int8", "precision: fp32"), ("cosine, at_least: 0.9", "sqnr_db, at_least: 9"))
    workshop.build()
    assert facts(workshop.forge("inspect", ENGINE).out)["parity"].startswith("sqnr_db exact (bound 9) passed")
    shown = workshop.forge("run", ENGINE, "data/held.yaml").out
    assert "engine scores" in shown
    assert "999" not in shown
    assert shown.splitlines()[-1] == "sqnr_db exact, bound 9: kept"


def test_a_published_engine_has_its_files(built) -> None:
    assert set(built.forge("inspect", ENGINE, "--json").json["files"].values()) == {"as published"}


@pytest.mark.parametrize("state", ["CHANGED", "MISSING"])
def test_a_damaged_engine_is_shown_with_what_is_wrong(built, state: str) -> None:
    model = built.store / "net/1/model.onnx"
    if state == "CHANGED":
        model.write_bytes(model.read_bytes()[:-1] + b"!")
    else:
        model.unlink()
    done = built.forge("inspect", ENGINE)
    assert done.code == 7
    assert [line.split()[-1] for line in done.out.splitlines() if line.startswith("model.onnx")] == [state]
    assert "scales.json" in done.out
    assert {"CHANGED": "ENG111", "MISSING": "ENG110"}[state] in done.err
    assert built.forge("inspect", ENGINE, "--json").json["files"]["model.onnx"] == state


def test_a_manifest_stands_for_its_engine(built) -> None:
    assert built.forge("inspect", f"{ENGINE}/1/manifest.json").out == built.forge("inspect", ENGINE).out


@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("recipes/host.yaml", "trtforge recipe show recipes/host.yaml"),
        ("data/cal.yaml", "trtforge run ENGINE data/cal.yaml"),
        ("data/7.npy", "trtforge run ENGINE data/7.npy"),
        (f"{ENGINE}/1/scales.json", f"trtforge scales show {ENGINE}/1/scales.json"),
        ("net.cache", "trtforge scales show net.cache"),
        ("recipes/trtforge.lock", "trtforge build RECIPE --locked"),
    ],
)
def test_files_of_other_commands_name_them(built, file: str, command: str) -> None:
    assert built.forge("scales", "convert", ENGINE, "net.cache", "--to", "trt-cache").code == 0
    done = built.forge("inspect", file, "--json")
    assert done.code == 2
    assert done.json["error"]["code"] == "USE107"
    assert done.json["error"]["next"] == command
    if "ENGINE" not in command and "RECIPE" not in command:
        assert built.forge(*command.split()[1:]).code == 0


@pytest.mark.parametrize("reference", [ENGINE, f"{ENGINE}/1", "net"])
def test_scales_of_an_engine_are_found_by_its_name(built, reference: str) -> None:
    whole = built.forge("scales", "show", f"{ENGINE}/1/scales.json", "--json").json
    assert built.forge("scales", "show", reference, "--json").json == whole
    assert built.forge("scales", "diff", reference, f"{ENGINE}/1/scales.json", "--json").json["diff"]["same"] is True


def test_an_engine_without_scales_says_so(workshop) -> None:
    workshop.build("--set", "engines.net.precision=fp32")
    done = workshop.forge("scales", "show", ENGINE, "--json")
    assert done.code == 5
    assert done.json["error"]["what"] == "the engine has no scales"
    assert "fp32" in done.json["error"]["why"]


def test_tables_without_a_common_tensor_have_no_ratio(built) -> None:
    cache = Path("other.cache")
    cache.write_text("TRT-8602-MinMaxCalibration\nelsewhere: 3c010a14\n")
    done = built.forge("scales", "diff", ENGINE, cache)
    assert "no tensor in both: 6 only in a, 1 only in b" in done.out
    assert "ratio" not in done.out
    assert built.forge("scales", "diff", ENGINE, cache, "--json").json["diff"]["median_ratio"] is None


def test_a_store_lists_every_version(workshop: Any) -> None:
    assert workshop.forge("build", "recipes/host.yaml").code == 0
    assert workshop.forge("build", "recipes/host.yaml", "--set", "engines.net.precision=fp32").code == 0
    said = workshop.forge("inspect", "engines/host").out
    assert "engines/host: 1 engine, 2 versions" in said
    assert [line.split()[0] for line in said.splitlines() if line.startswith("net/")] == ["net/2", "net/1"]
    found = workshop.forge("inspect", "engines/host", "--json").json
    assert [entry["precision"] for entry in found["versions"]] == ["fp32", "int8"]
    assert [entry["version"] for entry in found["engines"]] == [2]
    assert "other versions  1; 2 is" not in workshop.forge("inspect", "engines/host/net").out
    assert "other versions  2; 2 is the newest" in workshop.forge("inspect", "engines/host/net/1").out


def test_a_model_says_what_goes_in_and_out(workshop: Any) -> None:
    said = workshop.forge("inspect", "models/net.onnx").out
    assert "x       inputs   float32 [n, 3, 16, 16]" in said
