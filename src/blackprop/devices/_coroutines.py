"""Awaiting coroutines from synchronous code, whether or not an event loop runs in the caller's thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Sequence
from typing import Any


class Loop:
    """An event loop in a thread of its own, started on first use and kept.

    A coroutine can therefore open a connection in one call and use it in the next.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def awaited(self, answers: Sequence[Awaitable[Any]]) -> list[Any]:
        """Await all, concurrently, and return the results."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="blackprop coroutines", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(_together(answers), self._loop).result()


async def _together(answers: Sequence[Awaitable[Any]]) -> list[Any]:
    tasks = [asyncio.ensure_future(answer) for answer in answers]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()  # if one has failed, the results of the others are not needed
