"""Build an engine on a device: its kit goes there, is finished there, and the engine comes back.

Every step can be repeated, so a lost connection costs a reconnect; where that fails too, the same command goes on
later: a kit copied in part is continued, work that goes on is attached to, a finished engine is only fetched.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from trtforge import __version__
from trtforge.backends.base import Availability
from trtforge.cache import cache_dir
from trtforge.device.events import Replay
from trtforge.device.fetch import DAMAGED, Gone, check, fetch, odd
from trtforge.device.link import Link
from trtforge.digest import sha256_file
from trtforge.engines.kit import SUFFIX, read_kit
from trtforge.engines.store import EngineVersion
from trtforge.errors.base import TrtforgeError
from trtforge.errors.device import ConnectionLost, DeviceFailed, FarDiffers, HostUnreachable
from trtforge.memory import human_bytes
from trtforge.pipeline.build import NO_WISH, KitWish, Outcome, build, newest, republished
from trtforge.pipeline.finish import DecidedJob, check_device, decided
from trtforge.pipeline.job import Job
from trtforge.pipeline.workdir import workdir
from trtforge.progress import QUIET, Progress

WAITS_S = (1, 2, 5, 10, 20, 30)
"""Between attempts to connect again; after the last one it is given up."""

T = TypeVar("T")


def build_on(
    job: Job, link: Link, *, force: bool = False, kit: KitWish = NO_WISH, progress: Progress = QUIET
) -> Outcome:
    """Build the engine of a job on the device, and publish it in the store here.

    Nothing is compiled when the store has the engine that this device, with the tools it has, makes of the job.
    Raises DEV101-DEV110, what `build` raises before compiling, and what `finish` raises there.
    """
    started = time.monotonic()
    there = _greet(job, link, progress)
    final = DecidedJob(
        job.name,
        job.engine,
        job.recipe,
        job.target,
        job.backend,
        job.model,
        job.store_root,
        decided=decided(job.key_inputs, there["tools"]),
    )
    if not force and (found := newest(final, started)):
        _remember(job)
        return found
    # Kept until the engine is here: the same file names the same work there.
    path = cache_dir() / "kits" / f"{job.key}{SUFFIX}"
    with workdir() as folder:
        written = _held(job, replace(kit, wanted=True, path=path), folder / "held", progress)
        with final.store.build_lock(final.name, progress=progress):
            if not force and (found := newest(final, started) or republished(final, started, progress)):
                _remember(job)
                return found
            outcome = _on_device(final, written, link, there, folder, force, started, progress)
        path.unlink(missing_ok=True)
    return outcome


def _held(job: Job, kit: KitWish, name: Path, progress: Progress) -> Outcome:
    """The kit, under a name of this command's own: another one for the same engine may remove the other name."""
    while True:
        written = build(job, kit=kit, progress=progress)
        try:
            os.link(written.path, name)
        except FileNotFoundError:
            continue
        except OSError:  # a file system without links
            shutil.copyfile(written.path, name)
        return replace(written, path=name)


def _greet(job: Job, link: Link, progress: Progress) -> dict[str, Any]:
    """What the device says of itself; it has this trtforge, and can compile the job. Raises DEV106, KIT101, ENG136."""
    there: dict[str, Any] = _persist(link, lambda: link.call("hello", job.backend.name), progress)
    where = f"{link.name}: {link.address.program}"
    try:
        version, availability = there["trtforge"], Availability(**there["availability"])
        sm, tools = there["sm"], dict(there["tools"])
    except (KeyError, TypeError) as error:
        raise odd(link, f"its greeting lacks {error}") from error
    if version != __version__ or "trtforge" not in tools:
        raise FarDiffers(
            "the device has another trtforge",
            where=where,
            why=f"there it is {version}, here {__version__}",
            next=f"install the same on both; on the device: pip install trtforge=={__version__}",
        )
    check_device(job, availability, sm, where=where)
    return there


def _on_device(
    job: Job,
    kit: Outcome,
    link: Link,
    there: dict[str, Any],
    folder: Path,
    force: bool,
    started: float,
    progress: Progress,
) -> Outcome:
    name = sha256_file(kit.path)
    _push(name, kit.path, link, force, progress)
    try:
        version = _made(name, kit.path, job, link, folder, progress)
        manifest = version.manifest
        names = sorted(manifest.files, key=lambda file: file != manifest.engine_file)
        files = {file: version.path / file for file in names}
        published = job.store.publish(job.name, files, manifest, progress=progress)
    except TrtforgeError as error:
        if link.says(error):  # whatever else failed, the next call wants what is there
            _clean(name, link, progress)
        raise
    _clean(name, link, progress)
    _remember(job)
    made_by = f"compiled on {link.name} by {job.backend.name} {there['availability']['version']}".rstrip()
    facts = [line for line in kit.facts if not line.startswith("parity:")] + [made_by, *_verdict(published)]
    seconds = time.monotonic() - started
    return Outcome(job, "built", published.path, published.version, seconds, "", published.manifest.parity, facts)


def _made(name: str, kit: Path, job: Job, link: Link, folder: Path, progress: Progress) -> EngineVersion:
    """Let the engine be made there, and bring it here; again, where another command that wanted the same took it."""
    while True:
        try:
            _work(name, link, progress)
            return _bring(name, job, link, folder, progress)
        except Gone:  # each time one command is done, so this ends
            progress.log(f"{link.name}: another command took the engine and removed it there; making it again")
            _push(name, kit, link, False, progress)


