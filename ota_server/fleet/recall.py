"""Reads what the ledger keeps back into the memory of the fleet; the counterpart of `fleet/ledger.py`, which writes."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Select, func, select

from ota_server.firmware.naming import Kind
from ota_server.fleet.device import DORMANT, Attempt, Device, Outcome, Place, Taken
from ota_server.fleet.journal import Memory, unpack_sightings
from ota_server.fleet.rhythm import add_interval
from ota_server.fleet.rollout import Rollout, Rollouts, State
from ota_server.fleet.schema import ATTEMPTS, DEVICES, MARKS, ROLLOUTS, SIGHTINGS

BATCH_MARK, KEY_MARK = "batch", "key"
"""Names of the largest numbers of a batch and of a device that were ever written."""

_CHUNK = 10_000
_SHARED = 65_536

_KINDS = {kind.value: kind for kind in Kind}
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}

_DEVICE = select(*DEVICES.c)
_ATTEMPT = select(*ATTEMPTS.c)


def recall(connection: Connection, now: float) -> Memory:
    """Return all that is known; `now` is in seconds since 1970. See Ledger.load."""
    with _uncollected():
        devices = _read_devices(connection, _read_open_attempts(connection))
        places = _read_places(connection)
        since = now - DORMANT
        fleet = Counter((each.channel, each.project) for each in devices.values() if each.last_seen >= since)
    for place, count in fleet.items():
        places.setdefault(place, Rollouts()).fleet = count
    marks = {row.name: row.value for row in connection.execute(select(*MARKS.c))}
    return Memory(devices, places, marks.get(KEY_MARK, 0) + 1, marks.get(BATCH_MARK, 0) + 1)


def recall_places(connection: Connection, now: float) -> dict[Place, Rollouts]:
    """Return the rollouts without reading every device; see Ledger.places."""
    places = _read_places(connection)
    statement = (
        select(DEVICES.c.channel, DEVICES.c.project, func.count())
        .where(DEVICES.c.last_seen >= now - DORMANT)
        .group_by(DEVICES.c.channel, DEVICES.c.project)
    )
    for channel, project, count in connection.execute(statement):
        places.setdefault((channel, project), Rollouts()).fleet = count
    return places


def recall_device(connection: Connection, id: str) -> Device | None:  # noqa: A002
    """Return one device with its attempts that aren't settled; see Ledger.device."""
    row = connection.execute(_DEVICE.where(DEVICES.c.id == id)).one_or_none()
    if row is None:
        return None
    device = _Maker().device(row)
    device.attempts = tuple(each for each in recall_attempts(connection, id) if not each.settled)
    _replay(connection, {device.key: device})
    return device


def recall_attempts(connection: Connection, id: str) -> list[Attempt]:  # noqa: A002
    """Return all attempts of one device; see Ledger.attempts_of."""
    key = select(DEVICES.c.key).where(DEVICES.c.id == id).scalar_subquery()
    make = _Maker().attempt
    return [make(row) for row in connection.execute(_ATTEMPT.where(ATTEMPTS.c.device == key).order_by("offered_at"))]


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pause the garbage collector, which would go through millions of new objects again and again, and find none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Shared(dict[Any, Any]):
    """Gives the first of equal values in place of each, of so many different ones as are likely to recur."""

    def __missing__(self, value: Any) -> Any:
        if len(self) < _SHARED:
            self[value] = value
        return value


class _Maker:
    """Makes devices and attempts of rows; what recurs in them is one object, since there may be a million."""

    def __init__(self) -> None:
        self._names, self._texts, self._addresses, self._rhythms = (_Shared() for _ in range(4))
        self._numbers, self._takens = _Shared(), _Shared()

    def device(self, row: Sequence[Any]) -> Device:
        """Make a device of a row of DEVICES."""
        key, id_, dialect, channel, project, first, last, address, version, image, chip, rhythm, *taken, downloads = row
        names, texts = self._names, self._texts
        return Device(
            key,
            id_,
            names[dialect],
            names[channel],
            names[project],
            first,
            first if last == first else last,
            self._addresses[address],
            texts[version],
            texts[image],
            names[chip],
            self._rhythms[rhythm],
            (),
            None if taken[0] is None else self._takens[Taken(taken[0], taken[1], tuple(taken[2:5]), taken[5])],
            downloads,
        )

    def attempt(self, row: Sequence[Any]) -> Attempt:
        """Make an attempt of a row of ATTEMPTS."""
        (_, channel, project, major, minor, patch, kind, image, before, offered_at, outcome, *rest) = row
        names, texts = self._names, self._texts
        return Attempt(
            names[channel],
            names[project],
            _KINDS[kind],
            self._numbers[major, minor, patch],
            texts[image],
            texts[before],
            offered_at,
            _OUTCOMES[outcome],
            *rest,
        )


