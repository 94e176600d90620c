"""Weights and scales of Res2Int8 in the order the kernels read them, and activations in NC/32HW32.

The weights of a bottleneck are a row of chunks, each MID x MID: a matrix product of MID input channels for MID output
channels. They come in the order of their use:

    2a                  a chunk for each MID input channels
    2b                  nine, the taps of the filter, row by row
    2c                  four, for MID output channels each; in block a branch1's for the same channels come first, a
                        chunk for each MID input channels

A chunk lies as the tensor cores' product m16n8k32 wants it: 1024 bytes for 32 inputs and 32 outputs, in them 16 bytes
for each of a warp's 32 lanes, twice (`packed_chunk`). So a lane reads 16 bytes at once, and a warp 512 without a gap.

Scales are float32: M and B of 2a, of 2b, in block a of branch1, of 2c, then R and three zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trtforge.plugins.res2.function import CONVOLUTIONS
from trtforge.plugins.res2.launch import served

Array = np.ndarray[Any, Any]

GROUP = 32


def packed(inputs: Sequence[Array]) -> dict[str, Array]:
    """`a_weights` int8 [bytes], `a_scales` float32 [floats], and so for b and c, from Res2Int8's inputs after `x`.

    Raises ValueError where there are no kernels for the stage's widths, those of a's 2a, or a weight has another shape.
    """
    *constants, residual = inputs
    parts = {name: constants[3 * i : 3 * i + 3] for i, name in enumerate(CONVOLUTIONS)}
    mid, channels_in = parts["a_2a"][0].shape[:2]
    _check({name: part[0].shape for name, part in parts.items()}, mid, channels_in)
    made: dict[str, Array] = {}
    for letter, rescale in zip("abc", residual, strict=True):
        names = ["2a", "2b", *(["branch1"] if letter == "a" else []), "2c"]
        block = {name: parts[f"{letter}_{name}"] for name in names}
        chunks = _chunks({name: part[0] for name, part in block.items()}, mid)
        scales = [values.reshape(-1) for part in block.values() for values in part[1:]]
        made[f"{letter}_weights"] = np.concatenate([packed_chunk(chunk) for chunk in chunks])
        made[f"{letter}_scales"] = np.concatenate([*scales, [rescale, 0, 0, 0]], dtype=np.float32)
    return made


def packed_chunk(weight: Array) -> Array:
    """int8 [MID outputs, MID inputs] -> int8 [MID * MID].

    Of a product's operand b, lane l holds of column l // 4 the inputs from 4 * (l % 4) on (b0) and 16 more (b1). Of its
    sums, lane l holds columns 2 * (l % 4) and the next, of four products that make 32 columns together. Output 8 * q +
    2 * n + e is put into column 2 * q + e of product n, and so a lane has eight outputs that follow each other.
    """
    groups = weight.shape[0] // GROUP
    # outputs: group, q, upper pair of products, product of the pair, e; inputs: step, b0 or b1, l % 4, byte
    axes = weight.reshape(groups, 4, 2, 2, 2, groups, 2, 4, 4)
    return axes.transpose(5, 0, 2, 1, 4, 7, 3, 6, 8).reshape(-1)


def to_chw32(x: Array) -> Array:
    """[N, C, H, W] -> [N, C / 32, H, W, 32]; C a multiple of 32."""
    batch, channels, height, width = x.shape
    grouped = x.reshape(batch, channels // GROUP, GROUP, height, width)
    return np.ascontiguousarray(grouped.transpose(0, 1, 3, 4, 2))


def from_chw32(x: Array) -> Array:
    """[N, C / 32, H, W, 32] -> [N, C, H, W]."""
    batch, groups, height, width, _ = x.shape
    return np.ascontiguousarray(x.transpose(0, 1, 4, 2, 3)).reshape(batch, groups * GROUP, height, width)


def _chunks(weights: dict[str, Array], mid: int) -> list[Array]:
    reduce, spatial, expand = (weights[name] for name in ("2a", "2b", "2c"))
    inputs, outputs = (
        [slice(start, start + mid) for start in range(0, channels, mid)]
        for channels in (reduce.shape[1], expand.shape[0])
    )
    chunks = [reduce[:, part, 0, 0] for part in inputs]
    chunks += [spatial[:, :, y, x] for y in range(3) for x in range(3)]
    for made in outputs:
        if "branch1" in weights:
            chunks += [weights["branch1"][made, part, 0, 0] for part in inputs]
        chunks.append(expand[made, :, 0, 0])
    return chunks


def _check(shapes: dict[str, tuple[int, ...]], mid: int, channels_in: int) -> None:
    if not served(channels_in, mid, 4 * mid):
        raise ValueError(f"res2: there are no kernels for {channels_in} input and {mid} inner channels")
    inputs_of = {"a_branch1": channels_in, "a_2a": channels_in, "b_2a": 4 * mid, "c_2a": 4 * mid}
    for name, shape in shapes.items():
        inputs = inputs_of.get(name, mid)
        outputs = 4 * mid if name.endswith(("2c", "branch1")) else mid
        size = 3 if name.endswith("2b") else 1
        if shape != (outputs, inputs, size, size):
            raise ValueError(f"res2: the weight of {name} is {list(shape)}, not {[outputs, inputs, size, size]}")
