"""Global pooling as pooling with a window of known size."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from trtforge.graph import surgeon
from trtforge.graph.model import Model
from trtforge.graph.passes.base import Context, Pass, PassResult, count


class GlobalAveragePool(Pass):
    """Write `GlobalAveragePool`, and `ReduceMean` over all spatial axes, as `AveragePool` of that size.

    The DLA runs AveragePool and no ReduceMean, and TensorRT quantizes pooling but not reductions. Needs known
    spatial sizes: fix the input's shape and run `infer-shapes` before it. A ReduceMean that drops the axes
    becomes AveragePool and Flatten.
    """

    name = "global-average-pool"

    def apply(self, model: Model, context: Context) -> PassResult:
        if not any(node.op_type in ("GlobalAveragePool", "ReduceMean") for node in model.proto.graph.node):
            return PassResult(False, "the graph has no GlobalAveragePool and no ReduceMean nodes")
        rewritten, unknown = 0, ""
        with surgeon.edit(model.proto) as graph:
            names = surgeon.FreshNames(graph)
            for node in [node for node in graph.nodes if node.op in ("GlobalAveragePool", "ReduceMean")]:
                source = node.inputs[0]
                if source.shape is None or not all(isinstance(size, int) for size in source.shape[2:]):
                    unknown = source.name
                elif len(source.shape) in (4, 5) and _covers_space(node, len(source.shape), context):
                    _rewrite(graph, node, [int(size) for size in source.shape[2:]], names)
                    rewritten += 1
        if rewritten:
            return PassResult(True, f"rewrote {count(rewritten, 'global pooling node')}")
        if unknown:
            return PassResult(
                False, f"the size of {unknown!r} is not known: fix the input shape, run infer-shapes before"
            )
        return PassResult(False, "no ReduceMean covers exactly the spatial axes of a 2-D or 3-D image")


def _covers_space(node: gs.Node, rank: int, context: Context) -> bool:
    if node.op == "GlobalAveragePool":
        return True
    axes = node.attrs.get("axes")
    if axes is None and len(node.inputs) > 1 and not node.inputs[1].is_empty():
        stored = surgeon.constant_proto(node.inputs[1])
        axes = None if stored is None else context.values(stored).tolist()
    return axes is not None and sorted(axis % rank for axis in axes) == list(range(2, rank))


def _rewrite(graph: gs.Graph, node: gs.Node, window: list[int], names: surgeon.FreshNames) -> None:
    source, output = node.inputs[0], node.outputs[0]
    keep_axes = node.op == "GlobalAveragePool" or node.attrs.get("keepdims", 1) == 1
    pooled = output
    if not keep_axes:
        shape = [*source.shape[:2], *[1] * len(window)]
        pooled = gs.Variable(names.make(f"{output.name}_pooled"), source.dtype, shape)
    position = graph.nodes.index(node)
    node.inputs.clear()
    node.outputs.clear()
    attributes = {"kernel_shape": window, "strides": [1] * len(window)}
    graph.nodes[position] = gs.Node("AveragePool", node.name, attributes, [source], [pooled])
    if not keep_axes:
        flatten = gs.Node("Flatten", f"{node.name or output.name}_flatten", {"axis": 1}, [pooled], [output])
        graph.nodes.insert(position + 1, flatten)
