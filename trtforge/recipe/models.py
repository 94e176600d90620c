"""The recipe as data: what one file may say, field by field. The JSON Schema is generated from these classes."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from trtforge.recipe.preprocess import ArrayPreprocess, Preprocess
from trtforge.recipe.values import Positive, Real, Strict, real, whole

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
EngineName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
DType = Literal["float32", "float16", "int8", "uint8", "int32", "int64", "bool"]
Precision = Literal["fp32", "fp16", "int8"]
TensorFormat = Literal["linear", "chw4", "chw32", "hwc8", "cdhw32", "dla_linear", "dla_hwc4"]
BackendName = Literal["onnxruntime", "tensorrt_rtx", "tensorrt"]
PluginName = Literal["res2", "qkv-to-context", "instance-norm-relu", "pixel-shuffle-3d", "conv3d-small", "nms"]
LoweringName = Literal["stock", "nms-opt", "trtforge", "attention", "plain"]


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


class SizeRange(Strict):
    """The shapes an engine of open sizes takes, ends included."""

    min: tuple[Positive, ...] = Field(description="Smallest shape the engine takes")
    max: tuple[Positive, ...] = Field(description="Largest shape the engine takes")


class OutputSpec(Strict):
    """How the engine gives one of its outputs."""

    dtype: DType = Field("float32", description="Element type the engine gives")
    format: TensorFormat = Field("linear", description="Memory format the engine gives; `dla_linear` on a DLA only")


class InputSpec(Strict):
    """One network input. `shape` is the shape the engine is built for, batch included."""

    shape: tuple[Positive, ...] = Field(description="Shape the engine is built for, batch included")
    dtype: DType = Field("float32", description="Element type the engine takes")
    format: TensorFormat = Field("linear", description="Memory format the engine takes; `dla_*` only for a DLA target")
    range: SizeRange | None = Field(
        None, description="For an engine of open sizes, `shape` being the usual one; backend `tensorrt`, no DLA"
    )
    preprocess: Preprocess = Field(
        default_factory=lambda: ArrayPreprocess(kind="array"),
        description="How a file of a sample set becomes this input; `{kind: array}` when left out",
    )

    @model_validator(mode="after")
    def _shape_is_in_range(self) -> InputSpec:
        if self.range is None:
            return self
        sides = (self.range.min, self.shape, self.range.max)
        if len({len(side) for side in sides}) > 1:
            raise ValueError(
                f"`range` is {list(self.range.min)} to {list(self.range.max)}; write both with as many sizes as "
                f"`shape`, {len(self.shape)}"
            )
        if any(not low <= usual <= high for low, usual, high in zip(*sides, strict=True)):
            raise ValueError(
                f"`shape: {list(self.shape)}` is not between `range`'s {list(self.range.min)} and "
                f"{list(self.range.max)}; write min <= shape <= max in every axis"
            )
        return self


class Calibration(Strict):
    """INT8 ranges: gathered from a calibration set, or read from a scales file made earlier."""

    set: str | None = Field(None, min_length=1, description="A calibration set (YAML), relative to the recipe")
    scales: str | None = Field(None, min_length=1, description="A ScaleTable JSON written by `trtforge calibrate`")
    method: Literal["minmax", "minmax-fused"] = Field(
        "minmax",
        description="Range of a tensor: smallest and largest value seen; `minmax-fused` looks only at tensors that "
        "onnxruntime's fusion leaves: faster on convolutional networks, equal to about 1e-6",
    )
    samples: Positive | None = Field(None, description="Use the first N samples of the set")

    @model_validator(mode="after")
    def _one_source(self) -> Calibration:
        if (self.set is None) == (self.scales is None):
            raise ValueError("exactly one of `set` and `scales` must be given; `set: null` drops what a base says")
        return self


class Quantize(Strict):
    """What INT8 covers beyond the defaults."""

    conv_transpose: bool = Field(False, description="Quantize ConvTranspose too (TensorRT-RTX runs it in float anyway)")
    skip: tuple[str, ...] = Field((), description="Names of nodes that stay in floating point")


class Windows(Strict):
    """How a volume goes through the network: windows of the input's size, their weights, and what the classes mean."""

    overlap: Annotated[float, Field(ge=0, lt=1), BeforeValidator(real)] = Field(
        0.5, description="Share of a window that the next one along an axis covers again"
    )
    weights: Literal["mlperf", "monai", "constant"] = Field(
        "mlperf",
        description="Weight of a window's voxels: `mlperf`: Gaussian of n/8 and its cube root (n: window length); "
        "`monai`: Gaussian of n/8, at least 0.001; `constant`: all alike",
    )
    mirror: tuple[Literal["d", "h", "w"], ...] = Field(
        (), description="Average over flips along these axes of the window: two runs for one axis, eight for three"
    )
    classes: tuple[str, ...] = Field((), description="Names of the classes, the background first")
    per_volume: Positive = Field(
        4, description="Windows that stand for a volume in calibration, and in `verify` but for `dice`"
    )
    seed: Annotated[int, Field(ge=0), BeforeValidator(whole)] = Field(0, description="Decides which windows these are")

    @model_validator(mode="after")
    def _names_are_different(self) -> Windows:
        if len(set(self.mirror)) < len(self.mirror) or len(set(self.classes)) < len(self.classes):
            raise ValueError("`mirror` or `classes` says the same twice; remove one of them")
        return self


