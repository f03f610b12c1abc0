"""Builds the running server out of its parts."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.application.service import IServiceCollection, MultiService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.threadpool import ThreadPool

from ota_server.access_guard import AccessGuard, asks_for_certificates
from ota_server.doors import DoorService, OperatorDoorService, StartError
from ota_server.firmware.catalog import Catalog
from ota_server.firmware.digests import DigestStore
from ota_server.firmware.folder import POLICY_FILE, Folder
from ota_server.firmware.packing import Packer
from ota_server.firmware.signatures import VerifyKey
from ota_server.firmware.watch import FolderWatcher, Hints
from ota_server.fleet.journal import Event
from ota_server.fleet.ledger import Ledger, sqlite_url
from ota_server.fleet.policy import Policy
from ota_server.fleet.reading import LedgerReader
from ota_server.forgetful import Forgetful
from ota_server.keeper import FleetKeeper
from ota_server.operator.api import make_all_operations
from ota_server.operator.door import OperatorDoor, OperatorService, show_on_terminal
from ota_server.operator.durably import tell_event
from ota_server.operator.house import House, ReaderService
from ota_server.operator.receiving import MAX_IMAGE, Inbox
from ota_server.operator.site import make_operator_site
from ota_server.operator.tidying import TidyingService
from ota_server.operator.token_calls import TokenCalls
from ota_server.operator.tokens import TOKENS_FILE, TokenFileError, Tokens
from ota_server.operator.turns import Turns
from ota_server.operator.yard import Yard
from ota_server.policy_watch import PolicyWatcher, load_policy
from ota_server.signals import HangupService
from ota_server.supervise import SupervisorService
from ota_server.tls.endpoint import innermost
from ota_server.web.delivery import Deliveries
from ota_server.web.site import DeviceSite
from ota_server.web.tree import DeviceRoot

log = Logger()


NO_DATABASE = "none"
"""What is given as the URL of the ledger where nothing is to be remembered."""


@attrs.frozen
class PolicySource:
    """The policy file, and what it said when it was first read. A `required` one has been named by the operator."""

    path: Path
    required: bool
    current: Policy

    @classmethod
    def at(cls, path: Path, *, required: bool) -> PolicySource:
        """Read a policy file. Raises PolicyError."""
        return cls(path, required, load_policy(path, required))

    @classmethod
    def in_folder(cls, folder: Path) -> PolicySource:
        """Read the policy in a firmware folder, if there is one. Raises PolicyError."""
        return cls.at(folder / POLICY_FILE, required=False)


class ThreadPoolService(MultiService):
    """A thread pool, and the services that use it: they end before it does."""

    def __init__(self, name: str, threads: int) -> None:
        super().__init__()
        self.pool = ThreadPool(0, threads, name)

    def startService(self) -> None:
        """Start the threads, not before, since a process must not fork with threads; then the services."""
        self.pool.start()
        super().startService()

    def stopService(self) -> Deferred[None]:
        """End the services, and the threads once nobody uses them."""
        stopped: Deferred[object] = maybeDeferred(super().stopService)
        return stopped.addCallback(lambda _: self.pool.stop())


class DeliveryService(Service):
    """Closes the files of images when the server ends."""

    def __init__(self, deliveries: Deliveries) -> None:
        self.deliveries = deliveries

    def stopService(self) -> None:
        """Close the files that nobody reads."""
        super().stopService()
        self.deliveries.close()


class FleetShelf:
    """Holds the catalog back until the fleet's memory has been read, without which nobody knows what is halted."""

    def __init__(self, watcher: FolderWatcher, keeper: FleetKeeper) -> None:
        self._watcher = watcher
        self._keeper = keeper

    @property
    def catalog(self) -> Catalog | None:
        """The newest catalog."""
        return self._watcher.catalog if self._keeper.fleet is not None else None

    def when_ready(self) -> Deferred[None]:
        """Return a Deferred that fires once there is one."""
        return self._watcher.when_ready().addCallback(lambda _: self._keeper.when_ready())


