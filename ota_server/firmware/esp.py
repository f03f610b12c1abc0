"""What images of the ESP8266 and of the ESP32 family have in common: header, segments, checksum, appended hash.

Layouts: the ESP-IDF "app image format" and that of esptool's `elf2image`. All numbers in them are little-endian.
"""

from __future__ import annotations

from collections.abc import Mapping

from ota_server.firmware.facts import AppDescriptor, Checked, Damage, EspFacts, Segment
from ota_server.firmware.stream import ImageStream, Sink, Xor

MAGIC = 0xE9
"""The first byte of every ESP8266 and ESP32 image."""

MAGIC_V2 = 0xEA
"""The first byte of an image for Espressif's own boot loader of the ESP8266."""

APP_DESCRIPTOR = (0xABCD5432).to_bytes(4, "little")
"""What an application's descriptor begins with, at byte 32 of the image."""

SECTOR = 4096
"""The size of a sector of flash, in bytes; an Arduino sketch for the ESP8266 begins at the second."""

_CHECKSUM_SEED = 0xEF
_MAX_SEGMENTS = 16
HEADER = 8
"""The length of the header, in bytes; that of the ESP32 family is longer."""

_HASH = 32

_MEGA = 1 << 20
_ESP8266_FLASH_SIZES = {
    0: _MEGA // 2,
    1: _MEGA // 4,
    2: _MEGA,
    3: 2 * _MEGA,
    4: 4 * _MEGA,
    5: 2 * _MEGA,
    6: 4 * _MEGA,
    8: 8 * _MEGA,
    9: 16 * _MEGA,
}
_ESP32_FLASH_SIZES = {code: _MEGA << code for code in range(8)}

# By code, in MHz.
_FREQUENCIES = {0x0: 40, 0x1: 26, 0x2: 20, 0xF: 80}
_OWN_FREQUENCIES: Mapping[str | None, Mapping[int, int]] = {
    "esp32c2": {0x0: 30, 0x1: 20, 0x2: 15, 0xF: 60},
    "esp32c5": {0x0: 40, 0x2: 20, 0xF: 80},
    "esp32c6": {0x0: 80, 0x2: 20},
    "esp32c61": {0x0: 40, 0x2: 20, 0xF: 80},
    "esp32h2": {0x0: 24, 0x1: 16, 0x2: 12, 0xF: 48},
    "esp32h21": {0x0: 24, 0xF: 48},
    "esp32h4": {0x0: 24, 0xF: 48},
    "esp32s31": {0x0: 40, 0x2: 20, 0xF: 80},
}

_ESP8266_MEMORY = range(0x3FFE0000, 0x40400000)


def is_esp8266(head: bytes) -> bool:
    """Say whether an image that begins so, with MAGIC, has the header of an ESP8266: by where it is loaded to first.

    In the longer header of the ESP32 family the settings of the flash chip's pins stand there.
    """
    return int.from_bytes(head[8:12], "little") in _ESP8266_MEMORY


def read_header(head: bytes, chip: str | None, segments: tuple[Segment, ...]) -> EspFacts:
    """Read the fields that all headers begin with."""
    head = head.ljust(HEADER, b"\0")
    sizes = _ESP8266_FLASH_SIZES if chip == "esp8266" else _ESP32_FLASH_SIZES
    frequency = _OWN_FREQUENCIES.get(chip, _FREQUENCIES).get(head[3] & 15)
    return EspFacts(
        int.from_bytes(head[4:8], "little"),
        head[2],
        sizes.get(head[3] >> 4),
        None if frequency is None else frequency * 10**6,
        segments,
        0,
    )


def read_app_descriptor(data: bytes) -> AppDescriptor:
    """Read an `esp_app_desc_t` (ESP-IDF, esp_app_format), 256 bytes or what there is of it."""
    return AppDescriptor(
        project=read_text(data[48:80]),
        version=read_text(data[16:48]),
        secure_version=int.from_bytes(data[4:8], "little"),
        idf_version=read_text(data[112:144]),
        build_time=f"{read_text(data[96:112])} {read_text(data[80:96])}".strip(),
        elf_sha256=data[144:176].hex(),
    )


def read_text(field: bytes) -> str:
    """Read a text that ends with a zero byte; what can't be printed is escaped."""
    return escape(field.partition(b"\0")[0].decode("utf-8", "backslashreplace"))


def escape(text: str) -> str:
    """Escape what in a text can't be printed."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def walk(
    stream: ImageStream, header: int, xor: Xor, first: Sink | None = None, count: int | None = None
) -> tuple[tuple[Segment, ...], Damage | None]:
    """Read a header and the segments behind it, as many as it says; `first` gets the first segment's data, too."""
    start = stream.position
    head = stream.take(header)
    if len(head) < header:
        return (), Damage(stream.position, f"it ends at byte {stream.position}, inside its header")
    if count is None:
        count = head[1]
    if not 0 < count <= _MAX_SEGMENTS:
        return (), Damage(start + 1, f"its header at byte {start} doesn't announce 1 to {_MAX_SEGMENTS} segments")
    segments: list[Segment] = []

    def both(piece: memoryview) -> None:
        xor(piece)
        if first is not None:
            first(piece)

    for number in range(count):
        words = stream.take(8)
        if len(words) < 8:
            here = stream.position
            return tuple(segments), Damage(here, f"it ends at byte {here}, before segment {number + 1} of {count}")
        length = int.from_bytes(words[4:], "little")
        offset = stream.position
        segments.append(Segment(offset, length, int.from_bytes(words[:4], "little")))
        reaches = f"segment {number + 1} of {count} reaches to byte {offset + length}"
        if stream.size is not None and offset + length > stream.size:
            return tuple(segments), Damage(stream.size, f"it ends at byte {stream.size}, but {reaches}")
        if stream.skip(length, both if number == 0 else xor) < length:
            return tuple(segments), Damage(stream.position, f"it ends at byte {stream.position}, but {reaches}")
    return tuple(segments), None


def read_checksum(stream: ImageStream, start: int, xor: Xor) -> tuple[Checked | None, Damage | None]:
    """Read the zeros and the checksum behind an image's segments: the checksum is the last byte of a block of 16."""
    room = 16 - (stream.position - start) % 16
    at = stream.position + room - 1
    padding = stream.take(room)
    if len(padding) < room:
        return None, Damage(stream.position, f"it ends at byte {stream.position}, before its checksum at {at}")
    return Checked(f"{padding[-1]:02x}", f"{xor.value() ^ _CHECKSUM_SEED:02x}"), None


def read_hash(stream: ImageStream) -> tuple[Checked | None, Damage | None]:
    """Read the SHA-256 that ends an image."""
    start = stream.position
    computed = stream.sha256.hexdigest()
    stated = stream.take(_HASH)
    if len(stated) < _HASH:
        return None, Damage(stream.position, f"it ends inside the SHA-256 that begins at byte {start}")
    appended = Checked(stated.hex(), computed)
    if appended.holds:
        return appended, None
    return appended, Damage(start, f"the SHA-256 appended at byte {start} is not that of the bytes before it")


def find_broken_checksum(checksum: Checked | None, end: int) -> Damage | None:
    """Say that a checksum doesn't hold, which is the last byte before `end`."""
    if checksum is None or checksum.holds:
        return None
    return Damage(end - 1, f"the checksum at byte {end - 1} is not that of its segments")
