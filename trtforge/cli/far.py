"""`trtforge far`: the device's end of `trtforge build --on`. Not for people: what it prints is for that command.

An answer begins with a line of its own, behind whatever a login script printed. Errors are answers too.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trtforge.errors.base import TrtforgeError

if TYPE_CHECKING:
    from trtforge.device.far import FarJob


class Action(StrEnum):
    """`hello BACKEND`; everything else is about a job, which is named by the digest of its kit."""

    hello = "hello"
    state = "state"
    receive = "receive"
    start = "start"
    work = "work"
    follow = "follow"
    fetch = "fetch"
    clean = "clean"


def register(app: typer.Typer) -> None:
    app.command(hidden=True)(far)


def far(
    action: Annotated[Action, typer.Argument()],
    what: Annotated[str, typer.Argument(help="A backend, or a job")],
    number: Annotated[int, typer.Argument(help="Bytes needed, or where to go on")] = 0,
    total: Annotated[int, typer.Argument(help="Bytes of the kit")] = 0,
) -> None:
    """What `trtforge build --on` runs on the device."""
    from trtforge.device.far import FarJob, hello
    from trtforge.device.link import MARK
    from trtforge.errors.environment import refusal

    if action is Action.work:
        FarJob(what).work()
        return
    out = sys.stdout.buffer
    out.write(MARK)
    out.flush()
    try:
        if action is Action.hello:
            _answer(hello(what))
        elif action is Action.fetch:
            _fetch(FarJob(what))
        else:
            for value in _answers(action, FarJob(what), number, total):
                _answer(value)
    except TrtforgeError as error:
        _answer({"error": error.to_json()})
    except OSError as error:
        if isinstance(error, BrokenPipeError) or (refused := refusal(error)) is None:
            raise
        _answer({"error": refused.to_json()})


def _answers(action: Action, job: FarJob, number: int, total: int) -> Iterator[dict[str, Any]]:
    if action is Action.state:
        yield job.state(number)
    elif action is Action.receive:
        yield job.receive(number, total, sys.stdin.buffer)
    elif action is Action.start:
        yield job.start()
    elif action is Action.follow:
        yield from job.follow(number)
    elif action is Action.clean:
        yield job.clean()


def _fetch(job: FarJob) -> None:
    from trtforge.device.far import files_of
    from trtforge.device.link import GONE

    if (version := job.result()) is None:
        _answer(GONE)
        return
    header, paths = files_of(version)
    _answer(header)
    for path in paths:
        with path.open("rb") as stream:
            shutil.copyfileobj(stream, sys.stdout.buffer, 1 << 20)


def _answer(value: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(value).encode() + b"\n")
    sys.stdout.buffer.flush()
