"""`esp_https_ota` of ESP-IDF in its ways of downloading, Arduino's `HttpsOTAUpdate`, and ESPHome on top of both."""

from __future__ import annotations

import hashlib

import attrs
from twisted.logger import LogEvent, LogLevel, capturedLogs
from twisted.trial.unittest import TestCase

from tests.images import esp32_image
from tests.web.door import Connection, Door, until

HEAD_BUFFER = 512
"""Where `esp_http_client` keeps the lines of a head, in bytes."""

BLOCK = 65536

AGENT = b"User-Agent: ESP32 HTTP Client/1.0\r\n"


@attrs.frozen
class Reply:
    """An answer as `esp_http_client` gives it to the update code."""

    status: int
    length: int
    total: int | None
    """The number behind the slash of `Content-Range`."""
    body: bytes


def read_reply(data: bytes, *, head_only: bool = False) -> Reply | None:
    """Read an answer as `esp_http_client` does; None while it is not whole."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        assert len(head) <= HEAD_BUFFER, "the head doesn't fit into the client's buffer"
        return None
    assert len(head) + 4 <= HEAD_BUFFER, f"{len(head) + 4} bytes of head: {head!r}"
    status, *lines = head.split(b"\r\n")
    assert status.startswith(b"HTTP/1.1 "), status
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    assert b"transfer-encoding" not in fields, "then the length of the image would be unknown"
    length = int(fields[b"content-length"])
    total = None
    if b"content-range" in fields:
        number = fields[b"content-range"].rpartition(b"/")[2]
        assert number != b"*" or status[9:12] == b"416", "an error for the client"
        total = int(number)
    code = int(status[9:12])
    if not head_only and code != 304 and len(body) < length:
        return None
    return Reply(code, length, total, b"" if head_only else body[:length])


async def ask(connection: Connection, port: int, path: bytes, *fields: bytes, method: bytes = b"GET") -> Reply:
    """Ask over a kept connection, as `esp_http_client` does, and wait for the whole answer."""
    before = len(connection.received)
    extra = b"".join(b"%s\r\n" % field for field in fields)
    connection.send(b"%s %s HTTP/1.1\r\n%sHost: 127.0.0.1:%d\r\n%s\r\n" % (method, path, AGENT, port, extra))
    data = await connection.until(lambda data: read_reply(data[before:], head_only=method == b"HEAD"))
    reply = read_reply(data[before:], head_only=method == b"HEAD")
    assert reply is not None
    return reply


def check_image(body: bytes) -> None:
    """Look at the first part of an image, as `esp_https_ota` does before it writes anything."""
    assert len(body) >= 1024, "shorter than the headers that are looked at"
    assert body[0] == 0xE9, "no image"
    assert body[12:14] == b"\0\0", "an image for another chip"
    assert body[32:36] == b"\x32\x54\xcd\xab", "no application descriptor"


def new(seed: int = 2, size: int = 150000) -> bytes:
    """Return an image that is larger than two blocks."""
    return esp32_image("esp32", "1.1.0", size=size, seed=seed)


class OtaTests(TestCase):
    """Downloads of a whole image, in one answer or in parts."""

    async def serve(self, image: bytes) -> tuple[Door, Connection]:
        """Serve an image and connect to it."""
        door = Door(self, {"firmware-1.1.0.bin": image})
        await door.open()
        return door, await door.connect()

    async def test_plain(self) -> None:
        """`esp_https_ota` and `HttpsOTAUpdate` name nothing of the device, and get the newest image with 200."""
        door, connection = await self.serve(new())
        reply = await ask(connection, door.port, b"/firmware")
        self.assertEqual((reply.status, reply.length), (200, len(new())))
        check_image(reply.body)
        self.assertEqual(reply.body, new())
        connection.close()

    async def test_length_on_request(self) -> None:
        """ESP-IDF 4.4 sends `Content-Length: 0` with a GET."""
        door, connection = await self.serve(new())
        reply = await ask(connection, door.port, b"/firmware", b"Content-Length: 0")
        self.assertEqual((reply.status, reply.body), (200, new()))
        connection.close()

    async def test_not_modified(self) -> None:
        """An application that names what it has gets 304, to HEAD too: `ESP_ERR_HTTP_NOT_MODIFIED`."""
        door, connection = await self.serve(new())
        tag = b'If-None-Match: "%s"' % hashlib.sha256(new()).hexdigest()[:16].encode()
        for method in (b"GET", b"HEAD"):
            reply = await ask(connection, door.port, b"/firmware", tag, method=method)
            self.assertEqual(reply.status, 304)
        connection.close()

    async def test_breaking_off(self) -> None:
        """A device that reads the descriptor, finds its own version and leaves is no error, and leaves nothing open."""
        door, connection = await self.serve(new(size=6_000_000))
        with capturedLogs() as events:
            connection.send(b"GET /firmware HTTP/1.1\r\n%sHost: 127.0.0.1:%d\r\n\r\n" % (AGENT, door.port))
            data = await connection.until(lambda data: len(data.partition(b"\r\n\r\n")[2]) >= 1024)
            check_image(data.partition(b"\r\n\r\n")[2])
            connection.close()
            await until(lambda: not door.site.open)
        self.assertEqual([event for event in events if is_complaint(event)], [])

    async def test_unknown_project(self) -> None:
        """A wrong address is an error with a short body."""
        door, connection = await self.serve(new())
        reply = await ask(connection, door.port, b"/nothing")
        self.assertEqual(reply.status, 404)
        self.assertLess(len(reply.body), 32)
        connection.close()

    async def download_blocks(self, door: Door, connection: Connection, size: int) -> bytes:
        """Download all blocks of an image of so many bytes, the last one without an end."""
        image = b""
        while len(image) < size:
            first = len(image)
            last = b"%d" % (first + BLOCK - 1) if first + BLOCK < size else b""
            reply = await ask(connection, door.port, b"/firmware", b"Range: bytes=%d-%s" % (first, last))
            self.assertEqual((reply.status, reply.total), (206, size))
            image += reply.body
        return image

    async def test_partial_download(self) -> None:
        """HEAD tells the size, then come blocks of 64 kB over the same connection."""
        door, connection = await self.serve(new())
        reply = await ask(connection, door.port, b"/firmware", method=b"HEAD")
        self.assertEqual((reply.status, reply.length), (200, len(new())))
        self.assertEqual(await self.download_blocks(door, connection, reply.length), new())
        self.assertEqual(len(door.site.channels), 1)
        connection.close()

    async def test_size_by_first_byte(self) -> None:
        """A client that can't use HEAD asks for the first byte, and reads the size behind the slash."""
        door, connection = await self.serve(new())
        reply = await ask(connection, door.port, b"/firmware", b"Range: bytes=0-0")
        self.assertEqual((reply.status, reply.total, reply.body), (206, len(new()), b"\xe9"))
        connection.close()

    async def test_new_build_during_partial_download(self) -> None:
        """A device that fetches blocks while a newer build is published assembles one image, never a mixture."""
        door, connection = await self.serve(new())
        first = await ask(connection, door.port, b"/firmware", b"Range: bytes=0-65535")
        await door.publish("firmware-1.2.0.bin", new(seed=3))
        second = await ask(connection, door.port, b"/firmware", b"Range: bytes=65536-131071")
        third = await ask(connection, door.port, b"/firmware", b"Range: bytes=131072-")
        self.assertEqual(first.body + second.body + third.body, new())
        # The next download is one of the newer build.
        self.assertEqual(await self.download_blocks(door, connection, len(new(seed=3))), new(seed=3))
        connection.close()

    async def test_last_block_of_a_resumed_download(self) -> None:
        """The end of a resumed last block is one past the image, and is clamped."""
        door, connection = await self.serve(new())
        size = len(new())
        reply = await ask(connection, door.port, b"/firmware", b"Range: bytes=131072-%d" % size)
        self.assertEqual((reply.status, reply.total, reply.body), (206, size, new()[131072:]))
        connection.close()

    async def test_resume(self) -> None:
        """A start afresh asks for `bytes=0-` and wants 206; so does a start from where it broke off."""
        door, connection = await self.serve(new())
        reply = await ask(connection, door.port, b"/firmware", b"Range: bytes=0-")
        self.assertEqual((reply.status, reply.total, reply.body), (206, len(new()), new()))
        reply = await ask(connection, door.port, b"/firmware", b"Range: bytes=70000-")
        self.assertEqual((reply.status, reply.body), (206, new()[70000:]))
        connection.close()

    async def test_resume_past_the_end(self) -> None:
        """A device that has all bytes already gets 416, which makes it begin anew."""
        door, connection = await self.serve(new())
        reply = await ask(connection, door.port, b"/firmware", b"Range: bytes=%d-" % len(new()))
        self.assertEqual((reply.status, reply.total), (416, len(new())))
        connection.close()


