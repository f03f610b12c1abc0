"""The gate of the device door: lets requests in by what they prove, and answers those that it doesn't."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from ota_server.fleet.access import REFUSALS, TOKEN_NEEDED, Access, Refusal, strip_token
from ota_server.fleet.checkin import Headers
from ota_server.web.slowing import LONGEST, LONGEST_MISSING, Slowdown, network_of

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from ota_server.web.channel import DeviceChannel
    from ota_server.web.site import DeviceRequest

OPEN_PATHS = frozenset((b"/", b"/-/healthy", b"/-/ready"))
"""Where everybody may ask: nothing of the folder is told there."""

# Exactly one such field, and Basic alone: ESP-IDF joins several, and reads nonsense.
_CHALLENGE = b'WWW-Authenticate: Basic realm="ota"\r\n'
_FIELDS = {reason: b"X-OTA-Reason: %s\r\n" % reason.encode("ascii") for reason in REFUSALS}

log = Logger()


class Gate:
    """Judges requests by who may ask, which is replaced when the policy changes."""

    def __init__(self, reactor: IReactorTime) -> None:
        self.access = Access()
        self.slowdown = Slowdown()
        self._reactor = reactor

    def judge(self, headers: Headers, query: bytes, channel: DeviceChannel) -> str | Refusal | None:
        """Return the id of the device that a request proves to come from, None for nobody in particular, or a Refusal.

        `query` is what stands behind the question mark of the address.
        """
        verdict = self.access.judge(headers, query, channel.read_subject())
        if self.slowdown and not isinstance(verdict, Refusal):
            self.slowdown.forgive(_network_of(channel), self._reactor.seconds())
        return verdict

    def admit(self, request: DeviceRequest) -> bool:
        """Note who a request proves to come from, and take the token out of it.

        Where it isn't let in, see to its answer, and return False.
        """
        if request.path in OPEN_PATHS:
            return True
        if request.brought is None:
            request.brought = request.query
            request.query = strip_token(request.query)
        headers = dict(request.requestHeaders.getAllRawHeaders())
        verdict = self.judge(headers, request.brought, request.channel)
        if isinstance(verdict, Refusal):
            self._refuse(request, verdict)
            return False
        request.proven = verdict
        return True

    def _refuse(self, request: DeviceRequest, refusal: Refusal) -> None:
        """Answer a refusal, sooner or later, or not at all."""
        network = _network_of(request.channel)
        longest = LONGEST_MISSING if refusal.missing else LONGEST
        delay = self.slowdown.refuse(network, self._reactor.seconds(), longest)
        if delay is None:
            # Nor is it logged: of these there may be thousands in a second.
            request.break_off()
            return
        if request.site.log_decisions:
            # Without the path: a token that was misplaced there must not be logged either.
            log.info("{peer} is refused: {reason}", peer=network, reason=refusal.reason)
        if not delay:
            _answer(request, refusal)
        else:
            self._hold(request, refusal, network, delay)

    def _hold(self, request: DeviceRequest, refusal: Refusal, network: str, delay: float) -> None:
        """Answer a refusal after some seconds, unless the client leaves before."""

        def answer() -> None:
            self.slowdown.release(network)
            _answer(request, refusal)

        def left(_: Failure) -> None:
            if call.active():
                call.cancel()
                self.slowdown.release(network)

        call = self._reactor.callLater(delay, answer)
        request.notifyFinish().addErrback(left)


def _answer(request: DeviceRequest, refusal: Refusal) -> None:
    """Answer a refusal, and end the connection; but not with the first that asks for a token over this one.

    Where it isn't told to send it at once, `esp_https_ota` of ESP-IDF brings its password after a 401, over the same
    connection, and fails where that has been closed. What it does over and over is refused the second time.
    """
    channel = request.channel
    fields = _FIELDS[refusal.reason]
    if refusal.code == 401:
        fields += _CHALLENGE
    if refusal is not TOKEN_NEEDED or channel.challenged:
        channel.persistent = False
    channel.challenged = True
    if request.clientproto == b"HTTP/1.0":
        # Otherwise it goes without saying; here it is said, since a client that goes on would never end.
        fields += b"Connection: close\r\n"
    request.respond(refusal.code, fields, refusal.text)


def _network_of(channel: DeviceChannel) -> str:
    return network_of(str(getattr(channel.getPeer(), "host", "")))
