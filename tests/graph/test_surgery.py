"""Surgery end to end: on the demo's model, and on external weights that nobody may read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from trtforge import ort
from trtforge.graph import io, shapes
from trtforge.graph.diff import diff
from trtforge.graph.model import Model
from trtforge.graph.passes.registry import available
from trtforge.graph.surgery import perform

DEFAULT = ["upgrade-opset", "fold-constants", "infer-shapes"]


def outputs(model, feeds):
    session = ort.open_session(model.proto, model.folder, ort.session_options(threads=1))
    return session.run(None, feeds)


def test_opennsfw(opennsfw_path: Path, values, agree) -> None:
    model = io.load(opennsfw_path)
    result = perform(model, DEFAULT)
    assert [report.modified for report in result.reports] == [True, False, False]
    assert result.model.proto.opset_import[0].version == 17
    onnx.checker.check_model(result.model.proto, full_check=True)
    feeds = {"input:0": np.random.default_rng(0).normal(0, 60, (2, 224, 224, 3)).astype(np.float32)}
    before, after = values(model, feeds), values(result.model, feeds)
    assert before.keys() == after.keys()
    agree(before, after)
    assert diff(model, result.model).to_json()["opset"] == {"before": 9, "after": 17}


def test_opennsfw_channels_first_with_topk(opennsfw_path: Path) -> None:
    model = shapes.freeze_inputs(io.load(opennsfw_path), {"input:0": (2, 224, 224, 3)})
    result = perform(model, list(available())).model
    onnx.checker.check_model(result.proto, full_check=True)
    image = np.random.default_rng(0).normal(0, 60, (2, 224, 224, 3)).astype(np.float32)
    (expected,) = outputs(model, {"input:0": image})
    (index,) = outputs(result, {"input:0": image.transpose(0, 3, 1, 2)})
    np.testing.assert_array_equal(index[:, 0], expected.argmax(axis=1))


def test_inline_weights_are_copied_once_however_many_passes(opennsfw_path: Path) -> None:
    names = list(available())
    model = io.load(opennsfw_path)
    result = perform(model, names + [name for name in names if name != "topk-head"] * 3).model
    total = io.inline_bytes(model.proto)
    assert abs(io.inline_bytes(result.proto) - total) < 100
    assert not any(tensor.external_data for tensor in result.proto.graph.initializer)


def test_every_pass_on_external_weights_reads_none_of_them(external_model: Path) -> None:
    """The data file is a sparse one of 8 GiB: reading it would show in the process's count of bytes read."""
    size = 8 << 30
    proto = onnx.load(external_model, load_external_data=False)
    weight = proto.graph.initializer[0]
    rows = size // 4 // 128
    weight.dims[:] = [rows, 128]
    for entry in weight.external_data:
        if entry.key == "length":
            entry.value = str(size)
    proto.graph.initializer[1].external_data[1].value = str(size)
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = rows
    external_model.write_bytes(proto.SerializeToString())
    with (external_model.parent / "w.bin").open("r+b") as data:
        data.truncate(size + 4)
    program = """
import json, resource, sys
from pathlib import Path
from trtforge.graph import io
from trtforge.graph.surgery import perform
from trtforge.graph.passes.registry import available
def read():
    return int(Path("/proc/self/io").read_text().split()[1])
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
perform(io.load(Path(sys.argv[1])), list(available()))  # once for what is imported late
before = read(), peak()
result = perform(io.load(Path(sys.argv[1])), list(available()))
io.save(result.model, Path(sys.argv[2]))
print(json.dumps([read() - before[0], peak() - before[1]]))
"""
    if not Path("/proc/self/io").exists():
        pytest.skip("counts bytes read with /proc/self/io")
    target = external_model.parent / "out" / "m.onnx"
    command = [sys.executable, "-c", program, str(external_model), str(target)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    read, peak_kib = json.loads(printed)
    assert read < 1 << 20
    assert peak_kib < 20 << 10
    assert (target.parent / "w.bin").samefile(external_model.parent / "w.bin")


def test_fold_reads_just_the_external_weight_it_needs(external_model: Path, values, agree) -> None:
    proto = onnx.load(external_model, load_external_data=False)
    proto.graph.node[1].input[1] = "negated"
    proto.graph.node.insert(0, onnx.helper.make_node("Neg", ["b"], ["negated"]))
    external_model.write_bytes(proto.SerializeToString())
    model = io.load(external_model)
    result = perform(model, ["fold-constants"]).model
    weights = {tensor.name: tensor for tensor in result.proto.graph.initializer}
    assert weights.keys() == {"w", "negated"}
    assert weights["w"].data_location == onnx.TensorProto.EXTERNAL and weights["negated"].raw_data
    feeds = {"x": np.ones((1, 128), np.float32)}
    agree(values(model, feeds), values(result, feeds), {"m", "y"})


def test_diff_tells_what_changed(parse) -> None:
    model = parse(
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1, 4, 6, 3] x) => (float[1, 3, 1, 1] y) {
            t = Transpose<perm = [0, 3, 1, 2]>(x)
            c = Conv(t, w)
            r = Clip(c, zero, six)
            y = GlobalAveragePool(r)
        }
        """,
        w=np.ones((3, 3, 1, 1), np.float32),
        zero=np.float32(0),
        six=np.float32(6),
    )
    result = perform(model, ["infer-shapes", "nhwc-to-nchw-input", "relu6-to-relu", "global-average-pool"])
    assert (
        result.diff.to_text()
        == """\
