"""The names a recipe gives to classes, against the network: as many as its output tells apart."""

from __future__ import annotations

from trtforge.errors.recipe import Contradiction
from trtforge.graph.model import Model
from trtforge.graph.shapes import TensorType, freeze_inputs, output_specs, show_shape
from trtforge.pipeline.job import Job


def check_classes(job: Job, model: Model) -> None:
    """Hold `windows.classes` against the float model's output; nothing without names, or where only a run tells.

    ``model``: after surgery. Raises Contradiction (RCP117) with the recipe's line; what `freeze_inputs` raises.
    """
    named = job.engine.sliding.classes
    if job.engine.volume_input is None or not named or (found := _output(job, model)) is None:
        return
    name, output = found
    assert output.shape is not None
    channels = output.shape[1]
    if not isinstance(channels, int) or len(named) == _classes(channels):
        return
    meaning = ", one channel: a yes or no, so labels 0 and 1" if channels == 1 else ", a channel a class"
    raise Contradiction(
        f"`windows.classes` has {len(named)} names, and the network tells {_classes(channels)} classes apart",
        where=job.recipe.place(("engines", job.name, "windows", "classes")),
        why=f"it says {', '.join(named)}; the output {name!r} is {show_shape(output.shape)}{meaning}",
        next=f"write {_classes(channels)} names, the background first; or leave `classes` out",
    )


def _classes(channels: int) -> int:
    """As the loop has it (`loop.Window.classes`): one channel is class 1 against class 0."""
    return max(channels, 2)


def _output(job: Job, model: Model) -> tuple[str, TensorType] | None:
    """The one output of scores for each voxel of the window; None without such a one, which the loop refuses."""
    shapes = {name: tuple(spec.shape) for name, spec in job.engine.inputs.items()}
    (window,) = (shape[2:] for shape in shapes.values())
    outputs = output_specs(freeze_inputs(model, shapes))
    fitting = [(name, seen) for name, seen in outputs.items() if _is_voxelwise(seen, window)]
    return fitting[0] if len(fitting) == 1 else None


def _is_voxelwise(output: TensorType, window: tuple[int, ...]) -> bool:
    return output.dtype.startswith("float") and output.shape is not None and output.shape[2:] == window
