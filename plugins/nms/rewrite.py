"""Detection heads: where non-maximum suppression with padded outputs is in a graph, and what becomes of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from onnx import FunctionProto, NodeProto

from trtforge.graph.index import subgraphs
from trtforge.plugins.nms.decode import decoder_of
from trtforge.plugins.nms.function import LEAST, Variant, nms
from trtforge.plugins.nms.nms_opt import NmsOpt
from trtforge.plugins.nms.operands import Operands
from trtforge.plugins.nms.stock import StockNms
from trtforge.plugins.nms.tail import Tail, tail_of
from trtforge.surgery.op import DOMAIN, Creator, Lowered, Names, Op, Plugin, call
from trtforge.surgery.rules import Match, Near, NotHere, Rule, View, attribute, is_op, label

NAME = "nms"
OPSET = 15
"""The first that has all of what the functions are written in: Shape of a part."""


class NmsRule(Rule):
    """The best K boxes of each image, none of which overlaps a better one of its class, and zeros behind them.

    Found from a `NonMaxSuppression` in the graph itself. In front of it belong, as far as nobody else reads them: the
    decoder of boxes by centre and size, in any spelling, with constant anchors; the sigmoid of the scores; a class
    taken out as background. A softmax stays outside. Behind it: its indices scatter the scores that survive, and TopK
    makes of these a fixed number of detections.

    ONNX drops a box where the overlap is above the threshold, and keeps a score above it; the plugin does at or above.
    So the plugin gets the next larger float32, and the two are the same. Behind a score of 0 it is the smallest normal
    number: what lies between, a GPU may take for 0.
    """

    name = NAME
    begins = "NonMaxSuppression"

    def requires(self, view: View) -> str:
        if view.opset >= OPSET:
            return ""
        return f"the graph has opset {view.opset}, and its function needs {OPSET}: put `upgrade-opset` before it"

    def anchors(self, view: View) -> Iterable[NodeProto]:
        return [node for node in view.graph.node if is_op(node, "NonMaxSuppression") or _holds_one(node)]

    def match(self, anchor: NodeProto, view: View) -> Match:
        if not is_op(anchor, "NonMaxSuppression"):
            raise Near(
                f"its NonMaxSuppression is in the body of {anchor.op_type} {label(anchor)!r}, for one image or class "
                "at a time; export the network with one for the whole batch"
            )
        if attribute(anchor, "center_point_box", 0):
            raise Near("it takes boxes by centre and size; those behind it are no corners, as the plugin's are")
        tail = tail_of(anchor, view)
        scores = _scores(anchor.input[1], view)
        threshold = _score_threshold(anchor, view)
        limits = _limits(anchor, tail, scores, threshold, view)
        _background_is_out(scores, threshold, tail)
        decoder = decoder_of(anchor.input[0], view)
        outputs = [name for name in tail.outputs if name]
        own = [anchor, *tail.nodes]
        front = _inside([*(decoder.nodes if decoder else ()), *scores.nodes], own, view)
        if decoder is not None and any(id(node) not in front for node in decoder.nodes):
            decoder = None
        scores = scores.without(front)
        nodes = [*own, *(decoder.nodes if decoder else ()), *scores.nodes]
        inside = {id(node) for node in nodes}
        operands = Operands(
            boxes=decoder.source if decoder else anchor.input[0],
            scores=scores.tensor,
            variant=Variant(
                centre_size=decoder is not None,
                anchors=decoder is not None and decoder.anchors is not None,
                sigmoid=scores.sigmoid,
            ),
            decoder=decoder,
            scores_by_class=scores.by_class,
            outputs=tail.outputs,
            classes=scores.classes,
            count=scores.count,
        )
        return Match(
            rule=NAME,
            at=label(anchor),
            inputs=(operands.boxes, operands.scores),
            outputs=tuple(outputs),
            inner=view.closed([node for node in view.graph.node if id(node) in inside], outputs),
            attributes=limits | {"background_class": scores.background},
            facts={"operands": operands, "score_threshold": threshold},
        )


def _holds_one(node: NodeProto) -> bool:
    return any(
        is_op(inner, "NonMaxSuppression") or _holds_one(inner) for graph in subgraphs(node) for inner in graph.node
    )


@dataclass(frozen=True)
class _Scores:
    """``tensor``: [N, P, C], or [N, C, P] ``by_class``. ``nodes``: from it to the suppression, that one first.

    ``fill``: what the scores of the background are replaced by, where there is one.
    """

    tensor: str
    by_class: bool
    sigmoid: bool
    background: int
    classes: int
    count: int
    probabilities: bool
    nodes: tuple[NodeProto, ...] = ()
    fill: float = -math.inf

    def without(self, inside: set[int]) -> _Scores:
        """The same without the part in front that others read too."""
        kept: _Scores = self
        while kept.nodes and id(kept.nodes[0]) not in inside:
            first, rest = kept.nodes[0], kept.nodes[1:]
            if is_op(first, "Where"):
                raise Near(f"the scores without background, {first.output[0]!r}, have a second consumer")
            kept = replace(
                kept,
                tensor=first.output[0],
                by_class=kept.by_class or is_op(first, "Transpose"),
                sigmoid=kept.sigmoid and not is_op(first, "Sigmoid"),
                nodes=rest,
            )
        return kept


def _scores(tensor: str, view: View) -> _Scores:
    """From the suppression's scores [N, C, P] back over background, transpose and sigmoid. Raises Near."""
    shape = view.shape(tensor)
    if shape is None or len(shape) != 3 or not isinstance(shape[1], int) or not isinstance(shape[2], int):
        raise Near(f"the number of classes or boxes of {tensor!r} is not known: put `infer-shapes` before it")
    classes, count = shape[1], shape[2]
    nodes: list[NodeProto] = []
    background, fill, by_class, sigmoid = -1, -math.inf, True, False
    while (node := view.index.producer(tensor)) is not None:
        if is_op(node, "Where") and not any(is_op(each, "Where", "Sigmoid") for each in nodes):
            background, fill = _background(node, classes, by_class, view)
            tensor = node.input[2]
        elif is_op(node, "Transpose") and by_class and attribute(node, "perm") == [0, 2, 1]:
            by_class, tensor = False, node.input[0]
        elif is_op(node, "Sigmoid") and not sigmoid:
            sigmoid, tensor = True, node.input[0]
        elif is_op(node, "Identity"):
            tensor = node.input[0]
        else:
            break
        nodes.insert(0, node)
    known = sigmoid or _in_unit_interval(tensor, view)
    return _Scores(tensor, by_class, sigmoid, background, classes, count, known, tuple(nodes), fill)


