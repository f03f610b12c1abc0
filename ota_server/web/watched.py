"""Finding out what came of an answer with bytes of an image: whether the device has the whole image now."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ota_server.firmware.catalog import Image
from ota_server.web.pieces import Pieces, Span

if TYPE_CHECKING:
    from ota_server.web.delivery import DownloadWatcher
    from ota_server.web.site import DeviceRequest

log = Logger()


class WatchedAnswer:
    """One answer with bytes of an image, from its beginning to its end, for the one that watches it."""

    def __init__(
        self,
        request: DeviceRequest,
        image: Image,
        span: Span,
        watcher: DownloadWatcher,
        pieces: Pieces,
        clock: IReactorTime,
    ) -> None:
        self.arrived = False
        """Whether the last byte of the image is known to have arrived."""
        self._request = request
        self._channel = request.channel
        self._image = image
        self._span = span
        self._watcher = watcher
        self._pieces = pieces
        self._clock = clock
        self._over = False
        self._waiting = False
        self._channel.watched = True
        self._tell(watcher.begun, image)
        request.notifyFinish().addCallbacks(lambda _: self._end(), self._break_off)

    def written(self) -> None:
        """Finish the request, now that all bytes are written: when they have arrived, if they make the image whole."""
        start, end = self._span
        now = self._clock.seconds()
        if end < self._image.size and not self._pieces.completes(self._watcher.device, self._image, self._span, now):
            # The device asks for the rest when it has this.
            self._collect(start, end)
            self._request.finish()
            return
        self._waiting = True
        self._channel.await_arrival(self._judge, self._request.finish)

    def _judge(self, arrived: bool) -> None:
        self._waiting = False
        self.arrived = arrived
        if arrived:
            self._collect(*self._span)
        if self._over:
            self._tell(self._watcher.ended)

    def _break_off(self, _: Failure) -> None:
        """Keep what has arrived of an answer that was broken off: a device may go on where it ended."""
        progress = self._channel.last_progress
        if not self.arrived and progress is not None and progress.lasting:
            # What isn't acknowledged may be the head, or of TLS: then it is even more than this that arrived.
            arrived = self._request.sentLength - (progress.written - progress.acknowledged)
            start, end = self._span
            # Whatever happened, the answer isn't known to be whole.
            self._collect(start, min(start + arrived, end - 1))
        self._end()

    def _collect(self, start: int, end: int) -> None:
        if self._pieces.add(self._watcher.device, self._image, (start, end), self._clock.seconds()):
            self._tell(self._watcher.downloaded, self._image)

    def _end(self) -> None:
        """End, but not before it is known whether the bytes arrived."""
        self._over = True
        if not self._waiting:
            self._tell(self._watcher.ended)

    def _tell(self, event: Callable[..., None], *of: Image) -> None:
        """Tell the watcher; should it fail, the device is served on."""
        try:
            event(*of)
        except Exception:  # noqa: BLE001 - whatever it is
            log.failure("what came of a download could not be noted")
