"""Tests of the endpoint strings `device-tls:`: how they are read, and that listening follows the files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import quoteStringArgument, serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase

from ota_server import signals
from ota_server.tls.certificates import CertificateError
from ota_server.tls.context import CACHE_SIZE
from ota_server.tls.endpoint import BACKLOG, DeviceTlsEndpoint
from tests.certificates import Authority
from tests.web.memory import OwnThreadPool

ROOT = Authority.root("Root")
ISSUED = ROOT.issue("ota.example")
RSA = ROOT.issue("ota.example", "RSA")
KEYWORDS = "cert=, key=, cert2=, key2=, clientCA=, clientOptional=, sessions=, interface=, backlog=, endpoint="


class FilesReactor(MemoryReactorClock):
    """A reactor in memory, with threads that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = OwnThreadPool()

    def getThreadPool(self) -> ThreadPool:
        """Return the pool."""
        return self.pool

    def callFromThread(self, callable: Callable[..., object], *args: object, **kw: object) -> None:  # noqa: A002
        """Call a function: all are in one thread here."""
        callable(*args, **kw)


class StringCase(SynchronousTestCase):
    """A test with files of certificates."""

    def setUp(self) -> None:
        """Write them."""
        self.reactor: Any = FilesReactor()
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        self.cert, self.key = folder / "fullchain.pem", folder / "privkey.pem"
        self.cert2, self.key2 = folder / "fullchain2.pem", folder / "privkey2.pem"
        self.both, self.authority = folder / "both.pem", folder / "ca.pem"
        for path, content in (
            (self.cert, ISSUED.full_chain),
            (self.key, ISSUED.key_pem),
            (self.cert2, RSA.full_chain),
            (self.key2, RSA.key_pem),
            (self.both, ISSUED.both),
            (self.authority, ROOT.pem),
        ):
            path.write_bytes(content)
        self.pair = f"cert={self.cert}:key={self.key}"

    def parse(self, rest: str) -> DeviceTlsEndpoint:
        """Return the endpoint of a string, found by Twisted's plugins."""
        endpoint = serverFromString(self.reactor, f"device-tls:{rest}")
        assert isinstance(endpoint, DeviceTlsEndpoint)
        return endpoint

    def refusal(self, rest: str) -> str:
        """Return why a string is refused, on one line."""
        message = str(self.assertRaises((ValueError, CertificateError), self.parse, rest))
        self.assertNotIn("\n", message)
        return message

    def listen(self, rest: str) -> IListeningPort:
        """Listen as a string says, until the end of the test."""
        port = self.successResultOf(self.parse(rest).listen(Factory.forProtocol(Protocol)))
        self.addCleanup(port.stopListening)
        return port


