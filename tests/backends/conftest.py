"""Small networks with real arithmetic in them, their float ranges, and requests to compile them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trtforge.backends.base import CompileRequest
from trtforge.graph.model import Model
from trtforge.graph.shapes import freeze_inputs
from trtforge.ort import open_session, session_options
from trtforge.recipe.models import Calibration, Engine, InputSpec, ModelSource
from trtforge.samples.base import Sample
from trtforge.scales.table import ScaleTable, TensorRange
from trtforge.targets.load import get


@dataclass(frozen=True)
class Net:
    """A float model with fixed shapes, samples for it, and the ranges of all its float tensors over them."""

    model: Model
    samples: list[Sample]
    table: ScaleTable
    shape: tuple[int, ...]

    def engine(self, precision: str = "int8") -> Engine:
        return Engine(
            model=ModelSource(onnx="net.onnx"),
            inputs={"x": InputSpec(shape=self.shape)},
            precision=precision,
            calibration=Calibration(scales="scales.json") if precision == "int8" else None,
        )

    def request(self, workdir: Path, *, probes: int = 4, precision: str = "int8") -> CompileRequest:
        return CompileRequest(
            model=self.model,
            scales=self.table if precision == "int8" else None,
            engine=self.engine(precision),
            target=get("host"),
            workdir=workdir,
            probes=self.samples[:probes],
        )


def _conv(rng, nodes, weights, source, target, channels_in, channels_out, kernel, bias=True, **attributes):
    fan_in = channels_in * kernel * kernel
    w = rng.normal(0, (2 / fan_in) ** 0.5, (channels_out, channels_in, kernel, kernel)).astype(np.float32)
    weights.append(numpy_helper.from_array(w, f"{target}_w"))
    inputs = [source, f"{target}_w"]
    if bias:
        weights.append(numpy_helper.from_array(rng.normal(0, 0.1, channels_out).astype(np.float32), f"{target}_b"))
        inputs.append(f"{target}_b")
    pads = [kernel // 2] * 4
    nodes.append(helper.make_node("Conv", inputs, [target], name=target, pads=pads, **attributes))


def residual_net(rng: np.random.Generator) -> onnx.ModelProto:
    """Stem and max pool, a block with a shortcut convolution, one with an identity skip, a concat, a classifier."""
    nodes, weights = [], []
    node = lambda op, inputs, output, **kw: nodes.append(helper.make_node(op, inputs, [output], name=output, **kw))  # noqa: E731
    _conv(rng, nodes, weights, "x", "c0", 3, 16, 3)
    node("Relu", ["c0"], "r0")
    node("MaxPool", ["r0"], "p0", kernel_shape=[2, 2], strides=[2, 2])
    _conv(rng, nodes, weights, "p0", "c1", 16, 16, 3)
    node("Relu", ["c1"], "r1")
    _conv(rng, nodes, weights, "r1", "c2", 16, 24, 1)
    _conv(rng, nodes, weights, "p0", "shortcut", 16, 24, 1)
    node("Add", ["c2", "shortcut"], "a0")
    node("Relu", ["a0"], "r2")
    _conv(rng, nodes, weights, "r2", "c3", 24, 24, 3)
    node("Relu", ["c3"], "r3")
    _conv(rng, nodes, weights, "r3", "c4", 24, 24, 3)
    node("Add", ["c4", "r2"], "a1")
    node("Relu", ["a1"], "r4")
    _conv(rng, nodes, weights, "r4", "left", 24, 8, 1, bias=False)
    _conv(rng, nodes, weights, "r4", "right", 24, 8, 3)
    node("Concat", ["left", "right"], "cat", axis=1)
    _conv(rng, nodes, weights, "cat", "c5", 16, 32, 3)
    node("Relu", ["c5"], "r5")
    node("GlobalAveragePool", ["r5"], "gap")
    node("Flatten", ["gap"], "flat")
    weights.append(numpy_helper.from_array(rng.normal(0, 0.5, (10, 32)).astype(np.float32), "fc_w"))
    weights.append(numpy_helper.from_array(rng.normal(0, 0.1, 10).astype(np.float32), "fc_b"))
    node("Gemm", ["flat", "fc_w", "fc_b"], "logits", transB=1)
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def signed_net(rng: np.random.Generator) -> onnx.ModelProto:
    """Convolutions one behind the other with no activation function: every tensor is signed."""
    nodes, weights = [], []
    _conv(rng, nodes, weights, "x", "s0", 8, 16, 1)
    _conv(rng, nodes, weights, "s0", "s1", 16, 16, 1)
    _conv(rng, nodes, weights, "s1", "y", 16, 8, 1)
    graph = helper.make_graph(
        nodes,
        "signed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 16, 16])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def relu6_net(rng: np.random.Generator) -> onnx.ModelProto:
    """Two inverted residual blocks with ReLU6, linear bottlenecks, and a classifier of MatMul and Add."""
    nodes, weights = [], [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in (("low", 0), ("high", 6))]
    _conv(rng, nodes, weights, "x", "stem", 3, 16, 3)
    source = "stem"
    for block in ("a", "b"):
        for name, channels, kernel, groups in (("expand", (16, 48), 1, 1), ("depthwise", (1, 48), 3, 48)):
            _conv(rng, nodes, weights, source, f"{block}_{name}", *channels, kernel, group=groups)
            nodes.append(helper.make_node("Clip", [f"{block}_{name}", "low", "high"], [f"{block}_{name}_6"]))
            source = f"{block}_{name}_6"
        _conv(rng, nodes, weights, source, f"{block}_project", 48, 16, 1)
        source = f"{block}_project"
    nodes.append(helper.make_node("Add", ["a_project", "b_project"], ["sum"], name="sum"))
    nodes.append(helper.make_node("GlobalAveragePool", ["sum"], ["gap"], name="gap"))
    nodes.append(helper.make_node("Flatten", ["gap"], ["flat"], name="flat"))
    weights.append(numpy_helper.from_array(rng.normal(0, 0.5, (16, 10)).astype(np.float32), "fc_w"))
    weights.append(numpy_helper.from_array(rng.normal(0, 0.1, 10).astype(np.float32), "fc_b"))
    nodes.append(helper.make_node("MatMul", ["flat", "fc_w"], ["product"], name="product"))
    nodes.append(helper.make_node("Add", ["fc_b", "product"], ["logits"], name="logits"))
    graph = helper.make_graph(
        nodes,
        "relu6",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def float_ranges(model: Model, samples: list[Sample]) -> ScaleTable:
    """Minimum and maximum of every float tensor, the plain way: all of them as outputs."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    names = [name for node in proto.graph.node for name in node.output]
    del proto.graph.output[:]
    proto.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = open_session(proto, None, session_options(threads=1))
    seen: dict[str, list[np.ndarray]] = {}
    for sample in samples:
        for name, values in [*sample.inputs.items(), *zip(names, session.run(names, dict(sample.inputs)), strict=True)]:
            seen.setdefault(name, []).append(values)
    return ScaleTable(
        {
            name: TensorRange(float(min(v.min() for v in values)), float(max(v.max() for v in values)), len(values))
            for name, values in seen.items()
        }
    )


