"""Follows the files of a TLS door: takes renewed ones up, and warns of an end that is near.

The keys of session tickets are rotated on the way.
"""

from __future__ import annotations

from collections.abc import Callable

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorFromThreads, IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from ota_server.signals import add_reload
from ota_server.tls.certificates import CertificateError, describe
from ota_server.tls.context import SESSION_LIFETIME
from ota_server.tls.creator import DeviceTls, FileIdentities, Loaded
from ota_server.tls.expiry import WARNING_DAYS, ExpiryWarnings

INTERVAL = 2.0
"""The time between two looks at the files, in seconds. A change counts once two looks saw the same."""


class ITlsReactor(IReactorTime, IReactorFromThreads):
    """What following the files needs of a reactor."""


class TlsFollower:
    """Follows the files of a DeviceTls while a port is open. `now` is the time in seconds since 1970."""

    log = Logger()

    def __init__(self, tls: DeviceTls, reactor: ITlsReactor, pool: ThreadPool, now: Callable[[], float]) -> None:
        self.trouble = ""
        """What is wrong with the files, on one line; empty where nothing is."""
        self._tls = tls
        self._reactor = reactor
        self._pool = pool
        self._now = now
        self._running = False
        self._next: IDelayedCall | None = None
        self._looking: Deferred[None] | None = None
        self._again = False
        self._failure = ""
        self._seen: FileIdentities = tls.loaded.identities
        self._judged: FileIdentities = tls.loaded.identities
        self._rotated = reactor.seconds()
        self._warnings = ExpiryWarnings()
        self._forget: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Follow the files from now on, and read them anew at SIGHUP."""
        self._running = True
        self._forget = add_reload(self.reload)
        for credential in self._tls.loaded.credentials:
            for certificate in credential.unused:
                self.log.warn(
                    "the certificate of {name} is not sent: it isn't the issuer of any other in the file",
                    name=describe(certificate),
                )
        self._warn()
        self._next = self._reactor.callLater(INTERVAL, self._look)

    def stop(self) -> Deferred[None] | None:
        """Stop; the returned Deferred fires when no thread is at work for this any more."""
        self._running = False
        self._forget()
        if self._next is not None:
            self._next.cancel()
            self._next = None
        return self._looking

    def reload(self) -> None:
        """Read the files anew at once, changed or not."""
        if not self._running:
            return
        if self._next is None:
            # A thread is at it just now, and may have read what was there before.
            self._again = True
            return
        self._next.cancel()
        self._look(anyway=True)

    def _look(self, *, anyway: bool = False) -> None:
        self._next = None
        self._looking = Deferred.fromCoroutine(self._look_once(anyway))

    async def _look_once(self, anyway: bool) -> None:
        """Look at the files, take up what changed, and see to the next time."""
        try:
            seen = await deferToThreadPool(self._reactor, self._pool, self._tls.files.identify)
            settled, self._seen = seen == self._seen, seen
            if not self._running:
                return
            if anyway or (settled and seen != self._judged):
                await self._take_up(seen, anyway)
            elif self._reactor.seconds() - self._rotated >= SESSION_LIFETIME:
                await self._rotate()
            self._failure = ""
        except Exception as error:  # noqa: BLE001 - the files are looked at again, whatever it was
            before, self._failure = self._failure, repr(error)
            if before != self._failure:
                self.log.failure("following the certificates failed; it is tried again")
        if self._running:
            self._warn()
            again, self._again = self._again, False
            if again:
                self._look(anyway=True)
            else:
                self._next = self._reactor.callLater(INTERVAL, self._look)

    async def _take_up(self, seen: FileIdentities, anyway: bool) -> None:
        """Read the files; use what they hold, or go on with what is in use and say so.

        `anyway` says that somebody asked for it, who is told of a trouble again.
        """
        try:
            loaded, contexts = await deferToThreadPool(self._reactor, self._pool, self._tls.load)
        except CertificateError as error:
            self._judged = seen
            if self._running:
                self._tell(str(error), anyway)
            return
        # What was read may be newer than what was seen before.
        self._judged = loaded.identities
        if not self._running:
            return
        self._tell("")
        self._compare(self._tls.loaded, loaded)
        self._use(loaded, contexts)
        if contexts is None and not anyway:
            return
        for credential in loaded.credentials:
            self.log.info(
                "the {kind} certificate of {name} is in use, which ends on {end}",
                kind=credential.kind,
                name=describe(credential.chain[0]),
                end=credential.chain[0].not_valid_after_utc.date().isoformat(),
            )

    def _compare(self, before: Loaded, after: Loaded) -> None:
        """Say where a chain has lost its end, as it happens when cert.pem takes the place of fullchain.pem."""
        for old in before.credentials:
            for new in after.credentials:
                ends = new.chain[-1].issuer != old.chain[-1].issuer
                if new.kind == old.kind and len(new.chain) < len(old.chain) and ends:
                    self.log.error(
                        "the {kind} certificate of {name} has a shorter chain than the one before, and ends "
                        "elsewhere: devices that trust only {root} refuse it; name fullchain.pem",
                        kind=new.kind,
                        name=describe(new.chain[0]),
                        root=old.chain[-1].issuer.rfc4514_string(),
                    )

    async def _rotate(self) -> None:
        """Let the keys of tickets be new ones, and the sessions of before be forgotten."""
        loaded = self._tls.loaded
        self._use(loaded, await deferToThreadPool(self._reactor, self._pool, self._tls.make_contexts, loaded))

    def _use(self, loaded: Loaded, contexts: tuple[SSL.Context, ...] | None) -> None:
        self._tls.take(loaded, contexts)
        if contexts is not None:
            self._rotated = self._reactor.seconds()

    def _tell(self, trouble: str, again: bool = False) -> None:
        """Log a trouble once, or `again`, and its end; what was in use before stays so meanwhile."""
        before, self.trouble = self.trouble, trouble
        if trouble and (again or trouble != before):
            self.log.critical("{trouble} (the certificate loaded before stays in use)", trouble=trouble)
        elif before and not trouble:
            self.log.warn("over: {trouble}", trouble=before)

    def _warn(self) -> None:
        """Log which certificates end soon."""
        now = self._now()
        for expiry, level in self._warnings.due(self._tls.expiries, now):
            log = self.log.critical if not level else self.log.error if level == WARNING_DAYS[-1] else self.log.warn
            # Fields of the names `message` and `warning` mean something else to Twisted's older log.
            log("{text}", text=expiry.tell(now))
