"""The conv2_x stage in ONNX's textual syntax, in every spelling that the rule reads."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st

from trtforge.graph.model import Model
from trtforge.ort import open_session, session_options

Array = np.ndarray[Any, Any]

LARGEST = "3.4028234663852886e38"
PADS = {
    "pads": {"pads": "[1, 1, 1, 1]"},
    "upper": {"auto_pad": '"SAME_UPPER"'},
    "lower": {"auto_pad": '"SAME_LOWER"'},
}


@dataclass(frozen=True)
class Spelling:
    """``channels``: of the input, the inner convolutions, the output. ``relu``: relu, clip (no upper bound), clip-max
    (the largest float32 for one). ``stated``: defaults of the convolutions are written out. ``constants``: weights are
    Constant nodes. ``nhwc``: the graph's input is, and a Transpose stands in front of the pool. ``shuffle``: tensors
    and nodes have names that say nothing. ``tail``: nodes come behind the stage."""

    channels: tuple[int, int, int] = (32, 32, 64)
    batch: int | str = 2
    size: tuple[int | str, int | str] = (5, 6)
    opset: int = 17
    bias: bool = True
    norm: bool = False
    pads: str = "pads"
    relu: str = "relu"
    addition: str = "Add"
    shortcut_first: bool = False
    stated: bool = True
    constants: bool = False
    nhwc: bool = False
    shuffle: bool = False
    tail: bool = True
    blocks: str = "abc"
    seed: int = 0


def spellings(**fixed: Any) -> st.SearchStrategy[Spelling]:
    """Every accepted spelling."""
    flag = st.booleans()
    drawn = {
        "channels": st.sampled_from([(32, 32, 64), (64, 32, 96), (32, 64, 32)]),
        "batch": st.sampled_from([1, 3, "n"]),
        "size": st.sampled_from([(1, 1), (5, 6), ("h", "w")]),
        "opset": st.sampled_from([9, 11, 13, 17, 21]),
        "bias": flag,
        "norm": flag,
        "pads": st.sampled_from(sorted(PADS)),
        "relu": st.sampled_from(["relu", "clip", "clip-max"]),
        "addition": st.sampled_from(["Add", "Sum"]),
        "shortcut_first": flag,
        "stated": flag,
        "constants": flag,
        "nhwc": flag,
        "shuffle": flag,
        "tail": flag,
        "seed": st.integers(0, 1000),
    }
    return st.builds(Spelling, **{name: each for name, each in drawn.items() if name not in fixed}).map(
        lambda spelling: replace(spelling, **fixed)
    )


@dataclass
class Line:
    """A node whose name is that of its output."""

    operator: str
    inputs: list[str]
    attributes: dict[str, str] = field(default_factory=dict)

    def text(self, name: str) -> str:
        attributes = ", ".join(f"{key} = {value}" for key, value in self.attributes.items())
        stated = f" <{attributes}>" if attributes else ""
        return f"[{name}] {name} = {self.operator}{stated} ({', '.join(self.inputs)})"


class Stage:
    """A graph around the stage: image -> x -> the stage -> y. Lines are in the order of the data."""

    def __init__(self, spelling: Spelling) -> None:
        self.spelling = spelling
        self.rng = np.random.default_rng(spelling.seed)
        self.lines: dict[str, Line] = {}
        self.weights: dict[str, Array] = {
            "zero": np.float32(0),
            "six": np.float32(6),
            "largest": np.finfo(np.float32).max,
        }
        self.outputs: list[str] = []
        image = "image"
        if spelling.nhwc:
            image = self.add("transposed", "Transpose", [image], perm="[0, 3, 1, 2]")
        pooled = self.add("x", "MaxPool", [image], kernel_shape="[3, 3]", pads="[1, 1, 1, 1]")
        for name in spelling.blocks:
            pooled = self.block(name, pooled, projected=name == "a")
        if spelling.tail:
            pooled = self.add("y", "MaxPool", [pooled], kernel_shape="[1, 1]")
        self.outputs.append(pooled)

    def add(self, name: str, operator: str, inputs: list[str], **attributes: str) -> str:
        self.lines[name] = Line(operator, inputs, attributes)
        return name

    def weight(self, name: str, values: Array) -> str:
        self.weights[name] = np.asarray(values, np.float32)
        return name

    def block(self, name: str, source: str, *, projected: bool) -> str:
        """A bottleneck behind a tensor of the stage; the name of its result."""
        entered, inner, made = self.spelling.channels
        width = entered if source == "x" else made
        shortcut = self._conv(f"{name}_branch1", source, made, width, 1) if projected else source
        first = self._relu(self._conv(f"{name}_2a", source, inner, width, 1), f"{name}_2a_relu")
        second = self._relu(self._conv(f"{name}_2b", first, inner, inner, 3), f"{name}_2b_relu")
        third = self._conv(f"{name}_2c", second, made, inner, 1)
        summed = [shortcut, third] if self.spelling.shortcut_first else [third, shortcut]
        self.add(f"{name}_add", self.spelling.addition, summed)
        return self._relu(f"{name}_add", f"{name}_relu")

    def _conv(self, name: str, source: str, outputs: int, inputs: int, kernel: int) -> str:
        spread = np.sqrt(1 / (inputs * kernel * kernel))
        operands = [source, self.weight(f"{name}_w", self.rng.normal(0, spread, (outputs, inputs, kernel, kernel)))]
        if self.spelling.bias:
            operands.append(self.weight(f"{name}_b", self.rng.normal(0, 0.2, outputs)))
        attributes = dict(PADS[self.spelling.pads]) if kernel == 3 else {}
        if self.spelling.stated:
            attributes |= {"kernel_shape": f"[{kernel}, {kernel}]", "strides": "[1, 1]", "dilations": "[1, 1]"}
            attributes |= {"group": "1"} | ({"pads": "[0, 0, 0, 0]"} if kernel == 1 else {})
        self.add(name, "Conv", operands, **attributes)
        return self._norm(name, outputs) if self.spelling.norm else name

    def _norm(self, name: str, channels: int) -> str:
        values = {
            "scale": self.rng.uniform(0.5, 1.5, channels),
            "shift": self.rng.normal(0, 0.2, channels),
            "mean": self.rng.normal(0, 0.2, channels),
            "variance": self.rng.uniform(0.5, 1.5, channels),
        }
        operands = [self.weight(f"{name}_{what}", each) for what, each in values.items()]
        return self.add(f"{name}_bn", "BatchNormalization", [name, *operands], epsilon="0.001")

    def _relu(self, source: str, name: str) -> str:
        if self.spelling.relu == "relu":
            return self.add(name, "Relu", [source])
        if self.spelling.opset < 11:
            return self.add(
                name, "Clip", [source], min="0.0", **({"max": LARGEST} if "max" in self.spelling.relu else {})
            )
        return self.add(name, "Clip", [source, "zero", *(["largest"] if "max" in self.spelling.relu else [])])

    def value(self, name: str) -> str:
        """What a convolution makes, normalized."""
        return f"{name}_bn" if self.spelling.norm else name

    def behind(self, tensor: str, name: str, operator: str, *more: str, **attributes: str) -> None:
        """A new node between a tensor and all its readers."""
        for line in self.lines.values():
            line.inputs = [name if each == tensor else each for each in line.inputs]
        self._insert_after(tensor, name, Line(operator, [tensor, *more], attributes))

    def before(self, reader: str, name: str, operator: str, *more: str, **attributes: str) -> None:
        """A new node between the first input of one node and it."""
        source = self.lines[reader].inputs[0]
        self.lines[reader].inputs[0] = name
        self._insert_after(source, name, Line(operator, [source, *more], attributes))

    def _insert_after(self, tensor: str, name: str, line: Line) -> None:
        lines: dict[str, Line] = {}
        for key, each in self.lines.items():
            lines[key] = each
            if key == tensor:
                lines[name] = line
        self.lines = lines if name in lines else {name: line, **lines}

    def swap(self, name: str, operator: str, *more: str) -> None:
        """Another operator in a node's place."""
        self.lines[name] = Line(operator, [self.lines[name].inputs[0], *more])

    def compute(self, weight: str) -> None:
        """A weight goes through a node, ``weight``_again."""
        for line in self.lines.values():
            line.inputs = [f"{weight}_again" if each == weight else each for each in line.inputs]
        self.lines = {f"{weight}_again": Line("Identity", [weight]), **self.lines}

    def drop(self, name: str) -> None:
        """Without a node: its readers read its input."""
        source = self.lines.pop(name).inputs[0]
        for line in self.lines.values():
            line.inputs = [source if each == name else each for each in line.inputs]

    def model(self) -> Model:
        batch, height, width = self.spelling.batch, *self.spelling.size
        shape = [batch, self.spelling.channels[0], height, width]
        if self.spelling.nhwc:
            shape = [batch, height, width, self.spelling.channels[0]]
        body = "\n".join(line.text(name) for name, line in self.lines.items())
        outputs = ", ".join(f"float[] {name}" for name in self.outputs)
        proto = onnx.parser.parse_model(f"""
            <ir_version: 8, opset_import: ["" : {self.spelling.opset}]>
            stage (float[{", ".join(map(str, shape))}] image) => ({outputs}) {{ {body} }}
        """)
        read = {name for node in proto.graph.node for name in node.input}
        tensors = [
            onnx.numpy_helper.from_array(np.asarray(each), name) for name, each in self.weights.items() if name in read
        ]
        if self.spelling.constants:
            nodes = [onnx.helper.make_node("Constant", [], [each.name], value=each) for each in tensors]
            nodes += proto.graph.node
            proto.graph.ClearField("node")
            proto.graph.node.extend(nodes)
        else:
            proto.graph.initializer.extend(tensors)
        if self.spelling.shuffle:
            _forget_names(proto, self.rng)
        inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
        onnx.checker.check_model(inferred)
        return Model(inferred)


def _forget_names(proto: onnx.ModelProto, rng: np.random.Generator) -> None:
    from trtforge.graph.index import Index, rename_tensors

    names = sorted(Index(proto.graph).names() - {"image"})
    numbers = rng.permutation(len(names))
    rename_tensors(proto.graph, {name: f"t{number}" for name, number in zip(names, numbers, strict=True)})
    for number, node in enumerate(proto.graph.node):
        node.name = f"n{number}"


def image_of(model: Model, seed: int = 0) -> Array:
    """An input for the graph; 2, 5, 6 for sizes that are open."""
    dims = model.proto.graph.input[0].type.tensor_type.shape.dim
    shape = [dim.dim_value or {"n": 2, "h": 5, "w": 6}[dim.dim_param] for dim in dims]
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def computed(model: Model, image: Array) -> list[Array]:
    """The graph's outputs in onnxruntime, not optimised."""
    from onnxruntime import GraphOptimizationLevel

    options = session_options(threads=1)
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    found: list[Array] = open_session(model.proto, model.folder, options).run(None, {"image": image})
    return found
