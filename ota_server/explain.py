"""`ota-server explain`: what a device would be answered now, and why."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.python import usage

from ota_server.arguments import put_options_first
from ota_server.firmware.catalog import Catalog
from ota_server.firmware.digests import DigestStore
from ota_server.firmware.esp import escape
from ota_server.firmware.folder import Folder
from ota_server.firmware.signatures import VerifyKey
from ota_server.fleet.asking import suppose_check_in
from ota_server.fleet.checkin import CheckIn, Mode
from ota_server.fleet.decision import Case, Traffic, place_by
from ota_server.fleet.device import Attempt, Device, Place
from ota_server.fleet.ledger import Ledger, LedgerError, sqlite_url
from ota_server.fleet.policy import DEFAULT_POLICY, Policy
from ota_server.fleet.rhythm import median_of
from ota_server.fleet.rollout import NO_ROLLOUTS, Rollouts
from ota_server.fleet.settings import SettingError, read_device
from ota_server.fleet.tracing import Explanation, explain, spell_time
from ota_server.service import NO_DATABASE
from ota_server.tap import check_database, load_keys, load_source

ALL_SETTLED = 3600.0
"""How far ahead of the clock the folder is read, in seconds, so that every file in it counts as settled."""


_TOLD = ("project", "channel", "version", "chip", "free-space", "chip-size")
"""The options that say what the device tells."""


class PlaceOptions(usage.Options):
    """The options that say which server a command is about."""

    optParameters = [
        ["dir", "d", "~/firmware", "Folder with the firmware images, as the server's option says."],
        ["state", None, None, "Folder for what the server keeps (default: DIR/.ota)."],
        ["database", None, None, "Ledger of the fleet, as the server's option says."],
    ]

    def opt_h(self) -> None:
        """Display this help and exit."""
        self.opt_help()

    @property
    def folder(self) -> Path:
        """The firmware folder."""
        return Path(self["dir"]).expanduser().absolute()

    @property
    def state(self) -> Path:
        """The folder of what the server keeps."""
        return Path(self["state"]).expanduser().absolute() if self["state"] else self.folder / ".ota"

    def ledger(self) -> Ledger | None:
        """Return the ledger, not opened yet, or None where the server keeps none. Raises UsageError."""
        if self["database"] == NO_DATABASE:
            return None
        if self["database"] is not None:
            check_database(self["database"])
        return Ledger(self["database"] or sqlite_url(self.state / "ledger.sqlite"))


class ExplainOptions(PlaceOptions):
    """What `ota-server explain` understands."""

    synopsis = "Usage: ota-server explain [options] [DEVICE]"
    longdesc = (
        "Tells what a device would be answered now, what each step of the decision found, and what would change it. "
        "DEVICE is its MAC address, its chip id, or its name in the policy. It works beside a running server, and "
        "without one. What isn't said of the device is what it told at its last check-in; a device that never was is "
        "told of by --project and --version. The exit status is 1 where nothing is known of the device. Where "
        "DIR/ota.toml has a fault the default policy stands in for it, and a warning says so. With --url, or "
        "OTA_SERVER_URL, it asks a server elsewhere: ota-server explain --url URL --help."
    )
    optParameters = [
        ["policy", None, None, "File with the policy (default: DIR/ota.toml, if it is there)."],
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
        self["verify-key"] = []
        self["device"] = None
        self["version"] = None

    def opt_version(self, text: str) -> None:  # type: ignore[override]
        """Version that the device tells."""
        self["version"] = text

    def opt_verify_key(self, file: str) -> None:
        """Count only images signed by a key of this PEM file, as the server's option does."""
        self["verify-key"].append(file)

    def parseArgs(self, device: str | None = None) -> None:
        """Take the device."""
        self["device"] = device

    def postOptions(self) -> None:
        """Check what was given. Raises UsageError."""
        if self["device"] is None and self["project"] is None:
            raise usage.UsageError("name a device, or a project with --project")
        if self["mode"] not in (None, *(mode.value for mode in Mode if mode is not Mode.UNKNOWN)):
            raise usage.UsageError(f"--mode {self['mode']}: there are sketch, spiffs and version")


