"""Lowering to ONNX's own Attention operator (opset 23), which TensorRT-RTX and TensorRT compile to one kernel."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from onnx import TensorProto, defs, helper
from packaging.version import InvalidVersion, Version

from trtforge.plugins.qkv_to_context.emit import Emitter, bias_values, weight_dtype, weight_values
from trtforge.plugins.qkv_to_context.structure import Attention, attention_of
from trtforge.recipe.models import LoweringName
from trtforge.surgery.op import Lowered, Lowering, Names, Situation
from trtforge.surgery.rules import Match, View, label

OPSET = 23

FIRST_TENSORRT = "10.14"
"""The first release whose ONNX parser reads Attention, by its release notes."""

RTX_HEAD_SIZES = range(9, 257)
"""Head sizes for which TensorRT-RTX 1.7.1 has a kernel, measured with a mask for SM 7.5, 8.0, 8.6, 8.9 and 12.0: 8 and
257 fail."""


class AttentionOperator(Lowering):
    """Projections as MatMul and Add, then one Attention node on [B, S, N*H] with ``q_num_heads``.

    A mask is given in float, for every kind: a boolean one as 0 and its fill, which is added. A row whose keys are all
    masked, which means nothing, may come out otherwise than in the graph. In INT8 it serves
    TensorRT-RTX where the plain graph does not become an INT8 kernel, which is where NaN is guarded against: the
    projections are INT8, and the attention is FP16 between casts.
    """

    name: ClassVar[LoweringName] = "attention"

    def refuses(self, match: Match, view: View, situation: Situation) -> str:
        found = attention_of(match)
        if situation.dla:
            return "the DLA has no Attention"
        if why := _no_way_up(view):
            return why
        if situation.backend == "tensorrt_rtx":
            return _rtx_refuses(found, situation, match)
        if situation.backend == "tensorrt":
            return _tensorrt_refuses(situation)
        if situation.precision == "int8":
            return f"in INT8 it computes in FP16 between casts, which is of no use on the backend {situation.backend}"
        return ""

    def lower(self, match: Match, view: View, situation: Situation, names: Names) -> Lowered:
        found = attention_of(match)
        emit = Emitter(match, names)
        x = emit.batch_first(match.inputs[0], found, view)
        if situation.precision == "int8":
            operands = _int8_projections(emit, x, match, view, situation)
        else:
            operands = _projections(emit, x, found, view)
        mask = _mask(emit, found, view)
        if mask:
            mask = _square(emit, mask, x)
        half, dtype = situation.precision == "int8", weight_dtype(found.parts[0].projection, view)
        inputs = [*operands, *([mask] if mask else [])]
        if half:
            inputs = [emit.add("Cast", [name], to=TensorProto.FLOAT16) for name in inputs]

        def make(output: str) -> str:
            node = helper.make_node(
                "Attention",
                inputs,
                [output if output and not (half or found.guarded) else emit.fresh("attention")],
                q_num_heads=found.heads,
                kv_num_heads=found.heads,
                scale=found.scale,
            )
            made = emit.put(node)
            if half:
                made = emit.add("Cast", [made], "" if found.guarded else output, to=TensorProto.FLOAT)
            return _defined(emit, made, dtype, output) if found.guarded else made

        emit.as_result(make, found.result, found.width, match.outputs[0])
        return Lowered(tuple(emit.nodes), tuple(names.initializers), opsets={"": OPSET})


def _rtx_refuses(found: Attention, situation: Situation, match: Match) -> str:
    if situation.precision == "fp32":
        return (
            "TensorRT-RTX compiles Attention to one kernel in FP16 only: in FP32 it takes it apart again, or fails "
            "where there is a mask"
        )
    if found.head_size not in RTX_HEAD_SIZES:
        first, last = RTX_HEAD_SIZES[0], RTX_HEAD_SIZES[-1]
        return f"TensorRT-RTX has no attention kernel for head size {found.head_size}; it has {first} to {last}"
    if situation.precision == "int8" and not found.guarded:
        return "TensorRT-RTX makes one INT8 kernel of the plain graph with Q/DQ, and Attention computes in FP16"
    if situation.precision == "int8" and situation.ranges is not None and not _range(match, situation):
        return f"calibration has no range for the tensor {match.ranges[0]!r}"
    return ""


def _tensorrt_refuses(situation: Situation) -> str:
    if situation.precision != "fp16":
        return f"TensorRT's kernels for Attention are for FP16, and the precision is {situation.precision}"
    try:
        known = Version(situation.tensorrt or "")
    except InvalidVersion:
        return "which TensorRT builds it is not known, and Attention needs 10.14 or later"
    if known < Version(FIRST_TENSORRT):
        return f"the ONNX parser of TensorRT {situation.tensorrt} has no Attention; {FIRST_TENSORRT} is the first"
    return ""


def _no_way_up(view: View) -> str:
    """Why the model cannot be converted to opset 23, which happens when the nodes are put in."""
    for operator, node in view.first_of.items() if view.opset < OPSET else ():
        if defs.has(operator, max_inclusive_version=OPSET) and defs.get_schema(operator, OPSET).deprecated:
            return f"Attention needs opset {OPSET}, which has no {operator}: {label(node)!r} cannot be converted"
    return ""


def _range(match: Match, situation: Situation) -> float:
    return (situation.ranges or {}).get(match.ranges[0], 0.0)


def _projections(emit: Emitter, x: str, found: Attention, view: View) -> list[str]:
    """Q, K, V by the graph's own weights where their columns are whole; compilers do not fold a Gather of a weight."""
    if _is_merged(found):
        made = found.parts[0].projection
        weight, bias = emit.whole_weight(made, view)
        product = emit.add("Add", [emit.add("MatMul", [x, weight]), bias])
        third = emit.constant("third", [found.width] * 3)
        outputs = [emit.fresh(name) for name in ("first", "second", "third")]
        emit.put(helper.make_node("Split", [product, third], outputs, axis=-1))
        return [outputs[part.offset // found.width] for part in found.parts]
    operands = []
    for part in found.parts:
        columns = part.columns(found.heads, found.head_size)
        if len(columns) == part.projection.width and (columns == np.arange(len(columns))).all():
            weight, bias = emit.whole_weight(part.projection, view)
            operands.append(emit.add("Add", [emit.add("MatMul", [x, weight]), bias]))
        else:
            chosen = np.ascontiguousarray(weight_values(part.projection, view)[:, columns])
            operands.append(emit.project(x, chosen, bias_values(part.projection, view)[columns]))
    return operands


def _is_merged(found: Attention) -> bool:
    """Whether one weight holds Q, K and V one after the other."""
    one = found.parts[0].projection
    return (
        all(part.projection == one and part.element_stride == 1 for part in found.parts)
        and all(part.head_stride in (0, found.head_size) for part in found.parts)
        and sorted(part.offset for part in found.parts) == [0, found.width, 2 * found.width]
        and one.width == 3 * found.width
    )


def _int8_projections(emit: Emitter, x: str, match: Match, view: View, situation: Situation) -> list[str]:
    found, operands = attention_of(match), []
    _, restored = emit.quantize(x, _range(match, situation))
    for part in found.parts:
        columns = part.columns(found.heads, found.head_size)
        weight = np.ascontiguousarray(weight_values(part.projection, view)[:, columns])
        bias = bias_values(part.projection, view)[columns]
        operands.append(emit.project(restored, weight, bias, int8=True))
    return operands


def _mask(emit: Emitter, found: Attention, view: View) -> str:
    """The mask as floats to add, of rank 2 to 4 as Attention takes it; "" without one."""
    mask = found.mask
    if mask is None:
        return ""
    made = mask.tensor
    if mask.kind != "add":
        dtype = weight_dtype(found.parts[0].projection, view)
        values = [emit.constant("kept", 0.0, dtype), emit.constant("hidden", mask.fill, dtype)]
        made = emit.add("Where", [made, *(values if mask.kind == "keep" else values[::-1])])
    shape = view.shape(mask.tensor)
    if shape is not None and len(shape) < 2:
        made = emit.add("Reshape", [made, emit.constant("one_row", [1, -1])])
    return made


def _square(emit: Emitter, mask: str, x: str) -> str:
    """The mask with its last two axes at their full length.

    TensorRT would broadcast [B, 1, 1, S] over the queries, and onnxruntime 1.32, which computes what was given to the
    compiler when a build is verified, refuses it.
    """
    length = emit.add("Shape", [x], start=1, end=2)
    return emit.add("Expand", [mask, emit.add("Concat", [length, length], axis=0)])


def _defined(emit: Emitter, made: str, dtype: Any, output: str) -> str:
    """Rows that are masked whole are NaN through the softmax; the graph has 0 there, and so has their context."""
    zero = emit.constant("zero", 0.0, dtype)
    return emit.add("Where", [emit.add("IsNaN", [made]), zero, made], output)
