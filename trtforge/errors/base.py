"""What an error is here: a class with a stable code, an exit code, and four answers.

Every failure a user can cause or meet is a subclass of :class:`TrtforgeError`. The class docstring is the
manual page that ``trtforge explain CODE`` prints; an instance says *what* happened, *where*, *why* and which
command comes *next*. Nothing outside this package chooses exit codes.
"""

from __future__ import annotations

from typing import Any, ClassVar

EXIT_CODES: dict[str, int] = {
    "USE": 2,  # wrong use of the command line
    "RCP": 3,  # recipe
    "ONX": 4,  # model and graph surgery
    "CAL": 5,  # samples, calibration, scales
    "BLD": 6,  # backend, compile
    "ENG": 7,  # engine store, loading
    "VER": 8,  # verification missed its bound
    "ENV": 9,  # something this machine lacks
    "KIT": 10,  # everything possible here was done; the device must finish it
    "LNT": 11,  # lint findings that are errors
    "VOL": 12,  # scans, and labels of their voxels
    "DEV": 13,  # a device that is reached over SSH
}
"""Family prefix of an error code -> process exit code. 0 is success, 1 an internal error, 130 Ctrl-C."""

_CATALOGUE: dict[str, type[TrtforgeError]] = {}


class TrtforgeError(Exception):
    """An error with a code; subclasses set ``code`` and ``title`` and document themselves.

    Args:
        what: one sentence, no full stop: what could not be done.
        where: the place: ``file:line:column``, a tensor, a store path.
        why: the reason, with both values when something was compared.
        next: a command or an edit that gets the user further.
    """

    code: ClassVar[str] = ""
    title: ClassVar[str] = ""

    def __init__(self, what: str, *, where: str = "", why: str = "", next: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.next = next

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.code:
            return  # an abstract family base
        if cls.code in _CATALOGUE:
            raise TypeError(f"error code {cls.code} is used twice")
        if cls.code[:3] not in EXIT_CODES:
            raise TypeError(f"error code {cls.code} belongs to no family")
        _CATALOGUE[cls.code] = cls

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.code[:3]]

    @property
    def line(self) -> str:
        """The error in a list of several: `VOL101 there is no such file (data/scan.nii.gz): why`."""
        where, why = f" ({self.where})" if self.where else "", f": {self.why}" if self.why else ""
        return f"{self.code} {self.what}{where}{why}"

    def to_json(self) -> dict[str, Any]:
        """The ``error`` object that every command prints with ``--json``."""
        return {
            "code": self.code,
            "title": self.title,
            "exit_code": self.exit_code,
            "what": self.what,
            "where": self.where,
            "why": self.why,
            "next": self.next,
        }

    def __str__(self) -> str:
        lines = [f"{self.code} {self.what}"]
        lines += [f"  {label}: {text}" for label, text in self._parts() if text]
        return "\n".join(lines)

    def _parts(self) -> list[tuple[str, str]]:
        return [("where", self.where), ("why", self.why), ("next", self.next)]

    def __reduce__(self) -> Any:
        # Exceptions with keyword-only arguments do not pickle by default; builds cross process borders.
        return (_rebuild, (type(self), self.what, self.where, self.why, self.next))


def _rebuild(cls: type[TrtforgeError], what: str, where: str, why: str, next: str) -> TrtforgeError:
    return cls(what, where=where, why=why, next=next)


def catalogue() -> dict[str, type[TrtforgeError]]:
    """Every error class by code, sorted."""
    return dict(sorted(_CATALOGUE.items()))
