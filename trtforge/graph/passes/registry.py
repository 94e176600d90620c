"""The passes by name, and running a list of them with their contracts checked."""

from __future__ import annotations

import difflib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from onnx import ModelProto

from trtforge.errors.base import TrtforgeError
from trtforge.errors.graph import PassBrokeContract, PassFailed, PassPrecondition, UnknownPass
from trtforge.graph import shapes
from trtforge.graph.io import graph_problem
from trtforge.graph.model import Model
from trtforge.graph.passes.base import Context, Pass
from trtforge.graph.passes.dead_code import DeadCode
from trtforge.graph.passes.fc_as_conv import FcAsConv
from trtforge.graph.passes.fold_batchnorm import FoldBatchnorm
from trtforge.graph.passes.fold_constants import FoldConstants
from trtforge.graph.passes.global_average_pool import GlobalAveragePool
from trtforge.graph.passes.infer_shapes import InferShapes
from trtforge.graph.passes.merge_sibling_convs import MergeSiblingConvs
from trtforge.graph.passes.nhwc_to_nchw_input import NhwcToNchwInput
from trtforge.graph.passes.relu6_to_relu import Relu6ToRelu
from trtforge.graph.passes.remove_identity import RemoveIdentity
from trtforge.graph.passes.topk_head import TopkHead
from trtforge.graph.passes.upgrade_opset import UpgradeOpset
from trtforge.graph.weights import has_parkable, is_external, model_tensors, park
from trtforge.progress import QUIET, Progress

_PASSES: tuple[Pass, ...] = (
    UpgradeOpset(),
    FoldConstants(),
    InferShapes(),
    RemoveIdentity(),
    DeadCode(),
    FoldBatchnorm(),
    GlobalAveragePool(),
    FcAsConv(),
    MergeSiblingConvs(),
    NhwcToNchwInput(),
    TopkHead(),
    Relu6ToRelu(),
)


@dataclass(frozen=True)
class PassReport:
    """What one pass did: ``reason`` is a sentence, ``seconds`` wall time."""

    name: str
    modified: bool
    reason: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


_Types = dict[str, shapes.TensorType]


def available() -> dict[str, Pass]:
    """Every pass by name, in the order they are usually run."""
    return {one.name: one for one in _PASSES}


def find(name: str) -> Pass:
    """The pass of a name. Raises UnknownPass, with the nearest name."""
    passes = available()
    if name in passes:
        return passes[name]
    near = difflib.get_close_matches(name, passes, n=1)
    raise UnknownPass(
        f"there is no surgery pass {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
        where="surgery",
        why="the passes are " + ", ".join(passes),
        next=f"write {near[0]!r} instead" if near else "trtforge surgery --list",
    )


def run(model: Model, names: Sequence[str | Pass], *, progress: Progress = QUIET) -> tuple[Model, list[PassReport]]:
    """Apply passes in order to a copy of a model; the given one is not changed, and weights are copied once.

    Raises UnknownPass before anything is done, PassPrecondition, PassFailed, PassBrokeContract.
    """
    passes = [find(name) if isinstance(name, str) else name for name in names]
    skeleton, parked = park(model.proto)
    _close_inputs(skeleton)
    work = Model(skeleton, model.folder)
    context = Context(work, parked, progress)
    reports = []
    with progress.task("surgery", len(passes)) as task:
        types = shapes.tensor_types(work)
        for one in passes:
            task.note(one.name)
            report, types = _apply(one, work, context, types)
            reports.append(report)
            if has_parkable(work.proto):  # weights the pass made
                work.proto, _ = park(work.proto, into=parked)
            task.advance()
    result = ModelProto()
    result.CopyFrom(work.proto)  # leaves the memory of what was edited away behind
    parked.restore(result)
    return Model(result, model.folder if _has_external(result) else None), reports


def _has_external(proto: ModelProto) -> bool:
    return any(is_external(tensor) for tensor in model_tensors(proto))


