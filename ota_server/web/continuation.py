"""Keeping to one image while a device fetches it in pieces.

ESP-IDF's `esp_https_ota` and Nordic's downloader ask for an image by many `Range` requests, and name no entity
tag with them. When a newer image appears meanwhile, the rest of the download must still come from the image that
it began with: a mixture of both has the right size and the wrong bytes. But it may be that the client may not have
that image any more; then it has to begin anew.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Collection

import attrs

from ota_server.firmware.catalog import Catalog, Image
from ota_server.firmware.versions import Numbers, compare, numbers_of
from ota_server.fleet.checkin import CheckIn
from ota_server.fleet.decision import Case, Send
from ota_server.fleet.device import Place as Served

MAX_AGE = 600.0
"""How long a download is remembered after its last request, in seconds."""

MAX_PLACES = 4096
"""How many devices, or addresses as seen from the network, are remembered with their downloads."""

_MAX_IMAGES = 4
_MAX_OFFSETS = 16

Place = tuple[str, bytes]
"""Who downloads what: the device's id, or the network address of a client that tells none, and the path that it asks
for, with its query."""

Barred = Callable[[Served], Collection[Numbers]]
"""Returns the versions of a project in a channel that nobody gets."""


@attrs.frozen
class Continuity:
    """What a client may go on with, which asks for a piece.

    `device` is its id. Without one it is known by its network address, which it may share with others. `allows` says
    whether it may have the rest of an image that it began, where another one would be sent now.
    """

    device: str | None = None
    allows: Callable[[Image], bool] = lambda begun: True

    def concerns(self, begun: Image, image: Image) -> bool:
        """Say whether it was this client that began an image, as far as the one to be sent now shows that."""
        if self.device is not None:
            # Sketch and filesystem are asked for at one address.
            return begun.name.kind is image.name.kind
        return (begun.name.kind, begun.chips, begun.compressed) == (image.name.kind, image.chips, image.compressed)


WHATEVER = Continuity()
"""That of a client that may go on with whatever it began."""


def is_barred(begun: Image, barred: Barred) -> bool:
    """Say whether nobody gets an image, as where its release was halted since it was begun."""
    return numbers_of(begun.version) in barred((begun.channel, begun.project))


def may_go_on(begun: Image, check_in: CheckIn, decision: Send, catalog: Catalog, barred: Barred) -> bool:
    """Say whether a device may have the rest of an image that it began, where it would be sent another one now.

    It may if there is no other reason for that than a newer release. Of a device without an id nothing is known but
    that what is barred is so for everybody.
    """
    if is_barred(begun, barred):
        return False
    if check_in.device is None:
        return True
    image = decision.image
    if (begun.channel, begun.project) != (image.channel, image.project):
        return False
    order = compare(begun.version, image.version)
    if order >= 0 or decision.reason == "pinned":
        return order == 0
    current = Case(check_in, catalog).current
    return current is None or compare(begun.version, current) > 0


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
