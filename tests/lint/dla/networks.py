"""Random small networks for the DLA's rules: layers with parameters in and out of the ranges, that fit together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from trtforge.errors.graph import InvalidGraph
from trtforge.graph.model import Model
from trtforge.graph.shapes import infer_shapes, tensor_types

INPUT = [1, 4, 8, 8]
NAMES = ("", "", "twin", "layer")
"""Exporters give neither every node a name, nor every name to one node."""


class Network:
    """Grows by a layer at a time. Layers that do not fit are left out."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.shapes: dict[str, tuple[int, ...]] = {"x": tuple(INPUT)}
        self.rng = np.random.default_rng(0)

    def pick(self, *values: Any) -> Any:
        return self.draw(st.sampled_from(values))

    def weight(self, *shape: int) -> str:
        return self.constant(self.rng.normal(0, 0.3, shape).astype(np.float32))

    def constant(self, values: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        made = [f"t{len(self.nodes)}_{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, made, name=self.pick(*NAMES), **attributes))
        return made[0]

    def grow(self) -> None:
        source = self.draw(st.sampled_from(sorted(self.shapes)))
        before = len(self.nodes), len(self.weights)
        shape = self.shapes[source]
        layer = self.pick(*(LAYERS if len(shape) == 4 else FLAT))
        layer(self, source, shape)
        try:
            types = tensor_types(infer_shapes(self.model([])))
        except InvalidGraph:
            types = {}
        made = [name for node in self.nodes[before[0] :] for name in node.output]
        if not all(name in types and types[name].is_static and min(types[name].shape or (1,)) > 0 for name in made):
            del self.nodes[before[0] :], self.weights[before[1] :]
            return
        floats = [name for name in made if types[name].dtype == "float32"]
        self.shapes |= {name: tuple(int(size or 0) for size in types[name].shape or ()) for name in floats}

    def model(self, outputs: Sequence[str], order: Sequence[int] | None = None) -> Model:
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            [self.nodes[place] for place in order or range(len(self.nodes))],
            "random",
            [value("x", TensorProto.FLOAT, INPUT)],
            [value(name, TensorProto.FLOAT, self.shapes[name]) for name in outputs],
            self.weights,
        )
        return Model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))

    def ends(self) -> list[str]:
        """Tensors of floats that nodes make and none reads."""
        read = {name for node in self.nodes for name in node.input}
        return [name for name in self.shapes if name not in read and name != "x"]


Layer = Callable[[Network, str, tuple[int, ...]], Any]


