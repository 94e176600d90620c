"""Networks of real size with random weights, built node by node: what benchmarks measure speed and memory on."""

from __future__ import annotations

import sys
from importlib import util
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["SIZES", "bert", "bert_base", "resnet50", "save_external", "unet3d"]


def _topology(recipe: str) -> ModuleType:
    """The script that builds a recipe's network; the recipes are in no package, and their scripts have one name."""
    path = Path(__file__).parents[1] / "recipes" / recipe / "topology.py"
    spec = util.spec_from_file_location(f"topology_{recipe}", path)
    assert spec is not None and spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


_bert = _topology("bert")
SIZES, bert = _bert.SIZES, _bert.bert  # BERT of any size, as exporters spell it; "large": 335 M parameters
unet3d = _topology("unet3d").unet3d  # MLPerf's 3D-UNet, [n, 1, d, h, w], 31 M parameters
resnet50 = _topology("resnet50").resnet50  # v1.5, input [n, 3, 224, 224], logits [n, 1000], 25.5 M parameters


class Builder:
    """Appends nodes and weights to a graph; tensors are named after the node that makes them."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(seed)

    def op(self, op_type: str, *inputs: str, **attributes: object) -> str:
        output = f"{op_type.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], output, **attributes))
        return output

    def value(self, array: np.ndarray) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def scalar(self, value: float) -> str:
        return self.value(np.float32(value).reshape(()))

    def random(self, *shape: int, scale: float) -> str:
        return self.value(self._random.standard_normal(shape, np.float32) * np.float32(scale))

    def linear(self, x: str, cin: int, cout: int) -> str:
        product = self.op("MatMul", x, self.random(cin, cout, scale=cin**-0.5))
        return self.op("Add", product, self.value(np.zeros(cout, np.float32)))

    def model(self, inputs: dict[str, tuple[int, list[int | str]]], output: str, rank: int) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "benchmark",
            [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None] * rank)],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def bert_base(layers: int = 12, hidden: int = 768, heads: int = 12, length: int = 128) -> onnx.ModelProto:
    """BERT encoder as PyTorch exports it: input_ids and attention_mask [n, length] int64; 110 M parameters at 12."""
    b = Builder()
    size = hidden // heads
    words = b.op("Gather", b.random(30522, hidden, scale=0.02), "input_ids")
    x = _layer_norm(b, b.op("Add", words, b.random(1, length, hidden, scale=0.02)), hidden)
    mask = b.op("Unsqueeze", b.op("Cast", "attention_mask", to=TensorProto.FLOAT), b.value(np.array([1, 2])))
    mask = b.op("Mul", b.op("Sub", b.scalar(1.0), mask), b.scalar(-10000.0))
    split, joined = b.value(np.array([0, 0, heads, size])), b.value(np.array([0, 0, hidden]))
    for _ in range(layers):
        q, k, v = (b.op("Reshape", b.linear(x, hidden, hidden), split) for _ in range(3))
        q, v = (b.op("Transpose", part, perm=[0, 2, 1, 3]) for part in (q, v))
        k = b.op("Transpose", k, perm=[0, 2, 3, 1])
        scores = b.op("Add", b.op("Div", b.op("MatMul", q, k), b.scalar(size**0.5)), mask)
        context = b.op("MatMul", b.op("Softmax", scores, axis=-1), v)
        context = b.op("Reshape", b.op("Transpose", context, perm=[0, 2, 1, 3]), joined)
        x = _layer_norm(b, b.op("Add", b.linear(context, hidden, hidden), x), hidden)
        y = b.linear(x, hidden, 4 * hidden)
        erf = b.op("Add", b.op("Erf", b.op("Div", y, b.scalar(2**0.5))), b.scalar(1.0))
        gelu = b.op("Mul", b.op("Mul", y, erf), b.scalar(0.5))
        x = _layer_norm(b, b.op("Add", b.linear(gelu, 4 * hidden, hidden), x), hidden)
    inputs = {name: (TensorProto.INT64, ["n", length]) for name in ("input_ids", "attention_mask")}
    return b.model(inputs, b.linear(x, hidden, 2), 3)


def save_external(model: onnx.ModelProto, path: Path) -> None:
    """The graph in ``path``, every weight in ``<path>.data``."""
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)


def _layer_norm(b: Builder, x: str, hidden: int) -> str:
    scale, bias = b.value(np.ones(hidden, np.float32)), b.value(np.zeros(hidden, np.float32))
    return b.op("LayerNormalization", x, scale, bias, axis=-1)
