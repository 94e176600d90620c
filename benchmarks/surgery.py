"""Surgery on a 1.3 GB BERT-large with external weights: seconds and extra peak memory of each way.

    python benchmarks/surgery.py [--layers 24] [--repeats 3] [--folder DIR]

Each way runs in its own process; memory is the peak resident set above that of the process with its imports
done. Goals: trtforge <= 0.5 s and <= 60 MiB, with the plugin too. Times depend on the machine; the memory hardly does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from models import SIZES, bert

PASSES = ["upgrade-opset", "fold-constants", "infer-shapes", "remove-identity", "dead-code"]

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
    "trtforge, qkv-to-context for an A100": f"""
from trtforge import plugins
from trtforge.graph import io
from trtforge.graph.passes.registry import run
from trtforge.graph.shapes import freeze_inputs
from trtforge.graph.surgery import perform
from trtforge.ort import import_onnxruntime
from trtforge.surgery.choose import apply, choose
from trtforge.surgery.op import Situation
import_onnxruntime()
op = plugins.ops()["qkv-to-context"]
def work():  # what `trtforge build` does before the compiler
    model = perform(io.load(source), {PASSES!r}).model
    model = freeze_inputs(model, dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (1, 384)))
    model, _ = run(model, ["fold-constants", "infer-shapes"])
    situation = Situation("tensorrt_rtx", "fp16", "8.0")
    plan = choose(model, [op], {{}}, situation)
    made, _ = apply(model, model, plan, situation)
    io.save(made, target)
    return f"{{len(plan.swapped)}} of {{len(plan.choices)}} found by lowering {{plan.choices[0].lowering_name}}"
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


def build(folder: Path, layers: int) -> Path:
    """A BERT-large of ``layers`` layers as PyTorch exports it at opset 13: shape chains, decomposed GELU and norms."""
    path, data = folder / "bert.onnx", folder / "bert.onnx_data"
    model = bert(replace(SIZES["large"], layers=layers), shape=(1, 384), data=data)
    path.write_bytes(model.SerializeToString())
    print(f"{path}: {len(model.graph.node)} nodes, {data.stat().st_size / 1e9:.2f} GB of weights")
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
