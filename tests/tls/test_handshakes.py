"""Tests of handshakes: which versions, suites and certificates, and which clients are let in."""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
import warnings
from pathlib import Path
from typing import Any

from cryptography import x509
from OpenSSL import SSL

from ota_server.tls.certificates import CertificateError
from ota_server.tls.context import SUITES
from ota_server.tls.creator import DeviceTls
from tests.certificates import Authority, Issued
from tests.tls.shaking import VERSIONS, ShakingCase, make_client, shake

ROOT = Authority.root("Root")
EC_CA, RSA_CA = ROOT.below("EC Middle"), ROOT.below("RSA Middle", kind="RSA")
ECDSA, RSA = EC_CA.issue("ota.example"), RSA_CA.issue("ota.example", "RSA")
DEVICES = Authority.root("Devices")
FACTORY = DEVICES.below("Factory")


def seen(side: ssl.SSLObject) -> x509.Certificate:
    """Return the certificate that a client sees."""
    der = side.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


class NegotiationTests(ShakingCase):
    """What is agreed on."""

    def test_versions(self) -> None:
        """TLS 1.2 and 1.3 are spoken, nothing older."""
        tls = self.serve(ECDSA, RSA)
        for version, name in zip(VERSIONS, ("TLSv1.2", "TLSv1.3"), strict=True):
            self.assertEqual(shake(tls, make_client(ROOT.pem, version))[0].version(), name)
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                client = make_client(ROOT.pem, version, suites="ALL:@SECLEVEL=0")
            self.assertIn("unsupported protocol", self.refusal(tls, client))

    def test_each_suite(self) -> None:
        """Each suite of the list can be had, with the certificate that belongs to it."""
        tls = self.serve(ECDSA, RSA)
        for suite in SUITES:
            side, _ = shake(tls, make_client(ROOT.pem, ssl.TLSVersion.TLSv1_2, suites=suite))
            agreed = side.cipher()
            assert agreed is not None
            self.assertEqual(agreed[0], suite)
            self.assertEqual(seen(side), ECDSA.certificate if "ECDSA" in suite else RSA.certificate, suite)

    def test_nothing_else(self) -> None:
        """Suites without forward secrecy beyond those of small devices, and broken ones, are not to be had."""
        tls = self.serve(ECDSA, RSA)
        for suite in (
            "CAMELLIA128-SHA",
            "DHE-RSA-AES128-GCM-SHA256",
            "AECDH-AES128-SHA:@SECLEVEL=0",
            "NULL-SHA:@SECLEVEL=0",
        ):
            client = make_client(ROOT.pem, ssl.TLSVersion.TLSv1_2, suites=suite)
            self.assertIn("no shared cipher", self.refusal(tls, client))

    def test_order(self) -> None:
        """The server's order counts: the elliptic curve first, and AES before ChaCha20, unless the client says not."""
        tls = self.serve(RSA, ECDSA)
        for suites, agreed in (
            (":".join(reversed(SUITES)), "ECDHE-ECDSA-AES128-GCM-SHA256"),
            ("ECDHE-RSA-AES256-SHA:AES128-SHA:ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
            ("ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"),
        ):
            side, _ = shake(tls, make_client(ROOT.pem, ssl.TLSVersion.TLSv1_2, suites=suites))
            self.assertEqual((side.cipher() or ("",))[0], agreed)

    def test_one_certificate(self) -> None:
        """With one certificate, a client that knows only the other kind is refused, and anyone else is served."""
        for issued, other in ((ECDSA, "aRSA"), (RSA, "aECDSA")):
            tls = self.serve(issued)
            self.assertEqual(seen(shake(tls, make_client(ROOT.pem))[0]), issued.certificate)
            client = make_client(ROOT.pem, ssl.TLSVersion.TLSv1_2, suites=other)
            self.assertIn("no shared cipher", self.refusal(tls, client))

    def test_no_folder_to_write_to(self) -> None:
        """Nothing is written for OpenSSL where the system can do without: a container may be read-only."""
        self.patch(tempfile, "tempdir", "/nowhere")
        self.assertEqual(len(sent_chain(self.serve(ECDSA), b"ALL")), 2)

    def test_no_files_in_memory(self) -> None:
        """Systems without files in memory get along with temporary ones, of which none stays."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        self.patch(tempfile, "tempdir", str(folder))
        if hasattr(os, "memfd_create"):
            self.addCleanup(setattr, os, "memfd_create", os.memfd_create)
            del os.memfd_create
        self.assertEqual(len(sent_chain(self.serve(ECDSA), b"ALL")), 2)
        self.assertEqual(list(folder.iterdir()), [])
        self.patch(tempfile, "tempdir", "/nowhere")
        error = self.assertRaises(CertificateError, self.serve, ECDSA)
        self.assertIn("can't be handed to OpenSSL: No such file or directory", str(error))

    def test_renegotiation(self) -> None:
        """A client can't have the handshake done again and again over one connection."""
        self.assertTrue(self.serve(ECDSA)._contexts[0].set_options(0) & SSL.OP_NO_RENEGOTIATION)

    def test_chains(self) -> None:
        """Each certificate comes with its own chain, without the root, wherever that stands in the file."""
        for issued, suites in ((ECDSA, b"aECDSA"), (RSA, b"aRSA")):
            for tls in (
                self.serve(ECDSA, RSA),
                self.serve(RSA, ECDSA),
                self.serve(
                    *(Issued(each.key, each.certificate, (*each.above, ROOT.certificate)) for each in (RSA, ECDSA))
                ),
            ):
                self.assertEqual(sent_chain(tls, suites), [issued.certificate, issued.above[0]])


def sent_chain(tls: DeviceTls, suites: bytes) -> list[x509.Certificate]:
    """Return the certificates that the server sends to a client of TLS 1.2 that knows some suites."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(suites)
    client = SSL.Connection(context)
    client.set_connect_state()
    protocol: Any = None
    server = tls.serverConnectionForTLS(protocol)
    server.set_accept_state()
    for _ in range(4):
        for side, other in ((client, server), (server, client)):
            with contextlib.suppress(SSL.WantReadError):
                side.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                other.bio_write(side.bio_read(1_000_000))
    return list(client.get_peer_cert_chain(as_cryptography=True) or [])


class ClientCertificateTests(ShakingCase):
    """Devices that prove themselves."""

    def subject(self, server: SSL.Connection) -> str | None:
        """Return as whom a client proved itself."""
        certificate = server.get_peer_certificate(as_cryptography=True)
        return None if certificate is None else certificate.subject.rfc4514_string()

    def test_required(self) -> None:
        """With an authority, a device has to show a certificate that it signed, directly or by another's hand."""
        tls = self.serve(ECDSA, clients=DEVICES.pem)
        for version in VERSIONS:
            for issued in (DEVICES.issue("device-1", number=1), FACTORY.issue("device-1", "RSA", number=1)):
                client = self.show(make_client(ROOT.pem, version), issued)
                self.assertEqual(self.subject(shake(tls, client)[1]), "CN=device-1")
            self.assertIn("did not return a certificate", self.refusal(tls, make_client(ROOT.pem, version)))

    def test_optional(self) -> None:
        """Where it is optional, a device may show none, and what it shows has to be right."""
        tls = self.serve(ECDSA, clients=DEVICES.pem, optional=True)
        for version in VERSIONS:
            self.assertEqual(self.subject(shake(tls, make_client(ROOT.pem, version))[1]), None)
            client = self.show(make_client(ROOT.pem, version), DEVICES.issue("device-1", number=1))
            self.assertEqual(self.subject(shake(tls, client)[1]), "CN=device-1")
            client = self.show(make_client(ROOT.pem, version), ROOT.issue("device-1", number=1))
            self.assertIn("verify failed", self.refusal(tls, client))

    def test_refused(self) -> None:
        """A certificate of another authority, one that has ended, and one that signs itself don't count."""
        tls = self.serve(ECDSA, clients=DEVICES.pem)
        stranger = Authority.root("device-1")
        namesake = Authority(Authority.root("x").key, Authority.root("Devices").certificate)
        for issued in (
            ROOT.issue("device-1", number=1),
            namesake.issue("device-1", number=1),
            DEVICES.issue("device-1", number=1, ends=1_750_000_000),
            Issued(stranger.key, stranger.certificate, ()),
        ):
            for version in VERSIONS:
                client = self.show(make_client(ROOT.pem, version), issued)
                self.assertIn("verify failed", self.refusal(tls, client))

    def test_intermediate_alone(self) -> None:
        """An authority below another may be named alone: it lets in what it signed, not all below the root."""
        tls = self.serve(ECDSA, clients=FACTORY.pem)
        for version in VERSIONS:
            client = self.show(make_client(ROOT.pem, version), FACTORY.issue("device-1", number=1))
            self.assertEqual(self.subject(shake(tls, client)[1]), "CN=device-1")
            for other in (DEVICES, DEVICES.below("Other")):
                client = self.show(make_client(ROOT.pem, version), other.issue("device-1", number=1))
                self.assertIn("verify failed", self.refusal(tls, client))

    def test_not_asked(self) -> None:
        """Without an authority nobody is asked, and what a client has isn't looked at."""
        client = self.show(make_client(ROOT.pem), DEVICES.issue("device-1", number=1))
        self.assertEqual(self.subject(shake(self.serve(ECDSA), client)[1]), None)
