"""benchmarks/gpu_plugins.py up to the GPU: what it counts, what it uploads, what it says where there is none."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.plugins.res2.stage import shapes
from trtforge.backends.tensorrt_rtx_.environment import driver_problem
from trtforge.plugins.res2.launch import launches

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "gpu_plugins.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_plugins", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_operations_are_those_of_the_weights(benchmark) -> None:
    for mid in (32, 64):
        stage = benchmark.Stage(mid, 3, 56)
        products = sum(int(np.prod(shape)) for shape in shapes(mid)) * 3 * 56 * 56
        assert sum(stage.operations(block) for block in "abc") == 2 * products
        counted = [stage.bytes(block) for block in "abc"]
        assert counted == [channels * 3 * 56 * 56 for channels in (64 + 4 * mid, 8 * mid, 8 * mid)]


def test_all_that_the_launches_name_is_there(benchmark) -> None:
    stage = benchmark.Stage(32, 2, 16)
    there = {name: array.nbytes for name, array in stage.arrays().items()} | stage.scratch()
    named = {each for one in launches(32, 2, 16, 16) for each in one.arguments if isinstance(each, str)}
    assert named == set(there)
    assert there["x"] == 2 * 64 * 16 * 16
    assert there["y"] == there["scratch"] == 2 * 128 * 16 * 16


def test_the_table_holds_times_against_the_larger_floor(benchmark) -> None:
    stage = benchmark.Stage(64, 1, 56)
    (row,) = benchmark.rows(stage, {"b": 1e-5}, 200e9, 36e12)
    assert row == "| 1 | b | 1.6 | 10.0 | 8.0 | 12.1 | 121% |"


def test_the_unfused_graph_is_the_float_function(benchmark) -> None:
    graph = benchmark.Stage(32, 1, 8).graph().proto.graph
    assert len(graph.node) == 22
    assert [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim] == [1, 64, 8, 8]
    assert [dim.dim_value for dim in graph.output[0].type.tensor_type.shape.dim] == [1, 128, 8, 8]


@pytest.mark.skipif(not driver_problem(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so() -> None:
    command = [sys.executable, str(SCRIPT), "--batches", "1", "2", "--unfused"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("this benchmark needs an NVIDIA GPU: ")
