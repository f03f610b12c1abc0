"""Tests of compressing images for devices that unpack them, on real sketches and files."""

from __future__ import annotations

import gzip
import os
import stat
from collections.abc import Callable
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware import packing
from ota_server.firmware.catalog import STABLE, Catalog, Image
from ota_server.firmware.facts import Format
from ota_server.firmware.folder import identify
from ota_server.firmware.packing import AT_ONCE, Packer
from tests.firmware.samples import make_catalog, read_as_image
from tests.images import compress, esp32_image, esp8266_image, esp8266_plain_image, esp8266_signed, private_key
from tests.images.tools import noise


def _sketch(seed: int = 0) -> bytes:
    """Return an ESP8266 sketch that becomes much smaller by compressing it."""
    return esp8266_image(seed=seed, embedded=bytes(8192))


def _always() -> bool:
    return True


class PackerCase(SynchronousTestCase):
    """A test with a packer, and a folder of plain files."""

    def setUp(self) -> None:
        """Make an empty folder of plain files, and choose one for compressed ones, which isn't there yet."""
        self.root = Path(self.mktemp())
        self.root.mkdir()
        self.folder = Path(self.mktemp())
        self.packer = Packer(self.folder)

    def put(self, name: str, content: bytes, channel: str = STABLE) -> Image:
        """Write a file and return its image."""
        path = self.root / channel / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        with path.open("rb") as file:
            identity = identify(file.fileno())
        return attrs.evolve(read_as_image(name, content, channel=channel), path=str(path), identity=identity)

    def pack(self, *images: Image, keep_going: Callable[[], bool] = _always) -> bool:
        """Compress what there is to compress of a catalog of these images; return whether there is more to do."""
        return self.packer.pack(make_catalog(images), keep_going)

    def packed(self, *images: Image) -> dict[str, Image]:
        """Return the compressed images that are added to a catalog of these, by channel and file name."""
        channels: dict[str, dict[str, Image]] = {}
        for image in images:
            channels.setdefault(image.channel, {})[image.file_name] = image
        self.packer.add_to(channels)
        return {
            f"{channel}/{name}": image
            for channel, files in channels.items()
            for name, image in files.items()
            if image not in images
        }

    def files(self) -> set[str]:
        """Return the names of the files in the folder of compressed ones."""
        return set(os.listdir(self.folder)) if self.folder.exists() else set()


