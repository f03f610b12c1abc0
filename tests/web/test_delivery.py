"""Tests of delivering images: exactly the file's bytes, or an end that every client takes for a failure."""

from __future__ import annotations

import os
import random
from typing import Any

from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from ota_server.web.delivery import LINGER, ImageProducer
from tests.web.answers import Answer, is_whole, read_answer, read_only_answer
from tests.web.door import open_images
from tests.web.memory import MemoryConnection, MemoryDoor, OwnThreadPool

BUFFER = ImageProducer.bufferSize
SIZE = 10 * BUFFER + 123
NAME = "firmware-1.0.0.bin"


def image(size: int = SIZE, seed: int = 1) -> bytes:
    """Return an image of so many bytes that holds no part twice."""
    return random.Random(seed).randbytes(size)


def request(path: bytes = b"/firmware.bin", *fields: bytes, method: bytes = b"GET") -> bytes:
    """Return a request."""
    return b"%s %s HTTP/1.1\r\nHost: h\r\n%s\r\n" % (method, path, b"".join(b"%s\r\n" % field for field in fields))


class WholeTests(SynchronousTestCase):
    """What arrives when nothing goes wrong."""

    def setUp(self) -> None:
        """Open a door to a folder with one image of several buffers."""
        self.door = MemoryDoor(self, {NAME: image()})

    def tearDown(self) -> None:
        """Check that no file is left open for long."""
        self.door.clock.advance(LINGER)
        self.assertEqual(open_images(self.door.folder), [])

    def test_whole(self) -> None:
        """The whole file arrives, exactly."""
        answer = self.door.ask(b"/firmware.bin")
        self.assertEqual((answer.code, answer.body), (200, image()))

    def test_parts(self) -> None:
        """A part arrives, exactly, wherever its ends lie among the buffers."""
        for first, last in ((0, 0), (0, BUFFER - 1), (1, BUFFER), (BUFFER - 1, BUFFER), (BUFFER, SIZE), (5, SIZE - 2)):
            answer = self.door.ask(b"/firmware.bin", b"Range: bytes=%d-%d" % (first, last))
            self.assertEqual((answer.code, answer.body), (206, image()[first : last + 1]))
            expected = b"bytes %d-%d/%d" % (first, min(last, SIZE - 1), SIZE)
            self.assertEqual(answer.get(b"Content-Range"), expected)
        self.assertEqual(self.door.ask(b"/firmware.bin", b"Range: bytes=-7").body, image()[-7:])

    def test_sizes_around_the_buffer(self) -> None:
        """Files of a size at a buffer's bounds arrive, exactly."""
        for size in (1, 2, BUFFER - 1, BUFFER, BUFFER + 1, 2 * BUFFER):
            door = MemoryDoor(self, {NAME: image(size)})
            self.assertEqual(door.ask(b"/firmware.bin").body, image(size))

    def test_small_buffers(self) -> None:
        """Buffers of any size do; a file's bytes don't depend on them."""
        for size in (1, 7, 1000):
            self.patch(ImageProducer, "bufferSize", size)
            door = MemoryDoor(self, {NAME: image(3000)})
            connection = door.connect()
            connection.send(request())
            door.turn(5000)
            self.assertEqual(read_only_answer(connection.received).body, image(3000))

    def test_head_and_first_bytes_together(self) -> None:
        """The head and the first bytes leave in one write, of a whole file and of a part."""
        for fields in ((), (b"Range: bytes=100-",)):
            connection = self.door.connect()
            connection.send(request(b"/firmware.bin", *fields))
            first = connection.transport.writes[0]
            head, _, body = first.partition(b"\r\n\r\n")
            self.assertEqual(len(body), BUFFER)
            self.assertTrue(head.startswith(b"HTTP/1.1 20"))
            self.door.turn()

    def test_one_buffer_at_a_time(self) -> None:
        """No more than a buffer is in memory for a download, whatever the size of the file."""
        connection = self.door.connect()
        connection.send(request())
        self.door.turn()
        self.assertLessEqual(max(map(len, connection.transport.writes)), BUFFER + 400)

    def test_paused_transport(self) -> None:
        """While the transport is full nothing is read or written."""
        connection = self.door.connect()
        connection.send(request())
        before = len(connection.received)
        self.assertLess(before, BUFFER + 400)
        self.door.clock.advance(20)
        self.assertEqual(len(connection.received), before)
        self.door.turn()
        self.assertEqual(read_only_answer(connection.received).body, image())

    def test_head_opens_nothing(self) -> None:
        """HEAD and 304 and 416 need no file: they are answered where it can't be opened at all."""
        tag = self.door.ask(b"/firmware.bin", method=b"HEAD").get(b"ETag")
        assert tag is not None
        (self.door.folder / NAME).unlink()
        self.assertEqual(self.door.ask(b"/firmware.bin", method=b"HEAD").code, 200)
        self.assertEqual(self.door.ask(b"/firmware.bin", b"If-None-Match: %s" % tag).code, 304)
        self.assertEqual(self.door.ask(b"/firmware.bin", b"Range: bytes=%d-" % SIZE).code, 416)
        self.assertEqual(self.door.ask(b"/firmware.bin").code, 503)

    def test_pipelined_downloads(self) -> None:
        """Requests sent at once are answered one after the other, each with its own bytes."""
        connection = self.door.connect()
        connection.send(request(b"/firmware.bin", b"Range: bytes=0-99999") + request() + request(b"/firmware.version"))
        self.door.turn()
        first, rest = read_answer(connection.received)
        second, rest = read_answer(rest)
        third = read_only_answer(rest)
        self.assertEqual((first.body, second.body, third.body), (image()[:100000], image(), b"1.0.0\n"))


