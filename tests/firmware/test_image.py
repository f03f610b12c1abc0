"""Tests of how files are read, whatever they hold, and of what is said of each sort of image."""

from __future__ import annotations

import gzip
import io
import os
import random
import tracemalloc
from functools import lru_cache
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.facts import Format, ImageFacts
from ota_server.firmware.formats import MAX_UNPACKED
from ota_server.firmware.image import ImageError, read_image
from ota_server.firmware.stream import CHUNK
from tests.firmware.reading import Pieces, Watched, flipped, md5, sha256
from tests.images import compress, cuts, esp32_image, esp8266_image, zoo

_MEGABYTE = 1 << 20

# By how names in the zoo begin; the longest that fits counts.
_FORMATS = {
    "esp32": Format.ESP32_APP,
    "esp32-app-signed-esp32fota": Format.SIGNED,
    "esp32-app-gzip": Format.GZIP,
    "esp32-bootloader": Format.ESP32_BOOTLOADER,
    "esp32c3-bootloader": Format.ESP32_BOOTLOADER,
    "esp32-partition-table": Format.PARTITION_TABLE,
    "esp32-ota-data": Format.OTA_DATA,
    "esp32-merged": Format.MERGED,
    "esp32c3-merged": Format.MERGED,
    "esp32s3-merged": Format.MERGED,
    "esp32p4-merged": Format.MERGED,
    "esp8266-sketch": Format.ESP8266_SKETCH,
    "esp8266-sketch-gzip": Format.GZIP,
    "esp8266-bootloader": Format.ESP8266_BOOTLOADER,
    "esp8266-plain": Format.ESP8266_IMAGE,
    "esp8266-v2": Format.ESP8266_V2,
    "esp8266-v3": Format.ESP8266_IMAGE,
    "mcuboot": Format.MCUBOOT,
    "arduino-ota": Format.ARDUINO_OTA,
}


@lru_cache
def _names() -> list[str]:
    """Return the names of images that are not too large to be read over and over."""
    return sorted(name for name, image in zoo().items() if len(image) < 20000)


@lru_cache
def _images() -> st.SearchStrategy[bytes]:
    return st.deferred(lambda: st.sampled_from(_names())).map(lambda name: zoo()[name])


class _Changing(io.FileIO):
    """A real file that another program cuts or lengthens as soon as its size has been asked for."""

    new_size = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        at = super().seek(offset, whence)
        if whence == os.SEEK_END:
            os.truncate(self.fileno(), self.new_size)
        return at


def _peak(file: io.BytesIO | io.RawIOBase) -> int:
    """Read an image and return how much memory that took at most, in bytes."""
    tracemalloc.start()
    try:
        read_image(file)  # type: ignore[arg-type]
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class _Endless(io.RawIOBase):
    """A file of so many bytes that takes no memory: `head`, then noise that is the same in each chunk."""

    _NOISE = random.Random(5).randbytes(CHUNK)

    def __init__(self, size: int, head: bytes = b"") -> None:
        self._size, self._head, self._at = size, head, 0

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._at = self._size + offset if whence == os.SEEK_END else offset
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        assert 0 <= size <= CHUNK
        start, self._at = self._at, min(self._at + size, self._size)
        return (self._head + self._NOISE if start == 0 else self._NOISE)[: self._at - start]


class ZooTests(SynchronousTestCase):
    """One image of each sort."""

    def test_formats(self) -> None:
        """Each image is recognised for what it is, is whole, has no bytes too many, and its own digests."""
        for name, image in zoo().items():
            with self.subTest(name):
                facts = read_image(image)
                beginning = max((known for known in _FORMATS if name.startswith(known)), key=len)
                self.assertIs(facts.format, _FORMATS[beginning])
                self.assertIsNone(facts.damage)
                self.assertEqual(facts.trailing, 0)
                self.assertEqual((facts.size, facts.md5, facts.sha256), (len(image), md5(image), sha256(image)))
                self.assertEqual(facts.debug, ())

    def test_chips(self) -> None:
        """The chip is told of every image that is for one, and of none that doesn't say."""
        for name, image in zoo().items():
            with self.subTest(name):
                facts = read_image(image)
                silent = facts.format in (Format.MERGED, Format.PARTITION_TABLE, Format.OTA_DATA, Format.MCUBOOT)
                chip = "esp32" if name == "arduino-ota" else name.partition("-")[0]
                self.assertEqual(facts.chip, None if silent else chip)

    def test_not_for_ota(self) -> None:
        """Boot loaders, partition tables, OTA data and merged images are not for updates, and nothing else isn't."""
        parts = ("bootloader", "partition-table", "ota-data", "merged")
        for name, image in zoo().items():
            self.assertEqual(read_image(image).not_for_ota, any(part in name for part in parts), name)
        self.assertTrue(read_image(compress(zoo()["esp32-bootloader"])).not_for_ota)

    def test_any_pieces(self) -> None:
        """What is told doesn't depend on the pieces that the file comes in."""
        for name in _names():
            image = zoo()[name]
            for most in (1 if len(image) < 5000 else 13, 4096, len(image) - 1):
                with self.subTest(name, most=most):
                    self.assertEqual(read_image(Pieces(image, most)), read_image(image))

    def test_same_each_time(self) -> None:
        """The same bytes give the same facts, whether they are given as bytes or as a file."""
        for name, image in zoo().items():
            self.assertEqual(read_image(io.BytesIO(image)), read_image(image), name)


