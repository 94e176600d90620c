"""Errors of the environment: something this machine lacks."""

from __future__ import annotations

from trtforge.errors.base import TrtforgeError


class MissingPackage(TrtforgeError):
    """A Python package that this step needs is not installed.

    trtforge installs lean: the TensorRT-RTX compiler, native TensorRT and the demo's model are extras. The
    message names the extra and the command that installs it into the environment trtforge runs in.
    """

    code = "ENV101"
    title = "package not installed"


class NoGpu(TrtforgeError):
    """Running this engine needs an NVIDIA GPU with its driver, and this machine shows none.

    The driver's library libcuda.so.1 is looked for and asked to start; nothing of TensorRT is touched before it
    answers, because its runtime crashes without a driver. Compiling for a GPU works without one.
    """

    code = "ENV301"
    title = "no NVIDIA GPU"
