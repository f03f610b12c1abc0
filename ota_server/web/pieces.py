"""Putting together what a device has of an image that it fetches in pieces.

ESP-IDF asks for an image by pieces of 64 kB, Nordic's modems by pieces of 2 kB, and others go on where a broken
connection left them. A download is whole when these pieces cover the image, however they overlap.
"""

from __future__ import annotations

from collections import OrderedDict

import attrs

from ota_server.firmware.catalog import Image

MAX_AGE = 3600.0
"""An unfinished download is forgotten after so many seconds without a piece."""

MAX_DOWNLOADS = 10_000
"""How many unfinished downloads are remembered: the longest without a piece is forgotten for a new one."""

MAX_SPANS = 64
"""How many pieces with gaps between them are remembered of one download: the smallest is forgotten."""

Span = tuple[int, int]
"""A part of an image: the offsets of its first byte and of the one behind its last."""


def unite(spans: tuple[Span, ...], span: Span) -> tuple[Span, ...]:
    """Add a span to others that are in order and don't touch; return all in order, with those that touch made one."""
    start, end = span
    apart = []
    for other in spans:
        if other[1] < start or end < other[0]:
            apart.append(other)
        else:
            start, end = min(start, other[0]), max(end, other[1])
    return tuple(sorted([*apart, (start, end)]))


@attrs.define
class _Collected:
    """The pieces of one download, and when the last of them came, in seconds."""

    spans: tuple[Span, ...] = ()
    time: float = 0.0


class Pieces:
    """Collects the pieces of downloads; bounded in number and in time. Times are in seconds, offsets in bytes.

    Devices are told apart by the names given; of those without a name only whole images count.
    """

    def __init__(self) -> None:
        self._downloads: OrderedDict[tuple[str, str], _Collected] = OrderedDict()

    def __len__(self) -> int:
        """Return how many downloads are unfinished."""
        return len(self._downloads)

    def add(self, device: str, image: Image, span: Span, now: float) -> bool:
        """Take note that a device has got a piece; say whether it has the whole image now.

        A download that is whole is forgotten: what comes after it begins another one.
        """
        if span[0] >= span[1]:
            return False
        spans = self._with(device, image, span, now)
        key = (device, image.facts.sha256)
        if spans == ((0, image.size),):
            self._downloads.pop(key, None)
            return True
        if not device:
            return False
        if len(spans) > MAX_SPANS:
            smallest = min(spans, key=lambda piece: piece[1] - piece[0])
            spans = tuple(piece for piece in spans if piece is not smallest)
        self._downloads[key] = _Collected(spans, now)
        self._downloads.move_to_end(key)
        self._forget(now)
        return False

    def completes(self, device: str, image: Image, span: Span, now: float) -> bool:
        """Say whether a device has the whole image once it has got this piece, too."""
        return self._with(device, image, span, now) == ((0, image.size),)

    def _with(self, device: str, image: Image, span: Span, now: float) -> tuple[Span, ...]:
        """Return what a device has with one more piece."""
        collected = self._downloads.get((device, image.facts.sha256))
        if collected is None or now - collected.time > MAX_AGE:
            return (span,)
        return unite(collected.spans, span)

    def _forget(self, now: float) -> None:
        """Forget what is too old, or too much; the oldest stand first."""
        while self._downloads:
            collected = next(iter(self._downloads.values()))
            if len(self._downloads) <= MAX_DOWNLOADS and now - collected.time <= MAX_AGE:
                break
            self._downloads.popitem(last=False)
