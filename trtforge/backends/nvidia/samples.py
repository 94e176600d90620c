"""Calibration batches from the process that prepares them to the compiler's, through a pipe.

One batch: a line of JSON that names the inputs with shape and type, then their bytes. The last line says how many there
were, so a pipe that merely breaks is never taken for the end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

Batch = Mapping[str, "np.ndarray[Any, Any]"]


def send(stream: BinaryIO, batches: Iterable[tuple[str, Batch]]) -> int:
    """Write (name of the sample, its arrays) until they end; how many there were. Raises BrokenPipeError."""
    count = 0
    for sample, batch in batches:
        listed = [[name, list(array.shape), array.dtype.str] for name, array in batch.items()]
        stream.write(json.dumps({"sample": sample, "inputs": listed}).encode() + b"\n")
        for array in batch.values():
            stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        stream.flush()
        count += 1
    stream.write(json.dumps({"end": count}).encode() + b"\n")
    stream.flush()
    return count


def receive(descriptor: int) -> Iterator[Batch]:
    """Batches as they come. Raises EOFError when the other side stopped before its last line."""
    with os.fdopen(descriptor, "rb") as stream:
        count = 0
        while True:
            line = stream.readline()
            if not line.endswith(b"\n"):
                raise EOFError(f"the samples broke off after {count}")
            head = json.loads(line)
            if "end" in head:
                if head["end"] != count:
                    raise EOFError(f"{count} samples came of {head['end']}")
                return
            yield {name: _array(stream, shape, dtype, head["sample"]) for name, shape, dtype in head["inputs"]}
            count += 1


def _array(stream: BinaryIO, shape: list[int], dtype: str, sample: str) -> np.ndarray[Any, Any]:
    array = np.empty(shape, np.dtype(dtype))
    data = stream.read(array.nbytes)
    if len(data) != array.nbytes:
        raise EOFError(f"the samples broke off within {sample}")
    array[...] = np.frombuffer(data, array.dtype).reshape(shape)
    return array
