"""What OpenSSH and the far side say when something is wrong, as errors of ours."""

from __future__ import annotations

import re
import shlex
from typing import Any

from trtforge.device.address import Address
from trtforge.errors.base import TrtforgeError, catalogue
from trtforge.errors.device import (
    ConnectionLost,
    DeviceFailed,
    HostKeyChanged,
    HostKeyUnknown,
    HostUnreachable,
    LoginRefused,
)


def connection_error(address: Address, said: str, *, lost: bool) -> TrtforgeError:
    """OpenSSH ended by itself. ``said``: its words. ``lost``: there had been a connection, so it can come back."""
    why = said.strip().rpartition("\n")[2] or "it ended without a word"
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said:
        return HostKeyChanged(
            f"the host key of {address} is not the one that is known",
            where=_known_hosts(said),
            why=_fingerprint(said) or why,
            next=f"ask who runs the device; if it was set up anew: ssh-keygen -R {shlex.quote(address.known_as)}",
        )
    if "Host key verification failed" in said or "host key is known" in said:
        port = f" -p {address.port}" if address.port is not None else ""
        return HostKeyUnknown(
            f"the host key of {address} is not known",
            where="~/.ssh/known_hosts",
            why=_first(said, r"No .* host key is known for .*") or why,
            next=f"log in once and compare the fingerprint: {address.typed}\n"
            f"or: ssh-keyscan{port} {address.host} > key, compare `ssh-keygen -lf key` with the device's own "
            "(/etc/ssh/ssh_host_*.pub), and append it to ~/.ssh/known_hosts",
        )
    if "Permission denied" in said or "Too many authentication failures" in said:
        return LoginRefused(
            f"{address} did not let {address.user or 'this user'} in",
            where=str(address),
            why=_first(said, r".*(Permission denied|Too many authentication).*") or why,
            next=f"first make this work: {address.typed}",
        )
    # The words are the same for a device that was never reached and for one that a cable no longer leads to.
    why = _first(said, r".*(Could not resolve|Connection refused|timed out|No route|unreachable|Bad port).*") or why
    if not lost:
        return HostUnreachable(
            f"no connection to {address}",
            where=str(address),
            why=why,
            next=f"try: {address.typed}",
        )
    return ConnectionLost(
        f"the connection to {address} was lost",
        where=str(address),
        why=why,
        next="give the same command again: it goes on where it was",
    )


def far_error(value: Any, address: Address) -> TrtforgeError:
    """An error of the far side: the same one here, with the device in front of its place."""
    told = {key: str(value.get(key, "")) for key in ("what", "where", "why", "next")} if isinstance(value, dict) else {}
    kind = catalogue().get(str(value.get("code"))) if told else None
    where = f"{address}: {told.get('where', '')}".removesuffix(": ")
    if kind is None:
        return DeviceFailed(
            "the work on the device ended by a mistake of trtforge",
            where=where,
            why=told.get("what") or str(value)[:200],
            next="report it, with the log above",
        )
    return kind(told["what"], where=where, why=told["why"], next=_there(told["next"]))


def _there(next: str) -> str:
    """Advice about a variable, which is one of the device: set here, it does nothing there."""
    if not next.startswith("export TRTFORGE_"):
        return next
    return f"on the device, for its logins (/etc/environment there): {next.removeprefix('export ')}"


def _first(said: str, pattern: str) -> str:
    match = re.search(pattern, said)
    return match[0].strip() if match else ""


def _fingerprint(said: str) -> str:
    found = re.search(r"SHA256:[A-Za-z0-9+/]+", said)
    return f"the device has the key {found[0]}" if found else ""


def _known_hosts(said: str) -> str:
    found = re.search(r"Offending .* key in (.*)", said)
    return found[1] if found else "~/.ssh/known_hosts"
