"""Tests of what all answers have in common, of failures inside, and of checks while the server is busy."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import ensureDeferred
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.http import datetimeToString

from ota_server.firmware.catalog import Catalog, FileIdentity
from ota_server.firmware.digests import DigestStore, Outcome
from ota_server.firmware.folder import Folder
from ota_server.web.delivery import LINGER
from ota_server.web.site import MAX_HEAD
from tests.web.answers import Answer, is_whole, read_only_answer
from tests.web.door import Door, open_images, turn, until
from tests.web.memory import NOW, MemoryDoor, Shelf
from tests.web.test_quick import plain_checks, requests

LONG_NAME = "x" * 100
LONG_VERSION = ".".join(["999999999999999"] * 3)

FILES = {
    "firmware-1.0.0.bin": b"\0 1.0.0",
    "firmware-1.2.0.bin": b"\0 1.2.0",
    "firmware-1.2.0.fs.bin": b"\0 filesystem",
    "firmware-1.2.0.bin.gz": b"\x1f\x8b",
    f"{LONG_NAME}-1.0.0.bin": b"\0 long name",
    f"{LONG_NAME}-1.0.0.fs.bin": b"\0 filesystem of long name",
    f"beta/{LONG_NAME}-1.0.0.bin": b"\0 long name in beta",
    f"new-{LONG_VERSION}.bin": b"\0 long version",
    f"{LONG_NAME}y-{LONG_VERSION}.bin": b"\0 long name and version",
}

PATHS = tuple(
    path.encode()
    for path in (
        "/", "/-/healthy", "/-/ready", "/nothing", "/firmware", "/firmware.bin", "/firmware-1.0.bin",
        "/firmware-1.0.0.bin", "/firmware.fs.bin", "/firmware.bin.gz", "/firmware.md5", "/firmware.bin.sha256",
        "/firmware.version", f"/{LONG_NAME}", f"/{LONG_NAME}.bin", f"/{LONG_NAME}-1.0.0.bin", f"/{LONG_NAME}.fs.bin",
        f"/{LONG_NAME}.md5", f"/{LONG_NAME}.sha256", f"/beta/{LONG_NAME}", f"/beta/{LONG_NAME}.bin",
        "/" + "z" * 1000,
    )
)  # fmt: skip

FIELDS: tuple[tuple[bytes, ...], ...] = (
    (),
    (b"Connection: close",),
    (b"Range: bytes=1-2",),
    (b"Range: bytes=-1", b"Connection: close"),
    (b"Range: bytes=100000-",),
    (b"If-None-Match: *",),
    (b"x-ESP8266-version: 1.2.0",),
    (b"x-ESP8266-version: 0.1", b"Connection: close"),
    (b"x-ESP8266-version: unreadable",),
    (b"x-ESP8266-version: 1.2.0(other)",),
    (b"x-ESP8266-mode: version", b"Connection: close"),
    (b"x-ESP8266-mode: spiffs",),
    (b"x-ESP8266-mode: nonsense",),
    (b"x-ESP8266-version: 0.1", b"x-ESP8266-free-space: 1"),
)


class EveryAnswerTests(SynchronousTestCase):
    """What every client counts on, whatever it asks for."""

    def setUp(self) -> None:
        """Open a door to a folder."""
        self.door = MemoryDoor(self, FILES)

    def check(self, answer: Answer) -> None:
        """Check what holds for all answers."""
        names = [name for name, _ in answer.fields]
        self.assertEqual(len(names), len(set(names)), answer.head)
        self.assertIsNotNone(answer.get(b"Content-Length"))
        self.assertIsNone(answer.get(b"Transfer-Encoding"))
        self.assertIsNone(answer.get(b"Content-Encoding"))
        self.assertIsNone(answer.get(b"Location"))
        self.assertIsNotNone(answer.get(b"Date"))
        # The first place where this word stands must be the field's own.
        self.assertEqual(answer.head.count(b"Content-Length"), 1)
        if answer.code >= 400:
            self.assertNotIn(answer.body[:1], (b"\xe9", b"\x1f"))
            self.assertLess(len(answer.body), 100)

    def test_every_address(self) -> None:
        """At every address, for every kind of request: a length, no other encoding, and one field of each name."""
        codes = set()
        for path in PATHS:
            for fields in FIELDS:
                answer = self.door.ask(path, *fields)
                self.check(answer)
                codes.add(answer.code)
        self.assertEqual(codes, {200, 206, 304, 400, 404, 416})

    def test_length_of_heads(self) -> None:
        """Heads stay within 400 bytes, with names of 100 characters, too."""
        self.assertEqual(MAX_HEAD, 400)
        for path in PATHS:
            for fields in FIELDS:
                answer = self.door.ask(path, *fields)
                self.assertLessEqual(len(answer.head), 400, answer.head)

    def test_longest_head_of_all(self) -> None:
        """Even the longest version leaves a head within 400 bytes, with and without a long name."""
        for path in (b"/new", b"/new.bin", b"/%sy" % LONG_NAME.encode()):
            for fields in ((), (b"Connection: close",), (b"x-ESP8266-mode: version", b"Connection: close")):
                answer = self.door.ask(path, *fields)
                self.assertEqual(answer.code, 200)
                self.assertLessEqual(len(answer.head), 400, answer.head)

    def test_head_requests(self) -> None:
        """HEAD has the very head of GET, and no body, at every address; only a range means nothing to it."""
        for path in PATHS:
            for fields in FIELDS:
                if any(field.startswith(b"Range") for field in fields):
                    continue
                head = self.door.ask(path, *fields, method=b"HEAD")
                self.assertEqual((path, fields, head.body), (path, fields, b""))
                self.assertEqual(head.head, self.door.ask(path, *fields).head)

    def test_whole_image(self) -> None:
        """An answer with an image tells all that a client may want to know of it."""
        answer = self.door.ask(b"/firmware")
        present = {name for name, _ in answer.fields}
        self.assertLessEqual(
            {b"x-md5", b"x-version", b"etag", b"last-modified", b"accept-ranges", b"content-disposition", b"vary"},
            present,
        )
        self.assertEqual(answer.get(b"Content-Type"), b"application/octet-stream")
        self.assertEqual(answer.get(b"X-Version"), b"1.2.0")
        self.assertEqual(answer.get(b"Content-Disposition"), b'attachment; filename="firmware-1.2.0.bin"')
        self.assertEqual(answer.get(b"Last-Modified"), b"Tue, 14 Nov 2023 22:13:20 GMT")
        self.assertEqual(answer.reason, "no-version")

    def test_date(self) -> None:
        """The date is that of the clock, second by second, in quick answers and in others, and fills no memory."""
        for second in range(600):
            self.door.clock.advance(1)
            for fields in ((b"x-ESP8266-version: 9",), (b"x-ESP8266-version: 9", b"Connection: close")):
                answer = self.door.ask(b"/firmware", *fields)
                expected = datetimeToString(NOW + second + 1)
                self.assertEqual((answer.code, answer.get(b"Date")), (304, expected))
            self.assertEqual(self.door.ask(b"/firmware.version").get(b"Date"), expected)
        self.assertLessEqual(len(self.door.site._heads), 1001)

    def test_version_of_protocol(self) -> None:
        """The status line names the client's own version, and HTTP/1.0 connections end after the answer."""
        for path in (b"/firmware", b"/firmware.bin", b"/nothing", b"/firmware.version"):
            for version in (b"HTTP/1.0", b"HTTP/1.1"):
                connection = self.door.connect()
                connection.send(b"GET %s %s\r\nx-ESP8266-version: 1.2\r\n\r\n" % (path, version))
                self.assertEqual(read_only_answer(connection.received).version, version)
                self.assertEqual(connection.transport.disconnecting, version == b"HTTP/1.0")

    def test_several_conditions(self) -> None:
        """Several `If-None-Match` lines are one list (RFC 9110, section 5.3)."""
        tag = self.door.ask(b"/firmware.bin").get(b"ETag")
        assert tag is not None
        answer = self.door.ask(b"/firmware.bin", b'If-None-Match: "other"', b"If-None-Match: %s" % tag)
        self.assertEqual(answer.code, 304)

    def test_other_methods(self) -> None:
        """Other methods are refused with those that work, whatever the address, and whatever comes with them."""
        for method in (b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"get", b"BREW"):
            for path in (b"/", b"/firmware", b"/firmware.bin", b"/nothing", b"/-/ready"):
                connection = self.door.connect()
                connection.send(b"%s %s HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello" % (method, path))
                answer = read_only_answer(connection.received)
                self.check(answer)
                self.assertEqual((answer.code, answer.get(b"Allow")), (405, b"GET, HEAD"))
                self.assertFalse(connection.transport.disconnecting)

    def test_bodies_are_ignored(self) -> None:
        """A body is read and forgotten; the next request over the connection is answered as it should be."""
        connection = self.door.connect()
        connection.send(
            b"GET /firmware.version HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"5\r\nhello\r\n0\r\n\r\n",
            b"GET /nothing HTTP/1.1\r\n\r\n",
        )
        self.assertEqual(connection.received.count(b"HTTP/1.1 200 "), 1)
        self.assertEqual(connection.received.count(b"HTTP/1.1 404 "), 1)

    @settings(deadline=None)
    @given(st.one_of(plain_checks, requests))
    def test_any_request(self, request: bytes) -> None:
        """No request, however odd, makes anything fail inside."""
        connection = self.door.connect()
        connection.send(request)
        self.door.turn()
        connection.lose()
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertNotIn(b" 500 ", connection.received)


