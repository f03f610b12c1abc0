"""Tests of waiting for the ledger: whoever is told that something is done finds it on disk."""

from __future__ import annotations

from functools import partial

from twisted.internet.defer import CancelledError

from ota_server.fleet import outbox as outbox_module
from ota_server.fleet.errors import LedgerError
from ota_server.fleet.journal import Batch, Event, Order
from ota_server.fleet.rollout import State
from ota_server.keeper import RETRY
from tests.fleet.play import NOW, mac
from tests.keeping import NEW, KeeperTestCase, Kept, logged

HALT = Order(0, NOW, "operator:me", "halt", "stable", "lamp", NEW, None)


class WrittenTests(KeeperTestCase):
    """`FleetKeeper.written`."""

    def kept(self) -> Kept:
        """Keep a fleet of one device that was sent the new release."""
        kept = self.keep()
        kept.update(1)
        kept.pass_time(1)
        return kept

    def test_order(self) -> None:
        """An order is on disk, and has taken effect, when that is told, and not a second later."""
        kept = self.kept()
        self.assertEqual(kept.fleet.carry_out(HALT, NOW), "")
        written = kept.keeper.written()
        self.assertNoResult(written)
        kept.clock.advance(0)
        self.successResultOf(written)
        self.assertEqual(kept.state(), State.HALTED)
        self.assertEqual(kept.fleet.course.places["stable", "lamp"].by_version[NEW].state, State.HALTED)
        self.assertEqual(kept.fleet.outbox.last, 0)

    def test_refused(self) -> None:
        """An order that can't be done is no event, for whoever gives it is told."""
        kept = self.kept()
        order = Order(0, NOW, "operator:me", "forget", None, None, None, mac(9))
        self.assertEqual(kept.fleet.carry_out(order, NOW), "this device is not known")
        self.successResultOf(kept.keeper.written())

    def test_nothing_to_write(self) -> None:
        """Where all is on disk nobody waits."""
        self.successResultOf(self.kept().keeper.written())

    def test_in_trouble(self) -> None:
        """While the ledger can't be written it isn't told, and then it is, for what comes meanwhile as well."""
        kept = self.kept()
        with logged(), self.locked():
            kept.fleet.carry_out(HALT, NOW)
            first = kept.keeper.written()
            kept.pass_time(1)
            # In the batch that could not be written, and in the next.
            again = kept.keeper.written()
            kept.fleet.outbox.told(Event(NOW, "operator:me", "note", "more"))
            later, given_up = kept.keeper.written(), kept.keeper.written()
            kept.pass_time(2 * RETRY)
            for each in (first, again, later, given_up):
                self.assertNoResult(each)
            given_up.cancel()
            self.failureResultOf(given_up, CancelledError)
        with logged():
            kept.pass_time(RETRY)
        for each in (first, again, later):
            self.successResultOf(each)
        self.assertEqual(kept.state(), State.HALTED)

    def test_too_much_for_one_batch(self) -> None:
        """Where the rows are too many for one batch, the last of them counts."""
        for module in (outbox_module, __import__("ota_server.keeper", fromlist=["keeper"])):
            self.patch(module, "MAX_WRITTEN", 2)
        kept = self.kept()
        for number in range(2, 9):
            kept.check(number)
        batches: list[int] = []
        write = kept.ledger.write

        def note(batch: Batch) -> None:
            batches.append(batch.id)
            write(batch)

        self.patch(kept.ledger, "write", note)
        written = kept.keeper.written()
        while not written.called:
            kept.clock.advance(0)
        self.successResultOf(written)
        self.assertEqual((len(batches), set(kept.read().devices)), (4, {mac(number) for number in range(1, 9)}))

    def test_end(self) -> None:
        """The end writes it, or says that it may be lost."""
        for works in (True, False):
            kept = self.kept()
            kept.fleet.outbox.told(Event(NOW, "operator:me", "note", "more"))
            written = kept.keeper.written()
            if works:
                kept.stop()
                self.successResultOf(written)
            else:
                with self.locked(), logged():
                    kept.stop()
                self.failureResultOf(written, LedgerError)
            kept.clock.advance(0)


class BreakingOffTests(KeeperTestCase):
    """Ending the downloads of images that have gone."""

    def test_of_an_image(self) -> None:
        """Those of the image end, and no others."""
        kept = self.keep()
        ended: list[int] = []
        images = [kept.catalog.channels["stable"].files[f"lamp-1.{minor}.0.bin"] for minor in (0, 1)]
        for number, image in enumerate(images):
            check_in = kept.check_in(number, "0.9.0")
            kept.keeper.answer(check_in, kept.catalog, "192.0.2.1")
            follower = kept.keeper.watch(check_in, kept.catalog, "192.0.2.1", partial(ended.append, number))
            follower.begun(image)
        kept.keeper.break_off(images[1:])
        self.assertEqual(ended, [1])
