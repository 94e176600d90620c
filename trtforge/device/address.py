"""Addresses of devices: `ssh://USER@HOST:PORT/PATH/TO/TRTFORGE`, of which only the host is needed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from shlex import quote
from urllib.parse import unquote, urlsplit

from trtforge.errors.usage import BadAddress

FORM = "ssh://USER@HOST[:PORT][/PATH/TO/TRTFORGE]"

# Neither may begin with a hyphen: OpenSSH would take it for an option.
_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9._:%-]*")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Address:
    """``user``, ``port``: None is what OpenSSH's configuration says. ``program``: trtforge there, as a shell has it."""

    host: str
    user: str | None = None
    port: int | None = None
    program: str = "trtforge"

    @property
    def destination(self) -> list[str]:
        """As arguments of ssh."""
        port = ["-p", str(self.port)] if self.port is not None else []
        return [*port, "--", f"{self.user}@{self.host}" if self.user else self.host]

    @property
    def typed(self) -> str:
        """The command of a person who logs in."""
        return " ".join(["ssh", *(word for word in self.destination if word != "--")])

    @property
    def known_as(self) -> str:
        """As `known_hosts` has it."""
        return self.host if self.port in (None, 22) else f"[{self.host}]:{self.port}"

    def __str__(self) -> str:
        return self.host if self.port is None else f"{self.host}:{self.port}"


def parse(text: str) -> Address:
    """An address as a person types it. Raises BadAddress (USE113)."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise _bad(text, str(error)) from error
    host, user = _host(parts.netloc), parts.username
    if parts.scheme != "ssh":
        raise _bad(text, "it does not begin with ssh://")
    if not _HOST.fullmatch(host) or (user is not None and not _USER.fullmatch(user)):
        raise _bad(text, "its host or its user is missing, or has characters that none has")
    if parts.password is not None:
        raise _bad(text, "it has a password, which every user of this machine could read; use a key")
    if parts.query or parts.fragment:
        raise _bad(text, "there is something behind its path")
    return Address(host, user, port, _program(unquote(parts.path)))


def _host(netloc: str) -> str:
    """As it was typed: OpenSSH's configuration tells `MyOrin` from `myorin`, and urlsplit's `hostname` does not."""
    place = netloc.rpartition("@")[2]
    return place[1:].partition("]")[0] if place.startswith("[") else place.partition(":")[0]


def _program(path: str) -> str:
    if path in ("", "/"):
        return "trtforge"
    return f"~/{quote(path[3:])}" if path.startswith("/~/") else quote(path)


def _bad(text: str, why: str) -> BadAddress:
    return BadAddress(f"{text!r} is not an address of a device", why=why, next=f"write {FORM}")
