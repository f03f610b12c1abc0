"""Tests of reading the firmware folder, on real files; the time is an argument."""

from __future__ import annotations

import gc
import gzip
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, cast

from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware import folder as folder_module
from ota_server.firmware.catalog import STABLE, FileIdentity, Image
from ota_server.firmware.digests import DigestStore
from ota_server.firmware.facts import ImageFacts
from ota_server.firmware.folder import (
    MANY,
    OPAQUE_SETTLE_TIME,
    QUIET_TIME,
    SETTLE_TIME,
    SMALL,
    Folder,
    Reading,
    identify,
)
from ota_server.firmware.image import read_image
from ota_server.firmware.naming import Kind
from ota_server.firmware.notices import Notice
from ota_server.firmware.packing import Packer
from ota_server.firmware.signatures import VerifyKey, load_verify_key
from tests.images import (
    compress,
    damaged,
    esp32_image,
    esp8266_image,
    esp8266_signed,
    mcuboot_image,
    merged_image,
    private_key,
    public_key,
    secure_boot_v2,
)

LATER = 1000.0
"""A time at which whatever the test did to files is long ago, in seconds after it began."""


class FolderCase(SynchronousTestCase):
    """A test with a real folder, read at times that are given in seconds after the test began."""

    def setUp(self) -> None:
        """Make an empty folder, and a place for what is kept of it."""
        self.began = time.time()
        self.root = Path(self.mktemp())
        self.root.mkdir()
        self.state = Path(self.mktemp())
        self.folder = self.make_folder()

    def make_folder(self) -> Folder:
        """Return the folder as a server that has just started sees it."""
        return Folder(self.root, DigestStore(self.state))

    def read(self, at: float = LATER) -> Reading:
        """Read the folder at a time; at LATER all files count as settled, and at first ones they don't."""
        return self.folder.read(self.began + at, at)

    def put(self, name: str, content: bytes | None = None) -> Path:
        """Write a file, with bytes of its own where none are given, and return its path."""
        path = self.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode() if content is None else content)
        return path

    def offered(self, channel: str = STABLE) -> set[str]:
        """Return the names of the files that the newest catalog has in a channel."""
        found = self.folder.catalog.channels.get(channel)
        return set(found.files) if found else set()

    def image(self, name: str, channel: str = STABLE) -> Image:
        """Return the image of a file in the newest catalog."""
        return self.folder.catalog.channels[channel].files[name]

    def count_readings(self) -> list[str]:
        """Have the files that are read whole from now on listed, by their paths."""
        read: list[str] = []

        def counting(file: BinaryIO, *arguments: Any) -> ImageFacts:
            read.append(os.path.relpath(file.name, self.root))
            return read_image(file, *arguments)

        self.patch(folder_module, "read_image", counting)
        return read


class SettlingTests(FolderCase):
    """When a file is offered: once it has settled."""

    def test_fresh_file(self) -> None:
        """An image that has just been written is offered once it was seen unchanged for SETTLE_TIME."""
        self.put("lamp-1.0.bin", esp32_image())
        for at, expected in ((0.0, set()), (SETTLE_TIME * 0.99, set()), (SETTLE_TIME, {"lamp-1.0.bin"})):
            with self.subTest(at=at):
                reading = self.read(at)
                self.assertEqual(self.offered(), expected)
                self.assertEqual(reading.unsettled, not expected)
                self.assertIs(reading.catalog, self.folder.catalog)
                self.assertEqual(reading.notices, ())

    def test_fresh_file_that_has_no_end(self) -> None:
        """A file that doesn't tell whether it is whole is offered once it was seen unchanged for OPAQUE_SETTLE_TIME."""
        filesystem = bytes(8) + b"littlefs" + bytes(1000)
        for data in (b"opaque", merged_image(), filesystem, bytes(512) + filesystem, esp32_image() + b"not yet all"):
            self.put("lamp-1.0.bin", data)
            self.folder = self.make_folder()
            for at in (0.0, SETTLE_TIME, OPAQUE_SETTLE_TIME * 0.99):
                self.assertTrue(self.read(at).unsettled)
                self.assertEqual(self.offered(), set())
            self.assertFalse(self.read(OPAQUE_SETTLE_TIME).unsettled)
            self.assertEqual(self.offered(), {"lamp-1.0.bin"})

    def test_fresh_files_that_have_an_end(self) -> None:
        """Every other form tells by itself whether it is whole, and is offered after SETTLE_TIME."""
        forms = (esp32_image(), esp8266_image(), compress(b"opaque"), mcuboot_image())
        for number, data in enumerate(forms):
            self.put(f"lamp-1.{number}.bin", data)
        self.read(0)
        self.assertFalse(self.read(SETTLE_TIME).unsettled)
        self.assertEqual(len(self.offered()), len(forms))

    def test_file_without_end_is_read_once(self) -> None:
        """A file that has to stand still for longer is read once meanwhile, and not again when it is offered."""
        self.put("lamp-1.0.bin")
        read = self.count_readings()
        for at in (0, SETTLE_TIME, OPAQUE_SETTLE_TIME, OPAQUE_SETTLE_TIME + 1):
            self.read(at)
        self.assertEqual(read, ["lamp-1.0.bin"])
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})

    def test_old_file(self) -> None:
        """A file that was last changed QUIET_TIME ago is offered at once."""
        path = self.put("lamp-1.0.bin", b"image")
        self.folder.read(path.stat().st_ctime + QUIET_TIME + 0.001, 0)
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})
        self.assertEqual(self.image("lamp-1.0.bin").facts.md5, hashlib.md5(b"image").hexdigest())

    def test_nearly_old_file(self) -> None:
        """A file that was changed less than QUIET_TIME ago isn't offered at once."""
        path = self.put("lamp-1.0.bin")
        self.folder.read(path.stat().st_ctime + QUIET_TIME - 0.001, 0)
        self.assertEqual(self.offered(), set())

    def test_growing_file(self) -> None:
        """A file that grows isn't offered, how long that may take, and is once it no longer does."""
        path = self.put("lamp-1.0.bin", b"")
        for step in range(20):
            with path.open("ab") as file:
                file.write(b"more")
            self.assertTrue(self.folder.read(self.began, step / 2).unsettled)
            self.assertEqual(self.offered(), set())
        self.assertTrue(self.folder.read(self.began, 19 / 2 + SETTLE_TIME).unsettled)
        self.assertEqual(self.offered(), set())
        self.folder.read(self.began, 19 / 2 + OPAQUE_SETTLE_TIME)
        self.assertEqual(self.image("lamp-1.0.bin").size, 80)

    def test_forged_old_time(self) -> None:
        """A file with an old modification time, as copies and reproducible builds have it, still has to settle."""
        path = self.put("lamp-1.0.bin", esp32_image())
        os.utime(path, (0, 0))
        self.assertTrue(self.read(0).unsettled)
        self.assertEqual(self.offered(), set())
        self.read(SETTLE_TIME)
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})

    def test_time_in_the_future(self) -> None:
        """A file whose modification time lies in the future is offered after SETTLE_TIME as any other."""
        path = self.put("lamp-1.0.bin", esp32_image())
        os.utime(path, (self.began + 10**6, self.began + 10**6))
        self.read(LATER)
        self.assertEqual(self.offered(), set())
        self.assertFalse(self.read(LATER + SETTLE_TIME).unsettled)
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})

    def test_clock_set_back(self) -> None:
        """When the clock of the day is set back, files settle all the same."""
        self.put("lamp-1.0.bin", esp32_image())
        self.folder.read(0, 0)
        self.folder.read(0, SETTLE_TIME)
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})

    def test_still_written_to(self) -> None:
        """A file that is known to be written to isn't offered, however long it stands still, and settles afterwards."""
        path = self.put("lamp-1.0.bin", esp32_image())
        self.put("lamp-1.1.bin", esp32_image(version="1.1.0"))
        for at in (0.0, LATER, 2 * LATER):
            self.folder.read(self.began + at, at, {str(path)})
            self.assertNotIn("lamp-1.0.bin", self.offered())
        self.assertEqual(self.offered(), {"lamp-1.1.bin"})
        self.folder.read(self.began, 2 * LATER + SETTLE_TIME)
        self.assertEqual(self.offered(), {"lamp-1.0.bin", "lamp-1.1.bin"})

    def test_one_of_two(self) -> None:
        """A file that is still changing doesn't keep others from being offered."""
        self.put("lamp-1.0.bin", esp32_image())
        self.read(0)
        self.put("lamp-1.1.bin")
        self.assertTrue(self.read(SETTLE_TIME).unsettled)
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})


