"""Running the compiler's process: its events become progress, a log and an answer, its failures errors."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trtforge.backends.tensorrt_rtx_ import environment
from trtforge.backends.tensorrt_rtx_.messages import Folded, Folder, Meaning, explain
from trtforge.errors.backend import (
    BadBuildTimeout,
    CompilerDied,
    CompilerRefused,
    CompilerTimeout,
    ParserRefused,
    SmNotSupported,
)
from trtforge.errors.base import TrtforgeError
from trtforge.errors.environment import MissingPackage
from trtforge.progress import Progress, Task

TIMEOUT_VARIABLE = "TRTFORGE_BUILD_TIMEOUT"
DEFAULT_TIMEOUT = 3600.0  # seconds; the largest model tried, BERT-large in FP32, took 11 s on two cores
_LAST_LINES = 12
_CHILD = "trtforge.backends.tensorrt_rtx_.child"


@dataclass(frozen=True)
class CompileJob:
    """``onnx`` is compiled into ``plan`` for ``compute_capabilities`` ("SM80"). ``workspace`` in bytes.

    ``plugins``: names of ours that the graph has.
    """

    onnx: Path
    plan: Path
    compute_capabilities: tuple[str, ...]
    workspace: int
    label: str
    plugins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compiled:
    """What the compiler said. ``inputs`` and ``outputs``: name, shape, dtype in the compiler's spelling ("HALF")."""

    version: str
    parse_seconds: float
    build_seconds: float
    inputs: Sequence[Mapping[str, Any]]
    outputs: Sequence[Mapping[str, Any]]
    warnings: Sequence[Folded]


def timeout_seconds() -> float:
    """The time a build may take: TRTFORGE_BUILD_TIMEOUT, or an hour. Raises BadBuildTimeout."""
    text = os.environ.get(TIMEOUT_VARIABLE, "")
    if not text:
        return DEFAULT_TIMEOUT
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise BadBuildTimeout(
            "the time limit for builds is not a positive number of seconds",
            where=f"environment variable {TIMEOUT_VARIABLE}",
            why=f"it is {text!r}",
            next=f"export {TIMEOUT_VARIABLE}=3600, or unset it",
        )
    return seconds


def run(job: CompileJob, *, timeout: float, progress: Progress) -> Compiled:
    """Compile in a process of its own, which is gone when this returns or raises.

    Args:
        timeout: seconds after which the compiler is ended.

    Raises:
        ParserRefused, CompilerRefused, SmNotSupported: the compiler's own answer.
        CompilerDied, CompilerTimeout: it gave none.
        MissingPackage: TensorRT-RTX cannot be imported there.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compiler-", dir=job.plan.parent)))
        description, printed = scratch / "job.json", scratch / "stderr"
        description.write_text(json.dumps({**asdict(job), "parent": os.getpid()}, default=str))
        stderr = stack.enter_context(printed.open("wb"))
        conversation = _Conversation(stack.enter_context(progress.task(job.label, None)))
        process, events = stack.enter_context(_process(description, stderr))
        deadline = time.monotonic() + timeout
        code = _wait(process, deadline) if _listen(events, conversation, deadline) else None
        last_words = _tail(printed)
    if conversation.done is not None:  # the plan is written; how the process ended after that does not matter
        return _compiled(conversation.done, conversation.folder.warnings)
    if code is None:
        raise _timed_out(job, timeout, conversation)
    raise conversation.failure(job, code, last_words)


@contextmanager
def _process(description: Path, stderr: Any) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The running compiler and the descriptor its events come from; leaving ends the compiler and all it started."""
    with ExitStack() as stack:
        reader, writer = os.pipe()
        stack.callback(os.close, reader)
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", _CHILD, str(description), str(writer)],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                pass_fds=(writer,),
                start_new_session=True,  # Ctrl-C reaches only us, and we end the whole group
                env=environment.child_environment(),
            )
        finally:
            os.close(writer)
        stack.callback(_end, process)
        yield process, reader


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(process: subprocess.Popen[bytes], deadline: float) -> int | None:
    try:
        return process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None


def _listen(events: int, conversation: _Conversation, deadline: float) -> bool:
    """Feed every event line to the conversation until the compiler closes its end; False when time is up."""
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(events, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if not selector.select(left):
                continue
            chunk = os.read(events, 1 << 16)
            if not chunk:
                return True
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                conversation.hear(json.loads(line))
    return False


class _Conversation:
    """What the compiler has said so far."""

    def __init__(self, task: Task) -> None:
        self.folder = Folder()
        self.done: dict[str, Any] | None = None
        self.phases: list[str] = []
        self._task = task
        self._failed: dict[str, Any] | None = None
        self._errors: list[str] = []
        self._last: deque[str] = deque(maxlen=_LAST_LINES)

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

    def failure(self, job: CompileJob, code: int, printed: list[str]) -> TrtforgeError:
        """The error that fits what was heard, and how the process ended."""
        if self._failed is None:
            return CompilerDied(
                f"the TensorRT-RTX compiler ended by {_ending(code)} while {self.phase!r}",
                where=job.label,
                why=" | ".join([*self._last, *printed][-_LAST_LINES:]) or "it wrote nothing before",
                next=_after_death(code),
            )
        stage, message = self._failed["stage"], self._failed["message"]
        if stage == "import":
            return MissingPackage(
                "TensorRT-RTX cannot be imported", why=message, next=environment.INSTALL + " --force-reinstall"
            )
        if stage == "capability":
            return SmNotSupported(
                f"TensorRT-RTX does not compile for {', '.join(job.compute_capabilities)}",
                why=message,
                next="choose another target: trtforge targets",
            )
        if stage == "parse":
            return self._parser_refused(self._failed["problems"])
        words = " | ".join(self._errors) or "the compiler gave no reason"
        return CompilerRefused(
            "TensorRT-RTX could not compile the graph",
            where=f"{job.label}, while {self.phase!r}",
            why=_in_plain_words(words),
            next=_next(words, "take the named node out of the graph by surgery, or name it in `quantize.skip`"),
        )

    def _parser_refused(self, problems: Sequence[Mapping[str, Any]]) -> ParserRefused:
        named = [problem for problem in problems if problem["node"] or problem["operator"]]
        where = ", ".join(dict.fromkeys(f"node {problem['node']!r} ({problem['operator']})" for problem in named))
        words = " | ".join(dict.fromkeys(problem["message"] for problem in problems)) or " | ".join(self._errors)
        return ParserRefused(
            "TensorRT-RTX does not accept the ONNX graph",
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


def _timed_out(job: CompileJob, timeout: float, conversation: _Conversation) -> CompilerTimeout:
    return CompilerTimeout(
        f"the TensorRT-RTX compiler did not finish within {timeout:g} s and was ended",
        where=f"{job.label}, while {conversation.phase!r}",
        why=f"the limit is {TIMEOUT_VARIABLE}, {timeout:g} s",
        next=f"export {TIMEOUT_VARIABLE}={2 * timeout:g}",
    )


def _compiled(done: Mapping[str, Any], warnings: Sequence[Folded]) -> Compiled:
    return Compiled(
        done["version"], done["parse_seconds"], done["build_seconds"], done["inputs"], done["outputs"], warnings
    )


def _tail(printed: Path) -> list[str]:
    """The last lines of what the compiler printed by itself; a process that aborts says why there."""
    with printed.open("rb") as stream:
        stream.seek(max(0, printed.stat().st_size - 8192))
        text = stream.read().decode("utf-8", "replace")
    return [line.strip() for line in text.splitlines() if line.strip()][-_LAST_LINES:]
