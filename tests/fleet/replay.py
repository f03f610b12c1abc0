"""A ledger of dictionaries, to see what the batches of the outbox come to."""

from __future__ import annotations

from collections import Counter

from ota_server.firmware.versions import Numbers
from ota_server.fleet.device import Outcome
from ota_server.fleet.journal import AttemptRow, Batch, DeviceRow, Event, RolloutRow, unpack_sightings


class Replay:
    """What the ledger holds after some batches."""

    def __init__(self) -> None:
        self.devices: dict[int, DeviceRow] = {}
        self.attempts: dict[tuple[object, ...], AttemptRow] = {}
        self.rollouts: dict[tuple[str, str, Numbers], RolloutRow] = {}
        self.events: dict[tuple[int, int], Event] = {}
        self.sightings: dict[int, list[tuple[int, float]]] = {}
        self.done: set[int] = set()

    def write(self, batch: Batch) -> None:
        """Write a batch."""
        gone = set(batch.forgotten)
        self.devices.update({row.key: row for row in batch.devices})
        self.devices = {key: row for key, row in self.devices.items() if key not in gone}
        for row in batch.attempts:
            self.attempts[row.device, row.channel, row.project, row.version, row.kind, row.image] = row
        self.attempts = {key: row for key, row in self.attempts.items() if row.device not in gone}
        self.rollouts.update({(row.channel, row.project, row.version): row for row in batch.rollouts})
        self.events.update({(batch.id, place): event for place, event in enumerate(batch.events)})
        self.sightings[batch.id] = list(unpack_sightings(batch.began, batch.sightings))
        self.sightings = {number: seen for number, seen in self.sightings.items() if number > batch.checkpoint}
        self.done.update(batch.done)

    def last_seen(self) -> dict[int, float]:
        """Return when each device was seen last, by its key."""
        last = {key: row.last_seen for key, row in self.devices.items()}
        for _, seen in sorted(self.sightings.items()):
            for key, time in seen:
                if key in last:
                    last[key] = max(last[key], time)
        return last

    def outcomes(self, channel: str, project: str, version: Numbers) -> Counter[Outcome]:
        """Count the devices by what came of a release, by the attempts that count."""
        return Counter(
            row.outcome
            for row in self.attempts.values()
            if row.counted and (row.channel, row.project, row.version) == (channel, project, version)
        )
