"""Tests of the ledger: the same ones in real SQLite files and on a real PostgreSQL server, where there is one."""

from __future__ import annotations

import gc
import os
import signal
import sqlite3
import stat
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.naming import Kind
from ota_server.fleet import database
from ota_server.fleet.device import Attempt, Device, Outcome, Taken
from ota_server.fleet.journal import AttemptRow, Batch, DeviceRow, Event, Order, RolloutRow, SightingsLog
from ota_server.fleet.ledger import LONGEST, Ledger, LedgerDamagedError, LedgerError, sqlite_url
from ota_server.fleet.rollout import Rollout, State
from tests.fleet.databases import PostgreSQL, fill_disk, make_read_only, postgresql, small_disk

_NOW = 1_790_000_000.0
_DAY = 86400.0
_MAC = "5C:CF:7F:00:11:22"
_IMAGE = "ab" * 32

_DEVICE = DeviceRow(
    1, _MAC, "esp8266", "stable", "lamp", _NOW - _DAY, _NOW, "192.0.2.7", "1.2.3", _IMAGE, "esp8266", b"", None, 0
)
_ATTEMPT = AttemptRow(
    1,
    "stable",
    "lamp",
    Kind.APP,
    (1, 2, 3),
    _IMAGE,
    before="1.2.2",
    offered_at=_NOW,
    outcome=Outcome.OFFERED,
    outcome_at=_NOW,
    downloaded_at=None,
    downloads=0,
    fetched=False,
    braked_until=0.0,
    acknowledged=False,
    settled=False,
    counted=True,
)
_TAKEN = Taken("stable", "lamp", (1, 2, 3), _IMAGE)
_ROLLOUT = RolloutRow("stable", "lamp", (1, 2, 3), State.RUNNING, 0, None, _NOW, _NOW, 0, "")
_EVENT = Event(_NOW, "server", "halted", "2 of 3 bounced", "stable", "lamp", (1, 2, 3), None)

_times = st.floats(0, 1e11)
_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=LONGEST)
_names = st.sampled_from(["stable", "beta", "lamp", "bell"]) | st.text("abé-", min_size=1, max_size=50)
_versions = st.tuples(*[st.integers(0, 10**15 - 1)] * 3)
_keys = st.integers(1, 2**32 - 1)
_images = st.integers(0, 2**256 - 1).map("{:064x}".format)
_device_rows = st.builds(
    DeviceRow,
    key=_keys,
    id=_texts.filter(bool),
    dialect=st.none() | st.sampled_from(["esp8266", "esp32"]),
    channel=_names,
    project=_names,
    first_seen=_times,
    last_seen=_times,
    address=_texts,
    version=st.none() | _texts,
    image=st.none() | _images,
    chip=st.none() | _texts,
    rhythm=st.binary(max_size=28),
    taken=st.none() | st.builds(Taken, _names, _names, _versions, _images),
    taken_downloads=st.integers(0, 2**31),
)
_attempt_rows = st.builds(
    AttemptRow,
    device=_keys,
    channel=_names,
    project=_names,
    kind=st.sampled_from(Kind),
    version=_versions,
    image=_images,
    before=st.none() | _texts,
    offered_at=_times,
    outcome=st.sampled_from(Outcome),
    outcome_at=_times,
    downloaded_at=st.none() | _times,
    downloads=st.integers(0, 2**31),
    fetched=st.booleans(),
    braked_until=_times,
    acknowledged=st.booleans(),
    settled=st.booleans(),
    counted=st.booleans(),
)
_rollout_rows = st.builds(
    RolloutRow,
    channel=_names,
    project=_names,
    version=_versions,
    state=st.sampled_from(State),
    stage=st.integers(0, 100),
    seats=st.none() | st.integers(0, 2**40),
    started_at=_times,
    stage_since=_times,
    acknowledged=st.integers(0, 2**31),
    why=_texts,
)
_events = st.builds(
    Event,
    time=_times,
    actor=_texts,
    kind=_texts,
    text=_texts,
    channel=st.none() | _texts,
    project=st.none() | _texts,
    version=st.none() | _versions,
    device=st.none() | _texts,
)


_Drawn = tuple[list[DeviceRow], list[RolloutRow], list[Event]]
_any_rows = given(
    st.tuples(
        st.lists(_device_rows, max_size=4, unique_by=(lambda row: row.key, lambda row: row.id)),
        st.lists(_rollout_rows, max_size=4, unique_by=lambda row: (row.channel, row.project, row.version)),
        st.lists(_events, max_size=4),
    ),
    st.booleans(),
    st.data(),
)


def _sightings(*seen: tuple[int, float], began: float = _NOW) -> bytes:
    log = SightingsLog(began)
    for key, time in seen:
        log.add(key, time)
    return log.pack()


def _row_of(device: Device) -> DeviceRow:
    return DeviceRow(*(getattr(device, each.name) for each in attrs.fields(DeviceRow)))


def _attempt_row_of(key: int, attempt: Attempt) -> AttemptRow:
    return AttemptRow(key, *attrs.astuple(attempt, recurse=False))


def _rollout_row_of(rollout: Rollout) -> RolloutRow:
    return RolloutRow(*(getattr(rollout, each.name) for each in attrs.fields(RolloutRow)))


if TYPE_CHECKING:
    _Base = SynchronousTestCase
else:
    _Base = object


