"""The memory of the fleet: every device that is known, what it was offered, and what came of that.

It lives in one thread and waits for nothing: what changes is collected for the ledger (`outbox`). Times are arguments,
in seconds since 1970.
"""

from __future__ import annotations

import difflib
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator

from semver import Version

from ota_server.firmware.catalog import Catalog, Image
from ota_server.firmware.naming import Kind
from ota_server.firmware.versions import Numbers
from ota_server.fleet.attempts import Attempts
from ota_server.fleet.checkin import CheckIn, Mode
from ota_server.fleet.course import Course
from ota_server.fleet.decide import Decision, decide_case
from ota_server.fleet.decision import Case, Traffic, find_running
from ota_server.fleet.device import DORMANT, Attempt, Device, Outcome, Place
from ota_server.fleet.journal import Actor, Event, Memory, Order
from ota_server.fleet.listening import MIN_PAUSE, Listening
from ota_server.fleet.newcomers import PROBATION, Newcomers
from ota_server.fleet.outbox import Outbox
from ota_server.fleet.policy import Policy
from ota_server.fleet.rhythm import VISIT, add_interval
from ota_server.fleet.rollout import NO_ROLLOUTS

MAX_DEVICES = 2_000_000
"""How many devices are remembered at most, at some 500 bytes each."""

MAX_WAITING = 10_000
"""How many devices that were told to come later are remembered for their turn."""

WAIT = 7200.0
"""How long they are, in seconds."""

ANEW = 2000
"""How many devices are written anew in one step."""

SHOWN = 5
"""How many names are told in the place of a wrong one."""

MAX_TEXT = 128
"""How many characters of a reported version are kept."""


