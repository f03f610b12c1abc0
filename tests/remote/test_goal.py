"""Tests of when a rollout that is waited for has come to its end."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ota_server.fleet.device import Outcome
from ota_server.fleet.rollout import Rollout, Rollouts, State
from ota_server.fleet.rules import Rules, Stage
from ota_server.operator.shapes import show_rollout
from ota_server.remote.goal import COMPLETE, Goal, describe_rollout, judge, read_goal

STAGES = (Stage("1", count=1), Stage("10%", share=0.1), Stage("100%", share=1.0))


def rollout(state: State = State.RUNNING, fleet: int = 50, seats: int | None = None, **outcomes: int) -> dict[str, Any]:
    """Return a rollout as the API tells of it."""
    counts = {Outcome(name): count for name, count in outcomes.items()}
    held = Rollout("stable", "lamp", (1, 1, 0), 0.0, 0.0, state, seats=seats, why="so", admitted=sum(counts.values()))
    held.outcomes = counts
    return show_rollout(held, Rollouts(fleet), Rules(stages=STAGES if seats is not None else ()))


class GoalTests(SynchronousTestCase):
    """What is waited for."""

    def test_readable(self) -> None:
        """These are goals."""
        self.assertIs(read_goal("complete"), COMPLETE)
        self.assertEqual(read_goal("confirmed").share, 0.1)
        self.assertEqual(read_goal("confirmed:20").count, 20)
        self.assertEqual(read_goal("confirmed:2.5%").share, 0.025)

    def test_unreadable(self) -> None:
        """These are none."""
        for text in (
            "",
            "done",
            "complete:5",
            "confirmed:",
            "confirmed:0",
            "confirmed:0%",
            "confirmed:101%",
            "confirmed:x",
        ):
            self.assertRaises(ValueError, read_goal, text)

    def test_complete(self) -> None:
        """A rollout ends well when it is complete, and not before, however many have confirmed."""
        self.assertIsNone(judge(rollout(confirmed=50), COMPLETE))
        for goal in (COMPLETE, read_goal("confirmed:1000")):
            verdict = judge(rollout(State.COMPLETE, confirmed=3), goal)
            assert verdict is not None
            self.assertEqual((verdict.good, verdict.why), (True, "complete: so"))

    def test_halted(self) -> None:
        """It ends badly when it halts, also with many who confirmed."""
        for goal in (COMPLETE, read_goal("confirmed")):
            verdict = judge(rollout(State.HALTED, confirmed=40, bounced=10), goal)
            assert verdict is not None
            self.assertEqual((verdict.good, verdict.why), (False, "halted: so"))

    def test_confirmed(self) -> None:
        """Enough have to confirm it: of the fleet, or as many as was said."""
        for goal, fleet, needed in (
            (read_goal("confirmed"), 50, 5),
            (read_goal("confirmed"), 51, 6),
            (read_goal("confirmed"), 0, 1),
            (read_goal("confirmed:20%"), 50, 10),
            (read_goal("confirmed:7"), 50, 7),
        ):
            self.assertIsNone(judge(rollout(fleet=fleet, confirmed=needed - 1), goal))
            verdict = judge(rollout(fleet=fleet, confirmed=needed), goal)
            assert verdict is not None
            self.assertTrue(verdict.good)

    def test_confirmed_of_those_who_took_it(self) -> None:
        """Of those that took it whole at least 80 % have to be confirmed; an offer alone counts for nothing."""
        goal = Goal("confirmed:8", count=8)
        self.assertIsNotNone(judge(rollout(confirmed=8, downloaded=2, offered=30, superseded=1, drifted=1), goal))
        for told in (
            rollout(confirmed=8, downloaded=3),
            rollout(confirmed=8, bounced=3),
            rollout(confirmed=8, silent=3),
        ):
            self.assertIsNone(judge(told, goal))

    def test_description(self) -> None:
        """How it stands is told on one line."""
        self.assertEqual(
            describe_rollout(rollout(seats=1, offered=1)),
            "running, stage 1 of 3: offered to 1 of 50 devices, 1 offered",
        )
        self.assertEqual(
            describe_rollout(rollout(State.HALTED, confirmed=2, bounced=3)),
            "halted: offered to 5 of 50 devices, 2 confirmed, 3 bounced",
        )
