"""A fleet without hardware: made-up devices that check in with the real decisions, in simulated time.

Nothing here reads a clock, and all dice are those of the scenario's seed, so that the same scenario gives the same
result. The ledger is behind a callable, which may block.
"""

from __future__ import annotations

import random
from bisect import insort
from collections import defaultdict
from collections.abc import Callable

from ota_server.firmware.catalog import STABLE
from ota_server.firmware.versions import numbers_of
from ota_server.fleet.crowd import IMAGE_SIZE, Actor, History, make_crowd
from ota_server.fleet.decide import Send
from ota_server.fleet.device import FAILURES
from ota_server.fleet.policy import Policy
from ota_server.fleet.scenario import BEGIN, DAY, FaultKind, Scenario
from ota_server.fleet.servers import FleetServer, Server
from ota_server.fleet.tally import SAMPLE, Halt, Result, Step, Tally

MINUTE = 60.0
"""How often a simulated server looks at what is due, in seconds."""

# What happens to a device, in the order in which it does at one time.
_CHECK, _DONE, _BROKEN, _DIE, _LEAVE = range(5)


def channel_of(scenario: Scenario, policy: Policy) -> str:
    """Return the channel that the devices of a scenario are served from."""
    return policy.rules_for(scenario.project, None).channel or STABLE


