"""`ota-server explain`, when it asks a door."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.python import usage

from ota_server.fleet.checkin import Mode
from ota_server.remote.address import DoorOptions
from ota_server.remote.client import Door, Json
from ota_server.remote.failing import Status
from ota_server.remote.running import run_command
from ota_server.remote.showing import print_json, print_line, spell, spell_attempt


class ExplainOptions(DoorOptions):
    """What `ota-server explain` understands, when it asks a door."""

    synopsis = "Usage: ota-server explain [options] [DEVICE]"
    longdesc = (
        "Tells what a device would be answered now, what each step of the decision found, and what would change it. "
        "DEVICE is its MAC address, its chip id, or its name in the policy. What isn't said of the device is what it "
        "told at its last check-in; a device that never was is told of by --project and --version."
    )
    optParameters: list[list[Any]] = [
        ["project", None, None, "Project that the device asks for."],
        ["channel", None, None, "Channel that it asks for."],
        ["chip", None, None, "Chip that it has, as in esp32c3."],
        ["mode", None, None, "What it asks for: sketch, spiffs (its filesystem) or version."],
        ["free-space", None, None, "Bytes that it has free for a new sketch.", int],
        ["chip-size", None, None, "Bytes of flash that it has.", int],
    ]
    optFlags = [["json", "j", "Print a JSON object."]]

    def __init__(self) -> None:
        super().__init__()
        self["version"] = None

    def opt_version(self, text: str) -> None:  # type: ignore[override]
        """Version that the device tells."""
        self["version"] = text

    def parseArgs(self, device: str | None = None) -> None:
        """Take the device."""
        self["device"] = device

    def postOptions(self) -> None:
        """Check what was given. Raises UsageError."""
        if self["device"] is None and self["project"] is None:
            raise usage.UsageError("name a device, or a project with --project")
        if self["mode"] not in (None, *(mode.value for mode in Mode if mode is not Mode.UNKNOWN)):
            raise usage.UsageError(f"--mode {self['mode']}: there are sketch, spiffs and version")


NAMES = ("device", "project", "channel", "version", "chip", "mode", "free-space", "chip-size")


def run_explain(arguments: Sequence[str]) -> int:
    """Explain what a device would be answered; return the exit status."""

    def act(options: ExplainOptions, door: Door) -> int:
        told = door.get("/explain", **{name.replace("-", "_"): options[name] for name in NAMES})
        if options["json"]:
            print_json(told)
        else:
            _print_explanation(told)
        return Status.DONE

    return run_command("explain", ExplainOptions(), arguments, act)


def _print_explanation(told: Json) -> None:
    who = spell(told.get("device") or "a device that tells no identity")
    name = f" ({spell(told['name'])})" if told.get("name") else ""
    print_line(f"{who}{name}: project {spell(told['project'])}, channel {spell(told['channel'])}")
    print_line()
    print_line(f"{told['answer']}  {spell(told['reason'])}: {spell(told['meaning'])}")
    print_line(f"what would change it: {spell(told['change'])}")
    print_line()
    for step in told["steps"]:
        print_line(f"{'=>' if step['decided'] else '  '} {spell(step['step']):<12}{spell(step['text'])}")
    if told["attempts"]:
        print_line("\nwhat it was sent before:")
    for each in told["attempts"]:
        print_line(f"   {spell_attempt(each)}")
