"""Check-ins that nobody made: what a device would ask, by what is remembered of it, and by what somebody says."""

from __future__ import annotations

from typing import Any

import attrs

from ota_server.firmware.catalog import STABLE, Catalog
from ota_server.fleet.checkin import CheckIn, Mode
from ota_server.fleet.device import Device


def suppose_check_in(
    device_id: str | None, device: Device | None, catalog: Catalog, mode: Mode = Mode.SKETCH, **told: Any
) -> CheckIn:
    """Return the check-in that a device would make: what it told the last time, but for what is `told` of it.

    `told` are attributes of CheckIn; None is nothing told. A device that isn't known needs a project there.
    """
    changes = {name: value for name, value in told.items() if value is not None}
    if device is None:
        check_in = CheckIn(STABLE, changes["project"], None, None, device_id, None, mode)
    else:
        place = (device.channel, device.project)
        check_in = CheckIn(*place, device.dialect, device.chip, device.id, device.version, mode)
        if "version" not in changes and device.image is not None:
            check_in = attrs.evolve(check_in, sketch_md5=_hash_of(device.image, catalog))
    return attrs.evolve(check_in, **changes)


def _hash_of(content: str, catalog: Catalog) -> str | None:
    """Return a hash by which a device tells that it runs an image of this content, if that is in the catalog."""
    for sketch_hash, images in catalog.by_hash.items():
        if any(image.facts.core.sha256 == content for image in images):
            return sketch_hash
    return None
