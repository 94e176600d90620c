"""A bottleneck block in a graph: walks from an addition back to its convolutions, and what each node must be.

A walk is lenient (it passes over whatever keeps one value per element), so that a block which differs in one node is
still recognised; the checks that follow name that node. :class:`NotHere` comes from walks, :class:`Near` from checks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from trtforge.surgery.rules import Near, NotHere, View, attribute, is_op, label

ACTIVATIONS = (
    *("Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Selu", "Sigmoid", "HardSigmoid", "HardSwish", "Swish", "Tanh"),
    *("Gelu", "Mish", "Softplus"),
)

PASSED = (
    *ACTIVATIONS,
    *("BatchNormalization", "InstanceNormalization", "GroupNormalization", "Add", "Mul", "Identity", "Cast"),
    *("Dropout", "Pad", "Transpose", "QuantizeLinear", "DequantizeLinear"),
)
"""What a walk passes over on its way back to a convolution: what belongs there, and what is reported if it is there."""

REMEDIES = {
    "Identity": "run remove-identity before",
    "QuantizeLinear": "the rule reads the float graph, before quantization",
    "DequantizeLinear": "the rule reads the float graph, before quantization",
}


@dataclass(frozen=True)
class Chain:
    """A convolution and the nodes behind it, in the order of the data."""

    conv: NodeProto
    behind: tuple[NodeProto, ...]

    @property
    def source(self) -> str:
        """The tensor the convolution reads."""
        return str(self.conv.input[0])


@dataclass(frozen=True)
class Bottleneck:
    """A block as a walk finds it: ``path`` 2a, 2b, 2c; ``shortcut``, the tensor added or, where a projection
    ``branch`` is added, the one that it reads."""

    path: tuple[Chain, Chain, Chain]
    branch: Chain | None
    shortcut: str
    add: NodeProto


@dataclass(frozen=True)
class Step:
    """A convolution of a block, checked: with its normalization, and the ReLU behind it (2a and 2b have one)."""

    conv: NodeProto
    norm: NodeProto | None
    relu: NodeProto | None

    @property
    def nodes(self) -> tuple[NodeProto, ...]:
        return tuple(node for node in (self.conv, self.norm, self.relu) if node is not None)

    @property
    def value(self) -> str:
        """What the convolution makes, normalized."""
        return str((self.norm or self.conv).output[0])

    @property
    def out(self) -> str:
        return str(self.nodes[-1].output[0])


@dataclass(frozen=True)
class Block:
    """A bottleneck: ``steps`` 2a, 2b, 2c; ``shortcut`` is the projection branch1, None where the input itself is."""

    name: str
    source: str
    steps: tuple[Step, Step, Step]
    shortcut: Step | None
    add: NodeProto
    relu: NodeProto

    @property
    def convolutions(self) -> tuple[Step, ...]:
        """In MLPerf's order: branch1 first."""
        return self.steps if self.shortcut is None else (self.shortcut, *self.steps)

    @property
    def nodes(self) -> tuple[NodeProto, ...]:
        return (*(node for step in self.convolutions for node in step.nodes), self.add, self.relu)

    @property
    def out(self) -> str:
        return str(self.relu.output[0])


def is_sum(node: NodeProto) -> bool:
    return is_op(node, "Add", "Sum") and len(node.input) == 2


def chain(tensor: str, view: View) -> Chain:
    """The convolution a tensor comes from, with nothing but PASSED between. Raises NotHere."""
    behind: list[NodeProto] = []
    while True:
        node = view.made_by(tensor, "Conv", *PASSED)
        if node.op_type == "Conv":
            return Chain(node, tuple(reversed(behind)))
        behind.append(node)
        tensor = node.input[0]
        if node.op_type in ("Add", "Mul"):  # of a constant: a bias or a scale on its own
            computed = [name for name in node.input if view.index.constant(name) is None]
            if len(computed) != 1:
                raise NotHere
            tensor = computed[0]


def root(tensor: str, view: View) -> str:
    """The tensor before the Transpose and Identity nodes in front of this one."""
    node = view.index.producer(tensor)
    while node is not None and is_op(node, "Transpose", "Identity"):
        tensor = node.input[0]
        node = view.index.producer(tensor)
    return tensor