class ChangeTests(SynchronousTestCase):
    """Files that change while they are sent."""

    def setUp(self) -> None:
        """Open a door to a folder with one image, and begin a download of it."""
        self.door = MemoryDoor(self, {NAME: image()})
        self.path = self.door.folder / NAME
        self.connection = self.begin()

    def begin(self, *fields: bytes) -> MemoryConnection:
        """Begin a download, and let three buffers be sent."""
        connection = self.door.connect()
        connection.send(request(b"/firmware.bin", *fields))
        while len(connection.received) < 3 * BUFFER:
            self.door.turn(1)
        return connection

    def check_broken_off(self, connection: MemoryConnection | None = None) -> None:
        """Let streaming go on, and check that the connection ends before the announced length is reached."""
        connection = connection or self.connection
        self.door.turn()
        self.assertFalse(is_whole(connection.received), "all bytes were sent, and some of them are wrong")
        self.assertTrue(connection.transport.disconnecting)
        connection.lose()
        self.door.clock.advance(LINGER)
        self.assertEqual(open_images(self.door.folder), [])

    def test_truncated(self) -> None:
        """A file that becomes shorter ends the connection."""
        os.truncate(self.path, 4 * BUFFER)
        self.check_broken_off()

    def test_emptied(self) -> None:
        """A file that becomes empty ends the connection."""
        os.truncate(self.path, 0)
        self.check_broken_off()

    def test_overwritten_in_place(self) -> None:
        """A file that gets other bytes of the same number ends the connection; none of the new ones is sent."""
        with open(self.path, "r+b") as file:
            file.write(image(seed=2))
        self.check_broken_off()
        _, _, body = self.connection.received.partition(b"\r\n\r\n")
        self.assertEqual(body, image()[: len(body)])

    def test_overwritten_at_its_end(self) -> None:
        """A change in the last byte is noticed, though everything before it was sent."""
        with open(self.path, "r+b") as file:
            file.seek(SIZE - 1)
            file.write(b"?")
        self.check_broken_off()

    def test_grown(self) -> None:
        """A file that becomes longer ends the connection: it is being written to."""
        with open(self.path, "ab") as file:
            file.write(b"more")
        self.check_broken_off()

    def test_overwritten_with_time_put_back(self) -> None:
        """A file that is overwritten, and then gets its old time back, as `rsync --inplace --times` does it."""
        status = self.path.stat()
        with open(self.path, "r+b") as file:
            file.write(image(seed=2))
        os.utime(self.path, ns=(status.st_atime_ns, status.st_mtime_ns))
        self.check_broken_off()

    def test_part_of_a_changed_file(self) -> None:
        """The same holds for a part."""
        connection = self.begin(b"Range: bytes=1-")
        os.truncate(self.path, 4 * BUFFER)
        self.check_broken_off(connection)

    def test_replaced_by_rename(self) -> None:
        """A file that is replaced by another one is sent to its end, for its bytes stay as long as it is open."""
        aside = self.door.folder / ".new"
        aside.write_bytes(image(seed=2))
        aside.rename(self.path)
        self.door.turn()
        self.assertEqual(read_only_answer(self.connection.received).body, image())

    def test_removed(self) -> None:
        """So is one that is removed."""
        self.path.unlink()
        self.door.turn()
        self.assertEqual(read_only_answer(self.connection.received).body, image())

    def test_operator_is_told(self) -> None:
        """A download that was ended for a change is in the log, once."""
        os.truncate(self.path, 0)
        with capturedLogs() as events:
            self.door.turn()
        self.assertEqual([event["log_level"] for event in events], [LogLevel.error])
        self.assertIn(NAME, formatEvent(events[0]))

    def test_next_request_is_not_answered_inside(self) -> None:
        """After a broken answer nothing else is sent over the connection, whatever was asked for."""
        self.connection.send(request(b"/firmware.version"))
        os.truncate(self.path, 4 * BUFFER)
        self.check_broken_off()
        self.assertNotIn(b"1.0.0\n", self.connection.received[-200:])

    def test_changed_between_opening_and_reading(self) -> None:
        """A file that changes just after it was opened is not sent, either."""

        class Late(OwnThreadPool):
            def callInThreadWithCallback(pool, onResult: Any, func: Any, *args: Any, **kw: Any) -> None:  # noqa: N805
                def changed(success: bool, result: object) -> None:
                    os.truncate(self.path, 4 * BUFFER)
                    onResult(success, result)

                super().callInThreadWithCallback(changed, func, *args, **kw)

        self.door.turn()
        self.door.clock.advance(LINGER)
        self.patch(self.door.deliveries, "_pool", Late())
        connection = self.door.connect()
        connection.send(request())
        self.assertEqual(read_only_answer(connection.received).code, 503)

    def test_next_download(self) -> None:
        """A download that begins after the change isn't sent from the file that was kept open."""
        os.truncate(self.path, 4 * BUFFER)
        self.assertEqual(self.door.ask(b"/firmware.bin").code, 503)
        self.assertEqual(self.door.ask(b"/firmware").reason, "image-changed")