class VouchingTests(FolderCase):
    """Files that the server wrote itself."""

    def test_vouched_for(self) -> None:
        """A file that is vouched for is offered at once, isn't read again, and is known after a restart."""
        path = self.put("lamp-1.0.bin", b"no form that tells its end")
        read = self.count_readings()
        with path.open("rb") as file:
            self.folder.vouch(identify(file.fileno()), read_image(file))
        self.read(0.0)
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})
        self.folder.keep()
        self.folder = self.make_folder()
        self.read()
        self.assertEqual((self.offered(), read), ({"lamp-1.0.bin"}, []))

    def test_another_file(self) -> None:
        """What was vouched for is one state of a file, and no other."""
        path = self.put("lamp-1.0.bin", b"one")
        with path.open("rb") as file:
            self.folder.vouch(identify(file.fileno()), read_image(file))
        path.write_bytes(b"another")
        self.read(0.0)
        self.assertEqual(self.offered(), set())

    def test_forgotten(self) -> None:
        """What is vouched for and never seen doesn't fill the memory."""
        facts = read_image(b"x")
        for number in range(2 * folder_module.MAX_VOUCHED + 1):
            self.folder.vouch(FileIdentity(number, 1, 0, 0), facts)
        self.assertLessEqual(len(self.folder._vouched), folder_module.MAX_VOUCHED)


