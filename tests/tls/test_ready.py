"""Tests of `/-/ready`, which also tells when a certificate ends soon."""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from ota_server.signals import reload_all
from ota_server.tls.endpoint import DeviceTlsEndpoint, innermost
from tests.certificates import DAY, Authority
from tests.serving import ServedFolder


def ask_whether_ready(port: int, before: bytes = b"") -> str:
    """Ask /-/ready over TLS with blocking calls, whatever the certificate, with bytes before; return the body."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain) as connection:
        connection.sendall(before + b"GET /-/ready HTTP/1.0\r\n\r\n")
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 OK\r\n"), head
    return body.decode()


class ReadyTests(TestCase):
    """Over real TLS."""

    async def serve(self, days: float, before: str = "") -> int:
        """Serve with a certificate that ends in so many days, at an endpoint before ours; return the port."""
        self.both = both = Path(self.mktemp())
        both.write_bytes(Authority.root("home").issue("ota.test", ends=time.time() + days * DAY).both)
        endpoint = serverFromString(reactor, f"{before}device-tls:0:interface=127.0.0.1:cert={both}")
        assert isinstance(innermost(endpoint), DeviceTlsEndpoint)
        return await ServedFolder(self, {}).serve(endpoint)

    async def test_trouble(self) -> None:
        """A renewed file that can't be used is spoken of, without its name, until it is good again."""
        port = await self.serve(40)
        good = self.both.read_bytes()
        self.both.write_bytes(b"nonsense")
        reload_all()
        while (told := await deferToThread(ask_whether_ready, port)) == "ready\n":
            await deferLater(reactor, 0.01)
        self.assertEqual(told, "ready\na renewed certificate can't be used; the log says why\n")
        self.both.write_bytes(good)
        reload_all()
        while (told := await deferToThread(ask_whether_ready, port)) != "ready\n":
            await deferLater(reactor, 0.01)

    async def test_far(self) -> None:
        """A certificate that lives for long is not spoken of."""
        port = await self.serve(40)
        self.assertEqual(await deferToThread(ask_whether_ready, port), "ready\n")

    async def test_near(self) -> None:
        """One that ends within 30 days is named, without its file."""
        port = await self.serve(10)
        told = await deferToThread(ask_whether_ready, port)
        self.assertEqual(told, "ready\nthe certificate of ota.test ends in 10 days\n")

    async def test_within_another(self) -> None:
        """Nor is it overlooked behind the PROXY protocol within TLS."""
        port = await self.serve(10, "haproxy:")
        told = await deferToThread(ask_whether_ready, port, b"PROXY TCP4 192.0.2.9 192.0.2.1 50000 443\r\n")
        self.assertEqual(told, "ready\nthe certificate of ota.test ends in 10 days\n")

    async def test_ended(self) -> None:
        """One that has ended is named, too; what speaks plain HTTP is served on, so that the server stays ready."""
        port = await self.serve(-1)
        told = await deferToThread(ask_whether_ready, port)
        self.assertEqual(told, "ready\nthe certificate of ota.test has ended\n")
