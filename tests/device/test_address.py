from __future__ import annotations

import pytest

from trtforge.device.address import Address, parse
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
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(BadAddress) as caught:
        parse(text)
    assert caught.value.why and "ssh://USER@HOST" in caught.value.next


def test_how_openssh_gets_it() -> None:
    address = parse("ssh://me@orin:2222")
    assert address.destination == ["-p", "2222", "--", "me@orin"]
    assert (address.typed, address.known_as, str(address)) == ("ssh -p 2222 me@orin", "[orin]:2222", "orin:2222")
    assert parse("ssh://orin").known_as == "orin"