@attrs.frozen
class Known:
    """What the ledger knows: the device, all its attempts, the rollouts, and why that is not all.

    `kept` says that the server keeps a ledger.
    """

    device: Device | None = None
    attempts: tuple[Attempt, ...] = ()
    places: dict[Place, Rollouts] = attrs.field(factory=dict)
    trouble: str = ""
    kept: bool = True


def run_explain(arguments: Sequence[str]) -> int:
    """Explain what a device would be answered; print it, and return the exit status."""
    options = ExplainOptions()
    try:
        options.parseOptions(put_options_first(arguments, options))
        policy, policy_trouble = _load_policy(options)
        keys = [key for file in options["verify-key"] for key in load_keys(file)]
        device_id = None if options["device"] is None else find_device(options["device"], policy)
        now = time.time()
        known = _recall(options.ledger(), device_id, now)
        catalog = read_catalog(options.folder, options.state, keys, now)
    except (usage.UsageError, SettingError) as problem:
        print(f"ota-server explain: {problem} (see: ota-server explain --help)", file=sys.stderr)
        return 2
    except OSError as problem:
        print(f"ota-server explain: {problem.filename}: {problem.strerror}", file=sys.stderr)
        return 2
    if known.device is None and options["project"] is None:
        reason = known.trouble or "no such device has checked in"
        print(
            f"ota-server explain: {escape(options['device'])}: {reason}; to ask what it would get, "
            "add --project and --version",
            file=sys.stderr,
        )
        return 1
    check_in = _make_check_in(options, device_id, known.device, catalog)
    rules = policy.rules_for(check_in.project, check_in.device)
    placed = place_by(check_in, rules)
    place = (placed.channel, placed.project)
    device, rollouts = known.device, known.places.get(place, NO_ROLLOUTS)
    if device is None and device_id is not None and known.kept:
        # As the server does, which remembers it from its first check-in on, and counts it.
        device = Device(0, device_id, None, *place, now, now)
        rollouts = attrs.evolve(rollouts, fleet=rollouts.fleet + 1)
    if not known.kept:
        # Nobody could say who is in a stage.
        rules = attrs.evolve(rules, stages=())
    case = Case(check_in, catalog, rules, device, rollouts, now, Traffic(limit=policy.max_downloads))
    told = explain(case)
    name = policy.names.get(device_id or "")
    if options["json"]:
        print(json.dumps(_as_json(case, told, known, name, policy_trouble), indent=2))
    else:
        remembered = known.device is not None and options["project"] is None and options["channel"] is None
        print(_render(case, told, known, name, now, policy_trouble, remembered=remembered), end="")
    return 0


def _load_policy(options: ExplainOptions) -> tuple[Policy, str]:
    """Read the policy, and return it with what is wrong with it; then it is the default. Raises UsageError.

    A policy that was named is asked about, so that it has to be right. That of the folder may be in the middle of a
    change: a running server goes by what it read before, which isn't kept anywhere.
    """
    try:
        return load_source(options["policy"], options.folder).current, ""
    except usage.UsageError as problem:
        if options["policy"] is not None:
            raise
        print(
            f"ota-server explain: warning: {problem}; a running server goes by the policy that it read last, one that "
            "starts now would refuse to, and what follows goes by the default policy",
            file=sys.stderr,
        )
        return DEFAULT_POLICY, str(problem)


def find_device(text: str, policy: Policy) -> str:
    """Return the id of a device that is told by its id or by its name. Raises SettingError."""
    for device_id, name in policy.names.items():
        if name == text:
            return device_id
    found = read_device(text)
    if found is None:
        names = ", ".join(policy.names.values())
        raise SettingError(f"{text[:40]!r} is no MAC address and no chip id, and no device has this name: {names}")
    return found