class LedgerTests(_Base):
    """Tests that hold for every database; `url` is that of an empty one."""

    url: str
    ledger: Ledger

    def do(self, statement: str) -> None:
        """Carry out a statement, past the ledger."""
        raise NotImplementedError

    def _open(self) -> Ledger:
        ledger = Ledger(self.url)
        self.addCleanup(ledger.close)
        self.assertEqual(ledger.open(_NOW), ())
        return ledger

    def _devices(self, ledger: Ledger) -> list[DeviceRow]:
        return sorted((_row_of(each) for each in ledger.load(_NOW).devices.values()), key=lambda row: row.key)

    def test_new(self) -> None:
        """A new ledger is empty, and so it is when it is opened again."""
        for _ in range(2):
            ledger = self._open()
            memory = ledger.load(_NOW)
            self.assertEqual((memory.devices, memory.places), ({}, {}))
            self.assertEqual((memory.next_key, memory.next_batch), (1, 1))
            self.assertEqual((ledger.orders(), ledger.events(10), ledger.attempts_of(_MAC)), ([], [], []))
            self.assertIsNone(ledger.device(_MAC))
            ledger.close()

    def test_kept(self) -> None:
        """What was written is there when the ledger is opened again."""
        ledger = self._open()
        ledger.write(Batch(1, devices=[_DEVICE], attempts=[_ATTEMPT], rollouts=[_ROLLOUT], events=[_EVENT]))
        ledger.close()
        ledger = self._open()
        memory = ledger.load(_NOW)
        (device,) = memory.devices.values()
        self.assertEqual(_row_of(device), _DEVICE)
        self.assertEqual([_attempt_row_of(1, each) for each in device.attempts], [_ATTEMPT])
        self.assertEqual((device.unwritten, device.stale), (False, False))
        rollouts = memory.places["stable", "lamp"]
        self.assertEqual(_rollout_row_of(rollouts.by_version[1, 2, 3]), _ROLLOUT)
        self.assertEqual((rollouts.fleet, rollouts.barred), (1, frozenset()))
        self.assertEqual((memory.next_key, memory.next_batch), (2, 2))
        self.assertEqual(ledger.events(10), [((1, 0), _EVENT)])

    def check_any_rows(self, drawn: _Drawn, replaced: bool, data: st.DataObject) -> None:
        """Check that these come back as they were, also when written twice, or in place of something else."""
        devices, rollouts, events = drawn
        ledger = self.ledger
        before = ledger.load(_NOW)
        batch_id = before.next_batch + 1
        ledger.write(Batch(batch_id - 1, forgotten=[each.key for each in before.devices.values()]))
        if replaced:
            batch_id += 1
            others = [attrs.evolve(_DEVICE, key=row.key, id=row.id, first_seen=row.first_seen) for row in devices]
            ledger.write(Batch(batch_id - 1, devices=others))
        attempts = [
            attrs.evolve(attempt, device=row.key)
            for row in devices
            for attempt in data.draw(st.lists(_attempt_rows, max_size=3, unique_by=lambda each: each.image))
        ]
        batch = Batch(batch_id, devices=devices, attempts=attempts, rollouts=rollouts, events=events)
        for _ in range(2):
            ledger.write(batch)
            memory = ledger.load(_NOW)
            self.assertEqual({each.key: _row_of(each) for each in memory.devices.values()}, {r.key: r for r in devices})
            for device in memory.devices.values():
                own = [each for each in attempts if each.device == device.key]
                found = [_attempt_row_of(device.key, each) for each in ledger.attempts_of(device.id)]
                self.assertCountEqual(found, own)
                unsettled = [each for each in own if not each.settled]
                self.assertCountEqual([_attempt_row_of(device.key, each) for each in device.attempts], unsettled)
                alone = ledger.device(device.id)
                assert alone is not None
                self.assertEqual(_row_of(alone), _row_of(device))
                self.assertCountEqual([_attempt_row_of(device.key, each) for each in alone.attempts], unsettled)
            for row in rollouts:
                rollout = memory.places[row.channel, row.project].by_version[row.version]
                self.assertEqual(_rollout_row_of(rollout), row)
            written = [event for (of, _), event in reversed(ledger.events(10)) if of == batch_id]
            self.assertEqual(written, events)

    def test_replaced(self) -> None:
        """A later row takes the place of the earlier one, for everything that changes."""
        ledger = self._open()
        ledger.write(Batch(1, devices=[_DEVICE], attempts=[_ATTEMPT], rollouts=[_ROLLOUT]))
        device = DeviceRow(
            1,
            _MAC,
            "esp32",
            "beta",
            "bell",
            _DEVICE.first_seen,
            _NOW + 1,
            "::1",
            None,
            None,
            "esp32",
            b"\1\0\0\0",
            _TAKEN,
            2,
        )
        attempt = AttemptRow(
            1, "stable", "lamp", Kind.APP, (1, 2, 3), _IMAGE, None, _NOW + 1, Outcome.BOUNCED, _NOW + 2, _NOW + 3, 3,
            True, _NOW + 4, True, False, False,
        )  # fmt: skip
        rollout = RolloutRow("stable", "lamp", (1, 2, 3), State.HALTED, 1, 2, _NOW + 1, _NOW + 2, 3, "it bounced")
        ledger.write(Batch(2, devices=[device], attempts=[attempt], rollouts=[rollout]))
        memory = ledger.load(_NOW)
        self.assertEqual([_row_of(each) for each in memory.devices.values()], [device])
        self.assertEqual([_attempt_row_of(1, each) for each in memory.devices[_MAC].attempts], [attempt])
        rollouts = memory.places["stable", "lamp"]
        self.assertEqual(_rollout_row_of(rollouts.by_version[1, 2, 3]), rollout)
        self.assertEqual(rollouts.barred, frozenset({(1, 2, 3)}))
        for project, version in (("bell", "2.0"), ("lamp", "2.0"), ("lamp", None)):
            device = attrs.evolve(device, project=project, version=version)
            ledger.write(Batch(3, devices=[device]))
            self.assertEqual(self._devices(ledger), [device])

    def test_twice(self) -> None:
        """The same batch written again does no harm."""
        ledger = self._open()
        batch = Batch(
            7,
            _NOW,
            _sightings((1, _NOW + 60)),
            devices=[_DEVICE],
            attempts=[_ATTEMPT],
            rollouts=[_ROLLOUT],
            events=[_EVENT, _EVENT],
            forgotten=[5],
        )
        ledger.write(batch)
        once = attrs.asdict(ledger.load(_NOW)), ledger.events(10)
        ledger.write(batch)
        again = attrs.asdict(ledger.load(_NOW)), ledger.events(10)
        self.assertEqual(again[1], once[1])
        self.assertEqual(str(again[0]), str(once[0]))
        self.assertEqual(len(again[1]), 2)

    def test_forgotten(self) -> None:
        """A forgotten device is removed with its attempts, and what the same batch says of it isn't written."""
        ledger = self._open()
        other = attrs.evolve(_DEVICE, key=2, id="other")
        ledger.write(Batch(1, devices=[_DEVICE, other], attempts=[_ATTEMPT, attrs.evolve(_ATTEMPT, device=2)]))
        third = attrs.evolve(_DEVICE, key=3, id="third")
        batch = Batch(2, devices=[_DEVICE, third], attempts=[_ATTEMPT, attrs.evolve(_ATTEMPT, device=3)])
        ledger.write(attrs.evolve(batch, forgotten=[1, 3, 99]))
        self.assertEqual(self._devices(ledger), [other])
        self.assertEqual((ledger.attempts_of(_MAC), ledger.attempts_of("third")), ([], []))
        self.assertEqual(len(ledger.attempts_of("other")), 1)

    def test_back_under_another_key(self) -> None:
        """A device may be forgotten and be back under another key in the same batch, without its attempts."""
        ledger = self._open()
        ledger.write(Batch(1, devices=[_DEVICE], attempts=[_ATTEMPT]))
        back = attrs.evolve(_DEVICE, key=2)
        ledger.write(Batch(2, devices=[back], forgotten=[1]))
        self.assertEqual(self._devices(ledger), [back])
        self.assertEqual(ledger.attempts_of(_MAC), [])

    def test_numbers_are_not_used_again(self) -> None:
        """Numbers of batches and devices go on where they were, also when nothing that bears them is left."""
        ledger = self._open()
        ledger.write(Batch(8, devices=[attrs.evolve(_DEVICE, key=41)]))
        ledger.write(Batch(9, checkpoint=9, forgotten=[41]))
        ledger.write(Batch(9, devices=[_DEVICE], forgotten=[1]))
        memory = ledger.load(_NOW)
        self.assertEqual((memory.next_key, memory.next_batch), (42, 10))

    def test_sightings(self) -> None:
        """Sightings are applied in their order, times that aren't later than the last are passed over."""
        ledger = self._open()
        rows = [attrs.evolve(_DEVICE, key=key, id=f"device {key}") for key in (1, 2, 3)]
        ledger.write(Batch(1, _NOW, _sightings((1, _NOW + 100)), devices=rows))
        ledger.write(Batch(2, _NOW + 200, _sightings((2, _NOW + 230), (1, _NOW + 250), (9, _NOW), began=_NOW + 200)))
        ledger.write(Batch(3, _NOW, _sightings((1, _NOW + 249), (3, _NOW), (3, _NOW - 7))))
        expected = {
            "device 1": (_NOW + 250, b"\x64\0\0\0\x96\0\0\0", True),
            "device 2": (_NOW + 230, b"\xe6\0\0\0", True),
            "device 3": (_NOW, b"", False),
        }
        devices = ledger.load(_NOW).devices
        self.assertEqual({key: (each.last_seen, each.rhythm, each.stale) for key, each in devices.items()}, expected)
        for key, (last_seen, rhythm, stale) in expected.items():
            device = ledger.device(key)
            assert device is not None
            self.assertEqual((device.last_seen, device.rhythm, device.stale), (last_seen, rhythm, stale))

    def test_checkpoint(self) -> None:
        """Sightings up to the checkpoint are dropped, and later ones stay."""
        ledger = self._open()
        ledger.write(Batch(1, _NOW, _sightings((1, _NOW + 100)), devices=[_DEVICE]))
        ledger.write(Batch(2, _NOW, _sightings((1, _NOW + 200))))
        ledger.write(Batch(3, _NOW, _sightings((1, _NOW + 300)), checkpoint=1))
        self.assertEqual(ledger.load(_NOW).devices[_MAC].rhythm, b"\xc8\0\0\0\x64\0\0\0")
        ledger.write(Batch(4, _NOW, _sightings((1, _NOW + 400)), checkpoint=4))
        self.assertEqual(self._devices(ledger), [_DEVICE])

    def test_damaged_sightings(self) -> None:
        """Sightings that are cut short say less, and do no harm."""
        ledger = self._open()
        packed = _sightings((1, _NOW + 100), (1, _NOW + 200))
        ledger.write(Batch(1, _NOW, packed[:-1], devices=[_DEVICE]))
        self.assertEqual(list(ledger.load(_NOW).devices), [_MAC])

    def test_counts(self) -> None:
        """A rollout counts the attempts at its release that count, whether they are settled or not."""
        ledger = self._open()
        outcomes = {
            1: [(Outcome.CONFIRMED, True, True)],
            2: [(Outcome.CONFIRMED, True, False), (Outcome.BOUNCED, True, True)],
            3: [(Outcome.OFFERED, False, True)],
            4: [(Outcome.BOUNCED, False, True), (Outcome.CONFIRMED, False, False)],
            5: [(Outcome.BOUNCED, True, False), (Outcome.DOWNLOADED, False, True)],
            6: [(Outcome.SUPERSEDED, True, True)],
            7: [(Outcome.SILENT, False, True)],
            8: [(Outcome.CONFIRMED, True, True)],
        }
        attempts = [
            attrs.evolve(
                _ATTEMPT,
                device=key,
                image=f"{place:064}",
                outcome=outcome,
                settled=settled,
                counted=counted,
                offered_at=_NOW + key,
            )
            for key, told in outcomes.items()
            for place, (outcome, settled, counted) in enumerate(told)
        ]
        elsewhere = [
            attrs.evolve(_ATTEMPT, device=8, channel="beta", outcome=Outcome.BOUNCED, offered_at=_NOW + 99),
            attrs.evolve(_ATTEMPT, device=8, project="bell", outcome=Outcome.BOUNCED, offered_at=_NOW + 99),
            attrs.evolve(_ATTEMPT, device=8, version=(1, 2, 4), outcome=Outcome.DRIFTED, offered_at=_NOW + 98),
        ]
        devices = [attrs.evolve(_DEVICE, key=key, id=str(key)) for key in outcomes]
        rollouts = [_ROLLOUT, attrs.evolve(_ROLLOUT, version=(1, 2, 4)), attrs.evolve(_ROLLOUT, version=(1, 2, 5))]
        ledger.write(Batch(1, devices=devices, attempts=[*attempts, *elsewhere], rollouts=rollouts))
        found = ledger.load(_NOW).places["stable", "lamp"].by_version
        rollout = found[1, 2, 3]
        self.assertEqual(
            {outcome: count for outcome, count in rollout.outcomes.items() if count},
            {
                Outcome.CONFIRMED: 2,
                Outcome.BOUNCED: 2,
                Outcome.OFFERED: 1,
                Outcome.DOWNLOADED: 1,
                Outcome.SUPERSEDED: 1,
                Outcome.SILENT: 1,
            },
        )
        self.assertEqual((rollout.admitted, rollout.admitted_at), (8, _NOW + 8))
        self.assertEqual(found[1, 2, 4].outcomes, {Outcome.DRIFTED: 1})
        self.assertEqual((found[1, 2, 4].admitted, found[1, 2, 4].admitted_at), (1, _NOW + 98))
        self.assertEqual((found[1, 2, 5].admitted, found[1, 2, 5].outcomes), (0, {}))

    def test_fleet(self) -> None:
        """The fleet of a place are the devices that were seen there within 30 days, sightings taken into account."""
        ledger = self._open()
        seen = [_NOW, _NOW - 29 * _DAY, _NOW - 31 * _DAY, _NOW - 31 * _DAY]
        devices = [attrs.evolve(_DEVICE, key=key, id=str(key), last_seen=time) for key, time in enumerate(seen, 1)]
        devices.append(attrs.evolve(_DEVICE, key=9, id="9", project="bell"))
        ledger.write(Batch(1, _NOW, _sightings((4, _NOW)), devices=devices, rollouts=[_ROLLOUT]))
        places = ledger.load(_NOW).places
        self.assertEqual(
            {place: each.fleet for place, each in places.items()}, {("stable", "lamp"): 3, ("stable", "bell"): 1}
        )

    def test_places(self) -> None:
        """The rollouts can be read without the devices, and are the same."""
        ledger = self._open()
        old = attrs.evolve(_DEVICE, key=2, id="2", last_seen=_NOW - 31 * _DAY)
        rollouts = [attrs.evolve(_ROLLOUT, state=State.HALTED), attrs.evolve(_ROLLOUT, channel="beta")]
        ledger.write(Batch(1, devices=[_DEVICE, old], attempts=[_ATTEMPT], rollouts=rollouts))
        self.assertEqual(str(ledger.places(_NOW)), str(ledger.load(_NOW).places))

    def test_shared(self) -> None:
        """What recurs among devices is one object in memory."""
        ledger = self._open()
        rows = [attrs.evolve(_DEVICE, key=key, id=str(key), taken=_TAKEN, rhythm=b"\1\0\0\0") for key in (1, 2)]
        ledger.write(Batch(1, devices=rows, attempts=[attrs.evolve(_ATTEMPT, device=key) for key in (1, 2)]))
        one, two = ledger.load(_NOW).devices.values()
        for name in ("dialect", "channel", "project", "version", "image", "chip", "address", "rhythm", "taken"):
            self.assertIs(getattr(one, name), getattr(two, name), name)
        for name in ("channel", "project", "version", "image", "before"):
            self.assertIs(getattr(one.attempts[0], name), getattr(two.attempts[0], name), name)

    def test_collector(self) -> None:
        """Garbage is collected after loading if it was before, and not otherwise, also where loading fails."""
        ledger = self._open()
        ledger.write(Batch(1, rollouts=[_ROLLOUT]))
        self.addCleanup(gc.enable)
        for enabled in (True, False):
            (gc.enable if enabled else gc.disable)()
            ledger.load(_NOW)
            self.assertIs(gc.isenabled(), enabled)
        gc.enable()
        self.do("UPDATE rollouts SET state = 'unheard of'")
        error = self.assertRaises(LedgerError, ledger.load, _NOW)
        self.assertIn("unheard of", str(error))
        self.assertTrue(gc.isenabled())

    def test_events(self) -> None:
        """Events are told newest first, by pages and by what they are about, or on from one, oldest first."""
        ledger = self._open()
        told = [
            Event(_NOW, "server", "halted", "one", "stable", "lamp", (1, 2, 3)),
            Event(_NOW, "operator:ada", "resumed", "two", "beta", "bell", None, _MAC),
            Event(_NOW - 1, "server", "halted", "three"),
        ]
        ledger.write(Batch(9, events=told[:2]))
        ledger.write(Batch(10, events=told[2:]))
        numbered = [((9, 0), told[0]), ((9, 1), told[1]), ((10, 0), told[2])]
        self.assertEqual(ledger.events(10), numbered[::-1])
        self.assertEqual(ledger.events(2), numbered[:0:-1])
        self.assertEqual(ledger.events(2, before=(10, 0)), numbered[1::-1])
        self.assertEqual(ledger.events(10, before=(9, 0)), [])
        self.assertEqual(ledger.events(10, after=(9, 0)), numbered[1:])
        self.assertEqual(ledger.events(1, after=(0, 0)), numbered[:1])
        self.assertEqual(ledger.events(10, device=_MAC), numbered[1:2])
        self.assertEqual(ledger.events(10, channel="stable", project="lamp"), numbered[:1])
        self.assertEqual(ledger.events(10, channel="stable", project="bell"), [])

    def test_orders(self) -> None:
        """Orders wait until they are done, in the order that they were given."""
        ledger = self._open()
        first = ledger.give_order(_NOW, "operator:ada", "resume", channel="stable", project="lamp", version=(1, 2, 3))
        second = ledger.give_order(_NOW + 1, "operator:ada", "clear-brake", device=_MAC)
        orders = [
            Order(first, _NOW, "operator:ada", "resume", "stable", "lamp", (1, 2, 3), None),
            Order(second, _NOW + 1, "operator:ada", "clear-brake", None, None, None, _MAC),
        ]
        self.assertEqual(ledger.orders(), orders)
        ledger.write(Batch(1, done=[first]))
        self.assertEqual(ledger.orders(), orders[1:])
        ledger.write(Batch(2, done=[first, second, 99]))
        self.assertEqual(ledger.orders(), [])
        self.assertGreater(ledger.give_order(_NOW, "operator:ada", "halt"), second)

    def test_order_from_beside(self) -> None:
        """An order can be left by another process, which needs not open the ledger, and a reader can leave one too."""
        ledger, beside, reader = self._open(), Ledger(self.url), Ledger(self.url)
        reader.open_for_reading()
        self.addCleanup(reader.close)
        numbers = [each.give_order(_NOW, "operator:ada", "halt") for each in (beside, reader)]
        self.assertEqual([order.id for order in ledger.orders()], numbers)

    def test_texts_that_no_database_keeps(self) -> None:
        """Texts that a database can't keep are written as near as can be, and long ones are cut: no batch fails."""
        ledger = self._open()
        long = "\N{PILE OF POO}" * 10_000
        devices = [
            attrs.evolve(_DEVICE, version="1\0\udcff\N{GRINNING FACE}", chip="\0"),
            attrs.evolve(_DEVICE, key=2, id="2", version=long, chip=long, address=long),
        ]
        events = [Event(_NOW, "operator:\udcff", "halted", "\0" + long, device=long)]
        ledger.write(Batch(1, devices=devices, attempts=[attrs.evolve(_ATTEMPT, before=long)], events=events))
        ledger.give_order(_NOW, "operator:\udcff", "hold", device="\0")
        one, two = self._devices(ledger)
        self.assertEqual(
            (one.version, one.chip), ("1\N{REPLACEMENT CHARACTER}?\N{GRINNING FACE}", "\N{REPLACEMENT CHARACTER}")
        )
        self.assertEqual((two.version, two.chip, two.address), (long[:LONGEST],) * 3)
        ((_, event),) = ledger.events(1)
        self.assertEqual((event.actor, event.text), ("operator:?", "\N{REPLACEMENT CHARACTER}" + long))
        self.assertEqual(ledger.orders()[0].device, "\N{REPLACEMENT CHARACTER}")

    def test_whole_or_not_at_all(self) -> None:
        """A batch of which one row can't be written leaves the ledger as it was, and the next one works."""
        ledger = self._open()
        ledger.write(
            Batch(1, _NOW, _sightings((1, _NOW + 9)), devices=[_DEVICE], attempts=[_ATTEMPT], rollouts=[_ROLLOUT])
        )
        before = str(ledger.load(_NOW))
        changes = Batch(
            2,
            _NOW,
            _sightings((1, _NOW + 99)),
            checkpoint=2,
            devices=[attrs.evolve(_DEVICE, address="elsewhere"), attrs.evolve(_DEVICE, key=2, id="2")],
            rollouts=[attrs.evolve(_ROLLOUT, state=State.HALTED)],
            events=[_EVENT],
            forgotten=[1],
        )
        order = ledger.give_order(_NOW, "operator:ada", "halt")
        for bad in (
            attrs.evolve(changes, attempts=[attrs.evolve(_ATTEMPT, device=3, version=(1, 2, 2**70))], done=[order]),
            attrs.evolve(changes, events=[_EVENT, attrs.evolve(_EVENT, version=(0, 0, 2**63))], done=[order]),
            attrs.evolve(changes, devices=[*changes.devices, attrs.evolve(_DEVICE, key=9, id="2")]),
        ):
            error = self.assertRaises(LedgerError, ledger.write, bad)
            self.assertNotIn("\n", str(error))
            self.assertEqual(str(ledger.load(_NOW)), before)
            self.assertEqual((len(ledger.orders()), ledger.events(1)), (1, []))
        ledger.write(changes)
        self.assertEqual(list(ledger.load(_NOW).devices), ["2"])

    def test_not_open(self) -> None:
        """A ledger that isn't open, or isn't any more, says so; closing it again does no harm."""
        never, closed = Ledger(self.url), self._open()
        closed.close()
        for ledger in (never, closed):
            ledger.close()
            for use in (lambda each: each.load(_NOW), lambda each: each.write(Batch(1)), lambda each: each.orders()):
                self.assertIn("isn't open", str(self.assertRaises(LedgerError, use, ledger)))

    def test_reading_beside(self) -> None:
        """A ledger can be read beside a server that writes to it, and not written through that."""
        ledger, reader = self._open(), Ledger(self.url)
        ledger.write(Batch(1, _NOW, _sightings((1, _NOW + 60)), devices=[_DEVICE], attempts=[_ATTEMPT]))
        reader.open_for_reading()
        self.addCleanup(reader.close)
        device = reader.device(_MAC)
        assert device is not None
        self.assertEqual((device.last_seen, len(device.attempts)), (_NOW + 60, 1))
        ledger.write(Batch(2, events=[_EVENT]))
        self.assertEqual(reader.events(10), [((2, 0), _EVENT)])
        self.assertRaises(LedgerError, reader.write, Batch(3, events=[_EVENT]))
        self.assertEqual(len(ledger.events(10)), 1)

    def test_nothing_to_read(self) -> None:
        """Where there is no ledger yet, a reader says so and makes none, and no order can be left."""
        reader = Ledger(self.url)
        for use in (reader.open_for_reading, lambda: reader.give_order(_NOW, "operator:ada", "halt")):
            self.assertIn("there is no ledger yet", str(self.assertRaises(LedgerError, use)))

    def test_two_processes(self) -> None:
        """What one process writes another one reads meanwhile, each batch whole or not at all."""
        self._open().close()
        child, told = _in_child(lambda tell: _write_for_ever(self.url, tell))
        self.addCleanup(_end, child)
        os.read(told, 8)
        reader = Ledger(self.url)
        reader.open_for_reading()
        self.addCleanup(reader.close)
        seen = {_check_whole(self, reader) for _ in range(100)}
        self.assertGreater(len(seen), 2)

    def test_one_server(self) -> None:
        """A second server is told which process has the ledger, and gets it once that has ended, however that came."""
        self._open().close()
        child, told = _in_child(lambda tell: _write_for_ever(self.url, tell))
        ended = False
        try:
            os.read(told, 8)
            second = Ledger(self.url)
            self.addCleanup(second.close)
            for _ in range(2):
                message = str(self.assertRaises(LedgerError, second.open, _NOW))
                self.assertRegex(message, rf"\Aanother server \(process {child}[) ]")
                self.assertIn("end it, or give this one a --", message)
                self.assertNotIn("secret", message)
                self.assertIn("isn't open", str(self.assertRaises(LedgerError, second.write, Batch(1))))
            # Readers and orders don't need it for themselves.
            second.open_for_reading()
            self.assertGreater(len(second.load(_NOW).devices), 0)
            second.close()
            self.assertGreater(second.give_order(_NOW, "operator:ada", "halt"), 0)
            _end(child)
            ended = True
            self._wait_until_free()
            self.assertEqual(second.open(_NOW), ())
            second.write(Batch(second.load(_NOW).next_batch))
        finally:
            if not ended:
                _end(child)

    def _wait_until_free(self) -> None:
        """Wait until the end of another server has been noticed."""

    def test_one_server_in_a_process(self) -> None:
        """Two servers in one process are told apart as well; each gets the ledger when the other closes it."""
        one, two = Ledger(self.url), Ledger(self.url)
        for each in (one, two):
            self.addCleanup(each.close)
        for has, waits in ((one, two), (two, one)):
            has.open(_NOW)
            self.assertIn(f"process {os.getpid()}", str(self.assertRaises(LedgerError, waits.open, _NOW)))
            has.write(Batch(1))
            has.close()

    def test_killed(self) -> None:
        """A process killed while it writes leaves each batch whole or absent, and all that it was told is written."""
        for moment in range(20):
            child, told = _in_child(lambda tell: _write_for_ever(self.url, tell))
            try:
                for _ in range(1 + moment % 4):
                    os.read(told, 8)
                # At any moment of the next batch.
                for _ in range(moment * 3000):
                    pass
            finally:
                _end(child)
            confirmed = os.read(told, 65536)
            self._wait_until_free()
            ledger = self._open()
            last = _check_whole(self, ledger)
            if confirmed:
                self.assertGreaterEqual(last, int.from_bytes(confirmed[-8:], "big"))
            ledger.close()


