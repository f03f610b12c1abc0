"""A program that runs servers and kills them: it imports everything once, and forks for each server.

It reads orders, one a line: `start NAME FOLDER` and `kill NAME`. It tells, one a line, `port NAME PORT` of each server
that listens, and `dead NAME TIME STATUS` of each that was killed: when, in seconds since 1970, and with which status of
waitpid. At the end of its input it kills all servers that still run, and ends.

A server serves `firmware` in its folder, with `state` beside that, and writes its log to `log`. It is the product as it
is, but for two things: files count as whole at once, and `durable` is kept up to date, see `read_durable`.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
import time
import traceback
from pathlib import Path
from typing import Any

# What only a start imports is here as well, so that 100 of them don't take minutes; but for the reactor, which each
# makes for itself.
import alembic.command  # noqa: F401
import sqlalchemy.dialects.sqlite  # noqa: F401
from twisted.application.internet import StreamServerEndpointService
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    textFileLogObserver,
)

from ota_server.firmware import folder
from ota_server.fleet import fleet
from ota_server.fleet.journal import Batch
from ota_server.fleet.outbox import Outbox
from ota_server.service import make_ota_service

_TIME = struct.Struct("=d")


def read_durable(folder: Path) -> float:
    """Return the time, in seconds since 1970, before which all that the server noted is confirmed to be on disk."""
    return float(_TIME.unpack((folder / "durable").read_bytes())[0])


class NotingOutbox(Outbox):
    """An outbox that notes in a file up to when all is on disk, each time that this is confirmed."""

    file = -1
    _batch: Batch | None = None
    _taken = 0.0

    def take(self, now: float) -> Batch | None:
        """Give out what waits; all that came before `now` is in this batch, or was in one before."""
        batch = super().take(now)
        if batch is not self._batch:
            self._batch, self._taken = batch, now
        return batch

    def confirm(self) -> None:
        """Note that the batch is on disk."""
        super().confirm()
        os.pwrite(self.file, _TIME.pack(self._taken), 0)


def serve(folder_path: Path, name: str) -> None:
    """Serve until the process is killed."""
    folder.SETTLE_TIME = folder.OPAQUE_SETTLE_TIME = 0.0
    NotingOutbox.file = os.open(folder_path / "durable", os.O_CREAT | os.O_WRONLY)
    os.pwrite(NotingOutbox.file, _TIME.pack(0.0), 0)
    vars(fleet)["Outbox"] = NotingOutbox
    log = (folder_path / "log").open("a", buffering=1)
    observer = FilteringLogObserver(textFileLogObserver(log), [LogLevelFilterPredicate(LogLevel.warn)])
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    assert "twisted.internet.reactor" not in sys.modules
    from twisted.internet import reactor as own_reactor
    from twisted.internet.endpoints import TCP4ServerEndpoint

    reactor: Any = own_reactor
    endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    service = make_ota_service(folder_path / "firmware", folder_path / "state", [("the test's port", endpoint)])
    service.startService()
    door = next(part for part in service if isinstance(part, StreamServerEndpointService))
    listening: Any = door._waitingForPort
    tell(f"port {name} {listening.result.getHost().port}")
    reactor.run()


def tell(line: str) -> None:
    """Write a line to whoever started this; short ones of several processes don't mix."""
    os.write(1, f"{line}\n".encode())


def main() -> None:
    """Follow the orders."""
    servers: dict[str, int] = {}
    try:
        for line in sys.stdin:
            order, name, *more = line.split()
            if order == "start":
                pid = os.fork()
                if not pid:
                    os.close(0)
                    try:
                        serve(Path(more[0]), name)
                    finally:
                        # Reached where the start failed, and with nobody there to say why.
                        traceback.print_exc()
                        tell(f"port {name} 0")
                        os._exit(1)
                servers[name] = pid
            else:
                pid = servers.pop(name)
                now = time.time()
                os.kill(pid, signal.SIGKILL)
                tell(f"dead {name} {now!r} {os.waitpid(pid, 0)[1]}")
    finally:
        for pid in servers.values():
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
