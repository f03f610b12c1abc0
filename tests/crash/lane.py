"""Devices that keep a server busy until it is killed, and what is seen of it from outside."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.task import deferLater

from ota_server.firmware.versions import Numbers
from tests.crash.checker import Fact
from tests.fleet.play import mac
from tests.web.answers import Answer, is_whole, read_answer
from tests.web.door import Connection

reactor: Any = global_reactor

OLDEST = (1, 0, 0)
PAUSE = (0.3, 1.0)
"""How long a device waits before it asks again, in seconds: between these."""

REBOOT = (0.02, 0.2)
"""How long it takes a device to start what it downloaded, in seconds."""


def spell(version: Numbers) -> str:
    """Write a version."""
    return ".".join(map(str, version))


@attrs.define(eq=False)
class SimulatedDevice:
    """A device: what it runs, and what it was sent last, which it tries out at its next start."""

    id: str
    version: Numbers = OLDEST
    fetched: Numbers | None = None
    sent: Numbers | None = None
    connection: Connection | None = None


@attrs.define(eq=False)
class Lane:
    """One server's devices.

    `bad` are the releases on which every device bounces. `facts` are what must be on disk; those of the round that
    runs are in `pending`, until it is known how much of it was. `halted` are the releases that a device was told are
    halted, and when it was. `taken` are the devices that downloaded a release, `excess` how many of them may have had
    a seat that was lost. `awaited` is called when a device is told `halted` for the first time, or `deciding`.
    """

    name: str
    folder: Path
    chance: random.Random
    devices: list[SimulatedDevice]
    staged: bool
    newest: Numbers = OLDEST
    bad: set[Numbers] = attrs.field(factory=set)
    halted: dict[Numbers, float] = attrs.field(factory=dict)
    facts: dict[tuple[str, str, Numbers], Fact] = attrs.field(factory=dict)
    pending: list[Fact] = attrs.field(factory=list)
    taken: dict[Numbers, set[str]] = attrs.field(factory=dict)
    excess: dict[Numbers, int] = attrs.field(factory=dict)
    problems: list[str] = attrs.field(factory=list)
    awaited: Callable[[str], object] = lambda reason: None
    first_answer: float | None = None
    _port: int | None = None
    _running: Deferred[Any] | None = None
    _waiting: set[Deferred[None]] = attrs.field(factory=set)

    @classmethod
    def of(cls, name: str, folder: Path, chance: random.Random, devices: int, *, staged: bool) -> Lane:
        """Return a lane with so many devices; `staged` says that the policy has stages."""
        return cls(name, folder, chance, [SimulatedDevice(mac(number)) for number in range(devices)], staged)

    def open(self, port: int) -> None:
        """Let the devices come to a server at this port."""
        self._port = port
        self.first_answer = None
        self._running = gatherResults([Deferred.fromCoroutine(self._live(each)) for each in self.devices])

    async def close(self, durable: float) -> None:
        """End the round, after the server was killed; all that came before `durable` is on its disk."""
        self._port = None
        for waiting in list(self._waiting):
            waiting.cancel()
        for device in self.devices:
            if device.connection is not None:
                device.connection.close()
        assert self._running is not None
        await self._running
        for fact in self.pending:
            if fact.time < durable:
                key = (fact.kind, fact.device, fact.version)
                if fact.kind != "seen" or key not in self.facts or self.facts[key].since < fact.since:
                    self.facts[key] = fact
            elif fact.kind == "downloaded":
                self.excess[fact.version] = self.excess.get(fact.version, 0) + 1
        self.pending.clear()

    async def _wait(self, between: tuple[float, float]) -> None:
        """Wait for a time in seconds between these two, or until the round ends."""
        waiting: Deferred[None] = deferLater(reactor, self.chance.uniform(*between))
        self._waiting.add(waiting)
        try:
            await waiting
        except CancelledError:
            pass
        finally:
            self._waiting.remove(waiting)

    async def _live(self, device: SimulatedDevice) -> None:
        await self._wait((0.0, PAUSE[1]))
        while self._port is not None:
            try:
                await self._visit(device)
            except (ConnectError, EOFError):
                if self._port is not None:
                    # It is about to be killed, or was, and that isn't told yet.
                    await self._wait(REBOOT)
                continue
            finally:
                device.connection = None
            await self._wait(PAUSE if device.fetched is None else REBOOT)

    async def _visit(self, device: SimulatedDevice) -> None:
        """Let a device ask for its update, and take it."""
        assert self._port is not None
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self._port)
        device.connection = connection = await connectProtocol(endpoint, Connection())
        asked = time.time()
        version = device.version
        if device.fetched is not None and device.fetched not in self.bad:
            version = device.fetched
        answer, received = await self._ask(
            connection,
            b"/lamp",
            b"x-ESP8266-STA-MAC: %s" % device.id.encode(),
            b"x-ESP8266-mode: sketch",
            b"x-ESP8266-free-space: 1000000",
            b"x-ESP8266-version: %s" % spell(version).encode(),
        )
        if answer.code == 503:
            return
        self.first_answer = self.first_answer or received
        self._note(received, "seen", device, since=asked)
        if device.fetched is not None:
            if self._is_known(device, device.fetched):
                self._note(received, "confirmed" if version == device.fetched else "bounced", device, device.fetched)
            device.version, device.fetched = version, None
        self._judge(device, version, answer, asked, received)
        if answer.code == 200:
            told = answer.get(b"X-Version") or b""
            await self._take(device, connection, tuple(map(int, told.split(b"."))))
        assert connection.transport is not None
        connection.transport.loseConnection()

    async def _take(self, device: SimulatedDevice, connection: Connection, version: Any) -> None:
        """Note a whole download, once the server knows of it: with the next request comes that all has arrived."""
        device.fetched = version
        if device.sent != version:
            device.sent = version
            for kind in ("downloaded", "confirmed", "bounced", "braked"):
                # If it had been sent this before, that begins anew.
                self.facts.pop((kind, device.id, version), None)
        self.taken.setdefault(version, set()).add(device.id)
        # Unless the next answer comes, nobody knows whether the server knew of it.
        fact = Fact(math.inf, "downloaded", device.id, version)
        self.pending.append(fact)
        _, received = await self._ask(connection, b"/-/healthy")
        self.pending.remove(fact)
        self._note(received, "downloaded", device, version)

    async def _ask(self, connection: Connection, path: bytes, *fields: bytes) -> tuple[Answer, float]:
        """Ask, and return the answer with the time at which it was whole, in seconds since 1970."""
        connection.segments.clear()
        connection.send(b"GET %s HTTP/1.1\r\nHost: h\r\n%s\r\n" % (path, b"".join(b"%s\r\n" % each for each in fields)))
        data = await connection.until(is_whole)
        return read_answer(data)[0], time.time()

    def _is_known(self, device: SimulatedDevice, version: Numbers) -> bool:
        """Say whether the server that runs knows of a download, from its own life or from the ledger."""
        lately = (fact for fact in self.pending if fact.kind == "downloaded" and fact.device == device.id)
        durable = ("downloaded", device.id, version) in self.facts
        return durable or any(fact.version == version and fact.time < math.inf for fact in lately)

    def _note(
        self, received: float, kind: str, device: SimulatedDevice, version: Numbers = (0, 0, 0), since: float = 0.0
    ) -> None:
        self.pending.append(Fact(received, kind, device.id, version, since))

    def _judge(self, device: SimulatedDevice, version: Numbers, answer: Answer, asked: float, received: float) -> None:
        """See whether an answer may be, after all that devices have been told before."""
        newest, reason = self.newest, answer.reason
        about = f"{device.id} on {version} got {answer.code} {reason}"
        if newest in self.halted and self.halted[newest] < asked and version < newest:
            if answer.get(b"X-Version") == spell(newest).encode():
                self.problems.append(f"{about}: {newest}, which was halted {asked - self.halted[newest]:.3f} s before")
            elif answer.code == 304 and reason != "halted" and not (self.staged and reason == "bounced"):
                self.problems.append(f"{about}, though {newest} was halted {asked - self.halted[newest]:.3f} s before")
        braked = self.facts.get(("braked", device.id, newest))
        if braked is not None and version < newest and reason not in ("bounced", "halted"):
            self.problems.append(f"{about}, though {braked}")
        if answer.code not in (200, 304):
            self.problems.append(f"{about}: {answer.body!r}")
        if reason == "deciding" or (reason == "halted" and newest not in self.halted):
            self.awaited(reason)
        if reason == "halted":
            self.halted[newest] = min(received, self.halted.get(newest, received))
        elif reason == "bounced" and not self.staged:
            # Where there are stages it may be of a release before, as this one isn't for the device.
            self._note(received, "braked", device, newest)
