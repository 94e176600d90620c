"""The key that signs kits is asked for where a kit is written, and nowhere else."""

from __future__ import annotations

import pytest

from trtforge.engines.kit import read_kit


def test_a_build_that_writes_no_kit_needs_no_key(workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTFORGE_SIGN_KEY", "gone")
    assert workshop.build()["engines"][0]["status"] == "built"
    assert workshop.build("--kit", code=7)["error"]["code"] == "ENG135"
    assert workshop.build("--out", "net.zst", code=7)["error"]["code"] == "ENG135"


def test_a_key_on_the_command_line_that_signs_nothing_is_a_mistake(workshop) -> None:
    found = workshop.build("--sign", "gone", code=2)["error"]
    assert (found["code"], found["next"]) == ("USE100", "leave it out, or add --kit")
    assert not workshop.store.exists()


def test_who_signed_a_kit_is_said_and_so_is_that_nobody_did_or_looked(workshop) -> None:
    pytest.importorskip("cryptography", reason="extra `sign`")
    from tests.engines.test_signature import pem_pair

    private, public = pem_pair(workshop.root, "ours")
    plain, kit = ("build", "recipes/host.yaml", "--out", "net.zst"), workshop.root / "net.zst"
    assert "net.zst: kit written\n" in workshop.forge(*plain).out
    assert "net.zst: kit already there\n" in (again := workshop.forge(*plain)).out and "written" not in again.out
    signed = workshop.forge(*plain, "--sign", str(private))
    who = read_kit(kit).signature.fingerprint
    assert f"by {who}, not checked" in workshop.forge("inspect", kit).out
    assert f"net.zst: kit written, signed by {who}\n" in signed.out and "warning" not in signed.err
    again = workshop.forge(*plain, "--locked", "--sign", str(private))
    assert f"net.zst: kit already there, signed by {who}\n" in again.out and "written" not in again.out
    for extra in ((), ("--only-check",)):
        assert "the signature was not checked" in workshop.forge("finish", kit, *extra).err
        checked = workshop.forge("finish", kit, *extra, "--require-signature", str(public))
        assert checked.code == 0 and "not checked" not in checked.err
    lost = workshop.forge(*plain)
    warnings = [line for line in lost.err.splitlines() if line.startswith("warning: ")]
    assert warnings == [f"warning: net.zst: was signed by {who}; the new kit is not signed"]
    assert "net.zst: kit written\n" in lost.out
    assert "warning" not in workshop.forge(*plain, "--force").err
    assert "not checked" not in workshop.forge("finish", kit).err


def test_where_only_the_device_compiles_the_key_is_needed(workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    orin = ("target: host", "target: orin-agx-64gb/gpu"), ("backend: onnxruntime", 'backend: tensorrt\ntensorrt: "8.6"')
    workshop.bend("orin", *orin)
    assert workshop.build("--sign", "gone", recipe="orin", code=7)["error"]["code"] == "ENG135"
    monkeypatch.setenv("TRTFORGE_SIGN_KEY", "gone")
    assert workshop.build(recipe="orin", code=7)["error"]["code"] == "ENG135"
