"""A build as the compiler's process does it, on a fake of the bindings that this process was started for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.native.bindings import chosen
from tests.native.cpp import Calibrator
from tests.native.fake import Object
from tests.native.network import PLAN, make, run, tensor, trt
from trtforge.backends.nvidia.build import Failed
from trtforge.backends.nvidia.features import documented, features
from trtforge.backends.nvidia.options import Dla, Options, Tensor

KNOWN = features(trt)


def test_the_table_of_releases_is_what_the_module_has() -> None:
    known = documented(trt.__version__.rsplit(".", 1)[0] if chosen() != "8.6" else "8.6")
    assert known is not None
    assert KNOWN.differing(known) == []


def test_a_float_build(tmp_path: Path) -> None:
    module = make()
    facts = run(module, tmp_path, Options(1 << 30, "fp32" if KNOWN.precision_flags else "typed"))
    assert (tmp_path / "model.plan").read_bytes() == PLAN
    assert facts["inputs"] == [{"name": "x", "shape": [1, 3, 8, 8], "dtype": "FLOAT"}]
    names = module.recorder.names()
    assert names.index("OnnxParser.parse_from_file") < names.index("Builder.build_serialized_network")
    assert module.recorder.of("IBuilderConfig.set_memory_pool_limit") == [(trt.MemoryPoolType.WORKSPACE, 1 << 30)]
    assert "IBuilderConfig.set_flag" not in names and "IBuilderConfig.int8_calibrator=" not in names
    assert ("IBuilderConfig.progress_monitor=" in names) == KNOWN.progress
    (flags,) = module.recorder.of("Builder.create_network")
    assert flags == ((1,) if chosen() in ("8.6", "10.16") else (0,))


def test_a_typed_build(tmp_path: Path) -> None:
    module = make()
    if not KNOWN.typed_flag:
        with pytest.raises(Failed, match="no strongly typed networks") as caught:
            run(module, tmp_path, Options(1 << 30))
        assert caught.value.stage == "options"
        return
    run(module, tmp_path, Options(1 << 30))
    (flags,) = module.recorder.of("Builder.create_network")
    asked = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if KNOWN.precision_flags else 0
    assert flags[0] & asked == asked


def test_int8_by_a_cache(tmp_path: Path) -> None:
    cache = tmp_path / "c.cache"
    cache.write_bytes(b"TRT-8602-MinMaxCalibration\nx: 3c010a14\n")
    options = Options(
        1 << 20,
        "int8",
        calibration={"cache": str(cache), "algorithm": "MinMaxCalibration"},
        inputs={"x": Tensor("int8", "chw4", scale=0.5)},
        outputs={"y": Tensor("float16")},
        float_layers=("top",),
    )
    module = make()
    if not KNOWN.precision_flags:
        with pytest.raises(Failed, match="has no precision flags"):
            run(module, tmp_path, options)
        return
    facts = run(module, tmp_path, options)
    flag = trt.BuilderFlag
    set_flags = [each for (each,) in module.recorder.of("IBuilderConfig.set_flag")]
    assert set_flags == [flag.FP16, flag.INT8, flag.OBEY_PRECISION_CONSTRAINTS]
    (calibrator,) = module.recorder.of("IBuilderConfig.int8_calibrator=")[0]
    assert Calibrator(trt, calibrator).read_cache() == cache.read_bytes()
    assert module.recorder.of("ITensor.dtype=") == [(trt.DataType.INT8,), (trt.DataType.HALF,)]
    assert module.recorder.of("ITensor.dynamic_range=") == [((-63.5, 63.5),)]
    with pytest.raises(Failed, match="'x' is to be INT8, and calibration has no range for it"):
        run(make(), tmp_path, Options(1, "int8", inputs={"x": Tensor("int8")}))
    formats = [1 << int(trt.TensorFormat.CHW4), 1 << int(trt.TensorFormat.LINEAR)]  # else it may be any
    assert [value for (value,) in module.recorder.of("ITensor.allowed_formats=")] == formats
    assert module.recorder.of("ILayer.precision=") == [(trt.DataType.HALF,)]
    assert facts["calibration"] == {"from": "cache"}
    with pytest.raises(Failed, match="no layer of the parsed network is called 'tip'"):
        run(make(), tmp_path, Options(1 << 20, "int8", float_layers=("tip",)))


def test_a_dla_build(tmp_path: Path) -> None:
    options = Options(
        1 << 20,
        "fp16" if KNOWN.precision_flags else "typed",
        dla=Dla(core=1, sram=1 << 20, global_dram=1 << 29),
        inputs={"x": Tensor("float32", "dla_hwc4")},
    )
    module = make()
    facts = run(module, tmp_path, options)
    assert module.recorder.of("IBuilderConfig.default_device_type=") == [(trt.DeviceType.DLA,)]
    assert module.recorder.of("IBuilderConfig.DLA_core=") == [(1,)]
    pools = [
        (trt.MemoryPoolType.WORKSPACE, 1 << 20),
        (trt.MemoryPoolType.DLA_MANAGED_SRAM, 1 << 20),
        (trt.MemoryPoolType.DLA_GLOBAL_DRAM, 1 << 29),
    ]
    assert module.recorder.of("IBuilderConfig.set_memory_pool_limit") == pools
    assert (trt.BuilderFlag.GPU_FALLBACK,) in module.recorder.of("IBuilderConfig.set_flag")
    assert facts["placement"] == [
        {"name": "conv", "kind": "CONVOLUTION", "dla": True},
        {"name": "top", "kind": "TOPK", "dla": False},
    ]
    for_dla = getattr(trt.OnnxParserFlag, "ADJUST_FOR_DLA", None)
    assert module.recorder.of("OnnxParser.set_flag") == ([] if for_dla is None else [(for_dla,)])
    assert (for_dla is None) == (chosen() == "8.6")
    with pytest.raises(Failed, match=r"DLA core 1 is not here: .* sees 1 on this machine"):
        run(make(**{"Builder.num_DLA_cores": 1}), tmp_path, options)


def test_open_sizes_get_a_profile(tmp_path: Path) -> None:
    precision = "fp32" if KNOWN.precision_flags else "typed"
    shapes = ((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))
    module = make((-1, 3, 8, 8))
    run(module, tmp_path, Options(1 << 20, precision, inputs={"x": Tensor(shapes=shapes)}))
    assert module.recorder.of("IOptimizationProfile.set_shape") == [("x", *shapes)]
    assert "IBuilderConfig.set_calibration_profile" not in module.recorder.names()
    with pytest.raises(Failed, match=r"open sizes .* and no range for them"):
        run(make((-1, 3, 8, 8)), tmp_path, Options(1 << 20, precision))
    wider = ((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 16, 8))
    with pytest.raises(Failed, match=r"range of 'x' is \[1, 3, 8, 8\] to \[4, 3, 16, 8\], and the graph has \[-1, 3"):
        run(make((-1, 3, 8, 8)), tmp_path, Options(1 << 20, precision, inputs={"x": Tensor(shapes=wider)}))


def test_a_calibrator_goes_by_the_profile_of_open_sizes(tmp_path: Path) -> None:
    """In a network that says its types there is no calibrator, and in TensorRT 11 no such call."""
    if not KNOWN.calibrators:
        return
    cache = tmp_path / "c.cache"
    cache.write_bytes(b"TRT-8602-MinMaxCalibration\nx: 3c010a14\n")
    shapes = ((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))
    given = {"cache": str(cache), "algorithm": "MinMaxCalibration"}
    options = Options(1 << 20, "int8", inputs={"x": Tensor(shapes=shapes)}, calibration=given)
    module = make((-1, 3, 8, 8))
    run(module, tmp_path, options)
    (made,) = module.recorder.of("IBuilderConfig.set_calibration_profile")
    assert made == module.recorder.of("IBuilderConfig.add_optimization_profile")[0]
    with pytest.raises(Failed, match="for its calibrator"):
        run(make((-1, 3, 8, 8), **{"IBuilderConfig.set_calibration_profile": False}), tmp_path, options)


def test_an_input_of_fixed_sizes_beside_an_open_one(tmp_path: Path) -> None:
    shapes = ((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))
    module = make((-1, 3, 8, 8))
    taken = [module.recorder.answers["INetworkDefinition.get_input"](None, 0), tensor(module, "scale", (3,))]
    module.recorder.answers |= {
        "INetworkDefinition.num_inputs": 2,
        "INetworkDefinition.get_input": lambda network, index: taken[index],
    }
    said = {"x": Tensor(shapes=shapes), "scale": Tensor()}
    run(module, tmp_path, Options(1 << 20, "fp32" if KNOWN.precision_flags else "typed", inputs=said))
    assert module.recorder.of("IOptimizationProfile.set_shape") == [("x", *shapes)]


def test_an_input_that_gives_sizes_is_refused(tmp_path: Path) -> None:
    """Of fixed shape too: TensorRT wants a profile of its values."""
    module = make((2,))
    module.recorder.answers["INetworkDefinition.get_input"](None, 0)._set["is_shape_tensor"] = True
    with pytest.raises(Failed, match="'x' gives sizes to the network"):
        run(module, tmp_path, Options(1, "fp32" if KNOWN.precision_flags else "typed"))


def test_a_dla_is_asked_when_all_is_set(tmp_path: Path) -> None:
    if not KNOWN.calibrators:
        return
    cache = tmp_path / "c.cache"
    cache.write_bytes(b"TRT-8602-EntropyCalibration2\n")
    given = {"cache": str(cache), "algorithm": "EntropyCalibration2"}
    module = make()
    run(module, tmp_path, Options(1, "int8", calibration=given, dla=Dla(0)))
    names = module.recorder.names()
    assert names.index("IBuilderConfig.int8_calibrator=") < names.index("IBuilderConfig.can_run_on_DLA")


def test_engines_for_more_than_this_gpu(tmp_path: Path) -> None:
    precision = "fp32" if KNOWN.precision_flags else "typed"
    module = make()
    run(module, tmp_path, Options(1, precision, version_compatible=True, hardware_compatibility="ampere_plus"))
    assert module.recorder.of("IBuilderConfig.set_flag") == [(trt.BuilderFlag.VERSION_COMPATIBLE,)]
    level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    assert module.recorder.of("IBuilderConfig.hardware_compatibility_level=") == [(level,)]
    options = Options(1, precision, hardware_compatibility="same_compute_capability")
    if KNOWN.same_compute_capability:
        run(make(), tmp_path, options)
    else:
        with pytest.raises(Failed, match="no engines for every GPU of one compute capability"):
            run(make(), tmp_path, options)


def test_the_timing_cache(tmp_path: Path) -> None:
    precision, path = "fp32" if KNOWN.precision_flags else "typed", tmp_path / "times"
    module = make()
    run(module, tmp_path, Options(1, precision, timing_cache=str(path)))
    assert path.read_bytes() == b"times"
    assert module.recorder.of("IBuilderConfig.create_timing_cache") == [(b"",)]
    module = make()
    run(module, tmp_path, Options(1, precision, timing_cache=str(path)))
    assert module.recorder.of("IBuilderConfig.create_timing_cache") == [(b"times",)]
    locked = Options(1, precision, timing_cache=str(path), timing_locked=True)
    path.write_bytes(b"pinned")
    module = make()
    run(module, tmp_path, locked)
    flag = [(trt.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS,)] if KNOWN.timing_cache_locked else []
    assert module.recorder.of("IBuilderConfig.set_flag") == flag
    for answer in ({"IBuilderConfig.set_timing_cache": False}, {"IBuilderConfig.create_timing_cache": None}):
        with pytest.raises(Failed, match="is of another TensorRT, GPU or driver, or damaged") as caught:
            run(make(**answer), tmp_path, locked)
        assert caught.value.stage == "timing"
    assert path.read_bytes() == b"pinned"


def test_times_that_were_measured_in_spite_of_the_lock(tmp_path: Path) -> None:
    """8.6 has no flag that forbids it, and 11.0's was seen not to hold: the cache itself tells."""
    precision, path = "fp32" if KNOWN.precision_flags else "typed", tmp_path / "times"
    path.write_bytes(b"one kernel")
    module = make()
    built = module.recorder.answers["Builder.build_serialized_network"]

    def measuring(*asked: object) -> bytes:
        module.recorder.answers["ITimingCache.serialize"] = lambda cache: b"two kernels"
        return built(*asked)

    module.recorder.answers["Builder.build_serialized_network"] = measuring
    with pytest.raises(Failed, match="kernels that are not in the timing cache") as caught:
        run(module, tmp_path, Options(1, precision, timing_cache=str(path), timing_locked=True))
    assert caught.value.stage == "timing"
    assert path.read_bytes() == b"one kernel" and not (tmp_path / "model.plan").exists()


