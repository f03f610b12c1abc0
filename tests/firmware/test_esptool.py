"""Tests that compare what is read of an image with what the vendor's esptool tells of it, good and damaged."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.facts import FLASH_MODES, Format, ImageFacts
from ota_server.firmware.image import read_image
from ota_server.report import make_report, spell_chip
from tests.firmware.reading import before_core_3
from tests.images import ESP32_CHIPS, damaged, esp8266_image, esp8266_plain_image, made_bootloader, rehashed, zoo

_SIZES = {"KB": 1 << 10, "MB": 1 << 20}
_CHIPS = {chip.upper().replace("ESP32", "ESP32-", 1).rstrip("-"): chip for chip in ESP32_CHIPS} | {"ESP8266": "esp8266"}


@attrs.frozen
class Told:
    """What both tell of an image. None stands for what isn't there, or isn't known."""

    chip: str | None
    entry: int
    flash_size: int | None
    flash_frequency: int | None
    flash_mode: str | None
    segments: tuple[tuple[int, int, int], ...]
    checksum: tuple[str, str] | None
    """As the image states it, and as it is."""
    hash: tuple[str, bool] | None = None
    """As it is, and whether the image states so."""
    revisions: tuple[int, int] | None = None
    app: tuple[str, str, str, str, str, int] | None = None


def by_esptool(text: str) -> Told:
    """Take apart what `esptool image-info` writes."""
    fields = dict(re.findall(r"(?m)^([A-Za-z0-9- ]+): (.*?) *$", text))

    def revision(name: str) -> int:
        major, minor = re.match(r"v(\d+)\.(\d+)", fields[name]).groups()  # type: ignore[union-attr]
        return int(major) * 100 + int(minor)

    checksum = re.match(r"0x([0-9a-f]+) \((?:valid|invalid - calculated 0x([0-9a-f]+))\)", fields["Checksum"])
    digest = re.match(r"([0-9a-f]{64}) \((valid|invalid)\)", fields.get("Validation hash", ""))
    size = re.match(r"(\d+)(KB|MB)", fields.get("Flash size", ""))
    frequency = re.match(r"(\d+)m", fields.get("Flash freq", ""))
    segments = re.findall(r"(?m)^ +\d+  0x([0-9a-f]+)  0x([0-9a-f]+)  0x([0-9a-f]+)", text)
    return Told(
        _CHIPS.get(fields["Detected image type"]) if "Unknown ID" not in fields.get("Chip ID", "") else None,
        int(fields["Entry point"], 16),
        int(size[1]) * _SIZES[size[2]] if size else None,
        int(frequency[1]) * 10**6 if frequency else None,
        fields["Flash mode"].lower() if "Flash mode" in fields else None,
        tuple((int(offset, 16), int(length, 16), int(address, 16)) for length, address, offset in segments),
        (checksum[1], checksum[2] or checksum[1]) if checksum else None,
        (digest[1], digest[2] == "valid") if digest else None,
        (revision("Minimal chip revision"), revision("Maximal chip revision")) if "Chip ID" in fields else None,
        (
            fields["Project name"],
            fields["App version"],
            fields["Compile time"],
            fields["ELF file SHA256"],
            fields["ESP-IDF"],
            int(fields["Secure version"]),
        )
        if "Project name" in fields
        else None,
    )


def by_facts(facts: ImageFacts) -> Told:
    """Put facts in the same form."""
    esp = facts.esp
    assert esp is not None

    revisions = None
    if esp.min_chip_revision is not None and esp.max_chip_revision is not None:
        revisions = (esp.min_chip_revision, esp.max_chip_revision)
    app = esp.app
    segments = esp.segments
    if facts.format is Format.ESP8266_SKETCH:
        # Of a sketch esptool sees the boot loader.
        segments = tuple(segment for segment in segments if segment.offset < 4096)
    # esptool tells where a segment's own header is, which is eight bytes before its data.
    return Told(
        facts.chip,
        esp.entry,
        esp.flash_size,
        esp.flash_frequency,
        FLASH_MODES[esp.flash_mode] if esp.flash_mode < len(FLASH_MODES) else None,
        tuple((segment.offset - 8, segment.length, segment.address) for segment in segments),
        (esp.checksum.stated, esp.checksum.computed) if esp.checksum else None,
        (esp.appended_hash.computed, esp.appended_hash.holds) if esp.appended_hash else None,
        revisions,
        (app.project, app.version, app.build_time, app.elf_sha256, app.idf_version, app.secure_version)
        if app
        else None,
    )


def _with_header(image: bytes, number: int) -> bytes:
    """Return an ESP32 image with settings in its header that differ by number, and their hash."""
    frequency = (0, 1, 2, 15, 3)[number % 5]
    made = bytearray(image)
    made[2] = number % 5
    made[3] = (number * 3 % 10) << 4 | frequency
    made[15:19] = (number * 37 % 400).to_bytes(2, "little") + (number * 101 % 70000 & 0xFFFF).to_bytes(2, "little")
    return rehashed(bytes(made))


def _made() -> dict[str, bytes]:
    """Return images that both can read, by name."""
    images = {}
    for chip_number, chip in enumerate(ESP32_CHIPS):
        image = zoo()[f"{chip}-app"]
        for number, (kind, made) in enumerate(
            {
                "whole": lambda whole: whole,
                "segment": lambda whole: damaged(whole, 1000),
                "segment-rehashed": lambda whole: rehashed(damaged(whole, 1000)),
                "hash": lambda whole: damaged(whole, -7),
                "checksum": lambda whole: damaged(whole, -33),
            }.items()
        ):
            # Each chip gets each of the five codes of frequency, and in all each gets ten codes of sizes.
            images[f"{chip}-{kind}"] = made(_with_header(image, chip_number + 3 * number))
    images |= {
        name: image
        for name, image in zoo().items()
        if name.startswith("esp")
        and not name.endswith(("-app", "-gzip", "-esp32fota", "-gzip-signed", "-merged", "-table", "-ota-data"))
    }
    plain = esp8266_plain_image()
    for number in range(10):
        made8266 = bytearray(plain)
        made8266[2], made8266[3] = number % 5, number << 4 | (0, 1, 2, 15, 3)[number % 5]
        images[f"esp8266-plain-{number}"] = bytes(made8266)
    images["esp8266-plain-damaged"] = damaged(plain, 1000)
    images["esp8266-old-sketch"] = before_core_3(esp8266_image())
    images["esp8266-boot-damaged"] = damaged(esp8266_image(), 100)
    images["esp8266-v2-damaged"] = damaged(zoo()["esp8266-v2"], -100)
    images["esp32c3-bootloader-damaged"] = damaged(made_bootloader("esp32c3"), 5000)
    return images


def _cut() -> dict[str, bytes]:
    """Return images that end too early, by name."""
    whole = zoo()["esp32c6-app"], zoo()["esp32-app-without-hash"], zoo()["esp8266-plain"], zoo()["esp8266-v2"]
    return {
        f"{number}-{length}": image[:length]
        for number, image in enumerate(whole)
        for length in (7, 25, 280, 300, len(image) - 33, len(image) - 5)
    }


@lru_cache
def _image_info() -> Mapping[str, subprocess.CompletedProcess[str]]:
    """Run `esptool image-info` on all images, several at a time."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:

        def run(item: tuple[str, bytes]) -> subprocess.CompletedProcess[str]:
            name, image = item
            path = Path(folder, name)
            path.write_bytes(image)
            command = [sys.executable, "-m", "esptool", "image-info", str(path)]
            environment = {**os.environ, "TERM": "dumb", "COLUMNS": "200"}
            return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

        images = _made() | _cut()
        return dict(zip(images, pool.map(run, images.items()), strict=True))