class FailingShelf(Shelf):
    """A shelf that fails."""

    @property
    def catalog(self) -> Catalog | None:
        """Fail."""
        raise RuntimeError("secret of the house")


class FailureTests(SynchronousTestCase):
    """Failures inside, which no request should be able to cause."""

    def setUp(self) -> None:
        """Open a door that fails."""
        self.door = MemoryDoor(self, FILES)
        failing = FailingShelf()
        self.patch(self.door.site.resource, "_shelf", failing)

    def check_failure(self, *segments: bytes) -> None:
        """Send a request, and check that it gets a proper 500, and the operator the reason."""
        connection = self.door.connect()
        connection.send(*segments)
        answer = read_only_answer(connection.received)
        self.assertEqual((answer.code, answer.get(b"Content-Length")), (500, b"%d" % len(answer.body)))
        self.assertNotIn(b"secret", connection.received)
        self.assertLess(len(answer.body), 32)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_request(self) -> None:
        """A request that fails is answered 500 without a word of the inside, and logged once."""
        self.check_failure(b"GET /firmware.bin HTTP/1.1\r\n", b"Host: h\r\n\r\n")

    def test_quick_check(self) -> None:
        """So is one that comes in one segment, over the quick path."""
        self.check_failure(b"GET /firmware HTTP/1.1\r\nHost: h\r\nx-ESP8266-version: 1.0\r\n\r\n")

    def test_others_are_served(self) -> None:
        """The next request over the same connection is served, when all is well again."""
        connection = self.door.connect()
        connection.send(b"GET /firmware.bin HTTP/1.1\r\n", b"Host: h\r\n\r\n")
        self.flushLoggedErrors(RuntimeError)
        self.patch(self.door.site.resource, "_shelf", self.door.shelf)
        connection.transport.clear()
        connection.send(b"GET /firmware.bin HTTP/1.1\r\nHost: h\r\n\r\n")
        self.assertEqual(read_only_answer(connection.received).body, b"\0 1.2.0")

    def test_failure_while_opening(self) -> None:
        """A failure that isn't the file's own while it is opened is answered 500 and logged once, too."""
        self.patch(self.door.site.resource, "_shelf", self.door.shelf)

        def fail(*arguments: object) -> None:
            raise RuntimeError("secret of the house")

        self.patch(os, "posix_fadvise", fail)
        self.check_failure(b"GET /firmware.bin HTTP/1.1\r\nHost: h\r\n\r\n")
        self.door.clock.advance(LINGER)
        self.assertEqual(open_images(self.door.folder), [])


