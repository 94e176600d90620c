"""The plugins that a TensorRT has by itself, asked in a process of its own: importing may crash without a driver."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping

from trtforge.errors.environment import MissingPackage
from trtforge.surgery.op import Creator

_ASK = """
import json, {module} as trt
{before}
registry = trt.get_plugin_registry()
found = registry.all_creators if hasattr(registry, "all_creators") else registry.plugin_creator_list
print(json.dumps([[each.name, each.plugin_version, each.plugin_namespace] for each in found]))
"""
SECONDS = 120


def ask(module: str, name: str, environment: Mapping[str, str], *, before: str = "", next_: str) -> frozenset[Creator]:
    """The registry of ``module``, called ``name`` to a person; ``before``: a line that loads plugins.

    Raises MissingPackage, with ``next_``.
    """
    question = [sys.executable, "-P", "-c", _ASK.format(module=module, before=before)]
    try:
        ran = subprocess.run(
            question, env=dict(environment), capture_output=True, text=True, check=False, timeout=SECONDS
        )
        why = ran.stderr.strip().rpartition("\n")[2] or f"it ended with code {ran.returncode}"
    except subprocess.TimeoutExpired:
        ran, why = None, f"it did not answer in {SECONDS} s"
    if ran is None or ran.returncode != 0:
        raise MissingPackage(f"{name} cannot be asked for its plugins", why=why, next=next_)
    return frozenset(Creator(*each) for each in json.loads(ran.stdout.strip().rpartition("\n")[2]))
