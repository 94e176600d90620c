"""A parsed network and a builder's configuration, set as the options say. Runs in the compiler's process.

TensorRT takes what it does not support without a word, or logs a line. So whatever can be asked is asked here, and
`Unsupported` is raised with the reason before any time goes into a build.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trtforge.backends.nvidia.features import Features, features
from trtforge.backends.nvidia.options import Dla, Options, Tensor

TYPES = {
    "float32": "FLOAT",
    "float16": "HALF",
    "int8": "INT8",
    "uint8": "UINT8",
    "int32": "INT32",
    "int64": "INT64",
    "bool": "BOOL",
}
"""NumPy's name of an element type -> TensorRT's."""


class Unsupported(Exception):
    """The options ask for what this TensorRT, or this machine, has not. The text says what and why."""

    stage = "options"


class TimeMissing(Unsupported):
    """A build that may measure nothing wants a time that is not in its timing cache."""

    stage = "timing"


def network_flags(trt: Any, options: Options) -> int:
    """The argument of `Builder.create_network`."""
    known, flags = features(trt), 0
    if known.explicit_batch:
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    if options.precision == "typed" and known.precision_flags:
        if not known.typed_flag:
            raise Unsupported(f"TensorRT {trt.__version__} has no strongly typed networks")
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return flags


def configure(trt: Any, builder: Any, network: Any, options: Options) -> Any:
    """The configuration for a network; the network's tensors and layers are set too. Raises Unsupported."""
    known, config = features(trt), builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    _precision(trt, network, config, options, known)
    _tensors(trt, network, options)
    _profile(builder, network, config, options)
    if options.dla is not None:
        _dla(trt, builder, config, options.dla)
    if options.direct_io:
        config.set_flag(trt.BuilderFlag.DIRECT_IO)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    _portability(trt, config, options, known)
    if options.inspect is not None:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    return config


def _precision(trt: Any, network: Any, config: Any, options: Options, known: Features) -> None:
    if options.precision == "typed":
        return
    if not known.precision_flags:
        raise Unsupported(f"TensorRT {trt.__version__} has no precision flags: the graph must say its types")
    if options.precision in ("fp16", "int8"):  # a layer without INT8 is faster in FP16 than in FP32
        config.set_flag(trt.BuilderFlag.FP16)
    if options.precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
    if options.float_layers:
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        _keep_in_float(trt, network, options.float_layers)


def _keep_in_float(trt: Any, network: Any, names: Iterable[str]) -> None:
    """Layers of these names compute in FP16; TensorRT names a layer as its ONNX node."""
    wanted = set(names)
    for layer in layers(network):
        if layer.name in wanted:
            layer.precision = trt.DataType.HALF
            wanted.discard(layer.name)
    if wanted:
        raise Unsupported(f"no layer of the parsed network is called {', '.join(map(repr, sorted(wanted)))}")


def layers(network: Any) -> list[Any]:
    return [network.get_layer(index) for index in range(network.num_layers)]


def inputs(network: Any) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in (network.get_input(index) for index in range(network.num_inputs))}


def outputs(network: Any) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in (network.get_output(index) for index in range(network.num_outputs))}


def _tensors(trt: Any, network: Any, options: Options) -> None:
    for side, there in ((options.inputs, inputs(network)), (options.outputs, outputs(network))):
        for name, wanted in side.items():
            if name not in there:
                raise Unsupported(f"the network has no tensor {name!r} at its border: it has {', '.join(there)}")
            if wanted.dtype is not None and options.precision != "typed":
                there[name].dtype = _type(trt, wanted.dtype)
                if wanted.dtype == "int8":
                    _give_range(there[name], wanted)
            # By default TensorRT may take any format, so the plain one is asked for too; a loadable has none such.
            if wanted.format != "linear" or options.dla is None or not options.dla.standalone:
                there[name].allowed_formats = 1 << int(getattr(trt.TensorFormat, wanted.format.upper()))


def _type(trt: Any, dtype: str) -> Any:
    """TensorRT 8 has no INT64; its parser makes INT32 of such inputs."""
    name = "INT32" if dtype == "int64" and not hasattr(trt.DataType, "INT64") else TYPES[dtype]
    return getattr(trt.DataType, name)


def _give_range(tensor: Any, wanted: Tensor) -> None:
    """An INT8 input or output has its range on itself: TensorRT asks no calibrator for these (nor does trtexec)."""
    if wanted.scale is None:
        raise Unsupported(f"{tensor.name!r} is to be INT8, and calibration has no range for it")
    amax = 127.0 * wanted.scale
    tensor.dynamic_range = (-amax, amax)


