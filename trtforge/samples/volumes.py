"""Scans as samples: whole, for segmentation, and as the windows that stand for them in calibration."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trtforge.digest import digest_json
from trtforge.errors.calibration import SampleUnsupported
from trtforge.samples.base import Sample
from trtforge.samples.listed import Listed, preprocessing

if TYPE_CHECKING:
    import numpy as np

    from trtforge.recipe.models import InputSpec, Windows
    from trtforge.recipe.preprocess import VolumePreprocess
    from trtforge.volumes.place import Placed
    from trtforge.volumes.volume import Volume


@dataclass(frozen=True)
class Case:
    """A scan on the network's grid. ``labels``: uint8 [D, H, W] on that grid, where the set names them."""

    id: str
    digest: str
    volume: Volume
    placed: Placed
    labels: np.ndarray[Any, Any] | None


@dataclass(frozen=True)
class VolumeSamples:
    """A SampleSet of windows: ``windows.per_volume`` of each scan, see `trtforge.volumes.choose`.

    Their ids are the scan's with ``#1`` and so on behind it, their digest is the scan's. One scan is in memory at a
    time.
    """

    name: str
    listed: tuple[Listed, ...]
    inputs: dict[str, InputSpec]
    windows: Windows
    licence: str = ""
    skipped: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.listed) * self.windows.per_volume

    def __iter__(self) -> Iterator[Sample]:
        (name,) = self.inputs
        for item in self.listed:
            ids = self._ids(item)
            if self.skipped.issuperset(ids):
                continue
            case = self._case(item)
            for at, window in zip(ids, self._chosen(case), strict=True):
                if at not in self.skipped:
                    yield Sample(at, case.digest, {name: window[None, None]})

    def cases(self) -> Iterator[Case]:
        """The scans themselves, one at a time. Raises what reading them raises: VOL, CAL106, CAL107."""
        for item in self.listed:
            yield self._case(item)

    def identities(self) -> list[tuple[str, str]]:
        digests = [(item, item.digest()) for item in self.listed]
        return [(at, digest) for item, digest in digests for at in self._ids(item)]

    def without(self, ids: Collection[str]) -> VolumeSamples:
        """The same set less some windows; a scan that is left with none is neither read nor hashed."""
        return replace(self, skipped=self.skipped | frozenset(ids))

    def describe(self) -> dict[str, Any]:
        """As every set does, and under ``windows`` what decides which windows these are."""
        labels = [item.labels_digest() for item in self.listed]
        windows = self.windows.model_dump(mode="json", include={"overlap", "per_volume", "seed"})
        windows |= {"labels": digest_json(labels)} if any(labels) else {}
        described: dict[str, Any] = {"set": self.name, "inputs": preprocessing(self.inputs), "windows": windows}
        return described | ({"licence": self.licence} if self.licence else {})

    def _ids(self, item: Listed) -> list[str]:
        return [f"{item.id}#{number + 1}" for number in range(self.windows.per_volume)]

    def _case(self, item: Listed) -> Case:
        from trtforge.volumes.protocols import place_once
        from trtforge.volumes.read import read_labels, read_volume

        (spec,) = self.inputs.values()
        (file,) = item.files.values()
        digest = item.digest()
        volume = read_volume(file.path)
        truth = None if item.labels is None else read_labels(item.labels, volume)
        placed = place_once(volume, _volume(spec), window_of(spec))
        return Case(item.id, digest, volume, placed, None if truth is None else placed.labels_forward(truth))

    def _chosen(self, case: Case) -> Iterator[np.ndarray[Any, Any]]:
        import numpy as np

        from trtforge.volumes.choose import choose, organ_of
        from trtforge.volumes.windows import WindowGrid

        (spec,) = self.inputs.values()
        recipe, array = _volume(spec), case.placed.array
        depth, height, width = array.shape
        grid = WindowGrid.of((depth, height, width), window_of(spec), self.windows.overlap)
        organ = organ_of(case.placed, case.labels, clipped=recipe.clip is not None)
        seed = [self.windows.seed, int(case.digest[:16], 16)]
        for window in choose(grid, organ, self.windows.per_volume, seed):
            yield np.ascontiguousarray(array[grid.slices(window)])


def window_of(spec: InputSpec) -> tuple[int, int, int]:
    """[D, H, W] of the windows that an input takes."""
    depth, height, width = spec.shape[2:]
    return depth, height, width


def _volume(spec: InputSpec) -> VolumePreprocess:
    assert spec.preprocess.kind == "volume"
    return spec.preprocess


def refuse_detached(listed: Collection[Listed]) -> None:
    """A header whose voxels lie in another file has no digest that would tell when they change. Raises CAL105."""
    from trtforge.volumes.read import DETACHED

    for item in listed:
        for path in (*(file.path for file in item.files.values()), *([item.labels] if item.labels else [])):
            if path.suffix.lower() in DETACHED:
                raise SampleUnsupported(
                    f"`{path.name}` is a header without voxels",
                    where=item.where,
                    why="a set pins what it lists by its digest, and the voxels are in another file",
                    next="write the scan into one file: .nii.gz, .nrrd or .mha",
                )