class OnePassTests(SynchronousTestCase):
    """A file is read once, and little of it is kept."""

    def test_no_byte_twice(self) -> None:
        """After its size is asked for, a file is read from its first byte to its last, none of them twice."""
        for name, image in {**zoo(), "opaque": bytes(3 * CHUNK), "cut": zoo()["esp32-app"][:1000]}.items():
            with self.subTest(name):
                file = Watched(image)
                read_image(file)
                self.assertEqual(file.moves, [(0, os.SEEK_END), (0, os.SEEK_SET)])
                at = 0
                for start, end in file.reads:
                    self.assertEqual(start, at)
                    at = end
                self.assertEqual(at, len(image))

    def test_pieces_are_small(self) -> None:
        """A large file is read in pieces of one size."""
        for image in (esp32_image(size=3 * CHUNK), esp8266_image(size=3 * CHUNK), bytes(3 * CHUNK + 5)):
            file = Watched(image)
            read_image(file)
            self.assertEqual(max(end - start for start, end in file.reads), CHUNK)

    def test_memory(self) -> None:
        """Reading 64 MB of whatever kind takes a few chunks of memory, though headers announce gigabytes."""
        esp32 = zoo()["esp32-app"]
        size = 64 * _MEGABYTE
        heads = {
            "opaque": b"",
            "ESP32": b"\xe9\x01" + esp32[2:28] + (size - 200).to_bytes(4, "little") + esp32[32:],
            "ESP8266": b"\xe9\x01" + bytes(6) + b"\0\0\x10\x40" + (size - 100).to_bytes(4, "little"),
            "MCUboot": zoo()["mcuboot"][:12] + b"\xff" * 4 + zoo()["mcuboot"][16:32],
            "OTA": (size - 8).to_bytes(4, "little") + zoo()["arduino-ota"][4:20],
            "signed": bytes(512) + esp32,
        }
        for name, head in heads.items():
            with self.subTest(name):
                self.assertLess(_peak(_Endless(size, head)), 4 * _MEGABYTE)

    def test_memory_of_gzip(self) -> None:
        """What swells up to gigabytes takes no more memory, and is not unpacked to its end."""
        zeros = gzip.compress(bytes(2 * MAX_UNPACKED))
        tail = zoo()["esp8266-sketch-gzip"]
        for bomb in (zeros, compress(zeros), zeros[:-9], zeros + bytes(_MEGABYTE), tail + bytes(4 * _MEGABYTE)):
            self.assertLess(_peak(io.BytesIO(bomb)), 4 * _MEGABYTE)
        facts = read_image(zeros)
        self.assertEqual((facts.format, facts.inner, facts.damage), (Format.GZIP, None, None))
        self.assertEqual(facts.sha256, sha256(zeros))

    def test_real_file(self) -> None:
        """A real file, unbuffered, is read from its beginning wherever its position stands, and isn't changed."""
        path = Path(self.mktemp())
        path.write_bytes(esp32_image())
        with path.open("rb", buffering=0) as file:
            file.seek(1000)
            self.assertEqual(read_image(file), read_image(esp32_image()))
        self.assertEqual(path.read_bytes(), esp32_image())

    def test_called_off(self) -> None:
        """A reading that shall not go on ends with InterruptedError at the next chunk, also inside wrappings."""
        for data in (
            esp32_image(size=3 * CHUNK),
            bytes(3 * CHUNK),
            compress(esp32_image(size=3 * CHUNK)),
            bytes(512) + esp32_image(size=3 * CHUNK),
        ):
            answers = iter([True, False])
            file = Watched(data)
            self.assertRaises(InterruptedError, read_image, file, lambda answers=answers: next(answers))
            self.assertLess(file.reads[-1][1], 3 * CHUNK)