class OtaService(MultiService):
    """The whole server.

    `foreground` says that errors at the start are to be shown on the terminal. `make_observer` makes the log
    observer of the application that this service becomes part of.
    """

    def __init__(self, *, foreground: bool, make_observer: Callable[[], ILogObserver] | None) -> None:
        super().__init__()
        self._foreground = foreground
        self._make_observer = make_observer

    def setServiceParent(self, parent: IServiceCollection | Componentized) -> None:
        """Join an application, and bring it the log observer, unless it has one."""
        if (
            self._make_observer is not None
            and isinstance(parent, Componentized)
            and parent.getComponent(ILogObserver, None) is None
        ):
            parent.setComponent(ILogObserver, self._make_observer())
        super().setServiceParent(parent)

    def privilegedStartService(self) -> None:
        """Start what needs privileges (ports below 1024)."""
        self._start(super().privilegedStartService)

    def startService(self) -> None:
        """Start all parts."""
        raise_file_limit()
        self._start(super().startService)

    def _start(self, start: Callable[[], None]) -> None:
        """Start something; what goes wrong ends the program with one line in the foreground."""
        try:
            start()
        except (StartError, TokenFileError) as problem:
            for part in self:
                if isinstance(part, ThreadPoolService):
                    # Their threads would keep the process.
                    part.pool.stop()
            if not self._foreground:
                raise
            # Twisted has put its log in the place of the standard streams by now.
            print(f"ota: {problem}", file=sys.__stderr__)
            raise SystemExit(1) from None