def test_the_engine_is_read_back(tmp_path: Path) -> None:
    inspected = json.dumps({"Layers": [{"Name": "a", "LayerType": "DLA"}, {"Name": "b", "LayerType": "TopK"}]})
    module = make(
        **{
            "EngineInspector.get_engine_information": inspected,
            "ICudaEngine.num_io_tensors": 2,
            "ICudaEngine.get_tensor_name": lambda engine, index: "xy"[index],
            "ICudaEngine.get_tensor_shape": lambda engine, name: trt.Dims((1, 8)),
            "ICudaEngine.num_layers": 2,
            "ICudaEngine.hardware_compatibility_level": trt.HardwareCompatibilityLevel.NONE,
            "ICudaEngine.device_memory_size": 4096,
            "ICudaEngine.device_memory_size_v2": 4096,
        }
    )
    options = Options(1, "fp32" if KNOWN.precision_flags else "typed", inspect=str(tmp_path / "layers.json"))
    engine = run(module, tmp_path, options)["engine"]
    assert (tmp_path / "layers.json").read_text() == inspected
    assert engine["devices"] == {"dla": 1, "gpu": 1} and engine["device_memory"] == 4096
    assert engine["hardware_compatibility"] == "none" and list(engine["tensors"]) == ["x", "y"]
    gone = make(**{"Runtime.deserialize_cuda_engine": None})
    with pytest.raises(Failed, match="cannot be read back"):
        run(gone, tmp_path, options)
    assert module.recorder.of("Runtime.engine_host_code_allowed=") == []
    portable = make(**module.recorder.answers)
    run(portable, tmp_path, replace(options, version_compatible=True, stock_plugins=True))
    assert portable.recorder.of("Runtime.engine_host_code_allowed=") == [(True,)]
    names = portable.recorder.names()
    assert names.index("OnnxParser.set_flag") < names.index("OnnxParser.parse_from_file")


