"""Tests of the open files of images: shared by downloads, and closed in time, also where reading fails."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from ota_server.web.delivery import LINGER
from tests.web.answers import is_whole, read_only_answer
from tests.web.door import open_images
from tests.web.memory import MemoryDoor
from tests.web.test_delivery import NAME, image, request


class UnreadableTests(SynchronousTestCase):
    """Files that can't be read, though they could be opened: a disk that fails."""

    def setUp(self) -> None:
        """Open a door to a folder with one image."""
        self.door = MemoryDoor(self, {NAME: image()})

    def break_disk(self) -> None:
        """Let every further read fail."""

        def fail(descriptor: int, size: int, offset: int) -> bytes:
            raise OSError(5, "Input/output error")

        self.patch(os, "pread", fail)

    def check_closed(self) -> None:
        """Check that the file is closed after a while."""
        self.flushLoggedErrors(OSError)
        self.door.clock.advance(LINGER)
        self.assertEqual(open_images(self.door.folder), [])

    def test_first_bytes(self) -> None:
        """Where the first bytes can't be read the client gets an answer that says so, and the file is closed."""
        self.break_disk()
        connection = self.door.connect()
        connection.send(request())
        self.assertIn(read_only_answer(connection.received).code, (500, 503))
        self.check_closed()

    def test_later_bytes(self) -> None:
        """Where later ones can't be read the connection ends at once, and the file is closed."""
        connection = self.door.connect()
        connection.send(request())
        self.break_disk()
        try:
            self.door.turn()
        except OSError:
            # A transport of TCP ends the connection when its producer fails.
            connection.transport.loseConnection()
        self.assertTrue(connection.transport.disconnecting)
        self.assertFalse(is_whole(connection.received))
        connection.lose()
        self.check_closed()


class SharedFileTests(SynchronousTestCase):
    """The file of an image, which all downloads of it share."""

    def setUp(self) -> None:
        """Open a door to a folder with one image."""
        self.door = MemoryDoor(self, {NAME: image()})

    def count(self) -> int:
        """Return how many descriptors are open."""
        return len(open_images(self.door.folder))

    def test_one_descriptor(self) -> None:
        """Any number of downloads take one descriptor, and each gets its own bytes."""
        connections = [self.door.connect() for _ in range(5)]
        for number, connection in enumerate(connections):
            connection.send(request(b"/firmware.bin", b"Range: bytes=%d-" % number))
            self.door.turn(1)
        self.assertEqual(self.count(), 1)
        self.door.turn()
        for number, connection in enumerate(connections):
            self.assertEqual(read_only_answer(connection.received).body, image()[number:])

    def test_kept_for_a_while(self) -> None:
        """After the last download it is kept open for some seconds, and each use begins these anew."""
        for _ in range(3):
            self.door.ask(b"/firmware.bin", b"Range: bytes=0-9")
            self.door.clock.advance(LINGER - 1)
            self.assertEqual(self.count(), 1)
        self.door.clock.advance(2)
        self.assertEqual(self.count(), 0)

    def test_not_closed_under_a_download(self) -> None:
        """It isn't closed under a download, however long that takes."""
        self.door.ask(b"/firmware.bin", b"Range: bytes=0-9")
        connection = self.door.connect()
        connection.send(request())
        for _ in range(30):
            self.door.clock.advance(LINGER)
            self.door.turn(1)
        self.assertEqual(read_only_answer(connection.received).body, image())
        self.door.clock.advance(LINGER)
        self.assertEqual(self.count(), 0)

    def test_replaced(self) -> None:
        """When another file takes the name, new downloads get it, and the old file is closed in time."""
        old = self.door.connect()
        old.send(request())
        aside = self.door.folder / ".new"
        aside.write_bytes(image(seed=2))
        aside.rename(self.door.folder / NAME)
        self.door.read()
        self.assertEqual(self.door.ask(b"/firmware.bin").body, image(seed=2))
        self.assertEqual(read_only_answer(old.received).body, image())
        self.door.clock.advance(LINGER)
        self.assertEqual(self.count(), 0)

    def test_end_of_server(self) -> None:
        """At the end of the server what nobody reads is closed at once, and the rest with its download."""
        self.door.ask(b"/firmware.bin", b"Range: bytes=0-9")
        self.door.deliveries.close()
        self.assertEqual(self.count(), 0)
        connection = self.door.connect()
        connection.send(request())
        self.door.deliveries.close()
        self.assertEqual(self.count(), 1)
        connection.lose()
        self.assertEqual(self.count(), 0)
