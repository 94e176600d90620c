"""What the compiler's process said, made into an answer: a finished plan's facts, or the error that fits."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trtforge.backends.nvidia.messages import Folded, Folder, Meaning, explain
from trtforge.backends.nvidia.options import Options
from trtforge.errors.backend import (
    CompilerDied,
    CompilerRefused,
    CompilerTimeout,
    ParserRefused,
    SmNotSupported,
)
from trtforge.errors.base import TrtforgeError
from trtforge.errors.environment import MissingPackage
from trtforge.errors.native import NativeCalibrationFailed, NotOffered, TimingCacheMiss
from trtforge.progress import Task

TIMEOUT_VARIABLE = "TRTFORGE_BUILD_TIMEOUT"
LAST_LINES = 12


@dataclass(frozen=True)
class Compiler:
    """``module``: what its process imports. ``name`` and ``install``: for a person. ``environment``: of the process."""

    module: Literal["tensorrt", "tensorrt_rtx"]
    name: str
    install: str
    environment: Mapping[str, str]


@dataclass(frozen=True)
class CompileJob:
    """``onnx`` is compiled into ``plan``. ``plugins``: names of ours that the graph has."""

    compiler: Compiler
    onnx: Path
    plan: Path
    options: Options
    label: str
    plugins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compiled:
    """What the compiler said. ``inputs`` and ``outputs``: name, shape, dtype in the compiler's spelling ("HALF").

    ``placement``: of each layer on a DLA's build, name, kind, can it be there. ``calibration``: where the ranges came
    from. ``engine``: the finished engine read back; see `trtforge.backends.nvidia.readback`.
    """

    version: str
    parse_seconds: float
    build_seconds: float
    inputs: Sequence[Mapping[str, Any]]
    outputs: Sequence[Mapping[str, Any]]
    warnings: Sequence[Folded]
    placement: Sequence[Mapping[str, Any]] = ()
    calibration: Mapping[str, Any] | None = None
    engine: Mapping[str, Any] | None = None


class Conversation:
    """What the compiler has said so far."""

    def __init__(self, job: CompileJob, task: Task) -> None:
        self.job = job
        self.folder = Folder()
        self.done: dict[str, Any] | None = None
        self.phases: list[str] = []
        self._task = task
        self._failed: dict[str, Any] | None = None
        self._errors: list[str] = []
        self._last: deque[str] = deque(maxlen=LAST_LINES)

    @property
    def phase(self) -> str:
        return self.phases[-1] if self.phases else "starting"

    def hear(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "log":
            self._log(event["severity"], event["message"])
        elif kind == "phase":
            self.phases.append(event["name"])
            self._task.note(event["name"])
        elif kind == "phase_end":
            if event["name"] in self.phases:
                self.phases.remove(event["name"])
            self._task.note(self.phase if self.phases else "finishing")
        elif kind == "step":
            self._task.advance()
        elif kind == "failed":
            self._failed = event
        elif kind == "done":
            self.done = event

    def _log(self, severity: str, message: str) -> None:
        self._last.append(message)
        if severity == "WARNING":
            self.folder.add(message)
        elif severity in ("ERROR", "INTERNAL_ERROR"):
            self._errors.append(message)

    def compiled(self) -> Compiled:
        assert self.done is not None
        facts = {name: value for name, value in self.done.items() if name not in ("event", "seconds")}
        return Compiled(**facts, warnings=self.folder.warnings)

    def timed_out(self, timeout: float) -> CompilerTimeout:
        return CompilerTimeout(
            f"the {self.job.compiler.name} compiler did not finish within {timeout:g} s and was ended",
            where=f"{self.job.label}, while {self.phase!r}",
            why=f"the limit is {TIMEOUT_VARIABLE}, {timeout:g} s",
            next=f"export {TIMEOUT_VARIABLE}={2 * timeout:g}",
        )

    def failure(self, code: int, printed: list[str]) -> TrtforgeError:
        """The error that fits what was heard, and how the process ended."""
        job, name = self.job, self.job.compiler.name
        if self._failed is None:
            return CompilerDied(
                f"the {name} compiler ended by {_ending(code)} while {self.phase!r}",
                where=job.label,
                why=" | ".join([*self._last, *printed][-LAST_LINES:]) or "it wrote nothing before",
                next=_after_death(code),
            )
        stage, message = self._failed["stage"], self._failed["message"]
        if stage == "import":
            return MissingPackage(f"{name} cannot be imported", why=message, next=job.compiler.install)
        if stage == "parse":
            return self._parser_refused(self._failed["problems"])
        if stage == "options":
            return self._not_offered(message)
        if stage == "calibrate":
            return NativeCalibrationFailed(
                "the calibration on the device did not come to its end",
                where=job.label,
                why=" | ".join((message, *self._errors)),
                next="mend or drop the sample, or calibrate on a CPU: trtforge calibrate RECIPE",
            )
        return self._refused(stage, message)

    def _refused(self, stage: str, message: str) -> TrtforgeError:
        job, name = self.job, self.job.compiler.name
        words = " | ".join(self._errors) or "the compiler gave no reason"
        if stage == "timing" or (job.options.timing_locked and "errorOnMiss" in words):  # as TensorRT's log has it
            return TimingCacheMiss(
                f"{name} cannot build by the pinned kernel times alone",
                where=job.label,
                why=message or f"it wants a kernel that is not in the timing cache (compiler: {words})",
                next="build on the GPU and TensorRT that the lock names; or without --locked, to measure and pin anew",
            )
        return CompilerRefused(
            f"{name} could not compile the graph",
            where=f"{job.label}, while {self.phase!r}",
            why=_in_plain_words(words),
            next=_next(words, "take the named node out of the graph by surgery, or name it in `quantize.skip`"),
        )

    def _not_offered(self, message: str) -> TrtforgeError:
        job, asked = self.job, self.job.options.compute_capabilities
        if "ComputeCapability" in message:
            return SmNotSupported(
                f"{job.compiler.name} does not compile for {', '.join(asked)}",
                why=message,
                next="choose another target: trtforge targets",
            )
        return NotOffered(
            f"{job.compiler.name} cannot build what the recipe asks for",
            where=job.label,
            why=message,
            next="change the recipe, or build where it can be done; `trtforge doctor` shows what is here",
        )

    def _parser_refused(self, problems: Sequence[Mapping[str, Any]]) -> ParserRefused:
        named = [problem for problem in problems if problem["node"] or problem["operator"]]
        where = ", ".join(dict.fromkeys(f"node {problem['node']!r} ({problem['operator']})" for problem in named))
        words = " | ".join(dict.fromkeys(problem["message"] for problem in problems)) or " | ".join(self._errors)
        return ParserRefused(
            f"{self.job.compiler.name} does not accept the ONNX graph",
            where=where,
            why=_in_plain_words(words or "the parser gave no reason"),
            next=_next(words, "rewrite the named node by surgery: trtforge surgery --list"),
        )


def _in_plain_words(words: str) -> str:
    meaning = explain(words)
    return f"{meaning.says} (compiler: {words})" if meaning else f"compiler: {words}"


def _next(words: str, otherwise: str) -> str:
    return (explain(words) or Meaning("", otherwise)).next


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _after_death(code: int) -> str:
    if code == -signal.SIGKILL:
        return "look for the memory killer (dmesg | tail); compile on a machine with more memory"
    return "see the last lines above; `trtforge surgery RECIPE --out graph.onnx` writes the graph to report it with"