class Fleet:
    """The memory of the fleet. `urgent` is called when something waits in the outbox that should be written at once."""

    def __init__(self, memory: Memory, policy: Policy, now: float, urgent: Callable[[], None] = lambda: None) -> None:
        self.devices = memory.devices
        self.policy = policy
        self.outbox = Outbox(memory.next_batch, [each for each in memory.devices.values() if each.stale], now)
        self.course = Course(memory.places, self.outbox, policy, urgent)
        self.turned_away = 0
        """How many check-ins came from devices that there was no room to remember."""
        self._catalog: Catalog | None = None
        # The policy may be another than when the ledger was written.
        self.course.take_policy(policy, now)
        self._next_key = memory.next_key
        self._newcomers = Newcomers()
        self._listening = Listening(now)
        self._active = 0
        self._active_of: Counter[str] = Counter()
        self._waiting: OrderedDict[str, float] = OrderedDict()
        self.attempts = Attempts(self.course, self.outbox, self._listening, self._newcomers.remove)
        self.attempts.load(memory.devices.values(), now)
        # Those that don't count as the fleet of their place, for as long as they stay away.
        self._dormant: set[int] = set()
        for device in memory.devices.values():
            if device.last_seen - device.first_seen < PROBATION and device.taken is None:
                self._newcomers.add(device)
            if device.last_seen < now - DORMANT:
                self._dormant.add(device.key)
        for rollouts in memory.places.values():
            for rollout in rollouts.by_version.values():
                # Of devices that were forgotten the ledger counts nothing any more.
                rollout.acknowledged -= max(0, rollout.acknowledged - rollout.failed)

    def answer(self, check_in: CheckIn, catalog: Catalog, address: str, now: float) -> Decision:
        """Remember a check-in from a network address, see what it shows, and decide what to answer."""
        policy = self.policy
        case = Case(check_in, catalog, policy.rules_for(check_in.project, check_in.device), now=now)
        if case.served is not None:
            if check_in.device is not None:
                case.device = self._meet(case, check_in.device, address)
            placed = case.check_in
            case.rollouts = self.course.places.get((placed.channel, placed.project), NO_ROLLOUTS)
        if policy.max_downloads is None and case.rules.max_downloads is None:
            return decide_case(case)
        case.traffic = self.traffic(case.check_in)
        decision = decide_case(case)
        if case.device is not None and decision.reason == "busy":
            self._let_wait(case.device.id, now)
        return decision

    def take_catalog(self, catalog: Catalog, now: float) -> None:
        """See what there is to roll out in a new catalog."""
        self._catalog = catalog
        self.course.take_catalog(catalog, now)

    def barred(self, place: Place) -> frozenset[Numbers]:
        """Return the versions of a project in a channel that nobody gets."""
        rollouts = self.course.places.get(place)
        return frozenset() if rollouts is None else rollouts.barred

    def _meet(self, case: Case, device_id: str, address: str) -> Device | None:
        """Find the device, or make it, and learn what the check-in says of it."""
        now, check_in, running = case.now, case.check_in, case.running
        device = self.devices.get(device_id)
        if device is None:
            device = self._welcome(check_in, device_id, address, now)
            if device is not None:
                self._learn(device, check_in, running, address)
            return device
        listening = self._listening
        if 0 <= now - listening.heard_at <= MIN_PAUSE:
            listening.heard_at = now
        else:
            listening.heard(now)
        before = device.last_seen
        if self._dormant and device.key in self._dormant:
            self._dormant.discard(device.key)
            self.course.rollouts((device.channel, device.project)).fleet += 1
        if now > before:
            device.rhythm = add_interval(device.rhythm, now - before)
            device.last_seen = now
            if device.key in self._newcomers.devices and now - device.first_seen >= PROBATION:
                self._newcomers.remove(device)
        elif before - now > VISIT:
            # The clock was ahead when it was seen last.
            device.last_seen = now
        if self._learn(device, check_in, running, address):
            self.outbox.changed(device)
            self.attempts.look_back(device, check_in, running, now)
        else:
            self.outbox.saw(device, now)
        if device.attempts:
            self.attempts.see(device, check_in, running, case.rules, now)
        return device

    def _welcome(self, check_in: CheckIn, device_id: str, address: str, now: float) -> Device | None:
        """Make a device that was not known; None where there is no room."""
        if len(self.devices) >= MAX_DEVICES:
            self.turned_away += 1
            oldest = self._newcomers.oldest
            if oldest is None:
                return None
            self.forget(oldest)
        place = (check_in.channel, check_in.project)
        device = Device(self._next_key, device_id, check_in.dialect, *place, now, now, address)
        self._next_key += 1
        self.devices[device.id] = device
        self.course.rollouts(place).fleet += 1
        self.outbox.changed(device)
        oldest = self._newcomers.add(device)
        if oldest is not None:
            self.turned_away += 1
            self.forget(oldest)
        return device

    def forget(self, device: Device) -> None:
        """Remember a device no more."""
        del self.devices[device.id]
        self._newcomers.remove(device)
        self._leave(device)
        self.attempts.forget(device)
        self.outbox.forgot(device)

    def _leave(self, device: Device) -> None:
        """Count a device no more as one of the fleet of its place."""
        if device.key in self._dormant:
            self._dormant.discard(device.key)
        else:
            self.course.rollouts((device.channel, device.project)).fleet -= 1

    def _learn(self, device: Device, check_in: CheckIn, running: tuple[Image, ...], address: str) -> bool:
        """Take over what a check-in says; return whether anything is new."""
        image = running[0].facts.core.sha256 if running else None
        if (
            device.version == check_in.version
            and device.image == image
            and device.address == address
            and device.project == check_in.project
            and device.channel == check_in.channel
            and device.chip == check_in.chip
            and device.dialect == check_in.dialect
        ):
            return False
        new = False
        if device.address != address:
            device.address = address
            new = True
        if check_in.mode is not Mode.SKETCH and check_in.mode is not Mode.VERSION:
            return new
        if device.project != check_in.project or device.channel != check_in.channel:
            self._leave(device)
            if device.project == check_in.project:
                self.attempts.leave_channel(device, device.channel, device.project)
            device.channel, device.project = check_in.channel, check_in.project
            self.course.rollouts((device.channel, device.project)).fleet += 1
            new = True
        version = check_in.version
        if device.version != version and (version is None or device.version != version[:MAX_TEXT]):
            # A fleet runs few versions, which are one object each.
            device.version = None if version is None else sys.intern(version[:MAX_TEXT])
            new = True
        if device.image != image:
            device.image = image
            new = True
        if device.chip != check_in.chip or device.dialect != check_in.dialect:
            device.chip, device.dialect = check_in.chip, check_in.dialect
            new = True
        return new

    def begun(self, device_id: str | None, check_in: CheckIn, image: Image, catalog: Catalog, now: float) -> None:
        """Note that bytes of an image are about to be sent to a device, or to one that tells no id; see `ended`."""
        self._active += 1
        self._active_of[image.project] += 1
        device = self.devices.get(device_id) if device_id is not None else None
        if device is not None:
            self._waiting.pop(device.id, None)
            rules = self.policy.rules_for(check_in.project, device.id)
            running = find_running(check_in, catalog) if image.name.kind is Kind.APP else ()
            self.attempts.begun(device, check_in, image, running, rules, now)

    def downloaded(self, device_id: str | None, image: Image, now: float) -> None:
        """Note that the last byte of an image has arrived at a device."""
        device = self.devices.get(device_id) if device_id is not None else None
        if device is not None:
            self.attempts.downloaded(device, image, now)

    def ended(self, image: Image) -> None:
        """Note that an answer which `begun` told of is over, however that came."""
        self._active -= 1
        self._active_of[image.project] -= 1
        if not self._active_of[image.project]:
            del self._active_of[image.project]

    def tick(self, now: float) -> None:
        """Do what is due: to be called about once a second."""
        self.attempts.tick(now)
        while self._waiting and next(iter(self._waiting.values())) <= now - WAIT:
            self._waiting.popitem(last=False)
        self.course.tick(now)

    def traffic(self, check_in: CheckIn) -> Traffic:
        """Return how much is being downloaded, as it matters to a check-in."""
        return Traffic(
            self._active,
            self._active_of[check_in.project],
            self.policy.max_downloads,
            len(self._waiting),
            check_in.device is not None and check_in.device in self._waiting,
            counted=True,
        )

    def _let_wait(self, device: str, now: float) -> None:
        if len(self._waiting) < MAX_WAITING:
            self._waiting.setdefault(device, now)

    def take_policy(self, policy: Policy, now: float) -> None:
        """Go by another policy from now on."""
        self.policy = policy
        self.course.take_policy(policy, now)
        if self._catalog is not None:
            self.course.take_catalog(self._catalog, now)
        self.outbox.told(Event(now, Actor.SERVER, "policy", "another policy is in force"))

    def follow(self, order: Order, now: float) -> None:
        """Do what an operator left for the server to do; what it can't do becomes an event that says why."""
        problem = self.carry_out(order, now)
        if problem:
            place = (order.channel, order.project, order.version, order.device)
            self.outbox.told(Event(now, order.actor, "refused", f"{order.kind}: {problem}", *place))
        self.outbox.followed(order.id)

    def carry_out(self, order: Order, now: float) -> str:
        """Do what an operator wants; return why it can't be done, nothing where it was.

        What it changes of a rollout takes effect once it is written.
        """
        return self._follow_rollout(order, now) if order.version is not None else self._follow_device(order, now)

    def _follow_rollout(self, order: Order, now: float) -> str:
        assert order.version is not None
        place = (order.channel or "stable", order.project or "")
        rollout = self.course.find(place, order.version)
        if rollout is None:
            if order.kind != "halt":
                return "this release was never offered to any device"
            if self._catalog is not None and (problem := _find_missing(self._catalog, place, order.version)):
                return problem
            # A release that nobody got yet may be stopped before it begins.
            rollout = self.course.begin(place, order.version, now)
        match order.kind:
            case "halt":
                self.course.halt(rollout, order.actor, now)
            case "resume":
                self.course.resume(rollout, order.actor, now)
            case "restart":
                self.course.resume(rollout, order.actor, now, stage=0)
            case "complete":
                self.course.complete(rollout, order.actor, now)
            case _:
                return "unknown order"
        return ""

    def write_anew(self) -> Iterator[None]:
        """Note all that is known to be written into an empty ledger: rollouts at once, then some devices each step.

        Devices that something is open of come first. What a device took for good is written as an attempt, too, so
        that it goes on to count in its rollout.
        """
        for rollouts in self.course.places.values():
            for rollout in rollouts.by_version.values():
                self.course._write(rollout)  # noqa: SLF001 - which knows what is planned of it
        yield
        devices = list(self.devices.values())
        ordered = [each for each in devices if each.attempts] + [each for each in devices if not each.attempts]
        for number, device in enumerate(ordered, 1):
            if self.devices.get(device.id) is device:
                self.outbox.changed(device)
                for attempt in device.attempts:
                    self.outbox.attempted(device, attempt)
                if device.taken is not None:
                    channel, project, version, image = device.taken
                    seen = device.last_seen
                    taken = Attempt(channel, project, Kind.APP, version, image, None, seen, Outcome.CONFIRMED, seen)
                    taken.downloads, taken.settled, taken.counted = device.taken_downloads, True, True
                    self.outbox.attempted(device, taken)
            if not number % ANEW:
                yield

    def _follow_device(self, order: Order, now: float) -> str:
        device = self.devices.get(order.device or "")
        if device is None:
            return "this device is not known"
        match order.kind:
            case "clear-brake":
                for attempt in device.attempts:
                    attempt.braked_until, attempt.downloads = 0.0, 0
                    self.outbox.attempted(device, attempt)
            case "forget":
                self.forget(device)
            case _:
                return "unknown order"
        self.outbox.told(Event(now, order.actor, order.kind, "", device.channel, device.project, None, device.id))
        return ""


