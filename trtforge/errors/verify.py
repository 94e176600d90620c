"""Errors of verification."""

from __future__ import annotations

from trtforge.errors.base import TrtforgeError


class VerificationMissed(TrtforgeError):
    """An engine's outputs are further from the FP32 model's than the recipe's `verify` allows.

    Usually a few layers do not bear INT8, or the calibration set is too small or unlike the verification set, so that
    activations are clipped. The message names the metric, the value reached, the bound and the worst sample. Add
    samples like the worst one to the calibration set, keep sensitive nodes in float with `quantize.skip`, or use fp16.
    """

    code = "VER101"
    title = "verification bound missed"


class OutputsDiffer(TrtforgeError):
    """An engine and its reference do not give the same outputs, so they cannot be compared.

    They must have the same output names, and for each sample the same shapes. A surgery pass that changes the outputs
    on purpose (`topk-head`) makes the FP32 model as exported an unfit reference.
    """

    code = "VER102"
    title = "outputs cannot be compared"


class NothingToVerify(TrtforgeError):
    """A comparison was asked for without a single sample.

    The verification set is empty, or `samples` cut it to nothing. A verdict over no samples would mean nothing.
    """

    code = "VER103"
    title = "no samples to verify with"


class ReferenceRefused(TrtforgeError):
    """onnxruntime could not load the FP32 model that the engine is to be compared with.

    The comparison runs the model as it was given, before any surgery. Usually it holds an operator or an opset that
    this version of onnxruntime lacks. The message holds onnxruntime's own words.
    """

    code = "VER104"
    title = "FP32 reference refused"


class ReferenceMissing(TrtforgeError):
    """`trtforge run` could not find the FP32 model that the engine was built from.

    It is looked for where it was when the engine was built on this machine, and must have the same digest. On
    another machine, or after the model was moved or changed, name it with `--model PATH`; or only run the engine,
    with `--against none`.
    """

    code = "VER105"
    title = "FP32 model not found"


class TruthBeyondClasses(TrtforgeError):
    """The truth holds a label that the network does not know, so Dice over its classes would leave voxels out.

    Usually the labels are of another data set, or use 255 for an ignored region. Map them to the network's classes, 0
    for what is to count as background.
    """

    code = "VER106"
    title = "truth has labels of unknown classes"
