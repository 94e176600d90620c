"""Several scans through one engine: one failing does not stop the rest, and what is finished is not done twice.

Beside each case's outputs lies `NAME.json`: its result, under a key of everything that decided it, and the digests of
the outputs. A later run with the same key and untouched outputs takes the result from there.
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
from trtforge.files import write_json, write_text
from trtforge.pipeline.case import CaseResult, Request
from trtforge.pipeline.finished import Record
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


def failures(failed: Mapping[str, TrtforgeError], done: int, *, where: str) -> CasesFailed | None:
    """The error of some cases of several, which names the first; None when none failed."""
    if not failed:
        return None
    name, first = next(iter(failed.items()))
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return CasesFailed(
        f"{len(failed)} of {len(failed) + done} scans failed",
        where=where,
        why=f"{name}: {first.code} {first.what}{': ' + first.why if first.why else ''}{more}",
        next="mend or remove them, and give the same command again: what is finished is kept",
    )


def run_cohort(
    segmenter: Segmenter, wanted: Sequence[Request], out_dir: Path, *, key: Any, progress: Progress = QUIET
) -> Cohort:
    """Segment every scan into ``out_dir``, and write `summary.json` and `summary.csv`.

    ``key``: JSON-able, what decides a result beside the scan and its truth: engine, options, what is compared.
    """
    results: list[CaseResult] = []
    failed: dict[str, TrtforgeError] = {}
    with progress.task("scans", len(wanted)) as task:
        for request in wanted:
            task.note(request.name)
            try:
                results.append(_one(segmenter, request, out_dir, key, progress))
            except (TrtforgeError, OSError) as error:
                failed[request.name] = as_error(error)
            if (problem := failed.get(request.name)) is not None:
                why = f": {problem.why}" if problem.why else ""
                progress.warn(f"{request.name}: {problem.code} {problem.what}{why}")
            task.advance()
    cohort = Cohort(tuple(results), failed)
    write_json(out_dir / "summary.json", cohort.to_json())
    write_text(out_dir / "summary.csv", _csv(cohort))
    return cohort


def _one(segmenter: Segmenter, request: Request, out_dir: Path, key: Any, progress: Progress) -> CaseResult:
    for path in (request.scan, request.truth):
        if path is not None and not path.exists():
            raise VolumeMissing("there is no such file or folder", where=str(path), next=f"look: ls {path.parent}")
    digest = _digest(request.scan)
    decided = digest_json([key, digest, _digest(request.truth), sorted(request.outputs())])
    record = Record(out_dir / f"{request.name}.json", decided, request.outputs())
    if (earlier := record.earlier(lambda value, _: CaseResult.from_json(value))) is not None:
        progress.log(f"{request.name}: finished earlier")
        return replace(earlier, outputs=request.outputs(), scan=request.scan)
    record.clear()
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
        table.writerow({"case": name, "error": f"{error.code} {error.what}"})
    return text.getvalue()
