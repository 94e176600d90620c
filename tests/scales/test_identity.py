"""Is this cache one for this model, this TensorRT, this calibrator?"""

from __future__ import annotations

import pytest
from onnx.parser import parse_model

from trtforge.errors.calibration import TensorRTCacheInvalid, TensorRTCacheUnsupported
from trtforge.errors.scales import CacheOfAnotherCalibrator, CacheOfAnotherVersion, ScalesNotOfModel
from trtforge.graph.model import Model
from trtforge.scales.identity import cache_for, check_names, shown_version

GRAPH = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,4] x) => (float[1,4] y) {
    a = Relu(x)
    b = Abs(a)
    y = Neg(b)
}"""
MODEL = Model(parse_model(GRAPH))


def cache(*names: str, header: str = "TRT-8602-MinMaxCalibration") -> bytes:
    return "\n".join([header, *(f"{name}: 3c010204" for name in names), ""]).encode()


def test_a_fitting_cache_has_nothing_to_tell() -> None:
    checked = cache_for(MODEL, cache("x", "a", "y"), tensorrt="8.6.2", algorithm="MinMaxCalibration")
    assert checked.findings == ()
    assert checked.match.share == 1.0


@pytest.mark.parametrize("tensorrt", ["8.6.2", "8.6", "8.6.2.3"])
def test_a_version_without_a_patch_accepts_every_patch(tensorrt: str) -> None:
    cache_for(MODEL, cache("x"), tensorrt=tensorrt)


@pytest.mark.parametrize(
    ("header", "tensorrt", "of"),
    [
        ("TRT-8602-MinMaxCalibration", "8.6.1", "8.6.2"),
        ("TRT-8602-MinMaxCalibration", "8.5", "8.6.2"),
        ("TRT-100300-MinMaxCalibration", "8.6.2", "10.3.0"),
        ("TRT-8602-MinMaxCalibration", "10.3.0", "8.6.2"),
    ],
)
def test_a_cache_of_another_version_is_refused(header: str, tensorrt: str, of: str) -> None:
    with pytest.raises(CacheOfAnotherVersion, match=of) as caught:
        cache_for(MODEL, cache("x", header=header), tensorrt=tensorrt, where="net.cache")
    assert caught.value.where == "net.cache:1"
    assert f"--tensorrt {tensorrt} --algorithm MinMaxCalibration" in caught.value.next


def test_a_cache_of_another_calibrator_is_refused() -> None:
    with pytest.raises(CacheOfAnotherCalibrator, match="MinMaxCalibration, and EntropyCalibration2") as caught:
        cache_for(MODEL, cache("x"), tensorrt="8.6.2", algorithm="EntropyCalibration2", where="net.cache")
    assert "--tensorrt 8.6.2 --algorithm EntropyCalibration2" in caught.value.next


def test_a_version_that_reads_no_cache_is_refused() -> None:
    with pytest.raises(TensorRTCacheUnsupported):
        cache_for(MODEL, cache("x"), tensorrt="11.4")


def test_a_bad_line_is_named_by_its_number() -> None:
    with pytest.raises(TensorRTCacheInvalid) as caught:
        cache_for(MODEL, cache("x", "a") + b"y: 3c01\n", where="net.cache")
    assert caught.value.where == "net.cache:4"


@pytest.mark.parametrize("names", [("p", "q"), ("x", "q", "r"), (), ("(Unnamed Layer* 3) [Scale]_output",)])
def test_a_cache_of_another_model_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ScalesNotOfModel, match="not of this model") as caught:
        cache_for(MODEL, cache(*names), where="net.cache")
    assert caught.value.where == "net.cache"


def test_half_of_the_names_is_enough_and_the_rest_is_told() -> None:
    checked = cache_for(MODEL, cache("x", "a", "q", "r", "(Unnamed Layer* 3) [Scale]_output"))
    assert checked.match.share == 0.5
    strangers, internal = checked.findings
    assert strangers.startswith("2 of 4 scales name no tensor of the model") and "q, r" in strangers
    assert internal.startswith("1 scales are of tensors that TensorRT added")


def test_scales_of_any_form_are_checked_by_name() -> None:
    assert check_names(["x", "b"], MODEL).known == ("x", "b")


@pytest.mark.parametrize(
    ("number", "version"), [(8602, "8.6.2"), (7203, "7.2.3"), (100300, "10.3.0"), (101601, "10.16.1")]
)
def test_versions_are_read_back(number: int, version: str) -> None:
    assert shown_version(number) == version
