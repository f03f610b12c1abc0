"""What `ota-server simulate` plays: a fleet with its weaknesses, a release with its fault, and when things happen.

Shares are from 0 to 1, times in seconds.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from typing import TypeVar

import attrs
from semver import Version

from ota_server.firmware.naming import CHIPS
from ota_server.fleet.settings import SettingError, read_share

MAX_DEVICES = 1_000_000
MAX_DAYS = 3660

HOUR = 3600.0
DAY = 24 * HOUR

BEGIN = 1_767_571_200.0
"""When every simulation begins: Monday, 5 January 2026, midnight UTC, in seconds since 1970."""

_UNITS = {"s": 1.0, "m": 60.0, "h": HOUR, "d": DAY}
_DURATION = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([smhd])", re.ASCII)
_T = TypeVar("_T")
_MIN_INTERVAL, _MAX_INTERVAL = 60.0, 366 * DAY


class ScenarioError(ValueError):
    """A text that can't be played; its message says why, and what to write, for a person."""


class FaultKind(enum.StrEnum):
    """What is wrong with the release."""

    NONE = "none"
    DIES = "dies"
    """It never starts, and the device goes back to the old one, as an ESP32 with rollback does."""
    NEVER_RETURNS = "never-returns"
    """It never starts, and the device has no way back."""
    WRONG_VERSION = "wrong-version"
    """It runs well, and tells the version of the old one."""
    DIES_AFTER = "dies-after"
    """It runs and checks in, and after a while the device is gone for good."""


@attrs.frozen
class Fault:
    """What is wrong with the release: on which chip alone (None: on all), and after which time it dies.

    `share` is how much of the fleet has that chip, None for what the scenario says.
    """

    kind: FaultKind = FaultKind.NONE
    chip: str | None = None
    share: float | None = None
    after: float = 0.0


@attrs.frozen
class Rhythm:
    """How often some of the fleet checks in."""

    interval: float
    share: float


DEFAULT_RHYTHMS = (Rhythm(HOUR, 0.1), Rhythm(6 * HOUR, 0.6), Rhythm(DAY, 0.25), Rhythm(7 * DAY, 0.05))
DEFAULT_CHIPS = {"esp8266": 0.6, "esp32": 0.3, "esp32c3": 0.1}


@attrs.frozen
class Chance:
    """A share of the fleet to which something happens, and how likely it does each time."""

    share: float
    chance: float


_OLD, _NEW = Version(1, 0, 0), Version(1, 1, 0)


@attrs.frozen
class Scenario:
    """A fleet and what happens to it.

    Each interval of a `rhythm` is up to `jitter` shorter or longer. `hashes` is the share of devices that tell the
    hash of what runs. `off` is the share that is switched off every night, for `off_for`; only devices that check in
    more than once a day are. `sleepers` sleep between check-ins, so that after an update they don't call at once, but
    at their next turn. A download over a bad link (`bad_links`) breaks off somewhere. A device of `brown_outs` fails to
    start a new image that is good. The share `vanish` is taken out of use for good, some time during the days.

    The release appears at `release_at`, and its fault hits the share `failure_rate` of those that it can hit. With
    `fix_after` a good one, a patch higher, appears so long after the halt.
    """

    devices: int = 100_000
    days: float = 30.0
    seed: int = 1
    project: str = "firmware"
    rhythms: tuple[Rhythm, ...] = DEFAULT_RHYTHMS
    jitter: float = 0.1
    chips: dict[str, float] = attrs.field(factory=lambda: dict(DEFAULT_CHIPS))
    hashes: float = 0.9
    off: float = 0.2
    off_for: float = 8 * HOUR
    sleepers: float = 0.1
    bad_links: Chance = Chance(0.05, 0.5)
    brown_outs: Chance = Chance(0.01, 0.5)
    vanish: float = 0.01
    old: Version = _OLD
    new: Version = _NEW
    fault: Fault = Fault()
    failure_rate: float = 1.0
    release_at: float = 7 * DAY
    fix_after: float | None = None

    def __attrs_post_init__(self) -> None:
        """Raise ScenarioError where the parts don't fit together."""
        if not 1 <= self.devices <= MAX_DEVICES:
            raise ScenarioError(f"{self.devices} devices can't be; from 1 to {MAX_DEVICES:,} can")
        if not 0 < self.days <= MAX_DAYS:
            raise ScenarioError(f"{self.days:g} days can't be; up to {MAX_DAYS:,} can")
        if not 0 <= self.release_at < self.days * DAY:
            raise ScenarioError(f"the release would appear after the {self.days:g} days that are played")
        if not self.old < self.new:
            raise ScenarioError(f"the release has to be newer than {self.old}, and {self.new} isn't")

    @property
    def fixed(self) -> Version:
        """The version of the good release that comes after the halt."""
        return self.new.bump_patch()

    @property
    def end(self) -> float:
        """How long is played."""
        return self.days * DAY

    def shares_of_chips(self) -> dict[str, float]:
        """Return which share of the fleet has which chip; where the fault says one, the others make room."""
        chip, share = self.fault.chip, self.fault.share
        if chip is None or (share is None and chip in self.chips):
            return self.chips
        share = 0.1 if share is None else share
        others = {name: part for name, part in self.chips.items() if name != chip}
        rest = sum(others.values())
        if not rest:
            others, rest = ({"esp8266" if chip != "esp8266" else "esp32": 1.0}, 1.0)
        return {**{name: part / rest * (1 - share) for name, part in others.items()}, chip: share}


