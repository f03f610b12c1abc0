"""What a simulation counts, and its result."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from ota_server.fleet.crowd import IMAGE_SIZE

MARKS = (0.5, 0.95, 0.99)
"""Shares of the devices that are alive, for which the time is told until they were updated."""

SAMPLE = 600.0
"""How often a sample is taken, in seconds."""


@attrs.frozen
class Sample:
    """How the fleet stood at a time, in seconds after the release.

    `updated` counts devices that run the release or the fixed one, `harmed` those that bounced off it or died of it,
    `dead` those that died of it; `failures` is how many bounced or silent devices the server knew of.
    """

    time: float
    updated: int
    harmed: int
    dead: int
    failures: int


@attrs.frozen
class Step:
    """A step of a rollout: its time in seconds after the release, and its kind and text as in the journal's events."""

    time: float
    version: str
    kind: str
    text: str


@attrs.frozen
class Halt:
    """When the release was halted, in seconds after it appeared, and how many devices had taken it whole by then."""

    time: float
    downloads: int
    why: str


@attrs.frozen
class Result:
    """What came of one simulation with one server. Times are in seconds after the release.

    `bounced` and `dead` count devices by what the release did to them; both are harmed. `took` counts the devices that
    took it whole. `downloads` are all whole ones, `in_vain` those after which the device didn't run what it took, or
    ran it before; `bytes_in_vain` are theirs and those of downloads that broke off (`broken`). `brown_outs` counts
    starts of a good release that failed, `left` devices that were taken out of use. `outcomes` is what the server knew
    of the release at the end, and `braked` how many devices its loop brake ever held.
    """

    server: str
    devices: int
    alive: int
    updated: int
    took: int
    bounced: int
    dead: int
    downloads: int
    in_vain: int
    bytes_in_vain: int
    broken: int
    brown_outs: int
    left: int
    braked: int
    halt: Halt | None
    fixed_at: float | None
    updated_after: Mapping[str, float | None]
    outcomes: Mapping[str, int]
    steps: tuple[Step, ...]
    samples: tuple[Sample, ...] = attrs.field(repr=False)

    @property
    def harmed(self) -> int:
        """How many devices the release harmed."""
        return self.bounced + self.dead

    @property
    def silent(self) -> int:
        """How many devices the server takes for silent."""
        return self.outcomes.get("silent", 0)


@attrs.define
class Tally:
    """What is counted while a simulation runs; see Result."""

    alive: int
    updated: int = 0
    took: int = 0
    bounced: int = 0
    dead: int = 0
    downloads: int = 0
    in_vain: int = 0
    broken: int = 0
    broken_bytes: int = 0
    brown_outs: int = 0
    left: int = 0
    updated_after: dict[str, float | None] = attrs.field(factory=lambda: {f"{mark:.0%}": None for mark in MARKS})
    samples: list[Sample] = attrs.field(factory=list)
    _marks_left: list[float] = attrs.field(factory=lambda: list(MARKS))

    def look(self, time: float) -> None:
        """Note which shares of the devices are updated by now."""
        while self._marks_left and self.alive and self.updated >= self._marks_left[0] * self.alive:
            self.updated_after[f"{self._marks_left.pop(0):.0%}"] = time

    def sample(self, time: float, failures: int) -> None:
        """Take a sample."""
        self.samples.append(Sample(time, self.updated, self.bounced + self.dead, self.dead, failures))

    @property
    def bytes_in_vain(self) -> int:
        """How many bytes were sent for nothing."""
        return self.in_vain * IMAGE_SIZE + self.broken_bytes
