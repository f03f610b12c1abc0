"""Reading: what was decided, by the server and by operators, the newest first."""

from __future__ import annotations

from typing import Any

from ota_server.fleet.ledger import EventNumber
from ota_server.operator.calls import Answer, Call, Operation
from ota_server.operator.house import House
from ota_server.operator.listing import CURSOR, LIMIT, page_schema, read_cursor, write_cursor
from ota_server.operator.parameters import any_name, any_text, any_time
from ota_server.operator.scopes import Scope
from ota_server.operator.shapes import EVENT, show_event

EVENTS_PAGE = page_schema(EVENT)

_SORT = "-id"


async def list_events(house: House, call: Call, **about: Any) -> Answer:
    """Return a page of events; `about` are arguments of Ledger.count_events. Raises Problem."""
    assert house.fleet is not None
    limit = call["limit"]
    before: EventNumber | None = None
    if call["cursor"] is not None:
        batch, place = read_cursor(call["cursor"], _SORT, (int, int))
        before = (batch, place)
    found, total = await house.read(
        lambda ledger: (ledger.events(limit + 1, before=before, **about), ledger.count_events(**about))
    )
    shown = found[:limit]
    following = write_cursor(_SORT, shown[-1][0]) if len(found) > limit else None
    items = [show_event(number, event) for number, event in shown]
    return Answer({"items": items, "next": following, "total": total})


FILTERS = (
    any_text("kind", "Only events of this kind, such as halted."),
    any_name("project", "Only events about this project."),
    any_name("channel", "Only events about this channel."),
    any_text("device", "Only events about the device with this id."),
)
"""The parameters that leave events out."""


def make_operations(house: House) -> tuple[Operation, ...]:
    """Return the operations of this room."""

    async def events(call: Call) -> Answer:
        about = {name: call[name] for name in ("kind", "project", "channel", "device", "since")}
        return await list_events(house, call, **about)

    return (
        Operation(
            "list_events",
            "GET",
            "/events",
            Scope.READ,
            "List what was decided, the newest first.",
            events,
            {200: EVENTS_PAGE},
            (*FILTERS, any_time("since", "Only events of this time or later."), LIMIT, CURSOR),
            problems=(409,),
        ),
    )
