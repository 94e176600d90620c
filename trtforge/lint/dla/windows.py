"""Windows that move over an image: kernel, stride, padding and the like against the DLA's ranges."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.dla.obstacle import Obstacle
from trtforge.lint.nodes import attribute, integer, ints
from trtforge.targets.dla_layers import DlaLayer

if TYPE_CHECKING:
    from onnx import NodeProto

    from trtforge.lint.context import Context

LONG = (64, 96, 128)
"""A deconvolution's kernel and stride may be this long along one axis when they are 1 along the other."""

SLOW = (23, 32)
"""TensorRT keeps deconvolutions with a square kernel or stride from the first to the second off the DLA."""

BANK = 32768
"""Bytes of a bank of the convolution buffer."""


def of_window(context: Context, node: NodeProto, row: DlaLayer) -> Iterator[Obstacle]:
    """A window that has not two dimensions, or parameters out of the row's ranges."""
    if node.op_type in ("Conv", "ConvTranspose") and node.input[1] not in context.constants:
        yield Obstacle("parameter", "its weights are not constant", row.origin)
        return
    rank = context.spatial_rank(node)
    if rank is None:
        yield Obstacle("parameter", "how many dimensions its window has is not known", row.origin, certain=False)
        return
    if rank != 2:
        size = "one dimension" if rank == 1 else f"{rank} dimensions"
        why = f"its window has {size}, the DLA's two"
        yield Obstacle("parameter", why, row.origin, fix="export it with a height of 1")
        return
    kernel = _kernel(context, node)
    strides = ints(node, "strides") or (1, 1)
    long = node.op_type == "ConvTranspose" and _is_long(kernel) and strides == kernel
    for name, value in _values(context, node, kernel).items():
        low, high = row.ranges.get(name, (value, value))
        if not low <= value <= high and not (long and name in ("kernel", "stride")):
            allowed = str(low) if low == high else f"{low} to {high}"
            fix = row.limits or f"keep {name} in {allowed}"
            yield Obstacle("parameter", f"{name} {value} is not in the DLA's range ({allowed})", row.origin, fix=fix)
    pads = ints(node, "pads")
    if node.op_type == "Conv" and any(pad >= size for pad, size in zip(pads, kernel * 2, strict=False)):
        yield Obstacle("parameter", f"its padding {list(pads)} is not smaller than its kernel", row.origin)
    if node.op_type == "ConvTranspose":
        yield from _of_deconvolution(node, row, kernel, strides)


def _of_deconvolution(
    node: NodeProto, row: DlaLayer, kernel: tuple[int, ...], strides: tuple[int, ...]
) -> Iterator[Obstacle]:
    for name, sizes in (("kernel", kernel), ("stride", strides)):
        if len(set(sizes)) == 1 and SLOW[0] <= sizes[0] <= SLOW[1]:
            why = f"its {name} is {sizes[0]}x{sizes[0]}, the DLA gets no square ones of {SLOW[0]} to {SLOW[1]}"
            yield Obstacle("parameter", why, row.origin, fix=f"two deconvolutions, or a {name} up to {SLOW[0] - 1}")
            break
    more, padded = ints(node, "output_padding"), attribute(node, "auto_pad")
    fix = "export it without, with a kernel that is as large as the stride"
    if any(more):
        why = f"its output_padding is {list(more)}, the DLA's deconvolution pads nothing"
        yield Obstacle("parameter", why, row.origin, fix=fix)
    elif padded is not None and padded.s.startswith(b"SAME") and kernel != strides:
        why = f"its auto_pad is {padded.s.decode()}, the DLA's deconvolution pads nothing"
        yield Obstacle("parameter", why, row.origin, fix=fix)


def _is_long(kernel: tuple[int, ...]) -> bool:
    return len(kernel) == 2 and min(kernel) == 1 and max(kernel) in LONG


def _kernel(context: Context, node: NodeProto) -> tuple[int, ...]:
    weights = context.shape(node.input[1]) if len(node.input) > 1 else None
    return ints(node, "kernel_shape") or (weights[2:] if weights is not None else ())


def _values(context: Context, node: NodeProto, kernel: tuple[int, ...]) -> dict[str, int]:
    """The value of each parameter that is furthest out."""
    weights = context.shape(node.input[1]) if len(node.input) > 1 else None
    found = {
        "kernel": max(kernel, default=1),
        "stride": max(ints(node, "strides"), default=1),
        "dilation": max(ints(node, "dilations"), default=1),
        "pad": max(ints(node, "pads"), default=0),
        "groups": integer(node, "group", 1),
    }
    if weights is not None and node.op_type == "Conv":
        found["outputs"] = weights[0]
    padded = attribute(node, "auto_pad")
    if padded is not None and padded.s not in (b"NOTSET", b"VALID", b""):
        del found["pad"]  # depends on the map's size; at most half a kernel
    return found


def buffer_banks(context: Context, node: NodeProto) -> tuple[int, int] | None:
    """Banks of the convolution buffer for weights and for data, as the guide of TensorRT 8.2 computes them for Xavier.

    None when a size is not known.
    """
    image, weights = context.shape(node.input[0]), context.shape(node.input[1])
    if image is None or weights is None or len(image) != 4 or len(weights) != 4:
        return None
    size = 1 if context.engine.precision == "int8" else 2
    channels, height, width = weights[1:]
    dilation = (ints(node, "dilations") or (1,))[0]
    for_weights = -(-_rounded(channels * height * width * size, 128) // BANK)
    entries = -(-(-(-channels * size // 32) * image[3]) // 4)
    for_data = -(-entries * ((height - 1) * dilation + 1) // 256)
    return for_weights, for_data


def _rounded(value: int, to: int) -> int:
    return -(-value // to) * to
