"""The course of all rollouts: how they begin, go on by stages, halt, and do what the operator says.

A step takes effect only once it is in the ledger; a release that is to be halted is barred from that moment on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from ota_server.firmware.catalog import Catalog
from ota_server.firmware.versions import Numbers, numbers_of
from ota_server.fleet.device import FAILURES, Attempt, Device, Outcome, Place
from ota_server.fleet.journal import Actor, Event, RolloutRow
from ota_server.fleet.outbox import Outbox, rollout_row
from ota_server.fleet.policy import Policy
from ota_server.fleet.rollout import (
    IDLE_STAGE,
    LAST_STAGE,
    Rollout,
    Rollouts,
    State,
    describe,
    is_good,
    is_last,
    must_halt,
    stage_of,
)


class Course:
    """All rollouts by place. `urgent` is called when something should be written at once."""

    def __init__(
        self, places: dict[Place, Rollouts], outbox: Outbox, policy: Policy, urgent: Callable[[], None]
    ) -> None:
        self.places = places
        self.changes = 0
        """Counts the changes of what is barred, for those who keep answers."""
        self.policy = policy
        self._outbox = outbox
        self._urgent = urgent
        # What is being written down of a rollout and takes effect after that: the last of it, if it was changed again.
        self._planned: dict[Rollout, RolloutRow] = {}

    def rollouts(self, place: Place) -> Rollouts:
        """Return the rollouts of a place, which are made if there are none."""
        found = self.places.get(place)
        if found is None:
            found = self.places[place] = Rollouts()
        return found

    def find(self, place: Place, version: Numbers) -> Rollout | None:
        """Return the rollout of a release, if it has begun."""
        rollouts = self.places.get(place)
        return None if rollouts is None else rollouts.by_version.get(version)

    def begin(self, place: Place, version: Numbers, now: float) -> Rollout:
        """Return the rollout of a release that is about to be offered, which begins if it hasn't."""
        rollouts = self.rollouts(place)
        rollout = rollouts.by_version.get(version)
        if rollout is None:
            stage = stage_of(self.policy.rules_for(place[1], None), 0)
            rollout = Rollout(*place, version, now, now, seats=stage.seats(rollouts.fleet))
            rollouts.by_version[version] = rollout
            self._outbox.rolled(rollout)
            self._tell(now, Actor.SERVER, "started", rollout, f"the rollout begins with {_reach(rollout, stage.text)}")
        return rollout

    def take_catalog(self, catalog: Catalog, now: float) -> None:
        """Begin the rollouts of newest releases that go by stages: these widen with time, so time has to run."""
        for channel in catalog.channels.values():
            for project in channel.projects.values():
                rules = self.policy.rules_for(project.name, None)
                if rules.stages:
                    stones = [stone for stone in rules.stepping_stones if project.release(stone) is not None]
                    for version in (project.releases[0].version, *stones):
                        self.begin((channel.name, project.name), numbers_of(version), now)

    def enter(self, device: Device, attempt: Attempt, now: float) -> None:
        """Count an attempt in its rollout, where its device takes a seat."""
        rollout = self.begin((attempt.channel, attempt.project), attempt.version, now)
        attempt.counted = True
        rollout.admitted += 1
        rollout.admitted_at = now
        self._count(rollout, device, attempt, 1)
        self._outbox.attempted(device, attempt)

    def leave(self, device: Device, attempt: Attempt) -> None:
        """Count an attempt no more, and give its seat back."""
        if attempt.counted:
            rollout = self._rollout_of(attempt)
            self._count(rollout, device, attempt, -1)
            rollout.admitted -= 1
            attempt.counted = False
            self._outbox.attempted(device, attempt)

    def change(self, device: Device, attempt: Attempt, outcome: Outcome, now: float) -> None:
        """Give an attempt an outcome."""
        if not attempt.counted:
            attempt.outcome, attempt.outcome_at = outcome, now
        else:
            rollout = self._rollout_of(attempt)
            self._count(rollout, device, attempt, -1)
            attempt.outcome, attempt.outcome_at = outcome, now
            self._count(rollout, device, attempt, 1)
            if outcome in FAILURES:
                self._consider_halt(rollout, now)
        self._outbox.attempted(device, attempt)

    def settle(self, device: Device, attempt: Attempt) -> None:
        """Keep an attempt in the ledger only; it counts on as it stands."""
        attempt.settled = True
        device.attempts = tuple(each for each in device.attempts if each is not attempt)
        if attempt.counted and attempt.outcome in FAILURES:
            self._rollout_of(attempt).failing.discard(device)
        self._outbox.attempted(device, attempt)

    def _rollout_of(self, attempt: Attempt) -> Rollout:
        return self.places[attempt.channel, attempt.project].by_version[attempt.version]

    def _count(self, rollout: Rollout, device: Device, attempt: Attempt, by: int) -> None:
        outcome = attempt.outcome
        rollout.outcomes[outcome] = rollout.outcomes.get(outcome, 0) + by
        if outcome not in FAILURES:
            return
        if by > 0:
            rollout.failing.add(device)
            return
        rollout.failing.discard(device)
        if attempt.acknowledged:
            attempt.acknowledged = False
            rollout.acknowledged -= 1
            self._write(rollout)

    def heading(self, rollout: Rollout) -> State:
        """Return the state of a rollout, or that which is being written down."""
        planned = self._planned.get(rollout)
        return rollout.state if planned is None else planned.state

    def _consider_halt(self, rollout: Rollout, now: float) -> None:
        rule = self.policy.rules_for(rollout.project, None).halt
        if self.heading(rollout) is State.HALTED or not must_halt(rollout, rule):
            return
        known = rollout.failures + rollout.confirmed
        why = (
            f"{rollout.failures} of the {known} devices whose outcome is known failed "
            f"({rollout.failures / known:.0%}, the limit is {rule.share:.0%}): {describe(rollout.outcomes)}"
        )
        self._halt(rollout, Actor.SERVER, why, now)

    def _halt(self, rollout: Rollout, actor: str, why: str, now: float) -> None:
        rollout.deciding = True
        self._bar(rollout)
        self._plan(rollout, attrs.evolve(rollout_row(rollout), state=State.HALTED, why=why))
        self._tell(now, actor, "halted", rollout, why)

    def _plan(self, rollout: Rollout, row: RolloutRow) -> None:
        """Write the next step of a rollout down, which takes effect after that, if none was planned in its place."""
        policy = self.policy
        self._planned[rollout] = row

        def take_effect() -> None:
            if self._planned.get(rollout) is not row:
                return
            del self._planned[rollout]
            rollout.state, rollout.why, rollout.deciding, rollout.good_since = row.state, row.why, False, None
            rollout.stage, rollout.seats, rollout.stage_since = row.stage, row.seats, row.stage_since
            self._bar(rollout)
            if self.policy is not policy:
                self._fit(rollout)

        self._outbox.plan(row, take_effect)
        self._urgent()

    def _write(self, rollout: Rollout) -> None:
        """Write a rollout down as it is, but for what is planned of it."""
        planned = self._planned.get(rollout)
        if planned is None:
            self._outbox.rolled(rollout)
        else:
            self._outbox.plan(attrs.evolve(planned, acknowledged=rollout.acknowledged), lambda: None)

    def _bar(self, rollout: Rollout) -> None:
        self.places[rollout.channel, rollout.project].update()
        self.changes += 1

    def tick(self, now: float) -> None:
        """Let rollouts go on whose stage has been good for long enough."""
        for rollout in self._running():
            rules = self.policy.rules_for(rollout.project, None)
            if rollout in self._planned:
                continue
            if is_last(rules, rollout.stage):
                if self._is_over(rollout, now):
                    self._step(rollout, now, rollout.stage, State.COMPLETE, "complete", "nobody needs it any more")
            elif not is_good(rollout, rules, now):
                rollout.good_since = None
                self._tell_why_not(rollout, now)
            elif rollout.good_since is None:
                rollout.good_since = now
            if rollout.good_since is not None and now - rollout.good_since >= rules.soak:
                stage = rollout.stage + 1
                self._step(rollout, now, stage, State.RUNNING, "stage", stage_of(rules, stage).text)

    def _tell_why_not(self, rollout: Rollout, now: float) -> None:
        """Tell once a day why a stage doesn't go on."""
        if now - max(rollout.stage_since, rollout.told_at) >= IDLE_STAGE:
            rollout.told_at = now
            text = (
                f"stage {rollout.stage + 1} doesn't go on: {rollout.taken} of {rollout.seats} seats are taken, "
                f"{describe(rollout.outcomes)}"
            )
            self._tell(now, Actor.SERVER, "waiting", rollout, text)

    def _running(self) -> Iterator[Rollout]:
        for rollouts in self.places.values():
            for rollout in rollouts.by_version.values():
                if rollout.state is State.RUNNING:
                    yield rollout

    def _is_over(self, rollout: Rollout, now: float) -> bool:
        """Say whether all of the fleet took a release, or nobody has asked for it for long, and nothing is open."""
        counts = rollout.outcomes
        if counts.get(Outcome.OFFERED) or counts.get(Outcome.DOWNLOADED) or not rollout.confirmed:
            return False
        fleet = self.places[rollout.channel, rollout.project].fleet
        return rollout.confirmed >= fleet or now - rollout.admitted_at >= IDLE_STAGE

    def _step(self, rollout: Rollout, now: float, stage: int, state: State, kind: str, text: str) -> None:
        """Write the next step of a rollout down, which takes effect after that."""
        rules = self.policy.rules_for(rollout.project, None)
        seats = stage_of(rules, stage).seats(self.places[rollout.channel, rollout.project].fleet)
        rollout.good_since = None
        row = attrs.evolve(rollout_row(rollout), stage=stage, seats=seats, state=state, stage_since=now, why=text)
        if kind == "stage":
            text = (
                f"stage {stage + 1} of {max(stage + 1, len(rules.stages))} begins, {_reach_of(seats, text)}; so far "
                + (describe(rollout.outcomes))
            )

        self._plan(rollout, row)
        self._tell(now, Actor.SERVER, kind, rollout, text)

    def halt(self, rollout: Rollout, actor: str, now: float) -> None:
        """Halt a rollout as the operator says."""
        if self.heading(rollout) is not State.HALTED:
            self._halt(rollout, actor, f"by {actor}; so far {describe(rollout.outcomes)}", now)

    def resume(self, rollout: Rollout, actor: str, now: float, *, stage: int | None = None) -> None:
        """Let a halted rollout go on; the failures so far are known and count no more. `stage` begins there anew."""
        rules = self.policy.rules_for(rollout.project, None)
        stage = rollout.stage if stage is None else stage
        seats = stage_of(rules, stage).seats(self.rollouts((rollout.channel, rollout.project)).fleet)
        known = rollout.failures
        for device in rollout.failing:
            for attempt in device.attempts:
                if attempt.counted and _is_of(attempt, rollout) and not attempt.acknowledged:
                    attempt.acknowledged = True
                    self._outbox.attempted(device, attempt)
        rollout.acknowledged += known
        why = f"by {actor}; {known} failures are acknowledged"
        row = rollout_row(rollout)
        self._plan(rollout, attrs.evolve(row, state=State.RUNNING, stage=stage, seats=seats, stage_since=now, why=why))
        self._tell(now, actor, "resumed", rollout, why)

    def complete(self, rollout: Rollout, actor: str, now: float) -> None:
        """Let everybody have a release, as the operator says, whatever its stage."""
        self.resume(rollout, actor, now, stage=LAST_STAGE)

    def take_policy(self, policy: Policy, now: float) -> None:
        """Go by another policy from now on: the stages that rollouts are in may have other sizes."""
        self.policy = policy
        for rollouts in self.places.values():
            for rollout in rollouts.by_version.values():
                if rollout not in self._planned:
                    self._fit(rollout)
                self._consider_halt(rollout, now)

    def _fit(self, rollout: Rollout) -> None:
        """Give the stage of a running rollout as many seats as the policy says."""
        fleet = self.places[rollout.channel, rollout.project].fleet
        seats = stage_of(self.policy.rules_for(rollout.project, None), rollout.stage).seats(fleet)
        if rollout.state is State.RUNNING and seats != rollout.seats:
            rollout.seats, rollout.good_since = seats, None
            self._outbox.rolled(rollout)

    def _tell(self, now: float, actor: str, kind: str, rollout: Rollout, text: str) -> None:
        place = (rollout.channel, rollout.project, rollout.version)
        self._outbox.told(Event(now, actor, kind, text, *place))


def _is_of(attempt: Attempt, rollout: Rollout) -> bool:
    """Say whether an attempt is one at the release of a rollout."""
    return (attempt.channel, attempt.project, attempt.version) == (rollout.channel, rollout.project, rollout.version)


def _reach_of(seats: int | None, text: str) -> str:
    return (
        "for everybody" if seats is None else f"{text}: {_count_of(seats)}" if text.endswith("%") else _count_of(seats)
    )


def _reach(rollout: Rollout, text: str) -> str:
    return "everybody" if rollout.seats is None else _reach_of(rollout.seats, text)


def _count_of(devices: int) -> str:
    return "one device" if devices == 1 else f"{devices} devices"
