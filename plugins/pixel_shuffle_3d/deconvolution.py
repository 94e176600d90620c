"""A transposed convolution without overlap as a pointwise convolution and a shuffle.

With kernel and stride 2, each input voxel makes its own cube of 2x2x2 output voxels:

    y[n, k, 2d+t, 2h+r, 2w+s] = b[k] + sum_c x[n, c, d, h, w] * W[c, k, t, r, s]

which is a 1x1x1 convolution with 8K channels, channel k*8 + t*4 + r*2 + s holding the voxel (t, r, s) of the cube, and
a rearrangement. Engines run a convolution in INT8; none that is known here runs a transposed one so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from trtforge.graph import surgeon
from trtforge.graph.model import Model
from trtforge.graph.passes.base import Context, Pass, PassResult, count

_STANDARD = (None, "", "ai.onnx")
TRANSPOSE = [0, 1, 5, 2, 6, 3, 7, 4]
"""[N, K, t, r, s, D, H, W] to [N, K, D, t, H, r, W, s]."""


class DeconvolutionAsConvolution(Pass):
    """Write `ConvTranspose` of 2x2x2 with stride 2 as a 1x1x1 `Conv`, `Reshape`, `Transpose` and `Reshape`.

    The output keeps its name. Needs the spatial sizes of the input: run `infer-shapes` before. The convolution's
    output is a new tensor, so it gets a range in calibration.
    """

    name = "pixel-shuffle-3d"

    def apply(self, model: Model, context: Context) -> PassResult:
        if not any(node.op_type == "ConvTranspose" and node.domain in _STANDARD for node in model.proto.graph.node):
            return PassResult(False, "the graph has no ConvTranspose nodes")
        rewritten, reason = 0, ""
        with surgeon.edit(model.proto) as graph:
            names = surgeon.FreshNames(graph)
            for node in [node for node in graph.nodes if node.op == "ConvTranspose" and node.domain in _STANDARD]:
                why = _why_not(node)
                if why:
                    reason = f"{node.name or node.outputs[0].name!r}: {why}"
                else:
                    _rewrite(graph, node, names, context)
                    rewritten += 1
        if not rewritten:
            return PassResult(False, reason)
        return PassResult(True, f"rewrote {count(rewritten, 'transposed convolution')} as convolution and shuffle")


def _why_not(node: gs.Node) -> str:
    """A sentence for what is in the way, or nothing."""
    kernel = surgeon.constant_proto(node.inputs[1])
    bias = node.inputs[2] if len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
    if kernel is None or (bias is not None and surgeon.constant_proto(bias) is None):
        return "its weights are computed in the graph"
    if why := _makes_no_cubes(node.attrs, list(kernel.dims[2:])):
        return why
    shape = node.inputs[0].shape
    if shape is None or len(shape) != 5 or not all(isinstance(size, int) for size in shape[2:]):
        return f"the size of {node.inputs[0].name!r} is not known: fix the input shape, run infer-shapes before"
    return ""


def _makes_no_cubes(attributes: dict[str, Any], kernel: list[int]) -> str:
    if kernel != [2, 2, 2] or list(attributes.get("strides", [1, 1, 1])) != [2, 2, 2]:
        return "it is not 2x2x2 with stride 2, so its outputs overlap or leave gaps"
    if attributes.get("group", 1) != 1 or set(attributes.get("dilations", [1])) != {1}:
        return "it has groups or dilations"
    padding = [*attributes.get("pads", []), *attributes.get("output_padding", [])]
    if any(padding) or "output_shape" in attributes or attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return "it is padded, so the cubes of its voxels are cut"
    return ""


def _rewrite(graph: gs.Graph, node: gs.Node, names: surgeon.FreshNames, context: Context) -> None:
    source, output = node.inputs[0], node.outputs[0]
    weight, bias = (
        None if len(node.inputs) <= slot or node.inputs[slot].is_empty() else surgeon.constant_proto(node.inputs[slot])
        for slot in (1, 2)
    )
    assert weight is not None  # _why_not looked
    values = context.values(weight)
    channels = values.shape[1]
    depth, height, width = (int(size) for size in source.shape[2:])
    batch = source.shape[0]

    stem, dtype = output.name, source.dtype
    kernel = gs.Constant(
        names.make(f"{weight.name}_pointwise"),
        np.ascontiguousarray(values.reshape(values.shape[0], -1).T.reshape(channels * 8, -1, 1, 1, 1)),
    )
    cubes = gs.Variable(names.make(f"{stem}_cubes"), dtype, [batch, channels * 8, depth, height, width])
    split = gs.Variable(names.make(f"{stem}_split"), dtype, [batch, channels, 2, 2, 2, depth, height, width])
    turned = gs.Variable(names.make(f"{stem}_turned"), dtype, [batch, channels, depth, 2, height, 2, width, 2])
    batch_stays = 0  # in a Reshape's shape
    first, last = (
        gs.Constant(names.make(f"{stem}_{what}_shape"), np.array([batch_stays, channels, *sizes], np.int64))
        for what, sizes in (
            ("split", (2, 2, 2, depth, height, width)),
            ("joined", (2 * depth, 2 * height, 2 * width)),
        )
    )
    inputs = [source, kernel]
    if bias is not None:
        inputs.append(gs.Constant(names.make(f"{bias.name}_pointwise"), np.repeat(context.values(bias), 8)))

    name = node.name or stem
    position = graph.nodes.index(node)
    node.inputs.clear()
    node.outputs.clear()
    graph.nodes[position : position + 1] = [
        gs.Node("Conv", name, {"kernel_shape": [1, 1, 1]}, inputs, [cubes]),
        gs.Node("Reshape", f"{name}_split", {}, [cubes, first], [split]),
        gs.Node("Transpose", f"{name}_turn", {"perm": TRANSPOSE}, [split], [turned]),
        gs.Node("Reshape", f"{name}_join", {}, [turned, last], [output]),
    ]
