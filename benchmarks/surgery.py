"""Surgery on a 1.3 GB BERT-large with external weights: seconds and extra peak memory of each way.

    python benchmarks/surgery.py [--layers 24] [--repeats 3] [--folder DIR]

Each way runs in its own process; memory is the peak resident set above that of the process with its imports
done. Goals: trtforge <= 1.0 s and <= 60 MiB. Times depend on the machine; the memory hardly does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PASSES = ["upgrade-opset", "fold-constants", "infer-shapes", "remove-identity", "dead-code"]
HIDDEN, HEADS, INNER, VOCABULARY, POSITIONS = 1024, 16, 4096, 30522, 512

PRELUDE = """
import resource, sys, time, threading
from pathlib import Path
def peak():
    return int(next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM")).split()[1])
source, target = Path(sys.argv[1]), Path(sys.argv[2])
"""
MEASURE = """
import json
before, started = peak(), time.perf_counter()
note = work()
print(json.dumps({"seconds": time.perf_counter() - started, "mib": (peak() - before) / 1024, "note": str(note)}))
"""
WAYS = {
    "trtforge": f"""
from trtforge.graph import io
from trtforge.graph.surgery import perform
from trtforge.ort import import_onnxruntime
import_onnxruntime()
def work():
    result = perform(io.load(source), {PASSES!r})
    io.save(result.model, target)
    return "; ".join(f"{{r.name}} {{r.seconds:.2f}} s: {{r.reason}}" for r in result.reports)
""",
    "trtforge load + save": """
from trtforge.graph import io
def work():
    io.save(io.load(source), target)
""",
    "onnx load + save": """
import onnx
def work():
    onnx.save(onnx.load(source), target, save_as_external_data=True, location="out.data")
""",
    "graphsurgeon on the full model": """
import onnx, onnx_graphsurgeon as gs
def work():
    graph = gs.import_onnx(onnx.load(source)).cleanup().toposort()
    onnx.save(gs.export_onnx(graph), target, save_as_external_data=True, location="out.data")
""",
}


def build(folder: Path, layers: int, batch: int = 1, sequence: int = 384) -> Path:
    """A BERT of ``layers`` layers as PyTorch exports it at opset 13: shape chains, decomposed GELU and norms."""
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    block = np.random.default_rng(0).normal(0, 0.02, 1 << 22).astype(np.float32).tobytes()
    data = (folder / "bert.onnx_data").open("wb")

    def weight(name: str, *shape: int) -> str:
        size = int(np.prod(shape)) * 4
        tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", "bert.onnx_data"), ("offset", str(data.tell())), ("length", str(size))):
            tensor.external_data.add(key=key, value=value)
        for start in range(0, size, len(block)):
            data.write(block[: min(len(block), size - start)])
        weights.append(tensor)
        return name

    def node(op: str, *inputs: str, output: str = "", **attributes: object) -> str:
        output = output or f"/{op}_{len(nodes)}_output_0"
        nodes.append(helper.make_node(op, list(inputs), [output], name=f"/{op}_{len(nodes)}", **attributes))
        return output

    def constant(value: object, dtype: type = np.int64) -> str:
        return node("Constant", value=numpy_helper.from_array(np.array(value, dtype=dtype)))

    def size(tensor: str, axis: int) -> str:
        return node("Unsqueeze", node("Gather", node("Shape", tensor), constant(axis), axis=0), constant([0]))

    def linear(x: str, name: str, rows: int, columns: int) -> str:
        return node("Add", weight(f"{name}.bias", columns), node("MatMul", x, weight(f"{name}.weight", rows, columns)))

    def heads(x: str, perm: list[int]) -> str:
        split = [size(x, 0), size(x, 1), constant([HEADS]), constant([HIDDEN // HEADS])]
        return node("Transpose", node("Reshape", x, node("Concat", *split, axis=0)), perm=perm)

    def norm(x: str, name: str) -> str:
        centred = node("Sub", x, node("ReduceMean", x, axes=[-1]))
        variance = node("ReduceMean", node("Pow", centred, constant(2.0, np.float32)), axes=[-1])
        deviation = node("Sqrt", node("Add", variance, constant(1e-12, np.float32)))
        scaled = node("Mul", node("Div", centred, deviation), weight(f"{name}.weight", HIDDEN))
        return node("Add", scaled, weight(f"{name}.bias", HIDDEN))

    def gelu(x: str) -> str:
        erf = node("Erf", node("Div", x, constant(2.0**0.5, np.float32)))
        return node("Mul", node("Mul", x, node("Add", erf, constant(1.0, np.float32))), constant(0.5, np.float32))

    def attention(x: str, mask: str, name: str) -> str:
        query = heads(linear(x, f"{name}.query", HIDDEN, HIDDEN), [0, 2, 1, 3])
        key = heads(linear(x, f"{name}.key", HIDDEN, HIDDEN), [0, 2, 3, 1])
        value = heads(linear(x, f"{name}.value", HIDDEN, HIDDEN), [0, 2, 1, 3])
        scores = node("Div", node("MatMul", query, key), constant((HIDDEN / HEADS) ** 0.5, np.float32))
        context = node("MatMul", node("Softmax", node("Add", scores, mask), axis=-1), value)
        context = node("Transpose", context, perm=[0, 2, 1, 3])
        merged = node("Concat", size(context, 0), size(context, 1), constant([HIDDEN]), axis=0)
        return linear(node("Reshape", context, merged), f"{name}.output", HIDDEN, HIDDEN)

    mask = node("Cast", node("Unsqueeze", "attention_mask", constant([1, 2])), to=TensorProto.FLOAT)
    mask = node("Mul", node("Sub", constant(1.0, np.float32), mask), constant(-10000.0, np.float32))
    words = node("Gather", weight("embeddings.word", VOCABULARY, HIDDEN), "input_ids")
    places = node("Slice", weight("embeddings.position", POSITIONS, HIDDEN), constant([0]), size("input_ids", 1))
    x = norm(node("Add", words, places), "embeddings.norm")
    for layer in range(layers):
        x = norm(node("Add", attention(x, mask, f"layer.{layer}.attention"), x), f"layer.{layer}.attention.norm")
        inner = gelu(linear(x, f"layer.{layer}.inner", HIDDEN, INNER))
        x = norm(node("Add", linear(inner, f"layer.{layer}.outer", INNER, HIDDEN), x), f"layer.{layer}.norm")
    node("Add", node("MatMul", x, weight("qa.weight", HIDDEN, 2)), weight("qa.bias", 2), output="logits")
    data.close()
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, [batch, sequence])
        for name in ("input_ids", "attention_mask")
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, sequence, 2])]
    graph = helper.make_graph(nodes, "bert", inputs, outputs, weights)
    path = folder / "bert.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
    )
    print(f"{path}: {len(nodes)} nodes, {(folder / 'bert.onnx_data').stat().st_size / 1e9:.2f} GB of weights")
    return path


def measure(way: str, source: Path) -> dict[str, object]:
    with tempfile.TemporaryDirectory(dir=source.parent) as target:
        command = [sys.executable, "-c", PRELUDE + WAYS[way] + MEASURE, str(source), f"{target}/out.onnx"]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, object] = json.loads(printed.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the model is written; a temporary folder by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        source = build(Path(folder), arguments.layers)
        print(f"{'':34} {'seconds':>8} {'extra MiB':>10}   median of {arguments.repeats}")
        for way in WAYS:
            results = [measure(way, source) for _ in range(arguments.repeats)]
            seconds, mib = (statistics.median([float(str(r[key])) for r in results]) for key in ("seconds", "mib"))
            print(f"{way:34} {seconds:8.2f} {mib:10.0f}", flush=True)
            if results[-1]["note"] != "None":
                print("   " + str(results[-1]["note"]).replace("; ", "\n   "))


if __name__ == "__main__":
    main()
