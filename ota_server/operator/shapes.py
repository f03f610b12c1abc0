"""What devices, attempts, rollouts and events look like as JSON, each beside its schema.

Names of members are in snake_case, times are texts of RFC 3339 in UTC, spans of time in seconds, sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from semver import Version

from ota_server.firmware.naming import Kind
from ota_server.firmware.versions import Numbers
from ota_server.fleet.device import Attempt, Device, Outcome
from ota_server.fleet.journal import Event
from ota_server.fleet.ledger import EventNumber
from ota_server.fleet.policy import DEVICE_KEYS, PROJECT_KEYS, Policy
from ota_server.fleet.rhythm import median_of
from ota_server.fleet.rollout import Rollout, Rollouts, State, stage_of
from ota_server.fleet.rules import HaltRule, Rules, Stage
from ota_server.operator.calls import Json
from ota_server.operator.schemas import (
    COUNT,
    FLAG,
    SECONDS,
    SHA256,
    TEXT,
    TIME,
    VERSION,
    Schema,
    a_list,
    an_object,
    described,
    one_of,
    optional,
)

KIND = one_of(kind.value for kind in Kind)


def spell_time(seconds: float) -> str:
    """Write a time in seconds since 1970 as RFC 3339 has it, to the millisecond: `2026-11-24T02:00:00.250Z`."""
    try:
        time = datetime.fromtimestamp(round(seconds, 3), UTC)
    except (OverflowError, ValueError, OSError):
        # The clock was far off when it was noted.
        time = datetime.fromtimestamp(0, UTC)
    return time.isoformat(timespec="milliseconds" if time.microsecond else "seconds").replace("+00:00", "Z")


def spell_time_or_none(seconds: float | None) -> str | None:
    """Write a time that there may not be, which is None or 0."""
    return spell_time(seconds) if seconds else None


def spell_version(version: Numbers | Version) -> str:
    """Write a version: `1.2.3`."""
    return ".".join(map(str, version)) if isinstance(version, tuple) else str(version)


ATTEMPT = an_object(
    channel=TEXT,
    project=TEXT,
    version=VERSION,
    kind=KIND,
    image=described(SHA256, "SHA-256 of the plain image's bytes"),
    before=described(optional(TEXT), "what the device told as its version when it was offered the image"),
    outcome=one_of(Outcome),
    outcome_at=optional(TIME),
    offered_at=TIME,
    downloaded_at=optional(TIME),
    downloads=described(COUNT, "whole downloads"),
    braked_until=described(optional(TIME), "when the loop brake ends"),
    acknowledged=described(FLAG, "the operator knows of the failure"),
    settled=described(FLAG, "nothing more comes of it"),
    counted=described(FLAG, "it counts in its rollout"),
)


def show_attempt(attempt: Attempt) -> Json:
    """Return an attempt as JSON."""
    return {
        "channel": attempt.channel,
        "project": attempt.project,
        "version": spell_version(attempt.version),
        "kind": attempt.kind.value,
        "image": attempt.image,
        "before": attempt.before,
        "outcome": attempt.outcome.value,
        "outcome_at": spell_time_or_none(attempt.outcome_at),
        "offered_at": spell_time(attempt.offered_at),
        "downloaded_at": spell_time_or_none(attempt.downloaded_at),
        "downloads": attempt.downloads,
        "braked_until": spell_time_or_none(attempt.braked_until),
        "acknowledged": attempt.acknowledged,
        "settled": attempt.settled,
        "counted": attempt.counted,
    }


TAKEN = an_object(channel=TEXT, project=TEXT, version=VERSION, image=SHA256)

DEVICE = an_object(
    id=described(TEXT, "MAC address or chip id"),
    name=described(optional(TEXT), "its name in the policy"),
    channel=TEXT,
    project=TEXT,
    version=described(optional(TEXT), "what it told as its version"),
    image=described(optional(SHA256), "SHA-256 of the image that it runs, where a hash told it"),
    chip=optional(TEXT),
    dialect=described(optional(TEXT), "how its update client talks"),
    address=described(TEXT, "where it called from"),
    first_seen=TIME,
    last_seen=TIME,
    rhythm=described(optional(SECONDS), "seconds from one check-in to the next, as a median; null where unknown"),
    taken=described(optional(TAKEN), "the last release that it took for good"),
    open_attempts=described(a_list(ATTEMPT), "what it was sent, and may still come of; the newest first"),
)


def show_device(device: Device, policy: Policy) -> dict[str, Json]:
    """Return a device as JSON."""
    taken = device.taken
    return {
        "id": device.id,
        "name": policy.names.get(device.id),
        "channel": device.channel,
        "project": device.project,
        "version": device.version,
        "image": device.image,
        "chip": device.chip,
        "dialect": device.dialect,
        "address": device.address,
        "first_seen": spell_time(device.first_seen),
        "last_seen": spell_time(device.last_seen),
        "rhythm": median_of(device.rhythm),
        "taken": None
        if taken is None
        else {
            "channel": taken.channel,
            "project": taken.project,
            "version": spell_version(taken.version),
            "image": taken.image,
        },
        "open_attempts": [
            show_attempt(each) for each in sorted(device.attempts, key=lambda each: each.offered_at, reverse=True)
        ],
    }


_ORIGIN = optional(an_object(table=described(TEXT, "the table of the policy file"), line=COUNT))
_HALT = an_object(failures=COUNT, share={"type": "number", "minimum": 0, "maximum": 1})
_VALUES: Mapping[str, Schema] = {
    "stages": a_list(TEXT),
    "soak": SECONDS,
    "confirm": {"type": "number", "minimum": 0, "maximum": 1},
    "halt": _HALT,
    "silent-after": {"type": "number"},
    "window": a_list(TEXT),
    "stepping-stones": a_list(VERSION),
    "minimum": optional(VERSION),
    "rollback": FLAG,
    "hold": FLAG,
    "max-downloads": optional(COUNT),
    "channel": optional(TEXT),
    "pin": optional(VERSION),
    "downgrade": FLAG,
    "project": optional(TEXT),
}
# A token is no setting to show, and the name stands elsewhere.
_KEYS = tuple(key for key in dict.fromkeys((*PROJECT_KEYS, *DEVICE_KEYS)) if key in _VALUES)

SETTINGS = described(
    an_object(
        **{
            key.replace("-", "_"): an_object(value=_VALUES[key], origin=described(_ORIGIN, "null for a default"))
            for key in _KEYS
        }
    ),
    "what holds, and where in the policy that was set",
)


def show_settings(rules: Rules) -> dict[str, Json]:
    """Return the rules that hold as JSON, each with where it was set."""
    shown = {}
    for key in _KEYS:
        name = key.replace("-", "_")
        origin = rules.origins.get(key)
        shown[name] = {
            "value": _show_value(getattr(rules, name)),
            "origin": None if origin is None else {"table": origin.table, "line": origin.line},
        }
    return shown


def _show_value(value: Any) -> Json:
    match value:
        case tuple():
            return [_show_value(each) for each in value]
        case Version():
            return spell_version(value)
        case Stage():
            return value.text
        case HaltRule():
            return {"failures": value.failures, "share": value.share}
        case None | bool() | int() | float() | str():
            return value
    # A window, which is shown as it was written.
    return str(getattr(value, "text", value))


ROLLOUT = an_object(
    channel=TEXT,
    project=TEXT,
    version=VERSION,
    state=one_of(State),
    deciding=described(FLAG, "a step is being written down, and nobody gets the release until that is done"),
    why=described(TEXT, "why it halted, or by whom it was changed"),
    stage=an_object(
        number=described(COUNT, "from 1"),
        of=described(COUNT, "how many the policy has"),
        text=described(TEXT, "as the policy says it"),
        seats=described(optional(COUNT), "how many devices it admits, null for everybody"),
        taken=described(COUNT, "how many seats are taken"),
        since=TIME,
    ),
    fleet=described(COUNT, "how many devices its project and channel have"),
    admitted=described(COUNT, "how many devices it was offered to"),
    admitted_at=described(optional(TIME), "when a device was last admitted"),
    outcomes=described(an_object(**dict.fromkeys(Outcome, COUNT)), "how many devices, by what came of it"),
    failures=described(COUNT, "how many bounced or went silent, without those that are acknowledged"),
    acknowledged=COUNT,
    started_at=TIME,
)


def show_rollout(rollout: Rollout, rollouts: Rollouts, rules: Rules) -> dict[str, Json]:
    """Return a rollout as JSON, given all of its project and channel, and the rules of the project."""
    stages = max(1, len(rules.stages))
    return {
        "channel": rollout.channel,
        "project": rollout.project,
        "version": spell_version(rollout.version),
        "state": rollout.state.value,
        "deciding": rollout.deciding,
        "why": rollout.why,
        "stage": {
            # Behind the last stage of the policy there is only everybody.
            "number": min(rollout.stage + 1, stages),
            "of": stages,
            "text": stage_of(rules, rollout.stage).text,
            "seats": rollout.seats,
            "taken": max(0, rollout.taken),
            "since": spell_time(rollout.stage_since),
        },
        "fleet": max(0, rollouts.fleet),
        "admitted": max(0, rollout.admitted),
        "admitted_at": spell_time_or_none(rollout.admitted_at),
        "outcomes": {each.value: max(0, rollout.outcomes.get(each, 0)) for each in Outcome},
        "failures": rollout.failures,
        "acknowledged": max(0, rollout.acknowledged),
        "started_at": spell_time(rollout.started_at),
    }


EVENT_ID: Schema = {"type": "string", "pattern": "^[0-9]+-[0-9]+$", "description": "later events have larger numbers"}

EVENT = an_object(
    id=EVENT_ID,
    time=TIME,
    kind=described(TEXT, "a short stable word"),
    text=described(TEXT, "what happened, for people"),
    actor=described(TEXT, "`server`, or `operator:` and a name"),
    channel=optional(TEXT),
    project=optional(TEXT),
    version=optional(VERSION),
    device=optional(TEXT),
)


def show_event(number: EventNumber, event: Event) -> Json:
    """Return an event of the ledger as JSON."""
    return {
        "id": spell_number(number),
        "time": spell_time(event.time),
        "kind": event.kind,
        "text": event.text,
        "actor": event.actor,
        "channel": event.channel,
        "project": event.project,
        "version": None if event.version is None else spell_version(event.version),
        "device": event.device,
    }


def spell_number(number: EventNumber) -> str:
    """Write the number of an event: `12-0`."""
    return f"{number[0]}-{number[1]}"


def read_number(text: str) -> EventNumber:
    """Read the number of an event. Raises ValueError."""
    parts = text.split("-")
    if len(parts) != 2 or not all(each.isascii() and each.isdigit() and len(each) <= 18 for each in parts):
        raise ValueError("write the id of an event, as in 12-0")
    return int(parts[0]), int(parts[1])
