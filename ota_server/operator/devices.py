"""Reading: devices, what they were sent and what came of that, and what was decided about them."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from operator import attrgetter
from typing import Any

import attrs

from ota_server.firmware.naming import Kind
from ota_server.firmware.versions import VersionError, read_reported_version
from ota_server.fleet.device import Attempt, Device, Outcome
from ota_server.fleet.policy import Policy
from ota_server.fleet.settings import SettingError, read_device
from ota_server.operator.calls import Answer, Call, Operation, Problem
from ota_server.operator.event_list import EVENTS_PAGE, list_events
from ota_server.operator.house import House
from ota_server.operator.listing import CURSOR, LIMIT, Key, Listing, Order, page_schema
from ota_server.operator.parameters import DEVICE as DEVICE_PARAMETER
from ota_server.operator.parameters import any_name, any_text, any_time, one_of
from ota_server.operator.schemas import Schema, an_object
from ota_server.operator.scopes import Scope
from ota_server.operator.shapes import ATTEMPT, DEVICE, SETTINGS, show_attempt, show_device, show_settings

FIRST = 20
"""How many attempts and events are shown with a device; the rest is on pages of their own."""

_LOWEST = (-1, -1, -1, "")

_NUMERIC = re.compile(r"[0-9]+", re.ASCII)


class VersionKeys(dict[str | None, Key]):
    """Sorts what devices report by the precedence of Semantic Versioning; what is unreadable comes before all."""

    def __missing__(self, text: str | None) -> Key:
        key = self[text] = precedence_of(text)
        return key


def precedence_of(text: str | None) -> Key:
    """Return what reported versions are sorted by: three numbers, and a text for the pre-release."""
    if text is None:
        return _LOWEST
    try:
        version = read_reported_version(text).version
    except VersionError:
        return _LOWEST
    # Clause 11 of Semantic Versioning 2.0.0: numbers before words, fewer before more, and all before the release.
    parts = [
        f"0{len(part):03}{part}" if _NUMERIC.fullmatch(part) else f"1{part}"
        for part in (version.prerelease or "").split(".")
        if part
    ]
    return (version.major, version.minor, version.patch, "\x01".join(parts) or "~")


def _make_listing(policy: Policy) -> Listing[Device]:
    keys = VersionKeys()
    names = policy.names
    return Listing(
        {
            "id": Order(lambda device: (device.id,), (str,), attrgetter("id")),
            # Those without a name come last.
            "name": Order(
                lambda device: (0, names[device.id], device.id) if device.id in names else (1, "", device.id),
                (int, str, str),
            ),
            "version": Order(
                lambda device: (*keys[device.version], device.id),
                (int, int, int, str, str),
                lambda device: keys[device.version],
                len(_LOWEST),
            ),
            "last_seen": Order(lambda device: (device.last_seen, device.id), (float, str), attrgetter("last_seen")),
            "first_seen": Order(lambda device: (device.first_seen, device.id), (float, str), attrgetter("first_seen")),
        },
        "id",
    )


_SORTS = _make_listing(Policy())

_ATTEMPTS: Listing[Attempt] = Listing(
    {
        "offered_at": Order(
            lambda each: (
                each.offered_at,
                each.channel,
                each.project,
                *each.version,
                each.kind.value,
                each.image,
            ),
            (float, str, str, int, int, int, str, str),
        )
    },
    "-offered_at",
)

_ALIKE = ("id", "project", "channel", "chip", "dialect", "address", "version")
"""What is compared with what a device is, as it stands."""

WHOLE_DEVICE: Schema = an_object(
    **DEVICE["properties"],
    settings=SETTINGS,
    attempts=page_schema(ATTEMPT),
    events=EVENTS_PAGE,
)


class Devices:
    """What answers; see the operations."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def devices(self, call: Call) -> Answer:
        """List devices."""
        policy = self._house.policy
        listing = _make_listing(policy)
        # A copy, since devices come and go while it is gone through.
        devices = list(self._house.fleet.devices.values())
        page = await self._house.turns.run(listing.scan(call, devices, make_tests(call, policy)))
        return listing.answer(call, page, lambda device: show_device(device, policy))

    def find(self, text: str) -> Device:
        """Return a device by its id or its name. Raises Problem."""
        policy, devices = self._house.policy, self._house.fleet.devices
        for device_id, name in policy.names.items():
            if name == text and device_id in devices:
                return devices[device_id]
        try:
            found = devices.get(read_device(text) or text)
        except SettingError:
            found = None
        if found is None:
            raise Problem(404, "unknown-device", "No such device has checked in", "see /api/v1/devices")
        return found

    async def device(self, call: Call) -> Answer:
        """Show one device, with all that is remembered of it."""
        device = self.find(call["device"])
        policy = self._house.policy
        begin = attrs.evolve(call, values={**call.values, "limit": FIRST, "cursor": None, "sort": _ATTEMPTS.default})
        attempts = await self._list_attempts(begin, device)
        events = await list_events(self._house, begin, device=device.id)
        return Answer(
            {
                **show_device(device, policy),
                "settings": show_settings(policy.rules_for(device.project, device.id)),
                "attempts": attempts.json,
                "events": events.json,
            }
        )

    async def attempts(self, call: Call) -> Answer:
        """List the attempts of a device."""
        return await self._list_attempts(call, self.find(call["device"]))

    async def _list_attempts(self, call: Call, device: Device) -> Answer:
        written = await self._house.read(lambda ledger: ledger.attempts_of(device.id))
        # What is open is newer in memory.
        found = {_identify(each): each for each in (*written, *device.attempts)}
        return _ATTEMPTS.whole(call, found.values(), show_attempt)

    async def events(self, call: Call) -> Answer:
        """List the events of a device."""
        return await list_events(self._house, call, device=self.find(call["device"]).id)


