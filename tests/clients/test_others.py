"""Clients on a computer or with an operating system: esp-web-tools in a browser, and MicroPython."""

from __future__ import annotations

import re

from twisted.trial.unittest import TestCase

from tests.images import esp32_image
from tests.web.answers import is_whole, read_answer
from tests.web.door import Door


class WebToolsTests(TestCase):
    """esp-web-tools: the browser fetches the images of an installation from the page's own server."""

    def head(self, port: int, path: bytes, extra: bytes = b"") -> bytes:
        """Return what a browser sends for `fetch(path)`."""
        return (
            b"GET %s HTTP/1.1\r\nHost: localhost:%d\r\nConnection: keep-alive\r\n"
            b'sec-ch-ua-platform: "Linux"\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 '
            b"(KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36\r\nAccept: */*\r\nSec-Fetch-Site: same-origin\r\n"
            b"Sec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\nReferer: http://localhost:%d/\r\n"
            b"Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n"
            b"Cookie: a=1; b=2\r\n%s\r\n" % (path, port, port, extra)
        )

    async def test_image(self) -> None:
        """The image comes as it is, unpacked; asked again, the browser is told that it has it."""
        image = esp32_image("esp32", "1.1.0", size=150000)
        door = Door(self, {"firmware-1.1.0.bin": image})
        await door.open()
        connection = await door.connect()
        connection.send(self.head(door.port, b"/firmware-1.1.0.bin"))
        answer, _ = read_answer(await connection.until(is_whole))
        self.assertEqual((answer.code, answer.body), (200, image))
        self.assertIsNone(answer.get(b"Content-Encoding"))
        self.assertEqual(answer.get(b"Content-Type"), b"application/octet-stream")
        # It is kept under this address only with the server's word that it still is so.
        self.assertEqual(answer.get(b"Cache-Control"), b"no-cache")
        tag = answer.get(b"ETag")
        assert tag is not None
        before = len(connection.received)
        connection.send(self.head(door.port, b"/firmware-1.1.0.bin", b"If-None-Match: %s\r\n" % tag))
        data = await connection.until(lambda data: is_whole(data[before:]))
        again, rest = read_answer(data[before:])
        self.assertEqual((again.code, again.body, again.get(b"ETag"), rest), (304, b"", tag, b""))
        connection.close()


class MicroPythonTests(TestCase):
    """MicroPython's `urequests`: HTTP/1.0, and an exception at anything chunked."""

    async def get(self, door: Door, path: str) -> bytes:
        """Fetch an address as `urequests.get` does, and return what `.text` or `.content` is."""
        request = f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{door.port}\r\n\r\n"
        answer = await door.ask(request.encode())
        status, _, rest = answer.partition(b"\r\n")
        self.assertEqual(int(status.split(None, 2)[1]), 200)
        fields, _, body = rest.partition(b"\r\n\r\n")
        for line in fields.split(b"\r\n"):
            self.assertFalse(re.match(rb"Transfer-Encoding:.*chunked", line), "ValueError: Unsupported")
            self.assertFalse(line.startswith(b"Location:"), "NotImplementedError: Redirects not yet supported")
        return body

    async def test_version_text(self) -> None:
        """The text is the version and no more; a newer file changes it, and the file is beside it."""
        door = Door(self, {"sensor-1.4.0.bin": b"import machine\n"})
        await door.open()
        self.assertEqual((await self.get(door, "/sensor.version")).strip(), b"1.4.0")
        await door.publish("sensor-1.10.0.bin", b"import network\n")
        version = (await self.get(door, "/sensor.version")).strip().decode()
        self.assertEqual(version, "1.10.0")
        self.assertEqual(await self.get(door, f"/sensor-{version}.bin"), b"import network\n")
