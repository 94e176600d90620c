"""What tables and texts look like in terminals of any width: what is to be copied is never broken."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtforge.cli.table import NO_BREAK, cells, draw, fold

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
WORDS = st.text("ab/-:", min_size=1, max_size=12)
CELLS = st.lists(WORDS, max_size=6).map(" ".join)
ROWS = st.lists(st.tuples(WORDS, CELLS, WORDS, CELLS), min_size=1, max_size=5)
COLUMNS = ("key", "what it is", "size", "note")


@given(ROWS, st.integers(36, 120), st.booleans())
def test_no_word_is_ever_broken_and_no_line_too_long(rows, width: int, narrow: bool) -> None:
    header, body = draw(COLUMNS, rows, width=width, right=["size"], drop=["note"] if narrow else [])
    kept = {word for row in rows for cell in (row[:3] if narrow else row) for word in cell.split()}
    assert kept <= {word for line in body for word in line.split()}
    assert all(len(line) <= width for line in [*header, *body])


@given(ROWS, st.integers(60, 120))
def test_columns_stand_under_their_heads(rows, width: int) -> None:
    header, body = draw(COLUMNS, rows, width=200, right=["size"])
    assert len(body) == len(rows)
    at = header[0].index("what")
    assert all(line[at - 2 : at].strip() == "" for line in body)
    assert [line.split()[0] for line in body] == [row[0] for row in rows]


def test_a_narrow_table_goes_without_what_it_can_then_becomes_blocks() -> None:
    rows = [("orin-agx-64gb/gpu", "8.7", "Ampere, 2048 CUDA cores", "soldered")]
    columns = ("key", "SM", "device", "mounting")
    assert draw(columns, rows, width=60)[0][0].split() == list(columns)
    assert draw(columns, rows, width=32, drop=["mounting"])[0][0].split() == ["key", "SM", "device"]
    assert draw(columns, rows, width=30) == (
        [],
        [
            "orin-agx-64gb/gpu",
            "  SM        8.7",
            "  device    Ampere, 2048 CUDA",
            "            cores",
            "  mounting  soldered",
        ],
    )


def test_the_last_column_may_stick_out() -> None:
    rows = [("1.5", "a/very/long/name/of/a/tensor:0"), ("22.25", "b")]
    _, body = draw(("scale", "tensor"), rows, width=20, right=["scale"], overhang=True)
    assert body == ["  1.5  a/very/long/name/of/a/tensor:0", "22.25  b"]


def test_a_long_word_at_the_end_sticks_out_and_stays_whole() -> None:
    digest = "70fc8a799fd0b4b2ce1ffdefaa0d58069ac464858f4b2994792241cbd502da95"
    header, body = draw(("what", "value"), [("digest of the graph", digest), ("weights", "inline, as told")], width=50)
    assert header[0] == "what                 value"
    assert body == [f"digest of the graph  {digest}", "weights              inline, as told"]


def test_lines_end_between_words_only() -> None:
    assert fold("one two  three", 8) == ["one two", "three"]
    assert fold("a-long-word-with-hyphens b", 5) == ["a-long-word-with-hyphens", "b"]
    assert fold(f"0:{NO_BREAK}0.9 1:{NO_BREAK}0.1", 8) == ["0: 0.9", "1: 0.1"]
    assert fold("", 5) == [""]
    assert cells("日本") == 4
    assert cells("é") == 1


def test_the_keys_of_all_targets_can_be_copied(workshop) -> None:
    from trtforge.targets.load import keys

    shown = ESCAPES.sub("", workshop.terminal("targets", columns=80))
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    assert set(keys()) <= {line.split()[0] for line in lines if line}


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_scores_stay_with_their_labels(workshop, columns: int) -> None:
    workshop.build()
    shown = ESCAPES.sub("", workshop.terminal("run", "engines/host/net", "data/held.yaml", columns=columns))
    table = shown[shown.index("engines/host/net/1") :].splitlines()
    assert max(map(len, table)) <= columns
    assert len(re.findall(r"\b\d: -?\d\.\d{4}\b", "\n".join(table))) == 3 * 2 * 3  # the three largest of each
    assert not any(re.search(r"\b\d:$", line) for line in table)


def test_long_lines_go_on_indented_between_words(workshop) -> None:
    built = ESCAPES.sub("", workshop.terminal("build", "recipes/host.yaml", columns=40))
    parity = built[built.index("  parity:") :].splitlines()
    assert max(map(len, parity[:2])) <= 40
    assert parity[1].startswith("    ")


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_recipe_is_shown_as_yaml_that_says_the_same(workshop, columns: int) -> None:
    from ruamel.yaml import YAML

    workshop.bend(
        "host",
        ("  net:", '  "yes":'),
        ("[infer-shapes]", "[infer-shapes, fold-constants, remove-identity, dead-code, fold-batchnorm]"),
    )
    shown = ESCAPES.sub("", workshop.terminal("recipe", "show", "recipes/host.yaml", columns=columns))
    resolved = workshop.forge("recipe", "show", "recipes/host.yaml", "--json").json["resolved"]
    assert YAML(typ="safe").load(shown) == resolved
    assert "# recipes/host.yaml:1:9" in shown
    assert "None" not in shown


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_a_bar_keeps_its_columns_and_cuts_the_note(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import io
    import sys

    from trtforge.cli.ui import Ui

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    with Ui().task("calibrate", 13) as task:
        for number in range(13):
            task.note(f"package:scikit-image/skimage/data/photograph-{number}.png")
            task.advance()
    frames = [ESCAPES.sub("", frame) for frame in re.split(r"\r|\n", screen.getvalue())]
    bars = [frame for frame in frames if "calibrate" in frame]
    assert bars
    assert max(map(len, bars)) <= columns
    assert re.match(r"calibrate \S{10,20} 13/13 \d:\d\d:\d\d \d:\d\d:\d\d \S*graph-12.png$", bars[-1])


def test_names_from_a_model_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from trtforge.cli.ui import Ui, show_error
    from trtforge.errors.graph import InvalidGraph

    name, ui = "a\x1b[2Jb\x9bc\nd", Ui()
    ui.table("t", ("node",), [(name,)])
    ui.say(f"node {name}")
    ui.log(name)
    ui.warn(name)
    show_error(InvalidGraph(f"bad {name}", where=name, why=name, next=name))
    seen = capsys.readouterr()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", seen.out + seen.err)
    assert "a\\x1b[2Jb\\x9bc\\nd" in seen.out.splitlines(), "a row of a table is one line"