class GatedFolder(Folder):
    """A folder in which reading a file stops at a gate."""

    def __init__(self, root: Path, digests: DigestStore) -> None:
        super().__init__(root, digests)
        self.gate = threading.Event()
        self.reached = threading.Event()

    def _examine(self, path: str, identity: FileIdentity) -> Outcome | None:
        """Wait at the gate, then read the file."""
        self.reached.set()
        self.gate.wait()
        return super()._examine(path, identity)


class BusyTests(TestCase):
    """Checks while the folder is being read."""

    timeout = 30
    TURNS = 20
    """In how many turns of the reactor a check is to be answered; it takes two or three."""

    async def test_checks_during_a_reading(self) -> None:
        """While a thread hashes files, checks and downloads are answered on from the last catalog, at once."""
        door = Door(self, {"firmware-1.0.0.bin": b"\0 1.0.0"}, folder=GatedFolder)
        folder = door.watcher._folder
        assert isinstance(folder, GatedFolder)
        self.addCleanup(folder.gate.set)
        folder.gate.set()
        await door.open()
        folder.gate.clear()
        folder.reached.clear()
        publishing = ensureDeferred(door.publish("firmware-1.1.0.bin", b"\0 1.1.0"))
        await until(folder.reached.is_set)

        connection = await door.connect()
        for path, code in ((b"/firmware", b"304"), (b"/nothing", b"404"), (b"/firmware.version", b"200")):
            before = len(connection.received)
            connection.send(b"GET %s HTTP/1.1\r\nHost: h\r\nx-ESP8266-version: 1.0.0\r\n\r\n" % path)
            for _ in range(self.TURNS):
                if is_whole(connection.received[before:]):
                    break
                await turn()
            self.assertEqual(connection.received[before:][9:12], code)
        answer = await door.ask(b"GET /firmware.bin HTTP/1.0\r\n\r\n")
        self.assertEqual(read_only_answer(answer).body, b"\0 1.0.0")

        folder.gate.set()
        await publishing
        connection.send(b"GET /firmware.version HTTP/1.1\r\nConnection: close\r\n\r\n")
        received = await connection.until_end()
        self.assertTrue(received.endswith(b"\r\n\r\n1.1.0\n"), received)

    async def test_requests_before_the_first_reading(self) -> None:
        """Requests that come while the folder is read for the first time wait, and are answered then."""
        door = Door(self, {"firmware-1.0.0.bin": b"\0 1.0.0"}, folder=GatedFolder)
        folder = door.watcher._folder
        assert isinstance(folder, GatedFolder)
        self.addCleanup(folder.gate.set)
        await door.listen()
        connection = await door.connect()
        connection.send(b"GET /firmware.bin HTTP/1.1\r\nConnection: close\r\n\r\n")
        ready = await door.ask(b"GET /-/ready HTTP/1.0\r\n\r\n")
        self.assertEqual(read_only_answer(ready).code, 503)
        await until(folder.reached.is_set)
        self.assertEqual(connection.received, b"")
        folder.gate.set()
        self.assertEqual(read_only_answer(await connection.until_end()).body, b"\0 1.0.0")
        ready = await door.ask(b"GET /-/ready HTTP/1.0\r\n\r\n")
        self.assertEqual(read_only_answer(ready).code, 200)
