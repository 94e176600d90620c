"""Two small float networks with seeded weights, for quantizers of other makers to work on."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.parser import parse_model

IMAGE = (1, 16, 16, 16)
TOKENS = (1, 8, 32)

_CONV_NET = """
<ir_version: 9, opset_import: ["" : 19]>
conv_net (float[1,16,16,16] image) => (float[1,10] classes) {
    stem = Conv <pads = [1, 1, 1, 1]> (image, stem_weight, stem_bias)
    stem_relu = Relu(stem)
    main_1 = Conv <pads = [1, 1, 1, 1]> (stem_relu, main_1_weight, main_1_bias)
    main_1_relu = Relu(main_1)
    main_2 = Conv <pads = [1, 1, 1, 1]> (main_1_relu, main_2_weight, main_2_bias)
    sum = Add(main_2, stem_relu)
    sum_relu = Relu(sum)
    pooled = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (sum_relu)
    left = Conv (pooled, left_weight, left_bias)
    left_relu = Relu(left)
    right = Conv <pads = [1, 1, 1, 1]> (pooled, right_weight, right_bias)
    right_relu = Relu(right)
    joined = Concat <axis = 1> (left_relu, right_relu)
    last = Conv <pads = [1, 1, 1, 1]> (joined, last_weight, last_bias)
    last_relu = Relu(last)
    mean = GlobalAveragePool(last_relu)
    flat = Flatten(mean)
    classes = Gemm <transB = 1> (flat, head_weight, head_bias)
}
"""
_CONV_WEIGHTS = {
    "stem": (16, 16, 3, 3),
    "main_1": (16, 16, 3, 3),
    "main_2": (16, 16, 3, 3),
    "left": (16, 16, 1, 1),
    "right": (16, 16, 3, 3),
    "last": (16, 32, 3, 3),
    "head": (10, 16),
}

_TRANSFORMER = """
<ir_version: 9, opset_import: ["" : 19]>
transformer (float[1,8,32] tokens) => (float[1,8,32] out) {
    normed = LayerNormalization(tokens, norm_1_weight, norm_1_bias)
    q_flat = MatMul(normed, q_weight)
    q_biased = Add(q_flat, q_bias)
    k_flat = MatMul(normed, k_weight)
    k_biased = Add(k_flat, k_bias)
    v_flat = MatMul(normed, v_weight)
    v_biased = Add(v_flat, v_bias)
    q_heads = Reshape(q_biased, heads)
    q_turned = Transpose <perm = [0, 2, 1, 3]> (q_heads)
    k_heads = Reshape(k_biased, heads)
    k_turned = Transpose <perm = [0, 2, 3, 1]> (k_heads)
    v_heads = Reshape(v_biased, heads)
    v_turned = Transpose <perm = [0, 2, 1, 3]> (v_heads)
    scores = MatMul(q_turned, k_turned)
    scaled = Mul(scores, quarter)
    shares = Softmax(scaled)
    context = MatMul(shares, v_turned)
    context_turned = Transpose <perm = [0, 2, 1, 3]> (context)
    context_flat = Reshape(context_turned, flat)
    attended = MatMul(context_flat, o_weight)
    attended_biased = Add(attended, o_bias)
    sum_1 = Add(attended_biased, tokens)
    normed_2 = LayerNormalization(sum_1, norm_2_weight, norm_2_bias)
    up = MatMul(normed_2, up_weight)
    up_biased = Add(up, up_bias)
    up_relu = Relu(up_biased)
    down = MatMul(up_relu, down_weight)
    down_biased = Add(down, down_bias)
    out = Add(down_biased, sum_1)
}
"""
_TRANSFORMER_WEIGHTS = {
    "q": (32, 32),
    "k": (32, 32),
    "v": (32, 32),
    "o": (32, 32),
    "up": (32, 64),
    "down": (64, 32),
}


def conv_net() -> onnx.ModelProto:
    """A stem, a residual block, two branches joined by Concat, and a classifier on a mean."""
    model = _named(parse_model(_CONV_NET))
    random = np.random.default_rng(7)
    for name, shape in _CONV_WEIGHTS.items():
        _add(model, f"{name}_weight", random.normal(size=shape) / np.sqrt(np.prod(shape[1:])))
        _add(model, f"{name}_bias", random.normal(size=shape[0]) / 10)
    return model


def transformer() -> onnx.ModelProto:
    """One encoder block: two heads over eight tokens, and a feed-forward part."""
    model = _named(parse_model(_TRANSFORMER))
    random = np.random.default_rng(8)
    for name, shape in _TRANSFORMER_WEIGHTS.items():
        _add(model, f"{name}_weight", random.normal(size=shape) / np.sqrt(shape[0]))
        _add(model, f"{name}_bias", random.normal(size=shape[1]) / 10)
    for name in ("norm_1", "norm_2"):
        _add(model, f"{name}_weight", 1 + random.normal(size=32) / 10)
        _add(model, f"{name}_bias", random.normal(size=32) / 10)
    _add(model, "quarter", np.array(0.25))
    for name, sizes in (("heads", [1, 8, 2, 16]), ("flat", [1, 8, 32])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), name))
    return model


def samples(shape: tuple[int, ...], count: int = 4) -> list[np.ndarray]:
    """What to calibrate on: float32 arrays of ``shape``."""
    random = np.random.default_rng(9)
    return [random.normal(size=shape).astype(np.float32) for _ in range(count)]


def _add(model: onnx.ModelProto, name: str, values: np.ndarray) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.float32), name))


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    for node in model.graph.node:
        node.name = f"{node.output[0]}_node"
    return model
