"""The parameters that several operations take, with what they may be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from ota_server.firmware.catalog import STABLE
from ota_server.firmware.naming import is_name
from ota_server.firmware.versions import MAX_DIGITS, parse_file_version
from ota_server.operator.calls import Parameter, Place

LONGEST = 255
"""The longest text of a parameter, in characters."""

_NAME_SCHEMA = {"type": "string", "pattern": "^[0-9A-Za-z_][0-9A-Za-z_.+-]*$", "maxLength": LONGEST}
_NUMBER = rf"(0|[1-9][0-9]{{0,{MAX_DIGITS - 1}}})"
VERSION_SCHEMA = {"type": "string", "pattern": rf"^{_NUMBER}\.{_NUMBER}(\.{_NUMBER})?$", "examples": ["1.2.3"]}
"""A version as a file's name has it; a missing third number is 0."""

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9:.]+([Zz]|[+-][0-9]{2}:[0-9]{2})", re.ASCII)


def read_text(text: str) -> str:
    """Read any text. Raises ValueError where it is empty or too long."""
    if not 0 < len(text) <= LONGEST:
        raise ValueError(f"write a text of 1 to {LONGEST} characters")
    return text


def read_name(text: str) -> str:
    """Read the name of a project or channel. Raises ValueError."""
    if not is_name(text) or len(text) > LONGEST:
        raise ValueError("names are ASCII letters, digits and _ . + -, and begin with none of . + -")
    return text


def read_time(text: str) -> float:
    """Read a time of RFC 3339, section 5.6; return it in seconds since 1970. Raises ValueError."""
    try:
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text.upper()).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        pass
    raise ValueError("write a time as in 2026-11-24T02:00:00Z")


def any_text(name: str, summary: str) -> Parameter:
    """Return a parameter that may be any text, and may be left out."""
    return Parameter(name, Place.QUERY, summary, read_text, {"type": "string", "minLength": 1, "maxLength": LONGEST})


def any_name(name: str, summary: str) -> Parameter:
    """Return a parameter that names a project or channel, and may be left out."""
    return Parameter(name, Place.QUERY, summary, read_name, _NAME_SCHEMA)


def any_time(name: str, summary: str) -> Parameter:
    """Return a parameter that is a time, and may be left out."""
    return Parameter(name, Place.QUERY, summary, read_time, {"type": "string", "format": "date-time"})


def one_of(name: str, values: Sequence[str], summary: str, default: str | None = None) -> Parameter:
    """Return a parameter that is one of some words."""

    def read(text: str) -> str:
        if text not in values:
            raise ValueError(f"write one of {', '.join(values)}")
        return text

    return Parameter(name, Place.QUERY, summary, read, {"type": "string", "enum": list(values)}, default=default)


def flag(name: str, summary: str, default: bool | None = None) -> Parameter:
    """Return a parameter that is true or false."""
    words = {"true": True, "false": False}

    def read(text: str) -> bool:
        if text not in words:
            raise ValueError("write true or false")
        return words[text]

    return Parameter(name, Place.QUERY, summary, read, {"type": "boolean"}, default=default)


PROJECT = Parameter("project", Place.PATH, "Name of the project.", read_name, _NAME_SCHEMA, required=True)

VERSION = Parameter("version", Place.PATH, "Version of the release.", parse_file_version, VERSION_SCHEMA, required=True)

CHANNEL = Parameter("channel", Place.QUERY, "Channel of the release.", read_name, _NAME_SCHEMA, default=STABLE)

DEVICE = Parameter(
    "device",
    Place.PATH,
    "Id of the device (MAC address or chip id), or its name in the policy.",
    read_text,
    {"type": "string", "minLength": 1, "maxLength": LONGEST},
    required=True,
)
