"""Reading: how rollouts stand."""

from __future__ import annotations

import attrs

from ota_server.firmware.versions import numbers_of
from ota_server.fleet.rollout import NO_ROLLOUTS, Rollout, Rollouts, State
from ota_server.operator.calls import Answer, Call, Json, Operation, Problem
from ota_server.operator.house import House
from ota_server.operator.listing import Listing, Order, page_schema
from ota_server.operator.parameters import CHANNEL, PROJECT, VERSION, any_name, one_of
from ota_server.operator.scopes import Scope
from ota_server.operator.shapes import ROLLOUT, show_rollout


@attrs.frozen(eq=False)
class _Placed:
    """A rollout, with all of its project and channel."""

    rollout: Rollout
    rollouts: Rollouts


def _by_project(each: _Placed) -> tuple[str, str, int, int, int]:
    return (each.rollout.project, each.rollout.channel, *each.rollout.version)


_ROLLOUTS: Listing[_Placed] = Listing(
    {
        "project": Order(_by_project, (str, str, int, int, int)),
        "started_at": Order(
            lambda each: (each.rollout.started_at, *_by_project(each)), (float, str, str, int, int, int)
        ),
    },
    "-started_at",
)


class Progress:
    """What answers; see the operations."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def rollouts(self, call: Call) -> Answer:
        """List rollouts."""
        places = self._house.fleet.course.places
        found = [
            _Placed(rollout, rollouts)
            for (channel, project), rollouts in places.items()
            if call["project"] in (None, project) and call["channel"] in (None, channel)
            for rollout in rollouts.by_version.values()
            if call["state"] in (None, rollout.state.value)
        ]
        page = await self._house.turns.run(_ROLLOUTS.scan(call, found))
        return _ROLLOUTS.answer(call, page, self._show)

    def _show(self, each: _Placed) -> Json:
        return show_rollout(each.rollout, each.rollouts, self._house.policy.rules_for(each.rollout.project, None))

    async def rollout(self, call: Call) -> Answer:
        """Show one rollout."""
        place = (call["channel"], call["project"])
        rollouts = self._house.fleet.course.places.get(place, NO_ROLLOUTS)
        rollout = rollouts.by_version.get(numbers_of(call["version"]))
        if rollout is None:
            catalog = self._house.catalog
            project = catalog.project(*place)
            if project is not None and project.release(call["version"]) is not None:
                raise Problem(
                    404, "no-rollout", "The rollout has not begun", "it begins when the first device is offered it"
                )
            raise Problem(404, "unknown-release", f"Channel {place[0]} never had such a release")
        return Answer(self._show(_Placed(rollout, rollouts)))


def make_operations(house: House) -> tuple[Operation, ...]:
    """Return the operations of this room."""
    progress = Progress(house)
    return (
        Operation(
            "list_rollouts",
            "GET",
            "/rollouts",
            Scope.READ,
            "List the rollouts: how far each release has got in its channel.",
            progress.rollouts,
            {200: page_schema(ROLLOUT)},
            (
                any_name("project", "Only rollouts of this project."),
                any_name("channel", "Only rollouts in this channel."),
                one_of("state", list(State), "Only rollouts that stand so."),
                *_ROLLOUTS.parameters,
            ),
            problems=(409,),
        ),
        Operation(
            "get_rollout",
            "GET",
            "/projects/{project}/rollouts/{version}",
            Scope.READ,
            "Show how the rollout of a release stands.",
            progress.rollout,
            {200: ROLLOUT},
            (PROJECT, VERSION, CHANNEL),
            problems=(409,),
        ),
    )
