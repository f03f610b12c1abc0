"""A fleet to play with: real catalog, real decisions, devices that behave as told, time that the test moves."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from ota_server.firmware.catalog import Catalog, Image
from ota_server.fleet.checkin import CheckIn, Mode
from ota_server.fleet.decision import Decision, Send
from ota_server.fleet.fleet import Fleet
from ota_server.fleet.journal import Batch, Event, Memory, Order
from ota_server.fleet.policy import DEFAULT_POLICY, Policy, read_policy
from tests.firmware.samples import make_catalog, make_image

NOW = 1_795_435_200.0
"""When the play begins: some time in November 2026."""

HOUR = 3600.0
DAY = 24 * HOUR


def mac(number: int) -> str:
    """Return the address of the device of a number."""
    return ":".join(f"{(0x5CCF7F000000 + number) >> shift & 255:02X}" for shift in range(40, -1, -8))


@attrs.define
class Play:
    """A fleet in memory, whose changes are written at once unless `writes` is false."""

    catalog: Catalog
    policy: Policy = DEFAULT_POLICY
    now: float = NOW
    writes: bool = True
    fleet: Fleet = attrs.field(init=False)
    batches: list[Batch] = attrs.field(factory=list)
    events: list[Event] = attrs.field(factory=list)
    _published: Catalog | None = None

    def __attrs_post_init__(self) -> None:
        self.fleet = Fleet(Memory(), self.policy, self.now)

    @classmethod
    def of(cls, *files: str, policy: str = "") -> Play:
        """Return a play with these files in the folder, and this policy."""
        return cls(make_catalog(make_image(file) for file in files), read_policy(policy, "ota.toml"))

    def check(
        self, number: int, version: str | None, *, mode: Mode = Mode.SKETCH, project: str = "lamp", **told: str
    ) -> Decision:
        """Let a device check in, and return the decision."""
        check_in = self.check_in(number, version, mode=mode, project=project, **told)
        if self.catalog is not self._published:
            self._published = self.catalog
            self.fleet.take_catalog(self.catalog, self.now)
        decision = self.fleet.answer(check_in, self.catalog, f"192.0.{number >> 8}.{number & 255}", self.now)
        self.write()
        return decision

    def check_in(self, number: int, version: str | None, *, mode: Mode, project: str, **told: str) -> CheckIn:
        """Return what a device says."""
        channel = told.pop("channel", "stable")
        return CheckIn(channel, project, "esp8266", "esp8266", mac(number), version, mode, 4 << 20, **told)  # type: ignore[arg-type]

    def update(
        self, number: int, version: str | None, *, whole: bool = True, project: str = "lamp", **told: str
    ) -> Decision:
        """Let a device check in, and download what it is sent: all of it, or only the beginning."""
        mode = Mode(told.pop("mode", "sketch"))
        decision = self.check(number, version, mode=mode, project=project, **told)
        if isinstance(decision, Send):
            check_in = self.check_in(number, version, mode=mode, project=project, **told)
            self.download(check_in, decision.image, whole=whole)
        return decision

    def download(self, check_in: CheckIn, image: Image, *, whole: bool = True) -> None:
        """Let an image be sent."""
        self.fleet.begun(check_in.device, check_in, image, self.catalog, self.now)
        if whole:
            self.fleet.downloaded(check_in.device, image, self.now)
        self.fleet.ended(image)
        self.write()

    def pass_time(self, seconds: float, step: float = 60.0) -> None:
        """Let time pass, with a look at what is due after each step."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + step)
            self.fleet.tick(self.now)
            self.write()

    def write(self) -> None:
        """Write what waits, as the ledger would."""
        if not self.writes:
            return
        while (batch := self.fleet.outbox.take(self.now)) is not None:
            self.batches.append(batch)
            self.events += batch.events
            self.fleet.outbox.confirm()

    def order(self, kind: str, version: tuple[int, int, int] | None = None, device: int | None = None) -> None:
        """Let the operator order something."""
        channel, project = ("stable", "lamp") if version else (None, None)
        told = None if device is None else mac(device)
        order = Order(1, self.now, "operator:test", kind, channel, project, version, told)
        self.fleet.follow(order, self.now)
        self.write()

    def outcomes(self, version: tuple[int, int, int], project: str = "lamp") -> Mapping[str, int]:
        """Return how many devices stand how at a release."""
        rollout = self.fleet.course.find(("stable", project), version)
        return {} if rollout is None else {str(key): value for key, value in rollout.outcomes.items() if value}

    def kinds(self) -> list[str]:
        """Return the kinds of all events so far."""
        return [event.kind for event in self.events]