class ChangingTests(FolderCase):
    """What comes of changes to the folder."""

    def test_nothing_changed(self) -> None:
        """Read again unchanged, the folder has the very same catalog, and no file is read again."""
        self.put("lamp-1.0.bin")
        self.put("beta/lamp-1.1.bin")
        self.put("bad.bin")
        first = self.read().catalog
        read = self.count_readings()
        for at in (LATER, LATER + 1):
            reading = self.read(at)
            self.assertIs(reading.catalog, first)
            self.assertEqual((reading.notices, reading.unsettled), ((), False))
        self.assertEqual(read, [])

    def test_empty_folder(self) -> None:
        """An empty folder has an empty catalog, the same at each reading."""
        first = self.read()
        self.assertEqual((len(first.catalog), first.unsettled, first.notices), (0, False, ()))
        self.assertEqual(first.catalog.channels.keys(), {STABLE})
        self.assertIs(self.read().catalog, first.catalog)

    def test_added(self) -> None:
        """A new file makes a new catalog, which has the very same images of the others."""
        self.put("lamp-1.0.bin")
        self.put("door-1.0.bin")
        before = self.read().catalog
        self.put("lamp-1.1.bin")
        after = self.read().catalog
        self.assertIsNot(after, before)
        self.assertEqual(self.offered(), {"lamp-1.0.bin", "lamp-1.1.bin", "door-1.0.bin"})
        self.assertIs(after.project(STABLE, "door"), before.project(STABLE, "door"))
        self.assertIs(after.channels[STABLE].files["lamp-1.0.bin"], before.channels[STABLE].files["lamp-1.0.bin"])
        self.assertEqual(set(before.channels[STABLE].files), {"lamp-1.0.bin", "door-1.0.bin"})

    def test_removed(self) -> None:
        """A file that was removed is no longer offered, and nothing remains of it."""
        path = self.put("lamp-1.0.bin")
        self.read()
        path.unlink()
        catalog = self.read().catalog
        self.assertEqual((len(catalog), catalog.by_hash), (0, {}))
        self.assertIsNone(catalog.project(STABLE, "lamp"))

    def test_renamed(self) -> None:
        """A renamed file is offered by its new name, and no longer by its old one."""
        path = self.put("lamp-1.0.bin", b"image")
        self.read()
        path.rename(self.root / "lamp-1.1.bin")
        self.read()
        self.assertEqual(self.offered(), {"lamp-1.1.bin"})
        image = self.image("lamp-1.1.bin")
        self.assertEqual((str(image.version), image.path), ("1.1.0", str(self.root / "lamp-1.1.bin")))

    def test_moved_into_place(self) -> None:
        """A file written under a hidden name and then renamed, as rsync does it, is offered by its name."""
        hidden = self.put(".lamp-1.0.bin.x7Gh2")
        self.assertFalse(self.read(0).unsettled)
        hidden.rename(self.root / "lamp-1.0.bin")
        self.read()
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})

    def test_replaced(self) -> None:
        """A file replaced by another one is offered with its new bytes once these have settled, not before."""
        self.put("lamp-1.0.bin", b"old")
        self.read(0)
        self.read(OPAQUE_SETTLE_TIME)
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})
        other = self.put(".new", b"new bytes")
        other.replace(self.root / "lamp-1.0.bin")
        self.assertTrue(self.read(5).unsettled)
        self.assertEqual(self.offered(), set())
        self.read(5 + OPAQUE_SETTLE_TIME)
        self.assertEqual(self.image("lamp-1.0.bin").facts.md5, hashlib.md5(b"new bytes").hexdigest())

    def test_rewritten_with_the_same_size_and_time(self) -> None:
        """New bytes of the same number under the old inode and modification time are noticed all the same."""
        path = self.put("lamp-1.0.bin", b"old")
        self.read()
        before = path.stat()
        path.write_bytes(b"new")
        # Until the clock that the kernel stamps files by has gone on, which it does every few milliseconds.
        while path.stat().st_ctime_ns == before.st_ctime_ns:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        after = path.stat()
        self.assertEqual(
            (after.st_ino, after.st_size, after.st_mtime_ns), (before.st_ino, before.st_size, before.st_mtime_ns)
        )
        self.read()
        self.assertEqual(self.image("lamp-1.0.bin").facts.md5, hashlib.md5(b"new").hexdigest())

    def test_touched(self) -> None:
        """A file whose times changed, and not its bytes, is offered again after it settled, as a new image."""
        path = self.put("lamp-1.0.bin")
        self.read()
        first = self.image("lamp-1.0.bin")
        os.utime(path, (1, 1))
        self.read()
        second = self.image("lamp-1.0.bin")
        self.assertIsNot(second, first)
        self.assertEqual(second.facts, first.facts)

    def test_hard_links(self) -> None:
        """Two names of one file are two images, and the file is read once."""
        path = self.put("lamp-1.0.bin", b"image")
        os.link(path, self.root / "door-2.0.bin")
        (self.root / "beta").mkdir()
        os.link(path, self.root / "beta" / "lamp-1.0.bin")
        read = self.count_readings()
        catalog = self.read().catalog
        self.assertEqual(self.offered(), {"lamp-1.0.bin", "door-2.0.bin"})
        self.assertEqual(self.offered("beta"), {"lamp-1.0.bin"})
        self.assertEqual(len(read), 1)
        self.assertEqual(catalog.by_hash, {})

    def test_symbolic_links(self) -> None:
        """A symbolic link to a file is served as that file, and a change of that is noticed."""
        target = Path(self.mktemp())
        target.write_bytes(b"one")
        (self.root / "lamp-1.0.bin").symlink_to(target.absolute())
        self.read()
        self.assertEqual(self.image("lamp-1.0.bin").facts.md5, hashlib.md5(b"one").hexdigest())
        target.write_bytes(b"other")
        self.read()
        self.assertEqual(self.image("lamp-1.0.bin").facts.md5, hashlib.md5(b"other").hexdigest())

    def test_dangling_link(self) -> None:
        """A symbolic link to nothing is noticed, and doesn't keep others from being offered."""
        (self.root / "lamp-1.0.bin").symlink_to("nothing")
        self.put("door-1.0.bin")
        reading = self.read()
        self.assertEqual(self.offered(), {"door-1.0.bin"})
        self.assertEqual([notice.file for notice in reading.notices], ["lamp-1.0.bin"])
        self.assertIn("can't be looked at", reading.notices[0].reason)

    def test_what_is_no_file(self) -> None:
        """A pipe is never opened, whatever its name, since that would block."""
        os.mkfifo(self.root / "lamp-1.0.bin")
        reading = self.read()
        self.assertEqual((self.offered(), reading.unsettled), (set(), False))

    def test_becomes_a_folder(self) -> None:
        """A file that became a folder is no longer offered."""
        path = self.put("lamp-1.0.bin")
        self.read()
        path.unlink()
        path.mkdir()
        self.read()
        self.assertEqual(self.offered(), set())

    def test_facts(self) -> None:
        """Real images are found by each hash that a device may report of them."""
        self.put("lamp-1.0.bin", esp32_image())
        self.put("beta/lamp-1.0.bin", esp32_image())
        self.put("door-1.0.bin", esp8266_image())
        by_hash = self.read().catalog.by_hash
        esp32 = {self.image("lamp-1.0.bin"), self.image("lamp-1.0.bin", "beta")}
        self.assertEqual(set(by_hash[esp32_image()[-32:].hex()]), esp32)
        self.assertEqual(by_hash[hashlib.md5(esp8266_image()).hexdigest()], (self.image("door-1.0.bin"),))
        self.assertEqual(self.image("lamp-1.0.bin").facts.chip, "esp32")

    def test_large_and_small(self) -> None:
        """Files of every size are read, those in threads and those without."""
        sizes = {
            f"lamp-1.{number}.bin": size for number, size in enumerate([1, SMALL, SMALL + 1, 3 * SMALL, 10 * SMALL])
        }
        for name, size in sizes.items():
            self.put(name, bytes(size))
        self.read()
        for name, size in sizes.items():
            self.assertEqual(self.image(name).facts.sha256, hashlib.sha256(bytes(size)).hexdigest())

    def test_identity(self) -> None:
        """The identity of an image is that of its file when that is opened, so that a download can tell a change."""
        path = self.put("lamp-1.0.bin")
        self.read()
        with path.open("rb") as file:
            self.assertEqual(identify(file.fileno()), self.image("lamp-1.0.bin").identity)
            with path.open("ab") as writer:
                writer.write(b"x")
            self.assertNotEqual(identify(file.fileno()), self.image("lamp-1.0.bin").identity)

    def test_root_missing(self) -> None:
        """A folder that isn't there raises OSError; what was read before stays, and is gone on with afterwards."""
        self.put("lamp-1.0.bin")
        catalog = self.read().catalog
        away = self.root.rename(self.root.with_name("away"))
        self.assertRaises(FileNotFoundError, self.read)
        self.assertIs(self.folder.catalog, catalog)
        away.rename(self.root)
        self.assertIs(self.read().catalog, catalog)

    def test_root_is_a_file(self) -> None:
        """A file in the folder's place raises OSError."""
        self.root.rmdir()
        self.root.write_bytes(b"")
        self.assertRaises(NotADirectoryError, self.read)

    def test_many(self) -> None:
        """A thousand new files at once are offered, and the garbage collector works as before."""
        for number in range(MANY + 1):
            self.put(f"lamp-1.{number}.bin", b"x")
        self.addCleanup(gc.unfreeze)
        self.read()
        self.assertEqual(len(self.folder.catalog), MANY + 1)
        self.assertTrue(gc.isenabled())
        project = self.folder.catalog.project(STABLE, "lamp")
        best = project and project.choose().image
        self.assertEqual(best and best.file_name, f"lamp-1.{MANY}.bin")

    def test_names_are_not_kept_for_ever(self) -> None:
        """What is remembered of names doesn't grow without bound where names come and go."""
        for number in range(5):
            paths = [self.put(f"junk-{number}-{part}.txt", b"") for part in range(500)]
            self.read()
            for path in paths:
                path.unlink()
        self.put("lamp-1.0.bin")
        self.read()
        self.assertLess(len(self.folder._names), 1100)
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})


