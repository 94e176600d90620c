"""`docs/cli.md` names everything that scripts rely on, and nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import trtforge
from trtforge.cli.main import CLOSED_PIPE, COMMANDS, INTERRUPTED
from trtforge.cli.results import RESULTS
from trtforge.errors.base import EXIT_CODES

ROOT = Path(trtforge.__file__).parent.parent
GUIDE = ROOT / "docs/cli.md"


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading."""
    part = GUIDE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_every_command_and_result() -> None:
    table = rows("Commands")
    assert {row[0].strip("`").split()[0] for row in table} == set(COMMANDS)
    named = {name for row in table for name in re.findall(r"`([a-z-]+)`", row[3])}
    assert named == set(RESULTS) - {"error"}


def test_every_exit_code() -> None:
    table = {int(row[0]): row[2].strip("`") for row in rows("Exit codes")}
    families = {code: family for code, family in table.items() if len(family) == 3}
    assert families == {code: family for family, code in EXIT_CODES.items()}
    assert set(table) - set(families) == {0, 1, INTERRUPTED, CLOSED_PIPE}


def test_every_environment_variable() -> None:
    read = {
        name
        for path in (ROOT / "trtforge").rglob("*.py")
        for name in re.findall(r"(?<!_)TRTFORGE_[A-Z_]+", path.read_text())
    }
    assert read == {name for row in rows("Environment variables") if (name := row[0].strip("`")).startswith("TRT")}


PAGES = [
    "README.md",
    "docs/cli.md",
    "docs/device.md",
    "docs/validate-on-device.md",
    "docs/recipes.md",
    "docs/volumes.md",
    "calib_data/README.md",
]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []
