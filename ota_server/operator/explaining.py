"""Explaining: what a device would be answered now, and why."""

from __future__ import annotations

import attrs

from ota_server.fleet.asking import suppose_check_in
from ota_server.fleet.checkin import Mode
from ota_server.fleet.decision import REASONS, Case, Traffic, place_by
from ota_server.fleet.device import Attempt, Device
from ota_server.fleet.rollout import NO_ROLLOUTS
from ota_server.fleet.settings import SettingError, read_device
from ota_server.fleet.tracing import explain
from ota_server.operator.calls import Answer, Call, Operation, Parameter, Place, Problem
from ota_server.operator.house import House
from ota_server.operator.parameters import any_name, any_text, one_of
from ota_server.operator.schemas import FLAG, TEXT, a_list, an_object, described, optional
from ota_server.operator.schemas import one_of as word_of
from ota_server.operator.scopes import Scope
from ota_server.operator.shapes import ATTEMPT, show_attempt

_STEP = an_object(
    step=TEXT,
    text=described(TEXT, "what it found, for people"),
    decided=described(FLAG, "the answer is this step's"),
)

EXPLANATION = an_object(
    device=optional(TEXT),
    name=optional(TEXT),
    channel=TEXT,
    project=TEXT,
    version=optional(TEXT),
    known=described(FLAG, "the device has checked in before"),
    trouble=described(optional(TEXT), "why not all is known that could be"),
    policy_trouble=described(optional(TEXT), "what is wrong with the policy's file; the policy read before holds"),
    answer=described(TEXT, "the answer as status and image, for people"),
    reason=word_of(REASONS),
    meaning=described(TEXT, "what the reason means"),
    change=described(TEXT, "what would change the answer"),
    steps=a_list(_STEP),
    attempts=described(a_list(ATTEMPT), "what it was sent, in the order of that"),
)

_MODES = [mode.value for mode in Mode if mode is not Mode.UNKNOWN]


class Explaining:
    """What answers; see the operations."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def explain(self, call: Call) -> Answer:
        """Explain what a device would be answered."""
        house, policy = self._house, self._house.policy
        catalog = house.catalog
        fleet = None if house.reader is None else house.fleet
        device_id = None if call["device"] is None else self._find_id(call["device"])
        device = None if fleet is None or device_id is None else fleet.devices.get(device_id)
        if device is None and call["project"] is None:
            if device_id is None:
                raise Problem(400, "nothing-to-explain", "Nothing says what to explain", "name a device or a project")
            raise Problem(
                404, "unknown-device", "No such device has checked in", "to ask what it would get, name a project, too"
            )
        told = {name: call[name] for name in ("project", "channel", "version", "chip", "free_space", "chip_size")}
        check_in = suppose_check_in(device_id, device, catalog, Mode(call["mode"]), **told)
        rules = policy.rules_for(check_in.project, check_in.device)
        placed = place_by(check_in, rules)
        place = (placed.channel, placed.project)
        known = device is not None
        attempts: list[Attempt] = []
        rollouts, traffic = NO_ROLLOUTS, Traffic(limit=policy.max_downloads)
        if fleet is None:
            # Nobody could say who is in a stage.
            rules = attrs.evolve(rules, stages=())
        else:
            rollouts, traffic = fleet.course.places.get(place, NO_ROLLOUTS), fleet.traffic(placed)
            if device is not None and device_id is not None:
                attempts = await house.read(lambda ledger: ledger.attempts_of(device_id))
            elif device_id is not None:
                # As the server does, which remembers it from its first check-in on, and counts it.
                device = Device(0, device_id, None, *place, call.now, call.now)
                rollouts = attrs.evolve(rollouts, fleet=rollouts.fleet + 1)
        case = Case(check_in, catalog, rules, device, rollouts, call.now, traffic)
        explanation = explain(case)
        return Answer(
            {
                "device": case.check_in.device,
                "name": policy.names.get(device_id or ""),
                "channel": case.check_in.channel,
                "project": case.check_in.project,
                "version": case.check_in.version,
                "known": known,
                "trouble": "the server keeps no ledger" if fleet is None else None,
                "policy_trouble": house.rules.trouble or None,
                "answer": explanation.answer,
                "reason": explanation.decision.reason,
                "meaning": explanation.meaning,
                "change": explanation.change,
                "steps": [attrs.asdict(finding) for finding in explanation.findings],
                "attempts": [show_attempt(attempt) for attempt in attempts],
            }
        )

    def _find_id(self, text: str) -> str:
        """Return the id of a device that is told by its id or its name. Raises Problem."""
        for device_id, name in self._house.policy.names.items():
            if name == text:
                return device_id
        try:
            found = read_device(text)
        except SettingError as error:
            raise Problem(400, "bad-device", "This is no id of a device", str(error)) from None
        known = self._house.known
        if found is None and known is not None and text in known.devices:
            found = text
        if found is None:
            raise Problem(404, "unknown-device", "No device has this name", "it is no MAC address and no chip id")
        return found


def _read_size(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise ValueError("write a number of bytes")
    return int(text)


def _read_chip(text: str) -> str:
    if not 0 < len(text) <= 32:
        raise ValueError("write a chip as in esp32c3")
    return text.lower().replace("-", "")


def _size(name: str, summary: str) -> Parameter:
    return Parameter(
        name, Place.QUERY, summary, _read_size, {"type": "integer", "minimum": 0, "maximum": 999_999_999_999_999}
    )


def make_operations(house: House) -> tuple[Operation, ...]:
    """Return the operations of this room."""
    explaining = Explaining(house)
    return (
        Operation(
            "explain",
            "GET",
            "/explain",
            Scope.READ,
            "Explain what a device would be answered now: what each step of the decision found, and what would change "
            "it. What isn't told of the device is what it told the last time.",
            explaining.explain,
            {200: EXPLANATION},
            (
                any_text("device", "Id of the device, or its name."),
                any_name("project", "Project that it asks for."),
                any_name("channel", "Channel that it asks for."),
                any_text("version", "Version that it tells."),
                Parameter(
                    "chip",
                    Place.QUERY,
                    "Chip that it has, as in esp32c3.",
                    _read_chip,
                    {"type": "string", "minLength": 1, "maxLength": 32},
                ),
                one_of("mode", _MODES, "What it asks for.", default="sketch"),
                _size("free_space", "Bytes that it has free for a new sketch."),
                _size("chip_size", "Bytes of flash that it has."),
            ),
        ),
    )
