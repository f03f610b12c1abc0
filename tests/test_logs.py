"""Tests of log levels, and of where log events go."""

from __future__ import annotations

import signal
from io import StringIO
from pathlib import Path
from unittest import mock

from twisted.internet import reactor
from twisted.logger import ILogObserver, Logger, LogLevel
from twisted.python import syslog
from twisted.trial.unittest import SynchronousTestCase

from ota_server.logs import LEVELS, make_observer


class ObserverTests(SynchronousTestCase):
    """The observer that a running server writes its log with."""

    def write(self, observer: ILogObserver) -> None:
        """Log one event of each level."""
        logger = Logger(observer=observer)
        for level in LEVELS:
            logger.emit(LogLevel.levelWithName(level), "an event of {name}", name=level)

    def test_levels(self) -> None:
        """Events of a level and above are written, in the foreground to the standard output."""
        for first, level in enumerate(LEVELS):
            out = StringIO()
            with mock.patch("sys.stdout", out):
                observer = make_observer({"nodaemon": True}, LogLevel.levelWithName(level))
            self.write(observer)
            written = [line.rpartition(" ")[2] for line in out.getvalue().splitlines()]
            self.assertEqual(written, list(LEVELS[first:]))

    def test_file(self) -> None:
        """With a log file events go there, and SIGUSR1 begins a new one, as twistd promises."""
        self.addCleanup(signal.signal, signal.SIGUSR1, signal.getsignal(signal.SIGUSR1))
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        path = Path(self.mktemp())
        self.write(make_observer({"logfile": str(path)}, LogLevel.error))
        self.assertEqual(len(path.read_text().splitlines()), 2)
        with mock.patch.object(reactor, "callFromThread", lambda f: f()):
            signal.raise_signal(signal.SIGUSR1)
        self.assertEqual(path.read_text(), "")
        self.assertEqual(len(Path(f"{path}.1").read_text().splitlines()), 2)

    def test_own_signal_handler_is_left(self) -> None:
        """A handler of SIGUSR1 that is there already stays."""

        def own(number: int, frame: object) -> None:
            raise AssertionError("not called")

        self.addCleanup(signal.signal, signal.SIGUSR1, signal.getsignal(signal.SIGUSR1))
        signal.signal(signal.SIGUSR1, own)
        make_observer({"logfile": self.mktemp()}, LogLevel.error)
        self.assertIs(signal.getsignal(signal.SIGUSR1), own)

    def test_daemon_without_terminal(self) -> None:
        """A daemon that is to log to its terminal is refused with what to do."""
        stop = self.assertRaises(SystemExit, make_observer, {"logfile": "-"}, LogLevel.error)
        self.assertIn("--logfile FILE", str(stop.code))

    def test_syslog(self) -> None:
        """With --syslog events go to the system's log."""
        sent: list[str] = []
        self.patch(syslog.SyslogObserver, "syslog", staticmethod(lambda priority, text: sent.append(text)))
        self.write(make_observer({"syslog": True, "prefix": "ota"}, LogLevel.critical))
        self.assertEqual(len(sent), 1)
        self.assertIn("an event of critical", sent[0])
