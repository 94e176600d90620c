"""What of TensorRT-RTX is installed, and the answer where it is not."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import onnx.parser
import pytest

from trtforge.backends.base import Backend, CompileRequest
from trtforge.backends.registry import get
from trtforge.backends.tensorrt_rtx_ import environment
from trtforge.errors.environment import MissingPackage
from trtforge.graph.model import Model
from trtforge.recipe.models import Engine
from trtforge.targets.model import Target

needs_rtx = pytest.mark.skipif(bool(environment.missing()), reason="TensorRT-RTX is not installed (extra `rtx`)")


def test_a_missing_package_is_an_error_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", no_version)
    backend: Backend = get("tensorrt_rtx")
    here = backend.availability()
    assert (here.can_compile, here.can_run) == (False, False)
    assert here.next == "pip install 'trtforge[rtx]'"
    assert backend.tool_versions() == {}
    model = Model(
        onnx.parser.parse_model('<ir_version: 8, opset_import: ["": 17]> n (float[2] x) => (float[2] y) { y = Neg(x) }')
    )
    recipe = Engine.model_validate({"model": {"onnx": "n.onnx"}, "inputs": {"x": {"shape": [2]}}, "precision": "fp32"})
    with pytest.raises(MissingPackage) as caught:
        backend.compile(CompileRequest(model, None, recipe, Target("a100", "A100", "discrete", sm="8.0"), tmp_path))
    assert caught.value.next == here.next
    assert caught.value.where == "target a100, backend tensorrt_rtx"


@needs_rtx
def test_tool_versions_name_all_packages() -> None:
    backend = get("tensorrt_rtx")
    assert set(backend.tool_versions()) == {"tensorrt-rtx-cu12", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx-cu12-libs"}
    assert backend.availability().can_compile
    assert backend.availability().version == backend.tool_versions()["tensorrt-rtx-cu12"]
