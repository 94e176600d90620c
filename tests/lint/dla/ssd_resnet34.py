"""The skeleton of MLPerf's SSD-ResNet34: its layers and strides, a fraction of its width, weights of zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STAGES = ((3, 1, 1), (4, 2, 2), (6, 4, 1))
"""Blocks, width, stride; the fourth stage of ResNet-34 is left out, and the third keeps the size."""

EXTRA = ((4, 8, 2), (4, 8, 2), (2, 4, 2), (2, 4, 2), (2, 4, 2))
"""Width of the 1x1 and of the 3x3 convolution of each further scale, and the latter's stride."""

SHAPES = (4, 6, 6, 6, 4, 4)


def ssd_resnet34(size: int = 1200, width: int = 8, classes: int = 81) -> onnx.ModelProto:
    """Input ``image`` [1, 3, size, size]; the indices that NonMaxSuppression selects."""
    graph = _Graph()
    x, channels = graph.relu(graph.conv("conv1", "image", 3, width, 7, 2)), width
    x = graph.node("MaxPool", "pool1", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for stage, (blocks, times, stride) in enumerate(STAGES):
        for block in range(blocks):
            name, first = f"stage{stage}.{block}", stride if block == 0 else 1
            y = graph.relu(graph.conv(f"{name}.a", x, channels, width * times, 3, first))
            y = graph.conv(f"{name}.b", y, width * times, width * times, 3)
            if channels != width * times:
                x = graph.conv(f"{name}.down", x, channels, width * times, 1, first)
            channels = width * times
            x = graph.relu(graph.node("Add", f"{name}.add", y, x))
    scales = [(x, channels)]
    for number, (narrow, wide, stride) in enumerate(EXTRA):
        x = graph.relu(graph.conv(f"extra{number}.a", x, channels, width * narrow, 1))
        x = graph.relu(graph.conv(f"extra{number}.b", x, width * narrow, width * wide, 3, stride))
        channels = width * wide
        scales.append((x, channels))
    boxes, scores = graph.heads(scales, classes)
    probabilities = graph.node("Softmax", "probabilities", scores, axis=1)
    graph.node("NonMaxSuppression", "selected", boxes, probabilities)
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, size, size])]
    outputs = [helper.make_tensor_value_info("selected", TensorProto.INT64, ["n", 3])]
    made = helper.make_graph(graph.nodes, "ssd", inputs, outputs, graph.weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class _Graph:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name, **attributes))
        return name

    def conv(self, name: str, x: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> str:
        zeros = np.zeros((outputs, inputs, kernel, kernel), np.float32)
        self.weights.append(numpy_helper.from_array(zeros, f"{name}.weight"))
        sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
        return self.node("Conv", name, x, f"{name}.weight", **sizes)

    def relu(self, x: str) -> str:
        return self.node("Relu", f"{x}.relu", x)

    def heads(self, scales: list[tuple[str, int]], classes: int) -> tuple[str, str]:
        """Boxes [1, P, 4] and scores [1, classes, P]."""
        found: dict[str, list[str]] = {"loc": [], "conf": []}
        for level, ((x, channels), shapes) in enumerate(zip(scales, SHAPES, strict=True)):
            for kind, values in (("loc", 4), ("conf", classes)):
                y = self.conv(f"{kind}{level}", x, channels, shapes * values, 3)
                rows = self._constant(f"{kind}{level}.shape", [0, values, -1])
                found[kind].append(self.node("Reshape", f"{kind}{level}.rows", y, rows))
        boxes = self.node("Concat", "loc", *found["loc"], axis=2)
        return self.node("Transpose", "boxes", boxes, perm=[0, 2, 1]), self.node(
            "Concat", "conf", *found["conf"], axis=2
        )

    def _constant(self, name: str, values: list[int]) -> str:
        self.weights.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name
