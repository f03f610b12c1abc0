"""Reading answers from the wire, for tests that look at all of one."""

from __future__ import annotations

import attrs


@attrs.frozen
class Answer:
    """One answer: its head as it came, with the empty line at its end, and its body."""

    head: bytes
    body: bytes

    @property
    def version(self) -> bytes:
        """The protocol version of the status line."""
        return self.head.split(b" ", 1)[0]

    @property
    def code(self) -> int:
        """The status code."""
        return int(self.head.split(b" ", 2)[1])

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """All header fields, names in lower case."""
        lines = self.head.split(b"\r\n")[1:-2]
        pairs = (line.split(b": ", 1) for line in lines)
        return [(name.lower(), value) for name, value in pairs]

    def get(self, name: bytes) -> bytes | None:
        """Return the value of a field; None where there is none, AssertionError where there are several."""
        values = [value for key, value in self.fields if key == name.lower()]
        assert len(values) <= 1, f"{name!r} is there {len(values)} times"
        return values[0] if values else None

    @property
    def reason(self) -> str | None:
        """The reason of the decision, of `X-OTA-Reason`."""
        value = self.get(b"X-OTA-Reason")
        return None if value is None else value.decode("ascii")


def has_head(data: bytes) -> bool:
    """Say whether a whole head has come."""
    return b"\r\n\r\n" in data


def read_answer(data: bytes, method: bytes = b"GET") -> tuple[Answer, bytes]:
    """Read the first answer of what came over a connection; return it and what came behind it.

    AssertionError where it isn't whole.
    """
    end = data.find(b"\r\n\r\n") + 4
    assert end > 3, f"no whole head in {data[:400]!r}"
    answer = Answer(data[:end], b"")
    length = answer.get(b"Content-Length")
    if answer.code == 204 and length is None:
        return answer, data[end:]
    assert length is not None, f"no length in {answer.head!r}"
    size = 0 if method == b"HEAD" or answer.code == 304 else int(length)
    assert len(data) >= end + size, f"{len(data) - end} of {size} bytes came"
    return Answer(data[:end], data[end : end + size]), data[end + size :]


def read_only_answer(data: bytes, method: bytes = b"GET") -> Answer:
    """Read the one answer that came over a connection; AssertionError where anything is behind it."""
    answer, rest = read_answer(data, method)
    assert not rest, f"behind the answer came {rest[:200]!r}"
    return answer


def is_whole(data: bytes, method: bytes = b"GET") -> bool:
    """Say whether a whole answer has come."""
    try:
        read_answer(data, method)
    except AssertionError:
        return False
    return True
