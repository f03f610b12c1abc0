"""Tells systemd, or whoever else speaks its protocol, how the server is: sd_notify(3), sd_watchdog_enabled(3)."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from typing import Protocol

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from ota_server.firmware.catalog import Catalog

MAX_BEAT = 5.0
"""The longest time between two looks at how the server is, in seconds."""

MIN_BEAT = 0.01
"""The shortest, in seconds, however impatient the supervisor is."""

START_PATIENCE = 60.0
"""How long the supervisor is asked to wait for the next sign of life during a long start, in seconds."""

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Shelf(Protocol):
    """Where the current catalog is to be had."""

    @property
    def catalog(self) -> Catalog | None:
        """The newest snapshot, or None while devices can't be served yet."""

    def when_ready(self) -> Deferred[None]:
        """Return a Deferred that fires once there is a catalog."""


@attrs.frozen
class Supervisor:
    """Where a supervisor listens, and how long it takes silence for life, in seconds (None: for ever)."""

    address: str
    patience: float | None

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> Supervisor | None:
        """Return the supervisor that the environment names, if any, and take it out of there.

        Children of this process have nothing to tell it. A watchdog that is meant for another process
        (WATCHDOG_PID) is none. Raises ValueError where a value can't be used.
        """
        address, microseconds, process = (environment.pop(name, "") for name in _VARIABLES)
        if not address:
            return None
        if address[0] not in "/@":
            raise ValueError(f"NOTIFY_SOCKET: {address!r} is no path of a socket, and no @name of an abstract one")
        if not microseconds or process not in ("", str(os.getpid())):
            return cls(address, None)
        if not (microseconds.isascii() and microseconds.isdigit() and int(microseconds)):
            raise ValueError(f"WATCHDOG_USEC: {microseconds!r} is no number of microseconds")
        return cls(address, int(microseconds) / 1_000_000)

    @property
    def beat(self) -> float:
        """The time between two signs of life, in seconds: half of what the supervisor waits, as it recommends."""
        return MAX_BEAT if self.patience is None else max(MIN_BEAT, min(MAX_BEAT, self.patience / 2))

    def send(self, *assignments: str) -> None:
        """Send assignments such as `READY=1` in one message, without waiting. Raises OSError."""
        address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            sender.sendto("\n".join(assignments).encode(), address)


class SupervisorService(Service):
    """Tells the supervisor, if there is one, when devices are served, that the reactor runs, and when the end begins.

    To be started after all that listens, and stopped before it: the last child of its parent. The signs of life
    come from the reactor's own clock, so that a reactor that hangs sends none, and the supervisor starts the
    server anew. A message that can't be delivered is tried again with the next sign of life.
    """

    name = "supervisor"
    log = Logger()

    def __init__(
        self,
        shelf: Shelf,
        reactor: IReactorTime,
        environment: MutableMapping[str, str] | None = None,
    ) -> None:
        self._shelf = shelf
        self._environment = os.environ if environment is None else environment
        self._supervisor: Supervisor | None = None
        self._beats = LoopingCall(self._beat)
        self._beats.clock = reactor
        self._waiting: Deferred[None] | None = None
        self._ready_told = False
        self._status_told = ""
        self._failing = False

    def startService(self) -> None:
        """Find the supervisor, and begin to tell it."""
        super().startService()
        try:
            # Not before, since a daemon has become another process by now.
            self._supervisor = Supervisor.from_environment(self._environment)
        except ValueError as problem:
            self.log.error("the supervisor is told nothing: {problem}", problem=str(problem))
        if self._supervisor is None:
            return
        self._ready_told, self._status_told = False, ""
        self._beats.start(self._supervisor.beat, now=True)
        self._waiting = self._shelf.when_ready()
        self._waiting.addCallbacks(lambda _: self._become_ready(), _ignore_end)

    def stopService(self) -> None:
        """Tell that the end has begun."""
        super().stopService()
        if self._beats.running:
            self._beats.stop()
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        if self._supervisor is not None:
            self._send(self._supervisor, "STOPPING=1", "STATUS=ending")
            self._supervisor = None

    def _become_ready(self) -> None:
        self._waiting = None
        if self.running:
            self._beat()

    def _beat(self) -> None:
        """Give a sign of life, together with what has changed since the last one."""
        supervisor = self._supervisor
        if supervisor is None:
            return
        catalog = self._shelf.catalog
        status = describe(catalog)
        assignments = [] if supervisor.patience is None else ["WATCHDOG=1"]
        if catalog is not None and not self._ready_told:
            assignments.append("READY=1")
        elif not self._ready_told:
            # Large folders on slow cards, and databases that come up later, take longer than any fixed limit.
            assignments.append(f"EXTEND_TIMEOUT_USEC={int((START_PATIENCE + supervisor.beat) * 1_000_000)}")
        if status != self._status_told:
            assignments.append(f"STATUS={status}")
        if assignments and self._send(supervisor, *assignments):
            self._ready_told = self._ready_told or catalog is not None
            self._status_told = status

    def _send(self, supervisor: Supervisor, *assignments: str) -> bool:
        """Send assignments; return whether they were. The first of several failures is logged."""
        try:
            supervisor.send(*assignments)
        except OSError as error:
            if not self._failing:
                self.log.warn("the supervisor can't be told: {reason}", reason=error.strerror or str(error))
            self._failing = True
            return False
        self._failing = False
        return True


def _ignore_end(failure: Failure) -> None:
    """Let nobody wait any more."""
    failure.trap(CancelledError)


def describe(catalog: Catalog | None) -> str:
    """Say on one line what is served, for `systemctl status`."""
    if catalog is None:
        return "reading the folder and the ledger"
    projects = sum(len(channel.projects) for channel in catalog.channels.values())
    parts = [_count(projects, "project"), _count(len(catalog), "file")]
    if len(catalog.channels) > 1:
        parts.append(_count(len(catalog.channels), "channel"))
    return f"serving {', '.join(parts)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
