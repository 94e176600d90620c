"""With `--json` a command prints one object, of the form it states; what is for people stays on stderr."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest

ESCAPE = "\x1b["


@pytest.fixture
def schema(workshop) -> Callable[[str], Any]:
    """The stated schema of a result, with every object closed: a field that is not stated fails."""

    def closed(value: Any) -> Any:
        if isinstance(value, list):
            return [closed(item) for item in value]
        if not isinstance(value, dict):
            return value
        shut = {"additionalProperties": False} if "properties" in value else {}
        return {key: closed(item) for key, item in value.items()} | shut

    def get(name: str) -> Any:
        done = workshop.forge("schema", name)
        assert done.code == 0, done.err
        return closed(json.loads(done.out))

    return get


@pytest.fixture
def prepared(workshop):
    """A workshop with an engine, a kit, scales in three forms, and a recipe with two engines."""
    workshop.build()
    workshop.bend(
        "orin",
        ("target: host", "target: orin-agx-64gb/gpu"),
        ("backend: onnxruntime", 'backend: tensorrt\ntensorrt: "8.6"'),
    )
    assert workshop.forge("build", "recipes/orin.yaml", "--quiet").code == 10
    assert workshop.forge("build", "recipes/host.yaml", "--out", "net.kit.tar.zst").code == 0
    assert workshop.forge("calibrate", "recipes/host.yaml").code == 0
    assert workshop.forge("scales", "convert", "net.scales.json", "net.cache", "--to", "trt-cache").code == 0
    return workshop


KIT = "engines/orin/net.kit.tar.zst"
ENGINE = "engines/host/net"
COMMANDS: list[tuple[str, list[str]]] = [
    ("build", ["build", "recipes/host.yaml"]),
    ("build", ["build", "recipes/host.yaml", "--force"]),
    ("build", ["build", "recipes/host.yaml", "--kit"]),
    ("finish", ["finish", "net.kit.tar.zst", "--store", "engines/finished"]),
    ("finish", ["finish", "net.kit.tar.zst", "--only-check"]),
    ("calibrate", ["calibrate", "recipes/host.yaml", "--fresh"]),
    ("tune", ["tune", "recipes/host.yaml", "--batches", "1", "--streams", "1", "--seconds", "0.1"]),
    ("run", ["run", ENGINE, "data/held.yaml"]),
    ("run", ["run", ENGINE, "data/7.npy", "data/8.npy", "--against", "none"]),
    ("inspect", ["inspect", ENGINE]),
    ("inspect", ["inspect", "engines"]),
    ("inspect", ["inspect", "engines/orin"]),
    ("inspect", ["inspect", KIT]),
    ("inspect", ["inspect", "models/net.onnx"]),
    ("surgery", ["surgery", "recipes/host.yaml", "--out", "after.onnx"]),
    ("surgery-list", ["surgery", "--list"]),
    ("scales-show", ["scales", "show", "net.scales.json"]),
    ("scales-show", ["scales", "show", "net.cache", "--tensor", "c"]),
    ("scales-convert", ["scales", "convert", "net.scales.json", "net.json", "--to", "ort-json"]),
    ("scales-diff", ["scales", "diff", "net.scales.json", "net.cache"]),
    ("targets", ["targets"]),
    ("target", ["targets", "orin-agx-64gb/dla"]),
    ("target", ["targets", "host"]),
    ("lint", ["lint", "recipes/orin.yaml"]),
    ("recipe", ["recipe", "show", "recipes/host.yaml"]),
    ("explain", ["explain"]),
    ("explain", ["explain", "ENG111"]),
    ("doctor", ["doctor"]),
    ("schema-list", ["schema"]),
]


ON_SCANS: list[tuple[str, list[str]]] = [
    ("run-volumes", ["run", "engines/scan/seg", "data/case_4/imaging.nii.gz", "--out", "labels.nii.gz"]),
    ("run-volumes", ["run", "engines/scan/seg", "data/case_*/imaging.nii.gz", "--out-dir", "out", "--against", "fp32"]),
    (
        "run-volumes",
        ["run", "engines/scan/seg", "data/case_5/imaging.nii.gz", "--truth", "{folder}/segmentation.nii.gz"],
    ),
    ("prepare", ["prepare", "kits19", "data", "prepared"]),
]


def test_results_of_scans_are_of_their_schemas(ward, schema) -> None:
    ward.build(recipe="scan")
    for name, arguments in ON_SCANS:
        done = ward.forge(*arguments, "--json")
        assert done.code == 0, done.err
        assert done.json["schema"] == f"trtforge.{name}/1"
        jsonschema.validate(done.json, schema(name))


@pytest.mark.parametrize(("name", "arguments"), COMMANDS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_result_is_one_object_of_its_schema(prepared, schema, name: str, arguments: Sequence[str]) -> None:
    done = prepared.forge(*arguments, "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)  # one object and nothing else
    assert result["schema"] == f"trtforge.{name}/1"
    jsonschema.validate(result, schema(name))
    assert "{" not in done.err
    assert ESCAPE not in done.out + done.err


def test_every_schema_is_valid_and_shown_by_some_command(workshop, schema) -> None:
    names = set(workshop.forge("schema").out.split())
    for name in names:
        jsonschema.Draft202012Validator.check_schema(schema(name))
    assert names == {name for name, _ in [*COMMANDS, *ON_SCANS]} | {"error", "recipe-file", "manifest"}


def test_the_committed_recipe_schema_is_the_one_printed(workshop) -> None:
    import trtforge

    committed = Path(trtforge.__file__).parent.parent / "recipes" / "recipe.schema.json"
    assert json.loads(workshop.forge("schema", "recipe-file").out) == json.loads(committed.read_text())


def test_a_manifest_fits_its_schema(prepared) -> None:
    manifest = json.loads((prepared.store / "net/1/manifest.json").read_text())
    jsonschema.validate(manifest, json.loads(prepared.forge("schema", "manifest").out))


def test_a_plan_is_inspected(workshop, schema) -> None:
    plan = bytearray(0x200)
    plan[0:4] = plan[0x1C:0x20] = b"vtrt"
    plan[0x08:0x10], plan[0x10:0x18] = (2).to_bytes(8, "little"), len(plan).to_bytes(8, "little")
    plan[0x18:0x1C] = bytes((1, 7, 1, 116))
    plan[0x20:0x28] = (2).to_bytes(8, "little")
    for entry in (0x40, 0x58):
        plan[entry + 8 : entry + 16], plan[entry + 16 : entry + 24] = (0x74).to_bytes(8, "little"), b"\x10" + bytes(7)
    (workshop.root / "model.plan").write_bytes(plan)
    done = workshop.forge("inspect", "model.plan", "--json")
    jsonschema.validate(done.json, schema("inspect"))
    assert done.json["header"]["version"] == "1.7.1.116"


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        (["build", "recipes/none.yaml"], "RCP101", 3),
        (["calibrate", "recipes/none.yaml"], "RCP101", 3),
        (["build", "recipes/host.yaml", "--only", "other"], "RCP", 3),
        (["run", "nothing", "data/7.npy"], "ENG106", 7),
        (["inspect", "nothing.onnx"], "USE106", 2),
        (["inspect", "pyproject.toml"], "ENG201", 7),
        (["surgery", "recipes/none.yaml"], "RCP101", 3),
        (["scales", "show", "none.json"], "CAL201", 5),
        (["scales", "diff", "none.json", "none.json"], "CAL201", 5),
        (["scales", "convert", "none.json", "out", "--to", "json"], "CAL201", 5),
        (["targets", "a1000"], "RCP201", 3),
        (["lint", "recipes/none.yaml"], "RCP101", 3),
        (["recipe", "show", "recipes/none.yaml"], "RCP101", 3),
        (["explain", "XYZ999"], "USE101", 2),
        (["schema", "biuld"], "USE104", 2),
        (["biuld"], "USE100", 2),
        (["build"], "USE100", 2),
        (["run", "x", "y", "--against", "fp64"], "USE100", 2),
        (["doctor", "--loud"], "USE100", 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_every_error_is_one_object_too(workshop, schema, arguments: Sequence[str], code: str, exit_code: int) -> None:
    done = workshop.forge(*arguments, "--json")
    error = done.json["error"]
    jsonschema.validate(done.json, schema("error"))
    assert error["code"].startswith(code)
    assert done.code == error["exit_code"] == exit_code
    assert error["what"] in done.err
    assert error["next"] in done.err
    assert '"' not in done.err or "{" not in done.err
    assert "Traceback" not in done.err


def test_a_recipe_with_several_problems_lists_them(workshop, schema) -> None:
    workshop.bend("bad", ("target: host", "target: hots"), ("precision: int8", "precision: int4"))
    done = workshop.forge("build", "recipes/bad.yaml", "--json")
    jsonschema.validate(done.json, schema("error"))
    assert {problem["code"] for problem in done.json["error"]["problems"]} == {"RCP113", "RCP201"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["build", "recipes/host.yaml", "--force"],
        ["calibrate", "recipes/host.yaml", "--fresh"],
        ["run", ENGINE, "data/held.yaml"],
        ["lint", "recipes/host.yaml"],
        ["surgery", "recipes/host.yaml"],
    ],
    ids=lambda value: value[0],
)
def test_quiet_leaves_stderr_empty_and_the_result_on_stdout(prepared, arguments: Sequence[str]) -> None:
    loud, quiet = prepared.forge(*arguments), prepared.forge(*arguments, "--quiet")
    assert quiet.code == loud.code == 0
    assert quiet.err == ""
    assert quiet.out.splitlines()[1:] == loud.out.splitlines()[1:]  # the first line may name the next version


@pytest.mark.parametrize(
    "arguments", [arguments for _, arguments in COMMANDS if arguments != ["explain"]], ids=" ".join
)
def test_no_escape_codes_and_no_trailing_blanks_where_no_terminal_is(prepared, arguments: Sequence[str]) -> None:
    done = prepared.forge(*arguments)
    assert done.code == 0, done.err
    assert done.out.strip()
    assert ESCAPE not in done.out + done.err
    assert [line for line in done.out.splitlines() if line != line.rstrip()] == []


@pytest.mark.parametrize("arguments", [["targets"], ["build", "recipes/none.yaml"]], ids=" ".join)
def test_colour_is_for_terminals_and_no_color_takes_it_away(workshop, arguments: Sequence[str]) -> None:
    assert ESCAPE in workshop.terminal(*arguments)
    assert ESCAPE not in workshop.terminal(*arguments, NO_COLOR="1")


def test_progress_bars_are_for_terminals_and_can_be_left_out(workshop) -> None:
    hide_cursor = "\x1b[?25l"
    assert hide_cursor in workshop.terminal("build", "recipes/host.yaml")
    assert hide_cursor not in workshop.terminal("build", "recipes/host.yaml", "--force", "--no-progress")
    assert hide_cursor not in workshop.terminal("build", "recipes/host.yaml", "--force", "--quiet")


def test_a_reader_that_goes_away_ends_a_command_silently(workshop) -> None:
    process = workshop.start("recipe", "show", "recipes/host.yaml")
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141
    process.stderr.close()
