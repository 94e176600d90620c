"""Photographs to network inputs: decode, turn upright, resize, crop, order channels, normalise, lay out."""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from trtforge.errors.calibration import SampleDtype, SampleShape, SampleUnreadable, SampleUnsupported

if TYPE_CHECKING:
    from trtforge.recipe.models import InputSpec
    from trtforge.recipe.preprocess import ImagePreprocess

Array = np.ndarray[Any, Any]

_DECODE_ERRORS = (
    OSError,  # includes Pillow's UnidentifiedImageError and "image file is truncated"
    SyntaxError,  # Pillow's word for a damaged PNG
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
)
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")


def load_image(path: Path, where: str, spec: InputSpec) -> Array:
    """One photograph as [1, C, H, W] or [1, H, W, C] in the input's dtype; C is 3, with `channels: gray` 1.

    EXIF orientation is applied; transparency is laid over white; 16-bit gray is scaled to 8 bits; CMYK is converted.
    Grayscale is repeated over three channels; colour becomes one by the luma of ITU-R 601, rounded to 8 bits
    (Pillow's "L"), before resizing. Resizing is bilinear with antialiasing (Pillow), on 8-bit values.

    Raises: CAL105 several frames or float pixels, CAL106 undecodable, CAL108 smaller than the crop, CAL109 the
    normalised values do not fit an integer dtype.
    """
    recipe = _image(spec)
    photograph = _decode(path, where)
    if recipe.channels == "gray":
        photograph = photograph.convert("L")  # of what was gray already, the same values
    photograph = photograph.resize(_resized(photograph.size, recipe.resize), Image.Resampling.BILINEAR)
    photograph = _centre_crop(photograph, recipe.crop, where)
    pixels: Array = np.asarray(photograph, np.float32).reshape(*recipe.crop, -1)  # height, width, channels
    if recipe.channels == "bgr":
        pixels = pixels[..., ::-1]
    pixels = (pixels - np.asarray(recipe.mean, np.float32)) / np.asarray(recipe.std, np.float32)
    if recipe.layout == "nchw":
        pixels = pixels.transpose(2, 0, 1)
    return _to_dtype(np.ascontiguousarray(pixels)[None], spec.dtype, where)


def _image(spec: InputSpec) -> ImagePreprocess:
    if spec.preprocess.kind != "image":
        raise TypeError("not an image input")
    return spec.preprocess


def _decode(path: Path, where: str) -> Image.Image:
    """An upright 8-bit RGB image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on metadata tags; pixels that do not decode are errors
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                _check_kind(opened, where)
                upright = ImageOps.exif_transpose(opened)
                return _rgb(upright)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = re.search(r"\((\d+) pixels\)", str(error))
        raise SampleUnreadable(
            "the image is larger than trtforge decodes",
            where=where,
            why=f"{int(pixels[1]) / 1e6 if pixels else 0:.0f} megapixels; the limit is "
            f"{(Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f}, since a small file can claim any size",
            next="save a smaller copy, a few times the size of `crop`: the network sees no more",
        ) from error
    except _DECODE_ERRORS as error:
        raise SampleUnreadable(
            "the image cannot be decoded",
            where=where,
            why=f"{str(error).replace(str(path), path.name)} (file of {path.stat().st_size} bytes)",
            next="fetch the file again, or take it out of the set",
        ) from error


def _check_kind(image: Image.Image, where: str) -> None:
    frames = int(getattr(image, "n_frames", 1))
    if frames > 1 and image.format != "MPO":  # MPO: a camera's JPEG with a preview behind it
        raise SampleUnsupported(
            "one sample is one still image", where=where, why=f"the file holds {frames} frames", next="split the file"
        )
    if image.mode == "F":
        raise SampleUnsupported(
            "an image with floating-point pixels has no agreed range",
            where=where,
            next="save it as .npy, `kind: array`",
        )


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        wide = np.asarray(image).astype(np.float32)
        return Image.fromarray(np.clip(np.rint(wide / 257.0), 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(page, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _resized(size: tuple[int, int], target: int | tuple[int, int]) -> tuple[int, int]:
    """(width, height) after resizing; an integer target is the length of the shorter side."""
    if isinstance(target, tuple):
        return target[1], target[0]
    width, height = size
    shorter = min(width, height)
    return max(target, round(width * target / shorter)), max(target, round(height * target / shorter))


def _centre_crop(image: Image.Image, crop: tuple[int, int], where: str) -> Image.Image:
    height, width = crop
    if height > image.height or width > image.width:
        raise SampleShape(
            "the image is smaller than its crop after resizing",
            where=where,
            why=f"{image.height} x {image.width} (height x width), the crop is {height} x {width}",
            next="raise `resize`, or lower `crop`",
        )
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _to_dtype(pixels: Array, dtype: str, where: str) -> Array:
    if dtype.startswith("float"):
        return pixels.astype(dtype)
    whole = np.rint(pixels)
    limits = np.iinfo(dtype)
    if whole.min() < limits.min or whole.max() > limits.max:
        raise SampleDtype(
            f"the preprocessed image does not fit {dtype}",
            where=where,
            why=f"its values reach from {whole.min():g} to {whole.max():g}",
            next="set `mean` and `std` of the input so that values end in the range of its dtype",
        )
    return whole.astype(dtype)
