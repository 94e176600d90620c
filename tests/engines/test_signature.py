"""Signed kits: keys as ssh-keygen and OpenSSL write them, and what is refused before a member is read."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.engines.test_kit import FILES, INFO, repacked, zstd
from trtforge.engines import kit as module
from trtforge.engines.kit import SIGNATURE, read_kit, write_kit
from trtforge.engines.signature import Signer, Trusted, load_signer, load_trusted
from trtforge.errors.kit import KeyUnusable, KitDamaged, KitNotSigned

pytest.importorskip("cryptography", reason="extra `sign`")


def pem_pair(folder: Path, name: str = "pem") -> tuple[Path, Path]:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    private, public = folder / name, folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def ssh_pair(folder: Path, name: str = "ssh", *, kind: str = "ed25519", passphrase: str = "") -> tuple[Path, Path]:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed (Debian: openssh-client)")
    command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "", "-f", folder / name]
    subprocess.run(command, check=True)
    return folder / name, folder / f"{name}.pub"


@pytest.fixture(params=["pem", "ssh"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Signer, Trusted]:
    private, public = pem_pair(tmp_path) if request.param == "pem" else ssh_pair(tmp_path)
    return load_signer(private), load_trusted(public)


def test_a_signed_kit_is_read_by_who_trusts_its_key(pair: tuple[Signer, Trusted], tmp_path: Path) -> None:
    signer, trusted = pair
    path = tmp_path / "net.kit.tar.zst"
    write_kit(path, FILES, INFO, signer)
    kit = read_kit(path, into=tmp_path / "out", trusted=trusted)
    assert kit.signature is not None and kit.signature.key == signer.public
    assert not (tmp_path / "out" / SIGNATURE).exists()
    assert read_kit(path) == kit  # who does not ask reads it too
    again = tmp_path / "again.kit.tar.zst"
    write_kit(again, FILES, INFO, signer)
    assert again.read_bytes() == path.read_bytes()


def test_a_file_of_several_keys_trusts_each(tmp_path: Path) -> None:
    signers = [ssh_pair(tmp_path, name) for name in ("ann", "ben")]
    both = tmp_path / "trusted"
    both.write_text("# who may sign\n" + "".join(public.read_text() for _, public in signers))
    for private, _ in signers:
        write_kit(tmp_path / "net.kit.tar.zst", FILES, INFO, load_signer(private))
        read_kit(tmp_path / "net.kit.tar.zst", trusted=load_trusted(both))


def test_without_the_required_signature_nothing_is_unpacked(
    pair: tuple[Signer, Trusted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer, trusted = pair
    (tmp_path / "other").mkdir()
    stranger = load_signer(pem_pair(tmp_path / "other")[0])
    path = tmp_path / "net.kit.tar.zst"

    def of_another(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        """Another kit's signature under this one's content: cut and pasted."""
        other = tmp_path / "other.kit.tar.zst"
        write_kit(other, {}, INFO, signer)
        with tarfile.open(fileobj=io.BytesIO(zstd.decompress(other.read_bytes()))) as archive:
            pasted = archive.extractfile(SIGNATURE)
            assert pasted is not None
            entries[1] = (entries[1][0], pasted.read())

    def no_base64(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        value = json.loads(entries[1][1]) | {"signature": "!", "key": "!"}
        entries[1] = (entries[1][0], json.dumps(value).encode())

    kits: list[bytes] = []
    for by in (None, stranger, signer):
        write_kit(path, FILES, INFO, by)
        kits.append(path.read_bytes())
    signed = kits.pop()
    kits += [repacked(signed, of_another), repacked(signed, no_base64)]

    def no_member_may_be_read(*_: object) -> None:
        raise AssertionError("a member was read before the signature held")

    monkeypatch.setattr(module, "_copy_member", no_member_may_be_read)
    for content in kits:
        path.write_bytes(content)
        with pytest.raises(KitNotSigned) as caught:
            read_kit(path, into=tmp_path / "out", trusted=trusted)
        assert str(trusted.where) in caught.value.why
    assert not (tmp_path / "out").exists()


def test_a_signature_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "net.kit.tar.zst"
    write_kit(path, FILES, INFO, load_signer(pem_pair(tmp_path)[0]))

    def emptied(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        entries[1] = (entries[1][0], b"{}")

    path.write_bytes(repacked(path.read_bytes(), emptied))
    with pytest.raises(KitDamaged, match=SIGNATURE):
        read_kit(path)


def test_a_passphrase_is_asked_for_only_where_there_is_one(tmp_path: Path) -> None:
    private, public = ssh_pair(tmp_path, passphrase="hush")
    with pytest.raises(KeyUnusable, match="passphrase"):
        load_signer(private)
    with pytest.raises(KeyUnusable, match="does not open") as caught:
        load_signer(private, passphrase=lambda: "wrong")
    assert caught.value.next == f"try the passphrase: ssh-keygen -y -f {private}"
    with pytest.raises(KeyUnusable, match="a public key") as caught:
        load_signer(public)
    assert caught.value.next == "name the file without .pub"
    signer = load_signer(private, passphrase=lambda: "hush")
    write_kit(tmp_path / "net.kit.tar.zst", FILES, INFO, signer)
    read_kit(tmp_path / "net.kit.tar.zst", trusted=load_trusted(public))

    def never() -> str:
        raise AssertionError("asked for a passphrase that the key does not have")

    load_signer(pem_pair(tmp_path)[0], passphrase=never)


def test_keys_that_cannot_be_used(tmp_path: Path) -> None:
    private, public = ssh_pair(tmp_path)
    rsa, rsa_public = ssh_pair(tmp_path, "rsa", kind="rsa")
    text = tmp_path / "notes.txt"
    text.write_text("no key\n")
    for path in (tmp_path / "absent", text, public, rsa):
        with pytest.raises(KeyUnusable):
            load_signer(path)
    text.write_text("# nothing\n")
    for path in (tmp_path / "absent", text, private, rsa_public):
        with pytest.raises(KeyUnusable):
            load_trusted(path)
    with pytest.raises(KeyUnusable, match="it holds an RSA key, not ed25519"):
        load_trusted(rsa_public)
