"""Whether an image can work in a device, and in which form it is sent: a step of the decision."""

from __future__ import annotations

from ota_server.firmware.catalog import Image
from ota_server.firmware.esp import SECTOR
from ota_server.firmware.facts import Format
from ota_server.fleet.checkin import CheckIn
from ota_server.fleet.decision import WITHHELD, Case, Decision

_NOT_FOR_ARDUINO = {
    # It would take the place of the boot loader that Arduino's sketches begin with, and start no more, or never again.
    Format.ESP8266_IMAGE,
    # The Arduino cores' updaters refuse their first bytes; they are for other clients.
    Format.ESP8266_V2,
    Format.SIGNED,
    Format.MCUBOOT,
    Format.ARDUINO_OTA,
}


def fit(case: Case) -> Decision | None:
    """Withhold an image that can't work in the device; choose the compressed one where that surely works."""
    check_in, best = case.check_in, case.best
    obstacle = _find_obstacle(check_in, best, case.family)
    if obstacle is not None:
        return WITHHELD[obstacle]
    if case.filesystem:
        # The space that a device reports is that for a sketch.
        return None
    packed = case.choice.compressed
    if (
        packed is not None
        and packed.size < best.size
        and _can_unpack(check_in, packed, case.running)
        and not best.facts.signatures
    ):
        case.packed = packed
        return None
    return None if _has_room(check_in, best) else WITHHELD["no-space"]


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
