"""Tests of `device-tls:` over real sockets, with Python's TLS and with openssl's own client."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import ssl
import struct
import subprocess
import threading
from unittest import skipUnless

from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet.endpoints import serverFromString
from twisted.internet.threads import deferToThread
from twisted.logger import LogLevel, capturedLogs, formatEvent

from ota_server import signals
from ota_server.tap import Options
from tests.certificates import Authority, Issued, key_pem
from tests.serving import ServedFolder
from tests.tls.shaking import VERSIONS
from tests.tls.sockets import PATIENCE, SocketCase, count_resumed, get, reactor

TIMES = 10
LOCAL = "interface=127.0.0.1"


def der(issued: Issued) -> bytes:
    """Return a certificate as a client is sent it."""
    return issued.certificate.public_bytes(Encoding.DER)


class ResumptionTests(SocketCase):
    """Sessions, counted."""

    async def test_each_way(self) -> None:
        """All are resumed, by ticket, by id and under 1.3, whether the client bids farewell or just leaves."""
        port = await self.listen(f"0:{self.put('cert', self.root.issue('ota.example'))}:{LOCAL}")
        for version, tickets in ((VERSIONS[0], True), (VERSIONS[0], False), (VERSIONS[1], True)):
            for farewell in (True, False):
                context = self.client(version, tickets=tickets)
                resumed = await deferToThread(count_resumed, port, context, TIMES, farewell=farewell)
                self.assertEqual(resumed, TIMES, (version, tickets, farewell))

    async def test_many_sessions(self) -> None:
        """With several contexts, each address finds its sessions again by their ids."""
        port = await self.listen(f"0:{self.put('cert', self.root.issue('ota.example'))}:{LOCAL}:sessions=100000")
        context = self.client(VERSIONS[0], tickets=False)
        for number in range(1, 21):
            resumed = await deferToThread(count_resumed, port, context, 2, source=f"127.0.0.{number}")
            self.assertEqual(resumed, 2)

    async def test_client_certificates(self) -> None:
        """Who a device is, is known after resumption as well."""
        devices = Authority.root("Devices")
        authority = self.folder / "ca.pem"
        authority.write_bytes(devices.pem)
        cert = self.put("cert", self.root.issue("ota.example"))
        port = await self.listen(f"0:{cert}:clientCA={authority}:clientOptional=yes:{LOCAL}")
        for version in VERSIONS:
            context = self.client(version, shows=devices.issue("lamp-1", number=1))
            first = await deferToThread(get, port, context)
            second = await deferToThread(get, port, context, first.session)
            self.assertEqual((first.body, second.body), (b"127.0.0.1 lamp-1",) * 2)
            self.assertEqual((first.resumed, second.resumed), (False, True))
            answered = await deferToThread(get, port, self.client(version))
            self.assertEqual(answered.body, b"127.0.0.1 None")

    async def test_ssl_endpoints(self) -> None:
        """Ports of Twisted's own `ssl:`, given by --port, resume under both versions."""
        issued = self.root.issue("ota.example")
        (self.folder / "key").write_bytes(key_pem(issued.key))
        (self.folder / "chain").write_bytes(issued.full_chain)
        string = f"ssl:0:privateKey={self.folder / 'key'}:certKey={self.folder / 'chain'}:{LOCAL}"
        options = Options()
        options.parseOptions(["--dir", str(self.folder), "--port", string])
        ((_, endpoint),) = options["doors"]
        port = await self.listen_at(endpoint)
        for version in VERSIONS:
            for http in ("1.0", "1.1"):
                resumed = await deferToThread(count_resumed, port, self.client(version), TIMES, version=http)
                self.assertEqual(resumed, TIMES, (version, http))


