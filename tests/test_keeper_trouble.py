"""Tests of keeping the memory of the fleet in a ledger that can't be read at the start, or fails later."""

from __future__ import annotations

import os
import pwd
import sqlite3
from collections.abc import Callable
from typing import Any

from twisted.logger import LogLevel

from ota_server.fleet import outbox
from ota_server.fleet.fleet import Fleet
from ota_server.fleet.journal import Memory
from ota_server.fleet.ledger import Ledger, sqlite_url
from ota_server.fleet.policy import read_policy
from ota_server.fleet.rollout import State
from ota_server.keeper import REMINDER, RETRY
from tests.firmware.samples import make_catalog, make_image
from tests.fleet.databases import fill_disk, postgresql, small_disk
from tests.fleet.play import NOW, mac
from tests.keeping import NEW, PLACE, KeeperTestCase, Kept, logged, picture


class TroubleTests(KeeperTestCase):
    """A ledger that can't be read at the start, or fails later."""

    def start_and_mend(self, url: str, mend: Callable[[], object], **more: Any) -> Kept:
        """Start with a ledger that can't be read, see that nobody is served and that it is told; then mend it."""
        with logged() as lines:
            kept = self.keep(url=url, **more)
            waiting = kept.keeper.when_ready()
            kept.pass_time(2 * REMINDER + 1)
            self.assertIsNone(kept.keeper.fleet)
            self.assertIn("no device is served", kept.keeper.trouble)
            self.assertNoResult(waiting)
        self.assertEqual(len(lines), 3, lines)
        with logged() as lines:
            mend()
            kept.pass_time(RETRY)
        self.assertIsNone(self.successResultOf(waiting))
        self.assertEqual([line.partition(":")[0] for line in lines], ["over"])
        self.assertEqual((kept.keeper.trouble, kept.check(1)), ("", "newer"))
        kept.pass_time(1)
        self.assertIn(mac(1), kept.read().devices)
        return kept

    def test_folder_that_comes_later(self) -> None:
        """Where the folder isn't there yet it is waited for; what changes meanwhile isn't missed."""
        folder = self.folder / "mounted later"
        self.start_and_mend(sqlite_url(folder / "ledger.sqlite"), folder.mkdir)

    def test_folder_without_permission(self) -> None:
        """The same for a folder where the server may not write."""
        folder = self.folder / "forbidden"
        folder.mkdir()
        folder.chmod(0o555)
        if os.geteuid() == 0:
            os.seteuid(pwd.getpwnam("nobody").pw_uid)
            self.addCleanup(os.seteuid, 0)

        def allow() -> None:
            if os.getuid() == 0:
                os.seteuid(0)
            folder.chmod(0o755)

        self.start_and_mend(sqlite_url(folder / "ledger.sqlite"), allow)

    def test_postgresql_that_comes_later(self) -> None:
        """The same for a PostgreSQL server that isn't up yet."""
        server = postgresql()
        url = server.empty()
        server.stop()
        try:
            self.start_and_mend(url, server.start).stop()
        except BaseException:
            server.start()
            raise

    def test_changes_while_waiting(self) -> None:
        """A policy and a catalog that come while the ledger is read are those that hold."""
        folder = self.folder / "mounted later"
        kept = self.keep(url=sqlite_url(folder / "ledger.sqlite"))
        load, new = Ledger.load, read_policy("hold = true", "ota.toml")

        def load_slowly(ledger: Ledger, now: float) -> Memory:
            kept.keeper.take_catalog(make_catalog([make_image("lamp-1.2.0.bin")]))
            return load(ledger, now)

        enliven = kept.keeper._enliven

        def enliven_slowly(memory: Memory, now: float) -> Fleet:
            fleet = enliven(memory, now)
            kept.keeper.take_policy(new)
            return fleet

        self.patch(Ledger, "load", load_slowly)
        self.patch(kept.keeper, "_enliven", enliven_slowly)
        folder.mkdir()
        kept.pass_time(RETRY)
        self.assertEqual(kept.check(1), "held")
        self.assertIs(kept.fleet.policy, new)

    def test_stop_while_waiting(self) -> None:
        """The end may come before the ledger could be read."""
        kept = self.keep(url=sqlite_url(self.folder / "nowhere" / "ledger.sqlite"))
        self.assertIsNone(self.successResultOf(kept.keeper.stopService()))
        self.assertEqual(kept.clock.getDelayedCalls(), [])

    def test_damaged(self) -> None:
        """A damaged file is set aside, that is told loudly, and a new one begun."""
        kept = self.keep()
        for number in range(200):
            kept.check(number)
        kept.stop()
        with sqlite3.connect(self.path) as connection:
            [(page,)] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'devices'")
        connection.close()
        for number, offset in enumerate((0, 4096 * (page - 1))):
            # The first shows when it is opened, the second when the devices are read.
            with self.path.open("r+b") as file:
                file.seek(offset)
                file.write(b"no page of a database" * 100)
            with logged(LogLevel.critical) as lines:
                kept = self.keep(now=NOW + number)
            self.assertIn("was damaged", lines[0])
            self.assertIn("offered again", lines[1])
            aside = [path for path in self.folder.glob("*.damaged-*") if path.name[-4:] not in ("-wal", "-shm")]
            self.assertEqual(len(aside), number + 1)
            self.assertEqual((len(kept.fleet.devices), kept.check(1)), (0, "newer"))
            kept.pass_time(1)
            self.assertEqual(list(kept.read().devices), [mac(1)])
            for each in range(200):
                kept.check(each)
            kept.stop()

    def fail_for_a_while(
        self, kept: Kept, break_: Callable[[], object], mend: Callable[[], object], *, readable: bool = True
    ) -> None:
        """Let the ledger fail: devices are served on, what changes waits, and is written after that."""
        for number in (1, 2, 3):
            kept.update(number)
        kept.pass_time(1)
        known = kept.read().devices.keys()
        with logged() as lines:
            break_()
            kept.check(1, "1.1.0")
            self.assertEqual(kept.bounce(2), "newer")
            kept.pass_time(3 * REMINDER)
            for number in range(4, 400):
                self.assertEqual(kept.update(number), "newer")
            self.assertEqual(kept.bounce(3), "deciding")
            kept.pass_time(REMINDER - 1)
            for number in (4, 400, 401):
                # Nobody gets it, and nobody is told that it is halted, before that is on disk.
                self.assertEqual(kept.update(number), "deciding")
            self.assertEqual(kept.keeper.barred(PLACE), {NEW})
            self.assertIn("is only kept in memory", kept.keeper.trouble)
            self.assertGreater(kept.fleet.outbox.unwritten, 700)
        self.assertEqual(len(lines), 4, lines)
        self.assertRegex(lines[-1], r"\([0-9]+ changes wait\)\Z")
        if readable:
            self.assertEqual(kept.read().devices.keys(), known)
            self.assertEqual(kept.state(), State.RUNNING)
        with logged() as lines:
            mend()
            kept.pass_time(RETRY + 1)
        self.assertEqual([line.partition(":")[0] for line in lines], ["over", "lamp 1.1.0"])
        self.assertEqual((kept.keeper.trouble, kept.fleet.outbox.unwritten), ("", 0))
        self.assertEqual(kept.state(), State.HALTED)
        self.assertEqual(kept.update(500), "halted")
        kept.pass_time(1)
        found = kept.read()
        self.assertEqual(found.devices.keys(), kept.fleet.devices.keys())
        before = picture(kept.fleet.devices, kept.fleet.course.places)
        kept.stop()
        after = self.keep(url=kept.url, now=kept.clock.seconds())
        self.assertEqual(picture(after.fleet.devices, after.fleet.course.places), before)
        after.stop()

    def test_locked(self) -> None:
        """Another program holds the file for minutes."""
        kept = self.keep()
        other = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(other.close)
        self.fail_for_a_while(kept, lambda: other.execute("BEGIN EXCLUSIVE"), other.rollback)

    def test_full_disk(self) -> None:
        """The disk is full for minutes."""
        with small_disk(self.folder / "disk", "4M") as disk:
            kept = self.keep(url=sqlite_url(disk / "ledger.sqlite"))
            self.fail_for_a_while(kept, lambda: fill_disk(disk / "other", leave=0), (disk / "other").unlink)

    def test_postgresql_that_goes_away(self) -> None:
        """The database server is down for minutes."""
        server = postgresql()
        kept = self.keep(url=server.empty())
        running = [True]

        def stop() -> None:
            running.clear()
            server.stop()

        def start() -> None:
            if not running:
                running.append(True)
                server.start()

        self.addCleanup(start)
        self.fail_for_a_while(kept, stop, start, readable=False)

    def test_trouble_that_comes_and_goes(self) -> None:
        """A ledger that fails every few seconds is told of once a minute as well."""
        kept = self.keep()
        with logged() as lines:
            for _ in range(30):
                with self.locked():
                    kept.check(1)
                    kept.pass_time(RETRY)
                kept.pass_time(RETRY + 1)
                self.assertEqual(kept.keeper.trouble, "")
        said = [line.partition(":")[0] for line in lines]
        self.assertEqual(said, 3 * ["what changes is only kept in memory", "over"])

    def test_lost(self) -> None:
        """Check-ins for which there is no room any more are counted, and that is told once a minute."""
        self.patch(outbox, "MAX_SIGHTINGS", 5)
        kept = self.keep()
        for number in range(5):
            kept.check(number, "1.1.0")
        kept.pass_time(2)
        with self.locked(), logged() as lines:
            for _ in range(int(2 * REMINDER)):
                kept.pass_time(1)
                kept.check(1, "1.1.0")
            self.assertGreater(kept.fleet.outbox.lost, 100)
        lost = [line for line in lines if "would be lost in a crash" in line]
        self.assertEqual(len(lost), 2, lines)
        self.assertEqual(len(lines), 4, lines)
        kept.pass_time(RETRY + 1)
        self.assertEqual(kept.keeper.trouble, "")
        # Nothing is lost where the process lives on: the next check-in tells it all.
        kept.check(1, "1.1.0")
        kept.pass_time(1)
        self.assertEqual(kept.read().devices[mac(1)].last_seen, kept.fleet.devices[mac(1)].last_seen)

    def test_unforeseen_failures(self) -> None:
        """Whatever goes wrong in a look at what is due or in a writing, it is logged, and goes on."""
        kept = self.keep()
        kept.pass_time(2)

        def fail(*arguments: object) -> Any:
            raise ZeroDivisionError

        for owner, name in ((kept.fleet, "tick"), (kept.ledger, "write"), (kept.fleet.outbox, "take")):
            with self.subTest(name):
                patch = self.patch(owner, name, fail)
                kept.check(1, "1.0.0")
                kept.pass_time(1)
                self.assertTrue(self.flushLoggedErrors(ZeroDivisionError))
                patch.restore()
                kept.check(1, "1.1.0")
                kept.pass_time(RETRY + 1)
                self.assertEqual(kept.fleet.outbox.unwritten, 0)
                self.assertEqual(self.flushLoggedErrors(ZeroDivisionError), [])
