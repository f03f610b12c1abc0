"""Images for the ESP32 family: applications, and what is written to a new device by wire."""

from __future__ import annotations

import struct
import tempfile
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from tests.images.tools import RISCV, XTENSA, make_elf, noise, run_python, whole_words


class _Chip(NamedTuple):
    """Addresses, which esptool sorts segments by: data and code in flash, code and data in internal memory.

    `boot` is where the boot loader lies in flash.
    """

    machine: int
    flash_data: int
    flash_code: int
    code: int
    data: int
    boot: int = 0


_CHIPS = {
    "esp32": _Chip(XTENSA, 0x3F400020, 0x400D0020, 0x40080000, 0x3FFB0000, 0x1000),
    "esp32s2": _Chip(XTENSA, 0x3F000020, 0x40080020, 0x40024000, 0x3FFB0000, 0x1000),
    "esp32s3": _Chip(XTENSA, 0x3C000020, 0x42000020, 0x40374000, 0x3FC90000),
    "esp32c2": _Chip(RISCV, 0x3C000020, 0x42000020, 0x4037C000, 0x3FCA0000),
    "esp32c3": _Chip(RISCV, 0x3C000020, 0x42000020, 0x4037C000, 0x3FC80000),
    # From here on data and code in flash share a range of addresses.
    "esp32c5": _Chip(RISCV, 0x42000020, 0x42100020, 0x40800000, 0x40830000, 0x2000),
    "esp32c6": _Chip(RISCV, 0x42000020, 0x42100020, 0x40800000, 0x40830000),
    "esp32c61": _Chip(RISCV, 0x42000020, 0x42100020, 0x40800000, 0x40830000),
    "esp32h2": _Chip(RISCV, 0x42000020, 0x42100020, 0x40800000, 0x40830000),
    "esp32h21": _Chip(RISCV, 0x42000020, 0x42100020, 0x40800000, 0x40830000),
    "esp32h4": _Chip(RISCV, 0x42000020, 0x42100020, 0x40810000, 0x40830000, 0x2000),
    "esp32p4": _Chip(RISCV, 0x40000020, 0x40100020, 0x4FF00000, 0x4FF40000, 0x2000),
    "esp32s31": _Chip(RISCV, 0x40000020, 0x40100020, 0x2F000000, 0x2F040000, 0x2000),
    "esp32e22": _Chip(RISCV, 0x3C000020, 0x3C100020, 0x30FE0000, 0x31000000),
}

ESP32_CHIPS = tuple(_CHIPS)
"""The chips of the ESP32 family that images can be made for here: all that esptool knows."""


def app_descriptor(project: str, version: str, secure_version: int = 0, idf_version: str = "v5.5.1") -> bytes:
    """Return an `esp_app_desc_t` (ESP-IDF, esp_app_format), 256 bytes.

    esptool puts the ELF file's hash in where it finds one at the beginning of what is mapped from flash.
    """
    return struct.pack("<II8s32s32s16s16s32s32s", 0xABCD5432, secure_version, b"", version.encode(), project.encode(),
                       b"12:00:00", b"Nov 23 2026", idf_version.encode(), bytes(32)).ljust(256, b"\0")  # fmt: skip


