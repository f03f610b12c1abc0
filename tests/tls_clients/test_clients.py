"""Tests with the TLS libraries of devices, at a real server with certificates of `ota-server make-cert`.

BearSSL is what an ESP8266 has, mbedTLS an ESP32, ESP-IDF and Zephyr; wolfSSL is used beside them.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import quoteStringArgument, serverFromString
from twisted.trial.unittest import SkipTest, TestCase

from ota_server.make_cert import CertificateFolder, make_clients, make_server
from ota_server.tls import making
from ota_server.tls.making import Kind
from tests.serving import ServedFolder
from tests.tls_clients import LIBRARIES, Fetched, compile_client, run_client

IMAGE = b"".join(hashlib.sha256(bytes([n % 256, n // 256])).digest() for n in range(4700))
"""About 150 kB that can't be compressed, and that show where a part of it is missing."""

RECORD_SIZES = (0, 512, 1024, 4096)
WHOLE_RECORD = 16384
OVERHEAD = 80
"""The most bytes that are in a record beside its fragment: the vector, hash and padding of AES-CBC with SHA-384."""

STATIC_RSA_CBC = {0x003D, 0x003C, 0x0035, 0x002F}
"""The suites of BearSSL's smallest profile, by their numbers (RFC 5246, appendix A.5)."""

ECDHE_ECDSA = {0xC009, 0xC00A, 0xC023, 0xC024, 0xC02B, 0xC02C, 0xC0AC, 0xC0AD, 0xCCA9}

MBEDTLS_FEATURE_UNAVAILABLE = "mbedtls:-7080"
"""MBEDTLS_ERR_SSL_FEATURE_UNAVAILABLE."""

JOINS_MESSAGES = (3, 6, 3)
"""The version of mbedTLS that first joins a handshake message that came in several records."""

PLAIN = "/firmware.bin"
"""The address of the image at which a device gets it however often it comes; at the other one a known device that
stays on no version would be left in peace after three times."""

HOSTS = ("localhost", "127.0.0.1")


@cache
def certificates() -> CertificateFolder:
    """Return a folder with the certificates of a server, and of the devices `p256` and `rsa`."""
    folder = CertificateFolder(Path(mkdtemp(dir=".")).absolute(), datetime.now(UTC))
    list(make_server(folder, HOSTS, None))
    for kind in Kind:
        list(make_clients(folder, [kind.value], kind, None))
    return folder


@cache
def roots(*kinds: Kind) -> Path:
    """Return a PEM file with the authorities of these kinds of keys."""
    folder = certificates()
    path = folder.path / f"{'-'.join(kind.value for kind in kinds)}.roots"
    path.write_bytes(b"".join((folder.server_authority / f"{kind.value}.pem").read_bytes() for kind in kinds))
    return path


class ClientCase(TestCase):
    """A server, and clients that fetch an image from it."""

    timeout = 60

    async def serve(self, *kinds: Kind, ask: bool = False, files: tuple[Path, Path] | None = None) -> None:
        """Serve the image with certificates of these kinds, or of `files`; with `ask` devices have to show theirs."""
        from twisted.internet import reactor

        folder = certificates()
        pairs = [files] if files else [(folder.certificate(kind), folder.certificate(kind, ".key")) for kind in kinds]
        string = "device-tls:0:interface=127.0.0.1"
        for number, (certificate, key) in zip(("", "2"), pairs, strict=False):
            string += f":cert{number}={_quote(certificate)}:key{number}={_quote(key)}"
        if ask:
            string += f":clientCA={_quote(folder.client_ca)}"
        served = ServedFolder(self, {"firmware-1.0.0.bin": IMAGE})
        self.port = await served.serve(serverFromString(reactor, string))

    port = 0

    async def fetch(self, library: str, *, trust: Path | None = None, host: str = "localhost", **more: Any) -> Fetched:
        """Fetch with a client of this library."""
        program = compile_client(library)
        if program is None:
            raise SkipTest(f"there is no C compiler (cc), or no {library} for it; in Debian: gcc lib{library}-dev")
        return await run_client(program, port=self.port, host=host, ca=trust or roots(*Kind), **more)

    async def check_long_message(self, fetched: Fetched) -> None:
        """Look whether mbedTLS failed, as it does where a message is longer than a record; newer ones must not."""
        about = await self.fetch("mbedtls", about=1)
        if tuple(map(int, about.body.split(b"."))) >= JOINS_MESSAGES:
            self.check(fetched)
        else:
            self.assertEqual((fetched.body, fetched.error), (b"", MBEDTLS_FEATURE_UNAVAILABLE))

    def check(self, fetched: Fetched, times: int = 1) -> None:
        """Compare what was fetched with the image."""
        self.assertIsNone(fetched.error)
        self.assertEqual(hashlib.sha256(fetched.body).digest(), hashlib.sha256(IMAGE * times).digest())
        self.assertEqual(len(fetched.seen), times)

    def check_record_size(self, fetched: Fetched, size: int, *, told: bool = True) -> None:
        """Look whether records are as large as was asked for, and the server told that they will be."""
        (seen,) = fetched.seen
        self.assertEqual(seen.fragment, size if told else 0)
        limit = size or WHOLE_RECORD
        # They are as large as allowed, too: small ones for all would cost everybody.
        self.assertTrue(limit < seen.largest <= limit + OVERHEAD, seen)


