"""Following the folder: notices its changes and publishes new catalogs.

A reading of the folder on a timer is the truth, on every system and kind of mount. On Linux the kernel's
notifications make it quicker, as hints only: an overflow or a lost watch costs time, never a file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import partial
from pathlib import Path

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReactorFromThreads, IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger, LogLevel
from twisted.python.filepath import FilePath
from twisted.python.threadpool import ThreadPool

from ota_server.firmware.catalog import Catalog, FileIdentity
from ota_server.firmware.facts import ImageFacts
from ota_server.firmware.folder import SETTLE_TIME, Folder, Reading
from ota_server.firmware.mounts import is_reliable
from ota_server.firmware.notices import Notice

MIN_INTERVAL = 1.0
MAX_INTERVAL = 6.0
"""Bounds of the time between two readings, in seconds: at most so long, to be noticed within 10 s."""

RELIABLE_INTERVAL = 30.0
"""The time between two readings where the kernel reports every change, in seconds: these readings only make sure."""

WRITER_PATIENCE = 60.0
"""How long a file that was written to is taken for still open, unless the kernel tells of its end, in seconds."""

READING_SHARE = 1 / 20
"""How much of its time a thread may spend reading the folder, where the bounds allow it."""

HINT_DELAY = 0.05
"""How long after a notification the folder is read, in seconds, so that several changes make one reading."""

if sys.platform == "linux":
    from twisted.internet import inotify

    _WRITTEN = inotify.IN_CLOSE_WRITE | inotify.IN_MOVED_FROM | inotify.IN_MOVED_TO | inotify.IN_DELETE
    _HINT_MASK = _WRITTEN | inotify.IN_CREATE | inotify.IN_ATTRIB | inotify.IN_MODIFY | inotify.IN_MOVE_SELF

MAX_FIRST_WAIT = 3.0
"""How long the first catalog waits for files that keep changing, in seconds; less than a request waits for it."""


class IWatcherReactor(IReactorTime, IReactorFromThreads):
    """What following a folder needs of a reactor."""


class FolderWatcher(Service):
    """Reads a folder again and again in a thread, and holds the newest catalog.

    `now` returns the time of day in seconds. `published` is called with each new catalog, in the reactor.
    `hints` makes the system's notifications, given what they shall call; None does without.
    """

    name = "folder"
    log = Logger()

    def __init__(
        self,
        folder: Folder,
        reactor: IWatcherReactor,
        pool: ThreadPool,
        now: Callable[[], float],
        published: Callable[[Catalog], None] = lambda catalog: None,
        hints: Callable[[Callable[[], None]], Hints] | None = None,
    ) -> None:
        self.catalog: Catalog | None = None
        self.notices: tuple[Notice, ...] = ()
        """What there is to know of the folder's files: those that aren't served, and what is odd about the others."""
        self.changing: tuple[str, ...] = ()
        """Files that aren't offered yet, since they are being written, or may be."""
        self._folder = folder
        self._reactor = reactor
        self._pool = pool
        self._now = now
        self._published = published
        self._waiters: list[Deferred[None]] = []
        self._lookers: list[Deferred[None]] = []
        self._next: IDelayedCall | None = None
        self._busy = False
        self._reading: Deferred[None] | None = None
        self._changed = False
        self._troubles: dict[str, str] = {}
        self._hints = hints(self.hint) if hints is not None else None
        self._started = 0.0
        self._took = 0.0
        self._reliable = False

    @property
    def trouble(self) -> str:
        """What is wrong with reading the folder, on one line; empty where nothing is."""
        return "; ".join(filter(None, self._troubles.values()))

    def when_ready(self) -> Deferred[None]:
        """Return a Deferred that fires once there is a catalog."""
        ready: Deferred[None] = Deferred(self._waiters_remove)
        if self.catalog is not None:
            ready.callback(None)
        else:
            self._waiters.append(ready)
        return ready

    def _waiters_remove(self, ready: Deferred[None]) -> None:
        self._waiters.remove(ready)

    def startService(self) -> None:
        """Read the folder for the first time, and from then on."""
        super().startService()
        self._started = self._reactor.seconds()
        if self._hints is not None:
            # Before it is listed, so that nothing comes in between.
            with suppress(OSError):
                root = self._folder.root
                self._hints.watch(frozenset({(root, os.stat(root).st_ino)}))
        self._read()

    def stopService(self) -> Deferred[None] | None:
        """Stop; the returned Deferred fires when the thread is idle."""
        super().stopService()
        self._folder.close()
        if self._hints is not None:
            self._hints.close()
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if not self._busy:
            self._answer(self._take_lookers(), ConnectionAbortedError("the server ends"))
        return self._reading

    def vouch(self, identity: FileIdentity, facts: ImageFacts) -> None:
        """Take a file for whole that this process wrote itself, and read. May be called from any thread."""
        self._folder.vouch(identity, facts)

    def look_now(self) -> Deferred[None]:
        """Read the folder at once; return a Deferred that fires when a reading is over that began after this.

        It fails with OSError where the folder can't be read now, and where the server is about to end.
        """
        looker: Deferred[None] = Deferred(self._lookers_remove)
        self._lookers.append(looker)
        if not self.running:
            self._answer(self._take_lookers(), ConnectionAbortedError("the server ends"))
        elif not self._busy:
            self._read_in(0.0)
        return looker

    def _lookers_remove(self, looker: Deferred[None]) -> None:
        if looker in self._lookers:
            self._lookers.remove(looker)

    def _take_lookers(self) -> list[Deferred[None]]:
        lookers, self._lookers = self._lookers, []
        return lookers

    def _answer(self, lookers: list[Deferred[None]], problem: OSError | None) -> None:
        """Tell those who waited for a reading that it is over."""
        for looker in lookers:
            if not looker.called:
                if problem is None:
                    looker.callback(None)
                else:
                    looker.errback(problem)

    def hint(self) -> None:
        """Read the folder soon, since something there has changed."""
        if self._busy:
            self._changed = True
        elif self.running:
            self._read_in(self._hint_delay())

    def _hint_delay(self) -> float:
        """Return how long to wait after a notification: a large folder isn't read all the time, whatever comes in."""
        return HINT_DELAY + self._took

    def _read_in(self, delay: float) -> None:
        """Read the folder after a delay in seconds, or earlier where that is due already."""
        if self._next is not None:
            if self._next.getTime() <= self._reactor.seconds() + delay:
                return
            self._next.cancel()
        self._next = self._reactor.callLater(delay, self._read)

    def _read(self) -> None:
        self._next = None
        self._changed = False
        self._busy = True
        began = self._reactor.seconds()
        self._reading = Deferred.fromCoroutine(self._read_once(began, self._take_lookers()))

    async def _read_once(self, began: float, lookers: list[Deferred[None]]) -> None:
        """Read the folder, publish what was found, then keep that; and see to the next time."""
        unsettled = False
        problem = OSError("reading the folder failed")
        try:
            reading = await deferToThreadPool(
                self._reactor, self._pool, self._folder.read, self._now(), began, self._writing()
            )
            unsettled = self._take(reading)
            self._tell("folder", "")
            self._answer(lookers, None)
            await self._keep()
            unsettled |= await self._pack()
        except OSError as error:
            problem = error
            self._reliable = False
            self._tell("folder", f"{self._folder.root} is served as it was read last: {error}")
        except Exception:  # noqa: BLE001 - the folder is read again, whatever it was
            self.log.failure("reading the folder failed; it is tried again")
        self._answer(lookers, problem)
        self._schedule(unsettled, began)

    def _take(self, reading: Reading) -> bool:
        """Publish what was read; return whether something is still changing."""
        for notice in reading.notices:
            # The default level shows what is likely to be a mistake, and no more.
            level = LogLevel.error if notice.serious else LogLevel.warn
            self.log.emit(level, "{file!a} {reason}", file=notice.file, reason=notice.reason, word=notice.word)
        self.notices, self.changing = reading.standing, reading.changing
        if self._hints is not None:
            reliable, come = self._hints.watch(reading.folders)
            self._reliable = reliable and not reading.linked
            # Something may have come into a new channel after it was listed and before it was watched.
            self._changed |= come
        first = self.catalog is None
        if first and reading.unsettled and self._reactor.seconds() - self._started < MAX_FIRST_WAIT:
            return True
        self._publish(reading.catalog)
        return reading.unsettled

    def _publish(self, catalog: Catalog) -> None:
        if catalog is self.catalog:
            return
        self.catalog = catalog
        self.log.info(
            "{folder}: {images} images of {projects} projects",
            folder=str(self._folder.root),
            images=len(catalog),
            projects=sum(len(channel.projects) for channel in catalog.channels.values()),
        )
        try:
            self._published(catalog)
        finally:
            waiters, self._waiters = self._waiters, []
            for ready in waiters:
                ready.callback(None)

    def _writing(self) -> AbstractSet[str]:
        return frozenset() if self._hints is None else self._hints.writing(self._reactor.seconds())

    async def _keep(self) -> None:
        try:
            await deferToThreadPool(self._reactor, self._pool, self._folder.keep)
            self._tell("state", "")
        except OSError as error:
            self._tell("state", f"a restart will read all files anew: {error}")

    async def _pack(self) -> bool:
        """Compress some of what there is to compress, and publish it; return whether there is more to do."""
        if not self._folder.packs or self.catalog is None or not self.running:
            return False
        try:
            catalog, more = await deferToThreadPool(self._reactor, self._pool, self._folder.pack)
        except InterruptedError:
            return False
        except OSError as error:
            self._tell("packing", f"images are sent as they are, for compressing failed: {error}")
            return False
        self._tell("packing", "")
        self._publish(catalog)
        return more

    def _tell(self, what: str, trouble: str) -> None:
        """Log a trouble once, and its end; devices are served meanwhile."""
        before = self._troubles.get(what, "")
        if trouble == before or not self.running:
            return
        self._troubles[what] = trouble
        if trouble:
            self.log.error("{trouble}", trouble=trouble)
        else:
            self.log.warn("over: {trouble}", trouble=before)

    def _schedule(self, unsettled: bool, began: float) -> None:
        self._busy = False
        if not self.running:
            self._answer(self._take_lookers(), ConnectionAbortedError("the server ends"))
            return
        self._took = self._reactor.seconds() - began
        delay = min(MAX_INTERVAL, max(MIN_INTERVAL, self._took / READING_SHARE))
        if self._reliable:
            delay = RELIABLE_INTERVAL
        if unsettled:
            delay = min(delay, SETTLE_TIME + self._took)
        if self._lookers:
            delay = 0.0
        self._read_in(min(delay, self._hint_delay()) if self._changed else delay)