def _push(name: str, kit: Path, link: Link, force: bool, progress: Progress) -> None:
    """Bring the kit there, as far as it is not. Raises DEV107, DEV110."""
    info = read_kit(kit).info
    # Beside the kit: unpacked, as an engine in work, and published. None of them is much larger than the members.
    needs = kit.stat().st_size + 3 * info.size
    if force:
        _clean(name, link, progress)
    state: dict[str, Any] = {}

    def push() -> bool:
        state.update(link.call("state", name, str(needs)))
        if state["phase"] == "failed":  # what was wrong may have been mended since
            progress.log(f"{link.name}: the last attempt failed; beginning anew")
            link.call("clean", name)
            state.update(link.call("state", name, str(needs)))
        if state["phase"] not in ("new", "partial"):
            return True
        with kit.open("rb") as data:
            data.seek(min(state["have"], kit.stat().st_size))
            progress.log(f"{link.name}: copying the kit there, {human_bytes(kit.stat().st_size - data.tell())}")
            words = ("receive", name, str(data.tell()), str(kit.stat().st_size))
            return bool(link.call(*words, data=data, progress=progress)["whole"])

    # A kit that arrived changed was thrown away there, and goes once more from its beginning.
    if not _persist(link, push, progress) and not _persist(link, push, progress):
        raise odd(link, "the kit arrives changed")
    if state["phase"] in ("running", "ended"):
        said = {"running": "attached to the work that goes on", "ended": "finished"}
        progress.log(f"{link.name}: {said[state['phase']]}")


def _work(name: str, link: Link, progress: Progress) -> None:
    """Let it be finished, and show how it goes. Raises the far side's error, DEV109, Gone."""
    ended: dict[str, Any] = {}
    for _ in range(2):  # a process that died is started again once
        _persist(link, lambda: link.call("start", name), progress)
        ended = _follow(name, link, progress)
        if "gone" in ended:
            raise Gone
        if "died" not in ended:
            return
        progress.warn(f"{link.name}: the process died")
    _clean(name, link, progress)
    raise DeviceFailed(
        "the work on the device died twice",
        where=link.name,
        why=ended["died"] or "its log is empty: the system ended it, perhaps because memory ran out (dmesg there)",
        next="free memory there, or finish the kit by hand: trtforge finish KIT",
    )


def _follow(name: str, link: Link, progress: Progress) -> dict[str, Any]:
    """Show events until the end, over as many connections as it takes."""
    at, patience = 0, _Patience(link, progress)
    with Replay(link.name, progress) as replay:
        while True:
            try:
                with link.events("follow", name, str(at)) as events:
                    for said in events:
                        patience.restore()
                        at = int(said.get("at", at))
                        if "event" in said:
                            replay.show(said["event"])
                        if "end" in said:
                            return _ended(said["end"], link)
            except ConnectionLost as error:
                patience.lose(error)
            except KeyboardInterrupt:
                progress.warn(f"{link.name}: the work there goes on; the same command attaches to it")
                raise


def _ended(value: dict[str, Any], link: Link) -> dict[str, Any]:
    if "error" in value:
        raise link.told(value["error"])
    return value


def _bring(name: str, job: Job, link: Link, folder: Path, progress: Progress) -> EngineVersion:
    """The engine, here and whole; brought a second time when it came damaged. Raises what `fetch` and `check` do."""

    def bring() -> EngineVersion:
        version = _persist(link, lambda: fetch(name, job, link, folder, progress), progress)
        check(version, job, link)
        return version

    try:
        return bring()
    except DAMAGED as error:
        if link.says(error):
            raise
        progress.warn(f"{link.name}: the engine came damaged, fetching it once more: {error.what}")
    try:
        return bring()
    except DAMAGED as error:
        if not link.says(error):
            progress.warn(f"{link.name}: the engine stays there; `--force` makes it anew")
        raise


def _clean(name: str, link: Link, progress: Progress) -> None:
    """Remove the job there. A device that cannot be reached now forgets it in a week."""
    try:
        if link.call("clean", name) == {"phase": "running"}:
            progress.warn(f"{link.name}: its work folder stays, for work in it goes on")
    except TrtforgeError as error:
        progress.warn(f"{link.name}: its work folder was not removed: {error.what}")


def _persist(link: Link, step: Callable[[], T], progress: Progress) -> T:
    """Repeat a step over new connections until it is through. Raises ConnectionLost (DEV108)."""
    patience = _Patience(link, progress)
    while True:
        try:
            return step()
        except ConnectionLost as error:
            patience.lose(error)


class _Patience:
    """Connecting again, with longer and longer waits, until it is given up."""

    def __init__(self, link: Link, progress: Progress) -> None:
        self._link, self._progress = link, progress
        self._waits = iter(WAITS_S)

    def restore(self) -> None:
        """Something came through: begin with short waits again."""
        self._waits = iter(WAITS_S)

    def lose(self, error: TrtforgeError) -> None:
        """Wait, and connect again. Raises ConnectionLost when the last attempt failed, and errors that stay."""
        for wait in self._waits:
            self._progress.warn(f"{error.what}; connecting again in {wait} s")
            time.sleep(wait)
            try:
                self._link.connect()
                return
            except (ConnectionLost, HostUnreachable) as again:
                error = again
        raise ConnectionLost(
            f"the connection to {self._link.name} was lost, and could not be made again",
            where=self._link.name,
            why=error.why,
            next="give the same command again when the device can be reached: what goes on there is attached to",
        ) from error


def _verdict(version: EngineVersion) -> list[str]:
    if (parity := version.manifest.parity) is None:
        return []
    bound = f"{parity['metric']} {parity['value']:.6f}, bound {parity['at_least']:g}"
    return [f"parity: {bound}; {parity['measured_on']}"]


def _remember(job: Job) -> None:
    from trtforge.pipeline import reference

    reference.remember(job)
