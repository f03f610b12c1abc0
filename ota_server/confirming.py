"""Those who wait until a batch of changes is in the ledger."""

from __future__ import annotations

from twisted.internet.defer import Deferred


class Confirmations:
    """Deferreds, each with the number of the batch that it waits for; batches are confirmed in ascending order."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, Deferred[None]]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def wait_for(self, batch: int) -> Deferred[None]:
        """Return a Deferred that fires once the batch is confirmed, at once for 0; it may be cancelled."""
        written: Deferred[None] = Deferred(self._give_up)
        if batch:
            self._waiting.append((batch, written))
        else:
            written.callback(None)
        return written

    def _give_up(self, written: Deferred[None]) -> None:
        self._waiting = [each for each in self._waiting if each[1] is not written]

    def confirm(self, batch: int, rest: int = 0) -> None:
        """Tell those who wait for a batch, or one before.

        Where changes were left to a later one, `rest` is that, and all wait for it.
        """
        waiting, self._waiting = self._waiting, []
        for number, written in waiting:
            if number > batch or rest:
                self._waiting.append((max(number, rest), written))
            else:
                written.callback(None)

    def fail(self, problem: Exception) -> None:
        """Tell all who wait that nothing more is confirmed."""
        waiting, self._waiting = self._waiting, []
        for _, written in waiting:
            written.errback(problem)
