"""Writes the `*.modelopt.*.onnx` files beside this script. Runs where nvidia-modelopt is installed; see README.md."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from modelopt.onnx.quantization import quantize
from networks import IMAGE, TOKENS, conv_net, samples, transformer

HERE = Path(__file__).parent
MADE = {
    "conv_net.modelopt.onnx": (conv_net, "image", IMAGE, {}),
    "conv_net.modelopt.dla.onnx": (conv_net, "image", IMAGE, {"target_dla": True}),
    "transformer.modelopt.onnx": (transformer, "tokens", TOKENS, {"disable_mha_qdq": False}),
    "transformer.modelopt.fp16.onnx": (transformer, "tokens", TOKENS, {"high_precision_dtype": "fp16"}),
}


def main() -> int:
    for name, (network, tensor, shape, options) in MADE.items():
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "float.onnx"
            onnx.save(network(), source)
            quantize(
                str(source),
                quantize_mode="int8",
                calibration_method="max",
                calibration_data={tensor: np.concatenate(samples(shape))},
                calibration_eps=["cpu"],
                output_path=str(HERE / name),
                **{"high_precision_dtype": "fp32", **options},
            )
        print(name, (HERE / name).stat().st_size, "bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
