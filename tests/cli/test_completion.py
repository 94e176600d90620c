"""Shell completion: scripts for each shell, and the values it offers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def offered(workshop, words: str) -> list[str]:
    """What bash would offer at the end of a line."""
    completion = {
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
        "_TRTFORGE_COMPLETE": "complete_bash",
    }
    done = subprocess.run(
        [sys.executable, "-m", "trtforge.cli.main"],
        cwd=workshop.root,
        env=os.environ | completion,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("trtforge bu", ["build"]),
        ("trtforge targets orin-agx-64", ["orin-agx-64gb/gpu", "orin-agx-64gb/dla"]),
        ("trtforge explain RCP10", ["RCP101", "RCP102"]),
        ("trtforge schema surg", ["surgery", "surgery-list"]),
        ("trtforge schema mani", ["manifest"]),
        ("trtforge build recipes/host.yaml --only ", ["net"]),
        ("trtforge build recipes/host.yaml --only x", []),
        ("trtforge build recipes/none.yaml --only ", []),
    ],
)
def test_values_are_offered(workshop, words: str, expected: list[str]) -> None:
    assert offered(workshop, words)[: len(expected) or None] == expected


@pytest.mark.parametrize(
    ("shell", "mark"), [("bash", "complete -o"), ("zsh", "#compdef trtforge"), ("fish", "complete --command trtforge")]
)
def test_every_shell_has_a_script_of_its_own(workshop, shell: str, mark: str) -> None:
    done = workshop.forge("--show-completion", shell)
    assert done.code == 0
    assert mark in done.out
    assert "_TRTFORGE_COMPLETE=complete_" + shell in done.out
    assert done.err == ""


def test_a_script_is_installed_where_the_shell_looks(workshop) -> None:
    home = workshop.root / "home"
    home.mkdir()
    done = workshop.run("--install-completion", "fish", HOME=str(home))
    assert done.code == 0, done.err
    (script,) = workshop.files(home)
    assert script.endswith("fish/completions/trtforge.fish")
    assert script in done.out
