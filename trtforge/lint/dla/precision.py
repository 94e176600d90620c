"""What a layer on the DLA computes in, and what is to be known of that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtforge.graph.labels import label
from trtforge.lint.dla.sizes import Precision
from trtforge.targets.dla_layers import READ_FOR, DlaLayer, dla_layers
from trtforge.targets.load import version_tuple

if TYPE_CHECKING:
    from onnx import NodeProto

    from trtforge.lint.context import Context


def precision_of(context: Context, node: NodeProto) -> Precision:
    """INT8 where the layer can, is not skipped, and all its tensors have scales."""
    if context.engine.precision != "int8" or not may_be_int8(context, node):
        return "fp16"
    if context.scales is None:
        return "int8"
    tensors = [name for name in (*node.input, *node.output) if name and name not in context.constants]
    return "int8" if all(name in context.scales.ranges for name in tensors) else "fp16"


def may_be_int8(context: Context, node: NodeProto) -> bool:
    """Whether the DLA's layer knows INT8 with this TensorRT, and `quantize.skip` does not name the node."""
    row = dla_layers().get(node.op_type)
    return row is not None and _knows_int8(context, row) and label(node) not in context.engine.quantize.skip


def is_left_in_fp32(context: Context, node: NodeProto) -> bool:
    """Whether an INT8 engine has it in FP32: where the graph says its types (TensorRT 11), nothing makes it FP16."""
    typed = context.explicit_quantization is True
    return typed and context.engine.precision == "int8" and precision_of(context, node) == "fp16"


def remark(context: Context, node: NodeProto, precision: Precision) -> str:
    """A clause about a node that is on the DLA; "" when there is nothing to say."""
    row = dla_layers().get(node.op_type)
    if row is None:
        return ""
    if precision == "fp16" and not _knows_int8(context, row):
        before = f" before TensorRT {row.int8_since}" if row.int8_since else ""
        return f"in FP16, the DLA runs {node.op_type} in no other precision{before}"
    if precision == "int8" and row.int8_since:
        return f"that it runs in INT8 from TensorRT {row.int8_since} on is recalled: build to know"
    if row.origin == "recalled":
        return f"recalled, TensorRT {READ_FOR}: build to know"
    return ""


def _knows_int8(context: Context, row: DlaLayer) -> bool:
    """A range of versions is taken to be of the newest."""
    version, since = version_tuple(context.tensorrt or ""), version_tuple(row.int8_since)
    early = version is not None and since is not None and version < since[: len(version)]
    return "int8" in row.precisions and not early
