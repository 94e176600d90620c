"""Errors of samples, calibration and scales."""

from __future__ import annotations

from trtforge.errors.base import TrtforgeError


class SetUnreadable(TrtforgeError):
    """The description of a sample set is missing, is not YAML, says something a set cannot say, or is no set.

    A set is a YAML file with a list `samples`, and optionally `name`, `licence` and `about`: a folder or a photograph
    is none, `samples: ["photos/*.jpg"]` is. An entry of the list is a path or glob relative to the file,
    `package:DISTRIBUTION/path/in/it`, `{file: PATH, sha256: HEX}`, or a mapping from input names to files for a network
    with several inputs. The message names the line; `calib_data/` holds examples.
    """

    code = "CAL101"
    title = "sample set cannot be read"


class EmptySet(TrtforgeError):
    """There is nothing to run: the set lists no sample, or no file was given.

    Ranges of no data are no ranges, and a verification over nothing would always pass, so both are refused.
    """

    code = "CAL102"
    title = "sample set is empty"


class SampleMissing(TrtforgeError):
    """A listed file does not exist, or a glob matches nothing.

    Usually the data was not fetched, or the set was moved without its data: paths are relative to the YAML file.
    For `package:` entries the installed version of the distribution may not ship the file.
    """

    code = "CAL103"
    title = "sample not found"


class SampleOutsideSet(TrtforgeError):
    """An entry points outside the folder its path is relative to: it is absolute or climbs out with `..`.

    Sample ids go into receipts and must mean the same on every machine, so a set reaches only what lies beside or
    below its file. Put the set next to the data, or link the data into the folder of the set.
    """

    code = "CAL104"
    title = "sample outside its set"


class SampleUnsupported(TrtforgeError):
    """The file is of a kind that cannot feed this input.

    Inputs with `preprocess: {kind: image}` take still images that Pillow reads (PNG, JPEG, TIFF, WebP, BMP ...);
    inputs with `kind: array` take `.npy`, `.npz` (arrays named after the inputs), `.nii` and `.nii.gz`. Convert the
    file, or change `preprocess` of the input.
    """

    code = "CAL105"
    title = "sample of an unsupported kind"


class SampleUnreadable(TrtforgeError):
    """The file could not be decoded: it is truncated, damaged, not what its name says, or too large to be meant.

    Most often a download or copy was cut off. Fetch the file again; a `sha256` beside the entry catches this earlier.
    Arrays holding Python objects are refused because reading them would run code from the file, and images over
    the pixel limit because they are how decoders are attacked.
    """

    code = "CAL106"
    title = "sample cannot be decoded"


class SampleChanged(TrtforgeError):
    """The file is not the one the set was written for: its sha256 differs from the one beside the entry.

    Either the file changed (then scales made from it are other scales) or the pin is stale. Restore the file, or
    update `sha256` deliberately.
    """

    code = "CAL107"
    title = "sample differs from its digest"


class SampleShape(TrtforgeError):
    """The array does not have the shape of the input it is meant for.

    A sample has the shape of the input without its batch axis, or with a batch axis of 1; leading axes of length 1
    may be left out. An image must be at least as large as its crop after resizing, and the crop must be the
    height and width of the input.
    """

    code = "CAL108"
    title = "sample has the wrong shape"


class SampleDtype(TrtforgeError):
    """The array has another element type than the input, or its values do not fit the input's type.

    Nothing is cast behind your back: a float64 array for a float32 input is often one that skipped preprocessing.
    Save the array in the input's type, e.g. `np.save(path, array.astype(np.float32))`. Image preprocessing must end
    in the value range of an integer input.
    """

    code = "CAL109"
    title = "sample has the wrong type"


class SampleNotFinite(TrtforgeError):
    """The sample holds NaN or infinity.

    One such value makes the range of every tensor behind it meaningless, so the sample is refused, not skipped.
    Usual causes are a division by zero in preprocessing, NaN as background of a volume, and float16 overflow.
    """

    code = "CAL110"
    title = "sample holds NaN or infinity"


class SampleInputs(TrtforgeError):
    """The sample does not say what each input of the network gets: an input has no file, or a name is no input.

    A network with one input takes plain paths. With several, an entry is a mapping from every input name to a file,
    or one `.npz` whose arrays are named after the inputs.
    """

    code = "CAL111"
    title = "sample does not cover the inputs"


