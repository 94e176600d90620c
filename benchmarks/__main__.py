"""`python -m benchmarks`: every benchmark, one after the other, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ALL = ("startup", "surgery", "int8_cpu", "calibration", "windows", "unet3d")


def main() -> int:
    for name in ALL:
        print(f"\n## {name}\n", flush=True)
        if code := subprocess.run([sys.executable, Path(__file__).with_name(f"{name}.py")], check=False).returncode:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
