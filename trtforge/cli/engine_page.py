"""What `trtforge inspect` says of one engine: a page of facts, and whether its files are the published ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trtforge.cli.ui import Ui
from trtforge.memory import human_bytes

if TYPE_CHECKING:
    from trtforge.engines.manifest import Manifest
    from trtforge.engines.store import EngineVersion

EXACT_DB = 999.0  # how a parity report writes a comparison without any noise
KINDS = {
    "conv": "Conv",
    "conv_transpose": "ConvTranspose",
    "gemm": "Gemm",
    "matmul": "MatMul",
    "pools": "pools",
    "residual_adds": "residual adds",
}
"""What a report counts as quantized, and its name for a person."""


def show(ui: Ui, version: EngineVersion) -> None:
    """Print the page; end with ENG110 or ENG111 when a file is missing or changed."""
    from trtforge.engines.load import damage

    manifest = version.manifest
    damaged = damage(version)
    states = {name: _state(damaged.get(name)) for name in manifest.files}
    ui.say(f"{version.path}: engine")
    ui.table("", ("what", "value"), [*_facts(manifest), *_beside(version)])
    ui.table("Inputs and outputs", ("tensor", "direction", "shape", "dtype", "format"), _tensors(manifest))
    ui.table(
        "Files",
        ("file", "size", "sha256", "state"),
        [(name, human_bytes(entry.size), entry.sha256[:16], states[name]) for name, entry in manifest.files.items()],
        right="size",
    )
    header = None
    if manifest.platform == "tensorrt_plan" and manifest.engine_file not in damaged:
        header = plan_header(version.engine_file)
        ui.table("Plan header", ("what", "value"), header_rows(header))
    ui.result(
        "inspect",
        {
            "kind": "engine",
            "path": str(version.path),
            "manifest": manifest.to_json(),
            "files": states,
            "header": header,
        },
    )
    for error in damaged.values():
        ui.end(error)


def _beside(version: EngineVersion) -> list[tuple[str, object]]:
    """The other versions of the engine."""
    from trtforge.engines.store import Store

    folder = version.path.absolute().parent
    others = [number for number in Store(folder.parent).versions(folder.name) if number != version.version]
    if not others:
        return []
    newer = f"; {others[-1]} is the newest" if others[-1] > version.version else ""
    return [("other versions", ", ".join(map(str, others)) + newer)]


def plan_header(path: Any) -> dict[str, Any]:
    """The facts of a plan's header. Raises ENG102, ENG104, ENG2xx."""
    from trtforge.engines.plan_header import read_header
    from trtforge.engines.store_errors import explained

    with explained(path, f"read {path}"):
        header = read_header(path)
    return {
        "kind": header.kind,
        "version": header.version,
        "compute capabilities": ", ".join(header.sms) if header.sms else "not recorded",
        "size": header.declared_size,
        "offset": header.offset,
    }


def header_rows(header: Mapping[str, Any]) -> list[tuple[str, object]]:
    """A plan's header for a person."""
    shown = {"size": human_bytes(header["size"])} if header["size"] is not None else {}
    return list({**header, **shown}.items())


def decibels(value: float | None) -> str:
    """A signal-to-noise ratio for a person: `43.1`, or `exact`."""
    if value is None:
        return "-"
    return "exact" if value >= EXACT_DB else f"{value:.1f}"


def _state(error: Exception | None) -> str:
    from trtforge.errors.engine import EngineFileMissing

    return "as published" if error is None else "MISSING" if isinstance(error, EngineFileMissing) else "CHANGED"


def _tensors(manifest: Manifest) -> list[tuple[str, ...]]:
    return [
        (
            tensor.name,
            direction,
            "x".join("?" if d is None else str(d) for d in tensor.shape),
            tensor.dtype,
            tensor.format,
        )
        for direction, tensors in (("in", manifest.inputs), ("out", manifest.outputs))
        for tensor in tensors
    ]


def _facts(manifest: Manifest) -> list[tuple[str, object]]:
    target = manifest.target
    rows: list[tuple[str, object]] = [
        ("engine", f"{manifest.engine} version {manifest.version}, {manifest.created}"),
        ("target", target.key + (f", SM {target.sm}" if target.sm else "")),
        ("backend", f"{manifest.backend} ({manifest.platform})"),
        ("precision", manifest.recipe.get("precision", "-")),
        ("model", manifest.model.origin),
        ("model sha256", manifest.model.sha256[:16]),
    ]
    if manifest.plugins:
        listed = ", ".join(f"{len(one['nodes'])} {one['namespace']}::{one['name']}" for one in manifest.plugins)
        rows.append(("plugins", listed))
    if manifest.calibration:
        samples = manifest.calibration.get("samples", {})
        rows.append(("calibration", f"{manifest.calibration['method']}, {len(samples)} samples"))
    if manifest.parity:
        rows.append(("parity", parity(manifest.parity)))
    return rows + _built(manifest)


def parity(found: Mapping[str, Any]) -> str:
    """A verdict on one line."""
    from trtforge.evaluate.bounds import told

    value, bound = told(found["value"], found["at_least"])
    value = decibels(found["value"]) if found["metric"] == "sqnr_db" else value
    verdict = "passed" if found["passed"] else "MISSED"
    return f"{found['metric']} {value} (bound {bound}) {verdict}; measured on {found['measured_on']}"


def _built(manifest: Manifest) -> list[tuple[str, object]]:
    """What the compiler reported, in words; the whole report is in the manifest."""
    report = manifest.report
    rows: list[tuple[str, object]] = []
    if form := report.get("form"):
        rows.append(("INT8 form", f"{form['name']} ({form['title']})"))
    if manifest.target.isa:
        rows.append(("needs CPU with", ", ".join(manifest.target.isa)))
    quantized = report.get("quantization", report.get("qdq"))
    if quantized:
        rows.append(("quantized", _quantized(quantized)))
    if summary := report.get("summary"):
        rows.append(("compiled", summary))
    seconds = report.get("seconds")
    if isinstance(seconds, dict):
        seconds = sum(seconds.values())
    if seconds is not None:
        rows.append(("compile time", f"{seconds:.1f} s"))
    return rows


def _quantized(report: dict[str, Any]) -> str:
    counts = [f"{title} {report['quantized'][name]}" for name, title in KINDS.items() if report["quantized"].get(name)]
    left = f"; {len(report['left_float'])} layers left in float" if report["left_float"] else ""
    return (", ".join(counts) or "nothing") + left
