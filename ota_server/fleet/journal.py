"""What goes from the memory of the fleet to the ledger: `Batch`es of changes, written together or not at all."""

from __future__ import annotations

import enum
import sys
from array import array
from collections.abc import Iterator, Sequence

import attrs

from ota_server.firmware.naming import Kind
from ota_server.firmware.versions import Numbers
from ota_server.fleet.device import Device, Outcome, Place, Taken
from ota_server.fleet.rollout import Rollouts, State


@attrs.frozen
class DeviceRow:
    """A device as it is to be written; see Device."""

    key: int
    id: str
    dialect: str | None
    channel: str
    project: str
    first_seen: float
    last_seen: float
    address: str
    version: str | None
    image: str | None
    chip: str | None
    rhythm: bytes
    taken: Taken | None
    taken_downloads: int


@attrs.frozen
class AttemptRow:
    """An attempt as it is to be written; `device` is the device's key. There is one for each device and image."""

    device: int
    channel: str
    project: str
    kind: Kind
    version: Numbers
    image: str
    before: str | None
    offered_at: float
    outcome: Outcome
    outcome_at: float
    downloaded_at: float | None
    downloads: int
    fetched: bool
    braked_until: float
    acknowledged: bool
    settled: bool
    counted: bool


@attrs.frozen
class RolloutRow:
    """A rollout as it is to be written; its counts follow from the attempts."""

    channel: str
    project: str
    version: Numbers
    state: State
    stage: int
    seats: int | None
    started_at: float
    stage_since: float
    acknowledged: int
    why: str


class Actor(enum.StrEnum):
    """Who decided, where it was no person, whose events bear `operator:` and a name."""

    SERVER = "server"


@attrs.frozen
class Event:
    """Something that the operator or the server decided; events are only ever added. `time` is in seconds since 1970.

    `kind` is a short stable word. `text` says for people what happened. What doesn't concern it is None.
    """

    time: float
    actor: str
    kind: str
    text: str
    channel: str | None = None
    project: str | None = None
    version: Numbers | None = None
    device: str | None = None


@attrs.frozen
class Order:
    """What an operator wants the server to do, left in the ledger until that is done; see Event."""

    id: int
    time: float
    actor: str
    kind: str
    channel: str | None
    project: str | None
    version: Numbers | None
    device: str | None


class SightingsLog:
    """Check-ins that changed nothing but when a device was last seen: keys of devices, and times, packed.

    A check-in is eight bytes here, where the row of its device is a page of the database. `began` is the time that the
    others count from, in seconds since 1970.
    """

    def __init__(self, began: float) -> None:
        self.began = began
        self.keys = array("I")
        self.offsets = array("f")

    def __len__(self) -> int:
        return len(self.keys)

    def add(self, key: int, now: float) -> None:
        """Add a check-in of the device with this key."""
        self.keys.append(key)
        self.offsets.append(now - self.began)

    def pack(self) -> bytes:
        """Return what was added: the keys, then the times after `began` in seconds, little-endian, of 4 bytes each."""
        keys, offsets = self.keys[:], self.offsets[:]
        _straighten(keys)
        _straighten(offsets)
        return keys.tobytes() + offsets.tobytes()


def unpack_sightings(began: float, packed: bytes) -> Iterator[tuple[int, float]]:
    """Yield (key, time in seconds since 1970) of what SightingsLog.pack returned; what is no such bytes yields less."""
    half = len(packed) // 8 * 4
    keys, offsets = array("I"), array("f")
    keys.frombytes(packed[:half])
    offsets.frombytes(packed[half : 2 * half])
    _straighten(keys)
    _straighten(offsets)
    for key, offset in zip(keys, offsets, strict=True):
        yield key, began + offset


def _straighten(values: array[int] | array[float]) -> None:
    if sys.byteorder == "big":
        values.byteswap()


@attrs.define
class Batch:
    """Changes to be written together.

    `sightings` and `began` are those of a SightingsLog, under the number `id`, which rises from batch to batch; the
    sightings of all batches up to `checkpoint` are in the rows of their devices by now, and may be dropped.
    `forgotten` are keys of devices that are to be removed with their attempts. `done` are the ids of orders that have
    been followed.
    """

    id: int
    began: float = 0.0
    sightings: bytes = b""
    checkpoint: int = 0
    devices: Sequence[DeviceRow] = ()
    forgotten: Sequence[int] = ()
    attempts: Sequence[AttemptRow] = ()
    rollouts: Sequence[RolloutRow] = ()
    events: Sequence[Event] = ()
    done: Sequence[int] = ()


@attrs.define
class Memory:
    """What is known at the start: all devices by their ids, with attempts that aren't settled, and all rollouts.

    `next_key` is the first key that no device had, `next_batch` the first id that no batch had.
    """

    devices: dict[str, Device] = attrs.field(factory=dict)
    places: dict[Place, Rollouts] = attrs.field(factory=dict)
    next_key: int = 1
    next_batch: int = 1
