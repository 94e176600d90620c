"""DLA111: weights and tensors of a loadable against the memory it is given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.graph.labels import label
from trtforge.lint.dla.sizes import pool_bytes, pool_text
from trtforge.lint.rule import Finding, Rule
from trtforge.memory import human_bytes

if TYPE_CHECKING:
    from trtforge.lint.context import Context

GLOBAL = "512MiB"
LOCAL = "1GiB"


class DlaMemory(Rule):
    """What it does
        Adds up the weights of each loadable, and the tensors that stay inside it, in the precision they will have, and
        compares them with the pools `dla: {global_dram, local_dram}`, 512 MiB and 1 GiB when left out.

    Why it matters
        Weights of a DLA network must stay below 512 MiB and the tensors inside one loadable below 1 GiB (documented,
        TensorRT 8.6; the default pools). Above that TensorRT splits the loadable, or fails without GPU fallback.

    Example
        An SSD of 1200 x 1200 pixels with `shape: [32, 3, 1200, 1200]`: its first stages alone hold more than 1 GiB.

    Fix
        A smaller batch makes the tensors smaller, INT8 halves both. Or raise the pool, a power of two: `dla:
        {global_dram: 1GiB}` or `dla: {local_dram: 2GiB}`. The sum is an upper bound: it counts every tensor
        for itself, and the compiler may use one place for several.
    """

    code = "DLA111"
    title = "loadable larger than its memory"
    severity = "warning"

    def check(self, context: Context) -> Iterator[Finding]:
        if not context.target.is_dla:
            return
        dla = context.engine.dla
        weights = (dla and dla.global_dram) or GLOBAL
        tensors = (dla and dla.local_dram) or LOCAL
        for loadable in context.placement.loadables:
            where = f"loadable {loadable.number}, {label(loadable.nodes[0])} to {label(loadable.nodes[-1])}"
            if loadable.weights >= pool_bytes(weights):
                message = f"its weights are {human_bytes(loadable.weights)}, its pool has {weights}"
                less = "write precision: int8, or " if context.engine.precision != "int8" else "write "
                yield self.finding(where, message, f"{less}dla: {{global_dram: {_pool_for(loadable.weights)}}}")
            if loadable.total is not None and loadable.total >= pool_bytes(tensors):
                message = f"the tensors inside are up to {human_bytes(loadable.total)}, its pool has {tensors}"
                fix = f"use a smaller batch in inputs, or write dla: {{local_dram: {_pool_for(loadable.total)}}}"
                yield self.finding(where, message, fix)


def _pool_for(size: int) -> str:
    """The smallest pool that holds more, as recipes write it: a power of two."""
    return pool_text(1 << max(size.bit_length(), 20))
