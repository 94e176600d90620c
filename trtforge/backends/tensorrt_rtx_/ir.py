"""The layer list inside a TensorRT-RTX plan: which layers the compiler made, and on which types they compute.

Each compiled region of a plan carries the compiler's intermediate form as text::

    header { ... accelerators={sm80 } }
    descriptors { tensor={ dims={ 1 64 } name="a" type=int8 ... } ... }
    main { corrltn={ name="conv" output={"b" } input={"a" "w" } ... layers="[ONNX Layer: conv]" } ... }

It is not documented and may change with any release: it answers "did INT8 really happen", which the compiler does
not say otherwise, and is never needed to run a plan. Reading is bounded by the sizes the plan declares and linear in
them; weights are not touched.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KNOWN_VERSIONS = ("1.7.",)
"""TensorRT-RTX versions whose plans always carry the text; elsewhere its absence is not an error."""

OP_OF_KIND = {"corrltn": "Conv", "deconvolution": "ConvTranspose", "fully_connected": "MatMul"}
"""The compiler's name of a layer with weights -> ONNX operator; every other kind is reported by its own name."""

_TAG = b"NLYM"
_TEXT_START = b"header {"
_LONGEST_TEXT = 1 << 28
_FIELD = re.compile(
    r"""(\w+)\s*=\s*(
        "[^"]*+"                        # a string
      | \{(?:"[^"]*+"|[^{}"])*+\}       # a list of words or strings
      | [^\s{}"]+                       # a word
    )""",
    re.VERBOSE,
)
_ONNX_LAYER = "[ONNX Layer: "
_LAYER_SEPARATOR = "\x1f"
_WORD = re.compile(r'"([^"]*)"|([^\s{}"]+)')


@dataclass(frozen=True)
class Tensor:
    name: str
    type: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One step of the compiled program. ``nodes``: the ONNX nodes it came from, as far as the compiler says."""

    kind: str
    name: str
    nodes: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def op(self) -> str:
        return OP_OF_KIND.get(self.kind, self.kind)

    @property
    def has_weights(self) -> bool:
        return self.kind in OP_OF_KIND

    @property
    def is_int8(self) -> bool:
        """Data and weights, the first two operands, are both int8."""
        return len(self.inputs) > 1 and self.inputs[0].type == self.inputs[1].type == "int8"

    def to_json(self) -> dict[str, Any]:
        return {
            "op": self.op,
            "name": self.name,
            "onnx_nodes": list(self.nodes),
            "int8": self.is_int8 if self.has_weights else None,
            "inputs": [_tensor_json(tensor) for tensor in self.inputs],
            "outputs": [_tensor_json(tensor) for tensor in self.outputs],
        }


def read_layers(plan: Path) -> list[Layer]:
    """Every layer of every compiled region, in the order of the plan; empty where no text was found.

    Raises OSError. Text that does not parse gives fewer layers, never an exception: callers compare counts.
    """
    return [layer for text in _texts(plan) for layer in parse(text)]


def parse(text: str) -> Iterator[Layer]:
    """The layers of one region's text."""
    tensors: dict[str, Tensor] = {}
    for kind, body in _statements(text):
        fields = dict(_FIELD.findall(body))
        if kind.endswith("tensor"):  # also sub_tensor, a view of another
            name = _unquote(fields.get("name", ""))
            shape = tuple(int(word) for word in _words(fields.get("dims", "")) if word.lstrip("-").isdigit())
            tensors[name] = Tensor(name, fields.get("type", ""), shape)
        elif "layers" in fields or kind in OP_OF_KIND:
            yield Layer(
                kind,
                _unquote(fields.get("name", "")),
                _onnx_nodes(_unquote(fields.get("layers", ""))),
                _operands(fields, ("input", "input_args"), tensors),
                _operands(fields, ("output", "output_args"), tensors),
            )


def _texts(plan: Path) -> Iterator[str]:
    with plan.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        position = data.find(_TAG)
        while position >= 0:
            start, after = position + 16, position + len(_TAG)  # tag, u32, u64 length, text
            if data[start : start + len(_TEXT_START)] == _TEXT_START:
                length = min(struct.unpack_from("<Q", data, position + 8)[0], len(data) - start, _LONGEST_TEXT)
                yield data[start : start + length].split(b"\0", 1)[0].decode("utf-8", "replace")
                after = start + length
            position = data.find(_TAG, after)


def _statements(text: str) -> Iterator[tuple[str, str]]:
    """``kind={ body }`` is one line each in `descriptors` and `main`; all other lines are not of interest."""
    for line in text.split("\n"):
        kind, equals, body = line.strip().partition("={ ")
        if equals and kind.isidentifier() and body.endswith("}"):
            yield kind, body[:-1]


def _onnx_nodes(value: str) -> tuple[str, ...]:
    parts = value.split(_LAYER_SEPARATOR)
    return tuple(part[len(_ONNX_LAYER) : -1] for part in parts if part.startswith(_ONNX_LAYER))


def _operands(fields: Mapping[str, str], keys: tuple[str, ...], tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    for key in keys:
        if key in fields:
            return tuple(tensors.get(name, Tensor(name, "", ())) for name in _words(fields[key]))
    return ()


def _words(value: str) -> list[str]:
    return [quoted or bare for quoted, bare in _WORD.findall(value)]


def _unquote(value: str) -> str:
    return value[1:-1] if value.startswith('"') else value


def _tensor_json(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "type": tensor.type, "shape": list(tensor.shape)}
