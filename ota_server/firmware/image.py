"""Reading an image: what it is, whether it is whole, and by which hashes a device will name it.

A file is read once, from its first byte to its last, and memory stays at a few chunks. The forms themselves are read
in `esp32.py`, `esp8266.py` and `formats.py`; what the result says is described in `facts.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from typing import BinaryIO

import attrs

from ota_server.firmware.esp import MAGIC_V2, is_esp8266
from ota_server.firmware.esp32 import read_esp32
from ota_server.firmware.esp8266 import read_esp8266, read_esp8266_v2
from ota_server.firmware.facts import Format, ImageFacts
from ota_server.firmware.formats import (
    HEAD,
    read_arduino_ota,
    read_gzip,
    read_mcuboot,
    read_plain,
    read_signed,
    recognise,
)
from ota_server.firmware.stream import CHUNK, ImageStream


class ImageError(Exception):
    """A file that there is nothing to say of: `reason` says why, and `offset` at which byte."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(reason)
        self.offset = offset
        self.reason = reason


def read_image(source: bytes | BinaryIO, keep_going: Callable[[], bool] = lambda: True) -> ImageFacts:
    """Read a whole image, given as bytes or as a binary file, and return what there is to know of it.

    A file that is damaged is read all the same: `ImageFacts.damage` says what is wrong with it. `keep_going` is asked
    at each chunk; when it says no InterruptedError is raised. Raises ImageError for a file that is empty or changes
    while it is read, and OSError where it can't be read.
    """
    file = BytesIO(source) if isinstance(source, bytes) else source
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        raise ImageError(0, "the file is empty")
    file.seek(0)
    facts = _read(ImageStream(_read_chunks(file, keep_going), size))
    if facts.size != size:
        raise ImageError(facts.size, f"the file changed while it was read: {size} bytes at first, then {facts.size}")
    return facts


def _read_chunks(file: BinaryIO, keep_going: Callable[[], bool]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        if not keep_going():
            raise InterruptedError("reading was called off")
        yield chunk


def _read(stream: ImageStream, wrapped: bool = False) -> ImageFacts:
    """Read what a stream holds; what is wrapped in something is not unwrapped once more."""
    head = stream.peek(HEAD)
    form = recognise(head, stream.size)
    inside = partial(_read, wrapped=True)
    match form:
        case None:
            if head[0] == MAGIC_V2:
                facts = read_esp8266_v2(stream)
            else:
                facts = read_esp8266(stream) if is_esp8266(head) else read_esp32(stream)
        case Format.GZIP if not wrapped:
            facts = read_gzip(stream, inside)
        case Format.SIGNED if not wrapped:
            facts = read_signed(stream, inside)
        case Format.MCUBOOT:
            facts = read_mcuboot(stream)
        case Format.ARDUINO_OTA:
            facts = read_arduino_ota(stream)
        case _:
            return read_plain(stream, form)
    stream.skip_rest()
    return attrs.evolve(facts, size=stream.position, md5=stream.md5.hexdigest(), sha256=stream.sha256.hexdigest())
