"""What operations look at: the folder, the policy, and the memory of the fleet, as they are now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from ota_server.firmware.catalog import Catalog
from ota_server.firmware.signatures import VerifyKey
from ota_server.firmware.watch import FolderWatcher
from ota_server.fleet.fleet import Fleet
from ota_server.fleet.ledger import Ledger, LedgerError
from ota_server.fleet.policy import Policy
from ota_server.fleet.reading import LedgerReader
from ota_server.forgetful import Forgetful
from ota_server.keeper import FleetKeeper
from ota_server.operator.calls import Problem
from ota_server.operator.receiving import Inbox
from ota_server.operator.turns import Turns
from ota_server.operator.yard import Yard
from ota_server.policy_watch import PolicyWatcher

T = TypeVar("T")


@attrs.frozen
class House:
    """The parts of the running server, for operations that ask them.

    `reader` reads the ledger, None where the server keeps none. `pool` is for what blocks. `keys` are those that images
    have to be signed by, if any. `doors` say where the server listens, `ends` when its certificates end, both for
    people. `folder` and `policy_file` are paths. `started_at` is in seconds since 1970.
    """

    watcher: FolderWatcher
    keeper: FleetKeeper | Forgetful
    rules: PolicyWatcher
    reader: LedgerReader | None
    reactor: Any
    pool: ThreadPool
    turns: Turns
    keys: Sequence[VerifyKey] = ()
    doors: Sequence[str] = ()
    ends: Callable[[], Sequence[str]] = lambda: ()
    folder: str = ""
    policy_file: str = ""
    started_at: float = 0.0
    inbox: Inbox | None = None
    yard: Yard | None = None

    @property
    def catalog(self) -> Catalog:
        """What there is to serve. Raises Problem while the folder is read for the first time."""
        if self.watcher.catalog is None:
            raise Problem(503, "starting", "The server has only just started", "the folder is being read; try again")
        return self.watcher.catalog

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self.rules.current

    @property
    def fleet(self) -> Fleet:
        """The memory of the fleet. Raises Problem where there is none, or none yet."""
        if isinstance(self.keeper, Forgetful):
            raise Problem(
                409,
                "no-ledger",
                "The server remembers nothing",
                "it runs with --database none; give it a ledger",
            )
        if self.keeper.fleet is None:
            detail = self.keeper.trouble or "the ledger is being read; try again"
            raise Problem(503, "starting", "The server has only just started", detail)
        return self.keeper.fleet

    def check_memory(self) -> None:
        """Raise Problem while what operators do can't be written down, since the ledger is being read."""
        if not isinstance(self.keeper, Forgetful):
            self.fleet  # noqa: B018 - raises it

    @property
    def known(self) -> Fleet | None:
        """The memory of the fleet, None where there is none, or none yet."""
        return None if isinstance(self.keeper, Forgetful) else self.keeper.fleet

    async def read(self, ask: Callable[[Ledger], T]) -> T:
        """Return what `ask` finds in the ledger, which it is given in a thread. Raises Problem."""
        assert self.reader is not None
        try:
            found: T = await self.in_thread(self.reader.read, ask)
        except LedgerError as error:
            raise Problem(503, "ledger-trouble", "The ledger can't be read now", str(error)) from error
        return found

    async def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function that blocks returns."""
        return await deferToThreadPool(self.reactor, self.pool, function, *arguments)


class ReaderService(Service):
    """Closes the connection that reads the ledger when the server ends."""

    def __init__(self, house: House) -> None:
        self._house = house

    def stopService(self) -> Deferred[None]:
        """Close it, once nobody reads."""
        super().stopService()
        reader = self._house.reader
        return Deferred.fromCoroutine(self._house.in_thread(lambda: None if reader is None else reader.close()))
