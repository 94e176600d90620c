"""Memory for outputs whose size is known only while the engine runs: TensorRT asks for it through this class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def output_allocator(trt: Any, take: Callable[[int], int], give: Callable[[int], None]) -> Any:
    """An `IOutputAllocator`; ``take``: address of so many bytes; ``give``: such an address back.

    ``pointer`` and ``shape``: of the last execution. ``problem``: what ``take`` raised, which must not leave a method
    that C++ calls: TensorRT is told by a null address, and the execution fails.
    """

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.pointer, self.size = 0, 0
            self.shape: tuple[int, ...] = ()
            self.problem: Exception | None = None

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            self.problem = None
            size = max(1, size)  # TensorRT wants an address for an empty output too
            try:
                if size > self.size:
                    if self.size:
                        outgrown, self.pointer, self.size = self.pointer, 0, 0
                        give(outgrown)
                    self.pointer, self.size = take(size), size
            except Exception as error:
                self.problem, self.pointer, self.size = error, 0, 0
            return self.pointer

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return self.reallocate_output(tensor_name, memory, size, alignment)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            self.shape = tuple(int(size) for size in shape)

    return Allocator()
