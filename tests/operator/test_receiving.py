"""Images come into the folder whole or not at all, and are judged before."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import SkipTest

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.digests import DigestStore
from ota_server.firmware.folder import Folder
from ota_server.firmware.naming import parse_file_name
from ota_server.firmware.signatures import load_verify_key
from ota_server.operator.calls import Problem
from ota_server.operator.receiving import Inbox, Incoming, Outcome, Target, read_content_digest
from tests.images import damaged, esp32_image, esp8266_image, esp8266_signed, private_key, public_key

FILE = "lamp-1.2.3.bin"


class ReceivingCase(SynchronousTestCase):
    """A test with a folder that images come into."""

    def setUp(self) -> None:
        """Make the folder."""
        self.root = Path(self.mktemp()).absolute()
        self.root.mkdir()
        self.inbox = Inbox(self.root)

    def target(self, file: str = FILE, channel: str = "stable") -> Target:
        """Return where an image is to go."""
        return Target(channel, file, parse_file_name(file))

    def begin(self, file: str = FILE, channel: str = "stable", **more: Any) -> Incoming:
        """Begin to receive."""
        return self.inbox.begin(self.target(file, channel), **more)

    def send(self, data: bytes, file: str = FILE, *, replace: bool = False, channel: str = "stable") -> Outcome:
        """Receive an image in pieces, and say what came of it."""
        incoming = self.begin(file, channel, length=len(data))
        for start in range(0, len(data), 1000):
            incoming.write(data[start : start + 1000])
        return incoming.finish(replace=replace).outcome

    def refused(self, do: Callable[[], object]) -> Problem:
        """Do what is refused with a problem, on one line, and return that."""
        with self.assertRaises(Problem) as caught:
            do()
        self.assertNotIn("\n", caught.exception.detail)
        problem: Problem = caught.exception
        return problem

    def files(self) -> dict[str, bytes]:
        """Return all there is in the folder, hidden files as well."""
        return {str(path.relative_to(self.root)): path.read_bytes() for path in self.root.rglob("*") if path.is_file()}


class PlacingTests(ReceivingCase):
    """What is in the folder afterwards."""

    def test_new(self) -> None:
        """A new image has its name once it is whole, and nothing is beside it."""
        image = esp8266_image()
        incoming = self.begin(length=len(image))
        incoming.write(image[:-1])
        self.assertNotIn(FILE, self.files())
        incoming.write(image[-1:])
        placed = incoming.finish()
        self.assertEqual((placed.outcome, self.files()), (Outcome.NEW, {FILE: image}))
        self.assertEqual(placed.facts.sha256, hashlib.sha256(image).hexdigest())
        self.assertEqual(os.stat(self.root / FILE).st_nlink, 1)
        mask = os.umask(0)
        os.umask(mask)
        self.assertEqual(os.stat(self.root / FILE).st_mode & 0o777, 0o666 & ~mask)

    def test_identity(self) -> None:
        """The folder, told of the identity, offers the image at once."""
        incoming = self.begin()
        incoming.write(b"of no known form")
        placed = incoming.finish()
        folder = Folder(self.root, DigestStore(None))
        folder.vouch(placed.identity, placed.facts)
        self.assertIn(FILE, folder.read(placed.identity.ctime_ns / 1e9, 0.0).catalog.channels["stable"].files)

    def test_same_again(self) -> None:
        """The same bytes again leave the file that is there."""
        image = esp8266_image()
        self.send(image)
        before = os.stat(self.root / FILE)
        for replace in (False, True):
            self.assertEqual(self.send(image, replace=replace), Outcome.SAME)
            self.assertEqual(os.stat(self.root / FILE), before)
        self.assertEqual(self.files(), {FILE: image})

    def test_other_bytes(self) -> None:
        """Other bytes are refused, of the same size or not, unless they are to take the place."""
        self.send(b"one")
        for other in (b"two", b"three"):
            problem = self.refused(lambda other=other: self.send(other))  # type: ignore[misc]
            self.assertEqual((problem.status, problem.kind, self.files()), (409, "exists", {FILE: b"one"}))
        self.assertEqual(self.send(b"two", replace=True), Outcome.REPLACED)
        self.assertEqual(self.files(), {FILE: b"two"})
        self.assertEqual(self.send(b"two", "lamp-2.0.bin", replace=True), Outcome.NEW)

    def test_new_channel(self) -> None:
        """A channel begins with its first image, and not with one that is refused."""
        self.refused(lambda: self.send(damaged(esp8266_image(), -20), channel="beta"))
        self.assertEqual(list(self.root.iterdir()), [])
        self.send(b"x", channel="beta")
        self.assertEqual(self.files(), {f"beta/{FILE}": b"x"})
        self.send(b"y", "lamp-2.0.bin", channel="beta")
        self.assertEqual(set(self.files()), {f"beta/{FILE}", "beta/lamp-2.0.bin"})

    def test_no_channel(self) -> None:
        """What is a file already can't be a channel."""
        (self.root / "beta").write_bytes(b"")
        problem = self.refused(lambda: self.send(b"x", channel="beta"))
        self.assertEqual((problem.status, problem.kind, self.files()), (409, "no-channel", {"beta": b""}))

    def test_something_else(self) -> None:
        """What is no file stays, and so does a link that leads nowhere, unless it is to be replaced."""
        (self.root / FILE).mkdir()
        self.assertEqual(self.refused(lambda: self.send(b"x")).status, 409)
        self.assertEqual(self.refused(lambda: self.send(b"x", replace=True)).status, 409)
        (self.root / FILE).rmdir()
        (self.root / FILE).symlink_to("nowhere")
        self.assertEqual(self.refused(lambda: self.send(b"x")).status, 409)
        self.assertEqual(self.send(b"x", replace=True), Outcome.REPLACED)
        self.assertEqual(self.files(), {FILE: b"x"})

    def test_without_links(self) -> None:
        """A file system without hard links, such as FAT, serves as well."""

        def no_links(*ignored: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        self.patch(os, "link", no_links)
        self.assertEqual(self.send(b"one"), Outcome.NEW)
        self.assertEqual(self.send(b"one"), Outcome.SAME)
        self.assertEqual(self.refused(lambda: self.send(b"two")).status, 409)
        self.assertEqual(self.files(), {FILE: b"one"})

    def test_two_at_once(self) -> None:
        """Of two for one place, in threads, one wins, and the other is told; however they meet."""
        for _ in range(20):
            outcomes: list[object] = []
            incoming = [self.begin() for _ in range(4)]
            for number, each in enumerate(incoming):
                each.write(b"bytes of %d" % number)

            def finish(each: Incoming, outcomes: list[object] = outcomes) -> None:
                try:
                    outcomes.append(each.finish().outcome)
                except Problem as problem:
                    outcomes.append(problem.status)

            threads = [threading.Thread(target=finish, args=(each,)) for each in incoming]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(sorted(map(str, outcomes)), ["409", "409", "409", "new"])
            self.assertEqual(set(self.files()), {FILE})
            (self.root / FILE).unlink()

    def test_given_up(self) -> None:
        """A client that leaves leaves nothing behind; nor does what comes after."""
        incoming = self.begin()
        incoming.write(b"x")
        incoming.abort()
        incoming.write(b"y")
        incoming.abort()
        self.assertEqual(self.refused(incoming.finish).kind, "incomplete")
        self.assertEqual(self.files(), {})
        incoming = self.begin(length=10)
        incoming.write(b"short")
        self.assertEqual(self.refused(incoming.finish).kind, "incomplete")
        self.assertEqual(self.files(), {})


class JudgingTests(ReceivingCase):
    """What isn't taken."""

    def check(self, image: bytes, word: str, file: str = FILE) -> Problem:
        """Send an image that isn't taken, and return the problem."""
        problem = self.refused(lambda: self.send(image, file))
        self.assertEqual((problem.status, problem.kind, problem.more["reason"]), (422, "bad-image", word))
        self.assertEqual(self.files(), {})
        return problem

    def test_damaged(self) -> None:
        """A damaged image, one that is cut short, and an empty one."""
        self.assertIn("offset", self.check(damaged(esp32_image(), -50), "damaged").more)
        self.check(esp8266_image()[:-5], "damaged")
        self.assertIn("empty", self.check(b"", "damaged").detail)

    def test_wrong_chip(self) -> None:
        """An image for another chip than its name says."""
        problem = self.check(esp32_image(chip="esp32c3"), "chip-differs", "lamp-1.0.esp32.bin")
        self.assertIn("esp32c3", problem.detail)
        self.assertEqual(self.send(esp32_image(chip="esp32c3"), "lamp-1.0.esp32c3.bin"), Outcome.NEW)

    def test_unsigned(self) -> None:
        """Where keys are given, what none of them signed isn't taken."""
        path = Path(self.mktemp())
        path.write_bytes(public_key(private_key()))
        self.inbox = Inbox(self.root, load_verify_key(path))
        self.assertIn("--verify-key", self.check(esp8266_image(), "unsigned").detail)
        self.check(esp8266_signed(esp8266_image(), private_key(number=1)), "unsigned")
        self.assertEqual(self.send(esp8266_signed(esp8266_image(), private_key())), Outcome.NEW)

    def test_too_large(self) -> None:
        """What is too large is refused before it comes where that is told, and else as soon as it shows."""
        self.inbox = Inbox(self.root, max_size=10)
        self.assertEqual(self.refused(lambda: self.begin(length=11)).status, 413)
        incoming = self.begin(length=None)
        incoming.write(b"x" * 10)
        problem = self.refused(lambda: incoming.write(b"x"))
        self.assertEqual((problem.status, problem.more), (413, {"limit": 10}))
        incoming.abort()
        self.assertEqual(self.files(), {})

    def test_long_name(self) -> None:
        """A name that no file can have."""
        self.assertEqual(self.refused(lambda: self.begin("x" * 240 + "-1.0.bin")).status, 400)

    def test_digests(self) -> None:
        """What Content-Digest says is checked."""
        good = {"sha-256": hashlib.sha256(b"x").digest(), "sha-512": hashlib.sha512(b"x").digest()}
        for digests, fits in (
            (good, True),
            ({**good, "sha-512": bytes(64)}, False),
            ({"sha-256": bytes(32)}, False),
        ):
            incoming = self.begin(digests=digests)
            incoming.write(b"x")
            if fits:
                incoming.finish()
                (self.root / FILE).unlink()
            else:
                self.assertEqual(self.refused(incoming.finish).kind, "digest-differs")
                self.assertEqual(self.files(), {})


class TroubleTests(ReceivingCase):
    """What the system refuses."""

    def test_disk_full(self) -> None:
        """A disk that fills up is told, and nothing is left on it; on a real small file system."""
        if os.geteuid() != 0:
            raise SkipTest("NOT TESTED: a full disk, since only root may mount a small file system")
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", self.root], check=True)
        self.addCleanup(lambda: subprocess.run(["umount", self.root], check=True) and None)
        problem = self.refused(lambda: self.begin(length=1 << 20))
        self.assertEqual((problem.status, self.files()), (507, {}))
        # It isn't told how much will come.
        incoming = self.begin()
        problem = self.refused(lambda: deque(map(incoming.write, [bytes(1000)] * 1000)))
        self.assertEqual((problem.status, problem.kind), (507, "disk-full"))
        incoming.abort()
        self.assertEqual(self.files(), {})
        self.assertEqual(self.send(bytes(65536)), Outcome.NEW)

    def test_not_writable(self) -> None:
        """A folder that can't be written, or has gone, is told with what to do."""
        for trouble in (errno.EACCES, errno.EROFS):

            def refuse(*ignored: object, trouble: int = trouble) -> int:
                raise OSError(trouble, os.strerror(trouble))

            patch = self.patch(os, "open", refuse)
            problem = self.refused(self.begin)
            patch.restore()
            self.assertEqual((problem.status, problem.kind), (409, "folder-not-writable"))
        self.root.rmdir()
        self.assertEqual(self.refused(self.begin).kind, "folder-not-writable")

    def test_while_placing(self) -> None:
        """Trouble at the end leaves nothing behind, not even the folder of a channel."""
        for name in ("fsync", "link"):

            def refuse(*ignored: object) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            patch = self.patch(os, name, refuse)
            problem = self.refused(lambda: self.send(b"x", channel="beta"))
            patch.restore()
            self.assertEqual((problem.status, list(self.root.iterdir())), (507, []))


class CleaningTests(ReceivingCase):
    """What a process that was killed leaves behind."""

    def test_leftovers(self) -> None:
        """Parts that nobody writes any more go; all else stays, also what another process is writing."""
        (self.root / "beta").mkdir()
        (self.root / ".ota").mkdir()
        gone = [self.root / name for name in (".upload-0123456789abcdef.part", "beta/.upload-0000456789abcdef.part")]
        kept = [self.root / name for name in (".upload-x.part", ".ota/.upload-0123456789abcdef.part", FILE, ".other")]
        for path in (*gone, *kept):
            path.write_bytes(b"x")
        (self.root / ".upload-aaaaaaaaaaaaaaaa.part").symlink_to(FILE)
        incoming = self.begin("lamp-2.0.bin")
        self.assertEqual(sorted(self.inbox.clean()), sorted(map(str, gone)))
        self.assertEqual([path for path in (*gone, *kept) if path.exists()], kept)
        incoming.write(b"y")
        self.assertEqual(incoming.finish().outcome, Outcome.NEW)
        self.assertEqual(self.inbox.clean(), [])

    def test_no_folder(self) -> None:
        """A folder that has gone is no reason to fail."""
        self.root.rmdir()
        self.assertEqual(self.inbox.clean(), [])


class ContentDigestTests(SynchronousTestCase):
    """Reading `Content-Digest`."""

    def test_read(self) -> None:
        """Those that are known count, and the others are left out (RFC 9530, section 5)."""
        one, two = bytes(range(32)), bytes(range(64))
        first, second = (base64.b64encode(each).decode() for each in (one, two))
        for text, expected in (
            (f"sha-256=:{first}:", {"sha-256": one}),
            (f"sha-512=:{second}:, sha-256=:{first}:", {"sha-256": one, "sha-512": two}),
            (f"sha-256=:{first}:;x=1 ,md5=:AAAA:", {"sha-256": one}),
            ("unixsum=:AAAA:", {}),
        ):
            self.assertEqual(read_content_digest(text), expected)

    @given(st.text(max_size=80))
    @example("sha-256=:AAAA:")
    @example("sha-256=:A:")
    @example("sha-256=x")
    @example("")
    def test_any_text(self, text: str) -> None:
        """Whatever is sent gives digests of the right length, or an error on one line."""
        try:
            found = read_content_digest(text)
        except ValueError as error:
            self.assertNotIn("\n", str(error))
        else:
            self.assertLessEqual({len(each) for each in found.values()}, {32, 64})