def _identify(attempt: Attempt) -> tuple[str, str, Kind, object, str]:
    return (attempt.channel, attempt.project, attempt.kind, attempt.version, attempt.image)


def make_tests(call: Call, policy: Policy) -> list[Callable[[Device], bool]]:
    """Return what a device has to pass to be one of those that a call asks for."""
    names = policy.names
    tests = [_is_alike(name, call[name]) for name in _ALIKE if call[name] is not None]
    if (name := call["name"]) is not None:
        tests.append(lambda device: names.get(device.id) == name)
    if (outcome := call["outcome"]) is not None:
        tests.append(lambda device: any(each.outcome == outcome for each in device.attempts))
    if (after := call["seen_after"]) is not None:
        tests.append(lambda device: device.last_seen >= after)
    if (before := call["seen_before"]) is not None:
        tests.append(lambda device: device.last_seen < before)
    if (text := call["q"]) is not None:
        part = text.lower()
        named = {device for device, name in names.items() if part in name.lower()}
        # Ids are upper-case, but for names of certificates.
        tests.append(lambda device: part in device.id.lower() or device.id in named)
    return tests


def _is_alike(name: str, value: Any) -> Callable[[Device], bool]:
    if name == "id":
        with suppress(SettingError):
            value = read_device(value) or value
    if name == "version":
        # 1.2, v1.2.0 and 1.2.0 are the same to a person.
        keys = VersionKeys()
        wanted = keys[value]
        if wanted != _LOWEST:
            return lambda device: device.version == value or keys[device.version] == wanted
    return lambda device: bool(getattr(device, name) == value)


def make_operations(house: House) -> tuple[Operation, ...]:
    """Return the operations of this room."""
    devices = Devices(house)
    read = Scope.READ
    paged = (DEVICE_PARAMETER, LIMIT, CURSOR)
    filters = (
        any_text("q", "Only devices with this in their id or name."),
        any_text("id", "Only the device with this id, in any spelling."),
        any_text("name", "Only the device with this name."),
        any_name("project", "Only devices that were last served this project."),
        any_name("channel", "Only devices that were last served this channel."),
        any_text("version", "Only devices that tell this version, however spelled."),
        one_of("outcome", list(Outcome), "Only devices with an open attempt of this outcome."),
        any_text("chip", "Only devices with this chip."),
        any_text("dialect", "Only devices with this update client."),
        any_text("address", "Only devices that called from this address."),
        any_time("seen_after", "Only devices seen at this time or later."),
        any_time("seen_before", "Only devices seen last before this time."),
    )
    return (
        Operation(
            "list_devices",
            "GET",
            "/devices",
            read,
            "List the devices that have checked in.",
            devices.devices,
            {200: page_schema(DEVICE)},
            (*filters, *_SORTS.parameters),
            problems=(409,),
        ),
        Operation(
            "get_device",
            "GET",
            "/devices/{device}",
            read,
            "Show one device: what it told, what it was sent, the settings that hold, and what was decided about it.",
            devices.device,
            {200: WHOLE_DEVICE},
            (DEVICE_PARAMETER,),
            problems=(409,),
        ),
        Operation(
            "list_attempts",
            "GET",
            "/devices/{device}/attempts",
            read,
            "List what a device was sent, open and settled, and what came of it.",
            devices.attempts,
            {200: page_schema(ATTEMPT)},
            (DEVICE_PARAMETER, *_ATTEMPTS.parameters),
            problems=(409,),
        ),
        Operation(
            "list_device_events",
            "GET",
            "/devices/{device}/events",
            read,
            "List what was decided about a device, the newest first.",
            devices.events,
            {200: EVENTS_PAGE},
            paged,
            problems=(409,),
        ),
    )
