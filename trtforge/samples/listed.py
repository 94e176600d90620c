"""A sample that a set lists, before it is decoded: its files, its digest, and what will be done to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtforge.digest import digest_json, sha256_file
from trtforge.errors.calibration import SampleChanged, SampleMissing, SampleUnreadable
from trtforge.samples.sources import SourceFile

if TYPE_CHECKING:
    from trtforge.recipe.models import InputSpec


@dataclass(frozen=True)
class Listed:
    """A sample not yet decoded. ``files``: input name -> file. ``labels``: the true labels of a scan, where given."""

    id: str
    where: str
    files: Mapping[str, SourceFile]
    labels: Path | None = None

    def digest(self) -> str:
        """sha256 of the one file, or the digest of input name -> sha256. Raises CAL106, CAL107."""
        hashed = {file.path: self._sha256(file) for file in self.files.values()}
        if len(hashed) == 1:
            return next(iter(hashed.values()))
        return digest_json({name: hashed[file.path] for name, file in self.files.items()})

    def labels_digest(self) -> str | None:
        """sha256 of the labels. Raises CAL103, CAL106."""
        if self.labels is None:
            return None
        if not self.labels.is_file():
            raise SampleMissing(
                f"the labels of `{self.id}` do not exist",
                where=self.where,
                why=f"looked for {self.labels}",
                next="correct `labels`, in which {folder} and {name} stand for the scan's; or leave it out",
            )
        return self._sha256(SourceFile(str(self.labels), self.labels))

    def _sha256(self, file: SourceFile) -> str:
        try:
            found = sha256_file(file.path)
        except OSError as error:
            raise SampleUnreadable(
                "the file cannot be read",
                where=file.id,
                why=error.strerror or str(error),
                next=f"make it readable: ls -l {file.path}",
            ) from error
        if file.pin is not None and found != file.pin:
            raise SampleChanged(
                f"`{file.id}` is not the file this set was written for",
                where=self.where,
                why=f"sha256 is {found}, the set says {file.pin}",
                next="restore the file, or update `sha256` in the set",
            )
        return found


def preprocessing(inputs: Mapping[str, InputSpec]) -> dict[str, Any]:
    """JSON-able: what is done to each input; leaves the batch out, which ranges do not depend on."""
    return {
        name: {
            "shape": list(spec.shape[1:]),
            "dtype": spec.dtype,
            "preprocess": spec.preprocess.model_dump(mode="json"),
        }
        for name, spec in inputs.items()
    }
