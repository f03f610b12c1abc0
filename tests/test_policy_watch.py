"""Tests of following the policy file: by a clock that the test sets, with real files."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase, TestCase

from ota_server import policy_watch
from ota_server.fleet.policy import DEFAULT_POLICY, Policy, PolicyError
from ota_server.policy_watch import INTERVAL, MAX_SIZE, IPolicyReactor, PolicyWatcher, load_policy
from tests.firmware.samples import make_catalog, make_image
from tests.web.memory import MemoryReactor, OwnThreadPool

STAYS = " (the policy read before stays in force)"


class LoadTests(SynchronousTestCase):
    """`load_policy` reads the file at the start."""

    def setUp(self) -> None:
        """Name a file that isn't there."""
        self.path = Path(self.mktemp())

    def refused(self, required: bool = False) -> PolicyError:
        """Return why the file is refused."""
        error: PolicyError = self.assertRaises(PolicyError, load_policy, self.path, required)
        self.assertEqual(error.file, str(self.path))
        self.assertTrue(str(error).startswith(f"{self.path}"))
        return error

    def test_file(self) -> None:
        """A file is read, whether it is required or not."""
        self.path.write_text("hold = true\n")
        for required in (False, True):
            self.assertTrue(load_policy(self.path, required).rules_for("lamp", None).hold)

    def test_no_file(self) -> None:
        """A missing file stands for the defaults, unless it is required."""
        for path in (self.path, self.path / "below"):
            self.path = path
            self.assertIs(load_policy(path, False), DEFAULT_POLICY)
            self.assertIn("there is no such file", self.refused(required=True).reason)
        path.parent.write_text("a file, no folder")
        self.assertIs(load_policy(path, False), DEFAULT_POLICY)

    def test_wrong_file(self) -> None:
        """An error of the file names it, with line and key."""
        self.path.write_text("\nhold = 1\n")
        error = self.refused()
        self.assertEqual((error.line, error.key), (2, "hold"))
        self.assertTrue(str(error).startswith(f"{self.path}, line 2, hold: 1 is neither"))

    def test_byte_order_mark(self) -> None:
        """A file of Windows is read."""
        self.path.write_bytes(b"\xef\xbb\xbfhold = true\r\nrollback = true\r\n")
        rules = load_policy(self.path, False).rules_for("lamp", None)
        self.assertEqual((rules.hold, rules.origins["rollback"].line), (True, 2))

    def test_no_text(self) -> None:
        """What isn't UTF-8 is refused with its line."""
        self.path.write_bytes("hold = true\n# caf\xe9\n".encode("latin-1"))
        error = self.refused()
        self.assertEqual((error.line, error.reason), (2, "is no UTF-8; save the file in that encoding"))

    def test_large_file(self) -> None:
        """A file is read up to MAX_SIZE, and refused beyond it."""
        self.path.write_bytes(b"#".ljust(MAX_SIZE, b"x"))
        self.assertEqual(load_policy(self.path, False), DEFAULT_POLICY)
        self.path.write_bytes(b"#".ljust(MAX_SIZE + 1, b"x"))
        self.assertIn("more than 1,000,000 bytes", self.refused().reason)

    def test_no_plain_file(self) -> None:
        """Folders and devices are refused, and nobody waits for a pipe."""
        self.path.mkdir()
        self.assertIn("no plain file", self.refused().reason)
        self.path = Path(self.mktemp())
        os.mkfifo(self.path)
        self.assertIn("no plain file", self.refused().reason)
        self.path = Path("/dev/zero")
        self.assertIn("no plain file", self.refused().reason)

    def test_unreadable(self) -> None:
        """A file that can't be read is refused with the system's reason."""
        self.path.symlink_to(self.path.absolute())
        error = self.refused()
        self.assertEqual(error.line, None)
        self.assertIn(f"can't be read: {os.strerror(errno.ELOOP)}", error.reason)


