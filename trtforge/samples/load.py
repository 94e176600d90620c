"""Sample sets made of files: described by a YAML file, or named on the command line.

What decodes (numpy, Pillow, nibabel) is imported when the first sample is decoded: a build that finds its engine up
to date only hashes files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtforge.errors.calibration import (
    EmptySet,
    SampleInputs,
    SampleNotFinite,
    SampleRepeated,
    SampleUnsupported,
    TooFewSamples,
)
from trtforge.recipe.models import Windows
from trtforge.samples.base import Sample
from trtforge.samples.entries import Entry, read_description
from trtforge.samples.listed import Listed, preprocessing
from trtforge.samples.sources import SourceFile, beside, given, resolve
from trtforge.samples.specs import check_image_spec

if TYPE_CHECKING:
    import numpy as np

    from trtforge.recipe.models import InputSpec
    from trtforge.samples.volumes import VolumeSamples


def open_set(
    path: Path,
    inputs: Mapping[str, InputSpec],
    *,
    limit: int | None = None,
    windows: Windows | None = None,
    named_at: str = "",
) -> FileSamples | VolumeSamples:
    """The samples a YAML set lists, in its order, preprocessed for ``inputs``. Nothing is decoded yet.

    Args:
        path: the YAML file; see :class:`trtforge.errors.calibration.SetUnreadable` for what it may say.
        inputs: input name -> shape, type and preprocessing of the network.
        limit: use the first ``limit`` samples (for a volume input: scans); the set must have as many.
        windows: which windows of a scan are samples, where the input takes windows; None: the defaults.
        named_at: the place in a recipe that names the set.

    Raises: CAL101-105, CAL108, CAL111-113; iterating raises CAL105-111.
    """
    description = read_description(path, named_at=named_at)
    listed = [item for entry in description.entries for item in _listed(entry, path.parent, inputs)]
    _refuse_repeats(listed)
    if not listed:
        raise EmptySet("the sample set lists no sample", where=str(path), next="add paths under `samples:`")
    if limit is not None and limit > len(listed):
        raise TooFewSamples(
            f"{limit} samples are asked for",
            where=str(path),
            why=f"the set has {len(listed)}",
            next=f"set `samples: {len(listed)}`, or drop it to use the whole set",
        )
    _check_specs(inputs)
    chosen = tuple(listed[:limit])
    if any(spec.preprocess.kind == "volume" for spec in inputs.values()):
        from trtforge.samples.volumes import VolumeSamples, refuse_detached

        refuse_detached(chosen)

        return VolumeSamples(description.name, chosen, dict(inputs), windows or Windows(), description.licence)
    return FileSamples(description.name, chosen, inputs, description.licence)


def open_files(paths: Sequence[Path], inputs: Mapping[str, InputSpec]) -> FileSamples:
    """Files named by a person, one sample each. Raises: CAL102, CAL103, CAL105, CAL108, CAL111, USE107."""
    if not paths:
        raise EmptySet("no file was given", next="name at least one file")
    _check_specs(inputs)
    listed = []
    for file in given(list(paths)):
        _one_file_feeds_all(file, inputs, str(file.path))
        listed.append(Listed(file.id, str(file.path), dict.fromkeys(inputs, file)))
    return FileSamples("files", tuple(listed), inputs)


@dataclass(frozen=True)
class FileSamples:
    """A SampleSet of files: every iteration decodes one sample at a time."""

    name: str
    listed: tuple[Listed, ...]
    inputs: Mapping[str, InputSpec]
    licence: str = ""

    def __len__(self) -> int:
        return len(self.listed)

    def __iter__(self) -> Iterator[Sample]:
        for item in self.listed:
            digest = item.digest()
            arrays = {name: self._decode(item.files[name], name, spec) for name, spec in self.inputs.items()}
            yield Sample(item.id, digest, arrays)

    def identities(self) -> list[tuple[str, str]]:
        return [(item.id, item.digest()) for item in self.listed]

    def without(self, ids: Collection[str]) -> FileSamples:
        """The same set less some samples, which are then neither hashed nor decoded."""
        return replace(self, listed=tuple(item for item in self.listed if item.id not in ids))

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = {"set": self.name, "inputs": preprocessing(self.inputs)}
        return described | ({"licence": self.licence} if self.licence else {})

    def _decode(self, file: SourceFile, name: str, spec: InputSpec) -> np.ndarray[Any, Any]:
        from trtforge.samples.arrays import ARRAYS, load_array

        where = file.id if len(self.inputs) == 1 else f"{file.id} for input {name}"
        if spec.preprocess.kind == "image":
            if file.path.name.lower().endswith(ARRAYS):
                raise SampleUnsupported(
                    "this is no image",
                    where=where,
                    why=f"input `{name}` has `preprocess: {{kind: image}}`",
                    next="name an image, or give the input `preprocess: {kind: array}`",
                )
            from trtforge.samples.images import load_image

            array = load_image(file.path, where, spec)
        else:
            array = load_array(file.path, where, name, spec)
        _refuse_not_finite(array, where)
        return array


def _check_specs(inputs: Mapping[str, InputSpec]) -> None:
    for name, spec in inputs.items():
        if spec.preprocess.kind == "image":
            check_image_spec(name, spec)


def _listed(entry: Entry, folder: Path, inputs: Mapping[str, InputSpec]) -> list[Listed]:
    """The samples of one entry: a glob gives many, a mapping gives one."""
    single = entry.refs.get(None)
    if single is not None:
        files = resolve(single.text, folder, where=entry.where, pin=single.pin)
        for file in files:
            _one_file_feeds_all(file, inputs, entry.where)
        labels = {file: beside(single.labels, file.path, folder) for file in files} if single.labels else {}
        return [Listed(file.id, entry.where, dict.fromkeys(inputs, file), labels.get(file)) for file in files]
    if set(entry.refs) != set(inputs):
        raise SampleInputs(
            "the entry does not name the inputs of the network",
            where=entry.where,
            why=f"it names {_names(entry.refs)}, the inputs are {_names(inputs)}",
            next="map every input to one file",
        )
    chosen: dict[str, SourceFile] = {}
    for name in inputs:
        found = resolve(entry.refs[name].text, folder, where=entry.where, pin=entry.refs[name].pin)
        if len(found) > 1:
            raise SampleInputs(
                f"input `{name}` is given {len(found)} files",
                where=entry.where,
                why="a glob cannot say which files belong together",
                next="write one entry for each sample",
            )
        chosen[name] = found[0]
    return [Listed(" + ".join(file.id for file in chosen.values()), entry.where, chosen)]


def _one_file_feeds_all(file: SourceFile, inputs: Mapping[str, InputSpec], where: str) -> None:
    if len(inputs) != 1 and not file.path.name.lower().endswith(".npz"):
        raise SampleInputs(
            f"one file, `{file.id}`, cannot feed the {len(inputs)} inputs that the recipe names",
            where=where,
            why=f"under `inputs` there are {_names(inputs)}",
            next="use one .npz with these arrays for each sample, or a mapping from input names to files; if the model "
            "lacks one of them (`trtforge inspect MODEL`), remove it from the recipe",
        )


def _refuse_repeats(listed: Sequence[Listed]) -> None:
    first: dict[str, Listed] = {}
    for item in listed:
        if item.id in first:
            raise SampleRepeated(
                f"`{item.id}` is listed twice",
                where=item.where,
                why=f"first at {first[item.id].where}",
                next="remove one of the entries",
            )
        first[item.id] = item


def _refuse_not_finite(array: np.ndarray[Any, Any], where: str) -> None:
    import numpy as np

    if array.dtype.kind != "f" or np.isfinite(array).all():
        return
    position = [int(axis) for axis in np.argwhere(~np.isfinite(array))[0]]
    raise SampleNotFinite(
        f"the sample holds {array[tuple(position)]}",
        where=where,
        why=f"first at index {position} of {list(array.shape)}",
        next="mend the preprocessing, or take the sample out of the set",
    )


def _names(names: Collection[Any]) -> str:
    return ", ".join(f"`{name}`" for name in names)
