"""A volume's channels spread into cubes of 2x2x2 voxels, found in a graph and lowered."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import FunctionProto, NodeProto

from trtforge.plugins.pixel_shuffle_3d import function
from trtforge.plugins.pixel_shuffle_3d.deconvolution import TRANSPOSE, DeconvolutionAsConvolution
from trtforge.surgery.int8 import dequantize, quantize, scale_of
from trtforge.surgery.op import (
    DOMAIN,
    Creator,
    Lowered,
    Lowering,
    Names,
    Op,
    Plugin,
    Situation,
    call,
    missing_range,
    why_not_ours,
)
from trtforge.surgery.rules import Match, Near, NotHere, Rule, View, attribute, is_op, label

NAME = "pixel-shuffle-3d"
LANES = 32
"""Channels of one CDHW32 group; the INT8 kernel works on whole ones."""

OPSET = 15
"""The first that has all of what the functions are written in: Shape of a part."""


class PixelShuffle3dRule(Rule):
    """y[n, k, 2d+t, 2h+r, 2w+s] = x[n, 8k + 4t + 2r + s, d, h, w], and a Concat with a second tensor behind it.

    Found as Reshape to [n, K, 2, 2, 2, D, H, W], Transpose, Reshape to [n, K, 2D, 2H, 2W]: what the op's own pass makes
    of transposed convolutions. The Concat belongs to it when it is the only reader and joins two tensors along the
    channels, the shuffled one first.
    """

    name = NAME
    begins = "Transpose"

    def requires(self, view: View) -> str:
        if view.opset >= OPSET:
            return ""
        return f"the graph has opset {view.opset}, and its function needs {OPSET}: put `upgrade-opset` before it"

    def anchors(self, view: View) -> Iterable[NodeProto]:
        return view.nodes("Transpose")

    def match(self, anchor: NodeProto, view: View) -> Match:
        if len(attribute(anchor, "perm", [])) != len(TRANSPOSE):
            raise NotHere(f"it turns {len(attribute(anchor, 'perm', []))} axes, not {len(TRANSPOSE)}")
        split = view.made_by(anchor.input[0], "Reshape")
        x, cubes = split.input[0], view.shape(split.output[0])
        before = view.shape(x)
        if before is None or cubes is None or len(before) != 5 or list(cubes[2:5]) != [2, 2, 2]:
            raise NotHere("what it turns are not cubes of 2x2x2 made of channels")
        if attribute(anchor, "perm") != TRANSPOSE:
            raise Near(f"it turns axes {attribute(anchor, 'perm')}; the voxels of a cube are in another order")
        join = next((node for node in view.readers(anchor.output[0]) if is_op(node, "Reshape")), None)
        if join is None:
            raise Near("no Reshape puts the cubes' voxels into the volume")
        after = view.shape(join.output[0])
        if after is None or not _is_doubled(before, after):
            raise Near(f"the last Reshape makes {list(after or [])} of {list(before)}, not a volume of twice the size")
        if cubes[5:] != before[2:]:
            raise Near(f"the first Reshape makes {list(cubes)} of {list(before)}: voxels and channels are mixed")
        nodes, inputs, result = [split, anchor, join], [x], join.output[0]
        if (concat := _concat(join, view)) is not None:
            nodes, inputs, result = [*nodes, concat], [x, concat.input[1]], concat.output[0]
        return Match(
            rule=NAME,
            at=label(join),
            inputs=tuple(inputs),
            outputs=(result,),
            inner=view.closed(nodes, [result]),
            ranges=(*inputs, result),
            facts={"channels": [after[1], *([_channels(view, inputs[1])] if len(inputs) > 1 else [])]},
        )


def _is_doubled(before: tuple[int | str | None, ...], after: tuple[int | str | None, ...]) -> bool:
    sizes = [size for size in (*before[1:], *after[1:]) if isinstance(size, int)]
    if len(after) != 5 or len(sizes) != 8:
        return False
    return sizes[0] == 8 * sizes[4] and [2 * size for size in sizes[1:4]] == sizes[5:]


def _concat(join: NodeProto, view: View) -> NodeProto | None:
    reader = view.index.only_consumer(join.output[0])
    if reader is None or not is_op(reader, "Concat") or len(reader.input) != 2:
        return None
    shuffled_first = reader.input[0] == join.output[0] and reader.input[1] != join.output[0]
    return reader if shuffled_first and attribute(reader, "axis") in (1, -4) else None


def _channels(view: View, tensor: str) -> int | None:
    shape = view.shape(tensor)
    return shape[1] if shape is not None and isinstance(shape[1], int) else None


class Ours(Lowering):
    """The IPluginV3 of this folder: INT8 in CDHW32, FP32 or FP16 in the linear layout."""

    name = "trtforge"

    def refuses(self, match: Match, view: View, situation: Situation) -> str:
        if why := why_not_ours(situation, precisions=("int8", "fp32", "fp16")):
            return why
        if situation.precision != "int8":
            return ""
        odd = [channels for channels in match.facts["channels"] if channels is None or channels % LANES]
        if odd:
            return f"the INT8 kernel takes channels in groups of {LANES}, and here are {odd[0] or 'unknown'}"
        return missing_range(match, situation)

    def lower(self, match: Match, view: View, situation: Situation, names: Names) -> Lowered:
        if situation.precision != "int8":
            return PixelShuffle3d().function(match, view, names)
        (result,) = match.outputs
        made = scale_of(result, situation)
        inside = {tensor: names.fresh(f"{tensor}_int8") for tensor in match.inputs}
        outside = names.fresh(f"{result}_int8")
        scales = [scale_of(tensor, situation) for tensor in match.inputs]
        fields = dict(zip(("input_scale", "skip_scale"), scales, strict=False)) | {"output_scale": made}
        kind = f"{_operator(match)}Int8"
        nodes = (
            *(quantize(tensor, scale_of(tensor, situation), name, names) for tensor, name in inside.items()),
            call(kind, list(inside.values()), [outside], match.at, **fields),
            dequantize(outside, made, result, names),
        )
        made_by = function.pixel_shuffle_3d_concat_int8 if len(inside) > 1 else function.pixel_shuffle_3d_int8
        plugin = Plugin(Creator(kind, "1", DOMAIN), NAME, fields)
        return Lowered(nodes, tuple(names.initializers), (_at_opset(made_by(), view),), {DOMAIN: 1}, plugin)


def _operator(match: Match) -> str:
    return "PixelShuffle3dConcat" if len(match.inputs) > 1 else "PixelShuffle3d"


class PixelShuffle3d(Op):
    """A transposed convolution of 2x2x2 and stride 2, and the Concat behind it: pointwise convolution and shuffle."""

    name = NAME
    rule = PixelShuffle3dRule()
    lowerings = (Ours(),)
    before = DeconvolutionAsConvolution()

    def function(self, match: Match, view: View, names: Names) -> Lowered:
        kind = _operator(match)
        node = call(kind, match.inputs, match.outputs, match.at)
        made_by = function.pixel_shuffle_3d_concat if len(match.inputs) > 1 else function.pixel_shuffle_3d
        plugin = Plugin(Creator(kind, "1", DOMAIN), NAME, {})
        return Lowered((node,), (), (_at_opset(made_by(), view),), {DOMAIN: 1}, plugin)


def _at_opset(meaning: FunctionProto, view: View) -> FunctionProto:
    """onnx's checks want the model's opset in a function; these operators mean the same in all from `OPSET` on."""
    for entry in meaning.opset_import:
        entry.version = view.opset
    return meaning


OP = PixelShuffle3d()