def _quote(path: Path) -> str:
    quoted: str = quoteStringArgument(str(path))
    return quoted


class RecordSizeTests(ClientCase):
    """Each library fetches the image with each size of records, from each certificate."""

    async def fetch_all_sizes(self, library: str, kind: Kind, sizes: tuple[int, ...], **more: Any) -> list[Fetched]:
        """Fetch with each size of records at once, each time the image whole."""
        await self.serve(kind)
        wanted = [Deferred.fromCoroutine(self.fetch(library, trust=roots(kind), mfl=size, **more)) for size in sizes]
        fetched = await gatherResults(wanted, consumeErrors=True)
        for each in fetched:
            self.check(each)
        return list(fetched)

    async def check_sizes(self, library: str, kind: Kind, sizes: tuple[int, ...] = RECORD_SIZES) -> None:
        """Do so under TLS 1.2."""
        for size, fetched in zip(sizes, await self.fetch_all_sizes(library, kind, sizes), strict=True):
            self.assertEqual(fetched.seen[0].version, 0x0303)
            self.check_record_size(fetched, size)

    async def test_bearssl_p256(self) -> None:
        """BearSSL, P-256."""
        await self.check_sizes("bearssl", Kind.P256)

    async def test_bearssl_rsa(self) -> None:
        """BearSSL, RSA."""
        await self.check_sizes("bearssl", Kind.RSA)

    async def test_mbedtls_p256(self) -> None:
        """With mbedTLS, P-256, for which the certificate has to fit into the smallest record."""
        await self.check_sizes("mbedtls", Kind.P256)

    async def test_mbedtls_rsa(self) -> None:
        """With mbedTLS, RSA: 512 bytes fail, see below."""
        await self.check_sizes("mbedtls", Kind.RSA, (0, 1024, 4096))

    async def test_mbedtls_rsa_512(self) -> None:
        """A handshake message that comes in several records is too much for mbedTLS before 3.6.3."""
        await self.serve(Kind.RSA)
        await self.check_long_message(await self.fetch("mbedtls", trust=roots(Kind.RSA), mfl=512))

    async def test_wolfssl_p256(self) -> None:
        """With wolfSSL, P-256."""
        await self.check_sizes("wolfssl", Kind.P256)

    async def test_wolfssl_rsa(self) -> None:
        """With wolfSSL, RSA."""
        await self.check_sizes("wolfssl", Kind.RSA)

    async def test_tls_1_3(self) -> None:
        """So they are under TLS 1.3, where the server tells of it behind the encryption."""
        for size, fetched in zip(
            RECORD_SIZES, await self.fetch_all_sizes("wolfssl", Kind.P256, RECORD_SIZES, profile="1.3"), strict=True
        ):
            self.assertEqual(fetched.seen[0].version, 0x0304)
            self.check_record_size(fetched, size, told=False)


