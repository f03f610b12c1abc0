"""`Door`: asks the operator's door by HTTP, and makes one line of whatever goes wrong."""

from __future__ import annotations

import json
import ssl
import sys
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx2

from ota_server import __version__
from ota_server.firmware.esp import escape
from ota_server.remote.address import Address
from ota_server.remote.failing import CommandError, Refusal, Status

CONNECT_TIME = 10.0
"""How long a connection may take, in seconds."""

ANSWER_TIME = 60.0
"""How long the server may be quiet, in seconds: also an event stream says something more often."""

PAGE = 500
"""How many items a page has: the most that the server gives."""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
"""How long is waited before an event stream is taken up again, in seconds: twice as long after each failure."""

MAX_TOLD = 500
"""So many characters of what a server says are shown."""

Json = dict[str, Any]


def path_of(*segments: str) -> str:
    """Return the path below `/api/v1` of these segments, escaped."""
    return "".join(f"/{quote(segment, safe=':')}" for segment in segments)


class Door:
    """The operator's door of one server; a context manager, which closes its connections."""

    def __init__(self, address: Address) -> None:
        """Raise CommandError where the file of authorities can't be used."""
        self.address = address
        transport, base = None, address.url
        if address.url.startswith("unix:"):
            transport, base = httpx2.HTTPTransport(uds=address.url.removeprefix("unix:")), "http://localhost"
        verify: ssl.SSLContext | bool = True
        if address.ca is not None:
            try:
                verify = ssl.create_default_context(cafile=str(address.ca))
            except (ssl.SSLError, OSError) as problem:
                raise CommandError(f"{address.ca}: no PEM file of certificates ({problem})", Status.USAGE) from problem
        self._base = f"{base}/api/v1"
        self._client = httpx2.Client(
            headers={
                "Authorization": f"Bearer {address.token}",
                "User-Agent": f"ota-server/{__version__.public()}",
                "Accept": "application/json, application/problem+json",
            },
            timeout=httpx2.Timeout(ANSWER_TIME, connect=CONNECT_TIME),
            verify=verify,
            transport=transport,
            # A proxy of the environment has no business with a door of this machine.
            trust_env=address.is_open or address.url.startswith("https:"),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def get(self, path: str, **query: str | int | None) -> Json:
        """Return what an address answers."""
        return self.ask("GET", path, None, query)

    def post(self, path: str, body: Json | None = None, **query: str | int | None) -> Json:
        """Send an order, and return what is answered."""
        return self.ask("POST", path, body, query)

    def ask(self, method: str, path: str, body: Json | None, query: Mapping[str, str | int | None]) -> Json:
        """Return the JSON of an answer, an empty object where it has none.

        Raises Refusal, and CommandError where nothing answers.
        """
        with self._problems():
            answer = self._client.request(method, self._base + path, params=_drop_none(query), json=body)
        return self._read(answer)

    def put(
        self, path: str, content: Iterator[bytes], fields: Mapping[str, str], query: Mapping[str, str | int | None]
    ) -> Json:
        """Send bytes as they come, and return what is answered; `fields` tell of them. Raises as `ask` does."""
        # The server may look at an image for a while before it answers.
        patient = httpx2.Timeout(ANSWER_TIME * 5, connect=CONNECT_TIME)
        with self._problems():
            answer = self._client.put(
                self._base + path, content=content, headers=fields, params=_drop_none(query), timeout=patient
            )
        return self._read(answer)

    def items(self, path: str, limit: int | None = None, **query: str | int | None) -> Iterator[Json]:
        """Yield the items of a list, page by page; at most `limit` of them."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            page = self.get(path, limit=size, cursor=cursor, **query)
            yield from page["items"]
            cursor = page.get("next")
            if left is not None:
                left -= len(page["items"])
            if cursor is None:
                return

    def newest_event(self) -> str:
        """Return the number of the newest event, "0-0" where there is none."""
        return next((str(event["id"]) for event in self.items("/events", 1)), "0-0")

    def events(self, after: str | None, *, tell: bool = False) -> Iterator[Json]:
        """Yield events as they happen, without end: those behind the one of this number, or only new ones.

        A stream that ends is taken up again behind the last event, with pauses that grow; `tell` says so on standard
        error. Raises Refusal where the server doesn't want to go on.
        """
        last, pause = after, FIRST_PAUSE
        if last is None:
            last = self.newest_event()
        while True:
            try:
                for number, event in self._stream(last):
                    last, pause = number, FIRST_PAUSE
                    if event is not None:
                        yield event
                # Streams end after a while, so that tokens are asked for again; then there is no hurry, and no trouble.
                trouble = ""
            except Refusal as refusal:
                if refusal.code < 500 and refusal.code != 429:
                    raise
                trouble = str(refusal)
            except CommandError as error:
                trouble = str(error)
            if tell and trouble:
                sys.stderr.write(f"ota-server: {trouble}; trying again in {pause:g} seconds\n")
            time.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)

    def _stream(self, last: str) -> Iterator[tuple[str, Json | None]]:
        fields = {"Last-Event-ID": last, "Accept": "text/event-stream, application/problem+json"}
        with (
            self._problems(),
            self._client.stream("GET", f"{self._base}/events/stream", headers=fields) as answer,
        ):
            if answer.status_code != 200:
                answer.read()
                self._read(answer)
            for message in httpx2.EventSource(answer):
                try:
                    event = json.loads(message.data) if message.data else None
                except ValueError:
                    raise CommandError(f"{self.address.url} sends what is no event", Status.UNREACHABLE) from None
                yield message.id or last, event

    def _read(self, answer: httpx2.Response) -> Json:
        """Return the JSON of an answer. Raises Refusal, or CommandError where this is no such door."""
        kind = answer.headers.get("content-type", "").partition(";")[0].strip()
        told: Any = None
        if kind in ("application/json", "application/problem+json"):
            try:
                told = answer.json()
            except ValueError:
                told = None
        if answer.is_success and (isinstance(told, dict) or not answer.content):
            return told or {}
        if isinstance(told, dict) and kind == "application/problem+json":
            raise Refusal(self._spell(answer, told), answer.status_code, str(told.get("type", "")).rpartition("/")[2])
        if answer.status_code in (502, 503, 504):
            raise Refusal(f"{self.address.url} answers {answer.status_code}: it doesn't work now", answer.status_code)
        raise CommandError(
            f"{self.address.url} answers {answer.status_code}, but not as an operator's door does; is the address "
            "right? The door has a port of its own (8001, unless --admin says another)",
            Status.UNREACHABLE,
        )

    def _spell(self, answer: httpx2.Response, problem: Json) -> str:
        """Write a problem on one line."""
        parts = [str(problem[name]) for name in ("title", "detail") if problem.get(name)]
        told = escape(" ".join(": ".join(parts or ["no reason is given"]).split()))[:MAX_TOLD]
        if answer.status_code == 401:
            return f"{self.address.url} doesn't know this token: {told}"
        if answer.status_code == 429 and "retry-after" in answer.headers:
            return f"{told} (again in {escape(answer.headers['retry-after'])} seconds)"
        return told

    def _problems(self) -> _Problems:
        return _Problems(self.address)


class _Problems:
    """Makes CommandErrors of what the HTTP library raises."""

    def __init__(self, address: Address) -> None:
        self._address = address

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, httpx2.HTTPError | httpx2.InvalidURL):
            raise CommandError(
                f"{self._address.url} can't be reached: {self._why(error)}", Status.UNREACHABLE
            ) from error

    def _why(self, error: Exception) -> str:
        causes: list[BaseException] = [error]
        while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
            causes.append(cause)
        for cause in causes:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return (
                    f"its certificate isn't trusted ({cause.verify_message}); name its authority with --ca FILE, and "
                    "the server as its certificate does"
                )
        text = escape(" ".join(str(error).split())) or type(error).__name__
        match error:
            case httpx2.TimeoutException():
                return "it doesn't answer in time"
            case httpx2.ConnectError():
                return f"{text}; does the server run there, with an operator's door (--admin)?"
        return text


def _drop_none(query: Mapping[str, str | int | None]) -> dict[str, str | int]:
    return {name: value for name, value in query.items() if value is not None}