def _conv(net: Network, source: str, shape: tuple[int, ...]) -> None:
    groups, kernel = net.pick(1, 1, shape[1]), net.pick(1, 3, 5, 33)
    pads, dilation = net.pick(0, 1, 2, 40), net.pick(1, 1, 2, 33)
    weights = net.weight(net.pick(1, 4) * groups, shape[1] // groups, kernel, kernel)
    strides = [net.pick(1, 1, 2, 9)] * 2
    net.node("Conv", source, weights, group=groups, pads=[pads] * 4, dilations=[dilation] * 2, strides=strides)


def _deconvolution(net: Network, source: str, shape: tuple[int, ...]) -> None:
    kernel, stride, padding = net.pick(2, 4, 23), net.pick(1, 2), net.pick(0, 0, 1)
    more = {"output_padding": [1, 1]} if stride > 1 and net.pick(False, False, True) else {}
    net.node("ConvTranspose", source, net.weight(shape[1], 4, kernel, kernel), strides=[stride] * 2, pads=[padding] * 4,
             **more)  # fmt: skip


def _pool(net: Network, source: str, shape: tuple[int, ...]) -> None:
    kernel = net.pick(2, 3, shape[2])
    pads = [net.pick(0, 1)] * 4 if kernel > 1 else [0] * 4
    net.node(net.pick("MaxPool", "AveragePool"), source, kernel_shape=[kernel] * 2, pads=pads)


def _mean(net: Network, source: str, shape: tuple[int, ...]) -> None:
    kind = net.pick("GlobalAveragePool", "ReduceMean", "ReduceMax")
    more = {} if kind == "GlobalAveragePool" else {"axes": net.pick([2, 3], [1], [-1]), "keepdims": net.pick(0, 1)}
    net.node(kind, source, **more)


def _clip(net: Network, source: str, shape: tuple[int, ...]) -> None:
    high = net.pick(6, 6, 1, 200)
    conv = net.node("Conv", source, net.weight(4, shape[1], 1, 1))
    net.node("Clip", conv, net.constant(np.float32(0)), net.constant(np.float32(high)))


def _norm(net: Network, source: str, shape: tuple[int, ...]) -> None:
    net.node("BatchNormalization", source, *(net.constant(np.ones(shape[1], np.float32)) for _ in range(4)))


def _sum(net: Network, source: str, shape: tuple[int, ...]) -> None:
    alike = [name for name, other in net.shapes.items() if other == shape]
    constants = [net.weight(1, shape[1], 1, 1), net.weight(1), net.weight(*shape)] if len(shape) == 4 else []
    net.node(net.pick("Add", "Mul", "Max", "Div"), source, net.pick(*alike, *constants))


def _join(net: Network, source: str, shape: tuple[int, ...]) -> None:
    other = net.draw(st.sampled_from(sorted(net.shapes)))
    net.node("Concat", source, other, axis=net.pick(0, 1, 1, 2, -1))


def _cut(net: Network, source: str, shape: tuple[int, ...]) -> None:
    axis = net.pick(0, 1, 2, 3)
    if net.pick(True, False):
        net.node("Split", source, axis=axis, outputs=2)
    else:
        net.node("Slice", source, *(net.constant(np.array([at], np.int64)) for at in (0, 2, axis, net.pick(1, 2))))


def _resize(net: Network, source: str, shape: tuple[int, ...]) -> None:
    mode = net.pick("nearest", "linear")
    centre = net.pick("half_pixel", "asymmetric", "pytorch_half_pixel", "align_corners")
    scales = net.constant(np.array([1, 1, *[net.pick(1, 2, 3.5)] * 2], np.float32))
    net.node("Resize", source, "", scales, mode=mode, coordinate_transformation_mode=centre)


def _view(net: Network, source: str, shape: tuple[int, ...]) -> None:
    if net.pick(True, False):
        net.node("Transpose", source, perm=net.draw(st.permutations(range(len(shape)))))
    else:
        target = net.pick([1, -1], [1, shape[1], -1], [1, shape[1], 1, -1])
        net.node("Reshape", source, net.constant(np.array(target, np.int64)))


def _head(net: Network, source: str, shape: tuple[int, ...]) -> None:
    """A classifier's end: a pooling, a view, a product, a bias."""
    pooled = net.node("GlobalAveragePool", source) if net.pick(True, False) else source
    count = shape[1] if pooled != source else int(np.prod(shape[1:]))
    flat = net.node("Flatten", pooled) if net.pick(True, False) else _reshaped(net, pooled, shape[0], count)
    kind = net.pick("Gemm", "MatMul")
    product = net.node(kind, flat, net.weight(count, 3))
    net.node("Add", product, net.weight(3))


def _reshaped(net: Network, source: str, *sizes: int) -> str:
    return net.node("Reshape", source, net.constant(np.array(sizes, np.int64)))


def _plain(net: Network, source: str, shape: tuple[int, ...]) -> None:
    op = net.pick("Relu", "Sigmoid", "Tanh", "Erf", "Identity", "Dropout", "Softmax", "Shape")
    net.node(op, source)


LAYERS: tuple[Layer, ...] = (_conv, _conv, _deconvolution, _pool, _mean, _clip, _norm, _sum, _join, _cut, _resize)
LAYERS += (_view, _head, _plain, _plain)
FLAT: tuple[Layer, ...] = (_sum, _join, _view, _plain)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """At least one layer; every tensor that no layer reads is an output of ``model(ends())``."""
    net = Network(draw)
    for _ in range(draw(st.integers(1, 10))):
        net.grow()
    if not net.ends():
        net.shapes[net.node("Relu", "x")] = tuple(INPUT)
    return net
