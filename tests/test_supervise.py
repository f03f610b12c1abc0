"""Tests of what a supervisor such as systemd is told."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import skipUnless
from urllib.request import urlopen

from twisted.internet.defer import Deferred
from twisted.internet.protocol import DatagramProtocol, ProcessProtocol
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from ota_server.firmware.catalog import Catalog, Channel
from ota_server.supervise import MAX_BEAT, MIN_BEAT, Supervisor, SupervisorService, describe
from tests.serving import LONG_AGO


class ShelfInHand:
    """A shelf whose catalog the test puts there."""

    def __init__(self) -> None:
        self.catalog: Catalog | None = None
        self.cancelled = 0
        self._ready: Deferred[None] = Deferred(self._cancel)

    def _cancel(self, ready: Deferred[None]) -> None:
        self.cancelled += 1

    def when_ready(self) -> Deferred[None]:
        """Return the Deferred that `fill` fires."""
        return self._ready

    def fill(self) -> None:
        """Let there be a catalog."""
        self.catalog = Catalog.empty()
        self._ready.callback(None)


class Listener:
    """A real socket where systemd would listen; `abstract` gives it no path."""

    def __init__(self, test: SynchronousTestCase | TestCase, *, abstract: bool = False) -> None:
        # A socket's path may have 107 bytes only, and trial's folders are deep.
        folder = tempfile.mkdtemp()
        test.addCleanup(shutil.rmtree, folder)
        self.name = f"@{folder}" if abstract else f"{folder}/notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        test.addCleanup(self.socket.close)
        self.socket.bind(self.name.replace("@", "\0"))
        self.socket.setblocking(False)

    def messages(self) -> list[list[str]]:
        """Return what has come since the last call: the lines of each message."""
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode().split("\n"))
            except BlockingIOError:
                return found


class SupervisorTests(SynchronousTestCase):
    """Reading who supervises the server."""

    def test_none(self) -> None:
        """Where nobody listens there is no supervisor, and what is meant for one is taken away all the same."""
        environment = {"WATCHDOG_USEC": "1000", "HOME": "/"}
        self.assertIsNone(Supervisor.from_environment(environment))
        self.assertEqual(environment, {"HOME": "/"})

    def test_watchdog(self) -> None:
        """A watchdog counts that is meant for this process, or for whoever it may be."""
        for process, patience in (("", 3.0), (str(os.getpid()), 3.0), ("1", None)):
            environment = {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": process}
            self.assertEqual(Supervisor.from_environment(environment), Supervisor("/n", patience))
            self.assertEqual(environment, {})
        self.assertEqual(Supervisor.from_environment({"NOTIFY_SOCKET": "@n"}), Supervisor("@n", None))

    def test_beat(self) -> None:
        """Signs of life come at half of the watchdog's time, within bounds."""
        for patience, beat in ((3.0, 1.5), (None, MAX_BEAT), (600.0, MAX_BEAT), (0.000001, MIN_BEAT)):
            self.assertEqual(Supervisor("/n", patience).beat, beat)

    def test_nonsense(self) -> None:
        """Values that can't be meant are refused by name."""
        for changes, name in (
            ({"NOTIFY_SOCKET": "vsock:2:1"}, "NOTIFY_SOCKET"),
            ({"WATCHDOG_USEC": "-1"}, "WATCHDOG_USEC"),
            ({"WATCHDOG_USEC": "0"}, "WATCHDOG_USEC"),
            ({"WATCHDOG_USEC": "٣"}, "WATCHDOG_USEC"),
        ):
            error = self.assertRaises(ValueError, Supervisor.from_environment, {"NOTIFY_SOCKET": "/n", **changes})
            self.assertIn(name, str(error))


