"""Run everything that wants a GPU or a DLA on this machine, and write down what came of it, to be sent.

    python tests/gpu/report.py [--out validation.md] [--quick]

The report has the machine, versions, every test with its result, and what the benchmarks print. Names of user and
host, and folders outside the repository, are taken out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[2]
BENCHMARKS = ("gpu_windows.py", "gpu_plugins.py")
PLACES = "home|root|Users|tmp|var|opt|usr|mnt|media|data|srv"
MARKS = {"passed": "pass", "failed": "**FAIL**", "error": "**ERROR**", "skipped": "skipped"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("validation.md"))
    parser.add_argument("--quick", action="store_true", help="no benchmarks")
    arguments = parser.parse_args()
    cases, ended = tests()
    parts = ["# trtforge on hardware", machine(), table(cases), *failures(cases)]
    if not arguments.quick:
        parts += [benchmark(name) for name in BENCHMARKS]
    arguments.out.write_text(anonymous("\n\n".join(parts)) + "\n")
    counts = {result: sum(case["result"] == result for case in cases) for result in MARKS}
    print(f"{arguments.out}: " + ", ".join(f"{number} {result}" for result, number in counts.items()))
    return ended


def machine() -> str:
    done = run("-m", "trtforge.cli.main", "doctor", "--json")
    facts = json.loads(done.stdout)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return "\n".join(
        [
            f"{datetime.now(UTC):%Y-%m-%d}, trtforge {commit.stdout.strip()[:12] or '(no commit)'}",
            "",
            *device(),
            "",
            "```json",
            json.dumps(facts, indent=1),
            "```",
        ]
    )


def device() -> list[str]:
    """What NVIDIA's own tools say this is, where they are."""
    wanted = ("nvidia-smi", "--query-gpu=name,compute_cap,driver_version,memory.total", "--format=csv,noheader")
    lines = []
    if shutil.which("nvidia-smi"):
        lines += subprocess.run(wanted, capture_output=True, text=True, check=False).stdout.strip().splitlines()
    for file in (Path("/proc/device-tree/model"), Path("/etc/nv_tegra_release")):
        if file.exists():
            lines.append(file.read_text(errors="replace").strip("\0\n").splitlines()[0])
    return lines or ["no NVIDIA device that a tool here knows"]


def tests() -> tuple[list[dict[str, str]], int]:
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        done = run("-m", "pytest", "-q", "-p", "no:xdist", str(ROOT / "tests" / "gpu"), f"--junitxml={results}")
        sys.stdout.write(done.stdout)
        if not results.exists():
            sys.exit(done.stderr)
        return [case(each) for each in ET.parse(results).iter("testcase")], done.returncode


def case(element: ET.Element) -> dict[str, str]:
    kinds = {"failure": "failed", "error": "error", "skipped": "skipped"}
    found = next((child for child in element if child.tag in kinds), None)
    name = f"{element.get('classname', '').rpartition('.')[2]}: {element.get('name')}"
    if found is None:
        return {"name": name, "result": "passed", "why": "", "seconds": element.get("time", "")}
    text = found.text or ""
    why = found.get("message", "") or text
    return {"name": name, "result": kinds[found.tag], "why": why, "text": text, "seconds": element.get("time", "")}


def table(cases: list[dict[str, str]]) -> str:
    rows = [
        f"| {each['name']} | {MARKS[each['result']]} | {float(each['seconds'] or 0):.1f} | {first_line(each['why'])} |"
        for each in cases
    ]
    return "\n".join(["## Tests", "", "| test | result | s | why |", "|---|---|---|---|", *rows])


def first_line(text: str) -> str:
    return text.strip().split("\n")[0][:160].replace("|", "\\|")


def failures(cases: list[dict[str, str]]) -> list[str]:
    return [
        f"### {each['name']}\n\n```\n{each['text'][-4000:]}\n```"
        for each in cases
        if each["result"] in ("failed", "error")
    ]


def benchmark(name: str) -> str:
    done = run(str(ROOT / "benchmarks" / name))
    return f"## benchmarks/{name}\n\n```\n{done.stdout[-8000:]}{done.stderr[-4000:]}\n```"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def anonymous(text: str) -> str:
    """Without the places and names of this machine: of a path elsewhere only its last part stays."""
    text = text.replace(str(ROOT), ".").replace(sys.prefix, "VENV").replace(str(Path.home()), "~")
    text = re.sub(rf"(?<![\w.~])/(?:{PLACES})/(?:[\w.-]+/)*([\w.-]+)", r".../\1", text)
    for name, stand_in in ((os.environ.get("USER", ""), "user"), (platform.node().partition(".")[0], "host")):
        if len(name) > 2 and name not in ("root", "localhost"):
            text = re.sub(rf"\b{re.escape(name)}\b", stand_in, text)
    return text


if __name__ == "__main__":
    sys.exit(main())
