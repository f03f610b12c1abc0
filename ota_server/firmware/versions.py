"""Reading and ordering versions: strict for file names, lenient for what devices report.

Precedence is that of Semantic Versioning 2.0.0 (https://semver.org/spec/v2.0.0.html, clause 11), by the
library `semver`.
"""

from __future__ import annotations

import re
from functools import lru_cache

import attrs
from semver import Version

MAX_DIGITS = 15
"""The longest number in a version: room for a timestamp in milliseconds, and a bound for `X-Version`."""

MAX_REPORTED_LENGTH = 128
"""The longest text, in characters, that is looked at as a device's version."""


Numbers = tuple[int, int, int]
"""The numbers of a version without pre-release, which tell releases of a project apart and order them."""


class VersionError(ValueError):
    """A text that is no version; its message says why, for a person."""


@attrs.frozen
class ReportedVersion:
    """What a device said of the version that it runs.

    `version` is comparable; `build_name` is the name in brackets of forms like `14.2.0(minimal)`, without
    the word `release-` that some builds put before it, or None.
    """

    version: Version
    build_name: str | None = None


@lru_cache(maxsize=4096)
def parse_file_version(text: str) -> Version:
    """Read the version in a file's name, `MAJOR.MINOR` or `MAJOR.MINOR.PATCH`; a missing PATCH is 0.

    Raises VersionError for anything else: Semantic Versioning allows no leading zeros, and a pre-release has
    no place in the name of a file that a whole fleet follows.
    """
    plain = _FILE_VERSION.fullmatch(text)
    if plain is not None:
        return Version(int(plain[1]), int(plain[2]), int(plain[3] or 0))
    numbers = text.split(".")
    if not all(number.isascii() and number.isdigit() for number in numbers) or len(numbers) not in (2, 3):
        raise VersionError(f"{text!r} is not MAJOR.MINOR or MAJOR.MINOR.PATCH in digits")
    for number in numbers:
        if len(number) > 1 and number.startswith("0"):
            raise VersionError(f"{text!r} has a number with a leading zero")
    raise VersionError(f"{text!r} has a number of more than {MAX_DIGITS} digits")


_NUMBER = rf"(0|[1-9][0-9]{{0,{MAX_DIGITS - 1}}})"
_FILE_VERSION = re.compile(rf"{_NUMBER}\.{_NUMBER}(?:\.{_NUMBER})?", re.ASCII)


_REPORTED = re.compile(
    r"""
    (?: v | ver | version )? [ .:_-]?
    (?P<numbers> [0-9]{1,15} (?: \. [0-9]{1,15} ){0,7} ) (?! \.?[0-9] )
    (?P<rest> [^\s(]* )
    (?: \( (?P<name> [0-9A-Za-z_.+-]{1,64} ) \) )?
    """,
    re.ASCII | re.IGNORECASE | re.VERBOSE,
)

# `git describe` counts commits *after* the tag, so these stand for the tag or later, never for a pre-release.
_AFTER_TAG = re.compile(r"-(?:[0-9]+-g[0-9a-f]{4,40}(?:[-+.]?dirty)?|dirty)(?![0-9A-Za-z])", re.ASCII | re.IGNORECASE)

_PRERELEASE = re.compile(
    r"(?: - | (?= (?:alpha|beta|rc|pre|dev|snapshot) (?![A-Za-z]) ) )"
    r"(?P<identifiers> [0-9A-Za-z-]+ (?: \. [0-9A-Za-z-]+ )* ) (?= [+_(] | $ )",
    re.ASCII | re.IGNORECASE | re.VERBOSE,
)

# Homie's updater (version 1.5) reports DEVICE=FIRMWARE=HAVE=WANT or DEVICE=FIRMWARE@HAVE->[HASH]@WANT.
_HOMIE = re.compile(r"[^=]*=[^=@]*(?:=(?P<plain>[^=]+)=[^=]*|@(?P<arrow>[^>]+?)->.*)", re.ASCII)


def read_reported_version(text: str) -> ReportedVersion:
    """Read what a device reports of its version, as leniently as is safe.

    Readable are, among others, `1.0`, `v1.2.3`, `5`, `1.2.3-rc.1`, `1.2.3.4`, `14.2.0(tasmota)`,
    `1.2.3-4-gabc123`; a missing number is 0. Where a suffix may mean "before" as well as "after" its numbers
    it is taken as "the same", so that no device is sent an older image than it has. Raises VersionError.
    """
    text = text.strip()
    if len(text) > MAX_REPORTED_LENGTH:
        raise VersionError(f"a version of {len(text)} characters is too long")
    return _read_reported_version(text)


@lru_cache(maxsize=4096)
def _read_reported_version(text: str) -> ReportedVersion:
    homie = _HOMIE.fullmatch(text)
    found = _REPORTED.match((homie["plain"] or homie["arrow"]) if homie else text)
    if found is None:
        raise VersionError("no version number at its start")
    if re.match(r"\.(?![A-Za-z])", found["rest"]):
        raise VersionError("a number is missing behind a dot")
    if "." not in found["numbers"] and re.match(r"[0-9A-Za-z]", found["rest"]):
        raise VersionError("a number with letters behind it may be the hash of a commit")
    major, minor, patch = ([int(number) for number in found["numbers"].split(".")] + [0, 0])[:3]
    prerelease = None
    rest = found["rest"].removeprefix(".")  # of forms like 1.0.dev3
    if rest and not _AFTER_TAG.match(rest):
        suffix = _PRERELEASE.match(rest)
        if suffix:
            prerelease = _strict_prerelease(suffix["identifiers"])
    name = found["name"]
    if name is not None:
        name = name.removeprefix("release-")
    return ReportedVersion(Version(major, minor, patch, prerelease), name)


def _strict_prerelease(identifiers: str) -> str:
    """Bring pre-release identifiers into the form that Semantic Versioning demands (no leading zeros)."""
    return ".".join(
        str(int(identifier)) if identifier.isdigit() else identifier for identifier in identifiers.split(".")
    )


def numbers_of(version: Version) -> Numbers:
    """Return the numbers of a version, which order those that have no pre-release."""
    return (version.major, version.minor, version.patch)


def compare(left: Version, right: Version) -> int:
    """Order two versions by precedence: negative, zero or positive as `left` is lower, the same or higher."""
    if left.prerelease is None and right.prerelease is None:
        # The library takes ten times as long for what three numbers decide.
        ours, theirs = (left.major, left.minor, left.patch), (right.major, right.minor, right.patch)
        return (ours > theirs) - (ours < theirs)
    return left.compare(right)