class Simulation:
    """One scenario with one server, named `name` in the result. `channel` is where the images are."""

    def __init__(self, scenario: Scenario, name: str, server: Server, channel: str = STABLE) -> None:
        self.scenario = scenario
        self.server = server
        self.now = BEGIN
        self._name = name
        self._dice = random.Random(scenario.seed)  # noqa: S311
        # Looked up once, since there are millions of check-ins.
        self._random = self._dice.random
        self._answer = server.answer
        self.crowd = make_crowd(scenario, self._dice)
        self._history = History(scenario, channel)
        self._new = numbers_of(scenario.new)
        self._release_at = BEGIN + scenario.release_at // MINUTE * MINUTE
        self._fix_at: float | None = None
        self._fixed_at: float | None = None
        self._halt: Halt | None = None
        self._end = BEGIN + scenario.end
        self._tally = Tally(scenario.devices)
        self._jitter = scenario.jitter
        # What happens when, by minutes; in a minute by time, and then by number, so that runs are alike.
        self._minutes: defaultdict[int, list[tuple[float, int, int]]] = defaultdict(list)
        self._minute = -1
        self._left_to_do: list[tuple[float, int, int]] = []
        self._leaves: dict[int, float] = {}

    def run(self, observe: Callable[[], None] = lambda: None) -> Result:
        """Play all of it; `observe` is called at the end of each simulated minute."""
        server, tally, crowd = self.server, self._tally, self.crowd
        server.take_catalog(self._history.catalog(1), BEGIN)
        self._wake_all()
        act = (self._check, self._done, self._broken, self._die, self._leave)
        released = False
        for minute in range(int(self.scenario.end // MINUTE)):
            start = BEGIN + minute * MINUTE
            if not released and start >= self._release_at:
                released = True
                server.take_catalog(self._history.catalog(2), start)
                tally.sample(0.0, 0)
            if self._fix_at is not None and start >= self._fix_at:
                server.take_catalog(self._history.catalog(3), start)
                self._fix_at = None
            self._minute = minute
            todo = self._left_to_do = self._minutes.pop(minute, [])
            todo.sort()
            # What happens meanwhile may add to it, behind where this is.
            for self.now, number, kind in todo:
                actor = crowd[number]
                if not actor.gone:
                    act[kind](actor)
            self.now = start + MINUTE
            server.tick(self.now)
            if released:
                self._account()
            observe()
        if isinstance(server, FleetServer):
            server.write(self.now)
            self._account()
        return self._result()

    def _account(self) -> None:
        """Note how the fleet stands at the end of a minute."""
        since = self.now - self._release_at
        self._tally.look(since)
        if since % SAMPLE == 0:
            rollout = self.server.rollout(self._new)
            known = {} if rollout is None else rollout.outcomes
            self._tally.sample(since, sum(known.get(each, 0) for each in FAILURES))
        if self._halt is None and self._new in self.server.halts:
            event, downloads = self.server.halts[self._new]
            self._halt = Halt(event.time - self._release_at, downloads, event.text)
            if self.scenario.fix_after is not None:
                self._fix_at = self._fixed_at = event.time + self.scenario.fix_after

    def _wake_all(self) -> None:
        """Give each device its first turn, somewhere in its interval, and some their last."""
        scenario, dice = self.scenario, self._dice
        for actor in self.crowd:
            first = BEGIN + dice.random() * actor.interval
            if actor.off_at is not None:
                dark_for = (first - BEGIN - actor.off_at) % DAY
                if dark_for < scenario.off_for:
                    first += scenario.off_for - dark_for + actor.start
            self._plan(first, actor.number, _CHECK)
            leaves, when = dice.random() < scenario.vanish, dice.random()
            if leaves:
                self._leaves[actor.number] = BEGIN + when * scenario.end
                self._plan(self._leaves[actor.number], actor.number, _LEAVE)

    def _plan(self, time: float, number: int, kind: int) -> None:
        minute = int((time - BEGIN) // MINUTE)
        if minute == self._minute:
            # Later than what happens now, so that it isn't put before that.
            insort(self._left_to_do, (max(time, self.now + 1e-6), number, kind))
        elif time < self._end:
            self._minutes[minute].append((time, number, kind))

    def _plan_check(self, actor: Actor, after: float | None = None) -> None:
        """Let a device check in after so many seconds, or at its next turn; if it is off then, when it is on again."""
        if after is None:
            after = actor.interval * (1.0 + self._jitter * (2.0 * self._random() - 1.0))
        then = self.now + after
        if actor.off_at is not None and then >= (dusk := self._dusk(actor)):
            then = dusk + self.scenario.off_for + actor.start * (1.0 + self._random())
        self._plan(then, actor.number, _CHECK)

    def _dusk(self, actor: Actor) -> float:
        """Return when a device is switched off next."""
        assert actor.off_at is not None
        return self.now + (actor.off_at - (self.now - BEGIN)) % DAY

    def _check(self, actor: Actor) -> None:
        """Let a device check in."""
        check_in = actor.check_in
        if check_in is None:
            check_in = actor.check_in = self._history.check_in(actor)
        decision = self._answer(check_in, actor.address, self.now)
        if not isinstance(decision, Send):
            if decision.reason == "bounced":
                actor.braked = True
            self._plan_check(actor)
            return
        actor.pending = decision.image
        self.server.begun(check_in, decision.image, self.now)
        done = self.now + actor.seconds
        broken = done + 1.0
        if actor.bad_link and self._random() < self.scenario.bad_links.chance:
            broken = self.now + self._random() * actor.seconds
        if actor.off_at is not None:
            broken = min(broken, self._dusk(actor))
        if broken > done:
            self._plan(done, actor.number, _DONE)
            return
        self._tally.broken_bytes += int((broken - self.now) / actor.seconds * IMAGE_SIZE)
        self._plan(broken, actor.number, _BROKEN)

    def _broken(self, actor: Actor) -> None:
        """Let a download break off."""
        assert actor.pending is not None
        self.server.ended(actor.pending)
        actor.pending = None
        self._tally.broken += 1
        self._plan_check(actor)

    def _done(self, actor: Actor) -> None:
        """Let a download come to its end, and the device start what it got."""
        image, check_in = actor.pending, actor.check_in
        assert image is not None
        assert check_in is not None
        self.server.downloaded(check_in, image, self.now)
        self.server.ended(image)
        actor.pending = None
        self._tally.downloads += 1
        place = self._history.place(image)
        in_vain = self._install(actor, place)
        if in_vain:
            self._tally.in_vain += 1
        if actor.gone:
            return
        if actor.sleeps:
            self._plan_check(actor)
        elif place == 1 and actor.affected and in_vain and not self.server.remembers and not actor.bad_link:
            self._plan_check(actor, self._whirl(actor))
        else:
            self._plan_check(actor, actor.start)

    def _whirl(self, actor: Actor) -> float:
        """Let a device that gets the same image again and again do so until something changes; return how long.

        A server that remembers nothing answers it alike every time, so that one event stands for all.
        """
        horizon = min(self._end, self._leaves.get(actor.number, self._end))
        if actor.off_at is not None:
            horizon = min(horizon, self._dusk(actor))
        turn = actor.seconds + actor.start
        turns = max(0, int((horizon - self.now) / turn) - 1)
        self._tally.downloads += turns
        self._tally.in_vain += turns
        return turns * turn + actor.start

    def _install(self, actor: Actor, place: int) -> bool:
        """Start a release on a device, by its place in the history; return whether it was taken in vain."""
        tally, kind = self._tally, self.scenario.fault.kind
        if place == 1 and not actor.took:
            actor.took = True
            tally.took += 1
        if place != 1 or not actor.affected:
            if actor.brown_out and self._random() < self.scenario.brown_outs.chance:
                tally.brown_outs += 1
                return True
            self._run(actor, place, place)
            return False
        if kind is FaultKind.DIES:
            self._bounce(actor)
            return True
        if kind is FaultKind.NEVER_RETURNS:
            self._lose(actor)
            tally.dead += 1
            return True
        if kind is FaultKind.WRONG_VERSION:
            was = actor.runs
            if not actor.hashes:
                # For the server it is back on the old one.
                self._bounce(actor)
            self._run(actor, place, actor.tells)
            return was == place
        self._run(actor, place, place)
        self._plan(self.now + actor.start + self.scenario.fault.after, actor.number, _DIE)
        return False

    def _run(self, actor: Actor, runs: int, tells: int) -> None:
        self._tally.updated += bool(runs) - bool(actor.runs)
        actor.runs, actor.tells = runs, tells
        actor.check_in = None

    def _bounce(self, actor: Actor) -> None:
        if not actor.bounced:
            actor.bounced = True
            self._tally.bounced += 1

    def _die(self, actor: Actor) -> None:
        """Let a device die of the release, if that still runs."""
        if actor.runs == 1:
            if actor.pending is not None:
                self.server.ended(actor.pending)
            self._lose(actor)
            self._tally.dead += 1

    def _leave(self, actor: Actor) -> None:
        """Let a device be taken out of use."""
        if actor.pending is not None:
            self.server.ended(actor.pending)
        self._lose(actor)
        self._tally.left += 1

    def _lose(self, actor: Actor) -> None:
        actor.gone = True
        self._tally.alive -= 1
        self._tally.updated -= bool(actor.runs)

    def _result(self) -> Result:
        tally, server = self._tally, self.server
        rollout = server.rollout(self._new)
        outcomes = {} if rollout is None else rollout.outcomes
        steps = [
            Step(event.time - self._release_at, ".".join(map(str, event.version)), event.kind, event.text)
            for event in server.events
            if event.version is not None and event.version >= self._new
        ]
        return Result(
            self._name,
            self.scenario.devices,
            tally.alive,
            tally.updated,
            tally.took,
            tally.bounced,
            tally.dead,
            tally.downloads,
            tally.in_vain,
            tally.bytes_in_vain,
            tally.broken,
            tally.brown_outs,
            tally.left,
            sum(actor.braked for actor in self.crowd),
            self._halt,
            None if self._fixed_at is None else self._fixed_at - self._release_at,
            dict(tally.updated_after),
            {str(outcome): number for outcome, number in outcomes.items() if number},
            tuple(steps),
            tuple(tally.samples),
        )
