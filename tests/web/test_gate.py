"""Tests of the gate of the device door: who comes in, what the others are answered, and when."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from typing import Any

import trustme
from OpenSSL.crypto import FILETYPE_PEM, X509, load_certificate
from twisted.logger import capturedLogs, eventAsText
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from ota_server.fleet.policy import read_policy
from ota_server.web.channel import DeviceChannel
from ota_server.web.site import DeviceSite
from ota_server.web.slowing import AT_ONCE, LONGEST, LONGEST_MISSING, MAX_WAITING_OF_ONE
from tests.web.answers import Answer, read_answer, read_only_answer
from tests.web.memory import FillingTransport, MemoryConnection, MemoryDoor
from tests.web.test_quick import StockChannel

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

    def refused(self, answer: Answer, code: int, reason: str) -> None:
        """Check that an answer is a refusal as it has to be."""
        self.assertEqual((answer.code, answer.reason), (code, reason))
        self.assertEqual(answer.get(b"WWW-Authenticate"), b'Basic realm="ota"' if code == 401 else None)
        self.assertEqual(answer.get(b"Connection"), b"close")
        self.assertLess(len(answer.body), 32)
        self.assertLess(len(answer.head), 400)

    def settle(self) -> None:
        """Let all that was refused be forgotten."""
        self.door.clock.advance(300)


class TokenTests(GateCase):
    """Who comes in with a token."""

    def test_ways(self) -> None:
        """A token may come in each of the ways, to each address, with each method."""
        for path in (b"/lamp", b"/lamp.bin", b"/lamp-1.0.0.bin", b"/lamp.bin.md5", b"/beta/lamp", b"/beta/lamp.bin"):
            for method in (b"GET", b"HEAD"):
                self.assertEqual(self.door.ask(path, bearer(FLEET), method=method).code, 200)
                self.assertEqual(self.door.ask(path, basic(FLEET), method=method).code, 200)
                self.assertEqual(self.door.ask(path + b"?token=" + FLEET, method=method).code, 200)
        answer = self.door.ask(b"/lamp.bin", basic(FLEET), b"Range: bytes=1-2")
        self.assertEqual((answer.code, answer.body), (206, b"se"))

    def test_without(self) -> None:
        """Nothing is told to who brings none, not even which addresses there are."""
        for path in (b"/lamp", b"/lamp.bin", b"/lamp-1.0.0.bin", b"/lamp.bin.md5", b"/lamp.bin.sha256", b"/beta/lamp",
                     b"/nothing", b"/beta", b"/-/", b"/-/metrics", b"/-/ready/x", b"/%2d/ready", b"/lamp?chip=esp32",
                     b"/../-/ready", b"/x/../-/ready", b"http://h/lamp", b"/lamp?xtoken=" + FLEET):  # fmt: skip
            self.settle()
            for method in (b"GET", b"HEAD", b"POST"):
                answer = self.door.ask(path, *esp8266(), method=method)
                self.refused(answer, 401, "token-needed")
                self.assertEqual(answer.body, b"" if method == b"HEAD" else b"a token is needed\n")

    def test_open_addresses(self) -> None:
        """Supervisors need no token, however they write the addresses, and other methods are told what works."""
        for path in (b"/", b"/-/healthy", b"/-/ready", b"//-//ready/", b"/?x", b"http://h/-/ready"):
            self.assertEqual(self.door.ask(path).code, 200)
        self.assertEqual(self.door.ask(b"/-/ready", method=b"POST").code, 405)
        self.assertEqual(self.door.ask(b"/lamp", bearer(FLEET), method=b"POST").code, 405)
        self.assertEqual(self.door.ask(b"/nothing", bearer(FLEET)).code, 404)

    def test_wrong(self) -> None:
        """All that is not quite a token."""
        for field in (
            bearer(OWN[:-1]), bearer(OWN + b"x"), bearer(b""), basic(b""), basic(OWN[:-1]), basic(OWN + b"x"),
            basic(OWN + b"\0"), b"Authorization: Basic ???", b"Authorization: " + OWN, b"Authorization: Digest x",
            b"Authorization:", b"Authorization: Bearer " + b"x" * 10_000, basic(b"x" * 7500),
            bearer(OWN) + b"\r\n" + bearer(OWN), bearer(b"x") + b"\r\n" + bearer(OWN),
        ):  # fmt: skip
            self.settle()
            self.refused(self.door.ask(b"/lamp", field), 401, "token-wrong")
        for query in (b"", OWN[:-1], OWN + b"x", OWN + b"%00", OWN + b"&token=" + OWN, b"x" * 10_000):
            self.settle()
            self.refused(self.door.ask(b"/lamp?token=" + query), 401, "token-wrong")
        self.assertEqual(self.door.ask(b"/lamp?token=%66" + FLEET[1:]).code, 200)

    def test_nul(self) -> None:
        """A header with a NUL in it brings nobody in, whoever reads it."""
        for field in (bearer(OWN + b"\0"), bearer(b"\0" + OWN), b"Authorization\0: Bearer " + OWN):
            self.settle()
            connection = self.door.connect()
            connection.send(request(b"/lamp", field))
            self.assertRegex(connection.received, rb"\AHTTP/1\.1 40[01] ")
            self.assertTrue(connection.transport.disconnecting)
            connection.lose()

    def test_another_device(self) -> None:
        """A token of A asked with as B is refused; at plain addresses, too."""
        for path in (b"/lamp", b"/lamp.bin", b"/lamp.bin.md5", b"/nothing"):
            self.settle()
            self.refused(self.door.ask(path, bearer(THEIRS), *esp8266(MAC)), 403, "wrong-device")
            self.refused(self.door.ask(path, bearer(GROUP), *esp8266(OTHER)), 403, "wrong-device")
        self.assertEqual(self.door.ask(b"/lamp", bearer(THEIRS), *esp8266(OTHER)).reason, "newer")

    def followed(self) -> dict[str, str]:
        """Return the devices that are remembered, with their versions."""
        assert self.door.keeper is not None
        return {name: str(device.version) for name, device in self.door.keeper.loaded.devices.items()}

    def test_proven(self) -> None:
        """Who is proven gets the device's settings, and is remembered as it, also where it tells nothing."""
        self.assertEqual(self.door.ask(b"/lamp", bearer(OWN)).reason, "held")
        self.assertEqual(self.followed(), {MAC: "None"})
        self.assertEqual(self.door.ask(b"/lamp", bearer(OWN), *esp8266(None)).reason, "held")
        self.assertEqual(self.followed(), {MAC: "1.0.0"})

    def test_group(self) -> None:
        """A member that says who it is is followed; who doesn't gets no settings, and isn't."""
        self.assertEqual(self.door.ask(b"/lamp", bearer(GROUP), *esp8266(None)).reason, "newer")
        self.assertEqual(self.followed(), {})
        self.assertEqual(self.door.ask(b"/lamp", bearer(GROUP), *esp8266()).reason, "held")
        self.assertEqual(self.followed(), {MAC: "1.0.0"})

    def test_fleet(self) -> None:
        """Any device may use the fleet's, and is who it says it is."""
        self.assertEqual(self.door.ask(b"/lamp", bearer(FLEET), *esp8266()).reason, "held")
        self.assertEqual(self.door.ask(b"/lamp", bearer(FLEET), *esp8266("24:6F:28:00:00:02")).reason, "newer")
        self.assertEqual(list(self.followed()), [MAC, "24:6F:28:00:00:02"])

    def test_before_the_folder_is_read(self) -> None:
        """Who waits for the folder has been let in, and is judged once more when it is read."""
        self.door = MemoryDoor(self, FILES, policy=POLICY, read=False)
        self.change(POLICY)
        self.refused(self.door.ask(b"/lamp"), 401, "token-needed")
        waiting = [self.door.connect() for _ in range(2)]
        waiting[0].send(request(b"/lamp?token=" + OWN + b"&chip=esp32"))
        waiting[1].send(request(b"/lamp?token=" + FLEET))
        self.assertEqual([connection.received for connection in waiting], [b"", b""])
        self.change(POLICY.replace(hash_of(FLEET), hash_of(b"another")))
        self.door.read()
        self.assertEqual(read_only_answer(waiting[0].received).reason, "held")
        self.refused(read_only_answer(waiting[1].received), 401, "token-wrong")

    def test_open(self) -> None:
        """Where it is open nothing is looked at, and nothing is judged."""
        for policy in ("", '[access]\ndevices = "open"\n[devices.7]\ntoken = ' + hash_of(OWN)):
            self.change(policy)
            self.assertIsNone(self.door.site.gate)
            for field in (bearer(b"x"), bearer(OWN), b"Authorization: ?"):
                self.assertEqual(self.door.ask(b"/lamp", field, *esp8266()).reason, "newer")


