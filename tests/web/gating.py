"""A door in memory that asks for tokens or certificates, and what the tests of its gate have in common."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache

import trustme
from OpenSSL.crypto import FILETYPE_PEM, X509, load_certificate
from twisted.trial.unittest import SynchronousTestCase

from ota_server.fleet.policy import read_policy
from ota_server.web.site import DeviceSite
from tests.web.answers import Answer
from tests.web.memory import FillingTransport, MemoryConnection, MemoryDoor

FILES = {"lamp-1.0.0.bin": b"\0first", "lamp-1.2.0.bin": b"\0second", "beta/lamp-2.0.0.bin": b"\0beta"}
MAC = "5C:CF:7F:00:11:22"
OTHER = "24:6F:28:00:00:01"
FLEET = b"fleet-token-0123456789abcdefghij"
OWN = b"own-token-of-A-0123456789abcdefg"
THEIRS = b"own-token-of-B-0123456789abcdefg"
GROUP = b"group-token-0123456789abcdefghij"


def hash_of(token: bytes) -> str:
    """Return what stands in the policy for a token, in quotes."""
    return f'"sha256:{hashlib.sha256(token).hexdigest()}"'


POLICY = f"""
[access]
devices = "token"
token = {hash_of(FLEET)}
[devices."{MAC}"]
name = "kitchen"
hold = true
token = {hash_of(OWN)}
[devices."{OTHER}"]
token = {hash_of(THEIRS)}
[groups.g]
members = ["{MAC}", "CN=sensor-17"]
token = {hash_of(GROUP)}
"""
CERTIFICATES = f'[access]\ndevices = "certificate"\n[devices."{MAC}"]\nname = "kitchen"\nhold = true\n'


def bearer(token: bytes) -> bytes:
    """Return the header field that brings a token."""
    return b"Authorization: Bearer " + token


def basic(token: bytes, name: bytes = b"ota") -> bytes:
    """Return the header field of a password."""
    return b"Authorization: Basic " + base64.b64encode(name + b":" + token)


def esp8266(mac: str | None = MAC, version: str = "1.0.0") -> tuple[bytes, ...]:
    """Return what an ESP8266 tells."""
    told = () if mac is None else (f"x-ESP8266-STA-MAC: {mac}".encode(),)
    return (*told, f"x-ESP8266-version: {version}".encode())


def request(path: bytes, *fields: bytes, method: bytes = b"GET", version: bytes = b"HTTP/1.1") -> bytes:
    """Return the bytes of a request."""
    return b"\r\n".join((b"%s %s %s" % (method, path, version), b"Host: h", *fields, b"", b""))


@lru_cache
def make_certificate(name: str) -> X509:
    """Return a client certificate with this common name."""
    issued = trustme.CA().issue_cert("client", common_name=name)
    return load_certificate(FILETYPE_PEM, issued.cert_chain_pems[0].bytes())


class CertifiedTransport(FillingTransport):
    """A transport over which a client certificate came, or might have; it counts how often it is asked for it."""

    def __init__(self, certificate: X509 | None) -> None:
        super().__init__()
        self.asked = 0
        self._certificate = certificate

    def getPeerCertificate(self) -> X509 | None:
        """Return the certificate."""
        self.asked += 1
        return self._certificate


class GateCase(SynchronousTestCase):
    """A test with a door that asks for tokens."""

    def setUp(self) -> None:
        """Open it."""
        self.door = self.open(POLICY)

    def open(self, policy: str, *, asks_for_certificates: bool = False) -> MemoryDoor:
        """Return a door with a policy."""
        door = MemoryDoor(self, FILES, policy=policy)
        if asks_for_certificates:
            door.site = DeviceSite(door.site.resource, door.clock, asks_for_certificates=True)
        door.site.take_policy(read_policy(policy, "ota.toml"))
        return door

    def change(self, policy: str) -> None:
        """Put another policy in force."""
        assert self.door.keeper is not None
        read = read_policy(policy, "ota.toml")
        self.door.keeper.take_policy(read)
        self.door.site.take_policy(read)

    def connect(self, certificate: X509 | None) -> MemoryConnection:
        """Return a connection over which a certificate came, or none though it was asked for."""
        connection = MemoryConnection(self.door.site)
        connection.transport = CertifiedTransport(certificate)
        connection.channel.transport = connection.transport
        self.door._connections.append(connection)
        return connection

    def refused(self, answer: Answer, code: int, reason: str, *, again: bool = False) -> None:
        """Check that an answer is a refusal as it has to be; `again` says that it isn't the connection's first."""
        self.assertEqual((answer.code, answer.reason), (code, reason))
        self.assertEqual(answer.get(b"WWW-Authenticate"), b'Basic realm="ota"' if code == 401 else None)
        kept = reason == "token-needed" and not again
        self.assertEqual(answer.get(b"Connection"), None if kept else b"close")
        self.assertLess(len(answer.body), 32)
        self.assertLess(len(answer.head), 400)

    def settle(self) -> None:
        """Let all that was refused be forgotten."""
        self.door.clock.advance(300)