class WatcherCase(SynchronousTestCase):
    """A test with a watcher of a real file, on a clock that the test sets."""

    def setUp(self) -> None:
        """Make a watcher of a file that isn't there, which isn't started yet."""
        self.path = Path(self.mktemp())
        self.clock = MemoryReactor()
        self.taken: list[Policy] = []
        self.watcher = self.make_watcher()

    def make_watcher(self, required: bool = False, current: Policy = DEFAULT_POLICY) -> PolicyWatcher:
        """Return a watcher of the file."""
        clock = cast("IPolicyReactor", self.clock)
        return PolicyWatcher(self.path, required, clock, OwnThreadPool(), self.taken.append, current)

    def put(self, text: str) -> None:
        """Write the file, as in place."""
        self.path.write_text(text)

    def advance(self, looks: int) -> list[str]:
        """Let the watcher look so many times; return what it logs at the default level and the next."""
        with capturedLogs() as events:
            for _ in range(looks):
                self.clock.advance(INTERVAL)
        return [
            f"{event['log_level'].name}: {formatEvent(event)}"
            for event in events
            if event["log_level"] in (LogLevel.warn, LogLevel.error, LogLevel.critical)
        ]

    def start(self, text: str | None = None) -> None:
        """Start the watcher with a file, and with what that says being in force."""
        if text is not None:
            self.put(text)
            self.watcher = self.make_watcher(current=load_policy(self.path, True))
        self.watcher.startService()

    def held(self) -> list[bool]:
        """Return of each policy that was taken whether it holds everybody."""
        return [policy.rules_for("lamp", None).hold for policy in self.taken]


class FollowingTests(WatcherCase):
    """What is taken, and when."""

    def test_no_file(self) -> None:
        """Where there never was a file nothing is told, unless it is required."""
        self.start()
        self.assertEqual(self.advance(10), [])
        self.watcher.stopService()
        self.watcher = self.make_watcher(required=True)
        with capturedLogs() as events:
            self.start()
        gone = f"{self.path}: has gone; write an empty file for the defaults"
        self.assertEqual([formatEvent(event) for event in events], [f"{gone}{STAYS}"])
        self.assertEqual((self.advance(10), self.taken), ([], []))

    def test_file_of_the_start(self) -> None:
        """What was read at the start isn't taken again, for as long as it stays the same."""
        self.start("hold = true")
        self.assertEqual((self.advance(10), self.taken), ([], []))
        os.utime(self.path, (1, 1))
        self.assertEqual((self.advance(10), self.taken), ([], []))

    def test_first_file(self) -> None:
        """Without anything read at the start the file's policy is taken."""
        self.put("hold = true")
        self.start()
        self.advance(1)
        self.assertEqual(self.held(), [True])
        self.assertIs(self.watcher.current, self.taken[0])

    def test_strangers(self) -> None:
        """A project that the policy names, and of which there is no file, is told of once: it may be misspelled."""
        catalog = make_catalog([make_image("lamp-1.0.0.bin"), make_image("fan-1.0.0.bin", channel="beta")])
        text = '[projects.lmap]\nhold = true\n[projects.lamp]\nhold = true\n[groups.x]\nmembers = []\nproject = "fan"'
        self.start(text.replace("[]", '["1234567"]'))
        with capturedLogs() as events:
            self.watcher.take_catalog(catalog)
            self.watcher.take_catalog(make_catalog([make_image("lamp-1.0.0.bin")]))
            self.watcher.take_catalog(catalog)
        told = [formatEvent(event).partition(": ")[2] for event in events]
        self.assertEqual(told, [f"there is no file of project {name!r}, which it names" for name in ("lmap", "fan")])
        self.put("[projects.other]\nhold = true")
        self.assertEqual(self.advance(3), [f"warn: {self.path}: there is no file of project 'other', which it names"])

    def test_file_appears(self) -> None:
        """A file that comes later is taken up."""
        self.start()
        self.advance(3)
        self.put("hold = true")
        self.advance(2)
        self.assertEqual(self.held(), [True])

    def test_changes(self) -> None:
        """Each change is taken, once two looks saw the same, and only once."""
        self.start("hold = false")
        self.advance(2)
        self.put("hold = true")
        self.advance(1)
        self.assertEqual(self.held(), [])
        self.advance(1)
        self.assertEqual(self.held(), [True])
        self.assertEqual(self.advance(10), [])
        self.put("hold = false # again")
        self.advance(2)
        self.assertEqual(self.held(), [True, False])

    def test_replaced(self) -> None:
        """A file that another one is renamed to is taken, though time and size are the same."""
        self.start("hold = true # x")
        self.advance(2)
        other = Path(self.mktemp())
        other.write_text("hold = false #x")
        os.utime(other, ns=(1, self.path.stat().st_mtime_ns))
        other.rename(self.path)
        self.advance(2)
        self.assertEqual(self.held(), [False])

    def test_half_written(self) -> None:
        """While a file changes from look to look nothing is said of it, be it wrong or right."""
        self.start("hold = true\n")
        self.advance(2)
        for text in ("", "ho", "hold = false\n", "hold = false\nsta", 'hold = false\nstages = ["1"]\n'):
            self.put(text)
            self.assertEqual((self.advance(1), self.taken), ([], []))
        self.advance(1)
        self.assertEqual([len(policy.rules_for("lamp", None).stages) for policy in self.taken], [1])

    def test_written_while_it_is_read(self) -> None:
        """A file that changes between the look and the reading is looked at again."""
        self.start("hold = true\n")
        self.put("hold = false\n")
        self.advance(1)
        read = policy_watch._read

        def write_and_read(path: Path) -> tuple[bytes, tuple[int, ...]]:
            self.patch(policy_watch, "_read", read)
            self.put("rollback = tr")
            return read(path)

        self.patch(policy_watch, "_read", write_and_read)
        self.assertEqual((self.advance(1), self.taken), ([], []))
        self.put("rollback = true\n")
        self.advance(2)
        self.assertEqual([policy.rules_for("lamp", None).rollback for policy in self.taken], [True])

    def test_same_text(self) -> None:
        """A file that was written anew with the same text is nothing new."""
        self.start("hold = true\n")
        self.advance(2)
        self.path.unlink()
        self.put("hold = true\n")
        self.assertEqual((self.advance(3), self.taken), ([], []))


