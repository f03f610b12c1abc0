"""Nordic's range-fragment downloaders: `downloader` of the nRF Connect SDK, and the old `download_client`."""

from __future__ import annotations

import random

import attrs
from twisted.trial.unittest import TestCase

from tests.web.door import Connection, Door, until

MODEM_BUFFER = 2048
"""What the modem's TLS holds of one answer, head and all, in bytes."""

MAX_HEAD = 300
"""The longest head that leaves room for a fragment worth its name, in bytes."""

FRAGMENT = 1700


def image() -> bytes:
    """Return an image for a chip that this server knows nothing of."""
    return random.Random(52).randbytes(20000)


@attrs.frozen
class Fragment:
    """One answer: its status, what it says of the size of the file, and its bytes."""

    status: int
    size: int
    body: bytes


def read_fragment(data: bytes, *, ranged: bool) -> Fragment | None:
    """Read an answer as `downloader` does: all in lower case, then by searching; None while it is not whole."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return None
    if ranged:
        assert len(head) + 4 < MAX_HEAD, f"{len(head) + 4} bytes of head: {head!r}"
    head = head.lower() + b"\r\n"
    assert head.startswith(b"http/1.1 "), head
    status = int(head[9:12])
    field = b"\r\ncontent-range:" if ranged else b"\r\ncontent-length:"
    assert field in head, head
    text = head.partition(field)[2].partition(b"\r\n")[0]
    length = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
    assert b"connection: close" not in head, "a connection for each fragment"
    if len(body) < length:
        return None
    assert len(body) == length, "the rest of an answer would be taken for the next one"
    return Fragment(status, int(text.rpartition(b"/")[2]), body)


class DownloaderTests(TestCase):
    """`downloader`, which names neither a user agent nor, in `Host`, a port."""

    async def serve(self) -> tuple[Door, Connection]:
        """Serve the image and connect to it."""
        door = Door(self, {"thingy-1.1.0.bin": image()})
        await door.open()
        return door, await door.connect()

    async def ask(self, connection: Connection, range_field: bytes = b"") -> Fragment:
        """Ask for a fragment over a kept connection."""
        before = len(connection.received)
        connection.send(
            b"GET /thingy.bin HTTP/1.1\r\nHost: 127.0.0.1\r\n%sConnection: keep-alive\r\n\r\n" % range_field
        )
        ranged = bool(range_field)
        data = await connection.until(lambda data: read_fragment(data[before:], ranged=ranged))
        fragment = read_fragment(data[before:], ranged=ranged)
        assert fragment is not None
        return fragment

    async def test_fragments(self) -> None:
        """Fragments come over one connection, each exactly 206, and each small enough for the modem."""
        door, connection = await self.serve()
        received = b""
        size = 1
        while len(received) < size:
            before = len(connection.received)
            first = len(received)
            fragment = await self.ask(connection, b"Range: bytes=%d-%d\r\n" % (first, first + FRAGMENT - 1))
            self.assertEqual(fragment.status, 206)
            self.assertLessEqual(len(connection.received) - before, MODEM_BUFFER)
            size = fragment.size
            received += fragment.body
        self.assertEqual(received, image())
        self.assertEqual(len(door.site.channels), 1)
        connection.close()

    async def test_open_range(self) -> None:
        """A range without an end goes to the end of the file."""
        _, connection = await self.serve()
        fragment = await self.ask(connection, b"Range: bytes=15000-\r\n")
        self.assertEqual(fragment, Fragment(206, 20000, image()[15000:]))
        connection.close()

    async def test_without_range(self) -> None:
        """Without `Range` the status is exactly 200, and the size is the length."""
        _, connection = await self.serve()
        fragment = await self.ask(connection)
        self.assertEqual(fragment, Fragment(200, 20000, image()))
        connection.close()

    async def test_old_client_over_tls(self) -> None:
        """The old client's last range ends one past the file, and is clamped."""
        _, connection = await self.serve()
        fragment = await self.ask(connection, b"Range: bytes=18304-20000\r\n")
        self.assertEqual(fragment, Fragment(206, 20000, image()[18304:]))
        connection.close()

    async def test_old_client_over_plain_http(self) -> None:
        """The old client asks for `bytes=0-` over plain HTTP, and takes anything but 200 for an error."""
        _, connection = await self.serve()
        connection.send(
            b"GET /thingy.bin HTTP/1.1\r\nHost: 127.0.0.1\r\nRange: bytes=0-\r\nConnection: keep-alive\r\n\r\n"
        )
        data = await connection.until(lambda data: read_fragment(data, ranged=False))
        self.assertEqual(read_fragment(data, ranged=False), Fragment(200, 20000, image()))
        connection.close()

    async def test_broken_connection(self) -> None:
        """After a broken connection the download goes on over a new one, where it ended."""
        door, connection = await self.serve()
        first = await self.ask(connection, b"Range: bytes=0-%d\r\n" % (FRAGMENT - 1))
        connection.close()
        await until(lambda: not door.site.open)
        connection = await door.connect()
        second = await self.ask(connection, b"Range: bytes=%d-\r\n" % FRAGMENT)
        self.assertEqual(first.body + second.body, image())
        connection.close()
