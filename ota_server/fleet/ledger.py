"""The memory of the fleet on disk: devices, attempts, rollouts, events and orders, in SQLite or PostgreSQL.

Everything here blocks, so it runs in a thread; one thread at a time may use a Ledger.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import attrs
from sqlalchemy import Connection, Select, Table, bindparam, delete, func, insert, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from ota_server.firmware.versions import Numbers
from ota_server.fleet.database import Database, sqlite_url
from ota_server.fleet.device import Attempt, Device, Place
from ota_server.fleet.errors import LedgerDamagedError, LedgerError
from ota_server.fleet.journal import AttemptRow, Batch, DeviceRow, Event, Memory, Order, RolloutRow
from ota_server.fleet.recall import (
    BATCH_MARK,
    KEY_MARK,
    recall,
    recall_attempts,
    recall_device,
    recall_places,
)
from ota_server.fleet.rollout import Rollouts
from ota_server.fleet.schema import ATTEMPTS, DEVICES, EVENTS, MARKS, ORDERS, ROLLOUTS, SIGHTINGS

__all__ = ["EventNumber", "Ledger", "LedgerDamagedError", "LedgerError", "sqlite_url"]

EventNumber = tuple[int, int]
"""The number of an event: that of its batch, and its place in the batch. Later events have larger ones."""

LONGEST = 255
"""Short texts are cut after so many characters: devices may tell any, and PostgreSQL can't index long ones."""

# The first two never change.
_RARE = ("id", "first_seen", "project", "version")

_Row = dict[str, Any]


