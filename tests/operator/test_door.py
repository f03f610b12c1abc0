"""Tests of the operator's door: who is let in, and what calls may look like."""

from __future__ import annotations

import json
import re
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from ota_server.operator.calls import Answer, Call, Operation, Parameter, Place, Problem
from ota_server.operator.scopes import Scope
from ota_server.operator.site import IDLE_TIME
from tests.operator.door import READER, TOKEN, OperatorDoor, bearer, make_head, read_problem


async def echo(call: Call) -> Answer:
    """Answer what the call was made of."""
    return Answer({"operator": call.operator.name, "values": dict(call.values), "body": call.body})


async def fail(call: Call) -> Answer:
    """Fail as no operation should."""
    raise RuntimeError("the secret inside")


async def refuse(call: Call) -> Answer:
    """Refuse with a member of its own."""
    raise Problem(409, "no-ledger", "There is no ledger", "start with one", why="none")


THING = Parameter("thing", Place.PATH, "A thing.")
COUNT = Parameter("count", Place.QUERY, "How many.", int, {"type": "integer"}, default=7)
BODY = {
    "type": "object",
    "properties": {"version": {"type": "string", "minLength": 1}, "downgrade": {"type": "boolean"}},
    "required": ["version"],
}
OPERATIONS = (
    Operation("get", "GET", "/things/{thing}", Scope.READ, "Get.", echo, {200: {}}, [THING, COUNT]),
    Operation("set", "POST", "/things/{thing}", Scope.OPERATE, "Set.", echo, {200: {}}, [THING], BODY),
    Operation("fail", "GET", "/failure", Scope.READ, "Fail.", fail, {200: {}}),
    Operation("refuse", "GET", "/refusal", Scope.READ, "Refuse.", refuse, {200: {}}, problems=[409]),
)
JSON = b"Content-Type: application/json"
THING_PATH = b"/api/v1/things/a"


class DoorCase(SynchronousTestCase):
    """A door with some operations."""

    def setUp(self) -> None:
        """Open it."""
        self.door = OperatorDoor(self, OPERATIONS)

    def post(self, body: bytes, *fields: bytes, path: bytes = b"/api/v1/things/a") -> Any:
        """Return the answer to a body."""
        return self.door.ask(b"POST", path, bearer(), *(fields or (JSON,)), body=body)


