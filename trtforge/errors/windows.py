"""Errors of the window loop."""

from __future__ import annotations

from trtforge.errors.base import TrtforgeError


class NotVoxelwise(TrtforgeError):
    """The network does not give one score per class and voxel of the window, so windows cannot be put together.

    The loop takes the one output of shape [N, classes, D, H, W] whose D, H and W are those of the input's window. A
    network that ends in ArgMax has thrown the scores away: cut it before that node. One that works at half the
    resolution needs its last upsampling inside the graph.
    """

    code = "ENG304"
    title = "output is not voxelwise"


class ScoresNotFinite(TrtforgeError):
    """The engine gave NaN, so the labels of the volume mean nothing and were not written.

    An INT8 or FP16 engine that overflows does that, and a network whose weights hold NaN. Compare with the FP32 model:
    `trtforge run ENGINE SCAN --against fp32`; if that is finite, calibrate again on volumes like this one.
    """

    code = "ENG305"
    title = "scores are not finite"


class NotEnoughMemory(TrtforgeError):
    """The volume does not fit into this machine's memory; nothing was started.

    The message says what is needed for what. The network's own memory comes on top and is not known beforehand. A
    larger `spacing` makes the volume smaller; without `--probabilities` a volume takes much less.
    """

    code = "ENV103"
    title = "not enough memory"