class TroubleTests(WatcherCase):
    """What is wrong with the file, and what is told of it."""

    def test_wrong(self) -> None:
        """An error is told once, the policy before stays, and the end of the error is told, too."""
        self.start("hold = true\n")
        self.advance(2)
        self.put("hold = 1\n")
        trouble = f"{self.path}, line 1, hold: 1 is neither true nor false; write one of these, without quotes"
        self.assertEqual(self.advance(10), [f"error: {trouble}{STAYS}"])
        self.assertEqual((self.taken, self.watcher.trouble), ([], trouble))
        self.assertTrue(self.watcher.current.rules_for("lamp", None).hold)
        self.put("hold = false\n")
        self.assertEqual(self.advance(10), [f"warn: over: {trouble}"])
        self.assertEqual((self.held(), self.watcher.trouble), ([False], ""))

    def test_wrong_in_another_way(self) -> None:
        """A new error is told, the same one in a file that was written anew is not."""
        self.start("hold = true\n")
        self.advance(2)
        for text, lines in (("hold = 1\n", 1), ("hold = 1\n# not yet\n", 0), ("hold = 2\n", 1)):
            self.put(text)
            self.assertEqual(len(self.advance(3)), lines)
        self.put("hold = true\n")
        self.assertEqual(len(self.advance(3)), 1)
        self.assertEqual(self.taken, [])

    def test_gone(self) -> None:
        """A file that goes is told once, and its policy stays until there is another."""
        self.start("hold = true\n")
        self.advance(2)
        self.path.unlink()
        gone = f"{self.path}: has gone; write an empty file for the defaults"
        self.assertEqual(self.advance(10), [f"error: {gone}{STAYS}"])
        self.assertTrue(self.watcher.current.rules_for("lamp", None).hold)
        self.put("")
        self.assertEqual(self.advance(10), [f"warn: over: {gone}"])
        self.assertEqual(self.held(), [False])

    def test_back(self) -> None:
        """A file that went and comes back as it was isn't taken again, and nothing is wrong any more."""
        self.start("hold = true\n")
        self.advance(2)
        away = Path(self.mktemp())
        self.path.rename(away)
        self.assertEqual(len(self.advance(3)), 1)
        away.rename(self.path)
        self.assertEqual(len(self.advance(3)), 1)
        self.assertEqual((self.taken, self.watcher.trouble), ([], ""))

    def test_away_for_a_moment(self) -> None:
        """A file that is away at one look only is not told to have gone."""
        self.start("hold = true\n")
        self.advance(2)
        self.path.unlink()
        self.assertEqual(self.advance(1), [])
        self.put("hold = false\n")
        self.assertEqual(self.advance(5), [])
        self.assertEqual(self.held(), [False])

    def test_away_when_it_is_read(self) -> None:
        """Nor is one that goes between the look and the reading."""
        self.start("hold = true\n")
        self.advance(2)
        self.put("hold = false\n")
        self.advance(1)
        read = policy_watch._read

        def go(path: Path) -> tuple[bytes, tuple[int, ...]]:
            self.patch(policy_watch, "_read", read)
            raise FileNotFoundError

        self.patch(policy_watch, "_read", go)
        self.assertEqual((self.advance(5), self.held()), ([], [False]))

    def test_wrong_file_goes(self) -> None:
        """Where a wrong file goes before any was good, the defaults are in force as ever."""
        self.start()
        self.put("hold = 1\n")
        self.assertEqual(len(self.advance(3)), 1)
        self.path.unlink()
        (line,) = self.advance(5)
        self.assertTrue(line.startswith("warn: over: "), line)
        self.assertEqual((self.taken, self.watcher.current), ([], DEFAULT_POLICY))

    def test_unreadable_for_a_time(self) -> None:
        """A file that can't be read is tried at each look, though it stays the same."""
        self.start("hold = true\n")
        self.advance(2)
        self.put("hold = false\n")

        def fail(path: Path) -> tuple[bytes, tuple[int, ...]]:
            raise OSError(5, "Input/output error")

        read = policy_watch._read
        self.patch(policy_watch, "_read", fail)
        (line,) = self.advance(5)
        self.assertIn("can't be read: Input/output error", line)
        self.patch(policy_watch, "_read", read)
        self.assertEqual(len(self.advance(1)), 1)
        self.assertEqual(self.held(), [False])

    def test_folder(self) -> None:
        """A folder in the place of the file is told once."""
        self.start("hold = true\n")
        self.advance(2)
        self.path.unlink()
        self.path.mkdir()
        (line,) = self.advance(5)
        self.assertIn("no plain file", line)

    def test_failure_of_who_takes_it(self) -> None:
        """Where taking a policy fails, that is logged, and the file is followed on."""

        def fail(policy: Policy) -> None:
            self.taken.append(policy)
            raise RuntimeError("taken ill")

        clock = cast("IPolicyReactor", self.clock)
        self.watcher = PolicyWatcher(self.path, False, clock, OwnThreadPool(), fail)
        self.start()
        for text in ("hold = true\n", "hold = false\n"):
            self.put(text)
            self.advance(3)
            self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(self.held(), [True, False])


