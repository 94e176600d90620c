"""The recipe as data: what one file may say, field by field. The JSON Schema is generated from these classes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
EngineName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
DType = Literal["float32", "float16", "int8", "uint8", "int32", "int64", "bool"]
Precision = Literal["fp32", "fp16", "int8"]
TensorFormat = Literal["linear", "chw4", "chw32", "hwc8", "cdhw32", "dla_linear", "dla_hwc4"]
BackendName = Literal["onnxruntime", "tensorrt_rtx", "tensorrt"]


class Strict(BaseModel):
    """Unknown keys are refused, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSource(Strict):
    """Where the ONNX model comes from."""

    onnx: str = Field(
        min_length=1,
        description="A path relative to the recipe, `package:DISTRIBUTION/path/in/it`, or an https URL (needs sha256)",
    )
    sha256: Sha256 | None = Field(None, description="Digest of the ONNX file; checked before anything is done with it")

    @model_validator(mode="after")
    def _url_needs_digest(self) -> ModelSource:
        if self.onnx.startswith(("https://", "http://")) and self.sha256 is None:
            raise ValueError("a model from a URL needs `sha256`; add what `sha256sum FILE` prints")
        return self


class ImagePreprocess(Strict):
    """A photograph to a float array: decode to RGB, resize, crop, order channels, subtract, divide, lay out."""

    kind: Literal["image"]
    resize: Annotated[int, Field(gt=0)] | tuple[int, int] = Field(
        description="Length of the shorter side in pixels (aspect kept), or [height, width]"
    )
    crop: tuple[int, int] = Field(description="Centre crop, [height, width]; must not exceed the resized image")
    channels: Literal["rgb", "bgr"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"
    mean: tuple[float, float, float] = Field((0.0, 0.0, 0.0), description="Subtracted, in the order of `channels`")
    std: tuple[float, float, float] = Field((1.0, 1.0, 1.0), description="Divided by, after the mean is subtracted")


class ArrayPreprocess(Strict):
    """A `.npy` or `.npz` array, or the voxels of a NIfTI volume, used as it is: shape and dtype must fit the input."""

    kind: Literal["array"]


Preprocess = Annotated[ImagePreprocess | ArrayPreprocess, Field(discriminator="kind")]


class InputSpec(Strict):
    """One network input. `shape` is the shape the engine is built for, batch included."""

    shape: tuple[Annotated[int, Field(gt=0)], ...]
    dtype: DType = "float32"
    format: TensorFormat = "linear"
    preprocess: Preprocess = Field(default_factory=lambda: ArrayPreprocess(kind="array"))


class Calibration(Strict):
    """INT8 ranges: gathered from a calibration set, or read from a scales file made earlier."""

    set: str | None = Field(None, min_length=1, description="A calibration set (YAML), relative to the recipe")
    scales: str | None = Field(None, min_length=1, description="A ScaleTable JSON written by `trtforge calibrate`")
    method: Literal["minmax"] = "minmax"
    samples: Annotated[int, Field(gt=0)] | None = Field(None, description="Use the first N samples of the set")

    @model_validator(mode="after")
    def _one_source(self) -> Calibration:
        if (self.set is None) == (self.scales is None):
            raise ValueError("exactly one of `set` and `scales` must be given; `set: null` drops what a base says")
        return self


class Quantize(Strict):
    """What INT8 covers beyond the defaults."""

    conv_transpose: bool = Field(False, description="Quantize ConvTranspose too (TensorRT-RTX runs it in float anyway)")
    skip: tuple[str, ...] = Field((), description="Names of nodes that stay in floating point")


class Verify(Strict):
    """The bound a built engine must keep against the FP32 model, on samples not used for calibration."""

    set: str = Field(min_length=1, description="A sample set (YAML), relative to the recipe")
    against: Literal["onnxruntime-fp32"] = "onnxruntime-fp32"
    metric: Literal["cosine", "top1", "sqnr_db"] = "cosine"
    at_least: float
    samples: Annotated[int, Field(gt=0)] | None = None


class Dla(Strict):
    """Deep Learning Accelerator options; only for targets that name a DLA."""

    core: Annotated[int, Field(ge=0, le=1)] = 0
    sram: Annotated[str, StringConstraints(pattern=r"^\d+(KiB|MiB)$")] = "1MiB"
    gpu_fallback: bool = True


class Engine(Strict):
    """One engine to build."""

    model: ModelSource
    inputs: dict[str, InputSpec]
    surgery: tuple[str, ...] = Field((), description="Surgery passes, in this order; see `trtforge surgery --list`")
    precision: Precision = "int8"
    calibration: Calibration | None = None
    quantize: Quantize = Field(default_factory=Quantize)
    verify: Verify | None = None
    dla: Dla | None = None
    workspace: Annotated[str, StringConstraints(pattern=r"^\d+(KiB|MiB|GiB)$")] = "1GiB"

    @model_validator(mode="after")
    def _int8_needs_ranges(self) -> Engine:
        if self.precision == "int8" and self.calibration is None:
            raise ValueError(
                "`precision: int8` needs `calibration`; add `calibration: {set: ...}` or write `precision: fp16`"
            )
        return self


class Recipe(Strict):
    """One file: one target, the engines to build for it."""

    extends: str | None = Field(None, description="A recipe this one is merged over, relative to this file")
    target: str = Field(description="A target key; see `trtforge targets`")
    backend: BackendName = Field(description="Which compiler makes the engine")
    tensorrt: str | None = Field(None, description='TensorRT on the device, e.g. "8.6" or "10.3"; backend `tensorrt`')
    store: str | None = Field(
        None, description="Engine store, relative to the working directory; default `engines/<name of this file>`"
    )
    engines: dict[EngineName, Engine] = Field(min_length=1)
