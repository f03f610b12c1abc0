"""Tests of the quick path: it declines what is unusual, and answers as Twisted's parser would."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import HTTPChannel

from ota_server.web.channel import DeviceChannel
from ota_server.web.quick import read_head
from tests.web.memory import MemoryConnection, MemoryDoor

FILES = {
    "firmware-1.0.0.bin": b"\0first",
    "firmware-1.2.0.bin": b"\0second",
    "lamp-3.0.0.esp8266.bin": b"\0lamp",
    "fan-1.0.0.esp32.bin": b"\0fan of ESP32",
    "fan-1.0.0.esp32c3.bin": b"\0fan of C3",
    "beta/firmware-2.0.0.bin": b"\0beta",
}

PLAIN = b"GET /firmware HTTP/1.1\r\nHost: h\r\nx-ESP8266-version: 1.2.0\r\n\r\n"


class StockChannel(DeviceChannel):
    """The same channel without its quick path: Twisted's parser reads everything."""

    def connectionMade(self) -> None:
        """Begin as Twisted's channel does."""
        self._plain = False
        HTTPChannel.connectionMade(self)


class ReadHeadTests(SynchronousTestCase):
    """Reading a head in one go."""

    def test_plain(self) -> None:
        """The path comes without its query, the names of fields capitalised, their values without white space."""
        fields = b"hOST:h\r\nX-esp32-STA-mac: \t 24:0A \t\r\nAccept:\r\naccept: */*\r\n"
        head = read_head(b"GET /beta/firmware?a=b?c HTTP/1.1\r\n%s\r\n" % fields)
        assert head is not None
        self.assertEqual((head.path, head.query), (b"/beta/firmware", b"a=b?c"))
        values = {name: list(values) for name, values in head.headers.items()}
        self.assertEqual(values, {b"Host": [b"h"], b"X-Esp32-Sta-Mac": [b"24:0A"], b"Accept": [b"", b"*/*"]})
        self.assertEqual((head.version, head.persistent), (b"HTTP/1.1", True))

    def test_persistence(self) -> None:
        """A connection stays with HTTP/1.1 only, and where the client doesn't ask for its end."""
        for line, fields, expected in (
            (b"HTTP/1.1", b"", True),
            (b"HTTP/1.1", b"Connection: keep-alive\r\n", True),
            (b"HTTP/1.1", b"Connection: Close\r\n", False),
            (b"HTTP/1.1", b"Connection: TE close\r\n", False),
            (b"HTTP/1.0", b"", False),
            (b"HTTP/1.0", b"Connection: keep-alive\r\n", False),
        ):
            head = read_head(b"GET / %s\r\n%s\r\n" % (line, fields))
            assert head is not None
            self.assertEqual((line, fields, head.persistent), (line, fields, expected))

    def test_declined(self) -> None:
        """Whatever is unusual is left to Twisted: other methods, bodies, pieces, and what isn't quite HTTP."""
        for request in (
            b"",
            b"\r\n",
            b"\r\n" + PLAIN,
            PLAIN[:-2],
            PLAIN[:-1],
            PLAIN + b"\r\n",
            PLAIN + PLAIN,
            PLAIN + b"x",
            PLAIN.replace(b"GET", b"POST"),
            PLAIN.replace(b"GET", b"get"),
            PLAIN.replace(b"GET /", b"GET  /"),
            PLAIN.replace(b" HTTP/1.1", b""),
            PLAIN.replace(b"HTTP/1.1", b"HTTP/1.2"),
            PLAIN.replace(b"HTTP/1.1", b"HTTP/2.0"),
            PLAIN.replace(b"HTTP/1.1", b"http/1.1"),
            PLAIN.replace(b"HTTP/1.1", b"HTTP/1.1 "),
            PLAIN.replace(b"/firmware", b"http://h/firmware"),
            PLAIN.replace(b"/firmware", b"*"),
            PLAIN.replace(b"/firmware", b"/firm ware"),
            PLAIN.replace(b"/firmware", b"/firmware#x"),
            PLAIN.replace(b"/firmware", b"/f\xe9"),
            PLAIN.replace(b"\r\n", b"\n"),
            PLAIN.replace(b"Host: h", b"Host h"),
            PLAIN.replace(b"Host: h", b": h"),
            PLAIN.replace(b"Host: h", b"Host : h"),
            PLAIN.replace(b"Host: h", b" Host: h"),
            PLAIN.replace(b"Host: h", b"Host: h\r\n folded"),
            PLAIN.replace(b"Host: h", b"Ho(st: h"),
            PLAIN.replace(b"Host: h", b"H\xf6st: h"),
            PLAIN.replace(b"Host: h", b"Host: \x00"),
            PLAIN.replace(b"Host: h", b"Host: a\rb"),
            PLAIN.replace(b"Host: h", b"Content-Length: 1"),
            PLAIN.replace(b"Host: h", b"Content-Length: 00"),
            PLAIN.replace(b"Host: h", b"Content-Length: 0\r\ncontent-length: 0"),
            PLAIN.replace(b"Host: h", b"Transfer-Encoding: chunked"),
            PLAIN.replace(b"Host: h", b"transfer-encoding: identity"),
            PLAIN.replace(b"Host: h", b"Expect: 100-continue"),
            PLAIN.replace(b"Host: h", b"Upgrade: h2c"),
            PLAIN.replace(b"Host: h", b"Host: " + b"h" * 5000),
        ):
            self.assertEqual((request, read_head(request)), (request, None))

    def test_length_of_nothing(self) -> None:
        """`Content-Length: 0`, which ESP8266 devices send with a GET, is nothing unusual."""
        self.assertIsNotNone(read_head(PLAIN.replace(b"Host: h", b"Content-Length: 0")))

    def test_many_names(self) -> None:
        """More names of fields than are remembered are read all the same."""
        for number in range(3000):
            head = read_head(b"GET / HTTP/1.1\r\nx-name-%d: v\r\n\r\n" % number)
            assert head is not None
            self.assertEqual(list(head.headers), [b"X-Name-%d" % number])


