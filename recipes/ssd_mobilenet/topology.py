"""SSD-MobileNetV1 of TensorFlow's Object Detection API as an ONNX graph, of any size and with any weights.

    python recipes/ssd_mobilenet/topology.py OUT.onnx [--size 300] [--classes 90] [--width 1.0] [--seed 0] [--raw]

MobileNetV1 with ReLU6 (a depthwise convolution has a BatchNormalization behind it, a pointwise one a bias), eight more
convolutions, and on six scales one convolution for boxes and one for classes, class 0 being background. Then the boxes
are decoded from the anchors, and NonMaxSuppression and TopK make outputs of a fixed size. 300 by 300 pixels have 1917
anchors, 512 by 512 have 5118.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]

BACKBONE = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
"""Channels and stride of the thirteen depthwise and pointwise pairs."""

EXTRA = ((256, 1, 1), (512, 3, 2), (128, 1, 1), (256, 3, 2), (128, 1, 1), (256, 3, 2), (64, 1, 1), (128, 3, 2))
"""Channels, kernel and stride of the convolutions behind the backbone."""

FIRST_SCALE = 11
"""The pair that the first scale's heads read."""

RATIOS = (1.0, 2.0, 0.5, 3.0, 0.3333)
VARIANCES = (0.1, 0.1, 0.2, 0.2)
EPSILON = 0.001

SEEN = 64
"""Pixels of the coarsest feature map from which the statistics of a seeded batch norm come, at least."""


@dataclass(frozen=True)
class Limits:
    """``scores``: a detection's is above. ``overlap``: of boxes that overlap by more the better stays. ``keep``: how
    many detections an image can have."""

    scores: float = 0.3
    overlap: float = 0.6
    keep: int = 100


MLPERF = Limits()
COUNTS = ("num_detections", "detection_classes")


def ssd_mobilenet(
    size: int = 300,
    *,
    classes: int = 90,
    width: float = 1.0,
    weights: Mapping[str, Array] | None = None,
    seed: int = 0,
    batch: int | str = "n",
    limits: Limits | None = MLPERF,
) -> onnx.ModelProto:
    """Input ``input`` float32 [batch, 3, size, size], RGB from -1 to 1. Outputs: ``num_detections`` int32 [batch, 1],
    ``detection_boxes`` [batch, keep, 4], corners y1, x1, y2, x2 from 0 to 1, ``detection_scores`` [batch, keep],
    ``detection_classes`` int32 [batch, keep], 0 for the first that is not background; zeros behind the detections. With
    ``limits`` None there are ``boxes`` [batch, P, 4] and ``scores`` [batch, P, classes] of all anchors in their place.

    ``classes``: without background. ``width``: of MobileNet's channels. ``weights``: float32 arrays by initializer
    name, as `weights_of` gives them, the anchors among them; left out, ones of ``seed``, whose batch norms hold the
    statistics of noise, so that activations keep their size. Raises ValueError for weights that do not fit.
    """
    net = _Graph(weights, seed, size, width)
    scales = net.backbone()
    loc, conf = net.heads(scales, classes + 1)
    anchors = centred(anchors_of([net.sizes[scale] for scale in scales]))
    prior = {name: net.weight(f"anchor.{name}", value) for name, value in anchors.items()}
    count = len(anchors["y"][0])
    boxes, scores = net.decoded(loc, prior), net.scores(conf, classes)
    if limits is None:
        sizes: dict[str, list[int | str]] = {boxes: [batch, count, 4], scores: [batch, count, classes]}
    else:
        sizes = net.detections(boxes, scores, count, batch, limits)
    if weights is not None and (extra := set(weights) - {tensor.name for tensor in net.initializers}):
        raise ValueError(f"the network has no weights called {', '.join(sorted(extra))}")
    graph = helper.make_graph(
        net.nodes,
        "ssd_mobilenet",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, size, size])],
        [
            helper.make_tensor_value_info(name, TensorProto.INT32 if name in COUNTS else TensorProto.FLOAT, shape)
            for name, shape in sizes.items()
        ],
        [*net.initializers, *net.constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model if weights is not None else _warmed_up(model, seed)


def anchors_of(sizes: Sequence[int]) -> Array:
    """float32 [P, 4], y1, x1, y2, x2 from 0 to 1, of square feature maps of these sizes, by row, column and shape."""
    steps = [*np.linspace(0.2, 0.95, len(sizes)).tolist(), 1.0]
    rows = []
    for level, size in enumerate(sizes):
        shapes = [(steps[level], ratio) for ratio in RATIOS] + [(math.sqrt(steps[level] * steps[level + 1]), 1.0)]
        if level == 0:
            shapes = [(0.1, 1.0), (steps[0], 2.0), (steps[0], 0.5)]
        high = np.array([scale / math.sqrt(ratio) for scale, ratio in shapes])
        wide = np.array([scale * math.sqrt(ratio) for scale, ratio in shapes])
        centre = (np.arange(size) + 0.5) / size
        y, x = (axis[..., None] for axis in np.meshgrid(centre, centre, indexing="ij"))
        corners = np.stack([y - high / 2, x - wide / 2, y + high / 2, x + wide / 2], -1)
        rows.append(corners.reshape(-1, 4))
    return np.concatenate(rows).astype(np.float32)


def centred(anchors: Array) -> dict[str, Array]:
    """y, x, h, w of corners [P, 4], float32 [1, P, 1] each: what the network multiplies and adds."""
    y1, x1, y2, x2 = anchors.astype(np.float32).T
    parts = {"y": (y1 + y2) / 2, "x": (x1 + x2) / 2, "h": y2 - y1, "w": x2 - x1}
    return {name: value[None, :, None] for name, value in parts.items()}


def weights_of(model: onnx.ModelProto) -> dict[str, Array]:
    """What `ssd_mobilenet` takes as ``weights``: the initializers by name, without the constants of the decoder."""
    kept = [tensor for tensor in model.graph.initializer if not tensor.name.startswith("const.")]
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in kept}


