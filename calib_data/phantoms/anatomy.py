"""What a phantom is made of: a grid that tissues are painted on, and the organs, kidneys and tumours.

Ellipsoids, tubes and rings stand for organs; smooth displacements bend them, the attenuations are those of a scan
with contrast. Coordinates are millimetres from the middle of the body at the height of the kidneys, in the order of
the array: z to inferior, y to posterior, x to left.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

Array = np.ndarray[Any, Any]
Box = tuple[slice, slice, slice]
Part = tuple[Box, Array]  # distances in mm from a surface, negative inside, at the voxels of a box
Random = np.random.Generator
Shape = tuple[int, int, int]
Three = tuple[float, float, float]

BACKGROUND, KIDNEY, TUMOUR = 0, 1, 2
"""Labels, as in KiTS19. A cyst belongs to its kidney, fat and vessels of the renal sinus to the background."""

REACH = (96.0, 100.0, 106.0)
"""No tumour goes much further from the middle, in mm: 205 x 230 x 230 mm hold both kidneys and all tumours."""

_WARP = 7.0  # mm by which bent coordinates differ from straight ones at most; boxes are that much larger


class Scene:
    """HU on a grid, painted one tissue over the other, in coordinates that bend smoothly."""

    def __init__(self, spacing: Three, shape: Shape, middle: Array, anatomy: Random, noise: Random) -> None:
        centred = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing, strict=True)]
        self.axes = [(axis + offset).astype(np.float32) for axis, offset in zip(centred, middle, strict=True)]
        straight = np.ix_(*self.axes)
        self.z, self.y, self.x = (axis + self._bend(straight, anatomy) for axis in straight)
        self.hu = np.full(shape, -1000, np.float32)
        self.texture = grain(noise, shape, [2.0 / mm for mm in spacing])
        self.everything: Box = (slice(None), slice(None), slice(None))

    @staticmethod
    def _bend(axes: Sequence[Array], anatomy: Random) -> Array:
        """Three standing waves of 50 to 200 mm, together within +-_WARP mm; float32."""
        total = np.zeros((), np.float32)
        for _ in range(3):
            turns, phases = 2 * np.pi / anatomy.uniform(50, 200, 3), anatomy.uniform(0, 2 * np.pi, 3)
            z, y, x = (np.sin(a * np.float32(k) + np.float32(p)) for a, k, p in zip(axes, turns, phases, strict=True))
            total = total + np.float32(_WARP / 3 * anatomy.uniform(0.4, 1)) * (z * y) * x
        return total

    def box(self, low: Sequence[float], high: Sequence[float]) -> Box:
        """The voxels between two corners, with room for the bending."""
        sides = zip(self.axes, np.subtract(low, _WARP + 2), np.add(high, _WARP + 2), strict=True)
        z, y, x = (slice(*np.searchsorted(axis, ends)) for axis, *ends in sides)
        return z, y, x

    def local(self, box: Box, centre: Sequence[float]) -> list[Array]:
        """z, y, x of a box's voxels from ``centre``, float32 mm."""
        return [axis[box] - np.float32(c) for axis, c in zip((self.z, self.y, self.x), centre, strict=True)]

    def paint(self, box: Box, distance: Array, hu: float, *, texture: float = 4.0, edge: float = 1.2) -> None:
        """Cover what lies at a negative ``distance`` (mm to the surface); within ``edge`` mm both tissues mix."""
        cover = np.clip(0.5 - distance / np.float32(edge), 0, 1)
        below = self.hu[box]
        below += cover * (np.float32(hu) + np.float32(texture) * self.texture[box] - below)

    def ellipsoid(self, centre: Sequence[float], semi: Sequence[float]) -> Part:
        box = self.box(np.subtract(centre, semi), np.add(centre, semi))
        return box, _outside(self.local(box, centre), semi)

    def tube(self, points: Sequence[Sequence[float]], radius: float) -> list[Part]:
        """The segments of a tube through ``points``."""
        parts = []
        for a, b in itertools.pairwise(points):
            box = self.box(np.minimum(a, b) - radius, np.maximum(a, b) + radius)
            axes, along = self.local(box, a), np.subtract(b, a).astype(np.float32)
            t = np.clip(sum(u * v for u, v in zip(axes, along, strict=True)) / (along @ along), 0, 1)
            off = sum((u - t * v) ** 2 for u, v in zip(axes, along, strict=True))
            parts.append((box, np.sqrt(off) - np.float32(radius)))
        return parts


