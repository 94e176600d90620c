"""BERT encoders as ONNX graphs, spelled as PyTorch's exporter spells them, of any size and with any weights.

    python recipes/bert/topology.py OUT.onnx [--size large] [--form mlperf] [--layers N] [--opset 13] [--external]

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", 2019: embeddings of
words, places and segments, then layers of self-attention and of two linear layers with GELU between them, each with its
input added and normalised. The norm is LayerNormalization from opset 17 on, as the exporter has it, and nine nodes
before. Shapes are computed in the graph, as tracing leaves them.

Three forms of inputs and outputs:

    torch    input_ids, attention_mask, token_type_ids int64 [batch, length]
             start_logits, end_logits float32 [batch, length], or sentence_embedding [batch, hidden]
    mlperf   the same under the names of MLPerf's model: input_ids, input_mask, segment_ids; output_start_logits, ...
    packed   input_ids, segment_ids int32 [tokens], without padding, cu_seqlens int32 [batch + 1], where each sequence
             begins and the last one ends, max_seqlen int32 [longest], whose length alone counts; logits [tokens]
"""

from __future__ import annotations

import argparse
import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, get_args

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
Form = Literal["torch", "mlperf", "packed"]
Head = Literal["squad", "sentence"]

MASKED = -10000.0
"""What is added to the scores of padding, as BERT has it; the smallest float32, which later exports add, is no half."""

FIRST_OPSET, PACKED_OPSET, NORM_OPSET = 11, 13, 17
"""Of all; of the packed form, whose Equal and GreaterOrEqual read integers; of LayerNormalization."""


@dataclass(frozen=True)
class Size:
    """``inner``: width between the two linear layers. ``epsilon``: added to variances."""

    hidden: int
    heads: int
    layers: int
    inner: int
    vocabulary: int = 30522
    positions: int = 512
    segments: int = 2
    epsilon: float = 1e-12


SIZES = {
    "minilm": Size(384, 12, 6, 1536),
    "base": Size(768, 12, 12, 3072),
    "large": Size(1024, 16, 24, 4096),
}

INPUTS: dict[Form, tuple[str, ...]] = {
    "torch": ("input_ids", "attention_mask", "token_type_ids"),
    "mlperf": ("input_ids", "input_mask", "segment_ids"),
    "packed": ("input_ids", "segment_ids", "cu_seqlens", "max_seqlen"),
}


def bert(
    size: Size,
    *,
    form: Form = "torch",
    head: Head = "squad",
    shape: Sequence[int | str] = ("batch", "length"),
    opset: int = 13,
    weights: Mapping[str, Array] | None = None,
    seed: int = 0,
    data: Path | None = None,
) -> onnx.ModelProto:
    """The model, with its weights inside, or in the file ``data``, which is written tensor by tensor.

    Args:
        form: names and layout of inputs and outputs.
        head: logits of an answer's first and last token, or the mean over the tokens brought to length 1.
        shape: of the inputs, symbols or numbers: [batch, length], packed [tokens, longest].
        opset: 11 and later; packed 13 and later.
        weights: float32 by the names of transformers' BertModel, linear layers [out, in], and ``qa_outputs.*``;
            more than the network has are ignored. Left out: random ones of ``seed``.
        data: the model must be saved in the same folder.

    Raises ValueError for weights that do not fit, and for a head or an opset that a form does not have.
    """
    if opset < (PACKED_OPSET if form == "packed" else FIRST_OPSET):
        raise ValueError(f"the form {form} has no opset {opset}")
    if form == "packed" and head == "sentence":
        raise ValueError("the mean over a sentence is not written for packed sequences")
    with contextlib.ExitStack() as files:
        stream = None if data is None else files.enter_context(data.open("wb"))
        stored = _Weights(weights, seed, stream, "" if data is None else data.name)
        return _model(_Graph(size, opset, stored, form == "packed"), form, head, shape)


def weights_of(model: onnx.ModelProto) -> dict[str, Array]:
    """The initializers by name, linear layers [out, in], as :func:`bert` takes them; float32."""
    made = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {name: value.T if _is_linear(name) else value for name, value in made.items()}


def _is_linear(name: str) -> bool:
    return name.endswith(".weight") and "LayerNorm" not in name and "embeddings" not in name