class ServiceTests(SynchronousTestCase):
    """The service, with a socket and a clock of the test."""

    def begin(self, listener: Listener | None = None, **environment: str) -> None:
        """Start a service whose supervisor is the listener."""
        self.listener = listener or Listener(self)
        self.shelf, self.clock = ShelfInHand(), Clock()
        self.environment = {"NOTIFY_SOCKET": self.listener.name, **environment}
        self.service = SupervisorService(self.shelf, self.clock, self.environment)
        self.service.startService()
        self.addCleanup(self.end)

    def end(self) -> None:
        """Stop the service, unless it has been stopped."""
        if self.service.running:
            self.service.stopService()

    def test_course(self) -> None:
        """It asks for time, says once that it is ready, and that it ends; nothing in between where nothing changes."""
        self.begin()
        self.assertEqual(
            self.listener.messages(), [["EXTEND_TIMEOUT_USEC=65000000", "STATUS=reading the folder and the ledger"]]
        )
        self.clock.advance(MAX_BEAT)
        self.assertEqual(self.listener.messages(), [["EXTEND_TIMEOUT_USEC=65000000"]])
        self.shelf.fill()
        self.assertEqual(self.listener.messages(), [["READY=1", "STATUS=serving 0 projects, 0 files"]])
        self.clock.pump([MAX_BEAT] * 10)
        self.assertEqual(self.listener.messages(), [])
        self.service.stopService()
        self.assertEqual(self.listener.messages(), [["STOPPING=1", "STATUS=ending"]])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_watchdog(self) -> None:
        """The watchdog gets a sign of life at half of its time, also while the folder is read, until the end."""
        self.begin(WATCHDOG_USEC="2000000")
        self.shelf.fill()
        self.assertEqual([message[0] for message in self.listener.messages()], ["WATCHDOG=1"] * 2)
        self.clock.advance(0.9)
        self.assertEqual(self.listener.messages(), [])
        self.clock.pump([0.1, 1.0, 1.0])
        self.assertEqual(self.listener.messages(), [["WATCHDOG=1"]] * 3)
        self.service.stopService()
        self.listener.messages()
        self.clock.advance(10.0)
        self.assertEqual(self.listener.messages(), [])

    def test_abstract(self) -> None:
        """An abstract socket, as containers use it, is reached."""
        self.begin(Listener(self, abstract=True))
        self.shelf.fill()
        self.assertIn("READY=1", self.listener.messages()[-1])

    def test_status_follows(self) -> None:
        """What is served is told anew where it changes."""
        self.begin()
        self.shelf.fill()
        self.listener.messages()
        self.shelf.catalog = Catalog({name: Channel(name, {}, {}) for name in ("stable", "beta")}, {})
        self.clock.advance(MAX_BEAT)
        self.assertEqual(self.listener.messages(), [["STATUS=serving 0 projects, 0 files, 2 channels"]])

    def test_children(self) -> None:
        """Children of the server don't find its supervisor."""
        self.begin(WATCHDOG_USEC="2000000", WATCHDOG_PID=str(os.getpid()))
        self.assertEqual(self.environment, {})

    def test_nobody_listens(self) -> None:
        """A supervisor that can't be reached is named once in the log, and told all once it can be."""
        listener = Listener(self)
        held = Path(f"{listener.name}.away")
        Path(listener.name).rename(held)
        with capturedLogs() as events:
            self.begin(listener)
            self.shelf.fill()
            self.clock.advance(MAX_BEAT)
        self.assertEqual([event["log_level"] for event in events], [LogLevel.warn])
        self.assertIn("No such file", events[0]["reason"])
        held.rename(listener.name)
        self.clock.advance(MAX_BEAT)
        self.assertEqual(listener.messages(), [["READY=1", "STATUS=serving 0 projects, 0 files"]])

    def test_full_queue(self) -> None:
        """A supervisor that reads nothing doesn't hold the server up."""
        self.begin(WATCHDOG_USEC="2000000")
        with capturedLogs() as events:
            self.clock.pump([1.0] * 2000)
        self.assertEqual(len(events), 1)
        self.assertLess(len(self.listener.messages()), 2000)
        self.shelf.fill()
        self.assertIn("READY=1", self.listener.messages()[-1])

    def test_end_before_ready(self) -> None:
        """Where the end comes before the folder is read nobody waits for that any more, and it isn't called ready."""
        self.begin()
        self.service.stopService()
        self.assertEqual(self.shelf.cancelled, 1)
        self.assertNotIn("READY=1", [line for message in self.listener.messages() for line in message])

    def test_nonsense(self) -> None:
        """What the supervisor got wrong is told to the log, and the server starts all the same."""
        with capturedLogs() as events:
            self.begin(NOTIFY_SOCKET="vsock:2:1")
        self.assertIn("NOTIFY_SOCKET", events[0]["problem"])
        self.service.stopService()

    def test_alone(self) -> None:
        """Without a supervisor nothing runs and nothing is waited for."""
        clock, shelf = Clock(), ShelfInHand()
        service = SupervisorService(shelf, clock, {})
        service.startService()
        self.assertEqual(clock.getDelayedCalls(), [])
        service.stopService()
        self.assertEqual(shelf.cancelled, 0)

    def test_describe(self) -> None:
        """One of a thing is one."""
        self.assertEqual(describe(Catalog.empty()), "serving 0 projects, 0 files")


