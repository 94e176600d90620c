"""The table of targets: complete, consistent, with a provenance for every figure, and equal to its YAML source."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from trtforge.errors.targets import UnknownTarget
from trtforge.targets import compile as compiler
from trtforge.targets.dla_layers import dla_layers
from trtforge.targets.load import get, jetpacks, keys, version_tuple
from trtforge.targets.model import FIGURES

GOLDEN = Path(__file__).parent / "golden"
ORIGINS = {"cross-checked", "recalled", "computed", "measured"}

WANTED = [
    "host",
    "a100-sxm-80gb",
    "a100-sxm-40gb",
    "a100-pcie-80gb",
    "a100-pcie-40gb",
    "a30",
    "a2",
    "t4",
    "l4",
    "h100-sxm-80gb",
    "h100-pcie-80gb",
    "orin-agx-64gb/gpu",
    "orin-agx-64gb/dla",
    "orin-agx-32gb/gpu",
    "orin-agx-32gb/dla",
    "orin-nx-16gb/gpu",
    "orin-nx-16gb/dla",
    "orin-nx-8gb/gpu",
    "orin-nx-8gb/dla",
    "orin-nano-8gb/gpu",
    "xavier-agx/gpu",
    "xavier-agx/dla",
    "xavier-nx/gpu",
    "xavier-nx/dla",
]


def test_every_promised_target_is_there() -> None:
    assert set(WANTED) <= set(keys())
    assert len(keys()) == len(set(keys()))


@pytest.mark.parametrize("path", compiler.rendered())
def test_compiled_tables_are_current(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == compiler.rendered()[path], "run: python -m trtforge.targets.compile"


@pytest.mark.parametrize("name", ["a100-sxm-80gb", "a2", "orin-agx-64gb/dla", "xavier-nx/gpu"])
def test_golden_json(name: str) -> None:
    golden = json.loads((GOLDEN / f"{name.replace('/', '_')}.json").read_text(encoding="utf-8"))
    assert json.loads(json.dumps(get(name).to_json())) == golden


@pytest.mark.parametrize("key", keys())
def test_record_is_consistent(key: str) -> None:
    target = get(key)
    assert target.key == key
    assert target.device == key.split("/", maxsplit=1)[0]
    assert target.name
    given = {name for name in FIGURES if getattr(target, name) is not None}
    given |= {"dla"} if target.dla else set()
    given |= {"power_modes"} if target.power_modes else set()
    assert set(target.provenance) == given
    assert all(entry.origin in ORIGINS and entry.source for entry in target.provenance.values())
    assert all(getattr(target, name) > 0 for name in given & set(FIGURES))
    if target.kind == "host":
        assert target.sm is None and target.host is not None
        return
    assert target.sm is not None and target.sm.count(".") == 1
    assert target.memory_gb is not None and target.bandwidth_gb_s is not None and target.tdp_w is not None
    assert target.host is None
    assert (target.kind == "discrete") == (target.family is None)
    assert target.unified_memory == (target.kind != "discrete")
    assert (target.dla is not None) == target.is_dla == key.endswith("/dla")
    assert key.endswith("/gpu") == (target.kind == "soc-gpu")


@pytest.mark.parametrize("key", [key for key in keys() if key.endswith("/dla")])
def test_dla_targets_sit_beside_a_gpu_target_of_the_same_device(key: str) -> None:
    dla, gpu = get(key), get(key.replace("/dla", "/gpu"))
    for name in ("sm", "family", "memory_gb", "memory_type", "bandwidth_gb_s", "tdp_w", "tdp_min_w", "tensorrt_max"):
        assert getattr(dla, name) == getattr(gpu, name), name
    assert dla.dla is not None
    assert dla.dla.generation == (1 if key.startswith("xavier") else 2)
    assert 1 <= dla.dla.cores <= 2
    assert dla.dla.structured_sparsity == dla.dla.softmax == (dla.dla.generation == 2)


def test_power_modes_of_agx_orin_fall_and_halve_their_sparse_peak() -> None:
    for key in ("orin-agx-64gb/gpu", "orin-agx-64gb/dla"):
        modes = get(key).power_modes
        assert [mode.name for mode in modes] == ["MAXN", "50W", "30W", "15W"]
        assert all(mode.int8_dense_tops * 2 == mode.int8_sparse_tops for mode in modes)
        assert sorted((mode.int8_dense_tops for mode in modes), reverse=True) == [
            mode.int8_dense_tops for mode in modes
        ]
    assert get("orin-agx-64gb/dla").power_modes[0].int8_dense_tops == get("orin-agx-64gb/dla").int8_dense_tops


def test_rates_of_discrete_gpus_keep_the_two_to_one_of_their_tensor_cores() -> None:
    for target in map(get, keys()):
        if target.kind == "discrete":
            assert target.int8_dense_tops == pytest.approx(2 * (target.fp16_dense_tflops or 0), rel=0.002)


def test_jetpacks_are_in_order_and_name_known_families() -> None:
    rows = jetpacks()
    versions = [version_tuple(row.version) for row in rows]
    assert None not in versions
    assert versions == sorted(versions)  # type: ignore[type-var]
    assert len(set(versions)) == len(versions)
    families = {get(key).family for key in keys()} | {"thor"}
    for row in rows:
        assert set(row.dla) <= set(row.families) <= families
        assert version_tuple(row.tensorrt) and version_tuple(row.cuda)
        assert row.provenance.origin in ORIGINS and row.provenance.source
        json.dumps(row.to_json())
    assert {row.version: row.tensorrt for row in rows}["6.2.1"] == "10.3.0"


@pytest.mark.parametrize(
    ("asked", "answers"),
    [
        ("orin-agx-64gb", ["orin-agx-64gb/gpu", "orin-agx-64gb/dla"]),
        ("a100", ["a100-sxm-80gb", "a100-pcie-40gb"]),
        ("A30", ["a30"]),
        ("orin-agx-64/dla", ["orin-agx-64gb/dla"]),
        ("h100-sxm", ["h100-sxm-80gb"]),
        ("orin", ["name one in full: orin-agx-64gb/gpu, orin-agx-64gb/dla, orin-agx-32gb/gpu"]),
    ],
)
def test_unknown_target_suggests(asked: str, answers: list[str]) -> None:
    with pytest.raises(UnknownTarget) as caught:
        get(asked)
    assert caught.value.exit_code == 3
    assert asked in caught.value.what
    assert all(answer in caught.value.next for answer in answers)


@pytest.mark.parametrize("asked", ["", "zzzzzz", "/", "orin-agx-64gb/dla/0"])
def test_unknown_target_never_fails_otherwise(asked: str) -> None:
    with pytest.raises(UnknownTarget) as caught:
        get(asked)
    assert caught.value.why


def test_targets_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        get("a30").sms = 1  # type: ignore[misc]


def test_looking_up_a_target_imports_nothing_heavy() -> None:
    script = (
        "import sys; from trtforge.targets.load import get; get('a30'); get('host');"
        "print([m for m in ('onnx','numpy','ruamel.yaml','yaml','pydantic','onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{sources: {d: x}, targets: {q: {name: Q, kind: discrete, sms: 3}}, jetpacks: [], dla_windows: []}", "q: sms"),
        (
            "{sources: {d: x}, targets: {q: {sms: 3, provenance: {guessed: {d: '*'}}}}, jetpacks: [], dla_windows: []}",
            "guessed",
        ),
        (
            "{sources: {d: x}, targets: {q: {sms: 3, provenance: {recalled: {d: [smx, sms]}}}},"
            " jetpacks: [], dla_windows: []}",
            "smx",
        ),
    ],
)
def test_a_figure_without_a_sound_provenance_does_not_compile(text: str, names: str) -> None:
    with pytest.raises(ValueError, match=names):
        compiler.compile_targets(text)


def test_dla_layers_say_where_they_are_known_from() -> None:
    layers = dla_layers()
    assert {"Conv", "ConvTranspose", "MaxPool", "Concat", "Softmax", "GlobalAveragePool", "LayerNormalization"} <= set(
        layers
    )
    for layer in layers.values():
        assert layer.origin in {"documented", "observed", "recalled"}
        assert layer.runs == bool(layer.precisions) == bool(layer.layer)
        assert set(layer.precisions) <= {"fp16", "int8"}
        assert version_tuple(layer.since)
        assert all(low <= high for low, high in layer.ranges.values())
    assert not layers["Softmax"].v1
    assert layers["Conv"].ranges["stride"] == (1, 8)
