"""Keys of signed kits as a person names them: by option or variable, with a passphrase where there is one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from trtforge.engines.signature import Signer, Trusted

Sign = Annotated[
    Path | None,
    typer.Option(
        "--sign",
        metavar="PRIVATE_KEY",
        envvar="TRTFORGE_SIGN_KEY",
        help="Sign kits with this ed25519 key (OpenSSH or PEM)",
        show_default=False,
    ),
]
RequireSignature = Annotated[
    Path | None,
    typer.Option(
        "--require-signature",
        metavar="PUBLIC_KEY",
        envvar="TRTFORGE_REQUIRE_SIGNATURE",
        help="Refuse a kit that none of the keys in this file signed",
        show_default=False,
    ),
]


def signer(path: Path | None) -> Signer | None:
    """The key to sign with; its passphrase is asked for in a terminal. Raises ENG135, ENV101."""
    if path is None:
        return None
    from trtforge.engines.signature import load_signer

    return load_signer(path, passphrase=lambda: _passphrase(path))


def check_unused(context: typer.Context, why: str) -> None:
    """`--sign` was not given, where nothing is signed; a variable is for other commands too. Raises WrongUsage."""
    from trtforge.errors.usage import WrongUsage

    source = context.get_parameter_source("sign")
    if source is not None and source.name == "COMMANDLINE":
        raise WrongUsage("`--sign` has nothing to sign", why=why, next="leave it out, or add --kit")


def trusted(path: Path | None) -> Trusted | None:
    """The keys one of which must have signed. Raises ENG135, ENV101."""
    if path is None:
        return None
    from trtforge.engines.signature import load_trusted

    return load_trusted(path)


def _passphrase(path: Path) -> str | None:
    if (said := os.environ.get("TRTFORGE_SIGN_PASSPHRASE")) is not None:
        return said
    if not sys.stdin.isatty():
        return None
    from getpass import getpass

    return getpass(f"passphrase of {path}: ")
