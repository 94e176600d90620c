"""Checks that arrays fit an engine's inputs before any runtime sees them."""

from __future__ import annotations

from collections.abc import Sequence

from trtforge.backends.base import Arrays, TensorSpec
from trtforge.errors.engine import WrongFeed


def check_feeds(inputs: Sequence[TensorSpec], arrays: Arrays) -> None:
    """Names, dtypes and shapes must be the engine's. Raises WrongFeed (ENG208) with every difference found."""
    wanted = {spec.name: spec for spec in inputs}
    problems = [f"the input {name!r} is not given" for name in wanted if name not in arrays]
    problems += [f"the engine has no input {name!r}" for name in arrays if name not in wanted]
    for name, array in arrays.items():
        spec = wanted.get(name)
        if spec is not None and (array.dtype.name != spec.dtype or not _fits(array.shape, spec.shape)):
            given = f"{array.dtype.name} {list(array.shape)}"
            problems.append(f"{name!r} takes {describe(spec)}, the array is {given}")
    if problems:
        raise WrongFeed(
            "the arrays do not fit the engine's inputs",
            why="; ".join(problems),
            next="give " + ", ".join(f"{spec.name}: {describe(spec)}" for spec in inputs),
        )


def describe(spec: TensorSpec) -> str:
    """``float32 [1, 3, 224, 224]``, with ``?`` for an open size."""
    return f"{spec.dtype} [{', '.join('?' if size is None else str(size) for size in spec.shape)}]"


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        size is None or size == given for given, size in zip(shape, wanted, strict=True)
    )