class ChoiceTests(ClientCase):
    """A server with two certificates."""

    async def test_both(self) -> None:
        """A client that can check either is shown the one with the elliptic curve, which is quicker."""
        await self.serve(*Kind)
        for library in LIBRARIES:
            fetched = await self.fetch(library)
            self.check(fetched)
            self.assertIn(fetched.seen[0].suite, ECDHE_ECDSA)

    async def test_smallest_profile(self) -> None:
        """A sketch with BEARSSL_SSL_BASIC knows neither curves nor forward secrecy, and is shown the RSA one."""
        await self.serve(*Kind)
        for size in RECORD_SIZES:
            fetched = await self.fetch("bearssl", profile="basic", trust=roots(Kind.RSA), mfl=size)
            self.check(fetched)
            self.assertIn(fetched.seen[0].suite, STATIC_RSA_CBC)
            self.check_record_size(fetched, size)

    async def test_smallest_profile_without_rsa(self) -> None:
        """Such a sketch can't talk to a server that has no RSA certificate."""
        await self.serve(Kind.P256)
        fetched = await self.fetch("bearssl", profile="basic", trust=roots(Kind.RSA))
        self.assertEqual((fetched.body, fetched.error), (b"", "bearssl:128"))  # the alert handshake_failure, 40, + 256


class TrustTests(ClientCase):
    """The clients do check whom they talk to, so that the other tests mean something."""

    async def test_foreign_authority(self) -> None:
        """A certificate of an authority that isn't trusted is refused."""
        await self.serve(Kind.P256)
        for library in LIBRARIES:
            fetched = await self.fetch(library, trust=roots(Kind.RSA))
            self.assertEqual(fetched.body, b"")
            self.assertIsNotNone(fetched.error)

    async def test_foreign_host(self) -> None:
        """So is one for another host."""
        await self.serve(*Kind)
        for library in LIBRARIES:
            fetched = await self.fetch(library, host="example.org")
            self.assertEqual(fetched.body, b"")
            self.assertIsNotNone(fetched.error)

    async def test_address(self) -> None:
        """A client that was given the server's IP address finds it in the certificate."""
        await self.serve(*Kind)
        for library in LIBRARIES:
            self.check(await self.fetch(library, host="127.0.0.1"))

    async def test_address_as_address_only(self) -> None:
        """BearSSL and mbedTLS don't, where it isn't a DNS name too: why `make-cert` makes it one."""
        folder = CertificateFolder(Path(self.mktemp()).absolute(), datetime.now(UTC))
        list(make_server(folder, ["127.0.0.1"], None))
        authority, file = folder.load_server_authorities()[Kind.P256], folder.certificate(Kind.P256)
        key = making.decode_key(file.with_suffix(".key").read_bytes())
        usage, purpose = making._key_usage(digital_signature=True), ExtendedKeyUsageOID.SERVER_AUTH
        leaf = making._leaf(authority, key.public_key(), "127.0.0.1", usage, purpose, folder.now, 1)
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        signed = leaf.add_extension(names, critical=False).sign(authority.key, hashes.SHA256())
        file.write_bytes(making.encode_certificate(signed))
        await self.serve(files=(file, file.with_suffix(".key")))
        errors = {}
        for library in LIBRARIES:
            trust = folder.server_authority / "p256.pem"
            errors[library] = (await self.fetch(library, host="127.0.0.1", trust=trust)).error
        # BR_ERR_X509_BAD_SERVER_NAME and MBEDTLS_ERR_X509_CERT_VERIFY_FAILED
        self.assertEqual(errors, {"bearssl": "bearssl:38", "mbedtls": "mbedtls:-2700", "wolfssl": None})

    async def test_far_future(self) -> None:
        """A certificate that ends after 2049, whose year has four digits, is read by all."""
        self.patch(making, "AUTHORITY_LIFE", timedelta(days=365 * 40))
        folder = CertificateFolder(Path(self.mktemp()).absolute(), datetime.now(UTC))
        list(make_server(folder, HOSTS, 365 * 35))
        await self.serve(files=(folder.certificate(Kind.P256), folder.certificate(Kind.P256, ".key")))
        for library in LIBRARIES:
            self.check(await self.fetch(library, trust=folder.server_authority / "p256.pem"))


