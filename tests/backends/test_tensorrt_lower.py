"""What a TensorRT of each release is handed: a cache or Q/DQ nodes, and names that it finds layers by."""

from __future__ import annotations

from typing import Any

import onnx

from trtforge.backends.nvidia.features import documented
from trtforge.backends.tensorrt_.lower import lower
from trtforge.recipe.models import InputSpec, Quantize, SizeRange


class Test_lowering:
    def test_a_cache_for_the_release_and_the_device(self, asked: Any) -> None:
        gpu = lower(asked("orin-agx-64gb/gpu"), documented("8.6.2"), "8.6.2")
        assert (gpu.cache.version, gpu.cache.algorithm, gpu.precision) == (8602, "MinMaxCalibration", "int8")
        dla = lower(asked("orin-agx-64gb/dla"), documented("10.3.0"), "10.3.0.26")
        assert (dla.cache.version, dla.cache.algorithm) == (100300, "EntropyCalibration2")
        assert {node.op_type for node in gpu.model.proto.graph.node}.isdisjoint({"QuantizeLinear"})

    def test_types_and_nodes_since_11(self, asked: Any) -> None:
        int8 = lower(asked("a30"), documented("11.4.1"), "11.4.1")
        assert (int8.precision, int8.cache) == ("typed", None)
        assert "QuantizeLinear" in {node.op_type for node in int8.model.proto.graph.node}
        half = lower(asked("a30", "fp16"), documented("11.4.1"), "11.4.1")
        kinds = {weight.data_type for weight in half.model.proto.graph.initializer}
        assert onnx.TensorProto.FLOAT16 in kinds and half.precision == "typed"

    def test_every_tensor_of_a_dla_has_its_scale_in_the_graph(self, asked: Any) -> None:
        """As it has in a cache, through 10.7: a region of a DLA is INT8 only where no scale is missing."""
        gpu, dla = (lower(asked(f"orin-agx-64gb/{unit}"), documented("11.4.1"), "11.4.1") for unit in ("gpu", "dla"))
        ways = [
            [node.input[0] for node in each.model.proto.graph.node if node.op_type == "QuantizeLinear"]
            for each in (gpu, dla)
        ]
        assert set(ways[1]) - set(ways[0]) == {"c2", "c4", "r0", "left", "right", "logits_float"}
        assert set(ways[0]) <= set(ways[1])

    def test_a_node_without_a_name_is_found_by_its_output(self, asked: Any) -> None:
        """As `quantize: {skip}` calls it everywhere; TensorRT finds layers by the names of nodes."""
        request = asked("a30", quantize=Quantize(skip=("c0",)))
        for node in request.model.proto.graph.node:
            node.name = ""
        found = lower(request, documented("10.3"), "10.3.0")
        assert [node.name for node in found.model.proto.graph.node if node.output[0] == "c0"] == ["c0"]
        assert found.float_layers == ("c0",) and not any(node.name for node in request.model.proto.graph.node)

    def test_open_sizes_stay_open(self, asked: Any) -> None:
        shape = asked("a30").engine.inputs["x"].shape
        ranged = InputSpec(shape=shape, range=SizeRange(min=shape, max=(8, *shape[1:])))
        (taken,) = lower(asked("a30", inputs={"x": ranged}), documented("10.3"), "10.3.0").model.proto.graph.input
        assert taken.type.tensor_type.shape.dim[0].dim_param == "n"
