"""`trtforge surgery`: passes and plugins, listed, and what becomes of each in a recipe."""

from __future__ import annotations

import jsonschema
import numpy as np
import onnx
import pytest

from trtforge import plugins
from trtforge.ort import open_session, session_options
from trtforge.surgery.op import DOMAIN

TWO = "[infer-shapes]", "[infer-shapes, instance-norm-relu]"
WHY = "onnxruntime runs the graph as it is, without TensorRT plugins"
NEAR = "nearly instance-norm-relu: at 'norm1': the activation behind it is LeakyRelu, and the plugin computes Relu"


@pytest.fixture
def normalizing(workshop):
    """The workshop with two normalizations in its network: `norm0` before a ReLU, `norm1` before a LeakyRelu."""
    path = workshop.root / "models/net.onnx"
    proto = onnx.load(path)
    gain = workshop.rng(1).normal(1, 0.1, 8).astype("float32")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(gain, "gain"))
    proto.graph.node[1].input[0] = "n0"
    proto.graph.node[2].input[0] = "l1"
    norm = [
        onnx.helper.make_node("InstanceNormalization", ["c0", "gain", "b0"], ["n0"], name="norm0"),
        onnx.helper.make_node("InstanceNormalization", ["r0", "gain", "b0"], ["n1"], name="norm1"),
        onnx.helper.make_node("LeakyRelu", ["n1"], ["l1"], name="leaky1"),
    ]
    for place, node in zip((1, 3, 4), norm, strict=True):
        proto.graph.node.insert(place, node)
    onnx.save(proto, path)
    workshop.bend("host", TWO)
    return workshop


def test_list_names_passes_and_plugins(workshop) -> None:
    shown = workshop.forge("surgery", "--list")
    assert shown.code == 0
    told = workshop.forge("surgery", "--list", "--json").json
    assert {one["name"] for one in told["passes"]} >= {"infer-shapes", "fold-batchnorm"}
    assert [one["name"] for one in told["plugins"]] == list(plugins.NAMES)
    for one in told["plugins"]:
        assert one["lowerings"][-1] == "plain" and len(one["lowerings"]) > 1
        assert one["summary"] == plugins.ops()[one["name"]].summary != ""
        assert "\n" not in one["summary"]
        assert one["name"] in shown.out


@pytest.mark.parametrize("options", [[], ["--explain"], ["--out", "m.onnx"]], ids=" ".join)
def test_surgery_of_nothing_is_wrong_use(workshop, options: list[str]) -> None:
    done = workshop.forge("surgery", *options)
    assert (done.code, done.out) == (2, "")
    assert "error[USE100]: missing argument 'RECIPE'" in done.err and "surgery --list" in done.err


def test_a_recipe_without_passes_says_where_they_are(workshop) -> None:
    workshop.bend("host", ("    surgery: [infer-shapes]\n", ""))
    done = workshop.forge("surgery", "recipes/host.yaml")
    assert done.code == 0, done.err
    assert done.out.startswith("net: the recipe names no pass; `trtforge surgery --list` has them\nopset ")


def test_a_plan_is_shown_short_and_explained_at_length(normalizing) -> None:
    short = normalizing.forge("surgery", "recipes/host.yaml")
    assert short.code == 0, short.err
    assert "net: plugins" in short.out and "norm0" in short.out and "plain" in short.out
    assert WHY not in short.out and NEAR not in short.out
    long = normalizing.forge("surgery", "recipes/host.yaml", "--explain")
    assert long.code == 0
    lines = long.out.splitlines()
    for lowering in ("stock", "trtforge"):
        assert f"instance-norm-relu, not {lowering}: {WHY} (norm0)" in lines
    assert lines[-1] == NEAR


def test_json_has_every_reason_with_or_without_explain(normalizing) -> None:
    done = normalizing.forge("surgery", "recipes/host.yaml", "--json")
    schema = normalizing.forge("schema", "surgery")
    jsonschema.validate(done.json, schema.json)
    (engine,) = done.json["engines"]
    (match,) = engine["plugins"]["matches"]
    assert (match["plugin"], match["at"], match["outputs"], match["lowering"]) == (
        "instance-norm-relu",
        "norm0",
        ["r0"],
        "plain",
    )
    assert match["refused"] == [{"lowering": name, "why": WHY} for name in ("stock", "trtforge")]
    (near,) = engine["plugins"]["near_misses"]
    assert f"nearly {near['plugin']}: at {near['at']!r}: {near['why']}" == NEAR
    assert [one["name"] for one in engine["passes"]] == ["infer-shapes"]
    assert normalizing.forge("surgery", "recipes/host.yaml", "--explain", "--json").json == done.json


def test_a_recipe_without_plugins_shows_none(workshop) -> None:
    shown = workshop.forge("surgery", "recipes/host.yaml", "--explain")
    assert shown.code == 0 and "plugins" not in shown.out
    told = workshop.forge("surgery", "recipes/host.yaml", "--json").json
    assert told["engines"][0]["plugins"] == {"matches": [], "near_misses": [], "nowhere": []}