class ResumptionTests(ClientCase):
    """Connections that go on with the session of the one before, which spares a device seconds."""

    async def check_resumed(self, library: str, **more: Any) -> None:
        """Fetch three times: one full handshake, and two short ones, for each kind of certificate."""
        await self.serve(*Kind)
        for kind in Kind:
            profile: dict[str, Any] = {"profile": "basic"} if (library, kind) == ("bearssl", Kind.RSA) else {}
            fetched = await self.fetch(library, times=3, **profile, **more)
            self.check(fetched, 3)
            self.assertEqual([seen.resumed for seen in fetched.seen], [False, True, True])

    async def test_bearssl(self) -> None:
        """BearSSL knows session ids only."""
        await self.check_resumed("bearssl")

    async def test_bearssl_in_small_records(self) -> None:
        """A session is resumed with small records, as it began."""
        await self.check_resumed("bearssl", mfl=512)

    async def test_mbedtls_by_ticket(self) -> None:
        """With mbedTLS, by ticket (RFC 5077)."""
        await self.check_resumed("mbedtls", tickets=1)

    async def test_mbedtls_by_id(self) -> None:
        """With mbedTLS, by session id."""
        await self.check_resumed("mbedtls", tickets=0)

    async def test_wolfssl(self) -> None:
        """With wolfSSL."""
        await self.check_resumed("wolfssl")

    async def test_tls_1_3(self) -> None:
        """Under TLS 1.3 (RFC 8446, section 2.2)."""
        await self.check_resumed("wolfssl", profile="1.3")


class ClientCertificateTests(ClientCase):
    """Devices that prove who they are."""

    async def test_shown(self) -> None:
        """A certificate with a key of either kind lets a device in, with each library."""
        await self.serve(*Kind, ask=True)
        clients = certificates().clients
        for library in LIBRARIES:
            for kind in Kind:
                own: dict[str, Any] = {"cert": clients / f"{kind.value}.pem", "key": clients / f"{kind.value}.key"}
                self.check(await self.fetch(library, path=PLAIN, **own))

    async def test_shown_again(self) -> None:
        """A session is resumed without it, and with the proof that was given."""
        await self.serve(*Kind, ask=True)
        own: dict[str, Any] = {"cert": certificates().clients / "p256.pem", "key": certificates().clients / "p256.key"}
        for library in LIBRARIES:
            fetched = await self.fetch(library, path=PLAIN, times=3, **own)
            self.check(fetched, 3)
            self.assertEqual([seen.resumed for seen in fetched.seen], [False, True, True])

    async def test_mbedtls_512(self) -> None:
        """The fault of mbedTLS once more: a ticket holds the device's certificate, and is larger than 512 bytes.

        Without tickets all is well.
        """
        await self.serve(*Kind, ask=True)
        own: dict[str, Any] = {"cert": certificates().clients / "p256.pem", "key": certificates().clients / "p256.key"}
        await self.check_long_message(await self.fetch("mbedtls", path=PLAIN, mfl=512, tickets=1, **own))
        fetched = await self.fetch("mbedtls", path=PLAIN, mfl=512, tickets=0, times=2, **own)
        self.check(fetched, 2)
        self.assertEqual([seen.resumed for seen in fetched.seen], [False, True])

    async def test_mbedtls_1024(self) -> None:
        """With records of 1024 bytes there is room for either."""
        await self.serve(*Kind, ask=True)
        for kind in Kind:
            own: dict[str, Any] = {
                name: certificates().clients / f"{kind.value}.{end}" for name, end in (("cert", "pem"), ("key", "key"))
            }
            fetched = await self.fetch("mbedtls", path=PLAIN, mfl=1024, times=2, **own)
            self.check(fetched, 2)
            self.assertEqual([seen.resumed for seen in fetched.seen], [False, True], kind)

    async def test_small_records(self) -> None:
        """The other libraries take them with certificates on both sides."""
        await self.serve(*Kind, ask=True)
        own: dict[str, Any] = {"cert": certificates().clients / "rsa.pem", "key": certificates().clients / "rsa.key"}
        for library in ("bearssl", "wolfssl"):
            fetched = await self.fetch(library, path=PLAIN, mfl=512, **own)
            self.check(fetched)
            self.check_record_size(fetched, 512)

    async def test_missing(self) -> None:
        """Nobody comes in without one."""
        await self.serve(*Kind, ask=True)
        for library in LIBRARIES:
            fetched = await self.fetch(library)
            self.assertEqual(fetched.body, b"")
            self.assertIsNotNone(fetched.error)