class Verify(Strict):
    """The bound a built engine must keep against the FP32 model, on samples not used for calibration."""

    set: str = Field(min_length=1, description="A sample set (YAML), relative to the recipe")
    against: Literal["onnxruntime-fp32"] = Field("onnxruntime-fp32", description="The reference: the model in FP32")
    metric: Literal["cosine", "top1", "sqnr_db", "dice"] = Field(
        "cosine",
        description="Cosine similarity, share of equal top-1 classes, signal to quantization noise in dB, or Dice of "
        "whole volumes' labels against the reference's",
    )
    at_least: Real = Field(description="The bound, in the unit of `metric`")
    samples: Positive | None = Field(None, description="Use the first N samples of the set")

    @model_validator(mode="after")
    def _bound_can_be_met(self) -> Verify:
        if self.metric != "sqnr_db" and self.at_least > 1:
            percent = self.at_least if self.at_least <= 100 else 99
            said = f"write {percent / 100:.10g} for {percent:.10g} %"
            raise ValueError(f"`at_least` is above 1, which `metric: {self.metric}` never is; {said}")
        return self


DramSize = Annotated[str, StringConstraints(pattern=r"^[1-9]\d*(KiB|MiB|GiB)$")]


class Dla(Strict):
    """Deep Learning Accelerator options; only for targets that name a DLA."""

    core: Annotated[int, Field(ge=0, le=1), BeforeValidator(whole)] = Field(0, description="Which core, counted from 0")
    sram: Annotated[str, StringConstraints(pattern=r"^[1-9]\d*(KiB|MiB)$")] = Field(
        "1MiB", description="Managed SRAM this engine may use; a power of two, at least 4KiB"
    )
    gpu_fallback: bool = Field(True, description="Run layers the DLA cannot run on the GPU; false: fail the build")
    local_dram: DramSize | None = Field(
        None, description="DRAM for a loadable's tensors; a power of two. Left out: TensorRT's default, 1GiB"
    )
    global_dram: DramSize | None = Field(
        None, description="DRAM for a loadable's weights; a power of two. Left out: TensorRT's default, 512MiB"
    )
    standalone: bool = Field(
        False, description="Write a loadable for cuDLA, without TensorRT around it; wants `gpu_fallback: false`"
    )

    @model_validator(mode="after")
    def _standalone_has_no_gpu(self) -> Dla:
        if self.standalone and self.gpu_fallback:
            raise ValueError("a `standalone` loadable has no GPU to fall back to; write `gpu_fallback: false`")
        for name in ("local_dram", "global_dram"):
            size = getattr(self, name)
            if size is not None and (number := int(size[:-3])) & (number - 1):
                raise ValueError(f"`{name}: {size}` is not a power of two, and the DLA takes no other; write 1GiB")
        return self

    @model_validator(mode="after")
    def _sram_is_a_pool_size(self) -> Dla:
        number, unit = re.fullmatch(r"(\d+)(KiB|MiB)", self.sram).groups()  # type: ignore[union-attr]
        size = int(number) << (10 if unit == "KiB" else 20)
        if size < 4096 or size & (size - 1):
            raise ValueError(
                f"`sram: {self.sram}` is not a power of two of at least 4KiB, and the DLA takes no other; write 1MiB"
            )
        return self


