"""Tests of log levels, and of where log events go."""

from __future__ import annotations

import os
import signal
import socket
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.logger import ILogObserver, Logger, LogLevel
from twisted.python import syslog
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from ota_server.logs import LEVELS, MAX_LINE, is_journal, journal_lines, journal_observer, make_observer


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


class JournalTests(SynchronousTestCase):
    """The log, where the standard output leads to the system's journal."""

    def written(self, *, encoding: str = "utf-8", failure: Failure | None = None, **event: object) -> list[bytes]:
        """Return the lines that are written of one event."""
        raw = BytesIO()
        stream = TextIOWrapper(raw, encoding=encoding, newline="\n")
        more = {} if failure is None else {"log_failure": failure}
        Logger("here", observer=journal_observer(stream)).emit(LogLevel.warn, "{text}", **event, **more)
        self.assertEqual(raw.getvalue()[-1:], b"\n")
        return raw.getvalue()[:-1].split(b"\n")

    def test_recognised(self) -> None:
        """The journal is known by the device and inode of its socket, and nothing else is taken for it."""
        here, there = socket.socketpair()
        with here, there, os.fdopen(os.dup(here.fileno()), "w") as stream:
            status = os.fstat(here.fileno())
            name = f"{status.st_dev}:{status.st_ino}"
            self.assertTrue(is_journal(stream, {"JOURNAL_STREAM": name}))
            self.assertFalse(is_journal(stream, {"JOURNAL_STREAM": f"{name}0"}))
            self.assertFalse(is_journal(stream, {}))
            self.assertFalse(is_journal(StringIO(), {"JOURNAL_STREAM": name}))
        self.assertFalse(is_journal(stream, {"JOURNAL_STREAM": name}), "a closed one")

    def test_chosen(self) -> None:
        """In the foreground the journal's form is written where the standard output is the journal, only there."""
        here, there = socket.socketpair()
        with here, there, os.fdopen(os.dup(here.fileno()), "w") as stream:
            status = os.fstat(here.fileno())
            for inode, start in ((status.st_ino, b"<3>[here#error] lost"), (status.st_ino + 1, b"2")):
                with (
                    mock.patch("sys.stdout", stream),
                    mock.patch.dict(os.environ, {"JOURNAL_STREAM": f"{status.st_dev}:{inode}"}),
                ):
                    observer = make_observer({"nodaemon": True}, LogLevel.warn)
                Logger("here", observer=observer).error("lost")
                self.assertEqual(there.recv(4096)[: len(start)], start)

    def test_priorities(self) -> None:
        """Each level has its priority, as syslog numbers them."""
        out = StringIO()
        logger = Logger("here", observer=journal_observer(out))
        for level in LEVELS:
            logger.emit(LogLevel.levelWithName(level), "text")
        self.assertEqual([line[:3] for line in out.getvalue().splitlines()], ["<7>", "<6>", "<4>", "<3>", "<2>"])

    def test_several_lines(self) -> None:
        """Every line of a traceback has the priority of its event."""
        try:
            raise ValueError("first\n<0>second")
        except ValueError:
            lines = self.written(text="a failure", failure=Failure())
        self.assertEqual(lines[0], b"<4>[here#warn] a failure")
        self.assertGreater(len(lines), 4)
        self.assertEqual([line[:4] for line in lines[1:]], [b"<4>\t"] * (len(lines) - 1))
        self.assertIn(b"<4>\t<0>second", lines)

    def test_encoding(self) -> None:
        """What the standard output's encoding doesn't know, and the name of a file that is no text, is written."""
        self.assertEqual(self.written(text="\u00fc\udcff", encoding="ascii"), [b"<4>[here#warn] \\xfc\\udcff"])
        self.assertEqual(self.written(text="\u00fc\udcff"), ["<4>[here#warn] \u00fc\\udcff".encode()])

    def test_nothing(self) -> None:
        """An event without text makes no line."""
        out = StringIO()
        journal_observer(out)({"log_level": LogLevel.error})
        self.assertEqual(out.getvalue(), "")

    @given(st.text(st.characters(codec=None) | st.sampled_from("\n\r\0\v\x1b\x85\u2028<0>\udc80")))
    def test_no_forgery(self, text: str) -> None:
        """Whatever an event says, no line begins with a priority of its own, and none holds a control character."""
        for number, line in enumerate(journal_lines(f"[here#warn] {text}")):
            self.assertTrue(line.startswith("\t" if number else "[here#warn]"))
            body = line[1:] if number else line
            self.assertEqual([c for c in body if c != "\t" and (ord(c) < 32 or 127 <= ord(c) < 160)], [])

    def test_long_line(self) -> None:
        """A line that the journal would cut is cut before, between characters, and nothing of it is lost."""
        text = "\u20ac" * MAX_LINE
        lines = list(journal_lines(text))
        self.assertGreater(len(lines), 1)
        self.assertLessEqual(max(len(line.encode()) for line in lines), MAX_LINE + 1)
        self.assertEqual("".join(lines).replace("\t", ""), text)