def _background(node: NodeProto, classes: int, by_class: bool, view: View) -> tuple[int, float]:
    """(the class that a Where takes out, -1 for none; the scores it gets instead). Raises Near."""
    mask, fill = view.value(node.input[0]), view.scalar(node.input[1])
    axes = (1, classes, 1) if by_class else (1, 1, classes)
    if mask is None or fill is None or fill >= 0 or mask.size != classes:
        raise Near(
            f"{label(node)!r} replaces scores by a condition that is not one constant for each class: put "
            "`fold-constants` before it"
        )
    try:
        out = np.broadcast_to(mask, axes).reshape(-1).nonzero()[0]
    except ValueError:
        raise Near(f"{label(node)!r} replaces scores of boxes, not of classes") from None
    if len(out) > 1:
        raise Near(f"{label(node)!r} takes out {len(out)} classes, and the plugin has one background class")
    return (int(out[0]), fill) if len(out) else (-1, -math.inf)


def _background_is_out(scores: _Scores, threshold: float, tail: Tail) -> None:
    """Raises Near for a background whose scores pass the threshold and count as detections behind it."""
    if scores.fill > max(threshold, tail.none):
        raise Near(
            f"the background's scores become {scores.fill:g}, which no score threshold drops, and a score above "
            f"{tail.none:g} counts as a detection"
        )


