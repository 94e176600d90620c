"""The page of a placement: everything is in it, nothing outside is asked for."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import onnx.parser
import pytest

from trtforge.graph.model import Model
from trtforge.lint.context import Context
from trtforge.lint.run import examine, findings
from trtforge.recipe.models import Engine
from trtforge.report.placement import PlacementPage, draw_placement, write_placement
from trtforge.report.placement_graph import draw_graph
from trtforge.targets.load import get

NETWORK = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 3, 8, 8] image) => (float[1, 4, 8, 8] y) <float[4, 3, 1, 1] w = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}>
{ [c] a = Conv(image, w) [r] b = Relu(a) [i] j = Identity(b) [exp] e = Exp(j) [last<&>] y = Sigmoid(e) }"""


@pytest.fixture
def context() -> Context:
    engine = Engine.model_validate(
        {
            "model": {"onnx": "m.onnx"},
            "inputs": {"image": {"shape": [1, 3, 8, 8]}},
            "calibration": {"scales": "s.json"},
        }
    )
    text = NETWORK.replace("last<&>", "last")
    model = Model(onnx.parser.parse_model(text))
    model.proto.graph.node[-1].name = "last<&>"
    return examine(model, engine, get("orin-agx-64gb/dla"), tensorrt="8.6")


@pytest.fixture
def page(context: Context) -> str:
    found = findings(context)
    graph = context.model.proto.graph
    return draw_placement(
        PlacementPage("net <on> orin", "3 nodes & more", "an estimate", graph, context.placement, found)
    )


def test_it_asks_for_nothing(page: str) -> None:
    assert "default-src 'none'" in page
    assert not re.findall(r"""(?:src|href)=|url\(|@import|https?://(?!www\.w3\.org/2000/svg)""", page)


def test_names_are_text(page: str) -> None:
    assert "net &lt;on&gt; orin" in page and "3 nodes &amp; more" in page
    assert "last&lt;&amp;&gt;" in page and "last<&>" not in page


def test_every_element_is_closed(page: str) -> None:
    balance = Balance()
    balance.feed(page)
    assert not balance.open


class Balance(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_graph_has_a_box_for_each_chain_and_colours_it(page: str) -> None:
    svg = ElementTree.fromstring(re.search(r"<svg.*?</svg>", page, re.DOTALL)[0])
    space = {"s": "http://www.w3.org/2000/svg"}
    boxes = {
        " ".join(text.text or "" for text in box.findall("s:text", space)): box.get("class")
        for box in svg.findall("s:g", space)
    }
    assert boxes == {
        "input image": "node end",
        "Conv + Relu c DLA 1": "node dla-int8",
        "Exp exp GPU": "node gpu",
        "Sigmoid last<&> DLA 2": "node dla-fp16",
        "output y": "node end",
    }
    titles = [title.text for title in svg.iter("{http://www.w3.org/2000/svg}title")]
    assert titles[1] == "Conv c: DLA, loadable 1, int8\nRelu r: DLA, loadable 1, int8"
    assert "the DLA does not run Exp (documented, TensorRT 8.2 to 10.3)" in (titles[2] or "")
    edges = [path.get("class") for path in svg.findall("s:path", space)]
    assert edges.count("edge crosses") == 2, "to the GPU and back"


def test_the_legend_has_the_colours_that_are_there(page: str) -> None:
    assert re.findall(r'class="key ([\w-]+)"', page) == ["dla-int8", "dla-fp16", "gpu", "line"]


def test_equal_placements_give_equal_bytes(context: Context, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        graph = context.model.proto.graph
        write_placement(tmp_path / name, PlacementPage("t", "s", "n", graph, context.placement, []))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def placed(body: str, inputs: dict[str, list[int]]) -> Context:
    engine = Engine.model_validate(
        {
            "model": {"onnx": "m.onnx"},
            "inputs": {name: {"shape": shape} for name, shape in inputs.items()},
            "calibration": {"scales": "s.json"},
        }
    )
    model = Model(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {body}'))
    return examine(model, engine, get("orin-agx-64gb/dla"), tensorrt="8.6")


def test_nodes_of_one_name_have_a_box_each() -> None:
    weights = f"float[4, 4, 1, 1] w = {{{', '.join(['0'] * 16)}}}"
    context = placed(
        f"""g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) <{weights}>
        {{ [conv] a = Conv(x, w) [relu] b = Relu(a) [s] c = Sigmoid(b) [conv] d = Conv(c, w) [relu] y = Relu(d) }}""",
        {"x": [1, 4, 8, 8]},
    )
    drawn = draw_graph(context.model.proto.graph, context.placement)
    assert re.findall(r'class="op"[^>]*>([^<]+)', drawn) == ["input", "Conv + Relu", "Sigmoid", "Conv + Relu", "output"]


def long_sums(count: int, back: int) -> Context:
    """Sums of what is right above and of what is ``back`` rows above."""
    sums = " ".join(f"t{i + 1} = Add(t{i}, t{max(0, i - back)})" for i in range(count))
    return placed(f"g (float[1, 4, 8, 8] t0) => (float[1, 4, 8, 8] t{count}) {{ {sums} }}", {"t0": [1, 4, 8, 8]})


def test_a_page_grows_with_the_network_and_no_faster() -> None:
    context = long_sums(1000, 40)
    drawn = draw_graph(context.model.proto.graph, context.placement)
    assert drawn.count("<g class=") == 1002 and len(drawn) < 1_000_000
    assert '<p class="note">991 lines that pass more than 8 rows are left out' in drawn
    assert drawn.count("far above: the line is not drawn") == 991
    assert drawn.count("<path") == 2 * 1000 - 991


def test_long_lines_of_a_small_network_are_drawn() -> None:
    context = long_sums(100, 40)
    drawn = draw_graph(context.model.proto.graph, context.placement)
    assert 'class="note"' not in drawn and "far above" not in drawn
