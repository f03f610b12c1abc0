"""Answering a check without the machinery of a request.

Nearly all requests of a fleet are checks that end with 304, come in one segment, and say nothing unusual. For
these a request object, a resource's rendering and a table of response headers cost more than the decision.
Here the head is read in one go. Whatever is not entirely plain is left to Twisted's parser: this one never
refuses anything, it only declines.
"""

from __future__ import annotations

import re

import attrs

from ota_server.fleet.checkin import Headers

_REQUEST_LINE = re.compile(rb"(?:GET|HEAD) (/[!-\"$-~]*) HTTP/1\.([01])")
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

_MAX_HEAD = 4096
_MAX_FIELDS = 100
_MAX_NAMES = 1000

# With these, more than a head has to be read, or an answer other than 304 may be due.
_UNUSUAL = (b"Transfer-Encoding", b"Expect", b"Upgrade")
_NO_BODY = (b"0",)

_canonical_names: dict[bytes, bytes] = {}


@attrs.frozen
class QuickHead:
    """The head of a plain request: path, query, header fields, and what decides on the connection."""

    path: bytes
    query: bytes
    headers: Headers
    version: bytes
    persistent: bool


def read_head(data: bytes) -> QuickHead | None:
    """Read a whole request of a plain kind: GET or HEAD, no body, nothing behind it. None for any other."""
    if len(data) > _MAX_HEAD or not data.endswith(b"\r\n\r\n") or b"\0" in data:
        return None
    lines = data[:-4].split(b"\r\n")
    if len(lines) > _MAX_FIELDS or not data.count(b"\r") == data.count(b"\n") == len(lines) + 1:
        return None
    request_line = _REQUEST_LINE.fullmatch(lines[0])
    if request_line is None:
        return None
    headers: dict[bytes, tuple[bytes, ...]] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        canonical = _canonical_names.get(name) or _canonicalise(name)
        if canonical is None or not colon:
            return None
        value = value.strip(b" \t")
        headers[canonical] = (*headers[canonical], value) if canonical in headers else (value,)
    if headers.get(b"Content-Length", _NO_BODY) != _NO_BODY or any(name in headers for name in _UNUSUAL):
        return None
    path, minor = request_line.groups()
    persistent, version = False, b"HTTP/1.0"
    if minor == b"1":
        connection = headers.get(b"Connection")
        persistent = connection is None or b"close" not in connection[0].lower().split(b" ")
        version = b"HTTP/1.1"
    path, _, query = path.partition(b"?")
    return QuickHead(path, query, headers, version, persistent)


def _canonicalise(name: bytes) -> bytes | None:
    """Capitalise the name of a field as Twisted does, or return None where it is no name.

    Remembered, but for no more names than there are in the world of devices.
    """
    if not _TOKEN.fullmatch(name):
        return None
    canonical = b"-".join([word.capitalize() for word in name.split(b"-")])
    if len(_canonical_names) < _MAX_NAMES:
        _canonical_names[name] = canonical
    return canonical