def _model(graph: _Graph, form: Form, head: Head, shape: Sequence[int | str]) -> onnx.ModelProto:
    names = INPUTS[form]
    if form == "packed":
        tokens, longest = shape
        rows, dims, outer = [tokens], [[tokens], [tokens], ["sequences"], [longest]], TensorProto.INT32
        x, mask = graph.packed_embeddings(*names[:3])
    else:
        rows, dims, outer = list(shape), [list(shape)] * 3, TensorProto.INT64
        x, mask = graph.embeddings(*names)
    for layer in range(graph.size.layers):
        x = graph.layer(x, mask, f"encoder.layer.{layer}")
    if head == "squad":
        prefix = "output_" if form == "mlperf" else ""
        outputs = dict.fromkeys(graph.squad(x, prefix), rows)
    else:
        outputs = {graph.sentence(x, names[1]): [rows[0], graph.size.hidden]}
    made = helper.make_graph(
        graph.nodes,
        "bert",
        [helper.make_tensor_value_info(name, outer, each) for name, each in zip(names, dims, strict=True)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, each) for name, each in outputs.items()],
        graph.weights.tensors,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", graph.opset)], ir_version=8)


class _Weights:
    """Initializers as they are asked for. ``stream``: their bytes go there; ``location`` is its name in the model."""

    def __init__(
        self, given: Mapping[str, Array] | None, seed: int, stream: IO[bytes] | None = None, location: str = ""
    ) -> None:
        self.tensors: list[TensorProto] = []
        self._given, self._random = given, np.random.default_rng(seed)
        self._stream, self._location = stream, location

    def add(self, name: str, *shape: int, scale: float, mean: float = 0.0, transposed: bool = False) -> str:
        """``transposed``: stored the other way round than given."""
        stored = shape[::-1] if transposed else shape
        if self._given is None:
            value = self._random.standard_normal(stored, np.float32)
            value *= np.float32(scale)
            value += np.float32(mean)
        elif name not in self._given or self._given[name].shape != shape:
            found = self._given[name].shape if name in self._given else "nothing"
            raise ValueError(f"weight {name} must have the shape {shape}, given is {found}")
        else:
            value = np.asarray(self._given[name], np.float32)
            value = np.ascontiguousarray(value.T) if transposed else value
        if self._stream is None:
            self.tensors.append(numpy_helper.from_array(value, name))
        else:
            self.tensors.append(self._outside(name, value, self._stream))
        return name

    def _outside(self, name: str, value: Array, stream: IO[bytes]) -> TensorProto:
        tensor = TensorProto(
            name=name, dims=value.shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL
        )
        place = (("location", self._location), ("offset", str(stream.tell())), ("length", str(value.nbytes)))
        for key, entry in place:
            tensor.external_data.add(key=key, value=entry)
        stream.write(value.astype("<f4", copy=False).data)
        return tensor


