"""A small project to build from, for the tests of the command line and of the pipeline."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import io
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SHAPE = (1, 3, 16, 16)

HOST = """\
target: host
backend: onnxruntime
engines:
  net:
    model: {onnx: ../models/net.onnx}
    inputs: {x: {shape: [1, 3, 16, 16]}}
    surgery: [infer-shapes]
    precision: int8
    calibration: {set: ../data/cal.yaml}
    verify: {set: ../data/held.yaml, metric: cosine, at_least: 0.9}
"""


SCAN = """\
target: host
backend: onnxruntime
engines:
  seg:
    model: {onnx: ../models/seg.onnx}
    inputs:
      x:
        shape: [1, 1, 8, 8, 8]
        preprocess: {kind: volume, orientation: IPL, clip: [-100, 300], std: 100}
    windows: {classes: [background, organ, lesion], per_volume: 2}
    surgery: [infer-shapes]
    precision: int8
    calibration: {set: ../data/ward.yaml}
    verify: {set: ../data/ward_held.yaml, metric: dice, at_least: 0.9}
"""


@dataclass(frozen=True)
class Done:
    """A command that ended: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Workshop:
    """A project folder: `recipes/host.yaml`, a network of two convolutions, and samples for it.

    ``forge`` runs a command in this process (imports are paid once), ``start`` in one of its own.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cache = root / ".cache"
        self.store = root / "engines" / "host"
        for name in ("recipes", "models", "data"):
            (root / name).mkdir(exist_ok=True)
        (root / "pyproject.toml").touch()  # marks the project's root
        self.write_model()
        self.write_set("cal", range(6))
        self.write_set("held", range(6, 9))
        self.recipe("host", HOST)

    def write_model(self, name: str = "net", *, seed: int = 0, channels: int = 8) -> Path:
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        rng = self.rng(seed)
        weights = {
            "w0": rng.normal(0, 0.3, (channels, 3, 3, 3)),
            "b0": rng.normal(0, 0.1, channels),
            "w1": rng.normal(0, 0.2, (4, channels, 3, 3)),
            "b1": rng.normal(0, 0.1, 4),
        }
        graph = helper.make_graph(
            [
                helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], name="conv0", pads=[1] * 4),
                helper.make_node("Relu", ["c0"], ["r0"], name="relu0"),
                helper.make_node("Conv", ["r0", "w1", "b1"], ["c1"], name="conv1", pads=[1] * 4),
                helper.make_node("GlobalAveragePool", ["c1"], ["p0"], name="pool"),
                helper.make_node("Flatten", ["p0"], ["y"], name="flat"),
            ],
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE[1:]])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
            [numpy_helper.from_array(value.astype("float32"), key) for key, value in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        path = self.root / "models" / f"{name}.onnx"
        onnx.save(model, path)
        return path

    def write_sample(self, number: int, *, scale: float = 1.0) -> Path:
        return self.save(number, self.rng(number + 100).normal(0, scale, SHAPE[1:]).astype("float32"))

    def save(self, number: int, array: Any) -> Path:
        import numpy as np

        path = self.root / "data" / f"{number}.npy"
        np.save(path, array)
        return path

    def write_set(self, name: str, numbers: range) -> Path:
        for number in numbers:
            self.write_sample(number)
        path = self.root / "data" / f"{name}.yaml"
        path.write_text("samples:\n" + "".join(f"  - {number}.npy\n" for number in numbers))
        return path

    def recipe(self, name: str, text: str) -> Path:
        path = self.root / "recipes" / f"{name}.yaml"
        path.write_text(text)
        return path

    def bend(self, name: str, *changes: tuple[str, str]) -> Path:
        """A recipe like `host`, with each first text replaced by the second."""
        text = HOST
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        return self.recipe(name, text)

    def forge(self, *args: str | Path) -> Done:
        from trtforge.cli.main import entry

        out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
        argv, handler = sys.argv, signal.getsignal(signal.SIGTERM)
        sys.argv = ["trtforge", *map(str, args)]
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
                entry()
        finally:
            sys.argv = argv
            signal.signal(signal.SIGTERM, handler)
            os.environ.pop("TRTFORGE_DEBUG", None)
        printed = []
        for stream in (out, err):
            stream.flush()
            printed.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
        code = ended.value.code
        assert isinstance(code, int)
        return Done(code, *printed)

    def build(self, *args: str | Path, recipe: str = "host", code: int = 0) -> dict[str, Any]:
        """`trtforge build --json`, which must end with ``code``; its result, or its error."""
        done = self.forge("build", f"recipes/{recipe}.yaml", "--json", *args)
        assert done.code == code, done.err + done.out
        result: dict[str, Any] = done.json
        return result

    def start(self, *args: str | Path, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "trtforge.cli.main", *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.root,
            env=os.environ | environment,
        )

    def run(self, *args: str | Path, **environment: str) -> Done:
        process = self.start(*args, **environment)
        out, err = process.communicate(timeout=120)
        return Done(process.returncode, out, err)

    def terminal(self, *args: str | Path, columns: int = 100, **environment: str) -> str:
        """What a command shows in a terminal, of both streams, with line ends as a program writes them."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        process = subprocess.Popen(
            [sys.executable, "-m", "trtforge.cli.main", *map(str, args)],
            stdout=theirs,
            stderr=theirs,
            cwd=self.root,
            env=os.environ | {"TERM": "xterm-256color", **environment},
        )
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 1 << 16)
            except OSError:  # Linux: the other end is closed
                break
            if not piece:
                break
            shown += piece
        process.wait(timeout=60)
        os.close(ours)
        return shown.decode().replace("\r\n", "\n")

    def files(self, folder: Path | None = None) -> list[str]:
        """Every file below a folder, hidden ones too, as sorted relative paths."""
        folder = folder or self.root
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    @staticmethod
    def rng(seed: int) -> Any:
        import numpy as np

        return np.random.default_rng(seed)


