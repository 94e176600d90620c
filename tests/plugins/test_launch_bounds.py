"""What would keep a kernel from starting, or make it slow, which nothing else here can tell: blocks as they are
launched, against what each kernel is compiled for; registers and shared memory, as ptxas has dealt them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.plugins.compiled import SMS, compiled
from trtforge.plugins.conv3d_small import launch as conv
from trtforge.plugins.instance_norm_relu import launch as norm
from trtforge.plugins.pixel_shuffle_3d import launch as shuffle
from trtforge.plugins.res2 import launch as res2
from trtforge.runtime.windows import cubins, cuda

X, PADS, STRIDES = (1, 32, 8, 8, 8), ([1] * 6, [0] * 6), ([1] * 3, [2] * 3)
DTYPES = ("float32", "float16", "int8")
LAUNCHES = {
    conv.KERNEL_SET: [
        *(conv.launches((1, 1, 8, 8, 8), (32, 1, 3, 3, 3), "int8", PADS[0], each) for each in STRIDES),
        *(conv.launches(X, (3, 32, 1, 1, 1), each, PADS[1], STRIDES[0]) for each in DTYPES[:2]),
    ],
    norm.KERNEL_SET: [norm.launches(X, each, 1e-5, 1, 1) for each in DTYPES],
    shuffle.KERNEL_SET: [shuffle.launches((1, 256, 8, 8, 8), each, 32, 1, 1, 1) for each in DTYPES],
    res2.KERNEL_SET: [res2.launches(mid, 1, 8, 8) for _, mid in res2.WIDTHS],
}


@pytest.mark.parametrize("kernels", LAUNCHES, ids=lambda kernels: kernels.plugin)
def test_a_block_is_as_large_as_its_kernel_is_compiled_for(ptx_of: Any, kernels: Any) -> None:
    launched = {each.kernel: each.block for launches in LAUNCHES[kernels] for each in launches}
    assert bounds(ptx_of(kernels)) == launched


def test_blocks_of_the_window_loop(ptx_of: Any) -> None:
    assert bounds(ptx_of(cubins.WINDOWS)) == dict.fromkeys(cubins.KERNELS, (cuda.THREADS, 1, 1))


@pytest.mark.parametrize("sm", SMS)
@pytest.mark.parametrize("kernels", [*LAUNCHES, cubins.WINDOWS], ids=lambda kernels: kernels.plugin)
def test_nothing_spills_and_a_full_block_fits(nvrtc: Any, kernels: Any, sm: str) -> None:
    made = compiled(kernels, sm).taken
    assert made
    for name, taken in made.items():
        assert taken.spilled == 0, name
        assert taken.registers <= 255 and taken.shared <= 48 << 10, name  # no launch has to ask for more


def test_the_readmes_have_these_figures(nvrtc: Any) -> None:
    def registers(kernels: Any, *names: str) -> list[int]:
        made = compiled(kernels, "8.0").taken
        return [made[name].registers for name in names or made]

    passes = [f"{part}_{kind}" for kind in ("float32", "float16", "int8_cdhw32") for part in ("sums", "apply")]
    first = {*registers(conv.KERNEL_SET, *conv.KERNELS[:2])}
    last = {*registers(conv.KERNEL_SET, *conv.KERNELS[2:])}
    moved = registers(shuffle.KERNEL_SET)
    added = max(registers(cubins.WINDOWS, "accumulate_float16", "accumulate_float32"))
    for kernels, said in [
        (conv.KERNEL_SET, f"{first.pop()} registers on SM 8.0"),
        (conv.KERNEL_SET, f"neighbouring values. {last.pop()} registers."),
        (shuffle.KERNEL_SET, f"{min(moved)} to {max(moved)} registers on SM 8.0"),
        (norm.KERNEL_SET, "| {}, {}; float16 {}, {} | {}, {} |".format(*registers(norm.KERNEL_SET, *passes))),
        (cubins.WINDOWS, f"`accumulate` takes {added} registers"),
    ]:
        assert said in (kernels.folder / "README.md").read_text()
    assert not first and not last


def bounds(ptx: dict[str, str]) -> dict[str, tuple[int, ...]]:
    """`.maxntid`, x first."""
    found = {name: re.search(r"\.maxntid (\d+)(?:, (\d+), (\d+))?", text) for name, text in ptx.items()}
    return {name: tuple(int(size or 1) for size in sizes.groups()) for name, sizes in found.items() if sizes}
