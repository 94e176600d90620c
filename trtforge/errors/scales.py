"""Errors of scales that do not fit what they are to be used for."""

from __future__ import annotations

from trtforge.errors.base import TrtforgeError


class ScalesNotOfModel(TrtforgeError):
    """Fewer than half of the tensors that the scales name are in the model.

    Scales belong to tensor names. TensorRT ignores names it does not find, leaves the model's own tensors without a
    scale and runs them in float, without an error. Usual causes: the scales of another network; another export of the
    same one, with other names; a model before surgery and scales after it. Use the model that was calibrated (a kit
    and an engine keep theirs), or calibrate this one.
    """

    code = "CAL215"
    title = "scales of another model"


class QdqScalesDisagree(TrtforgeError):
    """A quantized model gives one tensor several scales, and the form to be written holds one.

    Training tools place a quantizer at each input of each layer; where two layers read one tensor, each has learned its
    own scale. TensorRT's calibration cache and the DLA know one scale a tensor. ``--conflicts widest`` takes the
    widest: nothing is clipped that was not clipped before, and the layers with the narrower scale lose the resolution
    in between. The better cure is in training: let the quantizers of one tensor share a scale.
    """

    code = "CAL236"
    title = "one tensor, several scales"
