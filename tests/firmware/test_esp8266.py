"""Tests of reading images of the ESP8266: Arduino's sketches, and those of Espressif's own kits."""

from __future__ import annotations

import struct

from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.facts import FLASH_MODES, Format
from ota_server.firmware.image import read_image
from ota_server.firmware.stream import CHUNK
from tests.firmware.reading import HOMIE_NAME, HOMIE_VERSION, Pieces, before_core_3, flipped, md5, sha256
from tests.images import (
    add_arduino_crc,
    compress,
    esp8266_bootloader,
    esp8266_image,
    esp8266_plain_image,
    esp8266_signed,
    esp8266_v2_image,
    esp8266_v3_image,
    private_key,
)

_SECTOR = 4096
_WORDS = 0x1010


def _with_words(length: int, crc: int) -> bytes:
    """Return a sketch with other words where its length and CRC stand."""
    data = esp8266_image()
    return data[:_WORDS] + struct.pack("<II", length, crc) + data[_WORDS + 8 :]


def _in_flash(data: bytes) -> tuple[str, ...]:
    """Return the MD5 of an image as it is in flash with each flash mode, in their order."""
    return tuple(md5(data[:2] + bytes([mode]) + data[3:]) for mode in range(4))


def _with_eboot(length: int) -> bytes:
    """Return a sketch behind a boot loader with so many bytes of code."""
    return esp8266_image(256, boot_embedded=bytes(length - 256))


class SketchHashTests(SynchronousTestCase):
    """A device puts its own flash mode into byte 2, and reports the MD5 of what is in flash then."""

    def test_flash_modes(self) -> None:
        """An image built for any mode has the hashes of all four, in the order of the modes."""
        for number, mode in enumerate(FLASH_MODES):
            data = esp8266_image(256, flash_mode=mode)
            facts = read_image(data)
            self.assertEqual(facts.sketch_hashes, _in_flash(data))
            self.assertEqual(facts.sketch_hashes[number], facts.md5)
            assert facts.esp is not None
            self.assertEqual(facts.esp.flash_mode, number)

    def test_mode_that_is_none(self) -> None:
        """An image with another byte there has the same four."""
        data = esp8266_plain_image()
        self.assertEqual(read_image(flipped(data, 2)).sketch_hashes, _in_flash(data))

    def test_wrapped_and_signed(self) -> None:
        """They are those of the image itself, without gzip, signature and unknown bytes."""
        key = private_key("rsa2048")
        for data in (esp8266_image(256), before_core_3(esp8266_image(256)), esp8266_plain_image(), esp8266_v3_image()):
            wrapped = {
                "bare": data,
                "gzip": compress(data),
                "signed": esp8266_signed(data, key),
                "signed gzip": esp8266_signed(compress(data), key),
                "gzip of signed": compress(esp8266_signed(data, key)),
                "trailing": data + b"unknown",
            }
            for name, image in wrapped.items():
                with self.subTest(name):
                    facts = read_image(image)
                    self.assertIsNone(facts.damage)
                    self.assertEqual(facts.sketch_hashes, _in_flash(data))
                    self.assertEqual((facts.chip, facts.sha256), ("esp8266", sha256(image)))

    def test_in_pieces(self) -> None:
        """They are right wherever pieces end, also before, in and behind the bytes that count otherwise."""
        data = esp8266_image(64)
        facts = read_image(data)
        for most in (1, 2, 3, _WORDS + 1, _WORDS + 4, _WORDS + 7, _WORDS + 9):
            self.assertEqual(read_image(Pieces(data, most)), facts)

    def test_none_of_the_damaged(self) -> None:
        """No device runs an image that is damaged, nor a boot loader alone."""
        self.assertEqual(read_image(flipped(esp8266_image(), 5000)).sketch_hashes, ())
        self.assertEqual(read_image(esp8266_bootloader()).sketch_hashes, ())


