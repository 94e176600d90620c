"""ResNet-50 as an ONNX graph, v1 and v1.5, of any width and with seeded weights.

    python recipes/resnet50/topology.py OUT.onnx [--version 1] [--width 64] [--norm batchnorm] [--mlperf] [--seed 0]

He et al., "Deep Residual Learning for Image Recognition", 2016: a convolution 7x7 and a max pool, then four stages of
bottlenecks (1x1, 3x3, 1x1, and the block's input added), a global average and a fully connected layer. The first block
of a later stage halves the image: in v1 by its first 1x1, in v1.5 by its 3x3. 53 Conv; 25,557,032 parameters, or, with
BatchNormalization folded, 25,530,472.

The weights mean nothing, but the numbers inside are those of a trained network in size: every convolution's statistics
are taken on images of noise, and normalized. So INT8 ranges and half precision can be tried on it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trtforge.ort import open_session, session_options

Array = np.ndarray[Any, Any]
Version = Literal["1", "1.5"]
Norm = Literal["folded", "batchnorm", "first"]
Head = Literal["gemm", "matmul", "conv"]

BLOCKS = (3, 4, 6, 3)
EPSILON = 1e-5
WARMING = (4, 3, 128, 128)
"""Images of noise that statistics are taken on: 64 values a channel in the last stage."""


@dataclass(frozen=True)
class Layout:
    """What does not change a value, but the graph.

    ``norm``: BatchNormalization folded into the convolutions, a node behind each, or a node behind the first
    convolution only. ``head``: the fully connected layer as Gemm, as MatMul and Add, or as a 1x1 convolution.
    ``softmax``: probabilities and not logits; with ``classes_too`` the class of each image as a second output.
    ``nhwc``: the input's axes, with a Transpose behind it. ``mean``: ReduceMean and Squeeze in place of
    GlobalAveragePool and Flatten. ``pool``: pads of the max pool, TensorFlow's differ.
    """

    norm: Norm = "folded"
    head: Head = "gemm"
    softmax: bool = False
    classes_too: bool = False
    nhwc: bool = False
    mean: bool = False
    pool: tuple[int, int, int, int] = (1, 1, 1, 1)
    input: str = "input"
    output: str = "output"
    index: str = "class"


MLPERF = Layout(
    norm="first",
    head="matmul",
    softmax=True,
    classes_too=True,
    mean=True,
    pool=(0, 0, 1, 1),
    input="input_tensor:0",
    output="softmax_tensor:0",
    index="ArgMax:0",
)
"""As tf2onnx wrote MLPerf Inference's resnet50_v1.onnx, which is v1.5 of 1001 classes, the first one background: as far
as NVIDIA's surgery on it tells. Names inside differ."""


def resnet50(
    *,
    version: Version = "1.5",
    width: int = 64,
    blocks: Sequence[int] = BLOCKS,
    classes: int = 1000,
    layout: Layout | None = None,
    shape: Sequence[int | str] | None = None,
    seed: int = 0,
    opset: int = 17,
) -> onnx.ModelProto:
    """Input float32 [n, 3, h, w] or [n, h, w, 3]; output float32 [n, classes], int64 [n] for the class.

    ``width``: channels of the first convolution, and of the first stage's inner ones; every stage has twice as many.
    ``blocks``: bottlenecks of each stage; fewer numbers make fewer stages. ``shape``: the input's sizes, 224 x 224 and
    any batch when left out. ``opset``: 13 to 17. The same seed gives the same values in every layout.
    """
    spelled = layout or Layout()
    plan = _Plan(version, width, tuple(blocks), classes, seed)
    normalized = _statistics(plan)
    graph = _Graph(spelled, seed, normalized)
    _network(graph, plan)
    usual: list[int | str] = ["n", 224, 224, 3] if spelled.nhwc else ["n", 3, 224, 224]
    sizes = usual if shape is None else list(shape)
    outputs = [helper.make_tensor_value_info(spelled.output, TensorProto.FLOAT, [sizes[0], classes])]
    if spelled.classes_too:
        outputs.insert(0, helper.make_tensor_value_info(spelled.index, TensorProto.INT64, [sizes[0]]))
    return _model(graph, spelled.input, sizes, outputs, opset)


@dataclass(frozen=True)
class _Plan:
    version: Version
    width: int
    blocks: tuple[int, ...]
    classes: int
    seed: int


