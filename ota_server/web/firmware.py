"""The resources of projects and images: `/{project}`, `/{project}.bin` and what stands beside them."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.web import http
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from ota_server.firmware.catalog import Catalog, Image
from ota_server.firmware.versions import Numbers, compare
from ota_server.fleet.checkin import CheckIn, Headers, read_check_in
from ota_server.fleet.decide import Announce, Decision, Refuse, Send, UpToDate, Withhold
from ota_server.fleet.device import Place
from ota_server.web.continuation import WHATEVER, Continuity, is_barred, may_go_on
from ota_server.web.delivery import Deliveries, DownloadWatcher
from ota_server.web.ranges import NotModified, Part, Unsatisfiable, Whole, evaluate, parse_range
from ota_server.web.site import MAX_HEAD, DeviceRequest, join_fields

if TYPE_CHECKING:
    from collections.abc import Callable

log = Logger()

# A decision is for one device and one moment, so that no cache on the way may use it again (RFC 9111, section
# 4.1). Shorter than a Cache-Control field, which leaves room for the file's name.
_FOR_ONE = b"Vary: *\r\n"

# A plain address may be cached, but not used without asking: a newer file may have taken its place.
_REVALIDATE = b"Cache-Control: no-cache\r\n"


@lru_cache(maxsize=4096)
def reason_field(reason: str) -> bytes:
    """Return the header field that tells the reason of a decision."""
    return join_fields(((b"X-OTA-Reason", reason.encode("ascii")),))


def entity_tag(image: Image) -> bytes:
    """Return the strong entity tag of an image: the first 64 bits of its SHA-256, in quotes."""
    return b'"%s"' % image.facts.sha256[:16].encode("ascii")


@lru_cache(maxsize=1024)
def _validators(image: Image) -> bytes:
    """Return the fields that name an image's bytes, which 200 and 206 have in common."""
    return join_fields(
        (
            (b"Content-Type", b"application/octet-stream"),
            (b"Last-Modified", http.datetimeToString(image.identity.mtime_ns / 1e9)),
            (b"ETag", entity_tag(image)),
        )
    )


@lru_cache(maxsize=1024)
def _description(image: Image) -> bytes:
    """Return the fields that only an answer with the whole image has."""
    return join_fields(
        (
            (b"Accept-Ranges", b"bytes"),
            (b"X-MD5", image.facts.md5.encode("ascii")),
            (b"X-Version", str(image.version).encode("ascii")),
        )
    )


def _disposition(file_name: str, room: int) -> bytes:
    """Return the field that names the file for a person who saves it, as far as there is room, in bytes."""
    named = b'Content-Disposition: attachment; filename="%s"\r\n' % file_name.encode("ascii")
    nameless = b"Content-Disposition: attachment\r\n"
    return next((field for field in (named, nameless) if len(field) < room), b"")


