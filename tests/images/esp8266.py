"""Images for the ESP8266: Arduino's sketches, and the three layouts that Espressif's own kits have."""

from __future__ import annotations

import struct
import tempfile
from functools import lru_cache
from pathlib import Path

from tests.images.esp32 import app_descriptor
from tests.images.tools import XTENSA, make_elf, noise, run_python, whole_words

_EBOOT, _MEMORY, _FLASH = 0x4010F000, 0x40100000, 0x40201010


@lru_cache
def esp8266_image(
    size: int = 4096,
    seed: int = 0,
    flash_mode: str = "dio",
    *,
    embedded: bytes = b"",
    boot_embedded: bytes = b"",
    flash_size: str = "1MB",
    flash_freq: str = "40m",
) -> bytes:
    """Return an image as the Arduino core for ESP8266 lays it out: boot loader, and the sketch at 4096.

    Both parts are esptool's; the core's own tool puts them together as it is done here. `embedded` are bytes to find
    in the sketch, behind its `size` bytes of code, and `boot_embedded` ones to find in the boot loader.
    """
    flags = _flash(flash_mode, flash_size, flash_freq)
    boot = _elf2image([(".text", _EBOOT, noise(256, 1) + whole_words(boot_embedded))], flags)
    # The core leaves room for two words at the beginning.
    code = bytes(8) + noise(size // 4 * 4 - 8, seed + 2) + whole_words(embedded)
    sketch = _elf2image([(".text", _MEMORY, code)], flags)
    return add_arduino_crc(boot.ljust(4096, b"\xaa") + sketch)


def add_arduino_crc(image: bytes) -> bytes:
    """Put the two words into an ESP8266 image that the Arduino core's boot loader goes by: length and CRC, at 0x1010.

    The CRC is CRC-32/MPEG-2, computed bit by bit as its definition has it, with the two words as zeros.
    """
    blank = image[:0x1010] + bytes(8) + image[0x1018:]
    crc = 0xFFFFFFFF
    for byte in blank:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
    return image[:0x1010] + struct.pack("<II", len(image), crc) + image[0x1018:]


@lru_cache
def esp8266_bootloader(seed: int = 1, flash_mode: str = "dio", *, embedded: bytes = b"") -> bytes:
    """Return the boot loader alone, as the Arduino core keeps it: loaded to where eboot is, and no sketch behind it."""
    return _elf2image([(".text", _EBOOT, noise(256, seed) + whole_words(embedded))], _flash(flash_mode))


@lru_cache
def esp8266_plain_image(size: int = 4096, seed: int = 0, flash_mode: str = "dio", *, embedded: bytes = b"") -> bytes:
    """Return an image that the chip loads by itself (esptool's version 1), with no boot loader in it."""
    return _elf2image([(".text", _MEMORY, noise(size // 4 * 4, seed) + whole_words(embedded))], _flash(flash_mode))


@lru_cache
def esp8266_v2_image(size: int = 4096, seed: int = 0, flash_mode: str = "dio", *, embedded: bytes = b"") -> bytes:
    """Return an image for the boot loader of Espressif's NonOS kit (esptool's version 2): EA, then E9, then a CRC."""
    sections = [
        (".irom0.text", _FLASH, noise(size // 4 * 4, seed) + whole_words(embedded)),
        (".text", _MEMORY, noise(256, seed + 1)),
    ]
    return _elf2image(sections, _flash(flash_mode), version=2)


@lru_cache
def esp8266_v3_image(
    version: str = "1.0.0",
    project: str = "firmware",
    size: int = 4096,
    seed: int = 0,
    flash_mode: str = "dio",
    *,
    described: bool = True,
) -> bytes:
    """Return an image of Espressif's RTOS kit (esptool's version 3).

    It has the short header, the constants in flash first, with an ESP32's descriptor at 16, and at the end a SHA-256
    as an ESP32 image has; but no byte of the header tells of that.
    """
    constants = app_descriptor(project, version, idf_version="v3.4") if described else b""
    sections = [
        (".flash.text", 0x40210010, constants + noise(size // 4 * 4, seed)),
        (".dram0.data", 0x3FFE8000, noise(64, seed + 1)),
        (".iram0.text", _MEMORY, noise(256, seed + 2)),
    ]
    return _elf2image(sections, _flash(flash_mode), version=3)


def _flash(mode: str, size: str = "1MB", frequency: str = "40m") -> tuple[str, ...]:
    return ("--flash-mode", mode, "--flash-size", size, "--flash-freq", frequency)


def _elf2image(sections: list[tuple[str, int, bytes]], flags: tuple[str, ...], version: int = 1) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        elf, image = Path(folder, "part.elf"), Path(folder, "part")
        elf.write_bytes(make_elf(XTENSA, sections[0][1], sections))
        options = ("--version", str(version), "--output", str(image))
        run_python("esptool", "--chip", "esp8266", "elf2image", *flags, *options, str(elf))
        # To a name for version 1 esptool adds the address.
        return Path(f"{image}0x00000.bin" if version == 1 else image).read_bytes()
