"""Reading: how the server is."""

from __future__ import annotations

from collections import Counter

from ota_server import __version__
from ota_server.fleet.rollout import State
from ota_server.forgetful import Forgetful
from ota_server.operator.calls import Answer, Call, Json, Operation
from ota_server.operator.house import House
from ota_server.operator.schemas import (
    COUNT,
    FLAG,
    SECONDS,
    TEXT,
    TIME,
    a_list,
    an_object,
    described,
    optional,
)
from ota_server.operator.scopes import Scope
from ota_server.operator.shapes import spell_time

_TROUBLE = described(optional(TEXT), "what is wrong, on one line; null where nothing is")

STATUS = an_object(
    version=described(TEXT, "of the server"),
    now=TIME,
    started_at=TIME,
    uptime=SECONDS,
    ready=described(FLAG, "devices are served"),
    doors=described(a_list(TEXT), "where it listens"),
    folder=an_object(path=TEXT, ready=FLAG, trouble=_TROUBLE),
    policy=an_object(path=TEXT, trouble=_TROUBLE, digest=described(optional(TEXT), "SHA-256 of its text")),
    ledger=an_object(
        kept=described(FLAG, "the server remembers its devices"),
        ready=FLAG,
        trouble=_TROUBLE,
        waiting=described(COUNT, "changes that aren't on disk yet"),
        lost=described(COUNT, "check-ins and events that would be lost in a crash, for lack of room"),
        turned_away=described(COUNT, "new devices that there was no room to remember"),
    ),
    certificates=described(a_list(TEXT), "those that end soon, or have ended"),
    counts=an_object(
        channels=COUNT,
        projects=COUNT,
        releases=COUNT,
        images=COUNT,
        devices=COUNT,
        rollouts=an_object(**dict.fromkeys(State, COUNT)),
        not_served=described(COUNT, "files that aren't offered"),
        changing=described(COUNT, "files that are being written, or may be"),
        findings=described(COUNT, "what is odd about the others"),
    ),
)


class Status:
    """What answers; see the operation."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def status(self, call: Call) -> Answer:
        """Tell how the server is."""
        house = self._house
        keeper, watcher, rules = house.keeper, house.watcher, house.rules
        kept = not isinstance(keeper, Forgetful)
        known = house.known
        return Answer(
            {
                "version": __version__.public(),
                "now": spell_time(call.now),
                "started_at": spell_time(house.started_at),
                "uptime": max(0.0, round(call.now - house.started_at, 3)),
                "ready": watcher.catalog is not None and (known is not None or not kept),
                "doors": list(house.doors),
                "folder": {
                    "path": house.folder,
                    "ready": watcher.catalog is not None,
                    "trouble": watcher.trouble or None,
                },
                "policy": {
                    "path": house.policy_file,
                    "trouble": rules.trouble or None,
                    "digest": rules.current.digest or None,
                },
                "ledger": {
                    "kept": kept,
                    "ready": known is not None,
                    "trouble": None if isinstance(keeper, Forgetful) else keeper.trouble or None,
                    "waiting": 0 if known is None else known.outbox.unwritten,
                    "lost": 0 if known is None else known.outbox.lost,
                    "turned_away": 0 if known is None else known.turned_away,
                },
                "certificates": list(house.ends()),
                "counts": self._count(),
            }
        )

    def _count(self) -> Json:
        watcher, known = self._house.watcher, self._house.known
        channels = {} if watcher.catalog is None else watcher.catalog.channels
        places = {} if known is None else known.course.places
        states = Counter(each.state for place in places.values() for each in place.by_version.values())
        words = Counter(notice.word == "not-served" for notice in watcher.notices)
        return {
            "channels": len(channels),
            "projects": len({name for channel in channels.values() for name in channel.projects}),
            "releases": sum(len(each.releases) for channel in channels.values() for each in channel.projects.values()),
            "images": sum(len(channel.files) for channel in channels.values()),
            "devices": 0 if known is None else len(known.devices),
            "rollouts": {state.value: states[state] for state in State},
            "not_served": words[True],
            "changing": len(watcher.changing),
            "findings": words[False],
        }


def make_operations(house: House) -> tuple[Operation, ...]:
    """Return the operations of this room."""
    return (
        Operation(
            "get_status",
            "GET",
            "/status",
            Scope.READ,
            "Tell how the server is: its doors, its troubles, and how much there is of everything.",
            Status(house).status,
            {200: STATUS},
        ),
    )
