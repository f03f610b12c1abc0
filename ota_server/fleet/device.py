"""What is remembered of a device across check-ins: `Device`, and its `Attempt`s to take an image.

Both are mutable and plain; `fleet/fleet.py` alone changes them.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import attrs

from ota_server.firmware.naming import Kind
from ota_server.firmware.versions import Numbers

Place = tuple[str, str]
"""Where a device is served: (channel, project)."""


DORMANT = 30 * 86400.0
"""A device that stays away for so many seconds is none of the fleet that shares are taken of."""


class Outcome(enum.StrEnum):
    """What came of an attempt, inferred from the next check-ins, since stock devices report nothing."""

    OFFERED = "offered"
    """It was sent, and not taken whole yet."""
    DOWNLOADED = "downloaded"
    """Its last byte arrived; the device hasn't been back."""
    CONFIRMED = "confirmed"
    """The device checked in on it."""
    BOUNCED = "bounced"
    """The device came back on what it ran before, after a whole download."""
    SILENT = "silent"
    """The device didn't come back within a multiple of its own rhythm."""
    SUPERSEDED = "superseded"
    """A newer release was offered before the outcome was known."""
    DRIFTED = "drifted"
    """The device came back on a third version."""


FAILURES = frozenset({Outcome.BOUNCED, Outcome.SILENT})
"""The outcomes that count towards a halt."""


@attrs.define(eq=False, weakref_slot=False)
class Attempt:
    """One device and one image. Times are in seconds since 1970.

    `image` is the SHA-256 of the plain image's bytes, lower-case hexadecimal, also where it was sent compressed.
    `before` is the text that the device told as its version when the image was offered, if any. `downloads` counts
    whole downloads; the same one repeated with no check-in between counts once, so `fetched` says that there has been
    one since the last check-in. `braked_until` is when the loop brake ends, 0 where it is off. `acknowledged` says
    that the operator knows of the failure. A settled attempt is only kept in the ledger: nothing more comes of it.
    One that isn't `counted` is none of its rollout's: a device counts once there, and what the policy alone wanted (a
    pin, a way back), or what told nothing, doesn't count.
    """

    channel: str
    project: str
    kind: Kind
    version: Numbers
    image: str
    before: str | None
    offered_at: float
    outcome: Outcome = Outcome.OFFERED
    outcome_at: float = 0.0
    downloaded_at: float | None = None
    downloads: int = 0
    fetched: bool = False
    braked_until: float = 0.0
    acknowledged: bool = False
    settled: bool = False
    counted: bool = False


class Taken(NamedTuple):
    """A release that devices have taken for good; `image` is the SHA-256 of the plain image's bytes."""

    channel: str
    project: str
    version: Numbers
    image: str


@attrs.define(eq=False, weakref_slot=False)
class Device:
    """One device. Times are in seconds since 1970.

    `key` is its number in the ledger, `id` the MAC address (`5C:CF:7F:00:11:22`) or chip id that it tells. `dialect`,
    `chip`, `version` (as told), `image` (the SHA-256 of the image that runs, where a hash told it), `channel` and
    `project` (where it was served) are those of its last check-in for a sketch. `address` is where it called from.
    `rhythm` is that of `fleet/rhythm.py`. `attempts` are those that aren't settled, at most one for each place and
    kind. `taken` is the last release that it took for good, and `taken_downloads` how often it downloaded that.
    `unwritten` says that its row waits to be written, `stale` that its row is behind the sightings.
    """

    key: int
    id: str
    dialect: str | None
    channel: str
    project: str
    first_seen: float
    last_seen: float
    address: str = ""
    version: str | None = None
    image: str | None = None
    chip: str | None = None
    rhythm: bytes = b""
    attempts: tuple[Attempt, ...] = ()
    taken: Taken | None = None
    taken_downloads: int = 0
    unwritten: bool = False
    stale: bool = False
