"""Lowering to `CustomQKVToContextPluginDynamic`, NVIDIA's plugin for BERT, where a TensorRT has it.

Fields, inputs and layouts are those of plugin/bertQKVToContextPlugin in NVIDIA/TensorRT (its README, its creators and
its enqueue functions); what we know of its use is NVIDIA's BERT in MLPerf Inference v2.0. Not yet run on a TensorRT.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from onnx import TensorProto, helper
from packaging.version import InvalidVersion, Version

from trtforge.plugins.qkv_to_context import kernels
from trtforge.plugins.qkv_to_context.emit import Emitter, merged_weights
from trtforge.plugins.qkv_to_context.lengths import lengths_node, tokens_of
from trtforge.plugins.qkv_to_context.structure import Attention, attention_of
from trtforge.recipe.models import LoweringName
from trtforge.surgery.op import Creator, Lowered, Lowering, Names, Plugin, Situation
from trtforge.surgery.rules import Match, View

PLUGIN = "CustomQKVToContextPluginDynamic"
DOMAIN = "trt.plugins"
"""Domain of the node. TensorRT's parser finds a plugin by `plugin_version` and `plugin_namespace`; onnx's checks refuse
an unknown operator in the standard domain."""

TYPE_ID = {"fp32": 0, "fp16": 1, "int8": 2}
FIELDS: dict[int, tuple[str, ...]] = {
    1: ("type_id", "hidden_size", "num_heads", "has_mask"),
    2: ("type_id", "hidden_size", "num_heads", "has_mask", "var_seqlen"),
    3: (
        *("hidden_size", "num_heads", "dq_probs", "use_int8_scale_max"),
        *("use_explicit_int8", "input_qkv_scale", "output_ctx_scale"),
    ),
}
"""Fields we set, by version; 4, 5 and 6 have those of 1, 2 and 3. `dq_probs` of 1 and 2 is for INT8, which they do by
implicit quantization only."""

CU_SEQLENS, MAX_SEQLEN = "cu_seqlens", "max_seqlen"
"""Graph inputs of a packed interface, named as in NVIDIA's BERT: int32 [B+1], where each sequence begins in the rows
and where the last one ends; and a tensor whose length is the longest sequence's, its values unused."""

_INTERLEAVED_HEAD = 64
"""Versions 3 and 6 scale the scores by 1/sqrt(64), whatever the head size."""


@dataclass(frozen=True)
class _Form:
    """``versions``: the plugin's that serve, the IPluginV3 one first."""

    versions: tuple[int, int]

    @property
    def family(self) -> kernels.Family:
        return kernels.FAMILY[self.versions[0]]


_PADDED, _PACKED, _INTERLEAVED = _Form((4, 1)), _Form((5, 2)), _Form((6, 3))


class StockQkvToContext(Lowering):
    """One MatMul for Q, K and V, and the plugin's node behind it.

    Versions 4 and 1 take [S, B, 3E, 1, 1] and the number of tokens of each sequence, which is counted in the graph's
    attention mask: right for padding at the end. Versions 5 and 2 take packed rows [sum S, 3E, 1, 1]; 6 and 3 take them
    as INT8 [1, 3E, sum S, 1] between Q/DQ. The weights' columns go by head, [N, 3, H], but for 6 and 3, [3, N, H].
    """

    name: ClassVar[LoweringName] = "stock"

    def refuses(self, match: Match, view: View, situation: Situation) -> str:
        found = attention_of(match)
        if why := _no_plugin(_form(found, situation), situation):
            return why
        if not math.isclose(found.scale, found.head_size**-0.5, rel_tol=1e-4):
            exact = found.head_size**-0.5
            return f"q and k scale by {found.scale:g}, not 1/sqrt({found.head_size})={exact:g}, which the plugin does"
        if found.packed:
            return _packed_refuses(match, view, situation, _form(found, situation))
        return _padded_refuses(found, view, situation)

    def lower(self, match: Match, view: View, situation: Situation, names: Names) -> Lowered:
        form = _form(attention_of(match), situation)
        creator = _version(form, situation)
        assert creator is not None  # ``refuses`` has asked
        emit = Emitter(match, names)
        fields = _fields(match, form, situation)
        if form is _PADDED:
            _padded(emit, match, view, situation, creator, fields)
        elif form is _PACKED:
            _packed(emit, match, view, situation, creator, fields)
        else:
            _interleaved(emit, match, view, situation, creator, fields)
        return Lowered(
            tuple(emit.nodes), tuple(names.initializers), opsets={DOMAIN: 1}, plugin=Plugin(creator, "", fields)
        )


def _form(found: Attention, situation: Situation) -> _Form:
    if not found.packed:
        return _PADDED
    return _INTERLEAVED if situation.precision == "int8" else _PACKED


