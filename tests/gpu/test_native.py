"""Native TensorRT on the machine it is on: builds, calibrates, runs, and says what it did.

Nothing of this has run yet, for want of such a machine; `make validate` runs it on one and writes a report.
docs/validate-on-device.md says how.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trtforge.backends.base import CompileRequest, CompileResult
from trtforge.backends.tensorrt_ import environment
from trtforge.backends.tensorrt_.backend import NativeTensorRT, known_features
from trtforge.backends.tensorrt_.calibrate import calibrate
from trtforge.engines.machine import compute_capability
from trtforge.errors.base import TrtforgeError
from trtforge.graph.model import Model
from trtforge.graph.passes.registry import run
from trtforge.ort import import_onnxruntime
from trtforge.recipe.models import Builder, Engine, InputSpec
from trtforge.samples.base import Sample
from trtforge.scales.collect import collect
from trtforge.targets.load import get, keys
from trtforge.targets.model import Target

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(environment.problem()[0]), reason=environment.problem()[0] or "-"),
]
SHAPE = (2, 3, 32, 32)


def network() -> onnx.ModelProto:
    """Two convolutions with a sum, a pool and a matrix product: x [n, 3, 32, 32] to y [n, 8]."""
    random = np.random.default_rng(5)
    weights = {
        "w0": random.normal(0, 0.3, (32, 3, 3, 3)),
        "w1": random.normal(0, 0.1, (32, 32, 3, 3)),
        "w2": random.normal(0, 0.2, (32, 8)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], "conv0", pads=[1] * 4),
        helper.make_node("Relu", ["c0"], ["r0"], "relu0"),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], "conv1", pads=[1] * 4),
        helper.make_node("Add", ["c1", "r0"], ["a"], "add"),
        helper.make_node("Relu", ["a"], ["r1"], "relu1"),
        helper.make_node("GlobalAveragePool", ["r1"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("MatMul", ["f", "w2"], ["y"], "product"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Samples:
    name = "noise"

    def __len__(self) -> int:
        return 16

    def __iter__(self) -> Iterator[Sample]:
        for index in range(len(self)):
            noise = np.random.default_rng(index).standard_normal((1, *SHAPE[1:])).astype(np.float32)
            yield Sample(f"s{index}", f"{index:064x}", {"x": noise})

    def identities(self) -> list[tuple[str, str]]:
        return [(sample.id, sample.digest) for sample in self]

    def describe(self) -> dict[str, Any]:
        return {"inputs": {}}


@pytest.fixture(scope="module")
def model() -> Model:
    return run(Model(network()), ["infer-shapes"])[0]


@pytest.fixture(scope="module")
def scales(model: Model) -> Any:
    return collect(model, Samples())


@pytest.fixture
def request_for(model: Model, scales: Any, tmp_path: Path) -> Any:
    def request_for(precision: str = "int8", target: Target | None = None, **engine: Any) -> CompileRequest:
        said = Engine.model_validate(
            {
                "model": {"onnx": "net.onnx"},
                "inputs": {"x": {"shape": SHAPE}},
                "precision": precision,
                "calibration": {"scales": "s.json"} if precision == "int8" else None,
            }
        ).model_copy(update=engine)
        here = target or Target("this", "This GPU", "discrete", sm=compute_capability())
        return CompileRequest(model, scales if precision == "int8" else None, said, here, tmp_path)

    return request_for


def compiled(request: CompileRequest) -> tuple[CompileResult, Any]:
    result = NativeTensorRT().compile(request)
    return result, NativeTensorRT().load(request.workdir, result.report)


def cosine(got: np.ndarray[Any, Any], want: np.ndarray[Any, Any]) -> float:
    return float((got * want).sum() / np.sqrt((got**2).sum() * (want**2).sum()))


@pytest.fixture(scope="module")
def truth() -> Any:
    session = import_onnxruntime().InferenceSession(network().SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})[0]


X = np.random.default_rng(99).standard_normal(SHAPE).astype(np.float32)


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.99999), ("fp16", 0.9999), ("int8", 0.995)])
def test_an_engine_computes_what_onnx_says(request_for: Any, truth: Any, precision: str, least: float) -> None:
    result, session = compiled(request_for(precision))
    for _ in range(3):  # ordinary, captured into a CUDA graph, replayed
        assert cosine(session.run({"x": X})["y"], truth(X)) >= least
    assert result.report["layers"] > 0 and (result.files["layers.json"]).read_text().startswith("{")


@pytest.mark.parametrize("format", ["linear", "chw4", "chw32"])
def test_an_int8_input_in_its_format(request_for: Any, truth: Any, format: str) -> None:
    inputs = {"x": InputSpec(shape=SHAPE, dtype="int8", format=format)}
    _, session = compiled(request_for(inputs=inputs))
    assert cosine(session.run({"x": X})["y"], truth(X)) >= 0.99


def test_open_sizes(request_for: Any, truth: Any) -> None:
    ranged = {
        "x": InputSpec.model_validate({"shape": SHAPE, "range": {"min": [1, *SHAPE[1:]], "max": [4, *SHAPE[1:]]}})
    }
    _, session = compiled(request_for("fp16", inputs=ranged))
    for batch in (1, 4, 2):
        x = np.resize(X, (batch, *SHAPE[1:]))
        assert cosine(session.run({"x": x})["y"], truth(x)) >= 0.9999


def test_nothing_is_copied_to_a_device_that_shares_the_memory(request_for: Any) -> None:
    from trtforge.gpu import cuda_core

    facts = cuda_core().Device(0).properties
    _, session = compiled(request_for("fp16"))
    session.run({"x": X})
    assert session.traffic["host_to_device"] == (0 if facts.integrated else X.nbytes)


def test_its_own_calibrator_finds_the_ranges_of_this_project(request_for: Any, scales: Any) -> None:
    known = known_features(environment.version())
    if not known.calibrators:
        pytest.skip(f"TensorRT {environment.version()} has no calibrators")
    cache = calibrate(request_for(), Samples(), known)
    shared = cache.scales.keys() & scales.ranges.keys()
    assert {"x", "r0", "r1", "y"} <= shared
    for name in shared:
        assert cache.scales[name] == pytest.approx(scales.ranges[name].scale, rel=1e-3), name


def test_a_second_build_finds_its_kernels_in_the_timing_cache(request_for: Any) -> None:
    made = NativeTensorRT().compile(request_for("fp16"))
    pinned = made.files["timing.cache"].rename(made.files["timing.cache"].with_name("pinned"))
    again = NativeTensorRT().compile(replace(request_for("fp16"), timing=pinned))
    assert again.report["timing_cache"] == made.report["timing_cache"]


def test_an_engine_for_more_gpus(request_for: Any) -> None:
    if compute_capability() in ("7.2", "8.7"):
        pytest.skip("a Jetson has none")
    result, _ = compiled(request_for("fp16", builder=Builder(hardware_compatibility="ampere_plus")))
    assert result.report["summary"]


def test_on_a_dla(request_for: Any, truth: Any) -> None:
    """Whatever the device is called: the first DLA target with this GPU."""
    target = next((get(key) for key in keys() if get(key).is_dla and get(key).sm == compute_capability()), None)
    if target is None:
        pytest.skip("no DLA has this GPU beside it")
    try:
        result, session = compiled(request_for(target=target))
    except TrtforgeError as error:
        if error.code == "BLD223":
            pytest.skip(error.why)
        raise
    assert result.report["devices"]["dla"] >= 1
    assert cosine(session.run({"x": X})["y"], truth(X)) >= 0.99
