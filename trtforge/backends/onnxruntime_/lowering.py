"""A Q/DQ graph in TensorRT's form, rewritten into the form that onnxruntime's CPU kernels take as integers.

onnxruntime replaces ``Q(Conv(DQ(x), DQ(w), DQ(b)))`` by one integer kernel, and only that: a float bias, a missing Q,
or a Relu in front of a signed Q keeps the convolution in float. The rewrite supplies what is missing:

* Activations become uint8 with the same scale: zero point 0 where the tensor cannot be negative (the Relu then vanishes
  into the kernel), else 128. The integers are those of TensorRT, shifted by the zero point, up to amax and beyond: see
  ``activations``.
* Biases, also those added behind a MatMul, become int32 with scale s_x * s_w, half a unit of the accumulator away from
  the float bias at most.
* The output of a convolution that is read in float gets a Q/DQ pair of its own, with its calibrated minimum and
  maximum. TensorRT has no rounding there; ``slack`` bounds how coarse the new step may be against the step of the sum
  that reads it. Where only a Concat or a MaxPool stands between the convolution and a Q, the pair is that Q's own,
  which changes nothing: rounding commutes with choosing and moving values.
* Where sums of two u8 x s8 products saturate at 16 bits (AVX2 and AVX-512 without VNNI), weights that meet signed
  activations need care, one of two ways. "narrow": 7 bits, within [-64, 64], as 255 * (64 + 64) < 2^15. "uint8": the
  same integers shifted to zero point 128, for which the kernels are exact and slower. Activations with zero point 0
  stay within [0, 127], and 127 * (127 + 127) < 2^15, so their weights stay as they are.
"""

from __future__ import annotations

from trtforge.backends.onnxruntime_.activations import saturate, unsign
from trtforge.backends.onnxruntime_.outputs import Outputs
from trtforge.backends.onnxruntime_.products import Products, SignedWeights
from trtforge.backends.onnxruntime_.rewrite import LoweringReport, Rewrite
from trtforge.graph.model import Model
from trtforge.graph.weights import park
from trtforge.scales.codecs.prune import drop_unused_constants
from trtforge.scales.table import ScaleTable


def lower(
    quantized: Model, floating: Model, table: ScaleTable, *, slack: float, signed_weights: SignedWeights
) -> tuple[Model, LoweringReport]:
    """The graph for onnxruntime's integer kernels; the given models are not changed.

    Args:
        quantized: what ``trtforge.scales.codecs.qdq.insert`` made of ``floating``.
        floating: the float graph, for weights that are quantized again.
        table: ranges of the convolution outputs.
        slack: largest step of an added pair, in steps of the sum that reads it; 0 adds only
            those that change nothing, inf all.
        signed_weights: the form of weights that meet signed activations.

    Raises the errors of ``trtforge.graph.weights.read_tensor``.
    """
    skeleton, parked = park(quantized.proto)
    rewrite = Rewrite(Model(skeleton, quantized.folder), parked)
    unsigned = unsign(rewrite)
    Products(rewrite, floating).quantize_weights_and_biases(signed_weights)
    Outputs(rewrite, table).quantize_outputs(slack)
    saturate(rewrite, unsigned)
    drop_unused_constants(skeleton)
    parked.restore(skeleton)
    return Model(skeleton, quantized.folder), rewrite.report