class KeywordTests(StringCase):
    """What each keyword means."""

    def test_least(self) -> None:
        """A certificate with its key in the same file, or in another one, is all that is needed."""
        for rest in (f"443:cert={self.both}", f"443:{self.pair}"):
            tls = self.parse(rest).tls
            self.assertEqual([credential.chain for credential in tls.loaded.credentials], [(ISSUED.certificate,)])
            self.assertEqual((tls.asks_for_certificates, tls.shares), (False, 1))

    def test_two_certificates(self) -> None:
        """cert2 and key2 stand beside the first pair; the second, too, may have its key in its own file."""
        endpoint = self.parse(f"443:{self.pair}:cert2={self.cert2}:key2={self.key2}")
        self.assertEqual([credential.kind for credential in endpoint.tls.loaded.credentials], ["ECDSA", "RSA"])
        endpoint = self.parse(f"443:cert={self.cert2}:key={self.key2}:cert2={self.both}")
        self.assertEqual([credential.kind for credential in endpoint.tls.loaded.credentials], ["RSA", "ECDSA"])
        self.assertEqual([expiry.file for expiry in endpoint.expiries], [str(self.cert2), str(self.both)])

    def test_client_certificates(self) -> None:
        """With clientCA devices have to prove themselves, or may."""
        for rest, optional in (("", False), (":clientOptional=no", False), (":clientOptional=yes", True)):
            endpoint = self.parse(f"443:{self.pair}:clientCA={self.authority}{rest}")
            self.assertTrue(endpoint.asks_for_certificates)
            self.assertEqual(endpoint.tls.files.client_optional, optional)

    def test_sessions(self) -> None:
        """More sessions are kept in more contexts of OpenSSL."""
        for sessions, shares in ((1, 1), (CACHE_SIZE, 1), (CACHE_SIZE + 1, 2), (100_000, 5)):
            self.assertEqual(self.parse(f"443:{self.pair}:sessions={sessions}").tls.shares, shares)

    def test_listening(self) -> None:
        """Port, interface and backlog are those of the string; the backlog is large where it says nothing."""
        for rest, wanted in (
            (f"8443:{self.pair}", (8443, BACKLOG, "")),
            (f"8443:{self.pair}:interface=127.0.0.1:backlog=7", (8443, 7, "127.0.0.1")),
            (f"8443:{self.pair}:interface=\\:\\:1", (8443, BACKLOG, "::1")),
            (f"{self.pair}:endpoint=tcp\\:8444\\:interface=127.0.0.2\\:backlog=9", (8444, 9, "127.0.0.2")),
            (f"{self.pair}:endpoint=haproxy\\:tcp\\:8445", (8445, 50, "")),
        ):
            self.listen(rest)
            port, _, backlog, interface = self.reactor.tcpServers.pop()
            self.assertEqual((port, backlog, interface), wanted)

    def test_behind_a_proxy(self) -> None:
        """The string can be wrapped in another: a header inside of TLS."""
        endpoint = serverFromString(self.reactor, f"haproxy:device-tls:8443:{self.pair}:interface=\\:\\:")
        port = self.successResultOf(endpoint.listen(Factory.forProtocol(Protocol)))
        self.assertEqual([(args[0], args[3]) for args in self.reactor.tcpServers], [(8443, "::")])
        self.successResultOf(maybeDeferred(port.stopListening))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_odd_paths(self) -> None:
        """A path may hold a colon, quoted as Twisted quotes; it may be relative, or begin with the home folder."""
        odd = self.both.with_name("a:b=c.pem")
        odd.write_bytes(ISSUED.both)
        self.assertEqual(self.parse(f"443:cert={quoteStringArgument(str(odd))}").tls.files.paths, (odd,))
        self.patch(os, "environ", {**os.environ, "HOME": str(self.both.parent)})
        for text in ("~/both.pem", os.path.relpath(self.both)):
            (path,) = self.parse(f"443:cert={text}").tls.files.paths
            self.assertTrue(path.is_absolute())
            self.assertEqual(path.read_bytes(), ISSUED.both)


class RefusalTests(StringCase):
    """Strings that can't be: each gets one line that says what to do."""

    def test_unknown_keyword(self) -> None:
        """An unknown keyword is refused with those that there are; Twisted's own for `ssl:` are among the unknown."""
        for keyword in ("certt", "privateKey", "sslmethod", "clientca"):
            message = self.refusal(f"443:{self.pair}:{keyword}=x")
            self.assertEqual(message, f"device-tls has no {keyword}=; it has {KEYWORDS}")

    def test_certificates(self) -> None:
        """What is missing of the certificates is named."""
        example = "device-tls:443:cert=fullchain.pem:key=privkey.pem"
        self.assertEqual(self.refusal("443"), f"device-tls needs a certificate: {example}")
        self.assertEqual(self.refusal(f"443:key={self.key}"), f"device-tls needs a certificate: {example}")
        self.assertEqual(
            self.refusal(f"443:{self.pair}:key2={self.key2}"), "key2= needs its certificate: cert2=fullchain.pem"
        )
        self.assertIn(f"{self.cert} and {self.both} are both ECDSA", self.refusal(f"443:{self.pair}:cert2={self.both}"))
        self.assertIn("holds 0 private keys", self.refusal(f"443:cert={self.cert}"))
        self.assertIn("belongs to the private key in", self.refusal(f"443:cert={self.cert}:key={self.key2}"))
        self.assertIn("can't be read: No such file", self.refusal("443:cert=/nowhere.pem"))
        self.assertIn("holds no certificate", self.refusal(f"443:{self.pair}:clientCA={self.key}"))

    def test_names_left_empty(self) -> None:
        """An empty name of a file, as an unset variable makes it, is refused with its keyword."""
        for keyword in ("cert", "key", "cert2", "key2", "clientCA"):
            rest = {"cert": self.cert, "key": self.key, "cert2": self.cert2, "key2": self.key2, keyword: ""}
            string = ":".join(f"{key}={value}" for key, value in rest.items())
            self.assertEqual(self.refusal(f"443:{string}"), f"{keyword}= names no file")

    def test_home_of_nobody(self) -> None:
        """The home folder of a user who isn't there is told as such."""
        message = self.refusal("443:cert=~nobody-of-that-name/x.pem")
        self.assertEqual(message, "cert=~nobody-of-that-name/x.pem: there is no such home folder")

    def test_optional(self) -> None:
        """ClientOptional is yes or no, and means nothing without an authority."""
        for value in ("", "maybe", "true", "Yes"):
            message = self.refusal(f"443:{self.pair}:clientCA={self.authority}:clientOptional={value}")
            self.assertEqual(message, f"clientOptional={value} can't be; it is yes or no")
        self.assertEqual(
            self.refusal(f"443:{self.pair}:clientOptional=yes"),
            "clientOptional= needs the authority of the devices' certificates: clientCA=ca.pem",
        )

    def test_sessions(self) -> None:
        """The number of sessions is a number, and a sane one."""
        for value in ("", "0", "-1", "many", "1_000", "²", "10000001", "9" * 5000):
            message = self.refusal(f"443:{self.pair}:sessions={value}")
            self.assertIn(" can't be; it is how many sessions are kept by their ids, such as 100000", message)
            self.assertLess(len(message), 200)

    def test_port(self) -> None:
        """There is one port, which is a number that ports have."""
        example = "device-tls:443:cert=fullchain.pem:key=privkey.pem"
        self.assertEqual(self.refusal(self.pair), f"device-tls needs one port: {example}")
        self.assertEqual(self.refusal(f"443:444:{self.pair}"), f"device-tls needs one port: {example}")
        for port in ("", "https", "-1", "65536", "0x1", "4_43"):
            message = self.refusal(f"{port}:{self.pair}")
            self.assertEqual(message, f"{port!r} is no port; ports are numbers from 0 to 65535")

    def test_backlog(self) -> None:
        """The backlog is a number."""
        for value in ("", "x", "0", "-5", "9999999999"):
            message = self.refusal(f"443:{self.pair}:backlog={value}")
            self.assertEqual(message, f"backlog={value} can't be; it is how many connections may wait, such as 4096")

    def test_endpoint(self) -> None:
        """With an endpoint of its own there is no second word on where to listen."""
        inner = "endpoint=tcp\\:443"
        for rest, clash in (
            (f"443:{self.pair}", "the port"),
            (f"{self.pair}:interface=127.0.0.1", "interface="),
            (f"{self.pair}:backlog=5", "backlog="),
        ):
            self.assertEqual(self.refusal(f"{rest}:{inner}"), f"endpoint= says where to listen; leave {clash} out")
        self.assertEqual(
            self.refusal(f"{self.pair}:endpoint=nonsense\\:1"),
            "endpoint=nonsense:1 is no endpoint such as tcp\\:443 (Unknown endpoint type: 'nonsense')",
        )


