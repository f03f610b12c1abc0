"""Delivering an image: opening it off the reactor, streaming it, and ending when it is not what it was.

A device must never receive the right number of wrong bytes. So the open file is compared with the catalog
before the first byte, and again after each read; a difference ends the connection, which every client takes
for a failed download.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, cast

from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from twisted.web.static import NoRangeStaticProducer

from ota_server.firmware.catalog import Image
from ota_server.firmware.folder import identify
from ota_server.web.continuation import Continuations

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorFromThreads

    from ota_server.web.site import DeviceRequest

log = Logger()


class ImageChangedError(Exception):
    """The file of an image is not, or no longer, the one that the catalog tells of."""


def open_image(image: Image, start: int) -> BinaryIO:
    """Open the file of an image at an offset in bytes. Blocks. Raises ImageChangedError where it isn't as it was."""
    try:
        file = open(image.path, "rb", buffering=0)  # noqa: SIM115 - the producer closes it
    except OSError as error:
        raise ImageChangedError(f"{image.file_name} can't be opened: {error.strerror}") from error
    try:
        if identify(file.fileno()) != image.identity:
            raise ImageChangedError(f"{image.file_name} has changed since the folder was read")
        if hasattr(os, "posix_fadvise"):
            # Lets the kernel fetch the file while the reactor streams, so that its reads find it in memory.
            os.posix_fadvise(file.fileno(), start, 0, os.POSIX_FADV_WILLNEED)
        file.seek(start)
    except BaseException:
        file.close()
        raise
    return cast("BinaryIO", file)


def is_unchanged(file: BinaryIO, image: Image) -> bool:
    """Say whether an open file still has the bytes that it had when the folder was read.

    Its name may have gone meanwhile (a newer file was moved over it): the bytes of an open file stay.
    """
    status = os.fstat(file.fileno())
    return status.st_size == image.identity.size and status.st_mtime_ns == image.identity.mtime_ns


class ImageProducer(NoRangeStaticProducer):
    """Streams `length` bytes of an open file, and counts them.

    It differs from its base in what it does when the file ends early or has changed: it ends the connection,
    where the base would end the *answer*, and leave the client waiting for the rest, or taking the next
    answer for it.
    """

    def __init__(
        self,
        request: DeviceRequest,
        file: BinaryIO,
        head: bytes,
        length: int,
        unchanged: Callable[[], bool],
    ) -> None:
        super().__init__(request, file)
        self._head = head
        self._left = length
        self._unchanged = unchanged

    def resumeProducing(self) -> None:
        """Write the next bytes; the head goes with the first, since some clients look for both at once."""
        if not self.request:
            return
        data = self.fileObject.read(min(self.bufferSize, self._left))
        # Asked after the read: a write sets the time of modification before it changes a byte.
        if not data or not self._unchanged():
            self._break_off()
            return
        self._left -= len(data)
        request = self.request
        if self._head:
            head, self._head = self._head, b""
            request.begin(request.code, head, data)
        else:
            request.write(data)
        if self.request and not self._left:
            if request.producer is self:
                request.unregisterProducer()
            self.stopProducing()
            request.finish()

    def start(self) -> None:
        """Write the first bytes at once; wait for the transport to ask for more, if there are more."""
        self.resumeProducing()
        if self.request:
            super().start()

    def _break_off(self) -> None:
        request = self.request
        log.error("the file of {path} changed during a download, which was ended", path=request.path)
        if request.producer is self:
            request.unregisterProducer()
        self.stopProducing()
        request.loseConnection()


class Deliveries:
    """Sends images, opening their files in a thread pool of its own."""

    def __init__(self, reactor: IReactorFromThreads, pool: ThreadPool) -> None:
        self.continuations = Continuations()
        self._reactor = reactor
        self._pool = pool

    def send(
        self,
        request: DeviceRequest,
        image: Image,
        code: int,
        head: bytes,
        start: int,
        length: int,
        refused: Callable[[], None],
    ) -> None:
        """Answer a request with `length` bytes of an image from `start` on, behind a finished head.

        Calls `refused` instead, with nothing written, where the file is not what the catalog says.
        """
        lost: list[Failure] = []
        request.notifyFinish().addErrback(lost.append)
        # One line for a download: of one that comes in pieces, the last piece.
        if request.site.log_decisions and start + length == image.size:
            self._log_end(request, image)

        def opened(file: BinaryIO) -> None:
            if lost:
                file.close()
                return
            request.code = code
            request.channel.watch_progress()
            producer = ImageProducer(request, file, head, length, lambda: is_unchanged(file, image))
            producer.start()

        def failed(failure: Failure) -> None:
            failure.trap(ImageChangedError)
            log.warn("{reason}", reason=failure.getErrorMessage())
            if not lost:
                refused()

        opening = deferToThreadPool(self._reactor, self._pool, open_image, image, start)
        opening.addCallbacks(opened, failed)
        opening.addErrback(lambda failure: None if lost else request.processingFailed(failure))

    def _log_end(self, request: DeviceRequest, image: Image) -> None:
        clock = request.site.reactor
        began = clock.seconds()
        peer = request.getClientAddress()

        def ended(outcome: Failure | None) -> None:
            log.info(
                "{peer} {outcome} {image}: {sent} bytes in {seconds:.1f} s",
                peer=getattr(peer, "host", peer),
                outcome="got" if outcome is None else "broke off",
                image=image.file_name,
                sent=request.sentLength,
                seconds=clock.seconds() - began,
            )

        request.notifyFinish().addBoth(ended)
