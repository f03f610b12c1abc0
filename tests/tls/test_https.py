"""Tests of HTTPS: what clients see over real sockets."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from ota_server.tls.creator import TlsFiles
from ota_server.tls.endpoint import make_endpoint
from tests.certificates import make_authority, make_pem
from tests.serving import ServedFolder


def fetch(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> tuple[bytes, ssl.SSLSocket]:
    """Ask for /firmware over TLS with blocking calls; return the whole answer and the closed connection."""
    with socket.create_connection(("127.0.0.1", port)) as plain:
        connection = context.wrap_socket(plain, server_hostname="localhost", session=session)
        connection.sendall(b"GET /firmware HTTP/1.0\r\nx-ESP8266-version: 1.0\r\n\r\n")
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer, connection


class HttpsTests(TestCase):
    """Real TLS over real sockets."""

    def setUp(self) -> Deferred[None]:  # type: ignore[override]
        """Serve an image over HTTPS."""
        from twisted.internet import reactor

        pem = Path(self.mktemp())
        pem.write_bytes(make_pem("localhost"))
        served = ServedFolder(self, {"firmware-1.2.3.bin": bytes(range(256)) * 1024})
        plain = serverFromString(reactor, "tcp:0:interface=127.0.0.1")
        port = Deferred.fromCoroutine(served.serve(make_endpoint(reactor, TlsFiles(((pem, None),)), plain)))
        return port.addCallback(lambda number: setattr(self, "port", number))

    port = 0

    def context(self, version: ssl.TLSVersion) -> ssl.SSLContext:
        """Return what a client needs that trusts the test's authority, and speaks one version of TLS."""
        context = ssl.create_default_context()
        make_authority().configure_trust(context)
        context.minimum_version = context.maximum_version = version
        return context

    async def test_download(self) -> None:
        """An image comes whole over TLS 1.2 and 1.3, behind a chain that leads to the authority."""
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            answer, _ = await deferToThread(fetch, self.port, self.context(version))
            head, _, body = answer.partition(b"\r\n\r\n")
            self.assertTrue(head.startswith(b"HTTP/1.0 200 OK\r\n"))
            self.assertEqual(body, bytes(range(256)) * 1024)

    async def test_resumption(self) -> None:
        """A second connection resumes the session of the first, which spares a small device seconds."""
        context = self.context(ssl.TLSVersion.TLSv1_2)
        _, first = await deferToThread(fetch, self.port, context)
        _, second = await deferToThread(fetch, self.port, context, first.session)
        self.assertEqual((first.session_reused, second.session_reused), (False, True))

    async def test_resumption_by_id(self) -> None:
        """A client without tickets, as BearSSL is, resumes by session id."""
        context = self.context(ssl.TLSVersion.TLSv1_2)
        context.options |= ssl.OP_NO_TICKET
        _, first = await deferToThread(fetch, self.port, context)
        _, second = await deferToThread(fetch, self.port, context, first.session)
        self.assertEqual((first.session_reused, second.session_reused), (False, True))

    async def test_probe_for_small_records(self) -> None:
        """BearSSL's probe for small records gets a ServerHello alone in its record, with the extension echoed."""
        answer = await deferToThread(probe, self.port)
        kind, length = answer[0], int.from_bytes(answer[3:5], "big")
        hello = answer[5 : 5 + length]
        self.assertEqual((kind, hello[0], int.from_bytes(hello[1:4], "big")), (22, 2, length - 4))
        self.assertIn(MAX_FRAGMENT_512, hello)


MAX_FRAGMENT_512 = bytes.fromhex("0001 0001 01")
"""The extension max_fragment_length with the value for 512 bytes."""


def probe(port: int) -> bytes:
    """Ask for records of 512 bytes as BearSSL's probe does, with a ClientHello made by hand; return the answer.

    RFC 6066, section 4. An ESP8266 finds out so whether it can save itself 16 kB of memory.
    """
    suites = bytes.fromhex("c02b c02f c009 c013 009c 003c 002f")
    groups, formats = bytes.fromhex("000a 0004 0002 0017"), bytes.fromhex("000b 0002 01 00")
    signatures = bytes.fromhex("000d 0008 0006 0403 0401 0201")
    extensions = MAX_FRAGMENT_512 + groups + formats + signatures
    body = bytes.fromhex("0303") + bytes(32) + b"\x00" + len(suites).to_bytes(2, "big") + suites + bytes.fromhex("0100")
    body += len(extensions).to_bytes(2, "big") + extensions
    hello = b"\x01" + len(body).to_bytes(3, "big") + body
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(bytes.fromhex("160301") + len(hello).to_bytes(2, "big") + hello)
        answer = b""
        while len(answer) < 5 or len(answer) < 5 + int.from_bytes(answer[3:5], "big"):
            piece = connection.recv(4096)
            if not piece:
                break
            answer += piece
        connection.sendall(bytes.fromhex("1503030002025a15030300020100"))
        return answer