def grain(rng: Random, shape: Sequence[int], sigma: Sequence[float]) -> Array:
    """Correlated noise of mean 0 and standard deviation 1; ``sigma`` in voxels; float32."""
    grain = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), sigma, truncate=2.5, mode="wrap")
    return grain / grain.std()


def _outside(local: Sequence[Array], semi: Sequence[float]) -> Array:
    """Distance in mm from an ellipsoid's surface, about right near it, of the right sign elsewhere."""
    q = np.sqrt(sum((axis / np.float32(a)) ** 2 for axis, a in zip(local, semi, strict=True)))
    return (q - 1) * np.float32(np.mean(semi))


def draw_body(scene: Scene, rng: Random) -> Array:
    """Paint everything; uint8 labels."""
    fat = rng.uniform(6, 38)  # mm of it under the skin
    spine = rng.uniform(28, 42)  # y of the vertebrae
    half_width, front, back = rng.uniform(122, 150) + fat, rng.uniform(75, 105) + fat, spine + 66 + 0.7 * fat
    y, x = scene.y, scene.x

    def ring(width: float, front: float, back: float) -> Array:
        """Distance along the ray from the middle to an oval that is flatter at the back."""
        q = np.sqrt((x / np.float32(width)) ** 2 + (y / np.where(y > 0, np.float32(back), np.float32(front))) ** 2)
        return np.sqrt(x * x + y * y) * (1 - 1 / np.maximum(q, 1e-3))

    skin = ring(half_width, front, back)
    wall = rng.uniform(9, 14)
    cavity = ring(half_width - fat - wall, front - fat - wall, back - 0.7 * fat - 0.6 * wall - 14)
    scene.paint(scene.everything, np.maximum(np.abs(y - (back + 14)) - 2, np.abs(x) - 190), -250)  # the table
    scene.paint(scene.everything, skin, 15)
    scene.paint(scene.everything, skin + 2, -103, texture=7)
    scene.paint(scene.everything, ring(half_width - fat, front - fat, back - 0.7 * fat), 55, texture=9)
    scene.paint(scene.everything, cavity, -98, texture=9)

    kidneys = _kidneys(rng, spine, cavity_width=half_width - fat - wall)
    _organs(scene, rng, cavity, spine)
    for kidney in kidneys:
        kidney.fat(scene, rng)
    _bones(scene, rng, cavity, spine, wall)
    _vessels(scene, rng, spine, kidneys)
    label = np.zeros(scene.hu.shape, np.uint8)
    for kidney in kidneys:
        kidney.draw(scene, rng, label)
    return label


