"""Following the policy file: notices its changes, and puts each good one in force.

The file is looked at on a timer. What is found wrong is logged once, and what was in force before stays so.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IDelayedCall, IReactorFromThreads, IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from ota_server.access_guard import AccessGuard
from ota_server.firmware.catalog import Catalog
from ota_server.fleet.policy import DEFAULT_POLICY, Policy, PolicyError, read_policy

INTERVAL = 1.0
"""The time between two looks at the file, in seconds. A change counts once two looks saw the same."""

MAX_SIZE = 1_000_000
"""The largest policy file, in bytes."""

_Identity = tuple[int, ...]


def load_policy(path: Path, required: bool) -> Policy:
    """Read the policy file at the start. Raises PolicyError; a missing one that isn't required is DEFAULT_POLICY."""
    try:
        return _judge(path, _read(path)[0])
    except OSError as error:
        if not _is_missing(error):
            raise _unreadable(path, error) from None
        if not required:
            return DEFAULT_POLICY
        raise PolicyError(str(path), "there is no such file; write one, an empty one for the defaults") from None


def _read(path: Path) -> tuple[bytes, _Identity]:
    """Read a file; return what is in it, and which file it is. Raises PolicyError, and OSError."""
    try:
        # Opening a pipe would wait for somebody to write there.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            plain = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            data = file.read(MAX_SIZE + 1) if plain else b""
            identity = _identify(os.fstat(file.fileno()))
    except IsADirectoryError:
        plain = False
    if not plain:
        raise PolicyError(str(path), "is no plain file; write the policy into one")
    return data, identity


def _judge(path: Path, data: bytes) -> Policy:
    """Return the policy that a file's content is. Raises PolicyError."""
    if len(data) > MAX_SIZE:
        raise PolicyError(str(path), f"has more than {MAX_SIZE:,} bytes; write a shorter one")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PolicyError(str(path), "is no UTF-8; save the file in that encoding", line) from None
    return read_policy(text, str(path))


def _is_missing(error: OSError) -> bool:
    return isinstance(error, FileNotFoundError | NotADirectoryError)


def _unreadable(path: Path, error: OSError) -> PolicyError:
    return PolicyError(str(path), f"can't be read: {error.strerror}; see to it that the server may read it")


def _identify(status: os.stat_result) -> _Identity:
    # The time of the last change of its mode as well: it may be readable from then on.
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev)