def send_image(
    request: DeviceRequest,
    deliveries: Deliveries,
    image: Image,
    extra: bytes,
    unmodified: bytes,
    refused: Callable[[], None],
    watcher: DownloadWatcher | None = None,
    continuity: Continuity = WHATEVER,
) -> None:
    """Answer with an image: all of it, a part, or that the client has it already, as its request's fields ask.

    `extra` are further fields in wire form, `unmodified` those of a 304. `refused` is called, with nothing written,
    where the image can't be sent because its file changes. `watcher` is told what comes of it where bytes of the
    image are sent, and nothing otherwise. `continuity` says whether a client that began another image may have the
    rest of that.
    """
    # RFC 9110, section 14.2: only GET knows ranges.
    range_header = _first(request, b"Range") if request.method == b"GET" else None
    if range_header == b"bytes=0-" and not request.requestHeaders.hasHeader(b"User-Agent"):
        # Nordic's old download_client asks so for a whole file, and takes 206 for an error; it alone names no
        # user agent. ESP-IDF, which wants 206, does.
        range_header = None
    if_range = _first(request, b"If-Range")
    who = continuity.device or str(getattr(request.getClientAddress(), "host", ""))
    # For another chip (`?chip=`) another image is sent.
    place = (who, b"%s?%s" % (request.path, request.query))
    now = request.site.reactor.seconds()
    if range_header is not None and if_range is None:
        piece = parse_range(range_header, image.size)
        start = piece.start if isinstance(piece, Part) else image.size if isinstance(piece, Unsatisfiable) else 0
        begun = deliveries.continuations.find(place, start, now)
        if begun is not None and begun is not image and continuity.concerns(begun, image):
            refused = lambda: _answer_unsatisfiable(request, image.size, reason_field("image-changed"))  # noqa: E731
            if not continuity.allows(begun):
                refused()
                return
            image = begun
    outcome = evaluate(
        method=request.method,
        size=image.size,
        etag=entity_tag(image),
        range_header=range_header,
        if_none_match=b", ".join(request.requestHeaders.getRawHeaders(b"If-None-Match", ())) or None,
        if_range=if_range,
    )
    code, start, length = http.OK, 0, image.size
    match outcome:
        case NotModified():
            request.respond(http.NOT_MODIFIED, b"ETag: %s\r\n%s" % (entity_tag(image), unmodified))
            return
        case Unsatisfiable():
            _answer_unsatisfiable(request, image.size, extra)
            return
        case Part():
            code, start, length = http.PARTIAL_CONTENT, outcome.start, outcome.length
            fields = b"Content-Range: bytes %d-%d/%d\r\n" % (start, start + length - 1, image.size)
            fields = fields + _validators(image) + extra
        case Whole():
            fields = _validators(image) + _description(image) + extra
            fields += _disposition(image.file_name, MAX_HEAD - len(request.head(code, fields, length)))
    head = request.head(code, fields, length)
    if request.method == b"HEAD":
        request.begin(code, head)
        request.finish()
    else:
        deliveries.continuations.sent(place, image, start + length, now)
        deliveries.send(request, image, code, head, start, length, refused, watcher)


def _answer_unsatisfiable(request: DeviceRequest, size: int, extra: bytes) -> None:
    """Answer 416, which tells a client that fetches pieces to begin anew; `size` is in bytes."""
    request.respond(http.REQUESTED_RANGE_NOT_SATISFIABLE, b"Content-Range: bytes */%d\r\n%s" % (size, extra))


def _first(request: DeviceRequest, name: bytes) -> bytes | None:
    values = request.requestHeaders.getRawHeaders(name)
    return values[0] if values else None


class Decider(Protocol):
    """Decides what devices are answered, and follows what comes of it."""

    @property
    def changes(self) -> int:
        """A number that is another one whenever `barred` would return something else."""

    def answer(self, check_in: CheckIn, catalog: Catalog, address: str) -> Decision:
        """Decide what to answer to a check-in that came from a network address, and remember it."""

    def barred(self, place: Place) -> frozenset[Numbers]:
        """Return the versions of a project in a channel that nobody gets."""

    def watch(
        self, check_in: CheckIn, catalog: Catalog, address: str, break_off: Callable[[], None]
    ) -> DownloadWatcher | None:
        """Return what is to be told how a download of the device that checked in goes; `break_off` ends that."""