def projected(add: NodeProto, view: View) -> Bottleneck:
    """The block that an addition ends, with a projection for its shortcut. Raises NotHere."""
    for main, shortcut in _orders(add):
        try:
            branch, path = chain(shortcut, view), _path(main, view)
        except NotHere:
            continue
        if root(branch.source, view) == root(path[0].source, view) and _kernel(branch.conv, view) in ((1, 1), None):
            return Bottleneck(path, branch, branch.source, add)
    raise NotHere("it does not add 1x1, 3x3 and 1x1 convolutions and a 1x1 convolution of the tensor they begin with")


def following(tensor: str, view: View) -> Bottleneck | None:
    """The block whose input and shortcut is ``tensor``; None when there is none."""
    same, additions = [tensor], []
    while same:
        for reader in view.readers(same.pop()):
            if is_op(reader, "Transpose", "Identity"):
                same.append(reader.output[0])
            elif is_sum(reader):
                additions.append(reader)
    for add in additions:
        for main, shortcut in _orders(add):
            try:
                path = _path(main, view)
            except NotHere:
                continue
            if root(shortcut, view) == tensor == root(path[0].source, view):
                return Bottleneck(path, None, shortcut, add)
    return None


def _orders(add: NodeProto) -> tuple[tuple[str, str], tuple[str, str]]:
    first, second = add.input
    return (first, second), (second, first)


def _path(tensor: str, view: View) -> tuple[Chain, Chain, Chain]:
    """The 1x1, 3x3 and 1x1 convolutions before a tensor. Raises NotHere."""
    third = chain(tensor, view)
    second = chain(third.source, view)
    first = chain(second.source, view)
    for one, kernel in ((first, (1, 1)), (second, (3, 3)), (third, (1, 1))):
        if _kernel(one.conv, view) not in (kernel, None):
            raise NotHere
    return first, second, third


def _kernel(conv: NodeProto, view: View) -> tuple[int, ...] | None:
    """Its spatial sizes, of the weight or else of the attribute; None when neither says."""
    weight = view.constant_shape(conv.input[1])
    return weight[2:] if weight is not None else tuple(attribute(conv, "kernel_shape", ())) or None


def checked(name: str, found: Bottleneck, view: View) -> Block:
    """The block with every node of it looked at. ``name``: a, b or c. Raises Near."""
    source = found.path[0].source
    if source != found.shortcut or (found.branch is None and source != root(source, view)):
        moved = next(tensor for tensor in (source, found.shortcut) if tensor != root(tensor, view))
        stray = view.made_by(moved, "Transpose", "Identity")
        raise Near(f"block {name}: {stray.op_type} {label(stray)!r} lies inside it{_remedy(stray)}")
    first, second, third = (
        _step(f"block {name}: conv {part}", one, part != "2c", view)
        for part, one in zip(("2a", "2b", "2c"), found.path, strict=True)
    )
    branch = None if found.branch is None else _step(f"block {name}: conv branch1", found.branch, False, view)
    return Block(name, source, (first, second, third), branch, found.add, _relu_after(name, found.add, view))


def _step(at: str, one: Chain, has_relu: bool, view: View) -> Step:
    _check_convolution(at, one.conv, view)
    behind = list(one.behind)
    norm = behind.pop(0) if behind and behind[0].op_type == "BatchNormalization" else None
    relu = behind.pop(0) if behind and has_relu and behind[0].op_type in ACTIVATIONS else None
    if behind:
        allowed = "BatchNormalization and one ReLU" if has_relu else "BatchNormalization"
        stray = behind[0]
        raise Near(f"{at} is followed by {stray.op_type} {label(stray)!r}; only {allowed} may follow" + _remedy(stray))
    if norm is not None:
        _check_norm(at, norm, one.conv, view)
    if has_relu and relu is None:
        raise Near(f"{at} has no ReLU behind it")
    if relu is not None and (fault := _not_relu(relu, view)):
        raise Near(f"{at} is followed by {fault}")
    return Step(one.conv, norm, relu)


def _remedy(node: NodeProto) -> str:
    return f" ({REMEDIES[node.op_type]})" if node.op_type in REMEDIES else ""


