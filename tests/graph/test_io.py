"""Loading refuses what is broken, with the reason; saving keeps external data out of memory."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtforge.errors import TrtforgeError
from trtforge.errors import graph as errors
from trtforge.graph import io, shapes
from trtforge.graph.describe import describe
from trtforge.graph.diff import diff
from trtforge.graph.model import Model
from trtforge.graph.weights import read_tensor


def edit(path: Path, **entries: str) -> None:
    """Change the external data entries of the first weight of a model file."""
    proto = onnx.load(path, load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        entry.value = entries.get(entry.key, entry.value)
    path.write_bytes(proto.SerializeToString())


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(errors.ModelNotFound) as caught:
        io.load(tmp_path / "no.onnx")
    assert "No such file" in caught.value.why
    with pytest.raises(errors.ModelNotFound) as caught:
        io.load(tmp_path)
    assert caught.value.why == "it is a folder"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b"<!DOCTYPE html><p>404", "HTML"),
        (gzip.compress(b"model", mtime=0), "gzip"),
        (b"ftrt" + bytes(50), "TensorRT engine"),
        (bytes(100), "zero bytes"),
        (b"\x08\x08", "with nodes"),
    ],
)
def test_other_files_are_recognised(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(errors.NotAModel) as caught:
        io.load(path)
    assert reason in caught.value.why
    assert str(path) in caught.value.where
    assert caught.value.exit_code == 4


def test_a_model_without_nodes_is_one_that_computes_nothing(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([], "g", [value], [value])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "m.onnx")
    with pytest.raises(errors.InvalidGraph, match="computes nothing") as caught:
        io.load(tmp_path / "m.onnx")
    assert "no nodes" in caught.value.why


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes_end_in_one_of_our_errors(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        path.write_bytes(data)
        with pytest.raises((errors.NotAModel, errors.TruncatedModel, errors.UnsupportedVersion, errors.InvalidGraph)):
            io.load(path)


def test_truncation_at_any_place_is_noticed(opennsfw_path: Path, tmp_path: Path) -> None:
    data = opennsfw_path.read_bytes()
    path = tmp_path / "m.onnx"
    for size in (5, 1000, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(errors.TruncatedModel) as caught:
            io.load(path)
        assert f"{size:,} bytes" in caught.value.why


def test_any_damaged_byte_ends_in_one_of_our_errors_or_in_a_model_that_can_be_used(parse, tmp_path: Path) -> None:
    model = parse(
        """
        <ir_version: 8, opset_import: ["": 17]> g (float[n, 3] x) => (float[n, 3] y) {
            t = Add(x, w)
            y = If(c) <then_branch = a () => (float[n, 3] p) { p = Relu(t) },
                       else_branch = b () => (float[n, 3] q) { q = Neg(t) }>
        }
        """,
        w=np.ones(3, np.float32),
        c=np.array(True),
    )
    data = model.proto.SerializeToString()
    path = tmp_path / "m.onnx"
    refused = 0
    for position in range(len(data)):
        for byte in (data[position] ^ 0x80, data[position] ^ 0x01):
            path.write_bytes(data[:position] + bytes([byte]) + data[position + 1 :])
            try:
                found = io.load(path)
                describe(found)
                shapes.infer_shapes(found)
                diff(found, model)
            except TrtforgeError:
                refused += 1
    assert len(data) < refused < 2 * len(data)


def test_damaged_names_types_and_sizes_are_told(parse, tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[1] the_input) => (float[1] y) { y = Add(the_input, w) }'
    path = tmp_path / "m.onnx"
    for change, reason in (
        (lambda data: data.replace(b"the_input", b"the_\xffnput"), "no text"),
        (lambda data: data.replace(b"\x10\x01\x42\x01w", b"\x10\x63\x42\x01w"), "'w' has the element type 99"),
    ):
        data = parse(text, w=np.ones(1, np.float32)).proto.SerializeToString(deterministic=True)
        path.write_bytes(change(data))
        assert path.read_bytes() != data
        with pytest.raises(errors.InvalidGraph) as caught:
            io.load(path)
        assert reason in caught.value.why


GATHER = "[pick] {} = GatherND<batch_dims = -1000>(x, i)"
BRANCHES = f"then_branch = t () => (u) {{ {GATHER.format('u')} }}, else_branch = e () => (v) {{ v = Identity(x) }}"


PICK = f'<domain: "own", opset_import: ["": 17]> Pick (x, i) => (y) {{ {GATHER.format("y")} }}'


@pytest.mark.parametrize(
    ("nodes", "function"),
    [
        (GATHER.format("y"), ""),
        (f"y = If(c) <{BRANCHES}>", ""),
        ("y = own.Pick(x, i)", PICK),
    ],
    ids=["graph", "body", "function"],
)
def test_what_would_crash_shape_inference_is_not_let_in(tmp_path: Path, nodes: str, function: str) -> None:
    """onnx 1.23 ends the process for each of these, in `infer_shapes` and in `convert_version`."""
    text = f"""<ir_version: 8, opset_import: ["": 17, "own": 1]>
    g (float[2, 3, 4] x, int64[2, 3, 1] i, bool c) => (y) {{ {nodes} }} {function}"""
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    with pytest.raises(errors.InvalidGraph) as caught:
        io.load(path)
    assert caught.value.why == "node 'pick' (GatherND) has batch_dims -1000, and a number of axes is 0 or more"
    onnx.save(onnx.parser.parse_model(text.replace("-1000", "1")), path)
    io.load(path)


@pytest.mark.parametrize("inside", [False, True])
def test_a_domain_without_a_version_is_named_with_the_line_that_adds_it(tmp_path: Path, inside: bool) -> None:
    body = "[foo] y = com.acme.Foo(x)"
    if inside:
        both = f"then_branch = t () => (float[1] y) {{ {body} }}, else_branch = e () => (float[1] z) {{ z = Relu(x) }}"
        body = f"v = If(c) <{both}>"
    made = "v" if inside else "y"
    text = f'<ir_version: 8, opset_import: ["": 17]> g (float[1] x, bool c) => (float[1] {made}) {{ {body} }}'
    proto, path = onnx.parser.parse_model(text), tmp_path / "m.onnx"
    onnx.save(proto, path)
    with pytest.raises(errors.UnsupportedVersion) as caught:
        io.load(path)
    assert "`com.acme`" in caught.value.what and "node 'foo' (Foo)" in caught.value.where
    line = caught.value.next.rpartition(": ")[2]
    exec(line, {"model": proto, "onnx": onnx})  # what it tells to do is enough
    onnx.save(proto, path)
    assert io.load(path).proto == proto


def test_versions(parse, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for change, reason in (
        (lambda proto: setattr(proto.opset_import[0], "version", 999), "opset 999"),
        (lambda proto: setattr(proto, "ir_version", 999), "IR version 999"),
        (lambda proto: proto.ClearField("opset_import"), "no opset"),
    ):
        proto = parse('<ir_version: 8, opset_import: ["": 17]> g (float[1] x) => (float[1] y) { y = Relu(x) }').proto
        change(proto)
        path.write_bytes(proto.SerializeToString())
        with pytest.raises(errors.UnsupportedVersion) as caught:
            io.load(path)
        assert reason in caught.value.why


def test_dangling_and_doubled_tensors(parse, tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[1] x) => (float[1] y) { t = Relu(x)  y = Neg(t) }'
    path = tmp_path / "m.onnx"
    for change, reason in (
        (lambda graph: graph.node[1].input.__setitem__(0, "ghost"), "'ghost'"),
        (lambda graph: graph.node[0].output.__setitem__(0, "x"), "exists already"),
        (lambda graph: graph.node.__delitem__(1), "produced by no node"),
    ):
        proto = parse(text).proto
        change(proto.graph)
        path.write_bytes(proto.SerializeToString())
        with pytest.raises(errors.InvalidGraph) as caught:
            io.load(path)
        assert reason in caught.value.why


def test_external_data_is_read_on_demand(external_model: Path) -> None:
    model = io.load(external_model)
    assert model.folder == external_model.parent
    assert not model.proto.graph.initializer[0].raw_data
    loaded = onnx.load(external_model)
    for skeleton, full in zip(model.proto.graph.initializer, loaded.graph.initializer, strict=True):
        np.testing.assert_array_equal(read_tensor(model, skeleton), onnx.numpy_helper.to_array(full))


def test_missing_external_file(external_model: Path) -> None:
    (external_model.parent / "w.bin").unlink()
    with pytest.raises(errors.MissingExternalData) as caught:
        io.load(external_model)
    assert "w.bin" in caught.value.what
    assert "w.bin" in caught.value.next


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "a/../../w.bin", "C:\\w.bin", ""])
def test_external_data_outside_the_folder(external_model: Path, location: str) -> None:
    (external_model.parent.parent / "w.bin").write_bytes(bytes(100_000))
    edit(external_model, location=location)
    with pytest.raises(errors.ExternalDataEscapes):
        io.load(external_model)


def test_external_data_behind_a_link(external_model: Path) -> None:
    data = external_model.parent / "w.bin"
    outside = external_model.parent.parent / "elsewhere.bin"
    data.rename(outside)
    data.symlink_to(outside)
    with pytest.raises(errors.ExternalDataEscapes) as caught:
        io.load(external_model)
    assert "elsewhere.bin" in caught.value.why


@pytest.mark.parametrize("entries", [{"offset": "100"}, {"length": "100000"}, {"length": "10"}])
def test_external_data_too_short(external_model: Path, entries: dict[str, str]) -> None:
    edit(external_model, **entries)
    with pytest.raises(errors.ExternalDataTooShort) as caught:
        io.load(external_model)
    assert "65,536" in caught.value.why or "100,000" in caught.value.why


@pytest.mark.parametrize("entries", [{"offset": "-1"}, {"length": "many"}])
def test_external_data_at_an_impossible_place(external_model: Path, entries: dict[str, str]) -> None:
    edit(external_model, **entries)
    with pytest.raises(errors.UnreadableWeight):
        io.load(external_model)


def test_save_links_external_data(external_model: Path, tmp_path: Path) -> None:
    model = io.load(external_model)
    target = tmp_path / "new" / "sub" / "m.onnx"
    saved = io.save(model, target)
    assert (target.parent / "w.bin").samefile(external_model.parent / "w.bin")
    again = io.load(target)
    assert again.proto == saved.proto == model.proto
    assert again.folder == saved.folder == target.parent
    assert sorted(path.name for path in target.parent.iterdir()) == ["m.onnx", "w.bin"]
    io.save(again, target)  # onto itself: nothing is lost
    assert io.load(target).proto == model.proto


def test_save_keeps_a_strangers_file(external_model: Path, tmp_path: Path) -> None:
    model = io.load(external_model)
    target = tmp_path / "new" / "m.onnx"
    target.parent.mkdir()
    (target.parent / "w.bin").write_bytes(b"mine")
    saved = io.save(model, target)
    assert (target.parent / "w.bin").read_bytes() == b"mine"
    for tensor, original in zip(saved.proto.graph.initializer, model.proto.graph.initializer, strict=True):
        np.testing.assert_array_equal(read_tensor(saved, tensor), read_tensor(model, original))


def test_the_models_own_name_is_no_place_for_its_data(external_model: Path, tmp_path: Path) -> None:
    model = io.load(external_model)
    io.save(model, tmp_path / "new" / "w.bin")
    again = io.load(tmp_path / "new" / "w.bin")
    for tensor, original in zip(again.proto.graph.initializer, model.proto.graph.initializer, strict=True):
        np.testing.assert_array_equal(read_tensor(again, tensor), read_tensor(model, original))


def test_save_copies_where_links_fail(external_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    target = tmp_path / "new" / "m.onnx"
    io.save(io.load(external_model), target)
    assert (target.parent / "w.bin").read_bytes() == (external_model.parent / "w.bin").read_bytes()
    assert not (target.parent / "w.bin").samefile(external_model.parent / "w.bin")


def test_save_moves_big_inline_weights_out(
    external_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Model(onnx.load(external_model))
    monkeypatch.setattr(io, "INLINE_LIMIT", 1000)
    with pytest.raises(errors.ModelTooLarge):
        io.to_bytes(full)
    target = tmp_path / "new" / "m.onnx"
    saved = io.save(full, target)
    assert target.stat().st_size < 1000
    assert len(full.proto.graph.initializer[0].raw_data) == 65536, "the given model is not changed"
    for tensor, original in zip(saved.proto.graph.initializer, full.proto.graph.initializer, strict=True):
        np.testing.assert_array_equal(read_tensor(io.load(target), tensor), onnx.numpy_helper.to_array(original))
    onnx.checker.check_model(str(target))


def test_save_reports_what_the_system_says(parse, tmp_path: Path) -> None:
    model = parse('<ir_version: 8, opset_import: ["": 17]> g (float[1] x) => (float[1] y) { y = Relu(x) }')
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.CannotWriteModel) as caught:
        io.save(model, tmp_path / "file" / "m.onnx")
    assert caught.value.why
    assert (tmp_path / "file").read_text() == ""


def test_to_bytes_is_what_load_reads(opennsfw_path: Path) -> None:
    model = io.load(opennsfw_path)
    proto = onnx.ModelProto.FromString(io.to_bytes(model))
    assert proto == model.proto


def test_saving_again_beside_a_foreign_data_file_adds_no_file(external_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "w.bin").write_bytes(b"of another model")
    model = io.load(external_model)
    for _ in range(3):
        io.save(model, out / "m.onnx")
    assert sorted(path.name for path in out.iterdir()) == ["m.onnx", "m.onnx.data", "w.bin"]
    assert (out / "w.bin").read_bytes() == b"of another model"
    saved = io.load(out / "m.onnx")
    tensor = saved.proto.graph.initializer[0]
    np.testing.assert_array_equal(read_tensor(saved, tensor), read_tensor(model, model.proto.graph.initializer[0]))
