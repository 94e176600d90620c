"""What SimpleITK reads and writes for us: NRRD, MetaImage, DICOM series. An extra; imported when a file needs it."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trtforge.errors.environment import MissingPackage
from trtforge.errors.volume import SeriesUnclear, VoxelsUnsupported
from trtforge.volumes.nifti_write import legend
from trtforge.volumes.scan import Scan, check_affine, check_dtype, check_shape, check_spacing
from trtforge.volumes.volume import Array, Volume

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_PLACE = "0020|0032"  # Image Position (Patient): three numbers, in mm
_UNEVEN = 0.05  # of the usual gap between slices


def import_itk(path: Path) -> Any:
    """Raises ENV101."""
    try:
        import SimpleITK
    except ImportError as error:
        raise MissingPackage(
            "this kind of volume needs SimpleITK", where=str(path), why=str(error), next="pip install 'trtforge[itk]'"
        ) from error
    itk: Any = SimpleITK
    itk.ProcessObject_GlobalWarningDisplayOff()  # it writes to stderr; what matters is raised as well
    return itk


def open_file(path: Path) -> Scan:
    """NRRD or MetaImage; within ``decoding``. Raises: ENV101, VOL104, VOL105, VOL107, VOL110; ValueError."""
    itk = import_itk(path)
    reader = itk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("MetaImageIO" if path.suffix.lower() in (".mha", ".mhd") else "NrrdImageIO")  # any case of suffix
    _executed(reader.ReadImageInformation)
    check_shape(reader.GetSize(), path)
    _check_components(reader.GetNumberOfComponents(), path)
    return _scan(_executed(reader.Execute), path)


def open_series(folder: Path) -> Scan:
    """The one DICOM series of a folder; within ``decoding``. Raises as ``open_file`` does, and VOL111."""
    itk = import_itk(folder)
    found = itk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(found) != 1:
        raise SeriesUnclear(
            "the folder does not hold one DICOM series",
            where=str(folder),
            why=f"it holds {len(found)}: {', '.join(found)}" if found else "it holds no DICOM file",
            next="keep each series in a folder of its own" if found else "name the folder in which the slices lie",
        )
    reader = itk.ImageSeriesReader()
    reader.SetFileNames(itk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), found[0]))
    reader.MetaDataDictionaryArrayUpdateOn()
    image = _executed(reader.Execute)
    _check_components(image.GetNumberOfComponentsPerPixel(), folder)
    _check_even(reader, image, folder)
    return _scan(image, folder)


def write_itk(stream: BinaryIO, path: Path, voxels: Array, like: Volume, *, classes: Sequence[str] | None) -> None:
    """[I, J, K] or [I, J, K, C] on the grid of ``like``, compressed; components become those of a voxel.

    SimpleITK writes only to files with the right suffix, so one is made on the side.
    """
    itk = import_itk(path)
    image = itk.GetImageFromArray(np.ascontiguousarray(voxels.swapaxes(0, 2)), isVector=voxels.ndim == 4)
    affine = _LPS_TO_RAS @ like.affine
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(edges.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / edges).ravel().tolist())
    if classes:
        image.SetMetaData("labels", legend(classes).removeprefix("labels: "))
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp") as folder:
        beside = Path(folder) / f"volume{path.suffix.lower()}"
        itk.WriteImage(image, str(beside), useCompression=True)
        with beside.open("rb") as written:
            shutil.copyfileobj(written, stream)


def _executed(run: Callable[[], Any]) -> Any:
    """Raises ValueError with what ITK means, which is the last line of what it says."""
    try:
        return run()
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("Reason: ")]
        raise ValueError(re.sub(r"^.*ERROR: |\(0x[0-9a-f]+\)|^\[nrrd\] ", "", lines[-1] if lines else "")) from error


def _check_components(count: int, path: Path) -> None:
    if count != 1:
        raise VoxelsUnsupported(
            "the voxels are vectors",
            where=str(path),
            why=f"each has {count} components; the network takes one real number a voxel",
            next="save one component as a file of its own",
        )


def _scan(image: Any, path: Path) -> Scan:
    voxels = import_itk(path).GetArrayFromImage(image).ravel()  # the file's first axis is numpy's last
    check_dtype(voxels.dtype, path)
    shape = check_shape(image.GetSize(), path)
    spacing = check_spacing(image.GetSpacing()[:3], path)
    axes = image.GetDimension()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (axes, axes))[:3, :3] * spacing
    affine[:3, 3] = image.GetOrigin()[:3]
    affine = _LPS_TO_RAS @ affine
    check_affine(affine, spacing, path)

    def chunks() -> Iterator[Array]:
        yield voxels

    return Scan(path=path, shape=shape, dtype=voxels.dtype, affine=affine, spacing=spacing, chunks=chunks)


def _check_even(reader: Any, image: Any, folder: Path) -> None:
    """ITK takes slices for evenly spaced and only marks the image when they are not. Raises VOL111."""
    if not image.HasMetaDataKey("ITK_non_uniform_sampling_deviation"):
        return
    places = np.array([_numbers(reader.GetMetaData(index, _PLACE)) for index in range(image.GetSize()[2])])
    gaps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    usual = float(np.median(gaps))
    odd = int(np.argmax(abs(gaps - usual)))
    if abs(gaps[odd] - usual) > _UNEVEN * usual:
        raise SeriesUnclear(
            "the slices of the series are not evenly spaced",
            where=str(folder),
            why=f"from slice {odd + 1} of {len(places)} to the next it is {gaps[odd]:.4g} mm, usually {usual:.4g} mm",
            next="fetch the series again; when slices lie at one place it holds several scans, to be kept apart",
        )


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split("\\")]