class Ward(Workshop):
    """A workshop with a network that segments scans: `recipes/scan.yaml`, and scans that it segments without a flaw.

    It knows an organ of 50 HU and a lesion of 200 HU in it, by their values alone.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.write_network()
        for number in range(1, 6):
            self.write_scan(f"case_{number}", number)
        listed = {"ward": (1, 2, 3), "ward_held": (4, 5)}
        for name, numbers in listed.items():
            lines = [
                f'  - {{file: case_{n}/imaging.nii.gz, labels: "{{folder}}/segmentation.nii.gz"}}\n' for n in numbers
            ]
            (root / "data" / f"{name}.yaml").write_text("samples:\n" + "".join(lines))
        self.recipe("scan", SCAN)

    def write_network(self) -> None:
        """Scores 0, x and 2x - 1: class 1 above 0, class 2 above 1."""
        import numpy as np
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        weight = np.array([0, 1, 2], np.float32).reshape(3, 1, 1, 1, 1)
        graph = helper.make_graph(
            [helper.make_node("Conv", ["x", "w", "b"], ["y"], name="conv")],
            "seg",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, "d", "h", "w_"])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, "d", "h", "w_"])],
            [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([0, 0, -1], np.float32), "b")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(model, self.root / "models" / "seg.onnx")

    def write_scan(self, name: str, seed: int, shape: tuple[int, int, int] = (10, 12, 9)) -> Path:
        """`data/NAME/imaging.nii.gz` and its truth, voxels of 2 x 1 x 1 mm, axes to inferior, posterior, left."""
        import nibabel
        import numpy as np

        rng = self.rng(seed)
        grid = np.indices(shape).astype(float)
        middle = np.array(shape)[:, None, None, None] / 2 + rng.uniform(-1, 1, (3, 1, 1, 1))
        distance = (((grid - middle) / np.array(shape)[:, None, None, None]) ** 2).sum(axis=0)
        truth = (distance < 0.12).astype(np.uint8) + (distance < 0.03)
        values = np.array([-50, 50, 200])[truth] + rng.integers(-20, 21, shape)
        affine = np.array([[0, 0, -1, 30], [0, -1, 0, 20], [-2, 0, 0, 10], [0, 0, 0, 1]], float)
        folder = self.root / "data" / name
        folder.mkdir(exist_ok=True)
        for file, voxels in (("imaging", values.astype(np.int16)), ("segmentation", truth.astype(np.uint8))):
            image = nibabel.Nifti1Image(voxels, affine)
            image.header.set_xyzt_units("mm")
            nibabel.save(image, folder / f"{file}.nii.gz")
        return folder / "imaging.nii.gz"


@pytest.fixture(scope="session")
def script() -> Callable[[str], ModuleType]:
    """A script of the repository, which is in no package, as a module: by its path from the root.

    What it imports from its own folder is forgotten again: several folders have a `topology.py`.
    """

    def load(path: str) -> ModuleType:
        file = Path(__file__).parents[1] / path
        modules, folders = set(sys.modules), list(sys.path)
        spec = importlib.util.spec_from_file_location(f"script_{file.stem}", file)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path[:] = folders
            for name in set(sys.modules) - modules - {spec.name}:
                if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == file.parent:
                    del sys.modules[name]
        return module

    return load


@pytest.fixture
def ward(workshop: Workshop) -> Ward:
    return Ward(workshop.root)


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    from trtforge.engines.key import source_digest

    source_digest.cache_clear()  # so that this process and those it starts agree after an edit of trtforge
    root = tmp_path / "project"
    root.mkdir()
    made = Workshop(root)
    monkeypatch.chdir(root)
    monkeypatch.setenv("TRTFORGE_CACHE", str(made.cache))
    monkeypatch.setenv("TRTFORGE_THREADS", "1")  # tests run side by side
    for name in ("TRTFORGE_DEBUG", "NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    yield made