class Spy(MemoryConnection):
    """A connection that tells which way was taken."""

    @property
    def was_quick(self) -> bool:
        """Whether everything so far was answered without Twisted's parser."""
        return self.channel._plain


class AnswerTests(SynchronousTestCase):
    """Answering over a connection."""

    def setUp(self) -> None:
        """Open a door to a folder."""
        self.door = MemoryDoor(self, FILES)

    def test_check_is_quick(self) -> None:
        """A check that comes whole is answered in one write, without Twisted's parser, again and again."""
        connection = Spy(self.door.site)
        for _ in range(3):
            connection.send(PLAIN)
        self.assertTrue(connection.was_quick)
        self.assertEqual(len(connection.transport.writes), 3)
        self.assertTrue(connection.transport.writes[0].startswith(b"HTTP/1.1 304 Not Modified\r\n"))
        self.assertFalse(connection.transport.disconnecting)

    def test_close_is_heeded(self) -> None:
        """After a check that asks for the end of the connection it is ended."""
        connection = Spy(self.door.site)
        connection.send(PLAIN.replace(b"1.1\r", b"1.0\r"))
        self.assertTrue(connection.was_quick)
        self.assertTrue(connection.transport.disconnecting)

    def test_checks_then_download(self) -> None:
        """After checks a download over the same connection works, and checks after it."""
        connection = Spy(self.door.site)
        connection.send(PLAIN, PLAIN.replace(b"1.2.0", b"1.1.0"), PLAIN)
        self.assertFalse(connection.was_quick)
        self.assertEqual(connection.received.count(b"HTTP/1.1 304 "), 2)
        self.assertEqual(connection.received.count(b"HTTP/1.1 200 "), 1)
        self.assertIn(b"\r\n\r\n\0secondHTTP/1.1 304 ", connection.received)

    def test_decisions_are_logged(self) -> None:
        """A quick answer is logged as any other, where decisions are logged at all."""
        for wanted in (True, False):
            self.door.site.log_decisions = wanted
            with capturedLogs() as events:
                connection = Spy(self.door.site)
                connection.send(PLAIN)
            self.assertTrue(connection.was_quick)
            logged = [(event["peer"], event["version"], event["reason"]) for event in events if "reason" in event]
            self.assertEqual(logged, [("192.0.2.7", "1.2.0", "up-to-date")] if wanted else [])


