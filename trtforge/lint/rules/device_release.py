"""QNT108: INT8 for a TensorRT that is not named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.rule import Finding, Rule
from trtforge.targets.load import device_release, releases

if TYPE_CHECKING:
    from trtforge.lint.context import Context


class DeviceRelease(Rule):
    """What it does
        Reports an INT8 engine for native TensorRT whose recipe does not say which release is on the device: it has no
        `tensorrt`, or a range that no JetPack for the device falls into.

    Why it matters
        TensorRT through 10 takes the ranges as a calibration cache whose first line must name its own release;
        TensorRT 11 takes Q/DQ nodes. Without the release no kit can be written.

    Example
        `target: orin-agx-64gb/gpu` with `backend: tensorrt` and nothing more.

    Fix
        Ask the device, `dpkg -l | grep tensorrt`, and write what it prints: `tensorrt: "10.3"`.
    """

    code = "QNT108"
    title = "TensorRT release not named"
    severity = "error"

    def check(self, context: Context) -> Iterator[Finding]:
        if context.engine.precision != "int8" or context.backend != "tensorrt":
            return
        known, said = releases(context.target), context.tensorrt
        if said is not None and device_release(context.target, said) is not None:
            return
        brought = f"; JetPacks for this device have {', '.join(known)}" if known else ""
        message = "the recipe names no TensorRT release" if said is None else f"no JetPack brings a TensorRT {said}"
        yield self.finding(
            "tensorrt",
            message + brought,
            f'write the one on the device, e.g. tensorrt: "{known[0] if known else "10.3"}"',
        )
