"""Long work on behalf of clients, done beside the thread that serves: no client waits for another's large message."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from blackprop.lab.remote.shared._quota import FairQuota

HELD_BYTES = 2**30  # of messages that wait here
OVERHEAD = 1024  # bytes that a message costs beyond its own


@dataclass
class _Job:
    route: bytes
    owner: bytes
    size: int
    work: Callable[[], Any]
    then: Callable[[Any], None]
    result: Any = None


class Background:
    """One thread that does pieces of work, taking turns between the connections that they are for.

    `work()` runs in that thread and must not touch shared objects; its result is handed to `then` by `collect`,
    which is called by the thread that holds the server's lock. The jobs of one connection keep their order.
    """

    def __init__(self) -> None:
        self._waiting: OrderedDict[bytes, deque[_Job]] = OrderedDict()
        self._done: deque[_Job] = deque()
        self._open: dict[bytes, int] = {}  # jobs of each connection that are not collected
        self._held = FairQuota(HELD_BYTES)
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="blackprop-background")

    @property
    def busy(self) -> bool:
        """Whether there are jobs that are not collected."""
        return bool(self._open)

    def concerns(self, route: bytes) -> bool:
        """Return whether a job of this connection is not collected yet; its next messages must wait for it."""
        return route in self._open

    def put(self, route: bytes, owner: bytes, size: int, work: Callable[[], Any], then: Callable[[Any], None]) -> bool:
        """Take on a job that holds `size` bytes; False where its owner has too many of them here."""
        size += OVERHEAD
        if not self._held.take(owner, size):
            return False
        self._open[route] = self._open.get(route, 0) + 1
        with self._changed:
            self._waiting.setdefault(route, deque()).append(_Job(route, owner, size, work, then))
            self._changed.notify()
        return True

    def collect(self) -> None:
        """Pass the results of finished jobs on."""
        while self._done:
            job = self._done.popleft()
            self._held.give_back(job.owner, job.size)
            self._open[job.route] -= 1
            if not self._open[job.route]:
                del self._open[job.route]
            result, job.result = job.result, None  # the other thread may hold the job until it has the next one
            job.then(result)
            del result

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the thread; jobs that wait are dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                job.result = job.work()
            except Exception as error:  # handed over as the result: this thread must live
                job.result = error
            job.work = _nothing  # it holds the message
            self._done.append(job)

    def _next(self) -> _Job | None:
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            route, jobs = self._waiting.popitem(last=False)
            job = jobs.popleft()
            if jobs:
                self._waiting[route] = jobs  # behind the others
            return job


def _nothing() -> None:
    return None
