"""Errors of the environment: something this machine lacks."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from trtforge.errors.base import TrtforgeError
from trtforge.files import check_place, without_temporary_name


class MissingPackage(TrtforgeError):
    """A Python package that this step needs is not installed.

    trtforge installs lean: the TensorRT-RTX compiler, native TensorRT and the demo's model are extras. The
    message names the extra and the command that installs it into the environment trtforge runs in.
    """

    code = "ENV101"
    title = "package not installed"


class NoGpu(TrtforgeError):
    """Running this engine needs an NVIDIA GPU with its driver, and this machine shows none.

    The driver's library libcuda.so.1 is looked for and asked to start; nothing of TensorRT is touched before it
    answers, because its runtime crashes without a driver. Compiling for a GPU works without one.
    """

    code = "ENV301"
    title = "no NVIDIA GPU"


class FileRefused(TrtforgeError):
    """The operating system refused to read or write a file: no permission, no space left, no such folder, or a disk
    in trouble.

    The file is one that the command was asked to write (`--out`), or one in trtforge's cache (`trtforge doctor` says
    where that is; the variable `TRTFORGE_CACHE` moves it). Files are written whole or not at all, so none was left
    half-written.
    """

    code = "ENV102"
    title = "file could not be read or written"


_REFUSALS = {
    errno.EACCES: "change the permissions of the file or of its folder, or name another place",
    errno.EPERM: "change the permissions of the file or of its folder, or name another place",
    errno.EROFS: "name a place on a file system that can be written; TRTFORGE_CACHE=FOLDER moves the cache",
    errno.ENOSPC: "free some space, or name a place on another disk; TRTFORGE_CACHE=FOLDER moves the cache",
    errno.EDQUOT: "free some space, or name a place on another disk; TRTFORGE_CACHE=FOLDER moves the cache",
    errno.ENOTDIR: "a file lies where a folder is needed: move it away, or name another place",
    errno.EEXIST: "a file lies where a folder is needed: move it away, or name another place",
    errno.EISDIR: "a folder lies where a file is needed: name another file",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files: ulimit -n 4096",
    errno.EIO: "check the disk: dmesg",
    errno.ENOENT: "name a place on a file system that takes new files, which /proc and the like do not",
    errno.ELOOP: "links lead round in a circle: mend them, or name another place",
    errno.ESTALE: "mount the network folder again",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f unlimited), or name a place that takes larger files",
}


def refusal(error: OSError) -> FileRefused | None:
    """The operating system's refusal as an error for a person; None when it is no matter of the machine."""
    if error.errno not in _REFUSALS:
        return None
    where = without_temporary_name(str(error.filename2 or error.filename or ""))
    if not Path(where).is_absolute() and working_directory() is None:
        return _directory_gone(error)
    if error.errno == errno.ENOENT and _takes_files(where):
        return None  # somebody should have made it: a mistake of ours
    cache = os.environ.get("TRTFORGE_CACHE")
    in_cache = bool(cache) and _is_around(where, str(cache))
    return FileRefused(
        "the cache cannot be used" if in_cache else "a file could not be read or written",
        where=where,
        why=(error.strerror or str(error)) + (f"; the variable TRTFORGE_CACHE is {cache!r}" if in_cache else ""),
        next="export TRTFORGE_CACHE=FOLDER with a folder that you can write, or unset it"
        if in_cache and error.errno != errno.EFBIG  # a limit of this process, wherever it writes
        else _REFUSALS[error.errno],
    )


def working_directory() -> Path | None:
    """None where it was deleted, as can happen to a shell that another one works beside."""
    try:
        return Path.cwd()
    except OSError:
        return None


def _takes_files(where: str) -> bool:
    if not where:
        return True
    try:
        check_place(Path(where))
    except OSError:
        return False
    return True


def _directory_gone(error: OSError) -> FileRefused:
    return FileRefused(
        "the current directory is gone",
        where=os.environ.get("PWD", "."),
        why=f"{error.strerror or error}: it was deleted or moved while this shell was in it",
        next='change to a folder that exists: cd, or cd "$PWD" if it was made again',
    )


def _is_around(path: str, folder: str) -> bool:
    """Is the path in the folder, or one of those the folder is in?"""
    here = working_directory() or Path(os.sep)
    place, cache = here / path, here / folder
    return bool(path) and (place.is_relative_to(cache) or cache.is_relative_to(place))