def test_a_plugin_that_is_nowhere_is_told_and_with_explain_why(workshop) -> None:
    workshop.bend("host", ("[infer-shapes]", "[res2, instance-norm-relu, res2]"))
    short = workshop.forge("surgery", "recipes/host.yaml")
    assert short.code == 0, short.err
    assert short.out.splitlines()[-2:] == ["res2: found nowhere", "instance-norm-relu: found nowhere"]
    assert "names no pass but plugins" in short.out and "how many" not in short.out, "no table without a row"
    why = "the graph has no InstanceNormalization"
    assert (
        f"instance-norm-relu: found nowhere: {why}\n" in workshop.forge("surgery", "recipes/host.yaml", "--explain").out
    )
    told = workshop.forge("surgery", "recipes/host.yaml", "--json")
    jsonschema.validate(told.json, workshop.forge("schema", "surgery").json)
    nowhere = told.json["engines"][0]["plugins"]["nowhere"]
    assert [one["plugin"] for one in nowhere] == ["res2", "instance-norm-relu"] and nowhere[1]["why"] == why
    hints = workshop.forge("lint", "recipes/host.yaml", "--json").json["engines"][0]["findings"]
    assert {(one["code"], one["severity"], one["where"]) for one in hints} >= {
        ("PLG101", "hint", "surgery: res2"),
        ("PLG101", "hint", "surgery: instance-norm-relu"),
    }


def test_what_nearly_fits_is_the_reason_for_nothing_found(normalizing) -> None:
    path = normalizing.root / "models/net.onnx"
    proto = onnx.load(path)
    proto.graph.node[2].op_type = "Elu"
    onnx.save(proto, path)
    done = normalizing.forge("surgery", "recipes/host.yaml", "--explain")
    other = NEAR.replace("norm1", "norm0").replace("LeakyRelu", "Elu")
    assert done.out.splitlines()[-3:] == ["instance-norm-relu: found nowhere", other, NEAR]


def test_explain_names_every_place_and_every_tensor_that_got_a_shape(workshop) -> None:
    """Six normalizations in a row: more than a line in short names."""
    names = [f"norm{number}" for number in range(6)]
    body = " ".join(
        f"[{name}] {name} = InstanceNormalization({before}, gain, gain) r{name} = Relu({name})"
        for name, before in zip(names, ["x", *(f"r{name}" for name in names)], strict=False)
    )
    head = '<ir_version: 8, opset_import: ["": 17]> g (float[n, 3, 8, 8] x) => (float[n, 3, 8, 8] rnorm5)'
    proto = onnx.parser.parse_model(f"{head} <float[3] gain = {{1, 2, 3}}> {{ {body} }}")
    onnx.save(proto, workshop.root / "models/net.onnx")
    engine = "model: {onnx: ../models/net.onnx}, inputs: {x: {shape: [1, 3, 8, 8]}}, precision: fp32"
    engine += ", surgery: [infer-shapes, instance-norm-relu]"
    workshop.recipe("norms", f"target: host\nbackend: onnxruntime\nengines:\n  net: {{{engine}}}\n")
    short = workshop.forge("surgery", "recipes/norms.yaml").out
    assert "norm2 and 3 more" in short and "norm3" not in short
    long = workshop.forge("surgery", "recipes/norms.yaml", "--explain").out
    assert " more" not in long and all(long.count(name) > 2 for name in names)
    (stated,) = [line for line in long.splitlines() if line.startswith("= ")]
    inside = [tensor for name in names for tensor in (name, f"r{name}")][:-1]
    assert stated == f"= float32 [n, 3, 8, 8]: {', '.join(inside)}"
    assert "instance-norm-relu, not trtforge: " in long


def test_explain_says_why_a_plugin_is_chosen_and_what_it_replaces(
    normalizing, capsys: pytest.CaptureFixture[str]
) -> None:
    from trtforge.cli.surgery import show_plan
    from trtforge.cli.ui import Ui
    from trtforge.graph import io
    from trtforge.pipeline.plugins import Planned
    from trtforge.surgery.choose import planned
    from trtforge.surgery.documented import documented
    from trtforge.surgery.op import Situation

    model = io.load(normalizing.root / "models/net.onnx")
    situation = Situation("tensorrt", "fp16", "8.7", tensorrt="8.6", creators=documented("8.6"))
    shape = (1, *np.load(normalizing.root / "data/7.npy").shape)
    op = plugins.ops()["instance-norm-relu"]
    plan, shaped = planned(model, {"x": shape}, [op], {op.name: ("stock",)}, situation)
    show_plan(Ui(), "net", Planned(plan, situation, shaped), explain=True)
    lines = capsys.readouterr().out.splitlines()
    assert f"{op.name}, stock: the first choice, and nothing stands in its way (norm0)" in lines
    assert f"{op.name} at norm0: in place of 2 nodes: InstanceNormalization n0, Relu r0" in lines


def test_out_has_functions_that_compute_the_same(normalizing) -> None:
    done = normalizing.forge("surgery", "recipes/host.yaml", "--out", "after.onnx")
    assert done.code == 0, done.err
    before, after = (onnx.load(normalizing.root / name) for name in ("models/net.onnx", "after.onnx"))
    assert [node.op_type for node in after.graph.node if node.domain == DOMAIN] == ["InstanceNormRelu"]
    assert [function.name for function in after.functions] == ["InstanceNormRelu"]
    x = np.load(normalizing.root / "data/7.npy")[None]
    one, other = (
        open_session(each, None, session_options(threads=1)).run(None, {"x": x})[0] for each in (before, after)
    )
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_the_engine_of_a_plain_plan_is_built_and_verified(normalizing) -> None:
    """On the host every plugin is `plain`, and that is no error: the graph is what it was."""
    (built,) = normalizing.build()["engines"]
    assert built["status"] == "built"


def test_a_plugin_named_twice_is_one(normalizing) -> None:
    normalizing.bend("host", ("[infer-shapes]", "[instance-norm-relu, infer-shapes, instance-norm-relu]"))
    (engine,) = normalizing.forge("surgery", "recipes/host.yaml", "--json").json["engines"]
    assert len(engine["plugins"]["matches"]) == 1
