"""Tests of rollouts: when they halt and when a stage is good, who is in it, and what is written of their course."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ota_server.fleet.device import Outcome
from ota_server.fleet.policy import read_policy
from ota_server.fleet.rollout import (
    EVERYBODY,
    IDLE_STAGE,
    Rollout,
    State,
    describe,
    hash_of,
    is_good,
    is_last,
    must_halt,
    stage_of,
)
from ota_server.fleet.rules import HaltRule, Rules, Stage
from tests.fleet.play import DAY, HOUR, NOW, Play, mac
from tests.fleet.replay import Replay

_VERSION = (1, 1, 0)


def _rollout(seats: int | None = None, *, acknowledged: int = 0, **outcomes: int) -> Rollout:
    counts = {Outcome(name): count for name, count in outcomes.items()}
    return Rollout(
        "stable", "lamp", _VERSION, NOW, NOW, seats=seats, acknowledged=acknowledged, admitted=sum(counts.values()),
        admitted_at=NOW, outcomes=counts,
    )  # fmt: skip


class HaltTests(SynchronousTestCase):
    """When a rollout has to halt by itself."""

    def test_default(self) -> None:
        """With two failures that are more than a tenth of what is known, and not with fewer, nor at a tenth."""
        for failed, confirmed, halts in (
            (0, 0, False), (1, 0, False), (2, 0, True), (2, 17, True), (2, 18, False), (2, 1000, False),
            (3, 26, True), (3, 27, False), (10, 89, True), (10, 90, False), (11, 99, False), (11, 98, True),
        ):  # fmt: skip
            with self.subTest(failed, confirmed=confirmed):
                for each in (
                    _rollout(bounced=failed, confirmed=confirmed),
                    _rollout(silent=failed, confirmed=confirmed),
                    _rollout(silent=failed, confirmed=confirmed, downloaded=50, offered=50, drifted=50, superseded=50),
                    _rollout(silent=failed, bounced=7, acknowledged=7, confirmed=confirmed),
                ):
                    self.assertIs(must_halt(each, HaltRule()), halts)

    @settings(deadline=None, max_examples=200)
    @given(st.integers(1, 100), st.integers(1, 3000))
    def test_exact_share(self, percent: int, known: int) -> None:
        """At the very share, as people calculate it, nothing halts; with one failure more it does."""
        rule = HaltRule(1, percent / 100)
        failed = percent * known // 100
        if failed:
            self.assertFalse(must_halt(_rollout(bounced=failed, confirmed=known - failed), rule))
        if failed < known:
            self.assertTrue(must_halt(_rollout(bounced=failed + 1, confirmed=known - failed - 1), rule))

    def test_small_stage(self) -> None:
        """A stage that has no more seats than failures are needed halts when all of them failed."""
        for seats, rule, failed, confirmed, halts in (
            (1, HaltRule(), 1, 0, True),
            (1, HaltRule(), 0, 1, False),
            (2, HaltRule(), 1, 0, False),
            (2, HaltRule(), 2, 0, True),
            (3, HaltRule(5), 3, 0, True),
            (3, HaltRule(5), 2, 0, False),
            (3, HaltRule(5), 2, 1, False),
        ):
            with self.subTest(seats, failed=failed):
                self.assertIs(must_halt(_rollout(seats, bounced=failed, confirmed=confirmed), rule), halts)
        # Where more have it than there are seats, the rule counts as it is.
        self.assertFalse(must_halt(_rollout(1, bounced=1, confirmed=5), HaltRule()))
        self.assertTrue(must_halt(_rollout(1, bounced=2, confirmed=5), HaltRule()))


class StageTests(SynchronousTestCase):
    """How large stages are, and when they are good."""

    def test_seats(self) -> None:
        """A share is one of the fleet, rounded up, and a device at least; a count is a count."""
        for share, fleet, seats in (
            (0.01, 0, 1), (0.01, 50, 1), (0.01, 100, 1), (0.01, 101, 2), (0.1, 1000, 100), (0.1, 1001, 101),
            (0.07, 100, 7), (0.29, 100, 29), (0.55, 20, 11), (0.9999, 10, 10), (1.0, 10, None), (1.0, 0, None),
        ):  # fmt: skip
            with self.subTest(share, fleet=fleet):
                self.assertEqual(Stage("", share=share).seats(fleet), seats)
        for fleet in (0, 5, 1000):
            self.assertEqual(Stage("10", 10).seats(fleet), 10)

    @settings(deadline=None, max_examples=200)
    @given(st.integers(1, 99), st.integers(0, 100_000))
    def test_exact_seats(self, percent: int, fleet: int) -> None:
        """They are as people calculate them."""
        self.assertEqual(Stage("", share=percent / 100).seats(fleet), max(1, -(-percent * fleet // 100)))

    def test_last(self) -> None:
        """Behind the stages of the policy there is only everybody."""
        rules = Rules((Stage("1", 1), Stage("50%", share=0.5), Stage("100%", share=1.0)))
        self.assertEqual([stage_of(rules, place).text for place in range(5)], ["1", "50%", "100%", "100%", "100%"])
        self.assertEqual([is_last(rules, place) for place in range(4)], [False, False, True, True])
        self.assertIs(stage_of(Rules(), 0), EVERYBODY)

    def test_good(self) -> None:
        """A stage is good when enough of its downloads, and of its seats, are confirmed."""
        for seats, counts, good in (
            (10, {}, False),
            (10, {"confirmed": 7}, False),
            (10, {"confirmed": 8}, True),
            (10, {"confirmed": 8, "downloaded": 2}, True),
            (10, {"confirmed": 8, "downloaded": 2, "silent": 1}, False),
            (10, {"confirmed": 8, "offered": 2, "superseded": 9}, True),
            (10, {"confirmed": 8, "drifted": 9}, True),
            (1, {"offered": 1}, False),
            (1, {"downloaded": 1}, False),
            (1, {"confirmed": 1}, True),
            (None, {"confirmed": 9}, False),
        ):
            with self.subTest(seats, counts=counts):
                self.assertIs(is_good(_rollout(seats, **counts), Rules(), NOW), good)
        # Seven tenths and the like aren't quite what they are in decimals.
        for percent in range(1, 101):
            rules = Rules(confirm=percent / 100)
            self.assertTrue(is_good(_rollout(100, confirmed=percent), rules, NOW))
            self.assertFalse(is_good(_rollout(100, confirmed=percent - 1), rules, NOW))

    def test_idle(self) -> None:
        """Seats that nobody takes for a day aren't waited for, counted from when the stage began."""
        rollout = _rollout(10, confirmed=1)
        for now, good in ((NOW + IDLE_STAGE - 1, False), (NOW + IDLE_STAGE, True)):
            self.assertIs(is_good(rollout, Rules(), now), good)
        rollout.stage_since = NOW + 5 * DAY
        for now, good in ((NOW + 5 * DAY, False), (NOW + 6 * DAY - 1, False), (NOW + 6 * DAY, True)):
            self.assertIs(is_good(rollout, Rules(), now), good)
        # Where nobody took anything there is nothing to go by.
        self.assertFalse(is_good(_rollout(10), Rules(), NOW + 100 * DAY))

    def test_describe(self) -> None:
        """Counts are told without those that are none."""
        self.assertEqual(describe(_rollout(confirmed=3, bounced=2, silent=0).outcomes), "3 confirmed, 2 bounced")
        self.assertEqual(describe({}), "no outcome yet")


