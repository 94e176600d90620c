"""The op's meaning: an ONNX function of the standard operators, one for each kind of mask."""

from __future__ import annotations

from typing import Any

from onnx import AttributeProto, FunctionProto, NodeProto, helper

from trtforge.plugins.qkv_to_context.emit import Emitter
from trtforge.plugins.qkv_to_context.structure import Attention, attention_of
from trtforge.surgery.op import DOMAIN, DOMAIN_VERSION, Lowered, Names, call, function_proto
from trtforge.surgery.rules import Match, View

OPSET = 18
WEIGHTS = ("wq", "bq", "wk", "bk", "wv", "bv")


def function_name(masked: str, guarded: bool) -> str:
    """``masked``: "" for none, "add" for a mask that is added, "keep" for a boolean one."""
    return "QkvToContext" + {"": "", "add": "AddMask", "keep": "BoolMask"}[masked] + ("Guarded" if guarded else "")


def function(masked: str, guarded: bool) -> FunctionProto:
    """QkvToContext(x, wq, bq, wk, bk, wv, bv[, mask]; num_heads, scale[, fill]) -> context.

    x [B, S, E], weights [E, N*H], biases [N*H], context [B, S, N*H], all of one float type. mask broadcasts to
    [B, N, S, S]: it is added, or it is boolean and true where a score stays, with ``fill`` in place of the others.
    ``guarded``: NaN after the softmax, which rows without a key have under a fill of -inf, becomes 0.
    """
    nodes: list[NodeProto] = []

    def add(operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def given(name: str, output: str, kind: AttributeProto.AttributeType) -> str:
        field = "value_int" if kind == AttributeProto.INT else "value_float"
        node = helper.make_node("Constant", [], [output])
        node.attribute.append(AttributeProto(name=field, ref_attr_name=name, type=kind))
        nodes.append(node)
        return output

    add("Constant", [], "kept", value_ints=[0, 0])
    add("Constant", [], "rest", value_ints=[-1])
    given("num_heads", "heads", AttributeProto.INT)
    add("Reshape", ["heads", "rest"], "heads_row")
    add("Concat", ["kept", "heads_row", "rest"], "split", axis=0)
    add("Concat", ["kept", "rest"], "joined", axis=0)
    for part, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        add("MatMul", ["x", f"w{part}"], f"{part}_product")
        add("Add", [f"{part}_product", f"b{part}"], part)
        add("Reshape", [part, "split"], f"{part}_heads")
        add("Transpose", [f"{part}_heads"], f"{part}_ready", perm=order)
    add("MatMul", ["q_ready", "k_ready"], "products")
    add("CastLike", [given("scale", "scale_float", AttributeProto.FLOAT), "x"], "scale_like")
    scores = add("Mul", ["products", "scale_like"], "scores")
    if masked == "add":
        scores = add("Add", [scores, "mask"], "masked")
    elif masked == "keep":
        add("CastLike", [given("fill", "fill_float", AttributeProto.FLOAT), "x"], "fill_like")
        scores = add("Where", ["mask", scores, "fill_like"], "masked")
    probabilities = add("Softmax", [scores], "probabilities", axis=-1)
    if guarded:
        add("IsNaN", [probabilities], "undefined")
        add("Constant", [], "zero_float", value_float=0.0)
        add("CastLike", ["zero_float", "x"], "zero")
        probabilities = add("Where", ["undefined", "zero", probabilities], "defined")
    add("MatMul", [probabilities, "v_ready"], "by_head")
    add("Transpose", ["by_head"], "by_token", perm=[0, 2, 1, 3])
    add("Reshape", ["by_token", "joined"], "context")
    return function_proto(
        function_name(masked, guarded),
        ["x", *WEIGHTS, *(["mask"] if masked else [])],
        ["context"],
        nodes,
        attributes=["num_heads", "scale", *(["fill"] if masked == "keep" else [])],
        opset=OPSET,
        doc="Projections to queries, keys and values, and scaled dot-product attention by head.",
    )


def as_call(match: Match, view: View, names: Names) -> Lowered:
    """The match as one call of its function, with views before and after it where x or the context lies otherwise."""
    found = attention_of(match)
    emit = Emitter(match, names)
    weights = [name for part in found.parts for name in emit.weight_nodes(part, found, view)]
    x = emit.batch_first(match.inputs[0], found, view)
    masked, operands = _mask_operand(emit, found)
    fill = {"fill": found.mask.fill} if found.mask and masked == "keep" else {}

    def make(output: str) -> str:
        return emit.put(
            call(
                function_name(masked, found.guarded),
                [x, *weights, *operands],
                [output or emit.fresh("context")],
                emit.fresh("call"),
                num_heads=found.heads,
                scale=found.scale,
                **fill,
            )
        )

    emit.as_result(make, found.result, found.width, match.outputs[0])
    return Lowered(
        tuple(emit.nodes),
        tuple(names.initializers),
        (function(masked, found.guarded),),
        {DOMAIN: DOMAIN_VERSION},
    )


def _mask_operand(emit: Emitter, found: Attention) -> tuple[str, list[str]]:
    mask = found.mask
    if mask is None:
        return "", []
    if mask.kind == "drop":
        return "keep", [emit.add("Not", [mask.tensor])]
    return mask.kind, [mask.tensor]
