"""Tidies up at the start what was half done when the process ended before: uploads, withdrawals, policy files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from ota_server.fleet.journal import Event
from ota_server.operator.receiving import Inbox
from ota_server.operator.yard import Yard


class TidyingService(Service):
    """Removes halves of files, and goes on with what was being withdrawn.

    `policy` is the policy file, `now` tells the time in seconds since 1970, and `note` takes the events.
    """

    name = "tidying"
    log = Logger()

    def __init__(
        self,
        inbox: Inbox,
        yard: Yard,
        policy: Path,
        reactor: Any,
        pool: ThreadPool,
        now: Callable[[], float],
        note: Callable[[Event], None],
    ) -> None:
        self._inbox = inbox
        self._yard = yard
        self._policy = policy
        self._reactor = reactor
        self._pool = pool
        self._now = now
        self._note = note
        self._tidied: Deferred[None] | None = None

    def startService(self) -> None:
        """Begin, in a thread: nobody waits for it."""
        super().startService()
        self._tidied = Deferred.fromCoroutine(self._tidy())

    async def _tidy(self) -> None:
        try:
            for each in await deferToThreadPool(self._reactor, self._pool, self._yard.recover, self._now()):
                self.log.warn("{told}", told=each.told)
                if each.event is not None:
                    self._note(each.event)
            removed = await deferToThreadPool(self._reactor, self._pool, self._clean)
        except Exception:  # noqa: BLE001 - devices are served all the same
            self.log.failure("what was left behind can't be tidied up")
            return
        if removed:
            self.log.warn("{count} files whose writing was cut off have been removed", count=len(removed))

    def _clean(self) -> list[str]:
        return self._inbox.clean(Path(os.path.realpath(self._policy)).parent)

    def stopService(self) -> Deferred[None] | None:
        """Stop; the returned Deferred fires when the thread is idle."""
        super().stopService()
        return self._tidied
