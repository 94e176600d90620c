"""What an engine is held against, and what stands for one that cannot run here; both by onnxruntime on this CPU."""

from __future__ import annotations

from pathlib import Path

from trtforge.backends.base import Session
from trtforge.backends.onnxruntime_.forms import EXACT
from trtforge.backends.onnxruntime_.session import open_file
from trtforge.errors.engine import SessionRefused
from trtforge.errors.verify import ReferenceRefused


def simulated_session(graph: Path) -> Session:
    """A Q/DQ graph computed as written: Q/DQ in float arithmetic, no integer kernels. Raises SessionRefused, BLD105."""
    return open_file(graph, EXACT.config)


def reference_session(model_path: Path) -> Session:
    """A session of the original model, no surgery and no quantization; Q/DQ that it came with is computed in float.

    Raises ReferenceRefused (VER104), BLD105.
    """
    try:
        return open_file(model_path, EXACT.config)  # integer kernels are not right on every CPU; a reference must be
    except SessionRefused as error:
        raise ReferenceRefused(
            "the FP32 reference cannot be loaded",
            where=str(model_path),
            why=error.why,
            next="compare with nothing (`trtforge run --against none`), or export the model again",
        ) from error
