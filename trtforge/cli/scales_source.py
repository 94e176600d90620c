"""What the scales commands read: a file in any form, or the one of an engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trtforge import kinds

if TYPE_CHECKING:
    from trtforge.scales.carry import Carried
    from trtforge.scales.codecs.extraction import Extraction, OnConflict
    from trtforge.scales.precisions import Precisions
    from trtforge.scales.read import Form
    from trtforge.scales.table import ScaleTable

SCALES = "scales.json"  # in an engine's version folder

ScalesFile = Annotated[
    Path,
    typer.Argument(metavar="SCALES", help="A scales JSON, TensorRT cache, onnxruntime JSON, Q/DQ model, or an engine"),
]


def of_engine(reference: Path) -> Path:
    """The scales file that is meant: itself, or the one of an engine that is named like for `run`."""
    if not reference.is_dir() and (reference.exists() or reference.suffix):
        kinds.refuse_other(reference, kinds.SCALES, kinds.MODEL)
        return reference
    from trtforge.engines.load import find_engine
    from trtforge.errors.calibration import ScalesFileInvalid
    from trtforge.errors.engine import EngineNotFound

    try:
        version = find_engine(reference)
    except EngineNotFound as error:
        error.why += "; and it is a folder, no file" if reference.is_dir() else "; nor is there a file of this name"
        raise
    if (found := version.path / SCALES).is_file():
        return found
    raise ScalesFileInvalid(
        "the engine has no scales",
        where=str(version.path),
        why=f"it is {version.manifest.recipe.get('precision')}: only an INT8 engine has them",
        next=f"trtforge inspect {version.path}",
    )


@dataclass
class Source:
    """Scales that are to be converted. ``found``: the parts of a Q/DQ model, None for every other form."""

    path: Path
    form: Form
    table: ScaleTable
    found: Extraction | None = None
    _carried: Carried | None = field(default=None, repr=False)

    def carried(self) -> Carried:
        """The scales with those that operators carry over; only of a Q/DQ model."""
        if self._carried is None:
            from trtforge.scales.carry import carry

            assert self.found is not None
            self._carried = carry(self.found)
        return self._carried

    def name_nodes(self) -> None:
        """Give the nodes of a Q/DQ model's plain graph names, where they have none of their own."""
        from trtforge.scales.precisions import name_nodes

        assert self.found is not None
        name_nodes(self.found.model)

    def precisions(self) -> Precisions:
        """Of a Q/DQ model: what each layer of its plain graph ran in."""
        from trtforge.scales.precisions import precisions

        assert self.found is not None
        return precisions(self.found, self.carried())


def open_source(reference: Path, on_conflict: OnConflict) -> Source:
    """Raises ScalesFileInvalid, the errors of the form's reader, and QdqScalesDisagree unless "widest" is asked for."""
    from trtforge.scales.read import QDQ_MODEL, form_of, load_quantized, read_any

    path = of_engine(reference)
    if form_of(path) != QDQ_MODEL:
        table, form = read_any(path)
        return Source(path, form, table)
    from trtforge.scales.codecs.qdq_extract import take_apart

    found = take_apart(load_quantized(path), on_conflict)
    return Source(path, QDQ_MODEL, found.table, found)
