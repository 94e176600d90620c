"""What a lint rule is: a class whose docstring is its manual page and whose ``check`` yields findings."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from trtforge.lint.context import Context

Severity = Literal["error", "warning", "hint"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "hint")
"""error: the build fails or the result is wrong. warning: it is slower or not what the recipe says. hint: know this."""

SECTIONS = ("What it does", "Why it matters", "Example", "Fix")
"""Headings of every rule's page, in this order."""


@dataclass(frozen=True)
class Finding:
    """``where``: node, tensor, recipe key or target; the first few of ``places`` when it is about several.

    ``message``: a sentence, no full stop. ``fix``: what to change.
    """

    code: str
    severity: Severity
    where: str
    message: str
    fix: str
    places: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Rule(ABC):
    """Subclasses set ``code``, ``title`` and the ``severity`` they usually have, and document themselves in SECTIONS.

    Codes: GRF the graph and its inputs, QNT quantization and scales, RTX the TensorRT-RTX compiler, PLG plugins,
    DLA the DLA.
    """

    code: ClassVar[str]
    title: ClassVar[str]
    severity: ClassVar[Severity]

    @abstractmethod
    def check(self, context: Context) -> Iterator[Finding]:
        """Every violation in this context; nothing when the rule does not concern the target or backend."""

    def finding(
        self, where: str | Sequence[str], message: str, fix: str, *, severity: Severity | None = None
    ) -> Finding:
        """``where``: one place, or all places that the same is said of."""
        places = (where,) if isinstance(where, str) else tuple(where)
        return Finding(self.code, severity or self.severity, some(places), message, fix, places)

    def page(self) -> str:
        """The manual page: the class docstring, dedented."""
        return inspect.cleandoc(type(self).__doc__ or "")


def some(names: Sequence[str], most: int = 3) -> str:
    """ "a, b, c and 4 more"."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
