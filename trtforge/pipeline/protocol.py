"""`trtforge prepare`: a data set through its protocol's preprocessing, once, for runs and other tools to start from.

Each case becomes a folder: `imaging.nii` (float32, normalised, on the network's grid; its header says so),
`segmentation.nii.gz` (uint8, on the same grid) where there is one, and `prepared.json` with the digests of what went in
and came out. `trtforge run` takes such a scan as it is.
"""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from trtforge import __version__
from trtforge.digest import sha256_file
from trtforge.errors.base import TrtforgeError
from trtforge.errors.usage import WouldOverwrite
from trtforge.errors.volume import CasesFailed, CaseUnknown, VolumeMissing
from trtforge.files import atomic_open, check_place, write_json
from trtforge.pipeline.cohort import as_error, failed_line, failures, first, some
from trtforge.pipeline.finished import Record, finished, intact
from trtforge.progress import QUIET, Progress
from trtforge.volumes.place import Placed
from trtforge.volumes.protocols import KITS19, ScanProtocol, mark, network_affine, place_once
from trtforge.volumes.read import read_labels, read_volume
from trtforge.volumes.turn import orientation_of
from trtforge.volumes.volume import Volume

SCAN, TRUTH = "imaging.nii.gz", "segmentation.nii.gz"
PREPARED_SCAN, RECORD = "imaging.nii", "prepared.json"

_INFER = (
    0, 3, 5, 6, 12, 24, 34, 41, 44, 49, 52, 56, 61, 65, 66, 70, 76, 78, 80, 84, 86, 87, 92, 111, 112, 125, 128, 138,
    157, 160, 161, 162, 169, 171, 176, 185, 187, 189, 198, 203, 206, 207, 400,
)  # fmt: skip
_CALIBRATION = (47, 50, 53, 73, 81, 90, 91, 100, 117, 130, 136, 141, 144, 147, 148, 149, 150, 172, 183, 196)
CASES = {
    "infer": tuple(f"case_{number:05d}" for number in _INFER),
    "calibration": tuple(f"case_{number:05d}" for number in _CALIBRATION),
}
"""MLPerf Inference's 43 cases of KiTS19 (42 in v2.0) and the 20 it calibrates with."""

COPIES = {"case_00400": "case_00185"}
"""Not in KiTS19: MLPerf v2.1 counts the second one twice."""

PROTOCOLS = {"kits19": KITS19}


@dataclass(frozen=True)
class PreparedCase:
    """``shape``: on the network's grid. ``reused``: it was there already, unchanged."""

    name: str
    shape: tuple[int, ...]
    files: dict[str, str]
    reused: bool


@dataclass(frozen=True)
class Preparation:
    protocol: str
    cases: tuple[PreparedCase, ...]
    failed: dict[str, TrtforgeError]

    def to_json(self) -> dict[str, Any]:
        return {
            "protocol": self.protocol,
            "cases": [
                {"case": case.name, "shape": list(case.shape), "sha256": case.files, "reused": case.reused}
                for case in self.cases
            ],
            "failed": {name: error.to_json() for name, error in self.failed.items()},
        }

    def error(self, *, where: str) -> CasesFailed | None:
        """The error to end with, None when every case went through."""
        return failures(self.failed, len(self.cases), where=where)


