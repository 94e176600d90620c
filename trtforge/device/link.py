"""A connection to a device, by the system's own OpenSSH client.

One `ssh` process holds the connection, and every command goes through it (`ControlMaster`), so that a passphrase is
asked for once. The user's configuration, agent, jump hosts and known hosts are OpenSSH's business; host keys are
checked as it does by itself, and no option here says otherwise.

Each command is `trtforge far ...` on the device. Its answer begins with a line of its own, so that what a login script
prints before it does no harm; then come JSON lines, or a JSON line and bytes.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

from trtforge import __version__
from trtforge.device.address import Address, client
from trtforge.device.said import connection_error, far_error
from trtforge.errors.base import TrtforgeError
from trtforge.errors.device import FarDiffers, FarMissing, HostUnreachable, NoClient, NotUnderstood
from trtforge.progress import QUIET, Progress

MARK = b"trtforge-far/1\n"
GONE = {"gone": True}
"""The answer about a job that is not there any more."""

NOISE = 64 << 10  # bytes of a login script's greetings
MAX_LINE = 64 << 20  # a manifest at most
PATIENCE_S = 60  # for a connection where nobody can type a passphrase
LONGEST_SOCKET = 90  # Linux ends a socket's path at 108 characters, and OpenSSH adds some to it

OPTIONS = (
    ("ConnectTimeout", "20"),
    ("ServerAliveInterval", "15"),  # a connection that was cut silently is noticed within a minute
    ("ServerAliveCountMax", "4"),
    # What a user's configuration may say for a shell of their own, and what would be in the way here:
    ("ClearAllForwardings", "yes"),
    ("ForwardAgent", "no"),
    ("ForwardX11", "no"),
    ("RemoteCommand", "none"),
    ("RequestTTY", "no"),
    ("ControlPersist", "no"),
)

LOST = 255
"""OpenSSH's exit code for its own failures; a command's codes are passed on."""

NOT_FOUND = (126, 127)
"""A shell's exit codes for a program that is missing, or may not be run."""


