"""Connections that are lost: made again, attached to again, or picked up where the work is done by now."""

from __future__ import annotations

import contextlib
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.device.conftest import BUILD, Device, error, wait

pytestmark = pytest.mark.sshd


class Running:
    """A command in a process of its own, whose trtforge has the source digest of the far side."""

    def __init__(self, workshop, device: Device, *arguments: str, **environment: str) -> None:
        self.process = workshop.start(*arguments, PYTHONPATH=str(device.folder / "site"), **environment)
        self.err = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.err += line

    def end(self) -> int:
        code = self.process.wait(timeout=120)
        self._reader.join()
        return code


def test_a_dropped_connection_is_made_again(workshop, device: Device) -> None:
    device.gate.touch()
    running = Running(workshop, device, *BUILD, device.address)
    wait(lambda: "compiling" in running.err, "it compiles")
    assert device.drop() >= 1
    wait(lambda: "connecting again" in running.err, "the drop was noticed")
    device.gate.unlink()
    assert running.end() == 0, running.err
    assert len(device.compiled) == 1 and device.jobs == []
    assert running.err.count("compiling") == 1  # what was shown is not shown again


def test_after_a_lost_connection_the_same_command_attaches(workshop, device: Device) -> None:
    """The device is gone for good, so the command gives up; what it started there goes on."""
    device.gate.touch()

    def cut() -> None:
        wait(lambda: device.compiled != [], "it compiles")
        device.stop()

    cutter = threading.Thread(target=cut)
    cutter.start()
    lost = error(workshop, *BUILD, device.address)
    cutter.join()
    assert lost["code"] == "DEV108" and "same command" in lost["next"]
    (worker,) = device.compiled
    assert Path(f"/proc/{worker}").exists()
    device.start()

    def open_later() -> None:
        wait(lambda: "follow" in commands_of(device), "the second command follows the work")
        device.gate.unlink()

    opener = threading.Thread(target=open_later)
    opener.start()
    again = workshop.forge(*BUILD, device.address)
    opener.join()
    assert again.code == 0, again.err
    assert "attached to the work that goes on" in again.err
    assert device.compiled == [worker] and device.jobs == []


def commands_of(device: Device) -> str:
    """What the far side runs now."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            environment = (path.parent / "environ").read_bytes()
            if b"far" in words and f"TRTFORGE_CACHE={device.cache}".encode() in environment:
                found.append(b" ".join(words).decode())
    return "\n".join(found)


FLAKY = """\
#!/bin/sh
for step in start follow fetch; do
  case "$*" in *"far $step"*)
    if [ ! -e "{folder}/lost-$step" ]; then
      touch "{folder}/lost-$step"
      echo "{said}" >&2
      exit 255
    fi
  esac
done
exec ssh -F "{folder}/ssh_config" "$@"
"""


@pytest.mark.parametrize(
    "said",
    ["Read from remote host orin: Connection timed out", "ssh: connect to host orin port 22: No route to host"],
)
def test_however_openssh_says_it(workshop, device: Device, monkeypatch, said: str) -> None:
    """Words that a device which was never reached gets too; this one had been."""
    flaky = device.folder / "flaky"
    flaky.write_text(FLAKY.format(folder=device.folder, said=said))
    flaky.chmod(0o755)
    monkeypatch.setenv("TRTFORGE_SSH", str(flaky))
    done = workshop.forge(*BUILD, device.address)
    assert done.code == 0, done.err
    assert done.err.count("connecting again") == 3 and len(device.compiled) == 1


def test_a_finished_engine_is_picked_up(workshop, device: Device) -> None:
    """The command is killed; the work there ends; the next command only fetches it."""
    device.gate.touch()
    running = Running(workshop, device, *BUILD, device.address)
    wait(lambda: "compiling" in running.err, "it compiles")
    running.process.send_signal(signal.SIGKILL)
    running.end()
    device.gate.unlink()
    (job,) = device.jobs
    wait((job / "end.json").exists, "the work has ended")
    again = workshop.forge(*BUILD, device.address)
    assert again.code == 0 and "finished" in again.err
    assert len(device.compiled) == 1 and device.jobs == []


@pytest.mark.parametrize("sound", [True, False])
def test_a_kit_copied_in_part_is_continued(workshop, device: Device, monkeypatch, sound: bool) -> None:
    """A damaged part is thrown away, and the kit sent once more from its beginning."""
    from trtforge.device.link import Link
    from trtforge.digest import sha256_file

    assert workshop.forge("build", "recipes/host.yaml", "--kit").code == 0
    kit = workshop.store / "net.kit.tar.zst"
    part = device.cache / "device" / sha256_file(kit) / "kit.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(kit.read_bytes()[:1000] if sound else b"x" * 1000)
    offsets = []
    call = Link.call

    def watched(self: Link, *words: str, **named: Any) -> Any:
        offsets.extend(words[2:3] if words[0] == "receive" else ())
        return call(self, *words, **named)

    monkeypatch.setattr(Link, "call", watched)
    done = workshop.forge(*BUILD, device.address)
    assert done.code == 0, done.err
    assert offsets == (["1000"] if sound else ["1000", "0"])
    assert device.jobs == []


def test_an_attempt_that_failed_is_made_again(workshop, device: Device, monkeypatch) -> None:
    """The connection was lost before the failed job could be removed."""
    site = device.folder / "site" / "sitecustomize.py"
    before = site.read_text()
    refuse = "\nfrom trtforge.errors.backend import CompilerRefused\n"
    refuse += "def refuse(self, request):\n    raise CompilerRefused('no', where='x', why='y', next='z')\n"
    site.write_text(before + refuse + "OnnxruntimeBackend.compile = refuse\n")
    with monkeypatch.context() as patch:
        patch.setattr("trtforge.device.build._clean", lambda *_: None)
        assert error(workshop, *BUILD, device.address)["code"] == "BLD204"
    assert len(device.jobs) == 1
    site.write_text(before)
    done = workshop.forge(*BUILD, device.address)
    assert done.code == 0 and "beginning anew" in done.err
    assert device.jobs == []
