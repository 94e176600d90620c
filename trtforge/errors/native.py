"""Errors of native TensorRT: building and running on the device."""

from __future__ import annotations

from trtforge.errors.base import TrtforgeError


class NotOffered(TrtforgeError):
    """This TensorRT, or this machine, has not what the recipe asks for.

    A DLA core that is not there, a format or a compatibility level that the release does not know, a layer name of
    `quantize.skip` that the parsed network has not, an INT8 output without a range. All this is asked before a build
    begins, because TensorRT itself passes over most of it with a line in its log.
    """

    code = "BLD221"
    title = "TensorRT lacks what the recipe asks for"


class EngineNotAsAsked(TrtforgeError):
    """The finished engine was read back and is not what the recipe says.

    TensorRT may give an input or output another type or format than was allowed, or leave out a compatibility level.
    A program that feeds the engine would then write bytes of the wrong kind, so it is not published.
    """

    code = "BLD222"
    title = "engine differs from the recipe"


class DlaNotHere(TrtforgeError):
    """The TensorRT on this machine has no DLA for this device.

    Releases 8.x to 10.7 have one; 10.8 to 11.3 have none; 11.4.1 has one again, on Jetson AGX Orin with JetPack 7.2.2
    or later. `trtforge targets` lists which JetPack brings which.
    """

    code = "BLD223"
    title = "no DLA with this TensorRT"


class TimingCacheMiss(TrtforgeError):
    """`--locked` was given, and TensorRT needs the time of a kernel that the pinned timing cache has not.

    TensorRT chooses kernels by measuring them; with the same times it chooses the same. So `trtforge.lock` pins the
    digest of the engine's `timing.cache`, and under `--locked` nothing is measured anew. The times hold for one model
    of GPU and one TensorRT: a cache of another is refused too. Without `--locked` what is missing is measured, and the
    lock updated.
    """

    code = "BLD224"
    title = "pinned timing cache lacks a kernel"


class NativeCalibrationFailed(TrtforgeError):
    """The calibration that TensorRT itself does on the device ended early.

    A sample could not be prepared, had another shape or type than the first, held NaN or Inf, or the device had no
    memory for it; or TensorRT did not accept the cache it was given. TensorRT would go on with what it has seen so far;
    trtforge does not.
    """

    code = "CAL241"
    title = "native calibration ended early"