def _in_child(do: Callable[[Callable[[int], object]], object]) -> tuple[int, int]:
    """Do something in another process; return its id, and where the numbers arrive that it tells, of 8 bytes each."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            do(lambda number: os.write(tell, number.to_bytes(8, "big")))
        finally:
            os._exit(1)
    os.close(tell)
    return child, told


def _end(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _write_for_ever(url: str, tell: Callable[[int], object]) -> None:
    ledger = Ledger(url)
    ledger.open(_NOW)
    number = ledger.load(_NOW).next_batch
    while True:
        devices = [attrs.evolve(_DEVICE, key=key, id=str(key), address=str(number)) for key in range(1, 50)]
        rollout = attrs.evolve(_ROLLOUT, stage=number)
        ledger.write(
            Batch(number, _NOW, _sightings((1, _NOW)), number - 1, devices, rollouts=[rollout], events=[_EVENT] * 5)
        )
        tell(number)
        number += 1


def _check_whole(test: SynchronousTestCase, ledger: Ledger) -> int:
    """Check that what _write_for_ever wrote is there in whole batches; return the number of the last."""
    memory = ledger.load(_NOW)
    numbers = [number for number, _ in ledger.events(10**6, before=(memory.next_batch, 0))]
    last = memory.next_batch - 1
    test.assertEqual(numbers, [(batch, place) for batch in range(last, 0, -1) for place in range(4, -1, -1)])
    test.assertEqual({each.address for each in memory.devices.values()}, {str(last)} if last else set())
    if last:
        test.assertEqual(memory.places["stable", "lamp"].by_version[1, 2, 3].stage, last)
    return last


class SQLiteLedgerTests(LedgerTests, SynchronousTestCase):
    """The ledger in a file of SQLite's."""

    def setUp(self) -> None:
        """Choose a place for the file."""
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.path = self.folder / "ledger.sqlite"
        self.url = sqlite_url(self.path)
        if "any_rows" in self.id():
            self.ledger = self._open()

    def do(self, statement: str) -> None:
        """Carry out a statement, past the ledger."""
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute(statement)
            connection.commit()

    def _fill(self) -> None:
        ledger = Ledger(self.url)
        ledger.open(_NOW)
        devices = [attrs.evolve(_DEVICE, key=key, id=str(key)) for key in range(1, 2000)]
        ledger.write(Batch(1, devices=devices, rollouts=[_ROLLOUT], events=[_EVENT]))
        ledger.close()

    def _names(self) -> list[str]:
        return sorted(each.name for each in self.folder.iterdir() if each.suffix != ".lock")

    @settings(deadline=None, max_examples=30)
    @_any_rows
    def test_any_rows(self, drawn: _Drawn, replaced: bool, data: st.DataObject) -> None:
        """Whatever was written comes back as it was, also when it is written twice, or in place of something else."""
        self.check_any_rows(drawn, replaced, data)

    def test_file(self) -> None:
        """The files can be read by their owner only, and what was written survives a power cut."""
        ledger = self._open()
        ledger.write(Batch(1, events=[_EVENT]))
        self.assertEqual({stat.S_IMODE(each.stat().st_mode) for each in self.folder.iterdir()}, {0o600})
        with ledger._database.writing() as connection:
            self.assertEqual(connection.exec_driver_sql("PRAGMA journal_mode").scalar(), "wal")
            self.assertEqual(connection.exec_driver_sql("PRAGMA synchronous").scalar(), 2)
        ledger.close()
        self.assertEqual(self._names(), ["ledger.sqlite"])

    def test_any_path(self) -> None:
        """The folder may have any name."""
        for name in ("a b", "50%", "who?", "a#b", "é", "x&y=z:;,@"):
            with self.subTest(name):
                path = self.folder / name / "ledger.sqlite"
                path.parent.mkdir()
                ledger = Ledger(sqlite_url(path))
                self.assertEqual(ledger.open(_NOW), ())
                ledger.close()
                names = sorted(each.name for each in path.parent.iterdir())
                self.assertEqual(names, ["ledger.sqlite", "ledger.sqlite.lock"])
                ledger.open_for_reading()
                ledger.close()

    def test_lock_file(self) -> None:
        """The file of the lock holds the number of the process, and stays; what stands in it is no lock."""
        lock = self.folder / "ledger.sqlite.lock"
        lock.write_text("1\nan older process, which is no more\n")
        ledger = self._open()
        self.assertEqual(lock.read_text(), f"{os.getpid()}\n")
        linked = self.folder.with_name(f"{self.folder.name}-linked")
        linked.symlink_to(self.folder)
        (self.folder / "other.sqlite").symlink_to(self.path)
        for path in (linked / "ledger.sqlite", self.folder / "other.sqlite"):
            second = Ledger(sqlite_url(path))
            self.assertIn("another server", str(self.assertRaises(LedgerError, second.open, _NOW)))
        lock.write_text("no number")
        message = str(self.assertRaises(LedgerError, Ledger(self.url).open, _NOW))
        self.assertEqual(message.partition(" uses ")[0], "another server")
        ledger.close()
        self.assertTrue(lock.exists())
        self._open()

    def test_damaged_beside_a_server(self) -> None:
        """A second server sets no file aside that the first one uses, however damaged; the first one may."""
        ledger = self._open()
        self.path.write_bytes(b"garbage" * 1000)
        self.assertIn("another", str(self.assertRaises(LedgerError, Ledger(self.url).open, _NOW)))
        self.assertEqual([name for name in self._names() if "damaged" in name], [])
        self.assertIn("damaged", ledger.begin_anew(_NOW)[0])
        self.assertIn("another", str(self.assertRaises(LedgerError, Ledger(self.url).open, _NOW)))
        ledger.write(Batch(1, events=[_EVENT]))

    def _check_set_aside(self, content: bytes) -> None:
        """Check that opening puts a damaged file aside, says so, and begins a new one."""
        ledger = Ledger(self.url)
        self.addCleanup(ledger.close)
        notices = ledger.open(_NOW)
        (aside,) = [each for each in self.folder.iterdir() if ".damaged-" in each.name and each.name[-4] != "-"]
        self.assertEqual(aside.name, "ledger.sqlite.damaged-20260921T141320")
        self.assertEqual(aside.read_bytes(), content)
        self.assertIn(aside.name, notices[0])
        self.assertIn("halted", " ".join(notices))
        self.assertEqual(ledger.load(_NOW).devices, {})
        ledger.write(Batch(1, devices=[_DEVICE]))
        ledger.close()
        ledger = self._open()
        self.assertEqual(len(self._devices(ledger)), 1)
        ledger.close()
        aside.unlink()

    def test_garbage(self) -> None:
        """A file that is no database is set aside, and a new one begun."""
        for content in (b"garbage" * 1000, b"x", b"SQLite format 3\0" + b"\xff" * 5000):
            with self.subTest(content[:20]):
                self.path.write_bytes(content)
                self._check_set_aside(content)

    def test_cut_file(self) -> None:
        """A file that was cut short is set aside, wherever it was cut."""
        self._fill()
        content = self.path.read_bytes()
        for end in (1, 20, 100, 512, 4096, 8192, len(content) // 2, len(content) - 4096):
            with self.subTest(end=end):
                for each in self.folder.iterdir():
                    each.unlink()
                self.path.write_bytes(content[:end])
                self._check_set_aside(content[:end])

    def test_emptied_file(self) -> None:
        """A file that was emptied, while what it said last is still in the log, is set aside with the log."""
        self.path.touch()
        Path(f"{self.path}-wal").write_bytes(b"log")
        self._check_set_aside(b"")
        (log,) = (each for each in self.folder.iterdir() if "damaged" in each.name)
        self.assertEqual((log.name[-4:], log.read_bytes()), ("-wal", b"log"))

    def test_damaged_page(self) -> None:
        """Damage that only loading finds is told apart, so that the caller can set the file aside."""
        self._fill()
        content = bytearray(self.path.read_bytes())
        root = self._root_of("devices")
        content[(root - 1) * 4096 : root * 4096] = b"\xff" * 4096
        self.path.write_bytes(content)
        ledger = self._open()
        self.assertRaises(LedgerDamagedError, ledger.load, _NOW)
        notices = ledger.begin_anew(_NOW)
        self.assertIn("damaged-20260921T141320", notices[0])
        self.assertEqual(ledger.load(_NOW).devices, {})
        self.assertEqual(len(self._names()), 4)

    def _root_of(self, table: str) -> int:
        with closing(sqlite3.connect(self.path)) as connection:
            ((root,),) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,))
            return int(root)

    def test_reader_sets_nothing_aside(self) -> None:
        """A reader tells of a damaged file, and leaves it where it is."""
        self.path.write_bytes(b"garbage" * 1000)
        self.assertRaises(LedgerError, Ledger(self.url).open_for_reading)
        self.assertEqual(self._names(), ["ledger.sqlite"])

    def test_locked(self) -> None:
        """A file that another program holds for long is neither read nor set aside, and what it keeps stays."""
        self._fill()
        self.patch(database, "LOCK_PATIENCE", 0.1)
        with closing(sqlite3.connect(self.path, isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            error = self.assertRaises(LedgerError, Ledger(self.url).open, _NOW)
            self.assertIn("locked", str(error))
        self.assertEqual(len(self._devices(self._open())), 1999)

    def test_locked_for_a_while(self) -> None:
        """A batch waits for another process that writes, and fails when that takes too long, and then works again."""
        self.patch(database, "LOCK_PATIENCE", 0.1)
        ledger = self._open()
        with closing(sqlite3.connect(self.path, isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            self.assertIn("locked", str(self.assertRaises(LedgerError, ledger.write, Batch(1, events=[_EVENT]))))
            self.assertEqual(ledger.events(1), [])
        ledger.write(Batch(1, events=[_EVENT]))
        self.assertEqual(len(ledger.events(1)), 1)

    def test_no_place(self) -> None:
        """A folder that isn't there, and a folder in place of the file, are told, and nothing is made."""
        self.path.mkdir()
        for path in (self.path, self.folder / "missing" / "ledger.sqlite", self.path / "x" / "ledger.sqlite"):
            with self.subTest(path.name):
                error = self.assertRaises(LedgerError, Ledger(sqlite_url(path)).open, _NOW)
                self.assertIn(str(path), str(error))
        self.assertEqual(self._names(), ["ledger.sqlite"])

    def test_full_disk(self) -> None:
        """A batch that no longer fits on the disk leaves all as it was; when there is room again, it is written."""
        with small_disk(self.folder / "disk", "1M") as disk:
            ledger = Ledger(sqlite_url(disk / "ledger.sqlite"))
            ledger.open(_NOW)
            ledger.write(Batch(1, rollouts=[attrs.evolve(_ROLLOUT, state=State.HALTED)]))
            before = str(ledger.load(_NOW))
            fill_disk(disk / "other", leave=100_000)
            large = Batch(2, devices=[attrs.evolve(_DEVICE, key=key, id=str(key)) for key in range(1, 1500)])
            error = self.assertRaises(LedgerError, ledger.write, large)
            self.assertIn("full", str(error))
            self.assertEqual(str(ledger.load(_NOW)), before)
            (disk / "other").unlink()
            ledger.write(large)
            self.assertEqual(len(ledger.load(_NOW).devices), 1499)
            ledger.close()

    def test_no_room_to_begin_anew(self) -> None:
        """A damaged file that was set aside is told also where there is no room for the new one."""
        with small_disk(self.folder / "disk", "60k") as disk:
            (disk / "ledger.sqlite").write_bytes(b"garbage" * 5000)
            message = str(self.assertRaises(LedgerError, Ledger(sqlite_url(disk / "ledger.sqlite")).open, _NOW))
            self.assertIn("ledger.sqlite.damaged-20260921T141320", message)
            self.assertIn("can't be opened", message)

    def test_full_disk_at_start(self) -> None:
        """Where there is no room for a ledger, that is told, and nothing is set aside."""
        with small_disk(self.folder / "disk", "20k") as disk:
            ledger = Ledger(sqlite_url(disk / "ledger.sqlite"))
            self.assertIn("full", str(self.assertRaises(LedgerError, ledger.open, _NOW)))
            self.assertEqual([each.name for each in disk.iterdir() if "damaged" in each.name], [])

    def test_read_only(self) -> None:
        """A file that can't be written is told at the start, and one that can't any more when it is written to."""
        with small_disk(self.folder / "disk", "2M") as disk:
            self.path = disk / "ledger.sqlite"
            self.url = sqlite_url(self.path)
            self._fill()
            make_read_only(disk)
            before = self.path.read_bytes()
            self.assertIn(str(self.path), str(self.assertRaises(LedgerError, Ledger(self.url).open, _NOW)))
            self.assertEqual(self.path.read_bytes(), before)

    def test_url(self) -> None:
        """URLs that can't be meant are told, without what may be a password in them."""
        for url in (
            "x y:secret@z",
            "mysql://u:secret@h/d",
            "sqlite://",
            "sqlite:///:memory:",
            "",
            "postgresql+:secret",
        ):
            with self.subTest(url):
                error = self.assertRaises(LedgerError, Ledger, url)
                self.assertNotIn("secret", str(error))
        self.assertEqual(Ledger(self.url).name, str(self.path))
        for url in ("postgres://u:secret@h/d", "postgresql+psycopg2://u:secret@h/d"):
            self.assertEqual(Ledger(url).name, "postgresql+psycopg://u:***@h/d")


class PostgreSQLLedgerTests(LedgerTests, SynchronousTestCase):
    """The ledger on a PostgreSQL server."""

    server: PostgreSQL

    def setUp(self) -> None:
        """Take an empty database."""
        self.server = postgresql()
        self.url = self.server.empty()
        if "any_rows" in self.id():
            self.ledger = self._open()

    def do(self, statement: str) -> None:
        """Carry out a statement, past the ledger."""
        self.server.do(statement)

    @settings(deadline=None, max_examples=30)
    @_any_rows
    def test_any_rows(self, drawn: _Drawn, replaced: bool, data: st.DataObject) -> None:
        """Whatever was written comes back as it was, also when it is written twice, or in place of something else."""
        self.check_any_rows(drawn, replaced, data)

    def test_unreachable(self) -> None:
        """A server that doesn't answer is told in one line, without the password."""
        for url in (
            "postgresql://ota:secret@127.0.0.1:1/ledger",
            "postgresql://ota:secret@/ledger?host=/nowhere",
            self.server.url("no_such_database"),
        ):
            with self.subTest(url):
                ledger = Ledger(url)
                for use in (lambda: ledger.open(_NOW), ledger.open_for_reading):  # noqa: B023
                    message = str(self.assertRaises(LedgerError, use))
                    self.assertNotIn("secret", message)
                    self.assertNotIn("\n", message)
                self.assertNotIn("secret", ledger.name)

    def test_restarted(self) -> None:
        """When the server goes away writing fails, and when it is back it works, with nothing lost."""
        ledger = self._open()
        ledger.write(Batch(1, events=[_EVENT]))
        self.server.stop()
        try:
            self.assertRaises(LedgerError, ledger.write, Batch(2, events=[_EVENT]))
            self.assertRaises(LedgerError, ledger.orders)
        finally:
            self.server.start()
        ledger.write(Batch(2, events=[_EVENT]))
        self.assertEqual(len(ledger.events(10)), 2)

    def test_lock_lost(self) -> None:
        """A server whose lock was lost takes it again before it writes."""
        ledger = self._open()
        ledger.write(Batch(1, events=[_EVENT]))
        self._end_sessions()
        ledger.write(Batch(2, events=[_EVENT]))
        self.assertEqual(len(ledger.events(10)), 2)
        self.assertIn("another", str(self.assertRaises(LedgerError, Ledger(self.url).open, _NOW)))

    def test_lock_lost_to_another(self) -> None:
        """A server that lost its lock to another writes no more, also not when that is gone: its memory is old."""
        ledger, other = self._open(), Ledger(self.url)
        self.addCleanup(other.close)
        ledger.write(Batch(1, events=[_EVENT]))
        self._end_sessions()
        other.open(_NOW)
        for _ in range(2):
            message = str(self.assertRaises(LedgerError, ledger.write, Batch(2, events=[_EVENT])))
            self.assertIn("another server (process ", message)
        other.write(Batch(2, devices=[_DEVICE]))
        other.close()
        for _ in range(2):
            message = str(self.assertRaises(LedgerError, ledger.write, Batch(2, events=[_EVENT])))
            self.assertIn("start it anew", message)
            self.assertNotIn("secret", message)
        ledger.close()
        self.assertEqual(self._devices(self._open()), [_DEVICE])

    def _end_sessions(self) -> None:
        """End all other connections to the database, and wait until they are gone."""
        others = "FROM pg_stat_activity WHERE datname = 'postgres' AND pid <> pg_backend_pid()"
        self.do(f"SELECT pg_terminate_backend(pid, 5000) {others}")

    def _wait_until_free(self) -> None:
        self._end_sessions()

    def test_encoding(self) -> None:
        """A database that can't keep every character is refused."""
        self.do("DROP DATABASE IF EXISTS old")
        self.do("CREATE DATABASE old TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'")
        self.assertIn("UTF8", str(self.assertRaises(LedgerError, Ledger(self.server.url("old")).open, _NOW)))

    def test_no_driver(self) -> None:
        """Where the package for PostgreSQL isn't installed, its name is told."""
        with mock.patch.dict(sys.modules, {"psycopg": None}):
            self.assertIn("psycopg", str(self.assertRaises(LedgerError, Ledger(self.url).open, _NOW)))
