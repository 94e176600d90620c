"""DLA105: layer parameters outside the DLA's ranges."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.nodes import DEFAULT_DOMAINS, attribute, integer, ints, place
from trtforge.lint.rule import Finding, Rule, Severity
from trtforge.targets.dla_layers import DlaLayer, dla_layers

if TYPE_CHECKING:
    from onnx import NodeProto

    from trtforge.lint.context import Context


class DlaParameters(Rule):
    """What it does
        Checks kernel, padding, stride, dilation, groups and output maps of convolutions, deconvolutions and poolings
        against the ranges the DLA documents, the axis of Concat, and that matrix products have constant weights.

    Why it matters
        One value out of range sends the layer to the GPU, silently with GPU fallback, and splits the network there.
        ConvTranspose with padding (the common kernel 4, stride 2, pad 1) and poolings over more than 8x8 are the usual
        ones.

    Example
        `ConvTranspose` with `kernel_shape=[4, 4], strides=[2, 2], pads=[1, 1, 1, 1]`.

    Fix
        ConvTranspose: kernel equal to stride and no padding. Large pooling: two smaller ones, or a strided convolution.
        Concat: along channels. The ranges were read for TensorRT 8.2 to 10.3.
    """

    code = "DLA105"
    title = "parameter out of the DLA's range"
    severity = "warning"

    def check(self, context: Context) -> Iterator[Finding]:
        if not context.target.is_dla:
            return
        severity: Severity = "warning" if context.gpu_fallback else "error"
        layers = dla_layers()
        for node in context.active_nodes:
            if node.domain not in DEFAULT_DOMAINS:
                continue
            row = layers.get(node.op_type)
            if row is not None and row.ranges:
                for name, value, allowed in _out_of_range(context, node, row):
                    message = f"{name} {value} is not in the DLA's range ({allowed}, {row.origin})"
                    yield self.finding(
                        place(node), message, row.limits or f"keep {name} in {allowed}", severity=severity
                    )
            elif node.op_type in ("MatMul", "Gemm") and not context.constants.issuperset(node.input[1:2]):
                message = f"multiplies two activations; the DLA needs constant weights ({row.origin if row else ''})"
                yield self.finding(place(node), message, "leave it to the GPU", severity=severity)
            elif node.op_type == "Concat":
                rank, axis = context.rank(node.output[0]), integer(node, "axis", 1)
                if rank is not None and axis % rank != rank - 3:
                    message = f"joins along axis {axis} of {rank}, the DLA only along channels (third from last)"
                    yield self.finding(place(node), message, "concatenate along channels", severity=severity)


def _out_of_range(context: Context, node: NodeProto, row: DlaLayer) -> Iterator[tuple[str, int, str]]:
    """(parameter, value, allowed range as text) of each parameter out of its range."""
    for name, value in _parameters(context, node).items():
        low, high = row.ranges.get(name, (value, value))
        if not low <= value <= high:
            yield name, value, str(low) if low == high else f"{low} to {high}"


def _parameters(context: Context, node: NodeProto) -> dict[str, int]:
    """The value of each parameter that is furthest out; a 2-D layer's, since 3-D ones are DLA103's."""
    if context.spatial_rank(node) != 2:
        return {}
    weights = context.index.constant(node.input[1]) if len(node.input) > 1 else None
    kernel = ints(node, "kernel_shape") or (tuple(weights.dims[2:]) if weights is not None else ())
    found = {
        "kernel": max(kernel, default=1),
        "stride": max(ints(node, "strides"), default=1),
        "dilation": max(ints(node, "dilations"), default=1),
        "pad": max(ints(node, "pads"), default=0),
        "groups": integer(node, "group", 1),
    }
    if weights is not None and node.op_type == "Conv":
        found["outputs"] = weights.dims[0]
    padded = attribute(node, "auto_pad")
    if padded is not None and padded.s not in (b"NOTSET", b"VALID", b""):
        del found["pad"]  # depends on the map's size; at most half a kernel
    return found
