"""QNT107: a sample set that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.errors.base import TrtforgeError
from trtforge.errors.calibration import SampleInputs
from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context
    from trtforge.recipe.models import Calibration, Verify


class SampleSets(Rule):
    """What it does
        Opens the sample sets under `calibration` and `verify` as a build does: the description is read, every file is
        looked for and samples are counted. Nothing is decoded.

    Why it matters
        Without the samples there are no ranges, and a bound that cannot be measured stops the build, the bound's
        set only after everything else is done.

    Example
        `verify: {set: held-back.yaml, samples: 1000}` where the set lists 18 photographs.

    Fix
        As the finding says; `trtforge explain` with the code in it has more.
    """

    code = "QNT107"
    title = "sample set cannot be used"
    severity = "error"

    def check(self, context: Context) -> Iterator[Finding]:
        from trtforge.samples.load import open_set

        engine, root = context.engine, context.root
        if root is None:
            return
        used: list[tuple[str, Calibration | Verify]] = []
        if engine.calibration and engine.precision == "int8":
            used.append(("calibration", engine.calibration))
        if engine.verify:
            used.append(("verify", engine.verify))
        said: set[str] = set()
        for key, source in used:
            if source.set is None:
                continue
            try:
                open_set(root / source.set, engine.inputs, limit=source.samples, windows=engine.sliding)
            except SampleInputs as error:
                if set(engine.inputs) == set(context.inputs):  # else the GRF rules say what is wrong
                    yield from self._told(key, error, said)
            except TrtforgeError as error:
                yield from self._told(key, error, said)

    def _told(self, key: str, error: TrtforgeError, said: set[str]) -> Iterator[Finding]:
        if str(error) not in said:  # one set under both keys is one finding
            said.add(str(error))
            message = f"{error.code} {error.what}" + (f": {error.why}" if error.why else "")
            yield self.finding(f"{key}.set: {error.where}", message, error.next or f"trtforge explain {error.code}")
