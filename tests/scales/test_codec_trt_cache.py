"""TensorRT's cache: published values, bits that survive, and every bad line refused by its number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtforge.errors.calibration import TensorRTCacheInvalid, TensorRTCacheUnsupported
from trtforge.scales.codecs.trt_cache import ALGORITHMS, NOTE, CalibrationCache, header_version
from trtforge.scales.table import ScaleTable, TensorRange

names = st.text(min_size=1).filter(lambda name: not set(name) & set("\r\n") and name.isprintable())
scales = st.floats(
    min_value=float(np.finfo(np.float32).smallest_subnormal), max_value=float(np.finfo(np.float32).max), width=32
).map(np.float32)


def read(*lines: str) -> CalibrationCache:
    return CalibrationCache.from_bytes("\n".join(lines).encode())


def test_kits19_input_is_the_bound_of_its_preprocessing() -> None:
    # MLPerf 3D-UNet: voxels are clipped to 304, then (x - 101) / 76.9.
    cache = read("TRT-8201-MinMaxCalibration", "input: 3caa46e8", "")
    assert (cache.version, cache.algorithm) == (8201, "MinMaxCalibration")
    assert cache.to_table().ranges["input"].amax == pytest.approx((304 - 101) / 76.9, rel=1e-6)
    assert cache.to_table().ranges["input"].amax == pytest.approx(2.639792, abs=5e-7)


def test_resnet50_input_is_128_over_127() -> None:
    cache = read("TRT-8001-EntropyCalibration2", "input_tensor_0: 3f810204", "")
    assert cache.algorithm == "EntropyCalibration2"
    assert cache.scales["input_tensor_0"] == np.float32(128 / 127)
    assert cache.to_table().ranges["input_tensor_0"].amax == pytest.approx(128.0, rel=1e-7)


def test_unit_range_is_one_over_127() -> None:
    assert read("TRT-100300-MinMaxCalibration", "images: 3c010204").scales["images"] == np.float32(1 / 127)
    table = ScaleTable({"images": TensorRange(-1.0, 0.5, 3)})
    written = CalibrationCache.from_table(table, tensorrt="10.3.0").to_bytes()
    assert written == b"TRT-100300-MinMaxCalibration\nimages: 3c010204\n"


@pytest.mark.parametrize(
    ("version", "number"),
    [
        ("8.0.1.6", 8001),
        ("8.2.1", 8201),
        ("8.2.1.8", 8201),
        ("8.4.0", 8400),
        ("8.5.2", 8502),
        ("8.6", 8600),
        ("8.6.2", 8602),
        ("8.6.12", 8612),
        ("10.0.1", 100001),
        ("10.3.0", 100300),
        ("10.3.0.26", 100300),
        ("10.16.1.11", 101601),
    ],
)
def test_header_version(version: str, number: int) -> None:
    assert header_version(version) == number


def test_versions_without_a_cache_are_refused() -> None:
    for version, said in (("11.4.0", "removed"), ("ten", ""), ("", ""), ("8", "")):
        with pytest.raises(TensorRTCacheUnsupported) as caught:
            header_version(version)
        assert said in caught.value.why


@given(st.dictionaries(names, scales), st.sampled_from(ALGORITHMS), st.integers(0, 10**6))
def test_bytes_round_trip(entries: dict[str, np.float32], algorithm: str, version: int) -> None:
    cache = CalibrationCache(version, algorithm, entries)  # type: ignore[arg-type]
    again = CalibrationCache.from_bytes(cache.to_bytes())
    assert again.to_bytes() == cache.to_bytes()
    assert list(again.scales) == list(entries)


@given(st.dictionaries(names, scales))
def test_cache_to_table_to_cache_keeps_every_bit(entries: dict[str, np.float32]) -> None:
    cache = CalibrationCache(8602, "MinMaxCalibration", entries)
    table = ScaleTable.from_json(cache.to_table().to_json())
    back = CalibrationCache.from_table(table, tensorrt="8.6.2")
    assert {n: s.tobytes() for n, s in back.scales.items()} == {n: s.tobytes() for n, s in entries.items()}
    assert table.notes[NOTE] == {"version": 8602, "algorithm": "MinMaxCalibration"}


def test_names_may_hold_colons_and_spaces() -> None:
    cache = read(
        "TRT-8602-MinMaxCalibration", "input:0: 3c010204", "a: b: 3c010204", "(Unnamed Layer* 3)_out: 3c010204"
    )
    assert list(cache.scales) == ["input:0", "a: b", "(Unnamed Layer* 3)_out"]


def test_windows_line_ends_and_upper_case_are_read() -> None:
    cache = CalibrationCache.from_bytes(b"TRT-8602-MinMaxCalibration\r\nx: 3C010204\r\n")
    assert cache.to_bytes() == b"TRT-8602-MinMaxCalibration\nx: 3c010204\n"


@pytest.mark.parametrize(
    ("lines", "number", "said"),
    [
        ([""], 1, "TRT-<version>"),
        (["x: 3c010204"], 1, "TRT-<version>"),
        (["TRT-8602"], 1, "TRT-<version>"),
        (["TRT-8602-Percentile"], 1, "none of"),
        ([f"TRT-{'9' * 20}-MinMaxCalibration"], 1, "TRT-<version>"),
        ([" TRT-8602-MinMaxCalibration"], 1, "TRT-<version>"),
        (["TRT-8602-MinMaxCalibration", "x 3c010204"], 2, "<tensor>"),
        (["TRT-8602-MinMaxCalibration", ": 3c010204"], 2, "<tensor>"),
        (["TRT-8602-MinMaxCalibration", "x: 3c0102"], 2, "8 hex"),
        (["TRT-8602-MinMaxCalibration", "x: 0x3c010204"], 2, "8 hex"),
        (["TRT-8602-MinMaxCalibration", "x: 3c01020g"], 2, "8 hex"),
        (["TRT-8602-MinMaxCalibration", "x: 0.00787"], 2, "8 hex"),
        (["TRT-8602-MinMaxCalibration", "x: 3c010204", "", "y: 3c010204"], 3, "<tensor>"),
        (["TRT-8602-MinMaxCalibration", "x: 7fc00000"], 2, "nan"),
        (["TRT-8602-MinMaxCalibration", "x: 7f800000"], 2, "inf"),
        (["TRT-8602-MinMaxCalibration", "x: 00000000"], 2, "positive"),
        (["TRT-8602-MinMaxCalibration", "x: 80000000"], 2, "positive"),
        (["TRT-8602-MinMaxCalibration", "x: bc010204"], 2, "positive"),
        (["TRT-8602-MinMaxCalibration", "x: 3c010204", "y: 3c010204", "x: 3c010205"], 4, "already"),
    ],
)
def test_bad_lines_are_named(lines: list[str], number: int, said: str) -> None:
    with pytest.raises(TensorRTCacheInvalid) as caught:
        CalibrationCache.from_bytes("\n".join(lines).encode(), where="calib.cache")
    assert caught.value.where == f"calib.cache:{number}"
    assert said in caught.value.why
    assert repr(lines[number - 1]) in caught.value.what


@given(st.binary())
def test_random_bytes_give_the_one_error(data: bytes) -> None:
    try:
        CalibrationCache.from_bytes(data)
    except TensorRTCacheInvalid as error:
        assert error.where and error.why and error.next


def test_zero_ranges_and_unwritable_names() -> None:
    table = ScaleTable({"dead": TensorRange(0.0, 0.0, 3)})
    assert CalibrationCache.from_table(table, tensorrt="8.6.2").scales == {"dead": 1.0}
    for name in ("a\nb", "a\rb", ""):
        cache = CalibrationCache.from_table(ScaleTable({name: TensorRange(0.0, 1.0, 1)}), tensorrt="8.6.2")
        with pytest.raises(TensorRTCacheUnsupported):
            cache.to_bytes()
    with pytest.raises(TensorRTCacheUnsupported, match="no calibrator"):
        CalibrationCache.from_table(table, tensorrt="8.6.2", algorithm="MinMax")  # type: ignore[arg-type]


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "calib.cache"
    cache = CalibrationCache(8602, "EntropyCalibration2", {"x": np.float32(0.5)})
    cache.save(path)
    assert CalibrationCache.load(path) == cache
    with pytest.raises(TensorRTCacheInvalid, match="cannot be opened"):
        CalibrationCache.load(tmp_path / "none")
