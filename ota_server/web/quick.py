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

_HEAD = re.compile(
    rb"(?P<method>GET|HEAD) (?P<path>/[!-\"$-~]*) HTTP/1\.(?P<minor>[01])\r\n"
    rb"(?P<fields>(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00\r\n]*\r\n)*)\r\n",
)
_FIELD = re.compile(rb"([^:]+):[ \t]*([^\r\n]*?)[ \t]*\r\n")

_MAX_HEAD = 4096
_MAX_NAMES = 1000

# With these, more than a head has to be read, or an answer other than 304 may be due.
_UNUSUAL = (b"Transfer-Encoding", b"Expect", b"Upgrade")

_canonical_names: dict[bytes, bytes] = {}


@attrs.frozen
class QuickHead:
    """The head of a plain request: path without query, header fields, and what decides on the connection."""

    path: bytes
    headers: Headers
    version: bytes
    persistent: bool


def read_head(data: bytes) -> QuickHead | None:
    """Read a whole request of a plain kind: GET or HEAD, no body, nothing behind it. None for any other."""
    if len(data) > _MAX_HEAD:
        return None
    found = _HEAD.fullmatch(data)
    if found is None:
        return None
    headers: dict[bytes, list[bytes]] = {}
    for name, value in _FIELD.findall(found["fields"]):
        canonical = _canonical_names.get(name) or _canonicalise(name)
        if canonical in headers:
            headers[canonical].append(value)
        else:
            headers[canonical] = [value]
    if headers.get(b"Content-Length", _NO_BODY) != _NO_BODY or any(name in headers for name in _UNUSUAL):
        return None
    persistent = False
    version = b"HTTP/1.0"
    if found["minor"] == b"1":
        version = b"HTTP/1.1"
        connection = headers.get(b"Connection")
        persistent = connection is None or b"close" not in connection[0].lower().split(b" ")
    return QuickHead(found["path"].partition(b"?")[0], headers, version, persistent)


_NO_BODY = [b"0"]


def _canonicalise(name: bytes) -> bytes:
    """Capitalise the name of a field as Twisted does; remembered, but for no more names than there are."""
    canonical = b"-".join([word.capitalize() for word in name.split(b"-")])
    if len(_canonical_names) < _MAX_NAMES:
        _canonical_names[name] = canonical
    return canonical
