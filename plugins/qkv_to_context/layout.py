"""Where the elements of a tensor come from: axes as products of pieces of an earlier tensor's axes.

A projection's output [B, S, N*H] viewed as [B, S, N, H] and transposed to [B, N, S, H] is, as a layout,
((B), (N), (S), (H)): each axis a list of atoms, the slowest first. An atom is ``size`` steps of ``stride`` along one
source axis. Reshape cuts the flat list of atoms at other places, Transpose permutes axes, and two chains of views that
do the same end in equal layouts, however they are spelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from trtforge.plugins.qkv_to_context.sizes import ONE, Shape, Size, product


@dataclass(frozen=True)
class Atom:
    """``size`` steps of ``stride`` elements along the axis ``source`` of the tensor the layout speaks of."""

    source: str
    stride: Size
    size: Size


Axis = tuple[Atom, ...]
Layout = tuple[Axis, ...]


def whole(source: str, size: Size) -> Axis:
    """An axis as it is."""
    return merged([Atom(source, ONE, size)])


def axis_size(axis: Axis) -> Size:
    return product([atom.size for atom in axis])


def shape_of(layout: Layout) -> Shape:
    return tuple(axis_size(axis) for axis in layout)


def merged(atoms: Sequence[Atom]) -> Axis:
    """Atoms without those of size 1, and with neighbours that run on in each other put together."""
    kept: list[Atom] = []
    for atom in atoms:
        if atom.size.is_one:
            continue
        last = kept[-1] if kept else None
        if last is not None and last.source == atom.source and last.stride == atom.stride.times(atom.size):
            kept[-1] = Atom(atom.source, atom.stride, last.size.times(atom.size))
        else:
            kept.append(atom)
    return tuple(kept)


def reshape(layout: Layout, target: Sequence[Size], *, copy_zeros: bool = True) -> Layout | None:
    """The layout under another shape, with ONNX's 0 and -1; None when an axis would be cut unevenly."""
    sizes = _resolved(shape_of(layout), target, copy_zeros)
    if sizes is None:
        return None
    rest = [atom for axis in layout for atom in axis]
    axes: list[Axis] = []
    for size in sizes:
        taken = _take(rest, size)
        if taken is None:
            return None
        axes.append(merged(taken))
    return tuple(axes) if not rest else None


def _resolved(shape: Shape, target: Sequence[Size], copy_zeros: bool) -> list[Size] | None:
    sizes = list(target)
    for axis, size in enumerate(sizes):
        if size.known == 0 and copy_zeros:
            if axis >= len(shape):
                return None
            sizes[axis] = shape[axis]
    open_axes = [axis for axis, size in enumerate(sizes) if size.known == -1]
    if len(open_axes) > 1 or any(size.factor < 1 for axis, size in enumerate(sizes) if axis not in open_axes):
        return None
    if open_axes:
        rest = product(shape).over(product([size for size in sizes if size.known != -1]))
        if rest is None:
            return None
        sizes[open_axes[0]] = rest
    return sizes


def _take(rest: list[Atom], size: Size) -> list[Atom] | None:
    """Atoms off the front of ``rest`` whose sizes multiply to ``size``; the last one may be cut."""
    taken: list[Atom] = []
    while not size.is_one:
        if not rest:
            return None
        atom = rest.pop(0)
        left = size.over(atom.size)
        if left is not None:
            taken.append(atom)
            size = left
            continue
        inner = atom.size.over(size)
        if inner is None:
            return None
        taken.append(Atom(atom.source, atom.stride.times(inner), size))
        rest.insert(0, Atom(atom.source, atom.stride, inner))
        size = ONE
    return taken


def transpose(layout: Layout, permutation: Sequence[int] | None) -> Layout:
    """``permutation`` None reverses the axes, as Transpose without one does."""
    order = list(permutation) if permutation is not None else list(range(len(layout)))[::-1]
    return tuple(layout[axis] for axis in order)


def unsqueeze(layout: Layout, axes: Sequence[int]) -> Layout:
    rank = len(layout) + len(axes)
    places = {axis % rank for axis in axes}
    rest = iter(layout)
    return tuple(() if axis in places else next(rest) for axis in range(rank))


def squeeze(layout: Layout, axes: Sequence[int] | None) -> Layout | None:
    """None when one of the axes is not of size 1. Without ``axes``: every axis of size 1."""
    places = {axis % len(layout) for axis in axes} if axes is not None else None
    if places is not None and any(layout[place] for place in places):
        return None
    return tuple(axis for place, axis in enumerate(layout) if (axis if places is None else place not in places))


def cut(layout: Layout, axis: int, start: int, size: int) -> tuple[Layout, Atom] | None:
    """``size`` elements of one axis from ``start`` on, and the atom of that axis before the cut.

    None when the axis is made of several atoms, or its size is not a number.
    """
    atoms = layout[axis]
    if len(atoms) != 1 or (known := atoms[0].size.known) is None or not 0 <= start <= start + size <= known:
        return None
    shorter = merged([replace(atoms[0], size=Size(size))])
    return (*layout[:axis], shorter, *layout[axis + 1 :]), atoms[0]