def prepare(name: str, raw: Path, out: Path, *, cases: Sequence[str] = (), progress: Progress = QUIET) -> Preparation:
    """Prepare the cases of a data set; a case that fails does not stop the others.

    Args:
        name: of the protocol.
        raw: a folder with a folder a case, as the data set is published.
        cases: case names, or `infer`, `calibration`; empty: every case that is there.

    `summary.json` in ``out`` has every case that was prepared there, in this call or earlier.

    Raises VOL101 no case at all, VOL403 unknown case, USE111 both folders are one; OSError, also when nothing can be
    written to ``out``.
    """
    protocol = PROTOCOLS[name]
    done: list[PreparedCase] = []
    wanted = list(dict.fromkeys(_wanted(raw, cases)))
    if raw.resolve() == out.resolve():
        raise WouldOverwrite(
            "prepared cases would be written over the raw ones",
            where=str(out),
            why="RAW_DIR and OUT_DIR are one folder",
            next="name another folder for the prepared cases",
        )
    check_place(out / "summary.json")
    sources = {case: raw / COPIES.get(case, case) for case in wanted}
    failed: dict[str, TrtforgeError] = _missing(sources, raw, out, progress)
    there = {case: source for case, source in sources.items() if case not in failed}
    _say_what_lacks(there, raw, out, progress, skipped=not cases)
    with progress.task(f"prepare {name}", len(there)) as task:
        for case, source in there.items():
            task.note(case)
            try:
                done.append(_one(protocol, case, source, out / case, progress))
            except (TrtforgeError, OSError) as error:
                failed[case] = problem = as_error(error)
                _leave_nothing(source, out / case)
                progress.warn(failed_line(case, problem))
            task.advance()
    found = Preparation(name, tuple(done), failed)
    write_json(out / "summary.json", _with_earlier(found, out).to_json())
    return found


def _missing(sources: Mapping[str, Path], raw: Path, out: Path, progress: Progress) -> dict[str, TrtforgeError]:
    """The cases whose scan is not there, told in one line, for a half-fetched data set lacks dozens.

    One that was finished earlier stays in ``out``: its scan may have been deleted since, to make room.
    """
    missing: dict[str, TrtforgeError] = {}
    for case, source in sources.items():
        if (source / SCAN).is_file():
            continue
        missing[case] = VolumeMissing(
            "the case is not there", where=str(source / SCAN), next="fetch it; see calib_data/kits19.yaml"
        )
        _leave_nothing(source, out / case)
    if missing:
        count = f"{len(missing)} of {len(sources)} case{'' if len(sources) == 1 else 's'}"
        verb = "is" if len(missing) == 1 else "are"
        progress.warn(f"{count} {verb} not there ({first(list(missing))}): no {SCAN} in {raw}")
    return missing


def _leave_nothing(source: Path, target: Path) -> None:
    """What is no result, a pattern is not to find: of a failed case only files that a record vouches for may stay."""
    if not _is_one(source, target) and not intact(target / RECORD):
        with contextlib.suppress(OSError):  # the case has its error already
            _record(target, None).clear()
            target.rmdir()  # only when it holds nothing else


def _say_what_lacks(sources: Mapping[str, Path], raw: Path, out: Path, progress: Progress, *, skipped: bool) -> None:
    """A line for cases without truth, and, when every case was wanted, for folders that are none, each kind once."""
    without = [case for case, source in sources.items() if not (source / TRUTH).is_file()]
    if without:
        progress.warn(f"{some(without, 'case')} {_have(without)} no {TRUTH}; prepared without truth")
    if not skipped:
        return
    folders = [
        path
        for path in sorted(raw.iterdir())
        if path.is_dir() and not path.name.startswith(".") and not out.resolve().is_relative_to(path.resolve())
    ]
    lacking = [path for path in folders if not (path / SCAN).is_file()]
    labelled = [path.name for path in lacking if (path / TRUTH).is_file()]
    others = [path.name for path in lacking if path.name not in labelled]
    if labelled:
        progress.warn(f"{some(labelled, 'folder')} {_have(labelled)} {TRUTH} but no {SCAN}; skipped")
    if others:
        progress.warn(f"{some(others, 'folder')} {_have(others)} no {SCAN}; skipped")


def _have(names: Collection[str]) -> str:
    return "has" if len(names) == 1 else "have"


def _with_earlier(now: Preparation, out: Path) -> Preparation:
    """This call's cases and those of earlier ones, by name."""
    here = {case.name for case in now.cases} | set(now.failed)
    earlier = [case for case in finished(out.glob(f"*/{RECORD}"), _earlier) if case.name not in here]
    return replace(now, cases=tuple(sorted([*now.cases, *earlier], key=lambda case: case.name)))


def _earlier(value: Any, path: Path) -> PreparedCase:
    """Raises KeyError, TypeError."""
    return PreparedCase(path.parent.name, tuple(value["result"]["shape"]), dict(value["sha256"]), reused=True)