class ConnectionTests(GateCase):
    """What happens to connections."""

    def test_quick(self) -> None:
        """A check with a token is answered on the quick path, and one without isn't."""
        connection = self.door.connect()
        for field in (bearer(FLEET), basic(FLEET), bearer(GROUP)):
            connection.send(request(b"/lamp", field, *esp8266(version="1.2.0")))
        connection.send(request(b"/lamp?chip=esp8266&token=" + FLEET, *esp8266(version="1.2.0")))
        self.assertEqual(connection.received.count(b"304 Not Modified"), 4)
        self.assertTrue(connection.channel._plain)
        connection.send(request(b"/lamp", *esp8266(version="1.2.0")))
        self.assertEqual(connection.received.count(b"401 Unauthorized"), 1)
        self.assertTrue(connection.transport.disconnecting)

    def test_closed(self) -> None:
        """Each refusal ends the connection, whatever came before, and whatever comes behind."""
        good = request(b"/lamp.bin", bearer(FLEET))
        for bad, version in (
            (request(b"/lamp.bin"), b"1.1"),
            (request(b"/lamp.bin", b"Connection: keep-alive"), b"1.1"),
            (request(b"/lamp", b"Connection: keep-alive", version=b"HTTP/1.0"), b"1.0"),
            (request(b"/lamp", bearer(THEIRS), *esp8266()), b"1.1"),
        ):
            self.settle()
            connection = self.door.connect()
            connection.send(good, bad + good, good)
            first, rest = read_answer(connection.received)
            second = read_only_answer(rest)
            self.assertEqual((first.code, second.version), (200, b"HTTP/" + version))
            self.assertIn(second.code, (401, 403))
            self.assertEqual(second.get(b"Connection"), b"close")
            self.assertTrue(connection.transport.disconnecting)

    def test_live_change(self) -> None:
        """Another policy counts from the next request on, also over a connection that is kept."""
        check = request(b"/lamp", bearer(OWN), *esp8266(None, version="1.2.0"))
        for way in (check, request(b"/lamp.bin.version", bearer(OWN))):
            self.change(POLICY)
            connection = self.door.connect()
            connection.send(way)
            both = f"[{hash_of(OWN)}, {hash_of(b'the next one')}]"
            self.change(POLICY.replace(hash_of(OWN), both))
            connection.send(way)
            self.assertFalse(connection.transport.disconnecting)
            self.change(POLICY.replace(hash_of(OWN), hash_of(b"the next one")))
            connection.send(way)
            self.assertTrue(connection.transport.disconnecting)
            self.assertIn(b"X-OTA-Reason: token-wrong\r\n", connection.received)

    def test_closing_an_open_door(self) -> None:
        """Connections that came while it was open are asked, too."""
        self.change("")
        connection = self.door.connect()
        check = request(b"/lamp", *esp8266(version="1.2.0"))
        connection.send(check)
        self.change(POLICY)
        connection.send(check)
        self.assertIn(b"X-OTA-Reason: token-needed\r\n", connection.received)
        self.assertTrue(connection.transport.disconnecting)

    def test_body(self) -> None:
        """A request with a body is refused, and its body isn't taken for a request."""
        connection = self.door.connect()
        body = request(b"/lamp.bin", bearer(FLEET))
        connection.send(request(b"/lamp", b"Content-Length: %d" % len(body), method=b"POST") + body)
        self.refused(read_only_answer(connection.received), 401, "token-needed")

    def test_same_bytes(self) -> None:
        """Nobody can tell by the answer which of both ways it took."""
        for text in (POLICY, CERTIFICATES):
            for fields in (
                (),
                (bearer(FLEET),),
                (basic(OWN),),
                (bearer(THEIRS),),
                (bearer(b"x"),),
                (b"authorization: x",),
            ):
                for path in (b"/lamp", b"/lamp?token=" + GROUP, b"/lamp?chip=esp32&token=" + OWN, b"/nothing"):
                    answers = []
                    self.settle()
                    for protocol in (DeviceChannel, StockChannel):
                        self.change(text)
                        self.patch(self.door.site, "protocol", protocol)
                        connection = self.door.connect()
                        connection.send(request(path, *fields, *esp8266(version="1.2.0")))
                        answers.append((connection.received, connection.transport.disconnecting))
                        connection.lose()
                    self.assertEqual((path, fields, answers[0]), (path, fields, answers[1]))


