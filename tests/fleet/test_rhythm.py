"""Tests of how a device's rhythm is learned."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ota_server.fleet.rhythm import LENGTH, MIN_INTERVAL, VISIT, add_interval, count_of, median_of

_DAY = 86400.0


def _learn(*intervals: float, rhythm: bytes = b"") -> bytes:
    for seconds in intervals:
        rhythm = add_interval(rhythm, seconds)
    return rhythm


class RhythmTests(SynchronousTestCase):
    """The median of the last few intervals."""

    # No one of these is so short beside another that it would belong to the same visit.
    @settings(deadline=None, max_examples=100)
    @given(st.lists(st.floats(VISIT, 590), max_size=20), st.randoms(use_true_random=False))
    def test_median(self, intervals: list[float], dice: object) -> None:
        """It is that of the last seven, of an even number the longer of both in the middle, in whatever order."""
        rhythm = _learn(*intervals)
        last = sorted(int(each) for each in intervals[-LENGTH:])
        self.assertEqual(median_of(rhythm), float(last[len(last) // 2]) if last else None)
        self.assertEqual(count_of(rhythm), len(last))
        self.assertEqual(len(rhythm), 4 * len(last))
        shuffled = intervals[-LENGTH:]
        getattr(dice, "shuffle")(shuffled)  # noqa: B009 - Hypothesis's own Random
        self.assertEqual(median_of(_learn(*shuffled)), median_of(rhythm))

    def test_unknown(self) -> None:
        """Of no interval there is no median."""
        self.assertIsNone(median_of(b""))
        self.assertEqual(count_of(b""), 0)
        self.assertEqual(_learn(0.0, -5.0, MIN_INTERVAL - 0.001), b"")
        self.assertEqual(median_of(_learn(MIN_INTERVAL)), 1.0)

    def test_odd_ones(self) -> None:
        """Three odd intervals of seven, as around a restart, don't change it."""
        self.assertEqual(median_of(_learn(3600, 3600, 3600, 3600, 1e9, 1e9, 1e9)), 3600)
        self.assertEqual(median_of(_learn(3600, 3600, 3600, 1e9, 1e9, 1e9, 1e9)), 1e9)

    def test_huge(self) -> None:
        """What 32 bits don't hold is the longest that they do."""
        for seconds in (2.0**32 - 1, 2.0**32, 1e30, float("inf")):
            self.assertEqual(median_of(_learn(seconds)), 2.0**32 - 1)

    def test_visits(self) -> None:
        """What comes within a visit is no interval, be it short, or short beside what is usual."""
        daily = _learn(_DAY, _DAY, _DAY)
        self.assertEqual(_learn(1, 5, 59.9, 60, 600, _DAY / 10 - 1, rhythm=daily), daily)
        self.assertEqual(count_of(_learn(_DAY / 10, rhythm=daily)), 4)
        # A device that asks for sketch and filesystem, five seconds apart, every hour.
        rhythm = b""
        for _ in range(20):
            rhythm = _learn(3595, 5, rhythm=rhythm)
        self.assertEqual((median_of(rhythm), count_of(rhythm)), (3595, LENGTH))

    def test_first_visit(self) -> None:
        """What was learned within the first visit gives way to the first interval that is longer."""
        first = _learn(5, 5, 5)
        self.assertEqual(median_of(first), 5)
        self.assertEqual(median_of(_learn(VISIT, rhythm=first)), VISIT)
        self.assertEqual(count_of(_learn(_DAY, rhythm=first)), 1)

    def test_always_quick(self) -> None:
        """A device that never stays away for longer has a quick rhythm."""
        self.assertEqual(median_of(_learn(*[10.0] * 20)), 10)
