"""Tests of fleet safety over real connections: the server as it is, with a real ledger, and devices that bounce."""

from __future__ import annotations

import socket
import sqlite3
import struct
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from ota_server import keeper as keeper_module
from ota_server.fleet import database
from ota_server.fleet.device import Device, Outcome
from ota_server.fleet.journal import Memory
from ota_server.fleet.ledger import Ledger, sqlite_url
from ota_server.fleet.outbox import Outbox
from ota_server.fleet.rollout import Rollout, State
from ota_server.keeper import FleetKeeper
from ota_server.service import OtaService, ThreadPoolService, make_ota_service
from tests.fleet.databases import postgresql
from tests.fleet.play import mac
from tests.images import esp8266_image
from tests.serving import ServedFolder
from tests.web.answers import Answer, is_whole, read_answer, read_only_answer
from tests.web.door import Connection

reactor: Any = global_reactor

OLD, NEW = (1, 0, 0), (1, 1, 0)
DEVICES = 300
MANY = 100_000

STAGES = 'stages = ["1", "10%", "100%"]\n'


async def until(condition: Callable[[], object]) -> None:
    """Wait until something holds; the test's time limit ends what never comes."""
    while not condition():
        await deferLater(reactor, 0.005)


def keeper_of(service: OtaService) -> FleetKeeper:
    """Return the part of a server that keeps the fleet's memory."""
    pools = (part for part in service if isinstance(part, ThreadPoolService))
    return next(inner for pool in pools for inner in pool if isinstance(inner, FleetKeeper))


