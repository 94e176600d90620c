"""Errors of samples, calibration and scales."""

from __future__ import annotations

from trtforge.errors.base import TrtforgeError


class SetUnreadable(TrtforgeError):
    """The description of a sample set is missing, is not YAML, or says something a set cannot say.

    A set is a YAML file with `name`, optionally `licence` and `about`, and a list `samples`. An entry of the list is
    a path or glob relative to the file, `package:DISTRIBUTION/path/in/it`, `{file: PATH, sha256: HEX}`, or a mapping
    from input names to files for a network with several inputs. The message names the line; `calib_data/` holds
    examples.
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
