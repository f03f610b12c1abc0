"""Tests of who is let in: tokens that are right and wrong, browsers and other sites, and names of hosts."""

from __future__ import annotations

import json
import re
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ota_server.operator.scopes import Scope
from ota_server.operator.sessions import IDLE, LONGEST, MAX_SESSIONS, Sessions, is_asked_rightly, is_own
from ota_server.web import slowing
from tests.operator.door import READER, TOKEN, OperatorDoor, bearer, make_head, make_token, read_problem
from tests.operator.test_door import JSON, OPERATIONS, DoorCase
from tests.web.answers import Answer
from tests.web.gating import basic

HERE = b"127.0.0.1:8001"
OWN = (b"Origin: http://127.0.0.1:8001", b"Sec-Fetch-Site: same-origin")
FORM = b"Content-Type: application/x-www-form-urlencoded"
THING = b"/api/v1/things/a"


class TokenTests(DoorCase):
    """Tokens that programs bring."""

    def test_ways(self) -> None:
        """A token may be brought as Bearer, or as the password of Basic with any name."""
        for field in (bearer(), basic(TOKEN), basic(TOKEN, b"anybody"), b"authorization: bearer " + TOKEN):
            self.assertEqual(self.door.ask(b"GET", THING, field).code, 200, field)

    def test_wrong(self) -> None:
        """Nothing, and anything but the token, is refused with the same words, and one challenge."""
        answer = self.door.ask(b"GET", THING)
        self.assertEqual(read_problem(answer), (401, "token-needed"))
        self.assertEqual(answer.get(b"WWW-Authenticate"), b'Bearer realm="ota-server"')
        bodies = set()
        for field in (
            b"Authorization: Bearer wrong",
            b"Authorization: Bearer ",
            b"Authorization:",
            b"Authorization: Basic !",
            bearer(TOKEN[:-1]),
            bearer(TOKEN[:16]),
            bearer(TOKEN + b"x"),
            bearer(TOKEN.upper()),
            basic(b""),
            basic(b"", TOKEN),
            b"Authorization: Digest " + TOKEN,
            bearer() + b"\r\n" + bearer(),
            b"Authorization: Bearer " + b"x" * 2000,
        ):
            self.door.clock.advance(300)
            answer = self.door.ask(b"GET", THING, field)
            self.assertEqual(read_problem(answer), (401, "token-wrong"), field)
            self.assertEqual(answer.get(b"WWW-Authenticate"), b'Bearer realm="ota-server", error="invalid_token"')
            bodies.add(answer.body)
        self.assertEqual(len(bodies), 1)

    def test_query(self) -> None:
        """A token in the address counts for nothing, and isn't repeated."""
        answer = self.door.ask(b"GET", THING + b"?token=" + TOKEN)
        self.assertEqual(read_problem(answer), (401, "token-needed"))
        self.assertNotIn(TOKEN, answer.head + answer.body)

    def test_nothing_is_told_without(self) -> None:
        """Without a token an address that is there is answered as one that isn't."""
        there, elsewhere = (self.door.ask(b"GET", path) for path in (THING, b"/api/v1/nothing"))
        self.assertEqual((there.head, there.body), (elsewhere.head, elsewhere.body))
        self.assertEqual(read_problem(self.door.ask(b"GET", b"/api/v1/openapi.json")), (401, "token-needed"))

    def test_other_scope(self) -> None:
        """Each scope allows its own operations alone."""
        self.door.tokens.add(make_token("publisher", b"publishing-token-0123456789abcdef", [Scope.PUBLISH]))
        publisher = bearer(b"publishing-token-0123456789abcdef")
        self.assertEqual(read_problem(self.door.ask(b"GET", THING, publisher)), (403, "wrong-scope"))
        self.assertEqual(read_problem(self.door.ask(b"POST", THING, bearer(READER), JSON)), (403, "wrong-scope"))
        self.assertEqual(self.door.ask(b"GET", b"/api/v1/session", publisher).code, 200)

    def test_removed(self) -> None:
        """A token that is taken away is wrong from the next request on, over the same connection, too."""
        connection = self.door.connect()
        connection.send(make_head(b"GET", THING, bearer(READER)))
        token = self.door.tokens.get("reader")
        assert token is not None
        self.door.tokens.remove(token)
        connection.send(make_head(b"GET", THING, bearer(READER)))
        self.assertEqual(re.findall(rb"^HTTP/1.1 (\d+)", connection.received, re.MULTILINE), [b"200", b"401"])

    def test_slower_and_slower(self) -> None:
        """Wrong tokens are answered later and later, and the right one at once."""
        waits = []
        for _ in range(8):
            connection = self.door.connect()
            connection.send(make_head(b"GET", THING, bearer(b"wrong")))
            start = self.door.clock.seconds()
            while not connection.received:
                self.door.clock.advance(0.25)
            waits.append(self.door.clock.seconds() - start)
        self.assertEqual(self.door.ask(b"GET", THING, bearer()).code, 200)
        self.assertEqual(waits[:3], [0.0, 0.0, 0.0])
        self.assertEqual(waits, sorted(waits))
        self.assertGreater(waits[-1], 0.0)

    def test_many_wrong(self) -> None:
        """Of 10,000 wrong tries at once few wait, the others are sent away, and the right token gets in."""
        # The clock of tests sorts all that waits at each call.
        self.patch(slowing, "MAX_WAITING_OF_ONE", 20)
        connections = []
        for number in range(10_000):
            connection = self.door.connect()
            connection.send(make_head(b"GET", THING, bearer(b"wrong-%d" % number)))
            if connection.transport.disconnecting:
                connection.lose()
            connections.append(connection)
        self.assertEqual(self.door.ask(b"GET", THING, bearer()).code, 200)
        self.door.clock.advance(slowing.LONGEST + 1)
        codes = [connection.received[9:12] for connection in connections]
        counts = {code: codes.count(code) for code in set(codes)}
        self.assertEqual(set(counts), {b"401", b"429"})
        self.assertEqual(counts[b"401"], slowing.AT_ONCE + 20)
        self.door._connections = [connection for connection in connections if not connection.transport.disconnecting]
        self.assertEqual(self.door.site.slowdown.waiting, 0)

    def test_client_that_leaves(self) -> None:
        """A client that doesn't wait for its refusal takes nobody's place."""
        for _ in range(10):
            connection = self.door.connect()
            connection.send(make_head(b"GET", THING, bearer(b"wrong")))
            connection.lose()
        self.door._connections.clear()
        self.assertEqual(self.door.site.slowdown.waiting, 0)
        self.assertEqual([call for call in self.door.clock.getDelayedCalls() if call.active()], [])

    def test_nothing_of_tokens_in_texts(self) -> None:
        """No text of a request, a session or a token shows what is secret."""
        connection = self.door.connect()
        connection.send(make_head(b"GET", THING + b"?token=" + TOKEN, bearer())[:-2])
        token = self.door.tokens.get("admin")
        assert token is not None
        identity = self.door.site.sessions.begin(token, 0.0)
        session = self.door.site.sessions.find(identity.encode(), 0.0)
        assert session is not None
        shown = repr(session) + repr(session.token) + repr(connection.channel.requests)
        self.assertNotIn(session.csrf, shown)
        self.assertNotIn(TOKEN.decode(), shown)
        self.assertNotIn(session.token.digest.hex(), shown)