class SketchTests(SynchronousTestCase):
    """Sketches as the Arduino core lays them out: boot loader, and the application from the second sector on."""

    def test_fields(self) -> None:
        """Headers, segments of both parts and the end are told, and that the CRC holds."""
        data = esp8266_image(256, flash_size="4MB", flash_freq="80m")
        esp = read_image(data).esp
        assert esp is not None
        self.assertEqual((esp.entry, esp.flash_size, esp.flash_frequency), (0x4010F000, 4 << 20, 80_000_000))
        places = [(segment.offset, segment.length, segment.address) for segment in esp.segments]
        self.assertEqual(places, [(16, 256, 0x4010F000), (_SECTOR + 16, 256, 0x40100000)])
        self.assertEqual(esp.end, len(data))
        assert esp.sketch_crc is not None
        self.assertTrue(esp.sketch_crc.holds)
        self.assertEqual(esp.sketch_crc.stated, f"{struct.unpack_from('<I', data, _WORDS + 4)[0]:08x}")
        self.assertIsNone(esp.appended_hash)

    def test_length_and_crc(self) -> None:
        """Both words must be right: one that is wrong is damage, where it stands."""
        data = esp8266_image()
        length, crc = struct.unpack_from("<II", data, _WORDS)
        self.assertEqual(length, len(data))
        for wrong, offset in (
            ((length, crc ^ 1), _WORDS + 4),
            ((length, 0), _WORDS + 4),
            ((length - 16, crc), _WORDS),
            ((length + 1, crc), _WORDS),
            ((16, crc), _WORDS),
            ((0, crc), _WORDS),
        ):
            damage = read_image(_with_words(*wrong)).damage
            assert damage is not None
            self.assertEqual(damage.offset, offset)

    def test_before_core_3(self) -> None:
        """Where the core left something else there the sketch's own checksum counts, and there is no CRC."""
        for data in (before_core_3(esp8266_image()), _with_words(0, 0)):
            facts = read_image(data)
            self.assertEqual((facts.format, facts.damage), (Format.ESP8266_SKETCH, None))
            assert facts.esp is not None
            self.assertIsNone(facts.esp.sketch_crc)
            for offset in (_SECTOR + 100, _WORDS, len(data) - 1):
                damage = read_image(flipped(data, offset)).damage
                assert damage is not None
                self.assertEqual(damage.offset, len(data) - 1)
                self.assertIn("checksum", damage.reason)

    def test_boot_loader(self) -> None:
        """A byte flipped in the boot loader is damage by its own checksum, also where there is no CRC."""
        damage = read_image(flipped(before_core_3(esp8266_image()), 100)).damage
        assert damage is not None
        self.assertIn("checksum at byte 287", damage.reason)

    def test_no_sketch(self) -> None:
        """A boot loader with nothing, or with filler, where its sketch should be is damage; alone it is what it is."""
        data = esp8266_image()
        for filler in (b"\0", b"\xaa", b"\xff"):
            damage = read_image(data[:_SECTOR].ljust(len(data), filler)).damage
            assert damage is not None
            self.assertIn("no sketch behind it at byte 4096", damage.reason)
            self.assertEqual(damage.offset, _SECTOR)
        for end in range(289, _SECTOR + 1, 100):
            self.assertIsNotNone(read_image(data[:end]).damage)
        self.assertIs(read_image(data[:288]).format, Format.ESP8266_BOOTLOADER)

    def test_overwritten(self) -> None:
        """A sketch of the right length whose end has not arrived yet, as some programs copy, is damage."""
        for data in (esp8266_image(), before_core_3(esp8266_image())):
            for end in range(_SECTOR + 24, len(data) - 1, 100):
                for filler in (b"\0", b"\xff"):
                    self.assertIsNotNone(read_image(data[:end].ljust(len(data), filler)).damage)

    def test_can_unpack(self) -> None:
        """The boot loader unpacks gzip since it has over 3,000 bytes of code; and it must be one."""
        for length, can in ((1392, False), (2996, False), (3000, True), (3424, True)):
            facts = read_image(_with_eboot(length))
            assert facts.esp is not None
            self.assertEqual((facts.damage, facts.esp.can_unpack), (None, can))
            inner = read_image(compress(_with_eboot(length))).core
            assert inner.esp is not None
            self.assertEqual(inner.esp.can_unpack, can)
        elsewhere = _with_eboot(3424)
        elsewhere = add_arduino_crc(elsewhere[:8] + struct.pack("<I", 0x40100000) + elsewhere[12:])
        esp = read_image(elsewhere).esp
        assert esp is not None
        self.assertFalse(esp.can_unpack)
        for image in (esp8266_plain_image(), esp8266_v2_image(), esp8266_bootloader()):
            esp = read_image(image).esp
            assert esp is not None
            self.assertFalse(esp.can_unpack)

    def test_large(self) -> None:
        """A sketch of several chunks is read as small ones are, also with bytes behind it."""
        data = esp8266_image(size=3 * CHUNK)
        for image in (data, data + b"unknown"):
            facts = read_image(image)
            self.assertEqual(facts.sketch_hashes, _in_flash(data))
            self.assertEqual(facts.trailing, len(image) - len(data))
        self.assertIsNotNone(read_image(flipped(data, 2 * CHUNK + 1)).damage)

    def test_marks(self) -> None:
        """Homie's marks name a sketch, also where they lie across the end of a chunk; its debug output shows."""
        marks = HOMIE_NAME[0] + b"lamp" + HOMIE_NAME[1] + HOMIE_VERSION[0] + b"1.2.3" + HOMIE_VERSION[1]
        size = CHUNK - _SECTOR - 16 - len(marks) // 8 * 4
        data = esp8266_image(size, embedded=marks + b"[httpUpdate]")
        begin = data.index(marks)
        self.assertTrue(begin < CHUNK < begin + len(marks))
        for image in (data, compress(data)):
            facts = read_image(image)
            self.assertEqual((facts.project, facts.version), ("lamp", "1.2.3"))
            self.assertEqual(facts.debug, ("debug output of the updater",))