class SecrecyTests(GateCase):
    """A token is told to nobody."""

    def test_log_and_ledger(self) -> None:
        """No event of the log has a token in it, however it came, nor has the ledger, also where the server fails."""
        self.door.site.log_decisions = True

        class Broken(Resource):
            def render(self, request: Any) -> int:
                raise RuntimeError("a failure of the test")

        tokens = (FLEET, OWN, THEIRS, GROUP, b"no-token-0123456789abcdefghijklm")
        with capturedLogs() as events:
            for token in tokens:
                self.settle()
                for fields in ((bearer(token),), (basic(token),), (basic(b"x", name=token),), ()):
                    for path in (b"/lamp", b"/lamp.bin", b"/nothing", b"/lamp?chip=esp32"):
                        query = b"" if fields else b"%stoken=%s" % (b"&" if b"?" in path else b"?", token)
                        connection = self.door.connect()
                        connection.send(request(path + query, *fields, *esp8266()))
                        self.door.pass_time(5)
                        self.assertTrue(connection.received)
            self.patch(self.door.site, "getResourceFor", lambda request: Broken())
            answer = self.door.ask(b"/lamp.bin?token=" + FLEET, *esp8266())
            self.assertEqual(answer.code, 500)
            self.door.pass_time(5)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        texts = [repr(event) + eventAsText(event) for event in events]
        self.assertGreater(len(texts), 30)
        self.assertTrue(any("is refused: token-wrong" in text for text in texts))
        self.assertTrue(any("a failure of the test" in text for text in texts))
        secrets = [text for token in tokens for text in (token.decode(), base64.b64encode(b"ota:" + token).decode())]
        self.assertEqual([secret for secret in secrets if any(secret in text for text in texts)], [])
        for file in self.door.folder.glob("ledger.sqlite*"):
            data = file.read_bytes()
            self.assertTrue(data)
            self.assertEqual([token for token in tokens if token in data], [])
        self.assertIn(MAC.encode(), b"".join(file.read_bytes() for file in self.door.folder.glob("ledger.sqlite*")))

    def test_repr(self) -> None:
        """What is printed of a request has no query in it, nor what is kept of it once it is let in."""
        connection = self.door.connect()
        seen: list[Any] = []

        def find(request: object) -> Resource:
            seen.append(request)
            return Resource()

        self.patch(self.door.site, "getResourceFor", find)
        connection.send(request(b"/lamp.bin?token=" + FLEET + b"&chip=esp32"))
        self.flushLoggedErrors()
        (got,) = seen
        self.assertEqual(got.query, b"chip=esp32")
        self.assertIn("/lamp.bin", repr(got))
        self.assertNotIn("token", repr(got))