class ChannelTests(FolderCase):
    """Folders in the folder are channels."""

    def test_channels(self) -> None:
        """A folder's files are offered in the channel of its name, and nowhere else."""
        self.put("lamp-1.0.bin")
        self.put("beta/lamp-1.1.bin")
        self.put("qa-2/door-1.0.bin")
        catalog = self.read().catalog
        self.assertEqual(catalog.channels.keys(), {STABLE, "beta", "qa-2"})
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})
        self.assertEqual(self.offered("beta"), {"lamp-1.1.bin"})
        image = self.image("lamp-1.1.bin", "beta")
        self.assertEqual((image.channel, image.path), ("beta", str(self.root / "beta" / "lamp-1.1.bin")))

    def test_same_name_in_two_channels(self) -> None:
        """Files of the same name in two channels are two images, each with its own bytes."""
        self.put("lamp-1.0.bin", b"one")
        self.put("beta/lamp-1.0.bin", b"other")
        self.read()
        self.assertNotEqual(self.image("lamp-1.0.bin").facts.md5, self.image("lamp-1.0.bin", "beta").facts.md5)

    def test_folders_are_told(self) -> None:
        """A reading tells which folders it listed, with their inode numbers, empty ones too."""
        for name in ("beta", "empty", ".hidden", "no name"):
            (self.root / name).mkdir()
        listed = {(self.root, self.root.stat().st_ino)}
        listed |= {(self.root / name, (self.root / name).stat().st_ino) for name in ("beta", "empty")}
        self.assertEqual(self.read().folders, listed)

    def test_empty_channel(self) -> None:
        """A channel without images isn't in the catalog, and having one more makes no new catalog."""
        before = self.read().catalog
        (self.root / "beta").mkdir()
        self.assertIs(self.read().catalog, before)

    def test_folder_in_a_channel(self) -> None:
        """A folder in a channel is ignored, and so is what is in it."""
        self.put("beta/lamp-1.0.bin")
        (self.root / "beta" / "deep").mkdir()
        (self.root / "beta" / "deep" / "lamp-2.0.bin").write_bytes(b"x")
        reading = self.read()
        self.assertEqual(len(reading.catalog), 1)
        self.assertEqual(len(reading.folders), 2)
        self.assertEqual(reading.notices, ())

    def test_linked_channel(self) -> None:
        """A symbolic link to a folder is a channel."""
        elsewhere = Path(self.mktemp())
        elsewhere.mkdir()
        (elsewhere / "lamp-1.0.bin").write_bytes(b"x")
        (self.root / "beta").symlink_to(elsewhere.absolute())
        self.read()
        self.assertEqual(self.offered("beta"), {"lamp-1.0.bin"})

    def test_removed_channel(self) -> None:
        """A channel whose folder was removed is no more, and comes back with it."""
        self.put("beta/lamp-1.0.bin")
        self.read()
        shutil.rmtree(self.root / "beta")
        self.assertEqual(self.read().catalog.channels.keys(), {STABLE})
        self.put("beta/lamp-1.0.bin")
        self.read()
        self.assertEqual(self.offered("beta"), {"lamp-1.0.bin"})

    def test_promoted(self) -> None:
        """A file moved from a channel to the folder itself is offered there, and no longer in the channel."""
        path = self.put("beta/lamp-1.1.bin")
        self.read()
        path.rename(self.root / "lamp-1.1.bin")
        self.read()
        self.assertEqual((self.offered(), self.offered("beta")), ({"lamp-1.1.bin"}, set()))
        self.assertEqual(self.image("lamp-1.1.bin").channel, STABLE)

    def test_names_that_are_no_channel(self) -> None:
        """A folder that can't be a channel is noticed once, and its files aren't served."""
        for name in (STABLE, "no name", "-x", "lämp"):
            self.put(f"{name}/lamp-1.0.bin")
        reading = self.read()
        reason = "is no name for a channel"
        expected = [Notice(f"{name}/", reason) for name in sorted((STABLE, "no name", "-x", "lämp"))]
        self.assertEqual(list(reading.notices), expected)
        self.assertEqual(len(reading.catalog), 0)
        self.assertEqual(self.read().notices, ())

    def test_channel_removed_meanwhile(self) -> None:
        """A channel that is removed between two looks of one reading is noticed, and the others are served."""
        self.put("lamp-1.0.bin")
        self.put("beta/lamp-1.0.bin")
        scandir = os.scandir

        def racing(folder: Path) -> AbstractContextManager[Iterator[os.DirEntry[str]]]:
            if folder == self.root / "beta":
                shutil.rmtree(folder)
            return cast("AbstractContextManager[Iterator[os.DirEntry[str]]]", scandir(folder))

        self.patch(os, "scandir", racing)
        reading = self.read()
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})
        self.assertEqual([notice.file for notice in reading.notices], ["beta/"])
        self.assertIn("can't be listed", reading.notices[0].reason)


