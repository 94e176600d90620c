"""Several scans through one engine: one failing does not stop the rest, and what is finished is not done twice.

Beside each case's outputs lies `NAME.json`: its result, under a key of everything that decided it, and the digests of
the outputs. A later run with the same key and untouched outputs takes the result from there. The summary is made of
these files, so that it has every finished case of the folder, whichever call finished it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trtforge.digest import digest_json, sha256_file
from trtforge.errors.base import TrtforgeError
from trtforge.errors.environment import refusal
from trtforge.errors.volume import CasesFailed, VolumeMissing
from trtforge.evaluate.dice import mean
from trtforge.files import check_place, write_json, write_text
from trtforge.pipeline.case import CaseResult, Request
from trtforge.pipeline.finished import Record, finished
from trtforge.pipeline.segment import Segmenter
from trtforge.progress import QUIET, Progress
from trtforge.volumes.read import DETACHED


@dataclass(frozen=True)
class Cohort:
    """``results`` in the order given; ``failed``: case -> its error."""

    results: tuple[CaseResult, ...]
    failed: Mapping[str, TrtforgeError]

    @property
    def means(self) -> dict[str, dict[str, float]]:
        """Over the cases that have it: Dice of each class, and their mean, against the truth and against FP32."""
        table: dict[str, dict[str, float]] = {}
        for against in dict.fromkeys(key for result in self.results for key in result.dice):
            rows = [result.dice[against] for result in self.results if against in result.dice]
            scores = {name: mean([row[name] for row in rows]) for name in rows[0]}
            table[against] = scores | {"mean": mean(list(scores.values()))}
        return table

    def to_json(self) -> dict[str, Any]:
        return {
            "cases": [result.to_json() for result in self.results],
            "failed": {name: error.to_json() for name, error in self.failed.items()},
            "means": self.means,
        }

    def error(self, *, where: str) -> CasesFailed | None:
        """The error to end with, None when every case went through."""
        return failures(self.failed, len(self.results), where=where)


def as_error(error: TrtforgeError | OSError) -> TrtforgeError:
    """The system's refusal of a file as an error like any other. Raises what is no such refusal."""
    if isinstance(error, TrtforgeError):
        return error
    if (refused := refusal(error)) is None:
        raise error
    return refused


def failed_line(name: str, error: TrtforgeError) -> str:
    """What is said when a case fails, before the next one begins; the end tells where, why and what next."""
    return f"{name} failed: {error.code} {error.what}"


def failures(failed: Mapping[str, TrtforgeError], done: int, *, where: str) -> CasesFailed | None:
    """The error of some cases of several, each of which is told by itself; None when none failed."""
    if not failed:
        return None
    codes = dict.fromkeys(error.code for error in failed.values())
    named = {code: [name for name, error in failed.items() if error.code == code] for code in codes}
    return CasesFailed(
        f"{len(failed)} of {len(failed) + done} scans failed",
        where=where,
        why="; ".join(f"{code}: {first(names)}" for code, names in named.items()),
        next="mend or remove them, and give the same command again: what is finished is kept",
    )


def run_cohort(
    segmenter: Segmenter, wanted: Sequence[Request], out_dir: Path, *, key: Any, progress: Progress = QUIET
) -> Cohort:
    """Segment every scan into ``out_dir``, and write `summary.json` and `summary.csv` of all that is finished there.

    ``key``: JSON-able, what decides a result beside the scan and its truth: engine, options, what is compared.

    Raises OSError when nothing can be written to ``out_dir``; a failed scan is in the result.
    """
    check_place(out_dir / "summary.json")
    how = digest_json(key)
    results: list[CaseResult] = []
    failed: dict[str, TrtforgeError] = {}
    with progress.task("scans", len(wanted)) as task:
        for request in wanted:
            task.note(request.name)
            try:
                results.append(_one(segmenter, request, out_dir, how, progress))
            except (TrtforgeError, OSError) as error:
                failed[request.name] = as_error(error)
            if (problem := failed.get(request.name)) is not None:
                progress.warn(failed_line(request.name, problem))
            task.advance()
    cohort = Cohort(tuple(results), failed)
    _summarize(cohort, out_dir, how, progress)
    return cohort


