"""Whether what was written has arrived at the other end of a connection: the kernel is asked what was acknowledged.

That bytes were handed to the kernel says nothing: Linux takes a whole image of 400 kB into its buffer at once, and
a device that loses power half-way would pass for one that has it. What a proxy in front of this server has
acknowledged is all that can be known here of a device behind it.
"""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import sys
import termios
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, ITCPTransport, ITransport
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from ota_server.web.channel import DeviceChannel

FIRST_PAUSE = 0.02
"""How long to wait before the kernel is asked again, in seconds: doubled each time, up to LONGEST_PAUSE."""

LONGEST_PAUSE = 1.0
"""How long to wait at most before the kernel is asked again, in seconds."""

# Where Linux keeps `tcpi_state` (u8) and `tcpi_bytes_acked` (u64) in its `struct tcp_info`.
_TCP_INFO = struct.Struct("=B119xQ")
_CLOSE = 7
_CLOSE_WAIT = 8

_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
_INT = struct.Struct("=i")
_SO_NWRITE = 0x1024
"""macOS: how many bytes the other end has still to acknowledge."""


@attrs.frozen
class Reading:
    """How far a connection has got at one moment.

    Both are offsets in bytes from the same fixed point, which may be anywhere: `acknowledged` is what the other end
    has confirmed, `written` what this end has written. `broken` says that the other end has reset the connection,
    `closed` that it is known to have closed its side in order. `lasting` readings hold when the connection has ended,
    too; the others make all that was written look as if it were acknowledged.
    """

    acknowledged: int
    written: int
    broken: bool = False
    closed: bool = False
    lasting: bool = False


def find_socket(transport: ITransport) -> socket.socket | None:
    """Return the open socket below a transport; None where there is none, as in memory."""
    below = _unwrap(transport)
    # Twisted's transports of UNIX sockets pass for TCP's. Those that have ended have no socket any more.
    handle: socket.socket | None = getattr(below, "socket", None) if ITCPTransport.providedBy(below) else None
    return handle if handle is not None and handle.family in _FAMILIES else None


def count_acknowledged(transport: ITransport) -> int | None:
    """Return how many bytes the other end of a connection has acknowledged so far, but for a constant.

    None where the operating system doesn't tell.
    """
    handle = find_socket(transport)
    if handle is None:
        return None
    if sys.platform == "linux" and handle.family != socket.AF_UNIX:
        info = _read_tcp_info(handle)
        return None if info is None else info[1]
    waiting = _count_waiting(handle)
    return None if waiting is None else -waiting - count_unsent(transport)


def read_socket(transport: ITransport) -> Reading | None:
    """Ask the kernel how far a connection has got; None where it doesn't tell, or not any more."""
    handle = find_socket(transport)
    if handle is None:
        return None
    unsent = count_unsent(transport)
    if sys.platform == "linux" and handle.family != socket.AF_UNIX:
        info = _read_tcp_info(handle)
        while info is not None:
            waiting = _count_waiting(handle)
            again = _read_tcp_info(handle)
            if again == info and waiting is not None:
                state, acknowledged = info
                return Reading(
                    acknowledged,
                    acknowledged + waiting + unsent,
                    broken=state == _CLOSE,
                    closed=state == _CLOSE_WAIT,
                    lasting=True,
                )
            # An acknowledgement came between the two.
            info = again
        return None
    waiting = _count_waiting(handle)
    if waiting is None:
        return None
    poll = select.poll()
    poll.register(handle, 0)
    broken = any(events & select.POLLERR for _, events in poll.poll(0))
    return Reading(-waiting - unsent, 0, broken=broken)


def count_unsent(transport: ITransport) -> int:
    """Return how many bytes Twisted has still to hand to the kernel; TLS hands on what it gets within a turn."""
    below = _unwrap(transport)
    # No public name tells of these, but for the events that come when there are many.
    waiting: int = getattr(below, "_tempDataLen", 0)
    return waiting + len(getattr(below, "dataBuffer", b"")) - getattr(below, "offset", 0)


def _unwrap(transport: ITransport) -> Any:
    below: Any = transport
    while isinstance(below, ProtocolWrapper):  # TLS, and the PROXY protocol
        below = below.transport
    return below


def _read_tcp_info(handle: socket.socket) -> tuple[int, int] | None:
    """Return the state of a connection, and the number of bytes acknowledged; None from an old kernel."""
    info = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    if len(info) != _TCP_INFO.size:
        return None
    state, acknowledged = _TCP_INFO.unpack(info)
    return state, acknowledged


def _count_waiting(handle: socket.socket) -> int | None:
    """Return the bytes in the kernel's buffer: not acknowledged by TCP, not read from a UNIX socket.

    None where the operating system doesn't tell.
    """
    waiting: int | None = None
    if sys.platform == "linux":
        (waiting,) = _INT.unpack(fcntl.ioctl(handle, termios.TIOCOUTQ, bytes(_INT.size)))
    elif sys.platform == "darwin":
        waiting = handle.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)
    return waiting


class Arrival:
    """The wait until all that was written over a connection has arrived.

    `judged` is called once with whether it has. `go_on` is called when there is nothing more to wait for before the
    connection is used for something else: after `judged` where the connection lives on, and at once where the
    operating system doesn't tell. Then the next request shows that the last answer arrived, and so does an orderly
    end of the connection.
    """

    def __init__(self, channel: DeviceChannel, judged: Callable[[bool], None], go_on: Callable[[], None]) -> None:
        self._channel = channel
        self._judged = judged
        self._go_on = go_on
        self._call: IDelayedCall | None = None
        self._pause = FIRST_PAUSE
        self._end: int | None = None
        self._blind = False

    def begin(self) -> None:
        """Begin to wait."""
        self._blind = self._channel.read_progress() is None
        if self._blind:
            self._go_on()
        else:
            # TLS, too, has written what it was given when this turn of the reactor is over, and before the next
            # one nothing is read.
            self._call = self._channel.site.reactor.callLater(0, self._mark)

    def _mark(self) -> None:
        reading = self._channel.read_progress()
        if reading is not None:
            self._end = reading.written
        self._look_again()

    def _look_again(self) -> None:
        self._call = None
        if not self.look():
            self._call = self._channel.site.reactor.callLater(self._pause, self._look_again)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def look(self) -> bool:
        """Ask the kernel, and end the wait if all has arrived; say whether it has ended."""
        reading = self._channel.read_progress()
        if reading is None or reading.broken or not self._covers(reading):
            return False
        self._stop()
        self._judged(True)
        self._go_on()
        return True

    def heard(self) -> None:
        """Take note that the other end has sent something: with that comes what it has acknowledged."""
        if self._blind:
            self._stop()
            self._judged(True)
        else:
            # What was sent before the end of the answer was written is no answer to it.
            self.look()

    def lost(self, last: Reading | None, reason: Failure) -> None:
        """Take note that the connection has ended. `last` is what the kernel told while the socket was still open."""
        self._stop()
        orderly = reason.check(ConnectionDone) is not None
        if self._blind:
            self._judged(orderly)
        else:
            # TLS calls it disorderly when a client closes the connection without telling TLS, as many do.
            self._judged(last is not None and self._covers(last) and (orderly or last.closed))

    def _covers(self, reading: Reading) -> bool:
        return self._end is not None and reading.acknowledged >= self._end

    def _stop(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._channel.arrival = None
