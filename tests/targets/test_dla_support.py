"""Whether a DLA can be used is a table look-up over device, TensorRT and JetPack, and not monotonic in any of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtforge.errors.targets import UnknownTarget
from trtforge.targets.load import dla_support, get, jetpacks, keys

ORIN, NX, XAVIER, NANO = "orin-agx-64gb/dla", "orin-nx-16gb/dla", "xavier-agx/dla", "orin-nano-8gb/gpu"


@pytest.mark.parametrize(
    ("device", "tensorrt", "jetpack", "supported", "says"),
    [
        (ORIN, "8.4", None, True, "through 10.7"),
        (ORIN, "8.6", None, True, "through 10.7"),
        (ORIN, "8.6.2.3", "6.0", True, "through 10.7"),
        (ORIN, "10.3", "6.2.1", True, "through 10.7"),
        (ORIN, "10.7", "6.2", True, "JetPack 6.2 ships TensorRT 10.3.0"),
        (ORIN, "10.7.0.23", None, True, "through 10.7"),
        (ORIN, "10.8", None, False, "dropped"),
        (ORIN, "10.16.1", "7.2", False, "dropped"),
        (ORIN, "10.17", None, False, "outside the table"),
        (ORIN, "11.0", None, False, "no DLA"),
        (ORIN, "11.3.1", None, False, "no DLA"),
        (ORIN, "11.4.0", None, False, "Windows on ARM"),
        (ORIN, "11.4.0.106", None, False, "Windows on ARM"),
        (ORIN, "11.4.1", None, True, "7.2.2"),
        (ORIN, "11.4.1", "7.2.2", True, "7.2.2"),
        (ORIN, "11.4.1", "7.2", False, "this is JetPack 7.2"),
        (ORIN, "11.5", None, False, "outside the table"),
        (ORIN, "7.1", None, False, "outside the table"),
        (ORIN, "11.4", None, False, "write it in full"),
        (ORIN, "10", None, False, "write it in full"),
        (ORIN, "11", None, False, "write it in full"),
        (ORIN, "8", None, True, "through 10.7"),
        (NX, "11.4.1", None, False, "orin-nx-16gb is not among them"),
        (NX, "10.3", None, True, "through 10.7"),
        (XAVIER, "8.5.2", "5.1.3", True, "through 10.7"),
        (XAVIER, "8.5", None, True, "through 10.7"),
        (XAVIER, "8.6", None, False, "8.5.2 is the last release"),
        (XAVIER, None, "6.0", False, "does not support"),
        (NANO, "8.6", None, False, "has no DLA"),
        ("a30", "8.6", None, False, "has no DLA"),
        ("host", None, None, False, "has no DLA"),
        (ORIN, None, "6.1", True, "through 10.7"),
        (ORIN, None, "7.2.1", False, "dropped"),
        (ORIN, None, "7.2.2", True, "7.2.2"),
        (ORIN, None, "4.6", False, "does not support"),
        (ORIN, None, "9.9", False, "not in the table"),
        (ORIN, None, None, True, "2 DLA cores"),
        ("orin-nx-8gb/gpu", None, None, True, "1 DLA core"),
        (ORIN, "ten", None, False, "not a TensorRT version"),
        (ORIN, "", None, False, "not a TensorRT version"),
    ],
)
def test_verdicts(device: str, tensorrt: str | None, jetpack: str | None, supported: bool, says: str) -> None:
    verdict, sentence = dla_support(device, tensorrt, jetpack)
    assert (verdict, says in sentence) == (supported, True), sentence


def test_key_with_and_without_accelerator_mean_the_same_device() -> None:
    for spelling in ("orin-agx-64gb", "orin-agx-64gb/gpu", "orin-agx-64gb/dla"):
        assert dla_support(spelling, "10.3") == dla_support(ORIN, "10.3")


def test_jetpack_table_and_windows_agree() -> None:
    """The `dla` column of the JetPack table is what the windows say about the TensorRT it ships."""
    for key in keys():
        target = get(key)
        if not target.is_dla:
            continue
        for row in jetpacks():
            if target.family in row.families:
                assert dla_support(key, None, row.version)[0] == (target.family in row.dla), (key, row.version)


def test_unknown_device_is_the_usual_error() -> None:
    with pytest.raises(UnknownTarget):
        dla_support("orin-max", "8.6")


@given(st.sampled_from(keys()), st.lists(st.integers(0, 30), min_size=1, max_size=4), st.none() | st.text(max_size=6))
def test_any_version_gets_a_verdict_and_a_sentence(key: str, parts: list[int], jetpack: str | None) -> None:
    supported, sentence = dla_support(key, ".".join(map(str, parts)), jetpack)
    assert isinstance(supported, bool)
    assert sentence


@given(st.integers(8, 12), st.integers(0, 20), st.integers(0, 9))
def test_a_longer_version_never_contradicts_its_own_prefix(major: int, minor: int, patch: int) -> None:
    """What holds for "10.3" holds for "10.3.5": only a no may become a yes, when the prefix was ambiguous."""
    short, full = dla_support(ORIN, f"{major}.{minor}"), dla_support(ORIN, f"{major}.{minor}.{patch}")
    assert short[0] <= full[0] or "write it in full" in short[1]
