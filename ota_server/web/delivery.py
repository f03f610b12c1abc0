"""Delivering an image: opening it off the reactor, streaming it, and ending when it is not what it was.

A device must never receive the right number of wrong bytes. So an open file is compared with the catalog before
the first byte, and again after each read; a difference ends the connection, which every client takes for a failed
download. For the same reason `sendfile` is not used: it queues pages of the file, not copies of them, and what is
written to the file before they have left would go out in their place.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorFromThreads, IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from twisted.web import http
from twisted.web.static import NoRangeStaticProducer
from zope.interface import implementer

from ota_server.firmware.catalog import Image
from ota_server.firmware.folder import identify
from ota_server.firmware.stream import open_without_waiting
from ota_server.web.continuation import Continuations
from ota_server.web.pieces import Pieces
from ota_server.web.watched import WatchedAnswer

if TYPE_CHECKING:
    from ota_server.web.site import DeviceRequest

CHUNK = 128 * 1024
"""How much is read and written at a time, in bytes: what Twisted's TCP transports hand to the kernel in one call, and
more than they call a full buffer, so that one piece of each download waits in memory and not two."""

LINGER = 10.0
"""How long the file of an image stays open after its last use, in seconds: a fleet comes for the same image again
and again, and some clients fetch it in a thousand pieces."""


class ImageChangedError(Exception):
    """The file of an image is not, or no longer, the one that the catalog tells of."""


def open_image(image: Image) -> int:
    """Open the file of an image and return its descriptor. Blocks. Raises ImageChangedError if it isn't as it was."""
    try:
        descriptor = open_without_waiting(image.path, os.O_RDONLY)
    except OSError as error:
        raise ImageChangedError(f"{image.path} can't be opened: {error.strerror}") from error
    try:
        if identify(descriptor) != image.identity:
            raise ImageChangedError(f"{image.path} has changed since the folder was read")
        if hasattr(os, "posix_fadvise"):
            # Lets the kernel fetch the file while the reactor streams, so that its reads find it in memory.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class OpenImage:
    """The open file of an image, shared by all downloads of it."""

    def __init__(self, image: Image, descriptor: int) -> None:
        self.image = image
        self.descriptor = descriptor
        self.readers = 0
        self.closing: IDelayedCall | None = None

    def is_unchanged(self) -> bool:
        """Say whether the file still has the bytes that it had when the folder was read.

        Its name may have gone meanwhile (a newer file was moved over it): the bytes of an open file stay.
        """
        now, then = os.fstat(self.descriptor), self.image.identity
        return (
            now.st_size == then.size
            and now.st_mtime_ns == then.mtime_ns
            # Removing the last name changes the status, too, and nothing else can any more.
            and (now.st_ctime_ns == then.ctime_ns or not now.st_nlink)
        )


