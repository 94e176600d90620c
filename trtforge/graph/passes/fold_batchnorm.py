"""Batch normalization into the convolution before it.

A convolution y = W * x + b followed by normalization z = (y - mean) / sqrt(var + epsilon) * gamma + beta is
itself a convolution: with f = gamma / sqrt(var + epsilon), one factor per output channel, W' = f W and
b' = (b - mean) f + beta. Computed in float64, stored in the type of W.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from trtforge.graph import surgeon
from trtforge.graph.model import Model
from trtforge.graph.passes.base import Context, Pass, PassResult, count


class FoldBatchnorm(Pass):
    """Fold `BatchNormalization` into the `Conv` before it.

    Engines do this anyway; doing it before calibration means that scales are gathered for the tensors the
    engine really has. The tensor behind the normalization keeps its name, the one between the two goes, and
    the new weights get new names. Only the weights that are folded are read.
    """

    name = "fold-batchnorm"

    def apply(self, model: Model, context: Context) -> PassResult:
        norms = [node for node in model.proto.graph.node if node.op_type == "BatchNormalization"]
        if not norms:
            return PassResult(False, "the graph has no BatchNormalization nodes")
        folded = []
        with surgeon.edit(model.proto) as graph:
            names, escaping = surgeon.FreshNames(graph), surgeon.subgraph_outputs(graph)
            for norm in [node for node in graph.nodes if node.op == "BatchNormalization"]:
                between = norm.inputs[0].name
                if between not in escaping and _foldable(graph, norm) and _fold(norm, names, context):
                    folded.append(norm)
            surgeon.remove(graph, folded)
        if not folded:
            return PassResult(
                False,
                f"none of {count(len(norms), 'BatchNormalization node')} follows a Conv with constant weights alone, "
                "with products that its weights' type can hold",
            )
        return PassResult(True, f"folded {len(folded)} of {count(len(norms), 'BatchNormalization node')}")


def _foldable(graph: gs.Graph, norm: gs.Node) -> bool:
    source = norm.inputs[0]
    if norm.attrs.get("training_mode", 0) or len(norm.outputs) != 1 or not source.inputs:
        return False
    conv = source.inputs[0]
    return (
        conv.op == "Conv"
        and conv.domain in (None, "", "ai.onnx")
        and len(source.outputs) == 1
        and source not in graph.outputs
        and all(surgeon.constant_proto(tensor) is not None for tensor in [*conv.inputs[1:], *norm.inputs[1:]])
    )


def _fold(norm: gs.Node, names: surgeon.FreshNames, context: Context) -> bool:
    """Fold one normalization; False, and nothing is changed, when a new weight leaves the range of its type."""
    conv = norm.inputs[0].inputs[0]

    def values(tensor: gs.Tensor) -> np.ndarray[Any, Any]:
        proto = surgeon.constant_proto(tensor)
        assert proto is not None  # _foldable looked
        return context.values(proto)

    gamma, beta, mean, variance = (values(tensor).astype(np.float64) for tensor in norm.inputs[1:5])
    weight = values(conv.inputs[1])
    bias = values(conv.inputs[2]).astype(np.float64) if len(conv.inputs) > 2 else np.zeros_like(mean)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # looked at below
        factor = gamma / np.sqrt(variance + norm.attrs.get("epsilon", 1e-5))
        new_weight = (weight.astype(np.float64) * factor.reshape(-1, *[1] * (weight.ndim - 1))).astype(weight.dtype)
        new_bias = ((bias - mean) * factor + beta).astype(weight.dtype)
    if not all(np.isfinite(new.astype(np.float64)).all() for new in (new_weight, new_bias)):
        return False

    stem, output = conv.inputs[1].name, norm.outputs[0]
    conv.inputs[1] = gs.Constant(names.make(f"{stem}_bn"), new_weight)
    bias_constant = gs.Constant(names.make(f"{stem}_bn_bias"), new_bias)
    if len(conv.inputs) > 2:
        conv.inputs[2] = bias_constant
    else:
        conv.inputs.append(bias_constant)
    norm.outputs.clear()
    conv.outputs.clear()
    conv.outputs.append(output)
    return True
