"""Errors of tuning."""

from __future__ import annotations

from trtforge.errors.base import TrtforgeError


class JournalOfAnother(TrtforgeError):
    """The file of measurements was begun for another engine, device or duration.

    A sweep appends to its file and goes on from there when it is started again. Rates of another model or device among
    them would be taken for this one's.
    """

    code = "ENG141"
    title = "measurements of something else"


class NothingRuns(TrtforgeError):
    """No combination of settings ran within the bounds of the sweep.

    Each was measured, and each failed or was slower than `--latency`. The file of measurements says which.
    """

    code = "ENG142"
    title = "no setting runs within the bounds"


class CannotTune(TrtforgeError):
    """The engine has no batch to choose.

    A sweep builds the engine for several batches. That wants an input whose first size is the batch and a model that
    states it as open, and no volume, whose windows have a loop of their own.
    """

    code = "ENG143"
    title = "no batch to choose"
