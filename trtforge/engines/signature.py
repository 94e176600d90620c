"""Who made a kit: an ed25519 signature over its seal, which covers `kit.json`, which covers every member.

Keys are the files of `ssh-keygen -t ed25519`, or PEM as OpenSSL writes it. A file of public keys may have several
lines, as `authorized_keys` has: a signature by any of them counts.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from shlex import quote
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

from trtforge.engines.records import Doc
from trtforge.errors.environment import MissingPackage
from trtforge.errors.kit import KeyUnusable, KitNotSigned

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PURPOSE = b"trtforge kit, schema 2\n"
"""In front of what is signed, so that a signature made for something else is none of a kit."""

MAX_KEY_FILE = 1 << 20
MAKE_ONE = "make one: ssh-keygen -t ed25519 -f kit_key"


@dataclass(frozen=True)
class Signature:
    """What `kit.sig` says. ``key`` is only a claim: what counts is whether a key that is trusted fits."""

    algorithm: Annotated[str, Doc("The one there is", const="ed25519")]
    key: Annotated[str, Doc("The signer's public key, 32 bytes in base64")]
    signature: Annotated[str, Doc("64 bytes in base64")]

    @property
    def fingerprint(self) -> str:
        return fingerprint(base64.b64decode(self.key))


@dataclass(frozen=True)
class Signer:
    """A private key, read once."""

    _key: Ed25519PrivateKey

    @property
    def public(self) -> str:
        return base64.b64encode(self._key.public_key().public_bytes_raw()).decode()

    @property
    def fingerprint(self) -> str:
        return fingerprint(self._key.public_key().public_bytes_raw())

    def sign(self, seal: str) -> Signature:
        signed = self._key.sign(PURPOSE + seal.encode())
        return Signature("ed25519", self.public, base64.b64encode(signed).decode())


@dataclass(frozen=True)
class Trusted:
    """Public keys of one file. ``where``: the file."""

    keys: tuple[Ed25519PublicKey, ...]
    where: Path

    def check(self, signature: Signature | None, seal: str, *, kit: Path) -> None:
        """The seal was signed by one of these keys. Raises KitNotSigned (ENG134)."""
        if signature is None:
            raise _not_signed("the kit has no signature", kit, f"one by a key of {self.where} is required")
        from cryptography.exceptions import InvalidSignature

        for key in self.keys:
            try:
                key.verify(_decoded(signature.signature), PURPOSE + seal.encode())
                return
            except InvalidSignature:
                continue
        theirs = ", ".join(fingerprint(key.public_bytes_raw()) for key in self.keys)
        raise _not_signed(
            "the kit's signature does not hold",
            kit,
            f"it claims the key {claimed(signature)}; {self.where} trusts {theirs}",
        )


def load_signer(path: Path, *, passphrase: Callable[[], str | None] = lambda: None) -> Signer:
    """The private key in a file. ``passphrase`` is asked only when the key has one.

    Raises KeyUnusable (ENG135), MissingPackage (ENV101).
    """
    key = _private(path, _content(path), None)
    if key is None:
        said = passphrase()
        if said is None:
            raise _unusable(path, "it is protected by a passphrase", "export TRTFORGE_SIGN_PASSPHRASE=PASSPHRASE")
        key = _private(path, _content(path), said.encode())
    return Signer(_ed25519_private(key, path))


def load_trusted(path: Path) -> Trusted:
    """The public keys in a file. Raises KeyUnusable (ENG135), MissingPackage (ENV101)."""
    serialization = _serialization()
    content = _content(path)
    try:
        if content.lstrip().startswith(b"-----BEGIN"):
            found = [serialization.load_pem_public_key(content)]
        else:
            lines = [line.strip() for line in content.splitlines()]
            found = [serialization.load_ssh_public_key(line) for line in lines if line and not line.startswith(b"#")]
    except Exception as error:  # whatever the parsers make of a file that is no key
        raise _unusable(path, "it is no public key", "name the .pub file of the signer's key") from error
    return Trusted(_ed25519_public(found, path), path)


def fingerprint(raw: bytes) -> str:
    """As `ssh-keygen -lf` prints it: SHA256 and unpadded base64 of the key in OpenSSH's wire form."""
    wire = b"".join(len(part).to_bytes(4, "big") + part for part in (b"ssh-ed25519", raw))
    return "SHA256:" + base64.b64encode(hashlib.sha256(wire).digest()).decode().rstrip("=")