class NoticeTests(FolderCase):
    """What the owner of the files is told, once."""

    def test_invalid_names(self) -> None:
        """Each file with an invalid name is noticed exactly once, with the reason, and is never read."""
        names = ("beta/lamp.bin", "firmware-0.1-alpha.bin", "firmware-0.1.zip", "firmware.bin")
        for name in names:
            self.put(name)
        read = self.count_readings()
        first = self.read(0)
        self.assertEqual([notice.file for notice in first.notices], list(names))
        self.assertIn("has no version", first.notices[1].reason)
        self.assertIn("does not end in .bin", first.notices[2].reason)
        self.assertFalse(first.unsettled)
        for at in (1, LATER):
            self.assertEqual(self.read(at).notices, ())
        self.assertEqual((read, len(self.folder.catalog)), ([], 0))

    def test_noticed_again_when_it_comes_again(self) -> None:
        """A file with an invalid name that was removed and comes again is noticed again."""
        path = self.put("firmware.bin")
        self.assertEqual(len(self.read().notices), 1)
        path.unlink()
        self.assertEqual(self.read().notices, ())
        self.put("firmware.bin")
        self.assertEqual(len(self.read().notices), 1)

    def test_hidden_files(self) -> None:
        """Hidden files and folders are neither offered nor noticed."""
        for name in (".lamp-1.0.bin", ".ota", "beta/.lamp-1.0.bin", ".beta/lamp-1.0.bin"):
            self.put(name)
        reading = self.read()
        self.assertEqual((len(reading.catalog), reading.notices, reading.unsettled), (0, (), False))

    def test_name_that_is_no_text(self) -> None:
        """A file whose name is no text in the system's encoding is noticed, and nothing is disturbed by it."""
        with open(os.path.join(os.fsencode(self.root), b"caf\xe9-1.0.bin"), "wb"):
            pass
        self.put("line\nbreak-1.0.bin")
        self.put("lamp-1.0.bin")
        reading = self.read()
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})
        self.assertEqual([notice.file for notice in reading.notices], ["caf\udce9-1.0.bin", "line\nbreak-1.0.bin"])

    def test_damaged_image(self) -> None:
        """A damaged image isn't offered and is noticed once with the reason, and offered once it was replaced."""
        data = esp32_image()
        self.put("lamp-1.0.bin", data[:-1])
        self.put("lamp-1.1.bin", b"")
        self.put("beta/lamp-1.0.bin", data[:2000] + b"?" + data[2001:])
        reading = self.read()
        notices = {notice.file: notice.reason for notice in reading.notices}
        self.assertEqual(notices.keys(), {"lamp-1.0.bin", "lamp-1.1.bin", "beta/lamp-1.0.bin"})
        self.assertIn("is not offered: it ends inside the SHA-256", notices["lamp-1.0.bin"])
        self.assertIn("is not offered: the file is empty", notices["lamp-1.1.bin"])
        self.assertIn("is not offered: the SHA-256 appended", notices["beta/lamp-1.0.bin"])
        self.assertEqual({(notice.word, notice.serious) for notice in reading.notices}, {("not-served", True)})
        self.assertEqual((len(reading.catalog), reading.unsettled), (0, False))
        read = self.count_readings()
        again = self.read()
        self.assertEqual((again.notices, again.standing, read), ((), reading.notices, []))
        self.put("lamp-1.0.bin", data)
        after = self.read()
        self.assertEqual((after.notices, len(after.standing), read), ((), 2, ["lamp-1.0.bin"]))
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})

    def test_damaged_image_changes(self) -> None:
        """A damaged image that was replaced by one with other damage is noticed again, with the new reason."""
        self.put("lamp-1.0.bin", esp32_image()[:-1])
        self.read()
        self.put("lamp-1.0.bin", damaged(esp32_image(), 2000))
        self.assertIn("the SHA-256 appended", "".join(notice.reason for notice in self.read().notices))

    def test_damage_inside(self) -> None:
        """A gzip file with a damaged image in it is damaged as well."""
        self.put("lamp-1.0.bin.gz", compress(esp8266_image()[:-1]))
        self.put("lamp-1.1.bin.gz", compress(esp8266_image())[:-1])
        self.assertEqual(len(self.read().standing), 2)
        self.assertEqual(self.offered(), set())

    def test_damaged_image_in_place_of_a_whole_one(self) -> None:
        """A damaged image that replaces a whole one is offered no more, nor is that."""
        self.put("lamp-1.0.bin", esp32_image())
        self.read()
        self.put("lamp-1.0.bin", esp32_image()[:1000])
        self.read()
        self.assertEqual(self.offered(), set())

    def test_damage_is_noticed_once_it_settled(self) -> None:
        """An image of which only a part is written yet isn't called damaged."""
        data = esp32_image()
        path = self.put("lamp-1.0.bin", data[:1000])
        self.assertEqual(self.read(0).notices, ())
        path.write_bytes(data)
        self.assertEqual(self.read(0.5).notices, ())
        self.assertEqual(self.read(0.5 + SETTLE_TIME).notices, ())
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})

    def test_changed_while_it_is_read(self) -> None:
        """A file that is changed while it is read isn't offered with what was read, but after it settled again."""
        path = self.put("lamp-1.0.bin", b"one")

        def interrupted(file: BinaryIO, *arguments: Any) -> ImageFacts:
            facts = read_image(file, *arguments)
            path.write_bytes(b"other")
            return facts

        self.patch(folder_module, "read_image", interrupted)
        self.assertTrue(self.read(LATER).unsettled)
        self.assertEqual(self.offered(), set())
        self.patch(folder_module, "read_image", read_image)
        self.read(LATER + SETTLE_TIME)
        self.assertEqual(self.image("lamp-1.0.bin").facts.md5, hashlib.md5(b"other").hexdigest())

    def test_unreadable_for_a_while(self) -> None:
        """A file that can't be read is noticed once, tried again, and offered once it can be."""
        for name in ("lamp-1.0.bin", "lamp-1.1.bin"):
            self.put(name, bytes(SMALL + 1))

        def failing(file: BinaryIO, *arguments: Any) -> ImageFacts:
            if "1.0" in str(file.name):
                raise OSError(5, "Input/output error")
            return read_image(file, *arguments)

        self.patch(folder_module, "read_image", failing)
        reading = self.read()
        self.assertEqual(reading.notices, (Notice("lamp-1.0.bin", "can't be read: Input/output error"),))
        self.assertEqual((self.offered(), reading.unsettled), ({"lamp-1.1.bin"}, False))
        self.assertEqual(self.read().notices, ())
        self.patch(folder_module, "read_image", read_image)
        self.assertFalse(self.read().unsettled)
        self.assertEqual(self.offered(), {"lamp-1.0.bin", "lamp-1.1.bin"})


