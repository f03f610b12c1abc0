"""Orders: what operators decide of rollouts, and of what is remembered of devices. Answered once it is on disk."""

from __future__ import annotations

from ota_server.firmware.versions import numbers_of
from ota_server.fleet.journal import Order
from ota_server.fleet.rollout import LAST_STAGE, Rollout, State
from ota_server.operator.calls import Answer, Call, Handler, Operation, Problem
from ota_server.operator.devices import Devices
from ota_server.operator.durably import write_down
from ota_server.operator.house import House
from ota_server.operator.parameters import CHANNEL, DEVICE, PROJECT, VERSION
from ota_server.operator.schemas import FLAG, TEXT, an_object, described, one_of
from ota_server.operator.scopes import Scope
from ota_server.operator.shapes import ROLLOUT, show_rollout

ROLLOUT_ORDERS = {
    "halt": "Halt a rollout: nobody is offered the release from now on, and downloads of it end.",
    "resume": "Let a halted rollout go on; the failures seen so far are acknowledged.",
    "restart": "Begin a rollout anew with its first stage.",
    "complete": "Let everybody have a release, whatever its stage.",
}

DEVICE_ORDERS = {
    "clear-brake": "Let a device try again that the loop brake holds.",
    "forget": "Forget all that is remembered of a device.",
}

ORDERED = an_object(
    changed=described(FLAG, "false where it stood so already"),
    rollout=ROLLOUT,
)

DONE = an_object(device=described(TEXT, "its id"), done=one_of(DEVICE_ORDERS))


class Orders:
    """What answers; see the operations."""

    def __init__(self, house: House) -> None:
        self._house = house

    def of_rollout(self, kind: str) -> Handler:
        """Return what follows one kind of order."""

        async def handle(call: Call) -> Answer:
            return await self._order_rollout(kind, call)

        return handle

    async def _order_rollout(self, kind: str, call: Call) -> Answer:
        house = self._house
        fleet, catalog = house.fleet, house.catalog
        place, version = (call["channel"], call["project"]), numbers_of(call["version"])
        rollout = fleet.course.find(place, version)
        if rollout is None and kind != "halt":
            project = catalog.project(*place)
            if project is None or project.release(call["version"]) is None:
                raise Problem(404, "unknown-release", f"Channel {place[0]} has no such release")
            raise Problem(
                409, "never-offered", "The rollout has not begun", "this release was never offered to any device"
            )
        changed = rollout is None or not self._stands(kind, rollout)
        if changed:
            order = Order(0, call.now, call.operator.actor, kind, *place, version, None)
            why = fleet.carry_out(order, call.now)
            if why:
                raise Problem(404, "unknown-release", "There is no such release", why)
        # Also where nothing changes: it may be on its way.
        await write_down(house)
        rollouts = fleet.course.rollouts(place)
        shown = show_rollout(rollouts.by_version[version], rollouts, house.policy.rules_for(place[1], None))
        return Answer({"changed": changed, "rollout": shown})

    def _stands(self, kind: str, rollout: Rollout) -> bool:
        """Say whether a rollout stands as an order wants it already. Raises Problem where it can't come to that."""
        heading = self._house.fleet.course.heading(rollout)
        running = heading is State.RUNNING and not rollout.failures
        match kind:
            case "halt":
                return heading is State.HALTED
            case "resume" if heading is State.COMPLETE:
                raise Problem(
                    409, "is-complete", "The rollout is complete", "nothing is left to resume; restart begins it anew"
                )
            case "resume":
                return running
            case "complete":
                return heading is State.COMPLETE or (running and rollout.stage >= LAST_STAGE)
        return False

    def of_device(self, kind: str) -> Handler:
        """Return what follows one kind of order."""

        async def handle(call: Call) -> Answer:
            device = Devices(self._house).find(call["device"])
            order = Order(0, call.now, call.operator.actor, kind, None, None, None, device.id)
            self._house.fleet.carry_out(order, call.now)
            await write_down(self._house)
            return Answer({"device": device.id, "done": kind})

        return handle


def make_operations(house: House) -> tuple[Operation, ...]:
    """Return the operations of this room."""
    orders = Orders(house)
    return (
        *(
            Operation(
                f"{kind}_rollout",
                "POST",
                f"/projects/{{project}}/rollouts/{{version}}/{kind}",
                Scope.OPERATE,
                summary,
                orders.of_rollout(kind),
                {200: ORDERED},
                (PROJECT, VERSION, CHANNEL),
                problems=(409,),
            )
            for kind, summary in ROLLOUT_ORDERS.items()
        ),
        *(
            Operation(
                kind.replace("-", "_"),
                "POST",
                f"/devices/{{device}}/{kind}",
                Scope.OPERATE,
                summary,
                orders.of_device(kind),
                {200: DONE},
                (DEVICE,),
                problems=(409,),
            )
            for kind, summary in DEVICE_ORDERS.items()
        ),
    )
