"""What became of an attempt, inferred from how the device comes back: pure functions."""

from __future__ import annotations

from ota_server.firmware.catalog import Image
from ota_server.firmware.naming import Kind
from ota_server.firmware.versions import Numbers, VersionError, compare, numbers_of, read_reported_version
from ota_server.fleet.checkin import CheckIn
from ota_server.fleet.decision import highest_version
from ota_server.fleet.device import Attempt, Device, Outcome
from ota_server.fleet.rhythm import count_of, median_of
from ota_server.fleet.rules import Rules

MAX_DOWNLOADS = 3
"""After so many whole downloads in vain the loop brake holds."""

BRAKE = 86400.0
"""How long the loop brake holds, in seconds."""

MIN_PATIENCE = 600.0
"""No device is taken for silent earlier, in seconds."""

NEW_PATIENCE = 86400.0
"""Nor one whose rhythm was learned from fewer than ENOUGH intervals."""

ENOUGH = 3

UNKNOWN_PATIENCE = 8 * 86400.0
"""After so many seconds one counts as silent that was seen once: it may call weekly."""


def told_by(check_in: CheckIn) -> str | None:
    """Return what a check-in tells of what runs, to compare with later: the version as reported, or else a hash."""
    if check_in.version is not None:
        return check_in.version[:128]
    return check_in.sketch_sha256 or check_in.sketch_md5


def judge(attempt: Attempt, check_in: CheckIn, running: tuple[Image, ...]) -> Outcome | None:
    """Say what a check-in shows of an attempt: confirmed, bounced (it runs what it ran before) or drifted (a third).

    None where the check-in tells nothing of what runs.
    """
    told = told_by(check_in)
    if told is None:
        return None
    if attempt.kind is Kind.APP and running:
        # A hash that names an image overrules what the device says of its version.
        if any(image.facts.core.sha256 == attempt.image for image in running):
            return Outcome.CONFIRMED
        # Another project's image of the same version is another build.
        own = any(image.project == attempt.project for image in running)
        if own and numbers_of(highest_version(running, attempt.project)) == attempt.version:
            return Outcome.CONFIRMED
    elif check_in.version is not None:
        try:
            reported = read_reported_version(check_in.version)
        except VersionError:
            return None
        version, name = reported.version, reported.build_name
        same = version.prerelease is None and numbers_of(version) == attempt.version
        if same and (name is None or name.casefold() == attempt.project.casefold()):
            return Outcome.CONFIRMED
    return Outcome.BOUNCED if _is_same(told, attempt.before) else Outcome.DRIFTED


def _is_same(told: str, before: str | None) -> bool:
    """Say whether two texts tell of the same: some builds tell more than a version, and each time something else."""
    if told == before or before is None:
        return told == before
    try:
        return compare(read_reported_version(told).version, read_reported_version(before).version) == 0
    except VersionError:
        return False


def numbers_told(check_in: CheckIn, running: tuple[Image, ...]) -> Numbers | None:
    """Return the numbers of the version that runs, by hash first and by what is told second, or None."""
    if running:
        return numbers_of(highest_version(running, check_in.project))
    if check_in.version is None:
        return None
    try:
        return numbers_of(read_reported_version(check_in.version).version)
    except VersionError:
        return None


def patience(device: Device, rules: Rules) -> float:
    """Return after how many seconds a device that doesn't come back counts as silent."""
    usual = median_of(device.rhythm)
    if usual is None:
        return UNKNOWN_PATIENCE
    least = MIN_PATIENCE if count_of(device.rhythm) >= ENOUGH else NEW_PATIENCE
    return max(least, rules.silent_after * usual)