class KeepingTests(FolderCase):
    """What is kept across restarts."""

    def test_not_read_again(self) -> None:
        """A server that starts again reads no file again, nor a damaged one, and offers and notices the same."""
        self.put("lamp-1.0.bin", esp32_image())
        self.put("beta/door-1.0.bin", esp8266_image())
        self.put("lamp-1.1.bin", esp32_image()[:-1])
        first = self.read()
        self.folder.keep()
        self.folder = self.make_folder()
        read = self.count_readings()
        opened: list[object] = []
        self.patch(folder_module, "open_without_waiting", lambda path, flags: opened.append(path))
        second = self.read()
        self.assertEqual((read, opened), ([], []))
        self.assertEqual((second.notices, second.standing), (first.notices, first.standing))
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})
        self.assertEqual(second.catalog.by_hash.keys(), first.catalog.by_hash.keys())
        for channel, name in ((STABLE, "lamp-1.0.bin"), ("beta", "door-1.0.bin")):
            before, after = (reading.catalog.channels[channel].files[name] for reading in (first, second))
            self.assertEqual((after.facts, after.identity), (before.facts, before.identity))

    def test_only_new_ones_are_read(self) -> None:
        """A server that starts again reads those files alone that came or changed meanwhile."""
        for name in ("lamp-1.0.bin", "lamp-1.1.bin"):
            self.put(name)
        self.read()
        self.folder.keep()
        self.put("lamp-1.1.bin", b"changed")
        self.put("lamp-1.2.bin")
        self.folder = self.make_folder()
        read = self.count_readings()
        self.read()
        self.assertEqual(sorted(read), ["lamp-1.1.bin", "lamp-1.2.bin"])
        self.assertEqual(self.image("lamp-1.1.bin").facts.md5, hashlib.md5(b"changed").hexdigest())

    def test_still_settling_after_a_restart(self) -> None:
        """What is kept of a file doesn't make it settle sooner after a restart: an unsettled one isn't offered."""
        self.put("lamp-1.0.bin")
        self.read()
        self.folder.keep()
        self.folder = self.make_folder()
        self.assertTrue(self.read(0).unsettled)
        self.assertEqual(self.offered(), set())

    def test_forgotten(self) -> None:
        """What was kept of files that are no more is forgotten, also of those removed between two runs."""
        paths = [self.put(f"lamp-1.{number}.bin") for number in range(3)]
        self.read()
        self.folder.keep()
        paths[0].unlink()
        self.read()
        self.folder.keep()
        self.assertEqual(len(DigestStore(self.state).load()), 2)
        paths[1].unlink()
        self.folder = self.make_folder()
        self.read()
        self.folder.keep()
        identities = {identity.inode for identity in DigestStore(self.state).load()}
        self.assertEqual(identities, {paths[2].stat().st_ino})

    def test_nothing_new_writes_nothing(self) -> None:
        """Where nothing came and nothing went, nothing is written."""
        self.put("lamp-1.0.bin")
        self.read()
        self.folder.keep()
        before = self.state.stat()
        self.read()
        self.folder.keep()
        self.assertEqual(self.state.stat().st_mtime_ns, before.st_mtime_ns)
        self.state.unlink()
        self.folder.keep()
        self.assertFalse(self.state.exists())

    def test_unusable_state(self) -> None:
        """Where nothing can be kept, files are offered all the same, and keeping raises OSError."""
        self.state.mkdir()
        self.put("lamp-1.0.bin")
        self.assertEqual(self.read().notices, ())
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})
        self.assertRaises(OSError, self.folder.keep)

    def test_kept_later(self) -> None:
        """What could not be kept at first is kept as soon as it can be."""
        self.put("lamp-1.0.bin")
        self.put("lamp-1.1.bin")
        DigestStore(self.state).load()
        away = self.state.rename(self.state.with_name("away"))
        self.state.mkdir()
        self.read()
        (self.root / "lamp-1.1.bin").unlink()
        self.read()
        self.assertRaises(OSError, self.folder.keep)
        self.state.rmdir()
        away.rename(self.state)
        self.folder.keep()
        self.folder = self.make_folder()
        read = self.count_readings()
        self.read()
        self.assertEqual((self.offered(), read), ({"lamp-1.0.bin"}, []))


class KeyTests(FolderCase):
    """With public keys only what one of them signed is offered."""

    def setUp(self) -> None:
        """Make keys before the folder, which knows the first one."""
        self.private = [private_key("rsa2048", number) for number in range(2)]
        self.keys = tuple(key for private in self.private[:1] for key in self.load(private))
        super().setUp()

    def load(self, private: bytes) -> tuple[VerifyKey, ...]:
        """Return the public key to a private one, as it is loaded from a file."""
        path = Path(self.mktemp())
        path.write_bytes(public_key(private))
        return load_verify_key(path)

    def make_folder(self) -> Folder:
        """Return the folder as a server that has just started with the keys sees it."""
        return Folder(self.root, DigestStore(self.state), self.keys)

    def test_signed(self) -> None:
        """A signed image is offered; an unsigned one and one signed by another key aren't, and are noticed once."""
        image = esp8266_image()
        self.put("lamp-1.0.bin", image)
        self.put("lamp-1.1.bin", esp8266_signed(image, self.private[0]))
        self.put("lamp-1.2.bin", esp8266_signed(image, self.private[1]))
        self.put("lamp-1.3.bin", damaged(esp8266_signed(image, self.private[0]), -100))
        self.put("lamp-1.4.bin")
        reading = self.read()
        self.assertEqual(self.offered(), {"lamp-1.1.bin"})
        other = "is not offered: none of its signatures is by a key of --verify-key"
        self.assertEqual(
            reading.notices,
            (
                Notice("lamp-1.0.bin", "is not offered: it has no signature"),
                Notice("lamp-1.2.bin", other),
                Notice("lamp-1.3.bin", other),
                Notice("lamp-1.4.bin", "is not offered: it has no signature"),
            ),
        )
        self.assertFalse(reading.unsettled)
        again = self.read()
        self.assertEqual((again.notices, again.standing), ((), reading.notices))

    def test_signed_later(self) -> None:
        """A file that was refused is offered once a signed one has taken its place."""
        self.put("lamp-1.0.bin", esp8266_image())
        self.read()
        self.put("lamp-1.0.bin", esp8266_signed(esp8266_image(), self.private[0]))
        reading = self.read()
        self.assertEqual((self.offered(), reading.standing), ({"lamp-1.0.bin"}, ()))

    def test_other_keys_after_a_restart(self) -> None:
        """Started anew with another key, the same files are judged by that, and none is read again."""
        image = esp8266_image()
        self.put("lamp-1.0.bin", esp8266_signed(image, self.private[0]))
        self.put("lamp-1.1.bin", esp8266_signed(image, self.private[1]))
        self.put("lamp-1.2.bin", image)
        self.read()
        self.folder.keep()
        read = self.count_readings()
        both = self.keys + self.load(self.private[1])
        for keys, offered in ((both[1:], {"1.1"}), (both, {"1.0", "1.1"}), ((), {"1.0", "1.1", "1.2"})):
            self.keys = keys
            self.folder = self.make_folder()
            self.read()
            self.assertEqual(self.offered(), {f"lamp-{version}.bin" for version in offered})
        self.assertEqual(read, [])

    def test_secure_boot(self) -> None:
        """An ESP32 image signed for Secure Boot v2 is offered by the same key, also as one of several."""
        keys = [private_key("rsa3072", number) for number in range(2)]
        self.keys = self.load(keys[1])
        self.folder = self.make_folder()
        self.put("lamp-1.0.bin", secure_boot_v2(esp32_image(), keys[0]))
        self.put("lamp-1.1.bin", secure_boot_v2(esp32_image(), *keys))
        self.read()
        self.assertEqual(self.offered(), {"lamp-1.1.bin"})


