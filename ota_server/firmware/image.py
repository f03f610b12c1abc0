"""Reading an image: whether it is whole, and by which hashes a device will name it.

Layouts: the ESP-IDF "app image format" (24-byte header, segments, checksum, appended SHA-256) and the
ESP8266 format of esptool's `elf2image` and the Arduino core's `elf2bin.py` (8-byte header; an Arduino sketch
is the boot loader `eboot`, and from offset 4096 on the application).
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import attrs

MAGIC = 0xE9
"""The first byte of every ESP8266 and ESP32 image."""

CHUNK = 1 << 18
"""How much of a file is read at a time, in bytes."""

_APP_DESCRIPTOR = (0xABCD5432).to_bytes(4, "little")
_ARDUINO_APP_OFFSET = 4096
_ARDUINO_CRC_OFFSET = _ARDUINO_APP_OFFSET + 16
_MIRRORED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_CHECKSUM_SEED = 0xEF
_MAX_SEGMENTS = 16

_CHIP_IDS = {
    0x00: "esp32",
    0x02: "esp32s2",
    0x05: "esp32c3",
    0x09: "esp32s3",
    0x0C: "esp32c2",
    0x0D: "esp32c6",
    0x10: "esp32h2",
    0x12: "esp32p4",
    0x14: "esp32c61",
    0x17: "esp32c5",
    0x19: "esp32h21",
    0x1C: "esp32h4",
    0x20: "esp32s31",
}


class ImageError(Exception):
    """An image that must not be offered; its message says what is wrong with it and at which byte."""


@attrs.frozen
class ImageFacts:
    """What reading an image once tells of it.

    `size` is in bytes; the hashes are lower-case hexadecimal. `chip` is None where the image doesn't say.
    `sketch_hashes` are all those by which a device that runs this image may name it in
    `x-ESP8266-sketch-md5`, `x-ESP32-sketch-md5` or `x-ESP32-sketch-sha256`.
    """

    size: int
    md5: str
    sha256: str
    chip: str | None = None
    sketch_hashes: tuple[str, ...] = ()


@attrs.frozen
class _Layout:
    """Where an ESP image's parts lie: its segments' data as (offset, length), and its ends, in bytes."""

    segments: tuple[tuple[int, int], ...]
    end: int
    """The end of the image proper: after the checksum byte, which closes a block of 16."""
    hash_appended: bool = False
    chip: str | None = None
    flash_modes: tuple[int | None, ...] = (None,)
    """The flash-mode bytes (offset 2) that the image may have in a device: the ESP8266's updater puts the
    device's own there while it writes, any of 0 to 3. None stands for the byte as it is in the file."""

    @property
    def sketch_end(self) -> int:
        """Where the part that a device takes for its sketch ends, in bytes: behind the appended hash."""
        return self.end + 32 if self.hash_appended else self.end


def read_image(file: BinaryIO, keep_going: Callable[[], bool] = lambda: True) -> ImageFacts:
    """Read a whole image from a binary file and return what there is to know of it.

    Memory stays at a few chunks, whatever the size. `keep_going` is asked at each chunk; when it says no
    InterruptedError is raised. Raises ImageError for a file that is empty, or whose ESP header announces
    what the file doesn't hold, and OSError where the file can't be read.
    """
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        raise ImageError("the file is empty")
    file.seek(0)
    first = file.read(1)
    if first != bytes([MAGIC]):
        return _read_opaque(file, first, size, keep_going)
    layout = _find_layout(file, size)
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    image_hash = hashlib.sha256()
    sketch = [_SketchMd5(layout.sketch_end, mode) for mode in layout.flash_modes]
    file.seek(0)
    for offset, chunk in _read_chunks(file, 0, size, keep_going):
        md5.update(chunk)
        sha256.update(chunk)
        for one in sketch:
            one.update(chunk)
        if offset < layout.end:
            image_hash.update(chunk[: layout.end - offset])
    hashes = [one.hexdigest() for one in sketch]
    if layout.hash_appended:
        file.seek(layout.end)
        if file.read(32) != image_hash.digest():
            raise ImageError(f"the SHA-256 appended at byte {layout.end} is not that of the bytes before it")
    else:
        _check_checksum(file, layout)
    if layout.chip != "esp8266":
        # What an ESP32 reports: the appended hash, or the same one, made when it is asked for.
        hashes.append(image_hash.hexdigest())
    return ImageFacts(size, md5.hexdigest(), sha256.hexdigest(), layout.chip, tuple(dict.fromkeys(hashes)))


def _read_opaque(file: BinaryIO, first: bytes, size: int, keep_going: Callable[[], bool]) -> ImageFacts:
    """Hash a file of a form that is not known here, whose first byte was read already."""
    md5, sha256 = hashlib.md5(first, usedforsecurity=False), hashlib.sha256(first)
    for _, chunk in _read_chunks(file, len(first), size, keep_going):
        md5.update(chunk)
        sha256.update(chunk)
    return ImageFacts(size, md5.hexdigest(), sha256.hexdigest())


def _read_chunks(file: BinaryIO, offset: int, size: int, keep_going: Callable[[], bool]) -> Iterator[tuple[int, bytes]]:
    """Read a file of `size` bytes from where it stands, `offset`, to its end; yield each piece with its offset."""
    while chunk := file.read(CHUNK):
        if not keep_going():
            raise InterruptedError("reading was called off")
        yield offset, chunk
        offset += len(chunk)
    if offset != size:
        raise ImageError(f"the file changed while it was read: {size} bytes at first, then {offset}")


