"""On random networks: lint never fails, each node is in one place, in any order, and `--fix` does what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.graph.conftest import assert_agree, every_value
from tests.lint.dla.networks import INPUT, Network, networks
from trtforge.cli.placement import examined as of_job
from trtforge.cli.placement import fix
from trtforge.graph.labels import label
from trtforge.graph.passes.registry import run
from trtforge.lint.context import Context
from trtforge.lint.run import findings
from trtforge.pipeline.job import Job, plan
from trtforge.recipe.load import load
from trtforge.report.placement import PlacementPage, draw_placement
from trtforge.targets.load import keys

DLA = [key for key in keys() if key.endswith("/dla")]
VERSIONS = [None, "8.2", "8.6", "10.3", "10.7", "10.9", ">=8.5,<9"]
SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(net=networks(), data=st.data())
def test_every_node_is_in_one_place_and_every_finding_is_whole(examined, net: Network, data: st.DataObject) -> None:
    precision = data.draw(st.sampled_from(["int8", "fp16"]))
    fallback = data.draw(st.booleans())
    known = data.draw(st.none() | st.lists(st.sampled_from(sorted(net.shapes)), unique=True))
    context = examined(
        net.model(net.ends()).proto,
        {"x": INPUT},
        target=data.draw(st.sampled_from(DLA)),
        tensorrt=data.draw(st.sampled_from(VERSIONS)),
        precision=precision,
        scales=None if precision == "fp16" else known,
        dla={"gpu_fallback": fallback},
    )
    found, placement = findings(context), context.placement
    for finding in found:
        assert finding.where and finding.message and finding.fix and finding.places
        assert not finding.message.endswith(".")
    assert [id(place.node) for place in placement.places] == [id(node) for node in context.model.proto.graph.node]
    for place in placement.places:
        assert (place.device == "dla") == (place.loadable is not None) == (place.precision is not None)
        assert (place.device in ("gpu", "refused")) == bool(place.reasons)
        assert place.device != ("refused" if fallback else "gpu")
        told = any(label(place.node) in text for finding in found for text in finding.places)
        alone = place.why is not None and place.why.kind in ("limit", "unavailable")  # DLA101 and DLA108 are of all
        assert place.device == "dla" or told or alone or "no finding" in place.reason or place.device == "folded"
        assert not (place.cuts and place.idle)
    pieces = [one.number for one in placement.loadables]
    assert pieces == [*range(1, len(pieces) + 1)] == sorted({one.loadable for one in placement.places} - {None})
    assert sum(len(one.nodes) for one in placement.loadables) == placement.counts.get("dla", 0)
    json.dumps([placement.to_json(), [finding.to_json() for finding in found]], allow_nan=False)
    assert draw_placement(PlacementPage("t", "s", "n", context.model.proto.graph, placement, found))


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(net=networks(), data=st.data())
def test_the_order_of_nodes_does_not_matter(examined, net: Network, data: st.DataObject) -> None:
    order: list[int] = []
    makers = {name: place for place, node in enumerate(net.nodes) for name in node.output}
    while len(order) < len(net.nodes):
        ready = [
            place
            for place, node in enumerate(net.nodes)
            if place not in order and all(makers.get(name, -1) in (-1, *order) for name in node.input)
        ]
        order.append(data.draw(st.sampled_from(ready)))
    said = []
    for proto in (net.model(net.ends()).proto, net.model(net.ends(), order).proto):
        context = examined(proto, {"x": INPUT})
        assume(context.placement.wanted <= context.placement.limit)  # what is over it is the end of the network
        devices = {place.node.output[0]: (place.device, place.precision) for place in context.placement.places}
        said.append((devices, sorted((one.code, one.severity, sorted(one.places)) for one in findings(context))))
    assert said[0][0] == said[1][0]
    assert [one for one in said[0][1] if one[0] != "DLA114"] == [one for one in said[1][1] if one[0] != "DLA114"]


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(net=networks())
def test_fix_does_what_it_says(examined, net: Network) -> None:
    for node in net.nodes:
        node.name = ""  # onnxruntime takes none twice
    with TemporaryDirectory() as folder:
        job = _job(Path(folder), net)
        before = of_job(job)
        assume(all(finding.code != "GRF111" for finding in findings(before)))
        fixed = fix(job, before)
    advised = {name for one in findings(before) for name in re.findall(r"surgery pass ([a-z0-9-]+)", one.fix)}
    found = set() if fixed is None else {rewrite.name for rewrite, _ in fixed.reports}
    assert advised <= found, onnx.printer.to_text(net.model(net.ends()).proto)
    if fixed is None:
        return
    model = net.model(net.ends())
    result, _ = run(model, fixed.surgery)
    again = examined(result.proto, {"x": INPUT}, precision="fp16")
    assert again.placement.to_json() == fixed.context.placement.to_json()
    assert _off(again) <= _off(before), fixed.surgery
    if not any(rewrite.values for rewrite, _ in fixed.reports):
        feeds = {"x": np.random.default_rng(1).normal(size=INPUT).astype(np.float32)}
        assert_agree(every_value(model, feeds), every_value(result, feeds))
    passes = [one for one in fixed.surgery if one not in ("upgrade-opset", "fold-constants", "infer-shapes")]
    assert set(passes) == {rewrite.name for rewrite, _ in fixed.reports}


def _off(context: Context) -> int:
    """Layers off the DLA; a view is none."""
    views = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
    return sum(bool(place.reasons) and place.node.op_type not in views for place in context.placement.places)


def _job(folder: Path, net: Network) -> Job:
    onnx.save(net.model(net.ends()).proto, folder / "net.onnx")
    recipe = {
        "target": "orin-agx-64gb/dla",
        "backend": "tensorrt",
        "tensorrt": "8.6",
        "engines": {"net": {"model": {"onnx": "net.onnx"}, "inputs": {"x": {"shape": INPUT}}, "precision": "fp16"}},
    }
    (folder / "net.yaml").write_text(json.dumps(recipe))
    (job,) = plan(load(folder / "net.yaml"))
    return job
