"""DLA112: the managed SRAM an engine asks for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.dla.sizes import pool_bytes, pool_text
from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context


class DlaSram(Rule):
    """What it does
        Compares `dla: {sram}` with the SRAM of the device and with the number of loadables.

    Why it matters
        The pool is like a cache for the tensors of one loadable: what fits stays on the chip between layers. Each
        loadable gets it for itself, and all together use at most twice the pool. Orin has 1 MiB for each core, Xavier
        4 MiB for all. Sources disagree about TensorRT's own default on Orin (header: 1 MiB, documentation and NVIDIA's
        own builder: 0.5 MiB), so recipes always say it.

    Example
        `sram: 1MiB` on Orin with five loadables, each of which may claim all the SRAM of the core.

    Fix
        One loadable: all the SRAM of a core, `dla: {sram: 1MiB}` on Orin, as in NVIDIA's reference commands. Several:
        half of it, `dla: {sram: 512KiB}`. Both are starting points: `trtforge tune RECIPE` measures them on the device.
    """

    code = "DLA112"
    title = "managed SRAM that does not fit"
    severity = "hint"

    def check(self, context: Context) -> Iterator[Finding]:
        dla = context.target.dla
        if not context.target.is_dla or dla is None or context.engine.dla is None:
            return
        said, there = context.engine.dla.sram, int(dla.sram_mib * (1 << 20))
        size, count = pool_bytes(said), len(context.placement.loadables)
        whole, compare = pool_text(there), "trtforge tune RECIPE measures both on the device"
        if size > there:
            owner = "all cores share" if dla.sram_shared else "a core has"
            message = f"the engine asks for {said} of managed SRAM, and {owner} {whole}"
            yield self.finding("dla.sram", message, f"write dla: {{sram: {whole}}}", severity="warning")
        elif not dla.sram_shared and count > 1 and size == there:
            message = f"each of {count} loadables may take {said} of SRAM, and the core has {whole} for all of them"
            yield self.finding("dla.sram", message, f"try dla: {{sram: {pool_text(there // 2)}}} too; {compare}")
        elif not dla.sram_shared and count == 1 and size < there:
            message = f"the only loadable could have all {whole} of the core's SRAM, and the recipe gives it {said}"
            yield self.finding("dla.sram", message, f"try dla: {{sram: {whole}}} too; {compare}")
