"""What a sweep found: as JSON, as a drawing, and as the lines to put into a recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from trtforge.tune.space import Measured

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 760, 440, 80, 64, 60
_LEGEND = (("#9aa5b1", "one unit alone"), ("#2f6690", "together"), ("#d1495b", "the best"))


def to_json(measured: Sequence[Measured], best: Measured, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **facts,
        "best": best.to_json() | {"rate": best.rate},
        "measurements": [each.to_json() | {"rate": each.rate} for each in measured],
    }


def patch(
    engine: str,
    inputs: Mapping[str, Sequence[int]],
    unit: str,
    best: Measured,
    *,
    head: Sequence[str],
    target: str | None = None,
) -> str:
    """YAML of a unit's setting: a recipe of a few lines over the one that was tuned.

    Args:
        head: the lines before `engines`: how to use it, and `extends`.
        target: of the unit, when the recipe has another; its `dla` is then not the unit's.
    """
    setting = dict(best.combination.parts)[unit]
    of = "" if len(best.rates) == 1 else f" of {best.rate:.1f} together"
    many = "" if setting.streams == 1 else f", {setting.streams} at once"
    lines = [f"# {unit}: batch {setting.batch}{many}: {best.rates[unit]:.1f} samples/s{of}, p99 {best.p99:.2f} ms"]
    if setting.streams > 1:
        lines.append(f"# At once: a session in each of {setting.streams} threads; Triton's count of instance_group")
    lines += head
    lines += [f"target: {target}"] if target else []
    lines += ["engines:", f"  {engine}:", "    inputs:"]
    for name, shape in inputs.items():
        sizes = ", ".join(map(str, (setting.batch, *shape[1:])))
        lines.append(f"      {_key(name)}: {{shape: [{sizes}]}}")
    if setting.sram:
        lines.append(f"    dla: {{core: {unit.removeprefix('dla')}, sram: {setting.sram >> 10}KiB}}")
    elif target:
        lines.append("    dla: null")
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    """A YAML key: quoted where the name would read as something else."""
    return (
        name
        if name.replace("_", "").replace(".", "").replace(":", "").isalnum() and not name[0].isdigit()
        else (f'"{name}"')
    )


def draw(measured: Sequence[Measured], best: Measured, title: str) -> str:
    """SVG: every combination by its p99 and its rate, the best one marked; a hover names the combination."""
    good = sorted((each for each in measured if not each.problem), key=lambda each: each is best)
    across, up = _ticks(max(each.p99 for each in good)), _ticks(max(each.rate for each in good))
    wide, high = _WIDTH - _LEFT - 20, _HEIGHT - _BOTTOM - _TOP
    right, bottom = _LEFT + wide, _TOP + high

    def x(p99: float) -> str:
        return f"{_LEFT + p99 / across[-1] * wide:.1f}"

    def y(rate: float) -> str:
        return f"{bottom - rate / up[-1] * high:.1f}"

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="13">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="24" font-size="16">{escape(title)}</text>',
    ]
    kinds = [kind for number, kind in enumerate(_LEGEND) if any(_kind(each, best) == number for each in good)]
    for place, (colour, what) in zip((_LEFT + 6, _LEFT + 140, _LEFT + 240), kinds, strict=False):
        lines.append(f'<circle cx="{place}" cy="44" r="5" fill="{colour}"/><text x="{place + 10}" y="48">{what}</text>')
    for rate in up:
        lines.append(f'<line x1="{_LEFT}" x2="{right}" y1="{y(rate)}" y2="{y(rate)}" stroke="#ddd"/>')
        lines.append(f'<text x="{_LEFT - 8}" y="{y(rate)}" dy="4" text-anchor="end">{rate:g}</text>')
    lines += [f'<text x="{x(p99)}" y="{bottom + 20}" text-anchor="middle">{p99:g}</text>' for p99 in across]
    lines.append(f'<text x="{right - wide / 2}" y="{_HEIGHT - 12}" text-anchor="middle">p99 of an execution, ms</text>')
    lines.append(
        f'<text transform="translate(20 {bottom - high / 2}) rotate(-90)" text-anchor="middle">samples a second</text>'
    )
    for each in good:
        colour = _LEGEND[_kind(each, best)][0]
        said = escape(f"{each.combination}: {each.rate:.1f} samples/s, p99 {each.p99:.2f} ms")
        lines.append(
            f'<circle cx="{x(each.p99)}" cy="{y(each.rate)}" r="{7 if each is best else 4}" fill="{colour}" '
            f'fill-opacity="0.8"><title>{said}</title></circle>'
        )
    # Beside the best one, on the side where there is room.
    side, off = ("end", -12) if best.p99 > across[-1] / 2 else ("start", 12)
    lines.append(
        f'<text x="{x(best.p99)}" y="{y(best.rate)}" dx="{off}" dy="4" text-anchor="{side}">'
        f"{escape(str(best.combination))}</text>"
    )
    return "\n".join([*lines, "</svg>"]) + "\n"


def _kind(measured: Measured, best: Measured) -> int:
    """Its line of the legend."""
    return 2 if measured is best else 0 if len(measured.combination.parts) == 1 else 1


def _ticks(most: float) -> list[float]:
    """From 0 to at least ``most``, in steps of 1, 2 or 5 times a power of ten; four to ten of them."""
    power = 10.0 ** math.floor(math.log10(most / 5))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power * 5 >= most * 0.8)
    return [step * number for number in range(math.ceil(most / step) + 1)]