def read_span(text: str) -> float:
    """Read a time such as `90s`, `30m`, `1h` or `7d`, in seconds."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ScenarioError(f"{_show(text)} is no time; write 30m, 1h or 7d")
    return float(found[1]) * _UNITS[found[2]]


def read_part(text: str) -> float:
    """Read a share such as `10%`."""
    try:
        return read_share(text.strip())
    except SettingError:
        raise ScenarioError(f"{_show(text)} is no share; write 0% to 100%") from None


def read_rhythms(text: str) -> tuple[Rhythm, ...]:
    """Read how often how much of the fleet checks in: `1h:10%,6h:90%`."""
    pairs = _read_pairs(text, "rhythms", "1h:10%,6h:90%", read_span)
    for interval, _ in pairs:
        if not _MIN_INTERVAL <= interval <= _MAX_INTERVAL:
            raise ScenarioError("rhythms are from 1m to 366d")
    return tuple(Rhythm(interval, share) for interval, share in pairs)


def read_chips(text: str) -> dict[str, float]:
    """Read how much of the fleet has which chip: `esp8266:60%,esp32:40%`."""
    return dict(_read_pairs(text, "chips", "esp8266:60%,esp32:40%", _read_chip))


def read_chance(text: str) -> Chance:
    """Read a share of the fleet and how likely something is there: `5%:50%`."""
    share, colon, chance = text.partition(":")
    if not colon:
        raise ScenarioError(f"{_show(text)} is no share with a chance; write 5%:50%")
    return Chance(read_part(share), read_part(chance))


def read_off(text: str) -> tuple[float, float]:
    """Read which share of the fleet is switched off every night, and for how long: `20%:8h`."""
    share, colon, span = text.partition(":")
    if not colon:
        raise ScenarioError(f"{_show(text)} is no share with a time; write 20%:8h")
    seconds = read_span(span)
    if not 0 < seconds <= 20 * HOUR:
        raise ScenarioError(f"{_show(span)} a day is too long or too short; write up to 20h")
    return read_part(share), seconds


def read_fault(text: str) -> Fault:
    """Read what is wrong with the release, such as `dies`, `dies-on:esp32c3:5%` or `dies-after:1h`."""
    name, _, rest = text.strip().partition(":")
    if name == "dies-on":
        chip, _, share = rest.partition(":")
        return Fault(FaultKind.DIES, _read_chip(chip), read_part(share) if share else None)
    if name == "bricks":
        name = FaultKind.NEVER_RETURNS.value
    try:
        kind = FaultKind(name)
    except ValueError:
        raise ScenarioError(
            f"{_show(text)} is no fault; write none, dies, dies-on:CHIP:SHARE, wrong-version, dies-after:TIME "
            "or never-returns"
        ) from None
    if kind is FaultKind.DIES_AFTER:
        return Fault(kind, after=read_span(rest) if rest else HOUR)
    if rest:
        raise ScenarioError(f"{_show(text)} is no fault; {name} stands alone")
    return Fault(kind)


def _read_chip(text: str) -> str:
    chip = text.strip().lower().replace("-", "")
    if chip not in CHIPS or not chip.startswith("esp"):
        known = ", ".join(sorted(each for each in CHIPS if each.startswith("esp")))
        raise ScenarioError(f"{_show(text)} is no chip that is played; write one of {known}")
    return chip


def _read_pairs(text: str, what: str, example: str, read: Callable[[str], _T]) -> list[tuple[_T, float]]:
    """Read names with shares that make 100 % together."""
    pairs = []
    for part in text.split(","):
        name, colon, share = part.partition(":")
        if not colon:
            raise ScenarioError(f"{_show(part)} has no share; write {what} as in {example}")
        pairs.append((read(name), read_part(share)))
    whole = sum(share for _, share in pairs)
    if abs(whole - 1) > 1e-6:
        raise ScenarioError(f"the {what} make {whole:.0%} together, and not 100%")
    if len({name for name, _ in pairs}) < len(pairs):
        raise ScenarioError(f"one of the {what} stands there twice")
    return pairs


def _show(text: str) -> str:
    cut = text.strip()[:40]
    return f'"{cut}"' if cut.isprintable() else ascii(cut)
