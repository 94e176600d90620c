"""What the bytes of a file look like that should have been an ONNX model: reasons for error messages."""

from __future__ import annotations

_SIGNATURES = (
    (b"version https://git-lfs", "it is a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (b"<!DOCTYPE", "it is an HTML page, probably an error or log-in page saved by a download"),
    (b"<html", "it is an HTML page, probably an error or log-in page saved by a download"),
    (b"PK\x03\x04", "it is a ZIP archive (PyTorch checkpoints are, too): unpack or export it"),
    (b"\x1f\x8b", "it is gzip-compressed: unpack it"),
    (b"ftrt", "it is a TensorRT engine, not a model"),
    (b"\x89HDF", "it is an HDF5 file (a Keras model?): export it to ONNX"),
    (b"ORTM", "it is in onnxruntime's own format: use the .onnx it was made from"),
)


def looks_like(data: bytes) -> str:
    """A sentence for why these bytes are no ONNX model, as specific as their first bytes allow."""
    for signature, reason in _SIGNATURES:
        if data.lstrip()[: len(signature)].lower() == signature.lower():
            return reason
    if data[4:8] == b"ORTM":
        return dict(_SIGNATURES)[b"ORTM"]
    if not any(data):
        return "it holds nothing but zero bytes: an interrupted write"
    return "its bytes do not parse as an ONNX model with nodes"


def missing_bytes(data: bytes) -> int | None:
    """How many bytes a cut-off ONNX file lacks; None when the bytes are no ONNX model at all.

    Walks the top-level fields of the protobuf message (wire format: a varint tag, then a varint or a length
    and as many bytes). A file is cut off when every field but the last is whole and known to ModelProto.
    """
    position, fields = 0, 0
    while position < len(data):
        tag = _varint(data, position)
        if tag is None:
            return 1 if fields else None
        number, wire = tag[0] >> 3, tag[0] & 7
        if number not in _MODEL_FIELDS or _MODEL_FIELDS[number] != wire:
            return None
        value = _varint(data, tag[1])
        if value is None:
            return 1 if fields else None
        position = value[1] + (value[0] if wire == 2 else 0)
        if position > len(data):
            return position - len(data)
        fields += 1
    return None


# ModelProto: ir_version, producer_name, producer_version, domain, model_version, doc_string, graph, opset_import,
# metadata_props, training_info, functions, configuration
_MODEL_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}


def _varint(data: bytes, position: int) -> tuple[int, int] | None:
    """(value, position after it) of a varint, None when the data ends inside it or it is too long."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            return None
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    return None
