"""What the command line costs: `--help`, `targets`, a build that has nothing to do, and builds that do.

    python benchmarks/startup.py [--repeats 9]

Median wall seconds, and beside it the same over the time of `python -c pass` in the same rounds, which a slow or
busy machine does not change much. Goals: `--help` <= 0.3 s, a build with nothing to do <= 0.5 s.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FORGE = [str(Path(sys.executable).with_name("trtforge"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"TRTFORGE_CACHE": f"{folder}/cache"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program has its bytecode
        once = {
            f"`build {name}`, first": timed([*FORGE, "build", "-q", recipe(name), *store(folder, name)], environment)
            for name in ("host", "a100", "a2")
        }
        ways = {
            "`python -c pass`": [sys.executable, "-c", "pass"],
            "`trtforge --help`": [*FORGE, "--help"],
            "`trtforge targets`": [*FORGE, "targets"],
            "`build host`, nothing to do": [*FORGE, "build", "-q", recipe("host"), *store(folder, "host")],
            "`build a100`, nothing to do": [*FORGE, "build", "-q", recipe("a100"), *store(folder, "a100")],
        }
        rounds = [{name: timed(command, environment) for name, command in ways.items()} for _ in range(repeats)]
    print("| command | seconds | x bare Python |\n|---|---:|---:|")
    for name in ways:
        seconds = statistics.median(row[name] for row in rounds)
        ratio = statistics.median(row[name] / row["`python -c pass`"] for row in rounds)
        print(f"| {name} | {seconds:.2f} | {ratio:.1f} |")
    for name, seconds in once.items():
        print(f"| {name} | {seconds:.2f} | |")


def recipe(name: str) -> str:
    return str(ROOT / "recipes" / f"{name}.yaml")


def store(folder: str, name: str) -> list[str]:
    return ["--store", f"{folder}/{name}"]


def timed(command: list[str], environment: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
