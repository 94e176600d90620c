"""`trtforge build --on` against a real sshd on loopback: what it brings back, and everything that can go wrong."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
from getpass import getuser
from pathlib import Path
from typing import Any

import pytest

from tests.device.conftest import BUILD, PROGRAM, Device, error
from tests.pipeline.test_finish import manifest, without_times
from trtforge.device.address import parse
from trtforge.device.link import Link

pytestmark = pytest.mark.sshd


def test_the_engine_comes_back_as_a_build_here_would_make_it(workshop, device: Device) -> None:
    done = workshop.forge(*BUILD, device.address, "--json")
    assert done.code == 0, done.err
    (row,) = done.json["engines"]
    assert (row["status"], row["version"]) == ("built", 1)
    assert f"127.0.0.1:{device.port}: compiling" in done.err  # progress of the far side
    stages = ("connecting", "packing the kit", "copying the kit there")
    stages += ("made by onnxruntime", "copying the engine here")
    places = [done.err.find(stage) for stage in stages]
    assert places == sorted(places) and places[0] >= 0, done.err  # a line for each, where no terminal shows bars
    assert len(device.compiled) == 1 and device.jobs == []
    assert list((workshop.cache / "kits").iterdir()) == []
    finished = manifest(workshop.store)
    shutil.move(workshop.store / "net", workshop.root / "aside")
    workshop.build()
    direct = manifest(workshop.store, version=2)
    assert row["key"] == direct["key"]
    assert without_times(finished) == without_times(direct) | {"version": 1}
    assert finished["parity"]["measured_on"] == "the machine that built it, by the engine itself"


def test_a_second_time_nothing_is_compiled(workshop, device: Device) -> None:
    assert workshop.forge(*BUILD, device.address).code == 0
    again = workshop.forge(*BUILD, device.address)
    assert (again.code, again.out) == (0, "engines/host/net/1: up to date, nothing to do\n")
    forced = workshop.forge(*BUILD, device.address, "--force")
    assert "engines/host/net/2: built" in forced.out
    assert len(device.compiled) == 2 and device.jobs == []
    assert workshop.forge("run", "host/net", "data/held.yaml").code == 0


def test_a_kit_is_signed_where_the_device_wants_it(workshop, device: Device) -> None:
    pytest.importorskip("cryptography", reason="extra `sign`")
    from tests.engines.test_signature import pem_pair

    private, public = pem_pair(workshop.root)
    device.write_program(PROGRAM.replace("export ", f'export TRTFORGE_REQUIRE_SIGNATURE="{public}" '))
    found = error(workshop, *BUILD, device.address)
    assert (found["code"], found["where"].partition(":")[0]) == ("ENG134", "127.0.0.1")
    assert "the same command with --sign PRIVATE_KEY" in found["next"]
    assert device.jobs == []
    assert workshop.forge(*BUILD, device.address, "--sign", str(private)).code == 0


# -- host keys and logins ----------------------------------------------------------------------------------


def test_an_unknown_host_is_refused_with_the_way_to_know_it(workshop, device: Device) -> None:
    (device.folder / "known_hosts").unlink()
    found = error(workshop, *BUILD, device.address)
    assert found["code"] == "DEV101"
    login = f"ssh -F {device.folder / 'ssh_config'} -p {device.port} {getuser()}@127.0.0.1"
    assert found["next"].startswith(f"log in once and compare the fingerprint: {login}\n")
    known = device.folder / "known_hosts"
    assert f"ssh-keyscan -p {device.port} 127.0.0.1 > key" in found["next"]
    assert found["next"].endswith(f"cat key >> {known}") and found["where"] == str(known)
    assert not (device.folder / "known_hosts").exists()  # and nothing was learnt behind the user's back
    assert device.compiled == []


def test_a_changed_host_key_is_refused(workshop, device: Device) -> None:
    device.trust((device.folder / "key.pub").read_text())
    found = error(workshop, *BUILD, device.address)
    assert found["code"] == "DEV102"
    assert "SHA256:" in found["why"]
    command = found["next"].partition(" anew: ")[2]
    subprocess.run(shlex.split(command), check=True)
    assert error(workshop, *BUILD, device.address)["code"] == "DEV101"  # the old key is gone


def test_a_login_that_is_refused(workshop, device: Device) -> None:
    (device.folder / "authorized_keys").write_text("")
    assert error(workshop, *BUILD, device.address)["code"] == "DEV103"


def test_a_host_that_is_not_there(workshop, device: Device) -> None:
    device.stop()
    found = error(workshop, *BUILD, device.address)
    assert found["code"] == "DEV104" and "Connection refused" in found["why"]


def test_without_a_client(workshop, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTFORGE_SSH", "no-such-ssh -v")
    assert error(workshop, *BUILD, device.address)["code"] == "DEV111"


def test_no_option_touches_the_check_of_host_keys(workshop, device: Device, monkeypatch) -> None:
    """Every command line that is run, and what OpenSSH makes of it: the same as without trtforge."""
    seen: list[list[str]] = []
    popen = subprocess.Popen

    def watched(command: list[str], *args: Any, **named: Any) -> Any:
        if Path(command[0]).name == "ssh":
            seen.append(command)
        return popen(command, *args, **named)

    monkeypatch.setattr("trtforge.device.link.subprocess.Popen", watched)
    assert workshop.forge(*BUILD, device.address).code == 0
    commands = list(seen)
    assert len(commands) > 4
    assert not [
        word for command in commands for word in command if "hostkey" in word.lower() or "known" in word.lower()
    ]

    def effective(command: list[str]) -> set[str]:
        told = subprocess.run([command[0], "-G", *command[1:]], capture_output=True, text=True, check=True).stdout
        words = ("stricthostkeychecking", "userknownhostsfile", "globalknownhostsfile", "checkhostip", "verifyhostkey")
        return {line for line in told.splitlines() if line.startswith(words)}

    plain = ["ssh", "-F", str(device.folder / "ssh_config"), "127.0.0.1"]
    assert all(effective(command[: command.index("--") + 2]) == effective(plain) for command in commands)


# -- the far side ------------------------------------------------------------------------------------------


def test_trtforge_is_not_on_the_device(workshop, device: Device) -> None:
    device.program.unlink()
    found = error(workshop, *BUILD, device.address)
    assert found["code"] == "DEV105"
    assert f"--on ssh://{getuser()}@127.0.0.1:{device.port}/~/venv/bin/trtforge" in found["next"]


def test_csh_says_it_in_its_own_way(workshop, device: Device) -> None:
    device.write_program('#!/bin/sh\necho "/x/trtforge: Command not found." >&2\nexit 1\n')
    assert error(workshop, *BUILD, device.address)["code"] == "DEV105"


def test_a_greeting_without_an_end_of_line(workshop, device: Device) -> None:
    device.write_program(PROGRAM.replace('echo "Welcome', 'printf "Welcome'))
    assert workshop.forge(*BUILD, device.address).code == 0


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (PROGRAM.replace("exec", 'sleep 0; "{python}" -c "import trtforge; trtforge.__version__ = 1"; exec'), None, ""),
        ("#!/bin/sh\necho \"Error: No such command 'far'.\" >&2; exit 2\n", "DEV106", "older"),
        ("#!/bin/sh\necho something else\n", "DEV110", ""),
        ("#!/bin/sh\necho trtforge-far/1; echo no JSON\n", "DEV110", ""),
        ("#!/bin/sh\necho trtforge-far/1; echo '{{}}'\n", "DEV110", "greeting"),
        ("#!/bin/sh\necho trtforge-far/1; exit 3\n", "DEV110", ""),
        ("#!/bin/sh\nexec yes a greeting without an end\n", "DEV110", "64 KiB"),
    ],
)
def test_programs_that_are_no_trtforge_or_another(workshop, device: Device, text: str, code: str | None, said) -> None:
    device.write_program(text)
    if code is None:
        assert workshop.forge(*BUILD, device.address).code == 0
        return
    found = error(workshop, *BUILD, device.address)
    assert found["code"] == code
    assert said in found["what"] + found["why"]


def test_another_version_on_the_device(workshop, device: Device) -> None:
    site = device.folder / "site" / "sitecustomize.py"
    site.write_text("import trtforge\ntrtforge.__version__ = '0.0.1'\n")
    found = error(workshop, *BUILD, device.address)
    assert found["code"] == "DEV106" and "0.0.1" in found["why"] and device.jobs == []


def test_an_error_there_is_the_same_error_here_and_leaves_nothing(workshop, device: Device) -> None:
    site = device.folder / "site" / "sitecustomize.py"
    failing = "\nfrom trtforge.errors.backend import CompilerRefused\n"
    failing += (
        "def refuse(self, request):\n    raise CompilerRefused('it does not want to', where='x', why='y', next='z')\n"
    )
    site.write_text(site.read_text() + failing + "OnnxruntimeBackend.compile = refuse\n")
    found = error(workshop, *BUILD, device.address)
    assert (found["code"], found["exit_code"], found["what"]) == ("BLD204", 6, "it does not want to")
    assert found["where"] == f"127.0.0.1:{device.port}: x"
    assert device.jobs == []


def test_a_process_that_dies_is_started_once_more_and_then_told(workshop, device: Device) -> None:
    site = device.folder / "site" / "sitecustomize.py"
    dying = "\ndef die(self, request):\n    os.write(2, b'out of something\\n')\n    os.kill(os.getpid(), 9)\n"
    site.write_text(site.read_text() + dying + "OnnxruntimeBackend.compile = die\n")
    found = error(workshop, *BUILD, device.address)
    assert found["code"] == "DEV109" and "out of something" in found["why"]


def test_a_backend_that_cannot_compile_there(workshop, device: Device) -> None:
    site = device.folder / "site" / "sitecustomize.py"
    lacking = "\nfrom trtforge.backends.base import Availability\n"
    lacking += "OnnxruntimeBackend.availability = lambda self: Availability(False, False, why='it is not installed')\n"
    site.write_text(site.read_text() + lacking)
    found = error(workshop, *BUILD, device.address)
    assert found["code"] == "KIT101" and found["why"] == "it is not installed"


def test_a_bad_kit_is_refused_there(workshop, device: Device, monkeypatch) -> None:
    """What is damaged before it is sent: the far side checks for itself."""
    from trtforge.pipeline import build as module

    build = module.build

    def damaged(*args: Any, **named: Any) -> Any:
        outcome = build(*args, **named)
        data = bytearray(outcome.path.read_bytes())
        data[len(data) // 2] ^= 1
        outcome.path.write_bytes(data)
        return outcome

    monkeypatch.setattr("trtforge.device.build.build", damaged)
    monkeypatch.setattr("trtforge.device.build.read_kit", lambda path: _Sized())
    found = error(workshop, *BUILD, device.address)
    assert found["code"] == "ENG131" and found["where"].startswith("127.0.0.1")
    assert device.compiled == [] and device.jobs == []


class _Sized:
    class info:
        size = 0


CHANGING = """
import shutil
copy = shutil.copyfileobj
def changed(source, target, *args):
    seen = Path(os.environ["TRTFORGE_CACHE"]).parent / "seen"
    if str(getattr(source, "name", "")).endswith(".onnx") and "device" in source.name and not (ONCE and seen.exists()):
        seen.touch()
        target.write(b"x" * os.fstat(source.fileno()).st_size)
    else:
        copy(source, target, *args)
