"""What a compiler is asked for, as data: written by a backend here, read by the compiler's process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

HARDWARE_COMPATIBILITY = ("none", "ampere_plus", "same_compute_capability")


@dataclass(frozen=True)
class Tensor:
    """How the engine takes or gives a tensor. ``dtype`` as NumPy spells it, ``format`` as a recipe does.

    ``shapes``: smallest, usual and largest, for an input of open sizes. ``scale``: of an INT8 one.
    """

    dtype: str | None = None
    format: str = "linear"
    shapes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None = None
    scale: float | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Tensor:
        shapes: Any = value["shapes"] and tuple(map(tuple, value["shapes"]))
        return cls(value["dtype"], value["format"], shapes, value["scale"])


@dataclass(frozen=True)
class Dla:
    """Memory in bytes; ``None``: TensorRT's default."""

    core: int
    sram: int | None = None
    local_dram: int | None = None
    global_dram: int | None = None
    gpu_fallback: bool = True
    standalone: bool = False


@dataclass(frozen=True)
class Options:
    """``precision``: what layers may compute in; "typed": what the graph says.

    ``calibration``: how INT8 ranges are given where the graph has no Q/DQ: "cache" from the file of that name beside
    the job, "samples" from the parent, and the calibrator's algorithm. ``float_layers``: not in INT8.
    ``stock_plugins``: load NVIDIA's own.
    ``timing_cache``: a file, read if there, written after the build; ``timing_locked``: it is only read, and a kernel
    that is not in it is an error. ``inspect``: file for the engine inspector's JSON; the plan is read back for it.
    """

    workspace: int
    precision: Literal["typed", "fp32", "fp16", "int8"] = "typed"
    compute_capabilities: tuple[str, ...] = ()
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    calibration: Mapping[str, str] | None = None
    float_layers: tuple[str, ...] = ()
    dla: Dla | None = None
    direct_io: bool = False
    stock_plugins: bool = False
    optimization_level: int | None = None
    version_compatible: bool = False
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = "none"
    timing_cache: str | None = None
    timing_locked: bool = False
    inspect: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Options:
        read: dict[str, Any] = {key: tuple(each) if isinstance(each, list) else each for key, each in value.items()}
        for side in ("inputs", "outputs"):
            read[side] = {name: Tensor.from_json(each) for name, each in read.get(side, {}).items()}
        if read.get("dla") is not None:
            read["dla"] = Dla(**read["dla"])
        return cls(**read)


def memory_bytes(text: str) -> int:
    """An amount as recipes spell it, "512KiB", "1GiB", in bytes."""
    return int(text[:-3]) << {"KiB": 10, "MiB": 20, "GiB": 30}[text[-3:]]
