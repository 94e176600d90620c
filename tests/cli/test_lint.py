"""`trtforge lint` on a DLA: the placement as a table, as JSON and as a page, and what surgery would do for it."""

from __future__ import annotations

import re
import shlex

import jsonschema
import onnx
import onnx.parser
import pytest

CLASSIFIER = """<ir_version: 8, opset_import: ["" : 17]>
g (float[n, 3, 8, 8] x) => (float[n, 4] y) <float[8, 3, 3, 3] w, float[8, 4] v, float lo = {0}, float hi = {6}>
{ [conv] a = Conv<pads = [1, 1, 1, 1]>(x, w) [clip] b = Clip(a, lo, hi) [mean] c = GlobalAveragePool(b)
  [flat] d = Flatten(c) [fc] y = Gemm(d, v) }"""

RECIPE = """\
target: orin-agx-64gb/dla
backend: tensorrt
tensorrt: "8.6"
engines:
  net:
    model: {onnx: ../models/dla.onnx}
    inputs: {x: {shape: [1, 3, 8, 8]}}
    precision: fp16
"""

LINT = ["lint", "recipes/dla.yaml"]


@pytest.fixture
def orin(workshop):
    """The workshop with `recipes/dla.yaml`: a classifier that the DLA runs in two pieces."""
    proto = onnx.parser.parse_model(CLASSIFIER)
    rng = workshop.rng(0)
    for value in [value for value in proto.graph.value_info if value.name in ("w", "v")]:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        proto.graph.initializer.append(
            onnx.numpy_helper.from_array(rng.normal(0, 1, shape).astype("float32"), value.name)
        )
        proto.graph.value_info.remove(value)
    onnx.save(proto, workshop.root / "models/dla.onnx")
    workshop.recipe("dla", RECIPE)
    return workshop


def test_placement_is_a_table_of_nodes(orin) -> None:
    plain = orin.forge(*LINT)
    done = orin.forge(*LINT, "--placement")
    assert plain.code == done.code == 0, done.err
    assert done.out.startswith(plain.out.rstrip())
    rows = {line.split()[0]: line for line in done.out.splitlines() if line}
    assert rows["conv"].split()[:5] == ["conv", "Conv", "DLA", "fp16", "1"]
    assert "GPU" in rows["mean"] and "observed, TensorRT 8.2 to 10.3" in rows["mean"]
    assert rows["fc"].split()[:5] == ["fc", "Gemm", "DLA", "fp16", "2"]
    assert "3 nodes on the DLA in 2 loadables, 2 on the GPU" in done.out
    assert "has the last word" in done.out


def test_json_has_the_placement_when_asked(orin) -> None:
    schema = orin.forge("schema", "lint").json
    bare = orin.forge(*LINT, "--json").json
    assert "placement" not in bare["engines"][0]
    told = orin.forge(*LINT, "--json", "--placement", "--fix", "--html", "net.html").json
    for value in (bare, told):
        jsonschema.validate(value, schema)
    (engine,) = told["engines"]
    assert engine["findings"] == bare["engines"][0]["findings"], "findings are about the recipe as it stands"
    assert len(engine["placement"]["loadables"]) == 1, "the placement is the one behind the fix"
    assert engine["fix"]["surgery"] == [
        "upgrade-opset",
        "fold-constants",
        "infer-shapes",
        "global-average-pool",
        "fc-as-conv",
        "relu6-to-relu",
    ]
    assert [one["changes_values"] for one in engine["fix"]["passes"]] == [False, False, True]


def test_fix_prints_a_line_that_does_what_it_says(orin) -> None:
    before = (orin.root / "recipes/dla.yaml").read_text()
    done = orin.forge(*LINT, "--fix")
    assert done.code == 0, done.err
    assert (orin.root / "recipes/dla.yaml").read_text() == before
    assert "now:    3 nodes on the DLA in 2 loadables, 2 on the GPU" in done.out
    assert "after:  4 nodes on the DLA in 1 loadable, 1 on the GPU" in done.out
    (line,) = [line for line in done.out.splitlines() if line.startswith("  surgery: [")]
    assert "relu6-to-relu" in line and "yes: verify" in done.out
    orin.recipe("dla", f"{RECIPE}  {line}\n")
    again = orin.forge(*LINT, "--fix", "--placement")
    assert again.code == 0, again.err
    assert "4 nodes on the DLA in 1 loadable, 1 on the GPU" in again.out
    assert "no surgery pass that is not in the recipe yet would help" in again.out
    assert {finding["code"] for finding in orin.forge(*LINT, "--json").json["engines"][0]["findings"]} == {
        "DLA102",
        "DLA107",
    }