class SampleRepeated(TrtforgeError):
    """The same sample is listed twice, by two entries or by two globs that overlap.

    A repeated sample adds nothing to a range and would count twice in the receipt. Remove one of the entries.
    """

    code = "CAL112"
    title = "sample listed twice"


class TooFewSamples(TrtforgeError):
    """More samples are asked for than the set has.

    A receipt that says 500 must mean 500. Lower `samples`, drop it to use the whole set, or fetch the rest of the
    data.
    """

    code = "CAL113"
    title = "set has fewer samples than asked for"


class ModelInputMismatch(TrtforgeError):
    """The samples do not fit the inputs of the model that is to be calibrated: a name, a shape or a type differs.

    Samples follow `inputs` of the recipe; the model has its own idea. Compare both in the message: usually the recipe
    names another layout (NHWC against NCHW), or the model was exported with fixed axes. `trtforge surgery` can change
    the model, the recipe can be changed by hand.
    """

    code = "CAL121"
    title = "samples do not fit the model"


class TensorNotFinite(TrtforgeError):
    """A tensor inside the network became NaN or infinite on a sample, although the sample itself is finite.

    A range cannot hold such a value, and a quantized engine would give nonsense for the sample. The named tensor is
    the first one in the graph: look at the node that makes it (a division by a variance of zero, a log of zero, an
    exponential that overflows), and at the preprocessing of the sample: values far outside the trained range are the
    most common cause.
    """

    code = "CAL122"
    title = "tensor became NaN or infinite"


class ModelDoesNotRun(TrtforgeError):
    """onnxruntime refused the model, or stopped while running it, so no ranges could be gathered.

    The reason is onnxruntime's own. Usual causes: an operator of a custom domain without a function body, an input
    shape that a Reshape inside the model does not accept, a model that was cut wrongly. `trtforge surgery` with
    `infer-shapes` shows shape conflicts early.
    """

    code = "CAL123"
    title = "model does not run"


class NothingToCalibrate(TrtforgeError):
    """The model has no floating-point activation that depends on its inputs, so there is nothing to take a range of.

    It may already be a quantized model (integer operators throughout), or a graph of shapes and constants.
    """

    code = "CAL124"
    title = "nothing to calibrate"


class FusedNameWrong(TrtforgeError):
    """The quick, fused calibration gave a tensor a range that a plain run does not confirm.

    Fusion renames tensors, and trtforge works the original names out again, then proves them on the first samples. This
    version of onnxruntime fuses in a way that was not foreseen. Calibrate without `fused`, which needs no such
    guess, and report the model's operators around the named tensor.
    """

    code = "CAL125"
    title = "fused tensor could not be named"


# -- scales: tables, codecs, Q/DQ (CAL2xx) -------------------------------------------------------------------------


class ScalesFileInvalid(TrtforgeError):
    """A scales file cannot be read as a ScaleTable.

    It is missing, is no scales file at all (a recipe, an image), is not JSON, names a tensor twice, lacks a field, or
    holds a value of the wrong type. The message names the place in the file. Scales files are written by ``trtforge
    calibrate`` and ``trtforge scales convert``; one that was edited by hand or cut short by a full disk ends here: make
    it again. ``trtforge scales`` reads TensorRT caches, onnxruntime's JSON and Q/DQ models too; a recipe's
    ``calibration: {scales}`` takes the JSON alone, and ``trtforge scales convert FILE OUT --to json`` makes it of them.
    """

    code = "CAL201"
    title = "scales file cannot be read"


class InvalidRange(TrtforgeError):
    """The range of a tensor is impossible: NaN or infinite, min above max, or an amax that contradicts them.

    A NaN in a range means that a sample or the model itself produced NaN; a scale made from it would silence the
    tensor on the device. Find the sample (``trtforge calibrate`` names it), not the range.
    """

    code = "CAL202"
    title = "impossible range"


class ScalesTooNew(TrtforgeError):
    """The scales file was written by a newer trtforge, in a version of the format this one does not know.

    Upgrade trtforge, or calibrate again with the one installed here.
    """

    code = "CAL203"
    title = "scales file of a newer version"