def _relu_after(name: str, add: NodeProto, view: View) -> NodeProto:
    readers = view.readers(add.output[0])
    activations = [node for node in readers if is_op(node, *ACTIVATIONS)]
    for node in activations:
        if not _not_relu(node, view):
            return node
    at = f"block {name}: the addition {label(add)!r}"
    if activations:
        raise Near(f"{at} is followed by {_not_relu(activations[0], view)}")
    raise Near(f"{at} has no ReLU behind it" + (f", but {readers[0].op_type} {label(readers[0])!r}" if readers else ""))


def _not_relu(node: NodeProto, view: View) -> str:
    """What an activation is instead of a ReLU, "" when it is one. Clip from 0 to the largest number is one too."""
    if node.op_type == "Relu":
        return ""
    if node.op_type != "Clip":
        return f"{node.op_type} {label(node)!r}, not a ReLU"
    low, high = _clip_bounds(node, view)
    if low == 0.0 and high == np.inf:
        return ""
    remedy = " (relu6-to-relu would make it one, and change results)" if (low, high) == (0.0, 6.0) else ""
    show = ", ".join("?" if bound is None else f"{bound:g}" for bound in (low, high))
    return f"Clip {label(node)!r} to [{show}], not a ReLU{remedy}"


def _clip_bounds(node: NodeProto, view: View) -> tuple[float | None, float | None]:
    """Both ends; infinite where it has none, or the largest number of its type; None for one that is computed."""
    if view.opset < 11:
        largest = float(np.finfo(np.float32).max)
        low, high = attribute(node, "min", -largest), attribute(node, "max", largest)
        return low, np.inf if high >= largest else high
    low_name, high_name = [*node.input[1:], "", ""][:2]
    low = view.scalar(low_name) if low_name else -np.inf
    if not high_name:
        return low, np.inf
    stored = view.value(high_name)
    if stored is None or stored.size != 1:
        return low, None
    with np.errstate(over="ignore"):  # the next larger number is infinity for the largest one of any float type
        above = np.nextafter(stored, np.array(np.inf, stored.dtype))
    return low, np.inf if np.isinf(above).all() else float(stored.reshape(-1)[0])


def _check_convolution(at: str, conv: NodeProto, view: View) -> None:
    for kind, name in zip(("weight", "bias"), conv.input[1:], strict=False):
        if name and view.index.constant(name) is None:
            raise Near(
                f"{at}: its {kind} {name!r} is not a constant (if it is computed of some, run fold-constants before)"
            )
    kernel = _kernel(conv, view)
    strides = attribute(conv, "strides", [1, 1])
    if any(stride != 1 for stride in strides):
        raise Near(f"{at} has stride {_by(strides)}: a stage that changes the resolution is a later one, not conv2_x")
    if attribute(conv, "group", 1) != 1:
        raise Near(f"{at} has {attribute(conv, 'group')} groups, not 1")
    dilations = attribute(conv, "dilations", [1, 1])
    if any(dilation != 1 for dilation in dilations):
        raise Near(f"{at} has dilation {_by(dilations)}, not 1x1")
    wanted = [1, 1, 1, 1] if kernel == (3, 3) else [0, 0, 0, 0]
    pads = _pads(conv, wanted)
    if pads != wanted:
        raise Near(f"{at} has pads {pads}, not {wanted}")


def _pads(conv: NodeProto, same: list[int]) -> list[int]:
    """Begin of H and W, then end. ``same``: what keeps the size, which SAME stands for at stride 1."""
    automatic = attribute(conv, "auto_pad", "NOTSET")
    if automatic.startswith("SAME"):
        return same
    none = [0, 0, 0, 0]
    return none if automatic == "VALID" else list(attribute(conv, "pads", none))


def _by(sizes: list[int]) -> str:
    return "x".join(map(str, sizes))


def _check_norm(at: str, norm: NodeProto, conv: NodeProto, view: View) -> None:
    what = f"{at}: its BatchNormalization {label(norm)!r}"
    if attribute(norm, "training_mode", 0):
        raise Near(f"{what} is in training mode")
    if any(norm.output[1:]):
        raise Near(f"{what} has {sum(map(bool, norm.output))} outputs, not 1")
    channels = (view.constant_shape(conv.input[1]) or (0,))[0]
    for name in norm.input[1:5]:
        if view.constant_shape(name) is None:
            raise Near(f"{what} reads {name!r}, which is not a constant")
        if view.constant_shape(name) != (channels,):
            raise Near(f"{what} reads {name!r}, which has not one value for each of the {channels} channels")
