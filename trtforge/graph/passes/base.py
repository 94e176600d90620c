"""What a surgery pass is: a named edit with a contract, that says what it did or why it did nothing.

A pass gets a *skeleton*: a model whose big inline weights are parked and whose external weights are in their
files. It edits the skeleton in place. Unless it declares otherwise in ``redefines``, it keeps the names, types
and order of graph inputs and outputs, and a tensor name that exists before and after denotes the same value.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from onnx import TensorProto

from trtforge.graph.model import Model
from trtforge.graph.weights import Parked, read_tensor
from trtforge.progress import QUIET, Progress

Redefinition = Literal["inputs", "outputs", "values"]


@dataclass
class Context:
    """What a pass may use besides the model: the values of weights, and a place to report to."""

    model: Model
    parked: Parked = field(default_factory=Parked)
    progress: Progress = QUIET

    def values(self, tensor: TensorProto) -> np.ndarray[Any, Any]:
        """The values of a weight of the skeleton, wherever its bytes are. Raises as ``read_tensor`` does."""
        return read_tensor(self.model, self.parked.find(tensor))


@dataclass(frozen=True)
class PassResult:
    """``reason``: one sentence, what was done, or, when not ``modified``, why nothing was."""

    modified: bool
    reason: str


class Pass(ABC):
    """One edit. The class docstring is its manual page."""

    name: ClassVar[str]
    redefines: ClassVar[frozenset[Redefinition]] = frozenset()
    """What the pass changes on purpose: the shape of inputs, the set of outputs, the values of tensors."""

    ranges_from_before: ClassVar[bool] = False
    """INT8 ranges are gathered on the graph without this pass, and hold for the graph with it."""

    @property
    def doc(self) -> str:
        """The manual page."""
        return inspect.cleandoc(type(self).__doc__ or "")

    def requires(self, model: Model) -> str:
        """A sentence when the pass cannot even start on this model, else empty."""
        return ""

    @abstractmethod
    def apply(self, model: Model, context: Context) -> PassResult:
        """Edit ``model.proto`` in place. Applied a second time it must report ``modified=False``."""

    def ensures(self, model: Model) -> str:
        """A sentence when the result is not what the pass promises, else empty."""
        return ""


def count(number: int, singular: str) -> str:
    """`1 node`, `3 nodes`."""
    return f"{number} {singular}" + ("" if number == 1 else "s")
