"""What an engine keeps for its window loop, beside its own file: the weights, and the kernels for its GPU.

`windows.json` is all that a program of another language needs to run the loop: window, overlap, names of the classes,
and the weights as three vectors, whose product (or ``floor``, if that is larger) is a voxel's weight. It stands for the
27 patches of 128^3 that MLPerf's submission ships: each of those is such a product divided by a number a voxel, and
the largest class does not depend on that number.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from trtforge.errors.environment import MissingPackage
from trtforge.files import write_bytes, write_json
from trtforge.progress import QUIET, Progress
from trtforge.recipe.models import Windows
from trtforge.runtime.windows.cubins import WINDOWS
from trtforge.runtime.windows.weights import WindowWeights
from trtforge.volumes.windows import Shape

FILE = "windows.json"
VERSION = 1


def write(
    folder: Path, options: Windows, window: Shape, sm: str | None, *, progress: Progress = QUIET
) -> dict[str, Path]:
    """Write the files for an engine's folder: file name -> path. ``sm``: of the target's GPU; None: it has none.

    Without NVRTC the kernels are left out, which is said: the CPU's loop then feeds the GPU. Raises KernelNotCompiled.
    """
    weights = WindowWeights.of(options.weights, window)
    content: dict[str, Any] = {
        "format": "trtforge.windows",
        "version": VERSION,
        "window": list(window),
        "overlap": options.overlap,
        "classes": list(options.classes),
        "weights": options.weights,
        "floor": weights.floor,
        # the shortest decimals that give the same float32 back
        "axes": [[float(str(value)) for value in axis] for axis in weights.axes],
    }
    write_json(folder / FILE, content)
    files = {FILE: folder / FILE}
    if sm is None:
        return files
    try:
        cubin = WINDOWS.compile([sm])[sm]
    except MissingPackage as error:
        progress.warn(f"the engine gets no window kernels for its GPU: {error.why}; {error.next}")
        return files
    name = WINDOWS.file_name(sm)
    write_bytes(folder / name, cubin)
    return files | {name: folder / name}


def weights(folder: Path, options: Windows, window: Shape) -> WindowWeights:
    """The weights that the engine in ``folder`` was published with; computed when ``options`` ask for others."""
    try:
        value = json.loads((folder / FILE).read_bytes())
    except FileNotFoundError:  # published before engines kept them
        return WindowWeights.of(options.weights, window)
    if value["weights"] != options.weights or tuple(value["window"]) != window:
        return WindowWeights.of(options.weights, window)
    z, y, x = (np.array(axis, np.float32) for axis in value["axes"])
    return WindowWeights((z, y, x), value["floor"])
