"""Tests of how the parts are put together."""

from __future__ import annotations

import resource
import socket
from pathlib import Path

from twisted.application.service import Application
from twisted.internet.endpoints import serverFromString
from twisted.logger import ILogObserver
from twisted.python.components import Componentized
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides

from ota_server.doors import StartError
from ota_server.service import OtaService, make_ota_service, raise_file_limit


def ignore(event: object) -> None:
    """Observe nothing."""


def watch(event: object) -> None:
    """Observe nothing, either."""


directlyProvides(ignore, ILogObserver)
directlyProvides(watch, ILogObserver)


def make_watching_observer() -> ILogObserver:
    """Return the observer of the server."""
    return ILogObserver(watch)


class StartTests(SynchronousTestCase):
    """Starting, and what may hinder it."""

    def make(self, port: int, *, foreground: bool) -> OtaService:
        """Make a server that is to listen at a port of the loopback."""
        from twisted.internet import reactor

        folder = Path(self.mktemp())
        folder.mkdir()
        endpoint = serverFromString(reactor, f"tcp:{port}:interface=127.0.0.1")
        return make_ota_service(folder, folder, [("here", endpoint)], foreground=foreground)

    def test_port_in_use(self) -> None:
        """A taken port ends the program in the foreground, and raises for twistd to report in the background."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            self.assertRaises(SystemExit, self.make(port, foreground=True).privilegedStartService)
            error = self.assertRaises(StartError, self.make(port, foreground=False).privilegedStartService)
        self.assertIn("can't listen at here: Address already in use", str(error))

    def test_log_observer(self) -> None:
        """An application gets the log observer of its server, unless it has one."""
        for given in (None, ignore):
            application = Application("test")
            assert isinstance(application, Componentized)
            if given is not None:
                application.setComponent(ILogObserver, given)

            OtaService(foreground=True, make_observer=make_watching_observer).setServiceParent(application)
            self.assertIs(application.getComponent(ILogObserver), given or watch)

    def test_file_limit(self) -> None:
        """The process may open as many files as the system allows it."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        raise_file_limit()
        self.assertEqual(resource.getrlimit(resource.RLIMIT_NOFILE), (hard, hard))

    def test_file_limit_that_the_system_denies(self) -> None:
        """Where the system says no, as macOS may, the limit stays as it is."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))

        def deny(*arguments: object) -> None:
            raise ValueError("current limit exceeds maximum limit")

        self.patch(resource, "setrlimit", deny)
        raise_file_limit()
        self.assertEqual(resource.getrlimit(resource.RLIMIT_NOFILE)[0], min(soft, 256))