@attrs.frozen
class Outcome:
    """What came of bytes sent over a connection: the bytes that came back, and whether it was closed."""

    received: bytes
    closed: bool


names = st.sampled_from(
    [
        b"x-ESP8266-version", b"x-ESP8266-mode", b"x-ESP8266-STA-MAC", b"x-ESP8266-free-space", b"x-ESP32-version",
        b"X-Pico-Mode", b"x--version", b"Host", b"Connection", b"Content-Length", b"Range", b"If-None-Match",
        b"If-Range", b"User-Agent", b"Transfer-Encoding", b"Expect", b"Upgrade", b"Cookie", b"ETag",
        b"X-XSS-Protection", b"A" * 200, b"a-", b"-", b"x!#$%&'*+.^_`|~",
    ]
).flatmap(lambda name: st.sampled_from([name, name.upper(), name.lower(), name.swapcase()]))  # fmt: skip

values = st.one_of(
    st.sampled_from(
        [
            b"1.0", b"1.2.0", b"1.2.0(lamp)", b"9.9", b"v1.2.3-4-gabc123", b"none", b"sketch", b"spiffs", b"version",
            b"5C:CF:7F:00:11:22", b"3", b"100000", b"0", b"00", b"1", b"close", b"keep-alive", b"Close", b"TE, close",
            b"close,x", b"bytes=0-", b"bytes=1-2", b"*", b'"x"', b"100-continue", b"chunked", b"identity", b"",
        ]
    ),
    st.binary(max_size=12),
)  # fmt: skip

blanks = st.sampled_from([b"", b" ", b"\t", b" \t  "])

lines = st.one_of(
    st.tuples(names, st.just(b":"), blanks, values, blanks).map(b"".join),
    st.sampled_from([b"no colon", b" folded", b"Host : h", b": h", b"\x00: h"]),
)

paths = st.one_of(
    st.sampled_from(
        [
            b"/firmware", b"/beta/firmware", b"/stable/firmware", b"/lamp", b"/firmware?x=1", b"/firmware?/lamp",
            b"//firmware", b"/firmware/", b"/firmware.bin", b"/firmware.version", b"/nothing", b"/", b"/-/ready",
            b"/%66irmware", b"/firmware%00", b"/beta//firmware", b"/beta%2Ffirmware", b"/firmware#x", b"/../firmware",
            b"/fan", b"/fan?chip=esp32", b"/fan?chip=ESP32-C3", b"/fan?chip=esp8266", b"/fan?chip=lamp",
            b"/fan?chip=%ff", b"/fan?chip=\xff", b"/fan.bin?chip=esp32", b"/fan.bin",
            b"/fan.version?chip=esp32c3", b"/lamp?chip=esp32", b"/lamp?chip=",
            b"http://h/fan?chip=esp32", b"http://h/firmware", b"HTTPS://h//lamp",
            b"/beta/../firmware", b"/firmware;x", b"/a/b/c/d",
        ]
    ),
    st.text("/abc.%-~", max_size=8).map(lambda text: b"/" + text.encode()),
)  # fmt: skip

