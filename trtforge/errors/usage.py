"""Errors of wrong use of the command line."""

from __future__ import annotations

from trtforge.errors.base import TrtforgeError


class UnknownCode(TrtforgeError):
    """`trtforge explain` was asked about a code that is neither an error nor a lint rule.

    Codes are three letters and three digits, as printed at the start of an error (`RCP201`) or of a lint finding
    (`DLA101`). Usually a digit was mistyped, or the message came from another version of trtforge.
    `trtforge explain` without a code lists them all.
    """

    code = "USE101"
    title = "unknown code"