def claimed(signature: Signature) -> str:
    """Whose a signature says it is, for a person."""
    try:
        return signature.fingerprint
    except (binascii.Error, ValueError):
        return "that is none"


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""  # which no key has made


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_KEY_FILE)
    except OSError as error:
        raise _unusable(path, error.strerror or str(error), "check the path of the key") from error


def _private(path: Path, content: bytes, passphrase: bytes | None) -> object | None:
    """The key; None when it has a passphrase and none was given."""
    serialization = _serialization()
    ssh = b"BEGIN OPENSSH PRIVATE KEY" in content
    load = serialization.load_ssh_private_key if ssh else serialization.load_pem_private_key
    try:
        key: object = load(content, passphrase)
    except Exception as error:  # whatever the parsers make of a file that is no key
        # Both parsers say so in a TypeError, or in a ValueError that speaks of a password.
        wants = passphrase is None and (isinstance(error, TypeError) or "password" in str(error).lower())
        if wants:
            return None
        why, hint = "it is no private key", MAKE_ONE
        if "bcrypt" in str(error):
            why = "opening OpenSSH's keys with a passphrase needs the package bcrypt"
            hint = f"{sys.executable} -m pip install 'trtforge[sign]'"
        elif passphrase is not None:
            why, hint = "the passphrase does not open it", f"try the passphrase: ssh-keygen -y -f {quote(str(path))}"
        elif content.startswith((b"ssh-", b"ecdsa-", b"sk-")) or b"BEGIN PUBLIC KEY" in content:
            why, hint = "it is a public key, and a kit is signed with the private one", "name the file without .pub"
        raise _unusable(path, why, hint) from error
    return key


def _ed25519_private(key: object, path: Path) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if not isinstance(key, Ed25519PrivateKey):
        raise _unusable(path, f"it is {_kind(key)}, not ed25519", MAKE_ONE)
    return key


def _ed25519_public(found: Sequence[object], path: Path) -> tuple[Ed25519PublicKey, ...]:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    keys = tuple(key for key in found if isinstance(key, Ed25519PublicKey))
    if not keys or len(keys) != len(found):
        others = [_kind(key) for key in found if not isinstance(key, Ed25519PublicKey)]
        why = f"it holds {others[0]}, not ed25519" if others else "it holds no key"
        raise _unusable(path, why, "name the .pub file of an ed25519 key")
    return keys


def _kind(key: object) -> str:
    """`an RSA key`, of the library's classes RSAPublicKey, EllipticCurvePrivateKey and so on."""
    name = re.sub(r"(Public|Private)(Key|Numbers).*", "", type(key).__name__.lstrip("_"))
    said = {"EllipticCurve": "ECDSA"}.get(name, name)
    return f"{'an' if said[:1] in 'AEIORX' else 'a'} {said} key"


def _serialization() -> ModuleType:
    try:
        return import_module("cryptography.hazmat.primitives.serialization")
    except ImportError as error:
        raise MissingPackage(
            "signatures of kits need the package cryptography",
            why=str(error),
            next=f"{sys.executable} -m pip install 'trtforge[sign]'",
        ) from error


def _unusable(path: Path, why: str, next: str) -> KeyUnusable:
    return KeyUnusable("the key cannot be used", where=str(path), why=why, next=next)


def _not_signed(what: str, kit: Path, why: str) -> KitNotSigned:
    return KitNotSigned(
        what,
        where=str(kit),
        why=why,
        next="get the kit from whom you trust; they sign it with `trtforge build RECIPE --kit --sign KEY`",
    )
