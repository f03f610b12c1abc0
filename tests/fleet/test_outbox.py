"""Tests of what waits to be written: nothing is dropped before it is in the ledger, nothing grows without a bound."""

from __future__ import annotations

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.naming import Kind
from ota_server.fleet import outbox as module
from ota_server.fleet.device import Attempt, Device
from ota_server.fleet.journal import Batch, Event
from ota_server.fleet.outbox import CHECKPOINT, Outbox, rollout_row
from ota_server.fleet.rollout import Rollout, State
from tests.fleet.play import NOW
from tests.fleet.replay import Replay


def _device(key: int) -> Device:
    return Device(key, f"id {key}", "esp8266", "stable", "lamp", NOW, NOW)


def _attempt(image: str) -> Attempt:
    return Attempt("stable", "lamp", Kind.APP, (1, 0, 0), image, "0.9", NOW, counted=True)


def _rollout() -> Rollout:
    return Rollout("stable", "lamp", (1, 1, 0), NOW, NOW)


class OutboxMachine(RuleBasedStateMachine):
    """Devices that check in and change, batches that are written at once, late or twice, and a ledger."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW + 10
        self.next_key = 5
        self.devices = {key: _device(key) for key in range(1, 5)}
        self.ledger = Replay()
        self.batch: Batch | None = None
        self.logged: dict[int, float] = {}
        """When each device was seen last, of what is in the ledger or in the batch that was given out."""
        self.seen: dict[int, float] = {}
        """The same of what waits."""
        # As after a start: two rows are behind the sightings that the ledger keeps.
        for key in (1, 2):
            self.devices[key].stale = True
        for key in (3, 4):
            self.devices[key].unwritten = True
        for device in self.devices.values():
            row = module._device_row(device)
            self.ledger.write(Batch(0, devices=[row]))
        self.ledger.sightings[1] = [(1, NOW + 5), (2, NOW + 6)]
        for key, time in self.ledger.sightings[1]:
            self.devices[key].last_seen = self.logged[key] = time
        for key in (3, 4):
            self.devices[key].unwritten = False
        self.outbox = Outbox(2, [self.devices[1], self.devices[2]], NOW)

    @rule(key=st.integers(1, 8), seconds=st.sampled_from([0.1, 30.0, 30.0, 400.0]))
    def see(self, key: int, seconds: float) -> None:
        """Let a device check in."""
        self.now += seconds
        device = self.devices.get(key)
        if device is not None:
            waits = device.unwritten
            before = self.outbox.lost
            device.last_seen = self.now
            self.outbox.saw(device, self.now)
            if not waits and self.outbox.lost == before:
                self.seen[key] = self.now

    @rule(key=st.integers(1, 8), version=st.sampled_from(["1.0", "1.1"]))
    def change(self, key: int, version: str) -> None:
        """Let a device check in on another version, and make an attempt."""
        self.now += 1
        device = self.devices.get(key)
        if device is not None:
            device.last_seen, device.version = self.now, version
            self.outbox.changed(device)
            attempt = _attempt(version)
            device.attempts = (attempt,)
            self.outbox.attempted(device, attempt)

    @precondition(lambda self: self.next_key < 9)
    @rule()
    def welcome(self) -> None:
        """Let a device come that wasn't known."""
        device = _device(self.next_key)
        device.first_seen = device.last_seen = self.now
        self.devices[device.key] = device
        self.next_key += 1
        self.outbox.changed(device)

    @rule(key=st.integers(1, 8), settled=st.booleans())
    def forget(self, key: int, settled: bool) -> None:
        """Let a device be forgotten."""
        device = self.devices.pop(key, None)
        if device is not None:
            if settled:
                device.attempts = ()
            self.outbox.forgot(device)
            self.logged.pop(key, None)
            self.seen.pop(key, None)

    @rule()
    def take(self) -> None:
        """Let a batch be given out; until it is confirmed it is always the same."""
        first = self.batch
        self.batch = self.outbox.take(self.now)
        if first is not None:
            assert self.batch is first
        elif self.batch is not None:
            assert len(self.batch.devices) <= 3
            assert len(self.batch.attempts) <= 3
            self.logged.update(self.seen)
            self.seen.clear()
        else:
            assert self.outbox.unwritten == 0

    @precondition(lambda self: self.batch is not None)
    @rule(times=st.sampled_from([1, 1, 2]))
    def write(self, times: int) -> None:
        """Let the batch be written, perhaps once more than is known."""
        assert self.batch is not None
        for _ in range(times):
            self.ledger.write(self.batch)
        self.outbox.confirm()
        self.batch = None

    @precondition(lambda self: self.batch is None)
    @invariant()
    def nothing_is_lost(self) -> None:
        """Check that each check-in that was written is known: by a row, or else by sightings that are kept."""
        last = self.ledger.last_seen()
        for key, time in self.logged.items():
            assert last[key] >= time - 0.01, (key, time, last[key])

    def teardown(self) -> None:
        """Write all that there is, after which the ledger is as the memory, and needs no sightings."""
        if self.batch is not None:
            self.write(1)
        for _ in range(2):
            self.now += CHECKPOINT + 1
            while (batch := self.outbox.take(self.now)) is not None:
                self.ledger.write(batch)
                self.outbox.confirm()
        assert self.ledger.devices == {key: module._device_row(device) for key, device in self.devices.items()}
        assert self.ledger.sightings == {}
        assert {row.device for row in self.ledger.attempts.values()} <= self.devices.keys()
        for key, device in self.devices.items():
            for attempt in device.attempts:
                written = self.ledger.attempts[key, "stable", "lamp", (1, 0, 0), Kind.APP, attempt.image]
                assert written == module._attempt_row(key, attempt)
            assert not device.unwritten
            assert not device.stale
        assert self.outbox.unwritten == 0


