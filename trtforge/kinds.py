"""What a file or folder is, told by its content, then its name: for a command that got another kind than it takes.

Nothing is parsed, and nothing of trtforge but its errors is needed: every layer may ask.
"""

from __future__ import annotations

import difflib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from trtforge.errors.usage import OtherKind

MANIFEST = "manifest.json"
HEAD = 64 << 10
"""Bytes that are looked at: the first key of a recipe may stand below a long licence."""
JSON_HEAD = 16 << 20
"""Of a JSON: what stands before the ranges of scales may be long. Annotations of data sets have gigabytes."""


@dataclass(frozen=True)
class Kind:
    """``name``: with its article. ``about``: what one is. ``command``: what takes the one at PATH.

    ``from_recipe``: the command that makes one of the recipe at PATH, for kinds that are made so.
    """

    name: str
    about: str
    command: str
    from_recipe: str = ""


RUN, INSPECT = "trtforge run ENGINE PATH", "trtforge inspect PATH"

RECIPE = Kind("a recipe", "a recipe is a YAML file with `target`, `backend` and `engines`", "trtforge recipe show PATH")
SAMPLES = Kind("a sample set", "a sample set is a YAML file with a list `samples`", RUN)
IMAGE = Kind("an image", "an image is a file that Pillow reads", RUN)
ARRAY = Kind("an array", "an array is a .npy or .npz file", RUN)
SCAN = Kind("a scan", "a scan is a NIfTI, NRRD or MetaImage file", RUN)
MODEL = Kind("an ONNX model", "an ONNX model is a .onnx file", INSPECT)
PLAN = Kind("a plan", "a plan is the file that TensorRT compiles", INSPECT)
KIT = Kind(
    "a kit",
    "a kit is what `trtforge build RECIPE --kit` writes, ENGINE.kit.tar.zst",
    "trtforge finish PATH",
    "trtforge build PATH --kit",
)
SCALES = Kind(
    "a file of scales",
    "scales are a JSON of trtforge or onnxruntime, a TensorRT cache (its first line begins with TRT-), or in the Q/DQ "
    "nodes of an ONNX model",
    "trtforge scales show PATH",
    "trtforge calibrate PATH",
)
LOCK = Kind(
    "the lock of a folder of recipes", "`trtforge build` writes it beside the recipe", "trtforge build RECIPE --locked"
)
ENGINE = Kind(
    "an engine",
    "an engine is a folder that `trtforge build RECIPE` writes, such as engines/host/resnet50",
    INSPECT,
    "trtforge build PATH, then name the engine's folder, which it prints",
)
STORE = Kind("an engine store", "a store is a folder of engines", INSPECT)

SAMPLE = (IMAGE, ARRAY, SCAN)

MOST_ABOUT = 2  # kinds that a command takes, with which it says what the first of them is

_STARTS = (
    (b"\x89PNG\r\n", IMAGE),
    (b"\xff\xd8\xff", IMAGE),
    (b"GIF8", IMAGE),
    (b"II*\x00", IMAGE),
    (b"MM\x00*", IMAGE),
    (b"\x93NUMPY", ARRAY),
    (b"NRRD000", SCAN),
    (b"ObjectType = Image", SCAN),
    (b"\x28\xb5\x2f\xfd", KIT),  # zstd
    (b"TRT-", SCALES),  # a calibration cache
    (b"ftrt", PLAN),
    (b"ptrt", PLAN),
    (b"vtrt", PLAN),  # of TensorRT-RTX
)
_ENDINGS = (
    ((".onnx",), MODEL),
    ((".zst",), KIT),
    ((".plan", ".engine"), PLAN),
    ((".npz",), ARRAY),
    ((".nii", ".nii.gz", ".mhd"), SCAN),
    ((".bmp", ".webp"), IMAGE),
)
_RECIPE_KEY, _SAMPLES_KEY = (  # at the left edge: deeper ones say nothing of the file
    re.compile(rb"""^(?:\xef\xbb\xbf)?(?:\{\s*)?["']?(?:%s)["']?\s*:""" % keys, re.MULTILINE)
    for keys in (b"target|backend|extends|engines", b"samples")
)


def kind_at(path: Path) -> Kind | None:
    """What is at ``path``; None for what is not there, cannot be read, or is nothing that trtforge knows."""
    try:
        if path.is_dir():
            return _folder(path)
        if path.is_file():  # a pipe can be read once, and not by us
            with path.open("rb") as stream:
                return _file(path.name.lower(), stream.read(JSON_HEAD if path.suffix.lower() == ".json" else HEAD))
    except OSError:
        pass  # the reader of the wanted kind says why
    return None


def _file(name: str, head: bytes) -> Kind | None:
    if name == "trtforge.lock":
        return LOCK
    if name.endswith((".yaml", ".yml")):
        return RECIPE if _RECIPE_KEY.search(head) else SAMPLES if _SAMPLES_KEY.search(head) else None
    if name.endswith(".json"):
        return SCALES if b'"ranges"' in head else None
    starts = next((kind for start, kind in _STARTS if head.startswith(start)), None)
    return starts or next((kind for endings, kind in _ENDINGS if name.endswith(endings)), None)


def _folder(path: Path) -> Kind | None:
    if (path / MANIFEST).is_file() or next(path.glob(f"[1-9]*/{MANIFEST}"), None):
        return ENGINE
    return STORE if next(path.glob(f"*/[1-9]*/{MANIFEST}"), None) else None


def nearest(path: Path, *wanted: Kind) -> Path | None:
    """What a mistyped path may have meant: the file beside it that is called most alike, of these kinds if given.

    Names are compared without their endings, which make strangers look alike.
    """
    try:
        there = [entry for entry in sorted(path.parent.iterdir()) if not wanted or kind_at(entry) in wanted]
    except OSError:
        return None
    stems = difflib.get_close_matches(path.stem, [entry.stem for entry in there], n=1)
    alike = {entry.name: entry for entry in there if entry.stem in stems}
    names = difflib.get_close_matches(path.name, alike, n=1, cutoff=0)
    return alike[names[0]] if names else None


def refuse_other(path: Path, *wanted: Kind) -> None:
    """Raises OtherKind (USE107) when ``path`` is known to be something else than each of ``wanted``.

    What is unknown passes: the reader of the wanted kind knows better what is wrong with it.
    """
    found = kind_at(path)
    if found is None or found in wanted:
        return
    *others, last = [kind.name for kind in wanted]
    command = (wanted[0].from_recipe if found is RECIPE else "") or found.command
    raise OtherKind(
        f"{path if path.is_dir() else path.name} is {found.name}, not "
        + (f"{', '.join(others)} or {last}" if others else last),
        where=str(path),
        why=wanted[0].about if len(wanted) <= MOST_ABOUT else "",
        next=command.replace("PATH", shlex.quote(str(path))),
    )