def _recall(ledger: Ledger | None, device_id: str | None, now: float) -> Known:
    """Read what the ledger knows."""
    if ledger is None:
        return Known(trouble="the server keeps no ledger", kept=False)
    try:
        ledger.open_for_reading()
        try:
            device = None if device_id is None else ledger.device(device_id)
            attempts = () if device is None else tuple(ledger.attempts_of(device.id))
            return Known(device, attempts, ledger.places(now))
        finally:
            ledger.close()
    except LedgerError as error:
        return Known(trouble=str(error))


def read_catalog(folder: Path, state: Path, keys: Sequence[VerifyKey], now: float) -> Catalog:
    """Read a firmware folder once, by what the server found out of its files, if that is there. Raises OSError."""
    digests = state / "digests.sqlite"
    store = DigestStore(digests if digests.exists() else None)
    return Folder(folder, store, keys).read(now + ALL_SETTLED, 0.0).catalog


def _make_check_in(options: ExplainOptions, device_id: str | None, device: Device | None, catalog: Catalog) -> CheckIn:
    """Make the check-in that is explained: what the device told the last time, but for what the options say."""
    told = {option.replace("-", "_"): options[option] for option in _TOLD}
    return suppose_check_in(device_id, device, catalog, Mode(options["mode"] or "sketch"), **told)


def _as_json(case: Case, told: Explanation, known: Known, name: str | None, policy_trouble: str) -> dict[str, Any]:
    return {
        "device": case.check_in.device,
        "name": name,
        "channel": case.check_in.channel,
        "project": case.check_in.project,
        "version": case.check_in.version,
        "known": known.device is not None,
        "trouble": known.trouble or None,
        "policy_trouble": policy_trouble or None,
        "answer": told.answer,
        "reason": told.decision.reason,
        "meaning": told.meaning,
        "change": told.change,
        "steps": [attrs.asdict(finding) for finding in told.findings],
        "attempts": [
            {
                "version": ".".join(map(str, attempt.version)),
                "kind": attempt.kind.value,
                "outcome": attempt.outcome.value,
                "offered_at": attempt.offered_at,
                "outcome_at": attempt.outcome_at,
                "downloads": attempt.downloads,
            }
            for attempt in known.attempts
        ],
    }


def _render(
    case: Case,
    told: Explanation,
    known: Known,
    name: str | None,
    now: float,
    policy_trouble: str,
    *,
    remembered: bool,
) -> str:
    """Write an explanation for people; `remembered` says that the place is the one where it was served last."""
    check_in = case.check_in
    who = check_in.device or "a device that tells no identity"
    lines = [f"{who}{f' ({name})' if name else ''}: project {check_in.project}, channel {check_in.channel}"]
    if remembered:
        lines.append("  as it was served last; its own address isn't kept, and may be another: --project, --channel")
    if policy_trouble:
        lines.append("  by the default policy, since the file of the policy has a fault")
    device = known.device
    if device is not None:
        seen = f"last seen {_spell_span(now - device.last_seen)} ago"
        rhythm = median_of(device.rhythm)
        every = f", checks in every {_spell_span(rhythm)}" if rhythm else ""
        lines.append(f"  {seen}{every}, known since {spell_time(device.first_seen)}")
    elif known.trouble:
        lines.append(f"  what it did before isn't known: {known.trouble}")
    else:
        lines.append("  was never seen")
    lines += ["", f"{told.answer}  {told.decision.reason}: {told.meaning}", f"what would change it: {told.change}", ""]
    for finding in told.findings:
        lines.append(f"{'=>' if finding.decided else '  '} {finding.step:<12}{escape(finding.text)}")
    if known.attempts:
        lines += ["", "what it was sent before:"]
        for attempt in known.attempts:
            version = ".".join(map(str, attempt.version))
            lines.append(
                f"   {spell_time(attempt.offered_at)}  {attempt.project} {version} {attempt.kind.value}: "
                f"{attempt.outcome.value}, {attempt.downloads} downloads"
            )
    return "\n".join(lines) + "\n"


def _spell_span(seconds: float) -> str:
    """Write a span of time for people, in its largest unit: `3 minutes`."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} seconds"
