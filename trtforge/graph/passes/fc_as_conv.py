"""Fully connected layers as convolutions with a 1x1 kernel.

On a tensor x of shape [N, C, 1, 1] the layer y = x W + b, with W of shape [C, K], is the convolution with the
kernel W^T, reshaped to [K, C, 1, 1], and the bias b. Alpha and beta of Gemm go into kernel and bias, computed in
float64 and stored in the type of W. What lies between x and the layer keeps the order of the values, so a matrix of
C columns behind it can only have the images as rows, whatever N is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from trtforge.graph import surgeon
from trtforge.graph.model import Model
from trtforge.graph.passes.base import Context, Pass, PassResult, count

_LAYERS = ("Gemm", "MatMul")
_VIEWS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity")
_STANDARD = (None, "", "ai.onnx")


class FcAsConv(Pass):
    """Write a fully connected layer behind a global pooling as a 1x1 `Conv`, and flatten behind it.

    The layer is a `Gemm`, or a `MatMul` with or without an `Add` behind it, with constant weights, that reads a
    `[N, C, 1, 1]` tensor through `Flatten`, `Reshape`, `Squeeze` or a `Transpose` of single axes; a 3-D network's
    `[N, C, 1, 1, 1]` is the same. The DLA runs Conv and no MatMul, and a calibrated INT8 engine may leave a MatMul
    in floating point. The layer's output keeps its name, shape and type; the Conv's is a new tensor, so calibrate
    after this pass. Every class and the bias stay, other than in MLPerf's ResNet-50, which drops the first class and
    the bias. Needs known shapes: run `infer-shapes` before it. Only the weights that are rewritten are read.
    """

    name = "fc-as-conv"

    def apply(self, model: Model, context: Context) -> PassResult:
        layers = [node for node in model.proto.graph.node if node.op_type in _LAYERS]
        if not layers:
            return PassResult(False, "the graph has no Gemm and no MatMul nodes")
        rewritten, stays = 0, ""
        with surgeon.edit(model.proto) as graph:
            editor = _Editor(graph, context)
            # in the graph's order: one layer right behind another reads what the first became
            for node in [node for node in graph.nodes if node.op in _LAYERS]:
                label, why = node.name or node.outputs[0].name, editor.rewrite(node)
                rewritten += not why
                stays = f"{label!r} stays: {why}" if why else stays
            surgeon.remove(graph, editor.gone)
        done = f"wrote {rewritten} of {count(len(layers), 'fully connected layer')} as Conv"
        if not rewritten:
            return PassResult(False, stays)
        return PassResult(True, f"{done}; {stays}" if stays else done)


@dataclass(frozen=True)
class _Layer:
    """``source``: the [N, C, 1, ...] tensor. ``kernel`` [K, C, 1, ...] and ``bias`` [K] have the type of the weights;
    ``output`` is what the layer yields, behind the ``add`` when there is one."""

    source: gs.Tensor
    kernel: np.ndarray[Any, Any]
    bias: np.ndarray[Any, Any] | None
    output: gs.Tensor
    add: gs.Node | None


class _Editor:
    def __init__(self, graph: gs.Graph, context: Context) -> None:
        self.graph, self.context = graph, context
        self.names = surgeon.FreshNames(graph)
        self.visible = {tensor.name for tensor in graph.outputs} | surgeon.subgraph_outputs(graph)
        """Tensors with a use that is no node of the graph."""
        self.gone: list[gs.Node] = []

    def rewrite(self, node: gs.Node) -> str:
        """Turn one layer into Conv and Flatten; or a sentence why not, and nothing is changed."""
        layer = self._read(node)
        if isinstance(layer, str):
            return layer
        features, weight, label = node.inputs[0], node.inputs[1], node.name or node.outputs[0].name
        constants = [gs.Constant(self.names.make(f"{weight.name}_conv"), layer.kernel)]
        if layer.bias is not None:
            constants.append(gs.Constant(self.names.make(f"{layer.output.name}_conv_bias"), layer.bias))
        spatial = layer.kernel.ndim - 2
        shape = [layer.source.shape[0], layer.kernel.shape[0], *[1] * spatial]
        convolved = gs.Variable(self.names.make(f"{layer.output.name}_conv"), layer.source.dtype, shape)
        if layer.add is not None:
            layer.add.inputs.clear()
            layer.add.outputs.clear()
            self.gone.append(layer.add)
        node.op, node.attrs = "Conv", {"kernel_shape": [1] * spatial}
        node.inputs = [layer.source, *constants]
        node.outputs = [convolved]
        # at the end of the list: writing back puts it before what reads it
        self.graph.nodes.append(gs.Node("Flatten", f"{label}_flatten", {"axis": 1}, [convolved], [layer.output]))
        self._drop_views(features)
        return ""

    def _read(self, node: gs.Node) -> _Layer | str:
        stored = surgeon.constant_proto(node.inputs[1])
        unfit = _unfit(node, stored)
        if unfit or stored is None:
            return unfit
        source = _source(node)
        if isinstance(source, str):
            return source
        transposed = node.attrs.get("transB", 0) == 1
        classes, channels = list(stored.dims) if transposed else list(stored.dims)[::-1]
        if channels != source.shape[1]:
            return f"its weights take {channels} values, and {source.name!r} has {source.shape[1]} channels"
        add, bias = None, node.inputs[2] if len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
        if bias is not None and not _is_bias(bias, classes):
            return f"its bias {bias.name!r} is not constant, or not one value a class"
        if node.op == "MatMul":
            add, bias = self._bias_behind(node, classes)

        weights = self.context.values(stored)
        matrix = node.attrs.get("alpha", 1.0) * weights.astype(np.float64)
        offset = None
        if bias is not None:
            offset = np.broadcast_to(node.attrs.get("beta", 1.0) * self._float64(bias).reshape(-1), (classes,))
        with np.errstate(over="ignore"):  # looked at below
            kernel = np.ascontiguousarray(matrix if transposed else matrix.T).astype(weights.dtype)
            offset = None if offset is None else offset.astype(weights.dtype)
        if not np.isfinite(kernel).all() or not (offset is None or np.isfinite(offset).all()):
            return f"alpha times its weights, or beta times its bias, is not finite in {weights.dtype}"
        filters = kernel.reshape(classes, channels, *[1] * (len(source.shape) - 2))
        return _Layer(source, filters, offset, (add or node).outputs[0], add)

    def _float64(self, constant: gs.Tensor) -> np.ndarray[Any, Any]:
        stored = surgeon.constant_proto(constant)
        assert stored is not None  # _is_bias looked
        return self.context.values(stored).astype(np.float64)

    def _bias_behind(self, node: gs.Node, classes: int) -> tuple[gs.Node | None, gs.Tensor | None]:
        """The Add of a bias that alone reads a MatMul, and the bias; an Add of anything else stays as it is."""
        product = node.outputs[0]
        if len(product.outputs) != 1 or product.name in self.visible:
            return None, None
        add = product.outputs[0]
        if add.op != "Add" or add.domain not in _STANDARD:
            return None, None
        others = [tensor for tensor in add.inputs if tensor is not product]
        if len(others) == 1 and _is_bias(others[0], classes) and any(add is one for one in self.graph.nodes):
            return add, others[0]
        return None, None

    def _drop_views(self, tensor: gs.Tensor) -> None:
        """The old way to the layer goes as far as nothing else reads it."""
        while not tensor.outputs and tensor.name not in self.visible and tensor.inputs:
            view = tensor.inputs[0]
            if view.op not in (*_VIEWS, "Transpose"):
                return
            tensor = view.inputs[0]
            view.inputs.clear()
            view.outputs.clear()
            self.gone.append(view)


def _unfit(node: gs.Node, weights: TensorProto | None) -> str:
    """What about the operator itself no Conv can express, empty when nothing."""
    if weights is None:
        return f"its weights {node.inputs[1].name!r} are not constant"
    if node.domain not in _STANDARD:
        return f"it is an operator of the domain {node.domain!r}"
    if weights.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        return f"its weights {weights.name!r} are neither float32 nor float16"
    if len(weights.dims) != 2:
        return f"its weights {weights.name!r} have {len(weights.dims)} axes, not 2"
    return "it transposes its input" if node.attrs.get("transA", 0) else ""


def _source(node: gs.Node) -> gs.Tensor | str:
    """The [N, C, 1, 1] tensor (or [N, C, 1, 1, 1]) whose values a layer reads in order; or why there is none."""
    features = node.inputs[0]
    view = features.inputs[0] if features.inputs else None
    if node.op != "Gemm" and not (view is not None and view.op == "Flatten"):  # these two know matrices only
        if features.shape is None:
            return f"the shape of {features.name!r} is not known: run infer-shapes before"
        if len(features.shape) != 2:
            return f"its input {features.name!r} has {len(features.shape)} axes, not 2"
    tensor = features
    while not (tensor.shape is not None and _is_pooled(tensor.shape)):
        view = tensor.inputs[0] if tensor.inputs else None
        if view is None or not _keeps_order(view):
            break
        tensor = view.inputs[0]
    else:
        return tensor
    if tensor.shape is None:
        return f"the shape of {tensor.name!r} is not known: run infer-shapes before"
    sizes = ", ".join("?" if size is None else str(size) for size in tensor.shape)
    return f"it reads {tensor.name!r} of shape [{sizes}], not a global pooling's [N, C, 1, 1]"


def _is_pooled(shape: list[Any]) -> bool:
    return len(shape) in (4, 5) and isinstance(shape[1], int) and all(size == 1 for size in shape[2:])


def _keeps_order(node: gs.Node) -> bool:
    if node.domain not in _STANDARD:
        return False
    shape = node.inputs[0].shape
    if node.op == "Transpose" and shape is not None:
        axes = node.attrs.get("perm", list(range(len(shape)))[::-1])
        moved = [axis for axis in axes if shape[axis] != 1]
        return moved == sorted(moved)
    return node.op in _VIEWS


def _is_bias(tensor: gs.Tensor, classes: int) -> bool:
    """Whether it is constant and adds the same to every row of [N, classes]."""
    stored = surgeon.constant_proto(tensor)
    if stored is None:
        return False
    sizes = [1, 1, *stored.dims]
    return len(stored.dims) <= 2 and all(size == 1 for size in sizes[:-1]) and sizes[-1] in (1, classes)
