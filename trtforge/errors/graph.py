"""Errors of models and graph surgery."""

from __future__ import annotations

from trtforge.errors.base import TrtforgeError


class ModelNotFound(TrtforgeError):
    """The ONNX file named does not exist, is a folder, or may not be read.

    Usually a path that is relative to another folder than the one you are in, or a download that never ran.
    Correct the path (`ls -l` it first); in a recipe it is relative to the recipe file.
    """

    code = "ONX101"
    title = "model file not found"


class NotAModel(TrtforgeError):
    """The file exists but its bytes are not an ONNX model.

    Usually one of: an empty file from a failed download, a Git LFS pointer instead of the file, an HTML error
    page, a compressed archive, or a TensorRT plan. The message says which of these it looks like. Fetch or
    export the model again.
    """

    code = "ONX102"
    title = "not an ONNX model"


class TruncatedModel(TrtforgeError):
    """The file begins as an ONNX model and ends too early.

    An ONNX file states the length of its graph; this one holds fewer bytes than that. Almost always an
    interrupted copy or download, or a full disk during export. Copy it again and compare sizes or sha256.
    """

    code = "ONX103"
    title = "truncated ONNX model"


class MissingExternalData(TrtforgeError):
    """A weight is stored in a separate file, and that file is not there.

    Models over 2 GB keep their weights beside the `.onnx` file (often `*.onnx_data` or `*.data`). Only the
    `.onnx` was copied. Copy the data files named in the message into the same folder, keeping their names.
    """

    code = "ONX104"
    title = "external data missing"


class ExternalDataEscapes(TrtforgeError):
    """A weight's file lies outside the folder of the model.

    The location in the model is absolute, climbs out with `..`, or is a symbolic link to another folder. A
    model from elsewhere could make this machine read any file that way, so it is refused. Put real copies of
    the data files beside the `.onnx` file (`cp --dereference` for links), or export again.
    """

    code = "ONX105"
    title = "external data outside the model's folder"


class ExternalDataTooShort(TrtforgeError):
    """A file of external weights holds fewer bytes than the tensors stored in it need.

    The data file was cut off, belongs to another export of the model, or the stored offset, length and shape
    contradict each other. Copy the `.onnx` file and all its data files again from one export.
    """

    code = "ONX106"
    title = "external data too short"


class UnsupportedVersion(TrtforgeError):
    """The model's IR version or operator set is missing, or newer than the installed onnx package knows.

    Newer: a newer exporter wrote it. Upgrade onnx and onnxruntime here, or export again with a lower opset (17 serves
    every target of trtforge). Models of an older opset are fine: the pass `upgrade-opset` lifts them.

    Missing: each domain that a node's operator is of, such as `com.microsoft`, must stand in the model's `opset_import`
    with a version. The message names the domain and the line of Python that adds the entry; the version is 1 unless the
    exporter's documents say otherwise. `trtforge lint` then tells whether the target has such an operator.
    """

    code = "ONX107"
    title = "unsupported IR or opset version"


class InvalidGraph(TrtforgeError):
    """The file parses, but its graph is not valid: a tensor is used that nothing produces, or produced twice; or a
    name in it is no text, or a type is none that ONNX has.

    Usually the work of a hand-written edit, of an exporter's bug or of a damaged file. The message names the node and
    the tensor. Export again; `polygraphy surgeon sanitize` sometimes repairs what another tool broke.
    """

    code = "ONX108"
    title = "invalid graph"


class CannotWriteModel(TrtforgeError):
    """The model, or one of its weight files, could not be written.

    The folder is read-only, the disk is full, or a file of the same name is in the way. Nothing was changed at
    the destination: files appear only when they are whole.
    """

    code = "ONX109"
    title = "cannot write the model"


class ModelTooLarge(TrtforgeError):
    """One ONNX message must stay under 2 GiB, and this one would not.

    Protobuf cannot hold more. Keep the weights external: `trtforge.graph.io.save` does that by itself, a plain
    byte string cannot.
    """

    code = "ONX110"
    title = "model too large for one message"


class UnknownPass(TrtforgeError):
    """A recipe or command names a surgery pass that does not exist.

    Check the spelling; the message names the nearest pass. `trtforge surgery --list` prints them all.
    """

    code = "ONX111"
    title = "unknown surgery pass"


class PassFailed(TrtforgeError):
    """A surgery pass could not do its work on this model; the message names the pass and the reason.

    The model handed over is unchanged. Leave the pass out of `surgery:`, or change the model as the reason
    suggests. If the reason is a failure inside a library, please report it with the model.
    """

    code = "ONX112"
    title = "surgery pass failed"


class PassPrecondition(TrtforgeError):
    """A surgery pass needs something of the model that is not given, and says what.

    Often another pass has to run first: for example an input's size must be known before a global pooling can
    become one of a fixed size. Follow the message, or leave the pass out.
    """

    code = "ONX113"
    title = "surgery pass cannot start"


class PassBrokeContract(TrtforgeError):
    """A surgery pass returned a model that breaks what every pass promises. This is a defect of the pass.

    Passes keep the names and types of graph inputs and outputs, leave a valid graph, and never reuse the name
    of a tensor for another type (scales are stored by tensor name). The model handed over is unchanged. Leave
    the pass out of `surgery:` and report it with the model.
    """

    code = "ONX114"
    title = "surgery pass broke its contract"


class UnknownInput(TrtforgeError):
    """The recipe gives a shape for an input that the model does not have, or leaves one out.

    Names are those of the ONNX graph, including suffixes such as `:0`. The message lists the model's inputs;
    `trtforge inspect MODEL.onnx` shows their shapes and types too.
    """

    code = "ONX115"
    title = "no such graph input"


class ShapeMismatch(TrtforgeError):
    """The shape asked for does not fit the model's: another rank, another fixed size, or an impossible graph.

    A fixed size in the model cannot be changed from outside; only symbolic dimensions can be given a size.
    NHWC against NCHW is the usual cause: look at the order of the sizes, or add the pass `nhwc-to-nchw-input`.
    """

    code = "ONX116"
    title = "shape does not fit the model"


class DynamicShape(TrtforgeError):
    """A size must be known here, and the model leaves it open.

    Engines are built for fixed shapes. Give every input a full shape under `inputs:` in the recipe. If a shape
    inside the graph stays open although all inputs are fixed, add the passes `infer-shapes` and
    `fold-constants`: exporters often compute fixed shapes with a chain of Shape and Gather nodes.
    """

    code = "ONX117"
    title = "shape is not static"


class UnreadableWeight(TrtforgeError):
    """A weight's bytes do not match its stated shape and type, so its values cannot be read.

    The model file is damaged or was written by a faulty exporter. Export it again.
    """

    code = "ONX118"
    title = "weight cannot be read"


class NoLowering(TrtforgeError):
    """A plugin of the recipe was found in the graph, and none of the lowerings the recipe allows can be built.

    `plugins:` lists for each plugin, in order of preference, what may stand for it: `stock` (NVIDIA's own plugin,
    where the registry of the TensorRT at hand has it), `trtforge` (ours), `attention` (ONNX's own operator) and `plain`
    (the graph as it is). A plugin that is not listed has all of its lowerings, `plain` last, and so always builds.
    `trtforge surgery RECIPE --explain` says for each why not.
    """

    code = "ONX119"
    title = "no lowering fits the target"


class PluginsOverlap(TrtforgeError):
    """Two plugins of the recipe's `surgery` would both replace one node.

    Each tensor has one producer, so one of them has to give way: remove it from `surgery`, or give it the lowering
    `plain`.
    """

    code = "ONX120"
    title = "two plugins claim one node"
