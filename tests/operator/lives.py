"""A program that lets servers live one after the other: it imports everything once, and forks for each.

For each line of its input it starts a server, of `firmware` and `state` in the folder that is its argument, and tells
its process id once its doors are open. A file `max-image` there says how large images may be, in bytes. The server
before was killed by whoever writes the line. At the end of the input it ends.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any

# What only a start imports is here as well.
import alembic.command  # noqa: F401
import sqlalchemy.dialects.sqlite  # noqa: F401
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    textFileLogObserver,
)

from ota_server.firmware import folder as folder_module
from ota_server.operator.door import DOOR_FILE, OperatorDoor
from ota_server.operator.receiving import MAX_IMAGE
from ota_server.service import make_ota_service

ENDPOINT = "tcp:0:interface=127.0.0.1"


def serve(folder: Path) -> None:
    """Serve until the process is killed. Files that are there count as whole at once, so that no start waits."""
    folder_module.SETTLE_TIME = folder_module.OPAQUE_SETTLE_TIME = 0.0
    log = (folder / "log").open("a", buffering=1)
    observer = FilteringLogObserver(textFileLogObserver(log), [LogLevelFilterPredicate(LogLevel.warn)])
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    assert "twisted.internet.reactor" not in sys.modules
    from twisted.internet import reactor as own_reactor
    from twisted.internet.endpoints import serverFromString

    reactor: Any = own_reactor
    (folder / "state" / DOOR_FILE).unlink(missing_ok=True)
    limit = folder / "max-image"
    device, operator = (serverFromString(reactor, ENDPOINT) for _ in range(2))
    service = make_ota_service(
        folder / "firmware",
        folder / "state",
        [("the test's port", device)],
        operator=OperatorDoor(ENDPOINT, operator),
        max_image=int(limit.read_text()) if limit.exists() else MAX_IMAGE,
    )

    def tell() -> None:
        if (folder / "state" / DOOR_FILE).exists():
            os.write(1, f"{os.getpid()}\n".encode())
        else:
            reactor.callLater(0.01, tell)

    service.privilegedStartService()
    service.startService()
    tell()
    reactor.run()


def main() -> None:
    """Start a server for each line."""
    folder = Path(sys.argv[1])
    child = 0
    for _ in sys.stdin:
        if child:
            os.waitpid(child, 0)
        child = os.fork()
        if not child:
            os.close(0)
            try:
                serve(folder)
            finally:
                # Reached where the start failed, and with nobody there to say why.
                traceback.print_exc()
                os.write(1, b"0\n")
                os._exit(1)
    if child:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
