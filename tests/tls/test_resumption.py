"""Tests of resuming sessions, counted: a full handshake takes an ESP8266 seconds."""

from __future__ import annotations

import ssl

from twisted.internet.address import IPv4Address, UNIXAddress

from ota_server.tls.context import SESSION_LIFETIME
from ota_server.tls.creator import DeviceTls
from ota_server.tls.follower import INTERVAL
from tests.certificates import Authority
from tests.tls.following import ROOT as FOLLOWED_ROOT
from tests.tls.following import FollowerCase
from tests.tls.shaking import RefusedError, ShakingCase, make_client, shake

ROOT = Authority.root("Root")
ECDSA, RSA = ROOT.issue("ota.example"), ROOT.issue("ota.example", "RSA")
DEVICES = Authority.root("Devices")
TIMES = 20

WAYS = (
    ("1.2 by ticket", ssl.TLSVersion.TLSv1_2, True),
    ("1.2 by id", ssl.TLSVersion.TLSv1_2, False),
    ("1.3", ssl.TLSVersion.TLSv1_3, True),
)
"""How sessions are resumed; BearSSL knows ids alone."""


def count(tls: DeviceTls, client: ssl.SSLContext, session: ssl.SSLSession | None, times: int = TIMES) -> int:
    """Connect again and again, each time with the newest session; return how many times it was resumed."""
    resumed = 0
    for _ in range(times):
        side, _ = shake(tls, client, session)
        resumed += bool(side.session_reused)
        session = side.session
    return resumed


class ResumptionTests(ShakingCase):
    """Sessions over many connections."""

    def test_each_way(self) -> None:
        """By ticket, by id and under TLS 1.3, with either certificate, all are resumed but the first."""
        tls = self.serve(ECDSA, RSA)
        for suites in ("aECDSA", "aRSA"):
            for way, version, tickets in WAYS:
                client = make_client(ROOT.pem, version, suites=suites, tickets=tickets)
                self.assertEqual(count(tls, client, None, TIMES + 1), TIMES, way)

    def test_smallest_profile(self) -> None:
        """The suites of BearSSL's smallest profile resume by id."""
        tls = self.serve(ECDSA, RSA)
        client = make_client(ROOT.pem, ssl.TLSVersion.TLSv1_2, suites="AES128-SHA:AES256-SHA", tickets=False)
        self.assertEqual(count(tls, client, None, TIMES + 1), TIMES)

    def test_same_session(self) -> None:
        """One session can be resumed again and again: a device that sleeps keeps the first that it got."""
        tls = self.serve(RSA)
        for way, version, tickets in WAYS[:2]:
            client = make_client(ROOT.pem, version, tickets=tickets)
            session = shake(tls, client)[0].session
            resumed = [shake(tls, client, session)[0].session_reused for _ in range(TIMES)]
            self.assertEqual(resumed, [True] * TIMES, way)

    def test_client_certificates(self) -> None:
        """After resumption it is still known as whom a device proved itself; it doesn't show that again."""
        for optional in (False, True):
            tls = self.serve(ECDSA, clients=DEVICES.pem, optional=optional)
            for way, version, tickets in WAYS:
                client = self.show(make_client(ROOT.pem, version, tickets=tickets), DEVICES.issue("lamp", number=1))
                session = shake(tls, client)[0].session
                side, server = shake(tls, client, session)
                certificate = server.get_peer_certificate(as_cryptography=True)
                assert certificate is not None
                subject = certificate.subject.rfc4514_string()
                self.assertEqual((side.session_reused, subject), (True, "CN=lamp"), way)

    def test_other_door(self) -> None:
        """A session of a door that asks for no certificate is nothing at one that does."""
        easy, strict = self.serve(ECDSA), self.serve(ECDSA, clients=DEVICES.pem)
        for _, version, tickets in WAYS:
            client = make_client(ROOT.pem, version, tickets=tickets)
            session = shake(easy, client)[0].session
            self.assertFalse(shake(self.serve(ECDSA), client, session)[0].session_reused)
            error = self.assertRaises(RefusedError, shake, strict, client, session)
            self.assertIn("did not return a certificate", str(error))


class ManySessionsTests(ShakingCase):
    """More sessions than one context keeps."""

    def test_from_the_same_address(self) -> None:
        """Each of many addresses finds its sessions again, though they are in several contexts, all of them used."""
        tls = self.serve(ECDSA, sessions=100_000)
        self.assertEqual(tls.shares, 5)
        used = set()
        for way, version, tickets in WAYS:
            client = make_client(ROOT.pem, version, tickets=tickets)
            resumed = 0
            for number in range(1, 51):
                address = IPv4Address("TCP", f"192.0.2.{number}", 1000 + number)
                tls.expect(address)
                session = shake(tls, client)[0].session
                tls.expect(IPv4Address("TCP", "192.0.2.200", 5))
                tls.expect(IPv4Address("TCP", address.host, 60_000))
                side, server = shake(tls, client, session)
                used.add(server.get_context())
                resumed += bool(side.session_reused)
            self.assertEqual(resumed, 50, way)
        self.assertEqual(len(used), 5)

    def test_addresses_without_a_host(self) -> None:
        """A UNIX socket has no address to tell devices apart by; its sessions are kept all the same."""
        tls = self.serve(ECDSA, sessions=100_000)
        client = make_client(ROOT.pem, ssl.TLSVersion.TLSv1_2, tickets=False)
        for address in (UNIXAddress("/run/x"), UNIXAddress(None), None):
            tls.expect(address)
            self.assertEqual(count(tls, client, None, 5), 4)


class RotationTests(FollowerCase):
    """The life of sessions, by a clock that the test sets."""

    def test_rotation(self) -> None:
        """Sessions can be resumed for a day; then there are new keys, and the device shakes hands in full."""
        self.start()
        for way, version, tickets in WAYS:
            client = make_client(FOLLOWED_ROOT.pem, version, tickets=tickets)
            session = shake(self.tls, client)[0].session
            self.clock.advance(SESSION_LIFETIME / 2)
            self.assertTrue(shake(self.tls, client, session)[0].session_reused, way)
            self.clock.advance(SESSION_LIFETIME / 2 + INTERVAL)
            self.advance()
            side, _ = shake(self.tls, client, session)
            self.assertFalse(side.session_reused, way)
            self.assertEqual(count(self.tls, client, side.session, 3), 3, way)

    def test_renewal(self) -> None:
        """With a renewed certificate sessions start anew, so that nobody goes on with one that was withdrawn."""
        self.start()
        client = make_client(FOLLOWED_ROOT.pem, ssl.TLSVersion.TLSv1_3)
        session = shake(self.tls, client)[0].session
        self.put(self.issue(number=1))
        self.advance(3)
        self.assertFalse(shake(self.tls, client, session)[0].session_reused)