class CertificateTests(GateCase):
    """Who comes in with a certificate."""

    def setUp(self) -> None:
        """Open a door that asks for certificates."""
        self.door = self.open(CERTIFICATES, asks_for_certificates=True)

    def ask(self, certificate: X509 | None, *fields: bytes, path: bytes = b"/lamp") -> Answer:
        """Return the answer over a connection with this certificate."""
        connection = self.connect(certificate)
        connection.send(request(path, *fields))
        return read_only_answer(connection.received)

    def test_needed(self) -> None:
        """Without a certificate, over whatever connection, nothing but the open addresses is served."""
        for path in (b"/lamp", b"/lamp.bin", b"/nothing"):
            self.settle()
            self.refused(self.ask(None, path=path), 403, "certificate-needed")
            self.refused(self.door.ask(path, bearer(OWN)), 403, "certificate-needed")
        self.assertEqual(self.ask(None, path=b"/-/ready").code, 200)

    def test_proven(self) -> None:
        """The name is an id, a name of the policy, or an id of its own."""
        for name, fields, reason in (
            (MAC, esp8266(), "held"),
            ("5ccf7f001122", esp8266(None), "held"),
            ("kitchen", (), "held"),
            ("sensor-17", esp8266(OTHER), "newer"),
            (OTHER, esp8266(), "wrong-device"),
            ("kitchen", esp8266(OTHER), "wrong-device"),
        ):
            with self.subTest(name):
                self.assertEqual(self.ask(make_certificate(name), *fields).reason, reason)
        assert self.door.keeper is not None
        self.assertEqual(list(self.door.keeper.loaded.devices), [MAC, "CN=sensor-17"])

    def test_settings_of_a_name(self) -> None:
        """A device known by its certificate alone has settings of its own."""
        self.change(CERTIFICATES + '[devices."CN=sensor-17"]\nhold = true')
        self.assertEqual(self.ask(make_certificate("sensor-17")).reason, "held")
        self.assertEqual(self.ask(make_certificate("sensor-18")).reason, "no-version")

    def test_once(self) -> None:
        """The certificate is looked at once for each connection, and the policy's names each time."""
        connection = self.connect(make_certificate("cellar"))
        for _ in range(3):
            connection.send(request(b"/lamp", *esp8266(None, "1.2.0")))
        self.assertTrue(connection.channel._plain)
        self.change(CERTIFICATES.replace("kitchen", "cellar"))
        connection.send(request(b"/lamp.bin"), request(b"/lamp", *esp8266(None)))
        assert isinstance(connection.transport, CertifiedTransport)
        self.assertEqual(connection.transport.asked, 1)
        self.assertTrue(connection.received.endswith(b"X-OTA-Reason: held\r\nContent-Length: 0\r\n\r\n"))

    def test_whatever_is_asked(self) -> None:
        """It goes before the MAC address where nothing is asked for, too; without one all are served."""
        for policy in ("", '[access]\ndevices = "open"\n'):
            self.change(f'{policy}[devices."{MAC}"]\nname = "kitchen"\nhold = true')
            self.assertEqual(self.ask(make_certificate("kitchen")).reason, "held")
            self.refused(self.ask(make_certificate("kitchen"), *esp8266(OTHER)), 403, "wrong-device")
            self.assertEqual(self.ask(None, *esp8266(OTHER)).reason, "newer")

    def test_with_tokens(self) -> None:
        """Where tokens are asked for, one is needed besides, for the same device."""
        self.change(POLICY)
        certificate = make_certificate("kitchen")
        self.refused(self.ask(certificate), 401, "token-needed")
        self.assertEqual(self.ask(certificate, bearer(OWN)).reason, "held")
        self.assertEqual(self.ask(certificate, bearer(FLEET)).reason, "held")
        self.refused(self.ask(certificate, bearer(THEIRS)), 403, "wrong-device")
        self.assertEqual(self.ask(make_certificate("sensor-17"), bearer(GROUP)).reason, "no-version")


