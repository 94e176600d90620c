"""Backends by name, without importing what they wrap."""

from __future__ import annotations

import subprocess
import sys

import pytest

from trtforge.backends import registry
from trtforge.errors.backend import NeedsDevice


@pytest.mark.parametrize("name", registry.names())
def test_every_name_of_a_recipe_has_a_backend(name):
    backend = registry.get(name)
    assert backend.name == name
    assert backend.platform
    here = backend.availability()
    if not (here.can_compile and here.can_run):
        assert here.why
        assert here.next


def test_asking_around_imports_nothing_heavy():
    code = (
        "import sys; from trtforge.backends import registry; registry.availabilities(); "
        "[registry.get(name).tool_versions() for name in registry.names()]; "
        "print([m for m in ('onnx', 'onnxruntime', 'tensorrt', 'tensorrt_rtx', 'polygraphy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_native_tensorrt_waits_for_the_device(residual, tmp_path):
    backend = registry.get("tensorrt")
    assert not backend.availability().can_compile
    with pytest.raises(NeedsDevice) as caught:
        backend.compile(residual.request(tmp_path))
    assert caught.value.exit_code == 10
    with pytest.raises(NeedsDevice):
        backend.load(tmp_path, {})
