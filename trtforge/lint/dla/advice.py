"""What to do about a layer that the DLA does not run, where that depends on the layers around it.

A surgery pass is named only where it does something, so that `lint` never asks for what `lint --fix` does not find.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtforge.lint.nodes import integer, ints

if TYPE_CHECKING:
    from onnx import NodeProto

    from trtforge.lint.context import Context

VIEWS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose")
PRODUCTS = ("Gemm", "MatMul")
LARGEST_POOLING = 8
LARGEST_KERNEL = 32
MOST_OUTPUTS = 8192


def for_mean(context: Context, node: NodeProto) -> str:
    """GlobalAveragePool and ReduceMean; "" when nothing is known that helps."""
    shape = context.shape(node.input[0])
    if shape is None or len(shape) != 4 or not _over_space(context, node):
        return ""
    height, width = shape[2:]
    if max(height, width) <= LARGEST_POOLING:
        return _pass(context, "global-average-pool", "AveragePool with the map's size as kernel")
    first = [_divisor(size) for size in (height, width)]
    rest = [size // part for size, part in zip((height, width), first, strict=True)]
    if max(rest) <= LARGEST_POOLING:
        steps = f"{first[0]}x{first[1]} with strides as large, then {rest[0]}x{rest[1]}"
        return f"export it as two AveragePools, {steps}: the DLA averages over {LARGEST_POOLING}x{LARGEST_POOLING}"
    most = f"{LARGEST_POOLING}x{LARGEST_POOLING}"
    return f"leave it to the GPU: its map is {height}x{width}, the DLA averages over {most}"


def _pass(context: Context, name: str, what: str) -> str:
    if name in context.engine.surgery:
        return f"trtforge surgery RECIPE says why {name} left it as it is"
    return f"surgery pass {name}: {what}"


def _over_space(context: Context, node: NodeProto) -> bool:
    if node.op_type == "GlobalAveragePool":
        return True
    values = context.values(node.input[1]) if len(node.input) > 1 and node.input[1] else None
    axes = ints(node, "axes") or (() if values is None else tuple(int(value) for value in values.reshape(-1)))
    return sorted(axis % 4 for axis in axes) == [2, 3]


def _divisor(size: int) -> int:
    """The largest window that tiles a size."""
    return max(part for part in range(1, LARGEST_POOLING + 1) if size % part == 0)


def for_view(context: Context, node: NodeProto) -> str:
    """Flatten, Reshape and the like, that make other than four dimensions."""
    layer, source = _layer_behind(context, node), _in_front(context, node)
    image = context.shape(source)
    if layer is not None and image is not None and len(image) == 4:
        constant = layer.input[1] in context.constants and (context.shape(layer.output[0]) or (0,))[-1] <= MOST_OUTPUTS
        if constant and image[2:] == (1, 1) and not integer(layer, "transA", 0) and not _goes_on(context, layer):
            return _pass(context, "fc-as-conv", f"the {layer.op_type} as a 1x1 Conv on the 4-D tensor")
        if constant and image[2:] != (1, 1) and max(image[2:]) <= LARGEST_KERNEL:
            size = f"{image[2]}x{image[3]}"
            return f"export the {layer.op_type} behind it as a Conv with a kernel of {size}, on the 4-D tensor"
    if any(name in context.index.outputs for name in node.output):
        return "export the network without it: its 4-D tensor as output, reshaped by who reads it"
    return "export it with four dimensions, or leave it to the GPU"


def _goes_on(context: Context, layer: NodeProto) -> bool:
    """Whether the DLA runs what reads a layer, its bias aside: the view that a Conv needs behind it would cut there."""
    from trtforge.lint.dla.obstacles import obstacles

    behind = context.index.only_consumer(layer.output[0]) if layer.op_type == "MatMul" else None  # a Gemm has its own
    if behind is not None and behind.op_type == "Add" and any(name in context.constants for name in behind.input):
        layer = behind
    readers = context.index.consumers_of(layer.output[0])
    return any(not any(one.certain for one in obstacles(context, reader)) for reader in readers)


def _layer_behind(context: Context, node: NodeProto) -> NodeProto | None:
    """The matrix product that reads a view, through other views."""
    reader = node
    while reader.op_type in VIEWS:
        readers = context.index.consumers_of(reader.output[0])
        if not readers:
            return None
        reader = readers[0]
    return reader if reader.op_type in PRODUCTS and context.rank(reader.input[0]) == 2 else None


def _in_front(context: Context, node: NodeProto) -> str:
    """The tensor that a chain of views begins with."""
    while (producer := context.index.producer(node.input[0])) is not None and producer.op_type in VIEWS:
        node = producer
    return str(node.input[0])
