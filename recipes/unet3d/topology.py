"""The 3D-UNet of MLPerf Inference as an ONNX graph, of any width and with any weights.

    python recipes/unet3d/topology.py OUT.onnx [--filters 32 64 128 256 320 320] [--seed 0]

Every level has two times convolution 3x3x3 without bias, InstanceNorm, ReLU; the first convolution of a level halves
the volume. On the way up a transposed convolution 2x2x2 with bias doubles it, and is concatenated before the level's
own volume. A convolution 1x1x1 with bias ends it. With six levels: 23 Conv, 5 ConvTranspose, 22 InstanceNormalization,
22 Relu, 5 Concat; with MLPerf's filters 31,190,243 parameters.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]

MLPERF = (32, 64, 128, 256, 320, 320)


def unet3d(
    filters: Sequence[int] = MLPERF,
    *,
    weights: Mapping[str, Array] | None = None,
    seed: int = 0,
    classes: int = 3,
    shape: Sequence[int] | None = None,
) -> onnx.ModelProto:
    """Input ``input`` float32 [n, 1, d, h, w], output ``output`` float32 logits [n, classes, d, h, w].

    ``filters``: channels of every level, the finest first. ``weights``: float32 arrays by initializer name, as
    `weights_of` gives them; left out, He-scaled ones of ``seed``. ``shape``: the input's five sizes, symbolic when
    left out; d, h, w must be multiples of 2^(levels - 1). Raises ValueError for weights that do not fit.
    """
    graph = _Graph(weights, seed)
    x, channels, skips = "input", 1, []
    for level, width in enumerate(filters):
        x = graph.block(f"encoder.{level}", x, channels, width, 2 if level else 1)
        skips.append(x)
        channels = width
    for level in range(len(filters) - 2, -1, -1):
        width = filters[level]
        up = graph.conv(f"decoder.{level}.up", x, channels, width, 2, 2, bias=True, transposed=True)
        joined = graph.node("Concat", f"decoder.{level}.concat", up, skips[level], axis=1)
        x = graph.block(f"decoder.{level}", joined, 2 * width, width, 1)
        channels = width
    graph.conv("output", x, channels, classes, 1, 1, bias=True)

    if weights is not None and (extra := set(weights) - {tensor.name for tensor in graph.initializers}):
        raise ValueError(f"the network has no weights called {', '.join(sorted(extra))}")
    sizes = list(shape) if shape is not None else ["n", 1, "d", "h", "w"]
    made = helper.make_graph(
        graph.nodes,
        "unet3d",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [sizes[0], classes, *sizes[2:]])],
        graph.initializers,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 12)], ir_version=8)


def weights_of(model: onnx.ModelProto) -> dict[str, Array]:
    """The initializers by name, in the order of the graph; float32."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


class _Graph:
    """Nodes and initializers; a node's output has the node's name."""

    def __init__(self, weights: Mapping[str, Array] | None, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._weights = weights
        self._random = np.random.default_rng(seed)

    def node(self, op_type: str, name: str, *inputs: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name, **attributes))
        return name

    def weight(self, name: str, *shape: int, scale: float = 0.0, mean: float = 0.0) -> str:
        """The given weight of that name, or a random one."""
        if self._weights is None:
            value = self._random.standard_normal(shape, np.float32) * np.float32(scale) + np.float32(mean)
        elif name not in self._weights or self._weights[name].shape != shape:
            found = self._weights[name].shape if name in self._weights else "nothing"
            raise ValueError(f"weight {name} must have the shape {shape}, given is {found}")
        else:
            value = np.asarray(self._weights[name], np.float32)
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def conv(
        self,
        name: str,
        x: str,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        *,
        bias: bool = False,
        transposed: bool = False,
    ) -> str:
        fan_in = inputs * (1 if transposed else kernel**3)  # 2x2x2 with stride 2: one input voxel an output voxel
        sizes = (inputs, outputs) if transposed else (outputs, inputs)
        parts = [self.weight(f"{name}.weight", *sizes, *[kernel] * 3, scale=(2 / fan_in) ** 0.5)]
        if bias:
            parts.append(self.weight(f"{name}.bias", outputs))
        return self.node(
            "ConvTranspose" if transposed else "Conv",
            name,
            x,
            *parts,
            kernel_shape=[kernel] * 3,
            strides=[stride] * 3,
            pads=[0 if transposed else kernel // 2] * 6,
        )

    def block(self, name: str, x: str, inputs: int, outputs: int, stride: int) -> str:
        for number in range(2):
            x = self.conv(f"{name}.conv.{number}", x, inputs, outputs, 3, stride)
            norm = f"{name}.norm.{number}"
            scale, shift = self.weight(f"{norm}.scale", outputs, mean=1.0), self.weight(f"{norm}.bias", outputs)
            x = self.node("InstanceNormalization", norm, x, scale, shift, epsilon=1e-5)
            x = self.node("Relu", f"{name}.relu.{number}", x)
            inputs, stride = outputs, 1
        return x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--filters", type=int, nargs="+", default=list(MLPERF), help="channels of every level")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    options = parser.parse_args()
    onnx.save(unet3d(options.filters, seed=options.seed), options.out)


if __name__ == "__main__":
    main()
