"""Tests of following the folder: by a clock that the test sets, and by the kernel's notifications."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from itertools import pairwise
from pathlib import Path
from typing import Any, cast
from unittest import skipUnless

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredQueue
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from ota_server.firmware import folder as folder_module
from ota_server.firmware import watch as watch_module
from ota_server.firmware.catalog import STABLE, Catalog, FileIdentity
from ota_server.firmware.digests import DigestStore
from ota_server.firmware.folder import OPAQUE_SETTLE_TIME, SETTLE_TIME, Folder, Reading
from ota_server.firmware.image import read_image
from ota_server.firmware.packing import AT_ONCE, Packer
from ota_server.firmware.watch import (
    HINT_DELAY,
    MAX_FIRST_WAIT,
    MAX_INTERVAL,
    MIN_INTERVAL,
    READING_SHARE,
    FolderWatcher,
    IWatcherReactor,
)
from tests.images import damaged, esp32_image, esp8266_image

if sys.platform == "linux":
    from twisted.internet import inotify

    from ota_server.firmware.watch import Hints, IHintsReactor


@implementer(IWatcherReactor)
class _Reactor(Clock):
    """A reactor whose time the test sets, and which calls what threads ask it to at its next turn."""

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:  # noqa: A002
        self.callLater(0, callable, *args, **kwargs)


class _Pool(ThreadPool):
    """A pool without threads: the test says when the work is done, and how long it takes by the clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(0, 1)
        self.jobs: list[Callable[[], None]] = []
        self.takes = 0.0
        self._clock = clock

    def callInThreadWithCallback(
        self,
        onResult: Callable[[bool, Any], object] | None,
        func: Callable[..., Any],
        *args: object,
        **kw: object,
    ) -> None:
        assert onResult is not None
        report = onResult

        def job() -> None:
            try:
                result = func(*args, **kw)
            except Exception:  # noqa: BLE001 - as the real pool does
                report(False, Failure())
            else:
                report(True, result)

        self.jobs.append(job)

    def work(self) -> None:
        """Do all work, also that which comes of it."""
        for _ in range(100):
            if not self.jobs:
                return
            self._clock.advance(self.takes)
            self.jobs.pop(0)()
            self._clock.advance(0)
        raise AssertionError("the work never ends")


class _Folder(Folder):
    """A real folder that remembers when it was read, fails when the test says so, and calls what it says after it."""

    def __init__(self, root: Path, digests: DigestStore, packer: Packer | None = None) -> None:
        super().__init__(root, digests, packer=packer)
        self.times: list[float] = []
        self.trouble: Exception | None = None
        self.after: Callable[[], object] | None = None

    def read(self, now: float, monotonic: float, writing: AbstractSet[str] = frozenset()) -> Reading:
        self.times.append(monotonic)
        if self.trouble is not None:
            raise self.trouble
        reading = super().read(now, monotonic, writing)
        if self.after is not None:
            self.after()
            self.after = None
        return reading


class WatcherCase(SynchronousTestCase):
    """A test with a watcher of a real folder, on a clock that the test sets."""

    def setUp(self) -> None:
        """Make the folder and its watcher, which isn't started yet."""
        self.root = Path(self.mktemp())
        self.root.mkdir()
        self.state = Path(self.mktemp())
        self.folder = _Folder(self.root, DigestStore(self.state))
        self.clock = _Reactor()
        self.pool = _Pool(self.clock)
        self.published: list[Catalog] = []
        began = time.time()
        self.watcher = FolderWatcher(
            self.folder, self.clock, self.pool, lambda: began + self.clock.seconds(), self.published.append
        )

    def put(self, name: str, content: bytes = b"image") -> Path:
        """Write a file and return its path."""
        path = self.root / name
        path.write_bytes(content)
        return path

    def start(self) -> None:
        """Start the watcher, and let it read the folder once."""
        self.watcher.startService()
        self.pool.work()

    def advance(self, seconds: float) -> None:
        """Let time go by, in one step, and do the work that comes of it."""
        self.clock.advance(seconds)
        self.pool.work()

    def offered(self) -> set[str]:
        """Return the names of the files that are served in the stable channel."""
        assert self.watcher.catalog is not None
        return set(self.watcher.catalog.channels[STABLE].files)

    def intervals(self) -> list[float]:
        """Return the times between the beginnings of readings."""
        times = self.folder.times
        return [round(after - before, 6) for before, after in pairwise(times)]


