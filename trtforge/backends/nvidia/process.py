"""Running the compiler's process: what it is given, its events heard, its end waited for."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from trtforge.backends.nvidia.answer import LAST_LINES, TIMEOUT_VARIABLE, Compiled, CompileJob, Conversation
from trtforge.backends.nvidia.samples import Batch, send
from trtforge.errors.backend import BadBuildTimeout
from trtforge.progress import Progress

DEFAULT_TIMEOUT = 3600.0  # seconds; the largest model tried, BERT-large in FP32, took 11 s on two cores
_CHILD = "trtforge.backends.nvidia.child"


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


def run(
    job: CompileJob,
    *,
    timeout: float,
    progress: Progress,
    samples: Iterable[tuple[str, Batch]] | None = None,
) -> Compiled:
    """Compile in a process of its own, which is gone when this returns or raises.

    Args:
        timeout: seconds after which the compiler is ended.
        samples: what the compiler's calibrator is fed, when the options say so: name, arrays by input.

    Raises:
        ParserRefused, CompilerRefused, SmNotSupported: the compiler's own answer.
        CompilerDied, CompilerTimeout: it gave none.
        MissingPackage: the compiler cannot be imported there.
        What ``samples`` raises, when they did.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compiler-", dir=job.plan.parent)))
        description, printed = scratch / "job.json", scratch / "stderr"
        description.write_text(json.dumps(_described(job), default=str))
        stderr = stack.enter_context(printed.open("wb"))
        conversation = Conversation(job, stack.enter_context(progress.task(job.label, None)))
        process, events = stack.enter_context(_process(job, description, stderr, samples is not None))
        feeder = _Feeder(process, samples) if samples is not None else None
        deadline = time.monotonic() + timeout
        code = _wait(process, deadline) if _listen(events, conversation, deadline) else None
        last_words = _tail(printed)
    if feeder is not None and (problem := feeder.problem()) is not None:
        raise problem  # its own words, before what the compiler made of the end of its samples
    if conversation.done is not None:  # the plan is written; how the process ended after that does not matter
        return conversation.compiled()
    if code is None:
        raise conversation.timed_out(timeout)
    raise conversation.failure(code, last_words)


class _Feeder:
    """Sends calibration samples while the compiler runs."""

    def __init__(self, process: subprocess.Popen[bytes], samples: Iterable[tuple[str, Batch]]) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._feed, args=(process, samples), daemon=True)
        self._thread.start()

    def _feed(self, process: subprocess.Popen[bytes], samples: Iterable[tuple[str, Batch]]) -> None:
        assert process.stdin is not None
        try:
            with process.stdin as stream:
                send(cast(BinaryIO, stream), samples)
        except BrokenPipeError:
            pass  # it ended, and says itself why
        except BaseException as error:
            self._error = error

    def problem(self) -> BaseException | None:
        """What kept a sample from being made. Call it when the process has ended."""
        self._thread.join(10)
        return self._error


def _described(job: CompileJob) -> dict[str, Any]:
    return {
        "module": job.compiler.module,
        "onnx": str(job.onnx),
        "plan": str(job.plan),
        "options": job.options.to_json(),
        "plugins": job.plugins,
        "parent": os.getpid(),
    }


@contextmanager
def _process(
    job: CompileJob, description: Path, stderr: Any, fed: bool
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The running compiler and the descriptor its events come from; leaving ends the compiler and all it started."""
    with ExitStack() as stack:
        reader, writer = os.pipe()
        stack.callback(os.close, reader)
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", _CHILD, str(description), str(writer), *(["0"] if fed else [])],
                stdin=subprocess.PIPE if fed else subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                pass_fds=(writer,),
                start_new_session=True,  # Ctrl-C reaches only us, and we end the whole group
                env=dict(job.compiler.environment),
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


def _listen(events: int, conversation: Conversation, deadline: float) -> bool:
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


def _tail(printed: Path) -> list[str]:
    """The last lines of what the compiler printed by itself; a process that aborts says why there."""
    with printed.open("rb") as stream:
        stream.seek(max(0, printed.stat().st_size - 8192))
        text = stream.read().decode("utf-8", "replace")
    return [line.strip() for line in text.splitlines() if line.strip()][-LAST_LINES:]
