"""GRF rules: the recipe's inputs against the model's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from trtforge.recipe.models import InputSpec
from trtforge.samples.images import load_image

CLOSED = "g (float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y) { y = Relu(x) }"
OPEN = "g (float[n, 3, h, 8] x) => (float[n, 3, h, 8] y) { y = Relu(x) }"
TWO = "g (float[1, 4] x, float[1, 4] weights) => (float[1, 4] y) { y = Add(x, weights) }"


def test_grf101_recipe_input_not_in_the_model(check: Any) -> None:
    (finding,) = check("GRF101", TWO, {"x": [1, 4], "wieghts": [1, 4]})
    assert finding.severity == "error"
    assert finding.where == "inputs.wieghts"
    assert "`weights`" in finding.fix
    assert not check("GRF101", TWO, {"x": [1, 4], "weights": [1, 4]})


def test_grf102_model_input_not_in_the_recipe(check: Any) -> None:
    (finding,) = check("GRF102", TWO, {"x": [1, 4]})
    assert "weights" in finding.where
    assert '"weights": {shape: [1, 4], dtype: float32}' in finding.fix
    assert not check("GRF102", TWO, {"x": [1, 4], "weights": [1, 4]})


def test_grf102_initializers_listed_as_inputs_are_not_inputs(check: Any) -> None:
    body = "g (float[1, 4] x, float[4] w) => (float[1, 4] y) <float[4] w = {1.0, 2.0, 3.0, 4.0}> { y = Add(x, w) }"
    assert not check("GRF102", body, {"x": [1, 4]})


def test_grf103_open_dimensions_without_a_shape(check: Any) -> None:
    (finding,) = check("GRF103", OPEN, {"other": [1]})
    assert "[n, 3, h, 8]" in finding.message
    assert "[?, 3, ?, 8]" in finding.fix
    assert not check("GRF102", OPEN, {"other": [1]}), "one missing input is one finding"
    assert not check("GRF103", OPEN, {"x": [2, 3, 16, 8]})
    assert not check("GRF103", CLOSED, {"other": [1]})


def test_grf104_shape_contradicts_the_model(check: Any) -> None:
    (finding,) = check("GRF104", OPEN, {"x": [2, 16, 8, 3]})
    assert "[2, 16, 8, 3]" in finding.message
    assert "[n, 3, h, 8]" in finding.message
    assert check("GRF104", OPEN, {"x": [2, 3, 16]}), "a rank too low"
    assert check("GRF104", CLOSED, {"x": [8, 3, 8, 8]}), "a batch the export has fixed"
    assert not check("GRF104", OPEN, {"x": [2, 3, 16, 8]})
    assert not check("GRF104", OPEN, {"nothing": [1]})


@pytest.mark.parametrize(
    ("declared", "given", "backend", "found"),
    [
        ("int64", "float32", "onnxruntime", True),
        ("int64", "int64", "onnxruntime", False),
        ("float", "float16", "tensorrt_rtx", True),
        ("float", "int8", "tensorrt", False),  # the DLA takes int8 in place of the graph's float32
        ("int64", "int32", "tensorrt", True),
    ],
)
def test_grf105_type_contradicts_the_model(check: Any, declared: str, given: str, backend: str, found: bool) -> None:
    body = f"g ({declared}[1, 4] x) => ({declared}[1, 4] y) {{ y = Identity(x) }}"
    findings = check("GRF105", body, {"x": {"shape": [1, 4], "dtype": given}}, backend=backend)
    assert bool(findings) is found
    for finding in findings:
        numpy_name = {"float": "float32"}.get(declared, declared)
        assert (finding.where, finding.severity) == ("inputs.x.dtype", "error")
        assert finding.fix == f"write dtype: {numpy_name}"


@pytest.mark.parametrize(
    ("wanted", "batch", "found"),
    [
        ([1, 2, 2], 8, True),
        ([1, 2, 2], 1, False),
        ([-1, 2, 2], 8, False),
        ([0, 2, 2], 8, False),
        ([1, -1], 8, False),
    ],
)
def test_grf106_a_batch_baked_into_a_reshape(check: Any, wanted: list[int], batch: int, found: bool) -> None:
    listed = ", ".join(map(str, wanted))
    body = f"""g (float[n, 4] x) => (float[a, b, c] y)
        <int64[{len(wanted)}] shape = {{{listed}}}> {{ r = Relu(x) y = Reshape(r, shape) }}"""
    findings = check("GRF106", body, {"x": [batch, 4]})
    assert bool(findings) is found
    for finding in findings:
        assert "Reshape" in finding.where
        assert f"it makes {wanted} of [{batch}, 4], which has {batch * 4} elements" in finding.message


def test_grf107_one_symbol_two_sizes(check: Any) -> None:
    body = "g (float[n, s] x, float[n, s] mask) => (float[n, s] y, float[n, s] z) { y = Relu(x) z = Relu(mask) }"
    (finding,) = check("GRF107", body, {"x": [1, 128], "mask": [1, 64]})
    assert (finding.where, finding.severity) == ("inputs.mask.shape", "warning")
    assert "`s`" in finding.message and "128" in finding.message and "64" in finding.message
    assert not check("GRF107", body, {"x": [1, 64], "mask": [1, 64]})
    assert not check("GRF107", body, {"x": [1, 64]})


def test_grf101_and_grf104_of_inputs_that_are_none(check: Any) -> None:
    (finding,) = check("GRF101", "g () => (float[1] y) { y = Constant <value_floats = [1.0]> () }", {"x": [1]})
    assert "takes no inputs" in finding.fix
    (finding,) = check("GRF104", "g (float[0, 4] x) => (float[0, 4] y) { y = Relu(x) }", {"x": [1, 4]})
    assert "size of 0" in finding.fix


INDICES = (
    "g (float[1, 8, 4, 4] x) => (int64[1, 1, 4, 4] at, float[1, 8, 4, 4] y) { at = ArgMax <axis = 1> (x) y = Relu(x) }"
)


def test_grf105_outputs_of_another_type(check: Any) -> None:
    def of(outputs: dict[str, Any]) -> list[str]:
        found = check("GRF105", INDICES, {"x": [1, 8, 4, 4]}, backend="tensorrt", outputs=outputs)
        return [finding.where for finding in found]

    assert of({"at": {"dtype": "int8"}}) == ["outputs.at.dtype"]
    assert of({"at": {"format": "linear"}}) == ["outputs.at.dtype"], "left out, it is float32"
    assert of({"at": {"dtype": "int64"}, "y": {"dtype": "int8"}, "none": {"dtype": "bool"}}) == []


def test_grf108_recipe_output_not_in_the_model(check: Any) -> None:
    def of(*names: str) -> list[Any]:
        outputs = {name: {"dtype": "int8"} for name in names}
        return list(check("GRF108", INDICES, {"x": [1, 8, 4, 4]}, backend="tensorrt", outputs=outputs))

    (near,) = of("yy")
    assert (near.where, near.severity, near.fix) == ("outputs.yy", "error", "rename it to `y`")
    assert of("logits")[0].fix == "use one of: at, y"
    assert of("x") and not of("y")


@pytest.mark.parametrize(
    ("side", "dtype", "form", "shape", "found"),
    [
        ("inputs", "float32", "chw4", [1, 8, 4, 4], ["error"]),
        ("inputs", "int8", "chw4", [1, 8, 4, 4], []),
        ("inputs", "float32", "chw32", [1, 8, 4, 4], []),
        ("inputs", "int8", "hwc8", [1, 8, 4, 4], ["error"]),
        ("inputs", "float16", "cdhw32", [8, 4, 4], ["error"]),
        ("inputs", "float16", "cdhw32", [8, 4, 4, 4], []),
        ("outputs", "int8", "dla_hwc4", [1, 8, 4, 4], ["error"]),
        ("outputs", "int8", "dla_linear", [1, 8, 4, 4], []),
        ("outputs", "int32", "chw32", [8, 4], ["error", "error"]),
        ("outputs", "int8", "linear", [8], []),
    ],
)
def test_grf109_format_against_type_and_axes(
    check: Any, side: str, dtype: str, form: str, shape: list[int], found: list[str]
) -> None:
    tensor = f"float[{', '.join(map(str, shape))}]"
    spec = {"dtype": dtype, "format": form}
    inputs, outputs = {"x": {"shape": shape}}, {}
    if side == "inputs":
        inputs["x"] |= spec  # type: ignore[arg-type]
    else:
        outputs["y"] = spec
    findings = check(
        "GRF109",
        f"g ({tensor} x) => ({tensor} y) {{ y = Relu(x) }}",
        inputs,
        target="orin-agx-64gb/dla",
        backend="tensorrt",
        outputs=outputs,
    )
    assert [finding.severity for finding in findings] == found


def test_grf109_formats_pack_axis_one(check: Any) -> None:
    image = {"kind": "image", "resize": 8, "crop": [8, 8], "layout": "nhwc"}
    given = {"shape": [1, 8, 8, 3], "dtype": "int8", "format": "chw4", "preprocess": image}
    body = "g (float[1, 8, 8, 3] x) => (float[1, 8, 8, 3] y) { y = Relu(x) }"
    (finding,) = check("GRF109", body, {"x": given}, backend="tensorrt")
    assert finding.severity == "warning" and "rows" in finding.message


LIKE_TORCHVISION = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.mark.parametrize(
    ("how", "said", "write"),
    [
        (
            LIKE_TORCHVISION,
            "mean and std are those",
            "mean: [123.675, 116.28, 103.53] and std: [58.395, 57.12, 57.375]",
        ),
        ({"mean": 0.5, "std": 0.5}, "mean and std are those", "mean: 127.5 and std: 127.5"),
        ({"mean": 0.5}, "mean and std are those", "mean: 127.5 and std: 255"),
        ({"std": 0.5}, "this std is that", "std: 127.5"),
        ({"mean": 0.5, "std": 127.5}, "this mean is that", "mean: 127.5"),
        ({"mean": [104, 117, 123], "std": [0.2, 0.2, 0.2]}, "this std is that", "std: [51, 51, 51]"),
    ],
    ids=str,
)
def test_grf113_mean_and_std_of_pixels_from_0_to_1(check: Any, how: dict[str, Any], said: str, write: str) -> None:
    body = "g (float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y) { y = Relu(x) }"
    given = {"kind": "image", "resize": 8, "crop": [8, 8], **how}
    (finding,) = check("GRF113", body, {"x": {"shape": [1, 3, 8, 8], "preprocess": given}})
    assert (finding.severity, finding.where) == ("warning", "inputs.x.preprocess")
    assert finding.message.startswith(f"{said} of pixels from 0 to 1")
    assert finding.fix == f"write {write}: times 255"


@pytest.mark.parametrize(
    ("how", "write", "gets"),
    [
        ({"mean": [103.94, 116.78, 123.68], "std": 0.017}, "58.8235", "-7275 to 8886"),  # Caffe's MobileNet
        ({"std": 0.00392156862745098}, "255", "0 to 6.502e+04"),  # OpenCV's 1 / 255, times which is 1, not 255
        ({"mean": 127.5, "std": [0.0078125] * 3}, "[128, 128, 128]", "-1.632e+04 to 1.632e+04"),
    ],
    ids=str,
)
def test_grf113_a_factor_is_the_inverse_of_a_std(check: Any, how: dict[str, Any], write: str, gets: str) -> None:
    given = {"kind": "image", "resize": 8, "crop": [8, 8], **how}
    (finding,) = check("GRF113", CLOSED, {"x": {"shape": [1, 3, 8, 8], "preprocess": given}})
    assert finding.message.startswith("this std is a factor for pixels")
    assert finding.message.endswith(f"the network gets {gets}")
    assert finding.fix == f"write std: {write}: what the factor is the inverse of"


def test_grf113_says_what_the_network_gets(check: Any, tmp_path: Path) -> None:
    """The same as the preprocessing makes of a black and of a white image."""
    given = {"kind": "image", "resize": 8, "crop": [8, 8], **LIKE_TORCHVISION}
    spec = InputSpec.model_validate({"shape": [1, 3, 8, 8], "preprocess": given})
    ends = []
    for level in (0, 255):
        path = tmp_path / f"{level}.png"
        Image.new("RGB", (8, 8), (level,) * 3).save(path)
        ends.append(load_image(path, str(path), spec))
    (finding,) = check("GRF113", CLOSED, {"x": {"shape": [1, 3, 8, 8], "preprocess": given}})
    assert finding.message.endswith(f"the network gets {ends[0].min():.4g} to {ends[1].max():.4g}")


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"mean": 0, "std": 1},
        {"mean": 0, "std": 255},
        {"mean": 127.5, "std": 127.5},
        {"mean": [103.94, 116.78, 123.68]},
        {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]},
    ],
    ids=str,
)
def test_grf113_leaves_what_is_for_0_to_255(check: Any, how: dict[str, Any]) -> None:
    given = {"kind": "image", "resize": 8, "crop": [8, 8], **how}
    assert not check("GRF113", CLOSED, {"x": {"shape": [1, 3, 8, 8], "preprocess": given}})
    assert not check("GRF113", CLOSED, {"x": [1, 3, 8, 8]}), "arrays are taken as they are"


@pytest.mark.parametrize("body", [CLOSED, OPEN], ids=["closed", "open"])
@pytest.mark.parametrize("name", ["y", "x_1", "input"])
def test_a_wrong_name_is_one_error(check: Any, body: str, name: str) -> None:
    found = [finding for code in ("GRF101", "GRF102", "GRF103") for finding in check(code, body, {name: [1, 3, 8, 8]})]
    assert [(one.code, one.fix) for one in found] == [("GRF101", "rename it to `x`")]


def test_a_name_too_many_is_not_called_another_one(check: Any) -> None:
    (finding,) = check("GRF101", TWO, {"x": [1, 4], "weights": [1, 4], "weight": [1, 4]})
    assert finding.fix == "remove it: the recipe has all inputs of the model"
    (finding,) = check("GRF101", TWO, {"x": [1, 4], "mask": [1, 9]})
    assert finding.fix == "use one of: weights"
    (missing,) = check("GRF102", TWO, {"x": [1, 4], "mask": [1, 9]})
    assert missing.where == "input `weights`"
