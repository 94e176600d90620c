"""GRF110: an operator that nobody who has to run it knows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from trtforge.lint.nodes import DEFAULT_DOMAINS, places
from trtforge.lint.rule import Finding, Rule, Severity

if TYPE_CHECKING:
    from onnx import NodeProto

    from trtforge.lint.context import Context

_OURS = "trtforge"
_ONNXRUNTIMES = "com.microsoft"
_ONNXS_OTHERS = "ai.onnx."  # ml, for one
_PROVIDER = "CPUExecutionProvider"
_LIKE_NVIDIAS = ("_TRT", "Plugin", "PluginDynamic")
"""How the plugins of TensorRT's own library end; which of them a release has is known on the device only."""
_NVIDIAS = frozenset(
    {"CoordConvAC", "CropAndResize", "CropAndResizeDynamic", "ModulatedDeformConv2d", "Proposal", "ProposalDynamic"}
)
"""Those that end otherwise (TensorRT OSS, plugin/README.md), but for namesakes of ONNX's operators."""

_WRITE_OUT = "write it out in ONNX's own operators, or add a plugin for it to trtforge (docs/plugins.md)"
_NO_OPTIMIZER = "export it without onnxruntime's optimizer, or write it out in ONNX's own operators"


@dataclass(frozen=True)
class _Fault:
    why: str
    severity: Severity = "error"


class UnknownOperator(Rule):
    """What it does
        Looks for operators that are neither ONNX's own nor functions that the model brings along, and asks whether
        those who run them know them: the target's compiler, and onnxruntime where it gathers INT8 ranges or gives the
        answers that `verify` compares with.

    Why it matters
        ONNX lets a model use operators of any domain, as `com.acme::Foo`. TensorRT looks for a plugin with the
        operator's name and ends with "Plugin not found" when none is registered; onnxruntime does not load the model.
        Its own operators (`com.microsoft`) are known to onnxruntime alone. TensorRT goes by the name without the
        domain: `com.acme::Tanh` is built as ONNX's Tanh, whatever it means.

    Example
        A model that was saved by onnxruntime's optimizer and has `com.microsoft::FastGelu`, for `target: a30`.

    Fix
        Export the model so that the operator is written out in ONNX's own, or as a function of the model. Or give
        trtforge a plugin for it: a folder under `plugins/` that the recipe names in `surgery` (docs/plugins.md, "One of
        your own"). With native TensorRT a plugin of that name in the device's own library will do, which the finding
        then leaves open; an INT8 engine of a model that onnxruntime cannot run takes its ranges from elsewhere,
        `calibration: {scales: FILE}`.
    """

    code = "GRF110"
    title = "operator that nobody knows"
    severity = "error"

    def check(self, context: Context) -> Iterator[Finding]:
        together: dict[tuple[str, str, _Fault], list[NodeProto]] = {}
        for node in context.nodes:
            if (node.domain, node.op_type) not in context.functions and not _is_onnx(context, node):
                name = node.op_type if node.domain in DEFAULT_DOMAINS else f"{node.domain}::{node.op_type}"
                fix = _NO_OPTIMIZER if node.domain.startswith(_ONNXRUNTIMES) else _WRITE_OUT
                if (fault := _fault(context, node)) is not None:
                    together.setdefault((name, fix, fault), []).append(node)
        for (name, fix, fault), nodes in together.items():
            yield self.finding(places(nodes), f"`{name}` {fault.why}", fix, severity=fault.severity)


def _is_onnx(context: Context, node: NodeProto) -> bool:
    from onnx import defs

    return node.domain in DEFAULT_DOMAINS and bool(defs.has(node.op_type, max_inclusive_version=context.opset))


def _fault(context: Context, node: NodeProto) -> _Fault | None:
    """None when all who have to run it know it."""
    known = (node.op_type, "" if node.domain in DEFAULT_DOMAINS else node.domain) in _known_to_onnxruntime()
    if context.backend == "onnxruntime":
        return None if known else _Fault("is no operator of ONNX, and onnxruntime does not run it: the build fails")
    built, readers = _unbuilt(context, node), context.onnxruntime_reads
    if known or not readers or (built is not None and built.severity == "error"):
        return built
    return _Fault(f"is not run by onnxruntime, which {' and '.join(readers)}: the build fails")


def _unbuilt(context: Context, node: NodeProto) -> _Fault | None:
    """What TensorRT or TensorRT-RTX makes of an operator that is not ONNX's: they ask for its name alone."""
    from onnx import defs

    from trtforge import plugins

    if node.domain == _OURS and node.op_type in plugins.kinds():
        return None
    if defs.has(node.op_type):
        return _namesake(context, node)
    what = "is no operator of ONNX"
    if node.domain.startswith(_ONNXS_OTHERS):
        what = f"is of ONNX's {node.domain}, and compilers read its default domain alone"
    if context.backend != "tensorrt":
        return _Fault(f"{what}, and TensorRT-RTX has no plugin of that name: the build fails")
    if node.op_type in _documented(context):
        return None
    why = f"{what}, and trtforge knows no plugin of that name"
    if node.op_type.endswith(_LIKE_NVIDIAS) or node.op_type in _NVIDIAS:
        return _Fault(f"{why}: the build fails unless the device's TensorRT has one", "warning")
    return _Fault(f"{why}: the build fails on the device")


def _namesake(context: Context, node: NodeProto) -> _Fault | None:
    """Of an operator with the name of one of ONNX's. Float16 for TensorRT-RTX is written by us, and asks ONNX."""
    if context.backend == "tensorrt_rtx" and context.engine.precision == "fp16":
        return _Fault("is not ONNX's, and only what ONNX defines can be written in float16: the build fails")
    if node.domain in DEFAULT_DOMAINS or node.domain.startswith(_ONNXRUNTIMES):
        return None
    return _Fault(f"is built as ONNX's {node.op_type}: the compiler goes by the name without the domain", "warning")


def _documented(context: Context) -> set[str]:
    """Names of NVIDIA's plugins; of TensorRT 10.3's where the release is not known."""
    from trtforge.surgery.documented import documented
    from trtforge.targets.load import version_tuple

    known = version_tuple(context.tensorrt or "") is not None
    return {creator.name for creator in documented(context.tensorrt if known else "10.3")}


@cache
def _known_to_onnxruntime() -> frozenset[tuple[str, str]]:
    """Names and domains of the operators that its CPU runs; it has definitions of more, TensorRT's plugins for one."""
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_opkernel_def

    return frozenset(
        (kernel.op_name, kernel.domain) for kernel in get_all_opkernel_def() if kernel.provider == _PROVIDER
    )
