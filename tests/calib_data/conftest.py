"""calib_data/phantoms/draw.py as a module, and its folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def drawing(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("calib_data/phantoms/draw.py")


@pytest.fixture(scope="session")
def folder() -> Path:
    return Path(__file__).parents[2] / "calib_data" / "phantoms"
