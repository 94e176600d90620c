"""DLA105: layer parameters outside the DLA's ranges."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.dla.stated import doubtful, off_the_dla
from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context


class DlaParameters(Rule):
    """What it does
        Checks each layer against what the DLA takes of its kind: kernel, padding, stride, dilation and groups of
        windows of two dimensions, the axis of Concat, Softmax and Slice, the bounds of Clip, the scales of Resize and
        which pixels it reads, how sums and products spread, four dimensions, constant weights of a matrix product on
        its right, constant statistics of BatchNormalization, what a deconvolution cuts off, sizes up to 8192.

    Why it matters
        One value out of range sends the layer to the GPU, silently with GPU fallback, and splits the network there.
        ConvTranspose with padding (the common kernel 4, stride 2, pad 1), poolings over more than 8x8 and the Flatten
        in front of a Gemm are the usual ones.

    Example
        `ConvTranspose` with `kernel_shape=[4, 4], strides=[2, 2], pads=[1, 1, 1, 1]`.

    Fix
        Most of it is for the export of the model. ConvTranspose: kernel equal to stride and no padding. Large pooling:
        two smaller ones, or a strided convolution. Concat: along channels. Flatten and Gemm behind a global pooling:
        the surgery pass `fc-as-conv`; behind a larger map: a Conv with a kernel of the map's size. What stays goes to
        the GPU, unless the recipe says `dla: {gpu_fallback: false}`. The ranges were read for TensorRT 8.2 to 10.3;
        each finding says whether its figure is documented, observed in a build log, or recalled. A hint that begins
        "may go to the GPU" decides nothing: there NVIDIA's own sources disagree, or were written for Xavier, or a
        tensor has fewer than four dimensions, and the GPU gets at least the Shuffle that TensorRT adds. Since TensorRT
        11 a network says its types: what an INT8 engine does not quantize is FP32 there, no type of a DLA.
    """

    code = "DLA105"
    title = "parameter out of the DLA's range"
    severity = "warning"

    def check(self, context: Context) -> Iterator[Finding]:
        yield from off_the_dla(self, context, "parameter")
        yield from doubtful(self, context)
