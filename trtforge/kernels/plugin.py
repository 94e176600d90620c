"""What one of our TensorRT plugins is, without TensorRT: types, formats, shapes, and the kernels it launches.

Each plugin describes itself once (plugins/NAME/plugin.py). `trtforge.kernels.tensorrt` makes the classes of it that
TensorRT 10 and 11 and TensorRT-RTX ask for; the GPU tests and benchmarks launch the same description without TensorRT.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from trtforge.digest import digest_json
from trtforge.kernels.cubins import KernelSet
from trtforge.kernels.launch import Launch, ints

__all__ = ["Fields", "Launch", "PluginKind", "Size", "Tensor", "aligned", "ints"]

Array = np.ndarray[Any, Any]
Layout = Literal["linear", "chw4", "chw32", "cdhw32", "hwc8", "dhwc8"]
Fields = Mapping[str, Any]
NAMESPACE = "trtforge"
VERSION = "1"


class Size(Protocol):
    """One size of a shape: a number, or an expression over sizes that are not known yet."""

    def __add__(self, other: Any) -> Any: ...
    def __sub__(self, other: Any) -> Any: ...
    def __mul__(self, other: Any) -> Any: ...
    def __floordiv__(self, other: Any) -> Any: ...


@dataclass(frozen=True)
class Tensor:
    """An input or output as the kernels meet it. ``dtype`` as NumPy spells it; ``shape`` without a layout's padding."""

    dtype: str
    layout: str
    shape: tuple[int, ...] = ()

    @property
    def elements(self) -> int:
        return prod(self.shape)


class PluginKind(ABC):
    """One operator of ours in TensorRT: namespace "trtforge", version "1", name as the ONNX function.

    ``fields``: attribute -> its type. ``tensors``: what launches call the inputs, then the outputs. ``weights``: how
    many of the inputs, the last ones, are constants that the kernels read in an order, or a type, of their own.
    ``half``: a graph in float16 may have it, with all float inputs and outputs of the ONNX function in float16.
    """

    name: ClassVar[str]
    kernels: ClassVar[KernelSet]
    tensors: ClassVar[tuple[str, ...]]
    fields: ClassVar[Mapping[str, Literal["int", "float", "ints", "floats"]]] = {}
    weights: ClassVar[int] = 0
    half: ClassVar[bool] = False

    @abstractmethod
    def accepts(self, position: int, tensors: Sequence[Tensor]) -> bool:
        """May the tensor at ``position`` (inputs, then outputs) have its type and layout, given those before it?"""

    @abstractmethod
    def output_types(self, inputs: Sequence[str]) -> tuple[str, ...]:
        """dtype of each output from those of the inputs."""

    @abstractmethod
    def output_shapes(self, inputs: Sequence[Sequence[Size]], fields: Fields) -> list[list[Any]]:
        """Shape of each output from those of the inputs, by + - * // only."""

    def workspace(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], fields: Fields) -> Mapping[str, int]:
        """Pieces of scratch memory on the device by name, in bytes; each begins on a multiple of 256."""
        return {}

    def compile_weights(self, weights: Sequence[Array], fields: Fields) -> list[Array]:
        """The constant inputs in the order the kernels read them; the engine is given these."""
        return list(weights)

    @abstractmethod
    def launches(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], fields: Fields) -> Sequence[Launch]:
        """What one execution launches, in order, on one stream."""

    def addresses(self, pointers: Sequence[int], workspace: int, pieces: Mapping[str, int]) -> dict[str, int]:
        """Where the launches' tensors and pieces of workspace lie. ``pointers``: inputs, then outputs."""
        found = dict(zip(self.tensors, pointers, strict=True))
        for name, size in pieces.items():
            found[name] = workspace
            workspace += aligned(size)
        return found

    def source_digest(self) -> str:
        """Of the kernels' sources: an engine runs only with the sources it was built for."""
        return digest_json(self.kernels.digests())


def aligned(size: int) -> int:
    """Bytes up to where the next piece of workspace may begin."""
    return -(-size // 256) * 256
