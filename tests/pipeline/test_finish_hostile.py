"""Kits whose digests hold and whose content does not: each is refused as a kit, in words, and nothing is made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.test_finish import change, with_members, write
from trtforge.engines.kit import read_kit

TEXT_OF_PYTHON = (
    "'dict'",
    "NoneType",
    "has no attribute",
    "codec",
    "validation error",
    "Expecting",
    "sys.",
    "mapping",
    "Errno",
)


def refused(workshop: Any, kit: Path) -> str:
    done = workshop.forge("finish", kit, "--store", "finished", "--json")
    error = done.json["error"]
    assert (done.code, error["code"]) == (7, "ENG131"), error
    assert error["where"].endswith(kit.name) and error["next"]
    assert not any(text in error["why"] for text in TEXT_OF_PYTHON), error["why"]
    assert not (workshop.root / "finished" / "net").exists()
    why: str = error["why"]
    return why


def put(place: tuple[str | int, ...], value: Any) -> Callable[[Any], Any]:
    def changed(whole: Any) -> Any:
        at = whole
        for step in place[:-1]:
            at = at[step]
        at[place[-1]] = value
        return whole

    return changed


PROBE, VERIFY = ("probes", 0), ("verify", 0)


@pytest.mark.parametrize(
    ("member", "edit"),
    [
        ("recipe.json", lambda _: None),
        ("recipe.json", put(("engines", "net", "builder"), "x")),
        ("recipe.json", put(("engines",), {})),
        ("samples.json", put((*PROBE, "inputs"), {})),
        ("samples.json", put((*PROBE, "inputs", "x", "shape"), [])),
        ("samples.json", put((*PROBE, "inputs", "x", "shape", 0), 0)),
        ("samples.json", put((*PROBE, "inputs", "x", "dtype"), "9" * 5000)),
        ("samples.json", put((*PROBE, "inputs", "x", "dtype"), "|O8")),
        ("samples.json", put((*PROBE, "inputs", "x", "offset"), 1 << 70)),
        ("samples.json", put((*PROBE, "id"), "\udc80")),
        ("samples.json", put((*VERIFY, "outputs"), {})),
        ("samples.json", put((*VERIFY, "outputs", "y", "shape"), [0, 1 << 70])),
        ("scales.json", put(("ranges", "c0", "min"), "x")),
        ("scales.json", put(("ranges", "c0", "min"), 1e30)),
    ],
)
def test_a_member_that_says_something_else(workshop: Any, member: str, edit: Callable[[Any], Any]) -> None:
    kit = write(workshop)
    folder = workshop.root / "read"
    read_kit(kit, into=folder)
    text = json.dumps(edit(json.loads((folder / member).read_bytes()))).encode()
    refused(workshop, with_members(kit, workshop.root / "odd.zst", **{member: text}))


@pytest.mark.parametrize("member", ["recipe.json", "samples.json"])
@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "it is not JSON: line 1, column 1"),
        (b"\xff\xfe", "byte 0 is not UTF-8"),
        (b"[" * 200_000, "it is nested too deeply"),
        (b"1" * 6000, "a number of 6000 digits"),
        (b'{"a": 1, "a": 2}', "the key 'a' comes twice"),
    ],
)
def test_a_member_that_is_no_json(workshop: Any, member: str, text: bytes, why: str) -> None:
    assert why in refused(workshop, with_members(write(workshop), workshop.root / "odd.zst", **{member: text}))


@pytest.mark.parametrize("tools", [None, 0, "x", [], {"numpy": 1}, {}])
def test_tools_that_are_none(workshop: Any, tools: Any) -> None:
    kit = write(workshop)
    key_inputs = {**read_kit(kit).info.key_inputs, "tools": tools}
    assert "tool" in refused(workshop, change(kit, workshop.root / "odd.zst", key_inputs=key_inputs))


def test_int8_without_scales_and_float_with_them(workshop: Any) -> None:
    kit = write(workshop)
    assert "lacks scales.json" in refused(workshop, change(kit, workshop.root / "odd.zst", drop="scales.json"))
    folder = workshop.root / "read"
    read_kit(kit, into=folder)
    scales = (folder / "scales.json").read_bytes()
    workshop.bend("float", ("precision: int8", "precision: fp32"))
    plain = write(workshop, recipe="float", out="float.kit.tar.zst")
    odd = with_members(plain, workshop.root / "float.zst", **{"scales.json": scales})
    assert "has scales.json" in refused(workshop, odd)


def test_a_number_that_no_float_holds_is_refused_by_inspect_too(workshop: Any) -> None:
    kit = write(workshop)
    facts = read_kit(kit).info.facts
    odd = change(kit, workshop.root / "odd.zst", facts={**facts, "parity": {**facts["parity"], "at_least": 10**400}})
    done = workshop.forge("inspect", odd, "--json")
    assert done.json["error"]["code"] == "ENG131" and "a number of 401 digits" in done.json["error"]["why"]