class OutboxTests(SynchronousTestCase):
    """Collecting changes, and giving them out."""

    def test_histories(self) -> None:
        """Sightings are dropped once the rows of all of their devices are written, and never before."""
        self.patch(module, "MAX_WRITTEN", 3)
        self.patch(module, "MAX_ROWS", 2)
        self.patch(module, "MAX_SIGHTINGS", 20)
        run_state_machine_as_test(
            OutboxMachine, settings=settings(deadline=None, max_examples=120, stateful_step_count=40)
        )

    def test_empty(self) -> None:
        """Where nothing waits there is no batch."""
        outbox = Outbox(7, [], NOW)
        self.assertIsNone(outbox.take(NOW + 1e6))
        self.assertEqual((len(outbox), outbox.unwritten), (0, 0))

    def test_numbers(self) -> None:
        """Batches are numbered on from those that were ever written."""
        outbox = Outbox(7, [], NOW)
        for number in (7, 8):
            outbox.followed(number)
            batch = outbox.take(NOW)
            assert batch is not None
            self.assertEqual((batch.id, batch.done), (number, [number]))
            self.assertEqual((len(outbox), outbox.unwritten), (0, 1))
            outbox.confirm()
            self.assertEqual(outbox.unwritten, 0)

    def test_effects(self) -> None:
        """What is planned takes effect once the batch that it is in is confirmed, in order, and once."""
        outbox, happened = Outbox(1, [], NOW), list[str]()
        row = rollout_row(_rollout())
        outbox.plan(row, lambda: happened.append("first"))
        outbox.plan(attrs.evolve(row, state=State.HALTED), lambda: happened.append("second"))
        batch = outbox.take(NOW)
        assert batch is not None
        # Of one rollout the last word counts.
        self.assertEqual([each.state for each in batch.rollouts], [State.HALTED])
        outbox.plan(row, lambda: happened.append("third"))
        self.assertIs(outbox.take(NOW), batch)
        self.assertEqual(happened, [])
        outbox.confirm()
        self.assertEqual(happened, ["first", "second"])
        self.assertIsNotNone(outbox.take(NOW))
        outbox.confirm()
        self.assertEqual(happened, ["first", "second", "third"])

    def test_effect_that_writes(self) -> None:
        """What an effect writes is in the next batch."""
        outbox, rollout = Outbox(1, [], NOW), _rollout()
        outbox.plan(rollout_row(rollout), lambda: outbox.rolled(rollout))
        outbox.take(NOW)
        outbox.confirm()
        self.assertEqual(len(outbox), 1)

    def test_forgotten(self) -> None:
        """Of a device that is forgotten nothing is written later, however much waits."""
        self.patch(module, "MAX_WRITTEN", 3)
        outbox, ledger, devices = Outbox(1, [], NOW), Replay(), [_device(key) for key in range(1, 6)]
        for device in devices:
            outbox.changed(device)
            outbox.attempted(device, _attempt("image"))
        for device in devices[3:]:
            outbox.forgot(device)
        while (batch := outbox.take(NOW)) is not None:
            ledger.write(batch)
            outbox.confirm()
        self.assertEqual(ledger.devices.keys(), {1, 2, 3})
        self.assertEqual({row.device for row in ledger.attempts.values()}, {1, 2, 3})

    def test_standing_still(self) -> None:
        """While the ledger stands still, what changes again and again is one row; only check-ins and events pile up."""
        self.patch(module, "MAX_SIGHTINGS", 10)
        self.patch(module, "MAX_EVENTS", 5)
        outbox, device, quiet, rollout = Outbox(1, [], NOW), _device(1), _device(2), _rollout()
        for second in range(100):
            attempt = _attempt("image")
            attempt.downloads = second
            outbox.changed(device)
            outbox.attempted(device, attempt)
            outbox.rolled(rollout)
            outbox.saw(device, NOW + second)
            outbox.saw(quiet, NOW + second)
            outbox.told(Event(NOW + second, "server", "braked", ""))
        self.assertEqual(len(outbox), 1 + 1 + 1 + 10 + 5)
        self.assertEqual(outbox.lost, 90 + 95)
        # What is weighty finds room where ordinary events found none, but not without end.
        for _ in range(100):
            outbox.told(Event(NOW, "server", "halted", ""))
        batch = outbox.take(NOW)
        assert batch is not None
        self.assertEqual(([each.downloads for each in batch.attempts], len(batch.events)), ([99], 10))

    def test_checkpoint(self) -> None:
        """A device that checks in every minute costs a row in ten minutes; its sightings are kept until then."""
        outbox, device, rows, kept = Outbox(1, [], NOW), _device(1), 0, set[int]()
        for minute in range(1, 61):
            now = NOW + 60 * minute
            device.last_seen = now
            outbox.saw(device, now)
            batch = outbox.take(now)
            assert batch is not None
            outbox.confirm()
            rows += len(batch.devices)
            kept = {number for number in (*kept, batch.id) if number > batch.checkpoint}
            self.assertLessEqual(len(kept), 11)
        self.assertIn(rows, (5, 6))
