"""A fleet that is kept in a real ledger, in one thread: for tests of what is written, and what is known afterwards."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from ota_server.fleet import database
from ota_server.fleet.checkin import CheckIn, Mode
from ota_server.fleet.decision import Send
from ota_server.fleet.device import Device, Place
from ota_server.fleet.fleet import Fleet
from ota_server.fleet.journal import Memory
from ota_server.fleet.ledger import Ledger, sqlite_url
from ota_server.fleet.policy import read_policy
from ota_server.fleet.rollout import Rollout, Rollouts, State
from ota_server.keeper import FleetKeeper
from tests.firmware.samples import make_catalog, make_image
from tests.fleet.play import NOW, mac
from tests.web.memory import MemoryReactor, OwnThreadPool

FILES = ("lamp-1.0.0.bin", "lamp-1.1.0.bin")
PLACE = ("stable", "lamp")
NEW = (1, 1, 0)
STEP = 0.25
"""How far time goes on at once, in seconds."""


class Kept:
    """A fleet that is kept in a ledger, with devices that behave as told, and time that the test moves."""

    def __init__(self, url: str, files: tuple[str, ...] = FILES, policy: str = "", now: float = NOW) -> None:
        self.clock = MemoryReactor()
        self.clock.advance(now)
        self.catalog = make_catalog(make_image(file) for file in files)
        self.url = url
        self.ledger = Ledger(url)
        reactor: Any = self.clock
        rules = read_policy(policy, "ota.toml")
        self.keeper = FleetKeeper(self.ledger, rules, reactor, OwnThreadPool(), self.clock.seconds)
        self.keeper.startService()
        self.keeper.take_catalog(self.catalog)

    @property
    def fleet(self) -> Fleet:
        """The fleet in memory."""
        return self.keeper.loaded

    def check_in(self, number: int, version: str) -> CheckIn:
        """Return what a device says."""
        return CheckIn("stable", "lamp", "esp8266", "esp8266", mac(number), version, Mode.SKETCH, 4 << 20)

    def check(self, number: int, version: str = "1.0.0") -> str:
        """Let a device check in, and return the reason of the answer."""
        return self.keeper.answer(self.check_in(number, version), self.catalog, "192.0.2.1").reason

    def update(self, number: int, version: str = "1.0.0") -> str:
        """Let a device check in, and download all that it is sent; return the reason of the answer."""
        check_in = self.check_in(number, version)
        decision = self.keeper.answer(check_in, self.catalog, "192.0.2.1")
        if isinstance(decision, Send):
            follower = self.keeper.watch(check_in, self.catalog, "192.0.2.1", lambda: None)
            follower.begun(decision.image)
            follower.downloaded(decision.image)
            follower.ended()
        return decision.reason

    def bounce(self, number: int) -> str:
        """Let a device download, and come back as it was; return the reason of the answer then."""
        self.update(number)
        return self.check(number)

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.pump([STEP] * int(seconds / STEP))

    def read(self) -> Memory:
        """Return what is on disk."""
        ledger = Ledger(self.url)
        ledger.open_for_reading()
        try:
            return ledger.load(self.clock.seconds())
        finally:
            ledger.close()

    def state(self) -> State:
        """Return how the rollout of the new release stands on disk."""
        return self.read().places[PLACE].by_version[NEW].state

    def stop(self) -> None:
        """End, as the server does."""
        self.keeper.stopService()


def picture(devices: Mapping[str, Device], places: Mapping[Place, Rollouts]) -> dict[str, object]:
    """Return all that is known of a fleet, to compare it with another."""
    told: dict[str, object] = {}
    for device in devices.values():
        values = attrs.asdict(device, recurse=False, filter=attrs.filters.exclude("attempts", "unwritten", "stale"))
        told[device.id] = (values, [attrs.asdict(attempt) for attempt in device.attempts])
    for place, at_place in places.items():
        told[f"{place}"] = (at_place.fleet, at_place.barred)
        told |= {f"{place} {version}": _picture_of(each) for version, each in at_place.by_version.items()}
    return told


def _picture_of(rollout: Rollout) -> object:
    # How long a stage has been good is judged anew after a restart.
    values = attrs.asdict(rollout, recurse=False, filter=attrs.filters.exclude("good_since", "outcomes", "failing"))
    outcomes = {outcome: count for outcome, count in rollout.outcomes.items() if count}
    return values, outcomes, {device.id for device in rollout.failing}


@contextmanager
def logged(level: LogLevel = LogLevel.warn) -> Iterator[list[str]]:
    """Collect what is logged from a level on; it stands in the list when this is over."""
    lines: list[str] = []
    with capturedLogs() as events:
        yield lines
    lines += [formatEvent(event) for event in events if event["log_level"] >= level]


class KeeperTestCase(SynchronousTestCase):
    """Tests with a ledger in a file."""

    def setUp(self) -> None:
        """Choose the file, and wait for no other connection that writes."""
        self.patch(database, "LOCK_PATIENCE", 0.01)
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.path = self.folder / "ledger.sqlite"
        self.url = sqlite_url(self.path)

    def keep(self, **more: Any) -> Kept:
        """Start to keep a fleet; it ends with the test at the latest."""
        kept = Kept(more.pop("url", self.url), **more)
        self.addCleanup(lambda: kept.stop() if kept.keeper.running else None)
        return kept

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let another connection hold the file, so that nothing can be written."""
        other = sqlite3.connect(self.path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            other.rollback()
            other.close()