class WhichTests(PackerCase):
    """Which images are compressed."""

    def test_sketch(self) -> None:
        """A sketch for the ESP8266 is; what is unpacked is the plain file to the byte, and it is smaller."""
        plain = self.put("lamp-1.0.bin", _sketch())
        self.assertFalse(self.pack(plain))
        packed = self.packed(plain)[f"{STABLE}/lamp-1.0.bin.gz"]
        path = Path(packed.path)
        self.assertEqual(path, self.folder / f"{plain.facts.sha256}.bin.gz")
        self.assertEqual(gzip.decompress(path.read_bytes()), _sketch())
        self.assertLess(packed.size, plain.size)
        self.assertEqual(packed.size, path.stat().st_size)
        self.assertEqual((packed.channel, packed.version, packed.project), (plain.channel, plain.version, "lamp"))
        self.assertTrue(packed.name.compressed and packed.compressed and packed.packs(plain))
        with path.open("rb") as file:
            self.assertEqual(identify(file.fileno()), packed.identity)

    def test_in_the_catalog(self) -> None:
        """The catalog with it has it as the compressed form of the best image."""
        plain = self.put("lamp-1.0.bin", _sketch())
        self.pack(plain)
        catalog = make_catalog([plain, *self.packed(plain).values()])
        project = catalog.project(STABLE, "lamp")
        assert project is not None
        choice = project.choose(chip="esp8266")
        self.assertIs(choice.image, plain)
        self.assertEqual(choice.compressed and choice.compressed.facts.core.sha256, plain.facts.sha256)
        self.assertFalse(self.packer.pack(catalog, _always))
        self.assertEqual(len(self.files()), 1)

    def test_best_only(self) -> None:
        """Only what devices would be sent is: the best sketch for the ESP8266 of each project in each channel."""
        images = [
            self.put("lamp-1.0.bin", _sketch(0)),
            self.put("lamp-1.1.bin", _sketch(1)),
            self.put("lamp-1.2.bin", esp32_image()),
            self.put("door-1.0.esp8266.bin", _sketch(2)),
            self.put("door-1.0.bin", _sketch(3)),
            self.put("lamp-1.3.bin", _sketch(4), "beta"),
        ]
        self.pack(*images)
        self.assertEqual(
            self.packed(*images).keys(),
            {f"{STABLE}/lamp-1.1.bin.gz", f"{STABLE}/door-1.0.esp8266.bin.gz", "beta/lamp-1.3.bin.gz"},
        )
        self.assertEqual(len(self.files()), 3)

    def test_nothing_else(self) -> None:
        """Signed sketches, images for other chips or without Arduino's boot loader, and anything else, aren't."""
        images = [
            self.put("a-1.0.bin", esp8266_signed(_sketch(), private_key("rsa2048"))),
            self.put("b-1.0.bin", esp32_image()),
            self.put("c-1.0.bin", bytes(10_000)),
            self.put("d-1.0.bin", esp8266_plain_image()),
            self.put("e-1.0.fs.bin", bytes(10_000)),
            self.put("f-1.0.bin.gz", compress(_sketch())),
            self.put("g-1.0.fs.bin", _sketch()),
            self.put("h-1.0.esp32.bin", _sketch()),
        ]
        self.assertFalse(self.pack(*images))
        self.assertEqual((self.packed(*images), self.folder.exists()), ({}, False))

    def test_not_smaller(self) -> None:
        """Where it wouldn't be smaller it isn't used, and not made again and again either."""
        full = self.put("lamp-1.0.bin", esp8266_image(boot_embedded=noise(3808, 7)))
        self.assertEqual(full.facts.format, Format.ESP8266_SKETCH)
        self.pack(full)
        self.assertEqual(self.packed(full), {})
        before = self._stamps()
        self.pack(full)
        self.packer = Packer(self.folder)
        self.pack(full)
        self.assertEqual((self.packed(full), self._stamps()), ({}, before))

    def test_owners(self) -> None:
        """Where the owner has put a compressed file beside it none is made; one for other devices doesn't count."""
        plain = self.put("lamp-1.0.bin", _sketch())
        for name, made in (
            ("lamp-1.0.bin.gz", False),
            ("lamp-1.0.0.bin.gz", False),
            ("lamp-1.0.esp8266.bin.gz", False),
            ("lamp-1.0.fs.bin.gz", True),
            ("lamp-1.0.esp32.bin.gz", True),
            ("lamp-1.1.bin.gz", True),
        ):
            with self.subTest(name):
                own = self.put(name, compress(_sketch()))
                self.packer = Packer(self.folder)
                self.pack(plain, own)
                self.assertEqual(len(self.packed(plain, own)), made)
                self.assertEqual(len(self.files()), made)

    def test_owners_in_its_place(self) -> None:
        """A compressed file that the owner has just put there isn't replaced by the one made here."""
        plain = self.put("lamp-1.0.bin", _sketch())
        self.pack(plain)
        own = self.put("lamp-1.0.bin.gz", compress(_sketch()))
        self.assertEqual(self.packed(plain, own), {})

    def test_another_plain_file(self) -> None:
        """It is added beside the very image it was made of only."""
        plain = self.put("lamp-1.0.bin", _sketch())
        self.pack(plain)
        self.assertEqual(self.packed(self.put("lamp-1.0.bin", _sketch())), {})
        self.assertEqual(self.packed(self.put("lamp-1.0.bin", _sketch(), "beta")), {})
        self.assertEqual(len(self.packed(plain)), 1)

    def _stamps(self) -> list[tuple[int, int]]:
        return [(path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(self.folder.iterdir())]


class FileTests(PackerCase):
    """The compressed files: made once, and cleared away."""

    def test_made_once(self) -> None:
        """Started anew, the file is taken as it is, and after that not even looked at."""
        plain = self.put("lamp-1.0.bin", _sketch())
        self.pack(plain)
        first = self.packed(plain)[f"{STABLE}/lamp-1.0.bin.gz"]

        def compress_no_more(*arguments: object) -> None:
            raise AssertionError("compressed again")

        self.patch(packing, "_compress", compress_no_more)
        self.pack(plain)
        self.packer = Packer(self.folder)
        self.pack(plain)
        second = self.packed(plain)[f"{STABLE}/lamp-1.0.bin.gz"]
        self.assertEqual((second.identity, second.facts), (first.identity, first.facts))
        self.patch(packing, "_read", compress_no_more)
        self.pack(plain)

    def test_touched_and_removed(self) -> None:
        """A file that somebody touched is read anew, one that was removed is made anew."""
        plain = self.put("lamp-1.0.bin", _sketch())
        self.pack(plain)
        for harm in (lambda path: path.chmod(0o600), Path.unlink, lambda path: path.write_bytes(b"else")):
            before = self.packed(plain)[f"{STABLE}/lamp-1.0.bin.gz"]
            harm(Path(before.path))
            self.assertFalse(self.pack(plain))
            after = self.packed(plain)[f"{STABLE}/lamp-1.0.bin.gz"]
            with open(after.path, "rb") as file:
                self.assertEqual(after.identity, identify(file.fileno()))
            self.assertNotEqual(after.identity, before.identity)
            self.assertEqual(after.facts, before.facts)

    def test_unreadable(self) -> None:
        """A plain file that can't be read any more keeps no other from being compressed."""
        gone, plain = self.put("a-1.0.bin", _sketch(1)), self.put("b-1.0.bin", _sketch(2))
        Path(gone.path).unlink()
        Path(gone.path).mkdir()
        self.assertFalse(self.pack(gone, plain))
        self.assertEqual(set(self.packed(gone, plain)), {f"{STABLE}/b-1.0.bin.gz"})

    def test_same_each_time(self) -> None:
        """The same sketch gives the same bytes each time and everywhere, so that its entity tag stays."""
        plain = self.put("lamp-1.0.bin", _sketch())
        self.pack(plain)
        first = Path(self.packed(plain)[f"{STABLE}/lamp-1.0.bin.gz"].path).read_bytes()
        self.folder = Path(self.mktemp())
        self.packer = Packer(self.folder)
        other = self.put("door-2.0.bin", _sketch(), "beta")
        self.pack(other)
        self.assertEqual(Path(self.packed(other)["beta/door-2.0.bin.gz"].path).read_bytes(), first)

    def test_shared(self) -> None:
        """Plain files with the same bytes share one, which stays as long as one of them does."""
        stable, beta = self.put("lamp-1.0.bin", _sketch()), self.put("lamp-1.1.bin", _sketch(), "beta")
        self.pack(stable, beta)
        self.assertEqual((len(self.packed(stable, beta)), len(self.files())), (2, 1))
        self.pack(beta)
        self.assertEqual((len(self.packed(beta)), len(self.files())), (1, 1))
        self.pack()
        self.assertEqual(self.files(), set())

    def test_plain_goes(self) -> None:
        """When the plain file goes, or a newer one takes its place, the compressed one is deleted."""
        old, new = self.put("lamp-1.0.bin", _sketch()), self.put("lamp-1.1.bin", _sketch(1))
        self.pack(old)
        self.assertEqual(self.files(), {f"{old.facts.sha256}.bin.gz"})
        self.pack(old, new)
        self.assertEqual(self.files(), {f"{new.facts.sha256}.bin.gz"})
        self.assertEqual(self.packed(old, new).keys(), {f"{STABLE}/lamp-1.1.bin.gz"})
        self.pack()
        self.assertEqual((self.files(), self.packed()), (set(), {}))

    def test_plain_went_while_no_server_ran(self) -> None:
        """What was left by an earlier run is deleted at the start, also where there is nothing to compress now."""
        self.pack(self.put("lamp-1.0.bin", _sketch()))
        (self.folder / "0123.bin.part").write_bytes(b"cut off by a crash")
        (self.folder / "README").write_bytes(b"somebody else's")
        for images in ([], [self.put("lamp-1.0.bin", esp32_image())]):
            self.packer = Packer(self.folder)
            self.pack(*images)
            self.assertEqual(self.files(), {"README"})

    def test_damaged_file(self) -> None:
        """A compressed file that took harm, or holds something else, is made anew at the start."""
        plain = self.put("lamp-1.0.bin", _sketch())
        self.pack(plain)
        path = Path(self.packed(plain)[f"{STABLE}/lamp-1.0.bin.gz"].path)
        whole = path.read_bytes()
        for content in (b"", whole[:-1], whole + b"x", compress(_sketch(1)), _sketch()):
            with self.subTest(content[:20]):
                path.write_bytes(content)
                self.packer = Packer(self.folder)
                self.pack(plain)
                self.assertEqual(path.read_bytes(), whole)
                self.assertEqual(len(self.packed(plain)), 1)

    def test_at_once(self) -> None:
        """No more than AT_ONCE are compressed at a time; it is told that there is more, and nothing is deleted yet."""
        images = [self.put(f"lamp{number:02}-1.0.bin", _sketch(number % 3)) for number in range(2 * AT_ONCE + 1)]
        for done, more in ((AT_ONCE, True), (2 * AT_ONCE, True), (2 * AT_ONCE + 1, False)):
            self.assertIs(self.pack(*images), more)
            self.assertEqual(len(self.packed(*images)), done)
        self.assertEqual(len(self.files()), 3)
        self.packer = Packer(self.folder)
        self.pack(*images)
        self.assertEqual(len(self.files()), 3)

    def test_private(self) -> None:
        """The folder is the server's own."""
        self.pack(self.put("lamp-1.0.bin", _sketch()))
        self.assertEqual(stat.S_IMODE(self.folder.stat().st_mode), 0o700)


class TroubleTests(PackerCase):
    """What comes in between."""

    def test_overwritten_meanwhile(self) -> None:
        """A plain file that was overwritten since it was read gets none, and what it holds now gets its own later."""
        plain = self.put("lamp-1.0.bin", _sketch())
        changed = self.put("lamp-1.0.bin", _sketch(1))
        self.pack(plain)
        self.assertEqual(self.packed(plain), {})
        self.pack(changed)
        packed = self.packed(changed)[f"{STABLE}/lamp-1.0.bin.gz"]
        self.assertEqual(gzip.decompress(Path(packed.path).read_bytes()), _sketch(1))
        self.assertEqual(self.files(), {Path(packed.path).name})

    def test_removed_meanwhile(self) -> None:
        """A plain file that was removed since it was read is no trouble, nor for the others."""
        gone, there = self.put("door-1.0.bin", _sketch()), self.put("lamp-1.0.bin", _sketch(1))
        os.unlink(gone.path)
        self.assertFalse(self.pack(gone, there))
        self.assertEqual(self.packed(gone, there).keys(), {f"{STABLE}/lamp-1.0.bin.gz"})
        self.assertEqual(len(self.files()), 1)

    def test_called_off(self) -> None:
        """Called off in the middle of a file it raises InterruptedError; no part of that stays, and earlier ones do."""
        one, two = self.put("door-1.0.bin", _sketch()), self.put("lamp-1.0.bin", _sketch(1))
        self.pack(one)
        answers = iter([True, False])
        self.patch(packing, "_CHUNK", 4096)
        self.assertRaises(InterruptedError, self.pack, one, two, keep_going=lambda: next(answers))
        self.assertEqual(self.files(), {f"{one.facts.sha256}.bin.gz"})
        self.assertEqual(len(self.packed(one, two)), 1)
        self.pack(one, two)
        self.assertEqual(len(self.packed(one, two)), 2)

    def test_no_place(self) -> None:
        """Where nothing can be written OSError is raised each time; it is made as soon as it can be."""
        plain = self.put("lamp-1.0.bin", _sketch())
        self.folder.write_bytes(b"in the way")
        for _ in range(2):
            self.assertRaises(OSError, self.pack, plain)
        self.assertEqual(self.packed(plain), {})
        self.folder.unlink()
        self.pack(plain)
        self.assertEqual(len(self.packed(plain)), 1)

    def test_disk_is_full(self) -> None:
        """Where the disk is full what was made before stays in use, and no part is left."""
        one, two = self.put("door-1.0.bin", _sketch()), self.put("lamp-1.0.bin", _sketch(1))
        self.pack(one)

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        self.patch(os, "fsync", full)
        self.assertRaises(OSError, self.pack, one, two)
        self.assertEqual((len(self.packed(one, two)), len(self.files())), (1, 1))

    def test_empty_catalog(self) -> None:
        """Of an empty catalog nothing comes, and no folder is made."""
        self.assertFalse(self.packer.pack(Catalog.empty(), _always))
        self.assertFalse(self.folder.exists())
