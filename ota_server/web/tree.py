"""The resource tree of the device door: addresses to resources.

Names in an address are looked up in the catalog's dictionaries and never joined to a folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from ota_server.firmware.catalog import STABLE, Catalog, Channel, Image, Release
from ota_server.firmware.naming import CHIPS, FileName, Kind, NamingError, parse_file_name
from ota_server.firmware.versions import numbers_of
from ota_server.fleet.checkin import read_chip
from ota_server.web.delivery import Deliveries
from ota_server.web.firmware import Decider, FirmwareResource, ImageResource, TextResource, reason_field

if TYPE_CHECKING:
    from ota_server.web.site import DeviceRequest

PATIENCE = 5
"""How long a request that comes before the folder is read waits for that, in seconds."""

INDEX = """\
This is an OTA Server: it serves firmware updates to ESP8266, ESP32 and Arduino devices.
A device asks at /PROJECT for its update; /PROJECT.bin is the newest image itself.
"""


class Shelf(Protocol):
    """Where the current catalog is to be had."""

    @property
    def catalog(self) -> Catalog | None:
        """The newest snapshot, or None while the folder has not been read yet."""

    def when_ready(self) -> Deferred[None]:
        """Return a Deferred that fires once there is a catalog."""


UNKNOWN_PROJECT = TextResource("unknown project\n", http.NOT_FOUND, reason_field("unknown-project"))
"""What addresses lead to that lead to nothing."""

UNKNOWN_CHIP = TextResource("no image for this chip\n", http.NOT_FOUND, reason_field("wrong-chip"))
HALTED = TextResource("all releases are halted\n", http.NOT_FOUND, reason_field("halted"))
CHIP_NEEDED = TextResource("name a chip: ?chip=CHIP\n", http.NOT_FOUND, reason_field("unknown-chip"))


class ChannelResource(Resource):
    """The projects and files of one channel, as they are in one snapshot of the catalog."""

    def __init__(self, catalog: Catalog, channel: Channel, deliveries: Deliveries, decider: Decider) -> None:
        super().__init__()
        self._decider = decider
        self._catalog = catalog
        self._channel = channel
        self._deliveries = deliveries
        # Only names that lead somewhere come in, so that it can't be filled from outside.
        self._made: dict[tuple[bytes, str | None], Resource] = {}

    def getChild(self, path: bytes, request: DeviceRequest | None) -> Resource:
        """Return the resource of a project, of a file or of a text beside one."""
        if request is not None and request.postpath:
            return UNKNOWN_PROJECT
        chip = read_chip(request.query) if request is not None else None
        try:
            return self._made[path, chip]
        except KeyError:
            resource = self._make(path, chip)
            if resource is None:
                return UNKNOWN_PROJECT
            if chip is None or chip in CHIPS:
                self._made[path, chip] = resource
            return resource

    def _make(self, path: bytes, chip: str | None) -> Resource | None:
        try:
            name = path.decode("ascii")
        except UnicodeDecodeError:
            return None
        if name in self._channel.projects:
            return FirmwareResource(self._catalog, self._channel.name, name, self._deliveries, self._decider)
        if chip is not None and chip not in CHIPS:
            return UNKNOWN_CHIP
        found = self._find(name, chip)
        if found is not None:
            if isinstance(found, Image):
                return ImageResource(found, self._deliveries, self._decider)
            return _EXPLANATIONS.get(found)
        base, _, what = name.rpartition(".")
        if what not in ("md5", "sha256", "version"):
            return None
        found = self._find(base, chip) or self._newest(base, chip, compressed=False)
        if not isinstance(found, Image):
            return None if found is None else _EXPLANATIONS.get(found)
        # The forms of md5sum and sha256sum: the clients read the first word.
        match what:
            case "md5":
                return TextResource(f"{found.facts.md5}  {found.file_name}\n")
            case "sha256":
                return TextResource(f"{found.facts.sha256}  {found.file_name}\n")
        return TextResource(f"{found.version}\n")

    def _find(self, name: str, chip: str | None) -> Image | str | None:
        """Find the image of a plain address: by its file's name, by a version spelled otherwise, or the newest.

        A text says why there is none, in a word of the decisions' reasons. None stands for an address that can't be.
        """
        image = self._channel.files.get(name)
        if image is not None and chip is None:
            return image
        stem = name.removesuffix(".gz")
        if not stem.endswith(".bin"):
            return image
        newest = self._newest(stem.removesuffix(".bin"), chip, compressed=stem != name)
        if image is None and newest is not None:
            return newest
        try:
            wanted = parse_file_name(name)
        except NamingError:
            return None
        project = self._channel.projects.get(wanted.project)
        release = project.release(wanted.version) if project else None
        if release is None:
            return None
        if chip is not None and wanted.chip is None:
            return (_find_compressed if wanted.compressed else Release.pick)(release, wanted.kind, chip)
        image = image or next((image for image in release.images if _is_variant(image, wanted)), None)
        if image is None and not wanted.compressed and wanted.chip is None:
            return release.pick(wanted.kind, None)
        return image

    def _newest(self, stem: str, chip: str | None, *, compressed: bool) -> Image | str | None:
        """Find the newest image of `PROJECT`, `PROJECT.fs`, `PROJECT.CHIP` or `PROJECT.CHIP.fs`; see `_find`."""
        kind = Kind.APP
        project = self._channel.projects.get(stem)
        if project is None and stem.endswith(".fs"):
            kind, stem = Kind.FILESYSTEM, stem.removesuffix(".fs")
            project = self._channel.projects.get(stem)
        if project is None:
            stem, _, tag = stem.rpartition(".")
            if tag in CHIPS:
                chip, project = tag, self._channel.projects.get(stem)
        if project is None:
            return None
        barred = self._decider.barred((self._channel.name, project.name))
        if compressed:
            allowed = (release for release in project.releases if numbers_of(release.version) not in barred)
            return next((i for r in allowed if (i := _find_compressed(r, kind, chip)) is not None), None)
        choice = project.choose_among(kind, chip, "", barred)
        if choice.reason == "unknown-chip":
            return choice.reason
        return choice.image or choice.reason or ("halted" if barred else "no-image")


_EXPLANATIONS = {"unknown-chip": CHIP_NEEDED, "wrong-chip": UNKNOWN_CHIP, "halted": HALTED}


def _find_compressed(release: Release, kind: Kind, chip: str | None) -> Image | None:
    """Find the compressed image of a release, whether its plain one is there or not."""
    picked = release.pick(kind, chip)
    packed = release.compressed(picked) if isinstance(picked, Image) else None
    if packed is not None:
        return packed
    of_kind = (image for image in release.images if image.compressed and image.name.kind is kind)
    return next((i for i in of_kind if (i.name.chip is None if chip is None else i.chips <= {chip})), None)


def _is_variant(image: Image, wanted: FileName) -> bool:
    """Say whether an image is of the kind, for the chip, and compressed or not, as wanted."""
    name = image.name
    return (name.kind, name.chip, name.compressed) == (wanted.kind, wanted.chip, wanted.compressed)


class WaitingResource(Resource):
    """Holds requests that come before the folder is read, and answers 503 when that takes too long."""

    isLeaf = True

    def __init__(self, shelf: Shelf, reactor: IReactorTime) -> None:
        super().__init__()
        self._shelf = shelf
        self._reactor = reactor

    def render(self, request: DeviceRequest) -> int:
        """Wait for the catalog, then let the request find its resource once more."""

        def too_late(failure: Failure) -> None:
            fields = b"Retry-After: 5\r\n" + reason_field("starting")
            request.respond(http.SERVICE_UNAVAILABLE, fields, b"starting\n")

        waiting = self._shelf.when_ready().addTimeout(PATIENCE, self._reactor)
        waiting.addCallbacks(lambda _: request.process(), too_late)
        waiting.addErrback(request.fail)
        return NOT_DONE_YET


class ReadyResource(Resource):
    """`/-/ready`: 200 once the folder is read, 503 before."""

    isLeaf = True

    def __init__(self, shelf: Shelf, concerns: Callable[[], Sequence[str]]) -> None:
        super().__init__()
        self._shelf = shelf
        self._concerns = concerns

    def render(self, request: DeviceRequest) -> int:
        """Tell whether devices are served, and what will need a person before long, a line each."""
        if self._shelf.catalog is None:
            request.respond(http.SERVICE_UNAVAILABLE, b"Retry-After: 1\r\n", b"starting\n")
        else:
            lines = "".join(f"{line}\n" for line in ("ready", *self._concerns()))
            request.respond(http.OK, b"", lines.encode("ascii", "backslashreplace"))
        return NOT_DONE_YET


class SupervisionResource(Resource):
    """`/-/`: what supervisors ask; there is nothing else."""

    def getChildWithDefault(self, path: bytes, request: DeviceRequest) -> Resource:
        """Return one of the resources here, below which there is nothing."""
        return UNKNOWN_PROJECT if request.postpath else super().getChildWithDefault(path, request)

    def getChild(self, path: bytes, request: DeviceRequest) -> Resource:
        """Lead what is unknown to nothing."""
        return UNKNOWN_PROJECT

    def render(self, request: DeviceRequest) -> int:
        """Lead to nothing, too."""
        return UNKNOWN_PROJECT.render(request)


class DeviceRoot(Resource):
    """The root of the device door; `concerns` are what `/-/ready` tells besides, a line each."""

    def __init__(
        self,
        shelf: Shelf,
        deliveries: Deliveries,
        reactor: IReactorTime,
        decider: Decider,
        concerns: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        super().__init__()
        self._decider = decider
        self._changes = 0
        self._shelf = shelf
        self._deliveries = deliveries
        self._waiting = WaitingResource(shelf, reactor)
        self._catalog: Catalog | None = None
        self._channels: dict[str, ChannelResource] = {}
        self.putChild(b"", TextResource(INDEX))
        supervision = SupervisionResource()
        supervision.putChild(b"healthy", TextResource("healthy\n"))
        supervision.putChild(b"ready", ReadyResource(shelf, concerns))
        self.putChild(b"-", supervision)

    def find_firmware(self, path: bytes) -> FirmwareResource | None:
        """Return the resource of a smart address given as a path, or None where it is no such, or not yet."""
        names = path[1:].split(b"/")
        channel = self._channel(names[0].decode("ascii", "replace") if len(names) == 2 else STABLE)
        found = channel.getChild(names[-1], None) if channel and len(names) <= 2 else None
        return found if isinstance(found, FirmwareResource) else None

    def getChild(self, path: bytes, request: DeviceRequest) -> Resource:
        """Return the resource of a channel, or of what is in the stable one."""
        if self._shelf.catalog is None:
            # The rest of the path is left to the second search.
            return self._waiting
        stable = self._channel(STABLE)
        if not request.postpath and stable is not None:
            return stable.getChild(path, request)
        return self._channel(path.decode("ascii", "replace")) or UNKNOWN_PROJECT

    def _channel(self, name: str) -> ChannelResource | None:
        """Return the resource of a channel in the newest catalog, or None."""
        catalog = self._shelf.catalog
        if catalog is not self._catalog or self._changes != self._decider.changes:
            self._catalog = catalog
            self._changes = self._decider.changes
            self._channels = {}
            if catalog is not None:
                for channel in catalog.channels.values():
                    self._channels[channel.name] = ChannelResource(catalog, channel, self._deliveries, self._decider)
        return self._channels.get(name)
