"""One session of the measuring graph: a group of samples in, the bounds of every measured tensor out."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import numpy as np

from trtforge.errors.calibration import ModelDoesNotRun, ModelInputMismatch, TensorNotFinite
from trtforge.graph.model import Model
from trtforge.ort import import_onnxruntime, session_options
from trtforge.samples.base import Sample
from trtforge.scales.collect_graph import Activation, Plan, grouped, measuring_model, open_measuring, read_outputs

_NUMPY = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


class Meter:
    """A session of the measuring graph, opened on the first group."""

    def __init__(self, model: Model, chosen: Plan, threads: int | None, *, level: str = "ORT_ENABLE_BASIC") -> None:
        self.plan = chosen
        self._model = model
        self._threads = threads
        self._level = level
        self._order: list[Activation] = [item for group in grouped(chosen.measured) for item in group]
        self._exact: frozenset[str] = frozenset()
        self._session: Any = None
        self.tensors = tuple(item.name for item in self._order)
        self.batch = _fixed_batch(chosen)

    def measure(self, group: list[Sample]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Minima and maxima over a group, [tensors] each. Raises CAL121, CAL122, CAL123."""
        for sample in group:
            _check_fits(sample, self.plan)
        low, high, guard = self._run(group)
        # NaN, infinity, or a sum too large for its type: settle it with exact guards. One that is exact may accuse
        # those that share it, so this goes on until every suspect has its own.
        while unsettled := self._suspects(low, high, guard) - self._exact:
            self._exact |= unsettled
            self._session = None
            low, high, guard = self._run(group)
        if self._suspects(low, high, guard):
            raise self._not_finite(group)
        return low, high

    def _run(self, group: list[Sample]) -> np.ndarray[Any, Any]:
        if self._session is None:
            self._session = self._open()
        feeds = {name: _stacked(name, group, self.batch) for name in self.plan.inputs}
        try:
            return read_outputs(self._session.run(None, feeds), self._order)
        except Exception as error:  # onnxruntime raises a dozen unrelated classes; all mean the same here
            raise ModelDoesNotRun(
                "onnxruntime stopped while running the model",
                where=", ".join(sample.id for sample in group),
                why=" ".join(str(error).split()),
                next="compare the input shapes of the recipe with what the model accepts: `trtforge inspect MODEL`",
            ) from error

    def _open(self) -> Any:
        options = session_options(threads=self._threads)
        onnxruntime = import_onnxruntime()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, self._level)
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        return open_measuring(measuring_model(self._model, self.plan.measured, self._exact), self._model, options)

    def _suspects(self, low: Any, high: Any, guard: Any) -> set[str]:
        """Tensors that hold, or may hold, a value that is not finite. An empty tensor is (inf, -inf) and sums to 0."""
        empty = (low == np.inf) & (high == -np.inf) & (guard == 0)
        finite = np.isfinite(low) & np.isfinite(high) & np.isfinite(guard)
        return {self.tensors[position] for position in np.flatnonzero(~(finite | empty))}

    def _not_finite(self, group: list[Sample]) -> TensorNotFinite:
        """The error for the first tensor in graph order, on the sample that shows it."""
        for sample in group:
            low, high, guard = self._run([sample])
            suspects = self._suspects(low, high, guard) & self._exact
            if suspects:
                break
        else:
            raise AssertionError("a group is not finite although each of its samples is")
        first = next(item.name for item in self.plan.measured if item.name in suspects)
        position = self.tensors.index(first)
        kind = "infinite" if np.isinf([low[position], high[position]]).any() else "NaN"
        return TensorNotFinite(
            f"tensor `{first}` became {kind}",
            where=f"sample {sample.id}",
            why=f"{len(suspects)} of {len(self.tensors)} measured tensors are not finite on it; this is the first",
            next="look at the node that makes this tensor, and at the value range of the sample",
        )


def _check_fits(sample: Sample, chosen: Plan) -> None:
    """Names, types and shapes of a sample against the graph's inputs. Raises ModelInputMismatch (CAL121)."""
    if set(sample.inputs) != set(chosen.inputs):
        raise _other_names(sorted(sample.inputs), list(chosen.inputs))
    for name, (kind, shape) in chosen.inputs.items():
        array = sample.inputs[name]
        reason = ""
        if _NUMPY.get(kind) != array.dtype.name:
            reason = f"it is {array.dtype.name}, the model takes {_NUMPY.get(kind, kind)}"
        elif array.shape[:1] != (1,):
            reason = f"its shape is {list(array.shape)}; a sample has a batch axis of 1"
        elif len(array.shape) != len(shape) or any(
            wanted not in (None, found) for wanted, found in zip(shape[1:], array.shape[1:], strict=True)
        ):
            taken = ["?" if size is None else size for size in shape]
            reason = f"its shape is {list(array.shape)}, the model takes {taken}".replace("'", "")
        if reason:
            raise ModelInputMismatch(
                f"the sample does not fit input `{name}`",
                where=f"sample {sample.id}",
                why=reason,
                next=f"correct `inputs.{name}` of the recipe, or change the model by surgery",
            )


def _other_names(given: list[str], taken: list[str]) -> ModelInputMismatch:
    """Samples have the inputs that the recipe names, so it is the recipe that differs from the model."""
    wrong, missing = [name for name in given if name not in taken], [name for name in taken if name not in given]
    advice = [f"rename `{near[0]}` to `{name}`" for name in missing if (near := get_close_matches(name, wrong, n=1))]
    if len(wrong) == len(missing) == 1:
        advice = [f"rename `{wrong[0]}` to `{missing[0]}`"]
    elif not advice:
        advice = [f"remove `{name}`" for name in wrong] + [f"add `{name}`" for name in missing]
    return ModelInputMismatch(
        "the recipe's inputs are not those of the model",
        where="inputs: " + ", ".join(f"`{name}`" for name in wrong or missing),
        why=f"the recipe names {_listed(given)}, the model takes {_listed(taken)}",
        next=f"under `inputs` of the recipe: {', '.join(advice)}",
    )


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def _fixed_batch(chosen: Plan) -> int:
    """The batch the graph is fixed to; 1 when it is open: larger batches are not faster and cost memory."""
    fixed = {name: shape[0] for name, (_, shape) in chosen.inputs.items() if shape and shape[0] is not None}
    if len(set(fixed.values())) > 1:
        raise ModelInputMismatch(
            "the inputs of the model are fixed to different batches",
            why=", ".join(f"`{name}`: {size}" for name, size in fixed.items()),
            next="export the model with one batch size, or an open one",
        )
    return next(iter(fixed.values()), None) or 1


def _stacked(name: str, group: list[Sample], batch: int) -> np.ndarray[Any, Any]:
    """One input of a group, filled up to the batch by repeating the last sample."""
    arrays = [sample.inputs[name] for sample in group]
    if batch == 1:
        return np.ascontiguousarray(arrays[0])
    return np.concatenate(arrays + arrays[-1:] * (batch - len(arrays)))
