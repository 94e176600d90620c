"""Whether an input and its preprocessing fit together: told by the recipe alone, so no image library is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtforge.errors.calibration import SampleShape, SampleUnsupported

if TYPE_CHECKING:
    from trtforge.recipe.models import InputSpec


def check_image_spec(name: str, spec: InputSpec) -> None:
    """An image input is [N, C, H, W] or [N, H, W, C]: C is 3, of gray images 1; H, W the crop. Else CAL108."""
    recipe = spec.preprocess
    if recipe.kind != "image":
        raise TypeError("not an image input")
    if spec.shape[1:] != recipe.shape:
        raise SampleShape(
            f"preprocessing makes images of another shape than input `{name}` has",
            where=f"inputs.{name}",
            why=f"layout {recipe.layout}, channels {recipe.channels} and crop {list(recipe.crop)} give "
            f"{list(recipe.shape)}, the input is {list(spec.shape[1:])} without its batch axis",
            next="correct `shape`, `layout`, `channels` or `crop` of the input",
        )
    if spec.dtype == "bool":
        raise SampleUnsupported(
            f"an image cannot feed input `{name}`", where=f"inputs.{name}", why="its type is bool", next="use `array`"
        )