class _Graph:
    """Nodes have the names of the modules they are in, ``/encoder/layer.0/output/dense/MatMul``, as exported ones have.

    ``packed``: tensors are [tokens, ...] and not [batch, length, ...].
    """

    def __init__(self, size: Size, opset: int, weights: _Weights, packed: bool) -> None:
        self.size, self.opset, self.weights, self.packed = size, opset, weights, packed
        self.nodes: list[onnx.NodeProto] = []
        self._scope = ""
        self._named: Counter[str] = Counter()

    @contextlib.contextmanager
    def module(self, name: str) -> Iterator[None]:
        """The nodes made inside are in this module; ``name`` has dots."""
        before, self._scope = self._scope, "/" + re.sub(r"\.(?!\d)", "/", name)
        yield
        self._scope = before

    def named(self, op: str) -> str:
        """The next name of a node."""
        name = f"{self._scope}/{op}"
        self._named[name] += 1
        return name if self._named[name] == 1 else f"{name}_{self._named[name] - 1}"

    def node(self, op: str, *inputs: str, output: str = "", **attributes: object) -> str:
        name = self.named(op)
        self.nodes.append(helper.make_node(op, list(inputs), [output or f"{name}_output_0"], name, **attributes))
        return str(self.nodes[-1].output[0])

    def constant(self, value: object, dtype: type = np.int64) -> str:
        return self.node("Constant", value=numpy_helper.from_array(np.array(value, dtype)))

    def number(self, value: float) -> str:
        return self.constant(value, np.float32)

    def with_axes(self, op: str, x: str, axes: Sequence[int], output: str = "", **attributes: object) -> str:
        """Unsqueeze, Squeeze or ReduceSum, whose axes became an input with opset 13."""
        if self.opset < 13:
            return self.node(op, x, output=output, axes=axes, **attributes)
        return self.node(op, x, self.constant(axes), output=output, **attributes)

    def mean(self, x: str) -> str:
        if self.opset < 18:
            return self.node("ReduceMean", x, axes=[-1])
        return self.node("ReduceMean", x, self.constant([-1]))

    def length(self, tensor: str, axis: int) -> str:
        """int64 [1]."""
        found = self.node("Gather", self.node("Shape", tensor), self.constant(axis), axis=0)
        return self.with_axes("Unsqueeze", found, [0])

    def embedding(self, name: str, rows: int, indices: str) -> str:
        table = self.weights.add(f"embeddings.{name}_embeddings.weight", rows, self.size.hidden, scale=0.02)
        return self.node("Gather", table, indices)

    def linear(self, x: str, name: str, inputs: int, outputs: int) -> str:
        weight = self.weights.add(f"{name}.weight", outputs, inputs, scale=inputs**-0.5, transposed=True)
        bias = self.weights.add(f"{name}.bias", outputs, scale=0.02)
        with self.module(name):
            return self.node("Add", bias, self.node("MatMul", x, weight))

    def norm(self, x: str, name: str) -> str:
        weight = self.weights.add(f"{name}.weight", self.size.hidden, scale=0.02, mean=1.0)
        bias = self.weights.add(f"{name}.bias", self.size.hidden, scale=0.02)
        with self.module(name):
            return self._normalised(x, weight, bias)

    def _normalised(self, x: str, weight: str, bias: str) -> str:
        if self.opset >= NORM_OPSET:
            return self.node("LayerNormalization", x, weight, bias, axis=-1, epsilon=self.size.epsilon)
        centred = self.node("Sub", x, self.mean(x))
        variance = self.mean(self.node("Pow", centred, self.number(2.0)))
        deviation = self.node("Sqrt", self.node("Add", variance, self.number(self.size.epsilon)))
        return self.node("Add", self.node("Mul", self.node("Div", centred, deviation), weight), bias)

    def gelu(self, x: str) -> str:
        erf = self.node("Erf", self.node("Div", x, self.number(2**0.5)))
        return self.node("Mul", self.node("Mul", x, self.node("Add", erf, self.number(1.0))), self.number(0.5))

    def embeddings(self, ids: str, mask: str, segments: str) -> tuple[str, str]:
        """The first layer's input [batch, length, hidden] and what is added to scores, [batch, 1, 1, length]."""
        hidden = self.with_axes("Unsqueeze", self.with_axes("Unsqueeze", mask, [1]), [2])
        kept = self.node("Cast", hidden, to=TensorProto.FLOAT)
        added = self.node("Mul", self.node("Sub", self.number(1.0), kept), self.number(MASKED))
        numbers = self.constant(np.arange(self.size.positions)[None])
        places = self.node("Slice", numbers, self.constant([0]), self.length(ids, 1), self.constant([1]))
        return self._embedded(ids, places, segments), added

    def packed_embeddings(self, ids: str, segments: str, bounds: str) -> tuple[str, str]:
        """The first layer's input [tokens, hidden] and what is added to scores, [tokens, tokens]."""
        whole = self.node("Cast", bounds, to=TensorProto.INT64)
        ends = self.node("Slice", whole, self.constant([1]), self.constant([np.iinfo(np.int64).max]))
        count = self.with_axes("Squeeze", self.length(ids, 0), [0])
        tokens = self.node("Range", self.constant(0), count, self.constant(1))
        passed = self.node("GreaterOrEqual", self.with_axes("Unsqueeze", tokens, [1]), ends)
        numbers = self.node("Cast", passed, to=TensorProto.INT64)
        sequence = self.with_axes("ReduceSum", numbers, [1], keepdims=1)
        same = self.node("Equal", sequence, self.node("Transpose", sequence, perm=[1, 0]))
        added = self.node("Where", same, self.number(0.0), self.number(MASKED))
        starts = self.node("Gather", whole, self.with_axes("Squeeze", sequence, [1]))
        return self._embedded(ids, self.node("Sub", tokens, starts), segments), added

    def _embedded(self, ids: str, places: str, segments: str) -> str:
        words = self.embedding("word", self.size.vocabulary, ids)
        kinds = self.embedding("token_type", self.size.segments, segments)
        x = self.node("Add", words, kinds)
        x = self.node("Add", x, self.embedding("position", self.size.positions, places))
        return self.norm(x, "embeddings.LayerNorm")

    def layer(self, x: str, mask: str, name: str) -> str:
        hidden, inner = self.size.hidden, self.size.inner
        with self.module(f"{name}.attention.self"):
            context = self.attention(x, mask, f"{name}.attention.self")
        made = self.linear(context, f"{name}.attention.output.dense", hidden, hidden)
        x = self.add_and_norm(made, x, f"{name}.attention.output")
        made = self.linear(x, f"{name}.intermediate.dense", hidden, inner)
        with self.module(f"{name}.intermediate"):
            made = self.gelu(made)
        return self.add_and_norm(self.linear(made, f"{name}.output.dense", inner, hidden), x, f"{name}.output")

    def add_and_norm(self, made: str, x: str, name: str) -> str:
        with self.module(name):
            total = self.node("Add", made, x)
        return self.norm(total, f"{name}.LayerNorm")

    def attention(self, x: str, mask: str, name: str) -> str:
        hidden, heads, lead = self.size.hidden, self.size.heads, 1 if self.packed else 2
        order, keys = ([1, 0, 2], [1, 2, 0]) if self.packed else ([0, 2, 1, 3], [0, 2, 3, 1])

        def split(part: str, perm: list[int]) -> str:
            made = self.linear(x, f"{name}.{part}", hidden, hidden)
            sizes = [self.length(made, axis) for axis in range(lead)]
            sizes += [self.constant([heads]), self.constant([hidden // heads])]
            shape = self.node("Concat", *sizes, axis=0)
            return self.node("Transpose", self.node("Reshape", made, shape), perm=perm)

        product = self.node("MatMul", split("query", order), split("key", keys))
        scores = self.node("Add", self.node("Div", product, self.number((hidden / heads) ** 0.5)), mask)
        value = split("value", order)
        context = self.node("MatMul", self.node("Softmax", scores, axis=lead + 1), value)
        context = self.node("Transpose", context, perm=order)
        sizes = [self.length(context, axis) for axis in range(lead)]
        return self.node("Reshape", context, self.node("Concat", *sizes, self.constant([hidden]), axis=0))

    def squad(self, x: str, prefix: str) -> tuple[str, str]:
        """Names of the logits of the first token and of the last."""
        logits = self.linear(x, "qa_outputs", self.size.hidden, 2)
        parts = [f"{prefix}start_logits", f"{prefix}end_logits"]
        halves = [f"/{part}" for part in parts]
        split = helper.make_node("Split", [logits], halves, self.named("Split"), axis=-1)
        if self.opset < 13:
            split.attribute.append(helper.make_attribute("split", [1, 1]))
        else:
            split.input.append(self.constant([1, 1]))
        self.nodes.append(split)
        for half, part in zip(halves, parts, strict=True):
            self.with_axes("Squeeze", half, [-1], part)
        return parts[0], parts[1]

    def sentence(self, x: str, mask: str) -> str:
        """The mean over the tokens that are none of padding, divided by its length."""
        shape = self.node("Shape", x)
        spread = self.node("Expand", self.with_axes("Unsqueeze", mask, [-1]), shape)
        kept = self.node("Cast", spread, to=TensorProto.FLOAT)
        total = self.with_axes("ReduceSum", self.node("Mul", x, kept), [1], keepdims=0)
        count = self.with_axes("ReduceSum", kept, [1], keepdims=0)
        mean = self.node("Div", total, self.node("Clip", count, self.number(1e-9)))
        if self.opset < 18:
            long = self.node("ReduceL2", mean, axes=[1], keepdims=1)
        else:
            long = self.node("ReduceL2", mean, self.constant([1]), keepdims=1)
        long = self.node("Expand", self.node("Clip", long, self.number(1e-12)), self.node("Shape", mean))
        return self.node("Div", mean, long, output="sentence_embedding")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=sorted(SIZES), default="base")
    parser.add_argument("--form", choices=get_args(Form), default="torch")
    parser.add_argument("--head", choices=get_args(Head), default="squad")
    parser.add_argument("--layers", type=int, help="fewer than the size has")
    parser.add_argument("--shape", nargs=2, default=("batch", "length"), help="sizes of the inputs, or their symbols")
    parser.add_argument("--opset", type=int, default=13)
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    parser.add_argument("--external", action="store_true", help="weights in OUT.onnx_data")
    options = parser.parse_args()
    size = SIZES[options.size]
    model = bert(
        size if options.layers is None else replace(size, layers=options.layers),
        form=options.form,
        head=options.head,
        shape=[int(each) if each.isdigit() else each for each in options.shape],
        opset=options.opset,
        seed=options.seed,
        data=options.out.with_suffix(".onnx_data") if options.external else None,
    )
    onnx.save(model, options.out)


if __name__ == "__main__":
    main()
