"""An engine read back after its build, on the device: what it really is, to be compared with what was asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_back(
    trt: Any, logger: Any, plan: Path, inspection: Path, *, dla_core: int | None, host_code: bool
) -> dict[str, Any] | None:
    """Facts of the engine; the inspector's JSON goes into a file. None when TensorRT cannot read it. Needs the device.

    ``host_code``: the engine brings a part of TensorRT with it, as version-compatible ones do.
    """
    runtime = trt.Runtime(logger)
    if host_code:
        runtime.engine_host_code_allowed = True
    if dla_core is not None:
        runtime.DLA_core = dla_core
    engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        return None
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    inspection.write_text(text)
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return {
        "layers": engine.num_layers,
        "profiles": engine.num_optimization_profiles,
        "hardware_compatibility": engine.hardware_compatibility_level.name.lower(),
        "device_memory": int(_device_memory(engine)),
        "tensors": {name: _tensor(trt, engine, name) for name in names},
        "devices": devices(text),
    }


def _device_memory(engine: Any) -> int:
    """The older name is gone in TensorRT 11, the newer one not there before 10."""
    size: int = engine.device_memory_size_v2 if hasattr(engine, "device_memory_size_v2") else engine.device_memory_size
    return size


def _tensor(trt: Any, engine: Any, name: str) -> dict[str, Any]:
    return {
        "mode": engine.get_tensor_mode(name).name.lower(),
        "dtype": engine.get_tensor_dtype(name).name,
        "format": engine.get_tensor_format(name).name.lower(),
        "shape": list(engine.get_tensor_shape(name)),
        "location": engine.get_tensor_location(name).name.lower(),
    }


def devices(text: str) -> dict[str, int]:
    """Layers of the finished engine by device, as far as the inspector's JSON shows it.

    A loadable is one layer there, of a type with "DLA" in its name. The text has no documented schema, so what is not
    recognised counts for the GPU.
    """
    try:
        layers = json.loads(text).get("Layers", [])
    except (json.JSONDecodeError, AttributeError):
        return {}
    found = {"dla": 0, "gpu": 0}
    for layer in layers:
        kind = str(layer.get("LayerType", "")) if isinstance(layer, dict) else ""
        found["dla" if "dla" in kind.lower() else "gpu"] += 1
    return found
