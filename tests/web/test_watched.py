"""Tests of what is told of downloads, in memory: there the test says what the other end has acknowledged."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from ota_server.web.arrival import FIRST_PAUSE, LONGEST_PAUSE, Reading
from ota_server.web.channel import CHECK_INTERVAL, STALL
from ota_server.web.delivery import LINGER
from tests.web.answers import is_whole, read_answer, read_only_answer
from tests.web.door import open_images
from tests.web.memory import MemoryConnection, MemoryDoor, OwnThreadPool, write_files
from tests.web.test_delivery import BUFFER, NAME, SIZE, image, request
from tests.web.watching import Watcher, watch

WHOLE = ["begun", "downloaded", "ended"]
NOT_WHOLE = ["begun", "ended"]


class WatchedTestCase(SynchronousTestCase):
    """Tests of a door to one image that is watched."""

    def setUp(self) -> None:
        """Open the door."""
        self.door = MemoryDoor(self, {NAME: image()})
        self.watched = watch(self, self.door.site, self.door.deliveries, self.door.read())

    def begin(self, *fields: bytes, unacknowledged: int | None = 0, method: bytes = b"GET") -> MemoryConnection:
        """Ask for the image over a new connection, and let nothing of it be streamed but the first buffer."""
        connection = self.door.connect()
        connection.unacknowledged = unacknowledged
        connection.send(request(b"/watched", *fields, method=method))
        return connection

    def take(self, *fields: bytes, unacknowledged: int | None = 0) -> MemoryConnection:
        """Ask for the image over a new connection, let all be written, and the kernel be asked for the first time."""
        connection = self.begin(*fields, unacknowledged=unacknowledged)
        self.door.turn()
        self.door.clock.advance(0)
        self.assertTrue(is_whole(connection.received))
        return connection

    def take_piece(self, start: int, end: int, **options: Any) -> MemoryConnection:
        """Ask for a part of the image, up to the byte before `end`."""
        return self.take(b"Range: bytes=%d-%d" % (start, end - 1), **options)

    def check(self, *events: list[str]) -> None:
        """Check what was told of each answer."""
        self.assertEqual(self.watched.events, list(events))


class ArrivalTests(WatchedTestCase):
    """Answers with the whole image, and whether their last byte arrives."""

    def test_acknowledged(self) -> None:
        """When all is acknowledged the device has the image, and the connection is there for the next request."""
        connection = self.take()
        self.check(WHOLE)
        self.assertEqual(self.watched.watchers[0].images, {self.watched.image})
        self.assertEqual(connection.channel.requests, [])
        self.assertFalse(connection.transport.disconnecting)

    def test_under_way(self) -> None:
        """While bytes are under way nothing is told, though all are written."""
        connection = self.take(unacknowledged=1)
        self.door.clock.advance(LONGEST_PAUSE)
        self.check(["begun"])
        connection.unacknowledged = 0
        self.door.clock.advance(LONGEST_PAUSE)
        self.check(WHOLE)

    def test_file_is_closed(self) -> None:
        """The file isn't kept open for the wait."""
        self.take(unacknowledged=1)
        self.door.clock.advance(LINGER)
        self.assertEqual(open_images(self.door.folder), [])

    def test_pauses(self) -> None:
        """The kernel is asked again after 20 ms, and then after twice the time before, but once a second at least."""
        connection = self.take(unacknowledged=1)
        began, times = self.door.clock.seconds(), []

        def read() -> Reading:
            times.append(self.door.clock.seconds() - began)
            return Reading(0, 1)

        self.patch(connection.channel, "read_progress", read)
        for _ in range(4000):
            self.door.clock.advance(0.001)
        expected = [0.02, 0.06, 0.14, 0.3, 0.62, 1.26, 2.26, 3.26]
        self.assertEqual(len(times), len(expected))
        for time, when in zip(times, expected, strict=True):
            self.assertLess(abs(time - when), 0.01)
        self.assertEqual((FIRST_PAUSE, LONGEST_PAUSE), (0.02, 1))

    def test_written_later(self) -> None:
        """What has to be acknowledged is the image, and not what was written after it."""
        connection = self.take(unacknowledged=300)
        # What ends TLS, say.
        connection.transport.write(bytes(31))
        connection.unacknowledged = 32
        self.door.clock.advance(LONGEST_PAUSE)
        self.check(["begun"])
        connection.unacknowledged = 31
        self.door.clock.advance(LONGEST_PAUSE)
        self.check(WHOLE)

    def test_stalled(self) -> None:
        """A device that acknowledges no more is dropped as in the middle of an answer, and hasn't got the image."""
        connection = self.take(unacknowledged=1)
        for _ in range(STALL // CHECK_INTERVAL - 1):
            self.door.clock.advance(CHECK_INTERVAL)
        self.assertFalse(connection.transport.disconnected)
        self.door.clock.advance(CHECK_INTERVAL)
        self.door.clock.advance(CHECK_INTERVAL)
        self.assertTrue(connection.transport.disconnected)
        connection.lose(orderly=False)
        self.check(NOT_WHOLE)
        self.assertEqual(self.door.clock.getDelayedCalls(), [])

    def test_closed(self) -> None:
        """The device closes the connection before the kernel is asked again: it is judged by what was acknowledged."""
        for unacknowledged, events in ((0, WHOLE), (1, NOT_WHOLE)):
            connection = self.take(unacknowledged=1)
            connection.unacknowledged = unacknowledged
            connection.lose()
            self.assertEqual(self.watched.events[-1], events)
        self.door.clock.advance(LINGER)
        self.assertEqual(self.door.clock.getDelayedCalls(), [])

    def test_reset(self) -> None:
        """A device that resets the connection at its end hasn't read all, whatever it acknowledged."""
        for unacknowledged in (0, 1):
            connection = self.take(unacknowledged=1)
            connection.unacknowledged = unacknowledged
            connection.lose(orderly=False)
            self.assertEqual(self.watched.events[-1], NOT_WHOLE)

    def test_reset_noticed_by_asking(self) -> None:
        """Nor has it when the reset is seen by asking, before the connection has ended here."""
        connection = self.take(unacknowledged=1)
        self.patch(connection.channel, "read_progress", lambda: Reading(10**9, 0, broken=True))
        self.door.clock.advance(LONGEST_PAUSE)
        self.check(["begun"])
        connection.lose(orderly=False)
        self.check(NOT_WHOLE)

    def test_closed_before_last_bytes_left(self) -> None:
        """What was written and not handed to the kernel before the device closed can't have arrived."""
        connection = self.begin()
        self.door.turn()
        connection.lose()
        self.check(NOT_WHOLE)

    def test_broken_off(self) -> None:
        """A device that ends the connection in the middle, in whatever way, hasn't got the image."""
        for orderly in (True, False):
            connection = self.begin()
            connection.lose(orderly=orderly)
            self.assertEqual(self.watched.events[-1], NOT_WHOLE)

    def test_closing_connection(self) -> None:
        """Where the connection is to end with the answer it ends when this has arrived, and no later."""
        connection = self.begin(b"Connection: close", unacknowledged=1)
        self.door.turn()
        self.door.clock.advance(0)
        self.assertFalse(connection.transport.disconnecting)
        connection.unacknowledged = 0
        self.door.clock.advance(FIRST_PAUSE)
        self.assertTrue(connection.transport.disconnecting)
        self.check(WHOLE)
        connection.lose()
        self.check(WHOLE)

    def test_next_request(self) -> None:
        """The next request comes with an acknowledgement, so that it is answered at once."""
        connection = self.take(unacknowledged=1)
        connection.unacknowledged = 0
        connection.send(request(b"/watched", b"Range: bytes=0-9"))
        self.check(WHOLE, NOT_WHOLE)
        first, rest = read_answer(connection.received)
        self.assertEqual((first.body, read_only_answer(rest).body), (image(), image()[:10]))

    def test_pipelined(self) -> None:
        """Requests sent before the answer has come are answered in order when it has, and are no proof of it."""
        connection = self.begin(unacknowledged=1)
        connection.send(request(b"/watched", b"Range: bytes=0-9"))
        self.door.turn()
        connection.send(request(b"/watched", b"Range: bytes=10-19"))
        self.door.clock.advance(0)
        connection.send(request(b"/watched", b"Range: bytes=20-29"))
        self.check(["begun"])
        self.assertEqual(read_only_answer(connection.received).body, image())
        connection.unacknowledged = 0
        self.door.clock.advance(FIRST_PAUSE)
        self.check(WHOLE, NOT_WHOLE, NOT_WHOLE, NOT_WHOLE)
        rest = read_answer(connection.received)[1]
        for start in (0, 10, 20):
            answer, rest = read_answer(rest)
            self.assertEqual(answer.body, image()[start : start + 10])


class BlindTests(WatchedTestCase):
    """Where the operating system doesn't tell what was acknowledged."""

    def test_next_request(self) -> None:
        """The answer is over when it is written; that another request comes tells that it has arrived."""
        connection = self.take(unacknowledged=None)
        self.assertEqual(connection.channel.requests, [])
        self.check(["begun"])
        connection.send(request(b"/watched", b"Range: bytes=0-9"))
        self.check(WHOLE, NOT_WHOLE)

    def test_closed(self) -> None:
        """So does an orderly end of the connection; another end tells that it hasn't."""
        for orderly, events in ((True, WHOLE), (False, NOT_WHOLE)):
            for fields in ((), (b"Connection: close",)):
                self.take(*fields, unacknowledged=None).lose(orderly=orderly)
                self.assertEqual(self.watched.events[-1], events)

    def test_broken_off(self) -> None:
        """An orderly end in the middle of the answer is none of it."""
        self.begin(unacknowledged=None).lose()
        self.check(NOT_WHOLE)


class NoneSentTests(WatchedTestCase):
    """Requests that are answered with no byte of the image."""

    def test_nothing_told(self) -> None:
        """HEAD, 304 and 416 are no downloads, and nothing is told of them."""
        tag = read_only_answer(self.take_piece(0, 1).received).get(b"ETag")
        assert tag is not None
        for code, method, field in (
            (200, b"HEAD", b"X: y"),
            (200, b"HEAD", b"Range: bytes=0-99"),
            (304, b"GET", b"If-None-Match: %s" % tag),
            (416, b"GET", b"Range: bytes=%d-" % SIZE),
        ):
            connection = self.begin(field, method=method)
            self.assertEqual(read_answer(connection.received, b"HEAD")[0].code, code)
            self.assertEqual(self.watched.watchers[-1].events, [])

    def test_changed_before(self) -> None:
        """A file that can't be sent, since it has changed, is told as begun and ended."""
        os.truncate(self.door.folder / NAME, 10)
        self.assertEqual(read_only_answer(self.begin().received).code, 503)
        self.check(NOT_WHOLE)

    def test_changed_after_opening(self) -> None:
        """So is one that changes after it was opened, and one that changes in the middle."""
        self.take_piece(0, 1)
        connection = self.begin()
        os.truncate(self.door.folder / NAME, 4 * BUFFER)
        self.door.turn()
        connection.lose()
        self.assertEqual(read_only_answer(self.begin().received).code, 503)
        self.check(NOT_WHOLE, NOT_WHOLE, NOT_WHOLE)

    def test_unreadable(self) -> None:
        """So is one that can't be opened for a fault of the server's own."""

        def fail(*arguments: object) -> int:
            raise ValueError("a fault")

        self.patch(os, "open", fail)
        self.patch(os, "fstat", fail)
        self.assertEqual(read_only_answer(self.begin().received).code, 500)
        self.flushLoggedErrors(ValueError)
        self.check(NOT_WHOLE)

    def test_lost_while_opening(self) -> None:
        """So is one whose device has gone before the file was open."""
        waiting: list[Callable[[], None]] = []

        class Late(OwnThreadPool):
            def callInThreadWithCallback(pool, onResult: Any, func: Any, *args: Any, **kw: Any) -> None:  # noqa: N805
                super_call = super().callInThreadWithCallback
                waiting.append(lambda: super_call(onResult, func, *args, **kw))

        self.patch(self.door.deliveries, "_pool", Late())
        connection = self.begin()
        self.check(["begun"])
        connection.lose()
        self.check(NOT_WHOLE)
        for call in waiting:
            call()
        self.check(NOT_WHOLE)
        self.door.clock.advance(LINGER)
        self.assertEqual(open_images(self.door.folder), [])


class PiecesTests(WatchedTestCase):
    """Downloads in pieces."""

    def test_in_order(self) -> None:
        """The image is whole with the last piece, over however many connections."""
        for start in range(0, SIZE, 200_000):
            self.take(b"Range: bytes=%d-%d" % (start, start + 199_999))
        self.assertEqual(self.watched.events, [*[NOT_WHOLE] * (len(self.watched.events) - 1), WHOLE])

    def test_one_connection(self) -> None:
        """Only the last piece is waited for: the others are answered as fast as they are asked for."""
        connection = self.begin(b"Range: bytes=0-9", unacknowledged=1)
        for first in (10, 20, 30):
            connection.send(request(b"/watched", b"Range: bytes=%d-%d" % (first, first + 9)))
            self.check(*[NOT_WHOLE] * (first // 10 + 1))
        connection.send(request(b"/watched", b"Range: bytes=40-"))
        self.door.turn()
        self.door.clock.advance(0)
        self.check(*[NOT_WHOLE] * 4, ["begun"])
        connection.unacknowledged = 0
        self.door.clock.advance(FIRST_PAUSE)
        self.check(*[NOT_WHOLE] * 4, WHOLE)

    def test_last_piece_lost(self) -> None:
        """Without the last piece the image isn't whole; when it is fetched again, it is."""
        self.take_piece(0, SIZE - 100)
        self.take_piece(SIZE - 100, SIZE, unacknowledged=5).lose(orderly=False)
        self.check(NOT_WHOLE, NOT_WHOLE)
        self.take_piece(SIZE - 100, SIZE)
        self.check(NOT_WHOLE, NOT_WHOLE, WHOLE)

    def test_piece_lost(self) -> None:
        """A piece whose connection was lost before all of it was written is missing."""
        self.begin(b"Range: bytes=0-%d" % (SIZE - 101), unacknowledged=None).lose()
        self.take_piece(SIZE - 100, SIZE)
        self.check(NOT_WHOLE, NOT_WHOLE)

    def test_gap_is_filled_last(self) -> None:
        """Whichever piece makes the image whole is waited for, also one in the middle."""
        self.take_piece(0, 100)
        self.take_piece(200, SIZE)
        connection = self.take_piece(50, 250, unacknowledged=1)
        self.check(NOT_WHOLE, NOT_WHOLE, ["begun"])
        connection.unacknowledged = 0
        self.door.clock.advance(FIRST_PAUSE)
        self.check(NOT_WHOLE, NOT_WHOLE, WHOLE)

    def test_resumed(self) -> None:
        """A download that goes on where a broken connection left it is whole with its rest."""
        connection = self.begin(unacknowledged=1000)
        arrived = BUFFER - 1000
        connection.lose(orderly=False)
        self.take(b"Range: bytes=%d-" % (arrived + 1))
        self.check(NOT_WHOLE, NOT_WHOLE)
        self.take(b"Range: bytes=%d-" % arrived)
        self.check(NOT_WHOLE, NOT_WHOLE, WHOLE)

    def test_resumed_from_nothing(self) -> None:
        """An answer of which not even the head arrived adds nothing."""
        self.begin(unacknowledged=BUFFER + 400).lose(orderly=False)
        self.take(b"Range: bytes=1-")
        self.check(NOT_WHOLE, NOT_WHOLE)
        self.assertEqual(len(self.door.deliveries.pieces), 1)

    def test_reset_at_the_end(self) -> None:
        """Of an answer that was reset the last byte at least is missing, until it is fetched again."""
        connection = self.take(unacknowledged=1)
        connection.unacknowledged = 0
        connection.lose(orderly=False)
        self.check(NOT_WHOLE)
        self.take_piece(SIZE - 1, SIZE)
        self.check(NOT_WHOLE, WHOLE)

    def test_several_devices(self) -> None:
        """The pieces of several devices are kept apart."""
        self.take(b"Range: bytes=0-999999", b"X-Device: lamp")
        self.take(b"Range: bytes=1000000-", b"X-Device: door")
        self.check(NOT_WHOLE, NOT_WHOLE)
        self.take(b"Range: bytes=1000000-", b"X-Device: lamp")
        self.check(NOT_WHOLE, NOT_WHOLE, WHOLE)

    def test_newer_image(self) -> None:
        """When a newer image appears the download goes on with the one it began with, and that is told."""
        begun = self.watched.image
        self.take_piece(0, 1000)
        write_files(self.door.folder, {"firmware-2.0.0.bin": image(SIZE, seed=2)})
        newer = self.door.read().channels["stable"].files["firmware-2.0.0.bin"]
        self.watched.image = newer
        self.take(b"Range: bytes=1000-")
        self.check(NOT_WHOLE, WHOLE)
        self.assertEqual(self.watched.watchers[1].images, {begun})
        self.take()
        self.assertEqual(self.watched.watchers[2].images, {newer})


class OthersTests(WatchedTestCase):
    """What others notice of a download that is watched, and of one that isn't."""

    def test_unwatched(self) -> None:
        """A download that nobody watches is over when it is written, and the kernel is not asked for it."""
        door = MemoryDoor(self, {NAME: image()})
        connection = door.connect()
        self.patch(connection.channel, "read_progress", lambda: self.fail("the kernel was asked"))
        connection.send(request())
        door.turn()
        self.assertEqual(connection.channel.requests, [])
        connection.lose()
        self.assertEqual(read_only_answer(connection.received).body, image())

    def test_failing_watcher(self) -> None:
        """A watcher that fails is logged, and the device is served all the same."""

        def fail(watcher: Watcher, *of: object) -> None:
            raise ValueError("a fault")

        for name in ("begun", "downloaded", "ended"):
            self.patch(Watcher, name, fail)
        connection = self.take()
        self.assertEqual(read_only_answer(connection.received).body, image())
        self.assertEqual(connection.channel.requests, [])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 3)

    def test_log(self) -> None:
        """The line of a download's end says that a device got the image where it is known to have arrived."""
        self.door.site.log_decisions = True
        for unacknowledged, outcome in ((0, "got"), (1, "broke off")):
            connection = self.take(unacknowledged=1)
            connection.unacknowledged = unacknowledged
            with capturedLogs() as events:
                connection.lose()
            (line,) = map(formatEvent, events)
            self.assertEqual(line, f"192.0.2.7 {outcome} {NAME}: {SIZE} bytes in 0.0 s")

    def test_log_when_acknowledged(self) -> None:
        """It comes when the last byte has arrived, with the time that took."""
        self.door.site.log_decisions = True
        connection = self.take(unacknowledged=1)
        self.door.clock.advance(9)
        connection.unacknowledged = 0
        with capturedLogs() as events:
            self.door.clock.advance(1)
        self.assertEqual([formatEvent(event) for event in events], [f"192.0.2.7 got {NAME}: {SIZE} bytes in 10.0 s"])
