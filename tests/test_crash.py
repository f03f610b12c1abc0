"""The kill test: servers under load are killed again and again at random moments, and must know what they said."""

from __future__ import annotations

import os
import random
import signal
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tests.crash.checker import check
from tests.crash.lane import Lane, spell
from tests.crash.nursery import read_durable
from tests.images import add_arduino_crc, esp8266_image
from tests.serving import LONG_AGO

reactor: Any = global_reactor

ROUNDS = 25
"""How many times each server is killed."""

DEVICES = 75
"""How many devices each server has."""

LASTING = {"default": 2, "staged": 2, "slow": 2, "braked": 6}
"""For so many lives a release is the newest: it takes several until the loop brake holds many devices."""

POLICIES = {
    "default": "",
    "staged": 'stages = ["3", "100%"]\nsoak = "1s"\nconfirm = "60%"',
    "slow": 'stages = ["1", "10%", "100%"]\nsoak = "1h"',
    "braked": "halt = { failures = 1000000 }",
}
"""The servers, and their policies."""

SEATS = {"staged": 3, "slow": 1}
"""How many devices may take a bad release, but for those whose taking was lost."""


class Nursery(ProcessProtocol):
    """The program that runs servers and kills them; see tests.crash.nursery."""

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()
        self.errors = b""
        self._rest = b""
        self._waiting: dict[tuple[str, str], Deferred[list[str]]] = {}

    def start(self, lane: Lane) -> Deferred[list[str]]:
        """Start the server of a lane; return its port."""
        return self._do("start", "port", lane.name, str(lane.folder))

    def kill(self, lane: Lane) -> Deferred[list[str]]:
        """Kill the server of a lane; return when that was, and its status."""
        return self._do("kill", "dead", lane.name)

    def _do(self, order: str, answer: str, name: str, *more: str) -> Deferred[list[str]]:
        assert self.transport is not None
        told: Deferred[list[str]] = Deferred()
        self._waiting[answer, name] = told
        self.transport.write(" ".join((order, name, *more)).encode() + b"\n")
        return told

    def outReceived(self, data: bytes) -> None:
        """Take what the program tells."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            kind, name, *more = line.decode().split()
            self._waiting.pop((kind, name)).callback(more)

    def errReceived(self, data: bytes) -> None:
        """Keep what it complains of."""
        self.errors += data

    def processEnded(self, reason: Failure) -> None:
        """Take note of the end."""
        waiting, self._waiting = self._waiting, {}
        for each in waiting.values():
            each.errback(AssertionError(f"the nursery has ended: {self.errors.decode()}"))
        self.ended.callback(None)

    async def end(self) -> None:
        """End the program, and with it all servers."""
        assert self.transport is not None
        self.transport.closeStdin()
        await self.ended


def make_release(number: int) -> bytes:
    """Return the image of a release: real ones, that differ in two bytes whose sum for the chip stays the same."""
    data = bytearray(esp8266_image(16384, seed=1))
    data[8192] ^= number
    data[8193] ^= number
    return add_arduino_crc(bytes(data))


class CrashTests(TestCase):
    """The whole server, as it is, on real sockets and a real file."""

    timeout = 600

    def setUp(self) -> None:
        """Start the nursery."""
        self.nursery = Nursery()
        command = [sys.executable, "-m", "tests.crash.nursery"]
        root = str(Path(__file__).parent.parent)
        reactor.spawnProcess(self.nursery, sys.executable, command, {**os.environ, "PYTHONPATH": root}, root)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.nursery.end()))
        self.seed = int(os.environ.get("OTA_CRASH_SEED", random.SystemRandom().randrange(1 << 32)))
        self.releases = [make_release(number) for number in range(1, ROUNDS // 2 + 2)]
        self.starts: list[float] = []
        self.ages: list[float] = []
        self.awaited = 0

    def put(self, lane: Lane, name: str, data: bytes) -> None:
        """Put a file into a lane's folder, as a careful person does."""
        aside = lane.folder / "firmware" / f".{name}"
        aside.write_bytes(data)
        os.utime(aside, (LONG_AGO, LONG_AGO))
        aside.rename(aside.with_name(name))

    async def play(self, name: str, policy: str) -> Lane:
        """Let a server live and die again and again; return what was seen."""
        chance = random.Random(f"{self.seed} {name}")
        lane = Lane.of(name, Path(self.mktemp()).absolute(), chance, DEVICES, staged=name in SEATS)
        (lane.folder / "firmware").mkdir(parents=True)
        (lane.folder / "state").mkdir()
        self.put(lane, "ota.toml", policy.encode())
        for number in range(ROUNDS):
            minor, is_old = divmod(number, LASTING[name])
            if not is_old:
                lane.newest = (1, minor, 0)
                if minor % 2:
                    lane.bad.add(lane.newest)
                self.put(lane, f"lamp-{spell(lane.newest)}.bin", self.releases[minor])
            await self.live_and_die(lane, number)
            if lane.problems:
                break
        return lane

    async def live_and_die(self, lane: Lane, number: int) -> None:
        """Let a server live once, and look at what it leaves behind."""
        began = time.time()
        (port,) = await self.nursery.start(lane)
        lane.open(int(port))
        # During the start, soon after it, or when more than the second has passed that may be lost.
        span = lane.chance.choices([(0.0, 0.15), (0.0, 0.8), (1.2, 1.8)], (1, 4, 4))[0]
        await self.wait(lane, lane.chance.uniform(*span))
        killed, status = await self.nursery.kill(lane)
        durable = read_durable(lane.folder)
        await lane.close(durable)
        if lane.first_answer is not None:
            self.starts.append(lane.first_answer - began)
            if span[0]:
                self.ages.append(float(killed) - durable)
        problems = [*lane.problems, *check(lane.folder / "state", lane.facts.values(), set(lane.halted), time.time())]
        if int(status) != signal.SIGKILL:
            problems.append(f"it had ended before it was killed, with {status}: {self.nursery.errors.decode()}")
        log = (lane.folder / "log").read_text()
        if "Traceback" in log:
            problems.append(log)
        for version in lane.bad if lane.name in SEATS else ():
            taken, excess = lane.taken.get(version, set()), lane.excess.get(version, 0)
            if len(taken) > SEATS[lane.name] + excess:
                problems.append(f"{len(taken)} devices took {version}, and only {excess} seats may have been lost")
        lane.problems = [f"server {lane.name!r}, life {number}: {problem}" for problem in problems]

    async def wait(self, lane: Lane, seconds: float) -> None:
        """Wait for the moment of the kill: in some lives that is when a device is told of a halt, or just before."""
        waiting: Deferred[None] = deferLater(reactor, seconds)
        moment = lane.chance.choice((None, "halted", "halted", "deciding"))

        def told(reason: str) -> None:
            if reason == moment and not waiting.called:
                waiting.cancel()

        lane.awaited = told
        try:
            await waiting
        except CancelledError:
            self.awaited += 1

    async def test_kill(self) -> None:
        """100 kills: no halt is lost, nothing older than a second is, the files are sound, and each start is quick."""
        playing = [Deferred.fromCoroutine(self.play(name, policy)) for name, policy in POLICIES.items()]
        lanes = await gatherResults(playing)
        about = f"to repeat it: OTA_CRASH_SEED={self.seed}"
        problems = [problem for lane in lanes for problem in lane.problems]
        if problems:
            self.fail("\n".join((about, *problems)))
        # All that was to be tried has been: halts, outcomes of all kinds, kills whenever something may go wrong.
        kinds = Counter(kind for lane in lanes for kind, _, _ in lane.facts)
        self.assertEqual(kinds["seen"], len(POLICIES) * DEVICES)
        for kind in ("downloaded", "confirmed", "bounced", "braked"):
            self.assertGreater(kinds[kind], 10, f"{kinds}; {about}")
        self.assertGreater(sum(len(lane.halted) for lane in lanes), 4, about)
        self.assertGreater(self.awaited, 4, about)
        self.assertGreater(len(self.starts), 60, about)
        self.assertLess(statistics.median(self.starts), 3, about)
        # What is older than a second is on disk; another program may have taken the machine from this one now and then.
        self.assertLess(statistics.median(self.ages), 1, about)
