"""BERT built by sizes and spellings, its attention found in every layer, and what each target makes of it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import shape_inference

from trtforge import plugins
from trtforge.graph import io, weights
from trtforge.graph.model import Model
from trtforge.graph.passes.registry import run
from trtforge.graph.shapes import freeze_inputs
from trtforge.ort import open_session, session_options
from trtforge.surgery.choose import Plan, apply, as_functions, choose
from trtforge.surgery.documented import documented
from trtforge.surgery.op import Situation

Array = np.ndarray[Any, Any]

PASSES = ["upgrade-opset", "fold-constants", "infer-shapes"]
OP = plugins.ops()["qkv-to-context"]
SM = {"A100": "8.0", "A30": "8.0", "A2": "8.6", "Orin": "8.7"}
HERE = Situation("onnxruntime", "fp32", None)


@pytest.fixture(scope="module")
def topology(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("recipes/bert/topology.py")


def small(topology: ModuleType, name: str, layers: int = 2) -> Any:
    """Real width and heads, a vocabulary of 100 words and few layers."""
    return replace(topology.SIZES[name], layers=layers, vocabulary=100)


def feeds(topology: ModuleType, form: str, batch: int = 2, length: int = 24) -> dict[str, Array]:
    rng = np.random.default_rng(1)
    if form == "packed":
        bounds = np.array([0, 7, 12, batch * length], np.int32)
        ids = rng.integers(0, 100, batch * length).astype(np.int32)
        values = (ids, np.zeros_like(ids), bounds, np.zeros(64, np.int32))
    else:
        mask = (np.arange(length) < np.array([[length], [9]])).astype(np.int64)
        values = (rng.integers(0, 100, (batch, length)), mask, rng.integers(0, 2, (batch, length)))
    return dict(zip(topology.INPUTS[form], values, strict=True))


def outputs(model: Model, given: dict[str, Array]) -> list[Array]:
    session = open_session(model.proto, model.folder, session_options(threads=1))
    names = {one.name for one in session.get_inputs()}
    return session.run(None, {name: value for name, value in given.items() if name in names})


def ready(proto: onnx.ModelProto, given: dict[str, Array]) -> Model:
    """As a build has it when plugins are looked for: passes, the recipe's shapes, passes again."""
    made, _ = run(Model(proto), PASSES)
    fixed = freeze_inputs(made, {name: value.shape for name, value in given.items()})
    return run(fixed, PASSES[1:])[0]


def assert_equal(before: list[Array], after: list[Array]) -> None:
    for one, other in zip(before, after, strict=True):
        assert np.isfinite(one).all() and one.shape == other.shape
        assert np.abs(one - other).max() <= 1e-5 * np.abs(one).max()


@pytest.mark.parametrize(
    ("name", "parameters"), [("minilm", 22_565_376), ("base", 108_893_186), ("large", 334_094_338)]
)
def test_sizes(topology: ModuleType, name: str, parameters: int, tmp_path: Path) -> None:
    """Without the pooler, which no head of ours reads, as in transformers' BertForQuestionAnswering."""
    size = topology.SIZES[name]
    layer = 4 * size.hidden**2 + 2 * size.hidden * size.inner + 9 * size.hidden + size.inner
    rows = size.vocabulary + size.positions + size.segments + 2
    head = 2 * size.hidden + 2 if name != "minilm" else 0
    assert size.layers * layer + rows * size.hidden + head == parameters
    model = topology.bert(small(topology, name), head="sentence" if name == "minilm" else "squad")
    assert sum(value.size for value in topology.weights_of(model).values()) == (
        2 * layer + (rows - size.vocabulary + 100) * size.hidden + head
    )


@pytest.mark.parametrize("opset", [11, 13, 17, 18])
def test_every_spelling_computes_the_same(topology: ModuleType, opset: int) -> None:
    size, given = small(topology, "minilm"), feeds(topology, "torch")
    models = [topology.bert(size, head="sentence", opset=each) for each in (13, opset)]
    onnx.checker.check_model(models[1], full_check=True)
    assert_equal(*[outputs(Model(model), given) for model in models])
    (embedding,) = outputs(Model(models[1]), given)
    assert embedding.shape == (2, 384)
    assert np.allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-6)
    norms = Counter(node.op_type for node in models[1].graph.node)["LayerNormalization"]
    assert norms == (5 if opset >= 17 else 0)


def test_padding_changes_nothing(topology: ModuleType) -> None:
    model, given = Model(topology.bert(small(topology, "minilm"))), feeds(topology, "torch")
    alone = {name: value[1:, :9] for name, value in given.items()}
    assert_equal([each[1:, :9] for each in outputs(model, given)], outputs(model, alone))


