"""Downloads that are whole, checked and kept: a file gets its name in the cache only after its digest fits."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any, NoReturn

from trtforge.cache import cache_dir
from trtforge.digest import sha256_file
from trtforge.errors.recipe import DownloadFailed, ModelDigestMismatch
from trtforge.progress import QUIET, Progress, Task
from trtforge.recipe.document import display
from trtforge.recipe.paths import check_url, redacted

ATTEMPTS = 4
"""Transfers tried when the connection breaks; each continues where the last one ended."""

TIMEOUT_S = 30
CHUNK = 1 << 20

_BROKEN = (http.client.HTTPException, ConnectionError, TimeoutError)


def download(url: str, sha256: str, *, where: str = "", progress: Progress = QUIET) -> Path:
    """The file of this digest, from the cache or else from ``url``. Safe when several processes ask at once.

    The bytes go to ``<sha256>.part``, which survives a kill and is continued next time (HTTP ranges; begun anew
    where the server has none), and become ``<sha256>.onnx`` once their digest is right.

    Raises DownloadFailed, ModelDigestMismatch, InsecureUrl.
    """
    from filelock import FileLock

    check_url(url, where=where)
    folder = cache_dir() / "models"
    final, part = folder / f"{sha256}.onnx", folder / f"{sha256}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{sha256}.lock"):
            if final.is_file() and sha256_file(final) == sha256:
                return final
            _fill(part, url, sha256, where, progress)
            part.replace(final)
    except OSError as error:
        raise DownloadFailed(
            f"cannot keep the download in {display(folder)}",
            where=where,
            why=f"{os.strerror(error.errno) if error.errno else error}",
            next="free some space there, or name another folder: export TRTFORGE_CACHE=...",
        ) from error
    return final


def _fill(part: Path, url: str, sha256: str, where: str, progress: Progress) -> None:
    """Download until ``part`` has the digest."""
    continued = part.exists()
    _transfer(part, url, where, progress)
    digest = sha256_file(part)
    if digest != sha256 and continued:
        # the old part may be of another file, or of a run that lost power in mid-write
        progress.log(f"the continued download of {redacted(url)} has a wrong digest; starting anew")
        part.unlink()
        _transfer(part, url, where, progress)
        digest = sha256_file(part)
    if digest != sha256:
        part.unlink()
        raise ModelDigestMismatch(
            f"{redacted(url)} is not the model that the recipe pins",
            where=where,
            why=f"sha256 in the recipe: {sha256}\n    sha256 downloaded:    {digest}",
            next="check the URL; if the new file is the one you want, pin its digest and calibrate again",
        )


def _transfer(part: Path, url: str, where: str, progress: Progress) -> None:
    """Bring the rest of the file; a broken connection is tried again as long as tries remain."""
    broken: Exception | None = None
    for attempt in range(ATTEMPTS):
        if attempt:
            progress.log(f"connection lost ({_reason(broken)}); continuing at {part.stat().st_size} bytes")
        try:
            _transfer_once(part, url, progress)
            return
        except urllib.error.HTTPError as error:
            if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                _refuse(url, where, f"the server answers {error.code} {error.reason}", error)
            if not part.exists() or part.stat().st_size == 0:
                _refuse(url, where, "the server answers 416 to a request for the whole file", error)
            return  # the part is whole already, or longer than the file and so of another one: the digest decides
        except urllib.error.URLError as error:
            if broken is None:
                _refuse(url, where, f"no connection: {_reason(error.reason)}", error)
            broken = error
        except _BROKEN as error:
            part.touch()
            broken = error
    _refuse(url, where, f"the connection broke {ATTEMPTS} times: {_reason(broken)}", broken)


def _transfer_once(part: Path, url: str, progress: Progress) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "trtforge", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(url, headers=headers)
    with _opener().open(request, timeout=TIMEOUT_S) as answer:
        continues = answer.status == http.client.PARTIAL_CONTENT
        if continues and not str(answer.headers.get("Content-Range", "")).startswith(f"bytes {have}-"):
            raise http.client.HTTPException(f"asked for bytes from {have}, got {answer.headers.get('Content-Range')}")
        length = answer.headers.get("Content-Length")
        expected = int(length) if length is not None and length.isdigit() else None
        total = None if expected is None else expected + (have if continues else 0)
        with part.open("ab" if continues else "wb") as file:
            with progress.task(f"download {Path(redacted(url)).name} (bytes)", total) as task:
                if continues:
                    task.advance(have)
                received = _copy(answer, file, task)
            file.flush()
            os.fsync(file.fileno())
        if expected is not None and received < expected:
            raise http.client.HTTPException(f"{received} of {expected} bytes came")


def _copy(answer: Any, file: IO[bytes], task: Task) -> int:
    received = 0
    while chunk := answer.read(CHUNK):
        file.write(chunk)
        received += len(chunk)
        task.advance(len(chunk))
    return received


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to a URL that could stand in a recipe itself."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        check_url(newurl, where=f"redirect from {redacted(req.full_url)}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_SafeRedirects)


def _reason(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _refuse(url: str, where: str, why: str, cause: Exception | None) -> NoReturn:
    raise DownloadFailed(
        f"cannot download {redacted(url)}",
        where=where,
        why=why,
        next="try again: what arrived is kept; or fetch the file another way and give its path",
    ) from cause
