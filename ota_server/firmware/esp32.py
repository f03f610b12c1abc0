"""Reading images of the ESP32 family.

The ESP-IDF "app image format": a header of 24 bytes, segments, a checksum, an appended SHA-256, and behind these the
signature blocks of Secure Boot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import attrs

from ota_server.firmware.esp import (
    APP_DESCRIPTOR,
    find_broken_checksum,
    read_app_descriptor,
    read_checksum,
    read_hash,
    read_header,
    walk,
)
from ota_server.firmware.facts import AppDescriptor, Format, ImageFacts, Signature
from ota_server.firmware.marks import ESP32_DEBUG, Marks
from ota_server.firmware.stream import ImageStream, Xor
from ota_server.firmware.trailers import read_secure_boot

_HEADER = 24

CHIP_IDS: Mapping[int, str] = {
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
    0x1F: "esp32e22",
    0x20: "esp32s31",
}
"""Chips by the number in an image's header."""

# Where flash is mapped to. A boot loader has nothing there, since it is what maps it.
_FLASH = range(0x3C000000, 0x3E000000), range(0x42000000, 0x44000000)
_OWN_FLASH: Mapping[str | None, tuple[range, ...]] = {
    "esp32": (range(0x3F400000, 0x3F800000), range(0x400D0000, 0x40400000)),
    "esp32s2": (range(0x3F000000, 0x3F3F0000), range(0x40080000, 0x40B80000)),
    "esp32p4": (range(0x40000000, 0x4C000000),),
    "esp32s31": (range(0x40000000, 0x54000000),),
    "esp32e22": (range(0x3C000000, 0x40000000),),
}


def read_esp32(stream: ImageStream) -> ImageFacts:
    """Read an application or a boot loader of the ESP32 family."""
    head = stream.peek(_HEADER + 8 + 256)
    chip = CHIP_IDS.get(int.from_bytes(head[12:14], "little"))
    app = read_app_descriptor(head[32:]) if head[32:36] == APP_DESCRIPTOR else None
    marks, xor = Marks(ESP32_DEBUG), Xor()
    sha384 = None if chip in _CHIPS_WITHOUT_SHA384 else hashlib.sha384()
    if sha384 is not None:
        stream.sinks.append(sha384.update)
    # The strings of a program stand in its first segment, behind the descriptor.
    segments, damage = walk(stream, _HEADER, xor, marks if app else None)
    flash = _OWN_FLASH.get(chip, _FLASH)
    is_app = app is not None or any(segment.address in part for segment in segments for part in flash)
    checksum = None
    if damage is None:
        checksum, damage = read_checksum(stream, 0, xor)
    signatures: tuple[Signature, ...] = ()
    hashes: tuple[str, ...] = ()
    trailing = 0
    appended = None
    end = stream.position
    if damage is None:
        computed = stream.sha256.hexdigest()
        if head[23] == 1:
            appended, damage = read_hash(stream)
        # What a device reports: the appended hash, or the same one, made when it is asked for.
        hashes = (stream.md5.hexdigest(), computed)
        signatures, broken = read_secure_boot(stream, sha384)
        trailing = stream.skip_rest()
        damage = damage or find_broken_checksum(checksum, end) or broken
    return ImageFacts(
        0,
        "",
        "",
        chip=chip,
        sketch_hashes=hashes,
        format=Format.ESP32_APP if is_app else Format.ESP32_BOOTLOADER,
        damage=damage,
        project=marks.homie_name or (app.project if app and not _is_core(app) else None) or None,
        version=marks.homie_version
        or (app.version if app and not _is_core(app) and not marks.esphome else None)
        or None,
        esp=attrs.evolve(
            read_header(head, chip, segments),
            end=end,
            checksum=checksum,
            appended_hash=appended,
            min_chip_revision=int.from_bytes(head[15:17], "little") if len(head) >= _HEADER else None,
            max_chip_revision=int.from_bytes(head[17:19], "little") if len(head) >= _HEADER else None,
            app=app,
        ),
        signatures=signatures,
        trailing=trailing,
        debug=marks.debug,
    )


# They know no ECDSA P-384, the one kind of signature that needs SHA-384.
_CHIPS_WITHOUT_SHA384 = {"esp32", "esp32s2", "esp32s3", "esp32c2", "esp32c3", "esp32c6", "esp32h2"}


def _is_core(app: AppDescriptor) -> bool:
    """Say whether a descriptor is that of the Arduino core's libraries, which tells nothing of the sketch."""
    return app.project == "arduino-lib-builder" or app.version.startswith("esp-idf: ")