class SlowTests(GateCase):
    """When refusals are answered; the clock is the test's."""

    def refuse(self, *fields: bytes) -> MemoryConnection:
        """Send a request that is refused."""
        connection = self.door.connect()
        connection.send(request(b"/lamp", *fields, *esp8266()))
        return connection

    def delay(self, *fields: bytes) -> float:
        """Return after how many seconds a refusal is answered, in steps of a quarter."""
        connection = self.refuse(*fields)
        for quarters in range(40):
            if connection.received:
                self.assertTrue(connection.transport.disconnecting)
                return quarters / 4
            self.assertFalse(connection.transport.disconnecting)
            self.door.clock.advance(0.25)
        raise AssertionError("never answered")

    def test_later_and_later(self) -> None:
        """Who comes again and again waits longer and longer, up to LONGEST."""
        delays = [self.delay(bearer(b"x")) for _ in range(12)]
        self.assertEqual(delays[:4], [0, 0, 0, 0.25])
        self.assertEqual(sorted(delays), delays)
        self.assertEqual(delays[-1], LONGEST)

    def test_missing(self) -> None:
        """Who brings nothing waits less, since that is how ESP-IDF begins."""
        self.assertEqual([self.delay() for _ in range(12)][-1], LONGEST_MISSING)

    def test_good_ones(self) -> None:
        """A good request from the same address is answered at once, while others wait, and helps those after it."""
        for _ in range(12):
            self.delay(bearer(b"x"))
        waiting = self.refuse(bearer(b"x"))
        for _ in range(4):
            connection = self.door.connect()
            connection.send(request(b"/lamp", bearer(FLEET), *esp8266(version="1.2.0")))
            self.assertIn(b"304 Not Modified", connection.received)
        self.assertEqual(waiting.received, b"")
        self.assertEqual(self.delay(bearer(b"x")), 0)

    def test_esp_idf_behind_a_router(self) -> None:
        """Devices that ask without, and then with the token, are never slowed down, however many have one address."""
        for _ in range(50):
            self.assertEqual(self.delay(), 0)
            self.assertEqual(self.door.ask(b"/lamp", basic(FLEET)).code, 200)

    def test_client_leaves(self) -> None:
        """An answer that nobody waits for is forgotten, with all that belongs to it."""
        for _ in range(AT_ONCE):
            self.refuse()
        before = len(self.door.clock.getDelayedCalls())
        waiting = [self.refuse() for _ in range(5)]
        site = self.door.site
        assert site.gate is not None
        self.assertEqual(site.gate.slowdown.waiting, 5)
        for connection in waiting:
            connection.lose()
        self.assertEqual(site.gate.slowdown.waiting, 0)
        self.assertEqual(len(self.door.clock.getDelayedCalls()), before)
        self.door.pass_time(10)

    def test_too_many(self) -> None:
        """Past the bound connections are dropped unanswered, and not logged; the others get their answer."""
        self.door.site.log_decisions = True
        with capturedLogs() as events:
            connections = [self.refuse(bearer(b"x")) for _ in range(AT_ONCE + MAX_WAITING_OF_ONE + 10)]
        self.assertEqual(len([event for event in events if event.get("reason")]), AT_ONCE + MAX_WAITING_OF_ONE)
        dropped = [connection for connection in connections if connection.transport.aborted]
        self.assertEqual(dropped, connections[-10:])
        self.assertEqual([connection.received for connection in dropped], [b""] * 10)
        self.door.pass_time(5)
        for connection in connections[:-10]:
            self.refused(read_only_answer(connection.received), 401, "token-wrong")
        self.assertEqual(self.delay(bearer(b"x")), LONGEST)

    def test_nothing_is_read_meanwhile(self) -> None:
        """What comes while an answer waits isn't looked at, and never is."""
        for _ in range(AT_ONCE):
            self.refuse()
        connection = self.refuse()
        connection.send(request(b"/lamp.bin", bearer(FLEET)))
        self.assertEqual(connection.received, b"")
        self.door.pass_time(5)
        self.refused(read_only_answer(connection.received), 401, "token-needed")
        self.assertTrue(connection.transport.disconnecting)
