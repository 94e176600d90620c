"""Run every rule over one engine of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtforge.lint.rule import SEVERITIES, Finding, Rule
from trtforge.lint.rules.already_quantized import AlreadyQuantized
from trtforge.lint.rules.attention_fp32 import AttentionFp32
from trtforge.lint.rules.border_format import BorderFormat
from trtforge.lint.rules.conv_transpose_float import ConvTransposeFloat
from trtforge.lint.rules.device_release import DeviceRelease
from trtforge.lint.rules.dla_batch import DlaBatch
from trtforge.lint.rules.dla_formats import DlaFormats
from trtforge.lint.rules.dla_fp16_convolution import DlaFp16Convolution
from trtforge.lint.rules.dla_fusions import DlaFusions
from trtforge.lint.rules.dla_loadables import DlaLoadables
from trtforge.lint.rules.dla_memory import DlaMemory
from trtforge.lint.rules.dla_missing_scale import DlaMissingScale
from trtforge.lint.rules.dla_parameters import DlaParameters
from trtforge.lint.rules.dla_refused import DlaRefused
from trtforge.lint.rules.dla_scale_mismatch import DlaScaleMismatch
from trtforge.lint.rules.dla_sram import DlaSram
from trtforge.lint.rules.dla_three_dimensional import DlaThreeDimensional
from trtforge.lint.rules.dla_unavailable import DlaUnavailable
from trtforge.lint.rules.dla_unsupported_op import DlaUnsupportedOp
from trtforge.lint.rules.input_dtype import InputDtype
from trtforge.lint.rules.input_dynamic import InputDynamic
from trtforge.lint.rules.input_missing import InputMissing
from trtforge.lint.rules.input_shape import InputShape
from trtforge.lint.rules.input_unknown import InputUnknown
from trtforge.lint.rules.invalid_layer import InvalidLayer
from trtforge.lint.rules.not_ahead_of_time import NotAheadOfTime
from trtforge.lint.rules.nothing_to_quantize import NothingToQuantize
from trtforge.lint.rules.opset_for_qdq import OpsetForQdq
from trtforge.lint.rules.output_unknown import OutputUnknown
from trtforge.lint.rules.plugin_not_lowered import PluginNotLowered
from trtforge.lint.rules.preprocess_range import PreprocessRange
from trtforge.lint.rules.reshape_batch import ReshapeBatch
from trtforge.lint.rules.sample_sets import SampleSets
from trtforge.lint.rules.shared_symbol import SharedSymbol
from trtforge.lint.rules.stale_scales import StaleScales
from trtforge.lint.rules.turing import Turing
from trtforge.lint.rules.unknown_operator import UnknownOperator
from trtforge.lint.rules.unknown_skip import UnknownSkip
from trtforge.lint.rules.unnamed_scales import UnnamedScales
from trtforge.lint.rules.verified_on_calibration import VerifiedOnCalibration
from trtforge.lint.rules.weights_not_finite import WeightsNotFinite

if TYPE_CHECKING:
    from trtforge.graph.model import Model
    from trtforge.lint.context import Context
    from trtforge.recipe.models import BackendName, Engine
    from trtforge.scales.table import ScaleTable
    from trtforge.targets.model import Target

_RULES: tuple[type[Rule], ...] = (
    InputUnknown,
    InputMissing,
    InputDynamic,
    InputShape,
    InputDtype,
    PreprocessRange,
    ReshapeBatch,
    SharedSymbol,
    UnknownOperator,
    InvalidLayer,
    WeightsNotFinite,
    OutputUnknown,
    BorderFormat,
    OpsetForQdq,
    AlreadyQuantized,
    UnnamedScales,
    StaleScales,
    VerifiedOnCalibration,
    NothingToQuantize,
    UnknownSkip,
    SampleSets,
    DeviceRelease,
    ConvTransposeFloat,
    Turing,
    NotAheadOfTime,
    AttentionFp32,
    PluginNotLowered,
    DlaUnavailable,
    DlaBatch,
    DlaThreeDimensional,
    DlaUnsupportedOp,
    DlaParameters,
    DlaMissingScale,
    DlaFp16Convolution,
    DlaLoadables,
    DlaRefused,
    DlaScaleMismatch,
    DlaMemory,
    DlaSram,
    DlaFormats,
    DlaFusions,
)


def rules() -> list[Rule]:
    """Every rule, by code."""
    return sorted((rule() for rule in _RULES), key=lambda rule: rule.code)


def lint(
    model: Model,
    engine: Engine,
    target: Target,
    scales: ScaleTable | None = None,
    *,
    backend: BackendName | None = None,
    tensorrt: str | None = None,
    jetpack: str | None = None,
    root: Path | None = None,
) -> list[Finding]:
    """Findings for one engine on one target, see ``examine`` and ``findings``."""
    return findings(examine(model, engine, target, scales, backend, tensorrt, jetpack, root))


def examine(
    model: Model,
    engine: Engine,
    target: Target,
    scales: ScaleTable | None = None,
    backend: BackendName | None = None,
    tensorrt: str | None = None,
    jetpack: str | None = None,
    root: Path | None = None,
) -> Context:
    """What rules look at, for one engine on one target.

    ``model``: the float graph, after surgery when there is some. ``backend``: the recipe's; None: the one the target
    is usually built with. ``tensorrt``, ``jetpack``: versions on the device, for the rules about the DLA; None: not
    known. ``root``: the folder that the recipe's sample sets are relative to; None: they are not looked at.
    """
    from trtforge.lint.context import Context

    return Context(model, engine, target, scales, backend or usual_backend(target, tensorrt), tensorrt, jetpack, root)


def findings(context: Context) -> list[Finding]:
    """Errors first, then by code, then in graph order.

    Raises InvalidGraph (ONX108) when the graph's own types contradict each other.
    """
    found = [finding for rule in rules() for finding in rule.check(context)]
    return sorted(found, key=lambda finding: (SEVERITIES.index(finding.severity), finding.code))


def usual_backend(target: Target, tensorrt: str | None) -> BackendName:
    """The host runs onnxruntime; a TensorRT version, or a Jetson, means TensorRT itself; else ahead of time."""
    if target.kind == "host":
        return "onnxruntime"
    return "tensorrt" if tensorrt is not None or target.kind != "discrete" else "tensorrt_rtx"
