"""Where the self-attention of an encoder is in a graph, in whatever way an exporter spelled it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from onnx import NodeProto

from trtforge.plugins.qkv_to_context import layout as views
from trtforge.plugins.qkv_to_context import scores
from trtforge.plugins.qkv_to_context.attention import AttentionOperator
from trtforge.plugins.qkv_to_context.function import as_call
from trtforge.plugins.qkv_to_context.layout import Atom, Axis, Layout
from trtforge.plugins.qkv_to_context.sizes import ONE, Size, is_view
from trtforge.plugins.qkv_to_context.stock import StockQkvToContext
from trtforge.plugins.qkv_to_context.structure import Attention, Mask, Part, Rows, attention_of
from trtforge.plugins.qkv_to_context.trace import COLUMN, Traced, Tracer, projection_inputs
from trtforge.surgery.op import Lowered, Lowering, Names, Op
from trtforge.surgery.rules import Match, Near, NotHere, Rule, View, is_op, label

_HEADS = "heads"
"""Source of the context's columns in layouts: head n's element h is at n * H + h."""


class QkvToContextRule(Rule):
    """Q, K and V projections of one tensor and the scaled dot-product attention of them.

    With x [B, S, E], weights [E, N*H], and per head n columns n*H to (n+1)*H:

        Q, K, V = x @ Wq + bq, x @ Wk + bk, x @ Wv + bv
        context[:, :, n] = softmax(scale * Q[n] @ K[n]^T + mask) @ V[n]        over the keys, the last axis

    It is found from the softmax. A graph is this structure when the operands of its two products are rearrangements of
    columns of such projections, told by following every element (``layout``): any order of Reshape and Transpose, of
    constant or computed shapes; one weight for all three, cut by Split, Slice or Gather, [3, N, H] or [N, 3, H]; Gemm
    on flattened rows; [S, B, E]; the scale on Q, on K, on the scores or in parts, since

        (a Q) @ (b K)^T = a b (Q @ K^T)

    and any positive scale; a mask that is added, or chosen by Where; NaN of rows that are masked whole turned into 0.
    The weights stay in the graph, so others may read them; nothing else inside may have a reader outside.
    """

    name = "qkv-to-context"
    begins = "Softmax"

    def anchors(self, view: View) -> Iterable[NodeProto]:
        return view.nodes("Softmax")

    def match(self, anchor: NodeProto, view: View) -> Match:
        found = _Middle(anchor, scores.above(anchor, view), scores.below(anchor, view))
        candidates, hidden = _sources(found, view)
        matches: list[Match] = []
        first: Near | None = None
        for x in candidates:
            try:
                matches.append(_match(x, hidden, found, view))
            except Near as miss:
                first = first or miss
                continue
            if attention_of(matches[-1]).source == Rows(3, False):
                return matches[-1]
        if not matches:
            raise first or NotHere("its query, key and value are not projections of one tensor")
        return matches[0]


class QkvToContext(Op):
    """Query, key and value projections and the attention of an encoder's self-attention, as one function.

    The output projection stays outside.
    """

    name = "qkv-to-context"
    rule = QkvToContextRule()
    lowerings: ClassVar[tuple[Lowering, ...]] = (StockQkvToContext(), AttentionOperator())

    def function(self, match: Match, view: View, names: Names) -> Lowered:
        return as_call(match, view, names)


@dataclass(frozen=True)
class _Middle:
    softmax: NodeProto
    above: scores.Above
    below: scores.Below


def _sources(found: _Middle, view: View) -> tuple[list[str], int]:
    """Tensors that all three projections come from, nearest first, and their width. Raises Near."""
    operands = {"Q": found.above.product.input[0], "K": found.above.product.input[1], "V": found.below.product.input[1]}
    read = {who: projection_inputs(view, tensor) for who, tensor in operands.items()}
    for who, (tensors, _) in read.items():
        if not tensors:
            raise Near(f"{who}, {operands[who]!r}, does not come from a projection with constant weights")
    (query, hidden), rest = read["Q"], [(who, read[who][0]) for who in "KV"]
    for who, tensors in rest:
        if set(query).isdisjoint(tensors):
            raise Near(
                f"{who}'s projection reads {tensors[0]!r}, another tensor than Q's {query[0]!r}: cross-attention"
            )
    return [tensor for tensor in query if all(tensor in tensors for _, tensors in rest)], hidden


def _match(x: str, hidden: int, found: _Middle, view: View) -> Match:
    shape = view.shape(x)
    if shape is None or len(shape) not in (2, 3):
        known = "is not known; `infer-shapes` may find it" if shape is None else f"has rank {len(shape)}, not 2 or 3"
        raise Near(f"the shape of the projections' input {x!r} {known}")
    tracer = Tracer(view, x, tuple(_size(size, x, axis) for axis, size in enumerate(shape)), hidden)
    query = _operand(tracer, found.above.product.input[0], "Q", sequence=-2)
    key = _operand(tracer, found.above.product.input[1], "K", sequence=-1)
    value = _operand(tracer, found.below.product.input[1], "V", sequence=-2)
    _check_alike(query, key, value)
    scores.check_axis(found.softmax, len(query.traced.layout), view.opset)
    factor, mask = scores.scale_and_mask(found.above, view, tracer.values)
    if mask is not None:
        _check_mask(mask, query, view)
    rows = (query.batch, query.sequence)
    source = _lie(tracer.trace(x, "x").layout[:-1], rows)
    if source is None:
        raise Near(f"{x!r} is not a batch of sequences: its rows are neither [batch, sequence] nor [sequence, batch]")
    output, result, below = _down(found.below.product.output[0], query, rows, tracer, view)
    facts = Attention(
        heads=query.heads,
        head_size=query.head_size,
        scale=_scale(factor, query, key, value),
        guarded=found.below.guarded,
        mask=mask,
        parts=(query.part, key.part, value.part),
        source=source,
        result=result,
        batch=views.axis_size(query.batch).known,
        sequence=views.axis_size(query.sequence).known,
        packed=source.rank == 2 and not query.batch,
    )
    if source.rank == 2 and facts.batch is None and facts.sequence is None:
        raise Near(f"{x!r} has flattened rows, and neither batch nor sequence length is fixed")
    inner = _inner(tracer, found, below, output, view)
    projections = [part.projection for part in facts.parts]
    return Match(
        rule=QkvToContextRule.name,
        at=output,
        inputs=(
            x,
            *(name for made in projections for name in (made.weight, made.bias)),
            mask.tensor if mask else "",
        ),
        outputs=(output,),
        inner=inner,
        ranges=(x, *(made.output for made in projections), found.below.probabilities, output),
        attributes={"num_heads": facts.heads, "scale": facts.scale},
        facts={"attention": facts},
    )


def _size(size: int | str | None, tensor: str, axis: int) -> Size:
    return Size(size) if isinstance(size, int) else Size(1, (size or f"{tensor}[{axis}]",))


@dataclass(frozen=True)
class _Operand:
    """Q, K or V at its product, with the axes that every head has of its own told apart."""

    who: str
    traced: Traced
    part: Part
    heads: int
    head_size: int
    sequence: Axis
    batch: Axis
    grid: Layout
    """The leading axes, in which the columns' atom stands for the heads: equal for Q, K and V."""


