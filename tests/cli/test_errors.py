"""How a command ends when something goes wrong: one error with its exit code, and a traceback only when asked for."""

from __future__ import annotations

import errno
import os

import pytest


def test_debug_adds_the_traceback(workshop) -> None:
    plain, debug = workshop.forge("build", "recipes/none.yaml"), workshop.forge("--debug", "build", "recipes/none.yaml")
    assert plain.code == debug.code == 3
    assert "Traceback" not in plain.err
    assert debug.err.startswith(plain.err)
    assert "Traceback (most recent call last):" in debug.err
    assert "RecipeNotFound" in debug.err


@pytest.mark.parametrize("written", ["{}", "`{}`", "'{}' is one", "--out={}", "({}, {})", "m: {}:3"])
def test_paths_are_shortened_below_the_working_directory_only(tmp_path, monkeypatch, capsys, written: str) -> None:
    """In /tmp a file of /var/tmp is not at /var: what is told is to be copied."""
    from trtforge.cli.ui import show_error
    from trtforge.errors.graph import InvalidGraph

    monkeypatch.chdir(tmp_path)
    here, elsewhere = str(tmp_path / "m.onnx"), f"/mnt{tmp_path}/m.onnx"
    show_error(InvalidGraph("bad", where=written.format(here, here), why=written.format(elsewhere, elsewhere), next=""))
    told = capsys.readouterr().err
    assert f"  where: {written.format('m.onnx', 'm.onnx')}\n" in told
    assert f"  why:   {written.format(elsewhere, elsewhere)}\n" in told


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("trtforge.pipeline.job.plan", bug)


def test_a_bug_is_exit_1_and_one_line_without_debug(workshop, broken) -> None:
    done = workshop.forge("build", "recipes/host.yaml")
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "internal error: ZeroDivisionError: division by zero\n"
        "  this is a bug in trtforge; run again as `trtforge --debug ...` for the traceback to report\n"
    )


def test_a_bug_shows_its_traceback_with_debug_and_an_object_with_json(workshop, broken) -> None:
    done = workshop.forge("--debug", "build", "recipes/host.yaml", "--json")
    assert done.code == 1
    assert "Traceback (most recent call last):" in done.err
    assert done.json["error"]["code"] == "INTERNAL"
    assert done.json["error"]["what"] == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EACCES, True),
        (errno.ENOSPC, True),
        (errno.EROFS, True),
        (errno.EIO, True),
        (errno.ENOENT, False),  # a file trtforge itself should have made: a bug, and told as one
    ],
)
def test_what_the_system_refuses_is_told_with_its_place(workshop, monkeypatch, number: int, told: bool) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "some/where")

    from trtforge import files
    from trtforge.scales.codecs import trt_cache  # whoever is imported first below would keep what is patched

    assert trt_cache.write_bytes is files.write_bytes
    monkeypatch.setattr(files, "write_bytes", refuse)
    done = workshop.forge("calibrate", "recipes/host.yaml")
    assert done.code == (9 if told else 1)
    assert os.strerror(number) in done.err
    assert "some/where" in done.err
    assert "Traceback" not in done.err


def test_a_cache_that_cannot_be_made_is_told(workshop, monkeypatch) -> None:
    monkeypatch.setenv("TRTFORGE_CACHE", "/proc/nothing")
    done = workshop.forge("calibrate", "recipes/host.yaml")
    assert done.code == 9 and "error[ENV102]: the cache cannot be used" in done.err
    assert "/proc/nothing" in done.err


@pytest.mark.parametrize("command", ["calibrate recipes/host.yaml", "inspect net", "run net 7.npy"])
def test_a_deleted_directory_is_told(workshop, monkeypatch, command: str) -> None:
    workshop.build()
    gone = workshop.root / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    monkeypatch.setenv("PWD", str(gone))
    gone.rmdir()
    done = workshop.forge(*command.split())
    monkeypatch.chdir(workshop.root)
    assert done.code not in (0, 1) and "error[" in done.err and "internal error" not in done.err
    if command.startswith("calibrate"):
        assert done.code == 9 and f"where: {gone}" in done.err and "the current directory is gone" in done.err


def test_a_limit_on_the_size_of_files_is_told(workshop) -> None:
    """The system names no file when a write fails; the message does."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, before[1]))
    try:
        done = workshop.forge("calibrate", "recipes/host.yaml", "--out", "scales")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert done.code == 9 and "error[ENV102]" in done.err and "next:  raise the limit of a file's size" in done.err
    assert "where: " in done.err and ".json" in done.err.partition("where:")[2].splitlines()[0]
    assert not [name for name in workshop.files() if name.endswith(".tmp")]


def test_a_missing_package_is_told_with_its_command(workshop, monkeypatch) -> None:
    from importlib import metadata

    version = metadata.version

    def lacking(name: str) -> str:
        if name == "polygraphy":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", lacking)
    done = workshop.forge("build", "recipes/host.yaml")
    assert done.code == 9
    assert "ENV101" in done.err
    assert "-m pip install polygraphy" in done.err
    doctor = workshop.forge("doctor")
    assert doctor.code == 0
    assert "missing" in doctor.out