class OtherImageTests(SynchronousTestCase):
    """Images of Espressif's own kits."""

    def test_plain(self) -> None:
        """An image that the chip loads by itself has no CRC, and its checksum counts."""
        data = esp8266_plain_image()
        facts = read_image(data.ljust(5000, b"\xff"))
        self.assertEqual((facts.format, facts.damage, facts.size), (Format.ESP8266_IMAGE, None, 5000))
        self.assertEqual(facts.trailing, 5000 - len(data))
        self.assertIsNotNone(read_image(flipped(data, 2000)).damage)

    def test_v2(self) -> None:
        """An image for Espressif's boot loader has two headers and a CRC at its end, which covers every byte."""
        data = esp8266_v2_image(64)
        facts = read_image(data)
        self.assertEqual((facts.format, facts.damage, facts.sketch_hashes), (Format.ESP8266_V2, None, ()))
        assert facts.esp is not None
        self.assertEqual(len(facts.esp.segments), 2)
        self.assertEqual(facts.esp.end, len(data) - 4)
        self.assertEqual(read_image(data + b"unknown").trailing, 7)
        for end, reason in ((3, "inside its header"), (len(data) - 2, "inside the CRC"), (90, "")):
            damage = read_image(data[:end]).damage
            assert damage is not None
            self.assertIn(reason, damage.reason)
        damage = read_image(flipped(data, 80)).damage
        assert damage is not None
        self.assertEqual(damage.reason, "it has no second header at byte 80")

    def test_v2_crc_negated_either_way(self) -> None:
        """The CRC holds for images in whose CRC the highest bit is set, and for others."""
        self.assertEqual({read_image(esp8266_v2_image(64, seed)).damage for seed in range(6)}, {None})

    def test_rtos(self) -> None:
        """An image of the RTOS kit has a descriptor and a hash at its end."""
        facts = read_image(esp8266_v3_image("2.0.0", "lamp"))
        self.assertEqual((facts.project, facts.version, facts.damage), ("lamp", "2.0.0", None))
        assert facts.esp is not None
        assert facts.esp.appended_hash is not None
        self.assertTrue(facts.esp.appended_hash.holds)
        self.assertEqual(facts.esp.flash_size, 1 << 20)
        damage = read_image(flipped(esp8266_v3_image("2.0.0", "lamp"), -5)).damage
        assert damage is not None
        self.assertIn("SHA-256 appended", damage.reason)

    def test_rtos_without_descriptor(self) -> None:
        """Without its descriptor nothing tells of the hash, which counts as bytes behind the image."""
        facts = read_image(esp8266_v3_image(described=False))
        self.assertEqual((facts.format, facts.damage, facts.trailing), (Format.ESP8266_IMAGE, None, 32))
