"""A float graph and its scales in the form that a TensorRT takes: a cache beside it, or types and Q/DQ in it.

Through 10 TensorRT quantizes by itself, by ranges from a calibrator, and computes in FP16 where it is allowed to. Since
11 the graph says both. The same for a build on the device and for the kit that is made for one elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from onnx import ModelProto

from trtforge.backends.nvidia.features import Features
from trtforge.backends.tensorrt_.typed_borders import with_border
from trtforge.errors.native import NotOffered
from trtforge.graph.labels import label
from trtforge.graph.model import Model
from trtforge.graph.shapes import freeze_inputs
from trtforge.scales.codecs.qdq import insert
from trtforge.scales.codecs.trt_cache import Algorithm, CalibrationCache
from trtforge.surgery.choose import apply

if TYPE_CHECKING:
    from trtforge.backends.base import CompileRequest
    from trtforge.surgery.op import Lowered as PluginNodes

GPU_CACHE: Algorithm = "MinMaxCalibration"
DLA_CACHE: Algorithm = "EntropyCalibration2"
"""TensorRT takes a cache only from the calibrator its first line names, and a DLA only that of this one. The ranges are
the same min-max ones under both."""


@dataclass(frozen=True)
class Lowered:
    """``precision``: what the builder is told; "typed": what the graph says. ``cache``: with INT8 that it is told.

    ``plugins``: nodes that are plugins of ours.
    """

    model: Model
    precision: Literal["typed", "fp32", "fp16", "int8"]
    cache: CalibrationCache | None
    float_layers: tuple[str, ...]
    plugins: tuple[PluginNodes, ...] = ()


def lower(request: CompileRequest, known: Features, release: str) -> Lowered:
    """``known``, ``release``: of the TensorRT that will compile, "10.3.0". Raises ONX, CAL and BLD errors."""
    precision = request.engine.precision
    if uses_ours(request):
        return _with_ours(request)
    model = with_plugins(request)
    if known.precision_flags:
        skip = request.engine.quantize.skip if precision == "int8" else ()
        return Lowered(_called(model, skip), precision, _cache(request, release), skip)
    if precision == "int8" and request.scales is not None:
        model = insert(model, request.scales, request.engine.quantize, for_dla=request.target.is_dla)[0]
    return _typed(request, model)


def _called(model: Model, names: tuple[str, ...]) -> Model:
    """Nodes without a name that a recipe calls by their first output have it as their name: so TensorRT finds them."""
    nameless = [at for at, node in enumerate(model.proto.graph.node) if not node.name and label(node) in names]
    if not nameless:
        return model
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    for at in nameless:
        proto.graph.node[at].name = label(proto.graph.node[at])
    return Model(proto, model.folder)


def border_scale(request: CompileRequest, name: str, dtype: str) -> float | None:
    """Of an input or output that is INT8 in the engine; None where calibration has no range for it."""
    if dtype != "int8" or request.scales is None or name not in request.scales.ranges:
        return None
    return float(request.scales.ranges[name].usable_scale)


def _typed(request: CompileRequest, model: Model, plugins: tuple[PluginNodes, ...] = ()) -> Lowered:
    """A network that says its types: those of its layers, then those of the recipe's inputs and outputs.

    Raises NotOffered.
    """
    model = _half(model, request.engine.precision)
    for side, specs in (("inputs", request.engine.inputs), ("outputs", request.engine.outputs)):
        for name, spec in specs.items():
            model, why = with_border(model, name, spec.dtype, border_scale(request, name, spec.dtype))
            if why:
                raise _not_offered(request, f"{side}.{name}", spec.dtype, why)
    return Lowered(model, "typed", None, (), plugins)


def _not_offered(request: CompileRequest, place: str, dtype: str, why: str) -> NotOffered:
    return NotOffered(
        f"`{place}.dtype: {dtype}` cannot be had of this build",
        where=f"target {request.target.key}",
        why=why,
        next=f"drop `{place}.dtype`; TensorRT through 10, without plugins of ours, takes it",
    )


def uses_ours(request: CompileRequest) -> bool:
    """Is a plugin of this project among what was chosen?"""
    return request.plugins is not None and any(one.lowering_name == "trtforge" for one in request.plugins.swapped)


def _with_ours(request: CompileRequest) -> Lowered:
    """Plugins of ours take and give the types that the graph says, so all of it says them: with TensorRT 10 too."""
    assert request.plugins is not None and request.situation is not None  # `uses_ours` looked
    source = graph = _shaped(request)
    if request.engine.precision == "int8" and request.scales is not None:
        graph = insert(graph, request.scales, request.engine.quantize)[0]
    graph, lowered = apply(source, graph, request.plugins, request.situation)
    return _typed(request, graph, tuple(lowered))


def _half(model: Model, precision: str) -> Model:
    if precision != "fp16":
        return model
    from trtforge.backends.tensorrt_rtx_.half import convert

    return convert(model)[0]


def with_plugins(request: CompileRequest) -> Model:
    """The float graph with the recipe's shapes and NVIDIA's plugins in it. Raises ONX errors."""
    model = _shaped(request)
    if request.plugins is None or request.situation is None:
        return model
    return apply(model, model, request.plugins, request.situation)[0]


def _shaped(request: CompileRequest) -> Model:
    """With the recipe's shapes, as a DLA demands; with ranges in the recipe, as open as the model is."""
    inputs = request.engine.inputs
    if any(spec.range is not None for spec in inputs.values()):
        return request.model
    return freeze_inputs(request.model, {name: tuple(spec.shape) for name, spec in inputs.items()})


def _cache(request: CompileRequest, release: str) -> CalibrationCache | None:
    if request.engine.precision != "int8" or request.scales is None:
        return None
    algorithm = DLA_CACHE if request.target.is_dla else GPU_CACHE
    return CalibrationCache.from_table(request.scales, tensorrt=release, algorithm=algorithm)
