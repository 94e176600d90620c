"""A model in a dozen facts, for a person who asks what a file is."""

from __future__ import annotations

from collections import Counter
from typing import Any

from trtforge.graph.digests import digests, show_weights
from trtforge.graph.io import default_opset
from trtforge.graph.model import Model
from trtforge.graph.shapes import TensorType, input_specs, output_specs, show_shape
from trtforge.graph.weights import is_external, model_tensors, nbytes


def describe(model: Model) -> dict[str, Any]:
    """JSON-able facts: opset, inputs, outputs, operator counts, weights and digests. Raises as ``digests`` does."""
    graph = model.proto.graph
    tensors = list(model_tensors(model.proto))
    identity = digests(model)
    return {
        "ir_version": model.proto.ir_version,
        "opset": default_opset(model.proto),
        "producer": f"{model.proto.producer_name} {model.proto.producer_version}".strip() or "unknown",
        "inputs": {name: _show(kind) for name, kind in input_specs(model).items()},
        "outputs": {name: _show(kind) for name, kind in output_specs(model).items()},
        "nodes": len(graph.node),
        "operators": dict(Counter(node.op_type for node in graph.node).most_common()),
        "weights": len(tensors),
        "weight_bytes": sum(map(nbytes, tensors)),
        "external_weights": sum(map(is_external, tensors)),
        "graph_digest": identity.graph,
        "weights_digest": show_weights(identity.weights),
    }


def _show(kind: TensorType) -> str:
    return f"{kind.dtype} {show_shape(kind.shape)}"