class HashTests(SynchronousTestCase):
    """The hash of device and release."""

    def test_spread(self) -> None:
        """Devices of consecutive addresses are spread evenly, and over two releases independently."""
        count, cells = 10_000, 10
        for other in (("stable", "lamp", (1, 2, 0)), ("beta", "lamp", _VERSION), ("stable", "door", _VERSION)):
            table = [[0] * cells for _ in range(cells)]
            for number in range(count):
                first = hash_of(mac(number), "stable", "lamp", _VERSION)
                second = hash_of(mac(number), *other)
                self.assertTrue(0 <= first < 1)
                table[int(first * cells)][int(second * cells)] += 1
            expected = count / cells**2
            # Of 99 degrees of freedom: one in a million chances exceeds 180.
            self.assertLess(sum((cell - expected) ** 2 / expected for row in table for cell in row), 180)

    def test_stable(self) -> None:
        """It is the same on every machine and for ever."""
        self.assertAlmostEqual(hash_of("5C:CF:7F:00:11:22", "stable", "lamp", (1, 2, 3)), 0.6775965114)


class CourseTests(SynchronousTestCase):
    """Steps of a rollout while the ledger stands still, and what is written of them."""

    def setUp(self) -> None:
        """Make a play with a new release."""
        self.play = Play.of("lamp-1.0.0.bin", "lamp-1.1.0.bin", policy='stages = ["1", "100%"]\nsoak = "10m"')

    def rollout(self, **expected: Any) -> Rollout:
        """Return the rollout, and check what is in memory, and in the ledger if all is written."""
        rollout = self.play.fleet.course.find(("stable", "lamp"), _VERSION)
        assert rollout is not None
        self.assertEqual({name: getattr(rollout, name) for name in expected}, expected)
        if self.play.writes:
            ledger = Replay()
            for batch in self.play.batches:
                ledger.write(batch)
            row = ledger.rollouts["stable", "lamp", _VERSION]
            for name in ("state", "stage", "seats", "stage_since", "acknowledged", "why"):
                self.assertEqual(getattr(row, name), getattr(rollout, name), name)
        return rollout

    def go_on(self) -> None:
        """Let the ledger go on."""
        self.play.writes = True
        self.play.write()

    def test_last_word(self) -> None:
        """Of several orders, given while none could be written, the last one counts."""
        self.play.check(1, "1.0.0")
        for orders, state in (
            (("halt",), State.HALTED),
            (("resume", "halt"), State.HALTED),
            (("resume", "halt", "resume"), State.RUNNING),
            (("halt", "resume", "halt"), State.HALTED),
            (("complete",), State.RUNNING),
            (("halt", "restart"), State.RUNNING),
        ):
            with self.subTest(orders):
                self.play.writes = False
                for each in orders:
                    self.play.order(each, _VERSION)
                if "halt" in orders:
                    self.assertIn(self.play.check(2, "1.0.0").reason, ("deciding", "halted"))
                self.go_on()
                self.rollout(state=state, deciding=False)
        self.rollout(stage=0, seats=1)

    def test_batch_under_way(self) -> None:
        """That holds also where the batch with the first order is just being written."""
        self.play.check(1, "1.0.0")
        self.play.order("halt", _VERSION)
        self.play.writes = False
        outbox = self.play.fleet.outbox
        self.play.order("resume", _VERSION)
        batch = outbox.take(self.play.now)
        assert batch is not None
        self.play.batches.append(batch)
        self.play.order("halt", _VERSION)
        outbox.confirm()
        self.assertIn(self.play.check(2, "1.0.0").reason, ("deciding", "halted"))
        self.go_on()
        self.rollout(state=State.HALTED)

    def test_policy_meanwhile(self) -> None:
        """A policy that changes while a step is being written counts for the stage that begins."""
        self.play.update(1, "1.0.0")
        self.play.check(1, "1.1.0")
        self.play.pass_time(300)
        self.play.writes = False
        self.play.pass_time(600)
        policy = read_policy('stages = ["1", "3", "100%"]', "ota.toml")
        self.play.fleet.take_policy(policy, self.play.now)
        self.go_on()
        self.rollout(stage=1, seats=3)

    def test_once(self) -> None:
        """A step that can't be written for an hour is planned once."""
        for number in (1, 2):
            self.play.check(number, "1.0.0")
        self.play.pass_time(HOUR)
        self.play.order("complete", _VERSION)
        for number in (1, 2):
            self.play.update(number, "1.0.0")
            self.play.check(number, "1.1.0")
        self.play.writes = False
        waiting = len(self.play.fleet.outbox)
        self.play.pass_time(HOUR, step=1)
        self.assertLessEqual(len(self.play.fleet.outbox), waiting + 5)
        self.go_on()
        self.rollout(state=State.COMPLETE)
        self.assertEqual(self.play.kinds().count("complete"), 1)

    def test_acknowledged(self) -> None:
        """A known failure that is mended is known no more, in the ledger, too; so new ones halt as before."""
        self.play = Play.of("lamp-1.0.0.bin", "lamp-1.1.0.bin")
        for number in range(2):
            self.play.update(number, "1.0.0")
            self.play.check(number, "1.0.0")
        self.rollout(state=State.HALTED, acknowledged=0)
        self.play.writes = False
        self.play.order("resume", _VERSION)
        # While that is being written one of them comes back on the new release after all.
        self.play.check(0, "1.1.0")
        self.go_on()
        self.rollout(state=State.RUNNING, acknowledged=1, failures=0)
        self.play.update(1, "1.0.0")
        self.play.check(1, "1.1.0")
        self.rollout(acknowledged=0, failures=0, failing=set())

    def test_counts_once(self) -> None:
        """A device that took the sketch of a release for good isn't counted for its filesystem as well."""
        self.play = Play.of("lamp-1.0.0.bin", "lamp-1.1.0.bin", "lamp-1.1.0.fs.bin")
        self.play.update(1, "1.0.0", mode="spiffs")
        self.play.update(1, "1.0.0")
        self.play.check(1, "1.1.0")
        self.play.now += HOUR
        self.play.check(1, "1.1.0")
        self.play.update(1, None, mode="spiffs")
        self.rollout(admitted=1, confirmed=1)

    def test_stage_is_tried(self) -> None:
        """A stage isn't passed since nobody took a seat of the one before for long: it has a day of its own."""
        self.play = Play.of("lamp-1.0.0.bin", "lamp-1.1.0.bin", policy='stages = ["1", "50%", "100%"]\nsoak = "10m"')
        for number in range(20):
            self.play.check(number, "1.0.0")
        number = next(n for n in range(20) if self.play.update(n, "1.0.0").reason == "newer")
        self.play.pass_time(DAY + HOUR, HOUR)
        self.play.check(number, "1.1.0")
        self.play.pass_time(HOUR)
        self.rollout(stage=1, seats=10)
        self.play.pass_time(DAY - 2 * HOUR, HOUR)
        self.rollout(stage=1, seats=10)