def _organs(scene: Scene, rng: Random, cavity: Array, spine: float) -> None:
    """Muscles along the spine; inside the cavity liver, gall bladder, spleen, stomach, pancreas, bowel, lung bases."""

    def inside(part: Part, hu: float, *, gap: float = 2.0, **how: float) -> None:
        box, distance = part
        scene.paint(box, np.maximum(distance, cavity[box] + np.float32(gap)), hu, **how)

    def hollow(part: Part, content: float, gas: float | None, **how: float) -> None:
        """A wall of 3 mm around the content; ``gas``: y above which it floats, None for none."""
        box, distance = part
        inside(part, rng.uniform(60, 95))
        inside((box, distance + 3), content, gap=5, **how)
        if gas is not None:
            inside((box, np.maximum(distance + 3, scene.y[box] - np.float32(gas))), -920, gap=5, texture=10)

    for side in (-1, 1):  # the muscles along the spine
        for centre, semi in (
            ((20, spine + 40, side * 33), (400, 22, 29)),
            ((40, spine + 26, side * 70), (110, 9, 17)),
            ((95, spine + 2, side * 40), (130, rng.uniform(17, 25), rng.uniform(15, 23))),
        ):
            scene.paint(*scene.ellipsoid(centre, semi), rng.uniform(50, 68), texture=9)
    liver = rng.uniform(85, 125)
    drop = rng.uniform(-15, 15)
    for centre, semi in (((-75 + drop, -8, -62), (92, 78, 92)), ((-92 + drop, -48, 25), (48, 36, 70))):
        inside(scene.ellipsoid(centre, semi), liver, texture=6)
    for _ in range(7):
        start = np.array([-80 + drop, -10, -50]) + rng.normal(0, 22, 3)
        for part in scene.tube([start, start + rng.normal(0, 25, 3)], rng.uniform(2, 4.5)):
            inside(part, liver + rng.uniform(25, 55), gap=12)
    inside(scene.ellipsoid((-20 + drop, -50, -55), (24, 14, 14)), rng.uniform(0, 18), texture=1)
    inside(scene.ellipsoid((-62 + rng.uniform(-20, 12), spine - 8, 104), (rng.uniform(38, 56), 42, 30)), liver + 18)
    hollow(scene.ellipsoid((-62, -46, 58), (44, rng.uniform(22, 36), 42)), rng.uniform(5, 40), rng.uniform(-70, -45))
    bulge = rng.uniform(-8, 8)
    for part in scene.tube([(-5, -28, -38), (-18, -32 + bulge, 0), (-32, -14, 48), (-40, 0, 80)], rng.uniform(8, 12)):
        inside(part, rng.uniform(80, 115), texture=12)
    for side in (-1, 1):  # ascending and descending colon
        radius, lateral = rng.uniform(15, 23), side * rng.uniform(92, 108)
        points = [(h, rng.uniform(-25, 5), lateral + rng.uniform(-6, 6)) for h in (-40, 0, 40, 85, 130)]
        faeces, gas = rng.uniform(-60, 50), rng.uniform(-30, -8)
        for part in scene.tube(points, radius):
            hollow(part, faeces, gas if rng.random() < 0.6 else None, texture=70)
    for _ in range(int(rng.integers(5, 10))):  # loops of small bowel, in front of the kidneys
        point = np.array([rng.uniform(-10, 110), rng.uniform(-75, -25), rng.uniform(-80, 80)])
        content = rng.uniform(180, 260) if rng.random() < 0.15 else rng.uniform(10, 60)
        radius = rng.uniform(8, 13)
        for _ in range(6):
            following = np.clip(point + rng.normal(0, (14, 10, 26)), (-10, -85, -85), (150, -25, 85))
            gas = point[1] - 3 if rng.random() < 0.25 else None
            hollow(scene.tube([point, following], radius)[0], content, gas, texture=10)
            point = following
    dome = rng.uniform(-135, -112)
    box = scene.box((-400, -400, -400), (-60, 400, 400))
    z, y, x = scene.z[box], scene.y[box], scene.x[box]
    inside((box, (z - np.float32(dome) - 0.0028 * (x * x + y * y)) * 0.8), -850, gap=3, texture=40)


def _bones(scene: Scene, rng: Random, cavity: Array, spine: float, wall: float) -> None:
    """Ribs and vertebrae."""
    bone = rng.uniform(0.75, 1.25)
    lowest = rng.uniform(15, 45)
    box = scene.box((-400, -400, -400), (lowest + 60, 400, 400))
    z, y = scene.z[box], scene.y[box]
    height = z + 0.5 * y - np.float32(lowest)  # ribs fall to the front
    along = np.abs(np.mod(height + 14, 28) - 14) - 5
    rib = np.maximum(np.maximum(along, np.abs(cavity[box] - np.float32(wall / 2)) - 3.4), height)
    rib = np.maximum(rib, np.abs(scene.x[box]) * -1 + 30)
    scene.paint(box, rib, 480 * bone, texture=40)
    scene.paint(box, rib + 2, 220 * bone, texture=30)

    box = scene.box((-400, spine - 25, -50), (400, spine + 75, 50))
    z, y, x = scene.z[box], scene.y[box] - np.float32(spine), scene.x[box]
    period = np.abs(np.mod(z + np.float32(rng.uniform(0, 34)), 34) - 17)  # 17 in the middle of a disc
    body = _outside((x, y), (23, 17))
    arch = np.abs(_outside((x, y - 25), (12, 11))) - 3
    spinous = np.maximum(np.maximum(np.abs(x) - 3.5, np.abs(y - 47) - 14), period - 11)
    transverse = np.maximum(np.maximum(np.abs(y - 20) - 3, np.abs(x) - 33), period - 5)
    scene.paint(box, body, 95, texture=8)
    scene.paint(box, np.maximum(body, period - 13), 650 * bone, texture=50)
    scene.paint(box, np.maximum(body + 2.2, period - 11), 210 * bone, texture=40)
    scene.paint(box, _outside((x, y - 25), (10, 9)), 25)
    scene.paint(box, np.minimum(np.minimum(np.maximum(arch, period - 12), spinous), transverse), 520 * bone, texture=50)


