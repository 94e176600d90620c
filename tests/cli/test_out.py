"""Where `--out` puts kits and scales, and what a build says of the version that it published."""

from __future__ import annotations

from typing import Any

import pytest

from trtforge.pipeline import prepare


@pytest.mark.parametrize("out", ["kits/", "there", "new"])
def test_kits_go_into_a_folder(workshop: Any, out: str) -> None:
    (workshop.root / "there").mkdir()
    done = workshop.forge("build", "recipes/host.yaml", "--kit", "--out", out, "--json")
    assert done.code == 0, done.err
    assert done.json["engines"][0]["path"] == f"{out.rstrip('/')}/net.kit.tar.zst"
    assert (workshop.root / out / "net.kit.tar.zst").is_file()
    assert not (workshop.root / "engines/host/net.kit.tar.zst").exists()


def test_a_place_where_no_kit_can_be_is_said_before_the_calibration(
    workshop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "collect", lambda *_, **__: pytest.fail("it calibrated"))
    for out in ("/proc/kits/", "pyproject.toml/net.kit.tar.zst"):
        done = workshop.forge("build", "recipes/host.yaml", "--kit", "--out", out)
        assert done.code == 9 and "ENV102" in done.err


def test_several_engines_go_into_a_folder_not_into_a_file(workshop: Any) -> None:
    text = (workshop.root / "recipes/host.yaml").read_text()
    head, _, engine = text.partition("  net:\n")
    workshop.recipe("two", head + "  net:\n" + engine + "  net2:\n" + engine)
    done = workshop.forge("build", "recipes/two.yaml", "--out", "kits/")
    assert done.code == 0, done.err
    assert sorted(path.name for path in (workshop.root / "kits").iterdir()) == [
        "net.kit.tar.zst", "net2.kit.tar.zst",
    ]  # fmt: skip
    for command, out in (("build", "one.kit.tar.zst"), ("calibrate", "one.json")):
        refused = workshop.forge(command, "recipes/two.yaml", "--out", out)
        assert refused.code == 2 and "USE103" in refused.err and "--out ./" in refused.err


def test_scales_go_into_a_file_or_a_folder(workshop: Any) -> None:
    for out, made in (("net.json", "net.json"), ("scales", "scales/net.scales.json"), ("s.json/", "s.json/net.scales")):
        done = workshop.forge("calibrate", "recipes/host.yaml", "--out", out)
        assert done.code == 0 and made in done.out
    assert (workshop.root / "net.json").read_text() == (workshop.root / "scales/net.scales.json").read_text()
    assert (workshop.root / "s.json/net.scales.json").is_file()


def test_scales_make_no_folder_with_the_name_of_a_file(workshop: Any) -> None:
    refused = workshop.forge("calibrate", "recipes/host.yaml", "--out", "gc.yaml", "--json")
    assert refused.code == 2 and refused.json["error"]["code"] == "USE108"
    assert refused.json["error"]["what"] == "--out cannot write a .yaml file"
    assert refused.json["error"]["next"] == "--out gc.json, or for a folder of this name --out gc.yaml/"
    assert not (workshop.root / "gc.yaml").exists()
    assert workshop.forge("calibrate", "recipes/host.yaml", "--out", "gc.yaml/").code == 0
    assert (workshop.root / "gc.yaml/net.scales.json").is_file()


def test_an_experiment_says_where_it_went(workshop: Any) -> None:
    assert "newest" not in workshop.forge("build", "recipes/host.yaml").err
    larger = ("--set", "engines.net.inputs.x.shape=[2,3,16,16]")
    done = workshop.forge("build", "recipes/host.yaml", *larger)
    assert done.code == 0, done.err
    (warning,) = [line for line in done.err.splitlines() if line.startswith("warning: ")]
    assert "version 2 is now the newest in engines/host" in warning
    assert "input x float32[2, 3, 16, 16] (version 1: float32[1, 3, 16, 16])" in warning and "--store" in warning
    assert "built with --set, so its inputs are not pinned" in done.err
    again = workshop.forge("build", "recipes/host.yaml", *larger)
    assert "up to date" in again.out and "newest" not in again.err
    back = workshop.forge("build", "recipes/host.yaml")
    assert "republished" in back.out and "version 3 is now the newest" in back.err and "warning" not in back.err
    apart = workshop.forge("build", "recipes/host.yaml", *larger, "--store", "elsewhere")
    assert apart.code == 0 and "warning" not in apart.err