class _SketchMd5:
    """MD5 of an image's first `end` bytes, as they are in flash: with `flash_mode`, if not None, as byte 2."""

    def __init__(self, end: int, flash_mode: int | None) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._left = end
        self._flash_mode = flash_mode

    def update(self, data: bytes) -> None:
        data = data[: self._left]
        self._left -= len(data)
        if self._flash_mode is not None:
            data = data[:2] + bytes([self._flash_mode]) + data[3:]
            self._flash_mode = None
        self._md5.update(data)

    def hexdigest(self) -> str:
        return self._md5.hexdigest()


def _find_layout(file: BinaryIO, size: int) -> _Layout:
    """Find out how an ESP image is laid out. Raises ImageError for a damaged one."""
    file.seek(0)
    head = file.read(36)
    if head[32:36] == _APP_DESCRIPTOR:
        segments, end = _walk(file, size, 0, 24)
        hash_appended = head[23] == 1
        if hash_appended and end + 32 > size:
            raise ImageError(f"it ends at byte {size}, inside the appended SHA-256 that begins at {end}")
        return _Layout(segments, end, hash_appended, _CHIP_IDS.get(int.from_bytes(head[12:14], "little")))
    segments, end = _walk(file, size, 0, 8)
    if end <= _ARDUINO_APP_OFFSET:
        # What is so short is the Arduino core's boot loader. Alone it leaves a device with nothing to boot.
        file.seek(_ARDUINO_APP_OFFSET)
        if file.read(1) != bytes([MAGIC]):
            raise ImageError(f"it holds a boot loader, and no sketch behind it at byte {_ARDUINO_APP_OFFSET}")
        # The sketch's checksum is not looked at: elf2bin.py writes length and CRC into its first segment after
        # the checksum was made, and eboot goes by the CRC.
        _, end = _walk(file, size, _ARDUINO_APP_OFFSET, 8)
        _check_arduino_crc(file, size)
    return _Layout(segments, end, chip="esp8266", flash_modes=(0, 1, 2, 3))


def _walk(file: BinaryIO, size: int, start: int, header: int) -> tuple[tuple[tuple[int, int], ...], int]:
    """Follow an image's segments from its header on; return where their data lies and where the image ends."""
    file.seek(start)
    count = file.read(2)[1:]
    if not count or not 0 < count[0] <= _MAX_SEGMENTS:
        raise ImageError(f"its header at byte {start} doesn't announce 1 to {_MAX_SEGMENTS} segments")
    segments = []
    offset = start + header
    for number in range(count[0]):
        file.seek(offset + 4)
        words = file.read(4)
        length = int.from_bytes(words, "little")
        offset += 8
        if len(words) < 4 or offset + length > size:
            raise ImageError(
                f"it ends at byte {size}, but segment {number + 1} of {count[0]} reaches to byte {offset + length}"
            )
        segments.append((offset, length))
        offset += length
    # Zeros follow, so that the checksum is the last byte of a block of 16.
    end = start + (offset - start) // 16 * 16 + 16
    if end > size:
        raise ImageError(f"it ends at byte {size}, before its checksum at {end - 1}")
    return tuple(segments), end


def _check_arduino_crc(file: BinaryIO, size: int) -> None:
    """Compare the CRC that the Arduino core puts into an ESP8266 sketch with its bytes. Raises ImageError.

    Length and CRC stand as two words at 0x1010, and count as zeros in the CRC (elf2bin.py). Cores before 2.6 left
    them zero.
    """
    file.seek(_ARDUINO_CRC_OFFSET)
    length, crc = (int.from_bytes(file.read(4), "little") for _ in range(2))
    if not length and not crc:
        return
    if not _ARDUINO_CRC_OFFSET + 8 <= length <= size:
        raise ImageError(f"it has {size} bytes, and says at byte {_ARDUINO_CRC_OFFSET} that it has {length}")
    file.seek(0)
    left, value = length, 0
    while left and (chunk := file.read(min(left, CHUNK))):
        if left == length:
            # The first chunk holds the two words.
            chunk = chunk[:_ARDUINO_CRC_OFFSET] + bytes(8) + chunk[_ARDUINO_CRC_OFFSET + 8 :]
        left -= len(chunk)
        value = zlib.crc32(chunk.translate(_MIRRORED_BITS), value)
    # eboot's is CRC-32/MPEG-2: that of zlib with the bits of bytes and result mirrored, and without its last step.
    mirrored = (value ^ 0xFFFFFFFF).to_bytes(4, "little").translate(_MIRRORED_BITS)
    if int.from_bytes(mirrored, "big") != crc:
        raise ImageError(f"its bytes don't have the CRC that stands at byte {_ARDUINO_CRC_OFFSET + 4}")


def _check_checksum(file: BinaryIO, layout: _Layout) -> None:
    """Compare the XOR of all segments' bytes with the checksum byte. Raises ImageError."""
    checksum = _CHECKSUM_SEED
    offset = layout.segments[0][0]
    for offset, length in layout.segments:
        file.seek(offset)
        left = length
        while left and (chunk := file.read(min(left, CHUNK))):
            left -= len(chunk)
            checksum ^= _xor(chunk)
    at = (offset + length) // 16 * 16 + 15
    file.seek(at)
    if file.read(1) != bytes([checksum]):
        raise ImageError(f"the checksum at byte {at} is not that of its segments")


def _xor(data: bytes) -> int:
    """XOR all bytes, by folding the data as one long number in halves."""
    value, length = int.from_bytes(data, "little"), len(data)
    while length > 1:
        half = (length + 1) // 2
        value = (value & ((1 << 8 * half) - 1)) ^ (value >> 8 * half)
        length = half
    return value
