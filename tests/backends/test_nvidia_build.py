"""What native TensorRT's builds share with TensorRT-RTX's, built for real by the one that is here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx.parser
import pytest

from trtforge.backends.nvidia.answer import Compiled, CompileJob, Compiler
from trtforge.backends.nvidia.options import Dla, Options, Tensor
from trtforge.backends.nvidia.process import run
from trtforge.backends.plan_format import read_header
from trtforge.backends.tensorrt_rtx_ import environment
from trtforge.errors.backend import CompilerRefused
from trtforge.errors.native import NotOffered
from trtforge.progress import QUIET

pytestmark = [
    pytest.mark.rtx,
    pytest.mark.skipif(bool(environment.missing()), reason="TensorRT-RTX is not installed (extra `rtx`)"),
]
NET = """<ir_version: 8, opset_import: ["": 17]>
net (float[n, 3, 16, 16] x) => (float[n, 3, 16, 16] y) { a = Tanh(x)  y = Mul(a, x) }"""


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Compiled]:
    def build(net: str | onnx.ModelProto = NET, **options: Any) -> Compiled:
        onnx.save(onnx.parser.parse_model(net) if isinstance(net, str) else net, tmp_path / "net.onnx")
        compiler = Compiler("tensorrt_rtx", "TensorRT-RTX", environment.INSTALL, environment.child_environment())
        asked = Options(1 << 28, compute_capabilities=("SM86",), **options)
        job = CompileJob(compiler, tmp_path / "net.onnx", tmp_path / "net.plan", asked, "test")
        return run(job, timeout=120, progress=QUIET)

    return build


def test_open_sizes(build: Callable[..., Compiled], tmp_path: Path) -> None:
    shapes = tuple((batch, 3, 16, 16) for batch in (1, 2, 8))
    made = build(inputs={"x": Tensor(shapes=shapes)})
    assert made.inputs[0]["shape"] == [-1, 3, 16, 16]
    assert read_header(tmp_path / "net.plan").sms == ("8.6",)
    with pytest.raises(NotOffered, match="cannot build what the recipe asks for") as caught:
        build()
    assert "open sizes" in caught.value.why


def test_options_that_it_shares(build: Callable[..., Compiled], tmp_path: Path) -> None:
    fixed = NET.replace("float[n,", "float[2,")
    build(fixed, optimization_level=5, direct_io=True, timing_cache=str(tmp_path / "times"))
    assert (tmp_path / "times").exists()
    with pytest.raises(NotOffered) as caught:
        build(fixed, dla=Dla(0))
    assert "DLA core 0 is not here" in caught.value.why
    with pytest.raises(NotOffered) as caught:
        build(fixed, precision="int8", calibration={"cache": "none", "algorithm": "MinMaxCalibration"})
    assert "no precision flags" in caught.value.why
    with pytest.raises(CompilerRefused):
        build(fixed, version_compatible=True)  # wants a library that the package has not