def test_int64_inputs_are_int32_where_there_are_no_others(tmp_path: Path) -> None:
    if not KNOWN.precision_flags:
        return  # the graph says it
    module = make()
    run(module, tmp_path, Options(1, "fp16", inputs={"x": Tensor("int64")}))
    kind = trt.DataType.INT64 if hasattr(trt.DataType, "INT64") else trt.DataType.INT32
    assert module.recorder.of("ITensor.dtype=") == [(kind,)]


def test_a_loadable_has_no_gpu_to_reformat(tmp_path: Path) -> None:
    module = make()
    precision = "fp16" if KNOWN.precision_flags else "typed"
    run(module, tmp_path, Options(1, precision, dla=Dla(0, gpu_fallback=False, standalone=True)))
    assert module.recorder.of("IBuilderConfig.engine_capability=") == [(trt.EngineCapability.DLA_STANDALONE,)]
    assert (trt.BuilderFlag.DIRECT_IO,) in module.recorder.of("IBuilderConfig.set_flag")
    assert module.recorder.of("ITensor.allowed_formats=") == []
    assert "Runtime.deserialize_cuda_engine" not in module.recorder.names()


def test_direct_io(tmp_path: Path) -> None:
    module = make()
    run(module, tmp_path, Options(1, "fp16" if KNOWN.precision_flags else "typed", direct_io=True))
    assert (trt.BuilderFlag.DIRECT_IO,) in module.recorder.of("IBuilderConfig.set_flag")


