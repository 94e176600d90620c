"""From what a person typed to one request a scan: patterns, sets, names, truths; and nothing is to be overwritten."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from trtforge.engines.store import EngineVersion
from trtforge.errors.calibration import SampleMissing
from trtforge.errors.usage import OneScanOnly, WrongUsage
from trtforge.errors.volume import SameCase, VolumeMissing
from trtforge.pipeline.case import Request
from trtforge.pipeline.overwrite import Named, refuse_overwriting
from trtforge.recipe.models import Engine
from trtforge.samples.load import open_set
from trtforge.samples.sources import beside, expanded
from trtforge.volumes.volume import stem

LABELS = ".nii.gz"
SUMMARIES = ("summary.json", "summary.csv")
PLACEHOLDERS = ("folder", "name")

KITS19 = "imaging"
"""What every scan of KiTS19 is called, in a folder named after the case."""


def requests(
    scans: Sequence[Path],
    *,
    out_dir: Path | None = None,
    labels: Path | None = None,
    truth: str | None = None,
    truths: Mapping[Path, Path | None] | None = None,
    read: Iterable[Named] = (),
    **others: Path | None,
) -> list[Request]:
    """One request a scan.

    Args:
        out_dir: where labels go, as NAME.nii.gz.
        labels: where the labels of the only scan go.
        truth: a path, in which ``{folder}`` and ``{name}`` stand for the scan's.
        truths: the truth of each scan, where ``truth`` does not say.
        read: what else is read, and not to be written over.
        others: places of the only scan's `probabilities`, `picture`, `page`; of several, they go to ``out_dir``.

    Raises USE100 ``truth`` with an unknown placeholder, USE110 one truth for several scans, USE111 a result over an
    input or another, VOL402 two scans of one name.
    """
    if truth is not None:
        _check_placeholders(truth)
    scans = list({scan.resolve(): scan for scan in scans}.values())
    if truth is not None and len(scans) > 1 and "{" not in truth:
        raise OneScanOnly(
            "--truth names one file",
            where=f"{len(scans)} scans",
            why=f"{truth} cannot be the truth of all of them",
            next="let {folder} or {name} stand for the scan's: --truth '{folder}/segmentation.nii.gz'",
        )
    named = _names(scans)
    wanted = [
        Request(
            scan=scan,
            name=name,
            truth=(truths or {}).get(scan) if truth is None else beside(truth, scan, Path()),
            labels=labels if out_dir is None else out_dir / f"{name}{LABELS}",
            **others,
        )
        for name, scan in named.items()
    ]
    inputs = [named for request in wanted for named in (("the scan", request.scan), ("the truth", request.truth))]
    refuse_overwriting(_results(wanted, out_dir), [*inputs, *read])
    return wanted


def _check_placeholders(truth: str) -> None:
    """Raises WrongUsage (USE100) for `{fodler}`; braces in the name of a file that is there are its own."""
    unknown = [name for name in re.findall(r"\{([^{}/]*)\}", truth) if name not in PLACEHOLDERS]
    if unknown and not Path(truth).exists():
        known = " and ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise WrongUsage(
            f"--truth has an unknown placeholder {{{unknown[0]}}}",
            where=truth,
            why=f"there are {known}, which stand for the scan's folder, and for its name without the format",
            next="--truth '{folder}/segmentation.nii.gz'",
        )


def _results(wanted: Sequence[Request], out_dir: Path | None) -> list[Named]:
    """Everything that is written for the scans, and what it is."""
    results: list[Named] = [(f"the {name}", path) for request in wanted for name, path in request.outputs().items()]
    if out_dir is not None:
        results += [("the summary", out_dir / name) for name in SUMMARIES]
        results += [("the record", out_dir / f"{request.name}.json") for request in wanted]
    return results


def from_set(path: Path, version: EngineVersion) -> dict[Path, Path | None]:
    """The scans that a sample set lists, each with its labels, if it names them. Raises CAL101-105, CAL111-112."""
    engine = Engine.model_validate(version.manifest.recipe)
    samples = open_set(path, engine.inputs, windows=engine.sliding)
    return {file.path: item.labels for item in samples.listed for file in item.files.values()}


def expand(patterns: Sequence[str]) -> list[Path]:
    """Paths, and the files that quoted patterns match, sorted. Raises VOL101 when a pattern matches nothing."""
    try:
        return [path for pattern in patterns for path in expanded(Path(pattern))]
    except SampleMissing as error:
        raise VolumeMissing(error.what, where=error.where, next=error.next) from error


def _names(scans: Sequence[Path]) -> dict[str, Path]:
    """A name for each scan: its file's, or its folder's where files are called alike. Raises VOL402."""
    stems = [stem(scan) for scan in scans]
    alike = len(set(stems)) < len(stems) or set(stems) == {KITS19}
    named: dict[str, Path] = {}
    for scan, own in zip(scans, stems, strict=True):
        name = scan.resolve().parent.name if alike else own
        if name in named:
            raise SameCase(
                f"two scans are called {name!r}",
                where=str(scan),
                why=f"the other is {named[name]}",
                next="give each an --out-dir of its own, or rename one",
            )
        named[name] = scan
    return named
