"""The endpoint string `device-tls:`, usable wherever Twisted takes endpoint strings."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import quoteStringArgument, serverFromString, wrapServerTLS
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
)
from twisted.plugin import IPlugin
from zope.interface import implementer

from ota_server.tls.context import CACHE_SIZE
from ota_server.tls.creator import DeviceTls, TlsFiles
from ota_server.tls.expiry import Expiry
from ota_server.tls.follower import TlsFollower

PREFIX = "device-tls"
BACKLOG = 4096
"""How many connections may wait to be accepted, as far as the system allows it: after a power cut a fleet comes all
at once, and Twisted's 50 would make most of it try again."""

MAX_SESSIONS = 10_000_000
_KEYWORDS = (
    "cert",
    "key",
    "cert2",
    "key2",
    "clientCA",
    "clientOptional",
    "sessions",
    "interface",
    "backlog",
    "endpoint",
)
_ANSWERS = {"yes": True, "no": False}


@implementer(IStreamServerEndpoint)
class DeviceTlsEndpoint:
    """Listens with TLS at another endpoint, and follows the files of the certificates while it does.

    `now` is the time in seconds since 1970.
    """

    def __init__(
        self, tls: DeviceTls, endpoint: IStreamServerEndpoint, reactor: Any, now: Callable[[], float] = time.time
    ) -> None:
        self.tls = tls
        self._endpoint = endpoint
        self._reactor = reactor
        self._now = now

    @property
    def asks_for_certificates(self) -> bool:
        """Whether a device has to prove itself by a certificate, or may."""
        return self.tls.asks_for_certificates

    @property
    def expiries(self) -> tuple[Expiry, ...]:
        """When the certificates in use end."""
        return self.tls.expiries

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Listen; the port that the Deferred fires with follows the files until it is closed."""
        inner = self._endpoint if self.tls.shares == 1 else _AddressedEndpoint(self._endpoint, self.tls)
        listening = wrapServerTLS(self.tls, inner).listen(protocolFactory)
        return listening.addCallback(self._follow)

    def _follow(self, port: IListeningPort) -> IListeningPort:
        follower = TlsFollower(self.tls, self._reactor, self._reactor.getThreadPool(), self._now)
        follower.start()
        return _FollowedPort(port, follower)


@implementer(IListeningPort)
class _FollowedPort:
    """A port whose certificates are followed as long as it is open."""

    def __init__(self, port: IListeningPort, follower: TlsFollower) -> None:
        self._port = port
        self._follower = follower

    def startListening(self) -> None:
        """Listen again after an end."""
        self._port.startListening()
        self._follower.start()

    def stopListening(self) -> Deferred[None]:
        """Stop to listen, and to follow."""

        async def stop() -> None:
            await maybeDeferred(self._port.stopListening)
            looking = self._follower.stop()
            if looking is not None:
                await looking

        return Deferred.fromCoroutine(stop())

    def getHost(self) -> IAddress:
        """Return where it listens."""
        return self._port.getHost()


@implementer(IStreamServerEndpoint)
class _AddressedEndpoint:
    """Listens at another endpoint, and tells a DeviceTls from where each connection comes."""

    def __init__(self, endpoint: IStreamServerEndpoint, tls: DeviceTls) -> None:
        self._endpoint = endpoint
        self._tls = tls

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Listen."""
        return self._endpoint.listen(_AddressedFactory(protocolFactory, self._tls))


@implementer(IProtocolFactory)
class _AddressedFactory:
    """Tells a DeviceTls from where a connection comes, right before it is asked for its side of it."""

    def __init__(self, factory: IProtocolFactory, tls: DeviceTls) -> None:
        self._factory = factory
        self._tls = tls

    def doStart(self) -> None:
        """Pass it on."""
        self._factory.doStart()

    def doStop(self) -> None:
        """Pass it on."""
        self._factory.doStop()

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        """Build the protocol of a connection."""
        self._tls.expect(addr)
        return self._factory.buildProtocol(addr)