def _stream_devices(connection: Connection) -> Iterator[Sequence[Any]]:
    """Yield the rows of all devices; of SQLite as its driver gives them, which takes a fifth less time."""
    if connection.dialect.name != "sqlite":
        return _stream(connection, _DEVICE)
    driver: Any = connection.connection.driver_connection
    return iter(driver.execute(str(_DEVICE.compile(connection))))


def _stream(connection: Connection, statement: Select[*tuple[Any, ...]]) -> Iterator[Sequence[Any]]:
    """Yield rows a few thousand at a time: neither the database's library nor this holds all of them."""
    with connection.execution_options(yield_per=_CHUNK).execute(statement) as result:
        yield from result


def _read_open_attempts(connection: Connection) -> dict[int, tuple[Attempt, ...]]:
    """Return the attempts that aren't settled, by the keys of their devices."""
    make = _Maker().attempt
    found: dict[int, tuple[Attempt, ...]] = {}
    for row in _stream(connection, _ATTEMPT.where(~ATTEMPTS.c.settled)):
        found[row[0]] = (*found.get(row[0], ()), make(row))
    return found


def _read_devices(connection: Connection, attempts: dict[int, tuple[Attempt, ...]]) -> dict[str, Device]:
    devices: dict[str, Device] = {}
    seen: dict[int, Device | None] = {}
    for began, packed in connection.execute(select(SIGHTINGS.c.began, SIGHTINGS.c.packed)):
        seen.update((key, None) for key, _ in unpack_sightings(began, packed))
    make = _Maker().device
    for row in _stream_devices(connection):
        device = make(row)
        devices[device.id] = device
        if device.key in attempts:
            device.attempts = attempts.pop(device.key)
        if device.key in seen:
            seen[device.key] = device
    _replay(connection, seen)
    # One that grew step by step may have four times the room that it needs.
    fitting: dict[str, Any] = dict.fromkeys(devices)
    fitting.update(devices)
    return fitting


def _replay(connection: Connection, devices: Mapping[int, Device | None]) -> None:
    """Apply the sightings that are kept, in their order, to devices by their keys."""
    statement = select(SIGHTINGS.c.began, SIGHTINGS.c.packed).order_by(SIGHTINGS.c.id)
    for began, packed in connection.execute(statement):
        for key, time in unpack_sightings(began, packed):
            device = devices.get(key)
            if device is not None and time > device.last_seen:
                device.rhythm = add_interval(device.rhythm, time - device.last_seen)
                device.last_seen = time
                device.stale = True


def _read_places(connection: Connection) -> dict[Place, Rollouts]:
    """Return the rollouts with their counts, of the attempts that count."""
    places: dict[Place, Rollouts] = {}
    for row in connection.execute(select(*ROLLOUTS.c)):
        channel, project, major, minor, patch, state, stage, seats, started_at, stage_since, acknowledged, why = row
        version = (major, minor, patch)
        places.setdefault((channel, project), Rollouts()).by_version[version] = Rollout(
            channel, project, version, started_at, stage_since, State(state), stage, seats, acknowledged, why
        )
    _count(connection, places)
    for rollouts in places.values():
        rollouts.update()
    return places


def _count(connection: Connection, places: dict[Place, Rollouts]) -> None:
    columns = ATTEMPTS.c
    release = (columns.channel, columns.project, columns.major, columns.minor, columns.patch)
    statement = select(*release, columns.outcome, func.count(), func.max(columns.offered_at)).where(columns.counted)
    for row in _stream(connection, statement.group_by(*release, columns.outcome)):
        rollouts = places.get((row[0], row[1]))
        rollout = None if rollouts is None else rollouts.by_version.get((row[2], row[3], row[4]))
        if rollout is not None:
            rollout.outcomes[_OUTCOMES[row[5]]] = row[6]
            rollout.admitted += row[6]
            rollout.admitted_at = max(rollout.admitted_at, row[7])
