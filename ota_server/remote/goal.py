"""Pure: when a rollout that is waited for has come to its end, and how."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import attrs

from ota_server.fleet.device import FAILURES, Outcome
from ota_server.fleet.rollout import State

ENOUGH = 0.8
"""Of the devices that took a release whole, so many have to be confirmed, as a stage needs by default."""

DEFAULT_SHARE = 0.1
"""And so many of the fleet, where nothing else is said."""

_COUNT = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%", re.ASCII)


@attrs.frozen
class Goal:
    """What is waited for: that a rollout is complete, or that enough devices have confirmed the release.

    For the second, exactly one of `count` (devices) and `share` (of the fleet, 0 to 1) is given.
    """

    text: str
    count: int | None = None
    share: float | None = None


COMPLETE = Goal("complete")


def read_goal(text: str) -> Goal:
    """Read `complete`, `confirmed`, `confirmed:20` or `confirmed:50%`. Raises ValueError."""
    word, colon, amount = text.partition(":")
    if text == "complete":
        return COMPLETE
    if word == "confirmed":
        if not colon:
            return Goal(text, share=DEFAULT_SHARE)
        if _COUNT.fullmatch(amount):
            return Goal(text, count=int(amount))
        share = _SHARE.fullmatch(amount)
        if share and 0 < float(share[1]) <= 100:
            return Goal(text, share=float(share[1]) / 100)
    raise ValueError(f"{text[:40]!r} is nothing to wait for; write complete, confirmed, confirmed:20 or confirmed:50%")


@attrs.frozen
class Verdict:
    """How a rollout has ended, and why."""

    good: bool
    why: str


def judge(rollout: Mapping[str, Any], goal: Goal) -> Verdict | None:
    """Say how a rollout, as the API tells of it, has ended; None as long as it hasn't."""
    state = rollout["state"]
    if state == State.HALTED:
        return Verdict(good=False, why=f"halted: {rollout.get('why') or 'no reason is given'}")
    if state == State.COMPLETE:
        return Verdict(good=True, why=f"complete: {rollout.get('why') or 'all of the fleet has it'}")
    if goal is COMPLETE:
        return None
    confirmed = count_of(rollout, Outcome.CONFIRMED)
    taken = confirmed + count_of(rollout, Outcome.DOWNLOADED, *FAILURES)
    fleet = int(rollout.get("fleet") or 0)
    needed = goal.count if goal.count is not None else max(1, math.ceil((goal.share or 0) * fleet - 1e-9))
    if confirmed < needed or confirmed < ENOUGH * taken:
        return None
    return Verdict(good=True, why=f"confirmed by {confirmed} of the {taken} devices that took it")


def count_of(rollout: Mapping[str, Any], *outcomes: Outcome) -> int:
    """Return for how many devices one of these outcomes is known."""
    counts = rollout.get("outcomes") or {}
    return sum(int(counts.get(outcome.value, 0)) for outcome in outcomes)


def describe_rollout(rollout: Mapping[str, Any]) -> str:
    """Write how a rollout stands, for people: `running, stage 1 of 4: offered to 1 of 50 devices, 1 confirmed`."""
    stage = rollout.get("stage") or {}
    # For everybody it is the last one, which needs no word.
    told = f", stage {stage['number']} of {stage['of']}" if stage.get("seats") is not None else ""
    counts = rollout.get("outcomes") or {}
    known = [f"{counts[each.value]} {each.value}" for each in Outcome if counts.get(each.value)]
    reach = f"offered to {rollout['admitted']} of {rollout['fleet']} devices"
    return f"{rollout['state']}{told}: {', '.join([reach, *known])}"