class FindingTests(FolderCase):
    """What is odd about images that are offered all the same."""

    def words(self, reading: Reading) -> list[tuple[str, str]]:
        """Return files and words of what is to be told newly."""
        return [(notice.file, notice.word) for notice in reading.notices]

    def test_serious(self) -> None:
        """A finding is a notice with its word, which says whether it is serious; the image is offered."""
        self.put("lamp-1.1.bin", esp32_image(version="1.0.0"))
        self.put("door-1.0.bin", esp32_image(version="1.0.0") + b"more")
        reading = self.read()
        self.assertEqual(self.words(reading), [("door-1.0.bin", "trailing-bytes"), ("lamp-1.1.bin", "version-differs")])
        self.assertEqual([notice.serious for notice in reading.notices], [False, True])
        self.assertIn("says 1.1.0 in its name and 1.0.0 inside", reading.notices[1].reason)
        self.assertEqual(self.offered(), {"lamp-1.1.bin", "door-1.0.bin"})
        again = self.read()
        self.assertEqual((again.notices, again.standing), ((), reading.notices))

    def test_first_reading(self) -> None:
        """At the start the newest release of each project is looked at, in each channel, and no other."""
        odd = esp32_image(version="9.9.9")
        for name in ("lamp-1.0.bin", "lamp-1.1.bin", "lamp-1.1.esp32.bin", "door-1.0.bin", "beta/lamp-1.0.bin"):
            self.put(name, odd)
        files = {file for file, word in self.words(self.read()) if word == "version-differs"}
        self.assertEqual(files, {"lamp-1.1.bin", "lamp-1.1.esp32.bin", "door-1.0.bin", "beta/lamp-1.0.bin"})

    def test_later(self) -> None:
        """Later every new file is looked at, also one below the newest release, which is told by itself."""
        self.put("lamp-2.0.bin", esp32_image(version="2.0.0"))
        self.assertEqual(self.words(self.read()), [])
        self.put("lamp-1.0.bin", esp32_image(version="1.1.0"))
        self.assertEqual(
            self.words(self.read()), [("lamp-1.0.bin", "lower-version"), ("lamp-1.0.bin", "version-differs")]
        )
        self.assertEqual(self.words(self.read()), [])

    def test_several_at_once(self) -> None:
        """Files that come together aren't told that one of them is lower than the other."""
        self.read()
        for name in ("lamp-1.0.bin", "lamp-1.1.bin"):
            self.put(name, esp32_image(version=name[5:8]))
        self.assertEqual(self.words(self.read()), [])
        self.put("lamp-0.9.bin", esp32_image(version="0.9"))
        self.assertEqual(self.words(self.read()), [("lamp-0.9.bin", "lower-version")])

    def test_start_without_the_folder(self) -> None:
        """Where the folder wasn't there at the start, its first reading is the first that succeeds."""
        away = self.root.with_name("away")
        self.put("lamp-1.0.bin", esp32_image(version="9.9.9"))
        self.put("lamp-1.1.bin", esp32_image(version="1.1.0"))
        self.root.rename(away)
        self.assertRaises(FileNotFoundError, self.read)
        away.rename(self.root)
        self.assertEqual(self.words(self.read()), [])
        self.assertEqual(len(self.offered()), 2)

    def test_touched(self) -> None:
        """A file whose times alone changed isn't odd for that it isn't the newest."""
        for name in ("lamp-1.0.bin", "lamp-1.1.bin"):
            self.put(name, esp32_image(version=name[5:8]))
        self.read()
        for name in ("lamp-1.0.bin", "lamp-1.1.bin"):
            (self.root / name).chmod(0o600)
        self.assertEqual(self.words(self.read()), [])

    def test_gone(self) -> None:
        """What was odd about a file is no longer told once that has gone, and anew when it comes again."""
        path = self.put("lamp-1.1.bin", esp32_image(version="1.0.0"))
        self.assertEqual(len(self.read().standing), 1)
        path.write_bytes(esp32_image(version="1.1.0"))
        self.assertEqual(self.read().standing, ())
        path.write_bytes(esp32_image(version="1.0.0"))
        self.assertEqual(self.words(self.read()), [("lamp-1.1.bin", "version-differs")])
        path.unlink()
        self.assertEqual(self.read().standing, ())

    def test_what_it_was_compared_with_is_gone(self) -> None:
        """What is odd beside another file isn't told any longer than that is there."""
        other = self.put("lamp-1.0.bin", b"same")
        self.read()
        self.put("lamp-1.1.bin", b"same")
        self.assertEqual(self.words(self.read()), [("lamp-1.1.bin", "same-bytes")])
        other.unlink()
        self.assertEqual(self.read().standing, ())

    def test_what_was_missing_comes(self) -> None:
        """A gzip file that came before its plain one isn't odd any more once that is there."""
        self.read()
        self.put("lamp-1.0.bin.gz", compress(esp8266_image()))
        self.assertEqual(self.words(self.read()), [("lamp-1.0.bin.gz", "gzip")])
        self.put("lamp-1.0.bin", esp8266_image())
        reading = self.read()
        self.assertEqual((reading.notices, reading.standing), ((), ()))

    def test_newer_one_comes(self) -> None:
        """What was odd about a file stays as it was when a newer one comes: it isn't too low now."""
        self.read()
        self.put("lamp-1.1.bin", esp32_image(version="1.0.0"))
        before = self.read().standing
        self.put("lamp-1.2.bin", esp32_image(version="1.2.0"))
        self.assertEqual(self.read().standing, before)

    def test_not_for_ota(self) -> None:
        """A merged image is in the catalog for its own address, never chosen, and noticed as serious."""
        self.put("lamp-1.0.bin", esp32_image())
        self.put("lamp-1.1.bin", merged_image())
        reading = self.read()
        self.assertEqual(
            [(n.file, n.word, n.serious) for n in reading.notices], [("lamp-1.1.bin", "not-for-ota", True)]
        )
        self.assertEqual(self.offered(), {"lamp-1.0.bin", "lamp-1.1.bin"})
        project = reading.catalog.project(STABLE, "lamp")
        assert project is not None
        self.assertIs(project.choose().image, self.image("lamp-1.0.bin"))


