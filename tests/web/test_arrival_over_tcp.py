"""Tests of whether images arrive, over real connections: TCP, TLS, the PROXY protocol and UNIX sockets."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.task import Clock
from twisted.protocols.haproxy import proxyEndpoint
from twisted.trial.unittest import TestCase

from ota_server.tls.creator import TlsFiles
from ota_server.tls.endpoint import make_endpoint
from ota_server.web.arrival import LONGEST_PAUSE, count_unsent
from ota_server.web.channel import CHECK_INTERVAL, STALL, DeviceChannel
from tests.certificates import make_authority, make_pem
from tests.web.answers import has_head, is_whole, read_answer, read_only_answer
from tests.web.door import Door, take, turn, until
from tests.web.test_delivery import NAME, image, request
from tests.web.watching import WatchedImage, watch

reactor: Any = global_reactor

SIZE = 400_000
WHOLE = ["begun", "downloaded", "ended"]
NOT_WHOLE = ["begun", "ended"]

CLOSING = request(b"/watched", b"Connection: close")
STAYING = request(b"/watched")


class ConnectionTestCase(TestCase):
    """Tests of a door to one image that is watched, at which clients are sockets that the test reads itself."""

    timeout = 30
    door: Door
    watched: WatchedImage

    async def open(
        self,
        wrap: Callable[[IStreamServerEndpoint], IStreamServerEndpoint] | None = None,
        *,
        clock: Clock | None = None,
        size: int = SIZE,
    ) -> None:
        """Open the door."""
        self.connections = 0
        self.door = Door(self, {NAME: image(size)}, clock=clock)
        await self.door.open(wrap)
        catalog = self.door.watcher.catalog
        assert catalog is not None
        self.watched = watch(self, self.door.site, self.door.deliveries, catalog)

    def connect(self, buffer: int | None = None) -> socket.socket:
        """Return a new connection."""
        client = self.door.connect_by_hand(buffer)
        self.addCleanup(client.close)
        self.connections += 1
        return client

    @property
    def channel(self) -> DeviceChannel:
        """The server's end of the last connection."""
        return self.door.site.channels[-1]

    async def read(self, client: socket.socket, enough: Callable[[bytes], object] = is_whole) -> bytes:
        """Read at a client until there is enough."""
        data = b""
        while not enough(data):
            data += take(client)
            await turn()
        return data

    async def until_written(self) -> None:
        """Wait until the kernel has all of the answer over the last connection, but not yet the other end."""
        await until(lambda: len(self.door.site.channels) == self.connections)
        await until(lambda: self.channel.arrival is not None)
        await until(lambda: not count_unsent(self.channel.transport))

    async def until_acknowledged(self) -> None:
        """Wait until the other end has acknowledged all; Linux does within 40 ms of the reactor's time."""

        def is_acknowledged() -> bool:
            progress = self.channel.read_progress()
            return progress is not None and progress.acknowledged >= progress.written

        await until(is_acknowledged)

    async def until_over(self, *events: list[str]) -> None:
        """Wait until all answers are over, and check what was told of each."""
        await until(lambda: self.watched.over)
        self.assertEqual(self.watched.events, list(events))

    def reset(self, client: socket.socket) -> None:
        """Close a connection as a program does that is killed, or that doesn't want to wait."""
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()