HEAD = "[gap] q = GlobalAveragePool(r) [flat] f = Flatten(q) [fc] y = Gemm(f, v)"
TAILS = {
    "small map": (4, HEAD, {"global-average-pool", "fc-as-conv"}),
    "map over 8x8": (2, HEAD, {"fc-as-conv"}),
    "mean that drops axes": (4, "[m] q = ReduceMean<axes = [2, 3], keepdims = 0>(r) [fc] y = MatMul(q, v)",
                             {"global-average-pool", "fc-as-conv"}),
    "mean over channels": (4, "[m] q = ReduceMean<axes = [1]>(r) y = Relu(q)", set()),
    "flattened map": (4, "[flat] f = Flatten(r) [fc] y = MatMul(f, long)", set()),
    "squeezed": (4, "[p] q = AveragePool<kernel_shape = [8, 8]>(r) [sq] f = Squeeze(q, at) [fc] y = MatMul(f, v)",
                 {"fc-as-conv"}),
    "a layer behind the head": (4, "[gap] q = AveragePool<kernel_shape = [8, 8]>(r) [flat] f = Flatten(q) "
                                "[fc] g = Gemm(f, v) y = Relu(g)", set()),
    "a bias beside that of Gemm": (4, "[gap] q = AveragePool<kernel_shape = [8, 8]>(r) [flat] f = Flatten(q) "
                                  "[fc] g = Gemm(f, v) y = Add(g, lo)", set()),
    "more than 8192 classes": (4, "[gap] q = AveragePool<kernel_shape = [8, 8]>(r) [flat] f = Flatten(q) "
                               "[fc] y = Gemm(f, wide)", set()),
    "view at the end": (4, "[flat] y = Flatten(r)", set()),
    "ReLU5": (4, "[c2] d = Conv(r, w2) y = Clip(d, lo, five)", set()),
    "ReLU6 beside a layer of the GPU": (4, "[c2] d = Conv(r, w2) y = Clip(d, lo, six) z = Erf(d)", set()),
    "ReLU6 once beside a layer, once alone": (4, "[c2] d = Conv(r, w2) z = Clip(d, lo, six) [c3] e = Conv(d, w2) "
                                              "y = Clip(e, lo, six)", {"relu6-to-relu"}),
    "ReLU6": (4, "[c2] d = Conv(r, w2) y = Clip(d, lo, six)", {"relu6-to-relu"}),
}  # fmt: skip


