"""Tests of keeping the memory of the fleet: what is on disk when, and what is known after a restart."""

from __future__ import annotations

import sqlite3
from typing import Any

import attrs

from ota_server.firmware.naming import Kind
from ota_server.fleet.decision import Send
from ota_server.fleet.ledger import Ledger, sqlite_url
from ota_server.fleet.rollout import State
from ota_server.keeper import RETRY
from tests.fleet.play import NOW, mac
from tests.keeping import FILES, NEW, KeeperTestCase, logged, picture


class WritingTests(KeeperTestCase):
    """What is written when, and what is known after a restart."""

    def test_soon_on_disk(self) -> None:
        """Whatever has changed is on disk a second later: new devices, check-ins, attempts, rollouts."""
        kept = self.keep()
        for version in ("1.0.0", "1.0.0", "1.1.0", "1.1.0"):
            for number in range(4):
                kept.update(number, version)
                kept.pass_time(1)
                device = kept.fleet.devices[mac(number)]
                found = kept.read()
                self.assertEqual(found.devices[device.id].last_seen, device.last_seen)
                self.assertEqual(found.devices[device.id].version, version)
                self.assertEqual(
                    [attempt.outcome for attempt in found.devices[device.id].attempts],
                    [attempt.outcome for attempt in device.attempts],
                )
        self.assertEqual(kept.fleet.outbox.unwritten, 0)

    def test_when_ready(self) -> None:
        """Who waits for the memory is told when it has been read, or at once where it has."""
        kept = self.keep()
        self.assertIsNone(self.successResultOf(kept.keeper.when_ready()))
        missing = self.folder / "later"
        kept = self.keep(url=sqlite_url(missing / "ledger.sqlite"))
        waiting, given_up = kept.keeper.when_ready(), kept.keeper.when_ready()
        given_up.addErrback(lambda _: None)
        given_up.cancel()
        self.assertNoResult(waiting)
        missing.mkdir()
        kept.pass_time(RETRY)
        self.assertIsNone(self.successResultOf(waiting))

    def test_restart(self) -> None:
        """Who comes after knows all: devices, outcomes, brakes, halts, stages and their seats."""
        policy = 'soak = "5s"\n[projects.plug]\nstages = ["2", "50%", "100%"]'
        files = (*FILES, "plug-1.0.0.bin", "plug-1.1.0.bin")
        kept = self.keep(files=files, policy=f"{policy}\n[projects.lamp]\nhalt = {{ failures = 3, share = '1%' }}")
        for number in (1, 2):
            kept.update(number)
            kept.pass_time(1)
            kept.check(number, "1.1.0")
        for _ in range(3):
            kept.bounce(3)
        self.assertEqual(kept.check(3), "bounced")
        kept.update(4)
        kept.pass_time(7)
        kept.check(2, "1.1.0")
        for number in (5, 6):
            kept.bounce(number)
        kept.pass_time(1)
        self.assertEqual(kept.check(7), "halted")
        for number in range(10, 20):
            check_in = attrs.evolve(kept.check_in(number, "1.0.0"), project="plug")
            decision = kept.keeper.answer(check_in, kept.catalog, "192.0.2.1")
            if isinstance(decision, Send):
                kept.keeper.watch(check_in, kept.catalog, "192.0.2.1", lambda: None).begun(decision.image)
        self.assertEqual(kept.fleet.course.places["stable", "plug"].by_version[NEW].admitted, 2)
        kept.pass_time(3)
        kept.check(1, "1.1.0")
        before = picture(kept.fleet.devices, kept.fleet.course.places)
        self.assertGreater(len(before), 15)
        kept.stop()
        other = self.keep(files=files, policy=policy, now=kept.clock.seconds())
        self.assertEqual(picture(other.fleet.devices, other.fleet.course.places), before)
        self.assertEqual((other.check(3), other.check(8)), ("halted", "halted"))

    def test_stop(self) -> None:
        """The end writes what waits, closes the file, and leaves nothing behind."""
        kept = self.keep()
        kept.update(1)
        kept.stop()
        self.assertEqual(kept.clock.getDelayedCalls(), [])
        # SQLite removes the others when it is closed.
        self.assertEqual(
            sorted(path.name for path in self.folder.iterdir()), [self.path.name, f"{self.path.name}.lock"]
        )
        self.assertEqual([attempt.kind for attempt in kept.read().devices[mac(1)].attempts], [Kind.APP])

    def test_stop_in_trouble(self) -> None:
        """Where the last changes can't be written the end comes nevertheless, and that is told."""
        kept = self.keep()
        kept.update(1)
        with self.locked(), logged() as lines:
            self.assertIsNone(self.successResultOf(kept.keeper.stopService()))
        self.assertEqual(len(lines), 1)
        self.assertIn("the last changes are lost: the ledger", lines[0])

    def test_orders(self) -> None:
        """What another program orders is done within a moment and once, and marked as done."""
        kept = self.keep()
        kept.update(1)
        kept.pass_time(1)
        beside = Ledger(self.url)
        beside.give_order(NOW, "operator:me", "halt", channel="stable", project="lamp", version=NEW)
        beside.give_order(NOW, "operator:me", "nonsense", device=mac(1))
        beside.give_order(NOW, "operator:me", "forget", device=mac(9))
        kept.pass_time(1.5)
        self.assertEqual(kept.check(2), "halted")
        kept.pass_time(10)
        self.assertEqual(kept.state(), State.HALTED)
        beside.open_for_reading()
        self.addCleanup(beside.close)
        self.assertEqual(beside.orders(), [])
        told = [(event.actor, event.kind) for _, event in beside.events(10)]
        self.assertEqual(told.count(("operator:me", "halted")), 1)
        self.assertEqual(told.count(("operator:me", "refused")), 2)

    def test_order_that_cannot_be_marked(self) -> None:
        """An order is followed once, also where it can't be written for a while that it was."""
        kept = self.keep()
        for number in (1, 2):
            kept.bounce(number)
        kept.pass_time(1)
        Ledger(self.url).give_order(NOW, "operator:me", "resume", channel="stable", project="lamp", version=NEW)
        follow, followed = kept.fleet.follow, []

        def break_after(order: Any, now: float) -> None:
            followed.append(order.kind)
            follow(order, now)
            other = sqlite3.connect(self.path, isolation_level=None)
            self.addCleanup(other.close)
            other.execute("BEGIN EXCLUSIVE")
            kept.clock.callLater(10, other.rollback)

        self.patch(kept.fleet, "follow", break_after)
        kept.pass_time(8)
        self.assertEqual((followed, kept.check(3)), (["resume"], "halted"))
        kept.pass_time(10)
        self.assertEqual((followed, kept.check(3)), (["resume"], "newer"))
