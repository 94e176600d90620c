"""How much memory this process may still take, how much it has taken, and how to say so."""

from __future__ import annotations

import sys
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available() -> int | None:
    """Bytes that can be taken before the system runs out, the container's limit counted; None where unknown."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        system = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    return min(system, _left_in_container(_CGROUP, system))


def _left_in_container(folder: Path, unlimited: int) -> int:
    """What is left of a cgroup's limit. Files it has read are counted as used, but make room when it is needed."""
    try:
        limit = int((folder / "memory.max").read_text(encoding="ascii"))
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        rows = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        files = int(rows["inactive_file"]) + int(rows["active_file"])
    except (OSError, ValueError, KeyError):  # no limit ("max"), or another kind of container
        return unlimited
    return max(limit - used + files, 0)


def peak() -> int | None:
    """Most bytes that this process has had in memory so far; None where unknown."""
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def human_bytes(size: float) -> str:
    """1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")
