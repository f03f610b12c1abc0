"""File names: which project, version, chip and kind of image a file of the folder is.

The scheme is `${project}-${major}.${minor}[.${patch}][.${chip}][.fs].bin[.gz]`.
"""

from __future__ import annotations

import enum
import re

import attrs
from semver import Version

from ota_server.firmware.versions import VersionError, parse_file_version

_ESP32_FAMILY = ("", "s2", "s3", "s31", "c2", "c3", "c5", "c6", "c61", "h2", "h21", "h4", "p4", "e22")

CHIPS = frozenset({"esp8266", "rp2040", "rp2350", *(f"esp32{suffix}" for suffix in _ESP32_FAMILY)})
"""The chips that a file's name can say its image is for."""

SCHEME = "PROJECT-MAJOR.MINOR[.PATCH].bin"


class Kind(enum.Enum):
    """What an image holds: the sketch, or a filesystem (SPIFFS or LittleFS)."""

    APP = "app"
    FILESYSTEM = "filesystem"


class NamingError(ValueError):
    """A file's name that is not of the scheme; its message says why, for a person."""


@attrs.frozen
class FileName:
    """What the name of an image file says.

    `chip` is None where the name says none: the image is for every device of the project.
    `compressed` is true for a name that ends in `.gz`.
    """

    project: str
    version: Version
    kind: Kind = Kind.APP
    chip: str | None = None
    compressed: bool = False

    def spell(self) -> str:
        """Return the name of a file that says this, with all three numbers of its version."""
        tags = [str(self.version), *filter(None, (self.chip, "fs" if self.kind is Kind.FILESYSTEM else None))]
        return f"{self.project}-{'.'.join(tags)}.bin{'.gz' if self.compressed else ''}"


# A first character that is a letter, digit or underscore keeps hidden files and the address "/-/" apart.
_NAME = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.+-]*", re.ASCII)


def is_name(text: str) -> bool:
    """Say whether a text can name a project or a channel."""
    return _NAME.fullmatch(text) is not None


def parse_file_name(name: str) -> FileName:
    """Read the name of an image file. Raises NamingError with the reason for any name outside the scheme."""
    stem = name.removesuffix(".gz")
    compressed = stem != name
    if not stem.endswith(".bin"):
        raise NamingError(f"does not end in .bin; the scheme is {SCHEME}")
    project, dash, tail = stem.removesuffix(".bin").rpartition("-")
    if not dash:
        raise NamingError(f"has no version; the scheme is {SCHEME}")
    parts = tail.split(".")
    numbers = 0
    while numbers < len(parts) and parts[numbers].isdigit():
        numbers += 1
    try:
        version = parse_file_version(".".join(parts[:numbers]) if numbers else tail)
    except VersionError as error:
        raise NamingError(f"has no version: {error}; the scheme is {SCHEME}") from None
    if not is_name(project):
        raise NamingError("project names are made of ASCII letters, digits and _ . + -, and begin with none of . + -")
    kind, chip = _read_tags(parts[numbers:])
    return FileName(project, version, kind, chip, compressed)


def _read_tags(tags: list[str]) -> tuple[Kind, str | None]:
    """Read what stands between the version and `.bin`: a chip, `fs`, or both."""
    kind, chip = Kind.APP, None
    for tag in tags:
        if tag == "fs" and kind is Kind.APP:
            kind = Kind.FILESYSTEM
        elif tag in CHIPS and chip is None:
            chip = tag
        else:
            raise NamingError(f"has {tag!r} after its version, which is no chip and not 'fs', or stands there twice")
    return kind, chip