class Notified(DatagramProtocol):
    """Where a process of the test tells how it is."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._awaited: tuple[str, Deferred[None]] | None = None

    def datagramReceived(self, datagram: bytes, addr: object) -> None:
        """Note the lines of one message."""
        self.lines += datagram.decode().split("\n")
        if self._awaited is not None and self._awaited[0] in self.lines:
            waiter, self._awaited = self._awaited[1], None
            waiter.callback(None)

    def next(self, line: str) -> Deferred[None]:
        """Return a Deferred that fires once a line comes, whatever has come before."""
        self.lines.clear()
        waiter: Deferred[None] = Deferred()
        self._awaited = (line, waiter)
        return waiter

    def give_up(self, reason: Failure) -> None:
        """Let nobody wait any more."""
        if self._awaited is not None:
            waiter, self._awaited = self._awaited[1], None
            waiter.errback(reason)


class Ended(ProcessProtocol):
    """A process of the test: what it wrote, and how it ended."""

    def __init__(self, notified: Notified) -> None:
        self.written = b""
        self.end: Deferred[int | None] = Deferred()
        self._notified = notified

    def outReceived(self, data: bytes) -> None:
        """Note what it wrote."""
        self.written += data

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        """Note the signal that ended it."""
        self._notified.give_up(Failure(AssertionError(self.written)))
        self.end.callback(getattr(reason.value, "signal", None))


@skipUnless(sys.platform == "linux", "systemd is Linux's")
class ProcessTests(TestCase):
    """A real server, started as systemd starts it."""

    def start(self, folder: Path, short: str, server: socket.socket) -> tuple[Any, Notified, Ended]:
        """Start a server of a folder at a socket that listens already."""
        from twisted.internet import reactor as global_reactor

        reactor: Any = global_reactor
        notified = Notified()
        ended = Ended(notified)
        port = reactor.listenUNIXDatagram(f"{short}/notify", notified)
        self.addCleanup(port.stopListening)
        options = ["--dir", str(folder), "--state", f"{short}/state", "--port", "systemd:domain=INET:index=0"]
        options += ["--admin", "none"]
        process = reactor.spawnProcess(
            ended,
            "/bin/sh",
            # The variables name the process that they are meant for.
            ["sh", "-c", 'LISTEN_PID=$$ WATCHDOG_PID=$$ exec "$@"', "sh", sys.executable, "-m", "ota_server", *options],
            env={
                **os.environ,
                "LISTEN_FDS": "1",
                "LISTEN_FDNAMES": "ota-server.socket",
                "NOTIFY_SOCKET": f"{short}/notify",
                "WATCHDOG_USEC": "200000",
            },
            childFDs={0: "w", 1: "r", 2: "r", 3: server.fileno()},
        )
        self.addCleanup(lambda: process.pid and process.signalProcess("KILL"))
        return process, notified, ended

    async def test_activated(self) -> None:
        """It serves at the socket that it was given, says so once it does, lives, and says when it ends."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        image = folder / "lamp-1.0.0.bin"
        image.write_bytes(b"not empty")
        os.utime(image, (LONG_AGO, LONG_AGO))
        # A socket's path may have 107 bytes only, and trial's folders are deep.
        short = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, short)
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"http://127.0.0.1:{server.getsockname()[1]}/lamp"
            process, notified, ended = self.start(folder, short, server)
        await notified.next("READY=1")
        answer = await deferToThread(lambda: urlopen(address, timeout=30).read())
        self.assertEqual(answer, b"not empty")
        await notified.next("WATCHDOG=1")
        stopping = notified.next("STOPPING=1")
        process.signalProcess("TERM")
        await stopping
        self.assertEqual(await ended.end, signal.SIGTERM, ended.written)
