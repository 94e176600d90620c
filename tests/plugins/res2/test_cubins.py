"""The kernels compiled for GPUs that are not here: what they take of an SM, and which instructions they are made of."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.plugins.compiled import Compiled, Taken, compiled
from trtforge.plugins.res2.launch import KERNEL_SET, KERNELS, THREADS

SMS = {"8.0": 164, "8.6": 100, "8.7": 164, "8.9": 100, "9.0": 228}
"""Shared memory of an SM in KiB (CUDA programming guide, "technical specifications per compute capability")."""

RESERVED = 1024  # bytes of shared memory that CUDA keeps a block
BLOCKS = {"res2_identity_64": 2, "res2_projection_64": 3, "res2_identity_32": 4, "res2_projection_32": 6}
"""At least so many blocks fit an SM at once."""

IMMA = 0x237  # of an instruction's lowest 12 bits, SM 8.0 to 9.0


@pytest.fixture(scope="module", params=SMS)
def built(nvrtc, request: pytest.FixtureRequest) -> tuple[str, Compiled]:
    return request.param, compiled(KERNEL_SET, request.param)


def test_all_stays_in_registers_and_blocks_share_an_sm(built) -> None:
    sm, made = built
    assert set(made.taken) == set(KERNELS)
    for name, taken in made.taken.items():
        assert fitting_blocks(sm, taken) >= BLOCKS[name], (name, taken)


def fitting_blocks(sm: str, taken: Taken) -> int:
    """Blocks an SM holds at once; registers go to warps in units of 256."""
    a_warp = -(-taken.registers * 32 // 256) * 256
    return min((SMS[sm] << 10) // (taken.shared + RESERVED), 65536 // (a_warp * THREADS // 32))


def test_the_readme_has_these_figures(nvrtc) -> None:
    readme = (KERNEL_SET.folder / "README.md").read_text()
    for name in KERNELS:
        taken = {sm: compiled(KERNEL_SET, sm).taken[name] for sm in SMS}
        (shared,) = {each.shared for each in taken.values()}
        registers = " / ".join(str(each.registers) for each in taken.values())
        blocks = " / ".join(str(fitting_blocks(sm, each)) for sm, each in taken.items())
        assert f"| `{name}` | {shared} | {registers} | {blocks} |" in readme


def sections(cubin: bytes) -> dict[str, bytes]:
    """Of a 64-bit little-endian ELF, by name."""
    start, size, count, names = (
        int.from_bytes(cubin[40:48], "little"),
        *(int.from_bytes(cubin[at : at + 2], "little") for at in (58, 60, 62)),
    )
    headers = np.frombuffer(cubin, np.uint8, size * count, start).reshape(count, size)
    words = np.ascontiguousarray(headers[:, 24:40]).view("<u8")  # offset, size
    label = np.ascontiguousarray(headers[:, :4]).view("<u4")[:, 0]
    strings = cubin[int(words[names][0]) : int(words[names].sum())]
    found = {}
    for at, (offset, length) in zip(label, words.tolist(), strict=True):
        found[strings[at : strings.index(b"\0", at)].decode()] = cubin[offset : offset + length]
    return found


def test_products_are_tensor_core_instructions(built) -> None:
    """As many as the source unrolls to: of 2a, of 2b, of 2c and branch1, each times 4 for 32 columns."""
    _, made = built
    found = sections(made.cubin)
    for name in KERNELS:
        code = np.frombuffer(found[f".text.{name}"], "<u8")[::2] & 0xFFF
        steps, tiles, halo_tiles = (2, 2, 4) if name.endswith("64") else (1, 1, 2)
        once = steps * 4 * (halo_tiles + tiles + tiles * (2 if "projection" in name else 1))
        assert (code == IMMA).sum() >= once  # a loop may be unrolled further


def test_no_float_arithmetic_is_fused(ptx_of) -> None:
    for ptx in ptx_of(KERNEL_SET).values():
        assert not re.findall(r"\b(?:fma|mad)\.(?:\w+\.)*f32", ptx)
        assert set(re.findall(r"\b((?:add|sub|mul|div)\.(?:\w+\.)?f32)\b", ptx)) == {"add.rn.f32", "mul.rn.f32"}
        assert ".local" not in ptx
        assert "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32" in ptx
        assert "ldmatrix.sync.aligned.m8n8.x4.shared.b16" in ptx
        assert "cp.async.cg.shared.global" in ptx


def test_the_cubins_kept_with_an_engine(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path))
    (binary,) = KERNEL_SET.compile(["8.6"]).values()
    found = set(re.findall(rb"\.text\.(\w+)\0", binary))
    assert found == {name.encode() for name in KERNELS}
    own = {path.name for path in KERNEL_SET.folder.glob("*.cu*")}
    assert set(KERNEL_SET.sources) == own | {"instructions.cuh"}
