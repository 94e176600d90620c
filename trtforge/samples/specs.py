"""Whether an input and its preprocessing fit together: told by the recipe alone, so no image library is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtforge.errors.calibration import SampleShape, SampleUnsupported

if TYPE_CHECKING:
    from trtforge.recipe.models import InputSpec


def check_image_spec(name: str, spec: InputSpec) -> None:
    """An image input is [N, 3, H, W] or [N, H, W, 3] with H, W the crop; else SampleShape (CAL108)."""
    recipe = spec.preprocess
    if recipe.kind != "image":
        raise TypeError("not an image input")
    expected = (3, *recipe.crop) if recipe.layout == "nchw" else (*recipe.crop, 3)
    if tuple(spec.shape[1:]) != expected:
        raise SampleShape(
            f"preprocessing makes images of another shape than input `{name}` has",
            where=f"inputs.{name}",
            why=f"layout {recipe.layout} and crop {list(recipe.crop)} give {list(expected)}, "
            f"the input is {list(spec.shape[1:])} without its batch axis",
            next="correct `shape`, `layout` or `crop` of the input",
        )
    if spec.dtype == "bool":
        raise SampleUnsupported(
            f"an image cannot feed input `{name}`", where=f"inputs.{name}", why="its type is bool", next="use `array`"
        )