class FirmwareResource(Resource):
    """The smart address of a project, `/{project}`: picks the best image for the device that asks, and sends it."""

    isLeaf = True

    def __init__(self, catalog: Catalog, channel: str, project: str, deliveries: Deliveries, decider: Decider) -> None:
        super().__init__()
        self._decider = decider
        self._catalog = catalog
        self._channel = channel
        self._project = project
        self._deliveries = deliveries

    def answer_check(
        self, headers: Headers, query: bytes, peer: IAddress, log_decisions: bool, proven: str | None
    ) -> bytes | None:
        """Return the header fields of a 304, in wire form, where that is the answer; otherwise None.

        `query` is what stands behind the question mark of the address, `proven` the id of the device where something
        proves it.
        """
        check_in = read_check_in(self._channel, self._project, headers, query, proven)
        # Where the answer is another one, `render` asks once more: a check-in that comes twice at a time counts once.
        decision = self._decider.answer(check_in, self._catalog, getattr(peer, "host", ""))
        if not isinstance(decision, UpToDate | Withhold):
            return None
        if log_decisions:
            self._log(peer, check_in, decision)
        return reason_field(decision.reason)

    def render(self, request: DeviceRequest) -> int:
        """Decide, and answer as decided."""
        headers = dict(request.requestHeaders.getAllRawHeaders())
        check_in = read_check_in(self._channel, self._project, headers, request.query, request.proven)
        peer = request.getClientAddress()
        address = getattr(peer, "host", "")
        decision = self._decider.answer(check_in, self._catalog, address)
        if request.site.log_decisions:
            self._log(peer, check_in, decision)
        extra = reason_field(decision.reason)
        match decision:
            case Send():
                send_image(
                    request,
                    self._deliveries,
                    decision.image,
                    _FOR_ONE + extra,
                    _FOR_ONE + reason_field("up-to-date"),
                    lambda: request.respond(http.NOT_MODIFIED, reason_field("image-changed")),
                    self._decider.watch(check_in, self._catalog, address, request.break_off),
                    self._continue(check_in, decision),
                )
            case Announce():
                version = str(decision.image.version).encode("ascii")
                request.respond(http.OK, b"X-Version: %s\r\n%s%s" % (version, _FOR_ONE, extra))
            case Refuse():
                code = http.NOT_FOUND if decision.reason == "unknown-project" else http.BAD_REQUEST
                request.respond(code, _FOR_ONE + extra, decision.detail.encode("ascii") + b"\n")
            case UpToDate() | Withhold():
                request.respond(http.NOT_MODIFIED, extra)
        return NOT_DONE_YET

    def _continue(self, check_in: CheckIn, decision: Send) -> Continuity:
        """Return what a device may go on with that would be sent an image now."""
        return Continuity(
            check_in.device,
            lambda begun: may_go_on(begun, check_in, decision, self._catalog, self._decider.barred),
        )

    def _log(self, peer: IAddress, check_in: CheckIn, decision: Decision) -> None:
        log.info(
            "{peer} {device} {channel}/{project} version {version!a}: {decision} {image} ({reason})",
            peer=getattr(peer, "host", peer),
            device=check_in.device or "-",
            channel=check_in.channel,
            project=check_in.project,
            version=check_in.version,
            decision=type(decision).__name__,
            image=decision.image.file_name if isinstance(decision, Send | Announce) else "-",
            reason=decision.reason,
        )


class ImageResource(Resource):
    """A plain address, such as `/{project}-{version}.bin`: always this image, whatever the device says."""

    isLeaf = True

    def __init__(self, image: Image, deliveries: Deliveries, decider: Decider) -> None:
        super().__init__()
        self._image = image
        self._deliveries = deliveries
        self._continuity = Continuity(allows=self._may_go_on)
        self._decider = decider

    def render(self, request: DeviceRequest) -> int:
        """Send the image."""
        # The address of the newest changes its bytes, and a file of the same name may be put in anew.
        send_image(
            request,
            self._deliveries,
            self._image,
            _REVALIDATE,
            _REVALIDATE,
            lambda: request.respond(http.SERVICE_UNAVAILABLE, b"Retry-After: 2\r\n", b"the file is being changed\n"),
            continuity=self._continuity,
        )
        return NOT_DONE_YET

    def _may_go_on(self, begun: Image) -> bool:
        """Say whether a client may have the rest of an image that this address led to before.

        An address that names a version leads to that one also where it is halted.
        """
        return compare(begun.version, self._image.version) == 0 or not is_barred(begun, self._decider.barred)


class TextResource(Resource):
    """A short text, such as the MD5 of an image at `/{project}.bin.md5`, with header fields in wire form."""

    isLeaf = True

    def __init__(self, text: str, code: int = http.OK, fields: bytes = _REVALIDATE) -> None:
        super().__init__()
        self._fields = fields
        self._body = text.encode("ascii")
        self._code = code

    def render(self, request: DeviceRequest) -> int:
        """Send the text."""
        request.respond(self._code, self._fields, self._body)
        return NOT_DONE_YET
