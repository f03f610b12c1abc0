"""Real images for tests and examples: made by the vendor's `esptool` from small ELF files made here.

Run as a program it makes the examples: `python -m tests.images FOLDER`.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

# Addresses of each chip's data in flash and of code in its internal memory, which esptool sorts segments by.
_MEMORY = {
    "esp32": (0x3F400020, 0x40080000),
    "esp32s2": (0x3F000020, 0x40024000),
    "esp32s3": (0x3C000020, 0x40374000),
    "esp32c2": (0x3C000020, 0x4037C000),
    "esp32c3": (0x3C000020, 0x4037C000),
    "esp32c6": (0x42000020, 0x40800000),
    "esp32h2": (0x42000020, 0x40800000),
}

ESP32_CHIPS = tuple(_MEMORY)
"""The chips of the ESP32 family that images can be made for here."""

_XTENSA, _RISCV = 94, 243


def make_elf(machine: int, entry: int, sections: Sequence[tuple[str, int, bytes]]) -> bytes:
    """Return a 32-bit little-endian ELF program of sections given as (name, address, bytes)."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name, _, _ in sections) + b".shstrtab\0"
    offset = 52
    body, headers, programs = b"", [struct.pack("<10I", *[0] * 10)], []
    for name, address, data in sections:
        flags = 2 | (4 if "text" in name else 0)
        at = names.index(b"\0" + name.encode() + b"\0") + 1
        headers.append(struct.pack("<10I", at, 1, flags, address, offset, len(data), 0, 0, 4, 0))
        programs.append(struct.pack("<8I", 1, offset, address, address, len(data), len(data), 5, 4))
        body += data
        offset += len(data)
    at = names.index(b"\0.shstrtab\0") + 1
    headers.append(struct.pack("<10I", at, 3, 0, 0, offset, len(names), 0, 0, 1, 0))
    body += names
    offset += len(names)
    program_offset = offset
    section_offset = program_offset + 32 * len(programs)
    head = b"\x7fELF\x01\x01\x01" + bytes(9)
    head += struct.pack("<HHIIIIIHHHHHH", 2, machine, 1, entry, program_offset, section_offset, 0, 52, 32,
                        len(programs), 40, len(headers), len(headers) - 1)  # fmt: skip
    return head + body + b"".join(programs) + b"".join(headers)


def _app_descriptor(project: str, version: str) -> bytes:
    """Return an `esp_app_desc_t` (ESP-IDF, esp_app_format), 256 bytes."""
    return struct.pack("<II8s32s32s16s16s32s32s", 0xABCD5432, 0, b"", version.encode(), project.encode(),
                       b"12:00:00", b"Nov 23 2026", b"v5.5.1", bytes(32)).ljust(256, b"\0")  # fmt: skip


def _esptool(*arguments: str) -> None:
    command = [sys.executable, "-m", "esptool", *arguments]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "TERM": "dumb"})


def _noise(size: int, seed: int) -> bytes:
    """Return bytes that don't compress and are the same each time."""
    return random.Random(seed).randbytes(size)


@lru_cache
def esp32_image(
    chip: str = "esp32",
    version: str = "1.0.0",
    project: str = "firmware",
    size: int = 4096,
    seed: int = 0,
    flags: tuple[str, ...] = (),
) -> bytes:
    """Return an application image for a chip of the ESP32 family, with about `size` bytes of code.

    `flags` are further options of `esptool elf2image`.
    """
    data, code = _MEMORY[chip]
    sections = [
        (".flash.appdesc", data, _app_descriptor(project, version)),
        (".iram0.text", code, _noise(size // 4 * 4, seed)),
    ]
    machine = _XTENSA if chip in ("esp32", "esp32s2", "esp32s3") else _RISCV
    with tempfile.TemporaryDirectory() as folder:
        elf, image = Path(folder, "app.elf"), Path(folder, "app.bin")
        elf.write_bytes(make_elf(machine, code, sections))
        _esptool("--chip", chip, "elf2image", *flags, "--output", str(image), str(elf))
        return image.read_bytes()


@lru_cache
def esp8266_image(size: int = 4096, seed: int = 0, flash_mode: str = "dio") -> bytes:
    """Return an image as the Arduino core for ESP8266 lays it out: boot loader, and the sketch at 4096.

    Both parts are esptool's; the core's own tool puts them together as it is done here.
    """
    boot = _esp8266_part([(".text", 0x4010F000, _noise(256, 1))], flash_mode)
    # The core leaves room for two words at the beginning.
    code = bytes(8) + _noise(size // 4 * 4 - 8, seed + 2)
    sketch = _esp8266_part([(".text", 0x40100000, code)], flash_mode)
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


def _esp8266_part(sections: list[tuple[str, int, bytes]], flash_mode: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        elf = Path(folder, "part.elf")
        elf.write_bytes(make_elf(_XTENSA, sections[0][1], sections))
        _esptool("--chip", "esp8266", "elf2image", "--flash-mode", flash_mode, "--output", f"{folder}/part-", str(elf))
        return Path(folder, "part-0x00000.bin").read_bytes()


def make_examples(folder: Path) -> None:
    """Make the images of `examples/firmware`."""
    folder.mkdir(parents=True, exist_ok=True)
    examples = {
        "firmware-1.0.0.bin": esp8266_image(16384, seed=10),
        "firmware-1.1.0.bin": esp8266_image(16384, seed=11),
        "lamp-2.0.0.bin": esp32_image("esp32", "2.0.0", "lamp", 16384, seed=20),
    }
    for name, image in examples.items():
        (folder / name).write_bytes(image)


if __name__ == "__main__":
    make_examples(Path(sys.argv[1]))
