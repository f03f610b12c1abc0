"""Tests of what runs in a container: the probe of its health, against real servers, and its process 1."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from ota_server.health import HealthError, ask
from tests.certificates import make_pem
from tests.serving import ServedFolder

LOOPBACK = "tcp:0:interface=127.0.0.1"


def endpoint(text: str = LOOPBACK) -> IStreamServerEndpoint:
    """Make a server endpoint in the reactor that runs the tests."""
    made: IStreamServerEndpoint = serverFromString(reactor, text)
    return made


class Mumbler(Protocol):
    """Speaks no HTTP."""

    def connectionMade(self) -> None:
        """Say something else, with an escape sequence in it, and hang up."""
        assert self.transport is not None
        self.transport.write(b"220 \x1b[2Jmail\r\n")
        self.transport.loseConnection()


class AskTests(TestCase):
    """What the probe makes of servers."""

    def test_ready(self) -> Deferred[None]:
        """A server that has read its folder is ready, and its answer is returned."""

        async def run() -> None:
            port = await ServedFolder(self, {}).serve(endpoint())
            self.assertEqual(await deferToThread(ask, f"http://127.0.0.1:{port}/-/ready"), "ready")

        return Deferred.fromCoroutine(run())

    def test_https(self) -> Deferred[None]:
        """A certificate for another host is no obstacle: who asks for the health of a server trusts it with nothing."""

        async def run() -> None:
            pem = Path(self.mktemp()).absolute()
            pem.write_bytes(make_pem("ota.example.org"))
            port = await ServedFolder(self, {}).serve(
                endpoint(f"ssl:0:privateKey={pem}:certKey={pem}:interface=127.0.0.1")
            )
            self.assertEqual(await deferToThread(ask, f"https://127.0.0.1:{port}/-/ready"), "ready")

        return Deferred.fromCoroutine(run())

    def test_another_answer(self) -> Deferred[None]:
        """Any other status than 200 is a failure, and is told with what the server says."""

        async def run() -> None:
            port = await ServedFolder(self, {}).serve(endpoint())
            url = f"http://127.0.0.1:{port}/nothing"
            error = await self.assertFailure(deferToThread(ask, url), HealthError)
            self.assertEqual(str(error), f"{url}: 404 unknown project")

        return Deferred.fromCoroutine(run())

    def test_no_http(self) -> Deferred[None]:
        """What doesn't speak HTTP is not ready, and it can't write to a terminal."""

        async def run() -> None:
            port: Any = await endpoint().listen(Factory.forProtocol(Mumbler))
            self.addCleanup(port.stopListening)
            url = f"http://127.0.0.1:{port.getHost().port}/"
            done = await deferToThread(
                subprocess.run, [sys.executable, "-m", "ota_server.health", url], capture_output=True, text=True
            )
            self.assertEqual(done.returncode, 1)
            self.assertEqual(done.stderr, f"ota: not ready: {url}: 220 ?[2Jmail\n")

        return Deferred.fromCoroutine(run())


class CommandTests(SynchronousTestCase):
    """The probe as a program, which is what a container runs."""

    def run_probe(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run it, and return what came of it."""
        return subprocess.run(
            [sys.executable, "-m", "ota_server.health", *arguments],
            capture_output=True,
            text=True,
            env={"PYTHONPATH": str(Path(__file__).absolute().parent.parent), **environment},
        )

    def test_nobody_there(self) -> None:
        """Where nobody listens the status is 1 and one line says so; the address may come from the environment."""
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{reserved.getsockname()[1]}/-/ready"
            for done in (self.run_probe(url), self.run_probe(OTA_HEALTH_URL=url)):
                self.assertEqual(done.returncode, 1)
                self.assertEqual(done.stderr, f"ota: not ready: {url}: [Errno 111] Connection refused\n")
                self.assertEqual(done.stdout, "")

    def test_no_address(self) -> None:
        """What can't be asked is told as what it is."""
        for url in ("127.0.0.1:8000", "ftp://127.0.0.1/", "http://", "http://127.0.0.1:notaport/", "http://[::1"):
            done = self.run_probe(url)
            self.assertEqual(done.returncode, 1)
            self.assertTrue(done.stderr.startswith(f"ota: not ready: {url} is no address"), done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1)

    def test_wrong_use(self) -> None:
        """Options and a second address are refused."""
        for arguments in (("--help",), ("http://127.0.0.1:1/", "http://127.0.0.1:2/")):
            done = self.run_probe(*arguments)
            self.assertEqual(done.returncode, 2)
            self.assertEqual(done.stderr, "usage: python -m ota_server.health [URL]\n")


STARTING = """
import signal
from ota_server import cli, container

def serve(arguments):
    print(*arguments, flush=True)
    signal.pause()

cli.main = serve
container.main()
"""
"""A server that never comes to the point at which its reactor takes signals."""


class ContainerTests(SynchronousTestCase):
    """Process 1 of a container."""

    def test_ends_while_it_starts(self) -> None:
        """A signal to end while the server still starts ends it, with status 0, as it does later."""
        process = subprocess.Popen(
            [sys.executable, "-c", STARTING, "--dir", "/firmware"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            self.assertEqual(process.stdout.readline(), "run --dir /firmware\n")
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(10), 0)
        finally:
            process.kill()
            process.communicate()
