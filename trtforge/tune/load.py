"""Engines under load: each with its streams, all at once, for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

Feeds = Mapping[str, "np.ndarray[Any, Any]"]


class Runs(Protocol):
    """A session of one stream."""

    def run(self, inputs: Feeds) -> Any: ...


@dataclass
class Stream:
    """One session in one thread. ``ended``: when executions ended; ``took``: seconds of each."""

    session: Runs
    feeds: Feeds
    ended: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    problem: BaseException | None = None

    def work(self, barrier: threading.Barrier, until: float) -> None:
        try:
            self.session.run(self.feeds)  # the first execution sets things up
            barrier.wait()
            started = time.perf_counter()
            end = started + until
            while started < end or not self.ended:  # one at least, however late this thread gets its turn
                self.session.run(self.feeds)
                self.ended.append(time.perf_counter())
                self.took.append(self.ended[-1] - started)
                started = time.perf_counter()
        except BaseException as error:
            self.problem = error
            barrier.abort()


def under_load(units: Mapping[str, Sequence[Stream]], seconds: float) -> tuple[dict[str, float], float]:
    """Executions a second of each unit, and the 99th percentile of an execution's milliseconds, of the slowest unit.

    Counted is the time in which every stream was busy. Raises what a session raised.
    """
    streams = [stream for several in units.values() for stream in several]
    barrier = threading.Barrier(len(streams) + 1)
    threads = [threading.Thread(target=stream.work, args=(barrier, seconds)) for stream in streams]
    for thread in threads:
        thread.start()
    with suppress(threading.BrokenBarrierError):  # the stream that broke it says why
        barrier.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    for stream in streams:
        if stream.problem is not None and not isinstance(stream.problem, threading.BrokenBarrierError):
            raise stream.problem
    last = min(stream.ended[-1] for stream in streams)
    rates = {
        name: sum(sum(at <= last for at in stream.ended) for stream in several) / (last - started)
        for name, several in units.items()
    }
    slow = [np.percentile([took for stream in several for took in stream.took], 99) for several in units.values()]
    return rates, float(max(slow) * 1e3)
