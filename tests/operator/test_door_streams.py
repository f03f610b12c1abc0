"""Tests of bodies that are streams: who may send one, at which pace, and what the client sees of a refusal."""

from __future__ import annotations

import re

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from ota_server.operator.calls import Answer, BodySink, Call, Operation, Parameter, Place, Problem
from ota_server.operator.channel import LINGER, LINGER_BYTES, STREAM_TIME
from ota_server.operator.scopes import Scope
from ota_server.operator.site import IDLE_TIME
from tests.operator.door import READER, OperatorConnection, OperatorDoor, bearer, make_head

LIMIT = 100_000
PATH = b"/api/v1/files/lamp-1.2.3.bin"


class Sink:
    """Keeps what it is given; the test decides when there is room for more."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.rooms: list[Deferred[None]] = []
        self.slow = False
        self.ended = ""
        self.problem: Problem | None = None

    def write(self, data: bytes) -> Deferred[None] | None:
        """Take a piece."""
        self.pieces.append(data)
        if self.problem is not None:
            raise self.problem
        if not self.slow:
            return None
        room: Deferred[None] = Deferred()
        self.rooms.append(room)
        return room

    async def finished(self) -> Answer:
        """Answer how much there was."""
        self.ended += "finished"
        return Answer({"size": sum(map(len, self.pieces))}, 201)

    def failed(self) -> None:
        """Note it."""
        self.ended += "failed"

    def make_room(self) -> None:
        """Let the next piece come."""
        self.rooms.pop(0).callback(None)


class StreamTests(SynchronousTestCase):
    """An operation that takes a stream."""

    def setUp(self) -> None:
        """Open the door."""
        self.sink = Sink()
        self.calls: list[Call] = []
        self.opening: Deferred[None] | None = None
        self.refusal: Problem | None = None
        name = Parameter("file", Place.PATH, "A file.")
        self.door = OperatorDoor(
            self,
            [
                Operation(
                    "put",
                    "PUT",
                    "/files/{file}",
                    Scope.PUBLISH,
                    "Put.",
                    None,
                    {201: {}},
                    [name],
                    receive=self.receive,
                    max_body=LIMIT,
                )
            ],
        )

    async def receive(self, call: Call) -> BodySink:
        """Decide on a call as the test wants it."""
        self.calls.append(call)
        if self.opening is not None:
            await self.opening
        if self.refusal is not None:
            raise self.refusal
        return self.sink

    def begin(self, *fields: bytes, token: bytes | None = None) -> OperatorConnection:
        """Return a connection over which the head of an upload came."""
        connection = self.door.connect()
        brought = bearer() if token is None else bearer(token)
        connection.send(make_head(b"PUT", PATH, brought, *fields))
        return connection

    def codes(self, connection: OperatorConnection) -> list[int]:
        """Return the statuses of all answers."""
        return [int(code) for code in re.findall(rb"^HTTP/1.1 (\d+) ", connection.received, re.MULTILINE)]

    def test_whole(self) -> None:
        """A body reaches the sink in order, whether it has a length or comes in chunks."""
        connection = self.begin(b"Content-Length: 6")
        connection.send(b"abc", b"def")
        self.assertEqual((b"".join(self.sink.pieces), self.sink.ended), (b"abcdef", "finished"))
        self.assertEqual((self.codes(connection), self.calls[0].length), ([201], 6))
        self.assertEqual(self.calls[0]["file"], "lamp-1.2.3.bin")

        self.sink = Sink()
        connection = self.begin(b"Transfer-Encoding: chunked")
        connection.send(b"3\r\nabc\r\n3\r\nde", b"f\r\n0\r\n", b"\r\n")
        self.assertEqual((b"".join(self.sink.pieces), self.sink.ended), (b"abcdef", "finished"))
        self.assertEqual((self.codes(connection), self.calls[1].length), ([201], None))

    def test_empty(self) -> None:
        """An empty body is a body, and the connection goes on."""
        connection = self.begin(b"Content-Length: 0")
        connection.send(make_head(b"PUT", PATH, bearer(), b"Content-Length: 0"))
        self.assertEqual((self.sink.pieces, self.sink.ended), ([], "finishedfinished"))
        self.assertEqual(self.codes(connection), [201, 201])

    def test_pace(self) -> None:
        """While the sink has no room nothing is read, and the next piece waits."""
        self.sink.slow = True
        connection = self.begin(b"Content-Length: 9")
        self.assertTrue(connection.reading)
        connection.send(b"abc")
        self.assertFalse(connection.reading)
        # What was read before the pause may come all the same.
        connection.send(b"def")
        self.assertEqual(self.sink.pieces, [b"abc"])
        self.sink.make_room()
        self.assertEqual(self.sink.pieces, [b"abc", b"def"])
        self.assertFalse(connection.reading)
        self.sink.make_room()
        self.assertTrue(connection.reading)
        connection.send(b"ghi")
        self.assertEqual(self.sink.ended, "")
        self.sink.make_room()
        self.assertEqual((self.sink.ended, self.codes(connection)), ("finished", [201]))

    def test_slow_disk(self) -> None:
        """A client isn't taken for silent while the server doesn't read; afterwards it is."""
        self.sink.slow = True
        connection = self.begin(b"Content-Length: 9")
        connection.send(b"abc")
        self.door.clock.advance(IDLE_TIME * 3)
        self.assertFalse(connection.transport.disconnecting)
        self.sink.make_room()
        self.door.clock.advance(IDLE_TIME + 1)
        self.assertTrue(connection.transport.disconnecting)

    def test_slow_client(self) -> None:
        """A client that sends a little now and then is dropped in the end."""
        connection = self.begin(b"Content-Length: 90000")
        for _ in range(int(STREAM_TIME / 30)):
            connection.send(b"a")
            self.door.clock.advance(30)
        self.door.clock.advance(30)
        self.assertTrue(connection.transport.aborted)
        connection.lose()
        self.assertEqual(self.sink.ended, "failed")

    def test_decision_before_body(self) -> None:
        """Nothing is read, and no leave given, before the operation has decided."""
        self.opening = Deferred()
        connection = self.begin(b"Content-Length: 6", b"Expect: 100-continue")
        self.assertEqual((connection.received, connection.reading), (b"", False))
        self.opening.callback(None)
        self.assertEqual(connection.received, b"HTTP/1.1 100 Continue\r\n\r\n")
        self.assertTrue(connection.reading)
        connection.send(b"abcdef")
        self.assertEqual(self.codes(connection), [100, 201])

    def test_body_before_decision(self) -> None:
        """A whole body that comes with its head waits for the decision, and gets no leave that it didn't wait for."""
        self.opening = Deferred()
        connection = self.begin(b"Content-Length: 6", b"Expect: 100-continue")
        connection.send(b"abcdef")
        self.opening.callback(None)
        self.assertEqual((b"".join(self.sink.pieces), self.codes(connection)), (b"abcdef", [201]))

    def assert_refused_unread(self, connection: OperatorConnection, code: int) -> None:
        """Check that a client got its answer, and time to read it while it still sends."""
        self.assertEqual(self.codes(connection), [code])
        self.assertIn(b"\r\nConnection: close\r\n", connection.received)
        self.assertTrue(connection.transport.half_closed)
        self.assertTrue(connection.reading)
        connection.send(b"x" * 1000, b"PUT / HTTP/1.1\r\n\r\n")
        self.assertEqual(self.codes(connection), [code])
        self.assertFalse(connection.transport.aborted)
        self.door.clock.advance(LINGER + 1)
        self.assertTrue(connection.transport.aborted)

    def test_refusals_before_body(self) -> None:
        """Wrong token, other scope, too large, and what the operation itself refuses: none is read."""
        expect = b"Expect: 100-continue"
        for fields, token, code in (
            ([b"Content-Length: 90000"], b"wrong", 401),
            ([b"Content-Length: 90000"], READER, 403),
            ([b"Content-Length: 100001"], None, 413),
            ([b"Content-Length: 90000"], None, 409),
            ([b"Content-Length: 10", expect], b"wrong", 401),
            ([b"Content-Length: 10", expect], READER, 403),
            ([b"Content-Length: 100001", expect], None, 413),
            ([b"Content-Length: 10", expect], None, 409),
            ([b"Transfer-Encoding: chunked"], READER, 403),
        ):
            self.refusal = Problem(409, "exists", "It is there") if code == 409 else None
            self.assert_refused_unread(self.begin(*fields, token=token), code)
        self.assertEqual((self.sink.pieces, self.sink.ended), ([], ""))

    def test_refusal_of_short_body(self) -> None:
        """A short body is read to its end, so that the connection can go on."""
        connection = self.begin(b"Content-Length: 10", token=READER)
        self.assertEqual(connection.received, b"")
        connection.send(b"0123456789")
        self.assertEqual((self.codes(connection), connection.transport.disconnecting), ([403], False))

    def test_too_large_in_chunks(self) -> None:
        """A body without a length is refused once it is too large, and the sink is told."""
        connection = self.begin(b"Transfer-Encoding: chunked")
        for _ in range(7):
            connection.send(b"4000\r\n" + b" " * 0x4000 + b"\r\n")
        self.assertEqual(self.sink.ended, "failed")
        self.assertEqual(sum(map(len, self.sink.pieces)), 6 * 0x4000)
        self.assert_refused_unread(connection, 413)

    def test_sink_fails(self) -> None:
        """What a sink refuses is answered at once, and no piece follows."""
        self.sink.problem = Problem(507, "disk-full", "The disk is full")
        connection = self.begin(b"Content-Length: 90000")
        connection.send(b"abc")
        self.assertEqual((self.sink.pieces, self.sink.ended), ([b"abc"], "failed"))
        self.assert_refused_unread(connection, 507)

    def test_sink_fails_later(self) -> None:
        """The same where it takes a while to fail, also behind the last piece."""
        self.sink.slow = True
        connection = self.begin(b"Content-Length: 3")
        connection.send(b"abc")
        self.sink.rooms[0].errback(Problem(507, "disk-full", "The disk is full"))
        self.assertEqual((self.sink.ended, self.codes(connection)), ("failed", [507]))
        self.assertFalse(connection.transport.disconnecting)

    def test_client_leaves(self) -> None:
        """The sink is told once of a client that leaves, in each state."""
        connection = self.begin(b"Content-Length: 90000")
        connection.lose()
        self.assertEqual(self.sink.ended, "failed")

        self.sink = Sink()
        self.sink.slow = True
        connection = self.begin(b"Content-Length: 90000")
        connection.send(b"abc")
        connection.lose()
        self.sink.make_room()
        self.assertEqual((self.sink.ended, self.sink.pieces), ("failed", [b"abc"]))

        self.sink, self.opening = Sink(), Deferred()
        connection = self.begin(b"Content-Length: 90000")
        connection.lose()
        self.opening.callback(None)
        self.assertEqual(self.sink.ended, "failed")

    def test_revoked(self) -> None:
        """An upload ends with its token."""
        connection = self.begin(b"Content-Length: 90000")
        token = self.door.tokens.get("admin")
        assert token is not None
        self.door.tokens.remove(token)
        self.assertTrue(connection.transport.aborted)
        connection.lose()
        self.assertEqual(self.sink.ended, "failed")

    def test_flood(self) -> None:
        """A client that goes on sending what nobody wants is dropped."""
        connection = self.begin(b"Content-Length: 90000", token=READER)
        piece = b"x" * (LINGER_BYTES // 64)
        for _ in range(65):
            connection.send(piece)
        self.assertTrue(connection.transport.aborted)