def is_complaint(event: LogEvent) -> bool:
    """Say whether a log event is one that would worry an operator."""
    return bool(event["log_level"] >= LogLevel.warn)


class EsphomeTests(TestCase):
    """ESPHome's `ota.http_request.flash`: the MD5 first, then the image."""

    def head(self, path: bytes, port: int) -> bytes:
        """Return a request of ESPHome on an ESP8266 or RP2040."""
        return (
            b"GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: ESPHome/2026.6.0 (https://esphome.io)\r\n"
            b"Accept-Encoding: identity;q=1,chunked;q=0.1,*;q=0\r\nConnection: keep-alive\r\n\r\n" % (path, port)
        )

    async def fetch(self, door: Door, path: bytes) -> Reply:
        """Fetch an address over a connection of its own."""
        connection = await door.connect()
        connection.send(self.head(path, door.port))
        reply = read_reply(await connection.until(read_reply))
        connection.close()
        assert reply is not None
        return reply

    async def test_md5_then_image(self) -> None:
        """The first 32 characters are the MD5 in lower case, and the image has that MD5."""
        door = Door(self, {"lamp-2026.6.1.bin": new()})
        await door.open()
        for base in (b"/lamp.bin", b"/lamp-2026.6.1.bin"):
            reply = await self.fetch(door, base + b".md5")
            self.assertGreaterEqual(reply.length, 32)
            md5 = reply.body[:32]
            image = await self.fetch(door, base)
            self.assertIn(image.status, range(200, 300))
            self.assertGreater(image.length, 0)
            self.assertEqual(hashlib.md5(image.body).hexdigest().encode(), md5)

    async def test_unknown_md5(self) -> None:
        """The client doesn't look at the status, so the body of a 404 must be too short for an MD5."""
        door = Door(self, {"lamp-2026.6.1.bin": new()})
        await door.open()
        reply = await self.fetch(door, b"/lmap.bin.md5")
        self.assertLess(reply.length, 32)