class ListeningTests(StringCase):
    """What listening does beside."""

    def test_followed_while_it_listens(self) -> None:
        """The files are followed from the start to the end of listening, and no longer."""
        before = list(signals._reloads)
        port = self.listen(f"443:{self.pair}")
        self.assertEqual((len(self.reactor.getDelayedCalls()), len(signals._reloads)), (1, len(before) + 1))
        self.successResultOf(maybeDeferred(port.stopListening))
        self.assertEqual((self.reactor.getDelayedCalls(), signals._reloads), ([], before))

    def test_not_followed_before(self) -> None:
        """Reading a string starts nothing."""
        self.parse(f"443:{self.pair}")
        self.assertEqual((self.reactor.getDelayedCalls(), self.reactor.tcpServers), ([], []))

    def test_listening_fails(self) -> None:
        """Where listening fails, nothing is followed."""
        endpoint = self.parse(f"443:{self.pair}")

        def refuse(*args: object, **kw: object) -> None:
            raise OSError("taken")

        self.patch(self.reactor, "listenTCP", refuse)
        self.failureResultOf(endpoint.listen(Factory.forProtocol(Protocol)), OSError)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_again(self) -> None:
        """A port can listen again, and the files are followed again."""
        port = self.listen(f"443:{self.pair}")
        self.successResultOf(maybeDeferred(port.stopListening))
        port.startListening()
        self.assertEqual(len(self.reactor.getDelayedCalls()), 1)

    def test_renewed(self) -> None:
        """A renewed certificate shows in what the endpoint tells of its end."""
        endpoint = self.parse(f"443:cert={self.both}")
        port = self.successResultOf(endpoint.listen(Factory.forProtocol(Protocol)))
        self.addCleanup(port.stopListening)
        before = endpoint.expiries
        self.both.write_bytes(ROOT.issue("ota.example", number=1, ends=before[0].ends + 86_400).both)
        with capturedLogs():
            self.reactor.pump([2.0] * 3)
        self.assertEqual([expiry.ends for expiry in endpoint.expiries], [before[0].ends + 86_400])

    def test_keys_stay_hidden(self) -> None:
        """No part of what listens shows a key."""
        endpoint = self.parse(f"443:{self.pair}")
        for part in (endpoint, endpoint.tls, endpoint.tls.loaded, endpoint.tls.files):
            self.assertNotIn("PrivateKey", repr(part))
