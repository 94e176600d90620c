"""The fused attention kernels inside NVIDIA's `CustomQKVToContextPluginDynamic`: a table, and questions to it.

From the kernel tables in the headers of NVIDIA/TensorRT, release 10.16 (plugin/bertQKVToContextPlugin/
fused_multihead_attention*/), identical in 11.1. A kernel is made for one sequence length; the plugin takes the smallest
one that holds the longest sequence of a batch.
"""

from __future__ import annotations

from typing import Literal

Precision = Literal["fp16", "int8"]
Family = Literal["padded", "packed", "interleaved"]

FAMILY: dict[int, Family] = {1: "padded", 4: "padded", 2: "packed", 5: "packed", 3: "interleaved", 6: "interleaved"}
"""By plugin version. 4 to 6 are 1 to 3 as IPluginV3."""

MASK_SIZES = (64, 96, 128, 384)
"""Sequence lengths at which versions 1 and 4 in FP16 and INT8 take a mask packed for the kernel's threads, as
`CustomEmbLayerNormPluginDynamic` makes it, and at other lengths the number of valid tokens (getMHAMaskPackedSize)."""

_TO_384 = (64, 96, 128, 192, 256, 384)
_HOPPER: dict[tuple[Family, Precision], tuple[int, ...]] = {
    ("padded", "fp16"): (64, 96, 128, 384, 512),
    ("padded", "int8"): (128, 384, 512),
    ("packed", "fp16"): (64, 96, 128, 256, 384, 512),
    ("packed", "int8"): (*_TO_384, 512),
    ("interleaved", "int8"): _TO_384,
}

_OWN: dict[str, dict[tuple[Family, Precision], tuple[int, ...]]] = {
    "7.2": {
        ("packed", "int8"): (128, 192, 256, 384),
        ("interleaved", "int8"): (128, 192, 256, 384),
    },
    "7.5": {
        ("padded", "fp16"): (64, 96, 128, 384),
        ("padded", "int8"): (128, 384),
        ("packed", "fp16"): (64, 96, 128, 256, 384, 512),
        ("packed", "int8"): (128, 192, 256, 384, 512),
        ("interleaved", "int8"): (128, 192, 256, 384),
    },
    "8.0": {
        ("padded", "fp16"): (64, 96, 128, 384),
        ("padded", "int8"): (64, 96, 128, 384),
        ("packed", "fp16"): (64, 96, 128, 256, 384, 512),
        ("packed", "int8"): (*_TO_384, 512),
        ("interleaved", "int8"): _TO_384,
    },
    "8.6": {
        ("padded", "fp16"): (64, 96, 128, 384),
        ("padded", "int8"): (128, 384),
        ("packed", "fp16"): (64, 96, 128, 256, 384),
        ("packed", "int8"): (128, 192, 256, 384),
        ("interleaved", "int8"): (128, 192, 256, 384),
    },
    "8.7": {
        ("padded", "fp16"): (64, 96, 128, 384),
        ("padded", "int8"): (128, 384),
        ("packed", "fp16"): (64, 96, 128, 256, 384),
        ("packed", "int8"): _TO_384,
        ("interleaved", "int8"): _TO_384,
    },
    "9.0": _HOPPER,
    "10.0": _HOPPER,
    "12.0": _HOPPER,
}
"""Head size 64: compute capability -> layout and precision -> sequence lengths."""

_SMALL_HEADS: dict[str, dict[tuple[Family, Precision], tuple[int, ...]]] = {
    "7.5": {("packed", "fp16"): (128, 256, 512), ("packed", "int8"): (128, 256, 512)},
    "8.0": {
        ("packed", "fp16"): (128, 256, 512),
        ("packed", "int8"): (128, 256, 512),
        ("interleaved", "int8"): (128,),
    },
}
"""Head size 32."""

TABLES = {64: _OWN, 32: _SMALL_HEADS}

_ALSO_LOADS = {"8.6": ("8.0",), "8.9": ("8.6", "8.0")}
"""GPUs of the second generation of an architecture run the first one's kernels too."""


def supported(sm: str, precision: str, head_size: int, version: int) -> tuple[int, ...]:
    """Sequence lengths with a kernel, rising; none where there is no kernel at all.

    Args:
        sm: compute capability, "8.6".
        precision: "fp16" or "int8".
        head_size: elements of a head.
        version: of the plugin, 1 to 6.
    """
    table, key = TABLES.get(head_size, {}), (FAMILY[version], precision)
    lengths: set[int] = set()
    for each in (sm, *_ALSO_LOADS.get(sm, ())):
        for stored, found in table.get(each, {}).items():
            lengths.update(found if stored == key else ())
    return tuple(sorted(lengths))


def bucket(lengths: tuple[int, ...], longest: int) -> int | None:
    """The kernel that serves sequences up to ``longest``."""
    return next((length for length in lengths if length >= longest), None)


def missing(sm: str, precision: str, head_size: int, version: int, longest: int | None) -> str:
    """A sentence when no kernel serves sequences up to ``longest`` (None: not known, then any will do), else ""."""
    lengths = supported(sm, precision, head_size, version)
    if lengths and (longest is None or bucket(lengths, longest) is not None):
        return ""
    wanted = f"sequence length {longest}, " if longest is not None else ""
    sentence = f"version {version} has no kernel for {wanted}head size {head_size} on SM {sm} in {precision}"
    if lengths:
        return f"{sentence}; there are {_listed(lengths)}"
    heads = [size for size in sorted(TABLES) if supported(sm, precision, size, version)]
    if heads:
        lengths = supported(sm, precision, heads[-1], version)
        return f"{sentence}; for head size {heads[-1]} there are {_listed(lengths)}"
    return f"{sentence}, and none for any other head size"


def _listed(lengths: tuple[int, ...]) -> str:
    return ", ".join(map(str, lengths))