class Builder(Strict):
    """What native TensorRT's builder is told beside the precision."""

    optimization_level: Annotated[int, Field(ge=0, le=5), BeforeValidator(whole)] | None = Field(
        None, description="0 to 5: time the builder takes to look for faster kernels; left out: TensorRT's own, 3"
    )
    timing_cache: bool = Field(
        True, description="Keep measured times of kernels between builds, by target; `--locked` wants all of them there"
    )
    direct_io: bool = Field(
        False, description="No reformatting at inputs and outputs: the build fails where a format does not fit"
    )
    version_compatible: bool = Field(False, description="An engine that later TensorRT releases of the same major run")
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = Field(
        "none",
        description="GPUs beside the one built on; `ampere_plus`: SM 8.0 and later, no Jetson; "
        "`same_compute_capability`: of the same compute capability, TensorRT 10 and later",
    )


class Engine(Strict):
    """One engine to build."""

    model: ModelSource = Field(description="Where the ONNX model comes from")
    inputs: dict[str, InputSpec] = Field(description="The network's inputs by name, each with its shape")
    outputs: dict[str, OutputSpec] = Field(
        {}, description="For outputs that are not float32 in the plain order; backend `tensorrt`"
    )
    windows: Windows | None = Field(
        None, description="For an input with `preprocess: {kind: volume}`: how volumes go through the network"
    )
    surgery: tuple[str, ...] = Field(
        (), description="Surgery passes and plugins, in this order; see `trtforge surgery --list`"
    )
    plugins: dict[PluginName, tuple[LoweringName, ...]] = Field(
        {},
        description="For plugins named in `surgery`: what may stand for each, best first; `stock`: NVIDIA's plugin, "
        "`nms-opt`: MLPerf's, `trtforge`: ours, `attention`: the ONNX operator, `plain`: the graph as it is. Left out: "
        "whatever the target takes, `plain` last",
    )
    precision: Precision = Field("int8", description="What most layers compute in; `int8` needs `calibration`")
    calibration: Calibration | None = Field(None, description="Where the INT8 ranges come from")
    quantize: Quantize = Field(default_factory=Quantize, description="What INT8 covers beyond the defaults")
    verify: Verify | None = Field(None, description="The bound the built engine must keep against the FP32 model")
    dla: Dla | None = Field(None, description="Deep Learning Accelerator options; only for a DLA target")
    builder: Builder = Field(
        default_factory=Builder, description="What the builder is told beside the precision; backend `tensorrt`"
    )
    workspace: DramSize = Field("1GiB", description="Scratch memory the compiler may use on the device")

    @property
    def volume_input(self) -> str | None:
        """Name of the input that takes windows of a volume; None where samples go in whole."""
        return next((name for name, spec in self.inputs.items() if spec.preprocess.kind == "volume"), None)

    @property
    def sliding(self) -> Windows:
        """``windows``, or its defaults where the recipe is silent."""
        return self.windows or Windows()

    @model_validator(mode="after")
    def _windows_are_of_a_volume(self) -> Engine:
        if self.windows is not None and self.volume_input is None:
            raise ValueError("`windows` is for an input with `preprocess: {kind: volume, ...}`, and there is none")
        if self.verify is not None and self.verify.metric == "dice" and self.volume_input is None:
            raise ValueError("`metric: dice` compares labels of volumes, and no input has `preprocess: {kind: volume}`")
        return self

    @model_validator(mode="after")
    def _plugins_are_used(self) -> Engine:
        for name, lowerings in self.plugins.items():
            if name not in self.surgery:
                raise ValueError(f"`plugins` lists {name}, and `surgery` does not; add it there, or remove it here")
            if not lowerings or len(set(lowerings)) < len(lowerings):
                raise ValueError(f"`plugins: {name}` is empty or says the same twice; write [trtforge, plain]")
        return self

    @model_validator(mode="after")
    def _int8_needs_ranges(self) -> Engine:
        if self.precision == "int8" and self.calibration is None:
            raise ValueError(
                "`precision: int8` needs `calibration`; add `calibration: {set: ...}` or write `precision: fp16` "
                "(`fp32` for the target `host`)"
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
    engines: dict[EngineName, Engine] = Field(min_length=1, description="The engines to build, by name")
