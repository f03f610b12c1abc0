"""`ota-server releases`, `devices`, `device ID` and `events`: what there is, and what happens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from twisted.python import usage

from ota_server.firmware.catalog import STABLE
from ota_server.firmware.naming import CHIPS, is_name
from ota_server.fleet.device import Outcome
from ota_server.remote.address import DoorOptions
from ota_server.remote.client import Door, Json, path_of
from ota_server.remote.failing import Status
from ota_server.remote.running import run_command
from ota_server.remote.showing import (
    print_facts,
    print_json,
    print_line,
    print_table,
    spell,
    spell_attempt,
    spell_time,
)

DEFAULT_COUNT = 50
"""How many items are shown, where nothing else is said."""

Heads = Sequence[str]


class ListOptions(DoorOptions):
    """The options of all lists."""

    optParameters = [
        ["limit", "n", str(DEFAULT_COUNT), "Show so many at most, or all."],
    ]
    optFlags = [["json", "j", "Print lines of JSON, each an object."]]

    def postOptions(self) -> None:
        """Check what was given. Raises UsageError."""
        limit = self["limit"]
        if limit != "all" and not (limit.isascii() and limit.isdigit() and int(limit[:10]) > 0):
            raise usage.UsageError(f"--limit {limit[:40]}: write a number from 1 on, or all")
        self["count"] = None if limit == "all" else int(limit[:10])


class ReleasesOptions(ListOptions):
    """What `ota-server releases` understands."""

    synopsis = "Usage: ota-server releases [options] [PROJECT]"
    longdesc = "Shows the projects that there are, or the releases of one, newest first."
    optParameters = [["channel", "c", None, "Only those of this channel."]]

    def parseArgs(self, project: str | None = None) -> None:
        """Take the project. Raises UsageError."""
        if project is not None and not is_name(project):
            raise usage.UsageError(f"{project[:40]!r} can't be the name of a project")
        self["project"] = project


class DevicesOptions(ListOptions):
    """What `ota-server devices` understands."""

    synopsis = "Usage: ota-server devices [options] [TEXT]"
    longdesc = "Shows devices: all, or those with this text in their id or name, and with all that the options say."
    optParameters = [
        ["project", None, None, "Of this project."],
        ["channel", "c", None, "Of this channel."],
        ["runs", None, None, "That run this version."],
        ["outcome", None, None, "With this outcome of what they were sent, such as bounced or silent."],
        ["chip", None, None, "With this chip, as esp32c3."],
        ["seen-before", None, None, "Last seen before this time, as 2026-11-24T02:00:00Z."],
        ["seen-after", None, None, "Last seen after this time."],
        ["sort", None, None, "By id, name, version, last_seen or first_seen; with - before it from the end."],
    ]
    compData = usage.Completions(
        optActions={
            "outcome": usage.CompleteList([each.value for each in Outcome]),
            "chip": usage.CompleteList(sorted(CHIPS)),
            "sort": usage.CompleteList(["id", "name", "version", "last_seen", "first_seen", "-last_seen"]),
        }
    )

    def parseArgs(self, text: str | None = None) -> None:
        """Take the text."""
        self["text"] = text


class DeviceOptions(DoorOptions):
    """What `ota-server device ID` understands."""

    synopsis = "Usage: ota-server device [options] DEVICE | clear-brake|forget DEVICE"
    longdesc = (
        "Shows what is remembered of a device, the settings that hold for it, and what it was sent; or lets it try "
        "again that the loop brake holds (clear-brake), or forgets it. DEVICE is its MAC address, its chip id, or "
        "its name in the policy."
    )
    optFlags = [["json", "j", "Print a JSON object."]]
    compData = usage.Completions(extraActions=[usage.CompleteList(["clear-brake", "forget"])])

    def parseArgs(self, *words: str) -> None:
        """Take the device, and what to do with it. Raises UsageError."""
        if len(words) == 2 and words[0] in ("clear-brake", "forget"):
            self["order"], self["device"] = words
        elif len(words) == 1 and words[0] not in ("clear-brake", "forget"):
            self["order"], self["device"] = None, words[0]
        else:
            raise usage.UsageError("name a device, or an order (clear-brake or forget) and a device")


class EventsOptions(ListOptions):
    """What `ota-server events` understands."""

    synopsis = "Usage: ota-server events [options]"
    longdesc = (
        "Shows what was decided by operators and by the server, newest first; with --follow oldest first, and goes on "
        "with what happens. A connection that breaks is taken up again, and nothing is lost or told twice."
    )
    optParameters = [
        ["kind", None, None, "Only events of this kind, such as halted."],
        ["project", None, None, "Only those of this project."],
        ["device", None, None, "Only those of this device, by its id."],
        ["after", None, None, "With --follow, begin behind the event of this number."],
    ]
    optFlags = [["follow", "f", "Go on until Ctrl-C."]]

    def parseArgs(self) -> None:
        """Take nothing."""

    def postOptions(self) -> None:
        """Check what was given. Raises UsageError."""
        super().postOptions()
        if self["after"] is not None and not self["follow"]:
            raise usage.UsageError("--after is for --follow")


def list_releases(arguments: Sequence[str]) -> int:
    """Show projects, or the releases of one; return the exit status."""

    def act(options: ReleasesOptions, door: Door) -> int:
        if options["project"] is None:
            projects = door.items("/projects", options["count"], channel=options["channel"])
            _show(options, projects, _PROJECT_HEADS, _project_row, "there are no projects")
        else:
            path = path_of("projects", options["project"], "releases")
            releases = door.items(path, options["count"], channel=options["channel"])
            _show(options, releases, _RELEASE_HEADS, _release_row, "there are no such releases")
        return Status.DONE

    return run_command("releases", ReleasesOptions(), arguments, act)


def list_devices(arguments: Sequence[str]) -> int:
    """Show devices; return the exit status."""

    def act(options: DevicesOptions, door: Door) -> int:
        devices = door.items(
            "/devices",
            options["count"],
            q=options["text"],
            project=options["project"],
            channel=options["channel"],
            version=options["runs"],
            outcome=options["outcome"],
            chip=options["chip"],
            seen_before=options["seen-before"],
            seen_after=options["seen-after"],
            sort=options["sort"],
        )
        _show(options, devices, _DEVICE_HEADS, _device_row, "there are no such devices")
        return Status.DONE

    return run_command("devices", DevicesOptions(), arguments, act)


def show_device(arguments: Sequence[str]) -> int:
    """Show one device, or order something of it; return the exit status."""

    def act(options: DeviceOptions, door: Door) -> int:
        path = path_of("devices", options["device"])
        if options["order"] is not None:
            told = door.post(f"{path}/{options['order']}")
            if options["json"]:
                print_json(told)
            else:
                print_line("done")
            return Status.DONE
        told = door.get(path)
        if options["json"]:
            print_json(told)
        else:
            _print_device(told)
        return Status.DONE

    return run_command("device", DeviceOptions(), arguments, act)


def list_events(arguments: Sequence[str]) -> int:
    """Show events, and follow them; return the exit status."""

    def act(options: EventsOptions, door: Door) -> int:
        wanted = {name: options[name] for name in ("kind", "project", "device")}
        if not options["follow"]:
            _show(options, door.items("/events", options["count"], **wanted), _EVENT_HEADS, _event_row, "no events")
            return Status.DONE
        after = options["after"]
        if after is None:
            # Seen first: what comes meanwhile is told by the list, or else by the stream.
            after = door.newest_event()
            listed = list(door.items("/events", options["count"], **wanted))
            for event in reversed(listed):
                _print_event(options, event, wanted)
            after = max([after, *(event["id"] for event in listed[:1])], key=_number_of)
        for event in door.events(after, tell=True):
            _print_event(options, event, wanted)
        return Status.DONE

    return run_command("events", EventsOptions(), arguments, act)


def _show(options: ListOptions, items: Iterable[Json], heads: Heads, row: Any, nothing: str) -> None:
    if options["json"]:
        for item in items:
            print_json(item, lines=True)
    else:
        print_table(heads, map(row, items), nothing)


_PROJECT_HEADS = ("project", "newest", "channels", "releases", "bytes", "devices")


def _project_row(project: Json) -> Sequence[object]:
    channels = project["channels"]
    return (
        project["name"],
        next((each["newest"] for each in channels if each["channel"] == STABLE), None),
        [each["channel"] for each in channels],
        sum(each["releases"] for each in channels),
        sum(each["size"] for each in channels),
        sum(each["fleet"] or 0 for each in channels),
    )


_RELEASE_HEADS = ("version", "channel", "rollout", "for", "bytes")


def _release_row(release: Json) -> Sequence[object]:
    images = release["images"]
    return (
        release["version"],
        release["channel"],
        release["rollout"],
        list(dict.fromkeys(_spell_use(image) for image in images)),
        sum(image["size"] for image in images),
    )


def _spell_use(image: Json) -> str:
    """Write what an image is for: its chip, and that it is a filesystem."""
    chip = image["chip"] or "any chip"
    return str(chip) if image["kind"] == "app" else f"filesystem of {chip}"


_DEVICE_HEADS = ("device", "name", "project", "channel", "version", "chip", "outcome", "last seen")


def _device_row(device: Json) -> Sequence[object]:
    return (
        device.get("id"),
        device.get("name"),
        device.get("project"),
        device.get("channel"),
        device.get("version"),
        device.get("chip"),
        [attempt["outcome"] for attempt in device["open_attempts"][:1]],
        spell_time(device.get("last_seen")),
    )


_EVENT_HEADS = ("number", "time", "who", "what", "about", "text")


def _event_row(event: Json) -> Sequence[object]:
    return (
        event.get("id"),
        spell_time(event.get("time")),
        event.get("actor"),
        event.get("kind"),
        _subject(event),
        event.get("text"),
    )


def _number_of(event: str) -> tuple[int, ...]:
    """Return what the ids of events are ordered by."""
    return tuple(map(int, event.split("-")))


def _subject(event: Json) -> str | None:
    """Return what an event is about: a release, a device, or both."""
    channel, project = event.get("channel"), event.get("project")
    place = project if channel in (None, STABLE) else f"{channel}/{project}"
    return " ".join(str(part) for part in (place, event.get("version"), event.get("device")) if part) or None


def _print_event(options: EventsOptions, event: Json, wanted: dict[str, str | None]) -> None:
    if any(value is not None and event.get(name) != value for name, value in wanted.items()):
        return
    if options["json"]:
        print_json(event, lines=True)
        return
    parts = (spell_time(event.get("time")), event.get("actor"), event.get("kind"), _subject(event), event.get("text"))
    print_line("  ".join(spell(part) for part in parts if part))


def _print_device(told: Json) -> None:
    """Print one device for people: facts, settings that aren't as by default, and what it was sent."""
    listed = ("settings", "open_attempts", "attempts", "events", "taken")
    facts = {name: spell_time(value) if _is_time(value) else value for name, value in told.items()}
    if told["rhythm"] is not None:
        facts["rhythm"] = f"every {told['rhythm']:g} seconds"
    print_facts((name.replace("_", " "), value) for name, value in facts.items() if name not in listed)
    held = [(name, each) for name, each in told["settings"].items() if each["origin"] is not None]
    if held:
        print_line("settings:")
        for name, each in held:
            where = f"policy, line {each['origin']['line']}, {each['origin']['table']}"
            print_line(f"  {spell(name.replace('_', '-'))} = {spell(each['value'])}  ({spell(where)})")
    if told["attempts"]["items"]:
        print_line("what it was sent:")
        for each in told["attempts"]["items"]:
            print_line(f"  {spell_attempt(each)}")
    if told["events"]["items"]:
        print_line("events:")
        for event in told["events"]["items"]:
            text = f": {spell(event['text'])}" if event["text"] else ""
            print_line(f"  {spell_time(event['time'])}  {spell(event['kind'])}{text}")


def _is_time(value: object) -> bool:
    return isinstance(value, str) and len(value) > 19 and value[10:11] == "T" and value.endswith("Z")
