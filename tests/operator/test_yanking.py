"""Withdrawing releases: out of the folder, kept, and never half."""

from __future__ import annotations

import errno
import json
import os
from functools import partial
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from ota_server.operator import yard as yard_module
from tests.operator.library import LAMPS
from tests.operator.workshop import Workshop

FILES = {"lamp-2.0.bin": b"app", "lamp-2.0.fs.bin": b"files", "lamp-1.0.0.bin": b"old", "beta/lamp-2.0.bin": b"beta"}
LEFT = {"lamp-1.0.0.bin": b"old", "beta/lamp-2.0.bin": b"beta"}
GONE = {"lamp-2.0.bin": b"app", "lamp-2.0.fs.bin": b"files"}


class YankingTests(SynchronousTestCase):
    """`DELETE /projects/{project}/releases/{version}`."""

    def kept(self, shop: Workshop) -> dict[str, bytes]:
        """Return what is kept, by the names of files alone."""
        return {Path(name).name: data for name, data in shop.files(shop.state).items()}

    def test_withdrawn(self) -> None:
        """All files of the release are kept with who and when, nobody is offered them, and it is an event."""
        shop = Workshop(self, FILES)
        self.assertEqual(shop.check(1), "newer")
        status, told = shop.send("delete_release", "lamp", "2.0.0")
        self.assertEqual((status, sorted(told["files"]), told["notes"]), (200, sorted(GONE), []))
        self.assertEqual((shop.files(), shop.check(1)), (LEFT, "up-to-date"))
        kept = self.kept(shop)
        record = json.loads(kept.pop("yanked.json"))
        self.assertEqual(kept, GONE)
        self.assertEqual((record["actor"], record["version"], record["time"][-1]), ("operator:admin", "2.0.0", "Z"))
        self.assertEqual(set(os.listdir(shop.state / told["kept"])), {*GONE, "yanked.json"})
        self.assertEqual(shop.events(), [("yanked", "operator:admin")])
        self.assertEqual(shop.send("delete_release", "lamp", "2.0.0")[0], 404)
        self.assertEqual(shop.send("delete_release", "lamp", "2.0.0", channel="beta")[0], 200)
        # As docs/api.md says it is restored.
        for name in GONE:
            (shop.state / told["kept"] / name).rename(shop.folder / name)
        shop.clock.advance(100)
        self.assertEqual(shop.check(1), "newer")

    def test_under_way(self) -> None:
        """Downloads of it end, and others go on."""
        shop = Workshop(self, LAMPS)
        assert shop.keeper is not None
        ended: list[int] = []
        for number, name in enumerate(LAMPS):
            check_in = shop.check_in(number, "0.1.0")
            shop.keeper.answer(check_in, shop.house.catalog, "192.0.2.1")
            break_off = partial(ended.append, number)
            follower = shop.keeper.watch(check_in, shop.house.catalog, "192.0.2.1", break_off)
            follower.begun(shop.house.catalog.channels["stable"].files[name])
        shop.send("delete_release", "lamp", "1.1.0")
        self.assertEqual(ended, [1])

    def test_unknown(self) -> None:
        """What isn't there can't be withdrawn."""
        shop = Workshop(self, LAMPS)
        for project, version, channel in (
            ("lamp", "9.9", "stable"),
            ("door", "1.0", "stable"),
            ("lamp", "1.0", "beta"),
        ):
            self.assertEqual(shop.send("delete_release", project, version, channel=channel)[0], 404)
        self.assertFalse(shop.state.exists())

    def test_other_file_system(self) -> None:
        """What is kept on another file system is copied, safe on disk, and then removed."""
        shop = Workshop(self, FILES)
        rename = os.rename

        def refuse(source: Path, target: Path) -> None:
            if Path(source).parent != Path(target).parent:
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            rename(source, target)

        self.patch(os, "rename", refuse)
        self.assertEqual(shop.send("delete_release", "lamp", "2.0.0")[0], 200)
        kept = self.kept(shop)
        del kept["yanked.json"]
        self.assertEqual((kept, shop.files()), (GONE, LEFT))

    def test_link(self) -> None:
        """Of a link the bytes are kept, and what it leads to stays where it is."""
        shop = Workshop(self, LEFT)
        store = Path(self.mktemp()).absolute()
        store.write_bytes(b"app")
        (shop.folder / "lamp-2.0.bin").symlink_to(os.path.relpath(store, shop.folder))
        shop.clock.advance(100)
        self.assertEqual(shop.check(1), "newer")
        status, told = shop.send("delete_release", "lamp", "2.0.0")
        self.assertEqual((status, shop.files(), store.read_bytes()), (200, LEFT, b"app"))
        kept = shop.state / told["kept"] / "lamp-2.0.bin"
        self.assertEqual((kept.is_symlink(), kept.read_bytes()), (False, b"app"))

    def test_trouble(self) -> None:
        """Where a file can't be moved, all stay where they were."""
        for number, status in ((errno.EACCES, 409), (errno.ENOSPC, 507)):
            shop = Workshop(self, FILES)
            rename = os.rename
            moved: list[Path] = []

            def refuse(source: Path, target: Path, number: int = number) -> None:
                if Path(source).parent == shop.folder:  # noqa: B023
                    if moved:  # noqa: B023
                        raise OSError(number, os.strerror(number))
                    moved.append(source)  # noqa: B023
                rename(source, target)  # noqa: B023

            patch = self.patch(os, "rename", refuse)
            self.assertEqual(shop.send("delete_release", "lamp", "2.0.0")[0], status)
            patch.restore()
            self.assertEqual((shop.files(), shop.files(shop.state), shop.check(1)), (FILES, {}, "newer"))

    def test_changed_just_now(self) -> None:
        """A file that isn't as the catalog says is left alone."""
        shop = Workshop(self, FILES)
        (shop.folder / "lamp-2.0.bin").write_bytes(b"newer bytes")
        self.assertEqual(shop.send("delete_release", "lamp", "2.0.0")[0], 409)
        self.assertEqual(shop.files()["lamp-2.0.bin"], b"newer bytes")

    def test_gone_just_now(self) -> None:
        """Nor is a release of which a person has just removed a file; nothing is said against the folder."""
        shop = Workshop(self, FILES)
        (shop.folder / "lamp-2.0.bin").unlink()
        status, problem = shop.send("delete_release", "lamp", "2.0.0")
        self.assertEqual((status, problem["type"]), (409, "/problems/changing"))
        self.assertEqual(shop.files()["lamp-2.0.fs.bin"], b"files")


