"""A match's operands as the function, and NVIDIA's plugin, want them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from trtforge.plugins.nms.decode import Decoder
from trtforge.plugins.nms.function import Variant
from trtforge.surgery.op import Names


@dataclass(frozen=True)
class Operands:
    """``boxes`` [N, P, 4] and ``scores`` [N, P, C], [N, C, P] if ``scores_by_class``: tensors of the graph.

    ``outputs``: the four of the function, "" for one that the graph does not make. ``count``: P.
    """

    boxes: str
    scores: str
    variant: Variant
    decoder: Decoder | None
    scores_by_class: bool
    outputs: tuple[str, str, str, str]
    classes: int
    count: int

    def inputs(self, names: Names) -> tuple[list[NodeProto], list[str]]:
        """Nodes that bring the tensors into place, and the inputs: boxes, scores, and anchors where there are any.

        The plugin has no variances: the predictions are multiplied by them in front of it.
        """
        nodes: list[NodeProto] = []
        boxes, scores = self.boxes, self.scores
        if self.decoder is not None and self.decoder.order != (0, 1, 2, 3):
            order = names.weight(f"{boxes}_order", np.array(self.decoder.order, np.int64))
            boxes = _add(nodes, names, "Gather", [boxes, order], f"{boxes}_ordered", axis=2)
        if self.decoder is not None and self.decoder.variances != (1.0,) * 4:
            factors = names.weight(f"{boxes}_variances", np.array(self.decoder.variances, np.float32))
            boxes = _add(nodes, names, "Mul", [boxes, factors], f"{boxes}_scaled")
        if self.scores_by_class:
            scores = _add(nodes, names, "Transpose", [scores], f"{scores}_by_box", perm=[0, 2, 1])
        inputs = [boxes, scores]
        if self.decoder is not None and self.decoder.anchors is not None:
            inputs.append(names.weight(f"{self.boxes}_anchors", self.decoder.anchors))
        return nodes, inputs


def _add(nodes: list[NodeProto], names: Names, operator: str, inputs: list[str], wish: str, **attributes: Any) -> str:
    made = names.fresh(wish)
    nodes.append(helper.make_node(operator, inputs, [made], made, **attributes))
    return made
