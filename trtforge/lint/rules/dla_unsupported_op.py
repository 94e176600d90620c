"""DLA104: operators the DLA does not run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.nodes import DEFAULT_DOMAINS, places
from trtforge.lint.rule import Finding, Rule, Severity, some
from trtforge.targets.dla_layers import READ_FOR, DlaLayer, dla_layers
from trtforge.targets.load import version_tuple

if TYPE_CHECKING:
    from onnx import NodeProto

    from trtforge.lint.context import Context


IGNORED = frozenset({"Constant", "Identity", "Dropout"})
"""TensorRT folds these away before layers are given to devices."""


class DlaUnsupportedOp(Rule):
    """What it does
        Looks up every operator of the graph in the table of what the DLA runs, for the generation of the DLA and the
        TensorRT version of the recipe. Constants and what folds into them are left out.

    Why it matters
        TensorRT gives such a layer to the GPU with a warning only, and refuses to build when GPU fallback is off. Each
        one cuts the network into pieces with copies and reformats between, which run on the GPU as well; sixteen pieces
        on a core are the limit.

    Example
        A classifier that ends in GlobalAveragePool, Flatten, Gemm: its convolutions run on the DLA, its tail does not.

    Fix
        Use the rewrite named in the finding where there is one, for example the surgery pass `global-average-pool`. Or
        cut the network at the last layer that runs, and let the GPU or the CPU finish: that is what NVIDIA's own
        preparation scripts do with the tail of ResNet-50. The table was read from the documentation and headers of
        TensorRT 8.2 to 10.3; each finding says whether its row is documented, observed in a build log, or recalled.
        `can_run_on_DLA` of the device's own TensorRT has the last word.
    """

    code = "DLA104"
    title = "operator does not run on the DLA"
    severity = "warning"

    def check(self, context: Context) -> Iterator[Finding]:
        if not context.target.is_dla:
            return
        by_op: dict[str, list[NodeProto]] = {}
        for node in context.active_nodes:
            if node.op_type not in IGNORED:
                by_op.setdefault(
                    node.op_type if node.domain in DEFAULT_DOMAINS else node.domain + "::" + node.op_type, []
                ).append(node)
        for op, nodes in by_op.items():
            row = dla_layers().get(op)
            why = _reason(context, op, row)
            if why:
                where = some(places(nodes))
                effect = "goes to the GPU" if context.gpu_fallback else "fails the build, GPU fallback is off"
                fix = (row.instead if row else "") or "cut the network before it, or accept the GPU for it"
                severity: Severity = "warning" if context.gpu_fallback else "error"
                yield self.finding(where, f"{why}; {effect}", fix, severity=severity)


def _reason(context: Context, op: str, row: DlaLayer | None) -> str:
    """Why the operator does not run there; "" when it does."""
    if row is None:
        return f"{op} is not in the DLA's table (read for TensorRT {READ_FOR})"
    version = version_tuple(context.tensorrt or "")
    until = version_tuple(row.until)
    if version is not None and until is not None and version[: len(until)] > until:
        return ""
    if not row.runs:
        return f"the DLA does not run {op} ({row.origin}, TensorRT {READ_FOR})"
    dla = context.target.dla
    if dla is not None and dla.generation == 1 and not row.v1:
        return f"the DLA of {context.target.device} does not run {op}, only Orin's does ({row.origin})"
    since = version_tuple(row.since)
    if version is not None and since is not None and version < since[: len(version)]:
        return f"the DLA runs {op} from TensorRT {row.since} ({row.origin}), this is {context.tensorrt}"
    return ""