opset    17
input    x float32 [1, 4, 6, 3] -> float32 [1, 3, 4, 6]
output   y float32 [1, 3, 1, 1]
nodes    4 -> 3
         AveragePool 0 -> 1
         Clip 1 -> 0
         GlobalAveragePool 1 -> 0
         Relu 0 -> 1
         Transpose 1 -> 0
weights  3 -> 1, 44 -> 36 bytes
- Transpose t
~ Conv c: reads t -> x
~ Relu r: was Clip, reads c, zero, six -> c
~ AveragePool y: was GlobalAveragePool, kernel_shape (none) -> [4, 6], strides (none) -> [1, 1]"""
    )
    described = json.loads(json.dumps(result.diff.to_json()))
    assert described["removed"] == [{"op": "Transpose", "output": "t"}]
    assert described["weight_bytes"] == {"before": 44, "after": 36}


def test_changes_of_one_kind_are_one_line_unless_every_node_is_asked_for(parse) -> None:
    chain = " ".join(f"[n{i}] t{i} = Clip(t{i - 1}, lo, hi)" for i in range(1, 6))
    text = f'<ir_version: 8, opset_import: ["": 17]> g (float[2] t0) => (float[2] t5) {{ {chain} }}'
    result = perform(parse(text, lo=np.float32(0), hi=np.float32(6)), ["relu6-to-relu"])
    assert result.diff.to_text().splitlines()[-1] == "~ 5 Clip -> Relu: t1, t2, t3 and 2 more"
    told = result.diff.to_text(every_node=True).splitlines()
    assert [line for line in told if line.startswith("~")] == [
        f"~ Relu t{i}: was Clip, reads t{i - 1}, lo, hi -> t{i - 1}" for i in range(1, 6)
    ]


def test_diff_of_a_model_with_itself_is_empty(opennsfw_path: Path) -> None:
    model = io.load(opennsfw_path)
    same = diff(model, model)
    assert not (same.removed or same.added or same.changed)
    assert "->" not in same.to_text()


def test_small_external_weights_are_found_in_the_models_folder(parse, tmp_path: Path, monkeypatch) -> None:
    """Some exporters put every tensor into the data file: conditions, axes and indices too."""
    model = parse(
        """
        <ir_version: 8, opset_import: ["": 18]> g (float[1, 3, 4, 4] x) => (float[1, 3] y, int64[1] n)
        {
            dropped, mask = Dropout(x, ratio, mode)
            branch = If(yes) <
                then_branch = a () => (float[1, 3, 4, 4] p) { p = Relu(dropped) },
                else_branch = b () => (float[1, 3, 4, 4] q) { q = Neg(dropped) }>
            y = ReduceMean<keepdims = 0>(branch, axes)
            sizes = Shape(x)
            known = Gather(sizes, index)
            n = Neg(known)
        }
        """,
        ratio=np.array(0.5, np.float32),
        mode=np.array(False),
        yes=np.array(True),
        axes=np.array([2, 3], np.int64),
        index=np.array([1], np.int64),
    )
    path = tmp_path / "model" / "m.onnx"
    path.parent.mkdir()
    onnx.save_model(model.proto, path, save_as_external_data=True, location="m.data", size_threshold=0)
    monkeypatch.chdir(tmp_path)  # not the model's folder
    result = perform(io.load(path), ["infer-shapes", "fold-constants", "remove-identity", "global-average-pool"]).model
    assert [node.op_type for node in result.proto.graph.node] == ["Relu", "AveragePool", "Flatten", "Neg"]


@pytest.mark.parametrize("name", ["fold-batchnorm", "remove-identity"])
def test_the_work_grows_with_the_graph_and_not_with_its_square(monkeypatch, name: str) -> None:
    """Counts what cost a 5000-node graph a minute: comparing nodes field by field, and walks over the graph."""
    calls = {"compared": 0, "walked": 0}

    def counted(function, what: str):
        def wrapper(*args, **kwargs):
            calls[what] += 1
            return function(*args, **kwargs)

        return wrapper

    monkeypatch.setattr(gs.Node, "__eq__", counted(gs.Node.__eq__, "compared"))
    monkeypatch.setattr(gs.Graph, "tensors", counted(gs.Graph.tensors, "walked"))
    monkeypatch.setattr(gs.Graph, "subgraphs", counted(gs.Graph.subgraphs, "walked"))
    blocks, nodes, source = 50, [], "x"
    for block in range(blocks):
        nodes += [
            onnx.helper.make_node("Conv", [source, "w"], [f"c{block}"]),
            onnx.helper.make_node("BatchNormalization", [f"c{block}", "s", "s", "s", "s"], [f"b{block}"]),
            onnx.helper.make_node("Identity", [f"b{block}"], [f"i{block}"]),
        ]
        source = f"i{block}"
    ends = [onnx.helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, [1, 2, 4, 4]) for end in ("x", source)]
    weights = [np.ones((2, 2, 1, 1), np.float32), np.ones(2, np.float32)]
    tensors = [onnx.numpy_helper.from_array(value, label) for value, label in zip(weights, "ws", strict=True)]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    opset = onnx.helper.make_opsetid("", 17)
    result = perform(Model(onnx.helper.make_model(graph, opset_imports=[opset])), [name])
    assert len(result.model.proto.graph.node) == 2 * blocks
    assert calls["walked"] < 10
    assert calls["compared"] < 3 * len(nodes)
