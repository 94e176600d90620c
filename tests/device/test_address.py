from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from trtforge.device.address import Address, Known, parse
from trtforge.errors.usage import BadAddress


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ssh://orin", Address("orin")),
        ("ssh://nvidia@orin.lan:2222/", Address("orin.lan", "nvidia", 2222)),
        ("ssh://me@10.0.0.7/opt/forge/bin/trtforge", Address("10.0.0.7", "me", None, "/opt/forge/bin/trtforge")),
        ("ssh://orin/~/venv/bin/trtforge", Address("orin", None, None, "~/venv/bin/trtforge")),
        ("ssh://orin/~/my%20env/bin/trtforge", Address("orin", None, None, "~/'my env/bin/trtforge'")),
        ("ssh://orin/opt/$(reboot)/x", Address("orin", None, None, "'/opt/$(reboot)/x'")),
        ("ssh://[fe80::1]:22", Address("fe80::1", None, 22)),
        ("ssh://MyOrin", Address("MyOrin")),  # a name of ~/.ssh/config, which tells it from myorin
        ("ssh://me@MyOrin.lan:2222/x", Address("MyOrin.lan", "me", 2222, "/x")),
        ("ssh://me%40corp.lan@orin", Address("orin", "me@corp.lan")),  # names of a directory
        ("ssh://CORP%5Cme@orin:22", Address("orin", "CORP\\me", 22)),
        ("ssh://first+last@orin", Address("orin", "first+last")),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "orin",
        "user@orin",
        "http://orin",
        "ssh://",
        "ssh://-oProxyCommand=reboot",
        "ssh://-l@orin",
        "ssh://user:secret@orin",
        "ssh://orin:port",
        "ssh://orin:99999",
        "ssh://orin/path?x=1",
        "ssh://or;in",
        "ssh://-oProxyCommand%3Dreboot@orin",
        "ssh://me%3Breboot@orin",
        "ssh://me%24(reboot)@orin",
        "ssh://%20@orin",
        "ssh://@orin",
        "ssh://me%5C@orin",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(BadAddress) as caught:
        parse(text)
    assert caught.value.why and "ssh://USER@HOST" in caught.value.next


def test_how_openssh_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRTFORGE_SSH", raising=False)
    address = parse("ssh://me@orin:2222")
    assert address.destination == ["-p", "2222", "--", "me@orin"]
    assert (address.typed, str(address)) == ("ssh -p 2222 me@orin", "orin:2222")
    monkeypatch.setenv("TRTFORGE_SSH", "ssh -F 'my config'")
    assert address.typed == "ssh -F 'my config' -p 2222 me@orin"


@pytest.mark.parametrize(
    "text",
    ["ssh://orin", "ssh://me@orin:2222", "ssh://me%40corp.lan@orin", "ssh://[fe80::1]:22", "ssh://CORP%5Cme@orin"],
)
def test_another_program_on_the_same_device(text: str) -> None:
    address = parse(text)
    assert address.to("/~/venv/bin/trtforge") == f"{text}/~/venv/bin/trtforge"
    assert parse(address.to("/~/venv/bin/trtforge")) == replace(address, program="~/venv/bin/trtforge")


@pytest.mark.parametrize(
    ("lines", "known"),
    [
        ("HostName 10.0.0.7\nPort 2200", Known("10.0.0.7", "2200", "[10.0.0.7]:2200", "/k", True)),
        ("HostName 10.0.0.7", Known("10.0.0.7", "22", "10.0.0.7", "/k", True)),
        ("Port 2200\nHostKeyAlias orin-7", Known("orin", "2200", "orin-7", "/k", False)),
        ("ProxyJump gate", Known("orin", "22", "orin", "/k", False)),
    ],
)
def test_how_a_configuration_knows_it(
    lines: str, known: Known, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("ssh") is None:
        pytest.skip("ssh is not installed")
    (tmp_path / "config").write_text(f"Host orin\n{lines}\nUserKnownHostsFile /k\n")
    monkeypatch.setenv("TRTFORGE_SSH", f"ssh -F {tmp_path / 'config'}")
    assert parse("ssh://orin").known() == known
    monkeypatch.setenv("TRTFORGE_SSH", "no-such-ssh")
    assert parse("ssh://orin:22").known() == Known("orin", "22", "orin", "~/.ssh/known_hosts", True)
