"""Photographs become the arrays a network expects, and what is no photograph is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from trtforge.errors.base import TrtforgeError
from trtforge.errors.calibration import SampleDtype, SampleShape, SampleUnreadable, SampleUnsupported
from trtforge.recipe.models import InputSpec
from trtforge.samples.images import load_image
from trtforge.samples.specs import check_image_spec


def spec(*, shape: tuple[int, ...] = (1, 3, 8, 8), dtype: str = "float32", **recipe: object) -> InputSpec:
    return InputSpec.model_validate(
        {"shape": shape, "dtype": dtype, "preprocess": {"kind": "image", "resize": 8, "crop": (8, 8), **recipe}}
    )


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


RED = np.full((8, 8, 3), (200, 10, 30), np.uint8)


def test_channels_are_ordered_subtracted_and_divided(tmp_path: Path) -> None:
    path = save(tmp_path / "red.png", RED)
    rgb = load_image(path, "red", spec(mean=(100, 0, 10), std=(2, 1, 4)))
    assert rgb.shape == (1, 3, 8, 8) and rgb.dtype == np.float32 and rgb.flags.c_contiguous
    assert rgb[0, :, 3, 3].tolist() == [50.0, 10.0, 5.0]
    bgr = load_image(path, "red", spec(shape=(4, 8, 8, 3), channels="bgr", layout="nhwc", mean=(30, 0, 0)))
    assert bgr.shape == (1, 8, 8, 3)
    assert bgr[0, 3, 3].tolist() == [0.0, 10.0, 200.0]


def test_the_shorter_side_is_resized_and_the_centre_is_cropped(tmp_path: Path) -> None:
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255  # the middle third
    array = load_image(
        save(tmp_path / "wide.png", pixels), "wide", spec(resize=20, crop=(20, 20), shape=(1, 3, 20, 20))
    )
    assert (array == 255).all()


def test_resize_to_height_and_width_changes_the_aspect(tmp_path: Path) -> None:
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 30:] = 255
    array = load_image(
        save(tmp_path / "wide.png", pixels), "wide", spec(resize=(4, 4), crop=(4, 4), shape=(1, 3, 4, 4))
    )
    assert (array[..., 0] < 10).all() and (array[..., 3] > 245).all()


def test_exif_orientation_turns_the_image_upright(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255  # bright on top once upright
    exif = Image.Exif()
    exif[0x0112] = 3  # stored upside down
    path = tmp_path / "turned.png"
    Image.fromarray(pixels[::-1].copy()).save(path, exif=exif)
    array = load_image(path, "turned", spec())
    assert (array[0, :, 0] == 255).all() and (array[0, :, 7] == 0).all()


def test_gray_is_repeated_over_the_channels(tmp_path: Path) -> None:
    array = load_image(save(tmp_path / "gray.png", np.full((8, 8), 77, np.uint8)), "gray", spec())
    assert (array == 77).all()


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_a_network_of_gray_images_gets_their_luma(tmp_path: Path, layout: str) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (8, 8, 3), np.uint8)
    gray = spec(shape=(1, 1, 8, 8) if layout == "nchw" else (1, 8, 8, 1), channels="gray", layout=layout)
    array = load_image(save(tmp_path / "colour.png", pixels), "colour", gray)
    assert array.shape == gray.shape and array.dtype == np.float32 and array.flags.c_contiguous
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    assert np.abs(array.reshape(8, 8) - luma).max() <= 0.5 + 1e-3
    assert (array.reshape(8, 8) == np.asarray(Image.fromarray(pixels).convert("L"))).all()


def test_gray_stays_gray_and_is_normalised_by_one_number(tmp_path: Path) -> None:
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    path = save(tmp_path / "gray.png", pixels)
    array = load_image(path, "gray", spec(shape=(1, 1, 8, 8), channels="gray", mean=100, std=50))
    assert array[0, 0].tolist() == ((pixels.astype(np.float32) - 100) / 50).tolist()
    deep = save(tmp_path / "deep.png", pixels.astype(np.uint16) * 257)
    assert (load_image(deep, "deep", spec(shape=(1, 1, 8, 8), channels="gray"))[0, 0] == pixels).all()


def test_a_number_stands_for_every_channel_and_has_the_digest_of_three(tmp_path: Path) -> None:
    one, three = spec(mean=100, std=2), spec(mean=(100, 100, 100), std=(2, 2, 2))
    path = save(tmp_path / "red.png", RED)
    assert (load_image(path, "red", one) == load_image(path, "red", three)).all()
    assert one.model_dump(mode="json") == three.model_dump(mode="json")
    assert spec().preprocess.model_dump(mode="json")["mean"] == [0.0, 0.0, 0.0]


def test_sixteen_bit_gray_is_scaled_to_eight(tmp_path: Path) -> None:
    pixels = np.full((8, 8), 65535, np.uint16)
    pixels[:, 0] = 257 * 5
    array = load_image(save(tmp_path / "deep.png", pixels), "deep", spec())
    assert array[0, 0, 0, 0] == 5 and array[0, 0, 0, 1] == 255


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)  # black, fully transparent
    pixels[:, 4:, 3] = 255  # opaque on the right
    array = load_image(save(tmp_path / "glass.png", pixels), "glass", spec())
    assert (array[..., :4] == 255).all() and (array[..., 4:] == 0).all()


def test_cmyk_is_converted(tmp_path: Path) -> None:
    path = tmp_path / "print.tif"
    Image.new("CMYK", (8, 8), (0, 0, 0, 255)).save(path)
    assert (load_image(path, "print", spec()) == 0).all()


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_integer_inputs_get_whole_values(tmp_path: Path, dtype: str) -> None:
    path = save(tmp_path / "red.png", RED)
    mean = (0, 0, 0) if dtype == "uint8" else (128, 128, 128)
    array = load_image(path, "red", spec(dtype=dtype, mean=mean))
    assert array.dtype == dtype
    assert array[0, 0, 0, 0] == 200 - mean[0]


def test_values_beyond_an_integer_type_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SampleDtype, match="int8") as caught:
        load_image(save(tmp_path / "red.png", RED), "red.png", spec(dtype="int8"))
    assert "200" in caught.value.why


def test_an_image_smaller_than_its_crop_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SampleShape) as caught:
        load_image(save(tmp_path / "red.png", RED), "red.png", spec(resize=(6, 9)))
    assert "6 x 9" in caught.value.why and "8 x 8" in caught.value.why


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.9])
def test_a_truncated_file_is_named(tmp_path: Path, suffix: str, keep: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    path = save(tmp_path / f"cut.{suffix}", noise)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    with pytest.raises(SampleUnreadable) as caught:
        load_image(path, "set/cut", spec())
    assert caught.value.where == "set/cut"
    assert str(tmp_path) not in str(caught.value)
    assert caught.value.why


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "big.png", np.zeros((64, 64, 3), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(SampleUnreadable, match="larger than trtforge decodes") as caught:
        load_image(path, "big", spec())
    assert "megapixels" in caught.value.why
    assert "smaller copy" in caught.value.next
    assert "bomb" not in str(caught.value)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)  # between the limit and twice it Pillow only warns
    with pytest.raises(SampleUnreadable):
        load_image(path, "big", spec())


def test_animations_and_float_pixels_are_refused(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(SampleUnsupported, match="still"):
        load_image(tmp_path / "moving.gif", "moving", spec())
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(SampleUnsupported, match="floating-point"):
        load_image(tmp_path / "float.tif", "float", spec())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_never_end_in_a_foreign_exception(tmp_path: Path, data: st.DataObject) -> None:
    suffix = data.draw(st.sampled_from(["png", "jpg", "tif", "gif", "bmp", "webp"]))
    pixels = np.random.default_rng(1).integers(0, 255, (12, 12, 3), np.uint8)
    path = save(tmp_path / f"x.{suffix}", pixels)
    content = bytearray(path.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=6)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        array = load_image(path, "x", spec())
    except TrtforgeError as error:
        assert error.code.startswith("CAL")
    else:
        assert array.shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((1, 3, 8, 9), "nchw"),
        ((1, 8, 8, 3), "nchw"),
        ((1, 3, 8, 8), "nhwc"),
        ((1, 8, 8), "nhwc"),
        ((1, 1, 8, 8), "nchw"),
    ],
)
def test_a_crop_that_is_not_the_input_is_refused_before_any_file_is_read(shape: tuple[int, ...], layout: str) -> None:
    with pytest.raises(SampleShape) as caught:
        check_image_spec("x", spec(shape=shape, layout=layout))
    assert "inputs.x" in caught.value.where
