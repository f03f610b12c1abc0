"""Laws of rollouts: random histories of a fleet, and what holds after each step of them."""

from __future__ import annotations

from collections import Counter

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.catalog import Catalog
from ota_server.firmware.naming import Kind
from ota_server.firmware.versions import Numbers, numbers_of
from ota_server.fleet.checkin import Mode
from ota_server.fleet.decision import Decision, Send
from ota_server.fleet.device import FAILURES, Attempt, Device, Outcome
from ota_server.fleet.outbox import rollout_row
from ota_server.fleet.outcomes import BRAKE, patience
from ota_server.fleet.policy import read_policy
from ota_server.fleet.rollout import Rollout, State
from ota_server.fleet.rules import Rules
from tests.firmware.samples import make_catalog, make_image
from tests.fleet.play import DAY, HOUR, Play, mac
from tests.fleet.replay import Replay

_PLACE = ("stable", "lamp")
_RELEASES = ("1.0.0", "1.1.0", "1.2.0", "1.3.0")
_POLICIES = (
    "",
    'stages = ["1", "100%"]\nsoak = "10m"',
    'stages = ["2", "50%", "100%"]\nsoak = "1h"\nconfirm = "50%"',
    'stages = ["3"]\nhalt = { failures = 1, share = "5%" }\nrollback = true',
    "halt = { failures = 1000 }\nrollback = true",
)
_DEVICES = 6


def _catalog(releases: int) -> Catalog:
    files = [f"lamp-{version}{tag}.bin" for version in _RELEASES[:releases] for tag in ("", ".fs")]
    return make_catalog([*map(make_image, files), make_image("door-1.1.0.bin")])


_CATALOGS = [_catalog(releases) for releases in range(len(_RELEASES) + 1)]
_numbers = st.integers(0, _DEVICES - 1)


@attrs.define(eq=False)
class _Try:
    """What the model knows of one attempt.

    `downloads` counts whole downloads with a check-in between, `fetched` says that there was one since the last, and
    `whole` that there ever was one. `outcome` is what came of it as of the last look.
    """

    outcome: Outcome
    downloads: int = 0
    fetched: bool = False
    whole: bool = False
    braked_until: float = 0.0


