"""TensorRT's classes of our plugins, made of their descriptions: one code for TensorRT 10, 11 and TensorRT-RTX.

The module comes as an argument, so nothing here imports a TensorRT. Building calls everything but ``enqueue`` and needs
no GPU; that these classes run is not yet shown on hardware.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np

from trtforge.digest import sha256_bytes
from trtforge.errors.engine import ExecutionFailed
from trtforge.kernels.cubins import fitting
from trtforge.kernels.launch import Launch
from trtforge.kernels.plugin import NAMESPACE, VERSION, PluginKind, Tensor, aligned

Cubins = Mapping[str, bytes]
"""Compute capability -> cubin of the plugin's kernels; empty while building."""

_TYPES = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "INT64": "int64", "BOOL": "bool"}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


def register(trt: Any, kind: PluginKind, cubins: Cubins) -> Any:
    """Put the plugin's creator into the registry of ``trt``; the caller keeps the returned creator alive.

    A creator that is there already, from an earlier engine, is replaced. Raises ExecutionFailed.
    """
    registry = trt.get_plugin_registry()
    if (old := registry.get_creator(kind.name, VERSION, NAMESPACE)) is not None:
        registry.deregister_creator(old)
    creator = _creator_class(trt)(kind, cubins)
    if not registry.register_creator(creator, NAMESPACE):
        raise ExecutionFailed(
            f"the plugin {NAMESPACE}::{kind.name} could not be registered",
            why="TensorRT's registry refused it; it gives no reason",
            next="start a new process: another version of the plugin may be in this one",
        )
    return creator


@lru_cache
def _creator_class(trt: Any) -> type:
    class Creator(trt.IPluginCreatorV3One):  # type: ignore[misc]
        def __init__(self, kind: PluginKind, cubins: Cubins) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_version, self.plugin_namespace = kind.name, VERSION, NAMESPACE
            self.kind, self.cubins = kind, cubins
            self.listed = _listed(trt, kind, None)
            self.field_names = trt.PluginFieldCollection(self.listed)

        def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:
            values = {field.name: np.array(field.data) for field in fields}
            return _plugin_class(trt)(self.kind, self.cubins, _read(self.kind, values))

    return Creator


@lru_cache
def _plugin_class(trt: Any) -> type:
    bases = (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime)

    class Plugin(*bases):  # type: ignore[misc]
        def __init__(self, kind: PluginKind, cubins: Cubins, fields: Mapping[str, Any]) -> None:
            for base in bases:
                base.__init__(self)
            self.plugin_name, self.plugin_version, self.plugin_namespace = kind.name, VERSION, NAMESPACE
            self.num_outputs = 1
            # Behind what TensorRT writes itself: the plugin's name, shapes, types and layouts.
            self.timing_cache_id = sha256_bytes(repr(fields).encode())[:16]
            self.kind, self.cubins, self.fields = kind, cubins, fields
            self.listed = _listed(trt, kind, fields)
            self.loaded: Loaded | None = None

        def get_capability_interface(self, kind: Any) -> Any:
            return self

        def clone(self) -> Any:
            return Plugin(self.kind, self.cubins, self.fields)

        def get_output_data_types(self, input_types: Any) -> Any:
            made = self.kind.output_types([_dtype(each) for each in input_types])
            return [getattr(trt.DataType, _NAMES.get(dtype, dtype.upper())) for dtype in made]

        def get_output_shapes(self, inputs: Any, shape_inputs: Any, builder: Any) -> Any:
            shapes = [[_Size(trt, builder, size) for size in dims] for dims in inputs]
            return [
                trt.DimsExprs([_Size.of(trt, builder, size).expression for size in shape])
                for shape in self.kind.output_shapes(shapes, self.fields)
            ]

        def supports_format_combination(self, position: int, tensors: Any, num_inputs: int) -> bool:
            known = tensors[: position + 1]  # what comes after is not decided yet
            return self.kind.accepts(position, [_tensor(each.desc) for each in known])

        def configure_plugin(self, inputs: Any, outputs: Any) -> None:
            pass

        def get_workspace_size(self, inputs: Any, outputs: Any) -> int:
            taken, made = ([_tensor(each.desc, each.max) for each in side] for side in (inputs, outputs))
            return sum(aligned(size) for size in self.kind.workspace(taken, made, self.fields).values())

        def get_valid_tactics(self) -> Any:
            return []

        def set_tactic(self, tactic: int) -> None:
            pass

        def get_fields_to_serialize(self) -> Any:
            return trt.PluginFieldCollection(self.listed)

        def on_shape_change(self, inputs: Any, outputs: Any) -> None:
            pass

        def attach_to_context(self, context: Any) -> Any:
            return self.clone()

        def enqueue(
            self, input_desc: Any, output_desc: Any, inputs: Any, outputs: Any, workspace: int, stream: int
        ) -> None:
            taken, made = [_tensor(each) for each in input_desc], [_tensor(each) for each in output_desc]
            pointers = [int(each) for each in (*inputs, *outputs)]
            pieces = self.kind.workspace(taken, made, self.fields)
            addresses = self.kind.addresses(pointers, int(workspace), pieces)
            launches = self.kind.launches(taken, made, self.fields)
            if self.loaded is None:  # an execution context, whose plugin this is, belongs to one GPU
                self.loaded = Loaded.on_this_gpu(self.kind, self.cubins)
            self.loaded.run(launches, addresses, int(stream))

    return Plugin


