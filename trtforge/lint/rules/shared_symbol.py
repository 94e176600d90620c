"""GRF107: one open dimension given two sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context


class SharedSymbol(Rule):
    """What it does
        Reports inputs whose shapes in the model share the name of an open dimension, when the recipe gives it
        different sizes.

    Why it matters
        The same name says that the sizes are always equal, and somewhere in the graph the tensors meet: the build
        fails there, or broadcasts where it should not. Only a careless export gives one name to unrelated sizes.

    Example
        The model declares `ids: int64[n, s]` and `mask: int64[n, s]`; the recipe says `[1, 128]` and `[1, 64]`.

    Fix
        Give both the same size, or export the model with a name for each.
    """

    code = "GRF107"
    title = "one open dimension, two sizes"
    severity = "warning"

    def check(self, context: Context) -> Iterator[Finding]:
        first: dict[str, tuple[str, int]] = {}
        for name, spec in context.inputs.items():
            given = context.engine.inputs.get(name)
            if given is None or spec.shape is None or len(spec.shape) != len(given.shape):
                continue
            for symbol, size in zip(spec.shape, given.shape, strict=True):
                if not isinstance(symbol, str):
                    continue
                other, stated = first.setdefault(symbol, (name, size))
                if stated != size:
                    yield self.finding(
                        f"inputs.{name}.shape",
                        f"it makes `{symbol}` {size}, and the shape of `{other}` makes it {stated}",
                        f"give `{symbol}` one size in both shapes",
                    )
