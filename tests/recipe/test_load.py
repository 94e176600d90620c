"""What a good recipe loads as: merging, overrides, variables, paths, the resolved form."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtforge.errors.base import TrtforgeError
from trtforge.errors.recipe import UnknownEngine
from trtforge.recipe.document import Node, Where, dotted
from trtforge.recipe.layers import _SEGMENT, _unquoted, merge, without_nulls
from trtforge.recipe.load import load
from trtforge.recipe.paths import project_root


def test_good_recipe(project: Any) -> None:
    loaded = project.load()
    engine = loaded.recipe.engines["r50"]
    assert loaded.files == (project.root / "recipes" / "r.yaml",)
    assert loaded.root == project.root and loaded.name == "r" and loaded.store == Path("engines/r")
    assert loaded.target.key == "host"
    assert engine.inputs["x"].shape == (1, 3, 224, 224)
    assert loaded.resolve(engine.model.onnx) == project.root / "recipes" / "m.onnx"
    assert str(loaded.sources["engines.r50.inputs.x.shape"]) == "recipes/r.yaml:9:16"
    assert loaded.place(("engines", "r50", "model", "onnx")) == "recipes/r.yaml:6:13"
    assert loaded.place(("engines", "r50", "dla")) == "recipes/r.yaml"


def test_extends_merges_deeply(project: Any) -> None:
    project.write("sub/base.yaml", project.good.replace("host", "a30"))
    project.write("mid.yaml", "extends: sub/base.yaml\ntarget: null\nengines: {r50: {surgery: [a, b]}}")
    project.write(
        "r.yaml",
        "extends: mid.yaml\ntarget: host\nengines:\n  r50: {precision: fp32, calibration: null, surgery: [c]}\n",
    )
    loaded = project.load()
    engine = loaded.recipe.engines["r50"]
    assert [file.name for file in loaded.files] == ["r.yaml", "mid.yaml", "base.yaml"]
    assert (loaded.recipe.target, loaded.recipe.backend) == ("host", "onnxruntime")
    assert engine.precision == "fp32" and engine.calibration is None
    assert engine.surgery == ("c",), "lists replace"
    assert engine.model.onnx == "recipes/sub/m.onnx", "relative to the file that says it"
    assert str(loaded.sources["engines.r50.model.onnx"]).startswith("recipes/sub/base.yaml:")
    assert loaded.recipe.extends is None


def test_what_is_dropped_and_given_anew_is_not_merged_with_the_old(project: Any) -> None:
    project.write("base.yaml", project.good)
    project.write("mid.yaml", "extends: base.yaml\nengines: {r50: {calibration: null}}\n")
    project.write("r.yaml", "extends: mid.yaml\nengines: {r50: {calibration: {scales: s.json}}}\n")
    calibration = project.load().recipe.engines["r50"].calibration
    assert calibration.set is None and calibration.scales == "recipes/s.json"


def test_overrides_act_as_lines_of_the_recipe(project: Any) -> None:
    project.bend(("      x:\n", '      "input.1":\n'), ("verify:", "workspace: 2GiB\n    verify:"))
    loaded = project.load(
        "engines.r50.precision=fp32",
        'engines.r50.inputs."input.1".shape=[2, 3, 224, 224]',
        "engines.r50.calibration=",
        "engines.r50.workspace=null",
        "engines.r50.quantize={skip: [a]}",
        "engines.r50.quantize.conv_transpose=true",
        "engines.r50.verify.set=other/v.yaml",
        "tensorrt=",
    )
    engine = loaded.recipe.engines["r50"]
    assert engine.precision == "fp32" and engine.calibration is None and engine.workspace == "1GiB"
    assert engine.inputs["input.1"].shape == (2, 3, 224, 224)
    assert engine.quantize.skip == ("a",) and engine.quantize.conv_transpose
    assert engine.verify is not None and engine.verify.set == "recipes/other/v.yaml"
    assert str(loaded.sources["engines.r50.precision"]) == "--set engines.r50.precision=fp32"
    assert loaded.place(("engines", "r50", "model", "onnx")).startswith("recipes/r.yaml:")


def test_the_last_override_wins(project: Any) -> None:
    loaded = project.load("engines.r50.precision=fp16", "engines.r50.precision=fp32")
    assert loaded.recipe.engines["r50"].precision == "fp32"


def test_colon_in_a_key_needs_no_quotes(project: Any) -> None:
    project.bend(("      x:\n", "      input:0:\n"))
    loaded = project.load("engines.r50.inputs.input:0.shape=[4, 3, 224, 224]")
    assert loaded.recipe.engines["r50"].inputs["input:0"].shape[0] == 4


def test_tensors_may_be_named_like_numbers(project: Any) -> None:
    project.bend(("      x:\n", "      0:\n"))
    assert list(project.load().recipe.engines["r50"].inputs) == ["0"]


def test_variables(project: Any) -> None:
    project.bend(
        ("m.onnx", "${MODELS}/${NAME:-m}.onnx"),
        ("cal.yaml", '"${EMPTY:-cal}.yaml", samples: "${N}"'),
        ("v.yaml", '"$${v}"'),
    )
    loaded = project.load(MODELS="/data", EMPTY="", N="7")
    engine = loaded.recipe.engines["r50"]
    assert engine.model.onnx == "/data/m.onnx"
    assert loaded.resolve(engine.model.onnx) == Path("/data/m.onnx")
    assert engine.calibration.set == "recipes/cal.yaml" and engine.calibration.samples == 7
    assert engine.verify.set == "recipes/${v}"


def test_variable_of_a_replaced_value_need_not_be_set(project: Any) -> None:
    project.write("base.yaml", project.good.replace("m.onnx", "${UNSET}/m.onnx"))
    project.write("r.yaml", "extends: base.yaml\nengines: {r50: {model: {onnx: here.onnx}}}\n")
    assert project.load().recipe.engines["r50"].model.onnx == "recipes/here.onnx"


def test_resolved_is_equal_on_every_machine(project: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    project.bend(("m.onnx", "${MODELS}/m.onnx"), ("v.yaml", "/abs/set.yaml"), ("target:", "store: ${S}\ntarget:"))
    here = project.load(MODELS="/data", S="/store/here").resolved()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "recipes").mkdir()
    copy = elsewhere / "recipes" / "r.yaml"
    copy.write_bytes((project.root / "recipes" / "r.yaml").read_bytes())
    there = load(copy, environ={"MODELS": "/mnt/models", "S": "/store/there"}).resolved()
    assert here == there
    assert here["engines"]["r50"]["model"]["onnx"] == "${MODELS}/m.onnx"
    assert here["engines"]["r50"]["verify"]["set"] == "absolute:set.yaml"
    assert here["engines"]["r50"]["calibration"]["set"] == "recipes/cal.yaml"
    assert "extends" not in here and str(elsewhere) not in json.dumps(there)


def test_resolved_hides_what_a_variable_puts_into_a_url(project: Any) -> None:
    project.bend(("m.onnx", f"https://example.org/m.onnx?token=${{TOKEN}}\n      sha256: {'a' * 64}"))
    loaded = project.load(TOKEN="secret")
    assert "secret" in loaded.recipe.engines["r50"].model.onnx
    assert "secret" not in json.dumps(loaded.resolved())


def test_an_override_and_the_same_line_in_the_file_resolve_alike(project: Any) -> None:
    overridden = project.load("engines.r50.precision=fp32").resolved()
    project.bend(("int8", "fp32"))
    assert project.load().resolved() == overridden


def test_selected(project: Any) -> None:
    project.write(
        "r.yaml",
        project.good + project.good[project.good.index("  r50") :].replace("r50", "r101"),
    )
    loaded = project.load()
    assert list(loaded.selected()) == ["r50", "r101"]
    assert list(loaded.selected(["r101"])) == ["r101"]
    assert list(loaded.selected(["r101", "r50"])) == ["r50", "r101"], "in the order of the recipe"
    with pytest.raises(UnknownEngine) as caught:
        loaded.selected(["r1o1"])
    assert caught.value.next == "did you mean `r101`?"


def test_anchors_and_merge_keys(project: Any) -> None:
    project.write(
        "r.yaml",
        project.good.replace("    inputs:", "    quantize: &q {skip: [n]}\n    inputs:")
        + "  other:\n    model: {onnx: n.onnx}\n    inputs: {y: {shape: [1]}}\n    precision: fp32\n"
        + "    quantize: {<<: *q, conv_transpose: true}\n",
    )
    quantize = project.load().recipe.engines["other"].quantize
    assert quantize.skip == ("n",) and quantize.conv_transpose


def test_byte_order_mark_and_windows_line_ends(project: Any) -> None:
    project.write("r.yaml", b"\xef\xbb\xbf" + project.good.replace("\n", "\r\n").encode())
    assert project.load().recipe.target == "host"


def test_loaded_recipe_pickles(project: Any) -> None:
    loaded = project.load()
    assert pickle.loads(pickle.dumps(loaded)).resolved() == loaded.resolved()


def test_relative_path_on_the_command_line(project: Any) -> None:
    assert load(Path("recipes/r.yaml")).path == project.root / "recipes" / "r.yaml"


def test_project_root(tmp_path: Path) -> None:
    recipe = tmp_path / "a" / "recipes" / "deep" / "r.yaml"
    assert project_root(tmp_path / "a" / "recipes" / "r.yaml") == tmp_path / "a"
    assert project_root(recipe) == recipe.parent
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "pyproject.toml").touch()
    assert project_root(recipe) == tmp_path / "a"
    (tmp_path / ".git").mkdir()
    assert project_root(recipe) == tmp_path / "a", "the nearest one"


def _node(value: Any) -> Node:
    at = Where(Path("r.yaml"), 1, 1)
    return Node({key: _node(child) for key, child in value.items()} if isinstance(value, dict) else value, at, at)


_trees = st.recursive(
    st.none() | st.integers(0, 3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
_mappings = st.dictionaries(st.sampled_from("abc"), _trees, max_size=3)


@given(_mappings, _mappings)
def test_merge_is_the_json_merge_patch_of_rfc_7396(base: dict[str, Any], over: dict[str, Any]) -> None:
    def patch(target: Any, change: Any) -> Any:
        if not isinstance(change, dict):
            return change
        result = dict(target) if isinstance(target, dict) else {}
        for key, value in change.items():
            if value is None:
                result.pop(key, None)
            else:
                result[key] = patch(result.get(key), value)
        return result

    clean = without_nulls(_node(base))
    assert without_nulls(merge(clean, _node(over))).plain() == patch(clean.plain(), over)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_dotted_keys_read_back(path: list[str]) -> None:
    keys, text = [], dotted(tuple(path))
    position = 0
    while match := _SEGMENT.match(text, position):
        keys.append(_unquoted(match.group()))
        position = match.end() + 1
    assert keys == path and position == len(text) + 1


def test_a_command_line_may_name_scales_anywhere(project: Any, tmp_path: Path) -> None:
    chosen = tmp_path / "mine.json"
    changed = ("engines.r50.calibration.set=null", f"engines.r50.calibration.scales={chosen}")
    loaded = project.load(*changed)
    assert loaded.resolve(loaded.recipe.engines["r50"].calibration.scales) == chosen
    assert loaded.resolved()["engines"]["r50"]["calibration"]["scales"] == "absolute:mine.json"
    project.bend(("set: cal.yaml", f"scales: {chosen}"))
    assert project.fails().code == "RCP115"


def test_one_word_for_a_list_is_shown_in_brackets(project: Any) -> None:
    error = project.fails("engines.r50.surgery=upgrade-opset")
    assert error.code == "RCP113"
    assert "[upgrade-opset]" in error.next


def test_engines_that_are_not_asked_for_may_lack_what_they_want(tmp_path: Path) -> None:
    """A recipe of many networks, of which a user has one."""

    (tmp_path / "recipes").mkdir()
    recipe = tmp_path / "recipes" / "many.yaml"
    engine = "    inputs: {x: {shape: [1, 3]}}\n    precision: fp32\n"
    recipe.write_text(
        "target: host\nbackend: onnxruntime\nengines:\n"
        f"  here:\n    model: {{onnx: here.onnx}}\n{engine}"
        f"  there:\n    model: {{onnx: '${{THERE}}/m.onnx'}}\n{engine}"
    )
    assert list(load(recipe, only=["here"], environ={}).recipe.engines) == ["here"]
    with pytest.raises(TrtforgeError, match="variable THERE is not set"):
        load(recipe, environ={})
    with pytest.raises(TrtforgeError, match="variable THERE is not set"):
        load(recipe, only=["there"], environ={})
    with pytest.raises(UnknownEngine) as caught:
        load(recipe, only=["hre"], environ={})
    assert caught.value.why == "it defines: here, there" and caught.value.next == "did you mean `here`?"
