"""Tests of the stream of events over real sockets: connections that break at any byte lose and double nothing."""

from __future__ import annotations

import random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from ota_server.fleet.journal import Event
from ota_server.operator import events
from tests.operator.library import LAMPS
from tests.operator.live import LiveServer, Wire
from tests.operator.streaming import StreamReader

PATH = "/api/v1/events/stream"

COUNT = 150
"""How many events are written while a client's connection breaks again and again."""


class LiveTests(TestCase):
    """The stream, as a program follows it."""

    timeout = 120

    async def start(self) -> LiveServer:
        """Start a server."""
        server = LiveServer(self, LAMPS)
        await server.start()
        return server

    async def write(self, server: LiveServer, count: int = COUNT) -> None:
        """Let the server decide many things, some of them together, one after the other on disk."""
        from twisted.internet import reactor

        chance = random.Random(2)
        written = 0
        clock: Any = reactor
        while written < count:
            for _ in range(min(chance.randrange(1, 5), count - written)):
                written += 1
                text = f"{written} {'ä' * chance.randrange(300)}"
                server.keeper.loaded.outbox.told(Event(1.0, "server", "test", text))
            server.keeper._hurry()
            await deferLater(clock, 0.005)

    async def all_ids(self, server: LiveServer) -> list[str]:
        """Return the ids of all events in the ledger, oldest first."""
        found: list[str] = []
        cursor = ""
        while True:
            page = await server.get(f"/api/v1/events?limit=500{cursor}")
            found += [event["id"] for event in page["items"]]
            if page["next"] is None:
                return found[::-1]
            cursor = f"&cursor={page['next']}"

    async def follow(self, server: LiveServer, last_id: str | None) -> Wire:
        """Return a connection that follows the stream."""
        return await (server.ask(PATH) if last_id is None else server.ask(PATH, Last_Event_ID=last_id))

    async def break_again_and_again(self, seed: int) -> None:
        """Follow with a connection that breaks after any number of bytes."""
        server = await self.start()
        first = await self.follow(server, None)
        reader = StreamReader()
        while reader.last_id is None:
            size = len(first.data)
            await first.read_up_to(size + 1)
            reader.feed(first.data[size:])
        transport: Any = first.transport
        transport.abortConnection()
        await first.ended
        last_id = reader.last_id
        assert last_id is not None
        before = set(await self.all_ids(server))
        writing = Deferred.fromCoroutine(self.write(server))
        chance = random.Random(seed)
        seen: list[str] = []
        breaks = 0
        while len(seen) < COUNT:
            wire = await self.follow(server, last_id)
            await wire.read_up_to(chance.randrange(600, 9000), 0.1)
            transport = wire.transport
            (transport.abortConnection if chance.random() < 0.5 else transport.loseConnection)()
            await wire.ended
            breaks += 1
            reader = StreamReader()
            reader.feed(wire.data)
            seen += reader.ids
            last_id = reader.last_id or last_id
            self.assertLess(breaks, 5 * COUNT)
        await writing
        written = [each for each in await self.all_ids(server) if each not in before]
        self.assertEqual(len(written), COUNT)
        self.assertEqual(seen, written)
        self.assertGreater(breaks, 10)

    async def test_breaks(self) -> None:
        """Whenever the connection breaks, the client that resumes gets each event once, from memory."""
        await self.break_again_and_again(1)

    async def test_breaks_from_the_ledger(self) -> None:
        """The same, where the server keeps so little in memory that the ledger is read for nearly each."""
        self.patch(events, "KEPT", 2)
        self.patch(events, "PAGE", 3)
        await self.break_again_and_again(3)

    async def test_many_clients(self) -> None:
        """Many clients get the same, in the same order, and the server ends though they are there."""
        server = await self.start()
        wires = [await self.follow(server, "0-0") for _ in range(30)]
        await self.write(server, 20)
        ids: list[str] = []
        while len(ids) < 20:
            ids = await self.all_ids(server)
        for wire in wires:
            reader = StreamReader()
            size = 0
            while reader.ids != ids:
                reader.feed(wire.data[size:])
                size = len(wire.data)
                if reader.ids != ids:
                    await wire.read_up_to(size + 1)
        # They are still connected when the server stops.
