"""What `trtforge lint` prints with ``--json``, as types; see ``results``."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict


class Finding(TypedDict):
    """``where``: the first few of ``places``, in words."""

    code: str
    severity: Literal["error", "warning", "hint"]
    where: str
    message: str
    fix: str
    places: list[str]


class PlacedNode(TypedDict):
    """``output``: the first one, which no two nodes share. ``node``: its name, or that output when it has none.

    ``why``, ``doubts``: kind, why, origin, versions, fix and whether it is certain, of each.
    """

    node: str
    output: str
    op: str
    device: Literal["dla", "gpu", "refused", "folded"]
    loadable: int | None
    precision: Literal["int8", "fp16"] | None
    cuts: bool
    why: list[dict[str, Any]]
    doubts: list[dict[str, Any]]


class LoadableSizes(TypedDict):
    """Tensors that stay inside and are stored; null where the size of one is not known, 0 where there are none."""

    number: int
    nodes: int
    first: str
    last: str
    weight_bytes: int
    largest_tensor_bytes: int | None
    internal_bytes: int | None
    batch: int | None


class Placement(TypedDict):
    """``limit``: loadables that a core holds; ``wanted``: how many there would be without it.

    ``fusions``: the first outputs of the nodes in each.
    """

    note: str
    limit: int
    wanted: int
    nodes: list[PlacedNode]
    loadables: list[LoadableSizes]
    fusions: list[list[str]]


class HelpfulPass(TypedDict):
    name: str
    why: str
    reason: str
    changes_values: bool


class LintFix(TypedDict):
    """``surgery``: for the recipe; null where nothing helps. ``findings``: those that would be left."""

    surgery: list[str] | None
    passes: list[HelpfulPass]
    findings: list[Finding]


class LintedEngine(TypedDict):
    """``placement`` with `--placement`, ``fix`` with `--fix`; the placement then is the one after it."""

    engine: str
    findings: list[Finding]
    placement: NotRequired[Placement]
    fix: NotRequired[LintFix]


class Lint(TypedDict):
    schema: str
    recipe: str
    errors: int
    engines: list[LintedEngine]
