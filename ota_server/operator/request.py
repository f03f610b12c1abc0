"""One request at the operator's door: what is read of its body, and how it is answered.

The head decides (see `entry.py`). What follows is either JSON of a bounded size, or a stream that a `BodySink` takes,
at its own pace.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request, datetimeToString

from ota_server.operator.calls import MAX_BODY, Answer, BodySink, Json, Problem
from ota_server.operator.channel import STREAM_TIME, OperatorChannel
from ota_server.operator.entry import CallPlan, Entry, Head, VisitPlan
from ota_server.operator.problems import PROBLEM_TYPE, internal, token_wrong, too_large
from ota_server.operator.routing import read_body, read_form
from ota_server.operator.tokens import Token
from ota_server.web.slowing import network_of

if TYPE_CHECKING:
    from ota_server.operator.site import OperatorSite

SERVER = b"ota"

SECURITY_FIELDS = (
    (b"X-Content-Type-Options", b"nosniff"),
    # With `no-referrer` browsers would not tell with a form from which site it comes.
    (b"Referrer-Policy", b"same-origin"),
    (b"X-Frame-Options", b"DENY"),
    (b"Cross-Origin-Opener-Policy", b"same-origin"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
    (
        b"Content-Security-Policy",
        b"default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'",
    ),
)
"""What every answer tells browsers."""

log = Logger()


class _ClientLeft(Exception):  # noqa: N818 - it is no error
    """The client has left before its body was whole."""


class OperatorRequest(Request):
    """One request at the operator's door."""

    channel: OperatorChannel
    site: OperatorSite
    gone = False
    """Whether the connection has ended before the answer."""
    _entry: Entry
    _plan: CallPlan | VisitPlan | None = None
    _refusal: Problem | None = None
    _delay = 0.0
    _waiting: IDelayedCall | None = None
    _whole = False
    _answered = False
    _streaming = False
    _received = 0
    _limit = MAX_BODY
    _more: Deferred[None] | None = None
    _turn: Deferred[None] | None = None
    _stopped: Exception | None = None

    def __init__(self, channel: OperatorChannel, queued: object = False) -> None:
        super().__init__(channel, parsePOSTFormSubmission=False)
        self.site = channel.site
        self._pieces: deque[bytes] = deque()

    def __repr__(self) -> str:
        """Show the request without what stands behind the question mark."""
        return f"<{type(self).__name__} {self.method!r} {self.uri.partition(b'?')[0]!r}>"

    def _read_head(self, length: int | None) -> Head:
        here = self.channel.getHost()
        return Head(
            method=self.method.decode("ascii", "replace"),
            uri=self.uri,
            version=self.clientproto,
            fields=dict(self.requestHeaders.getAllRawHeaders()),
            length=length,
            network=network_of(str(getattr(self.channel.getPeer(), "host", ""))),
            address=getattr(here, "host", None),
            port=getattr(here, "port", None),
            secure=self.isSecure(),
        )

    def lasts_by(self, token: Token) -> bool:
        """Say whether a stream is under way, in or out, that this token allowed."""
        plan = self._plan
        return isinstance(plan, CallPlan) and plan.token is token and (plan.streams or self._streaming)

    # What the channel calls.

    def judge(self, method: bytes, uri: bytes, version: bytes, length: int | None) -> None:
        """Decide by the head what comes of the request; `length` is that of the body, None for chunks."""
        self.method, self.uri, self.clientproto = method, uri, version
        self._entry = Entry(self.site, self._read_head(length))
        try:
            self._plan = plan = self._entry.decide()
            self._limit = plan.limit
        except Problem as problem:
            self._refuse(problem, length)
        except Exception:  # noqa: BLE001 - whatever it is, the others are served on
            log.failure("a request failed: {request!r}", request=self)
            self._refuse(internal(), length)
        else:
            if isinstance(plan, CallPlan) and plan.streams:
                self.channel.set_deadline(STREAM_TIME)
                self.channel.hold()
                self._run(self._take_stream(plan))
            elif self._expects_continue():
                self.channel.send_continue()

    def handleContentChunk(self, data: bytes) -> None:
        """Take a piece of the body, where it is wanted."""
        if self._refusal is not None or self._stopped is not None or self._answered:
            return
        self._received += len(data)
        if self._received > self._limit:
            if self._plan is not None and self._plan.streams:
                self._stop(too_large(self._limit))
            else:
                self._refuse(too_large(self._limit), None)
            return
        self._pieces.append(data)
        self._wake()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Answer, now that the whole body is there."""
        self._whole = True
        if self._refusal is not None:
            self._send_refusal()
        elif self._plan is not None:
            if self._plan.streams:
                self._wake()
            elif isinstance(self._plan, CallPlan):
                self._run(self._take_call(self._plan))
            else:
                self._run(self._take_visit(self._plan))

    def connectionLost(self, reason: Failure) -> None:
        """Note that nobody waits for the answer any more."""
        self.gone = True
        if self._waiting is not None:
            self._waiting.cancel()
            self._stop_waiting()
        self._stop(_ClientLeft())
        super().connectionLost(reason)

    # Refusals, which may come before the body does.

    def _expects_continue(self) -> bool:
        expected = self.requestHeaders.getRawHeaders(b"Expect", ())
        return self.clientproto == b"HTTP/1.1" and any(value.lower() == b"100-continue" for value in expected)

    def _refuse(self, problem: Problem, length: int | None) -> None:
        """Answer with a problem, behind a short body, and otherwise without waiting for it."""
        self._refusal = problem
        self._delay, self._entry.delay = self._entry.delay, 0.0
        self._pieces.clear()
        if length != 0 and (length is None or length > MAX_BODY or self._expects_continue()):
            self._send_refusal()

    def _send_refusal(self) -> None:
        """Send the answer of a refusal, now or later."""
        if self._answered or self._waiting is not None:
            return
        if self._delay:
            if not self._whole:
                self.channel.hold()
            self._waiting = self.site.reactor.callLater(self._delay, self._send_late)
        else:
            assert self._refusal is not None
            self.send_problem(self._refusal)

    def _send_late(self) -> None:
        self._stop_waiting()
        assert self._refusal is not None
        self.send_problem(self._refusal)

    def _stop_waiting(self) -> None:
        self._waiting = None
        self._entry.release()

    # What runs an operation.

    def _run(self, steps: Any) -> None:
        """Run what answers this request; what it raises is answered, too."""
        Deferred.fromCoroutine(steps).addErrback(self._fail)

    def _fail(self, failure: Failure) -> None:
        problem = failure.value
        if isinstance(problem, _ClientLeft):
            return
        if not isinstance(problem, Problem):
            log.failure("a request failed: {request!r}", failure, request=self)
            problem = internal()
        if not self._answered:
            self.send_problem(problem)
        elif not self.gone:
            self.channel.transport.abortConnection()

    async def _take_call(self, plan: CallPlan) -> None:
        """Answer a call with a small body, or none."""
        data = b"".join(self._pieces)
        self._pieces.clear()
        body: Json = read_body(plan.operation, data, self.getHeader("content-type"))
        assert plan.operation.handle is not None
        answer = await plan.operation.handle(attrs.evolve(plan.call, body=body))
        self.send_answer(answer, plan.operation.media)

    async def _take_visit(self, plan: VisitPlan) -> None:
        """Show a page."""
        data = b"".join(self._pieces)
        self._pieces.clear()
        visit = plan.visit
        if self.method == b"POST":
            visit = attrs.evolve(visit, form=read_form(data, self.getHeader("content-type")))
        page = await plan.answer(visit, self._type_token)
        self._send(page.status, page.media, page.body.encode(), page.fields)

    async def _type_token(self, brought: bytes) -> Token:
        """See whether a token is right that somebody typed. Raises Problem."""
        token = self._entry.try_token(brought)
        if token is not None:
            return token
        if self._entry.delay:
            turn = self._turn = Deferred()
            self._waiting = self.site.reactor.callLater(self._entry.delay, self._go_on)
            await turn
        raise token_wrong()

    def _go_on(self) -> None:
        self._stop_waiting()
        assert self._turn is not None
        self._turn.callback(None)

    async def _take_stream(self, plan: CallPlan) -> None:
        """Answer a call whose body is a stream."""
        operation = plan.operation
        assert operation.receive is not None
        sink = await operation.receive(plan.call)
        try:
            if self._expects_continue() and not self._received and not self.gone:
                self.channel.send_continue()
            await self._feed(sink)
        except BaseException:
            sink.failed()
            raise
        self.send_answer(await sink.finished(), operation.media)

    async def _feed(self, sink: BodySink) -> None:
        """Give a sink the whole body, piece by piece, as it takes them. Raises what stops it."""
        while True:
            while self._pieces and self._stopped is None:
                room = sink.write(self._pieces.popleft())
                if room is not None:
                    self._hold()
                    await room
            if self._stopped is not None:
                raise self._stopped
            if self._whole:
                self._release()
                return
            more = self._more = Deferred()
            # What was kept back while it was held may come at once.
            self._release()
            await more

    def _hold(self) -> None:
        if not self.gone:
            self.channel.hold()

    def _release(self) -> None:
        if not self.gone:
            self.channel.release()

    def _wake(self) -> None:
        if self._more is not None:
            more, self._more = self._more, None
            more.callback(None)

    def _stop(self, problem: Exception) -> None:
        self._stopped = problem
        self._wake()

    # Answers.

    def send_answer(self, answer: Answer, media: str) -> None:
        """Send the answer of an operation."""
        if answer.stream is None:
            self._send(answer.status, media, answer.encode(), answer.fields)
        elif self._begin(answer.status, media, answer.fields):
            if self.method == b"HEAD":
                self.finish()
            else:
                self._streaming = True
                answer.stream(self)

    def send_problem(self, problem: Problem) -> None:
        """Send a problem (RFC 9457)."""
        if self.gone:
            return
        fields = []
        match problem.status:
            case 401:
                wrong = ', error="invalid_token"' if problem.kind == "token-wrong" else ""
                fields.append(("WWW-Authenticate", f'Bearer realm="ota-server"{wrong}'))
            case 405:
                fields.append(("Allow", problem.more["allow"]))
            case 429:
                self.channel.persistent = False
                fields.append(("Retry-After", "5"))
            case 503:
                fields.append(("Retry-After", "5"))
        self._send(problem.status, PROBLEM_TYPE, Answer(problem.as_json()).encode(), fields)

    def _begin(self, status: int, media: str, fields: Sequence[tuple[str, str]]) -> bool:
        """Set what an answer's head says; False where nobody waits for it."""
        if self.gone or self._answered:
            return False
        self._answered = True
        self.setResponseCode(status, HTTPStatus(status).phrase.encode("ascii"))
        for name, value in SECURITY_FIELDS:
            self.setHeader(name, value)
        self.setHeader(b"Server", SERVER)
        self.setHeader(b"Date", datetimeToString(self.site.reactor.seconds()))
        self.setHeader(b"Cache-Control", b"no-store")
        if media:
            self.setHeader(b"Content-Type", media.encode("ascii"))
        if not (self._whole and self.channel.persistent):
            self.setHeader(b"Connection", b"close")
        for field, text in fields:
            self.responseHeaders.addRawHeader(field.encode("ascii"), text.encode("latin-1", "replace"))
        return True

    def _send(self, status: int, media: str, body: bytes, fields: Sequence[tuple[str, str]]) -> None:
        if not self._begin(status, media if body else "", fields):
            return
        if status != 204:
            self.setHeader(b"Content-Length", b"%d" % len(body))
        self.write(body)
        if self._whole:
            self.finish()
        else:
            self.channel.linger()