@implementer(IPlugin, IStreamServerEndpointStringParser)
class DeviceTlsParser:
    """Reads `device-tls:443:cert=fullchain.pem:key=privkey.pem`; docs/https.md tells the keywords."""

    prefix = PREFIX

    def parseStreamServer(self, reactor: Any, *args: Any, **kwargs: Any) -> DeviceTlsEndpoint:
        """Make the endpoint of a string that was taken apart. Raises ValueError and CertificateError."""
        unknown = next((key for key in kwargs if key not in _KEYWORDS), None)
        if unknown is not None:
            raise ValueError(f"{PREFIX} has no {unknown}=; it has {', '.join(f'{key}=' for key in _KEYWORDS)}")
        options: dict[str, str] = kwargs
        return make_endpoint(
            reactor, read_files(options), _read_inner(reactor, args, options), _read_sessions(options.get("sessions"))
        )


def make_endpoint(
    reactor: Any, files: TlsFiles, endpoint: IStreamServerEndpoint, sessions: int = CACHE_SIZE
) -> DeviceTlsEndpoint:
    """Make an endpoint that speaks TLS at another one. Raises CertificateError."""
    return DeviceTlsEndpoint(DeviceTls(files, sessions), endpoint, reactor)


def read_files(options: dict[str, str]) -> TlsFiles:
    """Read which files the keywords of a string name. Raises ValueError."""
    if "cert" not in options:
        raise ValueError(f"{PREFIX} needs a certificate: {PREFIX}:443:cert=fullchain.pem:key=privkey.pem")
    credentials = [(_path(options["cert"]), _path_or_none(options.get("key")))]
    if "cert2" in options:
        credentials.append((_path(options["cert2"]), _path_or_none(options.get("key2"))))
    elif "key2" in options:
        raise ValueError("key2= needs its certificate: cert2=fullchain.pem")
    authorities = _path_or_none(options.get("clientCA"))
    optional = options.get("clientOptional")
    if optional is not None and optional not in _ANSWERS:
        raise ValueError(f"clientOptional={optional} can't be; it is yes or no")
    if optional is not None and authorities is None:
        raise ValueError("clientOptional= needs the authority of the devices' certificates: clientCA=ca.pem")
    return TlsFiles(tuple(credentials), authorities, _ANSWERS[optional or "no"])


def _read_inner(reactor: Any, args: tuple[str, ...], options: dict[str, str]) -> IStreamServerEndpoint:
    """Make the endpoint at which it is listened for connections. Raises ValueError."""
    inner = options.get("endpoint")
    if inner is not None:
        clash = next((key for key in ("interface", "backlog") if key in options), "a port" if args else None)
        if clash is not None:
            raise ValueError(f"endpoint= says where to listen; leave {clash} out")
        return _from_string(reactor, inner)
    if len(args) != 1:
        raise ValueError(f"{PREFIX} needs one port: {PREFIX}:443:cert=fullchain.pem:key=privkey.pem")
    string = f"tcp:{quoteStringArgument(args[0])}:backlog={quoteStringArgument(options.get('backlog', str(BACKLOG)))}"
    if "interface" in options:
        string += f":interface={quoteStringArgument(options['interface'])}"
    return _from_string(reactor, string)


def _from_string(reactor: Any, string: str) -> IStreamServerEndpoint:
    endpoint: IStreamServerEndpoint = serverFromString(reactor, string)
    return endpoint


def _read_sessions(text: str | None) -> int:
    if text is None:
        return CACHE_SIZE
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= MAX_SESSIONS:
        raise ValueError(f"sessions={text} can't be; it is how many sessions are kept by their ids, such as 100000")
    return int(text)


def _path(text: str) -> Path:
    # A daemon leaves the folder that it was started in.
    return Path(text).expanduser().absolute()


def _path_or_none(text: str | None) -> Path | None:
    return None if text is None else _path(text)
