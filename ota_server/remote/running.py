"""How each of the commands runs: options, the door, one line for what goes wrong, and the exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from typing import TypeVar

from twisted.python import usage

from ota_server import __version__
from ota_server.arguments import put_options_first
from ota_server.firmware.esp import escape
from ota_server.fleet.settings import SettingError, read_soak
from ota_server.remote.address import DoorOptions
from ota_server.remote.client import Door
from ota_server.remote.failing import CommandError, Status

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it: 128 and the number of SIGINT."""

SomeOptions = TypeVar("SomeOptions", bound=DoorOptions)


def run_command(
    name: str, options: SomeOptions, arguments: Sequence[str], act: Callable[[SomeOptions, Door], int]
) -> int:
    """Read the options, let `act` ask the door, and return the exit status."""
    if isinstance(sys.stdout, TextIOWrapper):
        # A terminal that has no such letters gets their numbers.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        options.parseOptions(put_options_first(arguments, options))
        address = options.address()
        if address.is_open:
            _complain(name, f"warning: {address.url} isn't encrypted: others on the way can read the token; use https")
        with Door(address) as door:
            return act(options, door)
    except usage.UsageError as problem:
        _complain(name, f"{problem} (see: ota-server {name} --help)")
        return Status.USAGE
    except CommandError as error:
        _complain(name, str(error))
        return error.status
    except KeyError as missing:
        own = __version__.public()
        _complain(name, f"the server's answer has no {missing}; is it of another version than this command, {own}?")
        return Status.FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def read_duration(text: str, option: str) -> float:
    """Return a time such as `30m`, in seconds. Raises UsageError."""
    try:
        return read_soak(text)
    except SettingError as problem:
        raise usage.UsageError(f"{option}: {problem}") from problem


def _complain(name: str, text: str) -> None:
    sys.stdout.flush()
    print(f"ota-server {name}: {escape(text)}", file=sys.stderr, flush=True)
