"""Clients of the stream of events, for tests: what they have read, and where they would resume."""

from __future__ import annotations

import json
from typing import Any

import attrs


@attrs.define
class StreamReader:
    """Reads Server-Sent Events of the bytes of an HTTP/1.1 answer, as they come; see WHATWG HTML, section 9.2.6.

    `last_id` is what a browser would send as Last-Event-ID.
    """

    status: int = 0
    events: list[dict[str, Any]] = attrs.field(factory=list)
    last_id: str | None = None
    comments: int = 0
    retry: int | None = None
    ended: bool = False
    """Whether the answer came to its end."""
    _raw: bytes = b""
    _text: bytes = b""
    _id: str | None = None
    _data: list[str] = attrs.field(factory=list)

    @property
    def ids(self) -> list[str]:
        """The ids of the events, in the order that they came."""
        return [event["id"] for event in self.events]

    def feed(self, data: bytes) -> None:
        """Take what came."""
        self._raw += data
        if not self.status:
            head, end, rest = self._raw.partition(b"\r\n\r\n")
            if not end:
                return
            self.status = int(head.split(b" ")[1])
            if self.status != 200:
                return
            assert b"transfer-encoding: chunked" in head.lower(), head
            assert b"content-type: text/event-stream" in head.lower(), head
            self._raw = rest
        while (line := self._raw.find(b"\r\n")) >= 0:
            size = int(self._raw[:line], 16)
            if len(self._raw) < line + size + 4:
                return
            self._text += self._raw[line + 2 : line + 2 + size]
            self._raw = self._raw[line + size + 4 :]
            self.ended = self.ended or size == 0
        while b"\n" in self._text:
            text, _, self._text = self._text.partition(b"\n")
            self._take(text.decode())

    def _take(self, line: str) -> None:
        if not line:
            # An event without data isn't given to anybody, but its id counts.
            self.last_id = self._id
            if self._data:
                event = json.loads("\n".join(self._data))
                assert event["id"] == self._id, (event, self._id)
                self.events.append(event)
                self._data = []
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "":
                self.comments += 1
            case "id":
                self._id = value
            case "data":
                self._data.append(value)
            case "retry":
                self.retry = int(value)
            case _:
                raise AssertionError(f"no field of an event: {line}")
