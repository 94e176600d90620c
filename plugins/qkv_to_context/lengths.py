"""Sequence lengths out of an attention mask: the mask followed back to the 0/1 tensor of tokens it was made from."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import NodeProto, TensorProto

from trtforge.plugins.qkv_to_context.emit import Emitter
from trtforge.plugins.qkv_to_context.scores import LARGE
from trtforge.plugins.qkv_to_context.sizes import Values, axes_of
from trtforge.plugins.qkv_to_context.structure import Mask
from trtforge.surgery.rules import View, is_op


@dataclass(frozen=True)
class Tokens:
    """A graph input [B, S]; ``hides``: 1 or true there means padding, otherwise it means a token."""

    tensor: str
    hides: bool


def tokens_of(mask: Mask, view: View) -> Tokens | None:
    """The graph input a mask of keys was made from; None when it was made in another way.

    Followed are (1 - m) * large, Where(m, 0, large), m == 0, m > 0, Not and Cast, and Unsqueeze and Expand that leave
    the keys on the last axis. A mask that depends on the query, as a causal one does, is not followed.
    """
    finder = _Finder(view)
    return finder.bias(mask.tensor) if mask.kind == "add" else finder.flags(mask.tensor, mask.kind == "drop")


def lengths_node(emit: Emitter, tokens: Tokens) -> str:
    """int32 [B, 1], the number of tokens of each sequence. They are taken to stand at its beginning."""
    flags = emit.add("Cast", [tokens.tensor], to=TensorProto.BOOL)
    if tokens.hides:
        flags = emit.add("Not", [flags])
    counted = emit.add("Cast", [flags], to=TensorProto.INT32)
    return emit.add("ReduceSum", [counted, emit.constant("keys", [1])], keepdims=1)


class _Finder:
    def __init__(self, view: View) -> None:
        self._view = view
        self._values = Values(view, lambda tensor: None)

    def bias(self, tensor: str) -> Tokens | None:
        """Of a float mask that is 0 at tokens and large and negative at padding."""
        node = self._view.index.producer(tensor)
        if node is None:
            return None
        if self._passes(node):
            return self.bias(node.input[0])
        if is_op(node, "Mul"):
            factors = [self._values.number(name) for name in node.input]
            for position, factor in enumerate(factors):
                if factor is not None and factor <= LARGE:
                    return self.flags(node.input[1 - position], True)
        if is_op(node, "Where"):
            kept, other = (self._values.number(name) for name in node.input[1:])
            if kept == 0.0 and other is not None and other <= LARGE:
                return self.flags(node.input[0], False)
            if other == 0.0 and kept is not None and kept <= LARGE:
                return self.flags(node.input[0], True)
        return None

    def flags(self, tensor: str, hides: bool) -> Tokens | None:
        """Of a mask that is 1 or true at padding (``hides``) or at tokens."""
        if tensor in self._view.index.inputs:
            shape = self._view.shape(tensor)
            return Tokens(tensor, hides) if shape is not None and len(shape) == 2 else None
        node = self._view.index.producer(tensor)
        if node is None:
            return None
        if self._passes(node) or (is_op(node, "Greater") and self._values.number(node.input[1]) == 0.0):
            return self.flags(node.input[0], hides)
        if is_op(node, "Not") or (is_op(node, "Equal") and self._values.number(node.input[1]) == 0.0):
            return self.flags(node.input[0], not hides)
        if is_op(node, "Sub") and self._values.number(node.input[0]) == 1.0:
            return self.flags(node.input[1], not hides)
        return None

    def _passes(self, node: NodeProto) -> bool:
        """Whether a node leaves flags as they are, and keys on the last axis."""
        if is_op(node, "Unsqueeze"):
            axes, shape = axes_of(node, self._values), self._view.shape(node.output[0])
            if axes is None or shape is None:
                return False
            places = {axis % len(shape) for axis in axes}
            return not places & {0, len(shape) - 1}
        return is_op(node, "Cast", "Expand", "Identity")
