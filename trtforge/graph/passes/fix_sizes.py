"""The sizes a recipe gives the inputs, known early to passes that need them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trtforge.graph.model import Model
from trtforge.graph.passes.base import Context, Pass, PassResult
from trtforge.graph.shapes import infer_in_place


class FixSizes(Pass):
    """Give open sizes of the inputs the recipe's values, all but the first: calibration chooses its own batch.

    Sizes that the model states stay; whether the recipe's agree with them is looked at when the engine is built.
    """

    name = "fix-sizes"
    redefines = frozenset({"inputs"})

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        self._shapes = shapes

    def apply(self, model: Model, context: Context) -> PassResult:
        fixed = 0
        for value in model.proto.graph.input:
            sizes = value.type.tensor_type.shape.dim
            wanted = self._shapes.get(value.name, ())
            if len(sizes) != len(wanted):
                continue
            for size, number in zip(sizes[1:], wanted[1:], strict=True):
                if not size.HasField("dim_value"):
                    size.dim_value = number
                    fixed += 1
        if not fixed:
            return PassResult(False, "the inputs have no open sizes but the batch")
        for value in model.proto.graph.output:  # inference states them again
            for size in value.type.tensor_type.shape.dim:
                if size.HasField("dim_param"):
                    size.Clear()
        infer_in_place(model)
        return PassResult(True, f"fixed {fixed} sizes of the inputs")
