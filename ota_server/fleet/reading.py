"""Reading the ledger beside the server that writes it, by a connection of its own, so that writing is never held up."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ota_server.fleet.database import Database
from ota_server.fleet.ledger import Ledger, LedgerError

T = TypeVar("T")


class LedgerReader:
    """Reads the ledger at a URL. Everything here blocks; any thread may use it, one at a time gets its turn.

    It connects when it is first asked, and anew where another file has taken the place of the one that it reads: a
    damaged ledger is set aside while the server runs.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._path: Path | None = Database(url).path
        self._ledger: Ledger | None = None
        self._inode: int | None = None
        self._turn = threading.Lock()

    def read(self, ask: Callable[[Ledger], T]) -> T:
        """Return what `ask` finds in the ledger. Raises LedgerError."""
        with self._turn:
            try:
                return ask(self._open())
            except LedgerError:
                # The next one begins with a new connection, in case that helps.
                self._close()
                raise

    def close(self) -> None:
        """Close the connection."""
        with self._turn:
            self._close()

    def _open(self) -> Ledger:
        inode = self._find_inode()
        if self._ledger is not None and inode != self._inode:
            self._close()
        if self._ledger is None:
            ledger = Ledger(self._url)
            ledger.open_for_reading()
            self._ledger, self._inode = ledger, inode
        return self._ledger

    def _find_inode(self) -> int | None:
        if self._path is None:
            return None
        try:
            return os.stat(self._path).st_ino
        except OSError as error:
            raise LedgerError(f"the ledger {self._path} can't be read: {error.strerror}") from error

    def _close(self) -> None:
        if self._ledger is not None:
            ledger, self._ledger = self._ledger, None
            ledger.close()