class LookingNowTests(WatcherCase):
    """Reading at once, for those who changed something themselves."""

    def test_between_readings(self) -> None:
        """The folder is read at once, and whoever asked is told after the catalog is published."""
        self.start()
        path = self.put("lamp-1.0.bin")
        with path.open("rb") as file:
            self.watcher.vouch(FileIdentity.of(os.fstat(file.fileno())), read_image(file))
        looked = self.watcher.look_now()
        self.assertNoResult(looked)
        self.clock.advance(0)
        self.pool.work()
        self.successResultOf(looked)
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})

    def test_while_reading(self) -> None:
        """A reading that has begun before may have missed the change, so that another follows it at once."""
        self.start()
        self.clock.advance(MAX_INTERVAL)
        looked = self.watcher.look_now()
        self.assertEqual(len(self.pool.jobs), 1)
        self.pool.jobs.pop(0)()
        self.clock.advance(0)
        self.assertNoResult(looked)
        self.pool.work()
        self.clock.advance(0)
        self.pool.work()
        self.successResultOf(looked)
        self.assertEqual(self.intervals()[-1], 0.0)

    def test_trouble(self) -> None:
        """Whoever asked is told why the folder can't be read, and the next one isn't."""
        self.start()
        self.folder.trouble = PermissionError("no")
        looked = self.watcher.look_now()
        self.clock.advance(0)
        self.pool.work()
        self.assertIs(self.failureResultOf(looked).value, self.folder.trouble)
        self.folder.trouble = None
        looked = self.watcher.look_now()
        self.clock.advance(0)
        self.pool.work()
        self.successResultOf(looked)
        self.folder.trouble = ZeroDivisionError()
        looked = self.watcher.look_now()
        self.clock.advance(0)
        self.pool.work()
        self.failureResultOf(looked, OSError)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_end(self) -> None:
        """Nobody waits for a server that ends, or has ended."""
        self.start()
        self.clock.advance(MAX_INTERVAL)
        looked = self.watcher.look_now()
        self.watcher.stopService()
        self.pool.work()
        self.failureResultOf(looked, ConnectionAbortedError)
        self.failureResultOf(self.watcher.look_now(), ConnectionAbortedError)

    def test_given_up(self) -> None:
        """Whoever doesn't wait any longer isn't told."""
        self.start()
        for work in (False, True):
            looked = self.watcher.look_now()
            if work:
                self.clock.advance(0)
            looked.cancel()
            self.failureResultOf(looked, CancelledError)
            self.clock.advance(0)
            self.pool.work()


class ReadyTests(WatcherCase):
    """When there is a first catalog."""

    def test_empty_folder(self) -> None:
        """An empty folder is ready with its first reading."""
        ready = self.watcher.when_ready()
        self.watcher.startService()
        self.assertNoResult(ready)
        self.assertIsNone(self.watcher.catalog)
        self.pool.work()
        self.assertIsNone(self.successResultOf(ready))
        assert self.watcher.catalog is not None
        self.assertEqual(self.published, [self.watcher.catalog])
        self.assertEqual(len(self.watcher.catalog), 0)

    def test_settled_folder(self) -> None:
        """A folder whose files have settled is ready with its first reading, and they are served."""
        self.put("lamp-1.0.bin")
        self.clock.advance(1000)
        self.start()
        self.successResultOf(self.watcher.when_ready())
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})

    def test_waits_for_files_to_settle(self) -> None:
        """A folder with a file that is still fresh is ready once that has settled, not with half a catalog before."""
        self.put("door-1.0.bin", esp32_image())
        self.put("lamp-1.0.bin")
        ready = self.watcher.when_ready()
        self.start()
        while self.clock.seconds() < OPAQUE_SETTLE_TIME:
            self.assertNoResult(ready)
            self.assertEqual((self.watcher.catalog, self.published), (None, []))
            self.advance(SETTLE_TIME)
        self.assertLess(OPAQUE_SETTLE_TIME, MAX_FIRST_WAIT)
        self.successResultOf(ready)
        self.assertEqual(self.offered(), {"door-1.0.bin", "lamp-1.0.bin"})
        self.assertEqual(len(self.published), 1)

    def test_waits_no_longer_than_that(self) -> None:
        """A folder with a file that never settles is ready after MAX_FIRST_WAIT, with the other files."""
        self.put("lamp-1.0.bin")
        growing = self.put("lamp-1.1.bin")
        ready = self.watcher.when_ready()
        self.start()
        while self.clock.seconds() < MAX_FIRST_WAIT:
            self.assertNoResult(ready)
            with growing.open("ab") as file:
                file.write(b"more")
            os.utime(growing, (self.clock.seconds() + 2**32,) * 2)
            self.advance(SETTLE_TIME)
        self.assertLess(self.clock.seconds(), MAX_FIRST_WAIT + SETTLE_TIME)
        self.successResultOf(ready)
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})

    def test_asked_before_and_after(self) -> None:
        """Whoever asked before the first catalog is told with it, and whoever asks later at once."""
        early = [self.watcher.when_ready() for _ in range(3)]
        self.start()
        for ready in (*early, self.watcher.when_ready()):
            self.assertIsNone(self.successResultOf(ready))

    def test_cancelled(self) -> None:
        """Whoever no longer wants to know isn't told, and the others are."""
        one, other = self.watcher.when_ready(), self.watcher.when_ready()
        one.cancel()
        self.failureResultOf(one, CancelledError)
        self.start()
        self.successResultOf(other)

    def test_told_once(self) -> None:
        """Whoever was told is not told again with the next catalog."""
        ready = self.watcher.when_ready()
        self.start()
        self.successResultOf(ready)
        self.put("lamp-1.0.bin")
        self.advance(1000)
        self.assertEqual(len(self.published), 2)

    def test_folder_comes_later(self) -> None:
        """A folder that isn't there at the start is ready once it is."""
        self.root.rmdir()
        ready = self.watcher.when_ready()
        self.start()
        self.assertNoResult(ready)
        self.root.mkdir()
        self.advance(MIN_INTERVAL)
        self.successResultOf(ready)

    def test_ready_though_publishing_failed(self) -> None:
        """Where taking the first catalog failed, that is logged, and it is ready with a later reading at the latest."""
        troubles = [RuntimeError("not now")]

        def published(catalog: Catalog) -> None:
            if troubles:
                raise troubles.pop()

        watcher = FolderWatcher(self.folder, self.clock, self.pool, lambda: 0.0, published)
        ready = watcher.when_ready()
        watcher.startService()
        self.pool.work()
        self.advance(MAX_INTERVAL)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.successResultOf(ready)