class CallTests(DoorCase):
    """Calls that are as they should be."""

    def test_get(self) -> None:
        """A call has its parameters, with those left out as they are by default."""
        answer = self.door.get(b"/api/v1/things/a%3Ab?count=3")
        self.assertEqual(answer, {"operator": "admin", "values": {"thing": "a:b", "count": 3}, "body": None})
        self.assertEqual(self.door.get(b"/api/v1/things/a")["values"], {"thing": "a", "count": 7})

    def test_head(self) -> None:
        """HEAD is answered as GET, without the body."""
        with_body = self.door.ask(b"GET", b"/api/v1/things/a", bearer())
        without = self.door.ask(b"HEAD", b"/api/v1/things/a", bearer())
        self.assertEqual((without.head, without.body), (with_body.head, b""))

    def test_body(self) -> None:
        """A body is read, also in several segments."""
        body = b'{"version": "1.2.3"}'
        self.assertEqual(json.loads(self.post(body).body)["body"], {"version": "1.2.3"})
        connection = self.door.connect()
        head = make_head(b"POST", b"/api/v1/things/a", bearer(), JSON, b"Content-Length: %d" % len(body))
        connection.send(head, *[bytes([byte]) for byte in body])
        self.assertIn(b'{"version": "1.2.3"}', connection.received)

    def test_expectation(self) -> None:
        """A client that waits for leave to send its body gets that."""
        connection = self.door.connect()
        head = make_head(b"POST", b"/api/v1/things/a", bearer(), JSON, b"Content-Length: 15", b"Expect: 100-continue")
        connection.send(head)
        self.assertEqual(connection.received, b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.send(b'{"version":"1"}')
        self.assertIn(b"HTTP/1.1 200 OK\r\n", connection.received)

    def test_connection_goes_on(self) -> None:
        """One connection serves several calls, also after refusals, and such as came before they were asked for."""
        connection = self.door.connect()
        get = make_head(b"GET", b"/api/v1/things/a", bearer())
        connection.send(get + make_head(b"GET", b"/api/v1/nothing", bearer()) + get)
        codes = re.findall(rb"^HTTP/1.1 (\d+)", connection.received, re.MULTILINE)
        self.assertEqual(codes, [b"200", b"404", b"200"])


class ProblemTests(DoorCase):
    """Calls that aren't as they should be."""

    def refused(self, code: int, kind: str, method: bytes, path: bytes, *fields: bytes, body: bytes = b"") -> Any:
        """Check what a call is refused with; return the problem."""
        answer = self.door.ask(method, path, *fields, body=body)
        self.assertEqual(read_problem(answer), (code, kind))
        return json.loads(answer.body)

    def test_addresses(self) -> None:
        """What isn't there is 404, and a method that doesn't work 405 with those that do."""
        self.refused(404, "unknown-address", b"GET", b"/api/v1/nothing", bearer())
        self.refused(404, "unknown-address", b"GET", b"/api/v1/things/a/b", bearer())
        self.refused(404, "unknown-address", b"GET", b"/nothing", bearer())
        answer = self.door.ask(b"DELETE", b"/api/v1/things/a", bearer())
        self.assertEqual((answer.code, answer.get(b"Allow")), (405, b"GET, HEAD, POST"))

    def test_traversal(self) -> None:
        """Slashes and control characters in names lead nowhere."""
        for name in (b"..%2f..%2fetc", b"a%00", b"%0a", b"%ff", b"a%2Fb"):
            self.refused(404, "unknown-address", b"GET", b"/api/v1/things/" + name, bearer())

    def test_parameters(self) -> None:
        """A parameter that is unknown, there twice, or can't be read is named."""
        for query in (b"x=1", b"count=1&count=2", b"count=many", b"count", b"count=%ff", b"="):
            answer = self.door.ask(b"GET", b"/api/v1/things/a?" + query, bearer())
            self.assertEqual(answer.code, 400, query)
        problem = self.refused(400, "bad-parameter", b"GET", b"/api/v1/things/a?token=" + TOKEN, bearer())
        self.assertEqual(problem["parameter"], "token")

    def test_bodies(self) -> None:
        """A body of another type, no JSON, or with members that aren't there is refused with where."""
        self.assertEqual(read_problem(self.post(b"version=1", b"Content-Type: text/plain")), (415, "wrong-type"))
        for body, kind, where in (
            (b'{"version": ', "bad-json", "line 1, column 13"),
            (b'{"version": "1", "version": "2"}', "bad-json", "twice"),
            (b'{"version": NaN}', "bad-json", "NaN"),
            (b'{"version": "\xff"}', "bad-json", "byte 13"),
            (b"[" * 60000, "bad-json", ""),
            (b"[]", "bad-body", "the body: has to be of type object"),
            (b"{}", "bad-body", "version: is missing"),
            (b'{"version": 1}', "bad-body", "version: has to be of type string"),
            (b'{"version": ""}', "bad-body", "version: needs at least 1"),
            (b'{"version": "1", "more": 1}', "bad-body", "more: there is no such member"),
            (b'{"version": "1", "downgrade": 1}', "bad-body", "downgrade: has to be of type boolean"),
        ):
            answer = self.post(body)
            self.assertEqual(read_problem(answer), (400, kind), body[:40])
            self.assertIn(where, json.loads(answer.body)["detail"])
        self.refused(400, "body-unexpected", b"GET", b"/api/v1/things/a", bearer(), body=b"{}")

    def test_large_body(self) -> None:
        """A body that is too large is refused before it is read; one without a length, when it gets too large."""
        connection = self.door.connect()
        connection.send(make_head(b"POST", b"/api/v1/things/a", bearer(), JSON, b"Content-Length: 70000"))
        self.assertIn(b"HTTP/1.1 413 ", connection.received)
        chunked = self.door.connect()
        chunked.send(make_head(b"POST", b"/api/v1/things/a", bearer(), JSON, b"Transfer-Encoding: chunked"))
        self.assertEqual(chunked.received, b"")
        for _ in range(5):
            chunked.send(b"4000\r\n" + b" " * 0x4000 + b"\r\n")
        self.assertEqual(chunked.received.count(b"HTTP/1.1 413 "), 1)

    def test_failure(self) -> None:
        """What fails inside is logged, and answered without a word of it."""
        problem = self.refused(500, "internal", b"GET", b"/api/v1/failure", bearer())
        self.assertNotIn("secret", json.dumps(problem))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_own_problem(self) -> None:
        """What an operation refuses with is answered, with its members."""
        self.assertEqual(
            self.refused(409, "no-ledger", b"GET", b"/api/v1/refusal", bearer()),
            {
                "type": "/problems/no-ledger",
                "title": "There is no ledger",
                "status": 409,
                "detail": "start with one",
                "why": "none",
            },
        )

    def test_scope(self) -> None:
        """A token that doesn't allow an operation is told what that needs."""
        problem = self.refused(403, "wrong-scope", b"POST", b"/api/v1/things/a", bearer(READER), JSON, body=b"{}")
        self.assertEqual(problem["needs"], "operate")


class PatienceTests(DoorCase):
    """How long a client may take."""

    def test_silent(self) -> None:
        """A connection without a request is closed, and dropped where even that isn't taken."""
        connection = self.door.connect()
        self.door.clock.advance(IDLE_TIME + 1)
        self.assertTrue(connection.transport.disconnecting)
        self.door.clock.advance(10)
        self.assertTrue(connection.transport.aborted)

    def test_slow_head(self) -> None:
        """A head that comes drop by drop ends the connection."""
        connection = self.door.connect()
        for byte in make_head(b"GET", THING_PATH, bearer()):
            if connection.transport.aborted:
                break
            connection.send(bytes([byte]))
            self.door.clock.advance(1)
        self.assertTrue(connection.transport.aborted)
        self.assertEqual(connection.received, b"")

    def test_slow_body(self) -> None:
        """So does a small body."""
        connection = self.door.connect()
        connection.send(make_head(b"POST", THING_PATH, bearer(), JSON, b"Content-Length: 1000"))
        for _ in range(40):
            connection.send(b" ")
            self.door.clock.advance(1)
        self.assertTrue(connection.transport.aborted)

    def test_answer_not_taken(self) -> None:
        """A client that doesn't take its last answer is dropped."""
        connection = self.door.connect()
        connection.send(make_head(b"GET", THING_PATH, bearer(), b"Connection: close"))
        self.assertTrue(connection.transport.disconnecting)
        self.door.clock.advance(59)
        self.assertFalse(connection.transport.aborted)
        self.door.clock.advance(2)
        self.assertTrue(connection.transport.aborted)

    def test_slow_calls(self) -> None:
        """A call may take its time, and so may a client between two."""
        waiting: Deferred[None] = Deferred()

        async def wait(call: Call) -> Answer:
            await waiting
            return Answer({})

        operation = Operation("wait", "GET", "/wait", Scope.READ, "Wait.", wait, {200: {}})
        door = OperatorDoor(self, [operation])
        connection = door.connect()
        connection.send(make_head(b"GET", b"/api/v1/wait", bearer()))
        door.clock.advance(1000)
        waiting.callback(None)
        self.assertIn(b"HTTP/1.1 200 OK", connection.received)
        door.clock.advance(IDLE_TIME - 1)
        connection.send(make_head(b"GET", b"/api/v1/session", bearer()))
        self.assertEqual(connection.received.count(b"HTTP/1.1 200 OK"), 2)
        self.assertFalse(connection.transport.disconnecting)

    def test_client_leaves(self) -> None:
        """A client that doesn't wait for its answer is no trouble, whatever becomes of the call."""
        for outcome in (None, RuntimeError("late")):
            waiting: Deferred[None] = Deferred()

            async def wait(call: Call, waiting: Deferred[None] = waiting) -> Answer:
                await waiting
                return Answer({})

            door = OperatorDoor(self, [Operation("wait", "GET", "/wait", Scope.READ, "Wait.", wait, {200: {}})])
            connection = door.connect()
            connection.send(make_head(b"GET", b"/api/v1/wait", bearer()))
            connection.lose()
            door._connections.clear()
            if outcome is None:
                waiting.callback(None)
            else:
                waiting.errback(outcome)
            self.assertEqual(connection.received, b"")
            self.assertEqual([call for call in door.clock.getDelayedCalls() if call.active()], [])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_large_head(self) -> None:
        """A head that is too large, or has too many fields, is refused."""
        for fields in ([b"X: " + b"x" * 20000], [b"X: x"] * 200):
            connection = self.door.connect()
            connection.send(make_head(b"GET", THING_PATH, bearer(), *fields))
            self.assertIn(b"HTTP/1.1 400 ", connection.received)
            self.assertTrue(connection.transport.disconnecting)

    def test_no_http(self) -> None:
        """What is no HTTP gets 400 with a length; two lengths that differ do, too."""
        for data in (
            b"\x16\x03\x01\r\n\r\n",
            b"GET\r\n\r\n",
            make_head(b"POST", THING_PATH, bearer(), JSON, b"Content-Length: 1", b"Content-Length: 2"),
            make_head(b"POST", THING_PATH, bearer(), JSON, b"Content-Length: 1", b"Transfer-Encoding: chunked"),
            make_head(b"POST", THING_PATH, bearer(), JSON, b"Content-Length: -1"),
            make_head(b"POST", THING_PATH, bearer(), JSON, b"Content-Length: " + b"9" * 5000),
        ):
            connection = self.door.connect()
            connection.send(data)
            self.assertTrue(connection.received.startswith(b"HTTP/1.1 400 "), (data, connection.received))
            self.assertIn(b"Content-Length: 0", connection.received)


class StreamedAnswerTests(SynchronousTestCase):
    """Answers without an end of their own."""

    def setUp(self) -> None:
        """Open a door with one."""
        self.requests: list[Any] = []

        async def begin(call: Call) -> Answer:
            return Answer(stream=self.requests.append)

        async def fail(call: Call) -> Answer:
            def stream(request: Any) -> None:
                request.write(b"begun")
                raise RuntimeError("in the middle")

            return Answer(stream=stream)

        self.door = OperatorDoor(
            self,
            [
                Operation("s", "GET", "/stream", Scope.READ, "Stream.", begin, {200: {}}, media="text/event-stream"),
                Operation("f", "GET", "/failing", Scope.READ, "Fail.", fail, {200: {}}, media="text/event-stream"),
            ],
        )

    def test_stream(self) -> None:
        """It goes on for as long as it is written, in chunks; no time limit ends it."""
        connection = self.door.connect()
        connection.send(make_head(b"GET", b"/api/v1/stream", bearer()))
        [request] = self.requests
        request.write(b"one")
        self.assertIn(b"Content-Type: text/event-stream\r\n", connection.received)
        self.assertIn(b"Transfer-Encoding: chunked\r\n", connection.received)
        self.door.clock.advance(10_000)
        request.write(b"two")
        request.finish()
        self.assertTrue(connection.received.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"))
        connection.send(make_head(b"GET", b"/api/v1/session", bearer()))
        self.assertEqual(connection.received.count(b"HTTP/1.1 200 OK"), 2)

    def test_head(self) -> None:
        """With HEAD it doesn't begin."""
        connection = self.door.connect()
        connection.send(make_head(b"HEAD", b"/api/v1/stream", bearer()))
        self.assertEqual(self.requests, [])
        self.assertTrue(connection.received.endswith(b"\r\n\r\n"))

    def test_failure(self) -> None:
        """One that fails in the middle is broken off, so that nobody takes it for whole."""
        connection = self.door.connect()
        connection.send(make_head(b"GET", b"/api/v1/failing", bearer()))
        self.assertTrue(connection.transport.aborted)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_revoked(self) -> None:
        """With its token a stream ends, and no other does."""
        reading, other = self.door.connect(), self.door.connect()
        reading.send(make_head(b"GET", b"/api/v1/stream", bearer(READER)))
        other.send(make_head(b"GET", b"/api/v1/stream", bearer()))
        token = self.door.tokens.get("reader")
        assert token is not None
        self.door.tokens.remove(token)
        self.assertEqual((reading.transport.aborted, other.transport.aborted), (True, False))

    def test_end_of_the_server(self) -> None:
        """Where the door closes, streams end."""
        connection = self.door.connect()
        connection.send(make_head(b"GET", b"/api/v1/stream", bearer()))
        self.door.site.close()
        self.assertTrue(connection.transport.aborted)


class FieldsTests(DoorCase):
    """What every answer tells browsers."""

    def test_fields(self) -> None:
        """Answers, problems and pages alike bar being framed, sniffed, cached, and scripts from elsewhere."""
        for method, path, fields in (
            (b"GET", THING_PATH, [bearer()]),
            (b"GET", THING_PATH, []),
            (b"GET", b"/login", []),
            (b"GET", b"/", []),
            (b"GET", b"/nothing", []),
            (b"GET", b"/login.js", []),
            (b"OPTIONS", THING_PATH, [bearer()]),
        ):
            answer = self.door.ask(method, path, *fields)
            policy = answer.get(b"Content-Security-Policy") or b""
            self.assertIn(b"default-src 'self'", policy)
            self.assertIn(b"frame-ancestors 'none'", policy)
            self.assertNotIn(b"unsafe", policy)
            self.assertEqual(answer.get(b"X-Content-Type-Options"), b"nosniff")
            self.assertEqual(answer.get(b"Cache-Control"), b"no-store")
            self.assertEqual(answer.get(b"Cross-Origin-Resource-Policy"), b"same-origin")
            self.assertIsNone(answer.get(b"Access-Control-Allow-Origin"))
            self.assertEqual(answer.get(b"Server"), b"ota")
