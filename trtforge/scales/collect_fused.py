"""The fast way for convolutional networks: measure the graph onnxruntime would really run, fused and blocked.

Convolution, addition and activation become one node and stay in the channel-blocked layout, so an unfused
intermediate has no range here: it never exists, neither in this graph nor in an engine that fuses the same way.
Values agree with the unfused graph to rounding (about 1e-6 relative), not to the bit, and which tensors survive
depends on the CPU: use it to look at a network quickly, and the default where a table is to be shared.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper

from trtforge.errors.calibration import FusedNameWrong, NothingToCalibrate
from trtforge.graph.index import Index
from trtforge.graph.model import Model
from trtforge.ort import session_options
from trtforge.samples.base import Sample
from trtforge.scales.collect_graph import Activation, Plan, derivable, open_measuring
from trtforge.scales.collect_meter import Meter
from trtforge.scales.derive import resolve

_NCHWC = "com.microsoft.nchwc"
_SUFFIX = "_nchwc"
_BLOCK = 16  # channels; 8 on CPUs with AVX2, 16 with AVX-512
_TOLERANCE = 1e-3


class FusedMeter(Meter):
    """A Meter over the optimised graph. The names it gives are checked on the first group against the plain one.

    Raises what Meter raises, and FusedNameWrong (CAL125).
    """

    def __init__(self, model: Model, chosen: Plan, threads: int | None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="trtforge-fused-")  # weights are mapped from it
        optimised = _optimise(model, Path(self._folder.name))
        self._unproven: Meter | None = Meter(model, chosen, threads)
        super().__init__(optimised, _fused_plan(model, chosen, optimised), threads, level="ORT_DISABLE_ALL")

    def measure(self, group: list[Sample]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        low, high = super().measure(group)
        if self._unproven is not None:
            _prove(self, low, high, self._unproven, group)
            self._unproven = None
        return low, high


def _optimise(model: Model, folder: Path) -> Model:
    """The graph as onnxruntime runs it on this CPU, written to ``folder`` with its weights beside it."""
    options = session_options(threads=1)
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimised.data")
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "4096")
    open_measuring(model.proto, model, options)
    return Model(onnx.load(folder / "optimised.onnx", load_external_data=False), folder)


def _fused_plan(model: Model, chosen: Plan, optimised: Model) -> Plan:
    """The activations of the model that survive in the optimised graph, under the names they have in the model."""
    index = Index(model.proto.graph)
    known = {item.name: item for item in _all_activations(chosen, index)}
    measured: dict[str, Activation] = {name: known[name] for name in index.inputs if name in known}
    for node in optimised.proto.graph.node:
        if node.domain == _NCHWC and node.op_type != "ReorderOutput":
            blocked = _blocked(node, index, known)
            if blocked is not None:
                measured.setdefault(blocked.name, blocked)
            continue
        for name in node.output:
            if name in known:
                measured.setdefault(name, known[name])
    derived = {name: rule for name, rule in derivable(index, set(measured)).items() if name not in measured}
    unseen = (name for name in known if name not in measured and name not in derived)
    if not measured:
        raise NothingToCalibrate("no tensor of the model survives fusion", next="calibrate without `fused`")
    return Plan(tuple(measured.values()), derived, (*chosen.hidden, *unseen), chosen.inputs)


def _all_activations(chosen: Plan, index: Index) -> list[Activation]:
    """Measured and derived ones; a derived tensor has the type of what it is derived from."""
    known = {item.name: item for item in chosen.measured}
    for name, (sources, _) in chosen.derived.items():
        node = index.producers[name]
        same_axes = node.op_type in ("Relu", "Clip", "Neg", "Identity", "Dropout")
        first = known[sources[0]]
        known[name] = replace(
            first,
            name=name,
            source=name,
            rank=first.rank if same_axes or node.op_type == "Concat" else None,
            channels=first.channels if same_axes else None,
        )
    return list(known.values())


def _blocked(node: NodeProto, index: Index, known: dict[str, Activation]) -> Activation | None:
    """The activation whose values a channel-blocked node makes, or None when that cannot be told.

    The node is called after the tensor its convolution or pooling made. A fourth input means that the addition
    behind it was fused in, ``activation`` that the activation behind those was.
    """
    name = node.name.removesuffix(_SUFFIX)
    if name == node.name or name not in index.producers:
        return None
    if node.op_type == "Conv" and len(node.input) > 3 and node.input[3]:
        name = _behind(name, ("Add", "Sum"), index)
    activation = next((helper.get_attribute_value(a).decode() for a in node.attribute if a.name == "activation"), "")
    if activation and name and index.producers[name].op_type != activation:
        name = _behind(name, (activation,), index)
    item = known.get(name)
    if item is None:
        return None
    padded = item.channels is None or item.channels % _BLOCK != 0
    if padded and item.channels is None:
        return None
    return replace(item, source=node.output[0], rank=4, unpad=padded)


def _behind(name: str, op_types: tuple[str, ...], index: Index) -> str:
    """The tensor that the only consumer of ``name`` makes, if it is of one of these types; else an empty name."""
    consumer = index.only_consumer(name)
    return consumer.output[0] if consumer is not None and consumer.op_type in op_types else ""


def _prove(fused: Meter, low: Any, high: Any, plain: Meter, group: list[Sample]) -> None:
    """Every fused range must be the plain range of the same name, to rounding."""
    found = zip(*plain.measure(group), strict=True)
    expected: dict[str, Any] = dict(zip(plain.tensors, ((float(a), float(b)) for a, b in found), strict=True))
    expected |= resolve(plain.plan.derived, expected)
    for name, least, most in zip(fused.tensors, low, high, strict=True):
        wanted = expected[name]
        slack = _TOLERANCE * max(abs(wanted[0]), abs(wanted[1])) + 1e-6
        if not (abs(least - wanted[0]) <= slack and abs(most - wanted[1]) <= slack):
            raise FusedNameWrong(
                f"the fused graph gives `{name}` another range than the plain one",
                where=f"sample {group[0].id}",
                why=f"[{least:g}, {most:g}] fused, [{wanted[0]:g}, {wanted[1]:g}] plain",
                next="calibrate without `fused`",
            )