class IntervalTests(WatcherCase):
    """How often the folder is read."""

    def test_shortest(self) -> None:
        """A folder that is read in no time is read every MIN_INTERVAL."""
        self.start()
        for _ in range(3):
            self.advance(MIN_INTERVAL)
        self.assertEqual(self.intervals(), [MIN_INTERVAL] * 3)

    def test_share(self) -> None:
        """A folder that takes long to read is read less often, so that reading takes its share of the time only."""
        self.pool.takes = MAX_INTERVAL * READING_SHARE / 4
        self.start()
        reading = 2 * self.pool.takes  # once to read it, once to keep what was found
        self.advance(reading / READING_SHARE - 0.001)
        self.assertEqual(len(self.folder.times), 1)
        self.advance(0.001)
        self.assertEqual(len(self.folder.times), 2)
        self.assertLess(reading / READING_SHARE, MAX_INTERVAL)

    def test_longest(self) -> None:
        """However long it takes to read a folder, it is read again MAX_INTERVAL later at the latest."""
        self.pool.takes = 100.0
        self.start()
        before = self.clock.seconds()
        self.advance(MAX_INTERVAL - 0.001)
        self.assertEqual(len(self.folder.times), 1)
        self.advance(0.001)
        self.assertEqual(self.folder.times[1:], [before + MAX_INTERVAL])

    def test_noticed_within_ten_seconds(self) -> None:
        """A new file is served within 10 s, by the timer alone, also where a reading takes as long as its share."""
        self.pool.takes = MAX_INTERVAL * READING_SHARE / 2
        self.start()
        self.put("lamp-1.0.bin")
        began = self.clock.seconds()
        while not self.offered():
            self.advance(0.1)
        self.assertLess(self.clock.seconds() - began, 10)

    def test_unsettled(self) -> None:
        """While a file settles the folder is read again after SETTLE_TIME and the time a reading takes, not later."""
        self.pool.takes = MAX_INTERVAL * READING_SHARE / 2
        self.clock.advance(1000)
        self.start()
        path = self.put("lamp-1.0.bin", esp32_image())
        os.utime(path, (2**33, 2**33))
        self.advance(MAX_INTERVAL + 0.001)
        count = len(self.folder.times)
        self.assertEqual(self.offered(), set())
        self.advance(SETTLE_TIME + 2 * self.pool.takes + 0.001)
        self.assertEqual(len(self.folder.times), count + 1)
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})

    def test_one_reading_at_a_time(self) -> None:
        """A reading that is under way is waited for, how long that may take."""
        self.watcher.startService()
        for _ in range(5):
            self.clock.advance(MAX_INTERVAL)
            self.watcher.hint()
        self.assertEqual(len(self.pool.jobs), 1)

    def test_published_when_changed(self) -> None:
        """A catalog is published when something has changed, and only then."""
        self.clock.advance(1000)
        self.start()
        for _ in range(3):
            self.advance(MIN_INTERVAL)
        self.assertEqual(len(self.published), 1)
        path = self.put("lamp-1.0.bin")
        self.advance(MIN_INTERVAL)
        path.unlink()
        self.advance(MIN_INTERVAL)
        self.assertEqual([len(catalog) for catalog in self.published], [0, 1, 0])
        self.assertIs(self.watcher.catalog, self.published[-1])

    def test_published_before_it_is_kept(self) -> None:
        """A catalog is published before what was found out is kept, so that a slow disk delays no device."""
        self.put("lamp-1.0.bin")
        self.clock.advance(1000)
        self.watcher.startService()
        self.pool.jobs.pop()()
        self.clock.advance(0)
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})
        self.assertEqual(len(self.pool.jobs), 1)
        self.assertEqual(DigestStore(self.state).load(), {})
        self.pool.work()
        self.assertEqual(len(DigestStore(self.state).load()), 1)


