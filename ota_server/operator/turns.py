"""Long work in a thread that leaves room for others: devices that check in meanwhile hardly wait.

A thread that just works keeps the interpreter for 5 ms at a time, and a check has to get it back several times. This
one lets it go after each step, for a moment. So checks waited far less than beside such a thread, and than beside the
same work in the reactor, a millisecond at a time.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, TypeVar

from twisted.internet.defer import DeferredSemaphore
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

T = TypeVar("T")

PAUSE = 0.0001
"""How long a thread lets others go on after each step, in seconds."""

AT_ONCE = 2
"""How many such pieces of work there are at once; others wait, and take no threads."""


class Turns:
    """Lets generators work in threads of a pool, step by step. What they read may change between two steps."""

    def __init__(self, reactor: Any, pool: ThreadPool) -> None:
        self._reactor = reactor
        self._pool = pool
        self._places = DeferredSemaphore(AT_ONCE)

    async def run(self, work: Generator[None, None, T]) -> T:
        """Let a generator work to its end, and return what it returns."""
        await self._places.acquire()
        try:
            found: T = await deferToThreadPool(self._reactor, self._pool, _work_off, work)
        finally:
            self._places.release()
        return found


def _work_off(work: Generator[None, None, T]) -> T:
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: T = end.value
            return found
        time.sleep(PAUSE)
