"""The endpoint string `device-tls:`, usable wherever Twisted takes endpoint strings."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import quoteStringArgument, serverFromString, wrapServerTLS
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
)
from twisted.plugin import IPlugin
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import implementer

from ota_server.tls.certificates import CertificateError
from ota_server.tls.context import CACHE_SIZE
from ota_server.tls.creator import DeviceTls, TlsFiles
from ota_server.tls.expiry import Expiry
from ota_server.tls.follower import TlsFollower
from ota_server.tls.protocol import DeviceTlsProtocol

PREFIX = "device-tls"
BACKLOG = 4096
"""How many connections may wait to be accepted, as far as the system allows it: after a power cut a fleet comes all
at once, and Twisted's 50 would make most of it try again."""

MAX_PORT = 65535
MAX_BACKLOG = 1_000_000
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


class EndpointStringError(ValueError):
    """An endpoint string that can't be; its message says why and what to do, on one line."""


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
        self._follower: TlsFollower | None = None

    @property
    def asks_for_certificates(self) -> bool:
        """Whether a device has to prove itself by a certificate, or may."""
        return self.tls.asks_for_certificates

    @property
    def expiries(self) -> tuple[Expiry, ...]:
        """When the certificates in use end."""
        return self.tls.expiries

    @property
    def trouble(self) -> str:
        """What is wrong with the files now, on one line; empty where nothing is."""
        return "" if self._follower is None else self._follower.trouble

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Listen; the port that the Deferred fires with follows the files until it is closed."""
        listening = wrapServerTLS(self.tls, _InnerEndpoint(self._endpoint, self.tls)).listen(protocolFactory)
        return listening.addCallback(self._follow)

    def _follow(self, port: IListeningPort) -> IListeningPort:
        self._follower = follower = TlsFollower(self.tls, self._reactor, self._reactor.getThreadPool(), self._now)
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
            try:
                await maybeDeferred(self._port.stopListening)
            finally:
                looking = self._follower.stop()
                if looking is not None:
                    await looking

        return Deferred.fromCoroutine(stop())

    def getHost(self) -> IAddress:
        """Return where it listens."""
        return self._port.getHost()


@implementer(IStreamServerEndpoint)
class _InnerEndpoint:
    """Listens at another endpoint with the factory that speaks TLS, once that is told how."""

    def __init__(self, endpoint: IStreamServerEndpoint, tls: DeviceTls) -> None:
        self._endpoint = endpoint
        self._tls = tls

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Listen."""
        factory = cast("TLSMemoryBIOFactory", protocolFactory)
        factory.protocol = cast("type[TLSMemoryBIOProtocol]", partial(DeviceTlsProtocol, tls=self._tls))
        return self._endpoint.listen(factory)


@implementer(IPlugin, IStreamServerEndpointStringParser)
class DeviceTlsParser:
    """Reads `device-tls:443:cert=fullchain.pem:key=privkey.pem`; docs/https.md tells the keywords."""

    prefix = PREFIX

    def parseStreamServer(self, reactor: Any, *args: Any, **kwargs: Any) -> DeviceTlsEndpoint:
        """Make the endpoint of a string that was taken apart. Raises EndpointStringError and CertificateError."""
        unknown = next((key for key in kwargs if key not in _KEYWORDS), None)
        if unknown is not None:
            raise EndpointStringError(f"{PREFIX} has no {unknown}=; it has {', '.join(f'{key}=' for key in _KEYWORDS)}")
        options: dict[str, str] = kwargs
        sessions = options.get("sessions")
        number = CACHE_SIZE
        if sessions is not None:
            meaning = "it is how many sessions are kept by their ids, such as 100000"
            number = _read_number("sessions", sessions, MAX_SESSIONS, meaning)
        return make_endpoint(reactor, read_files(options), _read_inner(reactor, args, options), number)


def innermost(endpoint: IStreamServerEndpoint) -> IStreamServerEndpoint:
    """Return what Twisted's own wrappers are around, as of `haproxy:device-tls:…`, or else the endpoint itself."""
    # No public name tells of it.
    while (inner := getattr(endpoint, "_wrappedEndpoint", None)) is not None:
        endpoint = inner
    return endpoint