class IHintsReactor(IReactorFDSet, IReactorTime):
    """What notifications need of a reactor."""


class Hints:
    """Linux's notifications (inotify) for the folder and its channels."""

    def __init__(self, hint: Callable[[], None], reactor: IHintsReactor) -> None:
        self._hint = hint
        self._reactor = reactor
        self._notifiers: dict[tuple[Path, int], inotify.INotify] = {}
        self._reliable = False
        self._written: dict[str, float] = {}

    def watch(self, folders: frozenset[tuple[Path, int]]) -> tuple[bool, bool]:
        """Watch these folders, given with their inode numbers, and no others; do nothing where that can't be.

        Says whether every change in them will be reported, and whether any of them is watched only from now on.
        """
        for gone in self._notifiers.keys() - folders:
            self._drop(gone)
        come = folders - self._notifiers.keys()
        for folder in come:
            notifier = None
            try:
                # Each has a notifier of its own, since Twisted's ends when one of its folders is removed.
                notifier = inotify.INotify(self._reactor)
                notifier.startReading()
                notifier.watch(FilePath(str(folder[0])), _HINT_MASK, callbacks=[partial(self._notified, folder)])
            except (OSError, inotify.INotifyError):
                # The system's limit of watches is reached, or the folder has gone: the timer still reads.
                if notifier is not None:
                    notifier.loseConnection()
                self._reliable = False
                return False, False
            self._notifiers[folder] = notifier
        if come:
            self._reliable = all(is_reliable(path) for path, _ in folders)
        return self._reliable, bool(come)

    def _notified(self, folder: tuple[Path, int], ignored: object, path: FilePath[bytes], mask: int) -> None:
        if mask & inotify.IN_MODIFY:
            # Nothing to read for yet: the writer will close the file.
            self._written[os.fsdecode(path.path)] = self._reactor.seconds()
            return
        if mask & _WRITTEN:
            self._written.pop(os.fsdecode(path.path), None)
        if mask & (inotify.IN_DELETE_SELF | inotify.IN_MOVE_SELF):
            # Another folder may come in its place, even with the same inode number.
            self._drop(folder)
        self._hint()

    def writing(self, now: float) -> AbstractSet[str]:
        """Return the paths of files that were written to, and are still open for that; `now` is in seconds."""
        # An end may escape notice (a file cut by its path has none), so that none counts for ever.
        for path in [path for path, since in self._written.items() if now - since >= WRITER_PATIENCE]:
            del self._written[path]
        return frozenset(self._written)

    def _drop(self, folder: tuple[Path, int]) -> None:
        notifier = self._notifiers.pop(folder, None)
        if notifier is not None:
            notifier.loseConnection()
            # It would have told when these are closed.
            self._written.clear()

    def close(self) -> None:
        """Stop watching."""
        self.watch(frozenset())
