"""The layer list in a plan's bytes, also when it is broken; and the matching of nodes to layers."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtforge.backends.nvidia.messages import explain
from trtforge.backends.tensorrt_rtx_.ir import Layer, Tensor, parse, read_layers
from trtforge.backends.tensorrt_rtx_.names import count_int8

TEXT = """header {
  version = 5
  accelerators={sm80 }
}
descriptors {
  tensor={ alignment=128 dims={ 1 32 16 16 } name="a{1}" offset=0 region="devmem" type=int8 }
  tensor={ alignment=128 dims={ 32 32 3 3 } name="w" type=int8 }
  tensor={ dims={ 1 32 16 16 } name="y" type=float }
  sub_tensor={ base="y" dims={ 1 8192 } name="y^deref" type=half }
}
main {
 label bb1:\x20
  corrltn={ name="conv" output={"y" } input={"a{1}" "w" } stream=0 strides={ 1 1 } layers="[ONNX Layer: conv]\x1f[ONNX Layer: a [1] b]" }
  function={ name=__myl_Relu args={ "y" "z" } input_args={ "y^deref" } output_args={ "z" } grid = { 4 1 1 } layers="[ONNX Layer: relu]" }
  wait={ stream=1 event=2 }
}
"""  # noqa: E501


def layer(kind: str, types: tuple[str, ...], *nodes: str) -> Layer:
    return Layer(kind, kind, nodes, tuple(Tensor(str(n), kind, (1,)) for n, kind in enumerate(types)), ())


def test_parse() -> None:
    conv, relu = parse(TEXT)
    assert (conv.op, conv.name, conv.nodes, conv.is_int8) == ("Conv", "conv", ("conv", "a [1] b"), True)
    assert conv.inputs == (Tensor("a{1}", "int8", (1, 32, 16, 16)), Tensor("w", "int8", (32, 32, 3, 3)))
    assert conv.outputs == (Tensor("y", "float", (1, 32, 16, 16)),)
    assert (relu.op, relu.name, relu.has_weights) == ("function", "__myl_Relu", False)
    assert relu.inputs == (Tensor("y^deref", "half", (1, 8192)),)
    assert relu.outputs == (Tensor("z", "", ()),)  # not described: type unknown


def region(text: bytes, length: int | None = None) -> bytes:
    return b"NLYM" + bytes(4) + struct.pack("<Q", len(text) if length is None else length) + text


def test_regions_are_found_between_other_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.plan"
    text = TEXT.encode()
    path.write_bytes(b"NLYM junk" + region(text) + b"\0kernels NLYM" + region(text + b"\0NLYMtail") + bytes(40))
    assert [found.op for found in read_layers(path)] == ["Conv", "function"] * 2


def test_a_length_beyond_the_file_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "model.plan"
    path.write_bytes(region(TEXT.encode(), 1 << 60))
    assert len(read_layers(path)) == 2


@given(st.binary(max_size=300), st.integers(0, len(TEXT)), st.integers(0, 1 << 64 - 1))
def test_broken_text_gives_fewer_layers_and_no_crash(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, cut: int, length: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "broken.plan"
    text = TEXT.encode()
    path.write_bytes(region(text[:cut] + noise + text[cut:], length % (1 << 64)) + noise)
    assert len(read_layers(path)) <= 6


@given(st.text(alphabet='{}"= \nabc[]\x1f', max_size=400))
def test_any_text_is_parsed_or_left(text: str) -> None:
    assert all(isinstance(found, Layer) for found in parse(text))


def test_nodes_are_matched_to_layers() -> None:
    meant = {"a": "Conv", "b": "Conv", "c": "Conv", "q": "MatMul", "k": "MatMul", "s": "MatMul", "g": "Gemm"}
    count = count_int8(
        meant,
        [
            layer("corrltn", ("int8", "int8", "float"), "a"),
            layer("corrltn", ("float", "float"), "b"),
            layer("fully_connected", ("int8", "int8"), "q", "k"),
            layer("fully_connected", ("half", "int8"), "g"),
            layer("function", ("int8", "int8"), "s", "b"),
        ],
    )
    assert count.kept == ("a", "q", "k")
    assert (count.of("Conv"), count.of("Gemm", "MatMul")) == (1, 2)
    assert count.float_ == {"b": ("float", "float"), "g": ("half", "int8")}
    assert count.unseen == ("c", "s")
    assert count.lost == ["b", "g", "c"]  # s may be inside a fused function; a convolution is not


@pytest.mark.parametrize(
    ("message", "word"),
    [
        ("Cannot compile operation 'conv' for Turing (SM75): FP32 3D convolution is not supported.", "SM 7.5"),
        ("Cannot compile for target(s) sm80, because the model contains HW-specific datatypes: fp8_e4m3.", "format"),
        ("Network has dynamic or shape inputs, but no optimization profile has been defined.", "size"),
        ("Tactic Selection: no tactics to implement the operation within workspace limit.", "scratch memory"),
        ("Error Code 2: OutOfMemory (Requested size was 1099577516 bytes.)", "need more than `workspace` allows"),
        ("ElementWiseOperation SUM must have same input types. But they are of types Float and Half", "two number"),
        ("Non-zero zero point is not supported. Please set kENABLE_UINT8", "asymmetric"),
        ("input has type Int32 but must have type FP8, FP4, Int4, Int8, or UInt8", "biases"),
        ("Scale coefficients must all be positive", "zero or negative"),
        ('creator && "Plugin not found, are the plugin name, version, and namespace correct?"', "does not know"),
    ],
)
def test_known_messages_have_plain_words(message: str, word: str) -> None:
    meaning = explain(message)
    assert meaning is not None
    assert word in meaning.says
    assert meaning.next


def test_other_messages_have_none() -> None:
    assert explain("all is well") is None
