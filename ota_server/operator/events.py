"""The stream of events: Server-Sent Events (WHATWG HTML, section 9.2), resumable by the number of the last one seen.

Only what is in the ledger is told. Every client has a position, the number of the last event that it was sent, and
asks for what comes behind it: from a few events kept here, which all clients share, or where it is further behind from
the ledger. So nothing is told twice and nothing left out, and a slow client makes nothing grow.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from itertools import islice
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ota_server.fleet.journal import Batch, Event
from ota_server.fleet.ledger import EventNumber
from ota_server.keeper import FleetKeeper
from ota_server.operator.calls import Answer, Call, Operation, Parameter, Place, Problem
from ota_server.operator.event_list import FILTERS
from ota_server.operator.house import House
from ota_server.operator.scopes import Scope
from ota_server.operator.shapes import EVENT_ID, read_number, show_event, spell_number

KEPT = 1000
"""How many events are kept in memory for clients that are nearly up to date."""

PAGE = 200
"""How many events are read from the ledger, or written to a client, at once."""

HEARTBEAT = 15.0
"""How often clients hear something when nothing happens, in seconds."""

SLOW = 30.0
"""A client that has taken nothing for so many seconds, while something waits for it, is dropped; it may resume."""

LIFE = 900.0
"""A stream ends after so many seconds, and the client resumes it: so a token that was revoked is asked for again."""

MAX_CLIENTS = 200
"""How many clients follow at once."""

RETRY = 2000
"""How long clients are to wait until they resume, in milliseconds."""

MEDIA = "text/event-stream"

log = Logger()


class EventFeed:
    """Gives out events as they come to be on disk. `reactor` tells the time."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.clients: set[_Client] = set()
        self.newest: EventNumber | None = None
        """The number of the newest event that was written by this process."""
        self._kept: deque[tuple[EventNumber, Event, bytes]] = deque()
        # Every event with a larger number is kept. None until the first one is written.
        self._from: EventNumber | None = None
        self._beats = LoopingCall(self._beat)
        self._beats.clock = house.reactor
        if isinstance(house.keeper, FleetKeeper):
            house.keeper.listeners.append(self.take)

    def take(self, batch: Batch) -> None:
        """Take the events of a batch that has been written, and pass them on."""
        for place, event in enumerate(batch.events):
            number = (batch.id, place)
            if self._from is None:
                self._from = (batch.id, -1)
            if len(self._kept) == KEPT:
                self._from = self._kept.popleft()[0]
            self._kept.append((number, event, frame(number, event)))
            self.newest = number
        for client in list(self.clients):
            client.wake()

    def after(self, position: EventNumber) -> list[tuple[EventNumber, Event, bytes]] | None:
        """Return some kept events that follow a position, oldest first; None where there may be others in between."""
        if self._from is None or position < self._from:
            return None
        behind = 0
        for number, _, _ in reversed(self._kept):
            if number <= position:
                break
            behind += 1
        first = len(self._kept) - behind
        return list(islice(self._kept, first, first + PAGE))

    def add(self, client: _Client) -> None:
        """Serve a client from now on."""
        self.clients.add(client)
        if not self._beats.running:
            self._beats.start(HEARTBEAT, now=False)

    def remove(self, client: _Client) -> None:
        """Serve a client no more."""
        self.clients.discard(client)
        if not self.clients and self._beats.running:
            self._beats.stop()

    def _beat(self) -> None:
        for client in list(self.clients):
            client.beat()


def frame(number: EventNumber, event: Event) -> bytes:
    """Return an event as it goes over the wire."""
    # On one line, since JSON writes no line's end as it is.
    told = json.dumps(show_event(number, event), ensure_ascii=False).encode("utf-8", "replace")
    return b"id: %s\ndata: %s\n\n" % (spell_number(number).encode(), told)


