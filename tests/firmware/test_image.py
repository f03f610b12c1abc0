"""Tests of reading images, on images that the vendor's own tool made."""

from __future__ import annotations

import hashlib
import io
import os
import struct
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.image import CHUNK, ImageError, ImageFacts, read_image
from tests.images import ESP32_CHIPS, esp32_image, esp8266_image

_APP_OFFSET = 4096
_FLASH_MODES = ("qio", "qout", "dio", "dout")


def _read(data: bytes) -> ImageFacts:
    return read_image(io.BytesIO(data))


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _flip(data: bytes, offset: int, bits: int = 0xFF) -> bytes:
    return data[:offset] + bytes([data[offset] ^ bits]) + data[offset + 1 :]


class _Watched(io.BytesIO):
    """A file in memory that remembers the sizes of what was read of it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.sizes: list[int] = []

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.sizes.append(len(data))
        return data


class _Changing(io.FileIO):
    """A real file that another program cuts or lengthens as soon as its size has been asked for."""

    new_size = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        at = super().seek(offset, whence)
        if whence == os.SEEK_END:
            os.truncate(self.fileno(), self.new_size)
        return at


class Esp32Tests(SynchronousTestCase):
    """Images of the ESP32 family."""

    def test_every_chip(self) -> None:
        """An image of each chip is read: the header tells the chip, and the digests are those of all its bytes."""
        for chip in ESP32_CHIPS:
            with self.subTest(chip):
                data = esp32_image(chip)
                facts = _read(data)
                self.assertEqual(
                    facts,
                    ImageFacts(
                        len(data),
                        _md5(data),
                        hashlib.sha256(data).hexdigest(),
                        chip,
                        (_md5(data), data[-32:].hex()),
                    ),
                )

    def test_appended_hash_is_what_the_device_reports(self) -> None:
        """The last 32 bytes, the SHA-256 of all before them, are among the hashes that the device may report."""
        data = esp32_image()
        self.assertEqual(data[-32:], hashlib.sha256(data[:-32]).digest())
        self.assertIn(data[-32:].hex(), _read(data).sketch_hashes)

    def test_signed(self) -> None:
        """A signature behind the image changes the digests of the file, and not the hashes that a device reports."""
        data = esp32_image()
        signed = data + bytes(range(256)) * 16
        facts = _read(signed)
        self.assertEqual((facts.size, facts.md5), (len(signed), _md5(signed)))
        self.assertEqual(facts.sketch_hashes, _read(data).sketch_hashes)
        self.assertEqual(facts.chip, "esp32")

    def test_unknown_chip(self) -> None:
        """An image for a chip that isn't known here is read, and its chip is not told."""
        data = esp32_image()[:-32]
        data = data[:12] + struct.pack("<H", 0x7FFF) + data[14:]
        facts = _read(data + hashlib.sha256(data).digest())
        self.assertIsNone(facts.chip)
        self.assertEqual(facts.sketch_hashes[1], hashlib.sha256(data).hexdigest())

    def test_without_appended_hash(self) -> None:
        """An image without the hash is known by the MD5 of its bytes up to its checksum."""
        data = esp32_image(flags=("--dont-append-digest",))
        self.assertEqual(data[23], 0)
        facts = _read(data)
        self.assertEqual(facts.chip, "esp32")
        self.assertIn(_md5(data), facts.sketch_hashes)
        self.assertIn(_md5(data), _read(data + b"signature").sketch_hashes)

    def test_cut_anywhere(self) -> None:
        """An image cut at whatever byte is refused, with its appended hash and without it."""
        for flags in ((), ("--dont-append-digest",)):
            data = esp32_image(flags=flags)
            for end in range(len(data)):
                self.assertRaises(ImageError, _read, data[:end])

    @settings(deadline=None)
    @given(st.sampled_from(ESP32_CHIPS), st.data())
    def test_cut_and_filled_up(self, chip: str, draws: st.DataObject) -> None:
        """An image whose last part is zeros or erased flash, as an interrupted copy leaves it, is refused."""
        data = esp32_image(chip)
        end = draws.draw(st.integers(0, len(data) - 2))
        filler = draws.draw(st.sampled_from([b"\0", b"\xff"]))
        damaged = data[:end].ljust(len(data), filler)
        if damaged != data and damaged[0] == 0xE9:
            self.assertRaises(ImageError, _read, damaged)

    def test_any_byte_flipped(self) -> None:
        """An image with one byte flipped is refused, or has none of the hashes of the whole one."""
        for flags in ((), ("--dont-append-digest",)):
            data = esp32_image(flags=flags)
            good = set(_read(data).sketch_hashes)
            refused = 0
            for offset in range(len(data)):
                for bits in (0xFF, 1 << offset % 8):
                    try:
                        facts = _read(_flip(data, offset, bits))
                    except ImageError:
                        refused += 1
                    else:
                        self.assertFalse(good & set(facts.sketch_hashes), f"byte {offset}")
            # Only header bytes that no checksum covers get through, and those as another image.
            self.assertGreater(refused, 2 * (len(data) - 60))

    def test_flip_behind_header_is_refused(self) -> None:
        """A byte flipped in the segments is refused, by the appended hash and by the checksum as well."""
        for flags, reason in (((), "SHA-256 appended"), (("--dont-append-digest",), "checksum")):
            data = esp32_image(flags=flags)
            for offset in (36, 300, len(data) // 2):
                error = self.assertRaises(ImageError, _read, _flip(data, offset))
                self.assertIn(reason, str(error))


class Esp8266Tests(SynchronousTestCase):
    """Images as the Arduino core for the ESP8266 makes them."""

    def test_whole(self) -> None:
        """An image is read: its chip, the digests of all its bytes, and a hash for each flash mode."""
        data = esp8266_image()
        facts = _read(data)
        self.assertEqual((facts.size, facts.chip), (len(data), "esp8266"))
        self.assertEqual((facts.md5, facts.sha256), (_md5(data), hashlib.sha256(data).hexdigest()))
        self.assertEqual(len(facts.sketch_hashes), 4)
        self.assertIn(_md5(data), facts.sketch_hashes)

    def test_flash_modes(self) -> None:
        """A device that put its own flash mode into the image is known by the MD5 that it reports then."""
        built = {mode: esp8266_image(flash_mode=mode) for mode in _FLASH_MODES}
        self.assertEqual([data[2] for data in built.values()], [0, 1, 2, 3])
        for mode, data in built.items():
            for device_mode in range(4):
                with self.subTest(mode, device=device_mode):
                    in_flash = data[:2] + bytes([device_mode]) + data[3:]
                    self.assertIn(_md5(in_flash), _read(data).sketch_hashes)

    def test_signed(self) -> None:
        """A signature behind the image changes the digests of the file, and not the hashes that a device reports."""
        data = esp8266_image()
        signed = data + os.urandom(256) + struct.pack("<I", 256)
        facts = _read(signed)
        self.assertEqual((facts.size, facts.md5), (len(signed), _md5(signed)))
        self.assertEqual(facts.sketch_hashes, _read(data).sketch_hashes)

    def with_words(self, length: int, crc: int) -> bytes:
        """Return an image with other words behind its sketch's header."""
        data = esp8266_image()
        return data[:0x1010] + struct.pack("<II", length, crc) + data[0x1018:]

    def test_length_and_crc_words(self) -> None:
        """Where the core's own tool has put length and CRC they must be right; older cores left them zero."""
        data = esp8266_image()
        length, crc = struct.unpack("<II", data[0x1010:0x1018])
        self.assertEqual(length, len(data))
        self.assertEqual(_read(self.with_words(0, 0)).chip, "esp8266")
        for wrong in ((length, crc ^ 1), (length, 0), (length - 16, crc), (length + 1, crc), (16, crc), (0, crc)):
            self.assertRaises(ImageError, _read, self.with_words(*wrong))

    def test_sketch_of_zeros(self) -> None:
        """A file of the right length whose end has not arrived yet, as some copy, is refused."""
        data = esp8266_image()
        for end in range(_APP_OFFSET + 24, len(data) - 1, 100):
            self.assertRaises(ImageError, _read, data[:end].ljust(len(data), b"\0"))

    def test_without_boot_loader(self) -> None:
        """An image without the boot loader, as other SDKs make them, is read."""
        data = self.with_words(0, 0)[_APP_OFFSET:]
        facts = _read(data.ljust(5000, b"\xff"))
        self.assertEqual((facts.size, facts.chip), (5000, "esp8266"))

    def test_cut_in_sketch(self) -> None:
        """An image cut anywhere in the sketch is refused."""
        data = esp8266_image()
        for end in range(_APP_OFFSET + 1, len(data)):
            self.assertRaises(ImageError, _read, data[:end])

    def test_cut_in_boot_loader(self) -> None:
        """An image cut anywhere in the boot loader is refused."""
        data = esp8266_image()
        boot_loader = len(data[:_APP_OFFSET].rstrip(b"\xaa"))
        for end in range(boot_loader):
            self.assertRaises(ImageError, _read, data[:end])

    def test_cut_before_sketch(self) -> None:
        """An image cut so that the boot loader is left and the sketch is gone is refused."""
        data = esp8266_image()
        boot_loader = len(data[:_APP_OFFSET].rstrip(b"\xaa"))
        accepted = []
        for end in range(boot_loader, _APP_OFFSET + 1):
            try:
                _read(data[:end])
            except ImageError:
                continue
            accepted.append(end)
        self.assertEqual(accepted[:3], [])

    def test_no_sketch_behind_boot_loader(self) -> None:
        """An image whose sketch was overwritten is refused."""
        data = esp8266_image()
        for filler in (b"\0", b"\xaa", b"\xff"):
            self.assertRaises(ImageError, _read, data[:_APP_OFFSET].ljust(len(data), filler))

    def test_any_byte_flipped(self) -> None:
        """An image with one byte flipped, but for the flash mode, is refused or has none of the whole one's hashes."""
        data = esp8266_image()
        good = set(_read(data).sketch_hashes)
        for offset in range(len(data)):
            try:
                facts = _read(_flip(data, offset))
            except ImageError:
                continue
            self.assertEqual(bool(good & set(facts.sketch_hashes)), offset == 2, f"byte {offset}")

    def test_flip_in_boot_loader_is_refused(self) -> None:
        """A byte flipped in the boot loader's segment is refused by its checksum, also where there is no CRC."""
        error = self.assertRaises(ImageError, _read, _flip(self.with_words(0, 0), 100))
        self.assertIn("checksum", str(error))


class OpaqueTests(SynchronousTestCase):
    """Files that are no ESP image, and damaged headers."""

    def test_empty(self) -> None:
        """An empty file is refused."""
        self.assertIn("empty", str(self.assertRaises(ImageError, _read, b"")))

    @settings(deadline=None)
    @given(st.binary(min_size=1, max_size=200).filter(lambda data: data[0] != 0xE9))
    def test_any_other_bytes(self, data: bytes) -> None:
        """Bytes that don't begin with E9 are taken as they are: digests, and neither chip nor sketch hashes."""
        self.assertEqual(_read(data), ImageFacts(len(data), _md5(data), hashlib.sha256(data).hexdigest()))

    @settings(deadline=None, max_examples=300)
    @given(st.binary(max_size=200), st.integers(0, 255), st.booleans())
    def test_any_bytes_behind_the_magic_one(self, rest: bytes, count: int, descriptor: bool) -> None:
        """Bytes that begin with E9 are refused with ImageError, or have a right checksum; nothing else happens."""
        data = bytes([0xE9, count]) + rest
        if descriptor and len(data) > 36:
            data = data[:32] + struct.pack("<I", 0xABCD5432) + data[36:]
        try:
            facts = _read(data)
        except ImageError as error:
            self.assertTrue(str(error).isascii())
        else:
            self.assertEqual(facts.md5, _md5(data))
            self.assertNotEqual(facts.sketch_hashes, ())

    def test_segment_count(self) -> None:
        """A header that announces no segment, or more than an image can have, is refused."""
        data = esp32_image()
        for count in (0, 17, 255):
            error = self.assertRaises(ImageError, _read, data[:1] + bytes([count]) + data[2:])
            self.assertIn("1 to 16 segments", str(error))

    def test_where_it_is_cut(self) -> None:
        """The reason tells where the image ends, and what of it lies behind that."""
        data = esp32_image()
        for end, part in (
            (
                len(data) - 1,
                f"ends at byte {len(data) - 1}, inside the appended SHA-256 that begins at {len(data) - 32}",
            ),
            (len(data) - 33, f"ends at byte {len(data) - 33}, before its checksum at {len(data) - 33}"),
            (1000, "ends at byte 1000, but segment 2 of 2 reaches to byte"),
        ):
            self.assertIn(part, str(self.assertRaises(ImageError, _read, data[:end])))


class ReadingTests(SynchronousTestCase):
    """How a file is read, whatever it holds."""

    def test_bounded_memory(self) -> None:
        """A large file is read in chunks of a bounded size, whatever it is."""
        for data in (esp32_image(size=3 * CHUNK), esp8266_image(size=3 * CHUNK), bytes(3 * CHUNK + 5)):
            file = _Watched(data)
            self.assertEqual(read_image(file).size, len(data))
            self.assertGreater(len(data), 3 * CHUNK)
            self.assertEqual(max(file.sizes), CHUNK)

    def test_large_images(self) -> None:
        """Images of several chunks have the same hashes as small ones would: checksum, MD5 and appended hash."""
        for data in (esp32_image(size=3 * CHUNK), esp32_image(size=3 * CHUNK, flags=("--dont-append-digest",))):
            self.assertIn(_md5(data), _read(data).sketch_hashes)
            self.assertRaises(ImageError, _read, _flip(data, 2 * CHUNK + 1))
        data = esp8266_image(size=3 * CHUNK)
        self.assertIn(_md5(data), _read(data + b"signature").sketch_hashes)

    def test_real_file(self) -> None:
        """A real file, unbuffered, is read from its beginning wherever its position stands, and isn't changed."""
        path = Path(self.mktemp())
        path.write_bytes(esp32_image())
        with path.open("rb", buffering=0) as file:
            file.seek(1000)
            self.assertEqual(read_image(file), _read(esp32_image()))
        self.assertEqual(path.read_bytes(), esp32_image())

    def test_called_off(self) -> None:
        """A reading that shall not go on ends with InterruptedError at the next chunk."""
        for data in (esp32_image(size=3 * CHUNK), bytes(3 * CHUNK)):
            answers = iter([True, False])
            file = _Watched(data)
            self.assertRaises(InterruptedError, read_image, file, lambda answers=answers: next(answers))
            self.assertLess(sum(file.sizes), 3 * CHUNK)

    def test_changed_meanwhile(self) -> None:
        """A file that gets shorter or longer while it is read is refused, even if nothing of it is left."""
        for data in (esp32_image(), esp8266_image(), b"opaque" * 1000):
            for new_size in (0, 1, 2, 20, 34, 1000, len(data) - 1, len(data) + 1):
                path = Path(self.mktemp())
                path.write_bytes(data)
                with self.subTest(new_size=new_size), _Changing(path, "r+") as file:
                    file.new_size = new_size
                    self.assertRaises(ImageError, read_image, file)