class FleetMachine(RuleBasedStateMachine):
    """A fleet of a few devices, its operator, and a model of what has to come of that."""

    def __init__(self) -> None:
        super().__init__()
        self.play = Play(_CATALOGS[1])
        self.fleet = self.play.fleet
        self.releases = 1
        self.runs = {False: ["1.0.0"] * _DEVICES, True: ["1.0.0"] * _DEVICES}
        self.ledger = Replay()
        self.known: dict[Device, tuple[Attempt, ...]] = {}
        self.tries: dict[Attempt, _Try] = {}
        self.holders: dict[Numbers, set[Device]] = {}
        """The devices that were sent a release, but for those whose offer lapsed."""
        self.halted: set[Numbers] = set()
        self.past: set[tuple[Device, Numbers]] = set()
        """The releases that devices were counted in, and left."""
        self.taken: dict[Device, Numbers | None] = {}
        self.twice: set[Numbers] = set()
        """The releases that a device began anew that had been sent another since: of that the memory knows nothing."""
        self.forgot = False
        """Whether a device was forgotten, which the ledger doesn't count any more, whatever it had done before."""
        self.before: dict[Numbers, Rollout] = {}

    @property
    def rollouts(self) -> dict[Numbers, Rollout]:
        """The rollouts of the project."""
        return self.fleet.course.rollouts(_PLACE).by_version

    @property
    def rules_in_force(self) -> Rules:
        """The rules of the project."""
        return self.fleet.policy.rules_for("lamp", None)

    @initialize(policy=st.sampled_from(_POLICIES), releases=st.integers(2, 3))
    def begin(self, policy: str, releases: int) -> None:
        """Begin with a policy, and devices that are known."""
        self.set_policy(policy)
        for number in range(_DEVICES):
            self.play.check(number, "1.0.0")
        self.play.now += HOUR
        self.releases = releases - 1
        self.publish()

    @rule(policy=st.sampled_from(_POLICIES))
    def set_policy(self, policy: str) -> None:
        """Let another policy be in force."""
        self.fleet.take_policy(read_policy(policy, "ota.toml"), self.play.now)
        self.play.write()
        self.observe()

    @precondition(lambda self: self.releases < len(_RELEASES))
    @rule()
    def publish(self) -> None:
        """Let a new release appear."""
        self.releases += 1
        self.play.catalog = _CATALOGS[self.releases]
        self.fleet.take_catalog(self.play.catalog, self.play.now)
        self.play.write()
        self.observe()

    @rule(
        numbers=st.lists(_numbers, min_size=1, max_size=_DEVICES, unique=True),
        comes=st.sampled_from(["new", "new", "new", "old", "old", "old", "half", "away", "third"]),
        filesystem=st.sampled_from([False, False, False, True]),
        tells=st.sampled_from([True, True, True, True, True, False]),
        again=st.sampled_from([0.0, 30.0, 30.0, 3 * HOUR]),
    )
    def update(self, *, numbers: list[int], comes: str, filesystem: bool, tells: bool, again: float) -> None:
        """Let devices check in, download what they are sent, come up on the new version or another, and tell."""
        for number in numbers:
            self.update_one(number, comes, again, filesystem=filesystem, tells=tells)

    def update_one(self, number: int, comes: str, again: float, *, filesystem: bool, tells: bool) -> None:
        """Let one of them do so."""
        self.play.now += 30
        running = self.runs[filesystem]
        mode = Mode.FILESYSTEM if filesystem else Mode.SKETCH
        told = running[number] if tells else None
        decision = self.ask(number, told, mode)
        if not isinstance(decision, Send) or comes == "away":
            return
        self.send(number, told, mode, decision, whole=comes != "half")
        if comes in ("new", "third"):
            running[number] = str(decision.image.version) if comes == "new" else "0.5.0"
        if again:
            self.play.now += again
            self.ask(number, running[number] if tells else None, mode)

    def ask(self, number: int, told: str | None, mode: Mode) -> Decision:
        """Let a device check in, and look at the answer."""
        # Also those of which that is only being written down.
        barred = {v for v, each in self.rollouts.items() if self.fleet.course.heading(each) is State.HALTED}
        barred |= {version for version, each in self.rollouts.items() if each.state is State.HALTED}
        kind = Kind.FILESYSTEM if mode is Mode.FILESYSTEM else Kind.APP
        decision = self.play.check(number, told, mode=mode)
        device = self.fleet.devices[mac(number)]
        for attempt in self.known.get(device, ()):
            tried = self.tries[attempt]
            if attempt.kind is kind and attempt in device.attempts:
                in_vain = tried.fetched and told != ".".join(map(str, attempt.version))
                if in_vain and tried.downloads >= 3 and tried.braked_until <= self.play.now:
                    tried.braked_until = self.play.now + BRAKE
                tried.fetched = False
        self.observe()
        if isinstance(decision, Send):
            version = numbers_of(decision.image.version)
            assert version not in barred | self.halted
            for attempt in device.attempts:
                if attempt.image == decision.image.facts.sha256:
                    assert self.tries[attempt].braked_until <= self.play.now
            rollout = self.rollouts.get(version)
            if rollout and decision.reason != "rollback" and self.rules_in_force.stages and rollout.seats is not None:
                holders = self.holders.get(version, set())
                assert device in holders or len(holders) < rollout.seats
        return decision

    def send(self, number: int, told: str | None, mode: Mode, decision: Send, *, whole: bool) -> None:
        """Let an image be sent."""
        image, device = decision.image, self.fleet.devices[mac(number)]
        check_in = self.play.check_in(number, told, mode=mode, project="lamp")
        self.play.download(check_in, image, whole=whole)
        self.observe()
        [attempt] = [each for each in device.attempts if each.image == image.facts.sha256]
        if any(each.counted and each.version == attempt.version for each in device.attempts):
            self.holders.setdefault(attempt.version, set()).add(device)
        tried = self.tries[attempt]
        if whole and not tried.fetched:
            tried.downloads += 1
            tried.fetched = tried.whole = True
        assert attempt.downloads == tried.downloads

    @rule(number=_numbers)
    def wander(self, number: int) -> None:
        """Let a device ask for another project, where it is up to date."""
        self.play.check(number, "1.1.0", project="door")
        self.observe()

    @rule(seconds=st.sampled_from([60.0, 700.0, 2 * HOUR, DAY, 3 * DAY]), calls=st.booleans())
    def wait(self, *, seconds: float, calls: bool) -> None:
        """Let time pass, in which another device calls or nobody does."""
        for _ in range(6):
            if calls:
                self.play.check(99, "1.9.9")
                self.observe()
            self.play.pass_time(seconds / 6, step=seconds / 6)
            self.observe(ticked=True)

    @rule(
        kinds=st.lists(st.sampled_from(["halt", "halt", "resume", "restart", "complete"]), min_size=1, max_size=3),
        minor=st.integers(1, 3),
    )
    def order(self, kinds: list[str], minor: int) -> None:
        """Let the operator order something of a release, and perhaps think better of it."""
        version = (1, minor, 0)
        for kind in kinds:
            started, is_there = version in self.rollouts, minor < self.releases
            self.play.order(kind, version)
            if kind == "halt" and (started or is_there):
                self.halted.add(version)
            elif kind != "halt" and started:
                self.halted.discard(version)
            self.observe()

    @rule(number=_numbers, kind=st.sampled_from(["clear-brake", "clear-brake", "forget"]))
    def order_device(self, number: int, kind: str) -> None:
        """Let the operator order something of a device."""
        device = self.fleet.devices.get(mac(number))
        self.play.order(kind, device=number)
        if kind == "clear-brake":
            for attempt in device.attempts if device is not None else ():
                self.tries[attempt].downloads, self.tries[attempt].braked_until = 0, 0.0
        self.observe()

    @rule(writes=st.booleans())
    def stall(self, *, writes: bool) -> None:
        """Let the ledger stand still, or go on."""
        self.play.writes = writes
        self.play.write()
        self.observe()

    def observe(self, *, ticked: bool = False) -> None:
        """Take over what has become of each attempt, as far as it is lawful."""
        for device in [each for each in self.known if self.fleet.devices.get(each.id) is not each]:
            del self.known[device]
            self.forgot = True
            for holders in self.holders.values():
                holders.discard(device)
        for device in self.fleet.devices.values():
            for attempt in self.known.get(device, ()):
                counts = any(each.counted and each.version == attempt.version for each in device.attempts)
                kept = attempt.counted and attempt.outcome is not Outcome.SUPERSEDED
                if not counts and not kept:
                    self.holders.get(attempt.version, set()).discard(device)
                if attempt not in device.attempts and attempt.counted:
                    self.past.add((device, attempt.version))
            for attempt in device.attempts:
                tried = self.tries.get(attempt)
                if tried is None:
                    if self.taken.get(device) == attempt.version:
                        self.past.discard((device, attempt.version))
                    # One that begins with a failure is one that had been taken for good.
                    downloads = attempt.downloads if attempt.outcome is Outcome.BOUNCED else 0
                    tried = self.tries[attempt] = _Try(attempt.outcome, downloads)
                elif attempt.outcome is not tried.outcome and attempt.outcome in FAILURES:
                    assert tried.whole or tried.outcome is Outcome.CONFIRMED
                    if attempt.outcome is Outcome.SILENT:
                        assert self.play.now - device.last_seen >= patience(device, self.rules_in_force)
                tried.outcome = attempt.outcome
                if (device, attempt.version) in self.past:
                    self.twice.add(attempt.version)
            self.known[device] = device.attempts
            self.taken[device] = None if device.taken is None else device.taken.version
        self.look_at_stages(ticked=ticked)

    def look_at_stages(self, *, ticked: bool) -> None:
        """Check that no stage was passed, and nothing halted, without a reason; and that what has one is halted."""
        rules = self.rules_in_force
        for version, rollout in self.rollouts.items():
            before = self.before.get(version)
            heading = self.fleet.course.heading(rollout)
            if before is not None and ticked and self.play.writes and rollout.stage > before.stage:
                good = before.confirmed
                downloaded = before.downloaded - before.outcomes.get(Outcome.DRIFTED, 0)
                assert before.seats is not None
                assert good
                assert good >= rules.confirm * downloaded - 1e-6
                idle = self.play.now - max(before.stage_since, before.admitted_at)
                assert good >= rules.confirm * before.seats - 1e-6 or idle >= DAY
            if before is not None and rollout.failures > before.failures and heading is not State.HALTED:
                failures, share = rollout.failures, rules.halt.share
                assert failures < rules.halt.failures or failures <= share * (failures + rollout.confirmed) + 1e-6
            self.before[version] = attrs.evolve(rollout, outcomes=dict(rollout.outcomes))

    @invariant()
    def counts(self) -> None:
        """Check that counts are those of the devices: none is negative, nobody counts twice, the fleet is complete."""
        devices = self.fleet.devices.values()
        for place, rollouts in self.fleet.course.places.items():
            assert rollouts.fleet == sum((each.channel, each.project) == place for each in devices)
        for device in devices:
            kinds = [(each.channel, each.project, each.kind) for each in device.attempts]
            assert len(kinds) == len(set(kinds))
            assert not any(each.settled for each in device.attempts)
        for version, rollout in self.rollouts.items():
            counted = [
                (device, attempt.outcome)
                for device in devices
                for attempt in device.attempts
                if attempt.counted and attempt.version == version
            ]
            assert len(counted) == len({device for device, _ in counted})
            assert Counter(outcome for _, outcome in counted) <= Counter(rollout.outcomes)
            assert min(rollout.outcomes.values(), default=0) >= 0
            assert rollout.admitted == sum(rollout.outcomes.values())
            assert version not in self.halted or rollout.state is State.HALTED or rollout.deciding
            assert 0 <= rollout.acknowledged <= rollout.failed
            assert rollout.failing == {device for device, outcome in counted if outcome in FAILURES}

    @invariant()
    def ledger_is_as_memory(self) -> None:
        """Check that what has been written comes to what is in memory, also where each batch is written twice."""
        for batch in self.play.batches:
            self.ledger.write(batch)
            once = attrs.evolve(batch), {**self.ledger.devices}, {**self.ledger.attempts}, {**self.ledger.rollouts}
            self.ledger.write(batch)
            assert (self.ledger.devices, self.ledger.attempts, self.ledger.rollouts) == once[1:]
        self.play.batches.clear()
        if not self.play.writes:
            return
        ledger, devices = self.ledger, {each.key: each for each in self.fleet.devices.values()}
        assert ledger.devices.keys() == devices.keys()
        last_seen = ledger.last_seen()
        for key, device in devices.items():
            row = ledger.devices[key]
            for name in ("id", "channel", "project", "first_seen", "address", "version", "image", "chip", "taken"):
                assert getattr(row, name) == getattr(device, name), name
            assert abs(last_seen[key] - device.last_seen) < 0.1
            assert device.stale or row.rhythm == device.rhythm
        open_ones = {
            (key, *attrs.astuple(attrs.evolve(attempt, offered_at=0), recurse=False))
            for key, device in devices.items()
            for attempt in device.attempts
        }
        assert open_ones == {
            attrs.astuple(attrs.evolve(row, offered_at=0)) for row in ledger.attempts.values() if not row.settled
        }
        for rollouts in self.fleet.course.places.values():
            for version, rollout in rollouts.by_version.items():
                assert ledger.rollouts[rollout.channel, rollout.project, version] == rollout_row(rollout)
        for version in self.rollouts:
            counted, written = Counter(self.rollouts[version].outcomes), ledger.outcomes(*_PLACE, version)
            if self.forgot or version in self.twice:
                assert written <= counted
            else:
                assert written == +counted
                rows = [row.device for row in ledger.attempts.values() if row.counted and row.version == version]
                assert len(rows) == len(set(rows))


class HistoryTests(SynchronousTestCase):
    """Random histories."""

    def test_histories(self) -> None:
        """Whatever devices, the operator, the ledger and time do, no law of the rollouts is broken."""
        run_state_machine_as_test(
            FleetMachine, settings=settings(deadline=None, max_examples=100, stateful_step_count=40)
        )
