"""Tests of the gate of the device door: what becomes of connections, what is logged, and when refusals are answered."""

from __future__ import annotations

import base64
from typing import Any

from twisted.logger import capturedLogs, eventAsText
from twisted.web.resource import Resource

from ota_server.web.channel import DeviceChannel
from ota_server.web.slowing import AT_ONCE, LONGEST, LONGEST_MISSING, MAX_WAITING_OF_ONE
from tests.web.answers import read_answer, read_only_answer
from tests.web.gating import (
    CERTIFICATES,
    FLEET,
    GROUP,
    MAC,
    OWN,
    POLICY,
    THEIRS,
    GateCase,
    basic,
    bearer,
    esp8266,
    hash_of,
    request,
)
from tests.web.memory import MemoryConnection
from tests.web.test_quick import StockChannel


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
        self.assertFalse(connection.channel._plain)

    def test_closed(self) -> None:
        """Each refusal but one ends the connection, whatever came before, and whatever comes behind."""
        good = request(b"/lamp.bin", bearer(FLEET))
        for bad, version in (
            (request(b"/lamp.bin", bearer(b"x")), b"1.1"),
            (request(b"/lamp.bin", bearer(b"x"), b"Connection: keep-alive"), b"1.1"),
            (request(b"/lamp.bin", b"Connection: close"), b"1.1"),
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

    def test_challenge(self) -> None:
        """The first request without a token is told to bring one over the same connection, and only the first."""
        good, missing = request(b"/lamp.bin.version", basic(FLEET)), request(b"/lamp.bin.version")
        connection = self.door.connect()
        connection.send(missing, good, good, missing, good)
        rest, answers = connection.received, []
        while rest:
            answer, rest = read_answer(rest)
            answers.append(answer)
        self.assertEqual([answer.code for answer in answers], [401, 200, 200, 401])
        self.refused(answers[0], 401, "token-needed")
        self.refused(answers[3], 401, "token-needed", again=True)
        self.assertTrue(connection.transport.disconnecting)

    def test_wrong_after_the_challenge(self) -> None:
        """A wrong token ends the connection, also where it was asked for."""
        connection = self.door.connect()
        connection.send(request(b"/lamp.bin"), request(b"/lamp.bin", basic(b"x")))
        _, rest = read_answer(connection.received)
        self.refused(read_only_answer(rest), 401, "token-wrong")
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
        connection.send(check)
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
                connection.lose()
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
        connection = self.refuse(bearer(b"x"))
        connection.send(request(b"/lamp.bin", bearer(FLEET)))
        self.assertEqual(connection.received, b"")
        self.door.pass_time(5)
        self.refused(read_only_answer(connection.received), 401, "token-wrong")
        self.assertTrue(connection.transport.disconnecting)
