"""Errors of targets."""

from __future__ import annotations

from trtforge.errors.base import TrtforgeError


class UnknownTarget(TrtforgeError):
    """A recipe or a command names a target that the table of targets does not have.

    Keys are lower case: a device with its form factor and memory where those differ (`a100-pcie-40gb`), and on a
    Jetson the accelerator after a slash, because a GPU engine and a DLA engine of one board are different things
    (`orin-agx-64gb/gpu`, `orin-agx-64gb/dla`). `host` is the CPU of this machine. Usually the memory size or the
    accelerator is missing. `trtforge targets` lists every key; write one of them as `target:` in the recipe.
    """

    code = "RCP201"
    title = "unknown target"
