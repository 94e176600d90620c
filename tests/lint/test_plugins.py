"""PLG101: what the recipe's plugins become on the target, told before any build."""

from __future__ import annotations

from typing import Any

import pytest

BODY = """g (float[1, {0}, 8, 8, 8] x) => (float[1, {0}, 8, 8, 8] y) <float[{0}] scale, float[{0}] bias>
{{ [norm] n = InstanceNormalization(x, scale, bias) y = Relu(n) }}"""


@pytest.fixture
def plugins(check: Any) -> Any:
    """plugins(channels=32, ...) -> (severity, where, message) of every finding."""

    def run(channels: int = 32, **more: Any) -> list[tuple[str, str, str]]:
        options = {"surgery": ["instance-norm-relu"], "target": "a100-sxm-80gb", "scales": ["x", "y"]} | more
        found = check("PLG101", BODY.format(channels), {"x": [1, channels, 8, 8, 8]}, **options)
        return [(one.severity, one.where, one.message) for one in found]

    return run


def test_a_plugin_that_can_be_built_is_no_finding(plugins: Any) -> None:
    assert plugins() == []


def test_channels_that_no_kernel_takes_are_named(plugins: Any) -> None:
    ((severity, where, message),) = plugins(8)
    assert (severity, where) == ("hint", "norm")
    assert "trtforge: the INT8 kernel takes channels in groups of 32, and here are 8" in message


def test_without_plain_it_is_an_error(plugins: Any) -> None:
    ((severity, _, message),) = plugins(8, plugins={"instance-norm-relu": ["trtforge"]})
    assert severity == "error"
    assert "groups of 32" in message


def test_a_missing_range_names_the_tensor(plugins: Any) -> None:
    ((_, _, message),) = plugins(scales=["x"])
    assert "calibration has no range for the tensor 'y' inside it" in message


@pytest.mark.parametrize(("release", "has_it"), [("8.6", True), ("7.2", False)])
def test_native_tensorrt_is_known_by_its_documents(plugins: Any, release: str, has_it: bool) -> None:
    found = plugins(target="orin-agx-64gb/gpu", backend="tensorrt", tensorrt=release)
    assert [severity for severity, *_ in found] == ([] if has_it else ["hint"])
    assert all("by NVIDIA's documents" in message for *_, message in found)


def test_a_plugin_without_its_structure_is_told(plugins: Any) -> None:
    message = "res2 is nowhere in the graph: the graph has no sum of two tensors"
    for target in ("a100-sxm-80gb", "host"):
        assert plugins(surgery=["res2", "res2"], target=target) == [("hint", "surgery: res2", message)]


def test_a_plugin_named_twice_is_no_overlap(plugins: Any) -> None:
    assert plugins(surgery=["instance-norm-relu", "instance-norm-relu"]) == []


def test_without_plain_it_is_an_error_on_the_host_too(plugins: Any) -> None:
    """A build for onnxruntime ends with ONX119 there."""
    ((severity, _, message),) = plugins(target="host", plugins={"instance-norm-relu": ["trtforge"]})
    assert severity == "error" and "onnxruntime runs the graph as it is" in message


def test_the_host_has_no_plugins_to_speak_of(plugins: Any) -> None:
    assert plugins(8, target="host") == []


def test_the_same_is_said_once_for_all_its_places(check: Any) -> None:
    """Four normalizations, two of 8 channels and one each of 16 and 32; the last one has a kernel."""
    weights = ", ".join(f"float[{size}] s{size}, float[{size}] b{size}" for size in (8, 16, 32))
    body = f"""g (float[1, 8, 8, 8, 8] a, float[1, 16, 8, 8, 8] c, float[1, 32, 8, 8, 8] e)
    => (float[1, 8, 8, 8, 8] o, float[1, 16, 8, 8, 8] p, float[1, 32, 8, 8, 8] q) <{weights}> {{
        [n1] t1 = InstanceNormalization(a, s8, b8) r1 = Relu(t1)
        [n2] t2 = InstanceNormalization(r1, s8, b8) o = Relu(t2)
        [n3] t3 = InstanceNormalization(c, s16, b16) p = Relu(t3)
        [n4] t4 = InstanceNormalization(e, s32, b32) q = Relu(t4) }}"""
    inputs = {name: [1, size, 8, 8, 8] for name, size in (("a", 8), ("c", 16), ("e", 32))}
    options = {"surgery": ["instance-norm-relu"], "target": "a100-sxm-80gb", "scales": ["a", "c", "e", "r1", *"opq"]}
    (finding,) = check("PLG101", body, inputs, **options)
    assert finding.places == ("n1", "n2", "n3")
    assert finding.message.startswith("instance-norm-relu at 3 of its 4 places stays as the plain graph")
    assert "and here are 8, 16)" in finding.message
