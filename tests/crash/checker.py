"""Compares what was seen of a server from outside with the ledger that it left behind when it was killed."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import closing
from pathlib import Path

import attrs

from ota_server.firmware.versions import Numbers
from ota_server.fleet.device import Outcome
from ota_server.fleet.journal import Memory
from ota_server.fleet.ledger import Ledger, sqlite_url
from ota_server.fleet.rollout import State

PLACE = ("stable", "lamp")

ROUNDING = 0.01
"""How exactly times of check-ins are kept, in seconds, at the least."""

_ATTEMPTS = """
    SELECT devices.id, major, minor, patch, outcome, downloads, braked_until, counted
    FROM attempts LEFT JOIN devices ON devices.key = attempts.device
"""

# Of each release its attempts, whether its rollout is known, and how often a halt of it was written down.
_STRAY = """
    SELECT count(*) FROM attempts WHERE NOT EXISTS (
        SELECT * FROM rollouts WHERE (rollouts.channel, rollouts.project, rollouts.major, rollouts.minor,
        rollouts.patch) = (attempts.channel, attempts.project, attempts.major, attempts.minor, attempts.patch))
"""
_HALTS = "SELECT major, minor, patch, count(*) FROM events WHERE kind = 'halted' GROUP BY major, minor, patch"


@attrs.frozen(order=True)
class Fact:
    """Something that the server must have noted: when the answer that shows that had arrived, and what.

    `kind` is `seen`, `downloaded`, `confirmed`, `bounced` or `braked`. For `seen`, `since` is when the device asked.
    """

    time: float
    kind: str
    device: str
    version: Numbers = (0, 0, 0)
    since: float = 0.0


@attrs.frozen
class Found:
    """What one device made of one release, by the ledger."""

    outcome: Outcome
    downloads: int
    braked_until: float
    counted: bool


def check(state: Path, facts: Iterable[Fact], halted: AbstractSet[Numbers], now: float) -> Iterator[str]:
    """Yield all that is wrong with the ledger: the facts, and the halts, that it must hold are given."""
    copy = state.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    # The server itself has to mend what the kill left; this looks at a copy.
    for suffix in ("", "-wal"):
        source = Path(f"{state}/ledger.sqlite{suffix}")
        if source.exists():
            shutil.copy(source, copy)
    path = copy / "ledger.sqlite"
    if not path.exists():
        yield from (f"no ledger, and yet {fact}" for fact in facts)
        return
    with closing(sqlite3.connect(path)) as connection:
        sound = [row[0] for row in connection.execute("PRAGMA integrity_check")]
        if sound != ["ok"]:
            yield f"the file isn't sound: {sound}"
        if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            yield from (f"no tables, and yet {fact}" for fact in facts)
            return
        rows = connection.execute(_ATTEMPTS).fetchall()
        stray = connection.execute(_STRAY).fetchone()[0]
        halts = {row[:3]: row[3] for row in connection.execute(_HALTS)}
    ledger = Ledger(sqlite_url(path))
    ledger.open_for_reading()
    memory = ledger.load(now)
    ledger.close()
    attempts = {(row[0], row[1:4]): Found(Outcome(row[4]), *row[5:]) for row in rows}
    if stray or any(device is None for device, _ in attempts):
        yield f"{stray} attempts are of no rollout, or some of no device: {attempts}"
    yield from _check_rollouts(memory, attempts, halted, halts)
    for fact in facts:
        if not _is_known(fact, memory, attempts, now):
            yield f"not known: {fact}, but {attempts.get((fact.device, fact.version))}"


def _check_rollouts(
    memory: Memory,
    attempts: Mapping[tuple[str, Numbers], Found],
    halted: AbstractSet[Numbers],
    halts: Mapping[Numbers, int],
) -> Iterator[str]:
    rollouts = memory.places[PLACE].by_version if PLACE in memory.places else {}
    written = {version for version, rollout in rollouts.items() if rollout.state is State.HALTED}
    if not halted <= written:
        yield f"devices were told that {halted} are halted, but only {written} are"
    if halts != dict.fromkeys(written, 1):
        yield f"{written} are halted, but what was written down of that is {halts}"
    for version, rollout in rollouts.items():
        counted = Counter(found.outcome for (_, of), found in attempts.items() if of == version and found.counted)
        told = Counter({outcome: count for outcome, count in rollout.outcomes.items() if count})
        if told != counted or rollout.admitted != counted.total():
            yield f"of {version} it counts {told} in {rollout.admitted}, but there are {counted}"


def _is_known(fact: Fact, memory: Memory, attempts: Mapping[tuple[str, Numbers], Found], now: float) -> bool:
    device = memory.devices.get(fact.device)
    if device is None or device.last_seen < fact.since - ROUNDING:
        return False
    if fact.kind == "seen":
        return True
    found = attempts.get((fact.device, fact.version))
    if found is None:
        return False
    match fact.kind:
        case "downloaded":
            return found.downloads > 0
        case "braked":
            return found.braked_until > now
    return found.outcome == fact.kind
