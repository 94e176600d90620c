"""The page: one file that asks for nothing, says what the case says, and shows the right slices."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor

from trtforge.report import page as page_module
from trtforge.report import paint
from trtforge.report.page import LARGEST, draw_page, write_page
from trtforge.report.planes import look
from trtforge.report.sprites import MOST, chosen, viewers

VOID = {"meta", "img", "input", "link", "br"}
NAME = """<script>alert('1')</script> & "Prüfung" 患者 $name ${x} {{y}}"""


class Parsed(HTMLParser):
    """Elements with their attributes, and text by element; refuses tags that do not match."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.open, self.text = [], [], {}
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.text.setdefault(self.open[-1], []).append(data)

    def all(self, tag, **attributes):
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [found for name, found in self.elements if name == tag and wanted.items() <= found.items()]


def image(uri):
    kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,([A-Za-z0-9+/=]+)", uri).groups()
    opened = Image.open(io.BytesIO(base64.b64decode(data)))
    assert opened.format.lower() == kind
    return opened


@pytest.fixture(scope="module")
def case(phantoms):
    made = phantoms.case()
    return replace(made, reference=np.roll(made.truth, 2, axis=1))


@pytest.fixture(scope="module")
def page(case):
    return draw_page(case)


def test_page_asks_for_no_other_file(page):
    assert "http:" not in page
    assert "https:" not in page
    assert "default-src 'none'" in page
    parsed = Parsed(page)
    assert {name for name, _ in parsed.elements}.isdisjoint({"link", "iframe", "object", "embed", "base", "form"})
    assert not [found for found in parsed.all("script") if found]
    assert not [found for _, found in parsed.elements if {"href", "srcset", "action", "background"} & set(found)]
    for found in parsed.all("img"):
        assert found["src"].startswith("data:image/")
        assert "alt" in found
    assert "url(" not in page
    assert "@import" not in page


def test_nothing_of_the_template_is_left(page):
    assert not re.search(r"\$\w|\$\{", page)


def test_names_are_escaped_and_none_is_filled_in_twice(case):
    parsed = Parsed(
        draw_page(
            replace(
                case,
                name=NAME,
                classes=("background", "<b>kidney</b>", "</table>tumour"),
                facts={"<i>key": "</dl><script>x</script>"},
                dice={'"><img src=x onerror=y>': {"<u>mean</u>": 0.5}},
            )
        )
    )
    assert parsed.text["title"] == [NAME]
    assert parsed.text["h1"] == [NAME]
    assert len(parsed.all("script")) == 1
    assert not {"b", "i", "u"} & {name for name, _ in parsed.elements}
    assert len(parsed.all("img")) == 3 * 6 + 1
    assert "<i>key" in parsed.text["dt"]
    assert "</dl><script>x</script>" in parsed.text["dd"]
    assert "<b>kidney</b>" in parsed.text["th"]


def test_figures_and_facts_are_said(page):
    parsed = Parsed(page)
    assert parsed.text["dt"] == ["engine", "precision"]
    assert parsed.text["dd"] == ["net/1", "int8"]
    cells = [text for text in parsed.text["td"] if text.strip()]
    assert cells[:1] == ["0.900"]
    assert len(cells) == 2 * (1 + 3)
    assert {"truth", "prediction", "FP32", "kidney", "tumour"} <= set(parsed.text["th"])


def test_what_can_be_worked_has_a_name(page):
    parsed = Parsed(page)
    sliders = parsed.all("input", type="range")
    assert [found["aria-label"] for found in sliders] == ["Axial slice", "Coronal slice", "Sagittal slice"]
    assert all(found["aria-valuetext"] for found in sliders)
    radios = parsed.all("input", type="radio")
    assert [found["value"] for found in radios] == ["0", "1", "2", "3", "4", "5"]
    assert [found["value"] for found in radios if "checked" in found] == ["2"]
    labels = ["None", "Truth", "Prediction", "FP32", "Differences from the truth", "Differences from the FP32 model"]
    assert parsed.text["label"] == labels
    assert parsed.all("html")[0]["lang"] == "en"


def test_only_layers_that_exist_are_offered(case):
    alone = Parsed(draw_page(replace(case, truth=None, reference=None, dice={})))
    assert alone.text["label"] == ["None", "Prediction"]
    assert len(alone.all("img", class_="layer")) == 3
    assert alone.text["li"] == ["kidney", "tumour"]


def test_each_layer_is_hidden_but_the_prediction(page):
    shown = [found["data-layer"] for found in Parsed(page).all("img", class_="layer") if "hidden" not in found]
    assert shown == ["2", "2", "2"]


