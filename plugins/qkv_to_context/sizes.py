"""Sizes that are not known as numbers, and the small integer and scalar graphs that exporters compute them with.

A view in PyTorch is exported as a Reshape whose shape is put together from Shape, Gather, Mul, Concat and constants. To
know whether two such views split a tensor alike, the sizes are followed as monomials: a factor times named sizes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnx import NodeProto, TensorProto

from trtforge.surgery.rules import View, attribute, is_op

_LONGEST = 64  # elements; shapes and scalars are shorter
_TO_FLOAT = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class Size:
    """``factor`` times the product of ``symbols``, which are sorted. Without symbols it is that integer."""

    factor: int = 1
    symbols: tuple[str, ...] = ()

    @property
    def known(self) -> int | None:
        return None if self.symbols else self.factor

    @property
    def is_one(self) -> bool:
        return self.known == 1

    def times(self, other: Size) -> Size:
        return Size(self.factor * other.factor, tuple(sorted((*self.symbols, *other.symbols))))

    def over(self, other: Size) -> Size | None:
        """The exact quotient; None when it does not divide evenly for every value of the symbols."""
        mine, theirs = Counter(self.symbols), Counter(other.symbols)
        if other.factor == 0 or self.factor % other.factor or theirs - mine:
            return None
        return Size(self.factor // other.factor, tuple(sorted((mine - theirs).elements())))

    def __str__(self) -> str:
        named = "*".join(self.symbols)
        return named if named and self.factor == 1 else "*".join(filter(None, (str(self.factor), named)))


ONE = Size()
Item = Size | float
Shape = tuple[Size, ...]


def product(sizes: Sequence[Size]) -> Size:
    total = ONE
    for size in sizes:
        total = total.times(size)
    return total


@dataclass(frozen=True)
class Value:
    """A tensor of rank 0 or 1: its elements, sizes or real numbers."""

    items: tuple[Item, ...]
    scalar: bool


class Values:
    """Evaluates tensors of rank 0 and 1 as far as they follow from constants and shapes.

    ``shape_of`` gives what is known of a tensor's shape beyond the graph's own types. ``nodes``: every node that was
    looked at, in no order.
    """

    def __init__(self, view: View, shape_of: Callable[[str], Shape | None]) -> None:
        self._view = view
        self._shape_of = shape_of
        self._known: dict[str, Value | None] = {}
        self.nodes: dict[int, NodeProto] = {}

    def shape(self, tensor: str) -> Shape | None:
        """Sizes of a tensor; those without a number or a name of their own become one named after the tensor."""
        if (traced := self._shape_of(tensor)) is not None:
            return traced
        stated = self._view.shape(tensor)
        if stated is None:
            return None
        return tuple(
            Size(size) if isinstance(size, int) else Size(1, (size or f"{tensor}[{axis}]",))
            for axis, size in enumerate(stated)
        )

    def sizes(self, tensor: str) -> list[Size] | None:
        """A tensor of rank 1 as integers and sizes, e.g. the target of a Reshape."""
        value = self.value(tensor)
        if value is None:
            return None
        found = [item for item in value.items if isinstance(item, Size)]
        return found if len(found) == len(value.items) else None

    def integers(self, tensor: str) -> list[int] | None:
        sizes = self.sizes(tensor)
        if sizes is None or any(size.known is None for size in sizes):
            return None
        return [size.factor for size in sizes]

    def number(self, tensor: str) -> float | None:
        """A tensor of one element as a number."""
        if self._view.constant_shape(tensor) is not None:
            return self._view.scalar(tensor)
        value = self.value(tensor)
        return None if value is None or len(value.items) != 1 else _number(value.items[0])

    def value(self, tensor: str) -> Value | None:
        if tensor not in self._known:
            self._known[tensor] = None  # a cycle, which a valid graph does not have, ends here
            self._known[tensor] = self._evaluate(tensor)
        return self._known[tensor]

    def _evaluate(self, tensor: str) -> Value | None:
        dims = self._view.constant_shape(tensor)
        if dims is not None:
            return self._constant(tensor, dims)
        node = self._view.index.producer(tensor)
        if node is None or node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type == "Shape":
            self.nodes[id(node)] = node
            return self._shape_node(node)
        if node.op_type not in _RULES:
            return None
        self.nodes[id(node)] = node
        operands = [self.value(name) for name in node.input if name]
        if not operands or any(operand is None for operand in operands):
            return None
        return _RULES[node.op_type](node, [operand for operand in operands if operand is not None])

    def _constant(self, tensor: str, dims: tuple[int, ...]) -> Value | None:
        if len(dims) > 1 or math.prod(dims) > _LONGEST:
            return None
        array = self._view.value(tensor)
        if array is None or array.dtype.kind not in "iuf":
            return None
        whole = array.dtype.kind in "iu"
        return Value(tuple(Size(int(each)) if whole else float(each) for each in array.reshape(-1)), not dims)

    def _shape_node(self, node: NodeProto) -> Value | None:
        shape = self.shape(node.input[0])
        if shape is None:
            return None
        return Value(shape[slice(attribute(node, "start", 0), attribute(node, "end"))], False)


def _number(item: Item) -> float | None:
    if isinstance(item, float):
        return item
    return None if item.known is None else float(item.known)


def _gather(node: NodeProto, operands: list[Value]) -> Value | None:
    data, indices = operands
    places = [item.known if isinstance(item, Size) else None for item in indices.items]
    if data.scalar or any(place is None or not -len(data.items) <= place < len(data.items) for place in places):
        return None
    return Value(tuple(data.items[place] for place in places if place is not None), indices.scalar)


def _slice(node: NodeProto, operands: list[Value]) -> Value | None:
    data, *bounds = operands
    if len(bounds) < 2:
        return None
    found = [_number(bound.items[0]) if len(bound.items) == 1 else None for bound in bounds]
    step = found[3] if len(found) > 3 else 1.0
    if found[0] is None or found[1] is None or step != 1.0:
        return None
    return Value(data.items[int(found[0]) : int(found[1])], False)


def _concat(node: NodeProto, operands: list[Value]) -> Value | None:
    return Value(tuple(item for operand in operands for item in operand.items), False)


def _unsqueeze(node: NodeProto, operands: list[Value]) -> Value | None:
    return Value(operands[0].items, False) if operands[0].scalar else None


def _squeeze(node: NodeProto, operands: list[Value]) -> Value | None:
    return Value(operands[0].items, True) if len(operands[0].items) == 1 else None


def _reshape(node: NodeProto, operands: list[Value]) -> Value | None:
    rank = len(operands[1].items)
    return Value(operands[0].items, rank == 0) if rank < 2 else None


def _cast(node: NodeProto, operands: list[Value]) -> Value | None:
    if attribute(node, "to") not in _TO_FLOAT:
        whole = [item if isinstance(item, Size) else Size(int(item)) for item in operands[0].items]
        return Value(tuple(whole), operands[0].scalar)
    numbers = [_number(item) for item in operands[0].items]
    real = tuple(number for number in numbers if number is not None)
    return Value(real, operands[0].scalar) if len(real) == len(numbers) else None


def _same(node: NodeProto, operands: list[Value]) -> Value | None:
    return operands[0]


def _unary(compute: Callable[[float], float]) -> Callable[[NodeProto, list[Value]], Value | None]:
    def rule(node: NodeProto, operands: list[Value]) -> Value | None:
        numbers = [_number(item) for item in operands[0].items]
        if any(number is None or number <= 0 for number in numbers):
            return None
        return Value(tuple(compute(number) for number in numbers if number is not None), operands[0].scalar)

    return rule


def _binary(compute: Callable[[Item, Item], Item | None]) -> Callable[[NodeProto, list[Value]], Value | None]:
    def rule(node: NodeProto, operands: list[Value]) -> Value | None:
        one, other = operands
        length = max(len(one.items), len(other.items))
        if {len(one.items), len(other.items)} - {1, length}:
            return None
        pairs = zip(one.items * (length // len(one.items)), other.items * (length // len(other.items)), strict=True)
        results = [compute(*pair) for pair in pairs]
        items = tuple(result for result in results if result is not None)
        return Value(items, one.scalar and other.scalar) if len(items) == length else None

    return rule


def _integers(compute: Callable[[int, int], int], reals: Callable[[float, float], float]) -> Callable[..., Item | None]:
    def rule(one: Item, other: Item) -> Item | None:
        if isinstance(one, Size) and isinstance(other, Size):
            return None if one.symbols or other.symbols else Size(compute(one.factor, other.factor))
        return reals(one, other) if isinstance(one, float) and isinstance(other, float) else None

    return rule


def _multiply(one: Item, other: Item) -> Item | None:
    if isinstance(one, Size) and isinstance(other, Size):
        return one.times(other)
    return one * other if isinstance(one, float) and isinstance(other, float) else None


def _divide(one: Item, other: Item) -> Item | None:
    if isinstance(one, Size) and isinstance(other, Size):
        if (exact := one.over(other)) is not None:
            return exact
        if one.symbols or other.symbols or one.factor < 0 or other.factor <= 0:
            return None
        return Size(one.factor // other.factor)
    return one / other if isinstance(one, float) and isinstance(other, float) and other else None


def _modulo(one: Item, other: Item) -> Item | None:
    if not (isinstance(one, Size) and isinstance(other, Size)) or one.symbols or other.symbols or other.factor <= 0:
        return None
    return Size(one.factor % other.factor)


_RULES: dict[str, Callable[[NodeProto, list[Value]], Value | None]] = {
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Cast": _cast,
    "Identity": _same,
    "Sqrt": _unary(math.sqrt),
    "Reciprocal": _unary(lambda number: 1.0 / number),
    "Mul": _binary(_multiply),
    "Div": _binary(_divide),
    "Mod": _binary(_modulo),
    "Add": _binary(_integers(lambda a, b: a + b, lambda a, b: a + b)),
    "Sub": _binary(_integers(lambda a, b: a - b, lambda a, b: a - b)),
}


def axes_of(node: NodeProto, values: Values) -> list[int] | None:
    """Axes of a Squeeze or Unsqueeze, an attribute before opset 13 and an input since; None when not known."""
    if len(node.input) > 1 and node.input[1]:
        return values.integers(node.input[1])
    axes = attribute(node, "axes")
    return list(axes) if axes is not None else None


def is_view(node: NodeProto) -> bool:
    """Whether a node only rearranges its first input."""
    return is_op(node, "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten", "Identity")
