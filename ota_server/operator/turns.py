"""Long work in the reactor by turns: devices that check in meanwhile wait for a fraction of a millisecond.

A thread would do worse: it keeps the interpreter for 5 ms at a time, and a check asks for it back several times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import TypeVar

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Cooperator

T = TypeVar("T")

TURN = 0.001
"""How long all such work together lasts until the reactor sees to others, in seconds."""


def _make_turn() -> Callable[[], bool]:
    end = time.perf_counter() + TURN
    return lambda: time.perf_counter() > end


class Turns:
    """Lets generators work by turns, all of them together no longer than TURN at once."""

    def __init__(self, reactor: IReactorTime) -> None:
        self._cooperator = Cooperator(_make_turn, lambda run: reactor.callLater(0, run))

    async def run(self, work: Generator[None, None, T]) -> T:
        """Let a generator work to its end, and return what it returns."""
        found: list[T] = []

        def steps() -> Generator[None, None, None]:
            found.append((yield from work))

        await self._cooperator.coiterate(steps())
        return found[0]
