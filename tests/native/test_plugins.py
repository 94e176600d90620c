"""Our plugins as TensorRT 10 and 11 are given them: the tests made on TensorRT-RTX, on the native bindings."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.native.bindings import under

FILE = Path(__file__).parents[1] / "kernels" / "test_tensorrt.py"


@pytest.mark.parametrize("release", ["10.16", "11.4"])
def test_the_classes_are_what_the_bindings_want(release: str) -> None:
    under(release, FILE, "-k", "TestPlugin or TestEnqueue")
