"""config.pbtxt against protobuf's own text-format parser, with the parts of Triton's ModelConfig that are used."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from hypothesis import given
from hypothesis import strategies as st

from trtforge.engines.config_pbtxt import TYPES, quote, render
from trtforge.engines.manifest import BuiltFor, Manifest, TensorRecord
from trtforge.errors.engine import NotServable

STRING, INT32, INT64, BOOL = 9, 5, 3, 8
ENUMS = {
    "DataType": ["TYPE_INVALID", *sorted(TYPES.values())],
    "Kind": ["KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"],
    "SecondaryKind": ["KIND_NVDLA"],
}
MESSAGES: dict[str, list[tuple[str, Any, bool]]] = {  # field, type, repeated
    "Reshape": [("shape", INT64, True)],
    "Tensor": [
        ("name", STRING, False),
        ("data_type", "DataType", False),
        ("dims", INT64, True),
        ("reshape", "Reshape", False),
        ("is_non_linear_format_io", BOOL, False),
    ],
    "SecondaryDevice": [("kind", "SecondaryKind", False), ("device_id", INT64, False)],
    "InstanceGroup": [
        ("kind", "Kind", False),
        ("count", INT32, False),
        ("secondary_devices", "SecondaryDevice", True),
    ],
    "Parameter": [("string_value", STRING, False)],
    "ParametersEntry": [("key", STRING, False), ("value", "Parameter", False)],
    "ModelConfig": [
        ("name", STRING, False),
        ("platform", STRING, False),
        ("max_batch_size", INT32, False),
        ("default_model_filename", STRING, False),
        ("input", "Tensor", True),
        ("output", "Tensor", True),
        ("instance_group", "InstanceGroup", True),
        ("parameters", "ParametersEntry", True),
    ],
}


@cache
def model_config() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="config.proto", package="t", syntax="proto3")
    for enum, values in ENUMS.items():
        holder = file.message_type.add(name=f"{enum}Scope")  # enum values share their scope
        added = holder.enum_type.add(name=enum)
        for number, value in enumerate(values):
            added.value.add(name=value, number=number)
    for message, fields in MESSAGES.items():
        added_message = file.message_type.add(name=message)
        for number, (name, kind, repeated) in enumerate(fields, 1):
            field = added_message.field.add(name=name, number=number, label=3 if repeated else 1)
            if isinstance(kind, int):
                field.type = kind  # type: ignore[assignment]
            else:
                field.type = 14 if kind in ENUMS else 11  # type: ignore[assignment]
                field.type_name = f".t.{kind}Scope.{kind}" if kind in ENUMS else f".t.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.ModelConfig"))


def parse(text: str) -> Any:
    return text_format.Parse(text, model_config()())


def name_of(message: Any, field: str) -> str:
    return str(message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number[getattr(message, field)].name)


def test_a_cpu_engine(make_manifest: Callable[..., Manifest]) -> None:
    config = parse(render(make_manifest(engine_file="model.onnx")))
    assert (config.name, config.platform, config.max_batch_size) == ("net", "onnxruntime_onnx", 0)
    assert config.default_model_filename == "model.onnx"
    (tensor,) = config.input
    assert (tensor.name, list(tensor.dims)) == ("input:0", [1, 224, 224, 3])
    assert name_of(tensor, "data_type") == "TYPE_FP32"
    assert not tensor.is_non_linear_format_io
    assert name_of(config.instance_group[0], "kind") == "KIND_CPU"
    assert [(entry.key, entry.value.string_value) for entry in config.parameters] == [("trtforge_target", "host")]


def test_a_dla_engine(make_manifest: Callable[..., Manifest]) -> None:
    manifest = make_manifest(
        platform="tensorrt_plan",
        engine_file="model.plan",
        target=BuiltFor("orin-agx-64gb/dla", sm="8.7", dla_core=1),
        inputs=(TensorRecord("in", (8, 4, 2, 2), "int8", "dla_hwc4"), TensorRecord("n", (None,), "int32")),
        outputs=(TensorRecord("out", (), "float16"),),
    )
    config = parse(render(manifest))
    first, second = config.input
    assert first.is_non_linear_format_io and list(second.dims) == [-1]
    assert list(config.output[0].dims) == [1] and config.output[0].HasField("reshape")
    (group,) = config.instance_group
    assert name_of(group, "kind") == "KIND_GPU"
    assert [device.device_id for device in group.secondary_devices] == [1]


def test_a_gpu_engine(make_manifest: Callable[..., Manifest]) -> None:
    config = parse(render(make_manifest(target=BuiltFor("a30", sm="8.0"))))
    assert name_of(config.instance_group[0], "kind") == "KIND_GPU"
    assert not config.instance_group[0].secondary_devices


@pytest.mark.parametrize("dtype", sorted(TYPES))
def test_every_type_is_one_of_tritons(make_manifest: Callable[..., Manifest], dtype: str) -> None:
    config = parse(render(make_manifest(outputs=(TensorRecord("y", (1,), dtype),))))
    assert name_of(config.output[0], "data_type") == TYPES[dtype]


def test_another_type_is_refused(make_manifest: Callable[..., Manifest]) -> None:
    with pytest.raises(NotServable) as caught:
        render(make_manifest(outputs=(TensorRecord("y", (1,), "int4"),)))
    assert "'y'" in caught.value.what and "int4" in caught.value.what and "cast" in caught.value.next


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_name_survives(name: str) -> None:
    assert parse(f"name: {quote(name)}").name == name
