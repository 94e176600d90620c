from __future__ import annotations

import pytest


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measured speed of an INT8 form, on which the choice of form rests, is the same in every build."""
    monkeypatch.setattr("trtforge.backends.onnxruntime_.selfcheck.SelfCheck.speedup", lambda *_: 2.0)