@pytest.fixture(scope="session")
def make_net() -> Callable[..., Net]:
    """A network by its builder's name, with its input fixed to a batch."""

    def make(kind: str = "residual", *, seed: int = 7, batch: int = 1) -> Net:
        rng = np.random.default_rng(seed)
        proto = {"residual": residual_net, "signed": signed_net, "relu6": relu6_net}[kind](rng)
        dims = proto.graph.input[0].type.tensor_type.shape.dim
        one = tuple(dim.dim_value or 1 for dim in dims)
        samples = [Sample(f"s{i}", f"{i:064x}", {"x": rng.normal(0, 1, one).astype(np.float32)}) for i in range(8)]
        model = Model(proto)
        table = float_ranges(freeze_inputs(model, {"x": one}), samples[:4])
        return Net(model, samples, table, (batch, *one[1:]))

    return make


@pytest.fixture(scope="session")
def residual(make_net) -> Net:
    return make_net("residual")


@pytest.fixture(scope="session")
def signed(make_net) -> Net:
    return make_net("signed")


@pytest.fixture(scope="session")
def relu6(make_net) -> Net:
    return make_net("relu6")


@pytest.fixture
def asked(residual: Any, tmp_path: Path) -> Any:
    """A request for a target: ``asked("orin-agx-64gb/gpu", precision="int8", **engine)``."""

    def asked(target: str, precision: str = "int8", **engine: Any) -> CompileRequest:
        request = residual.request(tmp_path, precision=precision)
        return replace(request, target=get(target), engine=request.engine.model_copy(update=engine))

    return asked


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTFORGE_THREADS", "1")