@lru_cache
def esp32_image(
    chip: str = "esp32",
    version: str = "1.0.0",
    project: str = "firmware",
    size: int = 4096,
    seed: int = 0,
    flags: tuple[str, ...] = (),
    *,
    secure_version: int = 0,
    idf_version: str = "v5.5.1",
    embedded: bytes = b"",
    described: bool = True,
    flash_code: int = 0,
) -> bytes:
    """Return an application image for a chip of the ESP32 family, with about `size` bytes of code in memory.

    `flags` are further options of `esptool elf2image`, such as `--flash-mode`, `--flash-size`, `--flash-freq`,
    `--min-rev-full`, `--max-rev-full`, `--secure-pad-v2` and `--dont-append-digest`. `embedded` are bytes to find in
    the constants, which lie in flash, and `flash_code` is how much code stays in flash too, in bytes: esptool then
    splits the code in memory up, for what is mapped to lie on a boundary of 64 KB. Not `described`, it is an
    application as they were before ESP-IDF 3.3, without a descriptor.
    """
    memory = _CHIPS[chip]
    constants = whole_words(embedded)
    if described:
        name, constants = ".flash.appdesc", app_descriptor(project, version, secure_version, idf_version) + constants
    else:
        name, constants = ".flash.rodata", noise(256, seed + 1) + constants
    sections = [(name, memory.flash_data, constants), (".iram0.text", memory.code, noise(size // 4 * 4, seed))]
    if flash_code:
        sections.append((".flash.text", memory.flash_code, noise(flash_code // 4 * 4, seed + 2)))
    return _elf2image(chip, sections, flags)


@lru_cache
def made_bootloader(
    chip: str = "esp32",
    size: int = 8192,
    seed: int = 0,
    flags: tuple[str, ...] = (),
    *,
    described: bool = True,
    idf_version: str = "v5.5.1",
) -> bytes:
    """Return an image that is loaded to memory as a whole, as boot loaders are, with `size` bytes of code.

    Those of ESP-IDF 5.1 and newer are `described` by an `esp_bootloader_desc_t`, the ones before have no descriptor.
    """
    memory = _CHIPS[chip]
    data = noise(64, seed + 1)
    if described:
        built = b"Nov 23 2026 12:00:00"
        data = struct.pack("<B3sI32s24s16s", 80, b"", 1, idf_version.encode(), built, b"") + data
    name = ".dram0.bootdesc" if described else ".dram0.data"
    sections = [(name, memory.data, data), (".iram0.text", memory.code, noise(size // 4 * 4, seed))]
    return _elf2image(chip, sections, flags)


@lru_cache
def bootloader() -> bytes:
    """Return a genuine boot loader for the ESP32: ESP-IDF's as ESPHome ships it. It has no descriptor."""
    return _genuine("bootloader.bin")


@lru_cache
def partition_table() -> bytes:
    """Return a genuine partition table, with the MD5 behind it: ESPHome's, with `otadata` at 0xE000."""
    return _genuine("partitions.bin")


@lru_cache
def ota_data() -> bytes:
    """Return genuine OTA data, two sectors that say to start the first application (`boot_app0.bin`)."""
    return _genuine("ota.bin")


@lru_cache
def merged_image(chip: str = "esp32", app: bytes = b"", flags: tuple[str, ...] = (), *, ota: bool = True) -> bytes:
    """Return a factory image: boot loader, partition table, OTA data and application, put together by esptool.

    The boot loader is at 0x1000 for the ESP32 and the ESP32-S2, which leaves 0xFF before it, at 0x2000 or at 0 for
    others. Without an application given it is that of `esp32_image`. `flags` are options of `esptool merge-bin`,
    such as `--pad-to-size 4MB` or `--target-offset 0x1000`. Without `ota` the OTA data is left out.
    """
    parts = [
        (_CHIPS[chip].boot, bootloader() if chip == "esp32" else made_bootloader(chip)),
        (0x8000, partition_table()),
        (0xE000, ota_data() if ota else b""),
        (0x10000, app or esp32_image(chip)),
    ]
    with tempfile.TemporaryDirectory() as folder:
        arguments = []
        for offset, part in parts:
            if part:
                path = Path(folder, f"{offset:x}.bin")
                path.write_bytes(part)
                arguments += [hex(offset), str(path)]
        merged = Path(folder, "merged.bin")
        run_python("esptool", "--chip", chip, "merge-bin", *flags, "--output", str(merged), *arguments)
        return merged.read_bytes()


def _genuine(name: str) -> bytes:
    """Return a file that the package esphome-dashboard brings along for its users' new devices."""
    return files("esphome_dashboard").joinpath("static", "firmware", name).read_bytes()


def _elf2image(chip: str, sections: list[tuple[str, int, bytes]], flags: tuple[str, ...]) -> bytes:
    memory = _CHIPS[chip]
    with tempfile.TemporaryDirectory() as folder:
        elf, image = Path(folder, "app.elf"), Path(folder, "app.bin")
        elf.write_bytes(make_elf(memory.machine, memory.code, sections))
        run_python("esptool", "--chip", chip, "elf2image", *flags, "--output", str(image), str(elf))
        return image.read_bytes()
