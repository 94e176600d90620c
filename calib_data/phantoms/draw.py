"""Abdominal CT phantoms with kidneys and tumours, drawn from a seed: volumes that may be given to anyone.

    python calib_data/phantoms/draw.py --seed 7 OUT_DIR [--spacing 5 1.6 1.6 --shape 41 144 144 --step 8]

Nothing in them comes from a person or from another data set.
"""

from __future__ import annotations

import argparse
import gzip
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parent))

from anatomy import Array, Scene, Shape, Three, draw_body, grain

TRAIN_SEEDS = range(1, 40_001)
CALIBRATION_SEEDS = range(50_001, 50_021)
TEST_SEEDS = range(90_001, 90_021)

_VOXELS = 4.5e6  # at most, where the seed chooses the spacing: a phantom takes about a second


@dataclass(frozen=True)
class Phantom:
    """``image``: int16 HU [d, h, w]; ``label``: uint8 [d, h, w]; ``affine``: float64 [4, 4], voxels to RAS mm."""

    image: Array
    label: Array
    affine: Array


def draw(seed: int, *, spacing: Three | None = None, shape: Shape | None = None, step: int = 1) -> Phantom:
    """The phantom of a seed: always with kidney and tumour.

    ``spacing``: mm along slices, rows and columns; left out, 2 to 5 and 0.7 to 1.7 by the seed. ``shape``: voxels;
    left out, a field of view that becomes about 128 or 192 x 192 or 256 x 192 or 256 voxels of 1.6 x 1.2 x 1.2 mm.
    ``step``: HU are rounded to multiples of it, so that files compress. The anatomy depends on the seed alone.
    """
    anatomy, sampling, noise = (np.random.default_rng([seed, stream]) for stream in range(3))
    sides = (sampling.choice([2, 2, 2, 3]), sampling.choice([3, 4, 4]), sampling.choice([3, 4, 4]))
    extent = [(64 * n + sampling.uniform(-10, 28)) * mm for n, mm in zip(sides, (1.6, 1.2, 1.2), strict=True)]
    thickness = sampling.uniform(2.0, 5.0)
    in_plane = max(sampling.uniform(0.7, 1.2), (np.prod(extent) / thickness / _VOXELS) ** 0.5)
    spacing = spacing or (thickness, in_plane, in_plane)
    shape = shape or tuple(round(length / mm) for length, mm in zip(extent, spacing, strict=True))
    scene = Scene(spacing, shape, sampling.uniform(-4, 4, 3), anatomy, noise)
    label = draw_body(scene, anatomy)

    blur = (0.35, *(noise.uniform(0.5, 0.8) / mm for mm in spacing[1:]))  # thick slices average over their neighbours
    image = ndimage.gaussian_filter(scene.hu, blur, truncate=3)
    image += noise.uniform(8, 20) * grain(noise, shape, (0.3, 0.7, 0.7))
    image = np.clip(np.round(image / step) * step, -1024, 3071).astype(np.int16)
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], [0, 1, 2]] = -np.asarray(spacing)
    affine[:3, 3] = [(n - 1) / 2 * mm for n, mm in zip(shape, spacing, strict=True)][::-1]
    affine[3, 3] = 1
    return Phantom(image, label, affine)


def save(phantom: Phantom, folder: Path) -> None:
    """Write ``imaging.nii.gz`` and ``segmentation.nii.gz`` into a folder; equal phantoms give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, voxels in (("imaging", phantom.image), ("segmentation", phantom.label)):
        nifti = nibabel.Nifti1Image(voxels, phantom.affine)
        nifti.header.set_xyzt_units("mm")
        nifti.set_qform(phantom.affine, code=1)
        nifti.set_sform(phantom.affine, code=1)
        (folder / f"{name}.nii.gz").write_bytes(gzip.compress(nifti.to_bytes(), 9, mtime=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--spacing", type=float, nargs=3, help="mm along slices, rows and columns")
    parser.add_argument("--shape", type=int, nargs=3, help="voxels")
    parser.add_argument("--step", type=int, default=1, help="round HU to multiples of this")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    shape, spacing = (value and tuple(value) for value in (options.shape, options.spacing))
    save(draw(options.seed, spacing=spacing, shape=shape, step=options.step), options.folder)


if __name__ == "__main__":
    main()
