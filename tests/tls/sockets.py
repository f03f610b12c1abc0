"""TLS over real sockets: ports in the reactor that runs the tests, and clients with blocking calls for threads."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import reactor as global_reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from tests.certificates import Authority, Issued

PATIENCE = 30
"""How long a client waits for anything, in seconds."""

reactor: Any = global_reactor


class Mirror(Resource):
    """Answers with the client's address, and with the name by which it proved itself."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        """Answer."""
        transport: Any = request.transport
        certificate = transport.getPeerCertificate()
        name = certificate.get_subject().CN if certificate is not None else None
        address: Any = request.getClientAddress()
        return f"{address.host} {name}".encode()


class SocketCase(TestCase):
    """A test with an authority, and a folder for its files."""

    def setUp(self) -> None:
        """Make them."""
        self.root = Authority.root("Root")
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def put(self, name: str, issued: Issued) -> str:
        """Write key and chain into a file, in one step; return the keyword of an endpoint string that names it."""
        path = self.folder / f"{name}.pem"
        beside = self.folder / f".{name}.pem"
        beside.write_bytes(issued.both)
        beside.rename(path)
        return f"{name}={path}"

    async def listen(self, rest: str, prefix: str = "") -> int:
        """Listen at a port with the Mirror behind it, as the rest of a string `device-tls:` says; return the port."""
        return await self.listen_at(serverFromString(reactor, f"{prefix}device-tls:{rest}"))

    async def listen_at(self, endpoint: IStreamServerEndpoint) -> int:
        """Listen at an endpoint with the Mirror behind it; return the port."""
        listening: Any = await endpoint.listen(Site(Mirror()))
        self.addCleanup(listening.stopListening)
        port: int = listening.getHost().port
        return port

    def client(
        self, version: ssl.TLSVersion | None = None, *, tickets: bool = True, shows: Issued | None = None
    ) -> ssl.SSLContext:
        """Return what a client needs, which may show a certificate."""
        context = ssl.create_default_context(cadata=self.root.pem.decode())
        if version is not None:
            context.minimum_version = context.maximum_version = version
        if not tickets:
            context.options |= ssl.OP_NO_TICKET
        if shows is not None:
            path = self.folder / "device.pem"
            path.write_bytes(shows.both)
            context.load_cert_chain(path)
        return context


@attrs.frozen
class Answered:
    """What a client got: the body, its session, whether that was resumed, and the server's certificate (DER)."""

    body: bytes
    session: ssl.SSLSession | None
    resumed: bool
    certificate: bytes | None


def get(
    port: int,
    context: ssl.SSLContext,
    session: ssl.SSLSession | None = None,
    *,
    path: str = "/",
    source: str = "127.0.0.1",
    before: bytes = b"",
    inside: bytes = b"",
    farewell: bool = False,
    version: str = "1.1",
) -> Answered:
    """Ask for a path with blocking calls.

    The client ends the connection itself, with a `farewell` of TLS or without. `before` is sent before the
    handshake, `inside` right after it.
    """
    with socket.create_connection(("127.0.0.1", port), PATIENCE, (source, 0)) as plain:
        # The request follows the end of the handshake; it need not wait until that has arrived.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.sendall(before)
        with context.wrap_socket(plain, server_hostname="ota.example", session=session) as connection:
            connection.sendall(inside + f"GET {path} HTTP/{version}\r\nHost: ota.example\r\n\r\n".encode())
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += _receive(connection)
            head, _, body = answer.partition(b"\r\n\r\n")
            (length,) = (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
            while len(body) < length:
                body += _receive(connection)
            certificate = connection.getpeercert(binary_form=True)
            answered = Answered(body, connection.session, bool(connection.session_reused), certificate)
            if farewell:
                connection.unwrap()
            return answered


def _receive(connection: ssl.SSLSocket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise EOFError
    return data


def count_resumed(port: int, context: ssl.SSLContext, times: int, **how: Any) -> int:
    """Connect once, and then so many times with the newest session; return how many times it was resumed."""
    session = get(port, context, **how).session
    resumed = 0
    for _ in range(times):
        answered = get(port, context, session, **how)
        session = answered.session
        resumed += answered.resumed
    return resumed
