"""Detections of two engines on the same photographs: which agree, and by how much they differ.

    trtforge run STORE/faces-fp32 PHOTOGRAPHS --against none --out fp32     # a folder of .npz, one a photograph
    trtforge run STORE/faces      PHOTOGRAPHS --against none --out int8
    python recipes/ssd_mobilenet/compare.py fp32 int8

A detection is the same where its class is and the boxes overlap by half or more; each goes to one of the other, the
best overlaps first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

SAME = 0.5
"""The overlap from which on two boxes are one."""


@dataclass(frozen=True)
class Agreement:
    """``overlaps`` and ``scores``: of the pairs, intersection over union, and the difference of the scores."""

    first: int
    second: int
    overlaps: tuple[float, ...]
    scores: tuple[float, ...]


def overlap(first: Array, second: Array) -> Array:
    """Intersection over union [A, B] of corners [A, 4] and [B, 4]."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), -1)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], -1) for boxes in (first, second)]
    return np.asarray(common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-12))


def agreement(first: Mapping[str, Array], second: Mapping[str, Array], image: int = 0) -> Agreement:
    """Of one image. Arrays are the network's outputs by name."""
    found = [_detections(each, image) for each in (first, second)]
    shared = overlap(found[0][0], found[1][0])
    shared[found[0][2][:, None] != found[1][2][None]] = 0
    overlaps, scores = [], []
    while shared.size and shared.max() >= SAME:
        one, other = np.unravel_index(shared.argmax(), shared.shape)
        overlaps.append(float(shared[one, other]))
        scores.append(abs(float(found[0][1][one]) - float(found[1][1][other])))
        shared[one], shared[:, other] = 0, 0
    return Agreement(len(found[0][0]), len(found[1][0]), tuple(overlaps), tuple(scores))


def _detections(outputs: Mapping[str, Array], image: int) -> tuple[Array, Array, Array]:
    count = int(outputs["num_detections"][image, 0])
    names = ("detection_boxes", "detection_scores", "detection_classes")
    boxes, scores, classes = (np.asarray(outputs[name][image][:count]) for name in names)
    return boxes, scores, classes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="a folder of .npz")
    parser.add_argument("second", type=Path, help="another, with the same names")
    options = parser.parse_args()
    files = sorted(options.first.glob("*.npz"))
    if not files:
        sys.exit(f"{options.first} has no .npz")
    print("| photograph | first | second | the same | least overlap | most score difference |")
    print("|---|---:|---:|---:|---:|---:|")
    for file in files:
        with np.load(file) as one, np.load(options.second / file.name) as other:
            got = agreement(dict(one), dict(other))
        worst = f"{min(got.overlaps):.3f} | {max(got.scores):.3f}" if got.overlaps else "| "
        print(f"| {file.stem} | {got.first} | {got.second} | {len(got.overlaps)} | {worst} |")


if __name__ == "__main__":
    main()