class ImageReader:
    """Reads the file of an image from an offset on, as a file of its own would."""

    def __init__(self, shared: OpenImage, offset: int, release: Callable[[OpenImage], None]) -> None:
        self.shared = shared
        self._offset = offset
        self._release = release
        self._closed = False
        shared.readers += 1

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes; fewer only at the end of the file."""
        data = os.pread(self.shared.descriptor, size, self._offset)
        self._offset += len(data)
        return data

    def close(self) -> None:
        """Give the file back; once is enough, and more does no harm."""
        if not self._closed:
            self._closed = True
            self.shared.readers -= 1
            self._release(self.shared)


@implementer(IPushProducer)
class ImageProducer(NoRangeStaticProducer):
    """Streams `length` bytes of an image, and counts them; calls `written` with the last, which finishes the request.

    It differs from its base in what it does when the file ends early or has changed: it ends the connection,
    where the base would end the *answer*, and leave the client waiting for the rest, or taking the next answer
    for it. And it writes when the transport has room, where the base waits for a turn of the cooperator.
    """

    bufferSize = CHUNK

    def __init__(
        self,
        request: DeviceRequest,
        reader: ImageReader,
        code: int,
        head: bytes,
        length: int,
        refused: Callable[[], None],
        written: Callable[[], None],
    ) -> None:
        super().__init__(request, reader)
        self._written = written
        self._refused = refused
        self._code = code
        self._head = head
        self._left = length
        self._paused = False

    def start(self) -> None:
        """Write the first bytes, with the head in the same write, since some clients look for both at once."""
        data = self._read()
        if data is None:
            return
        request = self.request
        # Not every transport stops the producer of a connection that ends, and the file must be given back.
        request.notifyFinish().addErrback(lambda _: self.stopProducing())
        request.registerProducer(self, True)
        request.begin(self._code, self._head, data)
        if not self._left:
            self._finish()
        elif not self._paused:
            self.resumeProducing()

    def resumeProducing(self) -> None:
        """Write until the transport has enough."""
        self._paused = False
        while self.request and not self._paused:
            data = self._read()
            if data is not None:
                self.request.write(data)
                if not self._left:
                    self._finish()

    def pauseProducing(self) -> None:
        """Wait until the transport asks for more."""
        self._paused = True

    def _read(self) -> bytes | None:
        """Read the next bytes; None where they are not to be trusted, and the connection has been ended."""
        request, shared = self.request, self.fileObject.shared
        reason = "it is not what it was"
        try:
            data: bytes = self.fileObject.read(min(self.bufferSize, self._left))
            # Asked after the read: a write sets the time of modification before it changes a byte.
            if data and shared.is_unchanged():
                self._left -= len(data)
                return data
        except OSError as error:
            reason = f"it can't be read: {error.strerror}"
        log.error("a download of {path} was broken off: {reason}", path=shared.image.path, reason=reason)
        self._end()
        if request.startedWriting:
            request.loseConnection()
        else:
            self._refused()
        return None

    def _finish(self) -> None:
        self._end()
        self._written()

    def _end(self) -> None:
        if self.request.producer is self:
            self.request.unregisterProducer()
        self.stopProducing()


log = Logger()


class DownloadWatcher(Protocol):
    """One who wants to know what comes of one answer with an image. For each answer there is a watcher of its own.

    The image told is the one that is sent, which may be another than the one that was to be sent: see
    `ota_server.web.continuation`.
    """

    @property
    def device(self) -> str:
        """Who the device is: what it downloads in pieces is put together under this name. Empty if it has none."""

    def begun(self, image: Image) -> None:
        """Take note that bytes of an image are about to be sent. That may yet fail, as where its file has changed."""

    def downloaded(self, image: Image) -> None:
        """Take note that the device has the whole image now, by this answer or by several.

        Called once at most, between `begun` and `ended`.
        """

    def ended(self) -> None:
        """Take note that this answer is over, however it ended. Called exactly once after each `begun`."""


class IDeliveryReactor(IReactorTime, IReactorFromThreads):
    """What delivering needs of a reactor."""


class Deliveries:
    """Sends images: opens their files in a thread pool of its own, and keeps them open for a while."""

    def __init__(self, reactor: IDeliveryReactor, pool: ThreadPool) -> None:
        self.continuations = Continuations()
        self.pieces = Pieces()
        self._reactor = reactor
        self._pool = pool
        self._open: dict[Image, OpenImage] = {}

    def send(
        self,
        request: DeviceRequest,
        image: Image,
        code: int,
        head: bytes,
        start: int,
        length: int,
        refused: Callable[[], None],
        watcher: DownloadWatcher | None = None,
    ) -> None:
        """Answer a request with `length` bytes of an image from `start` on, behind a finished head.

        Calls `refused` instead, with nothing written, where the file is not what the catalog says. `watcher` is told
        what comes of it, also then.
        """
        answer, written = None, request.finish
        if watcher is not None:
            answer = WatchedAnswer(request, image, (start, start + length), watcher, self.pieces, self._reactor)
            written = answer.written
        # One line for a download: of one that comes in pieces, the last piece.
        if request.site.log_decisions and start + length == image.size:
            self._log_end(request, image, answer)

        def stream(shared: OpenImage) -> None:
            request.channel.watch_progress()
            reader = ImageReader(shared, start, self._release)
            ImageProducer(request, reader, code, head, length, refused, written).start()

        shared = self._open.get(image)
        if shared is not None and shared.is_unchanged():
            stream(shared)
            return

        def opened(descriptor: int) -> None:
            shared = self._keep(image, descriptor)
            if request.gone:
                self._release(shared)
            else:
                stream(shared)

        def failed(failure: Failure) -> None:
            failure.trap(ImageChangedError)
            log.warn("{reason}", reason=failure.getErrorMessage())
            if not request.gone:
                refused()

        opening = deferToThreadPool(self._reactor, self._pool, open_image, image)
        opening.addCallbacks(opened, failed)
        opening.addErrback(request.fail)

    def _keep(self, image: Image, descriptor: int) -> OpenImage:
        """Share a file that was just opened; where another request was quicker, share that one's."""
        shared = self._open.get(image)
        if shared is not None and shared.is_unchanged():
            os.close(descriptor)
            return shared
        self._open[image] = shared = OpenImage(image, descriptor)
        return shared

    def _release(self, shared: OpenImage) -> None:
        """Close a file that nobody reads: now if it is no longer shared, and otherwise after a while."""
        if shared.readers:
            return
        if self._open.get(shared.image) is not shared:
            self._close(shared)
        elif shared.closing is None:
            shared.closing = self._reactor.callLater(LINGER, self._close, shared)
        else:
            shared.closing.reset(LINGER)

    def _close(self, shared: OpenImage) -> None:
        """Close a file, unless somebody reads it again: then it is looked at when that ends."""
        if shared.closing is not None and shared.closing.active():
            shared.closing.cancel()
        shared.closing = None
        if shared.readers:
            return
        if self._open.get(shared.image) is shared:
            del self._open[shared.image]
        os.close(shared.descriptor)

    def close(self) -> None:
        """Close the files that nobody reads, as the server ends; the others go with their downloads."""
        for shared in list(self._open.values()):
            del self._open[shared.image]
            self._release(shared)

    def _log_end(self, request: DeviceRequest, image: Image, answer: WatchedAnswer | None) -> None:
        began = self._reactor.seconds()
        peer = request.getClientAddress()

        def ended(outcome: Failure | None) -> None:
            if request.code not in (http.OK, http.PARTIAL_CONTENT):
                # It was refused, since its file changed.
                return
            log.info(
                "{peer} {outcome} {image}: {sent} bytes in {seconds:.1f} s",
                peer=getattr(peer, "host", peer),
                outcome="got" if outcome is None or (answer is not None and answer.arrived) else "broke off",
                image=image.file_name,
                sent=request.sentLength,
                seconds=self._reactor.seconds() - began,
            )

        request.notifyFinish().addBoth(ended)