shutil.copyfileobj = changed
"""


@pytest.mark.parametrize("once", [True, False])
def test_an_engine_that_changed_on_its_way_is_fetched_once_more(workshop, device: Device, once: bool) -> None:
    site = device.folder / "site" / "sitecustomize.py"
    before = site.read_text()
    site.write_text(before + CHANGING.replace("ONCE", str(once)))
    if not once:
        assert error(workshop, *BUILD, device.address)["code"] == "ENG111"
        assert len(device.jobs) == 1  # what failed is not known to be the device's
        site.write_text(before)
    done = workshop.forge(*BUILD, device.address)
    assert done.code == 0 and ("once more" in done.err) is once
    assert len(device.compiled) == 1 and device.jobs == []


def test_a_failure_of_this_side_leaves_the_engine_there(workshop, device: Device, monkeypatch) -> None:
    from trtforge.engines.store import Store
    from trtforge.errors.engine import StoreFull

    def full(*_: Any, **__: Any) -> Any:
        raise StoreFull("no room", where="x", why="y", next="z")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "publish", full)
        assert error(workshop, *BUILD, device.address)["what"] == "no room"
    assert len(device.jobs) == 1
    again = workshop.forge(*BUILD, device.address)
    assert again.code == 0 and "finished" in again.err
    assert len(device.compiled) == 1 and device.jobs == []


def test_each_command_connects_by_itself_where_the_socket_would_have_too_long_a_name(
    workshop, device: Device, monkeypatch
) -> None:
    folder = workshop.root / ("long" * 25)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    done = workshop.forge(*BUILD, device.address)
    assert done.code == 0, done.err
    device.stop()
    shutil.rmtree(workshop.store)
    found = error(workshop, *BUILD, device.address)
    assert (found["code"], "connecting again" in found["why"]) == ("DEV104", False)


def test_a_temporary_folder_with_a_name_that_openssh_would_expand(device: Device, monkeypatch) -> None:
    with tempfile.TemporaryDirectory(prefix="50%h ") as folder:
        monkeypatch.setattr("tempfile.tempdir", folder)
        with Link(parse(device.address)) as link:
            assert link._socket is not None
            assert link.call("hello", "onnxruntime")["trtforge"]


def test_two_options_that_contradict(workshop) -> None:
    found = workshop.forge(*BUILD, "ssh://device", "--kit", "--json")
    assert (found.code, found.json["error"]["code"]) == (2, "USE112")