def _version(form: _Form, situation: Situation) -> Creator | None:
    for version in form.versions:
        if (creator := Creator(PLUGIN, str(version))) in situation.creators:
            return creator
    return None


def _no_plugin(form: _Form, situation: Situation) -> str:
    if situation.backend != "tensorrt":
        return f"{PLUGIN} is a plugin of TensorRT, and the backend is {situation.backend}"
    if situation.dla:
        return "the DLA runs no plugins"
    if situation.sm is None:
        return "the target's compute capability is not known"
    if _version(form, situation) is not None:
        return ""
    release = f"TensorRT {situation.tensorrt}" if situation.tensorrt else "this TensorRT"
    wanted = f"{PLUGIN} version {form.versions[0]} or {form.versions[1]}"
    if situation.probed:
        return f"the plugin registry of {release} has no {wanted}"
    return f"{release} is not documented to have {wanted}"


def _padded_refuses(found: Attention, view: View, situation: Situation) -> str:
    if situation.precision == "int8":
        return (
            "versions 1 and 4 take INT8 scales from implicit quantization only, and 2, 3, 5 and 6 need packed "
            f"sequences: a graph with inputs {CU_SEQLENS} and {MAX_SEQLEN}"
        )
    length = found.sequence
    if situation.precision == "fp16" and length is None:
        return "the sequence length is open, and the form of the mask depends on it"
    if situation.precision == "fp16" and length in kernels.MASK_SIZES:
        return (
            f"at sequence length {length} versions 1 and 4 read a mask packed by CustomEmbLayerNormPluginDynamic, and "
            f"versions 2 and 5 need packed sequences: a graph with inputs {CU_SEQLENS} and {MAX_SEQLEN}"
        )
    if found.mask is not None and tokens_of(found.mask, view) is None:
        return (
            f"the plugin wants the number of tokens of each sequence, and the mask {found.mask.tensor!r} is not made "
            "of a graph input [batch, sequence] by Cast, Unsqueeze, 1 - m and a factor, or Where"
        )
    return ""


def _packed_refuses(match: Match, view: View, situation: Situation, form: _Form) -> str:
    found = attention_of(match)
    absent = [name for name in (CU_SEQLENS, MAX_SEQLEN) if name not in view.index.inputs]
    if absent:
        return f"the rows are packed, and the graph has no input {absent[0]!r}, which the plugin wants"
    if found.mask is None or not _depends_on(found.mask.tensor, CU_SEQLENS, view):
        return f"the rows are packed, and no mask made of {CU_SEQLENS!r} keeps the sequences apart"
    if situation.precision == "fp32":
        return "versions 2 and 5 compute in FP16 and INT8 only"
    shape = view.shape(MAX_SEQLEN)
    longest = shape[0] if shape and isinstance(shape[0], int) else None
    if why := kernels.missing(situation.sm or "", situation.precision, found.head_size, form.versions[0], longest):
        return why
    return _int8_refuses(match, situation) if form is _INTERLEAVED else ""


def _int8_refuses(match: Match, situation: Situation) -> str:
    found = attention_of(match)
    if found.head_size != _INTERLEAVED_HEAD:
        return f"versions 3 and 6 scale by 1/sqrt({_INTERLEAVED_HEAD}) always, and the head size is {found.head_size}"
    try:
        explicit = Version(situation.tensorrt or "").major >= 11
    except InvalidVersion:
        explicit = False
    if not explicit:
        return "before TensorRT 11 INT8 is by implicit quantization, and calibration has no range for Q, K and V in one"
    if (ranges := situation.ranges) is None:  # before calibration
        return ""
    for tensor in match.ranges:
        if not ranges.get(tensor, 0.0) > 0 or not math.isfinite(ranges[tensor]):
            return f"calibration has no usable range for the tensor {tensor!r}"
    return ""


def _depends_on(tensor: str, source: str, view: View) -> bool:
    todo, seen = [tensor], {tensor}
    while todo:
        node = view.index.producer(todo.pop())
        for name in node.input if node is not None else ():
            if name == source:
                return True
            if name and name not in seen:
                seen.add(name)
                todo.append(name)
    return False


def _fields(match: Match, form: _Form, situation: Situation) -> dict[str, int | float]:
    """By name; Python's int and float are the plugin's kINT32 and kFLOAT32."""
    found = attention_of(match)
    values: dict[str, int | float] = {
        "type_id": TYPE_ID[situation.precision],
        "hidden_size": found.width,
        "num_heads": found.heads,
        "has_mask": int(form is _PACKED or found.mask is not None),
        "var_seqlen": 1,
        "use_int8_scale_max": 1,
        "use_explicit_int8": 1,
    }
    if form is _INTERLEAVED:
        qkv, probabilities, context = _amax(match, situation)
        values |= {
            "dq_probs": probabilities / 127,
            "input_qkv_scale": qkv / 127,
            "output_ctx_scale": context / 127,
        }
    return {name: values[name] for name in FIELDS[form.versions[1]]}