def _find_missing(catalog: Catalog, place: Place, version: Numbers) -> str:
    """Say what is wrong where there is no such release in the folder, and which there are; empty where there is."""
    channel, name = place
    project = catalog.project(channel, name)
    if project is not None:
        if project.release(Version(*version)) is not None:
            return ""
        versions = [str(release.version) for release in project.releases]
        more = " and older ones" if len(versions) > SHOWN else ""
        others = _elsewhere(catalog, place, version)
        return f"{name} has no release {_spell(version)}; there are {', '.join(versions[:SHOWN])}{more}{others}"
    found = catalog.channels.get(channel)
    if found is None:
        near = _nearest(channel, catalog.channels)
        return f"there is no channel {channel!a}{near}{_elsewhere(catalog, place, version)}"
    near = _nearest(name, found.projects)
    return f"there is no project {name!a} in channel {channel}{near}{_elsewhere(catalog, place, version)}"


def _elsewhere(catalog: Catalog, place: Place, version: Numbers) -> str:
    """Name the channels that have a release of a project."""
    channels = [
        name
        for name, channel in catalog.channels.items()
        if (project := channel.projects.get(place[1])) is not None and project.release(Version(*version)) is not None
    ]
    return f"; it is in channel {', '.join(sorted(channels))} (--channel)" if channels else ""


def _nearest(name: str, names: Iterable[str]) -> str:
    """Name the one that was likely meant, or else those that there are."""
    known = sorted(names)
    near = difflib.get_close_matches(name, known, 1)
    if near:
        return f"; did you mean {near[0]}?"
    more = " and others" if len(known) > SHOWN else ""
    return f"; there are {', '.join(known[:SHOWN])}{more}" if known else "; there are none"


def _spell(version: Numbers) -> str:
    return ".".join(map(str, version))
