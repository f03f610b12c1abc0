"""What to answer to one check-in: `decide` is a pure function, made of steps that follow one another.

No device is ever sent a lower version than it runs unless the policy says so, nor an image that can't work there as
far as that is known. What the steps say to people is made into docs/decisions.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ota_server.firmware.catalog import Catalog
from ota_server.fleet import choosing, fitting, permitting
from ota_server.fleet.checkin import CheckIn
from ota_server.fleet.decision import (
    NO_TRAFFIC,
    REASONS,
    Announce,
    Case,
    Decision,
    Refuse,
    Send,
    Traffic,
    UpToDate,
    Withhold,
)
from ota_server.fleet.device import Device
from ota_server.fleet.rollout import NO_ROLLOUTS, Rollouts
from ota_server.fleet.rules import DEFAULT_RULES, Rules

__all__ = [
    "REASONS",
    "STEPS",
    "Announce",
    "Decision",
    "Refuse",
    "Send",
    "Step",
    "Traffic",
    "UpToDate",
    "Withhold",
    "decide",
    "decide_case",
]


class Step(NamedTuple):
    """One step: its name, what it does (None to go on), the reasons that it may give, and its rule for people."""

    name: str
    apply: Callable[[Case], Decision | None]
    reasons: tuple[str, ...]
    rule: str


STEPS = (
    Step(
        "place",
        choosing.find_place,
        ("unknown-project",),
        "The project and channel are those of the address, unless the policy names others for the device. A channel "
        "of the policy that lacks the project is passed over.",
    ),
    Step(
        "question",
        choosing.read_question,
        ("unknown-mode", "unreadable-chip"),
        "The device asks for a sketch, a filesystem, or only for the number of a version; `?chip=` names a chip.",
    ),
    Step(
        "release",
        choosing.choose_release,
        (
            "wrong-chip",
            "unknown-chip",
            "not-for-ota",
            "no-image",
            "pinned",
            "halted",
            "deciding",
            "stage-full",
            "stepping-stone",
        ),
        "The best release is the highest that has an image for the device and isn't halted. A staged one counts only "
        "for the devices of its stage, and nobody jumps over a stepping stone. A pinned device gets the release that "
        "it is pinned to. Of the halted release that it runs, a device is led back if the policy says so.",
    ),
    Step(
        "number",
        choosing.announce,
        ("version-asked", "held", "window-closed"),
        "Who asked for the number of the best version gets that, when the image may be had, too.",
    ),
    Step(
        "comparison",
        choosing.compare_with_running,
        (
            "up-to-date",
            "unknown-build",
            "unreadable-version",
            "halted",
            "deciding",
            "stage-full",
            "stepping-stone",
            "version-unknown",
            "wrong-chip",
            "unknown-chip",
            "not-for-ota",
            "pinned",
        ),
        "What runs is known by its hash first and by its version second. Only a higher version is sent, another build "
        "of the same, or the best one to a device that tells nothing. Where a release above was passed over, the "
        "reason for that is told.",
    ),
    Step(
        "fit",
        fitting.fit,
        ("wrong-chip", "not-for-ota", "flash-size", "no-space"),
        "An image that can't work in the device, or doesn't fit into it, isn't sent. An ESP8266 that surely unpacks it "
        "gets the compressed image, if there is one.",
    ),
    Step(
        "hold",
        permitting.hold,
        ("held",),
        "Nothing is sent where the policy holds updates.",
    ),
    Step(
        "minimum",
        permitting.keep_minimum,
        ("below-minimum", "version-unknown"),
        "A device that runs less than the policy's minimum isn't updated over the air.",
    ),
    Step(
        "brake",
        permitting.brake,
        ("bounced",),
        "A device that took the same image three times, and still runs another, gets it no more for 24 hours.",
    ),
    Step(
        "window",
        permitting.look_at_window,
        ("window-closed",),
        "Nothing is sent outside the policy's hours.",
    ),
    Step(
        "turn",
        permitting.take_turn,
        ("busy",),
        "No more devices download at once than the policy allows. As long as devices wait that were turned away, the "
        "second half of the places is kept for them.",
    ),
    Step(
        "answer",
        permitting.send,
        ("newer", "no-version", "other-build", "pinned", "rollback"),
        "The image is sent.",
    ),
)
"""All steps in order. The first that gives a decision ends it; the last always gives one."""

_APPLY = tuple(step.apply for step in STEPS)


def decide(
    check_in: CheckIn,
    catalog: Catalog,
    rules: Rules = DEFAULT_RULES,
    device: Device | None = None,
    rollouts: Rollouts = NO_ROLLOUTS,
    now: float = 0.0,
    traffic: Traffic = NO_TRAFFIC,
) -> Decision:
    """Decide what to answer to one check-in.

    `rules` are those of the policy for this device, `device` is what is remembered of it (None for one that tells no
    identity, or isn't known), `rollouts` those of the project and channel that the rules send it to. `now` is in
    seconds since 1970. The same arguments give the same decision.
    """
    return decide_case(Case(check_in, catalog, rules, device, rollouts, now, traffic))


def decide_case(case: Case) -> Decision:
    """Apply the steps to a case."""
    for apply in _APPLY:
        decision = apply(case)
        if decision is not None:
            return decision
    raise AssertionError("the last step always decides")
