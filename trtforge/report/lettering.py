"""Text in pictures, in the one font that Pillow always brings: Aileron, which has the letters of English only."""

from __future__ import annotations

import unicodedata
from functools import cache

from PIL import ImageDraw, ImageFont

Colour = str
_STAND_INS = str.maketrans(
    {"–": "-", "—": "-", "−": "-", "×": "x", "µ": "u", "μ": "u", "≤": "<=", "≥": ">=", "→": "->"}
    | {"ß": "ss", "æ": "ae", "Æ": "AE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "ı": "i"}
)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The font at a height in pixels."""
    loaded = ImageFont.load_default(size)
    if not isinstance(loaded, ImageFont.FreeTypeFont):
        raise TypeError("this Pillow was built without FreeType")
    return loaded


def legible(text: str) -> str:
    """``text`` on one line in letters that the font has: accents go, and other scripts become question marks."""
    plain = unicodedata.normalize("NFKD", " ".join(text.split()).translate(_STAND_INS))
    return "".join(
        letter if _drawn(letter) else "?"
        for letter in plain
        if not unicodedata.combining(letter) and unicodedata.category(letter)[0] != "C"
    )


@cache
def _drawn(letter: str) -> bool:
    """Whether the font has a glyph: what it lacks looks like a private-use letter, an empty box."""
    return letter == " " or bytes(font(24).getmask(letter)) != bytes(font(24).getmask("\ue000"))


def width(text: str, size: int) -> int:
    return round(font(size).getlength(legible(text)))


def shortened(text: str, size: int, room: float) -> str:
    """``text`` made legible, and cut with an ellipsis to ``room`` pixels."""
    whole = legible(text)
    if font(size).getlength(whole) <= room:
        return whole
    low, high = 0, len(whole)
    while low < high:
        middle = (low + high + 1) // 2
        if font(size).getlength(f"{whole[:middle].rstrip()}…") <= room:
            low = middle
        else:
            high = middle - 1
    return f"{whole[:low].rstrip()}…"


def write(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    size: int,
    colour: Colour,
    *,
    anchor: str = "ls",
    room: float | None = None,
    outline: Colour | None = None,
) -> None:
    """Draw a line of text; ``anchor`` is Pillow's, the baseline by default; ``outline`` sets it off from a scan."""
    shown = legible(text) if room is None else shortened(text, size, room)
    draw.text(at, shown, colour, font(size), anchor, stroke_width=0 if outline is None else 2, stroke_fill=outline)