class TcpTests(ConnectionTestCase):
    """Plain TCP."""

    async def test_read_and_closed(self) -> None:
        """A client that reads all and closes has the image, whether the connection was to stay or not."""
        await self.open()
        for asked in (CLOSING, STAYING):
            client = self.connect()
            client.sendall(asked)
            self.assertEqual(read_only_answer(await self.read(client)).body, image(SIZE))
            client.close()
            await until(lambda: not self.door.site.open)
        await self.until_over(WHOLE, WHOLE)

    async def test_read_and_kept(self) -> None:
        """A client that reads all and keeps the connection has the image, and may ask on."""
        await self.open()
        client = self.connect()
        for _ in range(3):
            client.sendall(STAYING)
            self.assertEqual(read_only_answer(await self.read(client)).body, image(SIZE))
        await self.until_over(WHOLE, WHOLE, WHOLE)
        self.assertEqual(len(self.door.site.open), 1)

    async def test_closed_by_the_server(self) -> None:
        """Where the connection is to end, the server ends it when all has arrived, with no need for the client to."""
        await self.open()
        client = self.connect()
        client.sendall(request(b"/watched").replace(b"HTTP/1.1", b"HTTP/1.0"))
        self.assertEqual(read_only_answer(await self.read(client)).body, image(SIZE))
        await self.until_over(WHOLE)
        await until(lambda: not self.door.site.open)
        client.setblocking(True)
        self.assertEqual(client.recv(1), b"")

    async def test_closed_before_asked(self) -> None:
        """A client that reads all and closes before the kernel was asked again has the image."""
        clock = Clock()
        await self.open(clock=clock)
        for asked in (CLOSING, STAYING):
            client = self.connect(4096)
            client.sendall(asked)
            await self.until_written()
            clock.advance(0)
            self.assertEqual(self.watched.events[-1], ["begun"])
            await self.read(client)
            client.close()
            await until(lambda: not self.door.site.open)
        await self.until_over(WHOLE, WHOLE)
        clock.advance(60)
        self.assertEqual(clock.getDelayedCalls(), [])

    async def test_next_request_before_asked(self) -> None:
        """A client that reads all and asks on before the kernel was asked again has the image, and is answered."""
        clock = Clock()
        await self.open(clock=clock)
        client = self.connect(4096)
        client.sendall(STAYING)
        await self.until_written()
        clock.advance(0)
        await self.read(client)
        client.sendall(request(b"/watched", b"Range: bytes=0-9"))
        self.assertEqual(read_only_answer(await self.read(client)).body, image(SIZE)[:10])
        await self.until_over(WHOLE, NOT_WHOLE)

    async def test_header_only(self) -> None:
        """A client that reads the head alone hasn't got the image, though the kernel has taken all of it."""
        await self.open()
        for end in (socket.socket.close, self.reset):
            for asked in (CLOSING, STAYING):
                client = self.connect()
                client.sendall(asked)
                await self.until_written()
                self.assertTrue(has_head(take(client, 1024)))
                end(client)
                await until(lambda: not self.door.site.open)
                self.assertEqual(self.watched.events[-1], NOT_WHOLE)

    async def test_ended_in_the_middle(self) -> None:
        """A client that closes or resets in the middle hasn't got the image, whatever the sizes of the buffers."""
        await self.open(size=6_000_000)
        for end in (socket.socket.close, self.reset):
            for buffer in (None, 4096):
                client = self.connect(buffer)
                client.sendall(STAYING)
                await self.read(client, lambda data: len(data) > 500_000)
                end(client)
                await until(lambda: not self.door.site.open)
                self.assertEqual(self.watched.events[-1], NOT_WHOLE)

    async def test_half_closed_in_the_middle(self) -> None:
        """A client that closes its side in the middle loses the connection, as with any answer."""
        await self.open()
        client = self.connect(4096)
        client.sendall(STAYING)
        await self.until_written()
        client.shutdown(socket.SHUT_WR)
        await self.until_over(NOT_WHOLE)

    async def test_stopped(self) -> None:
        """A client that reads no more is dropped after 90 s, and hasn't got the image."""
        clock = Clock()
        await self.open(clock=clock)
        client = self.connect(4096)
        client.sendall(STAYING)
        await self.until_written()
        await self.read(client, has_head)
        while self.door.site.open:
            clock.advance(1)
            await turn()
        self.assertGreaterEqual(clock.seconds(), STALL)
        await self.until_over(NOT_WHOLE)

    async def test_slow(self) -> None:
        """A client that takes the last bytes slowly is waited for, for as long as it takes."""
        clock = Clock()
        await self.open(clock=clock)
        client = self.connect(4096)
        client.sendall(CLOSING)
        await self.until_written()
        data = b""
        while not is_whole(data):
            self.assertEqual(self.watched.events, [["begun"]])
            for _ in range(STALL // CHECK_INTERVAL - 1):
                clock.advance(CHECK_INTERVAL)
                await turn()
            before = len(data)
            while len(data) < before + 40_000 and not is_whole(data):
                data += take(client, 4096)
                await turn()
        await self.until_acknowledged()
        clock.advance(LONGEST_PAUSE)
        await self.until_over(WHOLE)
        self.assertGreater(clock.seconds(), 5 * STALL)

    async def test_small_buffer(self) -> None:
        """A client with the buffer of an ESP gets the image like any other."""
        await self.open()
        client = self.connect(4096)
        client.sendall(CLOSING)
        self.assertEqual(read_only_answer(await self.read(client)).body, image(SIZE))
        await self.until_over(WHOLE)

    async def test_not_yet_handed_over(self) -> None:
        """What Twisted has still to hand to the kernel counts as written, and as not acknowledged."""
        await self.open()
        client = self.connect()
        client.sendall(STAYING)
        await self.read(client)
        await self.until_over(WHOLE)
        await self.until_acknowledged()
        before = self.channel.read_progress()
        self.channel.transport.write(b"0123456789")
        after = self.channel.read_progress()
        assert before is not None
        assert after is not None
        self.assertEqual(after.written, before.written + 10)
        self.assertEqual(after.acknowledged, before.acknowledged)

    async def test_pipelined(self) -> None:
        """Requests sent at once are answered one after the other, and each answer is told."""
        await self.open()
        client = self.connect()
        client.sendall(STAYING + request(b"/watched", b"Range: bytes=0-9") + STAYING + CLOSING)
        data = b""
        bodies = []
        for _ in range(4):
            while not is_whole(data):
                data += take(client)
                await turn()
            answer, data = read_answer(data)
            bodies.append(answer.body)
        whole = image(SIZE)
        self.assertEqual(bodies, [whole, whole[:10], whole, whole])
        await self.until_over(WHOLE, NOT_WHOLE, WHOLE, WHOLE)


class PiecesTests(ConnectionTestCase):
    """Downloads in pieces over TCP."""

    async def fetch(self, start: int, end: int | None, client: socket.socket | None = None) -> bytes:
        """Fetch a piece, over a connection of its own where none is given."""
        own = client or self.connect(4096)
        own.sendall(request(b"/watched", b"Range: bytes=%d-%s" % (start, b"" if end is None else b"%d" % (end - 1))))
        answer = read_only_answer(await self.read(own))
        self.assertEqual(answer.code, 206)
        if client is None:
            own.close()
        return answer.body

    async def check_fetched(self, size: int, client: socket.socket | None) -> None:
        """Fetch the whole image in pieces of a size, the last one open-ended, as esp_https_ota does."""
        data = b""
        while len(data) + size < SIZE:
            data += await self.fetch(len(data), len(data) + size, client)
            self.assertEqual(self.watched.downloads, 0)
        data += await self.fetch(len(data), None, client)
        self.assertEqual(data, image(SIZE))
        await until(lambda: self.watched.over)
        self.assertEqual(self.watched.events[-1], WHOLE)
        self.assertEqual(self.watched.downloads, 1)

    async def test_one_connection(self) -> None:
        """Pieces of 64 kB over one connection."""
        await self.open()
        await self.check_fetched(65536, self.connect())

    async def test_many_connections(self) -> None:
        """Pieces of 64 kB, each over a connection of its own."""
        await self.open()
        await self.check_fetched(65536, None)

    async def test_small_pieces(self) -> None:
        """Pieces of 2 kB over one connection, as Nordic's modems ask for them: not one is waited for but the last."""
        clock = Clock()
        await self.open(clock=clock)
        client = self.connect()
        for start in range(0, SIZE - 2000, 2000):
            await self.fetch(start, start + 2000, client)
        client.sendall(request(b"/watched", b"Range: bytes=%d-" % (SIZE - 2000)))
        await self.read(client)
        self.assertEqual(self.watched.downloads, 0)
        await self.until_acknowledged()
        clock.advance(0)
        self.assertEqual(self.watched.downloads, 1)

    async def test_overlapping(self) -> None:
        """Pieces that overlap, with one that comes twice."""
        await self.open()
        for start, end in ((0, 150_000), (100_000, 250_000), (100_000, 250_000), (249_999, SIZE)):
            await self.fetch(start, end)
        await until(lambda: self.watched.over)
        self.assertEqual(self.watched.downloads, 1)

    async def test_last_piece_ended(self) -> None:
        """A client that ends the connection in the last piece hasn't got the image, until it has fetched the rest."""
        await self.open()
        await self.fetch(0, 200_000)
        for end in (socket.socket.close, self.reset):
            client = self.connect(4096)
            client.sendall(request(b"/watched", b"Range: bytes=200000-"))
            await self.until_written()
            await self.read(client, has_head)
            end(client)
            await until(lambda: not self.door.site.open)
        self.assertEqual(self.watched.events, [NOT_WHOLE] * 3)
        await self.fetch(200_000, None)
        await self.until_over(*[NOT_WHOLE] * 3, WHOLE)

    async def test_resumed(self) -> None:
        """A client that goes on where the connection broke has the image with the rest."""
        await self.open()
        client = self.connect(4096)
        client.sendall(STAYING)
        data = await self.read(client, lambda data: len(data) > 100_000)
        self.reset(client)
        got = len(data.partition(b"\r\n\r\n")[2])
        await until(lambda: not self.door.site.open)
        # Not what the server had written when the connection broke, but what the client had.
        await self.fetch(got + 100_000, None)
        self.assertEqual(self.watched.downloads, 0)
        await self.fetch(got, got + 100_000)
        await until(lambda: self.watched.over)
        self.assertEqual(self.watched.downloads, 1)


class TlsTests(ConnectionTestCase):
    """TLS, where what is written and what is acknowledged aren't bytes of the image alone."""

    async def begin(self, asked: bytes, *, clock: Clock | None = None, version: ssl.TLSVersion | None = None) -> None:
        """Open the door, and ask for the image over TLS."""
        pem = Path(self.mktemp())
        pem.write_bytes(make_pem("localhost"))

        def wrap(endpoint: IStreamServerEndpoint) -> IStreamServerEndpoint:
            return make_endpoint(reactor, TlsFiles(((pem, None),)), endpoint)

        await self.open(wrap, clock=clock)
        context = ssl.create_default_context()
        if version is not None:
            context.maximum_version = version
        make_authority().configure_trust(context)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.client = self.connect(16384)
        await self.run_tls(self.tls.do_handshake)
        self.tls.write(asked)
        self.client.sendall(self.outgoing.read())

    async def run_tls(self, step: Callable[[], Any]) -> Any:
        """Let the client's TLS do something, with all it has to send and to receive for that."""
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self.client.sendall(self.outgoing.read())
                self.incoming.write(take(self.client, 4096))
                await turn()
            else:
                self.client.sendall(self.outgoing.read())
                return result

    async def read_all(self) -> None:
        """Read the whole answer."""
        data = b""
        while not is_whole(data):
            data += await self.run_tls(lambda: self.tls.read(65536))
        self.assertEqual(read_only_answer(data).body, image(SIZE))

    def notify(self) -> None:
        """Tell the other end that TLS ends, without waiting for its answer."""
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        self.client.sendall(self.outgoing.read())

    async def test_kept(self) -> None:
        """A client that reads all and keeps the connection has the image."""
        await self.begin(STAYING)
        await self.read_all()
        await self.until_over(WHOLE)
        self.assertEqual(len(self.door.site.open), 1)

    async def test_closed_with_notice(self) -> None:
        """A client that reads all, and ends TLS and the connection before the kernel was asked again, has the image."""
        for asked in (CLOSING, STAYING):
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                clock = Clock()
                await self.begin(asked, clock=clock, version=version)
                await self.until_written()
                clock.advance(0)
                await self.read_all()
                self.notify()
                self.client.close()
                await until(lambda: not self.door.site.open)
                await self.until_over(WHOLE)

    async def test_closed_without_notice(self) -> None:
        """So has one that just closes the connection, as many do."""
        clock = Clock()
        await self.begin(CLOSING, clock=clock)
        await self.until_written()
        clock.advance(0)
        await self.read_all()
        self.client.close()
        await self.until_over(WHOLE)

    async def test_reset(self) -> None:
        """One that resets the connection has not."""
        clock = Clock()
        await self.begin(CLOSING, clock=clock)
        await self.until_written()
        clock.advance(0)
        await self.read_all()
        self.reset(self.client)
        await self.until_over(NOT_WHOLE)

    async def test_header_only(self) -> None:
        """A client that reads the head alone has not got the image, however it ends the connection."""
        for notice in (True, False):
            for end in (socket.socket.close, self.reset):
                await self.begin(CLOSING)
                await self.until_written()
                await self.run_tls(lambda: self.tls.read(1024))
                if notice:
                    self.notify()
                end(self.client)
                await self.until_over(NOT_WHOLE)

    async def test_notice_in_the_middle(self) -> None:
        """Nor has one that ends TLS in the middle, and reads on."""
        await self.begin(CLOSING)
        await self.until_written()
        self.notify()
        await turn()
        while self.door.site.open:
            take(self.client)
            await turn()
        await self.until_over(NOT_WHOLE)

    async def test_resumed(self) -> None:
        """What arrived over a connection that broke is never taken for more than it was."""
        await self.begin(STAYING)
        data: bytes = b""
        while len(data) < 100_000:
            data += await self.run_tls(lambda: self.tls.read(65536))
        self.reset(self.client)
        await until(lambda: not self.door.site.open)
        (collected,) = self.door.deliveries.pieces._downloads.values()
        ((start, end),) = collected.spans
        self.assertEqual(start, 0)
        self.assertGreater(end, 90_000)
        self.assertLess(end, SIZE - 100_000)


class BehindTests(ConnectionTestCase):
    """Behind other programs on the same machine."""

    async def test_proxy(self) -> None:
        """With the PROXY protocol all is as without."""
        hello = b"PROXY TCP4 192.0.2.7 192.0.2.1 50000 80\r\n"
        clock = Clock()
        await self.open(proxyEndpoint, clock=clock)
        for asked in (CLOSING, STAYING):
            client = self.connect(4096)
            client.sendall(hello + asked)
            await self.until_written()
            clock.advance(0)
            await self.read(client)
            client.close()
            await until(lambda: not self.door.site.open)
            for end in (socket.socket.close, self.reset):
                client = self.connect(4096)
                client.sendall(hello + asked)
                await self.until_written()
                clock.advance(0)
                await self.read(client, has_head)
                end(client)
                await until(lambda: not self.door.site.open)
        await self.until_over(*[WHOLE, NOT_WHOLE, NOT_WHOLE] * 2)

    async def test_unix(self) -> None:
        """Over a UNIX socket the other end has what it has read."""
        path = str(Path(self.mktemp()).absolute())
        short = f"/proc/self/cwd/{Path(path).relative_to(Path.cwd())}"
        await self.open(lambda _: UNIXServerEndpoint(reactor, short))

        def connect() -> socket.socket:
            client = socket.socket(socket.AF_UNIX)
            self.addCleanup(client.close)
            client.connect(short)
            client.setblocking(False)
            return client

        for asked in (CLOSING, STAYING):
            client = connect()
            client.sendall(asked)
            await self.read(client)
            client.close()
            await until(lambda: not self.door.site.open)
            client = connect()
            client.sendall(asked)
            await self.read(client, has_head)
            client.close()
            await until(lambda: not self.door.site.open)
            # What a client had read when it closed such a socket isn't known.
            self.assertEqual(len(self.door.deliveries.pieces), 0)
        client = connect()
        client.sendall(STAYING)
        await self.read(client)
        await self.until_over(*[WHOLE, NOT_WHOLE] * 2, WHOLE)
        self.assertEqual(len(self.door.site.open), 1)