def _in_unit_interval(tensor: str, view: View) -> bool:
    """Whether scores are what a Sigmoid or Softmax made, moved about at most."""
    moving = ("Transpose", "Slice", "Squeeze", "Unsqueeze", "Reshape", "Gather", "Split", "Identity")
    while (node := view.index.producer(tensor)) is not None and is_op(node, *moving):
        tensor = node.input[0]
    return node is not None and is_op(node, "Sigmoid", "Softmax")


def _score_threshold(anchor: NodeProto, view: View) -> float:
    """The graph's own: a score must be above it. Raises Near."""
    least = _given(anchor, 4, "score threshold", view)
    return -math.inf if least is None else least


def _limits(anchor: NodeProto, tail: Tail, scores: _Scores, threshold: float, view: View) -> dict[str, float | int]:
    """The plugin's thresholds and K. Raises Near, and NotHere for a node that selects nothing."""
    most = _given(anchor, 2, "a class's number of boxes", view)
    overlap = _given(anchor, 3, "overlap", view)
    if not most:
        raise NotHere("it keeps no box")
    if most < min(tail.keep, scores.count):
        raise Near(
            f"it keeps at most {int(most)} boxes of a class and {tail.keep} of an image, and the plugin has no "
            "limit of a class"
        )
    if threshold < -LEAST * 1.01 and not scores.probabilities:
        said = f"the score threshold is {threshold:g}" if math.isfinite(threshold) else "there is no score threshold"
        raise Near(
            f"{said}, the plugin takes none below 0, and the scores {scores.tensor!r} are not seen to be positive: "
            "they are made by no Sigmoid or Softmax"
        )
    return {
        "score_threshold": 0.0 if threshold < 0 else max(LEAST, _next(threshold)),
        "iou_threshold": _next(overlap or 0.0),
        "max_output_boxes": tail.keep,
    }


def _given(anchor: NodeProto, slot: int, what: str, view: View) -> float | None:
    """A limit of the suppression, None where it is not stated. Raises Near for one that is computed."""
    name = anchor.input[slot] if len(anchor.input) > slot else ""
    value = view.scalar(name) if name else None
    if name and value is None:
        raise Near(f"its {what} {name!r} is computed in the graph")
    return value


def _next(value: float) -> float:
    """The float32 behind it: the plugin compares by >=, ONNX by >."""
    return float(np.nextafter(np.float32(value), np.float32(np.inf)))


def _inside(front: Iterable[NodeProto], own: Iterable[NodeProto], view: View) -> set[int]:
    """Those of ``front`` whose results only it and ``own`` read."""
    free = {id(node): node for node in front}
    behind = {id(node) for node in own}
    changed = True
    while changed:
        changed = False
        for key, node in list(free.items()):
            names = [name for name in node.output if name]
            read = [reader for name in names for reader in view.readers(name)]
            if any(name in view.index.outputs for name in names) or any(
                id(reader) not in behind and id(reader) not in free for reader in read
            ):
                del free[key]
                changed = True
    return set(free)


class Nms(Op):
    """Non-maximum suppression with padded outputs, and the box decoder in front of it."""

    name = NAME
    rule = NmsRule()
    lowerings = (StockNms(), NmsOpt())

    def function(self, match: Match, view: View, names: Names) -> Lowered:
        operands: Operands = match.facts["operands"]
        nodes, inputs = operands.inputs(names)
        outputs = [name or names.fresh(f"{match.at}_unused") for name in operands.outputs]
        node = call(operands.variant.name, inputs, outputs, match.at, **match.attributes)
        plugin = Plugin(Creator(operands.variant.name, "1", DOMAIN), NAME, dict(match.attributes))
        meaning = _at_opset(nms(operands.variant), view)
        return Lowered((*nodes, node), tuple(names.initializers), (meaning,), {DOMAIN: 1}, plugin)


def _at_opset(meaning: FunctionProto, view: View) -> FunctionProto:
    """onnx's checks want the model's opset in a function; these operators mean the same in all from `OPSET` on."""
    for entry in meaning.opset_import:
        entry.version = view.opset
    return meaning


OP = Nms()
