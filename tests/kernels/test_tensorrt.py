"""The classes that TensorRT is given of our plugins, on the real bindings of TensorRT-RTX; no GPU is needed.

`tests/native/test_plugins.py` runs `TestPlugin` and `TestEnqueue` again on those of TensorRT 10 and 11.

Only what `enqueue` hands to CUDA goes to a stand-in, which takes no call that the real cuda-core would not take.
"""

from __future__ import annotations

import gc
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from tests.native import bindings
from trtforge import plugins
from trtforge.backends.tensorrt_rtx_ import environment
from trtforge.errors.engine import ExecutionFailed, ForeignGpu
from trtforge.kernels import tensorrt
from trtforge.kernels.cubins import KernelSet
from trtforge.kernels.launch import Launch, ceil_div, ints
from trtforge.kernels.plugin import PluginKind, Tensor, aligned

needs_rtx = pytest.mark.skipif(bool(environment.missing()), reason="TensorRT-RTX is not installed (extra `rtx`)")


class Smooth(PluginKind):
    """x float32 [N, C] linear, w int8 -> y float16, twice as long; three launches of one kernel, then another."""

    name = "Smooth"
    kernels = KernelSet("windows", ("kernel.cu", "windows.cuh", "instructions.cuh"), "the kernels of this test")
    tensors = ("x", "w", "y")
    fields: ClassVar = {"steps": "int", "ratio": "float", "pads": "ints", "factors": "floats"}
    digests = 0

    def accepts(self, position: int, tensors: Sequence[Tensor]) -> bool:
        wanted = (("float32", "linear"), ("int8", "linear"), ("float16", "cdhw32"))[position]
        return (tensors[position].dtype, tensors[position].layout) == wanted and len(tensors) == position + 1

    def output_types(self, inputs: Sequence[str]) -> tuple[str, ...]:
        return ("float16" if inputs[0] == "float32" else inputs[0],)

    def output_shapes(self, inputs: Any, fields: Mapping[str, Any]) -> list[list[Any]]:
        (batch, channels), (outputs, *_) = inputs[:2]
        return [[batch + fields["steps"], (channels * 2 - outputs) // fields["steps"], 7]]

    def workspace(self, inputs: Any, outputs: Any, fields: Mapping[str, Any]) -> Mapping[str, int]:
        return {"sums": inputs[0].elements * 4, "flag": 1, "rest": outputs[0].shape[0]}

    def launches(self, inputs: Any, outputs: Any, fields: Mapping[str, Any]) -> Sequence[Launch]:
        grid = (ceil_div(inputs[0].elements, 32), 1, 1)
        return [
            *(Launch("smooth", grid, (32, 1, 1), ("x", "sums", *ints(number))) for number in (3, 4, 5)),
            Launch("finish", (1, 2, 3), (64, 1, 1), ("sums", "flag", "rest", "y", np.float32(fields["ratio"]))),
        ]

    def source_digest(self) -> str:
        self.digests += 1
        return super().source_digest()


FIELDS = {"steps": 2, "ratio": 0.1, "pads": [0, 1, -1], "factors": [0.5, 1e-5]}


def test_pieces_of_workspace_lie_behind_one_another() -> None:
    assert [aligned(size) for size in (0, 1, 255, 256, 257, 1 << 33)] == [0, 256, 256, 256, 512, 1 << 33]
    kind = Smooth()
    addresses = kind.addresses([10, 20, 30], 0x1000, {"sums": 300, "flag": 1, "rest": 256})
    assert addresses == {"x": 10, "w": 20, "y": 30, "sums": 0x1000, "flag": 0x1200, "rest": 0x1300}
    with pytest.raises(ValueError, match="zip"):
        kind.addresses([10, 20], 0, {})


def test_scalars_of_launches_have_the_kernels_types() -> None:
    assert [type(each) for each in ints(1, -1)] == [np.int32, np.int32]
    assert [ceil_div(size, 32) for size in (0, 1, 32, 33)] == [0, 1, 1, 2]


@pytest.mark.parametrize("kind", plugins.kinds().values(), ids=lambda kind: kind.name)
def test_a_kind_of_ours_is_whole(kind: PluginKind) -> None:
    assert plugins.kinds()[kind.name] is kind
    assert all(kind.kernels.source(source).is_file() for source in kind.kernels.sources)
    assert set(kind.fields.values()) <= {"int", "float", "ints", "floats"}
    assert len(set(kind.tensors)) == len(kind.tensors)
    assert kind.source_digest() == kind.source_digest()


def test_no_two_kinds_share_a_name() -> None:
    from importlib import import_module

    folders = [name.replace("-", "_") for name in plugins.WITH_KERNELS]
    names = [kind.name for each in folders for kind in import_module(f"trtforge.plugins.{each}.plugin").KINDS]
    assert sorted(names) == sorted(plugins.kinds())
    assert set(plugins.ops()) == set(plugins.NAMES) >= set(plugins.WITH_KERNELS)
    assert all(op.name == name == op.rule.name for name, op in plugins.ops().items())


def test_the_recipes_names_are_the_plugins() -> None:
    from typing import get_args

    from trtforge.recipe.models import LoweringName, PluginName

    assert set(get_args(PluginName)) == set(plugins.NAMES)
    assert {name for op in plugins.ops().values() for name in op.offers} == set(get_args(LoweringName))


REGISTRY = """
import gc, json
import tensorrt_rtx as trt
from trtforge import plugins
from trtforge.kernels.tensorrt import register

def listed():
    found = trt.get_plugin_registry().all_creators
    return [[each.name, each.plugin_version, each.plugin_namespace] for each in found]

stock = listed()
kinds = plugins.kinds()
for name in kinds:
    register(trt, kinds[name], {})  # nobody keeps what this returns
gc.collect()
ours = [each for each in listed() if each not in stock]
name = next(iter(kinds))
creator = register(trt, kinds[name], {"8.0": b"cubin"})
again = [each for each in listed() if each not in stock]
found = trt.get_plugin_registry().get_creator(name, "1", "trtforge")
print(json.dumps({
    "stock": stock, "ours": ours, "again": again,
    "replaced": found is creator, "cubins": [key for key in found.cubins],
}))
"""


@pytest.mark.rtx
@needs_rtx
def test_creators_come_into_the_registry_and_are_replaced() -> None:
    """In a process of its own: the registry is the process's."""
    done = subprocess.run([sys.executable, "-c", REGISTRY], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.strip().splitlines()[-1])
    ours = sorted([name, "1", "trtforge"] for name in plugins.kinds())
    assert told["stock"]
    assert sorted(told["ours"]) == sorted(told["again"]) == ours
    assert told["replaced"] and told["cubins"] == ["8.0"]


def test_a_registry_that_refuses_is_told() -> None:
    registry = SimpleNamespace(get_creator=lambda *a: None, register_creator=lambda creator, namespace: False)

    class Base:
        pass

    class Collection(list):
        pass

    types = SimpleNamespace(INT32=5, FLOAT32=1)
    trt = SimpleNamespace(
        get_plugin_registry=lambda: registry,
        IPluginCreatorV3One=Base,
        PluginFieldType=types,
        PluginField=lambda *a: a,
        PluginFieldCollection=Collection,
    )
    hashable = type("Module", (), {**vars(trt), "get_plugin_registry": staticmethod(trt.get_plugin_registry)})
    with pytest.raises(ExecutionFailed, match="the plugin trtforge::Smooth could not be registered"):
        tensorrt.register(hashable, Smooth(), {})


@pytest.fixture(scope="module")
def trt() -> Any:
    if bindings.chosen():
        return bindings.enter()
    if environment.missing():
        pytest.skip("TensorRT-RTX is not installed (extra `rtx`)")
    return pytest.importorskip("tensorrt_rtx")


@pytest.fixture
def make(trt: Any) -> Any:
    """A plugin as TensorRT makes one: by its creator, of a list of fields."""

    def make(kind: PluginKind, fields: Mapping[str, Any], cubins: Mapping[str, bytes] | None = None) -> Any:
        creator = tensorrt._creator_class(trt)(kind, cubins or {})
        listed = tensorrt._listed(trt, kind, fields)
        return creator.create_plugin("layer", trt.PluginFieldCollection(listed), trt.TensorRTPhase.BUILD)

    return make


def desc(trt: Any, dtype: str, layout: str, dims: Sequence[int]) -> Any:
    """A tensor as TensorRT describes it while building: ``dims`` at most, and now."""
    made = trt.DynamicPluginTensorDesc()
    made.desc.type, made.desc.format = getattr(trt.DataType, dtype), getattr(trt.TensorFormat, layout)
    made.desc.dims = made.max = trt.Dims(dims)
    return made


@pytest.mark.rtx
class TestPlugin:
    def test_a_creator_says_what_it_makes(self, trt: Any) -> None:
        creator = tensorrt._creator_class(trt)(Smooth(), {})
        assert (creator.name, creator.plugin_version, creator.plugin_namespace) == ("Smooth", "1", "trtforge")
        kinds = trt.PluginFieldType
        assert [(field.name, field.type) for field in creator.field_names] == [
            ("steps", kinds.INT32),
            ("ratio", kinds.FLOAT32),
            ("pads", kinds.INT32),
            ("factors", kinds.FLOAT32),
        ]
        assert creator.interface_info.kind == "PLUGIN CREATOR_V3ONE"

    def test_fields_come_back_as_they_went(self, trt: Any, make: Any) -> None:
        """Through what an engine keeps, twice: a float is float32 and then stays what it is."""
        plugin = make(Smooth(), FIELDS)
        assert plugin.fields == {
            "steps": 2,
            "ratio": float(np.float32(0.1)),
            "pads": [0, 1, -1],
            "factors": [0.5, float(np.float32(1e-5))],
        }
        assert type(plugin.fields["steps"]) is int
        kept = plugin.get_fields_to_serialize()
        gc.collect()
        noise = [np.full(1, 7, np.int32) for _ in range(1000)]  # takes the memory of arrays that nobody holds
        assert len(noise) == 1000
        creator = tensorrt._creator_class(trt)(Smooth(), {})
        assert creator.create_plugin("layer", kept, trt.TensorRTPhase.RUNTIME).fields == plugin.fields

    def test_an_empty_list_is_a_list(self, make: Any) -> None:
        assert make(Smooth(), {**FIELDS, "pads": [], "factors": [1.0]}).fields["pads"] == []

    def test_a_clone_is_another_with_the_same_in_it(self, make: Any) -> None:
        plugin = make(Smooth(), FIELDS, {"8.0": b"cubin"})
        for clone in (plugin.clone(), plugin.attach_to_context(None)):
            assert clone is not plugin and type(clone) is type(plugin)
            assert (clone.fields, clone.cubins, clone.kind) == (plugin.fields, plugin.cubins, plugin.kind)
            named = clone.plugin_name, clone.plugin_version, clone.plugin_namespace, clone.num_outputs
            assert named == ("Smooth", "1", "trtforge", 1)

    def test_kernel_times_are_kept_for_equal_plugins(self, make: Any) -> None:
        """Without such a name TensorRT measures a plugin in every build, whatever cache it is given."""
        plugin, other = make(Smooth(), FIELDS), make(Smooth(), {**FIELDS, "ratio": 0.2})
        assert plugin.timing_cache_id == plugin.clone().timing_cache_id == make(Smooth(), FIELDS).timing_cache_id
        assert len({"", plugin.timing_cache_id, other.timing_cache_id}) == 3

    def test_types_and_layouts(self, trt: Any, make: Any) -> None:
        plugin = make(Smooth(), FIELDS)
        x, w = desc(trt, "FLOAT", "LINEAR", (4, 8)), desc(trt, "INT8", "LINEAR", (3,))
        good, bad = desc(trt, "HALF", "CDHW32", (6, 6, 7)), desc(trt, "HALF", "LINEAR", (6, 6, 7))
        assert plugin.supports_format_combination(0, [x, w, good], 2)  # what comes after is not looked at
        assert plugin.supports_format_combination(2, [x, w, good], 2)
        assert not plugin.supports_format_combination(2, [x, w, bad], 2)
        assert not plugin.supports_format_combination(1, [x, desc(trt, "BF16", "LINEAR", (3,)), good], 2)
        assert plugin.get_output_data_types([trt.DataType.FLOAT, trt.DataType.INT8]) == [trt.DataType.HALF]
        assert plugin.get_output_data_types([trt.DataType.INT8, trt.DataType.INT8]) == [trt.DataType.INT8]

    @pytest.mark.parametrize("name", ["InstanceNormRelu", "PixelShuffle3d"])
    def test_a_type_that_no_plugin_takes_is_refused_and_breaks_nothing(self, name: str, trt: Any, make: Any) -> None:
        kind = plugins.kinds()[name]
        plugin, x = make(kind, dict.fromkeys(kind.fields, 1)), desc(trt, "BF16", "LINEAR", (1, 8, 4, 4, 4))
        assert plugin.get_output_data_types([trt.DataType.BF16] * 3) == [trt.DataType.BF16]
        assert not plugin.supports_format_combination(0, [x, x, x, x], 3)

    def test_every_kind_of_ours_names_types_and_layouts_that_are_there(self, trt: Any, make: Any) -> None:
        """Each tensor of each plugin has a type and a layout of TensorRT that its kind accepts."""
        formats = [name for name in dir(trt.TensorFormat) if name.isupper()]
        for kind in plugins.kinds().values():
            plugin = make(kind, {name: [1] if of.endswith("s") else 1 for name, of in kind.fields.items()})
            chosen: list[Any] = []
            for position in range(len(kind.tensors)):
                choices = [desc(trt, dtype, layout, (1,) * 5) for dtype in tensorrt._TYPES for layout in formats]
                fits = [
                    one
                    for one in choices
                    if plugin.supports_format_combination(position, [*chosen, one], len(kind.tensors) - 1)
                ]
                assert fits, (kind.name, kind.tensors[position])
                chosen.append(fits[0])
            types = plugin.get_output_data_types([one.desc.type for one in chosen[:-1]])
            assert types == [chosen[-1].desc.type], kind.name

    def test_workspace_is_for_the_largest_shapes(self, trt: Any, make: Any) -> None:
        plugin = make(Smooth(), FIELDS)
        x, w, y = (desc(trt, *each) for each in (("FLOAT", "LINEAR", (4, 8)), ("INT8", "LINEAR", (3,)), SHAPE))
        x.desc.dims = trt.Dims((1, 1))
        assert plugin.get_workspace_size([x, w], [y]) == aligned(4 * 8 * 4) + aligned(1) + aligned(6)

    def test_shapes_are_expressions(self, trt: Any, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Written out over a builder that keeps expressions as text; operations are the real enumeration's."""

        class Builder:
            def constant(self, value: int) -> str:
                assert isinstance(value, int)
                return str(value)

            def operation(self, kind: Any, left: str, right: str) -> str:
                assert isinstance(kind, trt.DimensionOperation)
                return f"({left} {kind.name} {right})"

        module = SimpleNamespace(DimensionOperation=trt.DimensionOperation)
        sizes = [[tensorrt._Size(module, Builder(), name) for name in names] for names in (("n", "c"), ("o",))]
        (shape,) = Smooth().output_shapes(sizes, FIELDS)
        written = [tensorrt._Size.of(module, Builder(), size).expression for size in shape]
        assert written == ["(n SUM 2)", "(((c PROD 2) SUB o) FLOOR_DIV 2)", "7"]


SHAPE = ("HALF", "CDHW32", (6, 6, 7))


class Cuda:
    """cuda-core without a device. ``launched``, ``loaded``: what it was asked."""

    def __init__(self, capability: tuple[int, int] = (8, 6)) -> None:
        self.real = pytest.importorskip("cuda.core", reason="cuda-core is not installed")
        self.launched: list[Any] = []
        self.loaded: list[bytes] = []
        self.capability = capability

    def module(self, name: str) -> Any:
        return {"cuda.core": self.core()}[name]

    def core(self) -> Any:
        real = self.real
        assert hasattr(real.Device, "device_id")
        device = SimpleNamespace(device_id=0, compute_capability=self.capability)
        return SimpleNamespace(
            Device=lambda: device,
            LaunchConfig=real.LaunchConfig,
            ObjectCode=SimpleNamespace(from_cubin=self.from_cubin),
            Stream=SimpleNamespace(from_handle=self.from_handle),
            launch=self.launch,
        )

    def from_cubin(self, *args: Any) -> Any:
        inspect.signature(self.real.ObjectCode.from_cubin).bind(*args)
        self.loaded.append(args[0])

        def get_kernel(*args: Any) -> Any:
            inspect.signature(self.real.ObjectCode.get_kernel).bind(self, *args)
            return SimpleNamespace(name=args[0], handle=args[0])

        return SimpleNamespace(get_kernel=get_kernel)

    def from_handle(self, *args: Any) -> Any:
        inspect.signature(self.real.Stream.from_handle).bind(*args)
        return ("stream", *args)

    def launch(self, *args: Any) -> None:
        inspect.signature(self.real.launch).bind(*args)
        stream, config, kernel, *values = args
        self.launched.append((stream, kernel.name, config.grid, config.block, values))


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def use(**facts: Any) -> Cuda:
        stand_in = Cuda(**facts)
        monkeypatch.setattr(tensorrt, "import_module", stand_in.module)
        monkeypatch.setattr(tensorrt.Loaded, "_kept", {})
        return stand_in

    return use


@pytest.mark.rtx
class TestEnqueue:
    def run(self, trt: Any, plugin: Any, stream: int = 77) -> None:
        x, w, y = (desc(trt, *each).desc for each in (("FLOAT", "LINEAR", (4, 8)), ("INT8", "LINEAR", (3,)), SHAPE))
        plugin.enqueue([x, w], [y], [0x100, 0x200], [0x300], 0x10000, stream)

    def test_what_the_kind_says_is_launched(self, trt: Any, make: Any, cuda: Any) -> None:
        there, plugin = cuda(), make(Smooth(), FIELDS, {"8.0": b"for 8.0", "8.6": b"for 8.6", "9.0": b"for 9.0"})
        self.run(trt, plugin)
        assert there.loaded == [b"for 8.6"]
        assert [each[1] for each in there.launched] == ["smooth", "smooth", "smooth", "finish"]
        stream, _, grid, block, values = there.launched[0]
        assert (stream, grid, block) == (("stream", 77), (1, 1, 1), (32, 1, 1))
        assert values == [0x100, 0x10000, 3] and type(values[2]) is np.int32
        assert there.launched[3][4] == [0x10000, 0x10100, 0x10200, 0x300, np.float32(0.1)]

    def test_code_is_loaded_once_and_sources_are_not_read_each_time(self, trt: Any, make: Any, cuda: Any) -> None:
        there, kind = cuda(), Smooth()
        first, second = (make(kind, FIELDS, {"8.6": b"cubin"}) for _ in range(2))
        for _ in range(3):
            self.run(trt, first)
            self.run(trt, second)
        assert len(there.launched) == 24
        assert there.loaded == [b"cubin"]
        assert kind.digests == 2  # of each plugin's first execution

    def test_kernels_of_another_gpu_are_refused(self, trt: Any, make: Any, cuda: Any) -> None:
        cuda(capability=(7, 5))
        with pytest.raises(ForeignGpu, match="do not run on this GPU"):
            self.run(trt, make(Smooth(), FIELDS, {"8.6": b"cubin"}))
