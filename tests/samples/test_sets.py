"""Sets: what their YAML may say, which files they reach, and the ids and digests that receipts keep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtforge.digest import digest_json, sha256_file
from trtforge.errors import calibration as cal
from trtforge.errors.base import TrtforgeError
from trtforge.errors.environment import MissingPackage
from trtforge.errors.usage import OtherKind
from trtforge.recipe.models import InputSpec
from trtforge.samples.entries import read_description
from trtforge.samples.load import open_files, open_set
from trtforge.samples.sources import resolve

ONE = {"x": InputSpec(shape=(4, 3))}
TWO = {"a": InputSpec(shape=(4, 3)), "b": InputSpec(shape=(4, 2), dtype="int64")}
PHOTO = {
    "input": InputSpec.model_validate(
        {"shape": (1, 3, 16, 16), "preprocess": {"kind": "image", "resize": (16, 16), "crop": (16, 16)}}
    )
}
REPOSITORY = Path(__file__).parents[2]


def array(path: Path, value: float = 0.0, shape: tuple[int, ...] = (3,), dtype: str = "float32") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.full(shape, value, dtype))
    return path


def described(folder: Path, text: str) -> Path:
    path = folder / "set.yaml"
    path.write_text(text)
    return path


def test_a_set_yields_its_samples_in_order_with_stable_ids(tmp_path: Path) -> None:
    for value in (3, 1, 2):
        array(tmp_path / "data" / f"{value}.npy", value)
    array(tmp_path / "z.npy", 9)
    path = described(tmp_path, "name: small\nlicence: mine\nsamples:\n  - z.npy\n  - ./data/*.npy\n")
    samples = open_set(path, ONE)
    assert samples.name == "small" and len(samples) == 4
    got = list(samples)
    assert [sample.id for sample in got] == ["z.npy", "data/1.npy", "data/2.npy", "data/3.npy"]
    assert [sample.inputs["x"].tolist() for sample in got] == [[[value] * 3] for value in (9, 1, 2, 3)]
    assert [(sample.id, sample.digest) for sample in got] == samples.identities()
    assert got[0].digest == sha256_file(tmp_path / "z.npy")
    assert str(tmp_path) not in str(samples.describe())
    assert list(samples)[2].id == "data/2.npy", "a set can be iterated again"


def test_the_limit_takes_the_first_and_refuses_to_exaggerate(tmp_path: Path) -> None:
    for number in range(3):
        array(tmp_path / f"{number}.npy")
    path = described(tmp_path, "name: s\nsamples: ['*.npy']\n")
    assert [sample.id for sample in open_set(path, ONE, limit=2)] == ["0.npy", "1.npy"]
    with pytest.raises(cal.TooFewSamples) as caught:
        open_set(path, ONE, limit=4)
    assert "3" in caught.value.why


def test_identities_do_not_decode(tmp_path: Path) -> None:
    (tmp_path / "broken.npy").write_bytes(b"not an array")
    samples = open_set(described(tmp_path, "name: s\nsamples: [broken.npy]\n"), ONE)
    assert samples.identities() == [("broken.npy", sha256_file(tmp_path / "broken.npy"))]
    with pytest.raises(cal.SampleUnreadable):
        list(samples)


def test_several_inputs_from_a_mapping_or_one_archive(tmp_path: Path) -> None:
    array(tmp_path / "a.npy", 1)
    array(tmp_path / "b.npy", 7, (2,), "int64")
    np.savez(tmp_path / "both.npz", a=np.ones(3, np.float32), b=np.array([5, 6]))
    path = described(tmp_path, "name: s\nsamples:\n  - {a: a.npy, b: b.npy}\n  - both.npz\n")
    first, second = open_set(path, TWO)
    assert first.id == "a.npy + b.npy"
    assert first.inputs["b"].tolist() == [[7, 7]] and second.inputs["b"].tolist() == [[5, 6]]
    assert first.digest == digest_json({name: sha256_file(tmp_path / f"{name}.npy") for name in "ab"})
    assert second.digest == sha256_file(tmp_path / "both.npz")


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ("a.npy", cal.SampleInputs),
        ("{a: a.npy}", cal.SampleInputs),
        ("{a: a.npy, b: b.npy, c: b.npy}", cal.SampleInputs),
        ("{a: a.npy, b: '?.npy'}", cal.SampleInputs),
        ("{a: a.npy, b: nothing.npy}", cal.SampleMissing),
    ],
)
def test_an_entry_covers_the_inputs_exactly(tmp_path: Path, entry: str, error: type[TrtforgeError]) -> None:
    array(tmp_path / "a.npy")
    array(tmp_path / "b.npy", 0, (2,), "int64")
    with pytest.raises(error) as caught:
        open_set(described(tmp_path, f"name: s\nsamples:\n  - {entry}\n"), TWO)
    assert caught.value.where.endswith("set.yaml:3:5")


def test_a_pinned_file_that_changed_is_refused(tmp_path: Path) -> None:
    digest = sha256_file(array(tmp_path / "a.npy", 1))
    path = described(tmp_path, f"name: s\nsamples:\n  - {{file: a.npy, sha256: {digest}}}\n")
    assert open_set(path, ONE).identities() == [("a.npy", digest)]
    array(tmp_path / "a.npy", 2)
    with pytest.raises(cal.SampleChanged) as caught:
        list(open_set(path, ONE))
    assert digest in caught.value.why and sha256_file(tmp_path / "a.npy") in caught.value.why


@pytest.mark.parametrize("text", ["../a.npy", "/etc/passwd", "data/../../a.npy", "..", "C:\\data\\a.npy", "../*.npy"])
def test_nothing_outside_the_folder_is_reached(tmp_path: Path, text: str) -> None:
    array(tmp_path / "a.npy")
    (tmp_path / "set").mkdir()
    path = described(tmp_path / "set", f"name: s\nsamples: ['{text}']\n")
    with pytest.raises(cal.SampleOutsideSet):
        open_set(path, ONE)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("nothing.npy", cal.SampleMissing),
        ("'*.npz'", cal.SampleMissing),
        ("folder", cal.SampleUnsupported),
        ("package:scikit-image", cal.SampleMissing),
        ("package:scikit-image/skimage/data/nothing.png", cal.SampleMissing),
        ("package:no-such-distribution-here/a.png", MissingPackage),
        ("package:scikit-image/../../secrets", cal.SampleOutsideSet),
    ],
)
def test_what_cannot_be_found_is_said_with_its_line(tmp_path: Path, text: str, error: type[TrtforgeError]) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(error) as caught:
        open_set(described(tmp_path, f"name: s\nsamples:\n\n  - {text}\n"), PHOTO)
    assert caught.value.where.endswith("set.yaml:4:5")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("- a\n", ""),
        ("name: s\n", ""),
        ("name: s\nsamples: 3\n", ""),
        ("name: 5\nsamples: [a]\n", ":1:1"),
        ("name: s\nsample: [a]\nsamples: [a]\n", ":2:1"),
        ("name: s\nname: t\nsamples: [a]\n", ":2:1"),
        ("name: s\nsamples:\n  - 5\n", ":3:5"),
        ("name: s\nsamples:\n  - a.npy\n  - {file: a.npy, sha256: 12}\n", ":4:5"),
        ("name: s\nsamples:\n  - {file: a.npy, digest: 12}\n", ":3:5"),
        ("name: s\nsamples:\n  - {1: a.npy}\n", ":3:5"),
        ("name: 's\nsamples: [\n", ""),
        ("name: s\nsamples: [*x]\n", ""),
    ],
)
def test_a_malformed_set_is_refused_with_its_place(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(cal.SetUnreadable) as caught:
        open_set(described(tmp_path, text), ONE)
    assert f"set.yaml{line}" in caught.value.where


def test_a_glob_without_quotes_gets_the_right_advice(tmp_path: Path) -> None:
    with pytest.raises(cal.SetUnreadable) as caught:
        open_set(described(tmp_path, "name: s\nsamples:\n  - *.npy\n"), ONE)
    assert "quotes" in caught.value.next and caught.value.where.endswith("set.yaml:3:5")


@settings(max_examples=100, deadline=None)
@given(
    content=st.binary(max_size=60) | st.text(alphabet="name: [samples]{}-*&!\n'\"#|>%@", max_size=60).map(str.encode)
)
def test_any_file_is_a_set_or_a_clear_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_bytes(content)
    with pytest.raises(TrtforgeError):
        open_set(path, ONE)


@pytest.mark.parametrize("text", ["**.tiff", "a" * 300 + ".npy", "a" * 300 + "*.npy", "x/" * 3000 + "a.npy"])
def test_paths_the_system_refuses_are_clear_errors(tmp_path: Path, text: str) -> None:
    with pytest.raises(cal.SampleMissing) as caught:
        open_set(described(tmp_path, f"samples:\n  - '{text}'\n"), ONE)
    assert caught.value.where.endswith("set.yaml:2:5")
    assert len(caught.value.what) < 150


def test_nesting_is_refused_and_aliases_are_not_written_out(tmp_path: Path) -> None:
    with pytest.raises(cal.SetUnreadable, match="YAML"):
        open_set(described(tmp_path, "samples: " + "[" * 9000 + "]" * 9000), ONE)
    bomb = "&a0 [x, x]" + "".join(f", &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 40))
    for text in (f"samples:\n  - [{bomb}]\n", f"samples:\n  - {{file: [{bomb}]}}\n", f"name: [{bomb}]\nsamples: []\n"):
        with pytest.raises(cal.SetUnreadable) as caught:
            open_set(described(tmp_path, text), ONE)
        assert len(str(caught.value)) < 1000


def test_empty_and_repeated_are_refused(tmp_path: Path) -> None:
    array(tmp_path / "a.npy")
    with pytest.raises(cal.EmptySet):
        open_set(described(tmp_path, "name: s\nsamples: []\n"), ONE)
    with pytest.raises(cal.EmptySet):
        open_files([], ONE)
    with pytest.raises(cal.SampleRepeated) as caught:
        open_set(described(tmp_path, "name: s\nsamples:\n  - a.npy\n  - '*.npy'\n"), ONE)
    assert ":4:5" in caught.value.where and ":3:5" in caught.value.why
    with pytest.raises(cal.SetUnreadable):
        open_set(tmp_path / "absent.yaml", ONE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_not_finite_is_named_with_its_place(tmp_path: Path, value: float) -> None:
    values = np.zeros(3, np.float32)
    values[1] = value
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(cal.SampleNotFinite) as caught:
        list(open_set(described(tmp_path, "name: s\nsamples: [a.npy]\n"), ONE))
    assert caught.value.where == "a.npy" and "[0, 1]" in caught.value.why


def test_files_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    inside, outside = array(tmp_path / "in" / "a.npy", 1), array(tmp_path.parent / f"{tmp_path.name}-b.npy", 2)
    samples = open_files([inside, outside, inside], ONE)
    assert [sample.id for sample in samples] == ["in/a.npy", outside.name, "in/a.npy#2"]
    with pytest.raises(cal.SampleMissing):
        open_files([tmp_path / "nothing.npy"], ONE)
    with pytest.raises(cal.SampleUnsupported):
        open_files([tmp_path], ONE)
    with pytest.raises(OtherKind, match="is a sample set, not an image, an array or a scan"):
        open_files([inside, described(tmp_path, "samples: [in/a.npy]\n")], ONE)


@pytest.mark.parametrize(
    ("name", "what", "advice"),
    [
        ("cals.yaml", "there is no sample set cals.yaml", "did you mean cal.yaml?"),
        ("other.yaml", "there is no sample set other.yaml", "relative to the file that says it"),
        ("photos", "photos is a folder", 'write photos.yaml beside the folder, with `samples: ["photos/*"]`'),
        ("photos/a.npy", "a.npy is an array", 'with `samples: ["photos/*.npy"]`'),
        ("r.yaml", "r.yaml is a recipe, not a sample set", "`samples: ["),
        ("m.onnx", "m.onnx is an ONNX model, not a sample set", "`samples: ["),
    ],
)
def test_what_is_no_set_is_told_at_the_recipes_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, what: str, advice: str
) -> None:
    monkeypatch.chdir(tmp_path)
    array(tmp_path / "photos" / "a.npy")
    for file, text in (("cal.yaml", "samples: [x]\n"), ("r.yaml", "target: host\n"), ("m.onnx", "")):
        (tmp_path / file).write_text(text)
    with pytest.raises(cal.SetUnreadable) as caught:
        open_set(Path(name), ONE, named_at="recipes/r.yaml:7:12")
    assert caught.value.where == "recipes/r.yaml:7:12"
    assert what in caught.value.what and advice in caught.value.next


def test_an_entry_that_is_mistyped_names_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    array(tmp_path / "photos" / "coffee.npy")
    with pytest.raises(cal.SampleMissing) as caught:
        open_set(described(tmp_path, "samples: [photos/cofee.npy]\n"), ONE)
    assert caught.value.next == "did you mean photos/coffee.npy?"


def test_kind_and_file_must_agree(tmp_path: Path) -> None:
    path = described(tmp_path, "name: s\nsamples: [a.npy]\n")
    array(tmp_path / "a.npy")
    with pytest.raises(cal.SampleUnsupported):
        list(open_set(path, PHOTO))


def test_without_skips_samples_unread(tmp_path: Path) -> None:
    array(tmp_path / "a.npy", 1)
    (tmp_path / "b.npy").write_bytes(b"broken")
    samples = open_set(described(tmp_path, "name: s\nsamples: ['*.npy']\n"), ONE)
    assert [sample.id for sample in samples.without(["b.npy"])] == ["a.npy"]  # type: ignore[attr-defined]


def test_the_photographs_decode_and_the_heldout_ones_are_others() -> None:
    pytest.importorskip("skimage", reason="the photographs are in the extra `demo`")
    pytest.importorskip("sklearn", reason="the photographs are in the extra `demo`")
    calibration = open_set(REPOSITORY / "calib_data" / "photographs.yaml", PHOTO)
    heldout = open_set(REPOSITORY / "calib_data" / "photographs_heldout.yaml", PHOTO)
    seen, unseen = list(calibration), list(heldout)
    assert len(seen) >= 8 and len(unseen) >= 4
    assert not {sample.digest for sample in seen} & {sample.digest for sample in unseen}
    pixels = {sample.inputs["input"].tobytes() for sample in seen + unseen}
    assert len(pixels) == len(seen) + len(unseen), "no photograph is in the sets under two names"


def test_a_missing_set_and_a_missing_sample_say_why(tmp_path: Path) -> None:
    for path in (tmp_path / "no.yaml", tmp_path / "nowhere" / "no.yaml"):
        with pytest.raises(cal.SetUnreadable) as caught:
            read_description(path)
        assert caught.value.why and caught.value.next
    with pytest.raises(cal.SampleMissing) as missing:
        resolve("a/*.png", tmp_path, where="s.yaml:1:1")
    assert str(tmp_path) in missing.value.why
