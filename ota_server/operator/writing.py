"""Writing: pins, holds and names of devices, which go into the policy file as a person would write them there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from semver import Version
from twisted.internet.defer import DeferredLock

from ota_server.firmware.versions import numbers_of, parse_file_version
from ota_server.fleet.journal import Event
from ota_server.fleet.policy import DEFAULT_POLICY, Policy, PolicyError
from ota_server.fleet.rules import Origin, Rules
from ota_server.fleet.settings import MAX_DEVICE_NAME, SettingError, read_device, read_device_name
from ota_server.operator.calls import Answer, Call, Json, Operation, Problem
from ota_server.operator.devices import precedence_of
from ota_server.operator.durably import tell_event
from ota_server.operator.editing import Changes, rename_device, set_device
from ota_server.operator.house import House
from ota_server.operator.parameters import DEVICE, VERSION_SCHEMA
from ota_server.operator.policy_file import Written, rewrite
from ota_server.operator.schemas import FLAG, TEXT, a_list, an_object, described, optional
from ota_server.operator.scopes import Scope
from ota_server.operator.shapes import SETTINGS, show_settings

SET = an_object(
    device=described(TEXT, "its id"),
    name=optional(TEXT),
    changed=described(FLAG, "whether the policy file was changed"),
    settings=SETTINGS,
    notes=described(a_list(TEXT), "what else there is to know, for people"),
)

_PIN_BODY: dict[str, Json] = {
    "type": "object",
    "properties": {
        "version": {**VERSION_SCHEMA, "description": "the release that the device gets"},
        "downgrade": {"type": "boolean", "description": "also where it runs a higher version", "default": False},
    },
    "required": ["version"],
    "additionalProperties": False,
}

_RENAME_BODY: dict[str, Json] = {
    "type": "object",
    "properties": {
        "name": {
            "type": ["string", "null"],
            "minLength": 1,
            "maxLength": MAX_DEVICE_NAME,
            "description": "what people call the device, null for nothing",
        }
    },
    "required": ["name"],
    "additionalProperties": False,
}


class DeviceSettings:
    """What answers; see the operations."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._one_at_a_time = DeferredLock()

    async def pin(self, call: Call) -> Answer:
        """Pin a device to a release."""
        device = self._find(call)
        version: Version = parse_file_version(call.body["version"])
        downgrade = bool(call.body.get("downgrade", False))

        def edit(text: str) -> str:
            # Only what is needed is written: a group may say that the device may go down.
            return self._change(
                text,
                device,
                lambda rules: rules.downgrade is downgrade,
                {"pin": str(version), "downgrade": True if downgrade else None},
                {"pin": str(version), "downgrade": downgrade},
            )

        text = f"to {version}{', also down to it' if downgrade else ''}"
        return await self._set(call, device, "pinned", text, edit, version)

    async def unpin(self, call: Call) -> Answer:
        """Let a device have what others get."""
        device = self._find(call)
        return await self._set(
            call, device, "unpinned", "", lambda text: set_device(text, device, {"pin": None, "downgrade": None})
        )

    async def hold(self, call: Call) -> Answer:
        """Give a device nothing any more."""
        device = self._find(call)
        return await self._set(call, device, "held", "", lambda text: set_device(text, device, {"hold": True}))

    async def release(self, call: Call) -> Answer:
        """Give a device updates again, whatever holds it."""
        device = self._find(call)

        def edit(text: str) -> str:
            return self._change(text, device, lambda rules: not rules.hold, {"hold": None}, {"hold": False})

        return await self._set(call, device, "released", "", edit)

    async def rename(self, call: Call) -> Answer:
        """Give a device a name."""
        device, name = self._find(call), call.body["name"]
        if name is not None:
            try:
                read_device_name(name)
            except SettingError as error:
                raise Problem(400, "bad-body", "The body is wrong", f"name: {error}", member="name") from None
        text = f"to {name}" if name is not None else "to nothing"
        return await self._set(call, device, "renamed", text, lambda old: rename_device(old, device, name))

    def _find(self, call: Call) -> str:
        """Return the id of a device, which needs not have checked in. Raises Problem."""
        text = call["device"]
        for device, name in self._house.policy.names.items():
            if name == text:
                return device
        try:
            found = read_device(text)
        except SettingError as error:
            raise Problem(404, "unknown-device", "There is no such device", str(error)) from None
        if found is None:
            detail = "no device has this name; write its id, such as 5C:CF:7F:00:11:22"
            raise Problem(404, "unknown-device", "There is no such device", detail)
        return found

    def _project(self, device: str) -> str:
        known = self._house.known
        found = None if known is None else known.devices.get(device)
        return "" if found is None else found.project

    def _change(self, text: str, device: str, fits: Callable[[Rules], bool], *ways: Changes) -> str:
        """Change the settings of a device in the first way by which the rules come out as they should."""
        edited = text
        for way in ways:
            edited = set_device(text, device, way)
            try:
                if fits(self._house.rules.judge(edited).rules_for(self._project(device), device)):
                    break
            except PolicyError:
                # What is wrong with it is told where it is judged once more.
                break
        return edited

    async def _set(
        self,
        call: Call,
        device: str,
        kind: str,
        text: str,
        edit: Callable[[str], str],
        version: Version | None = None,
    ) -> Answer:
        """Change the policy file, and answer once that is in force. Raises Problem."""
        house = self._house
        house.check_memory()
        await self._one_at_a_time.acquire()
        try:
            expected = house.policy is not DEFAULT_POLICY
            write = partial(rewrite, house.rules.path, edit, house.rules.judge, expected=expected)
            written: Written = await house.in_thread(write)
            try:
                in_force = await house.rules.look_now(written.policy) if written.exists else written.policy
            except (PolicyError, FileNotFoundError) as error:
                raise Problem(409, "policy-wrong", "The policy file has changed since", str(error)) from None
        finally:
            self._one_at_a_time.release()
        notes = []
        if in_force.digest != written.policy.digest:
            notes.append("somebody else has changed the policy file since; what it says counts in a moment")
        if written.changed:
            about = None if version is None else numbers_of(version)
            event = Event(call.now, call.operator.actor, kind, text, None, None, about, device)
            notes += await tell_event(house, event)
        return self._answer(device, in_force, notes, changed=written.changed, kind=kind)

    def _answer(self, device: str, policy: Policy, notes: list[str], *, changed: bool, kind: str) -> Answer:
        rules = policy.rules_for(self._project(device), device)
        notes += self._note(device, rules, kind)
        return Answer(
            {
                "device": device,
                "name": policy.names.get(device),
                "changed": changed,
                "settings": show_settings(rules),
                "notes": notes,
            }
        )

    def _note(self, device: str, rules: Rules, kind: str) -> list[str]:
        """Say where what was asked for isn't all that holds."""
        notes = []
        if kind == "unpinned" and rules.pin is not None:
            notes.append(f"{_place(rules.origins.get('pin'))} pins it to {rules.pin}, still")
        if kind == "pinned" and rules.pin is not None:
            if rules.hold:
                notes.append(f"{_place(rules.origins.get('hold'))} holds it, so that it gets nothing")
            notes += self._note_pin(device, rules, rules.pin)
        return notes

    def _note_pin(self, device: str, rules: Rules, pin: Version) -> list[str]:
        known = self._house.known
        found = None if known is None else known.devices.get(device)
        if found is None:
            return []
        notes = []
        catalog = self._house.watcher.catalog
        project = None if catalog is None else catalog.project(rules.channel or found.channel, found.project)
        if project is None or project.release(pin) is None:
            notes.append(f"there is no release {pin} of {found.project} in its channel")
        runs = precedence_of(found.version)[:3]
        if not rules.downgrade and runs > numbers_of(pin):
            notes.append(f"it runs {found.version}, which is higher: without downgrade it stays there")
        return notes


def _place(origin: Origin | None) -> str:
    return "the policy" if origin is None else f"{origin.table} (line {origin.line})"


def make_operations(house: House) -> tuple[Operation, ...]:
    """Return the operations of this room."""
    settings = DeviceSettings(house)

    def operation(what: str, summary: str, handle: Any, body: Any = None) -> Operation:
        return Operation(
            f"{what}_device",
            "POST",
            f"/devices/{{device}}/{what}",
            Scope.OPERATE,
            summary,
            handle,
            {200: SET},
            (DEVICE,),
            body=body,
            problems=(409,),
        )

    return (
        operation("pin", "Pin a device to a release.", settings.pin, _PIN_BODY),
        operation("unpin", "Let a device have what others get.", settings.unpin),
        operation("hold", "Give a device nothing any more.", settings.hold),
        operation("release", "Give a device updates again, whatever holds it.", settings.release),
        operation("rename", "Give a device a name, or take it away.", settings.rename, _RENAME_BODY),
    )