class HintTests(WatcherCase):
    """Readings that come of hints."""

    def test_hint(self) -> None:
        """A hint leads to a reading after HINT_DELAY, before the timer's."""
        self.start()
        self.watcher.hint()
        self.advance(HINT_DELAY * 0.9)
        self.assertEqual(len(self.folder.times), 1)
        self.advance(HINT_DELAY * 0.1 + 0.001)
        self.assertEqual(len(self.folder.times), 2)

    def test_hint_for_a_slow_folder(self) -> None:
        """A folder that takes long to read is read after a hint no sooner than it took, nor later than by the timer."""
        self.pool.takes = 0.5
        self.start()
        self.watcher.hint()
        self.advance(HINT_DELAY)
        self.assertEqual(len(self.folder.times), 1)
        self.advance(1.0)
        self.assertEqual(len(self.folder.times), 2)

    def test_hint_during_a_very_slow_reading(self) -> None:
        """A hint during a reading that takes long never makes the next one later than the timer alone would."""
        self.pool.takes = 50.0
        self.watcher.startService()
        self.watcher.hint()
        self.pool.work()
        self.advance(MAX_INTERVAL)
        self.assertEqual(len(self.folder.times), 2)

    def test_many_hints(self) -> None:
        """Many hints in a row make one reading, and one that is due isn't put off by further ones."""
        self.start()
        for _ in range(10):
            self.watcher.hint()
            self.advance(HINT_DELAY / 9)
        self.assertEqual(len(self.folder.times), 2)

    def test_timer_goes_on(self) -> None:
        """After the reading that a hint led to the timer goes on as before."""
        self.start()
        self.watcher.hint()
        self.advance(HINT_DELAY)
        self.advance(MIN_INTERVAL)
        self.assertEqual(self.intervals(), [HINT_DELAY, MIN_INTERVAL])

    def test_hint_just_before_the_timer(self) -> None:
        """A hint when the timer's reading is due sooner doesn't put that off."""
        self.start()
        self.advance(MIN_INTERVAL - HINT_DELAY / 2)
        self.watcher.hint()
        self.advance(HINT_DELAY / 2)
        self.assertEqual(len(self.folder.times), 2)
        self.advance(HINT_DELAY)
        self.assertEqual(len(self.folder.times), 2)

    def test_hint_during_a_reading(self) -> None:
        """A hint during a reading, which may have come too late for that, leads to another one soon after it."""
        self.watcher.startService()
        self.watcher.hint()
        self.watcher.hint()
        self.pool.work()
        self.assertEqual(len(self.folder.times), 1)
        self.advance(HINT_DELAY)
        self.assertEqual(len(self.folder.times), 2)
        self.advance(HINT_DELAY * 2)
        self.assertEqual(len(self.folder.times), 2)

    def test_not_running(self) -> None:
        """A hint before the start and after the end does nothing."""
        self.watcher.hint()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.start()
        self.watcher.stopService()
        self.watcher.hint()
        self.assertEqual((self.clock.getDelayedCalls(), self.pool.jobs), ([], []))


