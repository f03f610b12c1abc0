"""Conditional and range requests as pure functions: which bytes of a representation to send.

RFC 9110, sections 13 (If-None-Match, If-Range) and 14 (Range).
"""

from __future__ import annotations

import re

import attrs


@attrs.frozen
class Whole:
    """Send all of it (200)."""


@attrs.frozen
class Part:
    """Send `length` bytes from offset `start` on (206); both are in bytes, and `length` is at least 1."""

    start: int
    length: int


@attrs.frozen
class Unsatisfiable:
    """The range asked for lies outside (416)."""


@attrs.frozen
class NotModified:
    """The client has the current representation already (304)."""


WHOLE = Whole()
UNSATISFIABLE = Unsatisfiable()
NOT_MODIFIED = NotModified()

_SINGLE_RANGE = re.compile(rb"bytes=[ \t]*(?:([0-9]+)-([0-9]*)|-([0-9]+))[ \t]*", re.IGNORECASE)
_ETAG = re.compile(rb'(?:W/)?("[^"]*")')

# A number of more digits is larger than any file, and Python refuses to read very long ones.
_MAX_DIGITS = 18


def parse_range(value: bytes, size: int) -> Whole | Part | Unsatisfiable:
    """Read a `Range` header for a representation of `size` bytes.

    A range that isn't understood, and a set of several ranges, are ignored, as RFC 9110, section 14.2 allows:
    the whole is sent. An end past the last byte is clamped to it.
    """
    found = _SINGLE_RANGE.fullmatch(value)
    if found is None:
        return WHOLE
    digits = [group.lstrip(b"0") or b"0" if group else None for group in found.groups()]
    if digits[0] and digits[1] and (len(digits[1]), digits[1]) < (len(digits[0]), digits[0]):
        return WHOLE
    first, last, suffix = (_number(group) if group else None for group in digits)
    if suffix is not None:
        start = max(0, size - suffix)
        return Part(start, size - start) if size and suffix else UNSATISFIABLE
    assert first is not None
    if first >= size:
        return UNSATISFIABLE
    return Part(first, (size if last is None else min(last + 1, size)) - first)


def _number(digits: bytes) -> int:
    return int(digits) if len(digits) <= _MAX_DIGITS else 10**_MAX_DIGITS


def matches(value: bytes, etag: bytes) -> bool:
    """Say whether an `If-None-Match` header names this entity tag (quotes included), by weak comparison."""
    return value.strip() == b"*" or etag in _ETAG.findall(value)


def evaluate(
    *,
    method: bytes,
    size: int,
    etag: bytes,
    range_header: bytes | None = None,
    if_none_match: bytes | None = None,
    if_range: bytes | None = None,
) -> Whole | Part | Unsatisfiable | NotModified:
    """Decide what of a representation of `size` bytes with the strong entity tag `etag` to send.

    The order is that of RFC 9110, section 13.2.2. A date in `If-Range` never matches: nothing guarantees that
    a file changes only once in a second, so that a date is a weak validator here (section 8.8.2.2).
    """
    if if_none_match is not None and matches(if_none_match, etag):
        return NOT_MODIFIED
    if range_header is None or method != b"GET" or (if_range is not None and if_range.strip() != etag):
        return WHOLE
    return parse_range(range_header, size)
