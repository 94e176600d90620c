"""Several scans: one that fails does not stop the rest, nothing is done twice, and nothing stays that is no result."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

ENGINE = "engines/scan/seg"


def labels_of(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


COHORT = ["run", ENGINE, "data/*/imaging.nii.gz", "--truth", "{folder}/segmentation.nii.gz", "--out-dir", "out"]


def test_one_corrupt_case_does_not_stop_the_rest(built) -> None:
    path = built.root / "data/case_2/imaging.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    done = built.forge(*COHORT, "--json")
    assert done.code == 12
    assert [case["case"] for case in done.json["cases"]] == ["case_1", "case_3", "case_4", "case_5"]
    assert done.json["failed"]["case_2"]["code"] == "VOL103"
    assert "error[VOL401]: 1 of 5 scans failed" in done.err
    assert not (built.root / "out/case_2.nii.gz").exists()
    table = (built.root / "out/summary.csv").read_text().splitlines()
    assert len(table) == 6 and table[-1].startswith("case_2,") and "VOL103" in table[-1]


def test_a_missing_truth_fails_its_case_only(built) -> None:
    (built.root / "data/case_3/segmentation.nii.gz").unlink()
    done = built.forge(*COHORT, "--json")
    assert done.code == 12 and list(done.json["failed"]) == ["case_3"]
    short = "VOL101 there is no such file or folder"
    said = f"{short} (data/case_3/segmentation.nii.gz)"
    assert f"warning: case_3 failed: {short}\n" in done.err
    assert done.json["failed"]["case_3"]["where"] == "data/case_3/segmentation.nii.gz"
    assert (built.root / "out/summary.csv").read_text().splitlines()[-1] == f"case_3{',' * 7}{said}"
    assert f"FAILED case_3: {said}\n  next: look: ls data/case_3\n" in built.forge(*COHORT).out


def test_each_failure_is_told_in_full_once(built) -> None:
    for number, size in ((2, 200), (3, 100)):
        path = built.root / f"data/case_{number}/imaging.nii.gz"
        path.write_bytes(path.read_bytes()[:size])
    for number in (4, 5):
        (built.root / f"data/case_{number}/segmentation.nii.gz").unlink()
    done = built.forge(*COHORT)
    assert done.code == 12
    for number, size in ((2, 200), (3, 100)):
        assert f"warning: case_{number} failed: VOL103 the volume cannot be read\n" in done.err
        assert (done.out + done.err).count(f"(file of {size} bytes)") == 1
        assert f"next: fetch it again, or write it again; gzip -t data/case_{number}/imaging.nii.gz" in done.out
    told = "FAILED case_4, case_5: VOL101 there is no such file or folder (data/case_4/segmentation.nii.gz)\n"
    assert told in done.out, "what differs in its place alone is told once"
    assert "why:   VOL103: case_2, case_3; VOL101: case_4, case_5\n" in done.err
    assert "out: labels of 1 scan;" in done.out


def test_finished_cases_are_kept_and_only_the_rest_is_done(built) -> None:
    assert built.forge(*COHORT).code == 0
    before = {path.name: path.stat().st_mtime_ns for path in (built.root / "out").glob("*.nii.gz")}
    (built.root / "out/case_1.nii.gz").unlink()
    damaged = built.root / "out/case_2.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:-3])
    built.write_scan("case_3", 33)
    done = built.forge(*COHORT)
    assert done.code == 0
    kept = {line.split(":")[0] for line in done.err.splitlines() if line.endswith("finished earlier")}
    assert kept == {"case_4", "case_5"}
    after = {path.name: path.stat().st_mtime_ns for path in (built.root / "out").glob("*.nii.gz")}
    assert {name for name in after if after[name] == before[name]} == {"case_4.nii.gz", "case_5.nii.gz"}
    assert "2 finished earlier" in done.out


def test_other_options_make_other_results(built) -> None:
    assert built.forge(*COHORT).code == 0
    done = built.forge(*COHORT, "--overlap", "0.25")
    assert "finished earlier" not in done.err


def test_the_summary_has_the_means(built) -> None:
    done = built.forge(*COHORT, "--json")
    summary = json.loads((built.root / "out/summary.json").read_text())
    assert summary["means"] == done.json["means"] == {"truth": {"organ": 1.0, "lesion": 1.0, "mean": 1.0}}


@pytest.mark.parametrize(
    "command",
    [
        f"run {ENGINE} data/case_1/imaging.nii.gz --out /proc/nothing/l.nii.gz",
        f"run {ENGINE} data/case_1/imaging.nii.gz --picture /proc/nothing/l.png",
        f"run {ENGINE} data/case_1/imaging.nii.gz data/case_2/imaging.nii.gz --out-dir /proc/nothing",
        "prepare kits19 data /proc/nothing",
    ],
)
def test_a_place_that_takes_no_files_is_told_once(built, command: str) -> None:
    done = built.forge(*command.split())
    assert done.code == 9 and "error[ENV102]" in done.err and "warning" not in done.err
    assert "where: /proc/nothing" in done.err


ONE_MORE = ["run", ENGINE, "--truth", "{folder}/segmentation.nii.gz", "--out-dir", "out"]


def test_the_summary_has_what_earlier_calls_finished(built) -> None:
    for number in (2, 1):
        assert built.forge(*ONE_MORE, f"data/case_{number}/imaging.nii.gz", "data/case_4/imaging.nii.gz").code == 0
    (built.root / "out/notes.json").write_text('{"key": 1, "sha256": {}, "files": {}, "result": {}}')  # somebody's own
    (built.root / "out/odd.json").write_text("[]")
    done = built.forge(*ONE_MORE, "data/case_5/imaging.nii.gz", "data/case_4/imaging.nii.gz", "--json")
    assert [case["case"] for case in done.json["cases"]] == ["case_5", "case_4"]
    summary = json.loads((built.root / "out/summary.json").read_text())
    assert [case["case"] for case in summary["cases"]] == ["case_1", "case_2", "case_4", "case_5"]
    assert summary["others"] == [] and "warning" not in done.err
    rows = (built.root / "out/summary.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["case_1", "case_2", "case_4", "case_5"]
    (built.root / "out/case_1.nii.gz").unlink()
    built.forge(*COHORT[:2], "data/case_2/imaging.nii.gz", "data/case_5/imaging.nii.gz", *COHORT[3:])
    summary = json.loads((built.root / "out/summary.json").read_text())
    assert [case["case"] for case in summary["cases"]] == ["case_2", "case_4", "case_5"]


def test_the_means_are_over_cases_made_in_one_way(built) -> None:
    flat = nibabel.load(built.root / "data/case_1/imaging.nii.gz")
    nibabel.Nifti1Image(np.zeros(flat.shape, np.int16), flat.affine, flat.header).to_filename(
        built.root / "data/case_1/imaging.nii.gz"
    )
    named = ("data/case_1/imaging.nii.gz", "data/case_2/imaging.nii.gz")
    assert built.forge(*ONE_MORE, *named, "--overlap", "0.25").code == 0
    done = built.forge(*ONE_MORE, "data/case_2/imaging.nii.gz", "data/case_4/imaging.nii.gz")
    summary = json.loads((built.root / "out/summary.json").read_text())
    assert [case["case"] for case in summary["cases"]] == ["case_1", "case_2", "case_4"]
    assert summary["others"] == ["case_1"] and summary["means"]["truth"]["mean"] == 1.0
    assert "warning: 1 case (case_1) in out was made by another engine or with other options" in done.err


def test_a_picture_of_other_labels_does_not_stay(built) -> None:
    assert built.forge(*COHORT, "--pictures").code == 0
    (built.root / "out/notes.png").write_text("somebody's own")
    assert built.forge(*COHORT, "--overlap", "0.25").code == 0
    assert [path.name for path in (built.root / "out").glob("*.png")] == ["notes.png"]
    assert len(list((built.root / "out").glob("*.nii.gz"))) == 5


def test_a_case_whose_picture_fails_leaves_no_labels(built, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("trtforge.report.picture.write_picture", full)
    assert built.forge(*COHORT, "--pictures").code == 12
    assert built.files(built.root / "out") == ["summary.csv", "summary.json"]


def test_a_record_decides_nothing_outside_its_folder(built) -> None:
    """Somebody's damaged or malicious NAME.json does not remove files elsewhere."""
    assert built.forge(*COHORT).code == 0
    path = built.root / "out/case_1.json"
    record = json.loads(path.read_text())
    for name in ("../pyproject.toml", "..", "", 7):
        path.write_text(json.dumps(record | {"key": None, "files": {"labels": name}}))
        assert built.forge(*COHORT).code == 0
    assert (built.root / "pyproject.toml").exists()


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM])
def test_killed_in_the_middle_it_goes_on_where_it_was(built, stop: signal.Signals) -> None:
    for number in range(6, 30):
        built.write_scan(f"case_{number}", number)
    process = built.start(*COHORT, "--pictures")
    deadline = time.monotonic() + 60
    out = built.root / "out"
    while len(list(out.glob("case_*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, stop)
    process.communicate()
    done_before = {path.stem for path in out.glob("case_*.json")}
    assert 3 <= len(done_before) < 29
    for path in out.glob("*.nii.gz"):
        labels_of(path)  # every file that is there is whole
    done = built.forge(*COHORT, "--pictures")
    assert done.code == 0, done.err
    assert {line.split(":")[0] for line in done.err.splitlines() if "finished earlier" in line} == done_before
    assert len(list(out.glob("*.nii.gz"))) == len(list(out.glob("*.png"))) == 29
    assert not list(out.glob(".*.tmp"))


def test_a_case_that_fails_now_leaves_no_result_of_before(built) -> None:
    assert built.forge(*COHORT, "--pictures").code == 0
    path = built.root / "data/case_2/imaging.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    assert built.forge(*COHORT, "--pictures").code == 12
    assert not list((built.root / "out").glob("case_2.*"))
    assert len(list((built.root / "out").glob("case_*.nii.gz"))) == 4


def test_a_resumed_summary_is_the_first_ones(built) -> None:
    assert built.forge(*COHORT, "--against", "fp32").code == 0
    first = (built.root / "out/summary.csv").read_text()
    done = built.forge(*COHORT, "--against", "fp32", "--json")
    assert (built.root / "out/summary.csv").read_text() == first
    assert all(case["reused"] for case in done.json["cases"])
    assert first.splitlines()[0].split(",")[3:7] == ["ml organ", "ml lesion", "dice truth organ", "dice truth lesion"]


def test_a_scan_that_cannot_be_read_does_not_hide_the_others(built, monkeypatch: pytest.MonkeyPatch) -> None:
    import trtforge.pipeline.cohort as cohort

    digest = cohort.sha256_file

    def refused(path: Path) -> str:
        if "case_3" in str(path):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return digest(path)

    monkeypatch.setattr(cohort, "sha256_file", refused)
    done = built.forge(*COHORT, "--json")
    assert done.code == 12 and list(done.json["failed"]) == ["case_3"] and len(done.json["cases"]) == 4
    assert done.json["failed"]["case_3"]["code"] == "ENV102"


def test_voxels_beside_a_header_are_part_of_the_scan(built) -> None:
    sitk = pytest.importorskip("SimpleITK")
    (built.root / "detached").mkdir()
    for number in (4, 5):
        image = sitk.ReadImage(str(built.root / f"data/case_{number}/imaging.nii.gz"))
        sitk.WriteImage(image, str(built.root / "detached" / f"{number}.mhd"))
    run = ("run", ENGINE, "detached/4.mhd", "--out-dir", "out", "--json")
    first = built.forge(*run).json["cases"][0]
    assert built.forge(*run).json["cases"][0]["reused"]
    (built.root / "detached/4.raw").write_bytes((built.root / "detached/5.raw").read_bytes())
    second = built.forge(*run).json["cases"][0]
    assert not second["reused"] and second["millilitres"] != first["millilitres"]


def test_a_set_of_scans_is_run_with_its_labels(built) -> None:
    done = built.forge("run", ENGINE, "data/ward_held.yaml", "--out-dir", "out", "--json")
    assert done.code == 0, done.err
    assert [case["composite"] for case in done.json["cases"]] == [{"truth": 1.0}] * 2
