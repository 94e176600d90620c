"""GRF113: mean and std that were meant for pixels of 0 to 1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context

BRIGHTEST = 255.0
FACTOR = 0.05
"""A std below it is none of pixels from 0 to 1, whose images have 0.2 to 0.3: it is what others multiply by."""


class PreprocessRange(Rule):
    """What it does
        Reports `preprocess: {kind: image}` with a mean or a std that makes no sense for pixels of 0 to 255, and does
        for pixels of 0 to 1: a mean of at most 1 that is not 0, or a std below 1. And a std so small that it is no
        std but a factor, as Caffe's `scale: 0.017` and OpenCV's `scalefactor`.

    Why it matters
        Here mean and std are those of pixels as they are in the file, 0 to 255. Most training code divides by 255
        first, and states both for that. Its figures give the network values 255 times too large: every answer is
        wrong, calibration takes its ranges from such inputs, and `verify` agrees, for the FP32 model gets the same.

    Example
        `mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]`, which torchvision states after `ToTensor()`.

    Fix
        Write both times 255:

            mean: [123.675, 116.28, 103.53]
            std: [58.395, 57.12, 57.375]

        For a factor write its inverse: `std: 58.82` for 0.017.

        A network that takes pixels of 0 to 1 has `mean: 0, std: 255`; one of -1 to 1 `mean: 127.5, std: 127.5`. One
        that takes them as they are, 0 to 255, has `mean: 0, std: 1`, which is the default and is not reported.
    """

    code = "GRF113"
    title = "mean and std of pixels from 0 to 1"
    severity = "warning"

    def check(self, context: Context) -> Iterator[Finding]:
        for name, spec in context.engine.inputs.items():
            how = spec.preprocess
            if how is None or how.kind != "image":
                continue
            given = {"mean": _each(how.mean), "std": _each(how.std)}
            if not (wrong := _of_one(**given)):
                continue
            low, high = (f"{end:.4g}" for end in _reached(**given))
            gets = f"the network gets {low} to {high}"
            if max(given["std"]) < FACTOR:
                message = f"this std is a factor for pixels, which here are divided by it: {gets}"
                fix = f"write std: {_written([1 / one for one in given['std']])}: what the factor is the inverse of"
            else:
                are = "mean and std are those" if len(wrong) > 1 else f"this {wrong[0]} is that"
                message = f"{are} of pixels from 0 to 1, and here they are 0 to 255: {gets}"
                values = " and ".join(f"{key}: {_written([BRIGHTEST * one for one in given[key]])}" for key in wrong)
                fix = f"write {values}: times 255"
            yield self.finding(f"inputs.{name}.preprocess", message, fix)


def _of_one(mean: tuple[float, ...], std: tuple[float, ...]) -> list[str]:
    """Which of the two make sense for pixels from 0 to 1 only; a std of 1 does beside such a mean."""
    odd = all(0 <= one <= 1 for one in mean) and any(mean)
    small = all(one <= 1 for one in std)
    return [*(["mean"] if odd else []), *(["std"] if small and (odd or min(std) < 1) else [])]


def _reached(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[float, float]:
    """The least and the largest value that a pixel becomes, over all channels."""
    channels = max(len(mean), len(std))
    pairs = list(zip(mean * (channels // len(mean)), std * (channels // len(std)), strict=True))
    return min(0.0 - one / by for one, by in pairs), max((BRIGHTEST - one) / by for one, by in pairs)


def _each(given: float | tuple[float, ...]) -> tuple[float, ...]:
    return given if isinstance(given, tuple) else (given,)


def _written(values: list[float]) -> str:
    texts = [f"{value:.6g}" for value in values]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