@pytest.mark.parametrize("case", TAILS)
@pytest.mark.parametrize("fallback", [True, False])
def test_findings_name_the_passes_that_fix_finds_and_none_once_they_are_there(workshop, case: str, fallback) -> None:
    stride, tail, helping = TAILS[case]
    proto = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[n, 3, 32, 32] x) => (float[a, b] y) <float lo = {{0}}, float five = {{5}}, float six = {{6}},
        int64[2] at = {{2, 3}}> {{
        [c1] c = Conv<strides = [{stride}, {stride}], pads = [1, 1, 1, 1]>(x, w) [r1] r = Relu(c) {tail} }}""")
    if "z = " in tail:
        proto.graph.output.append(onnx.helper.make_empty_tensor_value_info("z"))
    rng = workshop.rng(0)
    weights = {"w": (8, 3, 3, 3), "w2": (8, 8, 3, 3), "v": (8, 4), "long": (512, 4), "wide": (8, 8200)}
    for name, shape in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(0, 1, shape).astype("float32"), name))
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(proto, workshop.root / "models/dla.onnx")
    recipe = RECIPE.replace("8, 8]", "32, 32]") + f"    dla: {{gpu_fallback: {str(fallback).lower()}}}\n"
    workshop.recipe("dla", recipe)
    (engine,) = workshop.forge(*LINT, "--fix", "--json").json["engines"]
    advised, found = named(engine["findings"]), {one["name"] for one in engine["fix"]["passes"]}
    assert found == helping
    assert advised <= found and bool(advised) == bool(found)  # one pass may make work for the next
    if helping:
        workshop.recipe("dla", f"{recipe}    surgery: [{', '.join(engine['fix']['surgery'])}]\n")
        (engine,) = workshop.forge(*LINT, "--fix", "--json").json["engines"]
        assert not named(engine["findings"]) and engine["fix"]["surgery"] is None


def named(found: list[dict[str, str]]) -> set[str]:
    """The surgery passes that findings advise."""
    return {name for one in found for name in re.findall(r"surgery pass ([a-z0-9-]+)", one["fix"])}


def test_a_pass_that_brings_nothing_is_not_suggested(workshop) -> None:
    """Its map is 16x16, and the DLA averages over 8x8 at most."""
    workshop.bend(
        "dla",
        ("target: host", "target: orin-agx-64gb/dla"),
        ("backend: onnxruntime", 'backend: tensorrt\ntensorrt: "8.6"'),
    )
    done = workshop.forge(*LINT, "--fix", "--json")
    assert done.code == 0, done.err
    assert done.json["engines"][0]["fix"] == {"surgery": None, "passes": [], "findings": []}


def test_html_is_one_page(orin) -> None:
    done = orin.forge(*LINT, "--html", "out/net.html")
    assert done.code == 0, done.err
    assert done.out.rstrip().endswith("wrote out/net.html")
    page = (orin.root / "out/net.html").read_text("utf-8")
    assert "<title>net on orin-agx-64gb/dla, TensorRT 8.6</title>" in page
    assert "GlobalAveragePool" in page and "DLA104" in page
    assert "can_run_on_DLA" in page


def test_names_of_a_model_do_not_steer_who_reads_the_page(orin) -> None:
    path = orin.root / "models/dla.onnx"
    proto = onnx.load(path)
    proto.graph.node[0].name = "\x1b[2J</td><script>alert(1)</script>"
    onnx.save(proto, path)
    done = orin.forge(*LINT, "--html", "net.html")
    assert done.code == 0, done.err
    page = (orin.root / "net.html").read_text("utf-8")
    for text in (page, done.out):
        assert "\x1b" not in text and "\\x1b[2J" in text
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page


def test_html_shows_one_engine(orin) -> None:
    second = RECIPE[RECIPE.index("  net:") :].replace("net:", "other:", 1)
    orin.recipe("dla", RECIPE + second)
    done = orin.forge(*LINT, "--html", "net.html")
    assert (done.code, done.out) == (2, "")
    assert "USE103" in done.err and "--only net" in done.err
    assert orin.forge(*LINT, "--html", "net.html", "--only", "other").code == 0


def test_the_page_behind_a_fix_says_what_it_shows(orin) -> None:
    done = orin.forge(*LINT, "--html", "now.html")
    assert done.code == 0 and done.out.splitlines()[-1] == "wrote now.html"
    assert "after the fix" not in (orin.root / "now.html").read_text()
    done = orin.forge(*LINT, "--fix", "--html", "then.html", "--json")
    (engine,) = done.json["engines"]
    page = (orin.root / "then.html").read_text()
    assert "<h1>net on orin-agx-64gb/dla, TensorRT 8.6, after the fix</h1>" in page
    passes = ", ".join(one["name"] for one in engine["fix"]["passes"])
    assert f"Shown is the network behind {passes}, which the recipe does not have yet" in page
    assert f"surgery: [{', '.join(engine['fix']['surgery'])}]" in page
    codes = re.findall(r"<tr><td>([A-Z]{3}\d{3})</td>", page)
    assert codes == [one["code"] for one in engine["fix"]["findings"]]
    assert codes != [one["code"] for one in engine["findings"]]
    told = orin.forge(*LINT, "--fix", "--html", "then.html").out.splitlines()[-1]
    assert told == "wrote then.html: the network behind these passes, and what is found there"


def test_html_into_a_folder_that_is_a_file(orin) -> None:
    done = orin.forge(*LINT, "--html", "pyproject.toml/net.html")
    assert done.code == 9
    assert "Traceback" not in done.err


@pytest.mark.parametrize("option", [["--placement"], ["--fix"], ["--html", "net.html"]], ids=" ".join)
def test_a_target_without_a_dla_has_no_placement(orin, option: list[str]) -> None:
    recipe = orin.root / "recipes/host.yaml"
    text = recipe.read_text()
    recipe.write_text(text + text[text.index("  net:") :].replace("  net:", "  other:", 1))
    done = orin.forge("lint", "recipes/host.yaml", *option, "--only", "net")
    assert done.code == 2
    assert done.err.startswith(f"error[USE114]: {option[0]} is for a DLA, and the recipe's target is host\n")
    assert ("looks for surgery passes" in done.err) == (option == ["--fix"])
    command = shlex.split(re.findall(r"next:  try it for a DLA: trtforge (.*)", done.err)[0])
    tried = orin.forge(*command)
    assert tried.code == 0, tried.err


def test_a_network_that_is_refused_ends_with_an_error(ward) -> None:
    text = (ward.root / "recipes/scan.yaml").read_text()
    dla = text.replace("target: host", "target: orin-agx-64gb/dla").replace(
        "onnxruntime", 'tensorrt\ntensorrt: "8.6"', 1
    )
    ward.recipe("dla", dla)
    done = ward.forge(*LINT, "--placement")
    assert done.code == 11
    assert "DLA109" in done.out and "no node on the DLA" in done.out
    assert "error[LNT101]" in done.err


def test_ranges_of_an_earlier_calibration_are_looked_at(workshop) -> None:
    workshop.bend(
        "dla",
        ("target: host", "target: orin-agx-64gb/dla"),
        ("backend: onnxruntime", 'backend: tensorrt\ntensorrt: "8.6"'),
    )
    assert workshop.forge("calibrate", "recipes/dla.yaml").code == 0
    done = workshop.forge(*LINT, "--json", "--placement").json
    precisions = {node["node"]: node["precision"] for node in done["engines"][0]["placement"]["nodes"]}
    assert precisions["conv0"] == "int8"
