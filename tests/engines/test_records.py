from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtforge.engines.records import Doc, RecordError, from_json, json_schema, parse, to_json


@dataclass(frozen=True)
class Inner:
    """Within."""

    sizes: tuple[int | None, ...]
    share: float = 0.5


@dataclass(frozen=True)
class Outer:
    """The whole,
    in two lines.

    More that the schema leaves out.
    """

    name: Annotated[str, Doc("A name", pattern="^[a-z]+$")]
    inners: Mapping[str, Inner]
    ready: bool = False
    note: str | None = None
    free: dict[str, Any] = field(default_factory=dict)


VALUE = {
    "name": "a",
    "inners": {"x": {"sizes": [1, None], "share": 1}},
    "ready": True,
    "note": None,
    "free": {"any": ["thing", 1]},
}


def test_round_trip() -> None:
    record = from_json(Outer, VALUE)
    assert record == Outer("a", {"x": Inner((1, None), 1.0)}, True, None, {"any": ["thing", 1]})
    assert to_json(record) == VALUE


@given(
    st.builds(
        Outer,
        name=st.text(),
        inners=st.dictionaries(
            st.text(),
            st.builds(Inner, st.lists(st.none() | st.integers()).map(tuple), st.floats(allow_nan=False)),
        ),
        ready=st.booleans(),
        note=st.none() | st.text(),
        free=st.dictionaries(st.text(), st.none() | st.integers() | st.lists(st.text())),
    )
)
def test_any_record_comes_back(record: Outer) -> None:
    assert from_json(Outer, to_json(record)) == record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 1}, "name: expected text, found 1"),
        ({"ready": 1}, "ready: expected true or false, found 1"),
        ({"note": []}, "note: expected text, found a list"),
        ({"inners": None}, "inners: expected an object, found null"),
        (
            {"inners": {"x": {"sizes": [1, "2"], "share": 1}}},
            "inners['x'].sizes[1]: expected a whole number, found '2'",
        ),
        ({"inners": {"x": {"sizes": [True], "share": 1}}}, "inners['x'].sizes[0]: expected a whole number, found True"),
        ({"inners": {"x": {"sizes": {}, "share": 1}}}, "inners['x'].sizes: expected a list, found an object"),
        ({"inners": {"x": {"sizes": []}}}, "inners['x']: key 'share' is missing"),
        ({"nmae": "a"}, "unknown key 'nmae'"),
        ({"name": ["x" * 100]}, "name: expected text, found a list"),
    ],
)
def test_mistakes_name_their_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError) as caught:
        from_json(Outer, VALUE | change)
    assert str(caught.value) == message


def test_schema_agrees_with_the_reader() -> None:
    schema = json_schema(Outer, id="urn:x", title="x")
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(VALUE, schema)
    assert schema["description"] == "The whole, in two lines."
    assert schema["properties"]["name"] == {"type": "string", "description": "A name", "pattern": "^[a-z]+$"}
    for change in ({"name": 1}, {"ready": 1}, {"inners": {"x": {}}}, {"more": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(VALUE | change, schema)


def test_an_unknown_type_is_a_programming_error() -> None:
    @dataclass
    class Odd:
        values: set[int]

    with pytest.raises(TypeError):
        json_schema(Odd, id="urn:x", title="x")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it is not JSON: line 1, column 1"),
        (b'{"a":\n 1,}', "it is not JSON: line 2"),
        (b'{"a": "\xff"}', "byte 7 is not UTF-8"),
        (b"\xef\xbb\xbf{}", "it is not JSON"),
        (b"[" * 200_000, "it is nested too deeply"),
        (b'{"a": {"b": 1, "b": 1}}', "the key 'b' comes twice"),
        (b"[NaN]", "NaN is no number"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b"[1e999]", "1e999 is no number"),
        (b"[" + b"9" * 400 + b"]", "a number of 400 digits"),
        (rb'["\udc80"]', "is no character"),
    ],
)
def test_what_another_machine_may_not_write(data: bytes, said: str) -> None:
    with pytest.raises(RecordError) as caught:
        parse(data)
    assert said in str(caught.value)


def test_a_key_that_comes_twice_is_found_among_very_many() -> None:
    """A stranger's `kit.json` has up to 64 MiB, and is read before its signature is looked at."""
    keys = [*(f'"k{number}": 0' for number in range(100_000)), '"k99999": 0']
    began = time.process_time()
    with pytest.raises(RecordError, match="the key 'k99999' comes twice"):
        parse(f"{{{','.join(keys)}}}".encode())
    assert time.process_time() - began < 5


def test_what_it_may_write() -> None:
    text = rb'{"a": [1, -2.5e3, true, null], "b": "\ud83d\ude00", "c": "\u00e9"}'
    assert parse(text) == {"a": [1, -2500.0, True, None], "b": "\U0001f600", "c": "\xe9"}
