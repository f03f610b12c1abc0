"""Other clients on Arduino boards: arduino-pico, ArduinoHttpClient, ESPEasy and ESPurna."""

from __future__ import annotations

import hashlib
import random
import re

from twisted.trial.unittest import TestCase

from tests.clients import test_esp8266 as esp8266
from tests.clients.test_esp8266 import NO_UPDATES, OK, Outcome
from tests.images import esp8266_image
from tests.web.door import Connection, Door


class PicoTests(TestCase):
    """`HTTPUpdate` of arduino-pico, which knows no magic byte."""

    IMAGE = random.Random(2040).randbytes(30000)

    def head(self, port: int, version: str, *, early: bool) -> bytes:
        """Return a check of today's client, or of the first one, which lost a name between two dashes."""
        name, agent = ("--", "-http-Update") if early else ("-Pico-", "Pico-HTTP-Update")
        mode = "mode" if early else "Mode"
        version_name = "version" if early else "Version"
        lines = [
            "GET /firmware HTTP/1.0",
            f"Host: 127.0.0.1:{port}",
            f"User-Agent: {agent}",
            "Connection: close",
            f"x{name}Chip-ID: E66058388353A12C",
            f"x{name}STA-MAC: 28:CD:C1:00:00:01",
            f"x{name}AP-MAC: 28:CD:C1:00:00:01",
            f"x{name}{mode}: sketch",
            f"x{name}{version_name}: {version}",
        ]
        return "\r\n".join([*lines, "", ""]).encode()

    async def test_update(self) -> None:
        """A device with an older version gets the image made for its chip, and after it nothing more."""
        door = Door(self, {"firmware-1.1.0.bin": self.IMAGE, "firmware-1.1.0.esp8266.bin": b"another chip's"})
        await door.open()
        for early in (False, True):
            answer = await door.ask(self.head(door.port, "1.0.0", early=early))
            self.assertEqual(esp8266.judge(answer, mode="no magic"), Outcome(OK, self.IMAGE))
            answer = await door.ask(self.head(door.port, "1.1.0", early=early))
            self.assertEqual(esp8266.judge(answer, mode="no magic"), Outcome(NO_UPDATES))


class HttpClientTests(TestCase):
    """The update by ArduinoHttpClient: asks for the next version's file every few seconds."""

    async def poll(self, files: dict[str, bytes], version: int) -> bytes | None:
        """Ask for the version after the given one as the example sketch does; None for no update."""
        door = Door(self, files)
        await door.open()
        answer = await door.ask(
            b"GET /sketch-%d.0.bin HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: Arduino/2.2.0\r\n"
            b"Connection: close\r\n\r\n" % (version + 1, door.port)
        )
        head, _, body = answer.partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 "), head)
        found = re.search(rb"\r\nContent-Length: ([0-9]+)\r\n", head + b"\r\n")
        if int(head[9:12]) != 200 or found is None:
            return None
        self.assertEqual(len(body), int(found[1]))
        return body

    async def test_next_version(self) -> None:
        """The next version is found by the exact spelling of its length, and nothing is done before it is there."""
        image = random.Random(7).randbytes(5000)
        self.assertEqual(await self.poll({"sketch-2.0.bin": image}, 1), image)
        self.assertIsNone(await self.poll({"sketch-2.0.bin": image}, 2))


class EspEasyTests(TestCase):
    """ESPEasy: a plain GET of HTTP/1.1 that takes nothing but 200 with a length."""

    async def test_download(self) -> None:
        """The body has the announced length, and is the file."""
        image = esp8266_image(8192, seed=1)
        door = Door(self, {"ESP_Easy-20261101.1.bin": image})
        await door.open()
        connection = await door.connect()
        connection.send(
            b"GET /ESP_Easy-20261101.1.bin HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
            b"User-Agent: ESP Easy/20261101/Nov  1 2026 10:00:00\r\n"
            b"Accept-Encoding: identity;q=1,chunked;q=0.1,*;q=0\r\nConnection: keep-alive\r\n\r\n" % door.port
        )

        def complete(data: bytes) -> bool:
            head, _, body = data.partition(b"\r\n\r\n")
            found = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
            return found is not None and len(body) >= int(found[1])

        data = await connection.until(complete)
        connection.close()
        head, _, body = data.partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 200 "), head)
        self.assertNotIn(b"transfer-encoding", head.lower())
        self.assertEqual(body, image)


class EspurnaTests(TestCase):
    """ESPurna: ignores status and length, and flashes whatever came before the end of the connection."""

    SEGMENT = 1400
    """What one segment of its network holds, in bytes."""

    async def fetch(self, path: bytes, *, old: bool) -> bytes | None:
        """Return what the client would flash; None where it would flash nothing."""
        door = Door(self, {"espurna-1.15.0.bin": esp8266_image(8192, seed=1)})
        await door.open()
        fields = b"Host: 127.0.0.1\r\nUser-Agent: ESPurna\r\nConnection: close\r\n"
        end = b"\r\n"
        if old:
            fields += b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 0\r\n"
            end = b"\r\n\r\n"
        connection: Connection = await door.connect()
        connection.send(b"GET %s HTTP/1.1\r\n%s%s" % (path, fields, end))
        await connection.until_end()
        head, found, begin = connection.segments[0].partition(b"\r\n\r\n")
        self.assertTrue(found, "the head must come in one segment")
        self.assertLess(len(head), self.SEGMENT - 4)
        self.assertNotIn(b"chunked", head.lower())
        body = begin + b"".join(connection.segments[1:])
        return body if body[:1] == b"\xe9" else None

    async def test_download(self) -> None:
        """All of the image comes, and then the end of the connection; a stray line end after the request is borne."""
        for old in (False, True):
            body = await self.fetch(b"/espurna.bin", old=old)
            assert body is not None
            self.assertEqual(hashlib.md5(body).digest(), hashlib.md5(esp8266_image(8192, seed=1)).digest())

    async def test_error_is_not_flashed(self) -> None:
        """The body of an error never begins as an image does."""
        for path in (b"/nothing.bin", b"/espurna-9.9.9.bin", b"/"):
            self.assertIsNone(await self.fetch(path, old=False))
