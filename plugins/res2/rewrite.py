"""The whole conv2_x stage of ResNet-50 as one operator: its rule, and its lowerings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np
from onnx import NodeProto

from trtforge.plugins.res2 import function
from trtforge.plugins.res2.folded import fold, norm_of, operands
from trtforge.plugins.res2.ours import OurRes2
from trtforge.plugins.res2.stock import StockRes2
from trtforge.plugins.res2.structure import Block, Bottleneck, checked, following, is_sum, projected
from trtforge.surgery.op import DOMAIN, DOMAIN_VERSION, Lowered, Lowering, Names, Op, call
from trtforge.surgery.rules import Match, Near, NotHere, Rule, View, is_op, label

GROUP = 32
"""Channels in one group of the INT8 layout NC/32HW32, in which the stage is computed."""


class Res2Rule(Rule):
    """Three bottlenecks at one resolution: the first with a projection for its shortcut, two with their own input.

    Block a is ``relu(conv_2c(relu(conv_2b(relu(conv_2a(x))))) + conv_branch1(x))``; blocks b and c have x itself in
    place of the projection. 2a, 2c and branch1 are 1x1, 2b is 3x3 with one pixel of padding, all with stride 1, so
    every tensor keeps the height and width of x. A BatchNormalization behind a convolution is a part of it:
    ``scale / sqrt(variance + epsilon)`` goes into the weight, the rest into the bias. The channels of x, of the inner
    convolutions and of the blocks' results are multiples of 32. In ResNet-50 these are 64, 64 and 256.

    A first block that reads another block's result begins a later stage: a match where it computes the same, else left
    alone without a word, for every ResNet has three of them.

    A match's operands are the weights and biases as the convolutions read them. Its facts: ``channels``, of the input,
    inside, of the output; ``batch``, ``height`` and ``width``, None where open; ``norms``, for each convolution its
    ``folded.Norm`` or None. ``folded.folded`` gives the weights with all in.
    """

    name = "res2"
    begins = "sum of two tensors"

    def requires(self, view: View) -> str:
        if 0 < view.opset < 7:  # BatchNormalization may train and Add has a broadcast axis
            return f"the graph has opset {view.opset}, and the rule reads 7 and later (run upgrade-opset before)"
        return ""

    def anchors(self, view: View) -> Iterable[NodeProto]:
        return [node for node in view.nodes("Add", "Sum") if is_sum(node)]

    def match(self, anchor: NodeProto, view: View) -> Match:
        first = projected(anchor, view)
        try:
            return _match(first, view)
        except Near:
            if _is_residual(first.shortcut, view):
                raise NotHere("it ends the first block of a later stage") from None
            raise


def _match(first: Bottleneck, view: View) -> Match:
    blocks = _blocks(first, view)
    inner = _closed(blocks, view)
    convolutions = [step for block in blocks for step in block.convolutions]
    operands = [(step.conv.input[1], [*step.conv.input, ""][2]) for step in convolutions]
    norms = [norm_of(step.norm) for step in convolutions]
    for step, pair, norm in zip(convolutions, operands, norms, strict=True):
        if norm is not None and not all(np.isfinite(part).all() for part in fold(*pair, norm, view)):
            raise Near(f"with its BatchNormalization the weights of {label(step.conv)!r} leave the range of their type")
    source = blocks[0].source
    batch, _, height, width = _four(view.shape(source))
    return Match(
        rule=Res2Rule.name,
        at=source,
        inputs=(source, *(name for pair in operands for name in pair)),
        outputs=(blocks[-1].out,),
        inner=inner,
        ranges=_ranges(blocks),
        facts={
            "channels": _channels(blocks, view),
            "batch": batch,
            "height": height,
            "width": width,
            "norms": tuple(norms),
        },
    )


def _blocks(first: Bottleneck, view: View) -> list[Block]:
    """Blocks a, b and c. Raises Near when one of them is not as it must be, or they are not three."""
    blocks = [checked("a", first, view)]
    for name in "bc":
        after = following(blocks[-1].out, view)
        if after is None:
            raise Near(
                f"block {name} is missing: behind block {blocks[-1].name} comes no bottleneck with its input added"
            )
        blocks.append(checked(name, after, view))
    if (fourth := following(blocks[-1].out, view)) is not None:
        raise Near(f"a fourth block follows, which ends in {label(fourth.add)!r}: conv2_x has three")
    return blocks


def _closed(blocks: Sequence[Block], view: View) -> tuple[str, ...]:
    """The tensors inside. Raises Near, with the block's name, when one of them is read outside."""
    nodes: list[NodeProto] = []
    inner: tuple[str, ...] = ()
    for block in reversed(blocks):  # block c first: what goes wrong after it is the earlier block's
        nodes = [*block.nodes, *nodes]
        try:
            inner = view.closed(nodes, (blocks[-1].out,))
        except Near as miss:
            raise Near(f"block {block.name}: {miss}") from None
    return inner