class TroubleTests(WatcherCase):
    """What becomes of failures: what was read before is served on."""

    def _lines(self, level: object, events: Sequence[dict[str, Any]]) -> list[str]:
        return [formatEvent(event) for event in events if event["log_level"] is level]

    def test_folder_is_gone(self) -> None:
        """While the folder is gone the last catalog is served on, which is logged once; and so is its coming back."""
        self.put("lamp-1.0.bin")
        self.clock.advance(1000)
        self.start()
        catalog = self.watcher.catalog
        away = self.root.rename(self.root.with_name("away"))
        with capturedLogs() as events:
            for _ in range(3):
                self.advance(MIN_INTERVAL)
        self.assertIs(self.watcher.catalog, catalog)
        errors = self._lines(LogLevel.error, events)
        self.assertEqual(len(errors), 1)
        self.assertIn(str(self.root), errors[0])
        self.assertIn("No such file or directory", errors[0])
        away.rename(self.root)
        with capturedLogs() as events:
            for _ in range(3):
                self.advance(MIN_INTERVAL)
        self.assertEqual(self._lines(LogLevel.error, events), [])
        self.assertEqual(self._lines(LogLevel.warn, events), [f"over: {errors[0]}"])
        self.assertEqual(len(self.folder.times), 7)
        self.assertIs(self.watcher.catalog, catalog)

    def test_folder_is_gone_whose_changes_are_all_told(self) -> None:
        """A folder that is gone is looked for often, also where the kernel told of every change in it before."""
        self.start()
        self.watcher._reliable = True
        self.root.rmdir()
        self.advance(MIN_INTERVAL)
        self.root.mkdir()
        self.put("lamp-1.0.bin")
        self.advance(MAX_INTERVAL)
        self.assertEqual(len(self.folder.times), 3)

    def test_another_trouble(self) -> None:
        """Another trouble with the folder is logged again."""
        self.start()
        with capturedLogs() as events:
            for trouble in (OSError("one"), OSError("one"), OSError("other"), OSError("one")):
                self.folder.trouble = trouble
                self.advance(MIN_INTERVAL)
        self.assertEqual([line[-3:] for line in self._lines(LogLevel.error, events)], ["one", "her", "one"])

    def test_state_is_unusable(self) -> None:
        """Where nothing can be kept devices are served all the same, which is logged once, and so is its end."""
        self.state.mkdir()
        self.put("lamp-1.0.bin")
        self.clock.advance(1000)
        with capturedLogs() as events:
            self.start()
            for _ in range(3):
                self.advance(MIN_INTERVAL)
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})
        errors = self._lines(LogLevel.error, events)
        self.assertEqual(len(errors), 1)
        self.assertIn("a restart will read all files anew", errors[0])
        self.state.rmdir()
        DigestStore(self.state).load()
        with capturedLogs() as events:
            self.advance(MIN_INTERVAL)
        self.assertEqual(self._lines(LogLevel.warn, events), [f"over: {errors[0]}"])
        self.assertEqual(len(DigestStore(self.state).load()), 1)

    def test_unexpected_failure(self) -> None:
        """A failure that nobody thought of is logged, the last catalog is served on, and the folder is read again."""
        self.put("lamp-1.0.bin")
        self.clock.advance(1000)
        self.start()
        self.folder.trouble = ZeroDivisionError("nobody thought of it")
        self.advance(MIN_INTERVAL)
        self.advance(MIN_INTERVAL)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})
        self.folder.trouble = None
        self.put("lamp-1.1.bin")
        self.advance(MIN_INTERVAL)
        self.assertEqual(self.offered(), {"lamp-1.0.bin", "lamp-1.1.bin"})

    def test_notices(self) -> None:
        """A file that isn't served is logged once, with the reason, and escaped so that it makes one line of ASCII."""
        self.put("firmware.bin")
        self.put("two\nlines\x1b[31mé.bin")
        with capturedLogs() as events:
            self.start()
            self.advance(MIN_INTERVAL)
        lines = self._lines(LogLevel.error, events)
        self.assertEqual(len(lines), 2)
        self.assertTrue(lines[0].startswith("'firmware.bin' has no version"))
        self.assertTrue(lines[1].startswith(r"'two\nlines\x1b[31m\xe9.bin' has no version"))
        for line in lines:
            self.assertTrue(line.isascii() and line.isprintable(), line)

    def test_damaged_image(self) -> None:
        """A damaged image is logged once, at the level that is always shown, and served once it was replaced."""
        self.put("lamp-1.0.bin", damaged(esp32_image(), 2000))
        with capturedLogs() as events:
            self.start()
            for _ in range(5):
                self.advance(MIN_INTERVAL)
        (line,) = self._lines(LogLevel.error, events)
        self.assertTrue(line.startswith("'lamp-1.0.bin' is not offered: the SHA-256 appended"), line)
        self.assertEqual((self.offered(), len(self.watcher.notices)), (set(), 1))
        self.put("lamp-1.0.bin", esp32_image())
        with capturedLogs() as events:
            for _ in range(5):
                self.advance(MIN_INTERVAL)
        self.assertEqual(self._lines(LogLevel.error, events), [])
        self.assertEqual((self.offered(), self.watcher.notices), ({"lamp-1.0.bin"}, ()))

    def test_findings(self) -> None:
        """What is likely to be a mistake is logged as an error, what is merely odd as a warning, each once."""
        self.put("lamp-1.1.bin", esp32_image(version="1.0.0") + b"more")
        self.clock.advance(1000)
        with capturedLogs() as events:
            self.start()
            for _ in range(3):
                self.advance(MIN_INTERVAL)
        (error,), (warning,) = (self._lines(level, events) for level in (LogLevel.error, LogLevel.warn))
        self.assertTrue(error.startswith("'lamp-1.1.bin' says 1.1.0 in its name and 1.0.0 inside"), error)
        self.assertTrue(warning.startswith("'lamp-1.1.bin' has 4 bytes behind the image"), warning)
        self.assertEqual(self.offered(), {"lamp-1.1.bin"})
        self.assertEqual([notice.word for notice in self.watcher.notices], ["trailing-bytes", "version-differs"])
        self.assertEqual({event["word"] for event in events if "word" in event}, {"trailing-bytes", "version-differs"})

    def test_versions_inside_are_escaped(self) -> None:
        """A finding that tells what stands inside an image is one line of printable characters, whatever that is."""
        self.put("lamp-1.1.bin", esp32_image(version="1.0.0-\n\x1b[31m\x85\u2028\x00x"))
        self.clock.advance(1000)
        with capturedLogs() as events:
            self.start()
        (line,) = self._lines(LogLevel.error, events)
        self.assertTrue(line.isprintable(), ascii(line))

    def test_notices_of_each_reading(self) -> None:
        """The watcher's notices are all there are, in order, as of the last reading."""
        paths = [self.put(name) for name in ("b.bin", "a.bin")]
        self.start()
        self.assertEqual([notice.file for notice in self.watcher.notices], ["a.bin", "b.bin"])
        paths[1].unlink()
        self.advance(MIN_INTERVAL)
        self.assertEqual([notice.file for notice in self.watcher.notices], ["b.bin"])
        paths[0].unlink()
        self.advance(MIN_INTERVAL)
        self.assertEqual(self.watcher.notices, ())

    def test_reasons_are_escaped(self) -> None:
        """The reason in the log, which tells parts of the name, is one line as well."""
        self.put("lamp-1.0.a\nb\x1b[31m.bin")
        self.put("lamp-c\nd.0.bin")
        with capturedLogs() as events:
            self.start()
        for line in self._lines(LogLevel.warn, events):
            self.assertTrue(line.isprintable(), line)


