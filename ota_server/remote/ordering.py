"""`ota-server rollout`, `pin`, `unpin`, `hold`, `release`, `rename` and `yank`: what operators decide."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.python import usage

from ota_server.firmware.catalog import STABLE
from ota_server.firmware.naming import is_name
from ota_server.firmware.versions import VersionError, numbers_of, parse_file_version
from ota_server.fleet.settings import SettingError, read_device_name
from ota_server.remote.address import DoorOptions
from ota_server.remote.client import Door, Json, path_of
from ota_server.remote.failing import Status
from ota_server.remote.following import Follower, Release
from ota_server.remote.goal import describe_rollout, read_goal
from ota_server.remote.running import read_duration, run_command
from ota_server.remote.showing import print_json, print_line, spell

ROLLOUT_ORDERS = ("halt", "resume", "restart", "complete")


class RolloutOptions(DoorOptions):
    """What `ota-server rollout` understands, when it asks a door."""

    synopsis = (
        "Usage: ota-server rollout [options] status [PROJECT] | halt|resume|restart|complete|wait PROJECT VERSION"
    )
    longdesc = (
        "Shows how far releases have got, tells the server what to do with one, or waits for its end: halt it; resume "
        "it, which acknowledges the failures seen so far; restart it with its first stage; complete it, so that all "
        "get it; wait, as publish --wait does."
    )
    optParameters = [
        ["channel", "c", None, "Channel of the release (default: stable; with status: all)."],
        ["until", None, "complete", "With wait: complete, confirmed, confirmed:20 or confirmed:50%."],
        ["timeout", None, "1h", "With wait: how long at most, as 30m."],
    ]
    optFlags = [["json", "j", "Print JSON: with status and wait in lines."]]
    compData = usage.Completions(extraActions=[usage.CompleteList(["status", *ROLLOUT_ORDERS, "wait"])])

    def parseArgs(self, what: str = "status", project: str | None = None, version: str | None = None) -> None:
        """Take the order. Raises UsageError."""
        if what not in ("status", "wait", *ROLLOUT_ORDERS):
            raise usage.UsageError(f"{what[:40]!r} is no order; there are status, {', '.join(ROLLOUT_ORDERS)}, wait")
        if what != "status" and (project is None or version is None):
            raise usage.UsageError(f"{what}: name a project and a version")
        if what == "status" and version is not None:
            raise usage.UsageError("status: name a project, or none")
        self["what"], self["project"], self["version"] = what, project, None
        if project is not None:
            _check_project(project)
        if version is not None:
            self["version"] = read_version(version)

    def postOptions(self) -> None:
        """Check what was given. Raises UsageError."""
        try:
            self["goal"] = read_goal(self["until"])
        except ValueError as problem:
            raise usage.UsageError(f"--until: {problem}") from problem
        self["seconds"] = read_duration(self["timeout"], "--timeout")


class SettingOptions(DoorOptions):
    """The options of what sets something of a device; derived classes take its words."""

    words: tuple[str, ...] = ("DEVICE",)
    longdesc = "DEVICE is its MAC address, its chip id, or its name in the policy."
    optFlags: list[list[str | None]] = [["json", "j", "Print a JSON object."]]

    def parseArgs(self, *words: str) -> None:
        """Take the device, and what is set. Raises UsageError."""
        if len(words) != len(self.words) or not all(words):
            raise usage.UsageError(f"name {' and '.join(self.words)}")
        self["device"], self["value"] = words[0], words[1] if len(words) > 1 else None


class PinOptions(SettingOptions):
    """What `ota-server pin` understands."""

    synopsis = "Usage: ota-server pin [options] DEVICE VERSION"
    longdesc = (
        "Gives a device this version and no other, until it is unpinned. The server writes that into ota.toml. "
        + SettingOptions.longdesc
    )
    words = ("DEVICE", "VERSION")
    optFlags = [["downgrade", None, "Also where the device runs a higher version."]]

    def parseArgs(self, *words: str) -> None:
        """Take device and version. Raises UsageError."""
        super().parseArgs(*words)
        self["value"] = read_version(self["value"])


class UnpinOptions(SettingOptions):
    """What `ota-server unpin` understands."""

    synopsis = "Usage: ota-server unpin [options] DEVICE"


class HoldOptions(SettingOptions):
    """What `ota-server hold` understands."""

    synopsis = "Usage: ota-server hold [options] DEVICE"
    longdesc = "Gives a device nothing, until it is released. " + SettingOptions.longdesc


class ReleaseOptions(SettingOptions):
    """What `ota-server release` understands."""

    synopsis = "Usage: ota-server release [options] DEVICE"
    longdesc = "Gives a device updates again that was held. " + SettingOptions.longdesc


class RenameOptions(SettingOptions):
    """What `ota-server rename` understands."""

    synopsis = "Usage: ota-server rename [options] DEVICE NAME"
    longdesc = "Gives a device a name, by which it can be told from then on. " + SettingOptions.longdesc
    words = ("DEVICE", "NAME")

    def parseArgs(self, *words: str) -> None:
        """Take device and name. Raises UsageError."""
        super().parseArgs(*words)
        try:
            self["value"] = read_device_name(self["value"])
        except SettingError as problem:
            raise usage.UsageError(str(problem)) from problem


class YankOptions(DoorOptions):
    """What `ota-server yank` understands."""

    synopsis = "Usage: ota-server yank [options] PROJECT VERSION"
    longdesc = (
        "Takes a release back: its images leave the folder, and are kept in the server's state, under yanked. Devices "
        "that have it already keep it."
    )
    optParameters = [["channel", "c", STABLE, "Channel of the release."]]
    optFlags = [["json", "j", "Print a JSON object."]]

    def parseArgs(self, *words: str) -> None:
        """Take project and version. Raises UsageError."""
        if len(words) != 2:
            raise usage.UsageError("name PROJECT and VERSION")
        _check_project(words[0])
        self["project"], self["version"] = words[0], read_version(words[1])


def run_rollout(arguments: Sequence[str]) -> int:
    """Show rollouts, order something of one, or wait for one; return the exit status."""
    return run_command("rollout", RolloutOptions(), arguments, _rollout)


def _rollout(options: RolloutOptions, door: Door) -> int:
    what, project, version = options["what"], options["project"], options["version"]
    if what == "status":
        shown = 0
        for rollout in door.items("/rollouts", None, project=project):
            if options["channel"] in (None, rollout["channel"]):
                shown += 1
                if options["json"]:
                    print_json(rollout, lines=True)
                else:
                    print_line(_spell_rollout(rollout))
        if not shown and not options["json"]:
            print_line("nothing has been offered to any device yet")
        return Status.DONE
    release = Release(options["channel"] or STABLE, project, version)
    if what == "wait":
        follower = Follower(door, door.newest_event(), as_json=bool(options["json"]))
        return follower.follow([release], options["goal"], options["seconds"])
    told = door.post(path_of("projects", project, "rollouts", version, what), channel=release.channel)
    if options["json"]:
        print_json(told)
    else:
        done = "done" if told["changed"] else "it stood so already"
        print_line(f"{done}: {_spell_rollout(told['rollout'])}")
    return Status.DONE


def _spell_rollout(rollout: Json) -> str:
    release = Release(rollout["channel"], rollout["project"], rollout["version"])
    why = f"; {spell(rollout['why'])}" if rollout.get("why") else ""
    return f"{spell(str(release))}: {describe_rollout(rollout)}{why}"


def pin(arguments: Sequence[str]) -> int:
    """Pin a device to a version; return the exit status."""

    def body(options: PinOptions) -> Json:
        return {"version": options["value"], **({"downgrade": True} if options["downgrade"] else {})}

    return run_command("pin", PinOptions(), arguments, lambda options, door: _set(options, door, "pin", body(options)))


def unpin(arguments: Sequence[str]) -> int:
    """Let a device have other versions again; return the exit status."""
    return run_command("unpin", UnpinOptions(), arguments, lambda options, door: _set(options, door, "unpin"))


def hold(arguments: Sequence[str]) -> int:
    """Give a device nothing; return the exit status."""
    return run_command("hold", HoldOptions(), arguments, lambda options, door: _set(options, door, "hold"))


def release(arguments: Sequence[str]) -> int:
    """Give a device updates again; return the exit status."""
    return run_command("release", ReleaseOptions(), arguments, lambda options, door: _set(options, door, "release"))


def rename(arguments: Sequence[str]) -> int:
    """Give a device a name; return the exit status."""

    def act(options: RenameOptions, door: Door) -> int:
        return _set(options, door, "rename", {"name": options["value"]})

    return run_command("rename", RenameOptions(), arguments, act)


def _set(options: SettingOptions, door: Door, what: str, body: Json | None = None) -> int:
    told = door.post(path_of("devices", options["device"], what), body)
    if options["json"]:
        print_json(told)
    else:
        print_line("done" if told["changed"] else "it was set so already")
        _print_notes(told)
    return Status.DONE


def yank(arguments: Sequence[str]) -> int:
    """Take a release back; return the exit status."""

    def act(options: YankOptions, door: Door) -> int:
        path = path_of("projects", options["project"], "releases", options["version"])
        told = door.ask("DELETE", path, None, {"channel": options["channel"]})
        if options["json"]:
            print_json(told)
        else:
            release = Release(options["channel"], options["project"], options["version"])
            print_line(f"taken back: {release}; kept in the server's state, in {spell(told['kept'])}")
            _print_notes(told)
        return Status.DONE

    return run_command("yank", YankOptions(), arguments, act)


def _print_notes(told: Json) -> None:
    for note in told.get("notes") or ():
        print_line(f"  note: {spell(note)}")


def read_version(text: str) -> str:
    """Return a version in the form of the API, with three numbers. Raises UsageError."""
    try:
        return ".".join(map(str, numbers_of(parse_file_version(text))))
    except VersionError as problem:
        raise usage.UsageError(str(problem)) from problem


def _check_project(text: str) -> None:
    if not is_name(text):
        raise usage.UsageError(f"{text[:40]!r} can't be the name of a project")
