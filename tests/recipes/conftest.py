"""The scripts of recipes/unet3d as modules, and what they made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def topology(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("recipes/unet3d/topology.py")


@pytest.fixture(scope="session")
def training(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("recipes/unet3d/train.py")


@pytest.fixture(scope="session")
def committed() -> Path:
    return ROOT / "recipes" / "unet3d" / "phantom.onnx"


@pytest.fixture(scope="session")
def demo() -> Path:
    """The held-out phantom's folder."""
    return ROOT / "calib_data" / "phantoms" / "case_90001"
