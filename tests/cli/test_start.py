"""What a command imports: a start that loads the heavy packages is felt at every prompt."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "nibabel",
    "numpy",
    "onnx",
    "onnx_graphsurgeon",
    "onnxruntime",
    "PIL",
    "polygraphy",
    "pydantic",
    "rich",
    "ruamel",
    "tensorrt",
    "tensorrt_rtx",
}
OPTIONS = {"pydantic"}  # Typer checks options with it
RECIPE = OPTIONS | {"ruamel"}
TABLE = OPTIONS

RUN = """\
import atexit, json, sys
sys.argv = ["trtforge", *{arguments!r}]
def report():
    with open({report!r}, "w") as stream:
        json.dump(sorted({{name.split(".")[0] for name in sys.modules}}), stream)
atexit.register(report)
from trtforge.cli.main import entry
entry()
"""


def loaded(folder: Path, *arguments: str) -> set[str]:
    """Heavy packages that are loaded when a command ends well, in a fresh interpreter."""
    report = folder / "modules.json"
    code = RUN.format(arguments=arguments, report=str(report))
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return HEAVY & set(json.loads(report.read_text()))


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    code = "import sys, trtforge.cli.main; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & {name.split(".")[0] for name in done.stdout.split()}


def test_importing_the_package_and_every_room_loads_nothing_heavy() -> None:
    import trtforge

    rooms = sorted(path.parent.name for path in Path(trtforge.__file__).parent.glob("*/__init__.py"))
    assert "pipeline" in rooms
    code = "import sys, importlib\n" + "".join(f"importlib.import_module('trtforge.{room}')\n" for room in rooms)
    code += "print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    assert loaded(tmp_path, *arguments) == set()


@pytest.mark.parametrize("arguments", [["build", "--help"], ["scales", "convert", "--help"]])
def test_help_of_a_command_loads_nothing_of_its_work(arguments: list[str], tmp_path: Path) -> None:
    assert loaded(tmp_path, *arguments) <= OPTIONS


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (["targets"], TABLE),
        (["targets", "--json"], OPTIONS),
        (["targets", "a100-sxm-80gb"], TABLE),
        (["explain", "ENG111"], OPTIONS),
        (["explain", "DLA102"], OPTIONS),
        (["schema"], OPTIONS),
        (["schema", "build"], OPTIONS),
        (["doctor", "--json"], RECIPE),
        (["doctor"], RECIPE | TABLE),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_looking_things_up_loads_little(arguments: list[str], allowed: set[str], tmp_path: Path) -> None:
    assert loaded(tmp_path, *arguments) <= allowed


def test_a_build_with_nothing_to_do_only_hashes(workshop) -> None:
    workshop.build()
    assert loaded(workshop.root, "build", "recipes/host.yaml") <= RECIPE
    assert workshop.files(workshop.store / "net" / "1")
    assert not (workshop.store / "net" / "2").exists()


def test_showing_a_recipe_loads_no_model(workshop) -> None:
    assert loaded(workshop.root, "recipe", "show", "recipes/host.yaml") <= RECIPE


def test_inspecting_an_engine_loads_no_runtime(workshop) -> None:
    workshop.build()
    assert loaded(workshop.root, "inspect", "engines/host/net") <= TABLE
    assert loaded(workshop.root, "inspect", "engines/host/net", "--json") <= OPTIONS
