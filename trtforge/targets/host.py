"""Facts of this machine's CPU: what INT8 arithmetic it has decides which quantized form is right here."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")

X86_FLAGS = (
    "sse4_1",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx_vnni_int8",
    "avx512f",
    "avx512bw",
    "avx512dq",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
)
ARM_FLAGS = ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2")
"""Instruction sets kernels are chosen by, in the kernel's spelling; the rest of /proc/cpuinfo is noise here."""

INT8_DOT = frozenset({"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"})

_DARWIN_FLAGS = {
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.avx512vnni": "avx512_vnni",
    "hw.optional.neon": "asimd",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
}


@dataclass(frozen=True)
class HostFacts:
    """``cores``: logical CPUs this process may use. ``isa``: sorted subset of X86_FLAGS or ARM_FLAGS."""

    model: str
    vendor: str
    machine: str
    cores: int
    isa: tuple[str, ...]

    @property
    def has_int8_dot(self) -> bool:
        """INT8 products are summed in 32 bits by one instruction. Without it, AVX2 kernels add pairs of u8 x s8
        products in 16 bits, which saturates, and ranges must leave room for that."""
        return not INT8_DOT.isdisjoint(self.isa)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"isa": list(self.isa), "has_int8_dot": self.has_int8_dot}


@lru_cache(maxsize=1)
def host_facts() -> HostFacts:
    """Facts of this CPU; read once per process. Unknown parts are "unknown" or empty, never an error."""
    if platform.system() == "Darwin":
        model, vendor, flags = _darwin()
    else:
        model, vendor, flags = parse_cpuinfo(_first_processor())
    return HostFacts(
        model=model or platform.processor() or "unknown",
        vendor=vendor or "unknown",
        machine=platform.machine(),
        cores=usable_cores(),
        isa=tuple(sorted(flags.intersection((*X86_FLAGS, *ARM_FLAGS)))),
    )


def usable_cores() -> int:
    """Logical CPUs this process may run on (a container's CPU set counts)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parse_cpuinfo(text: str) -> tuple[str, str, set[str]]:
    """(model, vendor, flags) from the text of one processor of /proc/cpuinfo, x86 or ARM."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, separator, value = line.partition(":")
        if separator:
            fields.setdefault(name.strip(), value.strip())
    # ARM kernels name no model; implementer and part identify the core design.
    model = fields.get("model name") or " ".join(
        f"{name.removeprefix('CPU ')} {fields[name]}" for name in ("CPU implementer", "CPU part") if name in fields
    )
    vendor = fields.get("vendor_id") or fields.get("CPU implementer", "")
    return model, vendor, set((fields.get("flags") or fields.get("Features") or "").split())


def _first_processor() -> str:
    """The first block of /proc/cpuinfo (a 256-core machine repeats it 256 times); "" where there is none."""
    lines = []
    try:
        with CPUINFO.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                if not line.strip():
                    break
                lines.append(line)
    except OSError:
        return ""  # not Linux, or /proc is not mounted: the facts are simply unknown
    return "".join(lines)


def _darwin() -> tuple[str, str, set[str]]:
    import subprocess  # only here: it would cost every other start a few milliseconds

    names = ["machdep.cpu.brand_string", "machdep.cpu.vendor", *_DARWIN_FLAGS]
    try:
        # -i: names this CPU does not know are left out instead of failing the call
        done = subprocess.run(["sysctl", "-i", *names], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "", "", set()
    return parse_sysctl(done.stdout)


def parse_sysctl(text: str) -> tuple[str, str, set[str]]:
    """(model, vendor, flags) from `sysctl` output on macOS."""
    values: Mapping[str, str] = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    flags = {flag for name, flag in _DARWIN_FLAGS.items() if values.get(name, "0").strip() == "1"}
    model = values.get("machdep.cpu.brand_string", "").strip()
    vendor = values.get("machdep.cpu.vendor", "Apple" if model.startswith("Apple") else "").strip()
    return model, vendor, flags