def _wanted(raw: Path, cases: Sequence[str]) -> Iterator[str]:
    there = sorted(path.parent.name for path in raw.glob(f"*/{SCAN}"))
    if not there:
        raise VolumeMissing(
            "there is no case in the folder",
            where=str(raw),
            why=f"looked for {raw}/*/{SCAN}",
            next="name the folder that holds case_00000 and so on; calib_data/kits19.yaml says how to fetch it",
        )
    for entry in dict.fromkeys(cases) or there:
        if entry not in {*CASES, *there} and not entry.startswith("case_"):
            raise CaseUnknown(
                f"there are no cases {entry!r}",
                why=f"sets are {', '.join(CASES)}; single cases are called like {there[0]}",
                next="--cases infer",
            )
        yield from CASES.get(entry, (entry,))


def _one(protocol: ScanProtocol, name: str, source: Path, target: Path, progress: Progress) -> PreparedCase:
    scan, truth = source / SCAN, source / TRUTH
    if _is_one(source, target):
        raise WouldOverwrite(
            "the prepared case would be written over the raw one",
            where=str(target),
            why=f"it leads to {source}",
            next="name another folder for the prepared cases",
        )
    sources = {path.name: sha256_file(path) for path in (scan, truth) if path.is_file()}
    tools = {"trtforge": __version__, "scipy": metadata.version("scipy")}
    key = {"protocol": mark(protocol.spec, protocol.window), "sources": sources, "tools": tools}
    record = _record(target, key, truth=truth.is_file())
    earlier = record.earlier(lambda value, files: PreparedCase(name, tuple(value["shape"]), files, reused=True))
    if earlier is not None:
        progress.log(f"{name}: finished earlier")
        return earlier
    _record(target, key).clear()  # the truth of before too, when there is none any more
    with record.making():
        placed = _make(protocol, name, source, record.outputs, progress)
        files = record.write({"shape": list(placed.array.shape)})
    return PreparedCase(name, placed.array.shape, files, reused=False)


def _record(target: Path, key: Any, *, truth: bool = True) -> Record:
    outputs = (PREPARED_SCAN, TRUTH) if truth else (PREPARED_SCAN,)
    return Record(target / RECORD, key, {name: target / name for name in outputs})


def _is_one(source: Path, target: Path) -> bool:
    """A link in OUT may lead to the raw case, whose truth has the name of the prepared one."""
    return source.resolve() == target.resolve()


def _make(protocol: ScanProtocol, name: str, source: Path, outputs: Mapping[str, Path], progress: Progress) -> Placed:
    volume = read_volume(source / SCAN)
    for warning in volume.warnings:
        progress.warn(f"{name}: {warning}")
    if (axes := "".join(orientation_of(volume.affine))) != protocol.spec.orientation:
        progress.warn(
            f"{name}: its axes run to {axes}, not {protocol.spec.orientation} as the data set's; it was turned"
        )
    placed = place_once(volume, protocol.spec, protocol.window)
    _write(outputs[PREPARED_SCAN], placed.array, volume, placed, protocol)
    if TRUTH in outputs:
        labels = placed.labels_forward(read_labels(source / TRUTH, volume))
        _write(outputs[TRUTH], labels, volume, placed, protocol)
    return placed


def _write(path: Path, voxels: np.ndarray[Any, Any], volume: Volume, placed: Placed, protocol: ScanProtocol) -> None:
    """A NIfTI file on the network's grid, marked with what was done to it. Equal input gives equal bytes."""
    import nibabel

    kind: Any = nibabel.Nifti1Image  # nibabel's types do not know to_stream
    image = kind(voxels, network_affine(volume, placed))
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = mark(protocol.spec, protocol.window).encode()
    with atomic_open(path) as stream:
        if path.suffix != ".gz":
            image.to_stream(stream)
            return
        with gzip.GzipFile("", "wb", compresslevel=6, fileobj=stream, mtime=0) as packed:
            image.to_stream(packed)
