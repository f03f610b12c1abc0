"""The memory of a large fleet: what it adds to a check, how much room a device takes, and how long a start takes.

The ledger is made by the program's own writing, without a server. A server that remembers nothing is measured beside
the one that knows every device, by turns, so that a change of the machine meets both.
"""

import contextlib
import random
import shutil
import sqlite3
import statistics
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
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
                numbers |= _by_turns(plan, none, few, many, count)
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


def _checks(plan: Plan, peer: Ota, devices: int, seconds: int) -> load.Load:
    """Let random ones of so many devices check in, over ten connections that are kept."""
    with processes.own_cores(set(plan.load_cores)):
        return load.checks(
            peer.port, CHECK_PATH, VERSION, kept=True, connections=10, seconds=seconds, devices=devices, chance=True
        )


def _by_turns(plan: Plan, none: Ota, few: Ota, many: Ota, count: int) -> Numbers:
    """Measure checks without a ledger, with a small one, and with a large one, by turns there and back."""
    costs: dict[Ota, list[float]] = {none: [], few: [], many: []}
    waits: dict[Ota, list[float]] = {none: [], few: [], many: []}
    writing: list[float] = []
    order = [none, few, many]
    for peer in order:
        peer.pin(set(plan.server_cores))
        # So that the small ledger's devices are known, and every server is warm.
        _checks(plan, peer, _FEW, 1)
    for _ in range(4 * plan.seconds):
        for peer in order:
            before, elsewhere = peer.cpu_seconds(), peer.thread_seconds()
            done = _checks(plan, peer, _FEW if peer is few else count, 1)
            # What a check leaves to be written is written within a second.
            time.sleep(1)
            costs[peer].append((peer.cpu_seconds() - before) * 1e6 / done.amount)
            waits[peer].append(done.slowest * 1e3)
            if peer is many:
                writing.append((peer.thread_seconds() - elsewhere) * 1e6 / done.amount)
        order.reverse()
    return {
        "ledger_none_cpu": statistics.median(costs[none]),
        "ledger_few_cpu": statistics.median(costs[few]),
        "ledger_cpu": statistics.median(costs[many]),
        "ledger_thread": statistics.mean(writing),
        "ledger_ratio": statistics.median(
            with_it / without for with_it, without in zip(costs[many], costs[none], strict=True)
        ),
        "ledger_none_wait": statistics.median(waits[none]),
        "ledger_wait": statistics.median(waits[many]),
    }