class ScalesMismatch(TrtforgeError):
    """The receipt of the scales does not match what is being built.

    Ranges belong to one model and one preprocessing: with other weights, another graph or differently scaled inputs
    the same tensor names carry other values, and INT8 is wrong without any error. The message says which digest
    differs. Usual causes: the model file was replaced, a surgery pass was added, or the scales file is that of another
    recipe. Calibrate again with the recipe at hand; it takes one pass over the samples.
    """

    code = "CAL204"
    title = "scales made for another model"


class MergeRefused(TrtforgeError):
    """Two scale tables cannot be merged.

    Merging is exact only when both tables were made for the same model with the same method and preprocessing, and
    from samples that do not overlap. The message says what differs.
    """

    code = "CAL205"
    title = "scale tables do not fit together"


class TensorRTCacheInvalid(TrtforgeError):
    """A TensorRT calibration cache has a line that is not what TensorRT writes.

    The first line is ``TRT-<version>-<algorithm>``, every other line ``<tensor>: <8 hex digits>``, the big-endian bits
    of a positive float32: amax / 127. The message shows the line. Caches written by other tools sometimes hold amax
    instead of the scale, hex without leading zeros, or decimal numbers; TensorRT reads those as different values.
    """

    code = "CAL211"
    title = "not a TensorRT calibration cache"


class TensorRTCacheUnsupported(TrtforgeError):
    """A TensorRT calibration cache cannot be written for this version or these tensors.

    TensorRT 11 has no calibrators and reads no cache (Q/DQ nodes take their place); a tensor name with a line break
    cannot be written at all; an algorithm must be one of TensorRT's four, and for a DLA ``EntropyCalibration2``;
    between 10.8 and 10.16 TensorRT has no DLA. The message says which it is.
    """

    code = "CAL212"
    title = "no TensorRT cache for this"


class OnnxruntimeTableInvalid(TrtforgeError):
    """A JSON file is not a calibration table of onnxruntime.

    Read are ``calibration.json`` (``write_calibration_table``) and the file of ``save_tensors_data``; both hold
    ``lowest`` and ``highest`` of each tensor. Per-channel ranges of activations have no counterpart in TensorRT and are
    refused.
    """

    code = "CAL221"
    title = "not an onnxruntime calibration table"


class QdqNeedsOpset(TrtforgeError):
    """The model's opset is older than 13, where per-channel quantization appeared.

    QuantizeLinear and DequantizeLinear take an ``axis`` since opset 13; with an older opset weights could only be
    quantized per tensor, and runtimes refuse the mix. Add the pass ``upgrade-opset`` at the head of the engine's
    ``surgery``.
    """

    code = "CAL231"
    title = "opset too old for INT8"


class QdqNotPlain(TrtforgeError):
    """Quantization already in the model cannot be handled.

    To insert Q/DQ the graph must be free of QuantizeLinear and DequantizeLinear; to extract scales every pair must be
    plain: in the main graph, activations in 8-bit integers, a constant positive scale, one for each activation, Q
    directly followed by DQ. The message names the node, and what to do about it.
    """

    code = "CAL232"
    title = "quantization in the model is not plain"


class QdqNothingToDo(TrtforgeError):
    """No node could be quantized with these scales.

    Either the graph has no convolution or matrix product, or the table names none of the tensors they read: then the
    scales are those of another graph, often of the same network before renaming or another export. Calibrate this
    graph, or set ``precision: fp16``.
    """

    code = "CAL233"
    title = "nothing was quantized"


class QdqUnknownSkip(TrtforgeError):
    """``quantize.skip`` names a node that the graph does not have.

    The names are those of the graph after surgery; ``trtforge surgery RECIPE --out m.onnx`` writes it.
    """

    code = "CAL234"
    title = "unknown node in quantize.skip"


class QdqWeightsInvalid(TrtforgeError):
    """A weight cannot be quantized: it holds NaN or Inf, or its external data cannot be read.

    A NaN in a weight is a broken model file; INT8 would hide it. Check the model with ``trtforge inspect MODEL``.
    """

    code = "CAL235"
    title = "weight cannot be quantized"