requests = st.builds(
    lambda method, path, version, fields, end: (
        b"%s %s %s\r\n" % (method, path, version) + b"".join(b"%s\r\n" % field for field in fields) + end
    ),
    st.sampled_from([b"GET", b"HEAD", b"GET", b"HEAD", b"POST", b"get", b"OPTIONS"]),
    paths,
    st.sampled_from([b"HTTP/1.0", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.2", b"HTTP/1.1 "]),
    st.lists(lines, max_size=6),
    st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\r\n\r\n", b"\n", b""]),
)

plain_checks = st.builds(
    lambda method, path, version, value, fields: (
        b"%s %s %s\r\nx-ESP8266-version: %s\r\n" % (method, path, version, value)
        + b"".join(b"%s\r\n" % field for field in fields)
        + b"\r\n"
    ),
    st.sampled_from([b"GET", b"HEAD"]),
    st.sampled_from(
        [
            b"/firmware",
            b"/beta/firmware",
            b"/lamp",
            b"/firmware?x",
            b"/fan",
            b"/fan?chip=esp32",
            b"/fan?chip=ESP32-C3&x=1",
            b"/fan?chip=esp8266",
            b"/fan?chip=lamp",
            b"/fan?chip=%ff",
            b"/firmware?chip=",
        ]
    ),
    st.sampled_from([b"HTTP/1.0", b"HTTP/1.1"]),
    st.sampled_from([b"0.9", b"1.0", b"1.2.0", b"9.9", b"3.0.0(firmware)"]),
    st.lists(st.tuples(names, st.just(b": "), values).map(b"".join), max_size=3),
)


class SameBytesTests(SynchronousTestCase):
    """The quick path against Twisted's parser: nobody must be able to tell them apart."""

    def setUp(self) -> None:
        """Open a door to a folder."""
        self.door = MemoryDoor(self, FILES)

    def run_over(self, protocol: type[DeviceChannel], segments: Sequence[bytes]) -> tuple[Outcome, bool]:
        """Send segments over a new connection of a kind; return what came of it, and whether all was quick."""
        self.patch(self.door.site, "protocol", protocol)
        connection = Spy(self.door.site)
        connection.send(*segments)
        quick = connection.was_quick
        outcome = Outcome(connection.received, connection.transport.disconnecting)
        connection.lose()
        # Failures inside are the business of other tests; here only the bytes count.
        self.flushLoggedErrors()
        return outcome, quick

    def compare(self, segments: Sequence[bytes]) -> bool:
        """Compare both ways of answering, and return whether the quick one was taken."""
        outcome, quick = self.run_over(DeviceChannel, segments)
        expected, _ = self.run_over(StockChannel, segments)
        self.assertEqual((segments, outcome), (segments, expected))
        return quick

    @settings(deadline=None)
    @given(st.lists(st.one_of(plain_checks, requests), min_size=1, max_size=3))
    @example([PLAIN])
    @example([PLAIN, PLAIN.replace(b"1.2.0", b"1.1.0"), PLAIN])
    def test_requests(self, segments: list[bytes]) -> None:
        """Any requests, one in a segment, get the very same bytes."""
        self.compare(segments)

    @settings(deadline=None)
    @given(st.one_of(plain_checks, requests), st.integers(0, 400))
    def test_two_segments(self, request: bytes, cut: int) -> None:
        """A request that comes in two segments gets the very same bytes."""
        self.compare([part for part in (request[:cut], request[cut:]) if part])

    @settings(deadline=None)
    @given(plain_checks, plain_checks)
    def test_pipelined(self, first: bytes, second: bytes) -> None:
        """Two requests in one segment get the very same bytes."""
        self.compare([first + second])

    def test_quick_path_is_taken(self) -> None:
        """The comparison compares something: plain checks of many forms take the quick path."""
        taken = [
            self.compare([PLAIN.replace(b"/firmware", path).replace(b"1.2.0", version)])
            for path in (b"/firmware", b"/beta/firmware", b"/stable/firmware", b"/firmware?x=1")
            for version in (b"9.9", b"2.0.0(firmware)", b"v7")
        ]
        self.assertEqual(taken, [True] * 12)

    def test_chip_of_the_address(self) -> None:
        """Both ways read the chip that the query names, and the quick one is taken wherever the answer is 304."""
        for path, version, expected in (
            (b"/fan?chip=esp32", b"1.0.0", True),
            (b"/fan?chip=ESP32-C3", b"1.0.0", True),
            (b"/fan?x=1&chip=esp32", b"2.0.0", True),
            (b"/fan?chip=esp32s3", b"0.9", True),
            (b"/fan", b"0.9", True),
            (b"/lamp?chip=esp32", b"1.0", True),
            (b"/fan?chip=esp32", b"0.9", False),
            (b"/fan?chip=lamp", b"1.0.0", False),
            (b"/fan?chip=%ff", b"1.0.0", False),
            (b"/fan.bin?chip=esp32", b"1.0.0", False),
        ):
            check = PLAIN.replace(b"/firmware", path).replace(b"1.2.0", version).replace(b"ESP8266", b"ESP32")
            self.assertEqual((path, version, self.compare([check])), (path, version, expected))

    def test_more_fields_than_are_taken(self) -> None:
        """A request with more header fields than Twisted takes is refused in both ways."""
        self.compare([PLAIN.replace(b"Host: h\r\n", b"a:\r\n" * 600)])
