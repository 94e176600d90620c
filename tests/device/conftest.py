"""A real sshd on loopback, run by this user, whose far side is this trtforge with a cache of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from getpass import getuser
from pathlib import Path
from typing import Any

import pytest

import trtforge

SERVER = "/usr/sbin/sshd"
BUILD = ("build", "recipes/host.yaml", "--on")
ROOT = Path(trtforge.__file__).parent.parent

SERVER_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
"""

CLIENT_CONFIG = """\
Host *
  IdentityFile {folder}/key
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
  # What some users have for their own shells, and what must not be in the way:
  RemoteCommand cat
  RequestTTY yes
  LocalForward 1 localhost:1
"""

PROGRAM = """\
#!/bin/sh
echo "Welcome to the device"
export TRTFORGE_CACHE="{cache}" TRTFORGE_THREADS=1 PYTHONPATH="{site}:{root}"
exec "{python}" -m trtforge "$@"
"""

# Compiling is counted, and waits while there is a gate; so the tests know where the far side is.
SITE = """\
import os, time
from pathlib import Path
import trtforge.engines.key
trtforge.engines.key.source_digest = lambda: "0" * 64  # of both ends: an edit while a test runs is none of its matters
from trtforge.backends.onnxruntime_.backend import OnnxruntimeBackend
compile = OnnxruntimeBackend.compile
def counted(self, request):
    place = Path(os.environ["TRTFORGE_CACHE"]).parent
    with (place / "compiled").open("a") as stream:
        stream.write(f"{os.getpid()}\\n")
    request.progress.log("compiling")
    while (place / "gate").exists():
        time.sleep(0.02)
    return compile(self, request)
OnnxruntimeBackend.compile = counted
"""


class Device:
    """``address``: for `--on`. ``compiled``: the processes that compiled there. ``gate``: closed while it exists."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self.gate = folder / "gate"
        self.program = folder / "trtforge"
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(SITE)
        self.write_program()
        for name in ("host_key", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        shutil.copy(folder / "key.pub", folder / "authorized_keys")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (folder / "sshd_config").write_text(SERVER_CONFIG.format(port=self.port, folder=folder))
        (folder / "ssh_config").write_text(CLIENT_CONFIG.format(folder=folder))
        self.trust()
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"ssh://{getuser()}@127.0.0.1:{self.port}{self.program}"

    @property
    def compiled(self) -> list[int]:
        path = self.folder / "compiled"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    @property
    def jobs(self) -> list[Path]:
        return [path for path in (self.cache / "device").glob("*") if path.is_dir()]

    def write_program(self, text: str = PROGRAM) -> None:
        site = self.folder / "site"
        said = text.format(cache=self.cache, site=site, root=ROOT, python=sys.executable)
        self.program.write_text(said)
        self.program.chmod(0o755)

    def trust(self, key: str | None = None) -> None:
        """Make the server's key, or another, the known one."""
        key = key or (self.folder / "host_key.pub").read_text()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {key}")

    def start(self) -> None:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        log = (self.folder / "sshd.log").open("ab")
        command = [SERVER, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        self._server = subprocess.Popen(command, stderr=log)
        log.close()
        wait(self.answers, "the server answers")

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """End the server and every connection; what runs in sessions of its own goes on."""
        if self._server is None:
            return
        self.drop()
        self._server.terminate()
        self._server.wait()
        self.drop()
        self._server = None

    def drop(self) -> int:
        """Kill the processes that serve connections, as a cut cable would end them; how many there were."""
        assert self._server is not None
        children = children_of(self._server.pid)
        for pid in children:
            for served in [*children_of(pid), pid]:
                kill(served)
        return len(children)


def error(workshop, *arguments: Any) -> dict[str, Any]:
    """The error that a command ends with; nothing was published."""
    done = workshop.forge(*arguments, "--json")
    assert done.code not in (0, 1), done.err
    assert not (workshop.store / "net").exists()
    found: dict[str, Any] = done.json["error"]
    assert found["what"] and found["where"] and found["why"] and found["next"], found
    return found


def children_of(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        return [int(word) for word in path.read_text().split()]
    except OSError:
        return []


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def wait(condition, what: str, seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"in {seconds} s it was not so that {what}"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def openssh() -> None:
    for program in (SERVER, "ssh", "ssh-keygen"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (Debian: openssh-server, openssh-client)")


@pytest.fixture
def device(openssh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    folder = tmp_path / "device"
    folder.mkdir()
    made = Device(folder)
    monkeypatch.setenv("TRTFORGE_SSH", f"ssh -F {folder / 'ssh_config'}")
    monkeypatch.setattr("trtforge.device.build.WAITS_S", (0.2, 0.2, 0.2))
    for module in ("trtforge.pipeline.job", "trtforge.pipeline.finish"):
        monkeypatch.setattr(f"{module}.source_digest", lambda: "0" * 64)
    made.start()
    yield made
    made.gate.unlink(missing_ok=True)
    made.stop()
    for pid in made.compiled:
        wait(lambda pid=pid: not Path(f"/proc/{pid}").exists() or zombie(pid), f"the process {pid} has ended")


def zombie(pid: int) -> bool:
    try:
        return ") Z" in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
