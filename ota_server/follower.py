"""Follows one download of a device, and tells the fleet how it goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from ota_server.firmware.catalog import Catalog, Image
from ota_server.fleet.checkin import CheckIn

if TYPE_CHECKING:
    from ota_server.keeper import FleetKeeper


@attrs.define(eq=False)
class Follower:
    """Follows one download of a device for the fleet; see web.delivery.DownloadWatcher.

    `break_off` ends the download at once.
    """

    device: str
    break_off: Callable[[], None]
    _keeper: FleetKeeper
    _check_in: CheckIn
    _catalog: Catalog
    image: Image | None = None

    def begun(self, image: Image) -> None:
        """Note that bytes of an image are about to be sent."""
        self.image = image
        self._keeper.followers.add(self)
        fleet = self._keeper.loaded
        fleet.begun(self._check_in.device, self._check_in, image, self._catalog, self._keeper.now())

    def downloaded(self, image: Image) -> None:
        """Note that the whole image has arrived."""
        self._keeper.loaded.downloaded(self._check_in.device, image, self._keeper.now())

    def ended(self) -> None:
        """Note that the answer is over."""
        self._keeper.followers.discard(self)
        if self.image is not None:
            self._keeper.loaded.ended(self.image)