class PolicyFile:
    """Looks at a policy file again and again, and reads it once it stays the same from one look to the next."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: _Identity = ()
        self._judged: _Identity | None = None

    def look(self) -> Policy | None:
        """Return the policy where there is one to judge anew, or else None.

        Raises PolicyError where there is something wrong, and FileNotFoundError where there is no file.
        """
        before, self._seen = self._seen, ()
        try:
            self._seen = _identify(os.stat(self.path))
            if before != self._seen or self._seen == self._judged:
                return None
            data, identity = _read(self.path)
            if identity != self._seen:
                # Somebody is writing just now.
                return None
            self._judged = identity
            return _judge(self.path, data)
        except OSError as error:
            # Whether it can be read may change while the file doesn't.
            self._judged = None
            if _is_missing(error):
                self._seen = ()
            if before != self._seen:
                # Some editors take a file away before they write it anew.
                return None
            if _is_missing(error):
                raise FileNotFoundError(str(self.path)) from None
            raise _unreadable(self.path, error) from None

    def read_written(self, written: Policy) -> Policy | None:
        """Read the file at once, for whoever has just written it; None where it isn't what was written any more.

        Raises PolicyError, and FileNotFoundError where there is no file.
        """
        try:
            data, identity = _read(self.path)
        except OSError as error:
            if _is_missing(error):
                raise FileNotFoundError(str(self.path)) from None
            raise _unreadable(self.path, error) from None
        policy = _judge(self.path, data)
        if policy.digest != written.digest:
            # Somebody may be writing just now.
            return None
        self._seen = self._judged = identity
        return policy


class IPolicyReactor(IReactorTime, IReactorFromThreads):
    """What following the policy needs of a reactor."""


class PolicyWatcher(Service):
    """Follows a policy file, and calls `taken`, in the reactor, with each policy that is in force from then on.

    A file that is `required` is missed also where it never was. `current` is what is in force already: what
    `load_policy` returned at the start. What `guard` objects to is not taken.
    """

    name = "policy"
    log = Logger()

    def __init__(
        self,
        path: Path,
        required: bool,
        reactor: IPolicyReactor,
        pool: ThreadPool,
        taken: Callable[[Policy], None],
        current: Policy = DEFAULT_POLICY,
        guard: AccessGuard | None = None,
    ) -> None:
        self.current = current
        """The policy in force."""
        self.trouble = ""
        """What is wrong with the file, on one line; empty where nothing is."""
        self._file = PolicyFile(path)
        self._guard = guard
        self._required = required
        self._reactor = reactor
        self._pool = pool
        self._taken = taken
        self._one_at_a_time = DeferredLock()
        self._next: IDelayedCall | None = None
        self._looking: Deferred[None] | None = None
        self._catalog: Catalog | None = None
        self._strangers: frozenset[str] = frozenset()

    @property
    def path(self) -> Path:
        """The policy file, which needs not be there."""
        return self._file.path

    def judge(self, text: str) -> Policy:
        """Return the policy that a text would be, as the file. Raises PolicyError where it would not be taken."""
        policy = _judge(self.path, text.encode())
        if self._guard is not None:
            self._guard.check(policy, str(self.path), closed=self.current.access.closed)
        return policy

    def look_now(self, written: Policy) -> Deferred[Policy]:
        """Put in force what was written to the file just now, as `judge` returned it; fire with what is in force then.

        Where somebody else has changed the file since, that counts later, as always. The Deferred fails with
        PolicyError where the file isn't taken, and FileNotFoundError where there is none.
        """
        return Deferred.fromCoroutine(self._look_now(written))

    async def _look_now(self, written: Policy) -> Policy:
        await self._one_at_a_time.acquire()
        try:
            policy = await deferToThreadPool(self._reactor, self._pool, self._file.read_written, written)
            if policy is not None:
                await self._put_in_force(policy)
        finally:
            self._one_at_a_time.release()
        return self.current

    async def _put_in_force(self, policy: Policy) -> None:
        """Go by a policy from now on, if it may be. Raises PolicyError."""
        if self._guard is not None:
            self._guard.check(policy, str(self._file.path), closed=self.current.access.closed)
        self._tell("")
        self._take(policy)
        await self._note(policy)

    def startService(self) -> None:
        """Look at the file for the first time, and from then on."""
        super().startService()
        self._look()

    def stopService(self) -> Deferred[None] | None:
        """Stop; the returned Deferred fires when the thread is idle."""
        super().stopService()
        if self._next is not None:
            self._next.cancel()
            self._next = None
        return self._looking

    def _look(self) -> None:
        self._next = None
        self._looking = Deferred.fromCoroutine(self._look_once())

    async def _look_once(self) -> None:
        """Look at the file, take what it says, and see to the next time."""
        await self._one_at_a_time.acquire()
        try:
            policy = await deferToThreadPool(self._reactor, self._pool, self._file.look)
            if policy is not None and self.running:
                await self._put_in_force(policy)
        except PolicyError as error:
            self._tell(str(error))
        except FileNotFoundError:
            missed = self._required or self.current is not DEFAULT_POLICY
            self._tell(f"{self._file.path}: has gone; write an empty file for the defaults" if missed else "")
        except Exception:  # noqa: BLE001 - the file is looked at again, whatever it was
            self.log.failure("following the policy failed; it is tried again")
        finally:
            self._one_at_a_time.release()
        if self.running:
            self._next = self._reactor.callLater(INTERVAL, self._look)

    async def _note(self, policy: Policy) -> None:
        """Keep in mind for the next start whether access is closed now."""
        if self._guard is None:
            return
        try:
            await deferToThreadPool(self._reactor, self._pool, self._guard.note, policy)
        except OSError as error:
            self.log.error(
                "{file} can't be changed: {reason}; at the next start the server won't know whether access was closed",
                file=str(self._guard.mark),
                reason=error.strerror,
            )

    def _take(self, policy: Policy) -> None:
        if policy.digest == self.current.digest:
            return
        self.current = policy
        self.log.info("{file}: the policy is in force", file=str(self._file.path))
        self._taken(policy)
        if self._catalog is not None:
            self.take_catalog(self._catalog)

    def take_catalog(self, catalog: Catalog) -> None:
        """Look whether the policy names projects that a new catalog doesn't have, which may be misspelled."""
        self._catalog = catalog
        known = {name for channel in catalog.channels.values() for name in channel.projects}
        strangers = self.current.projects - known
        for name in sorted(strangers - self._strangers):
            self.log.warn(
                "{file}: there is no file of project {project!a}, which it names",
                file=str(self._file.path),
                project=name,
            )
        self._strangers = strangers

    def _tell(self, trouble: str) -> None:
        """Log a trouble once, and its end; the policy in force stays so meanwhile."""
        before = self.trouble
        if trouble == before or not self.running:
            return
        self.trouble = trouble
        if trouble:
            self.log.error("{trouble} (the policy read before stays in force)", trouble=trouble)
        else:
            self.log.warn("over: {trouble}", trouble=before)
