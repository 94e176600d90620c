"""What stands behind a NonMaxSuppression: its list of indices brought to outputs of a fixed size.

selected [M, 3] -> scores scattered into [N, C, P] -> [N, C * P] -> the K best -> count, boxes, scores, classes
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, numpy_helper

from trtforge.surgery.rules import Near, View, attribute, is_op, label

_PASSING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
"""Operators that leave the order of the elements."""


@dataclass(frozen=True)
class Tail:
    """``outputs``: num_detections, detection_boxes, detection_scores, detection_classes, "" for one that the graph does
    not make. ``nodes``: all from the gathered scores to them. ``none``: a score up to this one is no detection."""

    keep: int
    none: float
    outputs: tuple[str, str, str, str]
    nodes: tuple[NodeProto, ...]


def tail_of(suppression: NodeProto, view: View) -> Tail:
    """Raises Near: what a NonMaxSuppression ends in is a question a person would ask."""
    return _Reader(suppression, view).read()


class _Reader:
    def __init__(self, suppression: NodeProto, view: View) -> None:
        self.view = view
        self.boxes, self.scores = suppression.input[:2]
        self.selected = suppression.output[0]
        self.nodes: list[NodeProto] = []
        self.fills: list[float] = []
        """What stands where there is no detection: in the surviving scores, and behind them."""

    def read(self) -> Tail:
        self._not_open()
        kept = self._flat(self._scattered())
        best, places, keep = self._best(kept)
        valid, none = self._valid(best)
        outputs = (
            self._count(valid),
            self._boxes(places, valid),
            self._masked(valid, best),
            self._classes(places, valid),
        )
        if not any(outputs):
            raise Near(f"nothing it knows is made of {best!r}, the best scores")
        for name, sizes in zip(outputs, ([1], [keep, 4], [keep], [keep]), strict=True):
            shape = self.view.shape(name) if name else None
            if name and (shape is None or list(shape[1:]) != sizes):
                raise Near(f"the output {name!r} has not the shape [images, {', '.join(map(str, sizes))}]")
        return Tail(keep, none, outputs, tuple(self.nodes))

    def _not_open(self) -> None:
        """The list has as many rows as there are detections; outside the graph, that cannot be one of a fixed size."""
        if self.selected in self.view.index.outputs:
            raise Near(
                f"its indices {self.selected!r} are an output of the graph, as many as are found in an image, and the "
                "plugin's outputs have a fixed size"
            )
        readers = self.view.readers(self.selected)
        strange = next((node for node in readers if not is_op(node, "GatherND", "ScatterND")), None)
        if strange is not None:
            raise Near(
                f"its indices {self.selected!r} go to {label(strange)!r} ({strange.op_type}), as many as are found in "
                "an image; the plugin makes none, but outputs of a fixed size"
            )

    def _scattered(self) -> str:
        """The tensor of the candidates' scores in which only those that survive are left."""
        readers = self.view.readers(self.selected)
        gather = next((node for node in readers if is_op(node, "GatherND")), None)
        scatter = next((node for node in readers if is_op(node, "ScatterND")), None)
        if gather is None or scatter is None or len(readers) != 2:
            raise Near(f"its indices {self.selected!r} are not used to gather scores and to scatter them, once each")
        if gather.input[0] != self.scores or attribute(gather, "batch_dims", 0):
            raise Near(f"the scores gathered by {label(gather)!r} are not those it selects by, {self.scores!r}")
        if (
            list(scatter.input[1:]) != [self.selected, gather.output[0]]
            or attribute(scatter, "reduction", "none") != "none"
        ):
            raise Near(f"{label(scatter)!r} scatters something else than the selected scores")
        self._all_negative(scatter.input[0], label(scatter))
        self.nodes += [gather, scatter]
        return str(scatter.output[0])

    def _all_negative(self, tensor: str, where: str) -> None:
        """A constant of one value below zero. Raises Near."""
        node = self.view.index.producer(tensor)
        value = self.view.value(tensor)
        if value is None and node is not None and is_op(node, "ConstantOfShape"):
            fill = attribute(node, "value")
            if fill is not None and fill.data_type == TensorProto.FLOAT and _number(fill) < 0:
                self.nodes.append(node)
                self.fills.append(_number(fill))
                shape = self.view.index.producer(node.input[0])
                if shape is not None and is_op(shape, "Shape"):
                    self.nodes.append(shape)
                return
        if value is None or value.dtype != np.float32 or not (value < 0).all() or np.ptp(value) > 0:
            raise Near(f"{where!r} scatters into {tensor!r}, which is not filled with one number below 0")
        self.fills.append(float(value.reshape(-1)[0]))

    def _flat(self, tensor: str) -> str:
        """[N, C * P] of it, with a K of nothing behind it where there is."""
        while (node := self._only(tensor, *_PASSING)) is not None:
            self.nodes.append(node)
            tensor = node.output[0]
        before, after = self.view.shape(self.scores), self.view.shape(tensor)
        if before is None or len(before) != 3 or not all(isinstance(size, int) for size in before[1:]):
            raise Near(f"the number of classes or boxes of {self.scores!r} is not known: put `infer-shapes` before it")
        if after is None or len(after) != 2 or after[1] != int(before[1] or 0) * int(before[2] or 0):
            raise Near(f"the surviving scores {tensor!r} have not the shape [images, classes * boxes]")
        pad = self._only(tensor, "Pad")
        if pad is None:
            return tensor
        amounts = self.view.value(pad.input[1])
        fill = self.view.scalar(pad.input[2]) if len(pad.input) > 2 else 0.0
        axes = None if len(pad.input) < 4 else self.view.value(pad.input[3])
        at_end = amounts is not None and list(amounts[:3]) == [0, 0, 0] and (amounts >= 0).all() and axes is None
        below = fill is not None and fill < 0 and attribute(pad, "mode", "constant") == "constant"
        if not at_end or fill is None or not below:
            raise Near(f"{label(pad)!r} pads the surviving scores with something else than a number below 0 at the end")
        self.nodes.append(pad)
        self.fills.append(fill)
        return str(pad.output[0])

    def _best(self, kept: str) -> tuple[str, str, int]:
        """(scores [N, K], their places in [N, C * P], K) by falling score."""
        top = self._only(kept, "TopK")
        if top is None:
            raise Near(f"no TopK chooses the best of the surviving scores {kept!r}")
        count = self.view.scalar(top.input[1])
        rank_end = attribute(top, "axis", -1) in (1, -1)
        if count is None or not rank_end or not attribute(top, "largest", 1) or not attribute(top, "sorted", 1):
            raise Near(f"{label(top)!r} does not choose a fixed number of best scores of each image in falling order")
        self.nodes.append(top)
        return str(top.output[0]), str(top.output[1]), int(count)

    def _valid(self, best: str) -> tuple[str, float]:
        """(true where there is a detection, the greatest score that is none)"""
        for node in self.view.readers(best):
            bound = self.view.scalar(node.input[1]) if len(node.input) > 1 else None
            if bound is None or node.input[0] != best:
                continue
            most = max(self.fills)
            none = bound if is_op(node, "Greater") else float(np.nextafter(np.float32(bound), np.float32(-np.inf)))
            if is_op(node, "Greater", "GreaterOrEqual") and most <= none < 0:
                self.nodes.append(node)
                return str(node.output[0]), none
        raise Near(f"nothing tells detections from padding in {best!r}, the best scores")

    def _count(self, valid: str) -> str:
        cast = self._reader(valid, "Cast")
        if cast is None or attribute(cast, "to") != TensorProto.INT32:
            return ""
        total = self._reader(cast.output[0], "ReduceSum")
        axes = None if total is None or len(total.input) < 2 else self.view.value(total.input[1])
        if (
            total is None
            or axes is None
            or list(axes.reshape(-1)) not in ([1], [-1])
            or not attribute(total, "keepdims", 1)
        ):
            return ""
        self.nodes += [cast, total]
        return str(total.output[0])

    def _masked(self, valid: str, values: str) -> str:
        """``values`` where there is a detection, else 0; "" where the graph has no such tensor."""
        for node in self.view.readers(values):
            if not is_op(node, "Where") or node.input[1] != values or self.view.scalar(node.input[2]) != 0:
                continue
            mask = self.view.index.producer(node.input[0])
            if node.input[0] == valid:
                self.nodes.append(node)
                return str(node.output[0])
            if mask is not None and is_op(mask, *_PASSING) and mask.input[0] == valid and self._is_column(mask):
                self.nodes += [mask, node]
                return str(node.output[0])
        return ""

    def _is_column(self, mask: NodeProto) -> bool:
        """Whether it is [N, K, 1] of [N, K]."""
        before, after = self.view.shape(mask.input[0]), self.view.shape(mask.output[0])
        return before is not None and after == (*before, 1)

    def _classes(self, places: str, valid: str) -> str:
        count = (self.view.shape(self.scores) or (None, None, None))[2]
        for node in self.view.readers(places):
            if not is_op(node, "Div") or self.view.scalar(node.input[1]) != count:
                continue
            steps, tensor = [node], node.output[0]
            early = self._reader(tensor, "Cast")
            if early is not None:
                steps.append(early)
                tensor = early.output[0]
            if not (masked := self._masked(valid, tensor)):
                continue
            late = None if early is not None else self._reader(masked, "Cast")
            if late is not None:
                steps.append(late)
            last = late or early
            if last is None or attribute(last, "to") != TensorProto.INT32:
                raise Near(f"the classes {masked!r} are not cast to int32, which the plugin makes")
            self.nodes += steps
            return str(late.output[0]) if late is not None else masked
        return ""

    def _boxes(self, places: str, valid: str) -> str:
        count = (self.view.shape(self.scores) or (None, None, None))[2]
        for node in self.view.readers(places):
            if not is_op(node, "Mod") or self.view.scalar(node.input[1]) != count:
                continue
            steps, tensor = [node], node.output[0]
            while (passing := self._only(tensor, *_PASSING)) is not None:
                steps.append(passing)
                tensor = passing.output[0]
            gather = self._reader(tensor, "GatherND")
            if gather is None or attribute(gather, "batch_dims", 0) != 1:
                continue
            if gather.input[0] != self.boxes:
                raise Near(f"its boxes {self.boxes!r} are not those of the output, {gather.input[0]!r}")
            if masked := self._masked(valid, gather.output[0]):
                self.nodes += [*steps, gather]
                return masked
        return ""

    def _only(self, tensor: str, *operators: str) -> NodeProto | None:
        node = self.view.index.only_consumer(tensor)
        return node if node is not None and is_op(node, *operators) and node.input[0] == tensor else None

    def _reader(self, tensor: str, operator: str) -> NodeProto | None:
        return next((node for node in self.view.readers(tensor) if is_op(node, operator)), None)


def _number(tensor: TensorProto) -> float:
    return float(numpy_helper.to_array(tensor).reshape(-1)[0])
