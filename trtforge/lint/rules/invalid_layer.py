"""GRF111: a layer that is not what ONNX says of its operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from trtforge.lint.nodes import DEFAULT_DOMAINS, attribute, integer, ints, places
from trtforge.lint.rule import Finding, Rule, Severity

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

    from trtforge.lint.context import Context

_AGAIN = "export the model again, or correct the layer"


class InvalidLayer(Rule):
    """What it does
        Asks ONNX's checker about each node of ONNX's own operators: attributes that the operator does not have,
        attributes of another type, operators that the model's opset no longer has. And compares Conv, ConvTranspose,
        Gemm and InstanceNormalization with the shapes of their weights: kernel, groups, channels, bias. Told are also
        kernels larger than the padded map, and nodes of one name.

    Why it matters
        Shape inference, which every build begins with, looks at none of this. onnxruntime refuses such a model, some
        of it only when it runs: INT8 calibration and `verify` need it, and so does every build for the host.
        TensorRT's parser ignores an attribute that it does not know, and makes names its own; a contradiction ends
        the build on the device.

    Example
        `Conv<kernel_shape = [5, 5]>` whose weights are 3x3; `group = 0`; `Relu<alpha = 0.1>`.

    Fix
        Mostly the work of an edit by hand or of a tool that changed weights alone. Export the model again, or correct
        what the message names. Nodes of one name need no name at all: clear `name` of each node with the onnx package.
    """

    code = "GRF111"
    title = "invalid layer"
    severity = "error"

    def check(self, context: Context) -> Iterator[Finding]:
        softer: Severity = "error" if context.onnxruntime_reads else "warning"
        together: dict[tuple[str, Severity], list[NodeProto]] = {}
        for node in context.nodes:
            if node.domain not in DEFAULT_DOMAINS or (node.domain, node.op_type) in context.functions:
                continue
            if why := _contradiction(context, node):
                together.setdefault((why, "error"), []).append(node)
            elif why := _unlike_onnx(context, node):
                together.setdefault((why, softer), []).append(node)
        for (why, severity), nodes in together.items():
            yield self.finding(places(nodes), why, _AGAIN, severity=severity)
        if names := _shared_names(context.model.proto.graph):
            message = "a name of several nodes: onnxruntime does not load such a graph"
            yield self.finding(names, message, "give each node a name of its own, or none", severity=softer)


def _shared_names(graph: GraphProto) -> list[str]:
    """Names of several nodes of one graph, in backquotes. The same name inside and outside of a body is allowed."""
    from trtforge.graph.index import subgraphs

    counts = Counter(node.name for node in graph.node if node.name)
    shared = [f"`{name}`" for name, count in counts.items() if count > 1]
    return shared + [name for node in graph.node for inner in subgraphs(node) for name in _shared_names(inner)]


def _unlike_onnx(context: Context, node: NodeProto) -> str:
    """What ONNX's checker says of a node alone, in its words; "" when nothing, or when it is not asked.

    Not asked about operators that ONNX does not know, about bodies, whose nodes come on their own, nor about large
    constants, which would be copied.
    """
    from onnx import checker, defs

    from trtforge.graph.index import subgraphs
    from trtforge.graph.weights import SMALL, nbytes

    heavy = any(entry.HasField("t") and nbytes(entry.t) > SMALL for entry in node.attribute)
    if heavy or any(subgraphs(node)) or not defs.has(node.op_type, max_inclusive_version=context.opset):
        return ""
    asked = checker.C.CheckerContext()
    asked.ir_version = context.model.proto.ir_version
    asked.opset_imports = {"": context.opset}
    if node.domain:  # `ai.onnx`, another name of "" that the checker does not know
        alike = type(node)()
        alike.CopyFrom(node)
        alike.ClearField("domain")
        node = alike
    try:
        checker.check_node(node, asked)
    except checker.ValidationError as error:
        return f"ONNX's checker: {str(error).splitlines()[0].rstrip('.')}"
    return ""


def _contradiction(context: Context, node: NodeProto) -> str:
    """Why a layer cannot be computed with its weights; a clause, "" when nothing is known to be wrong."""
    look = _LOOKS.get(node.op_type)
    return "" if look is None else next(look(context, node), "")


def _of_convolution(context: Context, node: NodeProto) -> Iterator[str]:
    image, weights, bias = _shapes(context, node)
    groups, kernel = integer(node, "group", 1), ints(node, "kernel_shape")
    if groups < 1:
        yield f"group is {groups}, and must be at least 1"
        return
    if weights is None:
        return
    if len(weights) < 3:
        yield f"its weights have {len(weights)} dimensions, and must have a window besides channels in and out"
        return
    if kernel and kernel != weights[2:]:
        yield f"kernel_shape is {list(kernel)}, and its weights have windows of {list(weights[2:])}"
    if image is not None and len(image) != len(weights):
        yield f"its weights have {len(weights)} dimensions, and its input {len(image)}"
        return
    transposed = node.op_type == "ConvTranspose"
    takes = weights[0] if transposed else weights[1] * groups
    if image is not None and image[1] != takes:
        yield f"its weights take {takes} channels, and its input has {image[1]}"
    if not transposed and (why := _too_small(node, image, kernel or weights[2:])):
        yield why
    if transposed and (why := _padded_too_far(node)):
        yield why
    if weights[0] % groups:
        yield f"group is {groups}, and does not divide the {weights[0]} channels of its weights"
    gives = weights[1] * groups if transposed else weights[0]
    if bias is not None and bias != (gives,):
        yield f"its bias is {list(bias)}, and it gives {gives} channels"


def _padded_too_far(node: NodeProto) -> str:
    more, plain = ints(node, "output_padding"), (1,) * 8
    most = [max(pair) for pair in zip(ints(node, "strides") or plain, ints(node, "dilations") or plain, strict=False)]
    if all(size < bound for size, bound in zip(more, most, strict=False)):
        return ""
    return f"its output_padding is {list(more)}, and must be less than its stride or dilation"


def _too_small(node: NodeProto, image: tuple[int, ...] | None, kernel: tuple[int, ...]) -> str:
    """Why a window has no place in the padded map. With strides inference takes the output to have a size of 1."""
    padded = attribute(node, "auto_pad")
    if image is None or len(image) != len(kernel) + 2 or (padded is not None and padded.s.startswith(b"SAME")):
        return ""
    none, ones = (0,) * (2 * len(kernel)), (1,) * len(kernel)
    pads = (ints(node, "pads") if padded is None or padded.s == b"NOTSET" else none) or none
    windows = [(size - 1) * step + 1 for size, step in zip(kernel, ints(node, "dilations") or ones, strict=False)]
    rooms = [size + sum(pads[axis :: len(kernel)]) for axis, size in enumerate(image[2:])]
    if all(window <= room for window, room in zip(windows, rooms, strict=False)):
        return ""
    return f"its window of {windows} is larger than its input of {list(image[2:])} with padding, {rooms}"


def _of_gemm(context: Context, node: NodeProto) -> Iterator[str]:
    left, right, bias = _shapes(context, node)
    if left is None or right is None or len(left) != 2 or len(right) != 2:
        return
    whole = (left[1 if integer(node, "transA", 0) else 0], right[0 if integer(node, "transB", 0) else 1])
    if bias is not None and any(
        size not in (1, full) for size, full in zip(reversed(bias), reversed(whole), strict=False)
    ):
        yield f"its bias is {list(bias)}, and the product {list(whole)}"


def _of_normalization(context: Context, node: NodeProto) -> Iterator[str]:
    image, *others = _shapes(context, node)
    for name, shape in zip(("scale", "bias"), others, strict=True):
        if image is not None and len(image) > 1 and shape is not None and shape != (image[1],):
            yield f"its {name} is {list(shape)}, and its input has {image[1]} channels"


def _shapes(context: Context, node: NodeProto) -> list[tuple[int, ...] | None]:
    """Of the first three inputs; None for those that are left out or not known."""
    names = [*node.input, "", "", ""][:3]
    return [context.shape(name) if name else None for name in names]


_LOOKS: Mapping[str, Callable[[Context, NodeProto], Iterator[str]]] = {
    "Conv": _of_convolution,
    "ConvTranspose": _of_convolution,
    "Gemm": _of_gemm,
    "InstanceNormalization": _of_normalization,
}
