"""The middle of an attention: from the product of Q and K through scale, mask and softmax to the product with V."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import NodeProto

from trtforge.plugins.qkv_to_context.sizes import Values, is_view
from trtforge.plugins.qkv_to_context.structure import Mask
from trtforge.plugins.qkv_to_context.trace import constant_shape, scalar_operand
from trtforge.surgery.rules import Near, NotHere, View, attribute, is_op, label

LARGE = -1e3
"""A fill at or below this hides a score; softmax gives such a position less than exp(-900)."""

_PASSING = ("Mul", "Div", "Add", "Where")
_NO_SCORES = "what it reads is no product of two computed tensors, scaled and masked"
_NO_VALUES = "no product with a computed tensor is behind it"


@dataclass(frozen=True)
class Above:
    """``steps``: nodes between the product of Q and K and the softmax, upwards."""

    product: NodeProto
    steps: tuple[NodeProto, ...]


@dataclass(frozen=True)
class Below:
    """``steps``: nodes between the softmax and the product with V; ``probabilities``: what that product reads."""

    product: NodeProto
    steps: tuple[NodeProto, ...]
    probabilities: str
    guarded: bool


def above(softmax: NodeProto, view: View) -> Above:
    """Raises NotHere, Near."""
    steps: list[NodeProto] = []
    tensor = softmax.input[0]
    while True:
        node = view.index.producer(tensor)
        if node is None:
            raise NotHere(_NO_SCORES)
        if _is_product(node, view):
            return Above(node, tuple(steps))
        if is_op(node, "Cast") or is_view(node):
            if _leads(node.input[0], view):
                raise Near(f"{node.op_type} {label(node)!r} stands between the scores and the softmax")
            raise NotHere(_NO_SCORES)
        if not is_op(node, *_PASSING):
            raise NotHere(_NO_SCORES)
        steps.append(node)
        tensor = _main(node, view)


def _is_product(node: NodeProto, view: View) -> bool:
    return is_op(node, "MatMul") and all(constant_shape(view, name) is None for name in node.input)


def _main(node: NodeProto, view: View) -> str:
    """The operand the scores come by. Raises NotHere."""
    operands = node.input[1:] if is_op(node, "Where") else node.input
    for name in operands:
        if _leads(name, view):
            return str(name)
    raise NotHere(_NO_SCORES)


def _leads(tensor: str, view: View) -> bool:
    """Whether a tensor is a product of two computed tensors, but for what scales and masks it."""
    node = view.index.producer(tensor)
    if node is None:
        return False
    if _is_product(node, view):
        return True
    if is_op(node, "Cast") or is_view(node):
        return _leads(node.input[0], view)
    if not is_op(node, *_PASSING):
        return False
    return any(_leads(name, view) for name in (node.input[1:] if is_op(node, "Where") else node.input))


def scale_and_mask(found: Above, view: View, values: Values) -> tuple[float, Mask | None]:
    """The factor of the scores and the mask, read upwards from the softmax. Raises Near."""
    scale, mask = 1.0, None
    for node in found.steps:
        if is_op(node, "Mul", "Div"):
            factor = scalar_operand(node, values)
            if factor is None:
                raise Near(f"the scores pass through {node.op_type} {label(node)!r}, which is not by a constant number")
            scale *= factor[1]
            continue
        if mask is not None:
            raise Near(f"two masks are applied to the scores, the first by {label(node)!r}")
        if scale != 1.0:
            raise Near(f"{label(node)!r} masks the scores before they are scaled")
        mask = _mask(node, view, values)
    return scale, mask


def _mask(node: NodeProto, view: View, values: Values) -> Mask:
    main = _main(node, view)
    if is_op(node, "Add"):
        return Mask(node.input[1] if node.input[0] == main else node.input[0], "add")
    condition, kept, other = node.input
    drops = other == main
    fill = values.number(kept if drops else other)
    if fill is None:
        raise Near(f"{label(node)!r} replaces scores by something other than one constant number")
    if fill > LARGE:
        raise Near(f"{label(node)!r} replaces scores by {fill:g}, which does not hide them")
    return Mask(condition, "drop" if drops else "keep", fill)


def check_axis(softmax: NodeProto, rank: int, opset: int) -> None:
    """The softmax must run over the last axis. Raises Near."""
    axis = attribute(softmax, "axis", -1 if opset >= 13 else 1)
    if axis % rank != rank - 1:
        raise Near(f"the softmax {label(softmax)!r} runs over axis {axis} of {rank}, not over the keys, the last one")


def below(softmax: NodeProto, view: View) -> Below:
    """Raises NotHere, Near."""
    steps: list[NodeProto] = []
    tensor, guarded = softmax.output[0], False
    while True:
        readers = view.readers(tensor)
        product = next((node for node in readers if is_op(node, "MatMul") and node.input[0] == tensor), None)
        if product is not None and _is_product(product, view):
            return Below(product, tuple(steps), tensor, guarded)
        dropout = next((node for node in readers if is_op(node, "Dropout", "Identity")), None)
        guard = next((node for node in readers if is_op(node, "Where") and node.input[2] == tensor), None)
        if dropout is not None:
            _check_dropout(dropout, view)
            steps.append(dropout)
            tensor = dropout.output[0]
        elif guard is not None:
            steps += [view.made_by(guard.input[0], "IsNaN"), guard]
            if steps[-2].input[0] != tensor or view.scalar(guard.input[1]) != 0.0:
                raise NotHere
            tensor, guarded = guard.output[0], True
        elif any(is_op(node, "Cast") for node in readers):
            raise _cast_or_nothing(readers, view)
        else:
            raise NotHere(_NO_VALUES)


def _check_dropout(node: NodeProto, view: View) -> None:
    if not is_op(node, "Dropout") or len(node.input) < 3 or not node.input[2]:
        return
    training = view.value(node.input[2])
    if training is None or bool(training.any()):
        raise Near(f"the dropout {label(node)!r} is in training mode")


def _cast_or_nothing(readers: list[NodeProto], view: View) -> Exception:
    cast = next(node for node in readers if is_op(node, "Cast"))
    product = any(is_op(node, "MatMul") for node in view.readers(cast.output[0]))
    return Near(f"Cast {label(cast)!r} stands between the softmax and V") if product else NotHere(_NO_VALUES)
