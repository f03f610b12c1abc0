"""Tests of SIGHUP, sent to the process that runs the tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase, TestCase

from ota_server import signals
from ota_server.signals import HangupService, add_reload, reload_all

reactor: Any = global_reactor


class ListTests(SynchronousTestCase):
    """The list of what is read anew."""

    def setUp(self) -> None:
        """Begin with an empty list."""
        self.patch(signals, "_reloads", [])
        self.called: list[str] = []

    def note(self, name: str) -> Callable[[], None]:
        """Return something that notes that it was called."""
        return lambda: self.called.append(name)

    def test_all_in_order(self) -> None:
        """All are called, in the order in which they came."""
        for name in "abc":
            add_reload(self.note(name))
        reload_all()
        reload_all()
        self.assertEqual(self.called, list("abcabc"))

    def test_removed(self) -> None:
        """What was taken off is not called any more; taking it off twice is no trouble."""
        removals = [add_reload(self.note(name)) for name in "abc"]
        removals[1]()
        removals[1]()
        reload_all()
        self.assertEqual(self.called, ["a", "c"])

    def test_added_twice(self) -> None:
        """Something that is there twice stays once when one of the two is taken off."""
        note = self.note("a")
        remove = add_reload(note)
        add_reload(note)
        remove()
        reload_all()
        self.assertEqual(self.called, ["a"])

    def test_changed_meanwhile(self) -> None:
        """What is called may change the list: that shows the next time."""
        removals: list[Callable[[], None]] = []

        def change() -> None:
            removals.pop()()
            add_reload(self.note("new"))

        add_reload(change)
        removals.append(add_reload(self.note("old")))
        reload_all()
        self.assertEqual(self.called, ["old"])

    def test_failure(self) -> None:
        """What fails is logged, and the others are called all the same."""
        add_reload(lambda: 1 / 0)
        add_reload(self.note("b"))
        with capturedLogs() as events:
            reload_all()
        self.assertEqual(self.called, ["b"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(
            [(event["log_level"], formatEvent(event)) for event in events],
            [(LogLevel.info, "reloading, as told by SIGHUP"), (LogLevel.critical, "reloading failed")],
        )


class SignalTests(TestCase):
    """The signal itself."""

    def setUp(self) -> None:
        """Let a signal that nobody takes be a failure, not the end of the tests."""
        self.stray: list[int] = []
        before = signal.signal(signal.SIGHUP, lambda number, frame: self.stray.append(number))
        self.addCleanup(signal.signal, signal.SIGHUP, before)

    async def test_reload(self) -> None:
        """While the service runs, SIGHUP lets all be read anew, in the reactor's turn and not within the signal."""
        service = HangupService(reactor)
        service.startService()
        self.addCleanup(service.stopService)
        for _ in range(3):
            called: Deferred[None] = Deferred()
            remove = add_reload(lambda called=called: called.callback(None))  # type: ignore[misc]
            os.kill(os.getpid(), signal.SIGHUP)
            self.assertFalse(called.called)
            await called
            remove()
        self.assertEqual(self.stray, [])

    def test_as_found(self) -> None:
        """The end of the service leaves the signal as it was found; it can start again."""
        found = signal.getsignal(signal.SIGHUP)
        service = HangupService(reactor)
        for _ in range(2):
            service.startService()
            self.assertNotEqual(signal.getsignal(signal.SIGHUP), found)
            service.stopService()
            self.assertEqual(signal.getsignal(signal.SIGHUP), found)

    def test_taken_by_another(self) -> None:
        """What somebody else has set meanwhile is left alone at the end."""
        service = HangupService(reactor)
        service.startService()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        service.stopService()
        self.assertEqual(signal.getsignal(signal.SIGHUP), signal.SIG_IGN)

    async def test_in_another_thread(self) -> None:
        """Outside of the main thread, where Python allows no handlers, it starts and ends without."""
        found = signal.getsignal(signal.SIGHUP)
        service = HangupService(reactor)
        await deferToThread(service.startService)
        self.assertEqual(signal.getsignal(signal.SIGHUP), found)
        await deferToThread(service.stopService)
