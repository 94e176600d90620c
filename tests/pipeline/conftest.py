from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measured speed of an INT8 form, on which the choice of form rests, is the same in every build."""
    monkeypatch.setattr("trtforge.backends.onnxruntime_.selfcheck.SelfCheck.speedup", lambda *_: 2.0)


@pytest.fixture
def built(ward) -> Any:
    result = ward.build(recipe="scan")
    assert result["engines"][0]["parity"]["metric"] == "dice"
    return ward