class Ledger:
    """The ledger at a URL of SQLAlchemy's form; see sqlite_url. All methods raise LedgerError."""

    def __init__(self, url: str) -> None:
        self._database = Database(url)

    @property
    def name(self) -> str:
        """Which ledger this is, for people: its path, or its URL without the password."""
        return self._database.name

    def open(self, now: float) -> tuple[str, ...]:
        """Open for reading and writing, and bring the tables up to date, after a copy of an SQLite file.

        `now` is in seconds since 1970. An SQLite file that is damaged is set aside, and a new one begun. Returns
        what the owner has to be told loudly, as sentences. Where this raises LedgerError, nothing was changed.
        """
        return self._database.open(now)

    def begin_anew(self, now: float) -> tuple[str, ...]:
        """Set the file aside as `open` does, for when `load` raises LedgerDamagedError; returns what `open` does."""
        return self._database.begin_anew(now)

    def open_for_reading(self) -> None:
        """Open for reading only, beside a running server. Only a ledger of this version of the server can be read."""
        self._database.open_for_reading()

    def close(self) -> None:
        """Close; harmless when it isn't open."""
        self._database.close()

    def load(self, now: float) -> Memory:
        """Return all that is known. Devices not seen for 30 days before `now` don't count as the fleet of a place.

        The sightings that are kept are applied to their devices. Garbage is collected before and after, not in
        between: whoever calls may want to `gc.freeze()` what this returns.
        """
        with self._database.reading() as connection:
            memory = recall(connection, now)
            if self._database.dialect == "sqlite":
                connection.exec_driver_sql("PRAGMA shrink_memory")
            return memory

    def places(self, now: float) -> dict[Place, Rollouts]:
        """Return the rollouts of every place, as `load` does, without reading every device."""
        with self._database.reading() as connection:
            return recall_places(connection, now)

    def device(self, id: str) -> Device | None:  # noqa: A002
        """Return one device by its id with the attempts that aren't settled, or None where it isn't known."""
        with self._database.reading() as connection:
            return recall_device(connection, id)

    def attempts_of(self, id: str) -> list[Attempt]:  # noqa: A002
        """Return all attempts of a device, also those that are settled, in the order that they were offered."""
        with self._database.reading() as connection:
            return recall_attempts(connection, id)

    def events(
        self,
        limit: int,
        *,
        before: EventNumber | None = None,
        after: EventNumber | None = None,
        channel: str | None = None,
        project: str | None = None,
        device: str | None = None,
        kind: str | None = None,
        since: float | None = None,
    ) -> list[tuple[EventNumber, Event]]:
        """Return events with their numbers: the newest first, or with `after` those that follow it, the oldest first.

        `before` and `after` are exclusive. `channel`, `project` and `device` leave out what isn't about these, `kind`
        what is of another kind, and `since` what came before that time, in seconds since 1970.
        """
        number = (EVENTS.c.batch, EVENTS.c.place)
        statement = _among(select(*EVENTS.c), channel, project, device, kind, since).limit(limit)
        if before is not None:
            statement = statement.where(tuple_(*number) < before)
        if after is not None:
            statement = statement.where(tuple_(*number) > after).order_by(*number)
        else:
            statement = statement.order_by(*(each.desc() for each in number))
        with self._database.reading() as connection:
            rows = connection.execute(statement).mappings().all()
        return [
            ((row["batch"], row["place"]), Event(row["time"], row["actor"], row["kind"], row["text"], *_subject(row)))
            for row in rows
        ]

    def count_events(
        self,
        *,
        channel: str | None = None,
        project: str | None = None,
        device: str | None = None,
        kind: str | None = None,
        since: float | None = None,
    ) -> int:
        """Return how many events there are; see events."""
        statement = _among(select(func.count()).select_from(EVENTS), channel, project, device, kind, since)
        with self._database.reading() as connection:
            return int(connection.execute(statement).scalar_one())

    def orders(self) -> list[Order]:
        """Return what operators want done and isn't yet, in the order that it was given."""
        with self._database.reading() as connection:
            statement = select(*ORDERS.c).where(~ORDERS.c.done).order_by(ORDERS.c.id)
            rows = connection.execute(statement).mappings().all()
        return [Order(row["id"], row["time"], row["actor"], row["kind"], *_subject(row)) for row in rows]

    def give_order(
        self,
        now: float,
        actor: str,
        kind: str,
        *,
        channel: str | None = None,
        project: str | None = None,
        version: Numbers | None = None,
        device: str | None = None,
    ) -> int:
        """Leave an order for the server, which may be running beside this, and return its id; see Order.

        The ledger needs not be open for this.
        """
        order = {
            "time": now,
            "actor": _short(actor),
            "kind": _short(kind),
            **_about(channel, project, version, device),
            "done": False,
        }
        with self._database.writing_beside() as connection:
            key = connection.execute(insert(ORDERS).values(order)).inserted_primary_key
        assert key is not None
        return int(key[0])

    def write(self, batch: Batch) -> None:
        """Write a batch: all of it, or where this raises LedgerError nothing.

        Writing the same batch again does no harm, for when nobody knows whether the first time came through.
        """
        forgotten = frozenset(batch.forgotten)
        devices = [_device(each) for each in batch.devices if each.key not in forgotten]
        attempts = [_attempt(each) for each in batch.attempts if each.device not in forgotten]
        marks = [{"name": BATCH_MARK, "value": batch.id}]
        if batch.devices:
            marks.append({"name": KEY_MARK, "value": max(each.key for each in batch.devices)})
        with self._database.writing() as connection:
            # First, as one of their ids may be back under another key.
            self._delete(connection, forgotten)
            self._put_devices(connection, devices)
            self._put(connection, ATTEMPTS, attempts)
            self._put(connection, ROLLOUTS, [_rollout(each) for each in batch.rollouts])
            self._put(connection, EVENTS, _events(batch), replace=False)
            if batch.sightings:
                sightings = {"id": batch.id, "began": batch.began, "packed": batch.sightings}
                self._put(connection, SIGHTINGS, [sightings], replace=False)
            connection.execute(delete(SIGHTINGS).where(SIGHTINGS.c.id <= batch.checkpoint))
            if batch.done:
                done = update(ORDERS).where(ORDERS.c.id == bindparam("order")).values(done=True)
                connection.execute(done, [{"order": each} for each in batch.done])
            self._put(connection, MARKS, marks, only_larger="value")

    def _delete(self, connection: Connection, forgotten: Iterable[int]) -> None:
        keys = [{"forgotten": key} for key in forgotten]
        if keys:
            connection.execute(delete(ATTEMPTS).where(ATTEMPTS.c.device == bindparam("forgotten")), keys)
            connection.execute(delete(DEVICES).where(DEVICES.c.key == bindparam("forgotten")), keys)

    def _put_devices(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        if not rows:
            return
        self._put(connection, DEVICES, rows, leave=_RARE)
        # SQLite writes an index anew for each column that is set, whether it changes or not. So what indexes hold is
        # only set where it changes, which halves what is written for a device that only checked in again.
        connection.execute(
            update(DEVICES)
            .where(DEVICES.c.key == bindparam("of"))
            .where(
                (DEVICES.c.project != bindparam("new_project"))
                | DEVICES.c.version.is_distinct_from(bindparam("new_version"))
            )
            .values(project=bindparam("new_project"), version=bindparam("new_version")),
            [{"of": row["key"], "new_project": row["project"], "new_version": row["version"]} for row in rows],
        )

    def _put(
        self,
        connection: Connection,
        table: Table,
        rows: Sequence[Mapping[str, Any]],
        *,
        replace: bool = True,
        leave: Collection[str] = (),
        only_larger: str | None = None,
    ) -> None:
        """Insert rows. Those that are there are left, or replaced but for some columns, or where one is larger now."""
        if not rows:
            return
        statement = (postgresql.insert if self._database.dialect == "postgresql" else sqlite.insert)(table)
        keys = [each.name for each in table.primary_key.columns]
        if replace:
            new = statement.excluded
            statement = statement.on_conflict_do_update(
                index_elements=keys,
                set_={each.name: new[each.name] for each in table.columns if each.name not in (*keys, *leave)},
                where=None if only_larger is None else new[only_larger] > table.c[only_larger],
            )
        else:
            statement = statement.on_conflict_do_nothing(index_elements=keys)
        connection.execute(statement, rows)


def _among(
    statement: Select[*tuple[Any, ...]],
    channel: str | None,
    project: str | None,
    device: str | None,
    kind: str | None,
    since: float | None,
) -> Select[*tuple[Any, ...]]:
    """Leave out events that aren't about these."""
    columns = EVENTS.c
    wanted = ((columns.channel, channel), (columns.project, project), (columns.device, device), (columns.kind, kind))
    for column, value in wanted:
        if value is not None:
            statement = statement.where(column == _clean(value))
    return statement if since is None else statement.where(columns.time >= since)


def _clean(value: str) -> str:
    """Return a text as both databases can keep it, without NUL and without halves of surrogate pairs."""
    if value.isascii() and "\0" not in value:
        return value
    return value.encode("utf-8", "replace").decode("utf-8").replace("\0", "\N{REPLACEMENT CHARACTER}")


def _short(value: str) -> str:
    return _clean(value[:LONGEST])


def _short_or_none(value: str | None) -> str | None:
    return None if value is None else _short(value)


def _version(numbers: Numbers | None, prefix: str = "") -> _Row:
    major, minor, patch = numbers or (None, None, None)
    return {f"{prefix}major": major, f"{prefix}minor": minor, f"{prefix}patch": patch}


def _about(channel: str | None, project: str | None, version: Numbers | None, device: str | None) -> _Row:
    return {
        "channel": _short_or_none(channel),
        "project": _short_or_none(project),
        **_version(version),
        "device": _short_or_none(device),
    }


def _subject(row: Mapping[Any, Any]) -> tuple[str | None, str | None, Numbers | None, str | None]:
    """Return channel, project, version and device of a row; the counterpart of _about."""
    version = None if row["major"] is None else (row["major"], row["minor"], row["patch"])
    return row["channel"], row["project"], version, row["device"]


def _plain(row: DeviceRow | AttemptRow | RolloutRow) -> _Row:
    """Return the fields of a row, with texts as they can be kept."""
    return {
        name: _short(value) if isinstance(value, str) else value
        for name, value in ((name, getattr(row, name)) for name in _FIELDS[type(row)])
    }


_FIELDS = {kind: tuple(each.name for each in attrs.fields(kind)) for kind in (DeviceRow, AttemptRow, RolloutRow)}


def _device(row: DeviceRow) -> _Row:
    values = _plain(row)
    taken = values.pop("taken")
    channel, project, version, image = taken or (None, None, None, None)
    values.update(_version(version, "taken_"), taken_channel=channel, taken_project=project, taken_image=image)
    return values


def _attempt(row: AttemptRow) -> _Row:
    values = _plain(row)
    return {**values, **_version(values.pop("version")), "kind": row.kind.value, "outcome": row.outcome.value}


def _rollout(row: RolloutRow) -> _Row:
    values = _plain(row)
    values.update(_version(values.pop("version")), state=row.state.value, why=_clean(row.why))
    return values


def _events(batch: Batch) -> list[_Row]:
    return [
        {
            "batch": batch.id,
            "place": place,
            "time": event.time,
            "actor": _short(event.actor),
            "kind": _short(event.kind),
            "text": _clean(event.text),
            **_about(event.channel, event.project, event.version, event.device),
        }
        for place, event in enumerate(batch.events)
    ]