def make_endpoint(
    reactor: Any, files: TlsFiles, endpoint: IStreamServerEndpoint, sessions: int = CACHE_SIZE
) -> DeviceTlsEndpoint:
    """Make an endpoint that speaks TLS at another one. Raises CertificateError."""
    return DeviceTlsEndpoint(DeviceTls(files, sessions), endpoint, reactor)


def read_files(options: dict[str, str]) -> TlsFiles:
    """Read which files the keywords of a string name. Raises EndpointStringError."""
    if "cert" not in options:
        raise EndpointStringError(f"{PREFIX} needs a certificate: {PREFIX}:443:cert=fullchain.pem:key=privkey.pem")
    credentials = [(_path("cert", options["cert"]), _read_path("key", options))]
    if "cert2" in options:
        credentials.append((_path("cert2", options["cert2"]), _read_path("key2", options)))
    elif "key2" in options:
        raise EndpointStringError("key2= needs its certificate: cert2=fullchain.pem")
    authorities = _read_path("clientCA", options)
    optional = options.get("clientOptional")
    if optional is not None and optional not in _ANSWERS:
        raise EndpointStringError(f"clientOptional={optional} can't be; it is yes or no")
    if optional is not None and authorities is None:
        raise EndpointStringError("clientOptional= needs the authority of the devices' certificates: clientCA=ca.pem")
    return TlsFiles(tuple(credentials), authorities, _ANSWERS[optional or "no"])


def _read_inner(reactor: Any, args: tuple[str, ...], options: dict[str, str]) -> IStreamServerEndpoint:
    """Make the endpoint at which it is listened for connections. Raises EndpointStringError."""
    inner = options.get("endpoint")
    if inner is not None:
        clash = next((f"{key}=" for key in ("interface", "backlog") if key in options), "the port" if args else None)
        if clash is not None:
            raise EndpointStringError(f"endpoint= says where to listen; leave {clash} out")
        try:
            return _from_string(reactor, inner)
        except (EndpointStringError, CertificateError):
            raise
        except Exception as problem:  # each kind of endpoint has errors of its own
            raise EndpointStringError(f"endpoint={inner} is no endpoint such as tcp\\:443 ({problem})") from problem
    if len(args) != 1:
        raise EndpointStringError(f"{PREFIX} needs one port: {PREFIX}:443:cert=fullchain.pem:key=privkey.pem")
    if not _is_number(args[0], 0, MAX_PORT):
        raise EndpointStringError(f"{args[0]!r} is no port; ports are numbers from 0 to {MAX_PORT}")
    meaning = f"it is how many connections may wait, such as {BACKLOG}"
    backlog = _read_number("backlog", options.get("backlog", str(BACKLOG)), MAX_BACKLOG, meaning)
    string = f"tcp:{args[0]}:backlog={backlog}"
    if "interface" in options:
        string += f":interface={quoteStringArgument(options['interface'])}"
    return _from_string(reactor, string)


def _from_string(reactor: Any, string: str) -> IStreamServerEndpoint:
    endpoint: IStreamServerEndpoint = serverFromString(reactor, string)
    return endpoint


def _read_number(keyword: str, text: str, largest: int, meaning: str) -> int:
    if not _is_number(text, 1, largest):
        raise EndpointStringError(f"{keyword}={text[:20]} can't be; {meaning}")
    return int(text)


def _is_number(text: str, smallest: int, largest: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10 and smallest <= int(text) <= largest


def _read_path(keyword: str, options: dict[str, str]) -> Path | None:
    return _path(keyword, options[keyword]) if keyword in options else None


def _path(keyword: str, text: str) -> Path:
    if not text:
        raise EndpointStringError(f"{keyword}= names no file")
    try:
        # A daemon leaves the folder that it was started in.
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise EndpointStringError(f"{keyword}={text}: there is no such home folder") from None
