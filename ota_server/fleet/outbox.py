"""What has changed in memory and waits to be written to the ledger.

Changes are kept by what they change, so that a ledger that stands still makes nothing grow: a device that changes a
thousand times meanwhile is one row. Only sightings and events pile up, and both have a bound; what is lost is counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice

import attrs

from ota_server.firmware.naming import Kind
from ota_server.firmware.versions import Numbers
from ota_server.fleet.device import Attempt, Device
from ota_server.fleet.journal import AttemptRow, Batch, DeviceRow, Event, RolloutRow, SightingsLog
from ota_server.fleet.rollout import Rollout

CHECKPOINT = 600.0
"""How long the row of a device may be behind the sightings, in seconds. So a device that checks in every minute costs
one row in ten minutes, and a restart has ten minutes of sightings to read."""

MAX_ROWS = 2000
"""How many rows that are only behind the sightings are written in one batch."""

MAX_SIGHTINGS = 1_000_000
"""How many check-ins wait at most; further ones are lost, should the process end before the ledger works again."""

MAX_EVENTS = 10_000
"""The same of events that may be many."""

_ORDINARY = {"braked", "waiting", "refused"}

MAX_WRITTEN = 10_000
"""How many rows of devices, and how many of attempts, are written in one batch: to make more takes too long."""


class Outbox:
    """Collects changes, and gives them out as batches.

    A batch that was given out comes first until it is confirmed, since nobody knows what became of it; to write it
    twice does no harm.
    """

    def __init__(self, next_batch: int, stale: Iterable[Device], now: float) -> None:
        self.lost = 0
        """How many check-ins and events were lost so far."""
        self._next = next_batch
        self._sightings = SightingsLog(now)
        self._devices: dict[int, Device] = {}
        self._attempts: dict[tuple[int, str, str, Numbers, Kind, str], AttemptRow] = {}
        self._rollouts: dict[tuple[str, str, Numbers], RolloutRow] = {}
        self._events: list[Event] = []
        self._forgotten: list[int] = []
        self._done: list[int] = []
        self._effects: list[Callable[[], None]] = []
        # Devices whose rows are behind, oldest first; and how many of them each batch brought, with its time. Those
        # since the last batch are in no run yet.
        self._stale = deque(stale)
        self._in_runs = len(self._stale)
        self._runs: deque[list[float]] = deque([[0, 0.0, self._in_runs]] if self._stale else [])
        self._pending: tuple[Batch, list[Callable[[], None]]] | None = None

    def __len__(self) -> int:
        """Return how many changes wait, without those of the batch that was given out."""
        return (
            len(self._sightings)
            + len(self._devices)
            + len(self._attempts)
            + len(self._rollouts)
            + len(self._events)
            + len(self._forgotten)
            + len(self._done)
        )

    @property
    def unwritten(self) -> int:
        """How many changes aren't in the ledger yet."""
        return len(self) + (_size_of(self._pending[0]) if self._pending is not None else 0)

    @property
    def last(self) -> int:
        """The id of the batch that holds what was noted last, or will; 0 where all is in the ledger."""
        if len(self):
            return self._next
        return 0 if self._pending is None else self._pending[0].id

    def saw(self, device: Device, now: float) -> None:
        """Note a check-in that changed nothing else, at a time in seconds since 1970."""
        if device.unwritten:
            return
        sightings = self._sightings
        if len(sightings.keys) >= MAX_SIGHTINGS:
            self.lost += 1
            return
        # As SightingsLog.add does, but this is done for every check-in, and a call costs.
        sightings.keys.append(device.key)
        sightings.offsets.append(now - sightings.began)
        if not device.stale:
            device.stale = True
            self._stale.append(device)

    def changed(self, device: Device) -> None:
        """Note that a device's row has to be written."""
        if not device.unwritten:
            device.unwritten = True
            self._devices[device.key] = device

    def attempted(self, device: Device, attempt: Attempt) -> None:
        """Note an attempt as it is now."""
        # The same bytes may be those of several releases.
        place = (
            device.key,
            attempt.channel,
            attempt.project,
            attempt.version,
            attempt.kind,
            attempt.image,
        )
        self._attempts[place] = _attempt_row(device.key, attempt)

    def rolled(self, rollout: Rollout) -> None:
        """Note a rollout as it is now."""
        self._rollouts[rollout.channel, rollout.project, rollout.version] = rollout_row(rollout)

    def plan(self, row: RolloutRow, effect: Callable[[], None]) -> None:
        """Note a step of a rollout that takes effect only once it is written."""
        self._rollouts[row.channel, row.project, row.version] = row
        self._effects.append(effect)

    def told(self, event: Event) -> None:
        """Note an event."""
        # What is rare and weighty finds room beyond.
        if len(self._events) >= (MAX_EVENTS if event.kind in _ORDINARY else 2 * MAX_EVENTS):
            self.lost += 1
            return
        self._events.append(event)

    def forgot(self, device: Device) -> None:
        """Note that a device and its attempts are to be removed."""
        self._devices.pop(device.key, None)
        # What waits behind a stale row isn't found again.
        device.stale = False
        device.unwritten = True
        self._forgotten.append(device.key)

    def followed(self, order: int) -> None:
        """Note that an order has been followed."""
        self._done.append(order)

    def take(self, now: float) -> Batch | None:
        """Give out what waits; the same batch again until it is confirmed. None where nothing waits."""
        if self._pending is not None:
            return self._pending[0]
        if len(self._stale) > self._in_runs:
            self._runs.append([self._next, now, len(self._stale) - self._in_runs])
            self._in_runs = len(self._stale)
        self._add_stale(now)
        if not len(self):
            return None
        devices = list(islice(self._devices.values(), MAX_WRITTEN))
        attempts = dict(islice(self._attempts.items(), MAX_WRITTEN))
        for device in devices:
            device.unwritten = False
            device.stale = False
            del self._devices[device.key]
        for place in attempts:
            del self._attempts[place]
        if self._attempts and self._forgotten:
            # They would be written after their devices were removed.
            gone = set(self._forgotten)
            self._attempts = {place: row for place, row in self._attempts.items() if place[0] not in gone}
        while self._stale and not self._stale[0].stale:
            self._drop_oldest()
        batch = Batch(
            id=self._next,
            began=self._sightings.began,
            sightings=self._sightings.pack(),
            # What the rows left over are to hold is still in the sightings.
            checkpoint=0 if self._devices else int(self._runs[0][0]) - 1 if self._runs else self._next,
            devices=[_device_row(device) for device in devices],
            forgotten=self._forgotten,
            attempts=list(attempts.values()),
            rollouts=list(self._rollouts.values()),
            events=self._events,
            done=self._done,
        )
        self._pending = (batch, self._effects)
        self._next += 1
        self._sightings = SightingsLog(now)
        self._rollouts = {}
        self._events, self._forgotten, self._done, self._effects = [], [], [], []
        return batch

    def confirm(self) -> None:
        """Note that the batch given out is on disk: what was planned in it takes effect."""
        assert self._pending is not None
        _, effects = self._pending
        self._pending = None
        for effect in effects:
            effect()

    def _add_stale(self, now: float) -> None:
        """Let rows be written that have been behind the sightings for long enough."""
        left = MAX_ROWS
        while left and self._runs and (not self._stale[0].stale or self._runs[0][1] <= now - CHECKPOINT):
            device = self._stale[0]
            if device.stale and not device.unwritten:
                device.unwritten = True
                self._devices[device.key] = device
                left -= 1
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._stale.popleft()
        self._in_runs -= 1
        self._runs[0][2] -= 1
        if not self._runs[0][2]:
            self._runs.popleft()


def _size_of(batch: Batch) -> int:
    return (
        len(batch.sightings) // 8
        + len(batch.devices)
        + len(batch.attempts)
        + len(batch.rollouts)
        + len(batch.events)
        + len(batch.forgotten)
        + len(batch.done)
    )


def _device_row(device: Device) -> DeviceRow:
    return DeviceRow(
        device.key,
        device.id,
        device.dialect,
        device.channel,
        device.project,
        device.first_seen,
        device.last_seen,
        device.address,
        device.version,
        device.image,
        device.chip,
        device.rhythm,
        device.taken,
        device.taken_downloads,
    )


def _attempt_row(device: int, attempt: Attempt) -> AttemptRow:
    return AttemptRow(device, *attrs.astuple(attempt, recurse=False))


def rollout_row(rollout: Rollout) -> RolloutRow:
    """Return a rollout as it is written."""
    return RolloutRow(
        rollout.channel,
        rollout.project,
        rollout.version,
        rollout.state,
        rollout.stage,
        rollout.seats,
        rollout.started_at,
        rollout.stage_since,
        rollout.acknowledged,
        rollout.why,
    )
