"""Waiting until what an operator did is in the ledger."""

from __future__ import annotations

from twisted.internet.defer import TimeoutError as DeferredTimeoutError

from ota_server.fleet.errors import LedgerError
from ota_server.fleet.journal import Event
from ota_server.forgetful import Forgetful
from ota_server.operator.calls import Problem
from ota_server.operator.house import House

PATIENCE = 5.0
"""How long the ledger is waited for, in seconds."""


async def write_down(house: House) -> None:
    """Wait until all that has changed so far is in the ledger, and has taken effect. Raises Problem."""
    keeper = house.keeper
    if isinstance(keeper, Forgetful):
        return
    try:
        await keeper.written().addTimeout(PATIENCE, house.reactor)
    except (LedgerError, DeferredTimeoutError) as error:
        why = keeper.trouble or f"the ledger hasn't answered for {PATIENCE:.0f} s"
        raise Problem(
            503,
            "ledger-trouble",
            "The ledger can't be written now",
            f"it is done, and written as soon as that can be, unless the server ends before: {why}",
        ) from error


async def tell_event(house: House, event: Event) -> list[str]:
    """Write an event of what is done, and durable, already; return notes for people where that can't be now."""
    fleet = house.known
    if fleet is None:
        return []
    fleet.outbox.told(event)
    try:
        await write_down(house)
    except Problem as problem:
        return [f"{problem.title}: {problem.detail}"]
    return []
