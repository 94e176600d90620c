"""What an engine is held against: the FP32 model as it was given, run by onnxruntime on this CPU."""

from __future__ import annotations

from pathlib import Path

from trtforge.backends.base import Session
from trtforge.backends.onnxruntime_.session import open_file
from trtforge.errors.engine import SessionRefused
from trtforge.errors.verify import ReferenceRefused


def reference_session(model_path: Path) -> Session:
    """A session of the original model, no surgery and no quantization. Raises ReferenceRefused (VER104), BLD105."""
    try:
        return open_file(model_path, {})
    except SessionRefused as error:
        raise ReferenceRefused(
            "the FP32 reference cannot be loaded",
            where=str(model_path),
            why=error.why,
            next="compare with nothing (`trtforge run --against none`), or export the model again",
        ) from error
