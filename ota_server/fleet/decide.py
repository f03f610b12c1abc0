"""What to answer to one check-in: `decide` is a pure function of the check-in and a catalog.

Every decision has a reason, a short stable word of `REASONS`.
"""

from __future__ import annotations

import attrs
from semver import Version

from ota_server.firmware.catalog import Catalog, Choice, Image
from ota_server.firmware.esp import SECTOR
from ota_server.firmware.facts import Format
from ota_server.firmware.naming import CHIPS, Kind
from ota_server.firmware.versions import ReportedVersion, VersionError, compare, numbers_of, read_reported_version
from ota_server.fleet.checkin import FAMILIES, CheckIn, Mode

REASONS = {
    "newer": "the image is newer than what the device runs",
    "no-version": "the device told neither its version nor a known hash, so it gets the best image",
    "other-build": "the device runs another build (by the name in brackets, or by its hash)",
    "version-asked": "the device asked for the number of the best version only",
    "up-to-date": "the device runs the best image already, or a version equal to it or newer",
    "unknown-build": "as up-to-date by its version, but by its hash the device runs a build that no file explains",
    "no-space": "the image is larger than the space that the device says is free",
    "flash-size": "the image is built for more flash than the device says it has",
    "wrong-chip": "the image is for another chip than the device's",
    "unknown-chip": "there is an image for each of several chips, and which one the device has isn't known",
    "not-for-ota": "the file can't be an update: a boot loader, a merged factory image, a filesystem named as a sketch",
    "no-image": "the project has no image of the kind asked for (sketch or filesystem)",
    "unknown-mode": "the device asked for something that is neither a sketch nor a filesystem",
    "unknown-project": "no file of this project is in the folder",
    "unreadable-chip": "what the address names with ?chip= is no chip",
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
_UNKNOWN_BUILD = UpToDate("unknown-build")
_WITHHELD = {reason: Withhold(reason) for reason in REASONS}
_UNKNOWN_PROJECT = Refuse("unknown-project", "unknown project")

_NOT_FOR_ARDUINO = {
    # It would take the place of the boot loader that Arduino's sketches begin with, and start no more, or never again.
    Format.ESP8266_IMAGE,
    # The Arduino cores' updaters refuse their first bytes; they are for other clients.
    Format.ESP8266_V2,
    Format.SIGNED,
    Format.MCUBOOT,
    Format.ARDUINO_OTA,
}


def decide(check_in: CheckIn, catalog: Catalog) -> Decision:
    """Decide what to answer to one check-in.

    The image that runs in the device is known by hash first and by version second. No device is ever sent a
    lower version than it runs, nor an image that can't work there as far as that is known.
    """
    project = catalog.project(check_in.channel, check_in.project)
    if project is None:
        return _UNKNOWN_PROJECT
    if check_in.mode is Mode.UNKNOWN:
        return _WITHHELD["unknown-mode"]
    if check_in.chip is not None and check_in.chip not in CHIPS:
        return Refuse("unreadable-chip", f"{check_in.chip[:40]!a} is no chip; write it as in esp8266 or esp32c3")
    running = _find_running(check_in, catalog)
    filesystem = check_in.mode is Mode.FILESYSTEM
    family = "" if check_in.dialect is None else FAMILIES[check_in.dialect]
    choice = project.choose(
        Kind.FILESYSTEM if filesystem else Kind.APP, check_in.chip or _find_chip(running, family), family
    )
    best = choice.image
    if best is None:
        return _WITHHELD[choice.reason or "no-image"]
    if check_in.mode is Mode.VERSION:
        return Announce(best, "version-asked")
    if filesystem:
        # The hashes are those of the sketch, and tell nothing of the filesystem.
        decision = _compare_with_reported(check_in, choice)
    elif running:
        decision = _compare_with_running(check_in, choice, running)
    else:
        decision = _compare_with_reported(check_in, choice)
        if decision is _UP_TO_DATE and (check_in.sketch_md5 or check_in.sketch_sha256):
            return _UNKNOWN_BUILD
    if not isinstance(decision, Send):
        return decision
    obstacle = _find_obstacle(check_in, best, family)
    if obstacle is not None:
        return _WITHHELD[obstacle]
    if filesystem:
        # The space that a device reports is that for a sketch.
        return decision
    packed = choice.compressed
    if (
        packed is not None
        and packed.size < best.size
        and _can_unpack(check_in, packed, running)
        and not best.facts.signatures
    ):
        return Send(packed, decision.reason)
    return decision if _has_room(check_in, best) else _WITHHELD["no-space"]


def _find_running(check_in: CheckIn, catalog: Catalog) -> tuple[Image, ...]:
    """Return the images that a device may be running by the hashes it told; several may have the same bytes."""
    for sketch_hash in (check_in.sketch_sha256, check_in.sketch_md5):
        if sketch_hash is not None and (images := catalog.by_hash.get(sketch_hash)):
            return images
    return ()


def _find_chip(running: tuple[Image, ...], family: str) -> str | None:
    """Return the chip that an image runs on, if it says that, and can be right."""
    for image in running:
        chip = image.facts.chip
        if chip is not None and chip.startswith(family):
            return chip
    return None


def _compare_with_running(check_in: CheckIn, choice: Choice, running: tuple[Image, ...]) -> Decision:
    """Decide for a device that runs an image of the catalog."""
    best = choice.image
    assert best is not None
    if best in running and choice.reason is None:
        return _UP_TO_DATE
    own = [image for image in running if image.project == check_in.project]
    # The highest, where the same bytes stand under several versions: never offer a downgrade.
    version = max((image.version for image in own or running), key=numbers_of)
    if best in running:
        return _stay(choice, version)
    order = compare(best.version, version)
    if order > 0:
        return Send(best, "newer")
    return Send(best, "other-build") if order == 0 and not own else _stay(choice, version)


def _compare_with_reported(check_in: CheckIn, choice: Choice) -> Decision:
    """Decide by what the device reports as its version, if anything."""
    best = choice.image
    assert best is not None
    if check_in.version is None:
        # Where a newer release leaves open which chip it is for, an older one may be a step back, or for another.
        return _WITHHELD["unknown-chip"] if choice.reason == "unknown-chip" else Send(best, "no-version")
    try:
        reported: ReportedVersion = read_reported_version(check_in.version)
    except VersionError as error:
        return Refuse("unreadable-version", f"version {check_in.version[:40]!a}: {error}")
    order = compare(best.version, reported.version)
    if order > 0:
        return Send(best, "newer")
    name = reported.build_name
    if order == 0 and name is not None and name.casefold() != check_in.project.casefold():
        return Send(best, "other-build")
    return _stay(choice, reported.version)


def _stay(choice: Choice, version: Version) -> Decision:
    """Decide for a device that runs the best image for it, or a higher version: there may be one above, not for it."""
    if choice.reason is not None and choice.withheld is not None and compare(choice.withheld, version) > 0:
        return _WITHHELD[choice.reason]
    return _UP_TO_DATE


def _find_obstacle(check_in: CheckIn, image: Image, family: str) -> str | None:
    """Say, in a word of REASONS, why an image surely can't work in a device, whatever its size."""
    if not all(chip.startswith(family) for chip in image.chips):
        return "wrong-chip"
    if family.startswith("esp") and image.facts.format in _NOT_FOR_ARDUINO:
        return "not-for-ota"
    if (check_in.chip or family).startswith("esp") and image.facts.format is Format.GZIP:
        # It holds no program of Espressif's, or it wouldn't be the plain image of its release.
        return "not-for-ota"
    esp = image.facts.core.esp
    needed = esp.flash_size if esp is not None else None
    if needed is not None and check_in.chip_size is not None and needed > check_in.chip_size > 0:
        return "flash-size"
    return None


def _has_room(check_in: CheckIn, image: Image) -> bool:
    """Say whether an image fits, in whole sectors as the ESP8266's updater counts; an ESP32 writes what there is."""
    if check_in.free_space is None:
        return True
    size = _in_sectors(image.size) if check_in.chip == "esp8266" else image.size
    return size <= check_in.free_space


def _in_sectors(size: int) -> int:
    return -(-size // SECTOR) * SECTOR


def _can_unpack(check_in: CheckIn, packed: Image, running: tuple[Image, ...]) -> bool:
    """Say whether a device surely starts anew after it was sent a gzip file.

    What unpacks is the boot loader in its flash, which came with the sketch that runs (core 2.7 or later), and
    nothing puts the device's flash mode into the file on the way. No header tells of either but `x-ESP8266-sketch-md5`,
    which names the sketch, and by which of the four flash modes. The boot loader doesn't look whether what it
    unpacks reaches what it unpacks from, so both have to fit, with a sector between them.
    """
    inner = packed.facts.core
    if check_in.dialect != "esp8266" or check_in.sketch_md5 is None or inner.esp is None:
        return False
    if check_in.free_space is None or not _has_room(check_in, packed):
        return False
    for image in running:
        facts = image.facts.core
        if facts.esp is None or check_in.sketch_md5 not in facts.sketch_hashes:
            continue
        mode = facts.sketch_hashes.index(check_in.sketch_md5)
        own = facts.esp.end if check_in.sketch_size is None else min(facts.esp.end, check_in.sketch_size)
        room = check_in.free_space + _in_sectors(own)
        needed = _in_sectors(inner.size) + _in_sectors(packed.size) + SECTOR
        return facts.esp.can_unpack and mode == inner.esp.flash_mode and needed <= room
    return False
