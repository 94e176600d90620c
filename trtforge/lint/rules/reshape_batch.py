"""GRF106: a Reshape whose constant shape does not fit the recipe's input shapes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.nodes import DEFAULT_DOMAINS, integer, place
from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from onnx import TensorProto

    from trtforge.lint.context import Context


class ReshapeBatch(Rule):
    """What it does
        Counts the elements of every Reshape with a constant shape, under the input shapes of the recipe.

    Why it matters
        Exporters bake the batch they were run with into such constants. The model then declares an open batch and
        still works with one only: with another it is shaped without complaint and fails when it runs.

    Example
        `Reshape(x, [1, 2, 2])` in a model with the input `x: float[n, 4]`, and `shape: [8, 4]` in the recipe.

    Fix
        Build for the batch the model was exported with, or export it with an open batch: a shape of -1 or 0 in
        place of the batch.
    """

    code = "GRF106"
    title = "shape baked into a Reshape"
    severity = "error"

    def check(self, context: Context) -> Iterator[Finding]:
        from trtforge.graph.weights import read_tensor

        for node in context.active_nodes:
            if node.op_type != "Reshape" or node.domain not in DEFAULT_DOMAINS or len(node.input) < 2:
                continue
            known = context.types.get(node.input[0])
            constant = context.index.constant(node.input[1])
            if known is None or known.shape is None or constant is None or _is_elsewhere(context, constant):
                continue
            sizes = [size for size in known.shape if isinstance(size, int)]
            wanted = [int(size) for size in read_tensor(context.model, constant).flatten()]
            if len(sizes) == len(known.shape) and not _fits(
                sizes, wanted, allow_zero=bool(integer(node, "allowzero", 0))
            ):
                yield self.finding(
                    place(node),
                    f"it makes {wanted} of {sizes}, which has {math.prod(sizes)} elements",
                    "set the batch the model was exported with, or export the model with an open batch",
                )


def _is_elsewhere(context: Context, tensor: TensorProto) -> bool:
    """Is the value in a file that is not known here?"""
    from trtforge.graph.weights import is_external

    return is_external(tensor) and context.model.folder is None


def _fits(sizes: list[int], wanted: list[int], *, allow_zero: bool) -> bool:
    """Can a tensor of these sizes be reshaped so? -1 stands for what is left, 0 (usually) for the size at its place."""
    if not allow_zero:
        if any(size == 0 and axis >= len(sizes) for axis, size in enumerate(wanted)):
            return False
        wanted = [sizes[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return -1 in wanted or math.prod(wanted) == math.prod(sizes)  # what -1 cannot fill, shape inference refuses
