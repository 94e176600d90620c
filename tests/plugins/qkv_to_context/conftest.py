"""One attention as a graph, spelled in every way this folder's tests ask for, and what runs it before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from trtforge.graph.model import Model
from trtforge.graph.shapes import infer_shapes
from trtforge.ort import open_session, session_options
from trtforge.plugins.qkv_to_context.rewrite import OP
from trtforge.surgery.op import Lowered, Lowering, Situation
from trtforge.surgery.rules import Found, Match, View
from trtforge.surgery.swap import names_of, swap

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Spelling:
    """How a graph says it. ``twist``: what makes it something else, "" for a true attention."""

    batch: int = 2
    length: int = 6
    heads: int = 4
    head_size: int = 8
    rows: str = "batch"  # batch [B,S,E], time [S,B,E], flat [B*S,E], flat_time [S*B,E], gemm (flattened first)
    weights: str = "separate"  # separate, blocks [3,N,H], by_head [N,3,H]
    parts: str = "split"  # split, slice, gather: how one weight's product is taken apart
    heads_by: str = "rank4"  # rank4, rank3: [B*N,S,H]
    scale: str = "div"  # none, div, mul, query, both
    mask: str = ""  # "", add, keep, drop, added_bool
    mask_shape: str = "keys"  # keys [B,1,1,S], square [B,1,S,S], shared [S,S]
    axis: int = -1
    guard: bool = False
    bias: bool = True
    open_axes: bool = False
    twist: str = ""


@dataclass
class Drawing:
    nodes: list[NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)
    count: int = 0

    def add(self, operator: str, inputs: Sequence[str], outputs: int | str = 1, **attributes: Any) -> Any:
        self.count += 1
        names = [outputs] if isinstance(outputs, str) else [f"t{self.count}_{part}" for part in range(outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), names, name=f"n{self.count}", **attributes))
        return names[0] if len(names) == 1 else names

    def const(self, values: Any, dtype: Any = np.float32) -> str:
        self.count += 1
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype), f"c{self.count}"))
        return f"c{self.count}"


def draw(how: Spelling) -> Model:
    """The graph, opset 18: inputs x and, with a mask, ``mask``; output y, the context times a weight."""
    b, s, n, h = how.batch, how.length, how.heads, how.head_size
    e = n * h
    rng = np.random.default_rng(0)
    made = Drawing()
    rows: list[int | str] = {"time": [s, b], "flat": [b * s], "flat_time": [s * b]}.get(
        how.rows, ["batch" if how.open_axes else b, s]
    )
    x = made.add("Reshape", ["x", made.const([-1, e], np.int64)]) if how.rows == "gemm" else "x"

    def project(source: str, width: int) -> str:
        weight = made.const(rng.normal(0, 0.3, (width, e) if how.rows == "gemm" else (e, width)))
        bias = made.const(rng.normal(0, 0.3, width))
        if how.rows == "gemm":
            return str(made.add("Gemm", [source, weight, *([bias] if how.bias else [])], transB=1))
        product = made.add("MatMul", [source, weight])
        return str(made.add("Add", [bias, product])) if how.bias else str(product)

    lead = {"time": [0, 0], "batch": [0, 0], "flat": [b, s], "flat_time": [s, b], "gemm": [-1, s]}[how.rows]
    if how.weights == "separate":
        other = "z" if how.twist == "cross" else x
        parts = [project(x, e), project(other, e), project(x, e)]
        shaped = [made.add("Reshape", [part, made.const([*lead, n, h], np.int64)]) for part in parts]
    else:
        shaped = _apart(made, project(x, 3 * e), how, lead)
    time_first = how.rows in ("time", "flat_time")
    order = [1, 2, 0, 3] if time_first else [0, 2, 1, 3]
    if how.twist == "heads_inside":  # K's columns are read as [H, N] in place of [N, H]
        swapped = made.add("Reshape", [shaped[1], made.const([0, 0, h, n], np.int64)])
        shaped[1] = made.add("Transpose", [swapped], perm=[0, 1, 3, 2])
    orders = [order, [1, 2, 0, 3] if how.twist == "batch_as_keys" else order, order]
    q, k, v = (made.add("Transpose", [part], perm=each) for part, each in zip(shaped, orders, strict=True))
    k = made.add("Transpose", [k], perm=[0, 1, 3, 2])
    q, k, v, factor = _scaled(made, how, q, k, v)
    if how.heads_by == "rank3":
        q, v = (made.add("Reshape", [part, made.const([-1, s, h], np.int64)]) for part in (q, v))
        k = made.add("Reshape", [k, made.const([-1, h, s], np.int64)])
    scores = made.add("MatMul", [q, k])
    if factor != 1.0:
        scores = made.add("Mul" if how.scale == "mul" else "Div", [scores, made.const(factor)])
    scores = _masked(made, how, scores)
    axis = how.axis if how.axis < 0 else (2 if how.heads_by == "rank3" else 3)
    probabilities = made.add("Softmax", [scores], axis=-2 if how.twist == "axis" else axis)
    if how.guard:
        undefined = made.add("IsNaN", [probabilities])
        probabilities = made.add("Where", [undefined, made.const(0.0), probabilities])
    context = made.add("MatMul", [probabilities, v])
    if how.heads_by == "rank3":
        context = made.add("Reshape", [context, made.const([-1, n, s, h], np.int64)])
    context = made.add("Transpose", [context], perm=[2, 0, 1, 3] if time_first else [0, 2, 1, 3])
    flat = how.rows in ("flat", "flat_time", "gemm")
    last = [-1, e] if flat else [0, 0, e]
    context = made.add("Reshape", [context, made.const(last, np.int64)], "context")
    made.add("MatMul", [context, made.const(rng.normal(0, 0.3, (e, e)))], "y")
    outputs = ["y", *([probabilities] if how.twist == "second_output" else [])]
    return _model(how, made, rows, e, outputs)


def _apart(made: Drawing, merged: str, how: Spelling, lead: list[int]) -> list[str]:
    """[.., 3E] as three tensors [.., N, H]."""
    n, h = how.heads, how.head_size
    e = n * h
    if how.weights == "by_head":
        split = made.add("Reshape", [merged, made.const([*lead, n, 3, h], np.int64)])
        if how.parts == "gather":
            return [made.add("Gather", [split, made.const(part, np.int64)], axis=3) for part in range(3)]
        cut = made.add("Split", [split, made.const([1, 1, 1], np.int64)], 3, axis=-2)
        return [made.add("Squeeze", [part, made.const([3], np.int64)]) for part in cut]
    if how.parts == "split":
        cut = made.add("Split", [merged], 3, axis=-1, num_outputs=3)
    elif how.parts == "slice":
        ends = [(part * e, (part + 1) * e if part < 2 else 1 << 62) for part in range(3)]
        cut = [
            made.add("Slice", [merged, *(made.const([value], np.int64) for value in (first, last, -1))])
            for first, last in ends
        ]
    else:
        split = made.add("Reshape", [merged, made.const([*lead, 3, e], np.int64)])
        cut = [made.add("Gather", [split, made.const(part, np.int64)], axis=2) for part in range(3)]
    return [made.add("Reshape", [part, made.const([*lead, n, h], np.int64)]) for part in cut]


def _scaled(made: Drawing, how: Spelling, q: str, k: str, v: str) -> tuple[str, str, str, float]:
    """Operands, and the number the scores are divided or multiplied by."""
    root = math.sqrt(how.head_size)
    if how.twist == "scaled_v":
        v = made.add("Mul", [v, made.const(2.0)])
    if how.scale == "query":
        q = made.add("Mul", [made.const(1 / root), q])
    elif how.scale == "both":
        q, k = (made.add("Div", [part, made.const(math.sqrt(root))]) for part in (q, k))
    return q, k, v, {"div": root, "mul": 1 / root}.get(how.scale, 1.0)


def _masked(made: Drawing, how: Spelling, scores: str) -> str:
    if how.mask == "add":
        return str(made.add("Add", [scores, "mask"]))
    if how.mask == "added_bool":
        return str(made.add("Add", [scores, made.add("Where", ["mask", made.const(0.0), made.const(-np.inf)])]))
    fill = made.const(-1.0 if how.twist == "weak_fill" else -1e9)
    if how.mask == "keep":
        return str(made.add("Where", ["mask", scores, fill]))
    return str(made.add("Where", ["mask", fill, scores])) if how.mask == "drop" else scores


def _model(how: Spelling, made: Drawing, rows: list[int | str], hidden: int, outputs: list[str]) -> Model:
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [*rows, hidden])]
    if how.twist == "cross":
        inputs.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [*rows, hidden]))
    if how.mask:
        kind = TensorProto.FLOAT if how.mask == "add" else TensorProto.BOOL
        inputs.append(helper.make_tensor_value_info("mask", kind, mask_shape(how)))
    graph = helper.make_graph(
        made.nodes,
        "attention",
        inputs,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        made.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return infer_shapes(Model(model))


def mask_shape(how: Spelling) -> list[int]:
    b = how.batch * how.heads if how.heads_by == "rank3" else how.batch
    shape = {"keys": [b, 1, 1, how.length], "square": [b, 1, how.length, how.length], "shared": [how.length] * 2}
    found = shape[how.mask_shape]
    return [found[0], *found[2:]] if how.heads_by == "rank3" and len(found) == 4 else found


class Bench:
    """The op at work on one model."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.view = View(model)

    @property
    def found(self) -> Found:
        return OP.rule.find(self.view)

    @property
    def match(self) -> Match:
        found = self.found
        assert len(found.matches) == 1, [miss.sentence for miss in found.near]
        return found.matches[0]

    @property
    def why(self) -> str:
        """The one near miss."""
        found = self.found
        assert not found.matches
        assert len(found.near) == 1, found.near
        return found.near[0].why

    def as_function(self) -> Model:
        match = self.match
        return self._put(match, OP.function(match, self.view, names_of(self.model)))

    def lowered(self, lowering: Lowering, situation: Situation) -> Model:
        match = self.match
        assert lowering.refuses(match, self.view, situation) == ""
        return self._put(match, lowering.lower(match, self.view, situation, names_of(self.model)))

    def _put(self, match: Match, lowered: Lowered) -> Model:
        return swap(self.model, [(match, lowered)])