def test_sliders_start_at_the_point_and_places_fit_the_sprites(case, page):
    scene, parsed = look(case), Parsed(page)
    figures, sliders = parsed.all("figure"), parsed.all("input", type="range")
    for figure, slider, axis in zip(figures, sliders, (2, 1, 0), strict=True):
        middles = [float(share) for share in figure["data-at"].split(" ")]
        places = figure["data-places"].split("|")
        assert len(places) == len(middles) == int(slider["max"]) + 1 == scene.grid.shape[axis]
        assert middles == sorted(middles)
        start = int(slider["value"])
        assert middles[start] == pytest.approx((scene.point[axis] + 0.5) / scene.grid.shape[axis], abs=1e-4)
        assert slider["aria-valuetext"] == places[start]


def test_sprites_show_the_scan_and_the_labels_of_each_slice(case):
    scene = look(case)
    greys, seen = [], set()
    for viewer in viewers(scene, 96, 90):
        scan = np.asarray(image(viewer.scan))
        layers = {layer.name: image(layer.uri).convert("RGBA") for layer in viewer.layers}
        assert viewer.indices[viewer.start] == scene.point[viewer.plane.cuts]
        high, wide = scan.shape[0] // viewer.rows, scan.shape[1] // viewer.columns
        assert high % 8 == wide % 8 == 0
        for number, along in product((viewer.start, viewer.start + 3), range(scene.grid.shape[viewer.plane.columns])):
            index = [*scene.point]
            index[viewer.plane.cuts] = viewer.indices[number]
            index[viewer.plane.columns] = along
            x = int((along + 0.5) / scene.grid.shape[viewer.plane.columns] * wide)
            y = int((index[viewer.plane.rows] + 0.5) / scene.grid.shape[viewer.plane.rows] * high)
            at = (number % viewer.columns * wide + x, number // viewer.columns * high + y)
            greys.append((scan[at[1], at[0]], min(scene.scan[tuple(index)] * 2.55, 255)))
            here = {name: int(labels[tuple(index)]) for name, labels in scene.labels.items()}
            for name, label in here.items():
                *colour, opacity = layers[name].getpixel(at)
                assert (opacity > 0) == (label > 0)
                assert not label or colour == paint.palette(3)[label].tolist()
            for name, title in (("truth", "the truth"), ("FP32", "the FP32 model")):
                code = int(paint.differences(np.uint8([here["prediction"]]), np.uint8([here[name]]))[0])
                *colour, opacity = layers[f"Differences from {title}"].getpixel(at)
                expected = paint.DIFFERENCES.get(code, ("", "black", 0))
                assert (tuple(colour), opacity) == (ImageColor.getrgb(expected[1]), round(255 * expected[2]))
                seen.add(code)
    assert seen == {0, *paint.DIFFERENCES}
    drawn, meant = np.array(greys, float).T
    assert np.median(np.abs(drawn - meant)) < 5
    assert np.corrcoef(drawn, meant)[0, 1] > 0.95


@given(st.integers(1, 900), st.data())
def test_slices_are_spread_over_the_axis_and_hold_the_point(count, data):
    point = data.draw(st.integers(0, count - 1))
    indices = chosen(count, point)
    assert len(indices) == min(count, MOST)
    assert point in indices
    assert list(indices) == sorted(set(indices))
    assert indices[0] >= 0
    assert indices[-1] < count
    assert max(np.diff(indices), default=0) <= 2 * -(-count // MOST)


def test_equal_cases_give_equal_bytes(case, page, tmp_path):
    write_page(tmp_path / "page.html", replace(case, scan=np.asfortranarray(case.scan)))
    assert (tmp_path / "page.html").read_bytes() == page.encode()
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_noisy_scan_gets_smaller_tiles_to_keep_the_page_small(phantoms, monkeypatch):
    shape = (96, 96, 96)
    scan = np.random.default_rng(0).integers(0, 100, shape).astype(np.int16)
    case = phantoms.case(shape, (4, 4, 4), scan=scan)
    large = draw_page(case)
    assert len(large.encode()) < LARGEST
    monkeypatch.setattr(page_module, "LARGEST", len(large.encode()) // 2)
    assert len(draw_page(case).encode()) <= len(large.encode()) // 2


@pytest.mark.parametrize("shape", [(5, 7, 9), (1, 1, 1), (1, 200, 3)])
def test_small_and_flat_volumes(phantoms, shape):
    labels = np.ones(shape, np.uint8)
    case = phantoms.case(shape, (1, 1, 1), scan=np.ones(shape, np.uint8), truth=None, prediction=labels)
    assert len(Parsed(draw_page(case)).all("figure")) == 3
