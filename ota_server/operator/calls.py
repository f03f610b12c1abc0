"""What the operations of the API are made of: `Operation`, `Call`, `Answer`, `Problem`, and their parameters."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred

from ota_server.operator.scopes import Operator, Scope

Json = Any
"""What `json.dumps` writes: None, bool, int, float, str, lists and dictionaries of these."""

MAX_BODY = 64 * 1024
"""The largest JSON body, in bytes."""


class Problem(Exception):  # noqa: N818 - the word of RFC 9457
    """Something that an operation can't do, as RFC 9457 writes it.

    `kind` is a short stable word, of which the address of the problem's type is made; `title` says it for people, the
    same for each of the kind, and `detail` what was wrong here and what to do. `more` are members of its own.
    """

    def __init__(self, status: int, kind: str, title: str, detail: str = "", **more: Json) -> None:
        super().__init__(detail or title)
        self.status = status
        self.kind = kind
        self.title = title
        self.detail = detail
        self.more = more

    def as_json(self) -> dict[str, Json]:
        """Return the members of the problem's object."""
        told = {"type": f"/problems/{self.kind}", "title": self.title, "status": self.status}
        if self.detail:
            told["detail"] = self.detail
        return {**told, **self.more}


class Place(enum.StrEnum):
    """Where a parameter stands."""

    PATH = "path"
    QUERY = "query"
    HEADER = "header"


@attrs.frozen
class Parameter:
    """One parameter of an operation: `read` makes its value of the text, and raises ValueError with what to write.

    `schema` is its JSON Schema. One that isn't required is `default` where it is left out.
    """

    name: str
    place: Place
    summary: str
    read: Callable[[str], Any] = str
    schema: Mapping[str, Json] = attrs.field(factory=lambda: {"type": "string"})
    required: bool = False
    default: Any = None


@attrs.frozen
class Call:
    """One call of an operation, with all its parameters read."""

    operator: Operator
    values: Mapping[str, Any]
    """The parameters by their names."""
    body: Json = None
    """The JSON body, None without one."""
    now: float = 0.0
    """The time of the call, in seconds since 1970."""
    length: int | None = 0
    """The length of the body in bytes, as the request tells it; None where it doesn't."""
    csrf_token: str | None = attrs.field(default=None, repr=False)
    """What writes of the browser's session have to bring; None for a call with a token."""

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


@attrs.frozen
class Answer:
    """What an operation answers: a status, JSON (None for no body), and further header fields.

    `stream` is for a body without end: once status and fields are set, it is called with the request (of
    twisted.web), writes to it, and finishes it in its own time; time limits for requests don't hold for it, and with
    HEAD it isn't called.
    """

    json: Json = None
    status: int = 200
    fields: Sequence[tuple[str, str]] = ()
    stream: Callable[[Any], None] | None = None

    def encode(self) -> bytes:
        """Return the body in UTF-8."""
        if self.json is None:
            return b""
        # The name of a file may be no UTF-8, and then holds halves of surrogate pairs, which become `?`.
        return json.dumps(self.json, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


Handler = Callable[[Call], Awaitable[Answer]]


class BodySink(Protocol):
    """Takes the body of one request as it comes: `write` for each piece, then one of `finished` and `failed`.

    All is called in the reactor. The next piece is given when the Deferred of the one before has fired; meanwhile
    nothing is read from the client. Problem may be raised by `write`, by its Deferred and by `finished`.
    """

    def write(self, data: bytes) -> Deferred[None] | None:
        """Take a piece; return what fires when there is room for another, or None where that is so already."""

    def finished(self) -> Awaitable[Answer]:
        """Make the answer, now that the whole body is there. When that fails, there is no call of `failed`."""

    def failed(self) -> None:
        """Clean up: the client has left, the body is too large, or `write` failed. Must not raise."""


Receiver = Callable[[Call], Awaitable[BodySink]]
"""Decides on a call before its body is read, and returns what takes it; raises Problem to refuse it unread."""

BASE = "/api/v1"
"""What the addresses of the API begin with."""


@attrs.frozen
class Operation:
    """One operation of the API: method and path below `base`, who may, what it takes, what it answers.

    `path` holds parameters in braces, as in `/projects/{project}`; `scope` is None where any will do;
    `answers` are JSON Schemas by status, None for no body. `body` is the JSON Schema of the body, None where there is
    none. What fails raises Problem; those that can happen here stand in `problems`, by status, beside those that every
    operation may answer (COMMON_PROBLEMS). `media` is the media type of what it answers where nothing is wrong.
    """

    name: str
    method: str
    path: str
    scope: Scope | None
    summary: str
    handle: Handler | None
    answers: Mapping[int, Mapping[str, Json] | None]
    parameters: Sequence[Parameter] = ()
    body: Mapping[str, Json] | None = None
    problems: Sequence[int] = ()
    receive: Receiver | None = None
    max_body: int = MAX_BODY
    media: str = "application/json"
    base: str = BASE

    @property
    def address(self) -> str:
        """The whole path, with its parameters in braces."""
        return self.base + self.path

    @property
    def pattern(self) -> re.Pattern[str]:
        """What the whole path has to match; names as `is_name` takes them, and ids, have no slash."""
        parts = re.split(r"\{([a-z_]+)\}", self.address)
        return re.compile("".join(f"(?P<{part}>[^/]+)" if i % 2 else re.escape(part) for i, part in enumerate(parts)))