def _operand(tracer: Tracer, tensor: str, who: str, *, sequence: int) -> _Operand:
    traced = tracer.trace(tensor, who)
    if traced.projection is None or len(traced.layout) < 2:
        raise Near(f"{who} is not projected")
    *leading, one, other = traced.layout
    tokens, elements = (one, other) if sequence == -2 else (other, one)
    if len(elements) != 1 or elements[0].source != COLUMN or elements[0].size.known is None:
        raise Near(f"{who} is not multiplied along the elements of its heads")
    if len(tokens) != 1 or tokens[0].source == COLUMN:
        raise Near(f"{who}'s other axis is not the sequence")
    heads = [atom for axis in leading for atom in axis if atom.source == COLUMN]
    batch = [atom for axis in leading for atom in axis if atom.source != COLUMN]
    count = heads[0].size.known if heads else 1
    if len(heads) > 1 or len(views.merged(batch)) > 1 or count is None:
        raise Near(f"{who} is not split into batch and heads")
    head_stride = heads[0].stride.factor if heads else 0
    grid = tuple(
        tuple(Atom(_HEADS, ONE, atom.size) if atom.source == COLUMN else atom for atom in axis) for axis in leading
    )
    part = Part(traced.projection, traced.offset, head_stride, elements[0].stride.factor)
    return _Operand(who, traced, part, count, elements[0].size.factor, tokens, views.merged(batch), grid)


def _check_alike(query: _Operand, key: _Operand, value: _Operand) -> None:
    for other in (key, value):
        if other.heads != query.heads:
            raise Near(f"{other.who} has {other.heads} heads, and Q has {query.heads}")
        if other.head_size != query.head_size:
            raise Near(f"{other.who}'s heads have {other.head_size} elements, and Q's have {query.head_size}")
        if (other.grid, other.sequence) != (query.grid, query.sequence):
            raise Near(f"{other.who}'s batch, heads and sequence do not lie as Q's do")


def _scale(factor: float, query: _Operand, key: _Operand, value: _Operand) -> float:
    if value.traced.scale != 1.0:
        raise Near(f"V is scaled, by {value.traced.scale:g}")
    scale = factor * query.traced.scale * key.traced.scale
    if scale <= 0:
        raise Near(f"the scores are scaled by {scale:g}, which is not positive")
    return scale