def _profile(builder: Any, network: Any, config: Any, options: Options) -> None:
    """One profile, where an input has open sizes; a calibrator goes by it too."""
    there, wanted = inputs(network), options.inputs
    if steering := [name for name, tensor in there.items() if tensor.is_shape_tensor]:
        raise Unsupported(f"the input {steering[0]!r} gives sizes to the network; only tensors of data are taken here")
    if not any(size < 0 for tensor in there.values() for size in tensor.shape):
        if ranged := [name for name, each in wanted.items() if each.shapes is not None]:
            raise Unsupported(f"the recipe has a range for {ranged[0]!r}, and the graph's sizes are fixed")
        return
    profile = builder.create_optimization_profile()
    for name, tensor in there.items():
        shapes, sizes = wanted[name].shapes if name in wanted else None, list(tensor.shape)
        if shapes is None and min(sizes, default=0) >= 0:
            continue  # of fixed sizes, beside one that has a range
        if shapes is None:
            raise Unsupported(f"the input {name!r} has open sizes {sizes} and no range for them")
        if not all(_fits(shape, sizes) for shape in shapes):
            ends = f"{list(shapes[0])} to {list(shapes[2])}"
            raise Unsupported(f"the recipe's range of {name!r} is {ends}, and the graph has {sizes}; -1 alone is open")
        profile.set_shape(name, *shapes)
    if config.add_optimization_profile(profile) < 0:
        raise Unsupported("TensorRT refused the range of the inputs' sizes")
    if options.calibration is not None and not config.set_calibration_profile(profile):
        raise Unsupported("TensorRT refused the range of the inputs' sizes for its calibrator")


def _fits(shape: tuple[int, ...], sizes: list[int]) -> bool:
    return len(shape) == len(sizes) and all(size in (-1, given) for given, size in zip(shape, sizes, strict=True))


def _dla(trt: Any, builder: Any, config: Any, dla: Dla) -> None:
    if builder.num_DLA_cores <= dla.core:
        raise Unsupported(
            f"DLA core {dla.core} is not here: TensorRT {trt.__version__} sees {builder.num_DLA_cores} on this machine"
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = dla.core
    if dla.gpu_fallback:
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    if dla.standalone:
        config.engine_capability = trt.EngineCapability.DLA_STANDALONE
        config.set_flag(trt.BuilderFlag.DIRECT_IO)  # there is no GPU to reformat
    pools = {"DLA_MANAGED_SRAM": dla.sram, "DLA_LOCAL_DRAM": dla.local_dram, "DLA_GLOBAL_DRAM": dla.global_dram}
    for pool, size in pools.items():
        if size is not None:
            config.set_memory_pool_limit(getattr(trt.MemoryPoolType, pool), size)


def _portability(trt: Any, config: Any, options: Options, known: Features) -> None:
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    level = options.hardware_compatibility
    if level == "same_compute_capability" and not known.same_compute_capability:
        raise Unsupported(f"TensorRT {trt.__version__} has no engines for every GPU of one compute capability")
    if level != "none":
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level.upper())
    if options.compute_capabilities:
        config.num_compute_capabilities = len(options.compute_capabilities)
    for index, name in enumerate(options.compute_capabilities):
        capability = getattr(trt.ComputeCapability, name, None)
        if capability is None or not config.set_compute_capability(capability, index):
            raise Unsupported(f"this TensorRT-RTX has no ComputeCapability.{name}")


def use_timing_cache(trt: Any, config: Any, options: Options) -> bytes:
    """Kernels' times of earlier builds; as TensorRT writes them down now. Raises TimeMissing.

    Where nothing may be measured anew, a file of another TensorRT or GPU is refused.
    """
    if options.timing_cache is None:
        return b""
    path = Path(options.timing_cache)
    content = path.read_bytes() if path.exists() else b""
    cache = config.create_timing_cache(content)  # None for bytes that are none
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        if options.timing_locked:
            raise TimeMissing("the timing cache is of another TensorRT, GPU or driver, or damaged")
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    if options.timing_locked and features(trt).timing_cache_locked:
        config.set_flag(trt.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS)
    return _times(config)


def keep_timing_cache(config: Any, options: Options, before: bytes) -> None:
    """Into its file; where nothing may be measured anew, nothing has been: TimeMissing.

    That the times did not change is looked at with every release. 8.6 has no flag for it, and under 11.0 builds were
    seen to measure in spite of theirs.
    """
    if options.timing_cache is None:
        return
    if not options.timing_locked:
        Path(options.timing_cache).write_bytes(_times(config))
    elif _times(config) != before:
        raise TimeMissing("TensorRT measured kernels that are not in the timing cache")


def _times(config: Any) -> bytes:
    return bytes(memoryview(config.get_timing_cache().serialize()))


def placement(trt: Any, network: Any, config: Any) -> list[dict[str, Any]]:
    """Where each layer is meant to run, asked before the build: name, kind, can it be on the DLA."""
    return [
        {"name": layer.name, "kind": layer.type.name, "dla": bool(config.can_run_on_DLA(layer))}
        for layer in layers(network)
    ]
