"""Reading a file once, from its first byte to its last, and hashing it on the way."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Iterator

CHUNK = 1 << 18
"""How much of a file is read at a time, in bytes."""

Sink = Callable[[memoryview], object]
"""Is called with each piece of what is read, in order."""


class ImageStream:
    """A file that is read in order and in pieces, with the MD5 and the SHA-256 of what was read so far.

    `size` is that of the file in bytes, or None where it shows only at the end (of what is unpacked). `sinks` get
    every piece as well, from when they are put in. `position` counts the bytes that were read.
    """

    def __init__(self, chunks: Iterator[bytes], size: int | None) -> None:
        self.size = size
        self.position = 0
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.sha256 = hashlib.sha256()
        self.sinks: list[Sink] = []
        self._chunks = chunks
        self._ahead = memoryview(b"")

    def peek(self, count: int) -> bytes:
        """Return the next bytes without reading on; fewer at the end of the file."""
        if len(self._ahead) < count:
            pieces: list[bytes | memoryview] = [self._ahead]
            length = len(self._ahead)
            while length < count and (chunk := next(self._chunks, b"")):
                pieces.append(chunk)
                length += len(chunk)
            self._ahead = memoryview(b"".join(pieces))
        return bytes(self._ahead[:count])

    def ahead(self) -> memoryview:
        """Return what can be read next at no cost: one byte at least, but none at the end of the file."""
        if not self._ahead:
            self._ahead = memoryview(next(self._chunks, b""))
        return self._ahead

    def advance(self, count: int, sink: Sink | None = None) -> None:
        """Read on by so many bytes of what is ahead."""
        piece = self._ahead[:count]
        self._ahead = self._ahead[count:]
        self.position += len(piece)
        self.md5.update(piece)
        self.sha256.update(piece)
        for each in self.sinks:
            each(piece)
        if sink is not None:
            sink(piece)

    def take(self, count: int) -> bytes:
        """Read so many bytes and return them; fewer at the end of the file. For small pieces only."""
        taken = self.peek(count)
        self.advance(len(taken))
        return taken

    def skip(self, count: int, sink: Sink | None = None) -> int:
        """Read on by so many bytes, which `sink` gets too; return how many there were."""
        left = count
        while left and (ahead := self.ahead()):
            step = min(left, len(ahead))
            self.advance(step, sink)
            left -= step
        return count - left

    def skip_rest(self) -> int:
        """Read on to the end; return how many bytes that were."""
        began = self.position
        while ahead := self.ahead():
            self.advance(len(ahead))
        return self.position - began

    def pieces(self) -> Iterator[bytes]:
        """Read to the end, yielding all that is left: what another stream is made of."""
        while ahead := self.ahead():
            yield bytes(ahead)
            self.advance(len(ahead))


class Crc32:
    """The CRC-32 of zlib of all bytes that are put in: a sink."""

    def __init__(self) -> None:
        self.value = 0

    def __call__(self, data: memoryview) -> None:
        """Put bytes in."""
        self.value = zlib.crc32(data, self.value)


class Xor:
    """The XOR of all bytes that are put in: a sink."""

    _BLOCK = 1 << 14

    def __init__(self) -> None:
        self._value = 0

    def __call__(self, data: memoryview) -> None:
        """Put bytes in."""
        # Long numbers are a hundred times as fast as single bytes, and fastest where they fit a processor's cache.
        for start in range(0, len(data), self._BLOCK):
            self._value ^= int.from_bytes(data[start : start + self._BLOCK], "little")

    def value(self) -> int:
        """Return the XOR, by folding the long number in halves."""
        value, length = self._value, self._BLOCK
        while length > 1:
            length //= 2
            value = (value & ((1 << 8 * length) - 1)) ^ (value >> 8 * length)
        return value


def open_without_waiting(path: str, flags: int) -> int:
    """Open a file for `open`, or by itself; what was put in its place and is no file (a pipe) is not waited for."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
