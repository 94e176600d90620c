"""What a target is: a device, or one accelerator of it, as recipes name it, with the facts the toolchain needs.

A figure is a plain number; where it comes from stands beside it in :attr:`Target.provenance`, so that nothing
recalled from a datasheet is ever printed as if it had been measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from trtforge.targets.host import HostFacts

Kind = Literal["host", "discrete", "soc-gpu", "dla"]
Origin = Literal["cross-checked", "recalled", "computed", "measured"]


@dataclass(frozen=True)
class Provenance:
    """Where a figure comes from. ``recalled``: a datasheet figure nobody read again; check before quoting it."""

    origin: Origin
    source: str


@dataclass(frozen=True)
class PowerMode:
    """One nvpmodel mode. Rates are of this accelerator (for a DLA: of one core); TOPS are 10^12 operations/s."""

    name: str
    int8_dense_tops: float
    int8_sparse_tops: float
    clock_mhz: float | None = None


@dataclass(frozen=True)
class Dla:
    """The Deep Learning Accelerator of a device. ``generation`` 1: NVDLA v1 (Xavier), 2: NVDLA v2 (Orin).

    ``sram_mib``: managed SRAM; private to a core, or shared by all cores (and the PVA) when ``sram_shared``.
    """

    generation: int
    cores: int
    sram_mib: float
    sram_shared: bool
    structured_sparsity: bool
    softmax: bool


@dataclass(frozen=True)
class Target:
    """One thing an engine can be built for.

    Rates are dense peaks; ``None`` means not known here. On a DLA target they are those of *one* core, because an
    engine occupies one core. ``memory_gb`` and ``bandwidth_gb_s`` (vendors' decimal gigabytes) are those of the whole
    device: CPU, GPU and DLA of a Jetson share them. ``provenance`` has one entry per figure given.
    """

    key: str
    name: str
    kind: Kind
    sm: str | None = None
    """Compute capability, "8.0"; on a DLA target that of the GPU beside it; None on the host."""
    device: str = ""
    """The device the target belongs to: the key without ``/gpu`` or ``/dla``."""
    family: str | None = None
    """Jetson family in JetPack's table ("orin-agx"); None off Jetson."""
    tensorrt_max: str | None = None
    """The last TensorRT release for this device, where it has been left behind."""
    sms: int | None = None
    memory_gb: float | None = None
    memory_type: str | None = None
    bandwidth_gb_s: float | None = None
    l2_mb: float | None = None
    int8_dense_tops: float | None = None
    fp16_dense_tflops: float | None = None
    tdp_w: float | None = None
    tdp_min_w: float | None = None
    dla: Dla | None = None
    power_modes: tuple[PowerMode, ...] = ()
    note: str = ""
    provenance: Mapping[str, Provenance] = field(default_factory=dict)
    host: HostFacts | None = None
    """Facts of this machine's CPU; only on the target ``host``."""

    @property
    def is_dla(self) -> bool:
        return self.kind == "dla"

    @property
    def unified_memory(self) -> bool:
        """CPU and accelerator share one DRAM, so inputs need no copy."""
        return self.kind in ("soc-gpu", "dla", "host")

    def to_json(self) -> dict[str, Any]:
        """Every field, units in the names; figures as plain numbers (null: not known), provenance beside them."""
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "unified_memory": self.unified_memory,
            "dla": asdict(self.dla) if self.dla else None,
            "power_modes": [asdict(mode) for mode in self.power_modes],
            "provenance": {figure: asdict(entry) for figure, entry in sorted(self.provenance.items())},
            "host": self.host.to_json() if self.host else None,
        }


FIGURES = (
    "sms",
    "memory_gb",
    "bandwidth_gb_s",
    "l2_mb",
    "int8_dense_tops",
    "fp16_dense_tflops",
    "tdp_w",
    "tdp_min_w",
)
"""The fields of a target that are figures; each one given has an entry in ``provenance``."""

_PLAIN = ("key", "name", "kind", "sm", "device", "family", "tensorrt_max", "memory_type", *FIGURES, "note")


@dataclass(frozen=True)
class JetPack:
    """One JetPack release and what it carries. ``dla``: Jetson families on which this combination can use the DLA."""

    version: str
    tensorrt: str
    cuda: str
    dla_software: str | None
    families: tuple[str, ...]
    dla: tuple[str, ...]
    provenance: Provenance
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"families": list(self.families), "dla": list(self.dla)}


@dataclass(frozen=True)
class DlaWindow:
    """A stretch of TensorRT versions, ends included (missing parts of ``last`` match anything), and its word on DLA."""

    first: str
    last: str
    families: tuple[str, ...]
    """Families that can use their DLA; empty: none."""
    jetpack_min: str | None
    why: str
    source: str
