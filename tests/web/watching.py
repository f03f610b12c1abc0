"""Watching downloads in tests: a resource that sends one image, and tells what is heard of each answer."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from ota_server.firmware.catalog import Catalog, Image
from ota_server.web.delivery import Deliveries
from ota_server.web.firmware import send_image
from ota_server.web.site import DeviceRequest, DeviceSite


@attrs.define
class Watcher:
    """Keeps what is told of one answer."""

    device: str
    events: list[str] = attrs.field(factory=list)
    images: set[Image] = attrs.field(factory=set)

    def begun(self, image: Image) -> None:
        """Keep that it began."""
        self.events.append("begun")
        self.images.add(image)

    def downloaded(self, image: Image) -> None:
        """Keep that the image is whole."""
        self.events.append("downloaded")
        self.images.add(image)

    def ended(self) -> None:
        """Keep that it ended."""
        self.events.append("ended")


class WatchedImage(Resource):
    """Sends one image, and watches each answer; devices name themselves by the field `X-Device`."""

    isLeaf = True

    def __init__(self, image: Image, deliveries: Deliveries) -> None:
        super().__init__()
        self.image = image
        self.watchers: list[Watcher] = []
        self._deliveries = deliveries

    def render(self, request: DeviceRequest) -> int:
        """Send the image."""
        (device,) = request.requestHeaders.getRawHeaders(b"X-Device", (b"lamp",))
        watcher = Watcher(device.decode("ascii"))
        self.watchers.append(watcher)
        refused: Callable[[], None] = lambda: request.respond(503)  # noqa: E731
        send_image(request, self._deliveries, self.image, b"", b"", refused, watcher)
        return NOT_DONE_YET

    @property
    def events(self) -> list[list[str]]:
        """What was told of each answer, in the order of the requests."""
        return [watcher.events for watcher in self.watchers]

    @property
    def downloads(self) -> int:
        """How many times the image became whole."""
        return sum(events.count("downloaded") for events in self.events)

    @property
    def over(self) -> bool:
        """Whether all answers that were asked for are over."""
        return bool(self.watchers) and all(events[-1:] == ["ended"] for events in self.events if events)


def watch(test: SynchronousTestCase, site: DeviceSite, deliveries: Deliveries, catalog: Catalog) -> WatchedImage:
    """Let a site send the one image of a catalog at all addresses, watched."""
    (image,) = set(catalog.channels["stable"].files.values())
    resource = WatchedImage(image, deliveries)
    test.patch(site, "getResourceFor", lambda request: resource)
    return resource
