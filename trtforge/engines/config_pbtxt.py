"""`config.pbtxt`: what Triton Inference Server reads to serve an engine, written from its newest manifest.

The field names and enum values are those of Triton's ModelConfig message. Shapes are stated in full, batch
included (`max_batch_size: 0`): an engine is built for one batch size, so the server must not batch on its own.
"""

from __future__ import annotations

from trtforge.engines.manifest import Manifest, TensorRecord
from trtforge.errors.engine import NotServable

CONFIG = "config.pbtxt"

TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "bfloat16": "TYPE_BF16",
    "object": "TYPE_STRING",
}
"""numpy dtype name -> Triton data type."""

HEADER = """\
# Written by trtforge from the newest version's manifest.json.
# Edit it freely (instance groups, warmup): an edited file is kept, and a build says so.
"""


def render(manifest: Manifest) -> str:
    """The text of `config.pbtxt`. Raises ENG105 for a data type Triton has no name for."""
    lines = [
        f"name: {quote(manifest.engine)}",
        f"platform: {quote(manifest.platform)}",
        "max_batch_size: 0",
        f"default_model_filename: {quote(manifest.engine_file)}",
    ]
    for tensor in manifest.inputs:
        lines += _tensor("input", tensor, manifest)
    for tensor in manifest.outputs:
        lines += _tensor("output", tensor, manifest)
    lines += _instance_group(manifest)
    lines += _parameter("trtforge_target", manifest.target.key)
    return HEADER + "\n".join(lines) + "\n"


def _tensor(field: str, tensor: TensorRecord, manifest: Manifest) -> list[str]:
    if tensor.dtype not in TYPES:
        raise NotServable(
            f"the {field} {tensor.name!r} of {manifest.engine} is {tensor.dtype}, which a serving configuration "
            "cannot name",
            where=f"{field} {tensor.name!r}",
            why=f"Triton's types are those of {', '.join(TYPES)}",
            next=f"cast {tensor.name!r} to float32 or int8 at the border of the model",
        )
    lines = [
        f"{field} {{",
        f"  name: {quote(tensor.name)}",
        f"  data_type: {TYPES[tensor.dtype]}",
    ]
    if tensor.shape:
        lines.append(f"  dims: [{', '.join(str(-1 if size is None else size) for size in tensor.shape)}]")
    else:  # Triton allows no empty dims: a scalar is a vector of one, reshaped
        lines += ["  dims: [1]", "  reshape { shape: [] }"]
    if tensor.format != "linear":
        lines.append("  is_non_linear_format_io: true")
    return [*lines, "}"]


def _instance_group(manifest: Manifest) -> list[str]:
    if manifest.target.dla_core is not None:
        dla = f"secondary_devices {{ kind: KIND_NVDLA device_id: {manifest.target.dla_core} }}"
        return ["instance_group {", "  kind: KIND_GPU", "  count: 1", f"  {dla}", "}"]
    kind = "KIND_CPU" if manifest.target.sm is None else "KIND_GPU"
    return ["instance_group {", f"  kind: {kind}", "  count: 1", "}"]


def _parameter(key: str, value: str) -> list[str]:
    return ["parameters {", f"  key: {quote(key)}", f"  value {{ string_value: {quote(value)} }}", "}"]


def quote(text: str) -> str:
    """A string of protobuf's text format: quotes, backslashes and control characters escaped, the rest as it is."""
    escaped = "".join(_escape(character) for character in text)
    return f'"{escaped}"'


def _escape(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    # Octal is the escape that every reader of the format knows; three digits keep a following digit apart.
    return f"\\{ord(character):03o}" if ord(character) < 32 or ord(character) == 127 else character
