"""Memory left: the system's and the container's, which counts files it has read as used."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtforge import memory

GIB = 1 << 30


def cgroup(folder: Path, limit: str, used: int, files: int = 0) -> None:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(
        f"anon 5\nfile {files}\nactive_file {files // 4}\ninactive_file {files - files // 4}\n"
    )


def test_cached_files_of_a_container_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    system = memory.available()
    assert system is not None and system > 0
    cgroup(tmp_path, str(1 << 20), used=1 << 19)
    assert memory.available() == 1 << 19
    cgroup(tmp_path, str(1 << 20), used=1 << 20, files=1 << 18)
    assert memory.available() == 1 << 18
    cgroup(tmp_path, "max", used=5 * GIB)
    assert memory.available() == pytest.approx(system, rel=0.2)
    cgroup(tmp_path, str(10**18), used=0)
    assert memory.available() == pytest.approx(system, rel=0.2)


def test_the_peak_is_of_this_process() -> None:
    before = memory.peak()
    assert before is not None and before > 1 << 20
    block = bytearray(before + (64 << 20))
    after = memory.peak()
    assert after is not None and after >= len(block)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB"), (1 << 50, "1048576.0 GiB")],
)
def test_sizes_as_people_say_them(size: int, text: str) -> None:
    assert memory.human_bytes(size) == text