class Link:
    """An open connection; a context manager. Every method raises DEV101-DEV104, DEV108, DEV110, DEV111."""

    def __init__(self, address: Address, *, progress: Progress = QUIET) -> None:
        self.address = address
        self._progress = progress
        self._folder = Path(tempfile.mkdtemp(prefix="tf-"))  # short: sockets have short names
        self._master: subprocess.Popen[bytes] | None = None
        self._met = False
        self._told: TrtforgeError | None = None

    def __enter__(self) -> Link:
        self._progress.log(f"{self.name}: connecting")
        try:
            self.connect()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._disconnect()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def name(self) -> str:
        """The device, for messages."""
        return str(self.address)

    @property
    def _socket(self) -> Path | None:
        """Where the connection is shared; None where its path would be too long, so every command connects itself."""
        socket = self._folder / "ssh"
        return socket if len(str(socket)) <= LONGEST_SOCKET else None

    def says(self, error: TrtforgeError) -> bool:
        """Is the error one that the far side told of? Else it is of this side, or of the way."""
        return error is self._told

    def connect(self) -> None:
        """Connect, anew if need be, and wait until commands can be given."""
        self._disconnect()
        if (socket := self._socket) is None:
            return
        told = self._folder / "told"
        with told.open("wb") as stream:
            self._master = _start([*self._ssh("yes"), "-N", *self.address.destination], stream)
        started = time.monotonic()
        while self._master.poll() is None:
            # OpenSSH makes the socket once the user is in.
            if socket.exists():
                self._met = True
                return
            if not _terminal() and time.monotonic() - started > PATIENCE_S:
                raise HostUnreachable(
                    f"{self.name} did not answer in {PATIENCE_S} s",
                    where=self.name,
                    next=f"try: {self.address.typed}",
                )
            time.sleep(0.02)
        raise connection_error(self.address, _tail(told), lost=False)

    def call(self, *words: str, data: BinaryIO | None = None, progress: Progress = QUIET) -> Any:
        """Run a command of the far side; its answer. ``data``: what it is given to read, from where it stands."""
        with self._running(words, data, progress) as stream:
            return self._line(stream)

    @contextmanager
    def events(self, *words: str) -> Iterator[Iterator[Any]]:
        """Run a command of the far side; its answers as they come, which end with ConnectionLost or with itself."""
        with self._running(words) as stream:
            yield iter(lambda: self._line(stream), None)

    @contextmanager
    def content(self, *words: str) -> Iterator[tuple[Any, IO[bytes]]]:
        """Run a command of the far side; its answer, and the bytes behind it."""
        with self._running(words) as stream:
            yield self._line(stream), stream

    @contextmanager
    def _running(
        self, words: Sequence[str], data: BinaryIO | None = None, progress: Progress = QUIET
    ) -> Iterator[IO[bytes]]:
        """The output of a command, behind the mark; a connection that ends under it is ConnectionLost."""
        command = f"{self.address.program} far {shlex.join(words)}"
        told = self._folder / "told-by-command"
        with told.open("wb") as stream:
            arguments = [*self._ssh("no"), *self.address.destination, command]
            process = _start(arguments, stream, stdin=subprocess.PIPE if data else subprocess.DEVNULL, read=True)
        assert process.stdout is not None
        try:
            if data is not None:
                _feed(process, data, progress)
            if not _skip_to_mark(process.stdout):
                # Not asked how it ended: it waits for somebody to read what else it says, until it is terminated.
                raise self._not_understood(f"it says {NOISE >> 10} KiB, and none of it is an answer")
            self._met = True
            yield process.stdout
        except EOFError as error:
            raise self._ended(process, told) from error
        finally:
            process.stdout.close()
            if process.stdin is not None:
                _close(process.stdin)
            process.terminate()
            process.wait()

    def _line(self, stream: IO[bytes]) -> Any:
        """The next answer. Raises the far side's error; EOFError when there is none."""
        line = stream.readline(MAX_LINE)
        if not line.endswith(b"\n"):
            raise EOFError
        try:
            value = json.loads(line)
        except ValueError as error:
            raise self._not_understood(line[:200].decode(errors="replace")) from error
        if isinstance(value, dict) and "error" in value:
            raise self.told(value["error"])
        return value

    def told(self, error: Any) -> TrtforgeError:
        """The far side's error, as one of this side."""
        self._told = far_error(error, self.address)
        return self._told

    def _ended(self, process: subprocess.Popen[bytes], told: Path) -> TrtforgeError:
        """Why a command ended without an answer, or in the middle of it: the connection did, or it did."""
        try:
            code = process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = LOST
        said = _tail(told)
        if code == LOST:
            return connection_error(self.address, said, lost=self._met)
        if code in NOT_FOUND or "command not found" in said.lower():  # csh ends with 1
            return FarMissing(
                "trtforge is not on the device",
                where=f"{self.name}: {self.address.program}",
                why=said or "its shell does not find it",
                next=f"install it there, and name it: --on {self.address.to('/~/venv/bin/trtforge')}",
            )
        if "no such command" in said.lower():
            return FarDiffers(
                "the device has an older trtforge",
                where=f"{self.name}: {self.address.program}",
                why="it does not know how to finish kits over SSH",
                next=f"install trtforge {__version__} there, that of this machine",
            )
        return self._not_understood(said or f"the command ended with code {code}, and its answer is not whole")

    def _not_understood(self, why: str) -> NotUnderstood:
        return NotUnderstood(
            "the device gave an answer that is none of trtforge",
            where=f"{self.name}: {self.address.program}",
            why=why,
            next="check the path in the address: it must lead to the device's trtforge",
        )

    def _ssh(self, master: str) -> list[str]:
        options = [*OPTIONS, ("ControlMaster", master), ("BatchMode", "no" if _terminal() else "yes")]
        words = [word for name, value in options for word in ("-o", f"{name}={value}")]
        socket = str(self._socket or "none").replace("%", "%%")  # which OpenSSH would put something in the place of
        shared = ["-o", "ControlPath=none"] if self._socket is None else ["-S", socket]
        return [*client(), "-T", *shared, *words]

    def _disconnect(self) -> None:
        if self._master is not None:
            self._master.terminate()
            self._master.wait()
            self._master = None
        (self._folder / "ssh").unlink(missing_ok=True)


def _start(
    command: list[str], told: IO[bytes], *, stdin: int = subprocess.DEVNULL, read: bool = False
) -> subprocess.Popen[bytes]:
    out = subprocess.PIPE if read else subprocess.DEVNULL
    try:
        return subprocess.Popen(command, stdin=stdin, stdout=out, stderr=told)
    except OSError as error:
        raise NoClient(
            f"{command[0]!r} cannot be run",
            where="TRTFORGE_SSH" if os.environ.get("TRTFORGE_SSH") else "PATH",
            why=error.strerror or str(error),
            next="install OpenSSH's client: sudo apt-get install openssh-client",
        ) from error


def _terminal() -> bool:
    """Can somebody be asked?"""
    return sys.stdin is not None and sys.stdin.isatty()


def _feed(process: subprocess.Popen[bytes], data: BinaryIO, progress: Progress) -> None:
    """Give a command its input, a MiB a step. Raises EOFError when the connection ends."""
    assert process.stdin is not None
    left = os.fstat(data.fileno()).st_size - data.tell()
    with progress.task("copying the kit to the device (MiB)", -(-left >> 20)) as task:
        while chunk := data.read(1 << 20):
            try:
                process.stdin.write(chunk)
            except BrokenPipeError:
                break  # why is what the command says, or that it says nothing
            task.advance()
    _close(process.stdin)


def _close(stream: IO[bytes]) -> None:
    with suppress(BrokenPipeError):
        stream.close()


def _skip_to_mark(stream: IO[bytes]) -> bool:
    """False where it does not come. Raises EOFError when the command ends before it."""
    seen = 0
    while seen < NOISE:
        if not (line := stream.readline(NOISE)):
            raise EOFError
        if line.endswith(MARK):  # behind a greeting without an end of line, too
            return True
        seen += len(line)
    return False


def _tail(path: Path) -> str:
    """The last lines that OpenSSH or the command said."""
    return "\n".join(path.read_text(errors="replace").strip().splitlines()[-20:])
