"""What the rule finds of one attention, for the function and the lowerings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from trtforge.plugins.qkv_to_context.trace import Projection
from trtforge.surgery.rules import Array, Match


@dataclass(frozen=True)
class Rows:
    """How a tensor of tokens lies: rank 3 or 2 (rows flattened); ``time_first``: [S, B, E] in place of [B, S, E]."""

    rank: int
    time_first: bool


@dataclass(frozen=True)
class Part:
    """Q, K or V: where its columns are in its projection's weight, which it may share with the other two."""

    projection: Projection
    offset: int
    head_stride: int
    element_stride: int

    def columns(self, heads: int, head_size: int) -> Array:
        """int64 [heads * head_size]: the weight's columns, head by head."""
        head, element = np.meshgrid(np.arange(heads), np.arange(head_size), indexing="ij")
        return (self.offset + head * self.head_stride + element * self.element_stride).reshape(-1)


@dataclass(frozen=True)
class Mask:
    """``kind``: "add" is added to the scores; "keep" and "drop" are boolean, true where a score stays or is replaced by
    ``fill``. It broadcasts to [B, N, S, S]."""

    tensor: str
    kind: Literal["add", "keep", "drop"]
    fill: float = 0.0


@dataclass(frozen=True)
class Attention:
    """``scale``: the factor of the scores. ``guarded``: NaN after the softmax becomes 0. ``batch``, ``sequence``:
    sizes, None where they are open. Q's, K's and V's columns all are ``heads`` times ``head_size``."""

    heads: int
    head_size: int
    scale: float
    guarded: bool
    mask: Mask | None
    parts: tuple[Part, Part, Part]
    source: Rows
    result: Rows
    batch: int | None
    sequence: int | None
    packed: bool
    """The rows are one sequence without a batch, as in a graph for packed sequences."""

    @property
    def width(self) -> int:
        """Of Q, K, V and the context: the hidden size, unless heads were pruned."""
        return self.heads * self.head_size


def attention_of(match: Match) -> Attention:
    """The facts of a match of our rule."""
    found = match.facts["attention"]
    assert isinstance(found, Attention)
    return found