class LiveTestCase(TestCase):
    """Tests with a server at a port of its own."""

    timeout = 120
    size = 4096
    """How large the sketch is, in bytes."""

    async def serve(self, policy: str = "", *, url: str | None = None, wait: bool = True) -> None:
        """Serve an old and a new release; `url` is that of the ledger, unless it is a file beside them."""
        files = {"lamp-1.0.0.bin": esp8266_image(self.size, 1), "lamp-1.1.0.bin": esp8266_image(self.size, 2)}
        self.folder = ServedFolder(self, {**files, "ota.toml": policy.encode()})
        self.ledger = self.folder.path / ".ota" / "ledger.sqlite"
        endpoint = TCP4ServerEndpoint(reactor, 0, 2 * DEVICES, "127.0.0.1")
        if wait and url is None:
            self.port = await self.folder.serve(endpoint)
            assert self.folder.service is not None
            self.keeper = keeper_of(self.folder.service)
            return
        self.ledger.parent.mkdir(exist_ok=True)
        service = make_ota_service(self.folder.path, self.ledger.parent, [("the test's port", endpoint)], database=url)
        self.keeper = keeper_of(service)
        service.startService()
        self.addCleanup(service.stopService)
        door: Any = next(part for part in service if hasattr(part, "_waitingForPort"))
        self.port = door._waitingForPort.result.getHost().port
        if wait:
            await self.keeper.when_ready()

    @property
    def rollout(self) -> Rollout:
        """The rollout of the new release."""
        rollout = self.keeper.loaded.course.find(("stable", "lamp"), NEW)
        assert rollout is not None
        return rollout

    def outcomes(self) -> dict[Outcome, int]:
        """Return how many devices stand how at the new release."""
        return {outcome: count for outcome, count in self.rollout.outcomes.items() if count}

    def device(self, number: int) -> Device:
        """Return what is remembered of a device."""
        return self.keeper.loaded.devices[mac(number)]

    async def connect(self) -> Connection:
        """Return a new connection."""
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port)
        connection: Connection = await connectProtocol(endpoint, Connection())
        return connection

    def hang_up(self, connection: Connection) -> None:
        """Close a connection in order."""
        assert connection.transport is not None
        connection.transport.loseConnection()

    def head(self, number: int, *fields: str, version: str = "1.0") -> bytes:
        """Return what the update client of an ESP8266 sends."""
        told = ("User-Agent: ESP8266-http-Update", f"x-ESP8266-STA-MAC: {mac(number)}", "x-ESP8266-mode: sketch")
        lines = (f"GET /lamp HTTP/{version}", "Host: h", *told, "x-ESP8266-version: 1.0.0", *fields, "", "")
        return "\r\n".join(lines).encode()

    async def visit(self, number: int) -> Answer:
        """Let a device ask, and take all that it is sent."""
        connection = await self.connect()
        connection.send(self.head(number, "Connection: close"))
        return read_only_answer(await connection.until_end())

    async def ask(self, path: str) -> int:
        """Ask for a page, and return the status."""
        connection = await self.connect()
        connection.send(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        return read_only_answer(await connection.until_end()).code


class BadReleaseTests(LiveTestCase):
    """A release on which every device comes back as it was."""

    async def _harm_one_after_another(self) -> int:
        harmed = 0
        for number in range(DEVICES):
            if (await self.visit(number)).code == 200:
                harmed += 1
                # It starts what it has now, and comes back.
                await self.visit(number)
        self.assertEqual(self.rollout.state, State.HALTED)
        self.assertEqual(self.outcomes(), {Outcome.BOUNCED: harmed})
        self.assertEqual(len(self.keeper.loaded.devices), DEVICES)
        self.assertEqual((await self.visit(DEVICES)).reason, "halted")
        return harmed

    async def test_default(self) -> None:
        """Without any settings at most 3 of 300 devices have taken it when it halts."""
        await self.serve()
        self.assertIn(await self._harm_one_after_another(), (2, 3))

    async def test_stages(self) -> None:
        """With a first stage of one device, that device alone has taken it."""
        await self.serve(STAGES)
        self.assertEqual(await self._harm_one_after_another(), 1)

    async def _harm_at_once(self) -> int:
        answers = await gatherResults([Deferred.fromCoroutine(self.visit(number)) for number in range(DEVICES)])
        harmed = [number for number, answer in enumerate(answers) if answer.code == 200]
        self.assertEqual(self.rollout.downloaded, len(harmed))
        for number in harmed:
            await self.visit(number)
        await until(lambda: self.rollout.state is State.HALTED)
        again = await gatherResults([Deferred.fromCoroutine(self.visit(number)) for number in range(2 * DEVICES)])
        self.assertEqual({answer.reason for answer in again}, {"halted"})
        return len(harmed)

    async def test_default_at_once(self) -> None:
        """Devices that come all at once may all take it, but never again once the first of them are back."""
        await self.serve()
        self.assertLessEqual(await self._harm_at_once(), DEVICES)
        self.assertLessEqual(max(a.downloads for d in self.keeper.loaded.devices.values() for a in d.attempts), 2)

    async def test_stages_at_once(self) -> None:
        """With stages it is one device, also where all come at once."""
        await self.serve(STAGES)
        self.assertEqual(await self._harm_at_once(), 1)


class DownloadTests(LiveTestCase):
    """Which downloads count."""

    size = 60_000

    async def _cut_off(self, number: int) -> None:
        """Let a device with a slow link take the beginning, and lose its connection."""
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", self.port))
            client.setblocking(False)
            client.sendall(self.head(number, "Connection: close"))
            taken = 0
            while taken < self.size // 4:
                try:
                    taken += len(client.recv(2048))
                except BlockingIOError:
                    await deferLater(reactor, 0.001)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await until(lambda: not self.keeper.loaded._active)

    async def test_cut_off(self) -> None:
        """Devices that are cut off in the middle haven't taken the release, and don't bounce, however often."""
        await self.serve()
        for _ in range(4):
            for number in range(3):
                await self._cut_off(number)
        self.assertEqual(self.outcomes(), {Outcome.OFFERED: 3})
        self.assertEqual([attempt.downloads for n in range(3) for attempt in self.device(n).attempts], [0, 0, 0])
        self.assertEqual((await self.visit(3)).reason, "newer")

    async def test_pieces(self) -> None:
        """A download in pieces counts once, over one connection and over many."""
        await self.serve()
        image = esp8266_image(self.size, 2)
        for number, reuse in enumerate((True, False)):
            connection = await self.connect()
            body = b""
            while len(body) < len(image):
                if body:
                    self.assertEqual([attempt.downloads for attempt in self.device(number).attempts], [0])
                fields = f"Range: bytes={len(body)}-{len(body) + 8191}"
                connection.send(self.head(number, fields, version="1.1"))
                answer, _ = read_answer(await connection.until(is_whole))
                self.assertEqual(answer.code, 206)
                body += answer.body
                connection.segments.clear()
                if not reuse:
                    self.hang_up(connection)
                    connection = await self.connect()
            self.assertEqual(body, image)
            self.hang_up(connection)
            await until(lambda: not self.keeper.loaded._active)
            [attempt] = self.device(number).attempts
            self.assertEqual((attempt.downloads, attempt.outcome), (1, Outcome.DOWNLOADED))
            await self.visit(number)
            # The first gets it once more, and after the second nobody does.
            self.assertEqual((attempt.outcome, attempt.downloads), (Outcome.BOUNCED, 2 - number))


class WatchingTestCase(LiveTestCase):
    """Tests that watch what the ledger's thread does."""

    def watch(self, name: str) -> list[str]:
        """Note in a list when a method of the ledger begins and ends, and what the test adds."""
        events: list[str] = []
        method = getattr(Ledger, name)

        def noting(*arguments: Any) -> Any:
            events.append("begins")
            try:
                return method(*arguments)
            finally:
                events.append("ends")

        self.patch(Ledger, name, noting)
        return events


class TroubleTests(WatchingTestCase):
    """A ledger that isn't there, or stands still, and devices that are served."""

    def read(self, url: str) -> Memory:
        """Return what is on disk."""
        ledger = Ledger(url)
        ledger.open_for_reading()
        with closing(ledger):
            return ledger.load(time.time())

    async def _serve_on(self, url: str, hold: Callable[[], object], release: Callable[[], object]) -> None:
        """Serve, and serve on while the ledger's thread stands still; all is written after that."""
        self.patch(database, "LOCK_PATIENCE", 60.0)
        await self.serve(url=url)
        self.assertEqual((await self.visit(0)).code, 200)
        await until(lambda: not self.keeper.loaded.outbox.unwritten)
        events = self.watch("write")
        await deferToThread(hold)
        try:
            self.assertEqual((await self.visit(1)).code, 200)
            await until(lambda: events)
            for number in range(2, 50):
                self.assertEqual((await self.visit(number)).code, 200)
            self.assertEqual((await self.visit(1)).code, 200)
            self.assertEqual((await self.visit(0)).reason, "deciding")
            self.assertEqual(events, ["begins"])
            self.assertGreater(self.keeper.loaded.outbox.unwritten, 50)
        finally:
            release()
        await until(lambda: self.rollout.state is State.HALTED)
        await until(lambda: not self.keeper.loaded.outbox.unwritten)
        found = self.read(url)
        self.assertEqual(found.devices.keys(), {mac(number) for number in range(50)})
        self.assertIs(found.places["stable", "lamp"].by_version[NEW].state, State.HALTED)
        self.assertEqual((await self.visit(99)).reason, "halted")

    async def test_sqlite_that_stands_still(self) -> None:
        """Another program holds the file, for as long as it likes."""
        path = Path(self.mktemp()).absolute()
        with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
            await self._serve_on(sqlite_url(path), lambda: other.execute("BEGIN EXCLUSIVE"), other.rollback)

    async def test_postgresql_that_stands_still(self) -> None:
        """A lock that somebody took holds the tables."""
        server = postgresql()
        url = server.empty()
        with psycopg.connect(f"host={server.folder} user=ota dbname=postgres") as other:
            lock = "LOCK TABLE devices, attempts, rollouts IN ACCESS EXCLUSIVE MODE"
            await self._serve_on(url, lambda: other.execute(lock), other.rollback)

    async def test_postgresql_that_comes_later(self) -> None:
        """Devices wait until the database is there, and are served then; supervisors are told."""
        self.patch(keeper_module, "RETRY", 0.1)
        server = postgresql()
        url = server.empty()
        server.stop()
        try:
            await self.serve(url=url, wait=False)
            await until(lambda: self.keeper.trouble)
            self.assertEqual((await self.ask("/-/healthy"), await self.ask("/-/ready")), (200, 503))
            self.assertEqual(self.keeper.fleet, None)
            waiting = Deferred.fromCoroutine(self.visit(1))
        finally:
            await deferToThread(server.start)
        self.assertEqual(((await waiting).code, await self.ask("/-/ready")), (200, 200))
        self.flushLoggedErrors()


class BlockingTests(WatchingTestCase):
    """Whether a large fleet holds up the others."""

    async def _ask_until(self, events: list[str]) -> None:
        """Ask again and again over other connections until the ledger has done; one answer comes before that."""
        while "ends" not in events:
            began = "begins" in events
            self.assertEqual(await self.ask("/-/healthy"), 200)
            if began:
                events.append("answered")
                # There is one processor for the thread and this.
                await deferLater(reactor, 0.02)
        self.assertLess(events.index("answered"), events.index("ends"), events)

    async def test_large_fleet(self) -> None:
        """While 100,000 devices are read, and later written, others are answered."""
        path = Path(self.mktemp()).absolute()
        ledger = Ledger(sqlite_url(path))
        ledger.open(time.time())
        now = time.time() - 3600
        outbox = Outbox(1, (), now)
        for n in range(1, MANY + 1):
            outbox.changed(Device(n, mac(n), "esp8266", "stable", "lamp", now, now, f"192.0.2.{n % 256}", "1.0.0"))
        while (batch := outbox.take(now)) is not None:
            ledger.write(batch)
            outbox.confirm()
        ledger.close()
        reading, writing = self.watch("load"), self.watch("write")
        await self.serve(url=sqlite_url(path), wait=False)
        await self._ask_until(reading)
        await self.keeper.when_ready()
        fleet = self.keeper.loaded
        self.assertEqual(len(fleet.devices), MANY)
        await until(lambda: not fleet.outbox.unwritten)
        writing.clear()
        for device in fleet.devices.values():
            fleet.outbox.changed(device)
        await self._ask_until(writing)
        await until(lambda: not fleet.outbox.unwritten)
