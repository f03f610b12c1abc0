"""`ota-server publish`: sends images to the server, and waits for what comes of them."""

from __future__ import annotations

import base64
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import attrs
from semver import Version
from twisted.python import usage

from ota_server.firmware.catalog import STABLE
from ota_server.firmware.naming import CHIPS, FileName, Kind, NamingError, is_name, parse_file_name
from ota_server.firmware.versions import VersionError, parse_file_version
from ota_server.remote.address import DoorOptions
from ota_server.remote.client import Door, Json, path_of
from ota_server.remote.failing import CommandError, Refusal, Status
from ota_server.remote.following import Follower, Release
from ota_server.remote.goal import read_goal
from ota_server.remote.running import read_duration, run_command
from ota_server.remote.showing import is_terminal, print_json, print_line, spell, spell_size

PIECE = 1 << 16
"""So many bytes are read and sent at once."""


class PublishOptions(DoorOptions):
    """What `ota-server publish` understands."""

    synopsis = "Usage: ota-server publish [options] FILE..."
    longdesc = (
        "Sends images to the server, which offers them at once; what is damaged, or for another chip than its name "
        "says, it refuses. Project and version are in the name of the file, as in lamp-1.2.3.bin; a file of another "
        "name needs --project and --version. With --wait it follows the rollout. The exit status is 0 when all went "
        "well, 1 where the server refused a file or a rollout halted, 2 for a wrong command line, 3 when the time was "
        "over, 4 where the server can't be reached."
    )
    optParameters = [
        ["channel", "c", STABLE, "Channel to publish in, such as beta."],
        ["project", None, None, "Project of the file, whatever it is called."],
        ["kind", None, None, "What the file is: app (the sketch) or filesystem."],
        ["chip", None, None, "Chip that it is for, as esp32c3, where a release has several."],
        ["until", None, "complete", "What to wait for: complete, confirmed, confirmed:20 or confirmed:50%."],
        ["timeout", None, "1h", "How long to wait at most, as 30m."],
    ]
    optFlags = [
        ["replace", None, "Put it in the place of another file that is there by the same name."],
        ["wait", "w", "Follow the rollout to its end."],
        ["json", "j", "Print lines of JSON."],
    ]
    compData = usage.Completions(
        optActions={"chip": usage.CompleteList(sorted(CHIPS)), "kind": usage.CompleteList(["app", "filesystem"])},
        extraActions=[usage.CompleteFiles("*.bin", repeat=True)],
    )

    def __init__(self) -> None:
        super().__init__()
        self["version"] = None
        self["files"] = []

    def opt_version(self, text: str) -> None:  # type: ignore[override]
        """Version of the file, whatever it is called."""
        self["version"] = text

    def parseArgs(self, *files: str) -> None:
        """Take the files. Raises UsageError."""
        if not files:
            raise usage.UsageError("name a file")
        self["files"] = list(files)

    def postOptions(self) -> None:
        """Check what was given. Raises UsageError."""
        try:
            self["goal"] = read_goal(self["until"])
            self["number"] = None if self["version"] is None else parse_file_version(self["version"])
        except VersionError as problem:
            raise usage.UsageError(f"--version: {problem}") from problem
        except ValueError as problem:
            raise usage.UsageError(f"--until: {problem}") from problem
        self["seconds"] = read_duration(self["timeout"], "--timeout")
        for name in ("channel", "project"):
            if self[name] is not None and not is_name(self[name]):
                raise usage.UsageError(f"--{name}: {self[name][:40]!r} can't be the name of a {name}")
        if self["kind"] not in (None, *(kind.value for kind in Kind)):
            raise usage.UsageError(f"--kind {self['kind'][:40]}: there are app and filesystem")
        if self["chip"] is not None and self["chip"] not in CHIPS:
            raise usage.UsageError(f"--chip {self['chip'][:40]}: there are {', '.join(sorted(CHIPS))}")
        self["parcels"] = [self._parcel(file) for file in self["files"]]

    def _parcel(self, file: str) -> Parcel:
        """Return what a file is to be published as. Raises UsageError."""
        path = Path(file).expanduser()
        try:
            named = parse_file_name(path.name)
        except NamingError as problem:
            if self["project"] is None or self["number"] is None:
                raise usage.UsageError(f"{file}: its name {problem}; or say --project and --version") from problem
            named = FileName(self["project"], self["number"], compressed=path.name.endswith(".gz"))
        return Parcel(
            path,
            Release(self["channel"], self["project"] or named.project, _spell_version(self["number"] or named.version)),
            self["kind"] or named.kind.value,
            self["chip"] or named.chip,
            named.compressed,
        )