class PackingTests(WatcherCase):
    """Compressing what devices unpack, after the plain files are served."""

    def setUp(self) -> None:
        """Make a folder that compresses, and files that have settled long ago."""
        super().setUp()
        self.packs = Path(self.mktemp())
        self.folder = _Folder(self.root, DigestStore(self.state), Packer(self.packs))
        began = time.time() + 1000
        self.watcher = FolderWatcher(
            self.folder, self.clock, self.pool, lambda: began + self.clock.seconds(), self.published.append
        )

    def turn(self) -> None:
        """Do the one job that the thread has, and what comes of that in the reactor."""
        (job,) = self.pool.jobs
        self.pool.jobs.clear()
        job()
        self.clock.advance(0)

    def test_served_meanwhile(self) -> None:
        """The plain file is served before it is compressed, in the thread, and the compressed one right after it."""
        self.put("lamp-1.0.bin", _sketch())
        self.watcher.startService()
        self.turn()
        self.assertEqual((self.offered(), len(self.published)), ({"lamp-1.0.bin"}, 1))
        self.turn()
        self.assertEqual(len(DigestStore(self.state).load()), 1)
        # Now the thread has compressing to do, and the reactor nothing: no check waits for it.
        self.assertEqual((len(self.pool.jobs), self.clock.getDelayedCalls()), (1, []))
        self.assertFalse(self.packs.exists())
        self.turn()
        self.assertEqual(self.offered(), {"lamp-1.0.bin", "lamp-1.0.bin.gz"})
        self.assertEqual(len(self.published), 2)
        self.advance(MIN_INTERVAL)
        self.assertEqual(len(self.published), 2)

    def test_many(self) -> None:
        """More files than AT_ONCE are compressed in several readings, which follow soon."""
        for number in range(AT_ONCE + 1):
            self.put(f"lamp{number}-1.0.bin", _sketch())
        self.watcher._reliable = True
        self.start()
        self.assertEqual(len(self.offered()), 2 * AT_ONCE + 1)
        self.advance(SETTLE_TIME)
        self.assertEqual(len(self.offered()), 2 * AT_ONCE + 2)

    def test_trouble(self) -> None:
        """Where nothing can be written that is logged once, plain files are served, and its end is logged too."""
        self.packs.write_bytes(b"in the way")
        self.put("lamp-1.0.bin", _sketch())
        with capturedLogs() as events:
            self.start()
            for _ in range(3):
                self.advance(MIN_INTERVAL)
        (line,) = [formatEvent(event) for event in events if event["log_level"] >= LogLevel.warn]
        self.assertIn("images are sent as they are, for compressing failed", line)
        self.assertIn(str(self.packs), line)
        self.assertEqual(self.offered(), {"lamp-1.0.bin"})
        self.packs.unlink()
        with capturedLogs() as events:
            for _ in range(3):
                self.advance(MIN_INTERVAL)
        lines = [formatEvent(event) for event in events if event["log_level"] >= LogLevel.warn]
        self.assertEqual(lines, [f"over: {line}"])
        self.assertEqual(self.offered(), {"lamp-1.0.bin", "lamp-1.0.bin.gz"})

    def test_stopped_meanwhile(self) -> None:
        """A watcher that is stopped while it compresses is done soon and without a word, and leaves no part behind."""
        self.put("lamp-1.0.bin", _sketch())
        self.watcher.startService()
        self.turn()
        self.turn()
        with capturedLogs() as events:
            stopped = self.watcher.stopService()
            assert stopped is not None
            self.assertNoResult(stopped)
            self.pool.work()
        self.successResultOf(stopped)
        self.assertEqual([event for event in events if event["log_level"] >= LogLevel.warn], [])
        self.assertEqual((list(self.packs.iterdir()), self.clock.getDelayedCalls()), ([], []))

    def test_stopped_before(self) -> None:
        """A watcher that is stopped before it compresses doesn't begin to."""
        self.put("lamp-1.0.bin", _sketch())
        self.watcher.startService()
        self.turn()
        stopped = self.watcher.stopService()
        assert stopped is not None
        self.pool.work()
        self.successResultOf(stopped)
        self.assertFalse(self.packs.exists())


def _sketch() -> bytes:
    """Return an ESP8266 sketch that becomes smaller by compressing it."""
    return esp8266_image(embedded=bytes(4096))


class StopTests(WatcherCase):
    """Stopping."""

    def test_idle(self) -> None:
        """A watcher that is stopped between two readings reads no more, and leaves no call behind."""
        self.start()
        stopped = self.watcher.stopService()
        if stopped is not None:
            self.successResultOf(stopped)
        self.assertEqual((self.clock.getDelayedCalls(), self.pool.jobs), ([], []))
        self.assertFalse(self.watcher.running)
        self.advance(1000)
        self.assertEqual(len(self.folder.times), 1)

    def test_during_a_reading(self) -> None:
        """A watcher that is stopped during a reading is done once that has ended, soon and without a word."""
        self.put("lamp-1.0.bin")
        self.clock.advance(1000)
        self.watcher.startService()
        with capturedLogs() as events:
            stopped = self.watcher.stopService()
            assert stopped is not None
            self.assertNoResult(stopped)
            self.pool.work()
        self.successResultOf(stopped)
        self.assertEqual((self.clock.getDelayedCalls(), self.pool.jobs, self.published), ([], [], []))
        self.assertEqual([event for event in events if event["log_level"] >= LogLevel.warn], [])

    def test_while_keeping(self) -> None:
        """A watcher that is stopped while it keeps what was found is done once that is kept."""
        self.put("lamp-1.0.bin")
        self.clock.advance(1000)
        self.watcher.startService()
        self.pool.jobs.pop()()
        self.clock.advance(0)
        stopped = self.watcher.stopService()
        assert stopped is not None
        self.assertNoResult(stopped)
        self.pool.work()
        self.successResultOf(stopped)
        self.assertEqual(len(DigestStore(self.state).load()), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])


