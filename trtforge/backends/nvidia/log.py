"""A logger that keeps TensorRT's errors, for the message of the call that failed."""

from __future__ import annotations

from typing import Any


def last_words_logger(trt: Any) -> Any:
    """An `ILogger` of the module with ``last_words()``: the errors since that was last called."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self._errors.append(message)

        def last_words(self) -> str:
            words, self._errors = self._errors, []
            return " | ".join(words)

    return Logger()
