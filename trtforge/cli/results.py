"""What each command prints with ``--json``, as types; `trtforge schema` prints the JSON Schema made of them.

Every object starts with ``schema``, ``trtforge.<command>/<version>``; the version grows when a field changes its
meaning or goes away, not when one is added. An error is ``trtforge.error/1``.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, Required

from typing_extensions import TypedDict

from trtforge.cli.results_lint import Lint


class BuiltEngine(TypedDict):
    engine: str
    target: str
    backend: str
    status: Literal["built", "up-to-date", "republished", "kit"]
    path: str
    version: int | None
    key: str
    seconds: float
    parity: dict[str, Any] | None


class Build(TypedDict):
    schema: str
    recipe: str
    engines: list[BuiltEngine]


class Finish(TypedDict):
    """``signature_held``: one was required, and the kit has it. ``engine`` is null with ``--only-check``."""

    schema: str
    kit: str
    signature_held: bool
    engine: BuiltEngine | None


class CalibratedEngine(TypedDict):
    engine: str
    path: str
    tensors: int
    samples: int
    set_digest: str
    uncovered: list[str]
    reused: bool


class Calibrate(TypedDict):
    schema: str
    engines: list[CalibratedEngine]


class Tune(TypedDict):
    """``best``: the combination, each unit's rate and all together in samples a second, p99 in milliseconds."""

    schema: str
    engine: str
    best: dict[str, Any]
    measured: int
    out: str


class Run(TypedDict):
    """``rows``: one object a sample; ``parity`` is null with ``--against none``; ``passed`` is null without a bound.

    ``traffic``: bytes copied to and from the device, and executions; null on the CPU.
    """

    schema: str
    engine: str
    backend: str
    precision: str
    samples: int
    seen_in_calibration: list[str]
    traffic: dict[str, int] | None
    rows: list[dict[str, Any]]
    parity: dict[str, Any] | None
    passed: bool | None


class RunVolumes(TypedDict):
    """``cases``: one object a scan; ``failed``: scan -> its error; ``means``: of Dice, against the truth and FP32.

    ``passed`` is false when a bound was missed, else null. ``peak_memory``: of the process, in bytes.
    """

    schema: str
    engine: str
    backend: str
    precision: str
    windows: dict[str, Any]
    peak_memory: int | None
    seen_in_calibration: list[str]
    passed: bool | None
    cases: list[dict[str, Any]]
    failed: dict[str, Any]
    means: dict[str, dict[str, float]]


class Prepare(TypedDict):
    """``cases``: one object a case, with its shape and the digests of its files; ``failed``: case -> its error."""

    schema: str
    protocol: str
    cases: list[dict[str, Any]]
    failed: dict[str, Any]


class StoredEngine(TypedDict):
    """``version`` is null for a kit, and for a version that cannot be read, of which ``problem`` tells."""

    path: str
    version: int | None
    target: str
    backend: str
    precision: str
    size: int
    created: str
    parity: dict[str, Any] | None
    problem: str


class Inspect(TypedDict, total=False):
    """``files``: of an engine, whether each is the one that was published. Of a store, ``engines``: the newest version
    of each and the kits; ``versions``: all of them.
    """

    schema: Required[str]
    kind: Required[Literal["engine", "plan", "kit", "model", "store"]]
    path: Required[str]
    manifest: dict[str, Any]
    files: dict[str, Literal["as published", "CHANGED", "MISSING"]]
    header: dict[str, Any] | None
    kit: dict[str, Any]
    signed_by: str | None
    model: dict[str, Any]
    engines: list[StoredEngine]
    versions: list[StoredEngine]


class PassOutcome(TypedDict):
    name: str
    changed: bool
    reason: str


class Refusal(TypedDict):
    lowering: str
    why: str


class PluginMatch(TypedDict):
    plugin: str
    at: str
    outputs: list[str]
    lowering: str
    refused: list[Refusal]


class PluginNearMiss(TypedDict):
    plugin: str
    at: str
    why: str


class PluginNowhere(TypedDict):
    plugin: str
    why: str