def raise_file_limit() -> None:
    """Allow this process as many open files as the system lets it have: two for each download."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            # macOS names no limit and yet has one.
            log.debug("the limit of open files stays at {soft}", soft=soft)


def _list_ends(doors: Sequence[tuple[str, IStreamServerEndpoint]], now: float) -> list[str]:
    """Say when each certificate at the doors ends that ends soon, and whether a renewed one can't be used.

    `now` is in seconds since 1970. Whoever asks is told, so that no file is named.
    """
    inner = [innermost(endpoint) for _, endpoint in doors]
    expiries = (expiry for endpoint in inner for expiry in getattr(endpoint, "expiries", ()))
    told = [expiry.summarise(now) for expiry in expiries if expiry.level(now) is not None]
    if any(getattr(endpoint, "trouble", "") for endpoint in inner):
        told.append("a renewed certificate can't be used; the log says why")
    return list(dict.fromkeys(told))


def make_ota_service(
    folder: Path,
    state: Path,
    doors: Sequence[tuple[str, IStreamServerEndpoint]],
    *,
    policy: PolicySource | None = None,
    database: str | None = None,
    foreground: bool = True,
    log_decisions: bool = False,
    keys: Sequence[VerifyKey] = (),
    pack: bool = False,
    operator: OperatorDoor | None = None,
    max_image: int = MAX_IMAGE,
    make_observer: Callable[[], ILogObserver] | None = None,
) -> OtaService:
    """Build the server of a firmware folder.

    `doors` are the endpoints at which devices are served, each with its description for people. `policy` is read from
    `folder` if it isn't given. `database` is the URL of the ledger: None for a file in `state`, NO_DATABASE for none.
    With `keys` only images are offered that one of them signed; with `pack` sketches for the ESP8266 are compressed.
    Without `operator` there is no door for operators, who may publish images of up to `max_image` bytes.
    For the others see OtaService.
    """
    from twisted.internet import reactor as global_reactor

    reactor: Any = global_reactor
    readers = ThreadPoolService("folder", 1)
    openers = ThreadPoolService("images", 4)
    writers = ThreadPoolService("ledger", 1)
    policy = policy or PolicySource.in_folder(folder)
    url = database or sqlite_url(state / "ledger.sqlite")
    keeper: FleetKeeper | Forgetful
    if database == NO_DATABASE:
        keeper = Forgetful(policy.current, time.time)
    else:
        keeper = FleetKeeper(Ledger(url), policy.current, reactor, writers.pool, time.time)
        keeper.setServiceParent(writers)
    asks = asks_for_certificates(endpoint for _, endpoint in doors)
    guard = AccessGuard(state, asks_for_certificates=asks)
    try:
        guard.note(policy.current)
    except OSError as problem:
        raise StartError(f"{guard.mark} can't be changed: {problem.strerror}; let the server write there") from None

    def take_policy(policy: Policy) -> None:
        # First of all nobody comes in who may not any more.
        site.take_policy(policy)
        keeper.take_policy(policy)

    rules = PolicyWatcher(policy.path, policy.required, reactor, openers.pool, take_policy, policy.current, guard)

    def published(catalog: Catalog) -> None:
        keeper.take_catalog(catalog)
        rules.take_catalog(catalog)

    watcher = FolderWatcher(
        Folder(folder, DigestStore(state / "digests.sqlite"), keys, Packer(state / "gzip") if pack else None),
        reactor,
        readers.pool,
        time.time,
        published,
        hints=(lambda hint: Hints(hint, reactor)) if sys.platform == "linux" else None,
    )
    deliveries = DeliveryService(Deliveries(reactor, openers.pool))
    shelf = watcher if isinstance(keeper, Forgetful) else FleetShelf(watcher, keeper)
    all_doors = [*doors, *([(operator.description, operator.endpoint)] if operator is not None else [])]
    root = DeviceRoot(shelf, deliveries.deliveries, reactor, keeper, lambda: _list_ends(all_doors, time.time()))
    site = DeviceSite(root, reactor, asks_for_certificates=asks)
    site.take_policy(policy.current)
    site.log_decisions = log_decisions
    whole = OtaService(foreground=foreground, make_observer=make_observer)
    watcher.setServiceParent(readers)
    deliveries.setServiceParent(openers)
    rules.setServiceParent(openers)
    hangup = HangupService(reactor)
    for part in (hangup, writers, readers, openers, *(DoorService(text, endpoint, site) for text, endpoint in doors)):
        part.setServiceParent(whole)
    if operator is not None:
        # With threads of their own, so that no device waits for an upload.
        operators = ThreadPoolService("operators", 4)
        operators.setServiceParent(whole)
        inbox = Inbox(folder, keys, max_image)
        yard = Yard(inbox, state)
        house = House(
            watcher=watcher,
            keeper=keeper,
            rules=rules,
            reader=None if isinstance(keeper, Forgetful) else LedgerReader(url),
            reactor=reactor,
            pool=operators.pool,
            turns=Turns(reactor, operators.pool),
            keys=keys,
            doors=[text for text, _ in doors],
            ends=lambda: _list_ends(all_doors, time.time()),
            folder=str(folder),
            policy_file=str(policy.path),
            started_at=time.time(),
            inbox=inbox,
            yard=yard,
        )
        ReaderService(house).setServiceParent(operators)
        note = _make_note(keeper)
        TidyingService(inbox, yard, policy.path, reactor, operators.pool, time.time, note).setServiceParent(operators)
        _make_operator_service(operator, house, state).setServiceParent(operators)
    # The last to start and the first to stop, so that it is told the truth.
    SupervisorService(shelf, reactor).setServiceParent(whole)
    return whole


def _make_note(keeper: FleetKeeper | Forgetful) -> Callable[[Event], None]:
    """Return what keeps an event, as soon as the ledger has been read."""

    def note(event: Event) -> None:
        if isinstance(keeper, FleetKeeper):
            keeper.when_ready().addCallback(lambda _: keeper.loaded.outbox.told(event))

    return note


def _make_operator_service(door: OperatorDoor, house: House, state: Path) -> OperatorService:
    """Build what serves operators; `state` is the folder of what the server keeps."""
    tokens = Tokens()

    async def note(actor: str, kind: str, text: str) -> None:
        log.info("{actor}: {text}", actor=actor, text=text)
        await tell_event(house, Event(time.time(), actor, kind, text))

    calls = TokenCalls(tokens, state / TOKENS_FILE, house.in_thread, note, house.check_memory)
    site = make_operator_site(make_all_operations(house, calls), tokens, house.reactor, time.time, door.hosts)
    service = OperatorService(door, site, tokens, calls, state, house.reactor, time.time, show=show_on_terminal)
    OperatorDoorService(door, site, service.announce).setServiceParent(service)
    return service