def test_packed_is_the_same_without_padding(topology: ModuleType) -> None:
    size, packed = small(topology, "minilm"), feeds(topology, "packed")
    made = outputs(Model(topology.bert(size, form="packed")), packed)
    apart = Model(topology.bert(size))
    bounds = packed["cu_seqlens"]
    for start, end in pairwise(bounds):
        ids = packed["input_ids"][None, start:end].astype(np.int64)
        one = outputs(apart, {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0})
        assert_equal([each[0] for each in one], [each[start:end] for each in made])


def test_weights_go_in_and_out_and_outside(topology: ModuleType, tmp_path: Path) -> None:
    size = small(topology, "minilm")
    model = topology.bert(size, seed=5)
    again = topology.bert(size, weights=topology.weights_of(model))
    assert again.SerializeToString() == model.SerializeToString()
    lean = topology.bert(size, seed=5, data=tmp_path / "m.onnx_data")
    (tmp_path / "m.onnx").write_bytes(lean.SerializeToString())
    assert (tmp_path / "m.onnx").stat().st_size < 1 << 20
    assert onnx.load(tmp_path / "m.onnx").graph.initializer[3].raw_data == model.graph.initializer[3].raw_data
    with pytest.raises(ValueError, match=r"embeddings.LayerNorm.bias must have the shape \(384,\), given is nothing"):
        weights = topology.weights_of(model)
        del weights["embeddings.LayerNorm.bias"]
        topology.bert(size, weights=weights)


def test_what_a_form_does_not_have_is_refused(topology: ModuleType) -> None:
    with pytest.raises(ValueError, match="packed has no opset 12"):
        topology.bert(small(topology, "minilm"), form="packed", opset=12)
    with pytest.raises(ValueError, match="not written for packed"):
        topology.bert(small(topology, "minilm"), form="packed", head="sentence")


