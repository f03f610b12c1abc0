"""Tests of long work beside the reactor."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import TestCase

from ota_server.operator.turns import AT_ONCE, Turns


class TurnsTests(TestCase):
    """Generators in threads."""

    timeout = 60

    def setUp(self) -> None:
        """Start threads."""
        from twisted.internet import reactor

        self.pool = ThreadPool(0, 4)
        self.pool.start()
        self.addCleanup(self.pool.stop)
        clock: Any = reactor
        self.turns = Turns(clock, self.pool)

    async def test_room_for_others(self) -> None:
        """While there is work for long, the reactor does much else."""
        others = 0

        def other() -> None:
            nonlocal others
            others += 1

        def work() -> Generator[None, None, int]:
            for _ in range(300):
                sum(range(10_000))
                yield
            return others

        looping = LoopingCall(other)
        looping.start(0)
        done = await self.turns.run(work())
        looping.stop()
        self.assertGreater(done, 100)

    async def test_few_at_once(self) -> None:
        """There are only so many at once, and all come to their end; what fails is told."""
        running = most = 0
        lock = threading.Lock()

        def work(number: int) -> Generator[None, None, int]:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            for _ in range(50):
                yield
            with lock:
                running -= 1
            return number

        found = await gatherResults([Deferred.fromCoroutine(self.turns.run(work(number))) for number in range(9)])
        self.assertEqual(found, list(range(9)))
        self.assertLessEqual(most, AT_ONCE)

        def fail() -> Generator[None, None, int]:
            yield
            raise RuntimeError("no")

        for _ in range(AT_ONCE + 1):
            with self.assertRaises(RuntimeError):
                await self.turns.run(fail())
