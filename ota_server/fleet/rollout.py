"""Rollouts: how far a release has got, when its next stage begins, and when it halts.

Everything here is pure: counts and times in, answers out.
"""

from __future__ import annotations

import enum
import hashlib
import math
from collections.abc import Mapping

import attrs

from ota_server.firmware.versions import Numbers
from ota_server.fleet.device import FAILURES, Device, Outcome
from ota_server.fleet.rules import HaltRule, Rules, Stage

EVERYBODY = Stage("100%", share=1.0)
"""The last stage of every rollout, and the only one where the policy names none."""

LAST_STAGE = 1_000_000
"""The place of a stage behind all that a policy has."""

SLACK = 2
"""So many devices for each seat belong to a stage at first, since not all of them will call soon."""

MIN_POOL = 4
"""At least so many devices belong to a stage."""

IDLE_STAGE = 86400.0
"""A stage whose seats aren't all taken goes on when for so long, in seconds, nobody has taken one."""


class State(enum.StrEnum):
    """How a rollout stands."""

    RUNNING = "running"
    HALTED = "halted"
    COMPLETE = "complete"


@attrs.define(eq=False)
class Rollout:
    """How far one release has got in one channel. Times are in seconds since 1970.

    `stage` is the place of its stage in the policy, from 0; `seats` how many devices that admits, None for everybody.
    `admitted` counts the devices that it was offered to, and `outcomes` counts them by what came of it. `acknowledged`
    is how many of the failures the operator knows of. `good_since` is since when enough of the stage is confirmed.
    `told_at` is when it was last told why a stage doesn't go on.
    `deciding` says that a step is being written down; until that is done nobody gets the release.
    `why` says in words why it halted, or by whom it was changed.
    """

    channel: str
    project: str
    version: Numbers
    started_at: float
    stage_since: float
    state: State = State.RUNNING
    stage: int = 0
    seats: int | None = None
    acknowledged: int = 0
    why: str = ""
    admitted: int = 0
    admitted_at: float = 0.0
    outcomes: dict[Outcome, int] = attrs.field(factory=dict)
    good_since: float | None = None
    told_at: float = 0.0
    deciding: bool = False
    failing: set[Device] = attrs.field(factory=set)
    """The devices that bounced or went silent, as long as they do."""

    @property
    def failed(self) -> int:
        """How many devices bounced or went silent."""
        return sum(self.outcomes.get(each, 0) for each in FAILURES)

    @property
    def failures(self) -> int:
        """How many devices bounced or went silent, but for those that the operator knows of."""
        return max(0, self.failed - self.acknowledged)

    @property
    def confirmed(self) -> int:
        """How many devices checked in on it."""
        return self.outcomes.get(Outcome.CONFIRMED, 0)

    @property
    def downloaded(self) -> int:
        """How many devices took it whole, whatever came of that."""
        return sum(count for outcome, count in self.outcomes.items() if outcome not in _NOT_DOWNLOADED)

    @property
    def taken(self) -> int:
        """How many seats are taken: a device that got something else before anything was known gives its own back."""
        return self.admitted - self.outcomes.get(Outcome.SUPERSEDED, 0)


_NOT_DOWNLOADED = frozenset({Outcome.OFFERED, Outcome.SUPERSEDED})

_SLIGHTLY = 1e-9
"""So little is nothing: shares of counts aren't quite what they are in decimals."""


@attrs.define(eq=False)
class Rollouts:
    """The rollouts of one project in one channel.

    `fleet` is how many devices of it are known. `barred` are the versions that nobody gets: those that are halted, and
    those of which a step is being written down.
    """

    fleet: int = 0
    by_version: dict[Numbers, Rollout] = attrs.field(factory=dict)
    barred: frozenset[Numbers] = frozenset()

    def update(self) -> None:
        """Note anew which versions are barred, after a rollout has changed."""
        self.barred = frozenset(
            version for version, each in self.by_version.items() if each.state is State.HALTED or each.deciding
        )


NO_ROLLOUTS = Rollouts()


def stage_of(rules: Rules, stage: int) -> Stage:
    """Return a stage of the policy by its place; behind the last there is only everybody."""
    return rules.stages[stage] if stage < len(rules.stages) else EVERYBODY


def is_last(rules: Rules, stage: int) -> bool:
    """Say whether a stage is for everybody, so that none comes behind it."""
    return stage_of(rules, stage).seats(1 << 40) is None


def hash_of(device: str, channel: str, project: str, version: Numbers) -> float:
    """Return the stable hash of device and release that decides on stages: evenly spread from 0 up to 1."""
    text = f"{device}\0{channel}\0{project}\0{version}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / (1 << 64)


def admits(
    rollout: Rollout | None,
    fleet: int,
    place_and_version: tuple[str, str, Numbers],
    rules: Rules,
    device: Device | None,
    now: float,
) -> bool:
    """Say whether the stage of a release has a seat for a device that hasn't been offered the release yet.

    A stage has so many seats, and those devices belong to it whose hash is below a bound. Where they don't come, the
    bound rises: it doubles with each `soak` that the stage has lasted. Nobody belongs to a stage who doesn't tell an
    identity (None), since they could not be counted.
    """
    seats = stage_of(rules, 0).seats(fleet) if rollout is None else rollout.seats
    if seats is None:
        return True
    if device is None or (rollout is not None and rollout.taken >= seats):
        return False
    lasted = 0.0 if rollout is None else max(0.0, now - rollout.stage_since)
    doubled = min(64.0, lasted / max(1.0, rules.soak))
    pool = max(MIN_POOL, seats * SLACK) * math.exp2(doubled)
    return pool >= fleet or hash_of(device.id, *place_and_version) < pool / fleet


def must_halt(rollout: Rollout, rule: HaltRule) -> bool:
    """Say whether a rollout has to halt by itself.

    It halts with so many failures as the rule says, where they are more than its share of the devices whose outcome is
    known. A stage that has no more seats than that halts when all of them failed.
    """
    failures = rollout.failures
    needed = rule.failures
    if rollout.seats is not None:
        # Those who are pinned to it, or led back to it, may be more.
        needed = min(needed, max(rollout.seats, rollout.taken))
    return 0 < needed <= failures and failures > rule.share * (failures + rollout.confirmed) + _SLIGHTLY


def is_good(rollout: Rollout, rules: Rules, now: float) -> bool:
    """Say whether enough of a stage is confirmed: of its downloads and of its seats, unless nobody takes these."""
    # A device that came back on a third version says nothing of this one.
    downloaded = rollout.downloaded - rollout.outcomes.get(Outcome.DRIFTED, 0)
    if not downloaded or rollout.seats is None or rollout.confirmed < rules.confirm * downloaded - _SLIGHTLY:
        return False
    if rollout.confirmed >= rules.confirm * rollout.seats - _SLIGHTLY:
        return True
    return now - max(rollout.admitted_at, rollout.stage_since) >= IDLE_STAGE


def describe(counts: Mapping[Outcome, int]) -> str:
    """Write counts of outcomes for people: `3 confirmed, 2 bounced`."""
    return ", ".join(f"{counts[each]} {each.value}" for each in Outcome if counts.get(each)) or "no outcome yet"
