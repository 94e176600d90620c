"""Text in pictures: what the font lacks, and what finds no room."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtforge.report.lettering import font, legible, shortened


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("kidney 3d/4", "kidney 3d/4"),
        ("Prüfung Gauß – Ærø", "Prufung Gauss - AEro"),
        ("96 × 96 µm²", "96 x 96 um2"),
        ("患者 7", "?? 7"),
        ("two\nlines\tand\x00more", "two lines andmore"),
        ("", ""),
    ],
)
def test_letters_that_the_font_lacks_are_replaced(text, shown):
    assert legible(text) == shown


@given(st.text(max_size=60), st.integers(12, 40), st.floats(0, 400))
def test_any_text_is_cut_to_its_room(text, size, room):
    shown = shortened(text, size, room)
    assert shown == legible(text) or shown.endswith("…")
    assert font(size).getlength(shown) <= max(room, font(size).getlength("…"))


def test_as_much_as_fits_is_kept():
    room = font(20).getlength("a long na…")
    assert shortened("a long name of a case", 20, room) == "a long na…"
    assert shortened("a long na", 20, room) == "a long na"
