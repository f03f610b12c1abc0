"""Tests of what a client certificate proves: of names, and of devices over real TLS."""

from __future__ import annotations

import socket
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID
from OpenSSL.crypto import X509
from twisted.internet import reactor
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from ota_server.fleet.policy import read_policy
from ota_server.tls.creator import TlsFiles
from ota_server.tls.endpoint import make_endpoint
from ota_server.tls.identity import read_subject
from tests.certificates import Authority, make_key
from tests.web.answers import Answer, is_whole, read_only_answer
from tests.web.door import Door

NOW = 1_795_435_200.0
MAC = "5C:CF:7F:00:11:22"


def make_certificate(*attributes: x509.NameAttribute[Any], ends: float = NOW + 1) -> X509:
    """Return a certificate whose subject has these attributes, and which ends at a time in seconds since 1970."""
    key = make_key()
    until = datetime.fromtimestamp(ends, UTC)
    made = x509.CertificateBuilder(
        issuer_name=x509.Name([]),
        subject_name=x509.Name(list(attributes)),
        public_key=key.public_key(),
        serial_number=1,
        not_valid_before=until - timedelta(days=1),
        not_valid_after=until,
    ).sign(key, hashes.SHA256())
    return X509.from_cryptography(made)


def named(text: str) -> x509.NameAttribute[str]:
    """Return a common name, whatever its length."""
    return x509.NameAttribute(NameOID.COMMON_NAME, text, _validate=False)


class SubjectTests(SynchronousTestCase):
    """`read_subject`."""

    def test_names(self) -> None:
        """A name that can be printed is read as it is."""
        for name in ("sensor-17", MAC, "15602487", "a b", "Küche", "CN=x", "x" * 64):
            self.assertEqual(read_subject(make_certificate(named(name)), NOW), name)

    def test_others(self) -> None:
        """Other parts of the subject don't count."""
        others = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "lamps"), x509.NameAttribute(NameOID.USER_ID, "7")]
        self.assertEqual(read_subject(make_certificate(others[0], named("x"), others[1]), NOW), "x")
        self.assertIsNone(read_subject(make_certificate(*others), NOW))
        self.assertIsNone(read_subject(make_certificate(), NOW))

    def test_unusable(self) -> None:
        """Names that are too long, empty, or can't be printed prove nothing, nor do two of them."""
        for names in (("x" * 65,), ("",), (" x",), ("x ",), ("a\0b",), ("a\nb",), ("\u202ex",), ("a", "b"), ("a", "a")):
            self.assertEqual((names, read_subject(make_certificate(*map(named, names)), NOW)), (names, None))
        # The library that reads the name warns of its length.
        self.flushWarnings()

    def test_ended(self) -> None:
        """A certificate that has ended since the handshake of its session proves nothing."""
        certificate = make_certificate(named("x"), ends=NOW)
        self.assertEqual(read_subject(certificate, NOW), "x")
        self.assertIsNone(read_subject(certificate, NOW + 1))


@attrs.frozen
class Exchange:
    """What came of some requests over one connection: the answers, whether the session was resumed, and the session."""

    answers: tuple[Answer, ...]
    resumed: bool
    session: ssl.SSLSession


def exchange(
    port: int, context: ssl.SSLContext, requests: int, session: ssl.SSLSession | None, fields: bytes
) -> Exchange:
    """Ask for /lamp so many times over one connection. Blocks; raises OSError, and EOFError where it ends early."""
    with socket.create_connection(("127.0.0.1", port), 10) as plain:
        connection = context.wrap_socket(plain, server_hostname="ota.example", session=session)
        answers = []
        for _ in range(requests):
            connection.sendall(b"GET /lamp HTTP/1.1\r\nHost: h\r\n%s\r\n" % fields)
            data = b""
            while not is_whole(data):
                piece = connection.recv(65536)
                if not piece:
                    raise EOFError(data)
                data += piece
            answers.append(read_only_answer(data))
        assert connection.session is not None
        return Exchange(tuple(answers), bool(connection.session_reused), connection.session)


