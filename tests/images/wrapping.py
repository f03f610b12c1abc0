"""Images of other makes, images in wrappings, and images that took harm."""

from __future__ import annotations

import gzip
import hashlib
import struct
import tempfile
import zlib
from functools import lru_cache
from pathlib import Path

from tests.images.tools import noise, run_python

ARDUINO_MAGICS = {
    "esp32": 0x45535033,
    "nano_esp32": 0x23410070,
    "mkr_wifi_1010": 0x23418054,
    "nano_33_iot": 0x23418057,
    "uno_r4_wifi": 0x23411002,
    "opta": 0x23410064,
}
"""Numbers of boards in Arduino's .ota images: vendor and product of USB, and one for all other ESP32 boards."""


def compress(image: bytes, *, name: str = "") -> bytes:
    """Return an image as gzip, the same each time. With a name its header has that, as the program's has it."""
    packed = gzip.compress(image, mtime=0)
    return packed[:3] + b"\x08" + packed[4:10] + name.encode() + b"\0" + packed[10:] if name else packed


@lru_cache
def mcuboot_image(
    version: str = "1.0.0+0",
    size: int = 4096,
    seed: int = 0,
    key: bytes | None = None,
    flags: tuple[str, ...] = (),
    *,
    header: int = 0x200,
) -> bytes:
    """Return an image for MCUboot made by imgtool, with `size` bytes of code behind a header of `header` bytes.

    It ends with a SHA-256, and with the signature of a private key if one is given. `flags` are further options of
    `imgtool sign`, such as `--pad`, `--confirm`, `--overwrite-only` or `--security-counter 5`.
    """
    with tempfile.TemporaryDirectory() as folder:
        code, image, path = Path(folder, "code.bin"), Path(folder, "image.bin"), Path(folder, "key.pem")
        code.write_bytes(noise(size, seed))
        options = [*flags, "--version", version, "--header-size", str(header), "--pad-header"]
        options += ["--slot-size", "0x60000", "--align", "4"]
        if key is not None:
            path.write_bytes(key)
            options += ["--key", str(path)]
        run_python("imgtool.main", "sign", *options, str(code), str(image))
        return image.read_bytes()


def arduino_ota(payload: bytes, magic: int = ARDUINO_MAGICS["esp32"], version: bytes = bytes(7) + b"\x40") -> bytes:
    """Return an .ota image as Arduino's `bin2ota.py` makes it: length, CRC-32, board and version before the payload.

    The length and the CRC are those of what follows them. The version says only that the payload is compressed by
    LZSS; eight zeros say that it isn't. The payload is taken as it is.
    """
    body = struct.pack("<I", magic) + version + payload
    return struct.pack("<II", len(body), zlib.crc32(body)) + body


def damaged(image: bytes, offset: int) -> bytes:
    """Return an image with all bits of one byte turned over; negative offsets count from its end."""
    harmed = bytearray(image)
    harmed[offset] ^= 0xFF
    return bytes(harmed)


def rehashed(image: bytes) -> bytes:
    """Return an ESP32 image with the hash at its end made anew, so that it hides what was changed before it."""
    return image[:-32] + hashlib.sha256(image[:-32]).digest()


def cuts(image: bytes) -> tuple[int, ...]:
    """Return lengths to cut an image to where readers may stumble: in and between its headers, and near its end."""
    size = len(image)
    lengths = {1, 2, 4, 7, 8, 12, 16, 23, 24, 31, 32, 47, 288, 511, 512, 4095, 4096, 4097, 4112, 4120, size // 2}
    lengths |= {size - less for less in (1, 2, 4, 16, 31, 32, 33, 48, 64, 68, 260, 4095, 4096, 4097)}
    return tuple(sorted(length for length in lengths if 0 < length < size))