class RenewalTests(SocketCase):
    """Certificates that change while devices are served."""

    async def test_during_a_download(self) -> None:
        """A download that is under way ends whole over its old connection; new ones see the new certificate."""
        image = bytes(range(256)) * (64 * 1024)
        served = ServedFolder(self, {"firmware-1.2.3.bin": image})
        old, new = (self.root.issue("ota.example", number=number) for number in (0, 1))
        string = f"device-tls:0:{self.put('cert', old)}:{LOCAL}"
        port = await served.serve(serverFromString(reactor, string))
        begun, renewed = threading.Event(), threading.Event()

        def download() -> tuple[bytes | None, bytes]:
            plain = socket.socket()
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            plain.settimeout(PATIENCE)
            plain.connect(("127.0.0.1", port))
            with self.client().wrap_socket(plain, server_hostname="ota.example") as connection:
                connection.sendall(b"GET /firmware.bin HTTP/1.0\r\n\r\n")
                answer = connection.recv(65536)
                begun.set()
                renewed.wait(PATIENCE)
                while piece := connection.recv(65536):
                    answer += piece
                return connection.getpeercert(binary_form=True), answer.partition(b"\r\n\r\n")[2]

        downloading = deferToThread(download)
        await deferToThread(begun.wait, PATIENCE)
        self.put("cert", new)
        signals.reload_all()
        seen = None
        while seen != der(new):
            seen = (await deferToThread(get, port, self.client(), path="/firmware.bin.md5")).certificate
            self.assertIn(seen, (der(old), der(new)))
        renewed.set()
        certificate, body = await downloading
        self.assertEqual((certificate, len(body)), (der(old), len(image)))
        self.assertEqual(body, image)

    async def test_sessions_start_anew(self) -> None:
        """A session of before the renewal is not resumed, and the device sees the new certificate."""
        old, new = (self.root.issue("ota.example", number=number) for number in (0, 1))
        port = await self.listen(f"0:{self.put('cert', old)}:{LOCAL}")
        context = self.client()
        answered = await deferToThread(get, port, context)
        self.put("cert", new)
        signals.reload_all()
        while answered.certificate != der(new):
            answered = await deferToThread(get, port, context, answered.session)
        self.assertFalse(answered.resumed)


class ProxyTests(SocketCase):
    """Behind a load balancer that tells the device's address by the PROXY protocol."""

    HEADER = b"PROXY TCP4 192.0.2.9 192.0.2.1 50000 443\r\n"

    async def test_before_the_handshake(self) -> None:
        """With endpoint=haproxy: the header comes before the handshake; who sends none is not served."""
        cert = self.put("cert", self.root.issue("ota.example"))
        port = await self.listen(f"{cert}:endpoint=haproxy\\:tcp\\:0\\:interface=127.0.0.1")
        for version in VERSIONS:
            answered = await deferToThread(get, port, self.client(version), before=self.HEADER)
            self.assertEqual(answered.body, b"192.0.2.9 None")
        resumed = await deferToThread(
            count_resumed, port, self.client(VERSIONS[0], tickets=False), 3, before=self.HEADER
        )
        self.assertEqual(resumed, 3)
        with self.assertRaises((ssl.SSLError, OSError)):
            await deferToThread(get, port, self.client())

    async def test_inside(self) -> None:
        """With haproxy: around it the header comes inside of TLS."""
        cert = self.put("cert", self.root.issue("ota.example"))
        port = await self.listen(f"0:{cert}:{LOCAL}", prefix="haproxy:")
        answered = await deferToThread(get, port, self.client(), inside=self.HEADER)
        self.assertTrue(answered.body.startswith(b"192.0.2.9"), answered.body)


OPENSSL = shutil.which("openssl")


