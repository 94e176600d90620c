"""Loading and running: what can be held true without a GPU, and the real thing where there is one."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx.reference import ReferenceEvaluator

from trtforge.backends.base import CompileRequest
from trtforge.backends.nvidia import allocator
from trtforge.backends.nvidia import session as plan_session
from trtforge.backends.tensorrt_rtx_ import environment, session
from trtforge.backends.tensorrt_rtx_.backend import COMPUTE_CAPABILITIES, TensorRTRtxBackend
from trtforge.engines.machine import compute_capability
from trtforge.errors.environment import NoGpu
from trtforge.graph.model import Model
from trtforge.recipe.models import Engine
from trtforge.targets.model import Target

needs_rtx = pytest.mark.skipif(bool(environment.missing()), reason="TensorRT-RTX is not installed (extra `rtx`)")


@pytest.mark.skipif(not environment.driver_problem(), reason="this machine has a GPU")
def test_without_a_driver_nothing_of_tensorrt_is_touched(tmp_path: Path) -> None:
    (tmp_path / "model.plan").write_bytes(b"vtrt")
    with pytest.raises(NoGpu) as caught:
        TensorRTRtxBackend().load(tmp_path, {})
    assert caught.value.why == environment.driver_problem()
    code = (
        "import sys; from pathlib import Path\n"
        "from trtforge.backends.tensorrt_rtx_.backend import TensorRTRtxBackend\n"
        "backend = TensorRTRtxBackend(); backend.availability()\n"
        "try: backend.load(Path('.'), {})\n"
        "except Exception as error: print(type(error).__name__, 'tensorrt_rtx' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["NoGpu", "False"]
    here = TensorRTRtxBackend().availability()
    assert not here.can_run
    assert here.why


@pytest.mark.rtx
@needs_rtx
def test_every_call_exists_in_the_bindings() -> None:
    """The session was not run on hardware here; at least no name in it is made up."""
    trt = pytest.importorskip("tensorrt_rtx")
    source = inspect.getsource(session) + inspect.getsource(plan_session) + inspect.getsource(allocator)
    for receiver, owner in [
        (r"\bruntime", trt.Runtime),
        (r"\bengine", trt.ICudaEngine),
        (r"self\._context", trt.IExecutionContext),
        (r"\btrt", trt),
        (r"self\._trt", trt),
    ]:
        names = set(re.findall(rf"{receiver}\.(\w+)", source))
        assert names
        for name in names:
            assert hasattr(owner, name), f"{owner} has no {name}"
    assert {"VERSION_MISMATCH", "UNSUPPORTED_CC"} <= set(trt.EngineInvalidityDiagnostics.__members__)
    assert {"INPUT", "OUTPUT"} <= set(trt.TensorIOMode.__members__)


@pytest.mark.gpu
@pytest.mark.rtx
@needs_rtx
@pytest.mark.skipif(bool(environment.driver_problem()), reason=environment.driver_problem() or "-")
@pytest.mark.skipif(environment.cuda_version() is None, reason="cuda-bindings is not installed")
def test_a_real_engine_runs_as_onnx_says(tmp_path: Path) -> None:
    """On a machine with a GPU that TensorRT-RTX knows: build for it, run there, compare with ONNX's reference."""
    sm = compute_capability()
    if sm not in COMPUTE_CAPABILITIES:
        pytest.skip(f"TensorRT-RTX does not compile for SM {sm}")
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        net (float[2, 8] x, float[2, 8] z) => (float[2, 8] y, float[2, 8] s)
        { a = Mul(x, z)  y = Tanh(a)  s = Sub(x, z) }"""
    )
    recipe = Engine.model_validate(
        {
            "model": {"onnx": "net.onnx"},
            "inputs": {name: {"shape": [2, 8]} for name in ("x", "z")},
            "precision": "fp32",
        }
    )
    backend = TensorRTRtxBackend()
    backend.compile(CompileRequest(Model(proto), None, recipe, Target("gpu", "GPU", "discrete", sm=sm), tmp_path))
    engine = backend.load(tmp_path, {})
    rng = np.random.default_rng(0)
    for _ in range(3):
        feeds = {name: rng.normal(size=(2, 8)).astype(np.float32) for name in ("x", "z")}
        want = dict(zip(("y", "s"), ReferenceEvaluator(proto).run(None, feeds), strict=True))
        got = engine.run(feeds)
        for name, values in want.items():
            np.testing.assert_allclose(got[name], values, rtol=1e-5, atol=1e-5)
