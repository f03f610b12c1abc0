"""What to answer to one check-in: `decide` is a pure function of the check-in and a catalog.

Every decision has a reason, a short stable word of `REASONS`.
"""

from __future__ import annotations

import attrs

from ota_server.firmware.catalog import Catalog, Image
from ota_server.firmware.naming import Kind
from ota_server.firmware.versions import VersionError, compare, read_reported_version
from ota_server.fleet.checkin import FAMILIES, CheckIn, Mode

REASONS = {
    "newer": "the image is newer than what the device runs",
    "no-version": "the device told neither its version nor a known hash, so it gets the best image",
    "other-build": "the device runs another build (by the name in brackets, or by its hash)",
    "version-asked": "the device asked for the number of the best version only",
    "up-to-date": "the device runs the best image already, or a version equal to it or newer",
    "no-space": "the image is larger than the space that the device says is free",
    "wrong-chip": "the image is for another chip than the device's",
    "no-image": "the project has no image of the kind asked for (sketch or filesystem), or for this chip",
    "unknown-mode": "the device asked for something that is neither a sketch nor a filesystem",
    "unknown-project": "no file of this project is in the folder",
    "unreadable-version": "what the device reported as its version holds no version",
    "image-changed": "the file of the image is being changed, so it is not sent",
    "starting": "the server has only just started, and is still reading the folder",
}
"""Every reason, with what it means."""


@attrs.frozen
class Send:
    """Send this image."""

    image: Image
    reason: str


@attrs.frozen
class Announce:
    """Tell the version of this image, and send nothing else."""

    image: Image
    reason: str


@attrs.frozen
class UpToDate:
    """There is nothing newer than what the device runs."""

    reason: str = "up-to-date"


@attrs.frozen
class Withhold:
    """There may be something newer, but this device doesn't get it now."""

    reason: str


@attrs.frozen
class Refuse:
    """The request can't be answered; `detail` says to a person what was read, on one line of ASCII."""

    reason: str
    detail: str


Decision = Send | Announce | UpToDate | Withhold | Refuse

_UP_TO_DATE = UpToDate()
_NO_IMAGE = Withhold("no-image")
_WRONG_CHIP = Withhold("wrong-chip")
_NO_SPACE = Withhold("no-space")
_UNKNOWN_MODE = Withhold("unknown-mode")
_UNKNOWN_PROJECT = Refuse("unknown-project", "unknown project")


def decide(check_in: CheckIn, catalog: Catalog) -> Decision:
    """Decide what to answer to one check-in.

    The image that runs in the device is known by hash first and by version second. No device is ever sent a
    lower version than it runs.
    """
    project = catalog.project(check_in.channel, check_in.project)
    if project is None:
        return _UNKNOWN_PROJECT
    if check_in.mode is Mode.UNKNOWN:
        return _UNKNOWN_MODE
    filesystem = check_in.mode is Mode.FILESYSTEM
    best = project.best(Kind.FILESYSTEM if filesystem else Kind.APP, check_in.chip)
    if best is None:
        return _NO_IMAGE
    if check_in.mode is Mode.VERSION:
        return Announce(best, "version-asked")
    # The hashes are those of the sketch, and tell nothing of the filesystem.
    running = () if filesystem else _find_running(check_in, catalog)
    decision = _compare_with_running(check_in, best, running) if running else _compare_with_reported(check_in, best)
    if isinstance(decision, Send):
        if _is_for_another_chip(check_in, best):
            return _WRONG_CHIP
        # The space that a device reports is that for a sketch.
        if not filesystem and check_in.free_space is not None and best.size > check_in.free_space:
            return _NO_SPACE
    return decision


def _is_for_another_chip(check_in: CheckIn, image: Image) -> bool:
    """Say whether an image names a chip that the device surely isn't; one that says nothing of its chip passes."""
    if check_in.dialect is None or image.facts.chip is None:
        return False
    return not image.facts.chip.startswith(FAMILIES[check_in.dialect])


def _find_running(check_in: CheckIn, catalog: Catalog) -> tuple[Image, ...]:
    """Return the images that a device may be running by the hashes it told; several may have the same bytes."""
    for sketch_hash in (check_in.sketch_sha256, check_in.sketch_md5):
        if sketch_hash is not None and (images := catalog.by_hash.get(sketch_hash)):
            return images
    return ()


def _compare_with_running(check_in: CheckIn, best: Image, running: tuple[Image, ...]) -> Decision:
    """Decide for a device that runs an image of the catalog."""
    if best in running:
        return _UP_TO_DATE
    own = [image for image in running if image.project == check_in.project]
    # The highest, where the same bytes stand under several versions: never offer a downgrade.
    version = max((image.version for image in own or running), key=lambda v: (v.major, v.minor, v.patch))
    order = compare(best.version, version)
    if order > 0:
        return Send(best, "newer")
    return Send(best, "other-build") if order == 0 and not own else _UP_TO_DATE


def _compare_with_reported(check_in: CheckIn, best: Image) -> Decision:
    """Decide by what the device reports as its version, if anything."""
    if check_in.version is None:
        return Send(best, "no-version")
    try:
        reported = read_reported_version(check_in.version)
    except VersionError as error:
        return Refuse("unreadable-version", f"version {check_in.version[:40]!a}: {error}")
    order = compare(best.version, reported.version)
    if order > 0:
        return Send(best, "newer")
    name = reported.build_name
    if order == 0 and name is not None and name.casefold() != check_in.project.casefold():
        return Send(best, "other-build")
    return _UP_TO_DATE
