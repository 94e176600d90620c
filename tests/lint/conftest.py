"""Tiny models in ONNX's textual syntax, and engines, for lint rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from trtforge.graph.model import Model
from trtforge.lint.rule import Finding
from trtforge.lint.run import lint
from trtforge.recipe.models import Engine
from trtforge.scales.table import ScaleTable, TensorRange
from trtforge.targets.load import get

Check = Callable[..., list[Finding]]


def model(body: str, opset: int = 17) -> Model:
    """The model of a textual graph; values declared in <> without a value become weights of zeros."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{body}')
    graph = proto.graph
    for domain in sorted({node.domain for node in graph.node} - {""}):
        proto.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    produced = {name for node in graph.node for name in node.output}
    for value in [value for value in graph.value_info if value.name not in produced]:
        kind = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        weights = np.zeros([dim.dim_value for dim in kind.shape.dim], dtype)
        graph.initializer.append(onnx.numpy_helper.from_array(weights, value.name))
        graph.value_info.remove(value)
    return Model(proto)


def engine(inputs: dict[str, Any], precision: str = "int8", **more: Any) -> Engine:
    return Engine.model_validate(
        {
            "model": {"onnx": "m.onnx"},
            "inputs": {name: given if isinstance(given, dict) else {"shape": given} for name, given in inputs.items()},
            "precision": precision,
            "calibration": {"scales": "scales.json"} if precision == "int8" else None,
            **more,
        }
    )


@pytest.fixture
def check() -> Check:
    """check(code, body, inputs, target=..., ...) -> the findings of that rule only; ``scales``: tensor names."""

    def run(
        code: str,
        body: str,
        inputs: dict[str, Any],
        *,
        target: str = "a30",
        opset: int = 17,
        scales: Sequence[str] | None = None,
        backend: str | None = None,
        tensorrt: str | None = None,
        jetpack: str | None = None,
        root: Path | None = None,
        **more: Any,
    ) -> list[Finding]:
        table = None if scales is None else ScaleTable({name: TensorRange(-1.0, 1.0, 1) for name in scales})
        findings = lint(
            model(body, opset),
            engine(inputs, **more),
            get(target),
            table,
            backend=backend,  # type: ignore[arg-type]
            tensorrt=tensorrt,
            jetpack=jetpack,
            root=root,
        )
        return [finding for finding in findings if finding.code == code]

    return run