class PackingTests(FolderCase):
    """Compressed sketches are put into the catalog beside their plain files."""

    def setUp(self) -> None:
        """Choose a place for them."""
        self.packs = Path(self.mktemp())
        super().setUp()

    def make_folder(self) -> Folder:
        """Return the folder as a server that has just started, and compresses, sees it."""
        return Folder(self.root, DigestStore(self.state), packer=Packer(self.packs))

    def test_packed(self) -> None:
        """A sketch gets a compressed image beside it, which the project's choice tells; nothing is odd about that."""
        self.put("lamp-1.0.bin", _sketch())
        self.read()
        self.assertTrue(self.folder.packs)
        catalog, more = self.folder.pack()
        self.assertIs(catalog, self.folder.catalog)
        self.assertFalse(more)
        project = catalog.project(STABLE, "lamp")
        assert project is not None
        choice = project.choose(Kind.APP, "esp8266")
        assert choice.compressed is not None
        self.assertEqual(gzip.decompress(Path(choice.compressed.path).read_bytes()), _sketch())
        for _ in range(2):
            reading = self.read()
            self.assertIs(reading.catalog, catalog)
            self.assertIs(self.folder.pack()[0], catalog)
            self.assertEqual(reading.standing, ())
        self.assertEqual(self.offered(), {"lamp-1.0.bin", "lamp-1.0.bin.gz"})

    def test_plain_goes(self) -> None:
        """When the plain file goes or is replaced, the compressed one is out of the catalog with the same reading."""
        path = self.put("lamp-1.0.bin", _sketch())
        self.read()
        self.folder.pack()
        path.write_bytes(_sketch(1))
        self.read()
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})
        self.folder.pack()
        self.assertEqual(self.offered(), {"lamp-1.0.bin", "lamp-1.0.bin.gz"})
        path.unlink()
        self.read()
        self.assertEqual(self.offered(), set())
        self.folder.pack()
        self.assertEqual(list(self.packs.iterdir()), [])

    def test_owners_comes(self) -> None:
        """A compressed file of the owner's takes the place of the one made here, in each catalog from then on."""
        self.put("lamp-1.0.bin", _sketch())
        self.read()
        self.folder.pack()
        own = self.put("lamp-1.0.bin.gz", compress(_sketch()))
        for _ in range(2):
            self.read()
            self.folder.pack()
            self.assertEqual(self.image("lamp-1.0.bin.gz").path, str(own))
        self.assertEqual(list(self.packs.iterdir()), [])
        own.unlink()
        self.read()
        self.folder.pack()
        self.assertEqual(Path(self.image("lamp-1.0.bin.gz").path).parent, self.packs)

    def test_without(self) -> None:
        """A folder without a packer compresses nothing."""
        self.folder = Folder(self.root, DigestStore(self.state))
        self.put("lamp-1.0.bin", _sketch())
        catalog = self.read().catalog
        self.assertFalse(self.folder.packs)
        self.assertEqual(self.folder.pack(), (catalog, False))

    def test_closed(self) -> None:
        """After `close` compressing stops with InterruptedError, and leaves nothing behind."""
        self.put("lamp-1.0.bin", _sketch())
        self.read()
        self.folder.close()
        self.assertRaises(InterruptedError, self.folder.pack)
        self.assertEqual(list(self.packs.iterdir()), [])
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})


def _sketch(seed: int = 0) -> bytes:
    """Return an ESP8266 sketch that becomes smaller by compressing it."""
    return esp8266_image(seed=seed, embedded=bytes(4096))


class ClosingTests(FolderCase):
    """Calling a reading off."""

    def test_before(self) -> None:
        """After `close` files are no longer read, small ones and large ones: InterruptedError says so."""
        for size in (1, SMALL + 1):
            with self.subTest(size=size):
                self.put("lamp-1.0.bin", bytes(size))
                folder = self.make_folder()
                folder.close()
                read = self.count_readings()
                self.assertRaises(InterruptedError, folder.read, self.began + LATER, LATER)
                self.assertEqual((read, len(folder.catalog)), ([], 0))

    def test_meanwhile(self) -> None:
        """`close` stops a reading in the middle of a large file, and what was offered before stays."""
        self.put("lamp-1.0.bin")
        catalog = self.read().catalog
        self.put("lamp-1.1.bin", bytes(1 << 20))

        def closing(file: BinaryIO, *arguments: Any) -> ImageFacts:
            self.folder.close()
            return read_image(file, *arguments)

        self.patch(folder_module, "read_image", closing)
        self.assertRaises(InterruptedError, self.read)
        self.assertIs(self.folder.catalog, catalog)

    def test_another_folder(self) -> None:
        """Closing one folder doesn't close another."""
        self.put("lamp-1.0.bin")
        self.make_folder().close()
        self.read()
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})


class NoCollectionTests(SynchronousTestCase):
    """The garbage collector, around large readings."""

    def test_switched_on_again_after_a_failure(self) -> None:
        """The garbage collector is on again after a reading that failed."""
        self.addCleanup(gc.unfreeze)

        def failing() -> None:
            with folder_module._no_collection(True):
                self.assertFalse(gc.isenabled())
                raise OSError

        self.assertRaises(OSError, failing)
        self.assertTrue(gc.isenabled())

    def test_left_alone(self) -> None:
        """The garbage collector is left as it is for a small reading."""
        frozen = gc.get_freeze_count()
        with folder_module._no_collection(False):
            self.assertTrue(gc.isenabled())
        self.assertEqual(gc.get_freeze_count(), frozen)
