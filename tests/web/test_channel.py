"""Tests of one connection: silence, stalled and slow downloads, and requests that are none."""

from __future__ import annotations

import random
import socket
import ssl
from pathlib import Path

from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from ota_server.tls.creator import TlsFiles
from ota_server.tls.endpoint import make_endpoint
from ota_server.web.arrival import count_unsent
from ota_server.web.channel import CHECK_INTERVAL, STALL, DeviceChannel
from ota_server.web.delivery import LINGER, ImageProducer
from ota_server.web.site import SILENCE
from tests.certificates import make_authority, make_pem
from tests.web.answers import has_head, is_whole, read_answer, read_only_answer
from tests.web.door import Door, open_images, reactor, take, turn, until
from tests.web.memory import MemoryConnection, MemoryDoor

CHECK = b"GET /firmware HTTP/1.1\r\nHost: h\r\nx-ESP8266-version: 1.0.0\r\n\r\n"
SIZE = 12_000_000
"""The size of an image, in bytes, of which the kernel's buffers hold a part only."""

DOWNLOAD = b"GET /firmware.bin HTTP/1.1\r\nHost: h\r\n\r\n"


def image(size: int) -> bytes:
    """Return an image of so many bytes that holds no part twice."""
    return random.Random(1).randbytes(size)


class SilenceTests(SynchronousTestCase):
    """A connection over which the client says nothing."""

    def setUp(self) -> None:
        """Open a door to a folder."""
        self.door = MemoryDoor(self, {"firmware-1.0.0.bin": b"\0image"})

    def check_silence(self, connection: MemoryConnection) -> None:
        """Check that a connection ends after so much silence as is borne, and not before."""
        self.door.clock.advance(SILENCE - 0.5)
        self.assertFalse(connection.transport.disconnecting)
        self.door.clock.advance(1)
        self.assertTrue(connection.transport.disconnecting)

    def test_nothing_sent(self) -> None:
        """A client that never sends anything is left after 30 s, and dropped when it doesn't take the end."""
        self.assertEqual(SILENCE, 30)
        connection = self.door.connect()
        self.check_silence(connection)
        self.assertFalse(connection.transport.disconnected)
        self.door.clock.advance(DeviceChannel.abortTimeout)
        self.assertTrue(connection.transport.disconnected)
        self.assertEqual(connection.received, b"")

    def test_half_a_request(self) -> None:
        """A client that stops in the middle of a head is left after 30 s."""
        connection = self.door.connect()
        self.door.clock.advance(20)
        connection.send(CHECK[:20])
        self.check_silence(connection)

    def test_after_a_check(self) -> None:
        """Each check over a kept connection begins the time anew."""
        connection = self.door.connect()
        for _ in range(5):
            self.door.clock.advance(20)
            connection.send(CHECK)
        self.assertEqual(connection.received.count(b" 304 "), 5)
        self.check_silence(connection)

    def test_after_an_answer_of_twisteds(self) -> None:
        """So does each other request, such as for a text."""
        connection = self.door.connect()
        for _ in range(5):
            self.door.clock.advance(20)
            connection.send(b"GET /firmware.version HTTP/1.1\r\nHost: h\r\n\r\n")
        self.assertEqual(connection.received.count(b" 200 "), 5)
        self.check_silence(connection)

    def test_end_not_taken(self) -> None:
        """A client that doesn't take the end of the connection after its last answer is dropped as well."""
        for request in (b"GET /nothing HTTP/1.0\r\n\r\n", CHECK.replace(b"1.1", b"1.0"), b"no request\r\n\r\n"):
            connection = self.door.connect()
            connection.send(request)
            self.assertTrue(connection.transport.disconnecting)
            self.door.clock.advance(SILENCE - 0.5)
            self.assertFalse(connection.transport.disconnected)
            self.door.clock.advance(1)
            self.assertTrue(connection.transport.disconnected, request)
            connection.lose()
            self.assertEqual(self.door.clock.getDelayedCalls(), [])

    def test_client_gone(self) -> None:
        """A connection that the client has ended leaves nothing behind on the clock."""
        for request in (b"", CHECK, CHECK[:20], b"GET /firmware.version HTTP/1.1\r\n\r\n"):
            connection = self.door.connect()
            connection.send(request)
            connection.lose()
            self.assertEqual(self.door.clock.getDelayedCalls(), [])


