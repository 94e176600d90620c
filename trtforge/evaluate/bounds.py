"""A value beside its bound, in as many digits as tell them apart. Imports nothing: fast commands print it."""

from __future__ import annotations


def told(value: float, bound: float, *, digits: int = 6) -> tuple[str, str]:
    """Both as text: the bound in full, the value with ``digits`` significant digits, or with more where fewer would put
    it on another side of the bound: 0.99999982 against 0.9999999 is not "1, at least 1".
    """

    def side(number: float) -> int:
        return (number > bound) - (number < bound)

    while digits < 17 and side(float(f"{value:.{digits}g}")) != side(value):
        digits += 1
    return f"{value:.{digits}g}", f"{bound:.15g}"
