"""Rules: what the operator wants for one project, or for one device of it; `fleet/policy.py` reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import attrs
from semver import Version


class Window(Protocol):
    """Times of the week at which updates may be sent."""

    def contains(self, now: float) -> bool:
        """Say whether a time, in seconds since 1970, is inside."""


@attrs.frozen
class Stage:
    """How much of the fleet one stage of a rollout reaches: a count of devices, or a share of them (0 to 1).

    `text` is as the operator wrote it. Exactly one of `count` and `share` is given.
    """

    text: str
    count: int | None = None
    share: float | None = None

    def seats(self, fleet: int) -> int | None:
        """Return how many devices of a fleet of so many the stage admits, at least one; None for everybody."""
        if self.count is not None:
            return self.count
        assert self.share is not None
        # As "10%" of 1,000 is 100, also where the product isn't quite.
        return None if self.share >= 1 else max(1, math.ceil(self.share * fleet - 1e-9))


@attrs.frozen
class HaltRule:
    """When a rollout halts by itself: with so many failures, that are more than this share of the known outcomes."""

    failures: int = 2
    share: float = 0.1


@attrs.frozen
class Origin:
    """Where a rule was set: the table of the policy file (such as `[projects.lamp]`), and the line."""

    table: str
    line: int


@attrs.frozen
class Rules:
    """What holds for one device of one project; times are in seconds.

    Without `stages` everybody is served at once. `channel` holds for requests at the address of stable, and with
    `own_channel`, which stands for a device's or a group's setting, for all. `project` is another project than that of
    the address. `name` is what people call the device. `origins` tells where each rule was set, by its key in the
    policy file; a default has none.
    """

    stages: tuple[Stage, ...] = ()
    soak: float = 1800.0
    confirm: float = 0.8
    halt: HaltRule = HaltRule()
    silent_after: float = 3.0
    window: tuple[Window, ...] = ()
    stepping_stones: tuple[Version, ...] = ()
    minimum: Version | None = None
    rollback: bool = False
    hold: bool = False
    max_downloads: int | None = None
    channel: str | None = None
    own_channel: bool = False
    pin: Version | None = None
    downgrade: bool = False
    project: str | None = None
    name: str | None = None
    origins: Mapping[str, Origin] = attrs.field(factory=dict, eq=False, repr=False)


DEFAULT_RULES = Rules()
"""What holds without any policy: everybody gets the newest, with loop brake and automatic halt."""
