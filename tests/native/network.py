"""A network and a build of it, on a fake of the bindings that this process was started for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.native.bindings import enter
from tests.native.fake import Module, Object
from trtforge.backends.nvidia.build import build
from trtforge.backends.nvidia.options import Options

trt = enter()
PLAN = b"ftrt" + bytes(60)


def tensor(module: Module, name: str, shape: tuple[int, ...], dtype: str = "FLOAT") -> Object:
    made = Object(trt.ITensor, module.recorder)
    made._set.update(name=name, shape=trt.Dims(shape), dtype=getattr(trt.DataType, dtype), is_shape_tensor=False)
    return made


def layer(module: Module, name: str, kind: str = "CONVOLUTION") -> Object:
    made = Object(trt.ILayer, module.recorder)
    made._set.update(name=name, type=getattr(trt.LayerType, kind))
    return made


def make(shape: tuple[int, ...] = (1, 3, 8, 8), **answers: Any) -> Module:
    """A module whose parser finds a network of one input, one output and two layers."""
    module = Module(trt)
    inputs, outputs = [tensor(module, "x", shape)], [tensor(module, "y", (1, 8))]
    found = [layer(module, "conv"), layer(module, "top", "TOPK")]
    module.recorder.answers = {
        "INetworkDefinition.num_inputs": 1,
        "INetworkDefinition.get_input": lambda network, index: inputs[index],
        "INetworkDefinition.num_outputs": 1,
        "INetworkDefinition.get_output": lambda network, index: outputs[index],
        "INetworkDefinition.num_layers": 2,
        "INetworkDefinition.get_layer": lambda network, index: found[index],
        "Builder.build_serialized_network": lambda *_: PLAN,
        "Builder.num_DLA_cores": 2,
        "IBuilderConfig.can_run_on_DLA": lambda config, each: each.name != "top",
        "ITimingCache.serialize": lambda cache: b"times",
    } | answers
    return module


def run(module: Module, folder: Path, options: Options, samples: int | None = None) -> dict[str, Any]:
    events: list[Any] = []
    job = {"onnx": "model.onnx", "plan": str(folder / "model.plan"), "options": options.to_json(), "plugins": []}
    return build(module, job, lambda event, **facts: events.append((event, facts)), samples)
