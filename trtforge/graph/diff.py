"""What differs between two graphs, for a person and for a program.

Nodes are matched by the tensor they produce first: tensor names are stable, node names are often empty.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from onnx import AttributeProto, NodeProto, TensorProto, helper

from trtforge.graph import shapes
from trtforge.graph.io import default_opset
from trtforge.graph.model import Model
from trtforge.graph.weights import SMALL, is_external, model_tensors, nbytes


@dataclass(frozen=True)
class NodeChange:
    """One node that came, went, or changed; ``what`` says how it changed, ``was`` its operator before."""

    op: str
    output: str
    what: str = ""
    was: str = ""

    @property
    def line(self) -> str:
        return f"{self.op} {self.output}" + (f": {self.what}" if self.what else "")


@dataclass(frozen=True)
class Stated:
    """A tensor inside the graph whose type is stated now and was not so before; ``before`` "" when none was."""

    tensor: str
    before: str
    after: str


@dataclass(frozen=True)
class GraphDiff:
    """Two values are (before, after). Bytes count every weight, inline or external, in its packed form."""

    opset: tuple[int | None, int | None]
    inputs: tuple[dict[str, str], dict[str, str]]
    outputs: tuple[dict[str, str], dict[str, str]]
    ops: tuple[dict[str, int], dict[str, int]]
    weights: tuple[int, int]
    weight_bytes: tuple[int, int]
    stated: tuple[Stated, ...]
    removed: tuple[NodeChange, ...]
    added: tuple[NodeChange, ...]
    changed: tuple[NodeChange, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-able: pairs as `{before, after}`, `removed` and `added` as `[{op, output}]`, `changed` with `what`.

        `stated` has the types of tensors inside.
        """
        pairs = ("opset", "inputs", "outputs", "ops", "weights", "weight_bytes")
        result: dict[str, Any] = {
            name: {"before": getattr(self, name)[0], "after": getattr(self, name)[1]} for name in pairs
        }
        for name in ("removed", "added"):
            result[name] = [{"op": node.op, "output": node.output} for node in getattr(self, name)]
        result["changed"] = [{"op": node.op, "output": node.output, "what": node.what} for node in self.changed]
        result["stated"] = [asdict(one) for one in self.stated]
        return result

    def to_text(self, *, every_node: bool = False) -> str:
        """Lines for a terminal: counts, and nodes of one kind folded into a line.

        Or a line for every node, and one for all tensors that are stated to have the same new type.
        """
        lines = [f"opset    {_arrow(*self.opset)}"]
        for label, (before, after) in (("input", self.inputs), ("output", self.outputs)):
            lines += [f"{label:8} {name} {_arrow(before.get(name, '(new)'), kind)}" for name, kind in after.items()]
            lines += [f"{label:8} {name} {kind} -> (gone)" for name, kind in before.items() if name not in after]
        lines.append(f"nodes    {_arrow(sum(self.ops[0].values()), sum(self.ops[1].values()))}")
        for op in sorted(self.ops[0].keys() | self.ops[1].keys()):
            before_count, after_count = self.ops[0].get(op, 0), self.ops[1].get(op, 0)
            if before_count != after_count:
                lines.append(f"         {op} {before_count} -> {after_count}")
        lines.append(f"weights  {_arrow(*self.weights)}, {_arrow(*(f'{size:,}' for size in self.weight_bytes))} bytes")
        for sign, nodes in (("-", self.removed), ("+", self.added), ("~", self.changed)):
            lines += [f"{sign} {line}" for line in ([node.line for node in nodes] if every_node else _folded(nodes))]
        return "\n".join([*lines, *self._stated_lines()] if every_node else lines)

    def _stated_lines(self) -> Iterator[str]:
        alike: dict[tuple[str, str], list[str]] = {}
        for one in self.stated:
            alike.setdefault((one.before, one.after), []).append(one.tensor)
        for (before, after), tensors in alike.items():
            yield f"= {_arrow(before, after) if before else after}: {', '.join(tensors)}"


def _folded(nodes: Iterable[NodeChange], most: int = 3) -> Iterator[str]:
    """A line for each kind of change, `35 Clip -> Relu: a, b, c and 32 more`; a change that is alone has its own."""
    kinds: dict[tuple[str, str], list[NodeChange]] = {}
    for node in nodes:
        kinds.setdefault((node.was or node.op, node.op), []).append(node)
    for (before, after), alike in kinds.items():
        if len(alike) == 1:
            yield alike[0].line
            continue
        more = f" and {len(alike) - most} more" if len(alike) > most else ""
        yield f"{len(alike)} {_arrow(before, after)}: {', '.join(node.output for node in alike[:most])}{more}"