class _Graph:
    """Nodes and initializers; a node's output has the node's name. ``sizes``: of the feature maps."""

    def __init__(self, weights: Mapping[str, Array] | None, seed: int, size: int, width: float) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.sizes = {"input": size}
        self._channels = {"input": 3}
        self._width = width
        self._weights = weights
        self._random = np.random.default_rng(seed)

    def node(self, op_type: str, name: str, *inputs: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name, **attributes))
        return name

    def weight(self, name: str, seeded: Array) -> str:
        """The given weight of that name, or the seeded one. float32."""
        value = seeded
        if self._weights is not None:
            if name not in self._weights or self._weights[name].shape != seeded.shape:
                found = self._weights[name].shape if name in self._weights else "nothing"
                raise ValueError(f"weight {name} must have the shape {seeded.shape}, given is {found}")
            value = self._weights[name]
        self.initializers.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), f"const.{name}"))
        return f"const.{name}"

    def backbone(self) -> list[str]:
        """The six feature maps that have heads."""
        x = self.relu6(self.conv("conv_0", "input", self._wide(32), 3, 2))
        scales = []
        for number, (channels, stride) in enumerate(BACKBONE, 1):
            x = self.relu6(self.norm(self.conv(f"conv_{number}.depthwise", x, 0, 3, stride)))
            x = self.relu6(self.conv(f"conv_{number}.pointwise", x, self._wide(channels)))
            if number == FIRST_SCALE:
                scales.append(x)
        scales.append(x)
        for number, (channels, kernel, stride) in enumerate(EXTRA):
            x = self.relu6(self.conv(f"extra_{number}", x, self._wide(channels), kernel, stride))
            if stride == 2:
                scales.append(x)
        return scales

    def heads(self, scales: Sequence[str], classes: int) -> tuple[str, str]:
        """Boxes [n, P, 4] and class scores [n, P, classes] of all scales."""
        made: dict[str, list[str]] = {"loc": [], "conf": []}
        for level, x in enumerate(scales):
            shapes = len(RATIOS) + 1 if level else 3
            for kind, values in (("loc", 4), ("conf", classes)):
                name = f"{kind}_{level}"
                y = self.conv(name, x, shapes * values, scale=0.3)
                y = self.node("Transpose", f"{name}.nhwc", y, perm=[0, 2, 3, 1])
                shape = (
                    self.constant(f"{kind}_shape", [0, -1, values], np.int64) if level == 0 else f"const.{kind}_shape"
                )
                made[kind].append(self.node("Reshape", f"{name}.rows", y, shape))
        return tuple(self.node("Concat", kind, *rows, axis=1) for kind, rows in made.items())  # type: ignore[return-value]

    def decoded(self, loc: str, prior: Mapping[str, str]) -> str:
        """Corners [n, P, 4]: centres and sizes of the anchors, moved and grown by what the heads say."""
        parts = [f"loc_{name}" for name in "yxhw"]
        self.nodes.append(helper.make_node("Split", [loc], parts, "loc_split", axis=2))
        scaled = {
            name: self.node("Mul", f"scaled_{name}", f"loc_{name}", self.constant(f"variance_{name}", value))
            for name, value in zip("yxhw", VARIANCES, strict=True)
        }
        half = self.constant("half", 0.5)
        corners: dict[str, list[str]] = {"low": [], "high": []}
        for place, extent in (("y", "h"), ("x", "w")):
            moved = self.node("Mul", f"moved_{place}", scaled[place], prior[extent])
            centre = self.node("Add", f"centre_{place}", moved, prior[place])
            grown = self.node(
                "Mul", f"size_{extent}", self.node("Exp", f"growth_{extent}", scaled[extent]), prior[extent]
            )
            side = self.node("Mul", f"half_{extent}", grown, half)
            corners["low"].append(self.node("Sub", f"low_{place}", centre, side))
            corners["high"].append(self.node("Add", f"high_{place}", centre, side))
        return self.node("Concat", "boxes", *corners["low"], *corners["high"], axis=2)

    def scores(self, conf: str, classes: int) -> str:
        """[n, P, classes], without background."""
        ends = [
            self.constant(f"slice_{what}", [value], np.int64)
            for what, value in (("from", 1), ("to", classes + 1), ("axis", 2))
        ]
        return self.node("Sigmoid", "scores", self.node("Slice", "foreground", conf, *ends))

    def detections(
        self, boxes: str, scores: str, count: int, batch: int | str, limits: Limits
    ) -> dict[str, list[int | str]]:
        """The four outputs and their shapes, of corners [n, P, 4] and class scores [n, P, classes]. ``count``: P."""
        by_class = self.node("Transpose", "scores_by_class", scores, perm=[0, 2, 1])
        keep = self.constant("keep", [limits.keep], np.int64)
        bounds = [self.constant("overlap", limits.overlap), self.constant("least", limits.scores)]
        found = self.node("NonMaxSuppression", "selected", boxes, by_class, keep, *bounds)
        picked = self.node("GatherND", "selected_scores", by_class, found)
        shape = self.node("Shape", "scores_shape", by_class)
        value = helper.make_tensor("value", TensorProto.FLOAT, [1], [-1.0])
        nothing = self.node("ConstantOfShape", "nothing", shape, value=value)
        left = self.node("ScatterND", "survivors", nothing, found, picked)
        flat = self.node("Reshape", "survivors_flat", left, self.constant("by_image", [0, -1], np.int64))
        padding = self.constant("padding", [0, 0, 0, limits.keep], np.int64)
        enough = self.node("Pad", "survivors_padded", flat, padding, self.constant("out", -1.0))
        self.nodes.append(helper.make_node("TopK", [enough, keep], ["best", "places"], "best", axis=1))
        self._outputs(boxes, count)
        keep_all: list[int | str] = [batch, limits.keep]
        return {
            "num_detections": [batch, 1],
            "detection_boxes": [*keep_all, 4],
            "detection_scores": keep_all,
            "detection_classes": keep_all,
        }

    def _outputs(self, boxes: str, count: int) -> None:
        none, zero = self.constant("none", 0.0), self.constant("zero", 0, np.int64)
        first, last = self.constant("first_axis", [1], np.int64), self.constant("last_axis", [2], np.int64)
        number = self.constant("count", count, np.int64)
        valid = self.node("Greater", "valid", "best", self.constant("below", -0.5))
        counted = self.node("Cast", "valid_number", valid, to=TensorProto.INT32)
        self.node("ReduceSum", "num_detections", counted, first, keepdims=1)
        self.node("Where", "detection_scores", valid, "best", none)
        kind = self.node("Where", "class", valid, self.node("Div", "class_of_place", "places", number), zero)
        self.node("Cast", "detection_classes", kind, to=TensorProto.INT32)
        row = self.node("Unsqueeze", "box_row", self.node("Mod", "box_of_place", "places", number), last)
        best = self.node("GatherND", "best_boxes", boxes, row, batch_dims=1)
        best = self.node("Where", "detected_boxes", self.node("Unsqueeze", "valid_row", valid, last), best, none)
        self.node("Clip", "detection_boxes", best, none, self.constant("edge", 1.0))

    def conv(self, name: str, x: str, outputs: int, kernel: int = 1, stride: int = 1, *, scale: float = 1.0) -> str:
        """With TensorFlow's SAME padding, one pixel more at the end. No ``outputs``: depthwise, without bias."""
        inputs = self._channels[x]
        depthwise = not outputs
        fan_in = (1 if depthwise else inputs) * kernel**2
        shape = (inputs if depthwise else outputs, 1 if depthwise else inputs, kernel, kernel)
        values = self._random.standard_normal(shape, np.float32) * np.float32(scale * (2 / fan_in) ** 0.5)
        parts = [self.weight(f"{name}.weight", values)]
        if not depthwise:
            parts.append(self.weight(f"{name}.bias", np.zeros(outputs, np.float32)))
        size = self.sizes[x]
        self.sizes[name] = -(-size // stride)
        padding = max((self.sizes[name] - 1) * stride + kernel - size, 0)
        self._channels[name] = outputs or inputs
        return self.node(
            "Conv",
            name,
            x,
            *parts,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[padding // 2, padding // 2, padding - padding // 2, padding - padding // 2],
            group=inputs if depthwise else 1,
        )

    def norm(self, x: str) -> str:
        name, channels = f"{x}.norm", self._channels[x]
        values = {
            "scale": np.ones(channels),
            "bias": np.zeros(channels),
            "mean": np.zeros(channels),
            "var": np.ones(channels),
        }
        parts = [self.weight(f"{name}.{part}", value.astype(np.float32)) for part, value in values.items()]
        return self._same(self.node("BatchNormalization", name, x, *parts, epsilon=EPSILON), x)

    def relu6(self, x: str) -> str:
        if not any(constant.name == "const.six" for constant in self.constants):
            self.constant("six", 6.0)
            self.constant("relu_zero", 0.0)
        return self._same(self.node("Clip", f"{x}.relu6", x, "const.relu_zero", "const.six"), x)

    def _same(self, made: str, x: str) -> str:
        self.sizes[made], self._channels[made] = self.sizes[x], self._channels[x]
        return made

    def _wide(self, channels: int) -> int:
        return max(8, int(channels * self._width))


def _warmed_up(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """With the mean and variance that each batch norm sees when noise goes through the network, one after another."""
    size = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    images = max(2, SEEN // (size // 32 or 1) ** 2)
    noise = np.random.default_rng(seed).uniform(-1, 1, (images, 3, size, size)).astype(np.float32)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    x, start = noise, "input"
    norms = [(place, node) for place, node in enumerate(model.graph.node) if node.op_type == "BatchNormalization"]
    first = 0
    for place, node in norms:
        part = helper.make_graph(
            model.graph.node[first:place],
            "part",
            [helper.make_tensor_value_info(start, TensorProto.FLOAT, x.shape)],
            [helper.make_tensor_value_info(node.input[0], TensorProto.FLOAT, [None] * 4)],
            [
                weights[name]
                for each in model.graph.node[first:place]
                for name in dict.fromkeys(each.input)
                if name in weights
            ],
        )
        _drop_doubles(part)
        proto = helper.make_model(part, opset_imports=model.opset_import, ir_version=8)
        x = _run(proto, {start: x})
        for name, value in zip(node.input[3:], (x.mean((0, 2, 3)), x.var((0, 2, 3))), strict=True):
            weights[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
        first, start = place, node.input[0]
    return model


def _drop_doubles(graph: onnx.GraphProto) -> None:
    unique = {tensor.name: tensor for tensor in graph.initializer}
    del graph.initializer[:]
    graph.initializer.extend(unique.values())


def _run(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> Array:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    made: Array = session.run(None, dict(feeds))[0]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=300, help="pixels of an edge")
    parser.add_argument("--classes", type=int, default=90, help="without background")
    parser.add_argument("--width", type=float, default=1.0, help="of MobileNet's channels")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    parser.add_argument("--raw", action="store_true", help="without non-maximum suppression: all boxes and scores")
    options = parser.parse_args()
    model = ssd_mobilenet(
        options.size,
        classes=options.classes,
        width=options.width,
        seed=options.seed,
        limits=None if options.raw else MLPERF,
    )
    onnx.save(model, options.out)


if __name__ == "__main__":
    main()
