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
