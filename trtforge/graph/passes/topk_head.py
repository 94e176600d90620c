"""Class index instead of probabilities."""

from __future__ import annotations

from typing import Any

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
    gone, and a `verify` metric that compares them no longer applies (use `top1`). `ArgMax` outputs of the same
    scores, as MLPerf's ResNet-50 has one beside the probabilities, go with it: they say the same.
    """

    name = "topk-head"
    redefines = frozenset({"outputs"})

    def requires(self, model: Model) -> str:
        opset = default_opset(model.proto) or 0
        return "" if opset >= 11 else f"TopK needs opset 11 and the model has {opset}: run upgrade-opset before it"

    def apply(self, model: Model, context: Context) -> PassResult:
        opset = default_opset(model.proto) or 0
        outputs = [value.name for value in model.proto.graph.output]
        with surgeon.edit(model.proto) as graph:
            closing = [output for output in graph.outputs if not _is_made_by(output, "ArgMax")]
            if len(closing) == 1:
                reason = _unfit(closing[0], opset) or _strays(graph, closing[0])
            else:
                reason = f"the graph has {len(closing)} outputs beside ArgMax, a classifier's head has one"
            if not reason:
                _replace_head(graph, closing[0])
        return PassResult(False, reason) if reason else PassResult(True, f"{', '.join(outputs)} became topk_index")


def _is_made_by(tensor: gs.Tensor, op: str) -> bool:
    return bool(tensor.inputs) and tensor.inputs[0].op == op


def _unfit(output: gs.Tensor, opset: int) -> str:
    """Why an output is no Softmax over classes, empty when it is."""
    rank = None if output.shape is None else len(output.shape)
    if not _is_made_by(output, "Softmax"):
        return f"the output {output.name!r} is not produced by a Softmax"
    if rank is None:
        return f"the rank of {output.name!r} is not known: run infer-shapes before"
    if not _over_classes(output.inputs[0], rank, opset):
        return f"the Softmax {output.inputs[0].name!r} does not normalise over axis 1 of {rank}"
    return ""


def _over_classes(softmax: gs.Node, rank: int, opset: int) -> bool:
    axis = softmax.attrs.get("axis", -1 if opset >= 13 else 1)
    # before opset 13 all axes from `axis` on were normalised together
    return bool(rank >= 2 and axis % rank == 1 and (opset >= 13 or rank == 2))


def _strays(graph: gs.Graph, probabilities: gs.Tensor) -> str:
    """Why an ArgMax output is not the class that these probabilities say, empty when all are."""
    same = (probabilities, probabilities.inputs[0].inputs[0])
    for output in graph.outputs:
        if output is probabilities:
            continue
        attributes: dict[str, Any] = output.inputs[0].attrs
        if not any(output.inputs[0].inputs[0] is scores for scores in same):
            return f"the output {output.name!r} is the ArgMax of something else than {probabilities.name!r}"
        if attributes.get("axis", 0) % len(probabilities.shape) != 1:
            return f"the ArgMax {output.inputs[0].name!r} is not taken over axis 1"
        if attributes.get("select_last_index", 0):
            return f"the ArgMax {output.inputs[0].name!r} takes the last of equal scores, and TopK the first"
    return ""


def _replace_head(graph: gs.Graph, probabilities: gs.Tensor) -> None:
    softmax = probabilities.inputs[0]
    scores = softmax.inputs[0]
    shape = [size if axis != 1 else 1 for axis, size in enumerate(probabilities.shape)]
    names = surgeon.FreshNames(graph)
    values = gs.Variable(names.make("topk_value"), probabilities.dtype, shape)
    index = gs.Variable(names.make("topk_index"), np.dtype(np.int64), shape)
    k = gs.Constant(names.make("topk_k"), np.array([1], dtype=np.int64))
    heads = [output.inputs[0] for output in graph.outputs if output is not probabilities]
    for node in (*heads, softmax):  # an ArgMax may read the Softmax
        if not any(output.outputs for output in node.outputs):
            node.inputs.clear()
            node.outputs.clear()
            graph.nodes.remove(node)
    attributes = {"axis": 1, "largest": 1, "sorted": 1}
    graph.nodes.append(gs.Node("TopK", "topk_head", attributes, [scores, k], [values, index]))
    graph.outputs = [index]