def _apply(one: Pass, work: Model, context: Context, types: _Types) -> tuple[PassReport, _Types]:
    """The report, and the types of the graph's tensors, which were ``types`` before."""
    started = time.perf_counter()
    missing = one.requires(work)
    if missing:
        raise PassPrecondition(
            f"the pass {one.name!r} cannot start",
            where=f"surgery: {one.name}",
            why=missing,
            next=f"do what the reason says, or leave {one.name!r} out of `surgery:`",
        )
    promises = _Promises(work, one, types)
    try:
        result = one.apply(work, context)
    except PassFailed:
        raise
    except TrtforgeError as error:
        raise PassFailed(
            f"the pass {one.name!r} failed: {error.what}",
            where=error.where,
            why=f"{error.code} {error.why}",
            next=error.next,
        ) from error
    except Exception as error:  # whatever a library raises: the user needs the pass's name with it
        raise PassFailed(
            f"the pass {one.name!r} failed",
            where=f"surgery: {one.name}",
            why=f"{type(error).__name__}: {error}",
            next=f"leave {one.name!r} out of `surgery:`, and report this with the model",
        ) from error
    types = shapes.tensor_types(work) if result.modified else types
    broken = (promises.broken(work, types) or one.ensures(work)) if result.modified else ""
    if broken:
        raise PassBrokeContract(
            f"the pass {one.name!r} returned a graph that breaks its contract",
            where=f"surgery: {one.name}",
            why=broken,
            next=f"leave {one.name!r} out of `surgery:`, and report this with the model",
        )
    return PassReport(one.name, result.modified, result.reason, time.perf_counter() - started), types


class _Promises:
    """What every pass must keep, noted before it runs."""

    def __init__(self, model: Model, one: Pass, types: _Types) -> None:
        self.redefines = one.redefines
        self.inputs = shapes.input_specs(model)
        self.outputs = shapes.output_specs(model)
        self.types = types

    def broken(self, model: Model, types: _Types) -> str:
        """A sentence for the first promise that is not kept, "" when all are. ``types``: of the graph as it is now."""
        problem = graph_problem(model.proto)
        if problem:
            return problem
        for kind, before, after in (
            ("inputs", self.inputs, shapes.input_specs(model)),
            ("outputs", self.outputs, shapes.output_specs(model)),
        ):
            renamed = list(before) != list(after) and not (kind == "outputs" and "outputs" in self.redefines)
            if renamed:
                return f"the graph's {kind} were {', '.join(before)} and are {', '.join(after)}"
        for name, after_type in types.items():
            before_type = self.types.get(name, after_type)
            redefined = name in self.inputs and "inputs" in self.redefines
            if not redefined and not _compatible(before_type, after_type):
                return f"the tensor {name!r} was {_show(before_type)} and is {_show(after_type)}"
        return ""


def _compatible(before: shapes.TensorType, after: shapes.TensorType) -> bool:
    """The same dtype and no two fixed sizes that differ: a pass may learn a size, not change one."""
    if "unknown" not in (before.dtype, after.dtype) and before.dtype != after.dtype:
        return False
    if before.shape is None or after.shape is None:
        return True
    return len(before.shape) == len(after.shape) and all(
        one == other or not (isinstance(one, int) and isinstance(other, int))
        for one, other in zip(before.shape, after.shape, strict=True)
    )


def _show(stated: shapes.TensorType) -> str:
    return f"{stated.dtype} {shapes.show_shape(stated.shape)}"


def _close_inputs(proto: ModelProto) -> None:
    """Weights that old models list as inputs too become plain weights, which is what every engine makes of them."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    for position in range(len(proto.graph.input) - 1, -1, -1):
        if proto.graph.input[position].name in weights:
            del proto.graph.input[position]
    proto.ir_version = max(proto.ir_version, 4)  # from 4 on, weights need not be inputs