def test_a_range_for_fixed_sizes_is_refused(tmp_path: Path) -> None:
    precision = "fp32" if KNOWN.precision_flags else "typed"
    shapes = ((1, 3, 8, 8), (1, 3, 8, 8), (4, 3, 8, 8))
    with pytest.raises(Failed, match="the graph's sizes are fixed"):
        run(make(), tmp_path, Options(1, precision, inputs={"x": Tensor(shapes=shapes)}))


def test_failures_are_told_by_stage(tmp_path: Path) -> None:
    options = Options(1, "fp32" if KNOWN.precision_flags else "typed")
    with pytest.raises(Failed) as caught:
        run(make(**{"Builder.build_serialized_network": lambda *_: None}), tmp_path, options)
    assert caught.value.stage == "build"
    answers = {
        "OnnxParser.parse_from_file": False,
        "OnnxParser.num_errors": 1,
        "OnnxParser.get_error": lambda parser, index: Object(trt.ParserError, parser._recorder),
        f"{trt.ParserError.__name__}.code": lambda error: trt.ErrorCode.UNSUPPORTED_NODE,
        f"{trt.ParserError.__name__}.desc": "no importer",
        f"{trt.ParserError.__name__}.node_name": "top",
        f"{trt.ParserError.__name__}.node_operator": "TopK",
    }
    with pytest.raises(Failed) as caught:
        run(make(**answers), tmp_path, options)
    (problem,) = caught.value.facts["problems"]
    assert caught.value.stage == "parse" and problem["message"] == "no importer"
    assert problem["node"] == ("top" if hasattr(trt.ParserError, "node_name") else "")