class Loaded:
    """A plugin's kernels on the current device."""

    _kept: dict[tuple[str, int], Loaded] = {}  # noqa: RUF012  modules stay loaded as long as the process

    def __init__(self, cubins: Cubins, device: Any) -> None:
        core = import_module("cuda.core")
        major, minor = device.compute_capability
        self._core = core
        self._code = core.ObjectCode.from_cubin(fitting(cubins, f"{major}.{minor}"))
        self._kernels: dict[str, Any] = {}

    @classmethod
    def on_this_gpu(cls, kind: PluginKind, cubins: Cubins) -> Loaded:
        device = import_module("cuda.core").Device()
        key = (kind.source_digest(), int(device.device_id))
        if key not in cls._kept:
            cls._kept[key] = cls(cubins, device)
        return cls._kept[key]

    def run(self, launches: Sequence[Launch], addresses: Mapping[str, int], stream: int) -> None:
        """Into a stream, a cudaStream_t; does not wait. ``addresses``: of the tensors that the launches name."""
        into = self._core.Stream.from_handle(stream)
        for launch in launches:
            config = self._core.LaunchConfig(grid=launch.grid, block=launch.block)
            values = [addresses[each] if isinstance(each, str) else each for each in launch.arguments]
            self._core.launch(into, config, self._kernel(launch.kernel), *values)

    def _kernel(self, name: str) -> Any:
        if name not in self._kernels:
            self._kernels[name] = self._code.get_kernel(name)
        return self._kernels[name]


class _Size:
    """Arithmetic on TensorRT's size expressions."""

    def __init__(self, trt: Any, builder: Any, expression: Any) -> None:
        self._trt, self._builder, self.expression = trt, builder, expression

    @classmethod
    def of(cls, trt: Any, builder: Any, size: Any) -> _Size:
        return size if isinstance(size, cls) else cls(trt, builder, builder.constant(int(size)))

    def _with(self, operation: str, other: Any) -> _Size:
        kind = getattr(self._trt.DimensionOperation, operation)
        right = _Size.of(self._trt, self._builder, other).expression
        return _Size(self._trt, self._builder, self._builder.operation(kind, self.expression, right))

    def __add__(self, other: Any) -> _Size:
        return self._with("SUM", other)

    def __sub__(self, other: Any) -> _Size:
        return self._with("SUB", other)

    def __mul__(self, other: Any) -> _Size:
        return self._with("PROD", other)

    def __floordiv__(self, other: Any) -> _Size:
        return self._with("FLOOR_DIV", other)


def _dtype(kind: Any) -> str:
    """A type that no plugin of ours takes keeps TensorRT's name, "bf16": no plugin accepts it, and TensorRT says so."""
    return _TYPES.get(kind.name, str(kind.name).lower())


def _tensor(desc: Any, dims: Any = None) -> Tensor:
    shape = tuple(int(size) for size in (desc.dims if dims is None else dims))
    return Tensor(_dtype(desc.type), desc.format.name.lower(), shape)


_NUMPY = {"int": np.int32, "ints": np.int32, "float": np.float32, "floats": np.float32}


def _listed(trt: Any, kind: PluginKind, fields: Mapping[str, Any] | None) -> list[Any]:
    """TensorRT's fields, empty ones where only names and types are asked for.

    A collection of them copies addresses: of the names and arrays that these objects keep. So whoever hands one out
    holds the list as long as itself.
    """
    types = {np.int32: trt.PluginFieldType.INT32, np.float32: trt.PluginFieldType.FLOAT32}
    listed = []
    for name, spelled in kind.fields.items():
        values = np.atleast_1d(np.array([] if fields is None else fields[name], _NUMPY[spelled]))
        listed.append(trt.PluginField(name, values, types[_NUMPY[spelled]]))
    return listed


def _read(kind: PluginKind, values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as Python numbers, or lists of them."""
    fields = {}
    for name, spelled in kind.fields.items():
        numbers = np.asarray(values[name]).reshape(-1).tolist()
        fields[name] = numbers if spelled.endswith("s") else numbers[0]
    return fields
