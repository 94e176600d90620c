"""What rules look at: the model with its maps, the recipe's engine, the target, and who compiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import NodeProto

from trtforge.errors.base import TrtforgeError
from trtforge.errors.graph import DynamicShape, ShapeMismatch, UnknownInput
from trtforge.graph.index import Index, every_node, subgraphs
from trtforge.graph.model import Model
from trtforge.graph.shapes import TensorType, freeze_inputs, infer_shapes, input_specs, show_shape, tensor_types
from trtforge.graph.weights import read_tensor
from trtforge.lint.nodes import DEFAULT_DOMAINS, ints
from trtforge.plugins import NAMES
from trtforge.targets.load import version_tuple
from trtforge.targets.model import Target

if TYPE_CHECKING:
    from trtforge.lint.dla.placement import Placement
    from trtforge.recipe.models import BackendName, Engine
    from trtforge.scales.table import ScaleTable
    from trtforge.surgery.choose import Plan


@dataclass(frozen=True)
class Context:
    """One engine on one target. Everything derived is computed when a rule first asks."""

    model: Model
    engine: Engine
    target: Target
    scales: ScaleTable | None
    backend: BackendName
    tensorrt: str | None
    jetpack: str | None
    root: Path | None = None

    @cached_property
    def index(self) -> Index:
        return Index(self.model.proto.graph)

    @cached_property
    def nodes(self) -> tuple[NodeProto, ...]:
        """Every node, those inside If, Loop and Scan bodies too."""
        return tuple(every_node(self.model.proto.graph))

    @cached_property
    def functions(self) -> frozenset[tuple[str, str]]:
        """Domain and name of the functions that the model brings along."""
        return frozenset((function.domain, function.name) for function in self.model.proto.functions)

    def of(self, *ops: str) -> list[NodeProto]:
        """Nodes of these operators of the default domain."""
        return [node for node in self.nodes if node.op_type in ops and node.domain in DEFAULT_DOMAINS]

    @cached_property
    def opset(self) -> int:
        """Version of the default operator set; 1 when the model imports none, as ONNX says."""
        return next((entry.version for entry in self.model.proto.opset_import if entry.domain in DEFAULT_DOMAINS), 1)

    @cached_property
    def inputs(self) -> dict[str, TensorType]:
        return input_specs(self.model)

    def fits(self, name: str, shape: Sequence[int]) -> bool:
        """Whether a shape has the rank and the fixed sizes that the model declares for an input."""
        stated = self.inputs[name].shape
        return stated is None or (
            len(stated) == len(shape)
            and all(size == given or not isinstance(size, int) for size, given in zip(stated, shape, strict=True))
        )

    @cached_property
    def misnamed(self) -> dict[str, str]:
        """Names under `inputs:` that the model does not have, with the input that each is meant for.

        Meant is the one of the nearest name that the recipe lacks, or the only one it lacks, where the shape fits.
        """
        lacking = [name for name in self.inputs if name not in self.engine.inputs]
        wrong = [name for name in self.engine.inputs if name not in self.inputs]
        meant: dict[str, str] = {}
        for name in wrong:
            near = get_close_matches(name, lacking, n=1, cutoff=0.5)
            if not near and len(wrong) == len(lacking) == 1 and self.fits(lacking[0], self.engine.inputs[name].shape):
                near = lacking
            if near:
                meant[name] = near[0]
                lacking.remove(near[0])
        return meant

    def declared(self, name: str) -> str:
        """The shape the model declares for an input, for a message: `[n, 3, 224, 224]`."""
        return show_shape(self.inputs[name].shape)

    @cached_property
    def types(self) -> dict[str, TensorType]:
        """Types of all tensors with the recipe's input shapes applied. Raises InvalidGraph (ONX108).

        Inputs that do not fit are the matter of the GRF rules; types then are those the model alone implies.
        """
        try:
            return tensor_types(
                freeze_inputs(self.model, {name: spec.shape for name, spec in self.engine.inputs.items()})
            )
        except (UnknownInput, ShapeMismatch, DynamicShape):
            return tensor_types(infer_shapes(self.model))

    @cached_property
    def constants(self) -> frozenset[str]:
        """Tensors known when the engine is built: initializers and all that follows from them and from shapes."""
        known = set(self.index.initializers) | self.index.sparse
        for node in self.model.proto.graph.node:
            from_shape = node.op_type in ("Shape", "Size") and node.domain in DEFAULT_DOMAINS
            if from_shape or (not any(subgraphs(node)) and all(name in known for name in node.input if name)):
                known.update(name for name in node.output if name)
        return frozenset(known)

    @cached_property
    def active_nodes(self) -> list[NodeProto]:
        """Nodes that remain after constant folding, bodies of control flow left out."""
        known = self.constants
        return [node for node in self.model.proto.graph.node if not all(name in known for name in node.output if name)]

    def rank(self, name: str) -> int | None:
        """Rank of a tensor; weights need no shape inference."""
        constant = self.index.constant(name)
        if constant is not None:
            return len(constant.dims)
        known = self.types.get(name)
        return None if known is None or known.shape is None else len(known.shape)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The sizes of a tensor; None when one of them is not known."""
        constant = self.index.constant(name)
        if constant is not None:
            return tuple(constant.dims)
        known = self.types.get(name)
        sizes = None if known is None or known.shape is None else known.shape
        if sizes is None or not all(isinstance(size, int) for size in sizes):
            return None
        return tuple(size for size in sizes if isinstance(size, int))

    def values(self, name: str) -> np.ndarray[Any, Any] | None:
        """The values of a stored constant; None when it is none. Raises ONX errors where its file cannot be read."""
        constant = self.index.constant(name)
        return None if constant is None else read_tensor(self.model, constant)

    def spatial_rank(self, node: NodeProto) -> int | None:
        """2 for a 2-D convolution or pooling, 3 for a 3-D one."""
        kernel = ints(node, "kernel_shape")
        if kernel:
            return len(kernel)
        rank = self.rank(node.input[1]) if len(node.input) > 1 else None
        return None if rank is None else rank - 2

    @property
    def explicit_quantization(self) -> bool | None:
        """INT8 reaches this compiler as Q/DQ nodes (True) or as a calibration cache (False); None: not known."""
        if self.backend != "tensorrt":
            return True
        version = version_tuple(self.tensorrt) if self.tensorrt else None
        return None if version is None else version[0] >= 11

    @property
    def onnxruntime_reads(self) -> list[str]:
        """What onnxruntime does with the model in a build, as clauses; nothing when only TensorRT reads it."""
        if self.backend == "onnxruntime":
            return ["runs it"]
        found, calibration = [], self.engine.calibration
        if self.engine.precision == "int8" and calibration is not None and calibration.set is not None:
            found.append("gathers the INT8 ranges")
        if self.engine.verify is not None:
            found.append("gives the answers to verify against")
        return found

    @property
    def gpu_fallback(self) -> bool:
        """TensorRT may give layers the DLA cannot run to the GPU; the recipe's default is yes."""
        return self.engine.dla is None or self.engine.dla.gpu_fallback

    @property
    def dla_generation(self) -> int:
        """1: NVDLA v1 (Xavier), 2: NVDLA v2 (Orin), also where the target is no DLA."""
        return self.target.dla.generation if self.target.dla is not None else 2

    @cached_property
    def plugin_plan(self) -> Plan:
        """What becomes of the plugins in `surgery`. Raises NoLowering, PluginsOverlap, and ONX errors of the shapes."""
        from trtforge.lint.planned import planned

        return planned(self)

    @cached_property
    def swapped(self) -> dict[str, str]:
        """Tensors that go away with what a plugin replaces, with the plugin's name; none where the plan fails."""
        if not any(name in NAMES for name in self.engine.surgery):
            return {}
        try:
            return {name: choice.op.name for choice in self.plugin_plan.swapped for name in choice.match.swallowed}
        except TrtforgeError:  # PLG101 and the GRF rules say what is wrong
            return {}

    @cached_property
    def placement(self) -> Placement:
        """Which node runs where on a DLA target."""
        from trtforge.lint.dla.placement import place

        return place(self)
