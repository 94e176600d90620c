"""Errors of wrong use of the command line that Typer cannot see."""

from __future__ import annotations

from trtforge.errors.base import TrtforgeError


class WrongUsage(TrtforgeError):
    """The command line names a command, an option or a value that trtforge does not have, or leaves one out.

    `trtforge COMMAND --help` shows what a command takes. In `--truth`, `{folder}` and `{name}` stand for the scan's;
    there are no others.
    """

    code = "USE100"
    title = "wrong use of the command line"


class UnknownCode(TrtforgeError):
    """`trtforge explain` was asked about a code that is neither an error nor a lint rule.

    Codes are three letters and three digits, as printed at the start of an error (`RCP201`) or of a lint finding
    (`DLA101`). Usually a digit was mistyped, or the message came from another version of trtforge.
    `trtforge explain` without a code lists them all.
    """

    code = "USE101"
    title = "unknown code"


class NothingToCalibrate(TrtforgeError):
    """`trtforge calibrate` found no engine that has ranges to gather.

    An engine is calibrated when its recipe says `precision: int8` and gives `calibration: {set: ...}`. An engine
    in FP32 or FP16 needs no ranges, and one that names a `scales:` file already has them.
    """

    code = "USE102"
    title = "nothing to calibrate"


class OneEngineNeeded(TrtforgeError):
    """The command writes one file, but the recipe has several engines.

    Choose one with `--only ENGINE`.
    """

    code = "USE103"
    title = "one engine needed"


class UnknownSchema(TrtforgeError):
    """`trtforge schema` was asked for a result it does not know.

    `trtforge schema` without a name lists them: one for each command that prints JSON, and `recipe-file` and
    `manifest` for the two file formats.
    """

    code = "USE104"
    title = "unknown schema"


class NoPlainModel(TrtforgeError):
    """`trtforge scales convert` was asked for what only a Q/DQ model tells, and was given a file of scales.

    `--plain` writes the model without its Q/DQ nodes, `--precisions` which of its layers were INT8. Leave the option
    out, or give the Q/DQ model itself.
    """

    code = "USE105"
    title = "no Q/DQ model"


class NoSuchFile(TrtforgeError):
    """`trtforge inspect` was given the name of a file that does not exist.

    A name that ends in `.onnx`, `.plan` or `.zst` is taken for a file, relative to the working directory. Engines and
    stores are folders, and are also found by their bare names under `engines/`.
    """

    code = "USE106"
    title = "no such file"


class OtherKind(TrtforgeError):
    """The command was given a file or folder of another kind than it takes, such as a recipe in place of an engine.

    What a file is, is told by its content, then by its name. The message says what was found and names the command
    that takes it.
    """

    code = "USE107"
    title = "file of another kind"


class OutIsNoFolder(TrtforgeError):
    """`--out` of `trtforge run` or `calibrate` was given the name of a file of a kind it does not write.

    Of `run` it is a folder, which gets one `.npz` a sample; a `.npz` for the outputs of a single one; or a file ending
    in `.json`, in the form that `polygraphy run --load-outputs` reads. Of `calibrate` it is a folder, or a `.json` for
    the scales of one engine. For a folder with a dot in its name, make it first.
    """

    code = "USE108"
    title = "outputs go to a folder, a .npz or a .json file"


class NotForThisEngine(TrtforgeError):
    """`trtforge run` was given an option that this engine has no use for.

    `--out-dir`, `--truth`, `--picture`, `--html`, `--probabilities`, `--overlap`, `--weights` and `--mirror` are for
    engines that segment volumes: their recipe has an input with `preprocess: {kind: volume}`.
    """

    code = "USE109"
    title = "option of another kind of engine"


class OneScanOnly(TrtforgeError):
    """`trtforge run` was given several scans and an option that names one file.

    `--out`, `--picture`, `--html` and `--probabilities` are for one scan. Results of several go to the folder
    `--out-dir`; `--pictures` adds a picture of each.
    """

    code = "USE110"
    title = "option for one scan"


class WouldOverwrite(TrtforgeError):
    """A result would be written over a file that the command reads, or over another of its results.

    Nothing was started, and no file was touched. A model, a recipe and what it extends, samples, scans and their truth,
    scales, an engine's own files: none is a place for a result, nor is another name of the same file, such as a link.
    Name another file, or an `--out-dir` that holds nothing else. `trtforge prepare` takes two folders.
    """

    code = "USE111"
    title = "result over an input"


class OptionsContradict(TrtforgeError):
    """Two options were given that ask for different things.

    The message names both. Leave one out.
    """

    code = "USE112"
    title = "options contradict each other"


class BadAddress(TrtforgeError):
    """`trtforge build --on` was given an address that is none.

    It has the form `ssh://USER@HOST:PORT/PATH/TO/TRTFORGE`. Only the host is needed: user, port and everything else
    are what your OpenSSH configuration (`~/.ssh/config`) says for it, and `trtforge` is looked for in the device's
    PATH. A path that begins with `/~/` is relative to the home folder there: `ssh://orin/~/venv/bin/trtforge`.
    """

    code = "USE113"
    title = "not an address of a device"


class NoPlacement(TrtforgeError):
    """`trtforge lint` was asked for a placement on the DLA, and no engine chosen is for a DLA.

    `--placement`, `--html` and `--fix` are for recipes with a target such as `orin-agx-64gb/dla`; elsewhere every layer
    runs on the one processor there is. `--set target=...` tries another target without a change of the recipe.
    """

    code = "USE114"
    title = "no DLA to place layers on"


class LintFailed(TrtforgeError):
    """`trtforge lint` found something that would make the build fail, or the engine wrong, on its target.

    The findings are printed before this message, each with its fix; `trtforge explain CODE` is a rule's manual page.
    Warnings and hints alone do not fail. `trtforge build` and `calibrate` ask the same rules before their work: they
    end with an error of the graph or its inputs (GRF) and warn of all others, on which the device has the last word.
    """

    code = "LNT101"
    title = "lint found errors"
