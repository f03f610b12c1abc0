"""The memory of a large fleet: what it adds to a check, how much room a device takes, and how long a start takes.

The ledger is made by the program's own writing, without a server. A server that remembers nothing is measured beside
the one that knows every device, by turns, so that a change of the machine meets both.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
import statistics
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench import load, processes
from bench.measures import Numbers, Plan
from bench.peers import CHECK_PATH, PROJECT, VERSION, Ota
from ota_server.fleet.journal import Batch, DeviceRow, SightingsLog
from ota_server.fleet.ledger import Ledger, sqlite_url
from ota_server.fleet.outbox import MAX_ROWS
from ota_server.keeper import INTERVAL

_BATCH = 10_000
_DAY = 86400.0

_HOURS = 6
"""Within how many hours before now all devices have checked in."""

_BEHIND = 20
"""The rows of one in so many devices are behind the sightings, as a server leaves them that is stopped at work."""

_FEW = 1000
"""How many devices the server with a small ledger knows."""

_LOCAL = "127.0.0.1"
_FILE = "ledger.sqlite"


@dataclass(frozen=True)
class Ledgers:
    """Two ledgers of the same devices: in one each called from an address of its own, in the other from here."""

    apart: Path
    local: Path


class _Remembering(Ota):
    """This server with a given ledger, or with an empty one."""

    key = "ota-ledger"

    def forget(self, ledger: Path | None = None) -> None:
        """Begin with a copy of a ledger."""
        super().forget()
        if ledger is not None:
            state = self.scratch / "state"
            state.mkdir(parents=True)
            shutil.copyfile(ledger, state / _FILE)


class _Forgetting(Ota):
    """This server without a ledger."""

    key = "ota-none"

    def command(self) -> list[str]:
        """Return the command, which names no database."""
        return [*super().command(), "--database", "none"]


@contextlib.contextmanager
def made(folder: Path, count: int) -> Iterator[Ledgers]:
    """Make ledgers of so many devices, and remove them at the end."""
    ledgers = Ledgers(folder / "apart.sqlite", folder / "local.sqlite")
    folder.mkdir()
    try:
        _write(ledgers.apart, count)
        shutil.copyfile(ledgers.apart, ledgers.local)
        with contextlib.closing(sqlite3.connect(ledgers.local)) as database, database:
            database.execute("UPDATE devices SET address = ?", (_LOCAL,))
        yield ledgers
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, count: int) -> None:
    """Write devices, and some check-ins of the last minutes that are not in their rows yet."""
    now, chance = time.time(), random.Random(1)
    ledger = Ledger(sqlite_url(path))
    ledger.open(now)
    try:
        for start in range(0, count, _BATCH):
            keys = range(start + 1, min(start + _BATCH, count) + 1)
            ledger.write(Batch(id=start // _BATCH + 1, devices=[_device(key, now, chance) for key in keys]))
        sightings = SightingsLog(now - 300)
        for key in chance.sample(range(1, count + 1), count // _BEHIND):
            sightings.add(key, now - 300 * chance.random())
        ledger.write(Batch(id=count // _BATCH + 2, began=sightings.began, sightings=sightings.pack()))
    finally:
        ledger.close()


def _device(key: int, now: float, chance: random.Random) -> DeviceRow:
    """Return a device that tells what the load tells of it, with a rhythm about one of four, from its own address."""
    index, pause = key - 1, chance.choice((60, 300, 3600, 6 * 3600))
    rhythm = struct.pack("<7I", *(int(pause * chance.uniform(0.9, 1.1)) for _ in range(7)))
    return DeviceRow(
        key=key,
        id=load.mac_address(index),
        dialect="esp8266",
        channel="stable",
        project=PROJECT,
        first_seen=now - (1 + 29 * chance.random()) * _DAY,
        last_seen=now - 300 - _HOURS * 3600 * chance.random(),
        address=f"10.{index >> 16 & 255}.{index >> 8 & 255}.{index & 255}",
        version=VERSION,
        image=None,
        chip="esp8266",
        rhythm=rhythm,
        taken=None,
        taken_downloads=0,
    )


def run(plan: Plan, ledgers: Ledgers, count: int) -> Numbers:
    """Measure a start, the memory, and checks."""
    none = _Forgetting(plan.image, plan.scratch("ledger-none"))
    few = _Remembering(plan.image, plan.scratch("ledger-few"))
    many = _Remembering(plan.image, plan.scratch("ledger-many"))
    none.forget()
    few.forget()
    numbers: Numbers = {}
    with few.running():
        few.settle()
        empty, _ = few.memory_bytes()
        many.forget(ledgers.apart)
        with many.running(patience=300) as seconds:
            numbers["ledger_start"] = seconds
            numbers["ledger_rows"] = _write_rows(many)
            _let_catch_up(many, count)
            full, _ = many.memory_bytes()
            numbers["ledger_rss"] = full / 1e6
            numbers["ledger_each"] = (full - empty) / count
        many.forget(ledgers.local)
        with none.running():
            none.settle()
            with many.running(patience=300):
                many.pin(set(plan.server_cores))
                numbers["ledger_writing_wait"] = _checks(plan, many, count, plan.seconds).slowest * 1e3
                _let_catch_up(many, count)
                numbers |= _measure_checks(plan, (none, few, many), count)
    for peer in (none, few, many):
        peer.forget()
    return numbers


def _write_rows(peer: Ota, seconds: float = 1.5) -> float:
    """Return which share of a core, in percent, a server takes that does nothing but bring rows up to date."""
    before, begun = peer.cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    return (peer.cpu_seconds() - before) / (time.monotonic() - begun) * 100


def _let_catch_up(peer: Ota, count: int) -> None:
    """Wait until all rows that were behind are written, which goes by batches, with pauses."""
    time.sleep(count / _BEHIND / MAX_ROWS * INTERVAL)
    peer.settle(30)


def _checks(plan: Plan, peer: Ota, devices: int, seconds: int, *, kept: bool = True) -> load.Load:
    """Let random ones of so many devices check in, over ten connections that are kept, or over a new one each."""
    with processes.own_cores(set(plan.load_cores)):
        return load.checks(
            peer.port, CHECK_PATH, VERSION, kept=kept, connections=10, seconds=seconds, devices=devices, chance=True
        )


@dataclass
class _Turns:
    """What checks cost a server, turn by turn: CPU for each, that of its threads for each, and the longest waits."""

    peer: Ota
    devices: int
    costs: list[float] = field(default_factory=list)
    in_threads: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def take(self, plan: Plan, *, kept: bool) -> None:
        """Let devices check in for a second."""
        before, threads = self.peer.cpu_seconds(), self.peer.thread_seconds()
        done = _checks(plan, self.peer, self.devices, 1, kept=kept)
        # What a check leaves to be written is written within a second.
        time.sleep(1)
        self.costs.append((self.peer.cpu_seconds() - before) * 1e6 / done.amount)
        self.in_threads.append((self.peer.thread_seconds() - threads) * 1e6 / done.amount)
        self.waits.append(done.slowest * 1e3)

    def ratio_to(self, other: _Turns) -> float:
        """Return how many times as much a check costs as elsewhere, turn by turn."""
        return statistics.median(mine / others for mine, others in zip(self.costs, other.costs, strict=True))


def _by_turns(plan: Plan, peers: tuple[Ota, Ota, Ota], count: int, *, kept: bool) -> tuple[_Turns, _Turns, _Turns]:
    """Measure checks without a ledger, with a small one, and with a large one, by turns there and back."""
    none, few, many = _Turns(peers[0], count), _Turns(peers[1], _FEW), _Turns(peers[2], count)
    order = [none, few, many]
    for turns in order:
        turns.peer.pin(set(plan.server_cores))
        # So that the small ledger's devices are known, and every server is warm.
        _checks(plan, turns.peer, _FEW, 1, kept=kept)
    for _ in range(4 * plan.seconds):
        for turns in order:
            turns.take(plan, kept=kept)
        order.reverse()
    return none, few, many


def _measure_checks(plan: Plan, peers: tuple[Ota, Ota, Ota], count: int) -> Numbers:
    """Measure checks over connections that are kept, and over new ones, as stock devices ask."""
    none, few, many = _by_turns(plan, peers, count, kept=True)
    new_none, _, new_many = _by_turns(plan, peers, count, kept=False)
    return {
        "ledger_none_cpu": statistics.median(none.costs),
        "ledger_few_cpu": statistics.median(few.costs),
        "ledger_cpu": statistics.median(many.costs),
        "ledger_thread": statistics.mean(many.in_threads),
        "ledger_few_ratio": few.ratio_to(none),
        "ledger_ratio": many.ratio_to(none),
        "ledger_new_none_cpu": statistics.median(new_none.costs),
        "ledger_new_cpu": statistics.median(new_many.costs),
        "ledger_new_ratio": new_many.ratio_to(new_none),
        "ledger_none_wait": statistics.median(none.waits),
        "ledger_wait": statistics.median(many.waits),
    }