class LogTests(SynchronousTestCase):
    """What an operator reads of downloads, where decisions are logged."""

    def setUp(self) -> None:
        """Open a door to a folder with one image, and log decisions there."""
        self.door = MemoryDoor(self, {NAME: image()})
        self.door.site.log_decisions = True

    def test_whole(self) -> None:
        """A download is one line for the decision and one for its end, with device, bytes and time."""
        with capturedLogs() as events:
            connection = self.door.connect()
            connection.send(request(b"/firmware", b"x-ESP8266-version: 0.9", b"x-ESP8266-STA-MAC: 5c:cf:7f:00:11:22"))
            self.door.clock.advance(2)
            self.door.turn()
        decision, end = map(formatEvent, events)
        for part in ("192.0.2.7", "5C:CF:7F:00:11:22", "'0.9'", NAME, "(newer)"):
            self.assertIn(part, decision)
        self.assertEqual(end, f"192.0.2.7 got {NAME}: {SIZE} bytes in 2.0 s")

    def test_broken_off(self) -> None:
        """A download that the client breaks off is logged with what was sent of it."""
        connection = self.door.connect()
        connection.send(request())
        with capturedLogs() as events:
            connection.lose()
        self.assertEqual(
            [formatEvent(event) for event in events], [f"192.0.2.7 broke off {NAME}: {BUFFER} bytes in 0.0 s"]
        )

    def test_refused(self) -> None:
        """A download that is refused because the file changes is none, and only that is told."""
        (image,) = self.door.read().channels["stable"].files.values()
        os.truncate(image.path, BUFFER)
        with capturedLogs() as events:
            self.assertEqual(self.door.ask(b"/firmware.bin").code, 503)
        (told,) = map(formatEvent, events)
        self.assertTrue(told.endswith("has changed since the folder was read"), told)

    def test_pieces(self) -> None:
        """Of a download in pieces only the last one is a line."""
        with capturedLogs() as events:
            for first in range(0, SIZE, 100_000):
                self.door.ask(b"/firmware.bin", b"Range: bytes=%d-%d" % (first, first + 99_999))
        self.assertEqual(len(events), 1)

    def test_nothing_unescaped(self) -> None:
        """Nothing that a client sends reaches the log as it is."""
        with capturedLogs() as events:
            self.door.ask(b"/firmware", b"x-ESP8266-version: 1.0\x1b[2J\xff", b"x-ESP8266-STA-MAC: \x1b[2J")
        for event in events:
            text = formatEvent(event)
            self.assertTrue(text.isascii() and text.isprintable(), text)


class ChangedBeforeTests(SynchronousTestCase):
    """Files that are not any more what the catalog says, before the first byte was sent."""

    def change_and_ask(self, change: str, path: bytes) -> Answer:
        """Change a file that the catalog tells of, and ask for it."""
        door = MemoryDoor(self, {NAME: image()})
        file = door.folder / NAME
        match change:
            case "truncated":
                os.truncate(file, 10)
            case "overwritten":
                file.write_bytes(image(seed=2))
            case "replaced":
                aside = door.folder / ".new"
                aside.write_bytes(image(seed=2))
                aside.rename(file)
            case "removed":
                file.unlink()
            case "a folder":
                file.unlink()
                file.mkdir()
        with capturedLogs() as events:
            answer = door.ask(path)
        self.assertEqual([event["log_level"] for event in events], [LogLevel.warn])
        self.assertIn(NAME, formatEvent(events[0]))
        self.assertEqual(open_images(door.folder), [])
        return answer

    CHANGES = ("truncated", "overwritten", "replaced", "removed", "a folder")

    def test_smart_address(self) -> None:
        """A device is told that there is nothing for it now, and why."""
        for change in self.CHANGES:
            answer = self.change_and_ask(change, b"/firmware")
            self.assertEqual((change, answer.code, answer.reason), (change, 304, "image-changed"))

    def test_plain_address(self) -> None:
        """A client at a plain address is asked to come again soon."""
        for change in self.CHANGES:
            answer = self.change_and_ask(change, b"/firmware.bin")
            self.assertEqual((change, answer.code), (change, 503))
            self.assertIsNotNone(answer.get(b"Retry-After"))
            self.assertLess(len(answer.body), 32)