def _vessels(scene: Scene, rng: Random, spine: float, kidneys: Sequence[_Kidney]) -> None:
    """Aorta and inferior vena cava in front of the spine, artery and vein of every kidney."""
    artery, vein = rng.uniform(150, 210), rng.uniform(140, 185)
    front = spine - 17
    for hu, lateral, y, radius in ((artery, 10, front - 12, 9.5), (vein, -18, front - 9, 11.0)):
        points = [(h, y + rng.uniform(-2, 2), lateral + rng.uniform(-4, 4)) for h in range(-200, 201, 50)]
        for part in scene.tube(points, radius + rng.uniform(-1.5, 1.5)):
            scene.paint(*part, hu, texture=3)
        for kidney in kidneys:
            ends = [(kidney.centre[0] - 8, y, lateral), kidney.at(0, 0, 0.5)]
            scene.paint(*scene.tube(ends, 2.6 if hu == artery else 4.2)[0], hu, texture=3)


@dataclass(frozen=True)
class _Mass:
    """A tumour or a cyst: ``centre`` z, y, x in mm, ``radius`` mm, ``hu``, ``core``: HU of a necrotic middle."""

    centre: Array
    radius: float
    hu: float
    texture: float
    core: float | None
    stretch: Array
    phases: Array

    def distance(self, scene: Scene, margin: float = 0.0) -> Part:
        """From a slightly lobed surface; the box reaches ``margin`` mm beyond it."""
        semi = self.radius * self.stretch
        reach = 1.1 * semi + margin
        box = scene.box(self.centre - reach, self.centre + reach)
        axes = scene.local(box, self.centre)
        turn = np.float32(2.2 / self.radius)
        z, y, x = (np.sin(turn * axis + np.float32(phase)) for axis, phase in zip(axes, self.phases, strict=True))
        return box, _outside(axes, semi) + np.float32(0.1 * self.radius) * (z * y + y * x + x * z)


@dataclass(frozen=True)
class _Kidney:
    """``frame``: unit vectors along the kidney, through it, and towards its hilum; ``semi``: mm along them."""

    centre: Array
    frame: Array
    semi: Array
    hu: tuple[float, float]
    tumours: list[_Mass]
    cysts: list[_Mass]

    def at(self, u: float, v: float, m: float) -> Array:
        """The point z, y, x in mm at fractions of the semi-axes; the poles lean to the hilum."""
        return self.centre + np.asarray([u, v, m + 0.25 * u * u]) * self.semi @ self.frame

    def _distances(self, scene: Scene) -> tuple[Box, Array, Array, Array]:
        """Box, distance from the outer surface and from the sinus, and the place along the kidney in mm."""
        reach = self.semi[0] * 1.2
        box = scene.box(self.centre - reach, self.centre + reach)
        z, y, x = scene.local(box, self.centre)
        u, v, m = (row[0] * z + row[1] * y + row[2] * x for row in self.frame.astype(np.float32))
        a, b, c = self.semi
        m -= np.float32(0.25 * c) * (u / np.float32(a)) ** 2
        sinus = _outside((u, v, m - np.float32(0.62 * c)), (0.5 * a, 0.42 * b, 0.66 * c))
        return box, _outside((u, v, m), self.semi), sinus, u

    def fat(self, scene: Scene, rng: Random) -> None:
        """The capsule of fat that parts the kidney and its tumours from other organs."""
        width = rng.uniform(4, 11)
        for box, distance in (self._distances(scene)[:2], *(mass.distance(scene, width) for mass in self.tumours)):
            scene.paint(box, distance - np.float32(width), -100, texture=8, edge=2.5)

    def draw(self, scene: Scene, rng: Random, label: Array) -> None:
        box, outer, sinus, along = self._distances(scene)
        cortex, medulla = self.hu
        scene.paint(box, outer, cortex, texture=6)
        pyramids = np.sin(along * np.float32(2 * np.pi / rng.uniform(13, 19)) + np.float32(rng.uniform(0, 6)))
        deep = outer + np.float32(rng.uniform(6, 9))
        scene.paint(box, np.maximum(deep, -3 * pyramids), medulla, texture=6, edge=3)
        hollow = np.maximum(sinus, outer - 1)
        scene.paint(box, hollow, -85, texture=14)
        pelvis = hollow + np.float32(rng.uniform(5, 7))  # urine or vessels
        scene.paint(box, pelvis, rng.choice([rng.uniform(5, 25), cortex - 15]), edge=2.5)
        label[box][np.maximum(outer, -sinus) < 0] = KIDNEY
        for masses, what in ((self.cysts, KIDNEY), (self.tumours, TUMOUR)):
            for mass in masses:
                box, distance = mass.distance(scene)
                scene.paint(box, distance, mass.hu, texture=mass.texture)
                if mass.core is not None:
                    scene.paint(box, distance + np.float32(0.45 * mass.radius), mass.core, texture=mass.texture, edge=5)
                label[box][distance < 0] = what


