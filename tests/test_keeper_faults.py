"""Tests of what nobody wishes for: two servers on one ledger, one that is damaged or hangs, faults of the program."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import LogLevel

from ota_server.fleet import database, outbox
from ota_server.fleet import fleet as fleet_module
from ota_server.fleet.fleet import Fleet
from ota_server.fleet.ledger import Ledger, LedgerError, sqlite_url
from ota_server.fleet.rollout import State
from ota_server.keeper import PATIENCE, REMINDER, RETRY
from tests.fleet.databases import fill_disk, postgresql, small_disk
from tests.fleet.play import NOW, mac
from tests.keeping import NEW, PLACE, KeeperTestCase, Kept, logged, picture

_GARBAGE = b"no page of a database" * 100


class TwoServersTests(KeeperTestCase):
    """Two servers on one ledger: one at a time."""

    def check_waiting(self, first: Kept) -> None:
        """Check that a second server serves nobody until the first has ended, and then knows all of it."""
        with logged() as lines:
            second = self.keep(url=first.url)
            waiting = second.keeper.when_ready()
            for number in (1, 2):
                first.bounce(number)
            for _ in range(4):
                first.pass_time(1)
                second.pass_time(1)
            self.assertNoResult(waiting)
            self.assertRegex(
                second.keeper.trouble, rf"no device is served .*another server \(process {os.getpid()}[) ]"
            )
            first.stop()
            second.pass_time(RETRY)
        self.assertIsNone(self.successResultOf(waiting))
        told = [line.partition(":")[0] for line in lines]
        self.assertEqual(told, ["no device is served until the ledger can be read", "lamp 1.1.0", "over"])
        self.assertEqual((second.keeper.trouble, second.check(3)), ("", "halted"))

    def test_second_waits(self) -> None:
        """The second waits for the end of the first."""
        self.check_waiting(self.keep())

    def test_second_waits_on_postgresql(self) -> None:
        """So it is on PostgreSQL."""
        self.check_waiting(self.keep(url=postgresql().empty()))

    def test_second_process(self) -> None:
        """A server is told the number of the process that has the ledger, which ends with that, kill -9 or not."""
        ready, tell = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                Ledger(self.url).open(NOW)
                os.write(tell, b"!")
                signal.pause()
            finally:
                os._exit(1)
        try:
            os.read(ready, 1)
            kept = self.keep()
            self.assertIn(f"another server (process {child}) uses the ledger {self.path}", kept.keeper.trouble)
            self.assertIn("give this one a --state of its own", kept.keeper.trouble)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        kept.pass_time(RETRY)
        self.assertEqual((kept.keeper.trouble, kept.check(1)), ("", "newer"))


class DamagedTests(KeeperTestCase):
    """A file that is damaged while the server runs."""

    policy = 'soak = "1h"\nstages = ["3", "100%"]'

    def fill(self, **more: Any) -> Kept:
        """Return a fleet with a halted release, a device that took one for good, and one with a brake."""
        kept = self.keep(files=("lamp-1.0.0.bin", "lamp-1.1.0.bin", "lamp-1.0.5.bin"), **more)
        for number in range(50):
            kept.check(number, "1.1.0")
        kept.update(60)
        kept.check(60, "1.1.0")
        kept.clock.advance(4000)
        kept.check(60, "1.1.0")
        for _ in range(3):
            kept.bounce(1)
        kept.bounce(2)
        kept.pass_time(2)
        self.assertEqual(kept.state(), State.HALTED)
        self.assertIsNotNone(kept.fleet.devices[mac(60)].taken)
        return kept

    def damage(self) -> None:
        """Write over the tables, as an SD card does that dies; what stands in the log goes first."""
        with sqlite3.connect(self.path) as other:
            pages = [row[0] for row in other.execute("SELECT rootpage FROM sqlite_master")]
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        other.close()
        with self.path.open("r+b") as file:
            for page in pages:
                if page > 1:
                    file.seek(4096 * (page - 1))
                    file.write(_GARBAGE)

    def check_known(self, kept: Kept) -> None:
        """Check that a server which starts now knows all that this one knows."""
        before = picture(kept.fleet.devices, kept.fleet.course.places)
        kept.stop()
        after = self.keep(now=kept.clock.seconds(), files=("lamp-1.0.0.bin", "lamp-1.1.0.bin", "lamp-1.0.5.bin"))
        self.assertEqual(picture(after.fleet.devices, after.fleet.course.places), before)
        self.assertEqual(after.check(4, "1.0.5"), "halted")

    def test_written_anew(self) -> None:
        """The file is set aside, and all that is known is written into a new one: halts, brakes, devices, counts."""
        self.patch(fleet_module, "ANEW", 7)
        self.patch(outbox, "MAX_WRITTEN", 20)
        kept = self.fill()
        with logged(LogLevel.critical) as lines:
            self.damage()
            kept.check(100)
            kept.pass_time(5)
        self.assertEqual(len(lines), 3, lines)
        self.assertRegex(lines[0], "malformed|not a database|disk image")
        self.assertIn("was damaged; it is kept as ledger.sqlite.damaged-", lines[1])
        self.assertIn("52 devices", lines[2])
        self.assertNotIn("forgotten", " ".join(lines))
        self.assertEqual((kept.keeper.trouble, kept.fleet.outbox.unwritten), ("", 0))
        self.assertEqual(kept.state(), State.HALTED)
        Ledger(self.url).give_order(NOW, "operator:me", "resume", channel="stable", project="lamp", version=NEW)
        kept.pass_time(3)
        self.assertEqual(kept.state(), State.RUNNING)
        Ledger(self.url).give_order(NOW, "operator:me", "halt", channel="stable", project="lamp", version=NEW)
        kept.pass_time(3)
        self.check_known(kept)

    def test_halt_on_the_way(self) -> None:
        """A halt that was on its way to the damaged file reaches the new one, and takes effect only there."""
        kept = self.keep()
        for number in range(50):
            kept.check(number, "1.1.0")
        kept.bounce(1)
        kept.pass_time(2)
        self.damage()
        kept.bounce(2)
        self.assertEqual(kept.check(3), "deciding")
        kept.pass_time(5)
        self.assertEqual((kept.check(3), kept.state()), ("halted", State.HALTED))

    def test_stopped_on_the_way(self) -> None:
        """The end finishes what is being written anew."""
        self.patch(fleet_module, "ANEW", 2)
        kept = self.fill()
        self.damage()
        kept.check(100)
        self.patch(kept.keeper, "_hurry", lambda: None)
        kept.pass_time(0.5)
        self.assertIsNotNone(kept.keeper._anew)
        self.check_known(kept)

    def test_no_room(self) -> None:
        """Where there is no room for the new file it is tried again, and the old one is set aside but once."""
        with small_disk(self.folder / "disk", "2M") as disk:
            self.path = disk / "ledger.sqlite"
            self.url = sqlite_url(self.path)
            kept = self.fill()
            self.damage()
            fill_disk(disk / "other", leave=0)
            kept.check(100)
            with logged() as lines:
                kept.pass_time(30)
                self.assertIn("is only kept in memory", kept.keeper.trouble)
            self.assertLess(len(lines), 4, lines)
            # No other server takes the place meanwhile.
            self.assertIn("another", str(self.assertRaises(LedgerError, Ledger(self.url).open, NOW)))
            (disk / "other").unlink()
            kept.pass_time(10)
            self.assertEqual((kept.keeper.trouble, kept.state()), ("", State.HALTED))
            aside = [each for each in disk.glob("*.damaged-*") if each.name[-4:] not in ("-wal", "-shm")]
            self.assertEqual(len(aside), 1)
            kept.stop()

    def test_planned(self) -> None:
        """What is planned of a rollout, and not on disk yet, is what is written of it."""
        kept = self.fill()
        kept.fleet.course.resume(kept.fleet.course.places[PLACE].by_version[NEW], "operator:me", kept.clock.seconds())
        for _ in kept.fleet.write_anew():
            pass
        kept.pass_time(2)
        self.assertEqual(kept.state(), State.RUNNING)
        self.assertEqual(kept.keeper.barred(PLACE), frozenset())


class FaultTests(KeeperTestCase):
    """Faults of the program, and a ledger that hangs."""

    def test_fault_at_the_start(self) -> None:
        """Where nobody can be served with what was read, that is told once a minute, and tried again."""
        broken = True
        take_catalog = Fleet.take_catalog

        def fail(*arguments: Any) -> None:
            if broken:
                raise ZeroDivisionError("on purpose")
            take_catalog(*arguments)

        self.patch(Fleet, "take_catalog", fail)
        folder = self.folder / "later"
        with logged() as lines:
            # The folder comes after the catalog.
            kept = self.keep(url=sqlite_url(folder / "ledger.sqlite"))
            folder.mkdir()
            waiting = kept.keeper.when_ready()
            kept.pass_time(2 * REMINDER + 1)
            self.assertNoResult(waiting)
            self.assertIsNone(kept.keeper.fleet)
        self.assertEqual(len(lines), 3, lines)
        for line in lines[1:]:
            self.assertIn("no device is served, since what the ledger holds can't be used: ZeroDivisionError", line)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        broken = False
        kept.pass_time(RETRY)
        self.assertIsNone(self.successResultOf(waiting))
        self.assertEqual((kept.keeper.trouble, kept.check(1)), ("", "newer"))
        kept.pass_time(1)
        self.assertIn(mac(1), kept.read().devices)

    def test_stop_after_a_fault_at_the_start(self) -> None:
        """The end comes also then, and another server gets the ledger."""
        self.patch(Fleet, "__init__", lambda *arguments: 1 // 0)
        kept = self.keep()
        self.flushLoggedErrors(ZeroDivisionError)
        self.assertIsNone(self.successResultOf(kept.keeper.stopService()))
        self.assertEqual(kept.clock.getDelayedCalls(), [])
        other = Ledger(self.url)
        other.open(NOW)
        other.close()

    def hang(self, kept: Kept, name: str) -> list[Callable[[], object]]:
        """Let a call of the ledger hang; return the list that holds what ends it."""
        own = kept.keeper._in_thread
        held: list[Callable[[], object]] = []

        def in_thread(function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
            if function.__name__ != name or held:
                return own(function, *arguments)
            hanging: Deferred[Any] = Deferred()
            held.append(lambda: own(function, *arguments).chainDeferred(hanging))
            return hanging

        self.patch(kept.keeper, "_in_thread", in_thread)
        return held

    def test_hung_write(self) -> None:
        """The end waits a moment for a ledger that hangs, and says so; also where it hangs only at the end."""
        for name in ("_exchange", "write"):
            with self.subTest(name):
                self.path = self.folder / f"{name}.sqlite"
                kept = self.keep(url=sqlite_url(self.path))
                held = self.hang(kept, name)
                kept.update(1)
                if name == "_exchange":
                    kept.pass_time(1)
                with logged() as lines:
                    ended = kept.keeper.stopService()
                    kept.pass_time(PATIENCE - 1)
                    self.assertNoResult(ended)
                    kept.pass_time(2)
                    self.assertIsNone(self.successResultOf(ended))
                self.assertEqual(len(lines), 1, lines)
                self.assertIn(f"the last changes are lost: the ledger {self.path} hasn't answered for 5 s", lines[0])
                held[0]()
                self.assertEqual(kept.clock.getDelayedCalls(), [])
                kept.ledger.close()

    def test_slow_write(self) -> None:
        """The end waits for a ledger that is slow, and writes what waits."""
        kept = self.keep()
        held = self.hang(kept, "_exchange")
        kept.update(1)
        kept.pass_time(1)
        with logged() as lines:
            ended = kept.keeper.stopService()
            kept.pass_time(PATIENCE - 1)
            held[0]()
            self.assertIsNone(self.successResultOf(ended))
        self.assertEqual(lines, [])
        self.assertEqual(kept.clock.getDelayedCalls(), [])
        self.assertIn(mac(1), kept.read().devices)

    def test_hung_start(self) -> None:
        """So it is where the ledger hangs before it could be read."""
        holder = self.keep()
        self.patch(database, "LOCK_PATIENCE", 0.01)
        kept = self.keep()
        held = self.hang(kept, "_load")
        kept.pass_time(RETRY)
        ended = kept.keeper.stopService()
        kept.pass_time(PATIENCE)
        self.assertIsNone(self.successResultOf(ended))
        holder.stop()
        held[0]()
        self.assertIsNone(kept.keeper.fleet)

    def test_orders_wait_for_the_folder(self) -> None:
        """An order is followed once it is known which releases there are; one for none of these is refused."""
        kept = self.keep()
        catalog = kept.catalog
        kept.pass_time(1)
        for project in ("lmap", "lamp"):
            Ledger(self.url).give_order(NOW, "operator:me", "halt", channel="stable", project=project, version=NEW)
        kept.stop()
        later = self.keep(now=NOW + 10, files=())
        later.keeper._catalog = later.fleet._catalog = None
        later.pass_time(5)
        self.assertEqual(later.fleet.course.places, {})
        later.keeper.take_catalog(catalog)
        later.catalog = catalog
        later.pass_time(2)
        self.assertEqual((later.check(1), list(later.fleet.course.places)), ("halted", [PLACE]))
