"""A scan onto the network's grid, and what the network says about it back onto the file's."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod

import numpy as np

from trtforge.errors.volume import VolumeTooLarge
from trtforge.errors.windows import NotEnoughMemory
from trtforge.ort import usable_cpus
from trtforge.recipe.preprocess import VolumePreprocess
from trtforge.volumes import aligned
from trtforge.volumes.fit import AxisFit, fit_axes
from trtforge.volumes.turn import Turn
from trtforge.volumes.volume import Array, Shape, Volume, by

LARGEST = 2**31  # voxels on the network's grid

_SLAB = 16  # planes that are resampled together: some MiB, so that normalising them finds them in the cache


@dataclass(frozen=True, eq=False)
class Placed:
    """A scan on the network's grid.

    Attributes:
        array: float32 [D, H, W], C-contiguous, normalised.
        turn: from the file's axes to these.
        fits: what was done along D, H and W.
    """

    array: Array
    turn: Turn
    fits: tuple[AxisFit, AxisFit, AxisFit]

    def labels_back(self, labels: Array) -> Array:
        """uint8 [D, H, W] -> uint8 [I, J, K] of the file: each voxel takes the nearest label, of two the later.

        Nearest along each axis, see ``AxisFit.nearest_network``. Padding is dropped; voxels that were cropped away
        get 0. In memory: the result twice at most.
        """
        self._check(labels.shape)
        inside, nearest = zip(*(fit.nearest_network() for fit in self.fits), strict=True)
        result = np.zeros([fit.raw for fit in self.fits], np.uint8)
        result[inside] = _gathered(labels, nearest)
        return self.turn.back(result)

    def probabilities_back(self, probabilities: Array) -> Array:
        """float32 [C, D, H, W] -> float32 [C, I, J, K] of the file, linear along each axis.

        Where ``labels_back`` gives 0 for what was cropped, class 0 gets 1 and the others 0; padding plays no part.
        In memory: the result, and one class at [D, J, K] three times.
        """
        self._check(probabilities.shape[1:])
        inside, lower, upper, weight = zip(*(fit.between_network() for fit in self.fits), strict=True)
        result = np.zeros((len(probabilities), *(fit.raw for fit in self.fits)), np.float32)
        result[0] = 1
        for target, source in zip(result, probabilities, strict=True):
            planes = source
            for axis in (2, 1):
                planes = _blend(planes, lower[axis], upper[axis], weight[axis], axis)
            for plane, below, above, share in zip(target[inside[0]], lower[0], upper[0], weight[0], strict=True):
                plane[inside[1:]] = planes[below] + (planes[above] - planes[below]) * share
        return self.turn.back(result)

    def labels_forward(self, labels: Array) -> Array:
        """uint8 [I, J, K] of the file -> uint8 [D, H, W], as the protocol treats the truth.

        Resampled by nearest neighbour exactly as scipy's zoom with order 0 and ``cval=labels.min()``, edges repeated
        like the scan's; padding is 0.
        """
        labels = self.turn.forward(labels)
        if labels.shape != tuple(fit.raw for fit in self.fits):
            raise ValueError(f"labels are {labels.shape} on the network's axes, the scan {[f.raw for f in self.fits]}")
        nearest, found = zip(*(fit.nearest_raw() for fit in self.fits), strict=True)
        filled = _gathered(labels, nearest)
        for axis in range(3):
            filled[_along(axis, ~found[axis])] = labels.min()
        result = np.zeros(self.array.shape, np.uint8)
        result[tuple(fit.filled for fit in self.fits)] = filled
        return result

    def _check(self, shape: tuple[int, ...]) -> None:
        if shape != self.array.shape:
            raise ValueError(f"the shape is {shape}, the network's grid {self.array.shape}")


def place(volume: Volume, spec: VolumePreprocess, roi: Shape) -> Placed:
    """Bring a scan to the network's grid: turn, resample, clip, normalise, fit; ``roi`` is the window [D, H, W].

    Each step is bit for bit that of MLPerf's KiTS19 protocol: scipy's zoom of the float32 voxels with order 1, clip
    and ``(x - mean) / std`` in float32, edges repeated up to the window, then a remainder cropped or padded.

    In memory, beside the scan: the result, a few MiB a thread, and a copy of the scan in its own type when its axes do
    not already lie in memory in the order D, H, W.

    Raises: VOL112, ENV103.
    """
    turn = Turn.to(spec.orientation, volume.affine)
    fits = fit_axes(turn.order(volume.shape), turn.order(volume.spacing), spec, roi)
    array = _allocated(volume, fits)
    _resample(_in_memory_order(turn.forward(volume.voxels)), fits, spec, array[tuple(fit.kept for fit in fits)])
    _pad(array, fits, spec.pad)
    return Placed(array, turn, fits)


def _allocated(volume: Volume, fits: Sequence[AxisFit]) -> Array:
    sizes = tuple(fit.size for fit in fits)
    gib = prod(sizes) * 4 / 2**30
    facts = f"it would be {by(sizes)} voxels, {gib:.4g} GiB; "
    facts += f"in the file it is {by(volume.shape)}, each {by(volume.spacing)} mm"
    if prod(sizes) > LARGEST:
        raise VolumeTooLarge(
            "the volume is too large for the network's grid",
            where=str(volume.path),
            why=facts,
            next="check the spacing in the file's header, and `spacing` in the recipe",
        )
    try:
        return aligned.empty(sizes, np.float32)
    except MemoryError as error:
        raise NotEnoughMemory(
            "the scan does not fit into memory on the network's grid",
            where=str(volume.path),
            why=facts,
            next="free memory, or run it on a larger machine; check the spacing in the file's header",
        ) from error


def _in_memory_order(voxels: Array) -> Array:
    """The array itself, or a C-ordered copy when its last axis is not the fastest: resampling would crawl."""
    strides = [abs(stride) for stride in voxels.strides]
    if strides[2] == min(strides):
        return voxels
    copy = np.empty(voxels.shape, voxels.dtype)
    for row in range(voxels.shape[1]):  # numpy transposes a whole volume at once 2 to 4 times slower
        copy[:, row] = voxels[:, row]
    return copy


def _resample(voxels: Array, fits: Sequence[AxisFit], spec: VolumePreprocess, target: Array) -> None:
    """Resample and normalise into ``target``: float32, the resampled voxels that are kept. In slabs, in threads."""
    depth, height, width = (slice(fit.kept.start + fit.first, fit.kept.stop + fit.first) for fit in fits)
    outside = float(voxels.min())
    # one raw voxel is repeated: its step would be 0, which affine_transform divides by
    voxels = np.broadcast_to(voxels, [fit.resampled if fit.raw == 1 else fit.raw for fit in fits])

    def slab(start: int) -> None:
        stop = min(start + _SLAB, depth.stop)
        planes = _zoomed(voxels, fits, start, stop, outside)[:, height, width]
        if spec.clip is not None:
            np.clip(planes, *spec.clip, out=planes)
        np.subtract(planes, spec.mean, out=planes)
        np.divide(planes, spec.std, out=target[start - depth.start : stop - depth.start])

    with ThreadPoolExecutor(usable_cpus()) as pool:  # scipy releases the lock
        list(pool.map(slab, range(depth.start, depth.stop, _SLAB)))


def _zoomed(voxels: Array, fits: Sequence[AxisFit], start: int, stop: int, outside: float) -> Array:
    """Planes [start, stop) of ``scipy.ndimage.zoom(voxels as float32, order=1, cval=outside)``, bit for bit.

    scipy's affine_transform with a diagonal runs the same code as its zoom and can begin at any plane. It makes the
    first coordinate (n + start) * step out of an offset start * step, so ``start`` must survive the way there and back.
    """
    if all(fit.raw == fit.resampled for fit in fits):
        return voxels[start:stop].astype(np.float32)
    from scipy import ndimage

    steps = [fit.step or 1.0 for fit in fits]
    exact = start
    while exact * steps[0] / steps[0] != exact:
        exact -= 1
    planes: Array = ndimage.affine_transform(
        voxels,
        np.array(steps),
        offset=(exact * steps[0], 0, 0),
        output_shape=(stop - exact, fits[1].resampled, fits[2].resampled),
        output=np.float32,
        order=1,
        mode="constant",
        cval=outside,
    )
    return planes[start - exact :]


def _pad(array: Array, fits: Sequence[AxisFit], value: float) -> None:
    """Repeat the outermost planes up to ``filled``, one axis after the other; beyond, ``value``."""
    for axis, fit in enumerate(fits):
        kept, filled = fit.kept, fit.filled
        array[_along(axis, slice(filled.start, kept.start))] = array[_along(axis, slice(kept.start, kept.start + 1))]
        array[_along(axis, slice(kept.stop, filled.stop))] = array[_along(axis, slice(kept.stop - 1, kept.stop))]
    for axis, fit in enumerate(fits):
        array[_along(axis, slice(0, fit.filled.start))] = value
        array[_along(axis, slice(fit.filled.stop, fit.size))] = value


def _along(axis: int, chosen: slice | Array) -> tuple[slice | Array, ...]:
    return (*(slice(None),) * axis, chosen)


def _gathered(voxels: Array, indices: Sequence[Array]) -> Array:
    """``voxels[np.ix_(*indices)]``, the axes that shrink most first."""
    for axis in sorted(range(3), key=lambda axis: len(indices[axis]) / voxels.shape[axis]):
        voxels = voxels.take(indices[axis], axis=axis)
    return voxels


def _blend(voxels: Array, lower: Array, upper: Array, weight: Array, axis: int) -> Array:
    """lower + (upper - lower) * weight along an axis."""
    below = voxels.take(lower, axis=axis)
    change = voxels.take(upper, axis=axis)
    change -= below
    change *= weight.reshape([-1 if at == axis else 1 for at in range(3)])
    below += change
    return below
