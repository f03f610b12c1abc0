"""The text of `ota.toml` as such: parsing it as TOML, and saying where in it something is wrong."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from ota_server.fleet.settings import show
from ota_server.fleet.toml_lines import Path

TOP = "top"
"""What stands for a table in the Origin of a key that is outside of all tables."""

TABLES = {
    "projects": "[projects.NAME]",
    "devices": '[devices."ID"]',
    "groups": "[groups.NAME]",
}
"""The tables that each stand for one of many, with how they are written."""


class PolicyError(Exception):
    """A policy that can't be used; its message is one line: file, line, table and key, what is wrong, what to do.

    `line` counts from 1, and is None where the trouble isn't in the text. `key` is such as `[projects.lamp] soak`.
    """

    def __init__(self, file: str, reason: str, line: int | None = None, key: str = "") -> None:
        self.file = file
        self.line = line
        self.key = key
        self.reason = reason if reason.isprintable() else ascii(reason)
        shown = file if file.isprintable() else ascii(file)
        place = ", ".join(part for part in (shown, "" if line is None else f"line {line}", key) if part)
        super().__init__(f"{place}: {self.reason}")


def parse_toml(text: str, file: str) -> dict[str, Any]:
    """Return the data of a text, whose path is only for messages. Raises PolicyError where it is no TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(file, text, str(error)) from None
    except ValueError:
        # Python's own bound.
        raise PolicyError(file, "a number has too many digits; write a smaller one") from None


_PLACE = re.compile(r"(.*) \(at (?:line ([0-9]+), column ([0-9]+)|end of document)\)", re.DOTALL)


def _syntax_error(file: str, text: str, message: str) -> PolicyError:
    """Say where a text isn't TOML, given what `tomllib` says."""
    found = _PLACE.fullmatch(message)
    what, number, column = found.groups() if found else (message, None, None)
    line = int(number) if number else text.rstrip().count("\n") + 1
    what = what[:1].lower() + what[1:]
    advice = "texts, versions and times are written in quotes" if "alue" in what or "newline" in what else "see toml.io"
    if "overwrite" in what or "twice" in what:
        advice = "each key and table is written once"
    return PolicyError(file, f"no TOML{f' at column {column}' if column else ''}: {what}; {advice}", line)


_BARE = re.compile(r"[A-Za-z0-9_-]{1,40}", re.ASCII)


def title_of(path: Path) -> tuple[str, str]:
    """Write a path for people: the table, and the key in it."""
    length = 2 if path and path[0] in TABLES else 1 if path[:1] == ("access",) else 0
    table = f"[{_join_keys(path[:length])}]" if length else TOP
    return table, _join_keys(path[length:])


def _join_keys(path: Path) -> str:
    return ".".join(key if _BARE.fullmatch(key) else show(key) for key in path if isinstance(key, str))
