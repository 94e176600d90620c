"""GRF109: a memory format that does not go with a type or a shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context
    from trtforge.recipe.models import InputSpec, OutputSpec

DTYPES = {
    "chw4": ("int8", "float16"),
    "chw32": ("int8", "float16", "float32"),
    "hwc8": ("float16",),
    "cdhw32": ("int8", "float16"),
    "dla_linear": ("int8", "float16"),
    "dla_hwc4": ("int8", "float16"),
}
LEAST_RANK = {"cdhw32": 4}
"""Of the others 3. TensorRT counts from the innermost axes: [C, H, W] and [C, D, H, W]."""


class BorderFormat(Rule):
    """What it does
        Checks each `format` under `inputs:` and `outputs:` against the `dtype` beside it, the number of axes, and where
        the channels are.

    Why it matters
        NVIDIA's documentation of `TensorFormat` binds each format to types: chw4, cdhw32 and the DLA's to int8 and
        float16, hwc8 to float16, chw32 to these and float32. It also wants three axes (cdhw32: four). The builder finds
        nothing else to offer and fails, on the device. dla_hwc4 is for images that go in.
        All of them pack axis 1, so with `layout: nhwc` they pack rows of pixels: allowed, and hardly meant.

    Example
        `outputs: {y: {format: chw32, dtype: int32}}`, or `format: chw4` with no `dtype`, which means float32.

    Fix
        Write the type beside it, `{dtype: int8, format: chw4}`, or leave `format` out: it is linear then.
    """

    code = "GRF109"
    title = "format does not go with the tensor"
    severity = "error"

    def check(self, context: Context) -> Iterator[Finding]:
        for name, taken in context.engine.inputs.items():
            where = f"inputs.{name}.format"
            yield from self._bound(where, taken, len(taken.shape))
            if taken.format != "linear" and getattr(taken.preprocess, "layout", "nchw") == "nhwc":
                message = f"{taken.format} packs axis 1 of {list(taken.shape)}, which `layout: nhwc` fills with rows"
                fix = "export the model with channels first, or leave format out"
                yield self.finding(where, message, fix, severity="warning")
        for name, given in context.engine.outputs.items():
            where, shape = f"outputs.{name}.format", context.shape(name)
            if given.format == "dla_hwc4":
                yield self.finding(where, "dla_hwc4 is for images that go in", "write format: dla_linear or chw32")
            else:
                yield from self._bound(where, given, None if shape is None else len(shape))

    def _bound(self, where: str, spec: InputSpec | OutputSpec, rank: int | None) -> Iterator[Finding]:
        if spec.format == "linear":
            return
        allowed, least = DTYPES[spec.format], LEAST_RANK.get(spec.format, 3)
        if spec.dtype not in allowed:
            message = f"{spec.format} is for {' or '.join(allowed)}, and the type here is {spec.dtype}"
            yield self.finding(where, message, f"write dtype: {allowed[0]} beside it, or leave format out")
        if rank is not None and rank < least:
            yield self.finding(where, f"{spec.format} wants {least} axes or more, there are {rank}", "leave format out")
