"""What a sample is: named input arrays with an id a person recognises and a digest a receipt can pin."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Sample:
    """``inputs``: input name -> array with a leading batch axis of 1, in the engine's dtype and layout."""

    id: str
    digest: str
    inputs: Mapping[str, np.ndarray[Any, Any]]


class SampleSet(Protocol):
    """An ordered collection of samples; iterating decodes one at a time, so memory does not grow with the set."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Sample]: ...

    def identities(self) -> list[tuple[str, str]]:
        """(id, sha256 of the source file) of every sample, in order, without decoding any."""

    def describe(self) -> dict[str, Any]:
        """JSON-able: where the samples come from, and under ``inputs`` how they are preprocessed.

        The receipt keeps ``inputs`` (everything, where it is missing); tables that differ in it are not merged.
        """


@runtime_checkable
class Skippable(Protocol):
    """A sample set that can leave samples out without reading them: what a resumed calibration has done already."""

    def without(self, ids: Collection[str]) -> SampleSet: ...