class _Pool(ThreadPool):
    """A pool whose work is done when the test says so."""

    def __init__(self) -> None:
        super().__init__(0, 1)
        self.jobs: list[Callable[[], None]] = []

    def callInThreadWithCallback(
        self, onResult: Callable[[bool, Any], object] | None, func: Callable[..., Any], *args: Any, **kw: Any
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


class StoppingTests(WatcherCase):
    """The end of the service."""

    def test_stop(self) -> None:
        """A watcher that has ended looks no more."""
        self.start("hold = true\n")
        self.watcher.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.put("hold = false\n")
        self.advance(5)
        self.assertEqual(self.taken, [])

    def test_stop_while_it_looks(self) -> None:
        """A watcher that is ended while it looks waits for that, and takes nothing any more."""
        self.put("hold = true\n")
        for text in ("hold = true\n", "hold = 1\n"):
            self.put(text)
            pool = _Pool()
            clock = cast("IPolicyReactor", self.clock)
            self.watcher = PolicyWatcher(self.path, False, clock, pool, self.taken.append)
            self.watcher.startService()
            pool.jobs.pop()()
            self.clock.advance(INTERVAL)
            stopped = self.watcher.stopService()
            assert stopped is not None
            self.assertNoResult(stopped)
            with capturedLogs() as events:
                pool.jobs.pop()()
            self.successResultOf(stopped)
            self.assertEqual((self.taken, events, self.clock.getDelayedCalls()), ([], [], []))

    def test_start_again(self) -> None:
        """A watcher can be started again."""
        self.start("hold = true\n")
        self.watcher.stopService()
        self.put("hold = false\n")
        self.watcher.startService()
        self.advance(2)
        self.assertEqual(self.held(), [False])


class LiveTests(TestCase):
    """With the real reactor and a real thread."""

    timeout = 30

    async def test_change(self) -> None:
        """A file that is changed is taken within a few seconds, in the reactor's thread."""
        path = Path(self.mktemp())
        path.write_text("hold = true\n")
        pool = ThreadPool(0, 1)
        pool.start()
        self.addCleanup(pool.stop)
        queue: DeferredQueue[Policy] = DeferredQueue()
        watcher = PolicyWatcher(
            path, True, cast("IPolicyReactor", reactor), pool, queue.put, load_policy(path, required=True)
        )
        watcher.startService()
        self.addCleanup(watcher.stopService)
        path.write_text("hold = false\n")
        waiting: Deferred[Policy] = queue.get()
        policy = await waiting
        self.assertFalse(policy.rules_for("lamp", None).hold)
        self.assertEqual(queue.pending, [])


class WrittenTests(WatcherCase):
    """Policies that the server itself has written."""

    def test_in_force_at_once(self) -> None:
        """What was written is in force when that is told, and isn't taken again."""
        self.watcher.startService()
        self.put("hold = true\n")
        policy = self.successResultOf(self.watcher.look_now(self.watcher.judge("hold = true\n")))
        self.assertIs(policy, self.watcher.current)
        self.assertTrue(policy.rules_for("lamp", None).hold)
        self.advance(5)
        self.assertEqual(self.taken, [policy])

    def test_changed_since(self) -> None:
        """What somebody else writes meanwhile counts once it stays the same, as always."""
        self.watcher.startService()
        self.put("rollback = true\n")
        policy = self.successResultOf(self.watcher.look_now(self.watcher.judge("hold = true\n")))
        self.assertIs(policy, DEFAULT_POLICY)
        self.advance(3)
        self.assertTrue(self.watcher.current.rules_for("lamp", None).rollback)

    def test_not_taken(self) -> None:
        """A file that can't be read, or used, changes nothing."""
        self.watcher.startService()
        written = self.watcher.judge("hold = true\n")
        self.failureResultOf(self.watcher.look_now(written), FileNotFoundError)
        self.put("hold = 1\n")
        self.failureResultOf(self.watcher.look_now(written), PolicyError)
        self.path.unlink()
        self.path.symlink_to(self.path.absolute())
        self.failureResultOf(self.watcher.look_now(written), PolicyError)
        self.assertEqual((self.watcher.current, self.taken), (DEFAULT_POLICY, []))

    def test_judged(self) -> None:
        """A text is judged as the file would be, and nothing comes of it."""
        self.assertTrue(self.watcher.judge("hold = true\n").rules_for("lamp", None).hold)
        for text in ("hold = 1\n", "#" * (MAX_SIZE + 1)):
            self.assertRaises(PolicyError, self.watcher.judge, text)
        self.assertEqual((self.watcher.path, self.watcher.current), (self.path, DEFAULT_POLICY))
