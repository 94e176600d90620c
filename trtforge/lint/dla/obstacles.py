"""The one answer to "why does this node not run on the DLA": the rules about layers and the placement both ask here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.dla.advice import VIEWS, for_mean, for_view
from trtforge.lint.dla.obstacle import Obstacle
from trtforge.lint.dla.parameters import of_parameters
from trtforge.lint.dla.precision import is_left_in_fp32, may_be_int8
from trtforge.lint.nodes import DEFAULT_DOMAINS
from trtforge.targets.dla_layers import READ_FOR, DlaLayer, dla_layers
from trtforge.targets.load import version_tuple

if TYPE_CHECKING:
    from onnx import NodeProto

    from trtforge.lint.context import Context

IGNORED = frozenset({"Constant", "Identity", "Dropout"})
"""TensorRT folds these away before layers are given to devices."""

COMPARISONS = ("Equal", "Greater", "Less")
MAX_SIZE = 8192
MAX_BATCH = 4096


def obstacles(context: Context, node: NodeProto) -> Iterator[Obstacle]:
    """Everything that keeps a node off the DLA of ``context.target``; the first is the one to say.

    Only about the layer itself: whether there is a DLA at all, and how many loadables fit, is said elsewhere.
    """
    plugin = next((context.swapped[name] for name in node.output if name in context.swapped), None)
    if plugin is not None:
        yield Obstacle("plugin", f"it becomes part of the plugin {plugin}, and the DLA runs no plugins")
        return
    op = node.op_type if node.domain in DEFAULT_DOMAINS else f"{node.domain}::{node.op_type}"
    row = dla_layers().get(op)
    operator = _of_operator(context, node, op, row)
    if operator is None and row is not None and row.runs:
        operator = _of_types(context, node)
    volume = _of_axes(context, node)
    if volume is not None and (operator is None or row is None or row.runs):
        yield volume
    if operator is not None:
        yield operator
    elif row is not None and volume is None:
        found = [*of_parameters(context, node, row)]
        yield from found
        if not any(one.certain for one in found):
            yield from _of_sizes(context, node)
            yield from _of_ranks(context, node)
            if is_left_in_fp32(context, node):
                why = "it stays FP32 in a network that says its types, and the DLA computes in FP16 and INT8"
                fix = "give its tensors scales, and leave it out of quantize.skip" if may_be_int8(context, node) else ""
                yield Obstacle("parameter", why, versions="11.4.1", fix=fix, certain=False)


def _of_operator(context: Context, node: NodeProto, op: str, row: DlaLayer | None) -> Obstacle | None:
    if row is None:
        fix = "" if node.domain in DEFAULT_DOMAINS else "see GRF110: only a plugin can run it, and the DLA runs none"
        return Obstacle("operator", f"{op} is not in the DLA's table of layers", fix=fix)
    version, until = version_tuple(context.tensorrt or ""), version_tuple(row.until)
    outdated = version is not None and until is not None and version[: len(until)] > until
    if outdated or (op == "Cast" and _casts_comparison(context, node)):
        return None
    versions = f"8.2 to {row.until}" if row.until else READ_FOR
    if not row.runs:
        return Obstacle("operator", f"the DLA does not run {op}", row.origin, versions, _instead(context, node, row))
    why = _missing(context, op, row)
    return Obstacle("operator", why, row.origin, versions) if why else None


def _instead(context: Context, node: NodeProto, row: DlaLayer) -> str:
    """The rewrite that keeps the network on the DLA, where one is known for this node."""
    if row.op in ("GlobalAveragePool", "ReduceMean"):
        return for_mean(context, node)
    return for_view(context, node) if row.op in VIEWS else row.instead


def _missing(context: Context, op: str, row: DlaLayer) -> str:
    """Why an operator that some DLA runs is not run by this one; "" when it is."""
    if context.dla_generation == 1 and not row.v1:
        return f"the DLA of {context.target.device} does not run {op}, only Orin's does"
    version, since = version_tuple(context.tensorrt or ""), version_tuple(row.since)
    if version is not None and since is not None and version < since[: len(version)]:
        return f"the DLA runs {op} from TensorRT {row.since}, and this is {context.tensorrt}"
    if context.engine.precision not in row.precisions and row.precisions == ("int8",):
        return f"the DLA runs {op} in INT8 only"
    return ""


def _of_types(context: Context, node: NodeProto) -> Obstacle | None:
    """Integers; what a comparison yields is cast at once and counts as a number."""
    for name in (*node.input, *node.output):
        known = context.types.get(name) if name and name not in context.constants else None
        if known is not None and not known.dtype.startswith(("float", "bfloat", "unknown", "bool")):
            return Obstacle("operator", f"its tensors are {known.dtype}, the DLA computes in FP16 and INT8", "observed")
    return None


def _casts_comparison(context: Context, node: NodeProto) -> bool:
    """A comparison's result must be cast at once; that Cast belongs to it."""
    producer = context.index.producer(node.input[0])
    return producer is not None and producer.op_type in COMPARISONS


def _of_axes(context: Context, node: NodeProto) -> Obstacle | None:
    """Three spatial dimensions, by the window or by the tensors."""
    windowed = node.op_type in ("Conv", "ConvTranspose", "MaxPool", "AveragePool")
    fix = f"use target: {context.target.device}/gpu for a volumetric network"
    if windowed and context.spatial_rank(node) == 3:
        return Obstacle("volume", "it has three spatial dimensions, the DLA's layers have two", fix=fix)
    ranks = {context.rank(name) for name in (*node.input, *node.output) if name and name not in context.constants}
    widest = max((rank for rank in ranks if rank is not None), default=0)
    if widest > 4:
        why = f"its tensors have {widest} dimensions, the DLA's layers have two spatial ones beside batch and channels"
        return Obstacle("volume", why, fix=fix)
    return None


def _of_ranks(context: Context, node: NodeProto) -> Iterator[Obstacle]:
    """TensorRT makes four dimensions of fewer. Gemm was seen on the DLA with two."""
    ranks = {context.rank(name) for name in (*node.input, *node.output) if name and name not in context.constants}
    if node.op_type != "Gemm" and any(rank is not None and rank < 4 for rank in ranks):
        why = "one of its tensors has fewer than four dimensions: TensorRT adds a Shuffle, which runs on the GPU"
        yield Obstacle("parameter", why, "observed", fix="export it with four dimensions", certain=False)


def _of_sizes(context: Context, node: NodeProto) -> Iterator[Obstacle]:
    for name in (*node.input, *node.output):
        shape = None if not name or name in context.constants else context.shape(name)
        if shape is None or not 2 <= len(shape) <= 4:
            continue
        batch, *others = shape
        if batch > MAX_BATCH:
            yield Obstacle("parameter", f"the batch of `{name}` is {batch}, the DLA takes {MAX_BATCH}")
        if max(others) > MAX_SIZE:
            yield Obstacle("parameter", f"`{name}` is {max(others)} long, the DLA takes 1 to {MAX_SIZE} an axis")