@implementer(IPushProducer)
class _Client:
    """One client. `position` is the number of the last event that it has, None to begin with what comes from now on."""

    def __init__(self, feed: EventFeed, about: Mapping[str, str | None], position: EventNumber | None) -> None:
        self._feed = feed
        self._about = about
        self._position = position
        self._told = position
        # Whether the position is one of this ledger.
        self._known = False
        self._request: Any = None
        self._paused = self._busy = False
        self._slow: IDelayedCall | None = None
        self._end = 0.0

    def begin(self, request: Any) -> None:
        """Begin to write to a request."""
        self._request = request
        reactor = self._feed.house.reactor
        self._end = reactor.seconds() + LIFE
        request.notifyFinish().addBoth(lambda _: self._leave())
        request.registerProducer(self, True)
        self._feed.add(self)
        request.write(b"retry: %d\n\n" % RETRY)
        self.wake()

    def wake(self) -> None:
        """Write what there is."""
        if not self._busy and self._ready:
            self._busy = True
            Deferred.fromCoroutine(self._go_on()).addErrback(self._fail)

    @property
    def _ready(self) -> bool:
        return self._request is not None and not self._paused

    async def _go_on(self) -> None:
        try:
            if self._position is None or await self._is_foreign(self._position):
                await self._find_now()
            while self._ready:
                assert self._position is not None
                found = self._feed.after(self._position)
                if found is None:
                    if not await self._catch_up(self._position):
                        return
                elif found:
                    self._write([data for _, event, data in found if self._wants(event)])
                    self._position = found[-1][0]
                    self._told = found[-1][0] if self._wants(found[-1][1]) else self._told
                else:
                    return
        finally:
            self._busy = False

    async def _is_foreign(self, position: EventNumber) -> bool:
        """Say whether this ledger never gave such a number: with another one, or an older copy, they begin anew."""
        if self._known:
            return False
        self._known = True
        newest = self._feed.newest
        if newest is not None and position <= newest:
            return False
        found = await self._feed.house.read(lambda ledger: ledger.events(1))
        return position > (found[0][0] if found else (0, 0))

    async def _find_now(self) -> None:
        """Begin with what comes from now on, and tell the client where that is, so that it can resume there."""
        now = self._feed.newest
        if now is None:
            newest = await self._feed.house.read(lambda ledger: ledger.events(1))
            now = newest[0][0] if newest else (0, 0)
        self._position, self._known = now, True
        self._tell_position()

    async def _catch_up(self, position: EventNumber) -> bool:
        """Write some of what the ledger has; return whether there may be more now."""
        # All up to here is in the ledger by now.
        newest = self._feed.newest
        about: dict[str, Any] = dict(self._about)
        found = await self._feed.house.read(lambda ledger: ledger.events(PAGE, after=position, **about))
        self._write([frame(number, event) for number, event in found])
        if found:
            self._position = self._told = found[-1][0]
        if len(found) == PAGE:
            return True
        if newest is None:
            return False
        self._position = max(self._position or newest, newest)
        return True

    def _wants(self, event: Event) -> bool:
        return all(value is None or getattr(event, name) == value for name, value in self._about.items())

    def _write(self, pieces: list[bytes]) -> None:
        if pieces and self._request is not None:
            self._request.write(b"".join(pieces))

    def _tell_position(self) -> None:
        """Tell the number of the last event, though no event: what was left out for this client isn't asked again."""
        if self._position is not None and self._told != self._position:
            self._told = self._position
            self._write([b"id: %s\n\n" % spell_number(self._position).encode()])

    def beat(self) -> None:
        """Let the client hear something; end a stream that is old enough."""
        if not self._ready or self._busy:
            return
        if self._feed.house.reactor.seconds() >= self._end:
            self._finish()
            return
        self._write([b":\n\n"])
        self._tell_position()

    def _finish(self) -> None:
        request = self._request
        self._leave()
        if request is not None:
            request.unregisterProducer()
            request.finish()

    def _fail(self, failure: Failure) -> None:
        """End the stream, since the ledger can't be read; the client will be back."""
        if not isinstance(failure.value, Problem):
            log.failure("a stream of events failed", failure)
        self._finish()

    def _leave(self) -> None:
        self._request = None
        self._stop_waiting()
        self._feed.remove(self)

    def _stop_waiting(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None

    def pauseProducing(self) -> None:
        """Write nothing for now, and drop the client if that lasts."""
        self._paused = True
        if self._slow is None and self._request is not None:
            self._slow = self._feed.house.reactor.callLater(SLOW, self._drop)

    def resumeProducing(self) -> None:
        """Go on."""
        self._paused = False
        self._stop_waiting()
        self.wake()

    def stopProducing(self) -> None:
        """Stop: the connection has ended."""
        self._leave()

    def _drop(self) -> None:
        self._slow = None
        request = self._request
        self._leave()
        if request is not None:
            request.channel.transport.abortConnection()


def make_operations(house: House) -> tuple[Operation, ...]:
    """Return the operations of this room."""
    feed = EventFeed(house)

    async def stream(call: Call) -> Answer:
        """Begin a stream."""
        assert house.fleet is not None
        if len(feed.clients) >= MAX_CLIENTS:
            raise Problem(503, "too-many-streams", "Too many clients follow the events", "try again later")
        about = {name: call[name] for name in ("kind", "project", "channel", "device")}
        # A client that resumes goes on where it was, whatever its address says.
        client = _Client(feed, about, call["Last-Event-ID"] or call["after"])
        return Answer(stream=client.begin)

    return (
        Operation(
            "stream_events",
            "GET",
            "/events/stream",
            Scope.READ,
            "Follow the events as they come (Server-Sent Events); with `after` or Last-Event-ID from there on.",
            stream,
            {200: {"type": "string", "description": "Server-Sent Events; the data of each is an event as JSON"}},
            (
                *FILTERS,
                Parameter("after", Place.QUERY, "The id of the last event that is known.", read_number, EVENT_ID),
                Parameter("Last-Event-ID", Place.HEADER, "The same; browsers send it.", read_number, EVENT_ID),
            ),
            problems=(409,),
            media=MEDIA,
        ),
    )