@attrs.frozen
class Parcel:
    """A file, and what it is to be published as."""

    path: Path
    release: Release
    kind: str
    chip: str | None
    compressed: bool


def publish(arguments: Sequence[str]) -> int:
    """Publish images; return the exit status."""
    return run_command("publish", PublishOptions(), arguments, _publish)


def _publish(options: PublishOptions, door: Door) -> int:
    as_json = bool(options["json"])
    # Seen before the first file is sent, so that nothing that comes of it is missed.
    after = _newest_event(door) if options["wait"] else ""
    failed: Status | None = None
    for parcel in options["parcels"]:
        try:
            told = _send(door, parcel, replace=bool(options["replace"]))
        except CommandError as error:
            # The other files may be good; but where nobody answers, nobody will.
            if error.status is Status.UNREACHABLE:
                raise
            print(f"ota-server publish: {spell(str(parcel.path))}: {error}", file=sys.stderr, flush=True)
            failed = failed or error.status
            continue
        _tell(parcel, told, as_json=as_json)
        if options["wait"] and told["outcome"] == "replaced":
            # Outcomes are those of a version: what is known may be of the bytes before.
            print(
                f"ota-server publish: {spell(str(parcel.path))}: --wait can't tell how other bytes of the same version "
                "fare; publish them as a new version",
                file=sys.stderr,
                flush=True,
            )
            failed = failed or Status.FAILED
    if failed is not None:
        return failed
    if not options["wait"]:
        return Status.DONE
    releases = [parcel.release for parcel in options["parcels"]]
    return Follower(door, after, as_json=as_json).follow(releases, options["goal"], options["seconds"])


def _newest_event(door: Door) -> str:
    """Return the number of the newest event. Raises CommandError where the server remembers nothing."""
    try:
        return door.newest_event()
    except Refusal as refusal:
        if refusal.kind == "no-ledger":
            raise CommandError("--wait: the server remembers nothing (--database none); leave it out") from refusal
        if refusal.code == 403:
            raise CommandError(f"--wait needs a token that may read, too: {refusal}") from refusal
        raise


def _send(door: Door, parcel: Parcel, *, replace: bool) -> Json:
    """Send one file, and return what the server says of it. Raises CommandError."""
    try:
        with open(parcel.path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.file_digest(file, "sha256").digest()
            file.seek(0)
            with _progress(parcel.path.name, size) as advance:
                return door.put(
                    path_of("projects", parcel.release.project, "releases", parcel.release.version),
                    _pieces(file, size, advance),
                    {
                        "Content-Type": "application/octet-stream",
                        "Content-Length": str(size),
                        # RFC 9530
                        "Content-Digest": f"sha-256=:{base64.b64encode(digest).decode()}:",
                    },
                    {
                        "channel": parcel.release.channel,
                        "kind": parcel.kind,
                        "chip": parcel.chip,
                        "compressed": "yes" if parcel.compressed else None,
                        "replace": "yes" if replace else None,
                    },
                )
    except OSError as problem:
        raise CommandError(problem.strerror or str(problem), Status.USAGE) from problem


def _pieces(file: BinaryIO, size: int, advance: Callable[[int], object]) -> Iterator[bytes]:
    """Yield so many bytes of a file. Raises CommandError where it has less by now."""
    left = size
    while left:
        piece = file.read(min(PIECE, left))
        if not piece:
            raise CommandError("it became shorter while it was sent; publish it when it is whole")
        left -= len(piece)
        yield piece
        advance(len(piece))


@contextmanager
def _progress(name: str, size: int) -> Iterator[Callable[[int], object]]:
    """Show how much of a file is sent, on a terminal."""
    if not is_terminal(sys.stderr):
        yield lambda _sent: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns: list[Any] = [TextColumn(escape(spell(name))), BarColumn(), DownloadColumn(), TransferSpeedColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=size)
        yield lambda sent: progress.advance(task, sent)


_OUTCOMES = {"same": "was there already", "replaced": "published in the place of another"}


def _tell(parcel: Parcel, told: Json, *, as_json: bool) -> None:
    """Tell that a file was published."""
    if as_json:
        print_json({"published": told}, lines=True)
        return
    done = _OUTCOMES.get(told["outcome"], "published")
    print_line(f"{spell(parcel.path.name)}: {done}: {parcel.release}, {spell_size(told['image']['size'])}")
    for finding in told.get("findings") or ():
        print_line(f"  finding: {spell(finding['text'])}")
    for note in told.get("notes") or ():
        print_line(f"  note: {spell(note)}")


def _spell_version(version: Version) -> str:
    return f"{version.major}.{version.minor}.{version.patch}"