@skipUnless(sys.platform == "linux", "the kernel's notifications are Linux's")
class KernelTests(TestCase):
    """Following a folder by the kernel's notifications, with the real reactor and real threads."""

    timeout = 10.0

    def setUp(self) -> None:
        """Make a watcher that would read the folder once in a thousand seconds, but for notifications."""
        for name in ("MIN_INTERVAL", "MAX_INTERVAL"):
            self.patch(watch_module, name, 1000.0)
        for name in ("SETTLE_TIME", "OPAQUE_SETTLE_TIME"):
            self.patch(folder_module, name, 0.0)
        self.root = Path(self.mktemp()).absolute()
        self.root.mkdir()
        self.catalogs: DeferredQueue[Catalog] = DeferredQueue()
        self.pool = ThreadPool(0, 1)
        self.pool.start()
        self.addCleanup(self.pool.stop)
        self.folder = _Folder(self.root, DigestStore(None))
        self.watcher = FolderWatcher(
            self.folder,
            cast("IWatcherReactor", reactor),
            self.pool,
            time.time,
            self.catalogs.put,
            lambda hint: Hints(hint, cast("IHintsReactor", reactor)),
        )

    def start(self) -> None:
        """Start the watcher, until the test ends."""
        self.watcher.startService()
        self.addCleanup(self.watcher.stopService)

    async def offered(self, *expected: str) -> None:
        """Wait for a catalog of these files, given as channel/file where they aren't of stable."""
        while True:
            catalog = await self.catalogs.get()
            files = {(channel.name, file) for channel in catalog.channels.values() for file in channel.files}
            if {file if channel == STABLE else f"{channel}/{file}" for channel, file in files} == set(expected):
                return

    def put(self, name: str) -> Path:
        """Write a file and return its path."""
        path = self.root / name
        path.write_bytes(name.encode())
        return path

    async def test_files(self) -> None:
        """A file that is dropped, renamed, moved in or removed leads to a new catalog without the timer."""
        self.start()
        await self.offered()
        path = self.put("lamp-1.0.bin")
        await self.offered("lamp-1.0.bin")
        path.rename(self.root / "lamp-1.1.bin")
        await self.offered("lamp-1.1.bin")
        elsewhere = Path(self.mktemp())
        elsewhere.write_bytes(b"x")
        elsewhere.rename(self.root / "lamp-1.2.bin")
        await self.offered("lamp-1.1.bin", "lamp-1.2.bin")
        (self.root / "lamp-1.1.bin").unlink()
        await self.offered("lamp-1.2.bin")

    async def test_rewritten_file(self) -> None:
        """A file that is written over in its place leads to a new catalog with its new bytes."""
        self.start()
        await self.offered()
        self.put("lamp-1.0.bin")
        await self.offered("lamp-1.0.bin")
        (self.root / "lamp-1.0.bin").write_bytes(b"changed")
        while len(b"changed") != self.folder.catalog.channels[STABLE].files["lamp-1.0.bin"].size:
            await self.offered("lamp-1.0.bin")

    async def test_channels(self) -> None:
        """A new channel is followed, and so is one that was removed and made again."""
        self.start()
        await self.offered()
        for _ in range(2):
            (self.root / "beta").mkdir()
            self.put("beta/lamp-1.0.bin")
            await self.offered("beta/lamp-1.0.bin")
            path = self.put("beta/lamp-1.1.bin")
            await self.offered("beta/lamp-1.0.bin", "beta/lamp-1.1.bin")
            path.unlink()
            await self.offered("beta/lamp-1.0.bin")
            shutil.rmtree(self.root / "beta")
            await self.offered()

    async def test_channel_replaced_at_once(self) -> None:
        """A channel that is removed and made again in one go is followed as before."""
        self.start()
        await self.offered()
        (self.root / "beta").mkdir()
        self.put("beta/lamp-1.0.bin")
        await self.offered("beta/lamp-1.0.bin")
        for number in range(1, 4):
            shutil.rmtree(self.root / "beta")
            (self.root / "beta").mkdir()
            self.put(f"beta/lamp-2.{number}.bin")
            await self.offered(f"beta/lamp-2.{number}.bin")
            self.put("beta/door-1.0.bin")
            await self.offered(f"beta/lamp-2.{number}.bin", "beta/door-1.0.bin")

    async def test_open_file(self) -> None:
        """A file that is still open for writing isn't offered, whatever else is read, and is once it was closed."""
        self.start()
        await self.offered()
        with (self.root / "lamp-1.0.bin").open("wb", buffering=0) as file:
            file.write(b"one part")
            self.put("door-1.0.bin")
            await self.offered("door-1.0.bin")
            file.write(b", and another")
            self.put("door-1.1.bin")
            await self.offered("door-1.0.bin", "door-1.1.bin")
        await self.offered("door-1.0.bin", "door-1.1.bin", "lamp-1.0.bin")

    async def test_cut_without_opening(self) -> None:
        """A file that was cut by its path, without opening and so without closing it, is offered in the end."""
        self.patch(watch_module, "WRITER_PATIENCE", 0.0)
        self.start()
        await self.offered()
        path = self.put("lamp-1.0.bin")
        await self.offered("lamp-1.0.bin")
        os.truncate(path, 3)
        others = [f"door-1.{number}.bin" for number in range(3)]
        for name in others:
            self.put(name)
            while name not in (await self.catalogs.get()).channels[STABLE].files:
                continue
        self.assertEqual(self.folder.catalog.channels[STABLE].files["lamp-1.0.bin"].size, 3)

    async def test_file_comes_before_its_folder_is_watched(self) -> None:
        """A file that comes after its folder was listed, and before that is watched, is noticed without the timer."""
        self.folder.after = lambda: self.put("lamp-1.0.bin")
        self.start()
        await self.offered("lamp-1.0.bin")
        (self.root / "beta").mkdir()
        self.folder.after = lambda: self.put("beta/lamp-1.0.bin")
        await self.offered("lamp-1.0.bin", "beta/lamp-1.0.bin")

    async def test_without_notifications(self) -> None:
        """Where the kernel has no notifications left the folder is read all the same."""

        def exhausted(reactor: object) -> object:
            raise OSError(24, "Too many open files")

        self.start()
        await self.offered()
        self.patch(inotify, "INotify", exhausted)
        (self.root / "beta").mkdir()
        self.put("beta/lamp-1.0.bin")
        await self.offered("beta/lamp-1.0.bin")
        self.put("lamp-1.0.bin")
        await self.offered("beta/lamp-1.0.bin", "lamp-1.0.bin")


