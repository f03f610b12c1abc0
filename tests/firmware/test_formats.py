"""Tests of files that are no plain ESP image: wrappings, other chips' images, parts of a flash."""

from __future__ import annotations

import gzip
import struct
import zlib

from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.facts import Format, ImageFacts
from ota_server.firmware.formats import MAX_UNPACKED, OTA_BOARDS
from ota_server.firmware.image import read_image
from tests.firmware.reading import Pieces, flipped, sha256
from tests.images import (
    ARDUINO_MAGICS,
    arduino_ota,
    bootloader,
    compress,
    esp32_image,
    esp8266_image,
    mcuboot_image,
    merged_image,
    ota_data,
    partition_table,
    private_key,
    zoo,
)

_LITTLEFS = struct.pack("<II8s", 1, 0xFFFFF0F0, b"littlefs") + bytes(4096)


def _damage(image: bytes) -> tuple[int, str]:
    """Return where an image is damaged and why."""
    damage = read_image(image).damage
    assert damage is not None
    return damage.offset, damage.reason


class GzipTests(SynchronousTestCase):
    """What is compressed is read inside."""

    def test_inside(self) -> None:
        """The facts of what is inside are those of the bare image, but for signatures that only a size shows."""
        for name in ("esp32-app", "esp8266-sketch", "esp32-bootloader", "mcuboot", "esp32-merged", "esp8266-v2"):
            facts = read_image(compress(zoo()[name], name=f"{name}.bin"))
            self.assertEqual((facts.format, facts.damage), (Format.GZIP, None))
            self.assertEqual(facts.inner, read_image(zoo()[name]), name)

    def test_damage_inside(self) -> None:
        """Harm to what was compressed shows, and so does harm to the compressed."""
        image = esp32_image()
        self.assertIn("inside, the SHA-256 appended", _damage(compress(flipped(image, 1000)))[1])
        packed = compress(image)
        for offset in (20, 2000, len(packed) - 6, len(packed) - 1):
            self.assertIn("its gzip data doesn't hold at byte", _damage(flipped(packed, offset))[1])
        for end in (3, 10, 11, 2000, len(packed) - 8, len(packed) - 1):
            self.assertEqual(_damage(packed[:end]), (end, f"it ends at byte {end}, inside its gzip data"))

    def test_damage_is_found_to_the_byte(self) -> None:
        """Where the data doesn't hold doesn't depend on the pieces that it comes in, nor what was inside until then."""
        for image in (esp32_image(), b"Lorem ipsum " * 9000):
            packed = compress(image)
            for offset in range(10, len(packed), len(packed) // 9):
                harmed = flipped(packed, offset, 1 << offset % 8)
                facts = read_image(harmed)
                assert facts.damage is not None
                self.assertGreaterEqual(facts.damage.offset, offset)
                for most in (1, 100):
                    self.assertEqual(read_image(Pieces(harmed, most)), facts)

    def test_checks_of_gzip_itself(self) -> None:
        """The CRC and the length at its end are checked, and offsets say where."""
        packed = compress(esp32_image())
        self.assertEqual(_damage(flipped(packed, len(packed) - 8))[0], len(packed) - 5)
        self.assertEqual(_damage(flipped(packed, len(packed) - 4))[0], len(packed) - 1)

    def test_trailing(self) -> None:
        """Bytes behind it are counted, and another member of gzip is such."""
        packed = compress(esp32_image())
        for trailing in (b"unknown", packed, bytes(300000)):
            facts = read_image(packed + trailing)
            self.assertEqual((facts.damage, facts.trailing), (None, len(trailing)))

    def test_nothing_inside(self) -> None:
        """Nothing, compressed, is damage as an empty file is."""
        self.assertEqual(_damage(gzip.compress(b"")), (20, "there is nothing inside"))
        self.assertIn("inside its gzip data", _damage(gzip.compress(b"")[:12])[1])

    def test_wrapped_twice(self) -> None:
        """What is wrapped once more is not unwrapped once more."""
        image = esp32_image()
        for twice in (compress(compress(image)), bytes(512) + compress(image), compress(bytes(512) + image)):
            facts = read_image(twice)
            assert facts.inner is None or facts.inner.inner is None
            self.assertEqual((facts.damage, facts.sketch_hashes), (None, ()))

    def test_largest(self) -> None:
        """What is no larger than any flash is looked at, and what is larger isn't."""
        for size, inside in ((MAX_UNPACKED, True), (MAX_UNPACKED + 1, False)):
            facts = read_image(gzip.compress(bytes(size), 1))
            self.assertEqual((facts.inner is not None, facts.damage), (inside, None))


class FlashTests(SynchronousTestCase):
    """What is written to a new device by wire."""

    def test_merged(self) -> None:
        """A merged image of each chip is one, wherever its boot loader begins, padded or not, with OTA data or not."""
        for chip in ("esp32", "esp32c3", "esp32c5", "esp32p4", "esp32s3"):
            for image in (merged_image(chip), merged_image(chip, ota=False)):
                facts = read_image(image)
                self.assertEqual((facts.format, facts.damage, facts.chip), (Format.MERGED, None, None))
                self.assertTrue(facts.not_for_ota)
        self.assertIs(read_image(merged_image(flags=("--target-offset", "0x1000"))).format, Format.MERGED)
        self.assertIs(read_image(merged_image(flags=("--pad-to-size", "1MB"))).format, Format.MERGED)

    def test_no_app_is_taken_for_merged(self) -> None:
        """An application that has a partition table's first bytes at its place is an application."""
        for chip in ("esp32", "esp32s2", "esp32c6", "esp32p4"):
            image = esp32_image(chip, size=0x8000, embedded=b"\xaa\x50" * 0x4000)
            self.assertEqual(image[0x8000:0x8002], b"\xaa\x50")
            self.assertIs(read_image(image).format, Format.ESP32_APP)
        sketch = esp8266_image(0x4000, embedded=b"\xaa\x50" * 0x4000)
        self.assertIs(read_image(sketch).format, Format.ESP8266_SKETCH)

    def test_parts(self) -> None:
        """Boot loader, partition table and OTA data are told for what they are."""
        for image, form in (
            (bootloader(), Format.ESP32_BOOTLOADER),
            (partition_table(), Format.PARTITION_TABLE),
            (ota_data(), Format.OTA_DATA),
            (ota_data()[:32], Format.OTA_DATA),
        ):
            facts = read_image(image)
            self.assertEqual((facts.format, facts.damage, facts.not_for_ota), (form, None, True))

    def test_large_file_with_a_table_first(self) -> None:
        """A file longer than a partition table that begins as one is none."""
        self.assertIs(read_image(partition_table() + bytes(2000)).format, Format.OPAQUE)

    def test_filesystems(self) -> None:
        """LittleFS is told by its superblock; SPIFFS and others have nothing to be told by."""
        self.assertIs(read_image(_LITTLEFS).format, Format.LITTLEFS)
        for image in (bytes(8192), b"\xff" * 8192, b"\xff" * 70000):
            self.assertEqual(read_image(image).format, Format.OPAQUE)

    def test_ends(self) -> None:
        """Of what is as long as it happens to be an incomplete copy doesn't show, and that is told."""
        for image in (partition_table(), ota_data(), merged_image(), _LITTLEFS, b"opaque"):
            whole, cut = read_image(image), read_image(image[:-5])
            self.assertEqual((whole.tells_its_end, whole.damage, cut.damage), (False, None, None))


class McubootTests(SynchronousTestCase):
    """Images for MCUboot, made by imgtool."""

    def test_version(self) -> None:
        """The version is that of the header, with a build number if there is one."""
        for version, text in (("1.2.3+0", "1.2.3"), ("1.2.3+4", "1.2.3+4"), ("255.255.65535+1", "255.255.65535+1")):
            self.assertEqual(read_image(mcuboot_image(version)).version, text)

    def test_whole(self) -> None:
        """Images are whole however they are signed, padded and numbered."""
        key = private_key("p256")
        for image in (
            mcuboot_image(header=0x20),
            mcuboot_image(key=key),
            mcuboot_image(flags=("--security-counter", "5")),
            mcuboot_image(flags=("--pad",)),
            mcuboot_image(flags=("--pad", "--confirm"), key=key),
            mcuboot_image(flags=("--sha", "384"), key=private_key("p384")),
        ):
            facts = read_image(image)
            self.assertEqual((facts.format, facts.damage, facts.trailing), (Format.MCUBOOT, None, 0))

    def test_damage(self) -> None:
        """Harm to header, program and hash shows, and so does a missing end."""
        image = mcuboot_image()
        end = 0x200 + 4096
        self.assertEqual(_damage(flipped(image, 1000)), (end, "the SHA-256 among its entries is not that of its bytes"))
        self.assertEqual(_damage(flipped(image, 20))[0], end)
        self.assertEqual(_damage(flipped(image, end)), (end, f"it has no entries (TLV) at byte {end}"))
        harmed = flipped(image, end + 6)
        self.assertEqual(_damage(harmed), (end, "an entry behind the image reaches beyond the last of them"))
        for length, inside in (
            (20, "its header"),
            (3000, f"the {end} bytes that its header announces"),
            (end + 20, "the entries behind the image"),
        ):
            self.assertEqual(_damage(image[:length]), (length, f"it ends at byte {length}, inside {inside}"))


class ArduinoOtaTests(SynchronousTestCase):
    """Images in Arduino's .ota form."""

    def test_boards(self) -> None:
        """The board tells the chip, where that has a name; one that isn't known is told by its length."""
        chips = {"esp32": "esp32", "nano_esp32": "esp32s3", "uno_r4_wifi": "esp32s3"}
        for board, magic in ARDUINO_MAGICS.items():
            facts = read_image(arduino_ota(b"compressed", magic))
            self.assertEqual((facts.format, facts.damage), (Format.ARDUINO_OTA, None))
            self.assertEqual(facts.chip, chips.get(board))
            self.assertIn(magic, OTA_BOARDS)
        facts = read_image(arduino_ota(b"compressed", 0x12345678))
        self.assertEqual((facts.format, facts.chip), (Format.ARDUINO_OTA, None))

    def test_damage(self) -> None:
        """A wrong CRC, a wrong length and a missing end are damage, and bytes too many are counted."""
        image = arduino_ota(bytes(range(256)))
        self.assertEqual(_damage(flipped(image, 100)), (4, "its bytes don't have the CRC that stands at byte 4"))
        self.assertEqual(
            _damage(image[:200]), (200, f"it ends at byte 200, inside the {len(image)} bytes that it announces")
        )
        self.assertEqual(_damage(struct.pack("<I", 100) + image[4:])[0], 4)
        self.assertEqual(read_image(image + b"unknown").trailing, 7)

    def test_length_by_chance(self) -> None:
        """A file whose first word happens to be its length, less eight, is opaque unless the CRC holds, too."""
        facts = read_image(struct.pack("<I", 100) + bytes(104))
        self.assertEqual((facts.format, facts.damage), (Format.OPAQUE, None))

    def test_crc_is_that_of_zlib(self) -> None:
        """The CRC is that of all behind it."""
        image = arduino_ota(esp32_image())
        self.assertEqual(struct.unpack_from("<II", image), (len(image) - 8, zlib.crc32(image[8:])))
        self.assertEqual(read_image(image).sha256, sha256(image))


class OpaqueTests(SynchronousTestCase):
    """Files of which nothing is known."""

    def test_alike(self) -> None:
        """What is only like the beginning of one of the forms is opaque."""
        for data in (b"\x1f\x8b", b"\x1f\x8b\x07" + bytes(20), b"\xea\x03" + bytes(40), b"\xaa\x51" + bytes(40)):
            facts = read_image(data)
            self.assertEqual(facts, ImageFacts(len(data), facts.md5, sha256(data)))
