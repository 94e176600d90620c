"""What a recipe says of the way from a file of a sample set to an input: image, array or volume."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints, field_serializer, model_validator

from trtforge.recipe.values import Positive, PositiveReal, Real, Strict


class ImagePreprocess(Strict):
    """A photograph to a float array: decode to RGB or gray, resize, crop, order channels, subtract, divide, lay out."""

    kind: Literal["image"] = Field(description="`image`: decode and preprocess photographs")
    resize: Positive | tuple[Positive, Positive] = Field(
        description="Length of the shorter side in pixels (aspect kept), or [height, width]"
    )
    crop: tuple[Positive, Positive] = Field(
        description="Centre crop, [height, width]; must not exceed the resized image"
    )
    channels: Literal["rgb", "bgr", "gray"] = Field(
        "rgb",
        description="Order of the colour channels; `gray`: the one of a network of gray images, the luma of ITU-R 601",
    )
    layout: Literal["nchw", "nhwc"] = Field(
        "nchw", description="Order of the axes: N images, C channels, height, width"
    )
    mean: Real | tuple[Real, Real, Real] = Field(
        0.0, description="Subtracted from pixels of 0 to 255: one for all channels, or in the order of `channels`"
    )
    std: PositiveReal | tuple[PositiveReal, PositiveReal, PositiveReal] = Field(
        1.0, description="Divided by, after the mean is subtracted; on the scale of 0 to 255 too"
    )

    @model_validator(mode="after")
    def _gray_has_one_channel(self) -> ImagePreprocess:
        for name in ("mean", "std"):
            if self.channels == "gray" and isinstance(getattr(self, name), tuple):
                raise ValueError(f"`{name}` has three values and `channels: gray` one channel; write one number")
        return self

    @field_serializer("mean", "std")
    def _for_each_channel(self, value: float | tuple[float, ...]) -> float | tuple[float, ...]:
        """One form of what means the same: digests are made of it."""
        return value if isinstance(value, tuple) or self.channels == "gray" else (value,) * 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image: channels, height, width, or height, width, channels."""
        channels = 1 if self.channels == "gray" else 3
        return (channels, *self.crop) if self.layout == "nchw" else (*self.crop, channels)


class ArrayPreprocess(Strict):
    """A `.npy` or `.npz` array, or the voxels of a NIfTI volume, used as it is: shape and dtype must fit the input."""

    kind: Literal["array"] = Field(description="`array`: use the stored arrays as they are")


class VolumePreprocess(Strict):
    """A CT or MR volume to the network's grid, in this order: turn, resample, clip, normalise, fit."""

    kind: Literal["volume"] = Field(
        description="`volume`: a scan, brought to the network's grid and run window by window"
    )
    orientation: Annotated[str, StringConstraints(pattern=r"^[LRAPSI]{3}$")] | None = Field(
        None, description="Turn the axes so that they run to these directions, e.g. IPL; left out: axes as stored"
    )
    spacing: tuple[PositiveReal, PositiveReal, PositiveReal] | None = Field(
        None, description="Resample to this many millimetres a voxel, an axis each; left out: spacing as stored"
    )
    clip: tuple[Real, Real] | None = Field(None, description="Values are limited to this range, [low, high]")
    mean: Real = Field(0.0, description="Subtracted after clipping")
    std: PositiveReal = Field(1.0, description="Divided by, after the mean is subtracted")
    pad: Real = Field(0.0, description="Value of padding, on the scale after `mean` and `std`")
    multiple: Positive | None = Field(
        None,
        description="Bring axes to multiples of this: a remainder below half of it is cropped, a larger one padded",
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> VolumePreprocess:
        if self.orientation is not None and len({_AXIS_OF[letter] for letter in self.orientation}) < 3:
            raise ValueError(f"`orientation: {self.orientation}` names one axis twice; take one of LR, AP and SI each")
        if self.clip is not None and self.clip[0] >= self.clip[1]:
            raise ValueError(f"`clip: {list(self.clip)}` leaves nothing; write [low, high]")
        return self


_AXIS_OF = {"L": 0, "R": 0, "A": 1, "P": 1, "S": 2, "I": 2}

Preprocess = Annotated[ImagePreprocess | ArrayPreprocess | VolumePreprocess, Field(discriminator="kind")]

PREPROCESSES: dict[str, type[BaseModel]] = {
    "image": ImagePreprocess,
    "array": ArrayPreprocess,
    "volume": VolumePreprocess,
}