class BrowserCase(DoorCase):
    """A door with a browser in front of it, which keeps a cookie."""

    def log_in(self, token: bytes = TOKEN, *fields: bytes) -> Answer:
        """Send the form with a token."""
        answer = self.door.ask(b"POST", b"/login", FORM, *(fields or OWN), body=b"token=" + token)
        for name, value in answer.fields:
            if name == b"set-cookie":
                self.cookie = b"Cookie: " + value.partition(b";")[0]
        return answer

    def csrf(self) -> bytes:
        """Return what writes have to bring."""
        answer = self.door.ask(b"GET", b"/api/v1/session", self.cookie)
        token: str = json.loads(answer.body)["csrf_token"]
        return b"X-CSRF-Token: " + token.encode()

    def write(self, *fields: bytes) -> Any:
        """Send a write with the cookie; return status and kind of problem, or 200."""
        answer = self.door.ask(b"POST", THING, self.cookie, JSON, *fields, body=b'{"version": "1"}')
        return 200 if answer.code == 200 else read_problem(answer)


class BrowserTests(BrowserCase):
    """Sessions."""

    def test_log_in(self) -> None:
        """The right token gets a cookie that no script reads and no other site sends, and the first page."""
        answer = self.log_in()
        self.assertEqual((answer.code, answer.get(b"Location")), (303, b"/"))
        cookie = answer.get(b"Set-Cookie")
        assert cookie is not None
        self.assertRegex(cookie, rb"\Aota-8001=[\w-]{43}; Path=/; Max-Age=604800; HttpOnly; SameSite=Strict\Z")
        self.assertNotIn(TOKEN, answer.head + answer.body)
        page = self.door.ask(b"GET", b"/", self.cookie)
        self.assertEqual((page.code, b"<strong>admin</strong>" in page.body), (200, True))
        self.assertEqual(self.door.ask(b"GET", THING, self.cookie).code, 200)

    def test_pages_work_without_scripts(self) -> None:
        """The page to log in is a plain form; what it loads comes from here, and nothing stands in the page itself."""
        page = self.door.ask(b"GET", b"/login")
        self.assertEqual(page.get(b"Content-Type"), b"text/html; charset=utf-8")
        self.assertIn(b'<form method="post" action="/login">', page.body)
        self.assertNotRegex(page.body, rb"<style|\son\w+=|style=|javascript:|<script>")
        for address in re.findall(rb'(?:src|href)="([^"]+)"', page.body):
            self.assertEqual(self.door.ask(b"GET", address).code, 200)
        self.assertEqual(self.door.ask(b"GET", b"/").get(b"Location"), b"/login")

    def test_wrong_token(self) -> None:
        """A wrong token gets the page again, without a cookie and without a word of it; slower and slower."""
        answer = self.log_in(b"wrong<b>")
        self.assertEqual((answer.code, answer.get(b"Set-Cookie")), (403, None))
        self.assertIn(b"This token is wrong.", answer.body)
        self.assertNotIn(b"wrong<b>", answer.body)
        self.assertIsNone(answer.get(b"WWW-Authenticate"))
        for _ in range(2):
            self.log_in(b"")
        connection = self.door.connect()
        connection.send(make_head(b"POST", b"/login", FORM, *OWN, b"Content-Length: 11") + b"token=wrong")
        self.assertEqual(connection.received, b"")
        self.door.clock.advance(1)
        self.assertIn(b"HTTP/1.1 403 ", connection.received)
        self.assertEqual(self.log_in().code, 303)

    def test_forms(self) -> None:
        """A form of another type, too large, or without a token is refused."""
        self.assertEqual(read_problem(self.door.ask(b"POST", b"/login", JSON, *OWN, body=b"{}")), (415, "wrong-type"))
        large = self.door.ask(b"POST", b"/login", FORM, *OWN, body=b"token=" + b"x" * 9000)
        self.assertEqual(read_problem(large), (413, "too-large"))
        self.assertEqual(self.door.ask(b"POST", b"/login", FORM, *OWN, body=b"x=1").code, 403)
        self.assertEqual(read_problem(self.door.ask(b"PUT", b"/login")), (405, "wrong-method"))

    def test_log_out(self) -> None:
        """After the log-out the cookie is worth nothing, and the browser is told to forget it."""
        self.log_in()
        csrf = self.csrf().partition(b" ")[2]
        answer = self.door.ask(b"POST", b"/logout", self.cookie, FORM, *OWN, body=b"csrf_token=" + csrf)
        self.assertEqual((answer.code, answer.get(b"Location")), (303, b"/login"))
        self.assertIn(b"=; Path=/; Max-Age=0;", answer.get(b"Set-Cookie") or b"")
        self.assertEqual(read_problem(self.door.ask(b"GET", THING, self.cookie)), (401, "token-needed"))

    def test_log_out_by_others(self) -> None:
        """Another site can't log anybody out."""
        self.log_in()
        answer = self.door.ask(b"POST", b"/logout", self.cookie, FORM, *OWN, body=b"csrf_token=x")
        self.assertEqual(read_problem(answer), (403, "wrong-csrf-token"))
        self.assertEqual(self.door.ask(b"GET", THING, self.cookie).code, 200)
        # Without the cookie, which a browser doesn't send from there; nor may it be told to forget it.
        answer = self.door.ask(b"POST", b"/logout", FORM, b"Origin: http://evil.example", body=b"csrf_token=x")
        self.assertEqual((read_problem(answer), answer.get(b"Set-Cookie")), ((403, "foreign-origin"), None))
        answer = self.door.ask(b"POST", b"/logout", FORM, *OWN, body=b"csrf_token=x")
        self.assertEqual((answer.code, answer.get(b"Set-Cookie")), (303, None))

    def test_writes(self) -> None:
        """With a cookie a write needs the session's CSRF token, and a browser that tells it is from here."""
        self.log_in()
        csrf = self.csrf()
        self.assertEqual(self.write(csrf, *OWN), 200)
        self.assertEqual(self.write(csrf, OWN[0]), 200)
        self.assertEqual(self.write(csrf, OWN[1]), 200)
        self.assertEqual(self.write(*OWN), (403, "wrong-csrf-token"))
        self.assertEqual(self.write(b"X-CSRF-Token: wrong", *OWN), (403, "wrong-csrf-token"))
        self.assertEqual(self.write(csrf), (403, "foreign-origin"))
        for foreign in (
            b"Origin: http://evil.example",
            b"Origin: null",
            b"Origin: http://127.0.0.1:8002",
            b"Origin: http://127.0.0.1:8001.evil.example",
            b"Sec-Fetch-Site: cross-site",
            b"Sec-Fetch-Site: same-site",
            b"Sec-Fetch-Site: none",
        ):
            self.assertEqual(self.write(csrf, foreign), (403, "foreign-origin"), foreign)

    def test_other_session(self) -> None:
        """The CSRF token of another session counts for nothing."""
        self.log_in()
        csrf = self.csrf()
        self.log_in()
        self.assertEqual(self.write(csrf, *OWN), (403, "wrong-csrf-token"))

    def test_other_site_with_token(self) -> None:
        """A browser that was made to remember a token writes nothing for another site."""
        fields = (basic(TOKEN), JSON, b"Sec-Fetch-Site: cross-site")
        answer = self.door.ask(b"POST", THING, *fields, body=b'{"version": "1"}')
        self.assertEqual(read_problem(answer), (403, "foreign-origin"))

    def test_log_in_for_others(self) -> None:
        """Another site can't log a browser in with its own token."""
        answer = self.log_in(TOKEN, b"Origin: http://evil.example")
        self.assertEqual((answer.code, answer.get(b"Set-Cookie")), (403, None))

    def test_ends(self) -> None:
        """A session ends after 12 hours without use, after 7 days in any case, and with its token."""
        self.log_in()
        self.door.clock.advance(IDLE - 1)
        self.assertEqual(self.door.ask(b"GET", THING, self.cookie).code, 200)
        self.door.clock.advance(IDLE + 1)
        self.assertEqual(self.door.ask(b"GET", THING, self.cookie).code, 401)
        self.log_in()
        for _ in range(int(LONGEST / IDLE * 2) + 1):
            self.door.clock.advance(IDLE / 2)
            code = self.door.ask(b"GET", THING, self.cookie).code
        self.assertEqual(code, 401)
        self.log_in(READER)
        token = self.door.tokens.get("reader")
        assert token is not None
        self.door.tokens.remove(token)
        self.assertEqual(self.door.ask(b"GET", THING, self.cookie).code, 401)

    def test_fixation(self) -> None:
        """A log-in makes a new session, whatever cookie comes with it, and ends the one before."""
        self.log_in()
        before = self.cookie
        self.log_in(TOKEN, before, *OWN)
        self.assertNotEqual(self.cookie, before)
        self.assertEqual(self.door.ask(b"GET", THING, before).code, 401)

    def test_cookie_twice(self) -> None:
        """Two cookies of the name, one of them set by somebody else, count for nothing."""
        self.log_in()
        name = self.cookie.partition(b"=")[0]
        self.assertEqual(self.door.ask(b"GET", THING, self.cookie, name + b"=x").code, 401)

    def test_secure(self) -> None:
        """With TLS the cookie is for TLS alone, and for this host alone; so is what tells where a write is from."""
        door = OperatorDoor(self, OPERATIONS, secure=True)
        answer = door.ask(b"POST", b"/login", FORM, b"Sec-Fetch-Site: same-origin", body=b"token=" + TOKEN)
        cookie = answer.get(b"Set-Cookie") or b""
        self.assertTrue(cookie.startswith(b"__Host-ota-"), cookie)
        self.assertTrue(cookie.endswith(b"; SameSite=Strict; Secure"), cookie)
        self.assertTrue(is_own({"origin": "https://a.example", "host": "A.example:443"}, secure=True))
        self.assertFalse(is_own({"origin": "http://a.example", "host": "a.example"}, secure=True))

    def test_bounded(self) -> None:
        """There are at most so many sessions: the oldest ends for a new one."""
        sessions = Sessions(lambda token: True)
        token = make_token("x", TOKEN)
        first = sessions.begin(token, 0.0)
        for _ in range(MAX_SESSIONS):
            last = sessions.begin(token, 0.0)
        self.assertEqual(len(sessions), MAX_SESSIONS)
        self.assertIsNone(sessions.find(first.encode(), 0.0))
        self.assertIsNotNone(sessions.find(last.encode(), 0.0))