class AnyBytesTests(SynchronousTestCase):
    """Whatever the bytes are, there are facts, or an ImageError."""

    def _read(self, data: bytes) -> ImageFacts | None:
        try:
            facts = read_image(data)
        except ImageError as error:
            self.assertEqual(data, b"", error.reason)
            return None
        self.assertEqual((facts.size, facts.md5, facts.sha256), (len(data), md5(data), sha256(data)))
        if facts.damage is not None:
            self.assertTrue(facts.damage.reason.isprintable())
            self.assertGreaterEqual(facts.damage.offset, 0)
            self.assertEqual(str(facts.damage), facts.damage.reason)
        return facts

    @settings(deadline=None, max_examples=300)
    @given(
        st.sampled_from([b"", b"\xe9", b"\xea\x04", b"\x1f\x8b\x08", b"\xaa\x50", b"\x3d\xb8\xf3\x96"]),
        st.binary(max_size=600),
    )
    @example(b"\x1f\x8b\x08", b"\0" * 7 + b"\x03\0" + bytes(8))
    @example(b"\x1f\x8b\x08", b"")
    def test_any_bytes(self, magic: bytes, rest: bytes) -> None:
        """Any bytes, also behind the first bytes of each sort, give facts; only an empty file doesn't."""
        self._read(magic + rest)

    @settings(deadline=None, max_examples=300)
    @given(_images(), st.data())
    def test_mutations(self, image: bytes, draws: st.DataObject) -> None:
        """An image that was cut, overwritten, lengthened or put together with another one gives facts."""
        harmed = bytearray(image)
        for _ in range(draws.draw(st.integers(1, 4))):
            start = draws.draw(st.integers(0, len(harmed)))
            match draws.draw(st.sampled_from(["cut", "write", "drop", "insert", "join"])):
                case "cut":
                    del harmed[start:]
                case "write":
                    harmed[start : start + 8] = draws.draw(st.binary(min_size=1, max_size=8))
                case "drop":
                    del harmed[start : start + draws.draw(st.integers(1, 64))]
                case "insert":
                    harmed[start:start] = draws.draw(st.binary(min_size=1, max_size=64))
                case _:
                    harmed[start:] = draws.draw(_images())[:20000]
        data = bytes(harmed)
        facts = self._read(data)
        if facts is not None:
            self.assertEqual(read_image(Pieces(data, draws.draw(st.integers(20, 5000)))), facts)

    @settings(deadline=None, max_examples=100)
    @given(_images(), st.data())
    def test_mutations_inside_gzip(self, image: bytes, draws: st.DataObject) -> None:
        """What is harmed and then compressed gives the same facts inside, but for what needs the size beforehand."""
        harmed = flipped(image, draws.draw(st.integers(0, len(image) - 1)))[: draws.draw(st.integers(1, len(image)))]
        facts = self._read(compress(harmed))
        assert facts is not None
        assert facts.inner is not None
        self.assertEqual((facts.inner.size, facts.inner.sha256), (len(harmed), sha256(harmed)))
        self.assertEqual(facts.damage is None, facts.inner.damage is None)

    @settings(deadline=None)
    @given(
        st.binary(min_size=1, max_size=100)
        .filter(lambda data: data[0] not in b"\xe9\xea\x1f\xaa")
        .filter(lambda data: int.from_bytes(data[:4], "little") + 8 != len(data))
    )
    def test_opaque(self, data: bytes) -> None:
        """Bytes that are like none of the forms are taken as they are: digests, and nothing else."""
        self.assertEqual(read_image(data), ImageFacts(len(data), md5(data), sha256(data)))


class RefusalTests(SynchronousTestCase):
    """Files that there is nothing to say of."""

    def test_empty(self) -> None:
        """An empty file is refused, with where and why."""
        error = self.assertRaises(ImageError, read_image, b"")
        self.assertEqual((error.offset, error.reason, str(error)), (0, "the file is empty", "the file is empty"))

    def test_changed_meanwhile(self) -> None:
        """A file that gets shorter or longer while it is read is refused, even if nothing of it is left."""
        names = ("esp32-app", "esp8266-sketch", "esp8266-sketch-signed", "esp32-app-gzip", "mcuboot", "arduino-ota")
        opaque = b"opaque" * 1000
        for data in (*(zoo()[name] for name in names), zoo()["esp32-app-signed-esp32fota"], opaque):
            for new_size in (0, 1, 2, 20, 34, 1000, len(data) - 1, len(data) + 1):
                path = Path(self.mktemp())
                path.write_bytes(data)
                with self.subTest(new_size=new_size), _Changing(path, "r+") as file:
                    file.new_size = new_size
                    error = self.assertRaises(ImageError, read_image, file)
                    self.assertIn(f"the file changed while it was read: {len(data)} bytes at first", error.reason)
                    self.assertEqual(error.offset, new_size)

    def test_where_it_is_cut(self) -> None:
        """The reason tells where an image ends and what of it lies behind that, and the offset is there too."""
        data = esp32_image()
        for end, part in (
            (len(data) - 1, f"ends inside the SHA-256 that begins at byte {len(data) - 32}"),
            (len(data) - 33, f"ends at byte {len(data) - 33}, before its checksum at {len(data) - 33}"),
            (1000, "ends at byte 1000, but segment 2 of 2 reaches to byte"),
            (290, "ends at byte 290, before segment 2 of 2"),
            (20, "ends at byte 20, inside its header"),
        ):
            damage = read_image(data[:end]).damage
            assert damage is not None
            self.assertIn(part, damage.reason)
            self.assertEqual(damage.offset, end)

    def test_an_end_that_shows(self) -> None:
        """Of every sort that tells its end an incomplete copy shows, wherever it ends, unless as a whole lesser one.

        What may be missing then are signatures, and the sketch behind a boot loader.
        """
        for name in _names():
            image = zoo()[name]
            whole = read_image(image)
            if not whole.tells_its_end:
                continue
            for length in cuts(image):
                facts = read_image(image[:length])
                with self.subTest(name, length=length):
                    shows = facts.damage is not None or facts.format is not whole.format
                    self.assertTrue(shows or facts.signatures != whole.signatures)
