"""DLA113: memory formats of inputs and outputs on the DLA."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.nodes import integer, place
from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context
    from trtforge.recipe.models import InputSpec, OutputSpec

DTYPES = {"int8": "int8", "float16": "fp16"}
INPUTS = {"dla_linear": ("int8", "float16"), "dla_hwc4": ("int8", "float16"), "chw32": ("int8",)}
OUTPUTS = {name: dtypes for name, dtypes in INPUTS.items() if name != "dla_hwc4"}
IMAGE_CHANNELS = (1, 3, 4)
MOST_GROUPS = 4


class DlaFormats(Rule):
    """What it does
        Checks `format` and `dtype` of inputs and outputs: what `dla_hwc4` asks of the first layer, and, without GPU
        fallback, that every input and output has a format of the DLA's own. A standalone loadable must be the whole
        network in one piece.

    Why it matters
        Any other format is converted by a small kernel on the GPU, in front of the DLA and behind it. Without GPU
        fallback there is nothing to convert it, and the build fails although every layer runs on the DLA (documented
        for standalone loadables; seen in a build without it). Inputs: int8 or float16 with dla_linear or dla_hwc4, int8
        with chw32. Outputs: the same without dla_hwc4. dla_hwc4 is for images of 1, 3 or 4 channels that a convolution
        of at most 4 groups and the input's own precision reads.

    Example
        `dla: {gpu_fallback: false}` and an input that is float32, linear.

    Fix
        `inputs: {x: {..., dtype: int8, format: dla_hwc4}}` for an image, `outputs: {y: {dtype: int8, format: chw32}}`.
    """

    code = "DLA113"
    title = "format the DLA does not take"
    severity = "error"

    def check(self, context: Context) -> Iterator[Finding]:
        if not context.target.is_dla:
            return
        yield from self._images(context)
        if not context.gpu_fallback:
            yield from self._converted(context)
        standalone = context.engine.dla is not None and context.engine.dla.standalone
        count = context.placement.wanted
        if standalone and count > 1:
            message = f"the network becomes {count} loadables, a standalone one is in one piece (observed, 8.4 to 8.6)"
            yield self.finding(
                "dla.standalone",
                message,
                "rewrite what DLA108 names, or write dla: {standalone: false, gpu_fallback: true}",
            )

    def _images(self, context: Context) -> Iterator[Finding]:
        for name, spec in context.engine.inputs.items():
            if spec.format != "dla_hwc4":
                continue
            where, fix = f"inputs.{name}.format", "write format: dla_linear"
            if not _is_image(spec):
                yield self.finding(where, f"dla_hwc4 takes 1, 3 or 4 channels, the input is {list(spec.shape)}", fix)
            for node in context.index.consumers_of(name):
                found = context.placement.of(node)
                if node.op_type != "Conv" or found is None or found.device != "dla":
                    message = f"dla_hwc4 needs a convolution on the DLA behind it, and {place(node)} reads the input"
                    yield self.finding(where, message, fix)
                elif integer(node, "group", 1) > MOST_GROUPS:
                    yield self.finding(where, f"{place(node)} has more than {MOST_GROUPS} groups", fix)
                elif found.precision != DTYPES.get(spec.dtype):
                    message = f"{place(node)} computes in {found.precision}, and the input is {spec.dtype}"
                    dtype = next(name for name, short in DTYPES.items() if short == found.precision)
                    yield self.finding(f"inputs.{name}.dtype", message, f"write dtype: {dtype}")

    def _converted(self, context: Context) -> Iterator[Finding]:
        from trtforge.recipe.models import InputSpec, OutputSpec

        sides: list[tuple[str, dict[str, tuple[str, ...]], InputSpec | OutputSpec]] = [
            (f"inputs.{name}", INPUTS, spec) for name, spec in context.engine.inputs.items()
        ]
        usual = OutputSpec.model_validate({})
        outputs = context.engine.outputs
        sides += [(f"outputs.{name}", OUTPUTS, outputs.get(name, usual)) for name in context.index.outputs]
        for where, allowed, spec in sides:
            if spec.dtype not in allowed.get(spec.format, ()):
                message = f"{spec.dtype} in {spec.format} is converted by the GPU, and GPU fallback is off"
                dtype = "int8" if context.engine.precision == "int8" else "float16"
                image = isinstance(spec, InputSpec) and _is_image(spec)
                forms = [form for form in allowed if dtype in allowed[form] and (image or form != "dla_hwc4")]
                yield self.finding(where, message, f"write dtype: {dtype} and format: {' or '.join(forms)}")


def _is_image(spec: InputSpec) -> bool:
    return len(spec.shape) == 4 and spec.shape[1] in IMAGE_CHANNELS
