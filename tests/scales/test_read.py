"""Any form of scales is recognised by its content."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper
from onnx.parser import parse_model

from trtforge.errors.base import TrtforgeError
from trtforge.errors.calibration import QdqNotPlain, ScalesFileInvalid
from trtforge.errors.graph import NotAModel
from trtforge.graph import io
from trtforge.graph.model import Model
from trtforge.scales.codecs import ort_json
from trtforge.scales.codecs.qdq import insert
from trtforge.scales.codecs.trt_cache import CalibrationCache
from trtforge.scales.read import read_any
from trtforge.scales.table import ScaleTable, TensorRange

TABLE = ScaleTable({"x": TensorRange(-0.5, 1.25, 3), "input:0": TensorRange(0.0, 6.0, 3)})


def float_model() -> Model:
    proto = parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,2,3,3] x) => (float[1,2,3,3] out) {out = Conv(x, w)}'
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.eye(2, dtype=np.float32).reshape(2, 2, 1, 1), "w"))
    return Model(proto)


def test_every_form_gives_the_same_scales_whatever_the_name(tmp_path: Path) -> None:
    path = tmp_path / "scales.any"
    TABLE.save(path)
    assert read_any(path) == (TABLE, "trtforge JSON")
    ort_json.save(TABLE, path)
    table, form = read_any(path)
    assert form == "onnxruntime JSON"
    assert {n: r.scale for n, r in table.ranges.items()} == {n: r.scale for n, r in TABLE.ranges.items()}
    CalibrationCache.from_table(TABLE, tensorrt="8.6.2").save(path)
    table, form = read_any(path)
    assert form == "TensorRT cache"
    assert {n: r.scale for n, r in table.ranges.items()} == {n: r.scale for n, r in TABLE.ranges.items()}
    io.save(insert(float_model(), TABLE)[0], path)
    table, form = read_any(path)
    assert form == "Q/DQ model"
    assert {n: r.scale for n, r in table.ranges.items()} == {"x": TABLE.ranges["x"].scale}
    io.save(float_model(), path)
    with pytest.raises(QdqNotPlain):
        read_any(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"{",
        b"[1",
        b"[" * 100_000,
        b"TRT-",
        b'{"x": 1}',
        b"\x00\x01\x02",
        b"\x08\x08\x12",
        json.dumps({"format": "trtforge.scales", "version": 1}).encode(),
    ],
)
def test_what_is_none_of_them_ends_in_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "scales"
    path.write_bytes(content)
    with pytest.raises(TrtforgeError) as caught:
        read_any(path)
    assert str(path) in caught.value.where
    assert caught.value.next


def test_a_pipe_cannot_be_read_twice(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ScalesFileInvalid) as caught:
        read_any(tmp_path / "pipe")
    assert "it is a pipe" in caught.value.why


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ScalesFileInvalid):
        read_any(tmp_path / "none")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"target: host\nbackend: onnxruntime\n", "it is text of another kind"),
        ("\ufeff{}".encode(), "it begins with a byte order mark"),
        ("\ufeffTRT-8602-MinMaxCalibration\nx: 3c010204\n".encode(), "it begins with a byte order mark"),
        ("TRT-8602-MinMaxCalibration\nx: 3c010204\n".encode("utf-16"), "it begins with a byte order mark"),
        (b"TRT-8602-MinMaxCalibration\n", "it is a TensorRT cache without a single scale"),
        ("name: Überfaß\n".encode() * 5, "it is text of another kind"),
        ("é".encode() * 40, "it is text of another kind"),
        (b"x" + "é".encode() * 40, "it is text of another kind"),  # the 64th byte is half a letter
        (b"", "it is empty"),
        (b'{"name": "package", "files": {"a": 1}}', "it is JSON of another kind"),
        (b"[]", "it is JSON of another kind"),
        (b"\x89PNG\r\n\x1a\n", "do not parse as an ONNX model"),
    ],
)
def test_what_is_no_scales_file_is_told_which_forms_there_are(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "scales"
    path.write_bytes(content)
    with pytest.raises(ScalesFileInvalid) as caught:
        read_any(path)
    assert caught.value.what == "this is no file of scales" and caught.value.where == str(path)
    assert why in caught.value.why and "a TensorRT cache (its first line begins with TRT-)" in caught.value.why


def test_a_broken_model_that_is_called_one_is_a_broken_model(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\x89PNG")
    with pytest.raises(NotAModel):
        read_any(tmp_path / "m.onnx")