@dataclass(frozen=True)
class _Statistics:
    """Of a convolution's result before it is normalized: mean and variance [channels], float32."""

    mean: Array
    variance: Array


@dataclass
class _Graph:
    """Nodes and weights; a node's output has the node's name. Without ``statistics`` it measures them: it normalizes by
    what it sees, and hands the means and variances out."""

    layout: Layout
    seed: int
    statistics: dict[str, _Statistics] | None = None
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    measured: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def node(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name, **attributes))
        return name

    def value(self, name: str, array: Any, dtype: Any = np.float32) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def drawn(self, shape: Sequence[int], scale: float) -> Array:
        return self.random.standard_normal(tuple(shape), np.float32) * np.float32(scale)

    def convolution(self, name: str, x: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> str:
        """A convolution and its normalization, folded or not. Scale is 1 to 1.5, bias -0.2 to 0.2."""
        filters = self.drawn((outputs, inputs, kernel, kernel), (2 / (inputs * kernel**2)) ** 0.5)
        scale = self.random.uniform(1, 1.5, outputs).astype(np.float32)
        bias = self.random.uniform(-0.2, 0.2, outputs).astype(np.float32)
        sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
        if self.statistics is None:
            made = self.node("Conv", name, x, self.value(f"{name}.weight", filters), **sizes)
            return self._measuring(name, made, scale, bias)
        seen = self.statistics[name]
        if self.layout.norm == "batchnorm" or (self.layout.norm == "first" and name == "conv1"):
            made = self.node("Conv", name, x, self.value(f"{name}.weight", filters), **sizes)
            parts = {"scale": scale, "bias": bias, "mean": seen.mean, "variance": seen.variance}
            names = [self.value(f"{name}.norm.{part}", values) for part, values in parts.items()]
            return self.node("BatchNormalization", f"{name}.norm", made, *names, epsilon=EPSILON)
        factor = scale.astype(np.float64) / np.sqrt(seen.variance.astype(np.float64) + EPSILON)
        folded = self.value(f"{name}.weight", filters * factor.reshape(-1, 1, 1, 1))
        return self.node("Conv", name, x, folded, self.value(f"{name}.bias", bias - seen.mean * factor), **sizes)

    def _measuring(self, name: str, x: str, scale: Array, bias: Array) -> str:
        """What BatchNormalization computes in training; its mean and variance become outputs [1, channels, 1, 1]."""
        column = (1, -1, 1, 1)
        mean = self.node("ReduceMean", f"{name}.mean", x, axes=[0, 2, 3], keepdims=1)
        centred = self.node("Sub", f"{name}.centred", x, mean)
        squares = self.node("Mul", f"{name}.squares", centred, centred)
        variance = self.node("ReduceMean", f"{name}.variance", squares, axes=[0, 2, 3], keepdims=1)
        self.measured.append(name)
        wide = self.node("Add", f"{name}.wide", variance, self.value(f"{name}.epsilon", EPSILON))
        deviation = self.node("Sqrt", f"{name}.deviation", wide)
        unit = self.node("Div", f"{name}.unit", centred, deviation)
        scaled = self.node("Mul", f"{name}.scaled", unit, self.value(f"{name}.scale", scale.reshape(column)))
        return self.node("Add", f"{name}.norm", scaled, self.value(f"{name}.bias", bias.reshape(column)))


def _network(graph: _Graph, plan: _Plan) -> None:
    """All nodes, from the layout's input to its outputs."""
    spelled, x = graph.layout, graph.layout.input
    if spelled.nhwc:
        x = graph.node("Transpose", "nchw", x, perm=[0, 3, 1, 2])
    x = graph.node("Relu", "conv1.relu", graph.convolution("conv1", x, 3, plan.width, 7, 2))
    x = graph.node("MaxPool", "pool1", x, kernel_shape=[3, 3], strides=[2, 2], pads=list(spelled.pool))
    channels = plan.width
    for stage, count in enumerate(plan.blocks):
        inner = plan.width << stage
        for block in range(count):
            stride = 2 if stage and not block else 1
            name = f"res{stage + 2}{chr(ord('a') + block)}"
            x = _bottleneck(graph, name, x, channels, inner, stride, plan.version, projected=not block)
            channels = 4 * inner
    _head(graph, x, channels, plan.classes)


def _bottleneck(
    graph: _Graph, name: str, x: str, channels: int, inner: int, stride: int, version: Version, *, projected: bool
) -> str:
    shortcut = graph.convolution(f"{name}.branch1", x, channels, 4 * inner, 1, stride) if projected else x
    first, second = (stride, 1) if version == "1" else (1, stride)
    y = graph.node("Relu", f"{name}.2a.relu", graph.convolution(f"{name}.2a", x, channels, inner, 1, first))
    y = graph.node("Relu", f"{name}.2b.relu", graph.convolution(f"{name}.2b", y, inner, inner, 3, second))
    y = graph.convolution(f"{name}.2c", y, inner, 4 * inner, 1)
    return graph.node("Relu", f"{name}.relu", graph.node("Add", f"{name}.add", y, shortcut))


def _head(graph: _Graph, x: str, channels: int, classes: int) -> None:
    """The mean of every channel, the layer, and the scores, whose tensor is the layout's output."""
    spelled = graph.layout
    matrix = graph.drawn((channels, classes), channels**-0.5)
    offset = graph.random.uniform(-0.1, 0.1, classes).astype(np.float32)
    scores = "logits" if spelled.softmax else spelled.output
    if spelled.mean:
        x = graph.node("ReduceMean", "mean", x, axes=[2, 3], keepdims=1)
    else:
        x = graph.node("GlobalAveragePool", "mean", x)
    if spelled.head == "conv":
        filters = graph.value("fc.weight", np.ascontiguousarray(matrix.T).reshape(classes, channels, 1, 1))
        x = graph.node("Conv", "fc", x, filters, graph.value("fc.bias", offset), kernel_shape=[1, 1])
        graph.node("Flatten", scores, x, axis=1)
    else:
        if spelled.mean:
            x = graph.node("Squeeze", "features", x, graph.value("features.axes", [2, 3], np.int64))
        else:
            x = graph.node("Flatten", "features", x, axis=1)
        weight, bias = graph.value("fc.weight", matrix), graph.value("fc.bias", offset)
        if spelled.head == "gemm":
            graph.node("Gemm", scores, x, weight, bias)
        else:
            graph.node("Add", scores, graph.node("MatMul", "fc", x, weight), bias)
    if spelled.classes_too:
        graph.node("ArgMax", spelled.index, scores, axis=1, keepdims=0)
    if spelled.softmax:
        graph.node("Softmax", spelled.output, scores, axis=1)


@lru_cache(maxsize=4)
def _statistics(plan: _Plan) -> dict[str, _Statistics]:
    """Of every convolution by name, on noise, each measured behind the normalized ones before it."""
    graph = _Graph(Layout(), plan.seed)
    _network(graph, plan)
    names = [f"{name}.{part}" for name in graph.measured for part in ("mean", "variance")]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None, 1, 1]) for name in names]
    model = _model(graph, Layout().input, list(WARMING), outputs, 13)
    noise = np.random.default_rng(plan.seed).normal(0, 60, WARMING).astype(np.float32)
    values = open_session(model, None, session_options()).run(names, {Layout().input: noise})
    flat = [value.reshape(-1) for value in values]
    return {name: _Statistics(*flat[2 * at : 2 * at + 2]) for at, name in enumerate(graph.measured)}


def _model(
    graph: _Graph, name: str, sizes: Sequence[int | str], outputs: Sequence[onnx.ValueInfoProto], opset: int
) -> onnx.ModelProto:
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(sizes))]
    made = helper.make_graph(graph.nodes, "resnet50", given, list(outputs), graph.weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--version", choices=["1", "1.5"], default="1.5", help="where a stage's first block halves")
    parser.add_argument("--width", type=int, default=64, help="channels of the first convolution")
    parser.add_argument("--norm", choices=["folded", "batchnorm"], default="folded", help="BatchNormalization")
    parser.add_argument("--mlperf", action="store_true", help="1001 classes, inputs and outputs as MLPerf's file")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    options = parser.parse_args()
    layout, classes = (MLPERF, 1001) if options.mlperf else (Layout(norm=options.norm), 1000)
    model = resnet50(version=options.version, width=options.width, classes=classes, layout=layout, seed=options.seed)
    onnx.save(model, options.out)


if __name__ == "__main__":
    main()