class DeviceTests(TestCase):
    """Devices with, without, and with a stranger's certificate, at a port that asks for one."""

    timeout = 30
    POLICY = f'[devices."{MAC}"]\nname = "kitchen"\nhold = true\n[devices."CN=sensor-17"]\nhold = true\n'

    async def open(self, access: str, *, optional: bool) -> Door:
        """Open a port with this policy, where a device has to show a certificate, or may."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        self.root = Authority.root("the authority of the servers")
        self.clients = Authority.root("the authority of the devices")
        (folder / "server.pem").write_bytes(self.root.issue("ota.example").both)
        (folder / "devices.pem").write_bytes(self.clients.pem)
        (folder / "root.pem").write_bytes(self.root.pem)
        self.certificates = folder
        files = TlsFiles(((folder / "server.pem", None),), folder / "devices.pem", optional)

        def wrap(endpoint: IStreamServerEndpoint) -> IStreamServerEndpoint:
            asking = make_endpoint(reactor, files, endpoint)
            self.assertTrue(asking.asks_for_certificates)
            return asking

        door = Door(self, {"lamp-1.0.0.bin": b"\0an image"})
        door.site._asks_for_certificates = True
        policy = read_policy(access + self.POLICY, "ota.toml")
        door.decider.take_policy(policy)
        door.site.take_policy(policy)
        await door.open(wrap)
        return door

    def context(self, name: str | None, version: ssl.TLSVersion, authority: Authority | None = None) -> ssl.SSLContext:
        """Return what a device has: a certificate of this name, or none."""
        context = ssl.create_default_context(cafile=str(self.certificates / "root.pem"))
        context.minimum_version = context.maximum_version = version
        if name is not None:
            file = self.certificates / "device.pem"
            file.write_bytes((authority or self.clients).issue(name, number=1).both)
            context.load_cert_chain(file)
        return context

    async def ask(
        self, door: Door, context: ssl.SSLContext, session: ssl.SSLSession | None = None, told: str = ""
    ) -> Exchange:
        """Ask twice over one connection, or once where a MAC address is told, which may be a lie."""
        fields = b"x-ESP32-version: 0.9\r\n" + (f"x-ESP32-STA-MAC: {told}\r\n".encode() if told else b"")
        return await deferToThread(exchange, door.port, context, 2 if not told else 1, session, fields)

    def reasons(self, exchange: Exchange) -> set[str | None]:
        """Return the reasons of all answers."""
        return {answer.reason for answer in exchange.answers}

    async def test_with(self) -> None:
        """The certificate says who it is: by its MAC address, by its name in the policy, or by a name of its own."""
        door = await self.open('[access]\ndevices = "certificate"\n', optional=False)
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for name, reason in ((MAC.lower(), "held"), ("kitchen", "held"), ("sensor-17", "held"), ("x", "newer")):
                context = self.context(name, version)
                self.assertEqual((name, self.reasons(await self.ask(door, context))), (name, {reason}))
            lies = await self.ask(door, self.context("kitchen", version), told="24:6F:28:00:00:01")
            self.assertEqual([(answer.code, answer.reason) for answer in lies.answers], [(403, "wrong-device")])

    async def test_resumed(self) -> None:
        """A session that is resumed proves the same, by ticket and by id, though the certificate isn't sent again."""
        door = await self.open('[access]\ndevices = "certificate"\n', optional=True)
        for version, options in (
            (ssl.TLSVersion.TLSv1_2, 0),
            (ssl.TLSVersion.TLSv1_2, ssl.OP_NO_TICKET),
            (ssl.TLSVersion.TLSv1_3, 0),
        ):
            context = self.context("kitchen", version)
            context.options |= options
            first = await self.ask(door, context)
            second = await self.ask(door, context, first.session)
            self.assertEqual([first.resumed, second.resumed], [False, True])
            self.assertEqual((self.reasons(first), self.reasons(second)), ({"held"}, {"held"}))

    async def test_without(self) -> None:
        """Where one may be missing, a device without gets 403 if the policy asks for one, and else what it may."""
        for access, expected in (('[access]\ndevices = "certificate"\n', (403, "certificate-needed")),
                                 ("", (200, "newer"))):  # fmt: skip
            door = await self.open(access, optional=True)
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                came = await self.ask(door, self.context(None, version), told="24:6F:28:00:00:01")
                self.assertEqual([(answer.code, answer.reason) for answer in came.answers], [expected])

    async def test_stranger(self) -> None:
        """Who has none where one has to be, or one of another authority, never gets to HTTP."""
        for optional in (False, True):
            door = await self.open('[access]\ndevices = "certificate"\n', optional=optional)
            stranger = Authority.root("another authority")
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                for name in ("kitchen",) if optional else ("kitchen", None):
                    context = self.context(name, version, stranger)
                    with self.assertRaises((ssl.SSLError, ConnectionError, EOFError)):
                        await self.ask(door, context)

    async def test_ended(self) -> None:
        """A certificate that has ended isn't taken in the handshake."""
        door = await self.open('[access]\ndevices = "certificate"\n', optional=True)
        ended = self.clients.issue("kitchen", number=1, ends=time.time() - 60)
        context = self.context(None, ssl.TLSVersion.TLSv1_2)
        (self.certificates / "ended.pem").write_bytes(ended.both)
        context.load_cert_chain(self.certificates / "ended.pem")
        with self.assertRaises((ssl.SSLError, ConnectionError, EOFError)):
            await self.ask(door, context)