def _channels(blocks: Sequence[Block], view: View) -> tuple[int, int, int]:
    """Channels of the stage's input, of its inner convolutions, of its output. Raises Near."""
    sizes = [[view.constant_shape(step.conv.input[1]) or () for step in block.steps] for block in blocks]
    (inside, source), outside = sizes[0][0][:2], sizes[0][2][0]
    for block, shapes in zip(blocks, sizes, strict=True):
        for part, shape, wanted in zip(("2a", "2b", "2c"), shapes, (inside, inside, outside), strict=True):
            if shape[0] != wanted:
                raise Near(
                    f"block {block.name}: conv {part} makes {shape[0]} channels, not {wanted} like the one before"
                )
    for what, count in (("input", source), ("inner", inside), ("output", outside)):
        if count % GROUP:
            raise Near(f"the stage has {count} {what} channels, and its kernels take them in groups of {GROUP}")
    return source, inside, outside


def _ranges(blocks: Sequence[Block]) -> tuple[str, ...]:
    """The fourteen tensors of MLPerf's `dynamic_ranges`, in its order."""
    ranges = [blocks[0].source]
    for block in blocks:
        first, second, third = block.steps
        ranges += [] if block.shortcut is None else [block.shortcut.value]
        ranges += [first.out, second.out, third.value, block.out]
    return tuple(ranges)


def _is_residual(tensor: str, view: View) -> bool:
    """Whether a tensor is the result of a residual block: a ReLU of a sum of two computed tensors."""
    relu = view.index.producer(tensor)
    add = view.index.producer(relu.input[0]) if relu is not None and is_op(relu, "Relu", "Clip") else None
    return add is not None and is_sum(add) and all(view.index.constant(name) is None for name in add.input)


def _four(shape: tuple[int | str | None, ...] | None) -> tuple[int | None, ...]:
    """N, C, H, W as far as they are numbers."""
    if shape is None or len(shape) != 4:
        return None, None, None, None
    return tuple(size if isinstance(size, int) else None for size in shape)


class Res2(Op):
    """The conv2_x stage of ResNet-50: three bottlenecks at one resolution, ten convolutions."""

    name = "res2"
    rule: ClassVar[Rule] = Res2Rule()
    lowerings: ClassVar[tuple[Lowering, ...]] = (StockRes2(), OurRes2())

    def function(self, match: Match, view: View, names: Names) -> Lowered:
        inputs = [match.inputs[0], *operands(match, view, names)]
        node = call(function.FLOAT, inputs, match.outputs, names.fresh("res2"))
        meaning = function.float_function()
        for entry in meaning.opset_import:  # onnx's checks want the model's; Conv, Relu and Add are the same in all
            entry.version = view.opset
        return Lowered((node,), tuple(names.initializers), (meaning,), {DOMAIN: DOMAIN_VERSION})


OP = Res2()
