"""An engine read back after its build, on the device: what it really is, to be compared with what was asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_back(trt: Any, logger: Any, plan: Path, inspection: Path, dla_core: int | None) -> dict[str, Any]:
    """Facts of the engine; the inspector's JSON goes into a file. Needs the device."""
    runtime = trt.Runtime(logger)
    if dla_core is not None:
        runtime.DLA_core = dla_core
    engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        return {"problem": "the engine could not be read back"}
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    inspection.write_text(text)
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return {
        "layers": engine.num_layers,
        "profiles": engine.num_optimization_profiles,
        "hardware_compatibility": engine.hardware_compatibility_level.name.lower(),
        "device_memory": int(getattr(engine, "device_memory_size_v2", 0) or engine.device_memory_size),
        "tensors": {name: _tensor(trt, engine, name) for name in names},
        "devices": devices(text),
    }


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

    A loadable is one layer of the type "DLA" there or, in older releases, one whose name begins with `{ForeignNode`;
    the text has no documented schema, so what is not recognised counts for the GPU.
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
