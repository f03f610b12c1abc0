"""Which log events are written, and where."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import IO, Any, TextIO, cast

from constantly import NamedConstant
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LegacyLogObserverWrapper,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    eventAsText,
    textFileLogObserver,
)
from twisted.python import logfile

LEVELS = tuple(level.name for level in LogLevel.iterconstants())
"""The names of the levels, from the most to the least talkative."""

PRIORITIES = {LogLevel.debug: 7, LogLevel.info: 6, LogLevel.warn: 4, LogLevel.error: 3, LogLevel.critical: 2}
"""The priority of each level in the system's journal: syslog(3), sd-daemon(3)."""

MAX_LINE = 32_000
"""The longest line for the journal, in bytes. It would cut one of 48 KiB, and look for a priority behind the cut."""

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_PIECE = re.compile(rb".{1,%d}(?![\x80-\xbf])" % MAX_LINE)


def make_observer(options: Mapping[str, Any], level: NamedConstant) -> ILogObserver:
    """Make an observer that writes events of a level and above.

    `options` are those of twistd, whose `--logfile`, `--syslog` and `--nodaemon` decide where events go, as
    they do without it. Ends the program where these contradict one another.
    """
    return FilteringLogObserver(_make_writer(options), [LogLevelFilterPredicate(defaultLogLevel=level)])


def _make_writer(options: Mapping[str, Any]) -> ILogObserver:
    if options.get("syslog"):
        from twisted.python import syslog

        return LegacyLogObserverWrapper(cast("Any", syslog.SyslogObserver(options.get("prefix", "")).emit))
    name = options.get("logfile")
    if name == "-" or (options.get("nodaemon") and not name):
        if not options.get("nodaemon"):
            sys.exit("ota: a daemon can't log to its terminal; name a file: twistd --logfile FILE ota …")
        return journal_observer(sys.stdout) if is_journal(sys.stdout, os.environ) else textFileLogObserver(sys.stdout)
    file = logfile.LogFile.fromFullPath(name or "twistd.log")

    def rotate(number: int, frame: object) -> None:
        from twisted.internet import reactor

        cast("IReactorFromThreads", reactor).callFromThread(file.rotate)

    if not signal.getsignal(signal.SIGUSR1):
        signal.signal(signal.SIGUSR1, rotate)
    return textFileLogObserver(file)


def is_journal(stream: IO[Any], environment: Mapping[str, str]) -> bool:
    """Return whether a stream leads to the system's journal, as JOURNAL_STREAM says: systemd.exec(5)."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def journal_observer(stream: TextIO) -> FileLogObserver:
    """Make an observer that writes to the journal: each line with its priority, and without the time, which it adds."""
    encoding = stream.encoding or "utf-8"

    def format_event(event: LogEvent) -> str | None:
        text = eventAsText(event, includeTimestamp=False)
        mark = f"<{PRIORITIES[event.get('log_level', LogLevel.info)]}>"
        # What a file was named may be no text in any encoding.
        lines = (line.encode(encoding, "backslashreplace").decode(encoding) for line in journal_lines(text))
        return "".join(f"{mark}{line}\n" for line in lines) or None

    return FileLogObserver(stream, format_event)


def journal_lines(text: str) -> Iterator[str]:
    """Divide the text of an event into lines of its own: those after the first are set in.

    No control character is left that the journal, or a terminal that shows it, would take for more than text.
    """
    for number, line in enumerate(filter(str.strip, text.splitlines())):
        clean = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", line)
        for part, piece in enumerate(_PIECE.findall(clean.encode("utf-8", "backslashreplace"))):
            yield ("\t" if number or part else "") + piece.decode("utf-8")
