"""Addresses of devices: `ssh://USER@HOST:PORT/PATH/TO/TRTFORGE`, of which only the host is needed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from shlex import quote
from urllib.parse import quote as percent
from urllib.parse import unquote, urlsplit

from trtforge.errors.usage import BadAddress

FORM = "ssh://USER@HOST[:PORT][/PATH/TO/TRTFORGE]"

# Neither may begin with a hyphen: OpenSSH would take it for an option.
_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9._:%-]*")
# Directories name users as `me@corp.lan` or `CORP\me`; what a shell would obey, OpenSSH does not take either.
_USER = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._@+\\-]*[A-Za-z0-9._@+-])?")


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
        """The command of a person who logs in as trtforge does: by the same client, with the same configuration."""
        return shlex.join([*client(), *(word for word in self.destination if word != "--")])

    def to(self, program: str) -> str:
        """The address of another program on the same device, as a person types it: `/~/venv/bin/trtforge`."""
        user = f"{percent(self.user, safe='+')}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{user}{host}{'' if self.port is None else f':{self.port}'}{program}"

    def known(self) -> Known:
        """How OpenSSH's configuration has the device among the known hosts."""
        try:
            asked = [*client(), "-G", *self.destination]
            told = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False).stdout
        except (OSError, subprocess.TimeoutExpired):
            told = ""
        said = dict(line.split(" ", 1) for line in told.splitlines() if " " in line)
        host, port = said.get("hostname", self.host), said.get("port", str(self.port or 22))
        name = said.get("hostkeyalias", host)
        # An alias stands for the port too.
        name = name if port == "22" or "hostkeyalias" in said else f"[{name}]:{port}"
        file = said.get("userknownhostsfile", "~/.ssh/known_hosts").split()[0]
        direct = said.keys().isdisjoint({"proxyjump", "proxycommand", "hostkeyalias"})
        return Known(host, port, name, file, direct)

    def __str__(self) -> str:
        return self.host if self.port is None else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Known:
    """``name``: that of the device in ``file``. ``direct``: `ssh-keyscan` of ``host`` and ``port`` gives it."""

    host: str
    port: str
    name: str
    file: str
    direct: bool


def client() -> list[str]:
    """OpenSSH's client: `ssh`, or what TRTFORGE_SSH says, with options if it has any."""
    return shlex.split(os.environ.get("TRTFORGE_SSH", "")) or ["ssh"]


def parse(text: str) -> Address:
    """An address as a person types it. Raises BadAddress (USE113)."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise _bad(text, str(error)) from error
    host, user = _host(parts.netloc), parts.username and unquote(parts.username)
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
