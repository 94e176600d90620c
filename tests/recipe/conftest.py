"""A small recipe to bend, and a folder to load it from."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtforge.errors.base import TrtforgeError
from trtforge.recipe.load import LoadedRecipe, load

GOOD = """\
target: host
backend: onnxruntime
engines:
  r50:
    model:
      onnx: m.onnx
    inputs:
      x:
        shape: [1, 3, 224, 224]
        preprocess: {kind: image, resize: 256, crop: [224, 224]}
    precision: int8
    calibration: {set: cal.yaml}
    verify: {set: v.yaml, at_least: 0.99}
"""


class Project:
    """A project folder with ``recipes/``; ``load`` reads recipes/r.yaml."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "recipes").mkdir()
        self.good = GOOD
        self.write("r.yaml", GOOD)

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.root / "recipes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def bend(self, *changes: tuple[str, str]) -> None:
        """Write r.yaml as the good recipe with each first text replaced by the second."""
        text = GOOD
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        self.write("r.yaml", text)

    def load(self, *overrides: str, **environ: str) -> LoadedRecipe:
        return load(self.root / "recipes" / "r.yaml", overrides=overrides, environ=environ)

    def fails(self, *overrides: str, **environ: str) -> TrtforgeError:
        with pytest.raises(TrtforgeError) as caught:
            self.load(*overrides, **environ)
        return caught.value


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)