@skipUnless(OPENSSL, "there is no openssl")
class OpensslTests(SocketCase):
    """What `openssl s_client` sees."""

    def s_client(self, port: int, *options: str, send: str = "") -> str:
        """Return what it prints."""
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "ota.example", *options]
        done = subprocess.run(
            command, input=send, capture_output=True, text=True, check=False, timeout=PATIENCE, cwd=self.folder
        )
        return done.stdout + done.stderr

    async def serve_both(self) -> int:
        """Listen with an ECDSA and an RSA certificate, each below an authority of its own."""
        ec, rsa = self.root.below("EC Middle"), self.root.below("RSA Middle", kind="RSA")
        certs = f"{self.put('cert', ec.issue('ota.example'))}:{self.put('cert2', rsa.issue('ota.example', 'RSA'))}"
        (self.folder / "root.pem").write_bytes(self.root.pem)
        return await self.listen(f"0:{certs}:{LOCAL}")

    async def test_chains(self) -> None:
        """Under both versions a client that knows one kind of signatures gets that certificate with its chain."""
        port = await self.serve_both()
        for version in ("-tls1_2", "-tls1_3"):
            for signatures, middle in (
                ("rsa_pss_rsae_sha256:RSA+SHA256", "RSA Middle"),
                ("ECDSA+SHA256", "EC Middle"),
                ("ECDSA+SHA256:rsa_pss_rsae_sha256:RSA+SHA256", "EC Middle"),
            ):
                options = (version, "-sigalgs", signatures, "-showcerts", "-CAfile", "root.pem")
                printed = await deferToThread(self.s_client, port, *options)
                subjects = re.findall(r"(?m)^ *\d+ s:CN = (.*)$", printed)
                self.assertEqual(subjects, ["ota.example", middle], (version, signatures))
                self.assertIn("Verify return code: 0 (ok)", printed)

    async def test_reconnecting(self) -> None:
        """Of its six connections, the first is new and five are reused: by ticket, and by id."""
        port = await self.serve_both()
        for options in ((), ("-no_ticket",)):
            printed = await deferToThread(self.s_client, port, "-tls1_2", "-reconnect", *options)
            counted = [printed.count(f"{word}, TLSv1.2") for word in ("New", "Reused")]
            self.assertEqual(counted, [1, 5], options)

    async def test_resumption_under_1_3(self) -> None:
        """A session kept in a file is reused."""
        port = await self.serve_both()
        request = "GET / HTTP/1.0\r\n\r\n"
        options = ("-tls1_3", "-ign_eof")
        await deferToThread(self.s_client, port, *options, "-sess_out", "session", send=request)
        printed = await deferToThread(self.s_client, port, *options, "-sess_in", "session", send=request)
        self.assertIn("Reused, TLSv1.3", printed)

    async def test_renegotiation(self) -> None:
        """A client that asks to shake hands again over its connection doesn't get that."""
        port = await self.serve_both()
        printed = await deferToThread(self.s_client, port, "-tls1_2", send="R\n")
        self.assertIn("no renegotiation", printed)


class OddClientTests(SocketCase):
    """Clients that never ask anything: the log stays quiet, and the server serves on."""

    def talk(self, port: int, data: bytes, *, reset: bool = False) -> bytes:
        """Send bytes, and return what comes until the server closes; or end the connection by a reset."""
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as plain:
            plain.sendall(data)
            if reset:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return b""
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while piece := plain.recv(65536):
                    answer += piece
            return answer

    async def test_nothing_is_logged(self) -> None:
        """Plain HTTP, noise, a hello of an ancient version, a reset and a client that distrusts the server."""
        port = await self.listen(f"0:{self.put('cert', self.root.issue('ota.example'))}:{LOCAL}")
        with capturedLogs() as events:
            for data in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 100, b"\x16\x03\x01\xff\xff" + b"\xff" * 100):
                answer = await deferToThread(self.talk, port, data)
                self.assertLess(len(answer), 100)
            for data in (b"", b"\x16\x03\x01"):
                await deferToThread(self.talk, port, data, reset=True)
            strict = ssl.create_default_context(cadata=Authority.root("Other").pem.decode())
            for version in VERSIONS:
                strict.minimum_version = ssl.TLSVersion.TLSv1_2
                strict.maximum_version = version
                with self.assertRaises(ssl.SSLCertVerificationError):
                    await deferToThread(get, port, strict)
            answered = await deferToThread(get, port, self.client())
        self.assertEqual(answered.body, b"127.0.0.1 None")
        self.assertEqual([formatEvent(event) for event in events if event["log_level"] > LogLevel.info], [])
