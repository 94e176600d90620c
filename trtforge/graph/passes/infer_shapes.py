"""Type and shape of every tensor, from those of the inputs."""

from __future__ import annotations

from trtforge.graph import shapes
from trtforge.graph.model import Model
from trtforge.graph.passes.base import Context, Pass, PassResult, count


class InferShapes(Pass):
    """Write the type and shape of every tensor that can be inferred into the graph.

    Other passes, the calibration and the lint rules read them. Fix open input sizes first (`inputs:` in the
    recipe) to have concrete numbers everywhere.
    """

    name = "infer-shapes"

    def apply(self, model: Model, context: Context) -> PassResult:
        before = shapes.tensor_types(model)
        shapes.infer_in_place(model)
        after = shapes.tensor_types(model)
        news = [name for name, stated in after.items() if before.get(name) != stated]
        if not news:
            return PassResult(False, "every shape that can be inferred is already stated")
        return PassResult(True, f"stated {count(len(news), 'shape')}")
