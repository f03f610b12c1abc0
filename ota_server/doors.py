"""Where devices and operators are let in: services that listen, and say clearly why they can't."""

from __future__ import annotations

import errno
from collections.abc import Callable

from twisted.application.internet import StreamServerEndpointService
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.web.http import HTTPFactory

from ota_server.operator.door import ExposedDoorError, OperatorDoor
from ota_server.operator.site import OperatorSite

log = Logger()


class StartError(Exception):
    """The server can't start; its message says why and what to do, on one line."""


def _explain(problem: Exception, option: str) -> str:
    """Say why it can't be listened somewhere, and what to do; `option` is that which said where."""
    cause = getattr(problem, "socketError", problem)
    number = getattr(cause, "errno", None)
    reason = getattr(cause, "strerror", None) or str(cause)
    if number == errno.EADDRINUSE:
        return f"{reason}; end the program that does, or choose another {option}"
    if number == errno.EACCES:
        return f"{reason}; choose a {option} from 1024 on, or start as root: twistd --uid USER ota …"
    return f"{reason}; choose another {option}"


class DoorService(StreamServerEndpointService):
    """Listens at one endpoint, and ends the start with one clear line where it can't."""

    option = "--port"
    """What says where to listen."""

    def __init__(self, description: str, endpoint: IStreamServerEndpoint, site: HTTPFactory) -> None:
        super().__init__(endpoint, site)
        self._description = description
        self._raiseSynchronously = True

    def privilegedStartService(self) -> None:
        """Start to listen. Raises StartError."""
        try:
            super().privilegedStartService()
        except Exception as problem:  # noqa: BLE001 - each kind of endpoint has errors of its own
            raise StartError(f"can't listen at {self._description}: {_explain(problem, self.option)}") from None
        self.tell()

    def tell(self) -> None:
        """Log who is served where."""
        log.info("devices are served at {description}", description=self._description)


class OperatorDoorService(DoorService):
    """The same for operators. `opened` is called with the port once the door is open and its tokens are known."""

    option = "--admin PORT, or --admin none"

    def __init__(self, door: OperatorDoor, site: OperatorSite, opened: Callable[[IListeningPort], None]) -> None:
        super().__init__(door.description, door.endpoint, site)
        self._door = door
        self._opened = opened

    def privilegedStartService(self) -> None:
        """Start to listen. Raises StartError, also where others could listen in."""
        super().privilegedStartService()
        listening = self._waitingForPort
        assert listening is not None
        problems: list[ExposedDoorError] = []

        def check(port: IListeningPort) -> IListeningPort:
            try:
                self._door.check(port.getHost())
            except ExposedDoorError as problem:
                port.stopListening()
                problems.append(problem)
            return port

        listening.addCallback(check)
        if problems:
            raise StartError(str(problems[0]))

    def startService(self) -> None:
        """Tell where the door is."""
        super().startService()
        listening = self._waitingForPort
        if listening is not None:
            listening.addCallback(self._open)

    def _open(self, port: IListeningPort) -> IListeningPort:
        self._opened(port)
        return port

    def tell(self) -> None:
        """Log nothing yet: the door itself does."""
