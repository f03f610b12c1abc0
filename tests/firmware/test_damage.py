"""Tests of what shows when an image takes harm: bytes that are missing, overwritten or turned over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.facts import Format
from ota_server.firmware.image import read_image
from tests.firmware.reading import before_core_3, flipped, told
from tests.images import (
    arduino_ota,
    compress,
    cuts,
    esp32_image,
    esp32fota_signed,
    esp8266_bootloader,
    esp8266_image,
    esp8266_plain_image,
    esp8266_signed,
    esp8266_v2_image,
    esp8266_v3_image,
    made_bootloader,
    mcuboot_image,
    private_key,
    secure_boot_v1,
    secure_boot_v2,
    zoo,
)

_SECTOR, _BLOCK = 4096, 1216


@lru_cache
def _small() -> Mapping[str, bytes]:
    """Return images of each sort, so small that each byte can be turned over."""
    keys = {kind: private_key(kind) for kind in ("rsa2048", "rsa3072", "rsa4096", "p256", "p384")}
    makers: dict[str, Callable[[], bytes]] = {
        "esp32": lambda: esp32_image(size=64),
        "esp32-without-hash": lambda: esp32_image(size=64, flags=("--dont-append-digest",)),
        "esp32-without-descriptor": lambda: esp32_image(size=64, described=False),
        "esp32-bootloader": lambda: made_bootloader(size=64),
        "esp32-signed-v1": lambda: secure_boot_v1(esp32_image(size=64), keys["p256"]),
        "esp32-signed-v2": lambda: secure_boot_v2(esp32_image(size=64), keys["rsa3072"]),
        "esp32p4-signed-v2": lambda: secure_boot_v2(esp32_image("esp32p4", size=64), keys["p384"]),
        "esp32-signed-esp32fota": lambda: esp32fota_signed(esp32_image(size=64), keys["rsa4096"]),
        "esp32-gzip": lambda: compress(esp32_image(size=64)),
        "esp8266-sketch": lambda: esp8266_image(64),
        "esp8266-old-sketch": lambda: before_core_3(esp8266_image(60)),
        "esp8266-sketch-gzip-signed": lambda: esp8266_signed(compress(esp8266_image(64)), keys["rsa2048"]),
        "esp8266-sketch-signed": lambda: esp8266_signed(esp8266_image(64), keys["rsa2048"]),
        "esp8266-bootloader": esp8266_bootloader,
        "esp8266-plain": lambda: esp8266_plain_image(4096 + 60),
        "esp8266-v2": lambda: esp8266_v2_image(64),
        "esp8266-v3": lambda: esp8266_v3_image(size=64),
        "mcuboot": lambda: mcuboot_image(size=64, header=0x20),
        "arduino-ota": lambda: arduino_ota(esp32_image(size=64)),
    }
    with ThreadPoolExecutor() as pool:
        return dict(zip(makers, pool.map(lambda make: make(), makers.values()), strict=True))


def _uncovered(name: str, size: int) -> set[int]:
    """Return the offsets of bytes that nothing in a file of so many bytes vouches for; what is said stays the same."""
    ranges: dict[str, tuple[range, ...]] = {
        # Settings of pins, the older form of the least revision, what is reserved, the padding before the checksum.
        "esp32-without-hash": (range(8, 12), range(14, 15), range(19, 24), range(size - 8, size - 1)),
        # A signature itself, which takes a key to check, or has a checksum of its own.
        "esp32-signed-v1": (range(size - 64, size),),
        "esp32-signed-esp32fota": (range(512),),
        "esp8266-sketch-signed": (range(size - 260, size - 4),),
        # What follows the one block in its sector.
        "esp32-signed-v2": (range(_SECTOR + 1200, size),),
        "esp32p4-signed-v2": (range(_SECTOR + 1200, size),),
        # The time, how hard it was compressed, and by which system.
        "esp32-gzip": (range(4, 10),),
        "esp8266-sketch-gzip-signed": (range(4, 10), range(size - 260, size - 4)),
        # Zeros before the checksum, zeros up to the sketch, the header of the sketch but for its segments' number, and
        # the zeros before its checksum.
        "esp8266-old-sketch": (
            range(272, 287),
            range(288, _SECTOR),
            range(_SECTOR + 2, _SECTOR + 8),
            range(size - 4, size - 1),
        ),
        "esp8266-bootloader": (range(272, 287),),
        "esp8266-plain": (range(size - 4, size - 1),),
        # Flags, as the first of which those of encryption count, and the kind of the entry that is a hash.
        "mcuboot": (range(16, 18), range(100, 102)),
    }
    return {offset for part in ranges.get(name, ()) for offset in part}


def _offsets(name: str, size: int) -> Iterable[int]:
    """Return offsets to do harm to: all, but of the filler of long images only some."""
    for offset in range(size):
        filler = range(300, _SECTOR) if "sketch" in name or "v2" in name else range(0)
        if offset % 61 == 0 or (offset not in filler and offset < _SECTOR + 2 * _BLOCK):
            yield offset


class FlipTests(SynchronousTestCase):
    """Bytes turned over."""

    def test_any_byte(self) -> None:
        """Any byte turned over, or one bit of it, changes what is said; but for those that nothing vouches for.

        In gzip there is more than one way to say the same: then what is inside is the same, and that is what counts.
        """
        for name, image in _small().items():
            whole = read_image(image)
            uncovered = _uncovered(name, len(image))
            for offset in _offsets(name, len(image)):
                facts = read_image(flipped(image, offset, 0xFF if offset % 2 else 1 << offset // 2 % 8))
                same = told(facts) == told(whole)
                if offset not in uncovered:
                    rewritten = whole.format is Format.GZIP and facts.core.sha256 == whole.core.sha256
                    self.assertTrue(not same or rewritten, f"{name}, byte {offset}")
                elif name != "mcuboot":
                    self.assertTrue(same, f"{name}, byte {offset}")

    def test_hashes_and_segments(self) -> None:
        """A byte turned over in a segment is damage; elsewhere in an image it is, or the hashes are other ones.

        But for the flash mode of an ESP8266, which a device sets itself.
        """
        for name, image in _small().items():
            whole = read_image(image)
            if whole.esp is None:
                continue
            inside = {at for part in whole.esp.segments for at in range(part.offset, part.offset + part.length)}
            for offset in list(_offsets(name, whole.esp.end))[::3]:
                facts = read_image(flipped(image, offset))
                if offset in inside:
                    self.assertIsNotNone(facts.damage, f"{name}, byte {offset}")
                elif facts.damage is None and (offset != 2 or whole.chip != "esp8266"):
                    self.assertFalse(set(whole.sketch_hashes) & set(facts.sketch_hashes), f"{name}, byte {offset}")


class CutTests(SynchronousTestCase):
    """Bytes that are missing at the end."""

    def _check(self, name: str, image: bytes, length: int) -> None:
        whole, facts = read_image(image), read_image(image[:length])
        if facts.damage is None and facts.format is whole.format:
            # Without its signature, or with a part of it, an image is one that isn't signed; the part is unknown.
            self.assertNotEqual(whole.signatures, (), f"{name}, cut to {length}")
            self.assertEqual((facts.signatures, facts.trailing), ((), length - self._end(image)))

    def _end(self, image: bytes) -> int:
        """Return where an image ends, or its gzip data."""
        facts = read_image(image)
        if facts.format is Format.GZIP:
            return facts.signatures[0].offset
        assert facts.esp is not None
        return facts.esp.end + (32 if facts.esp.appended_hash else 0)

    def test_any_length(self) -> None:
        """An image cut to any length is damaged, is another format, or has lost what it was signed with."""
        for name, image in _small().items():
            for length in {*cuts(image), *list(_offsets(name, len(image)))[1::7]}:
                self._check(name, image, length)

    @settings(deadline=None, max_examples=150)
    @given(st.data())
    def test_zoo(self, draws: st.DataObject) -> None:
        """So is any image of the zoo that tells its end."""
        name = draws.draw(st.sampled_from([name for name in zoo() if read_image(zoo()[name]).tells_its_end]))
        image = zoo()[name]
        self._check(name, image, draws.draw(st.integers(1, len(image) - 1)))

    @settings(deadline=None, max_examples=300)
    @given(st.data())
    def test_filled_up(self, draws: st.DataObject) -> None:
        """An image whose last part hasn't arrived, and is zeros or erased flash until then, is not what it will be.

        Where a checksum of one byte is all there is, one in 256 of such would show nothing; these are left out.
        """
        weak = {"esp32-without-hash", "esp8266-old-sketch", "esp8266-plain", "esp8266-bootloader"}
        name = draws.draw(st.sampled_from(sorted(_small().keys() - weak)))
        image = _small()[name]
        end = draws.draw(st.integers(1, len(image) - 1))
        filled = image[:end].ljust(len(image), draws.draw(st.sampled_from([b"\0", b"\xff"])))
        uncovered = _uncovered(name, len(image))
        if any(filled[offset] != image[offset] for offset in range(end, len(image)) if offset not in uncovered):
            self.assertNotEqual(told(read_image(filled)), told(read_image(image)))
