"""What OpenSSH says, and what the device says, as errors."""

from __future__ import annotations

import pytest

from trtforge.device.address import Address
from trtforge.device.said import connection_error, far_error
from trtforge.errors.backend import CompilerTimeout
from trtforge.errors.device import ConnectionLost, HostUnreachable, LoginRefused

ORIN = Address("orin")


@pytest.mark.parametrize(
    "said",
    [
        "Read from remote host orin: Connection timed out",
        "ssh: connect to host orin port 22: No route to host",
        "ssh: connect to host orin port 22: Connection refused",
        "ssh: Could not resolve hostname orin: Temporary failure in name resolution",
        "client_loop: send disconnect: Broken pipe",
        "",
    ],
)
def test_the_same_words_mean_another_thing_once_there_had_been_a_connection(said: str) -> None:
    assert isinstance(connection_error(ORIN, said, lost=True), ConnectionLost)
    assert isinstance(connection_error(ORIN, said, lost=False), HostUnreachable)


def test_a_banner_that_speaks_of_permissions_is_no_refusal() -> None:
    said = "Access without permission is prosecuted. Permission denied to all others.\nConnection reset by peer"
    assert isinstance(connection_error(ORIN, said, lost=True), ConnectionLost)
    said += "\nme@orin: Permission denied (publickey)."
    refused = connection_error(ORIN, said, lost=True)
    assert isinstance(refused, LoginRefused) and refused.why == "me@orin: Permission denied (publickey)."


def test_a_variable_is_to_be_set_on_the_device() -> None:
    late = CompilerTimeout("it took too long", where="x", why="y", next="export TRTFORGE_BUILD_TIMEOUT=20")
    told = far_error(late.to_json(), ORIN)
    assert isinstance(told, CompilerTimeout)
    assert told.next == "on the device, for its logins (/etc/environment there): TRTFORGE_BUILD_TIMEOUT=20"
    plain = CompilerTimeout("it took too long", where="x", why="y", next="write a smaller batch")
    assert far_error(plain.to_json(), ORIN).next == "write a smaller batch"
