"""Which log events are written, and where."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from typing import Any, cast

from constantly import NamedConstant
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LegacyLogObserverWrapper,
    LogLevel,
    LogLevelFilterPredicate,
    textFileLogObserver,
)
from twisted.python import logfile

LEVELS = tuple(level.name for level in LogLevel.iterconstants())
"""The names of the levels, from the most to the least talkative."""


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
        return textFileLogObserver(sys.stdout)
    file = logfile.LogFile.fromFullPath(name or "twistd.log")

    def rotate(number: int, frame: object) -> None:
        from twisted.internet import reactor

        cast("IReactorFromThreads", reactor).callFromThread(file.rotate)

    if not signal.getsignal(signal.SIGUSR1):
        signal.signal(signal.SIGUSR1, rotate)
    return textFileLogObserver(file)
