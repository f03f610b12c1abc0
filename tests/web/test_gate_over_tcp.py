"""Tests of refusals over TCP, with clients that do as ESP-IDF does: they repeat what is refused without a pause."""

from __future__ import annotations

import base64
import hashlib

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from ota_server.fleet.policy import read_policy
from ota_server.web.gate import Gate
from ota_server.web.slowing import AT_ONCE, MAX_WAITING_OF_ONE
from tests.web.answers import is_whole, read_only_answer
from tests.web.door import Connection, Door, turn, until

TOKEN = b"fleet-token-0123456789abcdefghij"
POLICY = f'[access]\ndevices = "token"\ntoken = "sha256:{hashlib.sha256(TOKEN).hexdigest()}"\n'
ASK = b"GET /lamp.bin HTTP/1.1\r\nUser-Agent: ESP32 HTTP Client/1.0\r\nHost: h\r\n%sContent-Length: 0\r\n\r\n"
WRONG = ASK % (b"Authorization: Basic " + base64.b64encode(b"ota:wrong") + b"\r\n")
RIGHT = ASK % (b"Authorization: Basic " + base64.b64encode(b"ota:" + TOKEN) + b"\r\n")
MISSING = ASK % b""


class Hammer:
    """A client that asks again as soon as it is answered, over the same connection as long as that lasts."""

    def __init__(self, door: Door, request: bytes) -> None:
        self.answers = 0
        """How many answers came."""
        self.connections = 0
        """How many connections it took."""
        self.running = True
        self._door = door
        self._request = request

    async def run(self) -> None:
        """Ask until it is stopped."""
        while self.running:
            connection = await self._door.connect()
            self.connections += 1
            while not connection.ended:
                before = len(connection.received)
                connection.send(self._request)
                try:
                    await connection.until(lambda data, before=before: b"\n" in data[before:])  # type: ignore[misc]
                except EOFError:
                    break
                self.answers += 1
            connection.close()


class RefusalTests(TestCase):
    """What a client gets through."""

    timeout = 30

    async def open(self) -> Gate:
        """Open a door that asks for a token, whose time is the test's."""
        self.clock = Clock()
        self.door = Door(self, {"lamp-1.0.0.bin": b"\0an image"}, clock=self.clock)
        self.door.site.take_policy(read_policy(POLICY, "ota.toml"))
        await self.door.open()
        gate = self.door.site.gate
        assert gate is not None
        return gate

    async def hammer(self, request: bytes, seconds: int) -> Hammer:
        """Let a client hammer for so many seconds of the server's time; it is given all the time it can use."""
        gate = await self.open()
        client = Hammer(self.door, request)
        running = Deferred.fromCoroutine(client.run())
        for _ in range(seconds * 4):
            await until(lambda: gate.slowdown.waiting == 1)
            self.clock.advance(0.25)
        client.running = False
        while not running.called:
            self.clock.advance(0.25)
            await turn()
        return client

    async def test_wrong(self) -> None:
        """In a minute a wrong token gets some 20 answers, each over a connection of its own."""
        client = await self.hammer(WRONG, 60)
        self.assertEqual(client.answers, client.connections)
        self.assertIn(client.answers, range(AT_ONCE + 15, 23))

    async def test_missing(self) -> None:
        """Without a token it gets some 35, the second over a connection being the last."""
        client = await self.hammer(MISSING, 60)
        self.assertIn(2 * client.connections - client.answers, (0, 1))
        self.assertIn(client.answers, range(AT_ONCE + 25, 38))

    async def connect(self, count: int, request: bytes) -> list[Connection]:
        """Send a request over each of so many new connections."""
        connections = [await self.door.connect() for _ in range(count)]
        for connection in connections:
            connection.send(request)
        return connections

    async def test_many_at_once(self) -> None:
        """Of many connections some are answered, some wait, and the others are dropped; a good one is served."""
        gate = await self.open()
        connections = await self.connect(MAX_WAITING_OF_ONE + 40, WRONG)
        waiting = MAX_WAITING_OF_ONE
        await until(lambda: sum(connection.ended for connection in connections) == len(connections) - waiting)
        self.assertEqual(sum(bool(connection.received) for connection in connections), AT_ONCE)
        self.assertEqual(gate.slowdown.waiting, waiting)
        (good,) = await self.connect(1, RIGHT)
        await good.until(lambda data: data.endswith(b"an image"))
        self.clock.advance(5)
        await until(lambda: all(connection.ended for connection in connections))
        answers = [read_only_answer(connection.received) for connection in connections if connection.received]
        self.assertEqual([answer.code for answer in answers], [401] * (AT_ONCE + waiting))
        self.assertEqual(gate.slowdown.waiting, 0)

    async def test_clients_leave(self) -> None:
        """Answers that nobody waits for any more don't wait."""
        gate = await self.open()
        connections = await self.connect(AT_ONCE + 10, WRONG)
        await until(lambda: gate.slowdown.waiting == 10)
        for connection in connections:
            connection.close()
        await until(lambda: gate.slowdown.waiting == 0)

    async def test_challenge(self) -> None:
        """Who asks without, is challenged, and brings the token over the same connection, is served, again and again.

        So does `esp_https_ota` where it has a password, and isn't told to send it at once.
        """
        await self.open()
        for _ in range(20):
            (connection,) = await self.connect(1, MISSING)
            first = await connection.until(is_whole)
            self.assertEqual(read_only_answer(first).get(b"WWW-Authenticate"), b'Basic realm="ota"')
            connection.send(RIGHT)
            await connection.until(lambda data: data.endswith(b"an image"))
            connection.close()
