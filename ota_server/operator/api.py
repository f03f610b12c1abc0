"""All operations of the API, out of their rooms."""

from __future__ import annotations

from ota_server.operator import (
    devices,
    event_list,
    events,
    explaining,
    ordering,
    publishing,
    reading,
    rollouts,
    status,
    writing,
    yanking,
)
from ota_server.operator.calls import Operation
from ota_server.operator.house import House
from ota_server.operator.token_calls import TokenCalls

_ROOMS = (reading, devices, rollouts, event_list, events, explaining, status, publishing, yanking, ordering, writing)
"""Those with a `make_operations(house)`."""


def make_all_operations(house: House, tokens: TokenCalls) -> tuple[Operation, ...]:
    """Return all operations."""
    made = [operation for room in _ROOMS for operation in room.make_operations(house)]
    return (*made, *tokens.make_operations())