class HostTests(DoorCase):
    """Names by which the server is asked: a page of another name may have been led here (DNS rebinding)."""

    def test_over_http(self) -> None:
        """At the loopback this machine's own names work, with any port, and no other."""
        for host in (b"127.0.0.1:8001", b"localhost:8001", b"LOCALHOST", b"[::1]:8001", b"127.0.0.1:9999"):
            self.assertEqual(self.door.ask(b"GET", THING, bearer(), host=host).code, 200, host)
        for host in (b"evil.example", b"evil.example:8001", b"192.168.1.5:8001", b"127.0.0.1.evil.example", b"", b"["):
            answer = self.door.ask(b"GET", THING, bearer(), host=host)
            self.assertEqual(read_problem(answer), (421, "wrong-host"), host)
            self.assertEqual(read_problem(self.door.ask(b"GET", b"/login", host=host)), (421, "wrong-host"))
        answer = self.door.ask(b"GET", THING, bearer(), b"Host: localhost")
        self.assertEqual(read_problem(answer), (400, "bad-host"))

    def test_absolute(self) -> None:
        """Where a proxy asks with the whole address, the host in that one counts."""
        whole = b"http://localhost:8001" + THING
        self.assertEqual(self.door.ask(b"GET", whole, bearer(), host=b"evil.example").code, 200)
        answer = self.door.ask(b"GET", b"http://evil.example" + THING, bearer())
        self.assertEqual(read_problem(answer), (421, "wrong-host"))

    def test_named(self) -> None:
        """A name that the operator gave works, too."""
        self.door.site.hosts = frozenset(["Ota.example"])
        self.assertEqual(self.door.ask(b"GET", THING, bearer(), host=b"ota.example:8001").code, 200)
        self.assertEqual(self.door.ask(b"GET", THING, bearer(), host=b"evil.example").code, 421)


class RightNameTests(SynchronousTestCase):
    """The same as a table."""

    def test_table(self) -> None:
        """What is asked for, at which address, with which names, with TLS or without."""
        for host, address, names, secure, right in (
            ("anything.example", None, (), False, True),
            ("ota.example", "192.168.1.5", (), False, True),
            ("ota.example", "192.168.1.5", ("ota.example",), False, True),
            ("evil.example", "192.168.1.5", ("ota.example",), False, False),
            ("192.168.1.5:8001", "192.168.1.5", ("ota.example",), False, True),
            ("192.168.1.6:8001", "192.168.1.5", ("ota.example",), False, False),
            ("localhost", "192.168.1.5", ("ota.example",), False, False),
            ("evil.example", "127.0.0.1", (), True, True),
            ("localhost", "::1", (), False, True),
            ("[::1]:8001", "::1", (), False, True),
            ("evil.example", "::1", (), False, False),
        ):
            self.assertIs(is_asked_rightly(host, address, names, secure=secure), right, (host, address, names))
