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

FIXES = {
    (
        "Deconvolution",
        "pad",
    ): "export it without padding and with a kernel as large as its strides, or as Resize and Conv",
    ("Deconvolution", "groups"): "export one deconvolution a group, and a Concat behind them",
    ("Pooling", "kernel"): "export two smaller poolings in a row, or a Conv with strides",
    ("Convolution", "outputs"): "export two Conv, and a Concat along the channels",
}
"""What helps where a value is out of its range, by TensorRT's layer and parameter."""

BANK = 32768
"""Bytes of a bank of the convolution buffer."""


def of_window(context: Context, node: NodeProto, row: DlaLayer) -> Iterator[Obstacle]:
    """A window that has not two dimensions, or parameters out of the row's ranges."""
    if node.op_type in ("Conv", "ConvTranspose") and node.input[1] not in context.constants:
        yield Obstacle("parameter", "its weights are not constant", row.origin, fix="leave it to the GPU")
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
            fix = FIXES.get((row.layer, name), f"export it with a {name} of {allowed}, or leave it to the GPU")
            yield Obstacle("parameter", f"{name} {value} is not in the DLA's range ({allowed})", row.origin, fix=fix)
    pads = ints(node, "pads")
    if node.op_type == "Conv" and any(pad >= size for pad, size in zip(pads, kernel * 2, strict=False)):
        yield Obstacle("parameter", f"its padding {list(pads)} is not smaller than its kernel", row.origin)
    if node.op_type == "ConvTranspose":
        yield from _of_deconvolution(context, node, row, kernel, strides)


def _of_deconvolution(
    context: Context, node: NodeProto, row: DlaLayer, kernel: tuple[int, ...], strides: tuple[int, ...]
) -> Iterator[Obstacle]:
    for name, sizes in (("kernel", kernel), ("stride", strides)):
        if len(set(sizes)) == 1 and SLOW[0] <= sizes[0] <= SLOW[1]:
            why = f"its {name} is {sizes[0]}x{sizes[0]}, the DLA gets no square ones of {SLOW[0]} to {SLOW[1]}"
            yield Obstacle("parameter", why, row.origin, fix=f"two deconvolutions, or a {name} up to {SLOW[0] - 1}")
            break
    why = _pads_anyway(context, node, kernel, strides)
    if why:
        fix = "export it without, with a kernel that is as large as the stride"
        yield Obstacle("parameter", f"{why}, the DLA's deconvolution pads nothing", row.origin, fix=fix)


def _pads_anyway(context: Context, node: NodeProto, kernel: tuple[int, ...], strides: tuple[int, ...]) -> str:
    """What besides `pads` makes a deconvolution cut or widen its output; "" when nothing does."""
    more, stated, padded = ints(node, "output_padding"), ints(node, "output_shape"), attribute(node, "auto_pad")
    if any(more):
        return f"its output_padding is {list(more)}"
    image = context.shape(node.input[0])
    if stated and image is not None and len(image) == 4:
        whole = [
            stride * (size - 1) + window for size, window, stride in zip(image[2:], kernel, strides, strict=False)
        ]  # its dilation is 1, or said already
        return f"its output_shape is {list(stated)} where {whole} fits" if list(stated[-2:]) != whole else ""
    if padded is not None and padded.s.startswith(b"SAME") and kernel != strides:
        return f"its auto_pad is {padded.s.decode()}"
    return ""


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
