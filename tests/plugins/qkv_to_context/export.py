"""Makes the graphs of this folder: one attention, hidden size 32, 4 heads, as each exporter writes it.

    pip install torch onnx onnxscript transformers; python export.py graphs

torch 2.13 and transformers 5.24 made those that are here. `ts` is the TorchScript exporter, `dynamo` the newer one.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel

HIDDEN, HEADS, BATCH, LENGTH = 32, 4, 2, 8


class Separate(nn.Module):
    """Three projections; ``mask``: "", "add", "fill" (masked_fill) or "bool" (of scaled_dot_product_attention)."""

    def __init__(self, mask: str, fused: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(HIDDEN, HIDDEN) for _ in range(4))
        self.dropout = nn.Dropout(0.1)
        self.mask, self.fused = mask, fused

    def heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], HEADS, HIDDEN // HEADS).permute(0, 2, 1, 3)

    def forward(self, x: Tensor, tokens: Tensor | None = None) -> Tensor:
        q, k, v = self.heads(self.q(x)), self.heads(self.k(x)), self.heads(self.v(x))
        context = self.at_once(q, k, v, tokens) if self.fused else self.by_hand(q, k, v, tokens)
        context = context.permute(0, 2, 1, 3).contiguous()
        return x + self.out(context.view(context.shape[0], context.shape[1], HIDDEN))

    def at_once(self, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor | None) -> Tensor:
        mask = None
        if self.mask == "bool":
            mask = tokens[:, None, None, :].bool().expand(-1, -1, q.shape[2], -1)
        elif self.mask == "add":
            mask = (1 - tokens[:, None, None, :].float()) * torch.finfo(torch.float32).min
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def by_hand(self, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor | None) -> Tensor:
        scores = q @ k.transpose(-1, -2) / math.sqrt(HIDDEN // HEADS)
        if self.mask == "add":
            scores = scores + (1 - tokens[:, None, None, :].float()) * torch.finfo(torch.float32).min
        elif self.mask == "fill":
            scores = scores.masked_fill(tokens[:, None, None, :] == 0, -1e9)
        return self.dropout(scores.softmax(-1)) @ v


class Merged(nn.Module):
    """One projection, taken apart by ``chunk`` of the columns or by unbinding an axis of 3, as in ViT."""

    def __init__(self, chunk: bool) -> None:
        super().__init__()
        self.qkv, self.out, self.chunk = nn.Linear(HIDDEN, 3 * HIDDEN), nn.Linear(HIDDEN, HIDDEN), chunk

    def forward(self, x: Tensor) -> Tensor:
        b, s, _ = x.shape
        if self.chunk:
            q, k, v = (part.view(b, s, HEADS, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        else:
            q, k, v = self.qkv(x).reshape(b, s, 3, HEADS, HIDDEN // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        attention = ((q * (HIDDEN // HEADS) ** -0.5) @ k.transpose(-2, -1)).softmax(-1)
        return x + self.out((attention @ v).transpose(1, 2).reshape(b, s, HIDDEN))


class MultiHead(nn.Module):
    """torch's own module: sequence first, rows flattened for the output projection."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(HIDDEN, HEADS, batch_first=True)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        return x + self.attention(x, x, x, key_padding_mask=padding, need_weights=False)[0]


class Bert(nn.Module):
    """A layer of transformers' BERT between embeddings and feed-forward."""

    def __init__(self, attention: str) -> None:
        super().__init__()
        config = BertConfig(
            hidden_size=HIDDEN,
            num_hidden_layers=1,
            num_attention_heads=HEADS,
            intermediate_size=HIDDEN,
            vocab_size=20,
            max_position_embeddings=16,
        )
        config._attn_implementation = attention
        self.model = BertModel(config, add_pooling_layer=False)

    def forward(self, ids: Tensor, tokens: Tensor) -> Tensor:
        return self.model(input_ids=ids, attention_mask=tokens).last_hidden_state


def export(folder: Path, name: str, module: nn.Module, inputs: Sequence[tuple[str, Tensor]], fixed: bool) -> None:
    names, tensors = zip(*inputs, strict=True)
    for dynamo in (False, True):
        path = folder / f"{'dynamo' if dynamo else 'ts'}-{name}.onnx"
        open_axes: dict[str, object] = {}
        if dynamo and not fixed:
            axes = {0: torch.export.Dim("batch", min=2, max=64), 1: torch.export.Dim("seq", min=2, max=16)}
            open_axes = {"dynamic_shapes": [axes for _ in names]}
        elif not fixed:
            open_axes = {"dynamic_axes": {each: {0: "batch", 1: "seq"} for each in names}}
        torch.onnx.export(
            module.eval(),
            tensors,
            str(path),
            input_names=list(names),
            output_names=["y"],
            opset_version=18 if dynamo else 17,
            dynamo=dynamo,
            external_data=False,
            **open_axes,
        )
        strip(path)


def strip(path: Path) -> None:
    """Without what takes space and no rule reads: stack traces and notes."""
    model = onnx.load(path)
    model.graph.ClearField("metadata_props")
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in model.graph.value_info:
        value.ClearField("metadata_props")
    onnx.save(model, path)


def main(folder: Path) -> None:
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    x = ("x", torch.randn(BATCH, LENGTH, HIDDEN))
    tokens = ("tokens", torch.ones(BATCH, LENGTH, dtype=torch.int64))
    for fused, mask in ((False, ""), (False, "add"), (False, "fill"), (True, ""), (True, "add"), (True, "bool")):
        name = f"{'sdpa' if fused else 'eager'}{'-' + mask if mask else ''}"
        export(folder, name, Separate(mask, fused), [x, tokens] if mask else [x], fixed=False)
    export(folder, "merged-chunk", Merged(chunk=True), [x], fixed=False)
    export(folder, "merged-unbind", Merged(chunk=False), [x], fixed=False)
    # with open axes the TorchScript exporter writes the traced sequence length into this one
    export(folder, "multihead", MultiHead(), [x, ("padding", torch.zeros(BATCH, LENGTH, dtype=torch.bool))], fixed=True)
    ids = ("ids", torch.randint(0, 20, (BATCH, LENGTH)))
    for attention in ("eager", "sdpa"):
        export(folder, f"bert-{attention}", Bert(attention), [ids, tokens], fixed=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