def _kidneys(rng: Random, spine: float, cavity_width: float) -> list[_Kidney]:
    """One kidney or two, with one to three tumours among them, and now and then a cyst."""
    sides = [-1, 1] if rng.random() > 0.08 else [int(rng.choice([-1, 1]))]
    counts = np.zeros(len(sides), int)
    np.add.at(counts, rng.integers(0, len(sides), int(rng.choice([1, 2, 3], p=[0.6, 0.28, 0.12]))), 1)
    largest = int(rng.choice(np.flatnonzero(counts)))
    cortex = rng.uniform(155, 215)
    medulla = cortex - rng.uniform(15, 60)
    made = []
    for index, side in enumerate(sides):
        centre = np.array([rng.uniform(-14, 10) - 5 * side, spine + rng.uniform(-12, 2), side * rng.uniform(58, 68)])
        along = _unit(np.array([1, -rng.uniform(0, 0.35), side * rng.uniform(0.08, 0.35)]))
        turn = rng.uniform(0.1, 0.8)  # of the hilum to the front, radians
        hilum = np.array([0, -np.sin(turn), -side * np.cos(turn)])
        hilum = _unit(hilum - along * (along @ hilum))
        semi = np.array([rng.uniform(46, 58), rng.uniform(20, 26), rng.uniform(23, 29)])
        kidney = _Kidney(centre, np.stack([along, np.cross(hilum, along), hilum]), semi, (cortex, medulla), [], [])
        for number in range(counts[index]):
            diameter = rng.uniform(20, 45) if index == largest and not number else rng.uniform(10, 24)
            kidney.tumours.append(_tumour(rng, kidney, diameter / 2, cavity_width, medulla))
        if rng.random() < 0.3:
            place, radius = _on_surface(rng, kidney), rng.uniform(5, 14)
            if all(np.linalg.norm(place - t.centre) > t.radius + radius + 6 for t in kidney.tumours):
                cyst = _Mass(place, radius, rng.uniform(0, 14), 1.5, None, np.ones(3), rng.uniform(0, 6, 3))
                kidney.cysts.append(cyst)
        made.append(kidney)
    return made


def _tumour(rng: Random, kidney: _Kidney, radius: float, cavity_width: float, medulla: float) -> _Mass:
    """A tumour at the surface, from nearly enclosed to mostly outside, that stays within the cavity and REACH."""
    reach = np.minimum(REACH, (np.inf, np.inf, cavity_width - 4))
    for _ in range(40):
        place = _on_surface(rng, kidney)
        place = place + _unit(place - kidney.centre) * radius * rng.uniform(-0.8, 0.45)
        room = reach - np.abs(place) - 1.1 * radius
        if room.min() > 0 and all(np.linalg.norm(place - t.centre) > t.radius + radius for t in kidney.tumours):
            break
    hu = rng.uniform(38, min(105, medulla - 25))
    core = rng.uniform(28, hu) if radius > 13 and rng.random() < 0.5 else None
    return _Mass(place, radius, hu, rng.uniform(5, 13), core, rng.uniform(0.85, 1.15, 3), rng.uniform(0, 6, 3))


def _on_surface(rng: Random, kidney: _Kidney) -> Array:
    """A point of the kidney's surface away from the hilum."""
    while (way := _unit(rng.normal(0, 1, 3)))[2] > 0.35:
        pass
    return kidney.at(*way)


def _unit(vector: Array) -> Array:
    return vector / np.linalg.norm(vector)