@skipUnless(sys.platform == "linux", "the kernel's notifications are Linux's")
class NotificationTests(TestCase):
    """Notifications alone, and the descriptors that they take."""

    timeout = 10.0

    async def test_reading_is_no_change(self) -> None:
        """Reading the folder leads to no notification, else it would be read again and again."""
        root = Path(self.mktemp()).absolute()
        root.mkdir()
        (root / "lamp-1.0.bin").write_bytes(b"image")
        (root / "bad.bin").write_bytes(b"image")
        notified: DeferredQueue[None] = DeferredQueue()
        hints = Hints(lambda: notified.put(None), cast("IHintsReactor", reactor))
        self.addCleanup(hints.close)
        hints.watch(frozenset({(root, 1)}))
        notified.pending.clear()
        self.assertEqual(len(Folder(root, DigestStore(None)).read(time.time() + 1000, 0).catalog), 1)
        (root / "beta").mkdir()
        await notified.get()
        turn: Deferred[None] = Deferred()
        cast("IWatcherReactor", reactor).callLater(0, turn.callback, None)
        await turn
        # The kernel tells in the order of events, so that any of the reading would have come with that of the folder.
        self.assertEqual(notified.pending, [])

    def test_new_folder(self) -> None:
        """It is told when a folder is newly watched, since files may have come in since it was listed."""
        root = Path(self.mktemp()).absolute()
        root.mkdir()
        hints = Hints(lambda: None, cast("IHintsReactor", reactor))
        self.addCleanup(hints.close)
        come = [hints.watch(frozenset({(root, 1)}))[1] for _ in range(3)]
        self.assertEqual(come, [True, False, False])

    def test_folder_that_cannot_be_watched(self) -> None:
        """Where a folder can't be watched nothing is relied on, each time, and no descriptor is kept."""
        before = self._open()
        hints = Hints(lambda: None, cast("IHintsReactor", reactor))
        self.addCleanup(hints.close)
        for _ in range(3):
            self.assertEqual(hints.watch(frozenset({(Path("/nowhere"), 1)})), (False, False))
        self.assertLessEqual(self._open(), before)

    def _open(self) -> int:
        return len(os.listdir("/proc/self/fd"))

    def test_closed(self) -> None:
        """Closing gives back every descriptor, also of folders that are gone or never were there."""
        roots = [Path(self.mktemp()).absolute() for _ in range(3)]
        for root in roots[:2]:
            root.mkdir()
        before = self._open()
        hints = Hints(lambda: None, cast("IHintsReactor", reactor))
        hints.watch(frozenset((root, number) for number, root in enumerate(roots[:2])))
        self.assertEqual(self._open(), before + 2)
        roots[0].rmdir()
        hints.watch(frozenset({(roots[1], 1), (roots[2], 2)}))
        hints.close()
        self.assertEqual(self._open(), before)
        hints.close()
        self.assertEqual(self._open(), before)

    def test_same_folders(self) -> None:
        """Watching the same folders again takes no further descriptor."""
        root = Path(self.mktemp()).absolute()
        root.mkdir()
        hints = Hints(lambda: None, cast("IHintsReactor", reactor))
        self.addCleanup(hints.close)
        hints.watch(frozenset({(root, 1)}))
        before = self._open()
        for _ in range(3):
            hints.watch(frozenset({(root, 1)}))
        self.assertEqual(self._open(), before)