class StallTests(SynchronousTestCase):
    """A download whose client takes nothing, over a transport in memory that fills up when it is told."""

    SIZE = 20 * ImageProducer.bufferSize

    def setUp(self) -> None:
        """Open a door to a folder, and begin a download there."""
        self.door = MemoryDoor(self, {"firmware-1.0.0.bin": image(self.SIZE)})
        self.connection = self.door.connect()
        self.connection.send(DOWNLOAD)
        self.assertTrue(self.connection.transport.paused)

    def drain(self) -> None:
        """Let the client take a buffer."""
        self.connection.transport.drain()

    def wait(self, seconds: float) -> None:
        """Let time go by, in steps."""
        for _ in range(int(seconds)):
            self.door.clock.advance(1)

    @property
    def dropped(self) -> bool:
        """Whether the connection was dropped."""
        return self.connection.transport.disconnected

    def test_stalled(self) -> None:
        """A client that takes nothing for 90 s is dropped, at most one look later, and not before."""
        self.assertEqual(STALL, 90)
        self.wait(STALL - 1)
        self.assertFalse(self.dropped)
        self.wait(CHECK_INTERVAL + 1)
        self.assertTrue(self.dropped)
        self.assertLess(len(self.connection.received), self.SIZE)

    def test_slow(self) -> None:
        """A client that takes a little once in a while goes on to the end, however long that is."""
        while not is_whole(self.connection.received):
            self.wait(60)
            self.assertFalse(self.dropped)
            self.drain()
        self.assertEqual(read_only_answer(self.connection.received).body, image(self.SIZE))

    def test_slow_then_stalled(self) -> None:
        """The 90 s are counted from the last byte taken."""
        for _ in range(3):
            self.wait(60)
            self.drain()
        self.wait(STALL - 1)
        self.assertFalse(self.dropped)
        self.wait(2 * CHECK_INTERVAL + 1)
        self.assertTrue(self.dropped)

    def test_what_the_client_sends_is_no_progress(self) -> None:
        """A client that sends, but takes nothing, is dropped all the same."""
        for _ in range((STALL + 2 * CHECK_INTERVAL) // 10):
            self.connection.send(b"GET / HTTP/1.1\r\n")
            self.wait(10)
        self.assertTrue(self.dropped)

    def test_dropped_means_closed(self) -> None:
        """When the connection is lost then, nothing is left on the clock, and the file is closed."""
        self.wait(STALL + CHECK_INTERVAL)
        self.assertEqual(len(open_images(self.door.folder)), 1)
        self.connection.lose()
        self.wait(LINGER)
        self.assertEqual(open_images(self.door.folder), [])
        self.assertEqual(self.door.clock.getDelayedCalls(), [])

    def test_kept_after_a_download(self) -> None:
        """After a download the connection serves the next request, and ends when nothing more comes."""
        self.door.turn()
        _, rest = read_answer(self.connection.received)
        self.assertEqual(rest, b"")
        self.wait(SILENCE - 5)
        self.connection.send(CHECK)
        _, rest = read_answer(self.connection.received)
        self.assertEqual(read_only_answer(rest).code, 304)
        self.assertFalse(self.connection.transport.disconnecting)
        self.wait(SILENCE + STALL + 2 * CHECK_INTERVAL)
        self.assertTrue(self.connection.transport.disconnecting)

    def test_others_are_served(self) -> None:
        """A stalled download holds nobody up."""
        self.assertEqual(self.door.ask(b"/firmware.bin").body, image(self.SIZE))
        self.assertEqual(self.door.ask(b"/firmware", b"x-ESP8266-version: 1.0.0").code, 304)


class RealStallTests(TestCase):
    """Downloads over TCP, where the kernel says what arrived; the time is the test's."""

    timeout = 30

    SIZE = 16_000_000

    async def begin(self, size: int = SIZE) -> socket.socket:
        """Begin a download whose client takes nothing, and wait until the server can send no more."""
        self.clock = Clock()
        self.door = Door(self, {"firmware-1.0.0.bin": image(size)}, clock=self.clock)
        await self.door.open()
        client = self.door.connect_by_hand(buffer=4096)
        self.addCleanup(client.close)
        client.sendall(DOWNLOAD)
        await until(lambda: self.door.site.open and self.channel._watching)
        await self.until_stuck()
        return client

    @property
    def channel(self) -> DeviceChannel:
        """The server's end of the first connection."""
        return self.door.site.channels[0]

    async def until_stuck(self) -> None:
        """Wait until nothing changes at the server's end over many turns of the reactor."""
        last, same = None, 0
        while same < 50:
            await turn()
            transport = self.channel.transport
            now = (self.channel._measure(), transport._tempDataLen, len(transport.dataBuffer) - transport.offset)
            same = same + 1 if now == last else 0
            last = now

    async def read(self, client: socket.socket, size: int) -> bytes:
        """Read so many bytes at the client, or fewer where the connection ends."""
        data = b""
        while len(data) < size:
            before = len(data)
            data += take(client, min(65536, size - len(data)))
            if len(data) == before:
                if not self.channel.transport.connected:
                    break
                await turn()
        return data

    async def test_measure(self) -> None:
        """The number of bytes that arrived grows when the client reads, and stays when it doesn't."""
        client = await self.begin()
        before = self.channel._measure()
        self.assertGreater(before[1], 0)
        self.assertLess(before[1], self.SIZE)
        await self.read(client, 1_000_000)
        await self.until_stuck()
        after = self.channel._measure()
        self.assertGreater(after[1], before[1])

    async def test_stalled(self) -> None:
        """A client that reads nothing is dropped after 90 s, while others are served on."""
        client = await self.begin()
        for _ in range(STALL // CHECK_INTERVAL - 1):
            self.clock.advance(CHECK_INTERVAL)
            await turn()
        self.assertTrue(self.channel.transport.connected)
        answer = await self.door.ask(CHECK.replace(b"Host: h", b"Connection: close"))
        self.assertEqual(read_only_answer(answer).code, 304)
        for _ in range(2):
            self.clock.advance(CHECK_INTERVAL)
        await until(lambda: not self.channel.transport.connected)
        self.assertLess(len(take(client, self.SIZE)), self.SIZE)

    async def read_slowly(self, client: socket.socket, size: int, piece: int) -> bytes:
        """Read an answer with a body of so many bytes, one piece a minute."""
        data = await self.read(client, 1000)
        end = data.index(b"\r\n\r\n") + 4 + size
        while len(data) < end:
            for _ in range(60 // CHECK_INTERVAL):
                self.clock.advance(CHECK_INTERVAL)
                await turn()
            self.assertTrue(self.channel.transport.connected)
            data += await self.read(client, min(piece, end - len(data)))
            await self.until_stuck()
        return read_only_answer(data).body

    async def test_slow(self) -> None:
        """A client that reads a little now and then gets everything, in any number of minutes."""
        client = await self.begin(size=6_000_000)
        self.assertEqual(await self.read_slowly(client, 6_000_000, 500_000), image(6_000_000))

    async def test_last_bytes_under_way(self) -> None:
        """A slow client isn't cut off once the last byte was handed to the kernel, long before it arrived."""
        client = await self.begin(size=300_000)
        self.assertEqual(self.channel.requests, [])
        self.assertEqual(await self.read_slowly(client, 300_000, 40_000), image(300_000))

    async def test_measure_below_tls(self) -> None:
        """What arrives is measured below TLS, too."""
        door = Door(self, {"firmware-1.0.0.bin": image(300_000)})
        context = await open_with_tls(door, Path(self.mktemp()))

        def download() -> tuple[ssl.SSLSocket, bytes]:
            plain = socket.create_connection(("127.0.0.1", door.port))
            client = context.wrap_socket(plain, server_hostname="localhost")
            client.sendall(DOWNLOAD)
            data = b""
            while not is_whole(data):
                data += client.recv(65536)
            return client, data

        client, data = await deferToThread(download)
        self.addCleanup(client.close)
        self.assertEqual(read_only_answer(data).body, image(300_000))
        await until(lambda: door.site.channels[0]._measure()[1] >= 300_000)


async def open_with_tls(door: Door, pem: Path) -> ssl.SSLContext:
    """Open a door that speaks TLS, with a certificate in a new file; return what its clients need."""
    pem.write_bytes(make_pem("localhost"))
    await door.open(lambda endpoint: make_endpoint(reactor, TlsFiles(((pem, None),)), endpoint))
    context = ssl.create_default_context()
    make_authority().configure_trust(context)
    return context


class BackPressureTests(TestCase):
    """A client that asks, and never takes an answer."""

    timeout = 30

    async def test_image(self) -> None:
        """An image is read no faster than a client takes it, over TLS as without, so that memory holds for many."""
        for secure in (False, True):
            door = Door(self, {"firmware-1.0.0.bin": image(SIZE)})
            context = await open_with_tls(door, Path(self.mktemp())) if secure else None
            if context is None:
                await door.open()
            plain = door.connect_by_hand(buffer=4096)
            self.addCleanup(plain.close)

            def ask(plain: socket.socket = plain, context: ssl.SSLContext | None = context) -> socket.socket:
                plain.settimeout(20)
                client = plain if context is None else context.wrap_socket(plain, server_hostname="localhost")
                client.sendall(DOWNLOAD)
                client.recv(1)
                return client

            client = await deferToThread(ask)
            self.addCleanup(client.close)
            await turn()
            channel = door.site.channels[0]
            self.assertLess(count_unsent(channel.transport), 500_000)
            self.assertLess(channel.requests[0].sentLength, SIZE)

    async def test_checks(self) -> None:
        """Checks are not read any more once their answers pile up, so that nobody can fill the memory."""
        door = Door(self, {"firmware-1.0.0.bin": b"\0image"})
        await door.open()
        client = door.connect_by_hand(buffer=4096)
        self.addCleanup(client.close)
        await until(lambda: door.site.open)
        transport = door.site.channels[0].transport
        transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sent = 0
        for _ in range(6000):
            try:
                sent += client.send(CHECK)
            except BlockingIOError:
                break
            await turn()
        pending = transport._tempDataLen + len(transport.dataBuffer) - transport.offset
        self.assertLess(pending, 200_000, f"{pending} bytes wait after {sent} bytes of checks")


class MalformedTests(TestCase):
    """Bytes that are no request."""

    timeout = 30

    MALFORMED = (
        b"hello\r\n\r\n",
        b"GET /firmware\r\n\r\n",
        b"GET  /firmware HTTP/1.1\r\n\r\n",
        b"GET /firmware HTTP/9.9\r\nHost: h\r\n\r\n",
        b"GET /firmware HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /firmware HTTP/1.1\r\nno colon\r\nagain none\r\nHost: h\r\n\r\n",
        b"GET /firmware HTTP/1.1\r\nHost : h\r\n\r\n",
        b"GET /firmware HTTP/1.1\r\nHost: \x00\r\n\r\n",
        b"GET /firmware HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET /firmware HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n",
        b"GET /firmware HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET /firmware HTTP/1.1\r\n" + b"a: b\r\n" * 600 + b"\r\n",
        b"GET /firmware HTTP/1.1\r\n" + b"a: %s\r\n" % (b"b" * 9000) * 2 + b"\r\n",
        b"GET /firm\x00ware HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n",
    )

    async def test_refused(self) -> None:
        """Each gets one 400 with a length, and the end of the connection; the next connection is served."""
        door = Door(self, {"firmware-1.0.0.bin": b"\0image"})
        await door.open()
        idle = await door.connect()
        for request in self.MALFORMED:
            answer = read_only_answer(await door.ask(request))
            self.assertEqual((request, answer.code, answer.get(b"Content-Length")), (request, 400, b"0"))
            self.assertEqual(answer.get(b"Connection"), b"close")
            self.assertIsNone(answer.get(b"Transfer-Encoding"))
        idle.send(CHECK)
        self.assertTrue((await idle.until(has_head)).startswith(b"HTTP/1.1 304 "))
        idle.close()

    async def test_endless_line(self) -> None:
        """A line without an end is not read on and on: the connection is ended."""
        door = Door(self, {"firmware-1.0.0.bin": b"\0image"})
        await door.open()
        connection = await door.connect()
        while not connection.ended:
            connection.send(b"GET /" + b"x" * 20000)
            await turn()
        self.assertNotIn(b" 200 ", connection.received)