def _summarize(cohort: Cohort, out_dir: Path, how: str, progress: Progress) -> None:
    """Write the summary of these cases, and of those that earlier calls finished in the folder.

    Means are over cases made as these were; those made otherwise, which may know other classes, are listed as `others`.
    """
    here = {result.name for result in cohort.results} | set(cohort.failed)
    earlier = [(result, made) for result, made in finished(out_dir.glob("*.json"), _earlier) if result.name not in here]
    everything = sorted([*cohort.results, *(result for result, _ in earlier)], key=lambda result: result.name)
    others = sorted(result.name for result, made in earlier if made != how)
    if others:
        progress.warn(
            f"{some(others, 'case')} in {out_dir} {'was' if len(others) == 1 else 'were'} made by another engine or "
            "with other options; the means in summary.json leave them out"
        )
    alike = tuple(result for result in everything if result.name not in set(others))
    cases = [result.to_json() for result in everything]
    write_json(out_dir / "summary.json", Cohort(alike, cohort.failed).to_json() | {"cases": cases, "others": others})
    write_text(out_dir / "summary.csv", _csv(Cohort(tuple(everything), cohort.failed)))


def _earlier(value: Any, path: Path) -> tuple[CaseResult, Any]:
    """A finished case, and how it was made. Raises as `CaseResult.from_json`."""
    outputs = {name: path.parent / file for name, file in value["files"].items()}
    return replace(CaseResult.from_json(value["result"]), name=path.stem, outputs=outputs), value["key"][0]


def some(names: Sequence[str], what: str) -> str:
    """`39 cases (case_00003, case_00005, case_00006 and 36 more)`."""
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'} ({first(names)})"


def first(names: Sequence[str]) -> str:
    """`case_00003, case_00005, case_00006 and 36 more`."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _one(segmenter: Segmenter, request: Request, out_dir: Path, how: str, progress: Progress) -> CaseResult:
    for path in (request.scan, request.truth):
        if path is not None and not path.exists():
            raise VolumeMissing("there is no such file or folder", where=str(path), next=f"look: ls {path.parent}")
    digest = _digest(request.scan)
    decided = [how, digest_json([digest, _digest(request.truth), sorted(request.outputs())])]
    record = Record(out_dir / f"{request.name}.json", decided, request.outputs())
    if (earlier := record.earlier(lambda value, _: CaseResult.from_json(value))) is not None:
        progress.log(f"{request.name}: finished earlier")
        return replace(earlier, outputs=request.outputs(), scan=request.scan)
    with record.making():
        result = replace(segmenter.run(request, progress=progress), digest=digest)
        record.write(result.to_json())
    return result


def _digest(path: Path | None) -> Any:
    """sha256 of a file, or of every file in a folder; of a header without its voxels, the state of its folder."""
    if path is None:
        return None
    if path.is_dir():
        return {file.name: sha256_file(file) for file in sorted(path.iterdir()) if file.is_file()}
    if path.suffix.lower() in DETACHED:
        states = [(file.name, file.stat()) for file in sorted(path.parent.iterdir()) if file.is_file()]
        return {name: [state.st_size, state.st_mtime_ns] for name, state in states}
    return sha256_file(path)


def _csv(cohort: Cohort) -> str:
    """A row a case: windows, seconds, millilitres and Dice of each class; failed ones with their error."""
    text = io.StringIO()
    measured = dict.fromkeys(f"ml {name}" for result in cohort.results for name in result.millilitres)
    scored = dict.fromkeys(
        f"dice {against} {name}" for result in cohort.results for against, row in result.dice.items() for name in row
    )
    table = csv.DictWriter(text, ["case", "windows", "seconds", *measured, *scored, "error"], restval="")
    table.writeheader()
    for result in cohort.results:
        row: dict[str, Any] = {"case": result.name, "windows": result.windows, "seconds": round(result.seconds, 3)}
        row |= {f"ml {name}": amount for name, amount in result.millilitres.items()}
        row |= {f"dice {against} {name}": f"{v:.6f}" for against, r in result.dice.items() for name, v in r.items()}
        table.writerow(row)
    for name, error in cohort.failed.items():
        table.writerow({"case": name, "error": error.line})
    return text.getvalue()
