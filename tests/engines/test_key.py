from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtforge.engines.key import digest_sources, engine_key, source_digest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON))
def test_order_does_not_matter(inputs: dict[str, object]) -> None:
    assert engine_key(inputs) == engine_key(dict(reversed(inputs.items())))


def test_known_value() -> None:
    assert engine_key({"b": 1, "a": "é"}) == hashlib.sha256('{"a":"é","b":1}'.encode()).hexdigest()


def test_each_input_counts() -> None:
    inputs = {"model": "a", "tools": {"onnxruntime": "1.32.0"}, "scales": None}
    keys = {
        engine_key(inputs),
        engine_key(inputs | {"model": "b"}),
        engine_key(inputs | {"tools": {"onnxruntime": "1.32.1"}}),
        engine_key(inputs | {"scales": "a"}),
        engine_key(inputs | {"more": None}),
    }
    assert len(keys) == 5


def test_what_cannot_be_written_down_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        engine_key({"x": float("inf")})
    with pytest.raises(TypeError):
        engine_key({"x": Path()})


def test_source_digest_sees_names_contents_and_folders(tmp_path: Path) -> None:
    def digest_of(files: dict[str, str]) -> str:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        return digest_sources(root)

    base = {"a.py": "x = 1", "b/c.py": "y = 2"}
    same = digest_of(base)
    assert digest_of(base) == same
    assert digest_of({**base, "b/__pycache__/c.pyc": "cache", "notes.md": "text"}) == same
    others = [
        digest_of({**base, "a.py": "x = 2"}),
        digest_of({"a2.py": "x = 1", "b/c.py": "y = 2"}),
        digest_of({"a.py": "x = 1", "c.py": "y = 2"}),
        digest_of({**base, "d.py": ""}),
    ]
    assert len({same, *others}) == 5


def test_own_source_digest_is_stable_within_a_process() -> None:
    assert source_digest() == source_digest()
    assert len(source_digest()) == 64
