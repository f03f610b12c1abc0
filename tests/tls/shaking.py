"""TLS in memory: Python's own client against the server's side, without sockets."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from ota_server.tls.context import CACHE_SIZE
from ota_server.tls.creator import DeviceTls, TlsFiles
from tests.certificates import Issued

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


class RefusedError(Exception):
    """The server ended the handshake; what OpenSSL gives as its reason."""


def shake(
    tls: DeviceTls, client: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLObject, SSL.Connection]:
    """Shake hands, and let the client take in the tickets that follow; return both sides. Raises RefusedError."""
    protocol: Any = None
    server = tls.serverConnectionForTLS(protocol)
    server.set_accept_state()
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    side = client.wrap_bio(to_client, to_server, server_hostname="ota.example", session=session)
    client_done = server_done = False
    for _ in range(10):
        try:
            side.do_handshake()
            client_done = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            raise RefusedError(error.reason) from None
        if sent := to_server.read():
            server.bio_write(sent)
        try:
            server.do_handshake()
            server_done = True
        except SSL.WantReadError:
            pass
        except SSL.Error as error:
            raise RefusedError(error.args[0][-1][-1]) from None
        try:
            to_client.write(server.bio_read(1_000_000))
        except SSL.WantReadError:
            if client_done and server_done:
                break
    if not (client_done and server_done):
        raise RefusedError("no end")
    # As after an answer: a session without a word of farewell isn't kept.
    server.shutdown()
    try:
        side.read()
    except ssl.SSLWantReadError:
        return side, server
    raise AssertionError("the server said something")


def make_client(
    authority: bytes, version: ssl.TLSVersion | None = None, *, suites: str = "", tickets: bool = True
) -> ssl.SSLContext:
    """Return what a client needs that trusts an authority; by default it knows all versions and suites."""
    client = ssl.create_default_context(cadata=authority.decode())
    if version is not None:
        client.minimum_version = client.maximum_version = version
    if suites:
        client.set_ciphers(suites)
    if not tickets:
        client.options |= ssl.OP_NO_TICKET
    return client


class ShakingCase(SynchronousTestCase):
    """A test that makes the server's side of TLS from certificates."""

    def write(self, content: bytes) -> Path:
        """Write a file."""
        path = Path(self.mktemp()).absolute()
        path.write_bytes(content)
        return path

    def serve(
        self, *issued: Issued, clients: bytes | None = None, optional: bool = False, sessions: int = CACHE_SIZE
    ) -> DeviceTls:
        """Make the server's side; with `clients` their certificates are asked for."""
        credentials = tuple((self.write(each.both), None) for each in issued)
        authorities = None if clients is None else self.write(clients)
        return DeviceTls(TlsFiles(credentials, authorities, optional), sessions)

    def refusal(self, tls: DeviceTls, client: ssl.SSLContext) -> str:
        """Return why the server refuses a client."""
        return str(self.assertRaises(RefusedError, shake, tls, client))

    def show(self, client: ssl.SSLContext, issued: Issued) -> ssl.SSLContext:
        """Let a client prove itself by a certificate."""
        client.load_cert_chain(self.write(issued.both))
        return client
