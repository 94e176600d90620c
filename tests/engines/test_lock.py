from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from trtforge.engines.lock import Drift, Lock, Pins, check, drifts, lock_path, read, update
from trtforge.errors.engine import LockDrift, LockMissing, LockUnreadable

KEY_INPUTS: Mapping[str, Any] = {
    "model": "a" * 64,
    "scales": None,
    "backend": "onnxruntime",
    "verify": ["b" * 64, "c" * 64],
    "tools": {"onnxruntime": "1.32.0", "numpy": "2.4.6"},
}
PINS = Pins.of(KEY_INPUTS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return lock_path(tmp_path / "recipes" / "host.yaml")


def test_pins_of_key_inputs() -> None:
    assert PINS.tools == {"onnxruntime": "1.32.0", "numpy": "2.4.6"}
    assert PINS.inputs["model"] == "a" * 64
    assert PINS.inputs["scales"] is None
    assert len(str(PINS.inputs["verify"])) == 64
    assert "tools" not in PINS.inputs


def test_written_beside_the_recipe_and_read_back(path: Path) -> None:
    assert read(path) == Lock()
    changed = update(path, "host.yaml", "net", PINS)
    assert path.name == "trtforge.lock" and path.parent.name == "recipes"
    assert Drift("model", None, "a" * 64) in changed
    assert read(path).pins("host.yaml", "net") == PINS
    check(path, "host.yaml", "net", PINS)
    assert [entry.name for entry in path.parent.iterdir()] == ["trtforge.lock"]  # its guard is gone


def test_reads_well_in_a_diff(path: Path) -> None:
    update(path, "host.yaml", "net", PINS)
    lines = path.read_text().splitlines()
    assert '          "onnxruntime": "1.32.0"' in lines
    assert json.loads(path.read_text())["schema"] == 1


def test_an_update_touches_only_its_own_section(path: Path) -> None:
    update(path, "host.yaml", "net", PINS)
    update(path, "a100.yaml", "net", PINS)
    newer = Pins.of({**KEY_INPUTS, "model": "d" * 64})
    assert update(path, "host.yaml", "net", newer) == [Drift("model", "a" * 64, "d" * 64)]
    assert read(path).pins("a100.yaml", "net") == PINS
    assert read(path).pins("host.yaml", "net") == newer


def test_nothing_is_written_when_nothing_changed(path: Path) -> None:
    update(path, "host.yaml", "net", PINS)
    before = path.stat()
    assert update(path, "host.yaml", "net", PINS) == []
    assert path.stat().st_ino == before.st_ino and path.stat().st_mtime_ns == before.st_mtime_ns


def test_locked_refuses_drift_and_lists_each_pin(path: Path) -> None:
    update(path, "host.yaml", "net", PINS)
    before = path.read_bytes()
    now = Pins.of(
        {
            "model": "d" * 64,
            "scales": "e" * 64,
            "backend": "onnxruntime",
            "extra": "x",
            "verify": KEY_INPUTS["verify"],
            "tools": {"onnxruntime": "1.33.0"},
        }
    )
    with pytest.raises(LockDrift) as caught:
        check(path, "host.yaml", "net", now)
    assert caught.value.what.startswith("5 inputs of 'net' differ")
    assert caught.value.why == (
        "extra: none -> x; "
        "model: aaaaaaaaaaaaaaaa... -> dddddddddddddddd...; "
        "scales: none -> eeeeeeeeeeeeeeee...; "
        "tool numpy: 2.4.6 -> none; "
        "tool onnxruntime: 1.32.0 -> 1.33.0"
    )
    assert "without --locked" in caught.value.next
    assert path.read_bytes() == before


def test_one_drift_in_the_singular(path: Path) -> None:
    update(path, "host.yaml", "net", PINS)
    with pytest.raises(LockDrift, match="1 input of 'net' differs from the lock"):
        check(path, "host.yaml", "net", Pins.of({**KEY_INPUTS, "backend": "tensorrt"}))


def test_locked_needs_a_lock(path: Path) -> None:
    with pytest.raises(LockMissing, match="does not exist"):
        check(path, "host.yaml", "net", PINS)
    update(path, "host.yaml", "other", PINS)
    with pytest.raises(LockMissing, match="has no entry"):
        check(path, "host.yaml", "net", PINS)


def test_equal_pins_do_not_drift() -> None:
    assert drifts(PINS, Pins.of(dict(reversed(KEY_INPUTS.items())))) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<<<<<<< HEAD\n{}\n=======\n",
        "[]",
        '{"schema": 1}',
        '{"schema": 2, "recipes": {}}',
        '{"schema": 1, "recipes": {"host.yaml": {"net": {"inputs": {"model": 1}, "tools": {}}}}}',
        "[" * 100_000,
    ],
)
def test_an_unreadable_lock(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_text(text)
    for use in (lambda: check(path, "host.yaml", "net", PINS), lambda: update(path, "host.yaml", "net", PINS)):
        with pytest.raises(LockUnreadable) as caught:
            use()  # type: ignore[func-returns-value]
        assert caught.value.where == str(path) and caught.value.next
    assert path.read_text() == text


def test_a_lock_that_cannot_be_written(path: Path) -> None:
    path.parent.write_text("a file where the folder belongs")
    with pytest.raises(LockUnreadable):
        update(path, "host.yaml", "net", PINS)


UPDATER = """
import sys
from pathlib import Path
from trtforge.engines.lock import Pins, update

for number in range(10):
    update(Path(sys.argv[1]), "host.yaml", f"{sys.argv[2]}{number}", Pins({"model": "a" * 64}, {}))
"""


def test_updates_at_once_lose_nothing(path: Path) -> None:
    path.parent.mkdir()
    processes = [subprocess.Popen([sys.executable, "-c", UPDATER, str(path), name]) for name in "abc"]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert len(read(path).recipes["host.yaml"]) == 30
    assert [entry.name for entry in path.parent.iterdir()] == ["trtforge.lock"]


TIMES = {"timing_cache": {"target": "a30", "tensorrt": "10.3.0.26", "sha256": "f" * 64}}


def test_a_timing_cache_is_pinned_beside_the_inputs(path: Path) -> None:
    """It is known after a build only: before one the other pins are held to."""
    assert PINS.timed({}) == PINS and PINS.timing is None
    timed = PINS.timed(TIMES)
    update(path, "host.yaml", "net", timed)
    assert f'"timing cache of a30, TensorRT 10.3.0.26": "{"f" * 64}"' in path.read_text()
    assert check(path, "host.yaml", "net", PINS).timing == "f" * 64
    assert check(path, "host.yaml", "net", timed).untimed() == PINS
    other = PINS.timed({"timing_cache": {**TIMES["timing_cache"], "sha256": "e" * 64}})
    with pytest.raises(LockDrift) as caught:
        check(path, "host.yaml", "net", other)
    assert caught.value.why == "timing cache of a30, TensorRT 10.3.0.26: ffffffffffffffff... -> eeeeeeeeeeeeeeee..."
    assert "--force" in caught.value.next
    assert (
        len(update(path, "host.yaml", "net", PINS.timed({"timing_cache": {**TIMES["timing_cache"], "tensorrt": "11"}})))
        == 2
    )
