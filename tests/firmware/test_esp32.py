"""Tests of reading images of the ESP32 family: headers, hashes and descriptors."""

from __future__ import annotations

import hashlib
import struct

from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.facts import AppDescriptor, Checked, Format, Segment
from ota_server.firmware.image import read_image
from ota_server.firmware.stream import CHUNK
from tests.firmware.reading import HOMIE_NAME, HOMIE_VERSION, Pieces, flipped, md5, sha256
from tests.images import (
    ESP32_CHIPS,
    compress,
    esp32_image,
    esp32fota_signed,
    made_bootloader,
    private_key,
    rehashed,
    secure_boot_v2,
    zoo,
)


def _described(image: bytes, offset: int, field: bytes) -> bytes:
    """Return an application with a text in its descriptor: its version is at 16 of that, its project at 48."""
    at = 32 + offset
    return image[:at] + field.ljust(32, b"\0") + image[at + 32 :]


_VERSION, _PROJECT = 16, 48


class HeaderTests(SynchronousTestCase):
    """What the header of an image says, and its segments."""

    def test_every_chip(self) -> None:
        """An image of each chip is read: the header tells the chip, and the hashes are those that a device reports."""
        for chip in ESP32_CHIPS:
            with self.subTest(chip):
                data = esp32_image(chip)
                facts = read_image(data)
                self.assertEqual((facts.chip, facts.format, facts.damage), (chip, Format.ESP32_APP, None))
                self.assertEqual(facts.sketch_hashes, (md5(data), data[-32:].hex()))
                assert facts.esp is not None
                self.assertEqual(facts.esp.end, len(data) - 32)
                self.assertEqual(facts.esp.appended_hash, Checked(data[-32:].hex(), data[-32:].hex()))

    def test_fields(self) -> None:
        """Entry, mode, size and frequency of flash, revisions and segments are those that the image was made with."""
        flags = ("--flash-mode", "dout", "--flash-size", "8MB", "--flash-freq", "80m", "--min-rev-full", "101")
        facts = read_image(esp32_image(flags=(*flags, "--max-rev-full", "399"), secure_version=7))
        assert facts.esp is not None
        esp = facts.esp
        self.assertEqual((esp.entry, esp.flash_mode), (0x40080000, 3))
        self.assertEqual((esp.flash_size, esp.flash_frequency), (8 << 20, 80_000_000))
        self.assertEqual((esp.min_chip_revision, esp.max_chip_revision), (101, 399))
        self.assertEqual(esp.segments, (Segment(32, 256, 0x3F400020), Segment(296, 4096, 0x40080000)))
        assert esp.app is not None
        self.assertEqual(esp.app.secure_version, 7)

    def test_unknown_chip(self) -> None:
        """An image for a chip that isn't known here is read, and its chip is not told."""
        data = esp32_image()
        facts = read_image(rehashed(data[:12] + struct.pack("<H", 0x7FFF) + data[14:]))
        self.assertEqual((facts.chip, facts.damage), (None, None))
        self.assertEqual(facts.project, "firmware")

    def test_segment_count(self) -> None:
        """A header that announces no segment, or more than an image can have, is damage."""
        data = esp32_image()
        for count in (0, 17, 255):
            damage = read_image(data[:1] + bytes([count]) + data[2:]).damage
            assert damage is not None
            self.assertIn("1 to 16 segments", damage.reason)
            self.assertEqual(damage.offset, 1)

    def test_checksum_behind_a_good_hash(self) -> None:
        """An image whose hash was made anew after it took harm is damaged by its checksum."""
        data = rehashed(flipped(esp32_image(), 1000))
        facts = read_image(data)
        assert facts.damage is not None
        assert facts.esp is not None
        assert facts.esp.checksum is not None
        assert facts.esp.appended_hash is not None
        self.assertTrue(facts.esp.appended_hash.holds)
        self.assertFalse(facts.esp.checksum.holds)
        self.assertEqual(facts.damage.offset, len(data) - 33)
        self.assertIn("checksum", facts.damage.reason)

    def test_bootloaders(self) -> None:
        """What is loaded to memory as a whole is a boot loader, for each chip, with a descriptor or without."""
        for chip, described in ((chip, chip > "esp32c5") for chip in ESP32_CHIPS):
            facts = read_image(made_bootloader(chip, 256, described=described))
            self.assertEqual((facts.format, facts.chip, facts.damage), (Format.ESP32_BOOTLOADER, chip, None))
            self.assertTrue(facts.not_for_ota)

    def test_without_descriptor(self) -> None:
        """An application from before there were descriptors is one by what is mapped from flash; it has no name."""
        facts = read_image(esp32_image(described=False))
        self.assertIs(facts.format, Format.ESP32_APP)
        self.assertEqual((facts.project, facts.version), (None, None))

    def test_large(self) -> None:
        """An image of several chunks is read as small ones are, and harm in any of them shows."""
        for flags in ((), ("--dont-append-digest",)):
            data = esp32_image(size=3 * CHUNK, flags=flags)
            self.assertEqual(read_image(data).sketch_hashes[0], md5(data))
            for offset in range(CHUNK // 2, 3 * CHUNK, CHUNK):
                self.assertIsNotNone(read_image(flipped(data, offset)).damage)


class SketchHashTests(SynchronousTestCase):
    """The hashes by which a device names the image that it runs: of the image itself, however it was delivered."""

    def test_appended_hash(self) -> None:
        """A device reports the SHA-256 that stands at the end of its image, which is that of all before it."""
        data = esp32_image()
        self.assertEqual(data[-32:], hashlib.sha256(data[:-32]).digest())
        self.assertEqual(read_image(data).sketch_hashes, (md5(data), data[-32:].hex()))

    def test_without_appended_hash(self) -> None:
        """Where no hash is appended a device computes it, of the image up to its checksum."""
        data = esp32_image(flags=("--dont-append-digest",))
        self.assertEqual(data[23], 0)
        for trailing in (b"", b"unknown bytes"):
            facts = read_image(data + trailing)
            self.assertEqual(facts.sketch_hashes, (md5(data), sha256(data)))
            self.assertEqual(facts.trailing, len(trailing))

    def test_wrapped_and_signed(self) -> None:
        """Signatures of whatever scheme, gzip and unknown bytes don't change them."""
        data = esp32_image()
        signed = secure_boot_v2(data, private_key("rsa3072"))
        wrapped = {
            "Secure Boot v1": zoo()["esp32-app-signed-v1"],
            "Secure Boot v2": signed,
            "gzip": compress(data),
            "esp32FOTA": esp32fota_signed(data, private_key("rsa4096")),
            "both": esp32fota_signed(signed, private_key("rsa4096")),
            "gzip of signed": compress(signed),
            "trailing": data + bytes(range(256)) * 20,
        }
        for name, image in wrapped.items():
            with self.subTest(name):
                facts = read_image(image)
                self.assertIsNone(facts.damage)
                self.assertEqual(facts.sketch_hashes, (md5(data), data[-32:].hex()))
                self.assertEqual((facts.chip, facts.project, facts.version), ("esp32", "firmware", "1.0.0"))
                self.assertEqual((facts.size, facts.sha256), (len(image), sha256(image)))

    def test_wrapped_inside_is_told(self) -> None:
        """Of a wrapping the facts of what is inside are at hand as well, and are those of the bare image."""
        data = esp32_image()
        for image in (compress(data), esp32fota_signed(data, private_key("rsa4096"))):
            facts = read_image(image)
            self.assertEqual(facts.inner, read_image(data))
            self.assertEqual(facts.core, read_image(data))


class DescriptorTests(SynchronousTestCase):
    """What an application says of itself."""

    def test_descriptor(self) -> None:
        """All of the descriptor is read, and its project and version are the image's."""
        facts = read_image(esp32_image("esp32c3", "2.5.0-rc1", "lamp", secure_version=3, idf_version="v5.4"))
        assert facts.esp is not None
        app = facts.esp.app
        assert app is not None
        self.assertEqual(app, AppDescriptor("lamp", "2.5.0-rc1", 3, "v5.4", "Nov 23 2026 12:00:00", app.elf_sha256))
        self.assertEqual(len(app.elf_sha256), 64)
        self.assertNotEqual(app.elf_sha256, "0" * 64)
        self.assertEqual((facts.project, facts.version), ("lamp", "2.5.0-rc1"))

    def test_arduino_core(self) -> None:
        """The descriptor of the Arduino core's libraries tells nothing of the sketch, but is there."""
        for project, version in (("arduino-lib-builder", "v4.4.7-dirty"), ("sketch", "esp-idf: v4.4.7 38eeba213a")):
            facts = read_image(esp32_image(project=project, version=version, size=256))
            self.assertEqual((facts.project, facts.version), (None, None))
            assert facts.esp is not None
            assert facts.esp.app is not None
            self.assertEqual((facts.esp.app.project, facts.esp.app.version), (project, version))

    def test_esphome(self) -> None:
        """ESPHome puts its own version into the descriptor, which is not that of the project."""
        image = esp32_image(project="porch", version="2026.1.0", embedded=b"ESPHome version 2026.1.0 compiled")
        facts = read_image(image)
        self.assertEqual((facts.project, facts.version), ("porch", None))

    def test_homie(self) -> None:
        """Homie's marks count before the descriptor, one by one."""
        name, version = HOMIE_NAME[0] + b"lamp" + HOMIE_NAME[1], HOMIE_VERSION[0] + b"1.2.3" + HOMIE_VERSION[1]
        for embedded, expected in (
            (name + version, ("lamp", "1.2.3")),
            (name, ("lamp", "1.0.0")),
            (version, ("firmware", "1.2.3")),
            (HOMIE_NAME[0] + HOMIE_NAME[1], ("firmware", "1.0.0")),
        ):
            facts = read_image(esp32_image(size=256, embedded=b"some text \0" + embedded))
            self.assertEqual((facts.project, facts.version), expected)

    def test_not_printable(self) -> None:
        """What can't be printed is escaped, in whatever encoding it is; what can be is left as it is."""
        for field, text in (
            (b"lamp\n\x1b[31m", "lamp\\n\\x1b[31m"),
            (b"l\xff\xfemp", "l\\xff\\xfemp"),
            ("lämpchen 💡".encode(), "lämpchen 💡"),
            ("a\u202eb\u0085".encode(), "a\\u202eb\\x85"),
            (b"x" * 32, "x" * 32),
        ):
            data = rehashed(_described(_described(esp32_image(), _PROJECT, field), _VERSION, field))
            facts = read_image(data)
            self.assertEqual((facts.project, facts.version), (text, text))
            assert facts.project is not None
            self.assertTrue(facts.project.isprintable())

    def test_empty_texts(self) -> None:
        """A project or a version without a letter is none."""
        facts = read_image(_described(_described(esp32_image(), _PROJECT, b""), _VERSION, b"\0hidden"))
        self.assertEqual((facts.project, facts.version), (None, None))

    def test_debug(self) -> None:
        """Traces of a build for debugging are told, each once."""
        marks = b"[D][%s:%u] %s(): \0[V][%s:%u] %s(): \0D (%lu) %s: %s\0D (%u) %s: %s\0Entering gdb stub now.\r\n"
        image = esp32_image(embedded=marks)
        facts = read_image(image)
        self.assertEqual(
            facts.debug,
            (
                "GDB stub",
                "log level debug",
                "log level debug (CORE_DEBUG_LEVEL 4)",
                "log level verbose (CORE_DEBUG_LEVEL 5)",
            ),
        )
        for wrapped in (compress(image), bytes(512) + image):
            self.assertEqual(read_image(wrapped).debug, facts.debug)
        for most in (1, 7, 299):
            self.assertEqual(read_image(Pieces(image, most)), facts)