def test_command_line(topology: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    words = ["--size", "minilm", "--layers", "1", "--shape", "batch", "16", "--external"]
    subprocess.run([sys.executable, topology.__file__, str(out), *words], check=True)
    assert (tmp_path / "net.onnx_data").exists()
    inferred = shape_inference.infer_shapes(onnx.load(out, load_external_data=False))
    assert [dim.dim_value or dim.dim_param for dim in inferred.graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        16,
    ]


@pytest.mark.parametrize(("form", "opset"), [("torch", 13), ("torch", 17), ("mlperf", 11), ("packed", 13)])
@pytest.mark.parametrize("name", ["minilm", "large"])
def test_attention_is_found_in_every_layer_and_computes_the_same(
    topology: ModuleType, name: str, form: str, opset: int
) -> None:
    given = feeds(topology, form)
    model = ready(topology.bert(small(topology, name), form=form, opset=opset), given)
    assert Counter(node.op_type for node in model.proto.graph.node)["Flatten"] == 0
    called = as_functions(model, [OP])
    assert [node.op_type for node in called.proto.graph.node if node.domain == "trtforge"] == [
        "QkvToContextAddMask"
    ] * 2
    assert_equal(outputs(model, given), outputs(called, given))
    plan = choose(model, [OP], {}, HERE)
    assert (len(plan.swapped), plan.near) == (2, ())
    assert_equal(outputs(model, given), outputs(apply(model, model, plan, HERE)[0], given))


@pytest.mark.parametrize("name", ["base", "large"])
def test_all_layers(topology: ModuleType, name: str) -> None:
    """All layers, with narrow heads: no structure depends on the width."""
    real = topology.SIZES[name]
    size = replace(real, vocabulary=100, hidden=real.heads * 8, inner=32)
    model = ready(topology.bert(size), {each: np.zeros((1, 384)) for each in topology.INPUTS["torch"]})
    plan = choose(model, [OP], {}, HERE)
    assert (len(plan.swapped), plan.near) == (size.layers, ())


def chosen(plan: Plan) -> tuple[str, dict[str, str]]:
    (lowering,) = {choice.lowering_name for choice in plan.choices}
    return lowering, dict(plan.choices[0].refused)


def situation(device: str, precision: str, release: str | None, model: Model) -> Situation:
    backend = "tensorrt" if release else "tensorrt_rtx"
    made = {name: 1.0 for node in model.proto.graph.node for name in node.output}
    ranges = made if precision == "int8" else None
    return Situation(backend, precision, SM[device], False, release, documented(release), ranges=ranges)


@pytest.fixture(scope="module")
def packed(topology: ModuleType) -> Model:
    given = {"input_ids": (768,), "segment_ids": (768,), "cu_seqlens": (3,), "max_seqlen": (384,)}
    model = topology.bert(small(topology, "large"), form="packed")
    return ready(model, {name: np.zeros(shape) for name, shape in given.items()})


@pytest.fixture(scope="module")
def padded(topology: ModuleType) -> Model:
    model = topology.bert(small(topology, "large"), form="mlperf", opset=11)
    return ready(model, {name: np.zeros((1, 384)) for name in topology.INPUTS["mlperf"]})


@pytest.mark.parametrize("device", sorted(SM))
@pytest.mark.parametrize(
    ("precision", "release", "version"), [("fp16", "8.6", "2"), ("fp16", "10.3", "5"), ("int8", "11.1", "6")]
)
def test_packed_bert_large_gets_nvidias_plugin(
    device: str, precision: str, release: str, version: str, packed: Model
) -> None:
    """FP16 by versions 2 and 5; INT8 by the interleaved version, which MLPerf v2.0 has on Orin, on every target."""
    here = situation(device, precision, release, packed)
    plan = choose(packed, [OP], {}, here)
    assert chosen(plan) == ("stock", {})
    made = apply(packed, packed, plan, here)[1]
    assert [each.plugin and each.plugin.creator.version for each in made] == [version] * 2


@pytest.mark.parametrize("device", sorted(SM))
@pytest.mark.parametrize("release", ["8.6", "10.3"])
def test_packed_int8_before_tensorrt_11_says_why_not(device: str, release: str, packed: Model) -> None:
    """MLPerf v2.0 gave versions 2 and 3 ranges of a fake-quantized model; calibration has none of Q, K and V merged."""
    lowering, refused = chosen(choose(packed, [OP], {}, situation(device, "int8", release, packed)))
    assert lowering == "plain"
    assert "before TensorRT 11 INT8 is by implicit quantization" in refused["stock"]


@pytest.mark.parametrize("device", sorted(SM))
def test_padded_bert_large_says_why_not(device: str, padded: Model) -> None:
    for precision, release, expected, why in (
        ("int8", "8.6", "plain", "versions 1 and 4 take INT8 scales from implicit quantization only"),
        ("fp16", "8.6", "plain", "at sequence length 384 versions 1 and 4 read a mask packed by"),
        ("fp16", "10.16", "attention", "at sequence length 384"),
    ):
        lowering, refused = chosen(choose(padded, [OP], {}, situation(device, precision, release, padded)))
        assert lowering == expected
        assert why in refused["stock"]


@pytest.mark.parametrize(
    ("precision", "expected", "why"),
    [("fp16", "attention", ""), ("int8", "plain", "TensorRT-RTX makes one INT8 kernel of the plain graph")],
)
def test_rtx_gets_the_operator_in_half_and_the_graph_in_int8(
    precision: str, expected: str, why: str, padded: Model
) -> None:
    lowering, refused = chosen(choose(padded, [OP], {}, situation("A100", precision, None, padded)))
    assert lowering == expected
    assert why in refused.get("attention", "")


def test_before_calibration_a_missing_range_is_no_reason(packed: Model) -> None:
    """`trtforge surgery --explain` asks before there is any."""
    here = replace(situation("A100", "int8", "11.1", packed), ranges=None)
    assert chosen(choose(packed, [OP], {}, here)) == ("stock", {})


def test_surgery_reads_no_weight(topology: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the compiler a build reads of the data file what it computes with, and no layer's weight."""
    lean = topology.bert(small(topology, "base"), shape=(1, 128), data=tmp_path / "m.onnx_data")
    (tmp_path / "m.onnx").write_bytes(lean.SerializeToString())
    read: list[int] = []
    copy = weights._inline_copy

    def noted(model: Model, tensor: onnx.TensorProto) -> onnx.TensorProto:
        read.append(weights.nbytes(tensor))
        return copy(model, tensor)

    monkeypatch.setattr(weights, "_inline_copy", noted)
    made, _ = run(io.load(tmp_path / "m.onnx"), PASSES)
    here = Situation("tensorrt_rtx", "fp16", "8.0")
    plan = choose(made, [OP], {}, here)
    after, _ = apply(made, made, plan, here)
    assert Counter(node.op_type for node in after.proto.graph.node)["Attention"] == 2
    places = 512 * 768 * 4  # the embeddings of places are a constant choice of rows, and folded
    assert [size for size in read if size > 64] == [places]


def test_a_softmax_of_opset_11_stays_one(topology: ModuleType) -> None:
    """onnx's converter flattens where the rank is not known, as behind a Reshape to a computed shape."""
    model = topology.bert(small(topology, "minilm"), form="mlperf", opset=11)
    made, _ = run(Model(model), ["upgrade-opset"])
    count = Counter(node.op_type for node in made.proto.graph.node)
    assert (count["Softmax"], count["Flatten"]) == (2, 0)
    given = feeds(topology, "mlperf")
    assert_equal(outputs(Model(model), given), outputs(made, given))


def test_many_integers_that_are_computed_with(topology: ModuleType) -> None:
    """768 tokens in a row: positions of over 4 KiB, of which shape inference wants no values."""
    given = {"input_ids": (768,), "segment_ids": (768,), "cu_seqlens": (3,), "max_seqlen": (384,)}
    made = ready(
        topology.bert(small(topology, "minilm"), form="packed"),
        {name: np.zeros(shape) for name, shape in given.items()},
    )
    assert max(weights.nbytes(tensor) for tensor in made.proto.graph.initializer if tensor.data_type == 7) == 768 * 8
