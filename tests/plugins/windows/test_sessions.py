"""Sessions that can drive the device loop: TensorRT-RTX's, as far as it can be held true without a GPU."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest

from trtforge.backends.tensorrt_rtx_.session import RtxSession
from trtforge.errors.engine import ExecutionFailed
from trtforge.runtime.windows.cuda import DeviceSession


@pytest.mark.parametrize("name", ["run", "bind", "enqueue", "capturable"])
def test_the_session_offers_what_the_loop_calls(name: str) -> None:
    def parameters(owner: type) -> list[str]:
        return list(inspect.signature(getattr(owner, name)).parameters)

    assert parameters(RtxSession) == parameters(DeviceSession)


class Context:
    """An execution context that notes addresses and executions; the names are those of the real one."""

    def __init__(self, *, works: bool = True) -> None:
        self.works, self.addresses, self.executed = works, {}, []

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return self.works

    def execute_async_v3(self, stream_handle: int) -> bool:
        self.executed.append((stream_handle, dict(self.addresses)))
        return self.works

    def is_stream_capturable(self, stream: int) -> bool:
        return self.works


def session_of(context: Context) -> RtxSession:
    session: Any = RtxSession.__new__(RtxSession)
    session._context, session._dla, session._where = context, False, "model.plan"
    session._log = SimpleNamespace(last_words=lambda: "the log's words")
    session.traffic, session._allocators = {"executions": 0}, {}
    done: RtxSession = session
    return done


def test_bound_memory_is_used() -> None:
    """That `run` goes back to its own is shown in tests/native, with memory."""
    context = Context()
    session = session_of(context)
    session.bind("x", 1)
    session.bind("y", 2)
    session.enqueue(5)
    assert context.executed == [(5, {"x": 1, "y": 2})]
    assert session.capturable(5)


def test_a_refusal_is_told_in_the_runtimes_words() -> None:
    session = session_of(Context(works=False))
    for refused in (lambda: session.bind("x", 1), lambda: session.enqueue(5)):
        with pytest.raises(ExecutionFailed) as caught:
            refused()
        assert caught.value.why == "the log's words"
    assert not session.capturable(5)


@pytest.mark.rtx
def test_the_context_is_like_the_real_one() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (extra `rtx`)")
    for name, method in vars(Context).items():
        if name.startswith("_"):
            continue
        told = getattr(trt.IExecutionContext, name).__doc__
        for parameter in list(inspect.signature(method).parameters)[1:]:
            assert f"{parameter}: " in told
