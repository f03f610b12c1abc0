"""Tests of delivering images over TCP, with real threads that open the files."""

from __future__ import annotations

import hashlib
import os
import threading

from twisted.internet.defer import ensureDeferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import TestCase

from ota_server.web.delivery import LINGER
from tests.web.answers import is_whole, read_only_answer
from tests.web.door import Door, open_images, take, turn, until
from tests.web.test_delivery import NAME, image, request


class RealTests(TestCase):
    """Downloads over TCP, with threads that open the files."""

    SIZE = 16_000_000
    timeout = 30

    async def begin(self, openers: int = 4) -> Door:
        """Serve one large image."""
        door = Door(self, {NAME: image(self.SIZE)}, openers=openers)
        await door.open()
        return door

    async def test_whole(self) -> None:
        """A large file arrives, exactly, at several clients at a time."""
        door = await self.begin()
        answers = [door.ask(request(b"/firmware.bin", b"Connection: close")) for _ in range(3)]
        for answer in answers:
            body = read_only_answer(await answer).body
            self.assertEqual(hashlib.sha256(body).digest(), hashlib.sha256(image(self.SIZE)).digest())
        door.files.advance(LINGER)
        self.assertEqual(open_images(door.folder), [])

    async def test_truncated(self) -> None:
        """A file that is truncated while a client takes it ends the connection, and what came is of the file."""
        door = await self.begin()
        client = door.connect_by_hand(buffer=4096)
        self.addCleanup(client.close)
        client.sendall(request())
        data = b""
        while not data:
            await turn()
            data = take(client, 1000)
        os.truncate(door.folder / NAME, 1000)
        while door.site.open:
            data += take(client)
            await turn()
        while more := take(client):
            data += more
        self.assertFalse(is_whole(data))
        body = data.partition(b"\r\n\r\n")[2]
        self.assertEqual(body, image(self.SIZE)[: len(body)])
        door.files.advance(LINGER)
        self.assertEqual(open_images(door.folder), [])

    async def test_client_gone_during_download(self) -> None:
        """When the client is gone, the file is closed."""
        door = await self.begin()
        client = door.connect_by_hand(buffer=4096)
        client.sendall(request())
        await until(lambda: open_images(door.folder))
        client.close()
        await until(lambda: not door.site.open)
        door.files.advance(LINGER)
        self.assertEqual(open_images(door.folder), [])

    async def test_client_gone_before_opened(self) -> None:
        """When the client is gone before the file was opened, the file is closed when it is."""
        door = await self.begin(openers=1)
        gate, opened = threading.Event(), threading.Event()
        self.addCleanup(gate.set)
        pool = door.openers.pool
        pool.callInThread(gate.wait)
        connection = await door.connect()
        connection.send(request())
        await until(lambda: door.site.open and door.site.channels[0].requests)
        connection.close()
        await until(lambda: not door.site.open)
        with capturedLogs() as events:
            pool.callInThread(opened.set)
            gate.set()
            await until(opened.is_set)
            await until(lambda: door.files.getDelayedCalls() or not open_images(door.folder))
            door.files.advance(LINGER)
        self.assertEqual(open_images(door.folder), [])
        self.assertEqual([event for event in events if event["log_level"].name in ("error", "critical")], [])
        self.assertEqual(connection.received, b"")

    async def test_opened_twice(self) -> None:
        """Where two requests made the file be opened at the same time, one descriptor is kept, and both are served."""
        door = await self.begin(openers=1)
        gate = threading.Event()
        self.addCleanup(gate.set)
        door.openers.pool.callInThread(gate.wait)
        answers = [door.ask(request(b"/firmware.bin", b"Connection: close")) for _ in range(2)]
        waiting = [ensureDeferred(answer) for answer in answers]
        await until(lambda: len([channel for channel in door.site.channels if channel.requests]) == 2)
        gate.set()
        for answer in waiting:
            self.assertEqual(read_only_answer(await answer).body, image(self.SIZE))
        self.assertEqual(len(open_images(door.folder)), 1)
        door.files.advance(LINGER)
        self.assertEqual(open_images(door.folder), [])