def run(model: Model, feeds: dict[str, Array], *, output: str = "y", fusions: bool = True) -> Array:
    options = session_options(threads=1)
    if not fusions:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = open_session(model.proto, None, options)
    return np.asarray(session.run([output], {value.name: feeds[value.name] for value in session.get_inputs()})[0])


def feeds_of(model: Model, seed: int, *, batch: int = 2, length: int = 8) -> dict[str, Array]:
    """Random inputs; no row of a mask is all true or all false."""
    rng = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for value in model.proto.graph.input:
        kind = value.type.tensor_type
        shape = [dim.dim_value or {"batch": batch, "seq": length}[dim.dim_param] for dim in kind.shape.dim]
        hidden = rng.random(shape) < 0.4
        hidden[..., 0], hidden[..., -1] = False, True
        if kind.elem_type == TensorProto.BOOL:
            feeds[value.name] = hidden
        elif kind.elem_type == TensorProto.INT64:
            feeds[value.name] = rng.integers(0, 20, shape) if value.name == "ids" else (~hidden).astype(np.int64)
        elif value.name == "mask":
            feeds[value.name] = np.where(hidden, np.float32(-1e9), np.float32(0))
        else:
            feeds[value.name] = rng.normal(size=shape).astype(np.float32)
    return feeds


def assert_same(one: Array, other: Array) -> None:
    assert one.shape == other.shape
    assert np.isfinite(one).all()
    np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5 * float(np.abs(one).max()))


@pytest.fixture(scope="session")
def tools() -> Any:
    """This file's names, for tests in importlib mode."""
    from types import SimpleNamespace

    return SimpleNamespace(
        Spelling=Spelling,
        draw=draw,
        Bench=Bench,
        run=run,
        feeds_of=feeds_of,
        assert_same=assert_same,
        names_of=names_of,
        OP=OP,
    )