class _KilledError(BaseException):
    """The process ends here."""


class RecoveringTests(SynchronousTestCase):
    """What the next start does after the process was killed."""

    def test_any_moment(self) -> None:
        """Wherever it ends, all files are in the folder, or all are kept, after the next start."""
        ends = []
        for moment in range(12):
            shop = Workshop(self, FILES)
            release = shop.house.catalog.channels["stable"].projects["lamp"].releases[0]
            patches = []
            left = [moment]

            def stop(name: str, module: object) -> None:
                does = getattr(module, name)

                def act(*arguments: object) -> object:
                    if left[0] == 0:  # noqa: B023
                        raise _KilledError
                    left[0] -= 1  # noqa: B023
                    return does(*arguments)

                patches.append(self.patch(module, name, act))  # noqa: B023

            for name, module in (("_sync", yard_module), ("_move", yard_module), ("rename", os)):
                stop(name, module)
            killed = False
            try:
                shop.yard.yank(release.images, "operator:me", 0.0)
            except _KilledError:
                killed = True
            ends.append(killed)
            for patch in patches:
                patch.restore()
            recovered = shop.yard.recover(7.0)
            files, kept = shop.files(), shop.files(shop.state)
            names = {Path(name).name for name in kept}
            if killed and files == FILES:
                self.assertLessEqual(names & set(GONE), set())
            else:
                self.assertEqual((files, names), (LEFT, {*GONE, "yanked.json"}), moment)
            for event in (each.event for each in recovered):
                assert event is not None
                self.assertEqual((event.actor, event.kind, event.time), ("operator:me", "yanked", 7.0))
                self.assertEqual((event.channel, event.project, event.version), ("stable", "lamp", (2, 0, 0)))
            self.assertEqual(shop.yard.recover(8.0), [])
        # It was killed at each of several steps, and at last there was none left.
        self.assertEqual(ends, sorted(ends, reverse=True))
        self.assertGreaterEqual(ends.count(True), 6)
        self.assertIn(False, ends)