def _amax(match: Match, situation: Situation) -> tuple[float, float, float]:
    """Of Q, K and V together, of the probabilities, of the context."""
    ranges = situation.ranges or {}
    _, query, key, value, probabilities, context = (ranges[tensor] for tensor in match.ranges)
    return max(query, key, value), probabilities, context


def _plugin(emit: Emitter, inputs: list[str], creator: Creator, fields: dict[str, int | float]) -> str:
    attributes: dict[str, Any] = {"plugin_version": creator.version, "plugin_namespace": creator.namespace, **fields}
    return emit.put(helper.make_node(PLUGIN, inputs, [emit.fresh("context")], domain=DOMAIN, **attributes))


def _cast(emit: Emitter, tensor: str, precision: str, *, back: bool = False) -> str:
    """To the plugin's type, or back to the graph's; nothing in FP32."""
    if precision != "fp16":
        return tensor
    return emit.add("Cast", [tensor], to=TensorProto.FLOAT if back else TensorProto.FLOAT16)


def _padded(
    emit: Emitter, match: Match, view: View, situation: Situation, creator: Creator, fields: dict[str, int | float]
) -> None:
    found = attention_of(match)
    x = emit.batch_first(match.inputs[0], found, view)
    weight, bias = merged_weights(match, view, by_head=True)
    by_time = emit.add("Transpose", [x], perm=[1, 0, 2])
    qkv = emit.project(by_time, weight, bias)
    ones = emit.constant("ones", [3, 4])
    operands = [_cast(emit, emit.add("Unsqueeze", [qkv, ones]), situation.precision)]
    if found.mask is not None:
        tokens = tokens_of(found.mask, view)
        assert tokens is not None  # ``refuses`` has asked
        operands.append(lengths_node(emit, tokens))
    made = _cast(emit, _plugin(emit, operands, creator, fields), situation.precision, back=True)
    flat = emit.add("Squeeze", [made, ones])

    def make(output: str) -> str:
        return emit.add("Transpose", [flat], output, perm=[1, 0, 2])

    emit.as_result(make, found.result, found.width, match.outputs[0])


def _packed(
    emit: Emitter, match: Match, view: View, situation: Situation, creator: Creator, fields: dict[str, int | float]
) -> None:
    found = attention_of(match)
    weight, bias = merged_weights(match, view, by_head=True)
    qkv = emit.project(match.inputs[0], weight, bias)
    column = _cast(emit, emit.add("Unsqueeze", [qkv, emit.constant("ones", [2, 3])]), situation.precision)
    unused = emit.constant("mask_unused", [1], np.int32)  # the plugin reads cu_seqlens in its place
    made = _plugin(emit, [column, unused, CU_SEQLENS, MAX_SEQLEN], creator, fields)
    back = _cast(emit, made, situation.precision, back=True)
    _rows(emit, back, found, match.outputs[0])


def _interleaved(
    emit: Emitter, match: Match, view: View, situation: Situation, creator: Creator, fields: dict[str, int | float]
) -> None:
    found, ranges = attention_of(match), situation.ranges or {}
    weight, bias = merged_weights(match, view, by_head=False)
    qkv, _, context = _amax(match, situation)
    _, restored = emit.quantize(match.inputs[0], ranges[match.ranges[0]])
    projected = emit.project(restored, weight, bias, int8=True)
    by_channel = emit.add("Transpose", [projected], perm=[1, 0])
    image = emit.add("Unsqueeze", [by_channel, emit.constant("ones", [0, 3])])
    stored, _ = emit.quantize(image, qkv)
    made = _plugin(emit, [stored, CU_SEQLENS, MAX_SEQLEN], creator, fields)
    pair = [emit.constant("context_scale", context / 127, np.float32), emit.constant("zero", 0, np.int8)]
    restored = emit.add("DequantizeLinear", [made, *pair])
    rows = emit.add("Transpose", [emit.add("Squeeze", [restored, emit.constant("ones", [0, 3])])], perm=[1, 0])
    _rows(emit, rows, found, match.outputs[0])


def _rows(emit: Emitter, tensor: str, found: Attention, output: str) -> None:
    """Packed rows [sum S, ...] as the graph has its context, of rank 2 or 3."""
    shape = [-1, found.width] if found.result.rank == 2 else [1, -1, found.width]
    emit.add("Reshape", [tensor, emit.constant("context_rows", shape)], output)
