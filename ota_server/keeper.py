"""Keeps the memory of the fleet beside the reactor: reads it from the ledger at the start, and writes what changes.

The ledger is used in a thread of its own. Devices never wait for it once it has been read: where it stands still, or
fails, they are served from memory, and what changes waits, as far as there is room.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from ota_server.confirming import Confirmations
from ota_server.firmware.catalog import Catalog, Image
from ota_server.firmware.versions import Numbers, numbers_of
from ota_server.fleet.checkin import CheckIn
from ota_server.fleet.decide import Decision
from ota_server.fleet.device import Place
from ota_server.fleet.fleet import Fleet
from ota_server.fleet.journal import Batch, Memory, Order
from ota_server.fleet.ledger import Ledger, LedgerDamagedError, LedgerError
from ota_server.fleet.outbox import MAX_WRITTEN
from ota_server.fleet.policy import Policy
from ota_server.follower import Follower

INTERVAL = 0.5
"""How often what has changed is written, in seconds, so that a check-in is on disk within one."""

RETRY = 2.0
"""How long to wait before the ledger is tried again, in seconds."""

REMINDER = 60.0
"""How often a trouble with the ledger is logged, in seconds."""

PATIENCE = 5.0
"""How long the end waits for an answer of the ledger, in seconds."""

WRITING_OUT = 30.0
"""How long the end goes on writing what waits, as long as the ledger answers, in seconds."""

_LEVELS = {"halted": LogLevel.error, "braked": LogLevel.warn, "refused": LogLevel.warn}

MANY = 10_000
"""From so many devices on the garbage collector leaves them out, since each of its rounds would take long."""


class IKeeperReactor(IReactorTime, IReactorFromThreads):
    """What keeping needs of a reactor."""


class FleetKeeper(Service):
    """Keeps the memory of the fleet. `now` returns the time in seconds since 1970."""

    name = "fleet"
    log = Logger()

    def __init__(
        self,
        ledger: Ledger,
        policy: Policy,
        reactor: IKeeperReactor,
        pool: ThreadPool,
        now: Callable[[], float],
    ) -> None:
        self.fleet: Fleet | None = None
        self.now = now
        self.trouble = ""
        """What is wrong with the ledger, on one line; empty where nothing is."""
        self._ledger = ledger
        self._policy = policy
        self._reactor = reactor
        self._pool = pool
        self.followers: set[Follower] = set()
        """The downloads that are under way."""
        self.listeners: list[Callable[[Batch], None]] = []
        """What is told of each batch that brought events, once it is on disk."""
        self._confirmations = Confirmations()
        self._changes = 0
        self._catalog: Catalog | None = None
        self._waiters: list[Deferred[None]] = []
        self._opening: Deferred[None] | None = None
        self._pausing: Deferred[None] | None = None
        self._writing: Deferred[None] | None = None
        self._busy = False
        self._began_writing = 0.0
        self._not_before = 0.0
        self._reminded = -REMINDER
        self._told = False
        self._told_lost = 0
        self._told_lost_at = -REMINDER
        self._told_away = 0
        self._told_away_at = 0.0
        self._asked_for_orders = 0.0
        self._followed: set[int] = set()
        # Of a ledger that turned out to be damaged: whether it has to be replaced, whether that was tried, and what
        # goes on to write all that is known into the new one.
        self._damaged = self._set_aside = False
        self._anew: Iterator[None] | None = None
        self._beats = LoopingCall(self._beat)
        self._beats.clock = reactor

    @property
    def loaded(self) -> Fleet:
        """The fleet, once it has been read."""
        assert self.fleet is not None
        return self.fleet

    @property
    def changes(self) -> int:
        """Counts how often it changed what is barred."""
        return 0 if self.fleet is None else self.fleet.course.changes

    def answer(self, check_in: CheckIn, catalog: Catalog, address: str) -> Decision:
        """Remember a check-in, and decide what to answer."""
        assert self.fleet is not None
        return self.fleet.answer(check_in, catalog, address, self.now())

    def barred(self, place: Place) -> frozenset[Numbers]:
        """Return the versions of a project in a channel that nobody gets."""
        return self.loaded.barred(place)

    def watch(self, check_in: CheckIn, catalog: Catalog, address: str, break_off: Callable[[], None]) -> Follower:
        """Return what follows a download of the device that checked in; `break_off` ends it."""
        return Follower(check_in.device or f"at {address}", break_off, self, check_in, catalog)

    def take_policy(self, policy: Policy) -> None:
        """Go by another policy from now on."""
        self._policy = policy
        if self.fleet is not None:
            self.fleet.take_policy(policy, self.now())

    def take_catalog(self, catalog: Catalog) -> None:
        """See what there is to roll out in a new catalog."""
        self._catalog = catalog
        if self.fleet is not None:
            self.fleet.take_catalog(catalog, self.now())

    def when_ready(self) -> Deferred[None]:
        """Return a Deferred that fires once the ledger has been read."""
        ready: Deferred[None] = Deferred(self._waiters.remove)
        if self.fleet is not None:
            ready.callback(None)
        else:
            self._waiters.append(ready)
        return ready

    def written(self) -> Deferred[None]:
        """Return a Deferred that fires once all that has changed so far is in the ledger, and has taken effect.

        It fails with LedgerError when the server ends before that. Whoever doesn't wait any longer may cancel it; it is
        written all the same, as soon as the ledger can be.
        """
        self._reactor.callLater(0, self._write)
        return self._confirmations.wait_for(self.loaded.outbox.last)

    def _confirm(self, fleet: Fleet, batch: Batch) -> None:
        """Let what was planned take effect, and tell those who wait, now that a batch is in the ledger."""
        fleet.outbox.confirm()
        is_full = MAX_WRITTEN in (len(batch.devices), len(batch.attempts))
        # What was too much for one batch may be theirs, and is in the next.
        self._confirmations.confirm(batch.id, fleet.outbox.last if is_full else 0)

    def break_off(self, images: Iterable[Image]) -> None:
        """End the downloads of images that are served no more: a device that has half of one keeps what it runs."""
        gone = {(image.path, image.identity) for image in images}
        for follower in list(self.followers):
            image = follower.image
            if image is not None and (image.path, image.identity) in gone:
                self._break_off(follower, image)

    def _break_off(self, follower: Follower, image: Image) -> None:
        self.log.info("{device}: {image} is broken off", device=follower.device, image=image.file_name)
        follower.break_off()

    def startService(self) -> None:
        """Read the ledger, as soon as it can be read."""
        super().startService()
        self._opening = Deferred.fromCoroutine(self._open())

    async def _open(self) -> None:
        while self.fleet is None and self.running:
            try:
                fleet, notices = await self._in_thread(self._load, self.now())
                for notice in notices:
                    self.log.critical("{notice}", notice=notice)
                if self.running:
                    self._begin(fleet)
                    self._tell("")
            except LedgerError as error:
                self._tell(f"no device is served until the ledger can be read: {error}")
            except Exception as error:  # noqa: BLE001 - it is tried again, whatever it was
                self._tell(f"no device is served, since what the ledger holds can't be used: {error!r}", Failure())
            if self.fleet is None and self.running:
                self._pausing = deferLater(self._reactor, RETRY)
                try:
                    await self._pausing
                except CancelledError:
                    return

    def _begin(self, fleet: Fleet) -> None:
        """Serve devices from now on. Where this raises nobody is served yet."""
        now = self.now()
        if fleet.policy is not self._policy:
            # It changed while the ledger was read.
            fleet.take_policy(self._policy, now)
        if self._catalog is not None:
            fleet.take_catalog(self._catalog, now)
        self.fleet = fleet
        self.log.info("{devices} devices are known from {ledger}", devices=len(fleet.devices), ledger=self._ledger.name)
        self._beats.start(INTERVAL, now=False)
        waiters, self._waiters = self._waiters, []
        for ready in waiters:
            ready.callback(None)

    def _load(self, now: float) -> tuple[Fleet, tuple[str, ...]]:
        """Open and read the ledger, in the thread, and bring the fleet to life, which takes long as well."""
        # It is open where it could be read before, and nobody could be served with what it held.
        self._ledger.close()
        notices = self._ledger.open(now)
        try:
            try:
                memory = self._ledger.load(now)
            except LedgerDamagedError:
                notices += self._ledger.begin_anew(now)
                memory = self._ledger.load(now)
            return self._enliven(memory, now), notices
        except BaseException:
            self._ledger.close()
            raise

    def _enliven(self, memory: Memory, now: float) -> Fleet:
        if len(memory.devices) < MANY:
            return Fleet(memory, self._policy, now, self._hurry)
        gc.freeze()
        fleet = Fleet(memory, self._policy, now, self._hurry)
        gc.freeze()
        return fleet

    def _break_off_barred(self) -> None:
        """End the downloads of what nobody gets any more: a device that has half of it keeps what it runs."""
        if self.changes == self._changes:
            return
        self._changes = self.changes
        for follower in list(self.followers):
            image = follower.image
            if image is not None and numbers_of(image.version) in self.barred((image.channel, image.project)):
                self._break_off(follower, image)

    def _hurry(self) -> None:
        """Write soon, since something waits to take effect."""
        self._reactor.callLater(0, self._break_off_barred)
        # While the fleet comes to life, that is in the thread, and the first beat is soon enough.
        if self.fleet is not None:
            self._reactor.callLater(0, self._write)

    def _beat(self) -> None:
        """Do what is due, and write what has changed."""
        for step in (lambda: self.loaded.tick(self.now()), self._write, self._watch_ledger):
            try:
                step()
            except Exception:  # noqa: BLE001 - devices are served on, and the next beat comes, whatever it is
                self.log.failure("a look at what is due failed")

    def _write(self) -> None:
        if self._busy or not self.running or self._reactor.seconds() < self._not_before:
            return
        fleet = self.loaded
        if self._anew is not None:
            self._go_on_anew(self._anew)
        batch = fleet.outbox.take(self.now())
        # Only by a catalog can be told whether there is what an order is about; nobody is served without one.
        wants_orders = self._catalog is not None and self._reactor.seconds() - self._asked_for_orders >= 1
        if batch is None and not wants_orders:
            return
        self._began_writing = self._reactor.seconds()
        self._busy = True
        self._writing = Deferred.fromCoroutine(self._write_once(fleet, batch, wants_orders))

    async def _write_once(self, fleet: Fleet, batch: Batch | None, wants_orders: bool) -> None:
        try:
            orders = await self._exchange_or_replace(fleet, batch, wants_orders)
        except LedgerError as error:
            self._not_before = self._reactor.seconds() + RETRY
            self._tell(f"what changes is only kept in memory: {error}")
            return
        except Exception as error:  # noqa: BLE001 - it is tried again, whatever it was
            self._not_before = self._reactor.seconds() + RETRY
            self._tell(f"what changes is only kept in memory: {error!r}", Failure())
            return
        finally:
            self._busy = False
        self._tell("")
        try:
            if batch is not None:
                self._confirm(fleet, batch)
                self._log_events(batch)
                if batch.events:
                    for listener in list(self.listeners):
                        listener(batch)
                if self._confirmations or MAX_WRITTEN in (len(batch.devices), len(batch.attempts)):
                    # There may be more, which was too much for one batch, or somebody waits for what has come since.
                    self._reactor.callLater(0, self._write)
            if wants_orders:
                self._asked_for_orders = self._reactor.seconds()
                self._follow(fleet, orders)
            if self._anew is not None:
                self._hurry()
        except Exception:  # noqa: BLE001 - the next writing comes, whatever it was
            self.log.failure("what was written could not take effect, or an order could not be followed")

    async def _exchange_or_replace(self, fleet: Fleet, batch: Batch | None, wants_orders: bool) -> list[Order]:
        """Write a batch and fetch orders; where the ledger turns out to be damaged, begin a new one with the batch."""
        orders: list[Order]
        if not self._damaged:
            try:
                orders = await self._in_thread(self._exchange, batch, wants_orders)
            except LedgerDamagedError as error:
                self._damaged = True
                self.log.critical("{error}", error=str(error))
            else:
                return orders
        notices = await self._in_thread(self._replace, self.now())
        self._damaged = self._set_aside = False
        # The others hold only where nothing is known but what was in the file.
        for notice in notices[:1]:
            self.log.critical("{notice}", notice=notice)
        self.log.critical(
            "What is remembered is written anew: what was decided of releases first, then {devices} devices. Events of "
            "the past are only in the old file, and orders that were not followed yet have to be given again.",
            devices=len(fleet.devices),
        )
        self._followed.clear()
        self._anew = fleet.write_anew()
        orders = await self._in_thread(self._exchange, batch, wants_orders)
        return orders

    def _replace(self, now: float) -> tuple[str, ...]:
        """Begin a new ledger in the place of a damaged one, in the thread."""
        if self._set_aside:
            # It was tried before, and came at least so far, or the damage will show once more.
            return self._ledger.open(now)
        self._set_aside = True
        return self._ledger.begin_anew(now)

    def _go_on_anew(self, anew: Iterator[None]) -> None:
        """Note some more of all that is to be written into a new ledger."""
        try:
            next(anew)
        except StopIteration:
            self._anew = None

    def _log_events(self, batch: Batch) -> None:
        """Tell the log what was decided, now that it is on disk."""
        for event in batch.events:
            about = [event.project and f"{event.project} {'.'.join(map(str, event.version or ()))}", event.device]
            self.log.emit(
                _LEVELS.get(event.kind, LogLevel.info),
                "{about}: {kind}: {text} ({actor})",
                about=" ".join(filter(None, about)) or "the server",
                kind=event.kind,
                text=event.text,
                actor=event.actor,
            )

    def _exchange(self, batch: Batch | None, wants_orders: bool) -> list[Order]:
        """Write a batch and fetch orders, in the thread."""
        if batch is not None:
            self._ledger.write(batch)
        return self._ledger.orders() if wants_orders else []

    def _follow(self, fleet: Fleet, orders: list[Order]) -> None:
        open_ids = {order.id for order in orders}
        # That they are done may not be written yet.
        self._followed &= open_ids
        for order in orders:
            if order.id not in self._followed:
                self._followed.add(order.id)
                fleet.follow(order, self.now())

    def _watch_ledger(self) -> None:
        """Tell of a ledger that doesn't answer, and of what was lost."""
        now = self._reactor.seconds()
        if self._busy and now - self._began_writing >= REMINDER:
            self._tell(f"the ledger hasn't answered for {now - self._began_writing:.0f} s")
        away = self.loaded.turned_away
        if away > self._told_away and now - self._told_away_at >= REMINDER:
            self.log.warn(
                "{count} devices that were seen for a moment only were forgotten, or not remembered: too many new ones "
                "at once, or from one address (behind a proxy, use its PROXY protocol: --port haproxy:tcp:8000)",
                count=away - self._told_away,
            )
            self._told_away, self._told_away_at = away, now
        lost = self.loaded.outbox.lost
        if lost > self._told_lost and now - self._told_lost_at >= REMINDER:
            self.log.error("{lost} check-ins and events would be lost in a crash: no room to keep them", lost=lost)
            self._told_lost, self._told_lost_at = lost, now

    def _tell(self, trouble: str, failure: Failure | None = None) -> None:
        """Log a trouble, at most once a minute also where it comes and goes, and its end.

        `failure` is logged with it where nobody foresaw it.
        """
        before, self.trouble = self.trouble, trouble
        now = self._reactor.seconds()
        if not trouble:
            if self._told:
                self.log.warn("over: {trouble}", trouble=before)
            self._told = False
        elif now - self._reminded >= REMINDER:
            self._reminded, self._told = now, True
            waiting = 0 if self.fleet is None else self.fleet.outbox.unwritten
            more = {} if failure is None else {"log_failure": failure}
            self.log.error("{trouble} ({waiting} changes wait)", trouble=trouble, waiting=waiting, **more)

    def stopService(self) -> Deferred[None]:
        """Write what waits, and close the ledger; the returned Deferred fires after that."""
        super().stopService()
        if self._beats.running:
            self._beats.stop()
        if self._pausing is not None:
            self._pausing.cancel()
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        try:
            for waiting in (self._opening, self._writing):
                if waiting is not None:
                    await self._in_time(waiting)
            if self.fleet is not None:
                await self._write_out(self.fleet)
        except LedgerError as error:
            self.log.error("the last changes are lost: {error}", error=str(error))
        except TimeoutError:
            # The thread may hang for ever, so that it isn't asked to close the ledger either; the kernel does that.
            self.log.error(
                "the last changes are lost: the ledger {ledger} hasn't answered for {patience:.0f} s",
                ledger=self._ledger.name,
                patience=PATIENCE,
            )
            return
        except Exception:  # noqa: BLE001 - the end comes, whatever it was
            self.log.failure("the last changes are lost")
        finally:
            self._confirmations.fail(LedgerError("the server ends, and this may not be written"))
        await self._in_thread(self._ledger.close)

    async def _write_out(self, fleet: Fleet) -> None:
        """Write what was given out, and what has come since."""
        limit = self._reactor.seconds() + WRITING_OUT
        while self._reactor.seconds() < limit:
            if self._anew is not None:
                self._go_on_anew(self._anew)
            batch = fleet.outbox.take(self.now())
            if batch is not None:
                await self._in_time(self._in_thread(self._ledger.write, batch))
                self._confirm(fleet, batch)
            elif self._anew is None:
                break

    async def _in_time(self, waiting: Deferred[Any]) -> None:
        """Wait for something, but no longer than PATIENCE; it isn't cancelled. Raises TimeoutError."""
        over: Deferred[Any] = Deferred()

        def pass_on(result: Any) -> None:
            if not over.called:
                over.callback(result)

        timer = self._reactor.callLater(PATIENCE, over.errback, TimeoutError())
        waiting.addBoth(pass_on)
        try:
            await over
        finally:
            if timer.active():
                timer.cancel()

    def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        return deferToThreadPool(self._reactor, self._pool, function, *arguments)
