"""Plan headers: synthetic ones of TensorRT, real ones of TensorRT-RTX built here, and everything that is neither."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import onnx
import onnx.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtforge.backends.nvidia.process import run
from trtforge.backends.plan_format import HEADER_BYTES
from trtforge.backends.tensorrt_rtx_ import environment
from trtforge.backends.tensorrt_rtx_.job import job
from trtforge.engines.plan_header import PlanHeader, check, read_header
from trtforge.errors.engine import (
    ForeignGpu,
    ForeignTensorRT,
    NotAPlan,
    PlanSizeMismatch,
    UnknownPlanLayout,
    WrappedPlan,
)
from trtforge.progress import QUIET

needs_rtx = pytest.mark.skipif(bool(environment.missing()), reason="TensorRT-RTX is not installed (extra `rtx`)")
READER_ERRORS = (NotAPlan, PlanSizeMismatch, UnknownPlanLayout)


def tensorrt_plan(version: tuple[int, int, int, int] = (10, 3, 0, 26), serialization: int = 0) -> bytes:
    return b"ftrt" + struct.pack("<I", serialization) + bytes(16) + bytes(version) + bytes(100)


@pytest.fixture(scope="module")
def rtx_plans(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Path]:
    """One small convolution compiled for several lists of GPUs; the empty list is the compiler's default."""
    folder = tmp_path_factory.mktemp("plans")
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        net (float[1, 8, 8, 8] x) => (float[1, 8, 8, 8] y) { z = Abs(x)  y = Sqrt(z) }"""
    )
    onnx.save(model, folder / "net.onnx")
    plans = {}
    for sms in [("SM80",), ("SM86",), ("SM89",), ("SM120",), ("SM80", "SM86"), ()]:
        plans[sms] = folder / f"{'-'.join(sms) or 'all'}.plan"
        asked = job(folder / "net.onnx", plans[sms], sms, 1 << 30, "test")
        run(asked, timeout=300, progress=QUIET)
    return plans


@pytest.mark.rtx
@needs_rtx
@pytest.mark.parametrize(
    ("asked", "sms", "and_later"),
    [
        (("SM80",), ("8.0",), False),
        (("SM86",), ("8.6",), False),
        (("SM89",), ("8.9",), False),
        (("SM120",), ("12.0",), False),
        (("SM80", "SM86"), ("8.0", "8.6"), False),
        ((), ("8.0", "8.6", "8.9", "12.0", "12.1"), True),
    ],
)
def test_header_of_real_rtx_plan(
    rtx_plans: dict[tuple[str, ...], Path], asked: tuple[str, ...], sms: tuple[str, ...], and_later: bool
) -> None:
    plan = rtx_plans[asked]
    header = read_header(plan)
    assert header.kind == "tensorrt_rtx"
    assert header.version == environment.versions()["tensorrt-rtx-cu12"]
    assert (header.sms, header.and_later) == (sms, and_later)
    assert header.declared_size == plan.stat().st_size
    assert header.offset == 0
    assert read_header(plan.read_bytes()[:HEADER_BYTES], plan.stat().st_size) == header


@pytest.mark.rtx
@needs_rtx
def test_cut_extended_and_altered_rtx_plans_are_refused(rtx_plans: dict[tuple[str, ...], Path], tmp_path: Path) -> None:
    data = rtx_plans[("SM80",)].read_bytes()
    for changed, error in [
        (data[:-1], PlanSizeMismatch),
        (data + b"\0", PlanSizeMismatch),
        (data[:20], PlanSizeMismatch),
        (data[:8] + b"\3" + data[9:], UnknownPlanLayout),  # layout number
        (data[:0x20] + b"\xff" * 8 + data[0x28:], UnknownPlanLayout),  # GPUs nobody knows
        (data[:0x48] + b"\xff" * 8 + data[0x50:], UnknownPlanLayout),  # a section outside the file
        (b"\0" + data[1:], NotAPlan),
    ]:
        path = tmp_path / "model.plan"
        path.write_bytes(changed)
        with pytest.raises(error) as caught:
            read_header(path)
        assert str(path) in caught.value.where
        assert caught.value.why
        assert caught.value.next


@pytest.mark.rtx
@needs_rtx
def test_check_refuses_wrong_gpu_and_version(rtx_plans: dict[tuple[str, ...], Path]) -> None:
    header = read_header(rtx_plans[("SM80",)])
    check(header, tensorrt_version=header.version, sm="8.0")
    with pytest.raises(ForeignGpu, match="another GPU") as caught:
        check(header, sm="8.6", where="engines/net/1/model.plan")
    assert "built for SM 8.0; here is SM 8.6" in caught.value.why
    with pytest.raises(ForeignTensorRT) as other:
        check(header, tensorrt_version="1.6.0.3")
    assert header.version in other.value.why
    assert "1.6.0.3" in other.value.why
    everywhere = read_header(rtx_plans[()])
    check(everywhere, sm="12.1")
    check(everywhere, sm="9.0")  # "and later": the runtime decides
    with pytest.raises(ForeignGpu):
        check(everywhere, sm="7.5")


def test_tensorrt_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.plan"
    path.write_bytes(tensorrt_plan())
    header = read_header(path)
    assert header == PlanHeader("tensorrt", "10.3.0.26")
    assert header.maker == "TensorRT 10.3.0.26"
    check(header, tensorrt_version="10.3", sm="8.7")  # its header does not name GPUs
    check(header, tensorrt_version="10.3.0.26")
    with pytest.raises(ForeignTensorRT) as caught:
        check(header, tensorrt_version="10.7.0")
    assert "built by TensorRT 10.3.0.26; here is TensorRT 10.7.0" in caught.value.why


@pytest.mark.parametrize("serialization", [0x2B, 0x57, 0x59, 0x60, 0x61])
def test_old_tensorrt_plans_are_recognised_and_never_match(serialization: int) -> None:
    header = read_header(tensorrt_plan(serialization=serialization))
    assert header == PlanHeader("tensorrt", "")
    assert "older" in header.maker
    with pytest.raises(ForeignTensorRT):
        check(header, tensorrt_version="8.6")


def test_unknown_serialization_is_refused() -> None:
    with pytest.raises(UnknownPlanLayout, match="not known"):
        read_header(tensorrt_plan(serialization=7))


def test_json_in_front_of_a_plan_is_found_and_refused(tmp_path: Path) -> None:
    metadata = json.dumps({"author": "exporter", "names": {i: f"class {i}" for i in range(100)}}).encode()
    wrapped = struct.pack("<I", len(metadata)) + metadata + tensorrt_plan()
    path = tmp_path / "best.engine"
    path.write_bytes(wrapped)
    header = read_header(path)
    assert header.offset == 4 + len(metadata)
    assert wrapped[header.offset :] == tensorrt_plan()
    assert read_header(wrapped) == header
    assert header.version == "10.3.0.26"
    with pytest.raises(WrappedPlan) as caught:
        check(header)
    assert caught.value.next == f"tail -c +{header.offset + 1} FILE > model.plan"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"<html><body>404</body></html>" * 9, "3c 68 74 6d"),
        (b"\x08\x08\x12\x07pytorch\x1a\x052.0.0onnx:graph" + bytes(90), "ONNX"),
        (struct.pack("<I", 2) + b"{}" + b"nothing here", "no plan follows"),
    ],
)
def test_other_files_are_named_for_what_they_are(data: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(NotAPlan) as caught:
        read_header(path)
    assert why in caught.value.why


@given(st.binary(max_size=200))
def test_random_bytes_never_crash(data: bytes) -> None:
    try:
        read_header(data)
    except READER_ERRORS as error:
        assert error.what


@given(magic=st.sampled_from([b"vtrt", b"ftrt", b"ptrt"]), data=st.binary(max_size=200), size=st.integers(0, 1 << 40))
def test_random_bytes_behind_a_right_magic_never_crash(magic: bytes, data: bytes, size: int) -> None:
    try:
        header = read_header(magic + data, size)
    except READER_ERRORS as error:
        assert error.what
    else:
        assert header.kind == ("tensorrt_rtx" if magic == b"vtrt" else "tensorrt")


@given(data=st.binary(max_size=HEADER_BYTES), mask=st.integers(0, 127))
def test_random_rtx_headers_that_are_consistent_are_read(data: bytes, mask: int) -> None:
    header = bytearray(data.ljust(HEADER_BYTES, b"\0"))
    header[0:4] = header[0x1C:0x20] = b"vtrt"
    struct.pack_into("<QQ", header, 0x08, 2, len(header))
    struct.pack_into("<Q", header, 0x20, mask)
    struct.pack_into("<QQ", header, 0x48, 0x70, 0)
    struct.pack_into("<QQ", header, 0x60, 0x70, 4)
    found = read_header(bytes(header))
    assert len(found.sms or ()) == (mask & 63).bit_count()
    assert found.and_later == bool(mask >> 6)
