"""Keeping to one image while a device fetches it in pieces.

ESP-IDF's `esp_https_ota` and Nordic's downloader ask for an image by many `Range` requests, and name no entity
tag with them. When a newer image appears meanwhile, the rest of the download must still come from the image that
it began with: a mixture of both has the right size and the wrong bytes.
"""

from __future__ import annotations

from collections import OrderedDict, deque

import attrs

from ota_server.firmware.catalog import Image

MAX_AGE = 600.0
"""How long a download is remembered after its last request, in seconds."""

MAX_PLACES = 4096
"""How many addresses, as seen from the network, are remembered with their downloads."""

_MAX_IMAGES = 4
_MAX_OFFSETS = 16

Place = tuple[str, bytes]
"""Who downloads what: the network address of the client, and the path that it asks for, with its query."""


@attrs.define
class _Progress:
    """What was sent of one image to one place: where pieces ended (bytes), the furthest of these, and when."""

    ends: deque[int] = attrs.field(factory=lambda: deque(maxlen=_MAX_OFFSETS))
    furthest: int = 0
    time: float = 0.0


class Continuations:
    """Remembers which images are being downloaded in pieces; bounded in number and in time."""

    def __init__(self) -> None:
        self._places: OrderedDict[Place, OrderedDict[Image, _Progress]] = OrderedDict()

    def sent(self, place: Place, image: Image, end: int, now: float) -> None:
        """Remember that a place was answered with bytes of an image up to offset `end`, at a time in seconds."""
        images = self._places.setdefault(place, OrderedDict())
        self._places.move_to_end(place)
        progress = images.setdefault(image, _Progress())
        images.move_to_end(image)
        progress.ends.append(end)
        progress.furthest = max(progress.furthest, end)
        progress.time = now
        if len(images) > _MAX_IMAGES:
            images.popitem(last=False)
        if len(self._places) > MAX_PLACES:
            self._places.popitem(last=False)

    def find(self, place: Place, start: int, now: float) -> Image | None:
        """Return the image whose download a request for bytes from `start` on goes on with, or None.

        Several devices may share an address, so a piece that begins exactly where one ended counts most;
        otherwise, as after a broken connection, it is the last image of which so much was sent.
        """
        if start <= 0:
            return None
        recent = [
            (image, progress)
            for image, progress in reversed(self._places.get(place, {}).items())
            if now - progress.time <= MAX_AGE
        ]
        for image, progress in recent:
            if start in progress.ends:
                return image
        for image, progress in recent:
            if start <= progress.furthest:
                return image
        return None
