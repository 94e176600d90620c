"""Facts of the CPU, read from the texts Linux and macOS give."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from trtforge.targets import host
from trtforge.targets.host import HostFacts, host_facts, parse_cpuinfo, parse_sysctl

X86 = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu avx avx2 fma f16c avx512f avx512bw avx512dq avx512vl avx512_vnni amx_tile amx_int8 avx_vnni rdseed
"""
ARM = """processor\t: 0
BogoMIPS\t: 62.50
Features\t: fp asimd evtstrm aes asimdhp cpuid asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd42
"""
MAC = """machdep.cpu.brand_string: Apple M2
hw.optional.neon: 1
hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_I8MM: 1
hw.optional.arm.FEAT_BF16: 0
"""


def test_x86() -> None:
    model, vendor, flags = parse_cpuinfo(X86)
    assert (model, vendor) == ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "GenuineIntel")
    assert {"avx2", "avx512_vnni", "amx_int8"} <= flags


def test_arm() -> None:
    model, vendor, flags = parse_cpuinfo(ARM)
    assert (model, vendor) == ("implementer 0x41 part 0xd42", "0x41")
    assert "asimddp" in flags


def test_macos() -> None:
    assert parse_sysctl(MAC) == ("Apple M2", "Apple", {"asimd", "asimddp", "i8mm"})


def test_nothing_readable_is_not_an_error() -> None:
    assert parse_cpuinfo("") == ("", "", set())
    assert parse_sysctl("") == ("", "", set())


@pytest.mark.parametrize(
    ("isa", "dot"),
    [(("avx", "avx2"), False), (("avx2", "avx512_vnni"), True), (("asimd",), False), (("asimddp",), True), ((), False)],
)
def test_int8_dot(isa: tuple[str, ...], dot: bool) -> None:
    assert HostFacts("m", "v", "x86_64", 1, isa).has_int8_dot is dot


def test_only_the_first_processor_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"{X86}\n{X86.replace('amx_int8', 'sse9')}")
    monkeypatch.setattr(host, "CPUINFO", path)
    monkeypatch.setattr(host.platform, "system", lambda: "Linux")
    facts = host_facts.__wrapped__()
    assert facts.vendor == "GenuineIntel"
    assert "amx_int8" in facts.isa
    assert "rdseed" not in facts.isa
    assert list(facts.isa) == sorted(facts.isa)


def test_without_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "CPUINFO", tmp_path / "absent")
    monkeypatch.setattr(host.platform, "system", lambda: "Linux")
    facts = host_facts.__wrapped__()
    assert facts.model
    assert facts.isa == ()


def test_this_machine() -> None:
    facts = host_facts()
    assert facts is host_facts()
    assert 1 <= facts.cores <= (os.cpu_count() or 1)
    assert set(facts.isa) <= {*host.X86_FLAGS, *host.ARM_FLAGS}
    assert json.loads(json.dumps(facts.to_json()))["cores"] == facts.cores
