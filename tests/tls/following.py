"""A follower of certificate files on a clock that the test sets, with real files and no sockets."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from cryptography import x509
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase

from ota_server import signals
from ota_server.tls.creator import DeviceTls, TlsFiles
from ota_server.tls.follower import INTERVAL, ITlsReactor, TlsFollower
from tests.certificates import Authority, Issued
from tests.web.memory import MemoryReactor, OwnThreadPool

NOW = 1_795_435_200.0
"""Where the clock of the world stands, in seconds since 1970."""

ROOT = Authority.root("Root")
STAYS = " (the certificate loaded before stays in use)"


class HeldThreadPool(OwnThreadPool):
    """Runs what it is asked to once the test says so, as a slow disk does."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Callable[[], None]] = []

    def callInThreadWithCallback(
        self, onResult: Callable[[bool, Any], object] | None, func: Callable[..., Any], *args: Any, **kw: Any
    ) -> None:
        """Keep a call for later."""
        run = super().callInThreadWithCallback
        self.held.append(lambda: run(onResult, func, *args, **kw))

    def release(self) -> None:
        """Do the one call that waits."""
        (run,), self.held = self.held, []
        run()


class FollowerCase(SynchronousTestCase):
    """A test with a follower of a certificate and a key in two files, which runs from the start."""

    def setUp(self) -> None:
        """Write the files."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        self.certificate, self.key = folder / "fullchain.pem", folder / "privkey.pem"
        self.clock = MemoryReactor()
        self.now = NOW
        self.first = self.issue()
        self.put(self.first)
        self.files = TlsFiles(((self.certificate, self.key),))
        self.pool: ThreadPool = OwnThreadPool()

    def issue(self, host: str = "ota.example", number: int = 0, days: float = 90) -> Issued:
        """Make a certificate that ends so many days from NOW."""
        return ROOT.issue(host, ends=NOW + days * 86_400, number=number)

    def put(self, issued: Issued) -> None:
        """Write both files, as in place."""
        self.key.write_bytes(issued.key_pem)
        self.certificate.write_bytes(issued.full_chain)

    def start(self, tls: DeviceTls | None = None) -> list[str]:
        """Start to follow; return what is logged of it."""
        self.tls = tls or DeviceTls(self.files, now=lambda: self.now)
        reactor = cast("ITlsReactor", self.clock)
        self.follower = TlsFollower(self.tls, reactor, self.pool, lambda: self.now)
        self.addCleanup(lambda: self.follower.stop())
        return self.logged(self.follower.start)

    def logged(self, action: Callable[[], object]) -> list[str]:
        """Return the lines that an action logs, with their levels; no event of it may hold a key."""
        with capturedLogs() as events:
            action()
        for event in events:
            self.assertNotIn("PRIVATE KEY", repr(event))
        return [
            f"{event['log_level'].name}: {formatEvent(event)}"
            for event in events
            if event["log_level"] != LogLevel.debug
        ]

    def advance(self, looks: int = 1) -> list[str]:
        """Let it look so many times; return what that logs."""
        return self.logged(lambda: self.clock.pump([INTERVAL] * looks))

    def hang_up(self) -> list[str]:
        """Let the process get SIGHUP; return what is logged beside the line that says so."""
        lines = self.logged(signals.reload_all)
        self.assertEqual(lines[0], "info: reloading, as told by SIGHUP")
        return lines[1:]

    @property
    def used(self) -> list[x509.Certificate]:
        """The certificates that are in use."""
        return [credential.chain[0] for credential in self.tls.loaded.credentials]


def in_use(issued: Issued, kind: str = "ECDSA") -> str:
    """Return the line that says of a certificate that it is in use now."""
    end = issued.certificate.not_valid_after_utc.date().isoformat()
    host = issued.certificate.subject.rfc4514_string().removeprefix("CN=")
    return f"info: the {kind} certificate of {host} is in use, which ends on {end}"


def exchange(link: Path, target: Path) -> None:
    """Let a link lead elsewhere, in one step."""
    beside = link.with_name(f"{link.name}.new")
    beside.symlink_to(target)
    os.replace(beside, link)
