"""The servers of a simulation: this one, and one that always serves the newest, to compare with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ota_server.firmware.catalog import Catalog, Image
from ota_server.firmware.versions import Numbers
from ota_server.fleet.checkin import CheckIn
from ota_server.fleet.decide import Decision, decide
from ota_server.fleet.device import Place
from ota_server.fleet.fleet import Fleet
from ota_server.fleet.journal import Batch, Event, Memory
from ota_server.fleet.policy import Policy
from ota_server.fleet.rollout import Rollout
from ota_server.fleet.scenario import BEGIN, HOUR

WRITE = 2 * HOUR
"""How often what may be written late is written, in seconds; steps and halts are written at once."""

WRITE_DOWNLOADS = 4000
"""After so many downloads it is written, too: each may become an event, of which not many can wait."""

_NOTED = frozenset({"started", "stage", "complete", "halted", "resumed"})


class Server(Protocol):
    """What serves the devices of a simulation."""

    remembers: bool
    """Whether a device that comes again may get another answer."""
    events: list[Event]
    """What was decided about rollouts."""
    halts: dict[Numbers, tuple[Event, int]]
    """The halts of releases, and how many devices had taken the release whole by then."""

    def take_catalog(self, catalog: Catalog, now: float) -> None:
        """Serve from another catalog."""

    def answer(self, check_in: CheckIn, address: str, now: float) -> Decision:
        """Decide what to answer to a device."""

    def begun(self, check_in: CheckIn, image: Image, now: float) -> None:
        """Note that an image is being sent."""

    def downloaded(self, check_in: CheckIn, image: Image, now: float) -> None:
        """Note that all of it arrived."""

    def ended(self, image: Image) -> None:
        """Note that it is sent no more, however that came."""

    def tick(self, now: float) -> None:
        """Do what is due."""

    def rollout(self, version: Numbers) -> Rollout | None:
        """Return how far a release has got."""


class PlainServer:
    """A server that always serves the newest, and remembers nothing: what the small servers do."""

    remembers = False
    _catalog: Catalog

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.halts: dict[Numbers, tuple[Event, int]] = {}

    def take_catalog(self, catalog: Catalog, now: float) -> None:
        """Serve from another catalog."""
        self._catalog = catalog

    def answer(self, check_in: CheckIn, address: str, now: float) -> Decision:
        """Decide by nothing but the check-in and the catalog."""
        return decide(check_in, self._catalog)

    def begun(self, check_in: CheckIn, image: Image, now: float) -> None:
        """Note nothing."""

    def downloaded(self, check_in: CheckIn, image: Image, now: float) -> None:
        """Note nothing."""

    def ended(self, image: Image) -> None:
        """Note nothing."""

    def tick(self, now: float) -> None:
        """Do nothing, as nothing is ever due."""

    def rollout(self, version: Numbers) -> Rollout | None:
        """Return None, as there are no rollouts."""
        return None


class FleetServer:
    """This server: the memory of the fleet, whose changes go to the ledger by `write`."""

    remembers = True
    _catalog: Catalog

    def __init__(self, memory: Memory, policy: Policy, place: Place, write: Callable[[Batch], None]) -> None:
        self.fleet = Fleet(memory, policy, BEGIN, self._hurry)
        self.events: list[Event] = []
        self.halts: dict[Numbers, tuple[Event, int]] = {}
        self._place = place
        self._write_batch = write
        self._urgent = False
        self._written_at = BEGIN
        self._downloads = 0

    def take_catalog(self, catalog: Catalog, now: float) -> None:
        """Serve from another catalog."""
        self._catalog = catalog
        self.fleet.take_catalog(catalog, now)

    def answer(self, check_in: CheckIn, address: str, now: float) -> Decision:
        """Decide by all that is known."""
        decision = self.fleet.answer(check_in, self._catalog, address, now)
        if self._urgent:
            self.write(now)
        return decision

    def begun(self, check_in: CheckIn, image: Image, now: float) -> None:
        """Note that an image is being sent."""
        self.fleet.begun(check_in.device, check_in, image, self._catalog, now)

    def downloaded(self, check_in: CheckIn, image: Image, now: float) -> None:
        """Note that all of it arrived."""
        self._downloads += 1
        self.fleet.downloaded(check_in.device, image, now)

    def ended(self, image: Image) -> None:
        """Note that it is sent no more."""
        self.fleet.ended(image)

    def tick(self, now: float) -> None:
        """Do what is due, and write what waits if it is time for that."""
        self.fleet.tick(now)
        if self._urgent or now - self._written_at >= WRITE or self._downloads >= WRITE_DOWNLOADS:
            self.write(now)

    def write(self, now: float) -> None:
        """Write what waits; steps of rollouts take effect with that."""
        self._urgent = False
        self._written_at = now
        self._downloads = 0
        batch = self.fleet.outbox.take(now)
        if batch is None:
            return
        self._write_batch(batch)
        self.fleet.outbox.confirm()
        for event in batch.events:
            if event.kind not in _NOTED:
                continue
            self.events.append(event)
            if event.kind == "halted" and event.version is not None and event.version not in self.halts:
                rollout = self.rollout(event.version)
                self.halts[event.version] = (event, 0 if rollout is None else rollout.downloaded)

    def rollout(self, version: Numbers) -> Rollout | None:
        """Return how far a release has got."""
        return self.fleet.course.find(self._place, version)

    def _hurry(self) -> None:
        self._urgent = True
