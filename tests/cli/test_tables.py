"""What tables and texts look like in terminals of any width: what is to be copied is never broken."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtforge.cli.table import NO_BREAK, cells, draw, fold, reflow, sentence

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


@pytest.mark.parametrize("columns", [60, 80])
def test_the_targets_are_a_table_whose_keys_can_be_copied(workshop, columns: int) -> None:
    from trtforge.targets.load import keys

    shown = ESCAPES.sub("", workshop.terminal("targets", columns=columns))
    lines = shown.splitlines()
    assert max(map(len, lines)) <= columns
    rows = {line.split()[0]: line for line in lines if line}
    assert set(keys()) <= set(rows)
    assert rows["orin-agx-64gb/dla"].split()[1] == "8.7" and rows["5.1.1"].split()[3] == "8.5.2", "no blocks"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_pages_are_broken_anew_at_any_width(width: int) -> None:
    from trtforge.errors import catalogue
    from trtforge.lint.explain import explain
    from trtforge.lint.run import rules

    for code in [*catalogue(), *(rule.code for rule in rules())]:
        page = explain(code).partition("\n\n")[2]  # the head is no paragraph
        lines = reflow(page, width).splitlines()
        assert " ".join(lines).split() == page.split()
        for line, after in itertools.pairwise(lines):
            assert len(line) <= width or "`trtforge " in line, f"{code}: {line!r}"
            indents = {len(one) - len(one.lstrip()) for one in (line, after)}
            if not (line and after) or indents not in ({0}, {4}):
                continue  # a heading, or code
            word = re.match(r"\s*((?:[^\s`]*`[^`]+`|[^\s`])\S*)", after)
            assert word and len(line) + 1 + len(word[1]) > width, f"{code}: {line!r} could hold more"


def test_code_in_a_page_stays_as_it_is() -> None:
    page = "Fix\n    Use the\n    own name:\n\n        inputs:\n          x: {a: 1}"
    page += "\n\n    See `trtforge inspect M.onnx` for\n    it."
    assert reflow(page, 24).splitlines() == [
        "Fix",
        "    Use the own name:",
        "",
        "        inputs:",
        "          x: {a: 1}",
        "",
        "    See",
        "    `trtforge inspect M.onnx`",
        "    for it.",
    ]
    assert reflow(page, 80).splitlines()[-1] == "    See `trtforge inspect M.onnx` for it."


def test_what_is_to_be_copied_is_not_broken() -> None:
    assert sentence("copy it there, and finish it: trtforge finish net.kit.tar.zst", 40) == [
        "copy it there, and finish it:",
        "  trtforge finish net.kit.tar.zst",
    ]
    assert sentence("see `trtforge lint RECIPE --fix` for all of it", 26) == [
        "see",
        "  `trtforge lint RECIPE --fix`",
        "  for all of it",
    ]
    assert sentence("write `a b c`, or `d e f`", 16) == ["write `a b c`,", "  or `d e f`"]
    assert sentence("  a line of `words that are longer than any line` and more", 24)[0].startswith(
        "  a line of `words"
    )


def test_a_column_that_may_stick_out_gets_room_from_those_that_may_go() -> None:
    rows = [("-1.23457", "2.34567", "2.34567", "0.0184698", "4", "stage0/block1/branch2a/BatchNorm:0")]
    columns, right = ("min", "max", "amax", "scale", "samples", "tensor"), ("min", "max", "amax", "scale", "samples")
    for width, shown in (
        (90, list(columns)),
        (80, ["min", "max", "amax", "scale", "tensor"]),
        (60, ["amax", "scale", "tensor"]),
    ):
        header, body = draw(columns, rows, width=width, right=right, drop=["samples", "min", "max"], overhang=True)
        assert header[0].split() == shown
        assert max(map(len, body)) <= width
    _, (line,) = draw(columns, rows, width=30, right=right, drop=["samples", "min", "max"], overhang=True)
    assert line == f"2.34567  0.0184698  {rows[0][-1]}", "longer than any room"


def test_warnings_and_reasons_keep_to_the_terminal(workshop) -> None:
    workshop.bend("host", ("[infer-shapes]", "[infer-shapez]"))
    shown = ESCAPES.sub("", workshop.terminal("lint", "recipes/host.yaml", columns=60)).splitlines()
    at = {line.split(":")[0].strip(): number for number, line in enumerate(shown) if ":" in line}
    why = shown[at["why"] : at["next"]]
    assert len(why) > 2 and max(map(len, why)) <= 60
    assert all(line.startswith("         ") for line in why[1:])


@pytest.mark.parametrize("command", [[], ["scales"]], ids=["all", "scales"])
def test_help_has_whole_sentences(workshop, command: list[str]) -> None:
    shown = workshop.terminal(*command, "--help", columns=60)
    assert "..." not in shown.replace("[ARGS]...", "")
    assert max(map(len, shown.splitlines())) <= 60


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
