"""Which precision each layer of a plain graph had in the quantized model, to hold TensorRT to it.

With a calibration cache TensorRT runs in INT8 whatever has scales and is faster so. Layers that the quantized model
kept in float on purpose would follow; a constraint per layer keeps them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from onnx import NodeProto

from trtforge.files import write_text
from trtforge.graph.index import Index, fresh_name
from trtforge.graph.labels import label
from trtforge.graph.model import Model
from trtforge.graph.shapes import infer_shapes, tensor_types
from trtforge.scales.carry import Carried
from trtforge.scales.codecs.extraction import Extraction
from trtforge.scales.codecs.placement import WEIGHTED

Precision = Literal["int8", "float", "fused"]
FLOATS = ("float32", "float16", "bfloat16")
_FUSES = ("Add", "BatchNormalization", "Clip", "LeakyRelu", "Mul", "PRelu", "Relu")
_IN_INT8 = frozenset(
    {
        *WEIGHTED,
        *("Add", "Sub", "Mul", "Max", "Min", "Concat", "BatchNormalization", "Resize", "Upsample"),
        *("Relu", "LeakyRelu", "PRelu", "Clip"),
        *("AveragePool", "GlobalAveragePool", "MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMean"),
        *(
            "DepthToSpace",
            "Expand",
            "Flatten",
            "Gather",
            "Identity",
            "Pad",
            "Reshape",
            "Slice",
            "SpaceToDepth",
            "Split",
        ),
        *("Squeeze", "Tile", "Transpose", "Unsqueeze"),
    }
)
"""Operators that TensorRT may run in INT8. A constraint to INT8 on another one would fail a build that must obey."""

_UNWRITABLE = frozenset(",:'\"*+ ")


@dataclass(frozen=True)
class LayerPrecision:
    """``fused``: the layer continues an INT8 one and has no constraint; the compiler decides where it fuses."""

    op: str
    precision: Precision
    why: str


@dataclass(frozen=True)
class Precisions:
    """By node name, in the order of the graph. Layers on integers (shapes, indices) are not among them."""

    layers: Mapping[str, LayerPrecision]

    def of(self, precision: Precision) -> list[str]:
        return [name for name, layer in self.layers.items() if layer.precision == precision]

    def constraints(self, floating: str = "fp16") -> dict[str, str]:
        """Layer name -> "int8" or ``floating``: what a builder sets on its layers. Fused ones are left out."""
        return {
            name: "int8" if layer.precision == "int8" else floating
            for name, layer in self.layers.items()
            if layer.precision != "fused"
        }

    def spec(self, floating: str = "fp16") -> str:
        """The value of trtexec's ``--layerPrecisions``; names that cannot stand in it are left out."""
        bad = set(self.unwritable())
        return ",".join(f"{name}:{value}" for name, value in self.constraints(floating).items() if name not in bad)

    def unwritable(self) -> list[str]:
        """Constrained layers whose names hold a character that has a meaning in a trtexec specification."""
        return [name for name in self.constraints() if _UNWRITABLE & set(name)]

    def to_json(self) -> dict[str, Any]:
        return {
            "format": "trtforge-precisions",
            "version": 1,
            "layers": {name: dict(vars(layer)) for name, layer in self.layers.items()},
            "trtexec": ["--precisionConstraints=prefer", f"--layerPrecisions={self.spec()}"],
            "not_in_trtexec": self.unwritable(),
        }

    def save(self, path: Path) -> None:
        """Write the file whole or not at all. Raises OSError."""
        write_text(path, json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n")


def name_nodes(model: Model) -> int:
    """Give nameless nodes, and those that share a name, one of their own, in place: TensorRT finds layers by name.

    Returns how many got one. The name is that of the first output.
    """
    taken: set[str] = set()
    renamed = 0
    for node in model.proto.graph.node:
        if node.name and node.name not in taken:
            taken.add(node.name)
            continue
        node.name = fresh_name(next(filter(None, node.output), node.op_type), taken)
        renamed += 1
    return renamed


def precisions(found: Extraction, carried: Carried) -> Precisions:
    """The precision of every floating-point layer of ``found.model``; a nameless node is called as `name_nodes` would.

    INT8 are layers that read all their activations, and their weight, quantized (through a pair, or over operators
    that keep values), where TensorRT has such a kernel. A layer that continues an INT8 one (its activation, its
    residual sum) is "fused". All others were float.
    """
    index = Index(found.model.proto.graph)
    floats = _float_tensors(found.model)
    layers: dict[str, LayerPrecision] = {}
    for node in index.graph.node:
        output = next(filter(None, node.output), "")
        if node.op_type in ("Constant", "Cast") or output not in floats:
            continue  # a Cast is a change of type: it has no precision of its own
        layers[label(node)] = _judge(node, index, floats, found, carried, layers)
    return Precisions(layers)


def _judge(
    node: NodeProto,
    index: Index,
    floats: set[str],
    found: Extraction,
    carried: Carried,
    before: Mapping[str, LayerPrecision],
) -> LayerPrecision:
    output = next(filter(None, node.output), "")
    needed = [
        slot
        for slot, name in enumerate(node.input)
        if name in floats and (index.constant(name) is None or (node.op_type in WEIGHTED and slot < 2))
    ]
    plain = [slot for slot in needed if (output, slot) not in found.reads and node.input[slot] not in carried.via]
    if not needed:
        return LayerPrecision(node.op_type, "float", "it reads no activation")
    if node.op_type not in _IN_INT8:
        return LayerPrecision(node.op_type, "float", f"TensorRT is not known to run {node.op_type} in INT8")
    if not plain:
        return LayerPrecision(node.op_type, "int8", "all it reads is quantized")
    first = node.input[plain[0]]
    maker = index.producer(first)
    continues = (
        node.op_type in _FUSES
        and len(plain) == 1
        and maker is not None
        and index.only_consumer(first) is not None
        and label(maker) in before
        and before[label(maker)].precision != "float"
    )
    if continues and maker is not None:
        return LayerPrecision(node.op_type, "fused", f"it continues {label(maker)}, which is INT8")
    return LayerPrecision(node.op_type, "float", f"its input {first!r} is not quantized")


def _float_tensors(model: Model) -> set[str]:
    types = tensor_types(infer_shapes(model))
    return {name for name, (dtype, _) in types.items() if dtype in FLOATS}
