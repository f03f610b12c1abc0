"""The command `ota-server`: the server in the foreground, and tools beside it."""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path

from twisted.python import usage

from ota_server.firmware.esp import escape
from ota_server.firmware.image import ImageError, read_image
from ota_server.firmware.signatures import VerifyKey, VerifyKeyError, load_verify_key
from ota_server.report import Report, make_report, render


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command with these arguments, or those of the command line; without one, the server."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["inspect"]:
        sys.exit(inspect(given[1:]))
    if given and given[0] in _COMMANDS:
        # Each loads what it needs, and no more.
        module, function = _find_command(given[0], given[1:])
        try:
            status = getattr(importlib.import_module(module), function)(given[1:])
            sys.stdout.flush()
        except BrokenPipeError:
            # Who read what is printed has seen enough.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = 1
        if arguments is None and any(thread.daemon for thread in threading.enumerate()):
            # A thread that works on in OpenSSL while the interpreter takes itself apart would crash, and with it the
            # exit status be wrong.
            sys.stderr.flush()
            os._exit(status)
        sys.exit(status)
    if given[:1] == ["run"]:
        del given[0]
    from twisted.scripts.twistd import run

    sys.argv[1:] = ["--nodaemon", "--pidfile=", "ota", *given]
    run()


_COMMANDS = {
    "explain": ("ota_server.explain", "run_explain"),
    "rollout": ("ota_server.orders", "run_rollout"),
    "device": ("ota_server.orders", "run_device"),
    "simulate": ("ota_server.simulate", "simulate"),
    "make-cert": ("ota_server.make_cert", "make_cert"),
    "make-token": ("ota_server.make_token", "run_make_token"),
    "publish": ("ota_server.remote.publish", "publish"),
    "releases": ("ota_server.remote.listing", "list_releases"),
    "devices": ("ota_server.remote.listing", "list_devices"),
    "events": ("ota_server.remote.listing", "list_events"),
    "pin": ("ota_server.remote.ordering", "pin"),
    "unpin": ("ota_server.remote.ordering", "unpin"),
    "hold": ("ota_server.remote.ordering", "hold"),
    "release": ("ota_server.remote.ordering", "release"),
    "rename": ("ota_server.remote.ordering", "rename"),
    "yank": ("ota_server.remote.ordering", "yank"),
    "token": ("ota_server.remote.tokens", "run_token"),
    "completion": ("ota_server.completion", "run_completion"),
}

_ALSO_REMOTE = {
    "explain": ("ota_server.remote.explaining", "run_explain"),
    "rollout": ("ota_server.remote.ordering", "run_rollout"),
    "device": ("ota_server.remote.listing", "show_device"),
}
"""The commands that work on the state of a server on this machine, and ask a door where one is named."""


def _find_command(name: str, arguments: Sequence[str]) -> tuple[str, str]:
    """Return module and function of a command."""
    if name in _ALSO_REMOTE:
        from ota_server.orders import DEVICE_ORDERS
        from ota_server.remote.address import is_remote

        # What is remembered of a device, and what becomes of a rollout, is told by the door alone, here as elsewhere.
        asks = {"device": not set(arguments) & set(DEVICE_ORDERS), "rollout": "wait" in arguments}
        if is_remote(arguments, os.environ) or asks.get(name, False):
            return _ALSO_REMOTE[name]
    return _COMMANDS[name]


class InspectOptions(usage.Options):
    """What `ota-server inspect` understands."""

    synopsis = "Usage: ota-server inspect [options] FILE..."
    longdesc = (
        "Shows what the server sees in firmware files: what they are, whether they are whole, and whether it would "
        "offer them to devices. The exit status is 1 where it would not offer one of them, and 2 where one can't be "
        "read. docs/images.md explains every line."
    )
    optFlags = [["json", "j", "Print a JSON array with an object for each file."]]
    compData = usage.Completions(extraActions=[usage.CompleteFiles("*.bin", repeat=True)])

    def __init__(self) -> None:
        super().__init__()
        self["verify-key"] = []
        self["files"] = []

    def opt_verify_key(self, file: str) -> None:
        """Take for offered only what is signed by a key of this PEM file, as the server's option does."""
        self["verify-key"].append(file)

    def opt_h(self) -> None:
        """Display this help and exit."""
        self.opt_help()

    def parseArgs(self, *files: str) -> None:
        """Take the files."""
        if not files:
            raise usage.UsageError("name a file")
        self["files"] = list(files)


def inspect(arguments: Sequence[str]) -> int:
    """Print what the server sees in files, and return the exit status."""
    options = InspectOptions()
    try:
        options.parseOptions(_put_options_first(arguments))
        keys = [key for file in options["verify-key"] for key in load_verify_key(Path(file).expanduser())]
    except (usage.UsageError, VerifyKeyError) as problem:
        print(f"ota-server inspect: {problem} (see: ota-server inspect --help)", file=sys.stderr)
        return 2
    if isinstance(sys.stdout, TextIOWrapper):
        # A terminal that has no such letters gets their numbers.
        sys.stdout.reconfigure(errors="backslashreplace")
    reports, unreadable = [], False
    for file in options["files"]:
        try:
            reports.append(_inspect(Path(file), keys))
        except OSError as problem:
            print(f"ota-server inspect: {escape(file)}: {problem.strerror or problem}", file=sys.stderr)
            unreadable = True
    if options["json"]:
        print(json.dumps([report.as_json() for report in reports], indent=2))
    else:
        print("\n".join(map(render, reports)), end="")
    if unreadable:
        return 2
    return 0 if all(report.offered for report in reports) else 1


def _put_options_first(arguments: Sequence[str]) -> list[str]:
    """Bring options that stand behind files before them, since `usage.Options` looks no further than the first file."""
    options: list[str] = []
    files: list[str] = []
    left = iter(arguments)
    for argument in left:
        if argument == "--":
            files += left
        elif argument == "--verify-key":
            options += [argument, *[value for value in [next(left, None)] if value is not None]]
        else:
            (options if argument.startswith("-") and argument != "-" else files).append(argument)
    return [*options, "--", *files] if files else options


def _inspect(path: Path, keys: Sequence[VerifyKey]) -> Report:
    """Read one file. Raises OSError where it can't be read."""
    with open(path, "rb") as file:
        try:
            return make_report(path.name, read_image(file), None, keys)
        except ImageError as error:
            return make_report(path.name, None, error.reason)
