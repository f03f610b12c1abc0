"""What tests of reading images share: files that behave in ways of their own, and what a reading tells."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib

import attrs

from ota_server.firmware.facts import ImageFacts

HOMIE_NAME = b"\xbf\x84\xe4\x13\x54", b"\x93\x44\x6b\xa7\x75"
"""What stands before and behind a name in a sketch made with Homie."""

HOMIE_VERSION = b"\x6a\x3f\x3e\x0e\xe1", b"\xb0\x30\x48\xd4\x1a"
"""What stands before and behind a version in a sketch made with Homie."""


class Pieces(io.BytesIO):
    """A file whose bytes come in pieces of `most` bytes or fewer, as raw files may give them."""

    def __init__(self, data: bytes, most: int) -> None:
        super().__init__(data)
        self._most = most

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next piece."""
        return super().read(self._most if size is None or size < 0 else min(size, self._most))


class Watched(io.BytesIO):
    """A file in memory that remembers from where to where it was read, and where it was moved to."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reads: list[tuple[int, int]] = []
        self.moves: list[tuple[int, int]] = []

    def read(self, size: int | None = -1, /) -> bytes:
        """Read and remember."""
        start = self.tell()
        data = super().read(size)
        self.reads.append((start, start + len(data)))
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move and remember."""
        self.moves.append((offset, whence))
        return super().seek(offset, whence)


def md5(data: bytes) -> str:
    """Return the MD5 in hexadecimal."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def sha256(data: bytes) -> str:
    """Return the SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def flipped(data: bytes, offset: int, bits: int = 0xFF) -> bytes:
    """Return bytes with some bits of one of them turned over."""
    return data[:offset] + bytes([data[offset] ^ bits]) + data[offset + 1 :]


def told(facts: ImageFacts) -> tuple[ImageFacts, ...]:
    """Return what a reading tells beside digests, and the same of what is inside: two like files don't differ in it.

    That is the format, damage, chip, project, version, headers, where signatures lie and what is unexplained.
    """
    without = attrs.evolve(
        facts,
        size=0,
        md5="",
        sha256="",
        sketch_hashes=(),
        inner=None,
        signatures=tuple(attrs.evolve(each, digest="", value="", key="") for each in facts.signatures),
    )
    return (without, *(told(facts.inner) if facts.inner else ()))


def before_core_3(sketch: bytes, git_prefix: int = 0x1C0FFEE5) -> bytes:
    """Return an ESP8266 sketch as cores before 3.0 left it: its commit where length and CRC stand today.

    The sketch's own checksum, made by esptool while there were zeros, counts these bytes as well.
    """
    words = struct.pack("<II", git_prefix, 0)
    made = bytearray(sketch[:0x1010] + words + sketch[0x1018:])
    for byte in words:
        made[-1] ^= byte
    return bytes(made)


def rechecked(image: bytes, at: int) -> bytes:
    """Return a signed image whose signature block at an offset has its own checksum made anew."""
    crc = struct.pack("<I", zlib.crc32(image[at : at + 1196]))
    return image[: at + 1196] + crc + image[at + 1200 :]
