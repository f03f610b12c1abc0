"""The devices and the images of a simulation: what each device is like, and what it says when it checks in."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence

from semver import Version

from ota_server.firmware.catalog import Catalog, FileIdentity, Image
from ota_server.firmware.facts import ImageFacts
from ota_server.firmware.naming import Kind, parse_file_name
from ota_server.fleet.checkin import CheckIn, Mode
from ota_server.fleet.scenario import DAY, HOUR, FaultKind, Scenario

IMAGE_SIZE = 480_000
"""How long every image is, in bytes: as that of an Arduino sketch with WLAN."""

_SLOWEST, _FASTEST = 10_000, 60_000
_START, _LONGEST_START = 5.0, 25.0
# Most lamps are switched off in the evening.
_EVENING, _EVENING_FOR = 20 * HOUR, 4 * HOUR


class Actor:
    """One device of a simulation.

    What it is like: `interval` between check-ins, `off_at` (when it is switched off, in seconds of the day, or None),
    `sleeps`, `bad_link`, `brown_out` as in Scenario; `seconds` that a download takes, and `start` that a start takes;
    `affected` says that the release's fault hits it.

    How it stands: `runs` is the release that runs and `tells` the one whose version it tells, by their places in the
    catalog's history; `check_in` what it says, None where that has changed; `pending` the image that it downloads;
    `gone` that it never comes back. `took`, `bounced` and `braked` say whether it ever took the release, bounced off
    it, and was held by the loop brake.
    """

    __slots__ = (
        "address", "affected", "bad_link", "bounced", "braked", "brown_out", "check_in", "chip", "gone", "hashes", "id",
        "interval", "number", "off_at", "pending", "runs", "seconds", "sleeps", "start", "tells", "took",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        chip: str,
        interval: float,
        off_at: float | None,
        *,
        hashes: bool,
        sleeps: bool,
        bad_link: bool,
        brown_out: bool,
        affected: bool,
        seconds: float,
        start: float,
    ) -> None:
        self.number = number
        self.chip = chip
        self.interval = interval
        self.off_at = off_at
        self.hashes = hashes
        self.sleeps = sleeps
        self.bad_link = bad_link
        self.brown_out = brown_out
        self.affected = affected
        self.seconds = seconds
        self.start = start
        prefix = 0x5CCF7F000000 if chip == "esp8266" else 0x246F28000000
        self.id = ":".join(f"{(prefix + number) >> shift & 255:02X}" for shift in range(40, -1, -8))
        self.address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        self.runs = self.tells = 0
        self.check_in: CheckIn | None = None
        self.pending: Image | None = None
        self.gone = False
        self.bounced = False
        self.braked = False
        self.took = False


def make_crowd(scenario: Scenario, dice: random.Random) -> list[Actor]:
    """Make the devices of a scenario."""
    intervals = [each.interval for each in scenario.rhythms]
    weights = [each.share for each in scenario.rhythms]
    chips = scenario.shares_of_chips()
    names, shares = list(chips), list(chips.values())
    fault = scenario.fault
    crowd = []
    for number in range(scenario.devices):
        [interval] = dice.choices(intervals, weights)
        [chip] = dice.choices(names, shares)
        # All are drawn for each device, so that a change of one share leaves the rest of the fleet as it was.
        off, evening, hashes, sleeps, bad, brown, affected, speed, start = (dice.random() for _ in range(9))
        is_off = interval < DAY and off < scenario.off
        crowd.append(
            Actor(
                number,
                chip,
                interval,
                (_EVENING + evening * _EVENING_FOR) % DAY if is_off else None,
                hashes=hashes < scenario.hashes,
                sleeps=not is_off and sleeps < scenario.sleepers,
                bad_link=bad < scenario.bad_links.share,
                brown_out=brown < scenario.brown_outs.share,
                affected=(
                    fault.kind is not FaultKind.NONE and fault.chip in (None, chip) and affected < scenario.failure_rate
                ),
                seconds=IMAGE_SIZE / (_SLOWEST + speed * (_FASTEST - _SLOWEST)),
                start=_START + start * (_LONGEST_START - _START),
            )
        )
    return crowd


class History:
    """The releases of a simulation, oldest first, and the catalogs as one after another appears."""

    def __init__(self, scenario: Scenario, channel: str) -> None:
        self._project = scenario.project
        self.versions: Sequence[Version] = (scenario.old, scenario.new, scenario.fixed)
        self._images = [
            {chip: _make_image(scenario.project, channel, version, chip) for chip in scenario.shares_of_chips()}
            for version in self.versions
        ]
        self._place = {version: place for place, version in enumerate(self.versions)}

    def place(self, image: Image) -> int:
        """Return which release an image belongs to: 0 for the old one."""
        return self._place[image.version]

    def catalog(self, releases: int) -> Catalog:
        """Return the catalog of the first so many releases."""
        channels: dict[str, dict[str, Image]] = {}
        for image in self._first(releases):
            channels.setdefault(image.channel, {})[image.file_name] = image
        return Catalog.empty().replace(channels)

    def _first(self, releases: int) -> Iterator[Image]:
        for images in self._images[:releases]:
            yield from images.values()

    def check_in(self, actor: Actor) -> CheckIn:
        """Return what a device says as it stands."""
        is_8266 = actor.chip == "esp8266"
        facts = self._images[actor.runs][actor.chip].facts
        # Nothing tells an ESP32 from its relatives but a known hash, or the address that its maker gave it.
        chip = actor.chip if is_8266 or not actor.hashes else None
        return CheckIn(
            "stable",
            self._project,
            "esp8266" if is_8266 else "esp32",
            chip,
            actor.id,
            str(self.versions[actor.tells]),
            Mode.SKETCH,
            1 << 20 if is_8266 else 1280 << 10,
            IMAGE_SIZE,
            4 << 20,
            facts.md5 if actor.hashes else None,
            facts.sha256 if actor.hashes and not is_8266 else None,
        )


def _make_image(project: str, channel: str, version: Version, chip: str) -> Image:
    file_name = f"{project}-{version}.{chip}.bin"
    content = f"{channel}/{file_name}".encode()
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    sha256 = hashlib.sha256(content).hexdigest()
    name = parse_file_name(file_name)
    assert name.kind is Kind.APP
    inode = int(md5[:8], 16)
    facts = ImageFacts(IMAGE_SIZE, md5, sha256, chip, (md5,) if chip == "esp8266" else (md5, sha256))
    return Image(channel, f"/firmware/{file_name}", file_name, name, FileIdentity(inode, IMAGE_SIZE, 0, 0), facts)