def _arrow(before: Any, after: Any) -> str:
    return f"{before}" if before == after else f"{before} -> {after}"


def diff(before: Model, after: Model) -> GraphDiff:
    """Compare two models; weights are compared by name, type and, up to 4 KiB, value. None is read from a file."""
    old, new = _by_output(before), _by_output(after)
    changed = []
    for output in [name for name in new if name in old]:
        what = _change(old[output], new[output])
        if what:
            changed.append(NodeChange(new[output].op_type, output, what, old[output].op_type))
    old_weights, new_weights = list(model_tensors(before.proto)), list(model_tensors(after.proto))
    return GraphDiff(
        opset=(default_opset(before.proto), default_opset(after.proto)),
        inputs=(_types(shapes.input_specs(before)), _types(shapes.input_specs(after))),
        outputs=(_types(shapes.output_specs(before)), _types(shapes.output_specs(after))),
        ops=(_ops(before), _ops(after)),
        weights=(len(old_weights), len(new_weights)),
        weight_bytes=(sum(map(nbytes, old_weights)), sum(map(nbytes, new_weights))),
        stated=_stated(before, after),
        removed=tuple(NodeChange(node.op_type, output) for output, node in old.items() if output not in new),
        added=tuple(NodeChange(node.op_type, output) for output, node in new.items() if output not in old),
        changed=tuple(changed),
    )


def _by_output(model: Model) -> dict[str, NodeProto]:
    return {next((name for name in node.output if name), node.name): node for node in model.proto.graph.node}


def _ops(model: Model) -> dict[str, int]:
    return dict(sorted(Counter(node.op_type for node in model.proto.graph.node).items()))


def _types(specs: Mapping[str, shapes.TensorType]) -> dict[str, str]:
    return {name: f"{spec.dtype} {shapes.show_shape(spec.shape)}" for name, spec in specs.items()}


def _stated(before: Model, after: Model) -> tuple[Stated, ...]:
    """Of tensors that are neither inputs, outputs nor weights."""
    old, new = _types(shapes.tensor_types(before)), _types(shapes.tensor_types(after))
    made = {name for node in after.proto.graph.node for name in node.output}
    made -= {value.name for value in after.proto.graph.output}
    return tuple(
        Stated(name, old.get(name, ""), kind) for name, kind in new.items() if name in made and old.get(name) != kind
    )


def _change(old: NodeProto, new: NodeProto) -> str:
    parts = []
    if (old.domain, old.op_type) != (new.domain, new.op_type):
        parts.append(f"was {old.op_type}")
    if list(old.input) != list(new.input):
        parts.append(_names("reads", list(old.input), list(new.input)))
    if list(old.output) != list(new.output):
        parts.append(_names("writes", list(old.output), list(new.output)))
    before = {attribute.name: attribute for attribute in old.attribute}
    after = {attribute.name: attribute for attribute in new.attribute}
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name), after.get(name)
        if one is None or other is None or _content(one) != _content(other):
            parts.append(f"{name} {_value(one)} -> {_value(other)}")
    return ", ".join(parts)


def _names(verb: str, old: list[str], new: list[str]) -> str:
    if len(old) != len(new):
        return f"{verb} {', '.join(old)} -> {', '.join(new)}"
    return f"{verb} " + ", ".join(f"{one} -> {other}" for one, other in zip(old, new, strict=True) if one != other)


def _content(attribute: AttributeProto) -> Any:
    """What two equal attributes share, without serializing big tensors."""
    if attribute.HasField("t"):
        return _tensor_content(attribute.t)
    return hashlib.sha256(attribute.SerializeToString(deterministic=True)).digest()


def _tensor_content(tensor: TensorProto) -> Any:
    described = (tensor.data_type, tuple(tensor.dims))
    if is_external(tensor) or nbytes(tensor) > SMALL:
        return described
    return (*described, tensor.SerializeToString(deterministic=True))


def _value(attribute: AttributeProto | None) -> str:
    if attribute is None:
        return "(none)"
    if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS, AttributeProto.TENSOR):
        return f"<{AttributeProto.AttributeType.Name(attribute.type).lower()}>"
    value = helper.get_attribute_value(attribute)
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