def _check_mask(mask: Mask, query: _Operand, view: View) -> None:
    """The mask must mean for [B, N, S, S] what it means for the scores as the graph has them."""
    shape = view.shape(mask.tensor)
    lengths = [*(views.axis_size(axis).known for axis in query.grid), *[views.axis_size(query.sequence).known] * 2]
    if shape is not None and len(shape) > len(lengths):
        raise Near(f"the mask {mask.tensor!r} has rank {len(shape)}, and the scores have {len(lengths)}")
    if shape is not None:
        for size, length in zip(shape[::-1], lengths[::-1], strict=False):
            if isinstance(size, int) and length is not None and size not in (1, length):
                raise Near(
                    f"the mask {mask.tensor!r} does not broadcast to the scores: {size} where they have {length}"
                )
    sources = [{atom.source for atom in axis} for axis in query.grid]
    if len(sources) == 2 and _HEADS not in sources[0] and not sources[1] - {_HEADS}:
        return
    if shape is None or any(size != 1 for size in shape[:-2]):
        raise Near(f"the mask {mask.tensor!r} is for scores that do not lie [batch, heads, sequence, sequence]")


def _lie(axes: Layout, rows: tuple[Axis, Axis]) -> Rows | None:
    """How rows lie in the leading axes of a tensor; None when they are something else."""
    batch, sequence = rows
    for time_first, order in ((False, (batch, sequence)), (True, (sequence, batch))):
        if axes == order:
            return Rows(3, time_first)
        if axes == (views.merged([*order[0], *order[1]]),):
            return Rows(2, time_first)
    return None


def _down(
    tensor: str, query: _Operand, rows: tuple[Axis, Axis], tracer: Tracer, view: View
) -> tuple[str, Rows, list[NodeProto]]:
    """From the product with V to the context as rows of N*H: its name, how it lies, the nodes. Raises Near."""
    size = Size(query.head_size)
    grid = (
        tuple(Atom(_HEADS, size, atom.size) if atom.source == _HEADS else atom for atom in axis) for axis in query.grid
    )
    now: Layout = (*grid, query.sequence, (Atom(_HEADS, ONE, size),))
    whole = views.whole(_HEADS, Size(query.heads * query.head_size))
    nodes: list[NodeProto] = []
    while True:
        result = _lie(now[:-1], rows) if now[-1] == whole else None
        if result is not None:
            return tensor, result, nodes
        tracer.note(tensor, now)
        readers = [node for node in view.readers(tensor) if not is_op(node, "Shape")]
        if tensor in view.index.outputs or len(readers) != 1 or not is_view(readers[0]):
            raise Near(f"the heads of the context {tensor!r} are not put together again, or it has a second consumer")
        now = tracer.view_of(readers[0], now, "the context")
        nodes.append(readers[0])
        tensor = readers[0].output[0]


def _inner(tracer: Tracer, found: _Middle, below: list[NodeProto], output: str, view: View) -> tuple[str, ...]:
    """Tensors that only the structure reads. Raises Near.

    Shapes and scales are computed by nodes that may serve others too; those stay.
    """
    own = [
        *(node for node in tracer.nodes.values() if tracer.trace(node.output[0], "").projection is not None),
        *(found.above.product, *found.above.steps, found.softmax, *found.below.steps, found.below.product),
        *below,
    ]
    for tensor, what in ((found.softmax.input[0], "scores"), (found.below.probabilities, "probabilities")):
        strangers = [node for node in view.readers(tensor) if all(node is not each for each in own)]
        if strangers:
            raise Near(f"the {what} {tensor!r} have a second consumer {label(strangers[0])!r}")
    helpers = {id(node): node for node in (*tracer.values.nodes.values(), *tracer.nodes.values())}
    inside = {id(node) for node in own}
    while served := [node for node in helpers.values() if _serves_others(node, inside | helpers.keys(), view)]:
        for node in served:
            del helpers[id(node)]
    closed = {id(node) for node in (*own, *helpers.values())}
    nodes = [node for node in view.graph.node if id(node) in closed]
    for node in nodes:
        for name in set(node.output) - {output}:
            for reader in view.readers(name):
                if is_op(reader, "Shape") and id(reader) not in closed:
                    raise Near(
                        f"the size of {name!r} inside it is read outside, through {label(reader)!r}; with fixed input "
                        "shapes `fold-constants` removes that"
                    )
    return view.closed(nodes, [output])


def _serves_others(node: NodeProto, inside: Iterable[int], view: View) -> bool:
    outputs = [name for name in node.output if name]
    return any(name in view.index.outputs for name in outputs) or any(
        id(reader) not in inside for name in outputs for reader in view.readers(name)
    )


OP = QkvToContext()
