"""Class index instead of probabilities."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from trtforge.graph import surgeon
from trtforge.graph.io import default_opset
from trtforge.graph.model import Model
from trtforge.graph.passes.base import Context, Pass, PassResult


class TopkHead(Pass):
    """Replace the closing `Softmax` of a classifier by `TopK` with k = 1; the output is the class index.

    Softmax keeps the order of its inputs, so the index is the same without it, and the host reads 8 bytes an
    image. The output is a new tensor, `topk_index` of shape `[n, 1]` and type int64: the probabilities are
    gone, and a `verify` metric that compares them no longer applies (use `top1`).
    """

    name = "topk-head"
    redefines = frozenset({"outputs"})

    def requires(self, model: Model) -> str:
        opset = default_opset(model.proto) or 0
        return "" if opset >= 11 else f"TopK needs opset 11 and the model has {opset}: run upgrade-opset before it"

    def apply(self, model: Model, context: Context) -> PassResult:
        outputs = [value.name for value in model.proto.graph.output]
        if len(outputs) != 1:
            return PassResult(False, f"the graph has {len(outputs)} outputs, a classifier's head has one")
        reason = ""
        with surgeon.edit(model.proto) as graph:
            output = graph.outputs[0]
            producer = output.inputs[0] if output.inputs else None
            rank = None if output.shape is None else len(output.shape)
            if producer is None or producer.op != "Softmax":
                reason = f"the output {output.name!r} is not produced by a Softmax"
            elif rank is None:
                reason = f"the rank of {output.name!r} is not known: run infer-shapes before"
            elif not _over_classes(producer, rank, default_opset(model.proto) or 0):
                reason = f"the Softmax {producer.name!r} does not normalise over axis 1 of {rank}"
            else:
                _replace_head(graph, producer)
        return PassResult(False, reason) if reason else PassResult(True, f"{outputs[0]} became topk_index")


def _over_classes(softmax: gs.Node, rank: int, opset: int) -> bool:
    axis = softmax.attrs.get("axis", -1 if opset >= 13 else 1)
    # before opset 13 all axes from `axis` on were normalised together
    return bool(rank >= 2 and axis % rank == 1 and (opset >= 13 or rank == 2))


def _replace_head(graph: gs.Graph, softmax: gs.Node) -> None:
    logits, output = softmax.inputs[0], softmax.outputs[0]
    shape = [size if axis != 1 else 1 for axis, size in enumerate(output.shape)]
    names = surgeon.FreshNames(graph)
    values = gs.Variable(names.make("topk_value"), output.dtype, shape)
    index = gs.Variable(names.make("topk_index"), np.dtype(np.int64), shape)
    k = gs.Constant(names.make("topk_k"), np.array([1], dtype=np.int64))
    if not output.outputs:
        softmax.inputs.clear()
        softmax.outputs.clear()
        graph.nodes.remove(softmax)
    attributes = {"axis": 1, "largest": 1, "sorted": 1}
    graph.nodes.append(gs.Node("TopK", "topk_head", attributes, [logits, k], [values, index]))
    graph.outputs = [index]
