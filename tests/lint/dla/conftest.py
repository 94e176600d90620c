"""Placements of whole networks and of a few nodes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from trtforge.graph.model import Model
from trtforge.graph.passes.registry import run
from trtforge.lint.context import Context
from trtforge.lint.run import examine
from trtforge.recipe.models import Engine
from trtforge.scales.table import ScaleTable, TensorRange
from trtforge.targets.load import get

Examine = Callable[..., Context]


@pytest.fixture(scope="session")
def topology() -> Callable[[str], ModuleType]:
    """The script that builds a recipe's network, by the recipe's folder."""

    def load(recipe: str) -> ModuleType:
        path = Path(__file__).parents[3] / "recipes" / recipe / "topology.py"
        spec = util.spec_from_file_location(f"topology_{recipe}", path)
        assert spec is not None and spec.loader is not None
        module = util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def examined() -> Examine:
    """examined(text or proto, inputs, ...) -> the context; values declared in <> without one become zeros.

    ``scales``: tensor names, or their largest absolute values.
    """

    def make(
        graph: str | onnx.ModelProto,
        inputs: dict[str, Sequence[int]],
        passes: Sequence[str] = (),
        *,
        target: str = "orin-agx-64gb/dla",
        tensorrt: str | None = "8.6",
        jetpack: str | None = None,
        opset: int = 17,
        precision: str = "int8",
        scales: Sequence[str] | dict[str, float] | None = None,
        **more: Any,
    ) -> Context:
        model = Model(graph if isinstance(graph, onnx.ModelProto) else _parsed(graph, opset))
        if passes:
            model, _ = run(model, passes)
        engine = Engine.model_validate(
            {
                "model": {"onnx": "m.onnx"},
                "inputs": {name: {"shape": list(shape)} for name, shape in inputs.items()},
                "precision": precision,
                "calibration": {"scales": "s.json"} if precision == "int8" else None,
                **more,
            }
        )
        seen = scales if isinstance(scales, dict) or scales is None else dict.fromkeys(scales, 1.0)
        table = None if seen is None else ScaleTable({name: TensorRange(-amax, amax, 1) for name, amax in seen.items()})
        return examine(model, engine, get(target), table, tensorrt=tensorrt, jetpack=jetpack)

    return make


def _parsed(body: str, opset: int) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{body}')
    graph = proto.graph
    produced = {name for node in graph.node for name in node.output}
    for value in [value for value in graph.value_info if value.name not in produced]:
        kind = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        weights = np.zeros([dim.dim_value for dim in kind.shape.dim], dtype)
        graph.initializer.append(onnx.numpy_helper.from_array(weights, value.name))
        graph.value_info.remove(value)
    return proto
