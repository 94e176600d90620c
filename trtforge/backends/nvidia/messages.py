"""What the compiler says: repeated warnings folded into one with a count, known messages put into plain words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple


class Meaning(NamedTuple):
    """``says``: the message in plain words. ``next``: what to change."""

    says: str
    next: str


_KNOWN: tuple[tuple[str, Meaning], ...] = (
    (
        r"Cannot compile operation .* for Turing .*is not supported",
        Meaning(
            "this GPU generation (SM 7.5) has no FP32 kernels for such layers in TensorRT-RTX",
            "set `precision: fp16` in the recipe, or choose a target with SM 8.0 or newer",
        ),
    ),
    (
        r"HW-specific datatypes",
        Meaning(
            "the model uses a number format that the target's GPU does not have",
            "set `precision` to fp16 or int8, or choose a target whose GPU has the format (FP8: SM 8.9 and newer)",
        ),
    ),
    (
        r"no optimization profile has been defined",
        Meaning(
            "an input still has a dimension without a size",
            "give every input of the model a `shape` in the recipe's `inputs`",
        ),
    ),
    (
        r"within workspace limit",
        Meaning(
            "a layer needs more scratch memory than `workspace` allows",
            "raise `workspace` in the recipe, for example to 4GiB",
        ),
    ),
    (
        r"OutOfMemory \(Requested size was",  # also without a GPU: the limit is the recipe's, not a device's
        Meaning(
            "the engine's tensors and scratch memory together need more than `workspace` allows",
            "raise `workspace` in the recipe, for example to 16GiB, or build for a smaller batch",
        ),
    ),
    (
        r"must be of same type|must have same input types|must have the same (?:data )?type",
        Meaning(
            "tensors of two number formats meet in one node; TensorRT-RTX converts none by itself",
            "use a model exported in FP32 and let the recipe's `precision` convert it",
        ),
    ),
    (
        r"Non-zero zero point is not supported",
        Meaning(
            "the model carries asymmetric quantization; TensorRT-RTX knows symmetric INT8 only",
            "start from the model in float and calibrate it: trtforge calibrate RECIPE",
        ),
    ),
    (
        r"has type Int32 but must have type",
        Meaning(
            "the model carries biases quantized to int32, which TensorRT-RTX cannot read",
            "start from the model in float and calibrate it: trtforge calibrate RECIPE",
        ),
    ),
    (
        r"Scale coefficients must all be positive",
        Meaning(
            "a quantization scale is zero or negative",
            "calibrate again with samples that make every tensor move: trtforge calibrate RECIPE",
        ),
    ),
    (
        r"Plugin not found|No importer registered for op|Unsupported operator",
        Meaning(
            "the graph has an operator that TensorRT-RTX does not know",
            "add a surgery pass that rewrites it to standard ONNX: trtforge surgery --list",
        ),
    ),
    (
        r"IPluginCreatorV3One creator only",
        Meaning(
            "a plugin is registered through the old V2 interface, which TensorRT-RTX does not import",
            "port the plugin to IPluginV3",
        ),
    ),
    (
        r"not supported by a dedicated kernel",
        Meaning(
            "the Attention operator has a fused kernel in FP16 only",
            "set `precision: fp16` in the recipe, or keep the attention in its plain form",
        ),
    ),
    (
        r"has no runners that implement it",
        Meaning(
            "the compiler has no kernel for this operator when it builds without a GPU",
            "cut the operator off the model, for example run it after the engine",
        ),
    ),
    (
        r"cudaError(?: |: )35|error 35\b|CUDA driver version is insufficient",
        Meaning(
            "this step asks the GPU driver, and there is none here",
            "nothing, when only compiling; otherwise run on the device",
        ),
    ),
    (
        r"setHardwareCompatibilityLevel\(\) is unsupported",
        Meaning(
            "TensorRT-RTX ignores the hardware compatibility level",
            "choose the GPUs by the recipe's target",
        ),
    ),
    (
        r"[Mm]issing scale and zero-point for tensor",
        Meaning(
            "calibration has no range for a tensor: layers around it run in FP16 or FP32, on a DLA perhaps on the GPU",
            "calibrate this graph: trtforge calibrate RECIPE; `trtforge scales show` lists what is there",
        ),
    ),
    (
        r"Calibration table does not match calibrator algorithm type",
        Meaning(
            "the calibration cache's first line names another TensorRT or another calibrator",
            "let `trtforge build` write the cache for the TensorRT that is here",
        ),
    ),
    (
        r"not supported on DLA|not running on DLA|[Ff]alling back to GPU|cannot run on DLA",
        Meaning(
            "the DLA does not run this layer; the GPU does",
            "`trtforge lint RECIPE --placement` says why, and `--fix` what would keep it there",
        ),
    ),
    (
        r"DLA supports only \d+ subgraphs",
        Meaning(
            "the network falls into more pieces than the DLA loads; the rest goes to the GPU",
            "`trtforge lint RECIPE --fix` names the layers that cut it",
        ),
    ),
    (
        r"[Uu]sing an engine plan file across different models of devices",
        Meaning(
            "the engine was built on another model of GPU",
            "build it on the device that runs it",
        ),
    ),
    (
        r"Detected invalid timing cache|[Tt]iming cache .* (?:mismatch|different)",
        Meaning(
            "the timing cache is of another TensorRT, GPU or driver, and is not used",
            "nothing: it is written anew",
        ),
    ),
    (
        r"std::bad_alloc|[Oo]ut of (?:host )?memory",
        Meaning(
            "the machine ran out of memory while compiling",
            "close other programs, or compile on a machine with more memory",
        ),
    ),
)
"""Pattern searched in a message -> what it means. The first that fits counts."""


def explain(message: str) -> Meaning | None:
    """The plain meaning of a compiler message, None when it is not a known one."""
    return next((meaning for pattern, meaning in _KNOWN if re.search(pattern, message)), None)


@dataclass
class Folded:
    """A warning with how often it came; ``text`` is its first wording."""

    text: str
    count: int
    meaning: Meaning | None

    def to_json(self) -> dict[str, Any]:
        return {"text": self.text, "count": self.count, "meaning": self.meaning.says if self.meaning else ""}

    def __str__(self) -> str:
        times = f" ({self.count} times)" if self.count > 1 else ""
        return f"{self.text}{times}" + (f": {self.meaning.says}" if self.meaning else "")


class Folder:
    """Collects warnings; those that differ only in numbers and quoted names count as one."""

    def __init__(self) -> None:
        self._by_shape: dict[str, Folded] = {}

    def add(self, text: str) -> None:
        folded = self._by_shape.setdefault(_shape(text), Folded(text, 0, explain(text)))
        folded.count += 1

    @property
    def warnings(self) -> list[Folded]:
        """In the order they first came."""
        return list(self._by_shape.values())


def _shape(text: str) -> str:
    return re.sub(r"'[^']*'|\"[^\"]*\"|\{[^{}]*\}|\d+", "#", text)
