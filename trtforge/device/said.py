"""What OpenSSH and the far side say when something is wrong, as errors of ours."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
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
from trtforge.errors.kit import KitNotSigned


def connection_error(address: Address, said: str, *, lost: bool) -> TrtforgeError:
    """OpenSSH ended by itself. ``said``: its words. ``lost``: there had been a connection, so it can come back."""
    why = said.strip().rpartition("\n")[2] or "it ended without a word"
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said:
        return _key_changed(address, said, why)
    if "Host key verification failed" in said or "host key is known" in said:
        return _key_unknown(address, _first(said, r"No .* host key is known for .*") or why)
    # As OpenSSH says it: the banner of a device may speak of permissions too.
    if refused := _first(said, r".*(: Permission denied \(|Too many authentication failures).*"):
        return LoginRefused(
            f"{address} did not let {address.user or 'this user'} in",
            where=str(address),
            why=refused,
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


def _key_changed(address: Address, said: str, why: str) -> HostKeyChanged:
    known = address.known()
    offending = re.search(r"Offending .* key in (.*?)(:\d+)?$", said, re.MULTILINE)
    file = offending[1] if offending else known.file
    other = f" -f {shlex.quote(file)}" if file != str(Path.home() / ".ssh" / "known_hosts") else ""
    return HostKeyChanged(
        f"the host key of {address} is not the one that is known",
        where=file + (offending[2] or "" if offending else ""),
        why=_fingerprint(said) or why,
        next=f"ask who runs the device; if it was set up anew: ssh-keygen{other} -R {shlex.quote(known.name)}",
    )


def _key_unknown(address: Address, why: str) -> HostKeyUnknown:
    known = address.known()
    next_ = f"log in once and compare the fingerprint: {address.typed}"
    if known.direct:
        port = f" -p {known.port}" if known.port != "22" else ""
        next_ += (
            f"\nor: ssh-keyscan{port} {known.host} > key, compare `ssh-keygen -lf key` with the device's own "
            f"(/etc/ssh/ssh_host_*.pub), and: cat key >> {known.file}"
        )
    return HostKeyUnknown(f"the host key of {address} is not known", where=known.file, why=why, next=next_)


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
    return kind(told["what"], where=where, why=told["why"], next=_there(kind, told["next"]))


def _there(kind: type[TrtforgeError], next: str) -> str:
    """Advice as it is on this side: a variable is one of the device, set here it does nothing; kits are signed here."""
    if kind is KitNotSigned:
        return "give the same command with --sign PRIVATE_KEY, a key that the device trusts"
    if not next.startswith("export TRTFORGE_"):
        return next
    return f"on the device, for its logins (/etc/environment there): {next.removeprefix('export ')}"


def _first(said: str, pattern: str) -> str:
    match = re.search(pattern, said)
    return match[0].strip() if match else ""


def _fingerprint(said: str) -> str:
    found = re.search(r"SHA256:[A-Za-z0-9+/]+", said)
    return f"the device has the key {found[0]}" if found else ""
