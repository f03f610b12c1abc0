"""Opens the operator's door: its tokens, where it listens, and how people on this machine come to know of it."""

from __future__ import annotations

import ipaddress
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.application.service import MultiService
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IAddress, IListeningPort, IStreamServerEndpoint
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from ota_server.operator.calls import Problem
from ota_server.operator.site import OperatorSite
from ota_server.operator.token_calls import TokenCalls
from ota_server.operator.tokens import (
    TOKEN_FILE,
    TOKENS_FILE,
    Tokens,
    make_first,
    make_token_file,
    read_token_file,
    read_tokens,
    write_file,
)

DOOR_FILE = "operator.json"
"""The file, among what the server keeps, that says where the door is while it is open."""

SAVE_INTERVAL = 300.0
"""How often it is written down when tokens were used last, in seconds."""

_TLS = ("ssl", "tls", "device-tls")

log = Logger()


class ExposedDoorError(Exception):
    """The door would be open to a network that can listen in; the message says what to do, on one line."""


@attrs.frozen
class OperatorDoor:
    """What is told of the operator's door at the start.

    `description` is the text that names the endpoint. `token_file` has the first token, where that isn't the server's
    to make. `hosts` are further names by which the door may be asked. `insecure` lets it be open without TLS to others
    than this machine.
    """

    description: str
    endpoint: IStreamServerEndpoint
    token_file: Path | None = None
    hosts: Sequence[str] = ()
    insecure: bool = False

    @property
    def has_tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.description.removeprefix("haproxy:").partition(":")[0] in _TLS

    def check(self, address: IAddress) -> None:
        """Check where the door listens. Raises ExposedDoorError."""
        if self.insecure or self.has_tls or is_local(address):
            return
        raise ExposedDoorError(
            f"--admin {self.description}: others could listen in, since this is neither TLS nor this machine alone; "
            "give it a certificate (device-tls:PORT:cert=FILE:key=FILE), or let it listen at 127.0.0.1, "
            "or say --admin-insecure"
        )


def is_local(address: IAddress) -> bool:
    """Say whether only this machine can reach an address."""
    if isinstance(address, UNIXAddress):
        return True
    try:
        return ipaddress.ip_address(getattr(address, "host", "").partition("%")[0]).is_loopback
    except ValueError:
        return False


def url_of(address: IAddress, *, has_tls: bool) -> str:
    """Return where this machine finds a door that listens at an address; `unix:/path` for a socket."""
    if isinstance(address, UNIXAddress):
        path = address.name or b""
        return f"unix:{Path(path.decode(errors='surrogateescape')).absolute()}"
    host, port = str(getattr(address, "host", "")), getattr(address, "port", 0)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - what it listens at
    return f"{'https' if has_tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


class OperatorService(MultiService):
    """Keeps the door open: reads the tokens before anybody comes in, and tells where it is.

    `state` is the folder of what the server keeps. `show` prints a line on the terminal, if there is one.
    """

    def __init__(
        self,
        door: OperatorDoor,
        site: OperatorSite,
        tokens: Tokens,
        calls: TokenCalls,
        state: Path,
        reactor: Any,
        now: Callable[[], float],
        *,
        show: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__()
        self.site = site
        self._door = door
        self._tokens = tokens
        self._calls = calls
        self._state = state
        self._now = now
        self._show = show
        self._link_token = ""
        self._saving = LoopingCall(lambda: Deferred.fromCoroutine(self._save()))
        self._saving.clock = reactor

    def privilegedStartService(self) -> None:
        """See whether the tokens can be read, before anything is begun, then open the door. Raises TokenFileError."""
        read_tokens(self._state / TOKENS_FILE)
        path = self._door.token_file or self._state / TOKEN_FILE
        if path.exists():
            read_token_file(path)
        super().privilegedStartService()

    def startService(self) -> None:
        """Read the tokens, or make the first one, then let people in. Raises TokenFileError."""
        self._load()
        super().startService()
        self._saving.start(SAVE_INTERVAL, now=False)

    def _load(self) -> None:
        for token in read_tokens(self._state / TOKENS_FILE):
            self._tokens.add(token)
        path = self._door.token_file or self._state / TOKEN_FILE
        if self._door.token_file is not None or path.exists():
            secret = read_token_file(path)
        else:
            secret = make_token_file(path)
            self._link_token = secret.decode("ascii")
        self._tokens.add(make_first(secret, self._now()))

    def announce(self, port: IListeningPort) -> None:
        """Tell where the door is, now that it is open."""
        url = url_of(port.getHost(), has_tls=self._door.has_tls)
        token_file = self._door.token_file or self._state / TOKEN_FILE
        try:
            write_file(
                self._state / DOOR_FILE, json.dumps({"url": url, "token_file": str(token_file)}).encode() + b"\n"
            )
        except OSError as problem:
            log.warn("{file} can't be written: {reason}", file=self._state / DOOR_FILE, reason=problem.strerror)
        # The token itself must not come to stand in a log.
        log.info("operators are served at {url}, with the token in {file}", url=url, file=token_file)
        if self._link_token and self._show is not None:
            if url.startswith("unix:"):
                self._show(f"The operator's door is {url}; its token is in {token_file}")
            else:
                self._show(f"The operator's door, with its token: {url}/login#token={self._link_token}")
        self._link_token = ""

    async def _save(self) -> None:
        try:
            await self._calls.save()
        except Problem as problem:
            log.warn("{problem}", problem=str(problem))

    def stopService(self) -> Deferred[None]:
        """Close the door, and write down what is known of its tokens."""
        if self._saving.running:
            self._saving.stop()
        (self._state / DOOR_FILE).unlink(missing_ok=True)
        stopped: Deferred[object] = maybeDeferred(super().stopService)
        self.site.close()
        stopped.addCallback(lambda _: Deferred.fromCoroutine(self._save()))
        return stopped.addCallback(lambda _: None)


def show_on_terminal(line: str) -> None:
    """Print a line on the terminal, if it goes there, and not to a journal."""
    # Twisted has put its log in the place of the standard streams by now.
    terminal = sys.__stdout__
    if terminal is not None and terminal.isatty():
        print(line, file=terminal, flush=True)