class PluginPlan(TypedDict):
    """``nowhere``: plugins of the recipe that have no match."""

    matches: list[PluginMatch]
    near_misses: list[PluginNearMiss]
    nowhere: list[PluginNowhere]


class SurgeryOfEngine(TypedDict):
    engine: str
    passes: list[PassOutcome]
    diff: dict[str, Any]
    plugins: PluginPlan
    out: str | None


class Surgery(TypedDict):
    schema: str
    engines: list[SurgeryOfEngine]


class PassSummary(TypedDict):
    name: str
    summary: str


class PluginSummary(TypedDict):
    name: str
    summary: str
    lowerings: list[str]


class SurgeryList(TypedDict):
    schema: str
    passes: list[PassSummary]
    plugins: list[PluginSummary]


class TensorScale(TypedDict):
    min: float
    max: float
    amax: float
    scale: float
    count: int


class ScalesShow(TypedDict):
    schema: str
    form: str
    receipt: dict[str, Any] | None
    tensors: dict[str, TensorScale]


ScalesConvert = TypedDict(
    "ScalesConvert",
    {
        "schema": str,
        "from": str,
        "to": str,
        "out": str,
        "tensors": int,
        "without_scale": list[str],
        "consequences": NotRequired[list[dict[str, Any]]],
        "asymmetric": NotRequired[list[str]],
        "restored_relus": NotRequired[list[str]],
        "clipped_inputs": NotRequired[list[str]],
        "conflicts": NotRequired[list[dict[str, Any]]],
        "lost_weight_scales": NotRequired[list[dict[str, Any]]],
        "carried": NotRequired[dict[str, str]],
        "precisions": NotRequired[dict[str, Any]],
        "qdq": NotRequired[dict[str, Any]],
        "header": NotRequired[dict[str, Any]],
        "rounded": NotRequired[list[str]],
    },
)


class ScalesDiff(TypedDict):
    schema: str
    diff: dict[str, Any]


class Targets(TypedDict):
    schema: str
    targets: list[dict[str, Any]]
    jetpacks: list[dict[str, Any]]


class OneTarget(TypedDict):
    schema: str
    target: dict[str, Any]


class RecipeShow(TypedDict):
    schema: str
    recipe: str
    files: list[str]
    resolved: dict[str, Any]


class Code(TypedDict):
    code: str
    title: str
    kind: str


class Explain(TypedDict, total=False):
    """``code`` and ``text`` for one page; ``codes`` for the list."""

    schema: Required[str]
    code: str
    text: str
    codes: list[Code]


class BackendState(TypedDict):
    can_compile: bool
    can_run: bool
    version: str
    why: str
    next: str


class Doctor(TypedDict):
    schema: str
    version: str
    cache: str
    window_loop: Literal["compiled", "numpy"]
    cpu: dict[str, Any]
    backends: dict[str, BackendState]
    packages: dict[str, str | None]


class SchemaList(TypedDict):
    schema: str
    names: list[str]


class ErrorBody(TypedDict):
    """``problems``: of a recipe with several, each as an error of its own. ``code`` INTERNAL: a bug in trtforge."""

    code: str
    title: str
    exit_code: int
    what: str
    where: str
    why: str
    next: str
    problems: NotRequired[list[ErrorBody]]


class Error(TypedDict):
    schema: str
    error: ErrorBody


RESULTS: dict[str, type] = {
    "build": Build,
    "calibrate": Calibrate,
    "tune": Tune,
    "doctor": Doctor,
    "error": Error,
    "explain": Explain,
    "finish": Finish,
    "inspect": Inspect,
    "lint": Lint,
    "recipe": RecipeShow,
    "run": Run,
    "run-volumes": RunVolumes,
    "prepare": Prepare,
    "scales-convert": ScalesConvert,
    "scales-diff": ScalesDiff,
    "scales-show": ScalesShow,
    "schema-list": SchemaList,
    "surgery": Surgery,
    "surgery-list": SurgeryList,
    "target": OneTarget,
    "targets": Targets,
}
"""Result name, as in the ``schema`` field, -> its type."""
