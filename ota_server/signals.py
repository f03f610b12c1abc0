"""SIGHUP: one list of what the process reads anew when it gets that signal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger

log = Logger()

_reloads: list[Callable[[], object]] = []


def add_reload(reload: Callable[[], object]) -> Callable[[], None]:
    """Let something be called at each SIGHUP, in the reactor's thread; return what takes it from the list again."""
    _reloads.append(reload)

    def remove() -> None:
        if reload in _reloads:
            _reloads.remove(reload)

    return remove


def reload_all() -> None:
    """Call everything on the list; what fails is logged, and doesn't keep the others from being called."""
    log.info("reloading, as told by SIGHUP")
    for reload in tuple(_reloads):
        try:
            reload()
        except Exception:  # noqa: BLE001 - the server goes on with what it had
            log.failure("reloading failed")


class HangupService(Service):
    """Listens for SIGHUP while it runs. Without it, the signal ends the process."""

    name = "hangup"

    def __init__(self, reactor: IReactorFromThreads) -> None:
        self._reactor = reactor
        self._before: object = None

    def startService(self) -> None:
        """Take the signal over, where this is the thread that may."""
        super().startService()
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGHUP, self._hangup)

    def stopService(self) -> None:
        """Leave the signal as it was found."""
        super().stopService()
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGHUP) == self._hangup:
            signal.signal(signal.SIGHUP, self._before)  # type: ignore[arg-type]

    def _hangup(self, number: int, frame: FrameType | None) -> None:
        # The signal may come in the middle of anything.
        self._reactor.callFromThread(reload_all)