class EsptoolTests(SynchronousTestCase):
    """No difference in what both tell."""

    maxDiff = None

    def test_fields(self) -> None:
        """All fields that both tell are equal, and so are their verdicts, for every chip, good and damaged."""
        compared = 0
        for name, image in _made().items():
            if name == "esp8266-v3":
                # esptool takes it for one of an ESP32.
                continue
            with self.subTest(name):
                done = _image_info()[name]
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
                facts = read_image(image)
                told = by_esptool(done.stdout)
                self.assertEqual(by_facts(facts), told)
                assert told.checksum is not None
                whole = told.checksum[0] == told.checksum[1] and (told.hash is None or told.hash[1])
                self.assertEqual(facts.damage is None, whole)
                compared += 1
        self.assertGreater(compared, 5 * len(ESP32_CHIPS) + 20)

    def test_inspect(self) -> None:
        """So are the lines that `ota-server inspect` shows, for every chip."""
        for chip in ESP32_CHIPS:
            for kind in ("whole", "segment", "hash"):
                name = f"{chip}-{kind}"
                image = _made()[name]
                shown = dict(make_report("lamp-1.0.bin", read_image(image), None).lines())
                told = by_esptool(_image_info()[name].stdout)
                assert told.checksum is not None
                assert told.hash is not None
                assert told.app is not None
                project, version, built, elf, framework, secure_version = told.app
                self.assertTrue(shown["chip"].startswith(f"{spell_chip(told.chip or '')}, "))
                self.assertEqual(shown["entry"], f"{told.entry:#010x}")
                size = f"{told.flash_size >> 20} MB" if told.flash_size else "unknown size"
                mode = told.flash_mode.upper() if told.flash_mode else f"mode {image[2]}"
                clock = f"{told.flash_frequency // 10**6} MHz" if told.flash_frequency else "unknown clock"
                self.assertEqual(shown["flash"], f"{size}, {mode}, {clock}")
                self.assertEqual(shown["checksum"].split(",")[0], told.checksum[0])
                self.assertEqual(shown["checksum"].endswith(", holds"), told.checksum[0] == told.checksum[1])
                self.assertIn(told.hash[0], shown["hash"])
                self.assertEqual(shown["hash"].endswith(", holds"), told.hash[1])
                self.assertEqual(shown["built"], f"{built}, with ESP-IDF {framework}")
                self.assertEqual((shown["ELF"], shown["rollback"]), (elf, f"secure version {secure_version}"))
                self.assertEqual(
                    (shown["version"], shown["project"]),
                    (f"1.0.0 in the name, {version} inside", f"lamp in the name, {project} inside"),
                )
                each = ", ".join(f"{length:,} to {address:#010x}" for _, length, address in told.segments)
                self.assertTrue(shown["segments"].endswith(f" bytes in all: {each}"))

    def test_damaged_are_found_so(self) -> None:
        """What was damaged on purpose is found to be, by the check that was aimed at."""
        for chip in ESP32_CHIPS:
            for kind, checks in {
                "whole": (True, True),
                "segment": (False, False),
                "segment-rehashed": (False, True),
                "hash": (True, False),
                "checksum": (False, False),
            }.items():
                told = by_esptool(_image_info()[f"{chip}-{kind}"].stdout)
                assert told.checksum is not None
                assert told.hash is not None
                found = told.checksum[0] == told.checksum[1], told.hash[1]
                self.assertEqual(found, checks, f"{chip} {kind}")

    def test_cut(self) -> None:
        """What esptool can't read to its end is damaged, and the other way round.

        But for the CRC behind an ESP8266 image of the second version, at which it doesn't look.
        """
        for name, image in _cut().items():
            with self.subTest(name):
                done = _image_info()[name]
                facts = read_image(image)
                fine = done.returncode == 0 and "invalid" not in done.stdout
                shows = facts.damage is not None or facts.format is Format.OPAQUE
                self.assertEqual(shows, not fine, done.stdout[-300:])
