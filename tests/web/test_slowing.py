"""Tests of slowing down who is refused."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ota_server.web.slowing import (
    AT_ONCE,
    FADING,
    LONGEST,
    LONGEST_MISSING,
    MAX_ADDRESSES,
    MAX_REFUSALS,
    MAX_WAITING,
    MAX_WAITING_OF_ONE,
    Slowdown,
    network_of,
)

HERE = "192.0.2.7"


class SlowdownTests(SynchronousTestCase):
    """How long answers wait."""

    def setUp(self) -> None:
        """Begin with nobody refused."""
        self.slowdown = Slowdown()

    def refuse(self, network: str = HERE, now: float = 0.0, longest: float = LONGEST) -> float | None:
        """Refuse once, and answer at once after the wait."""
        delay = self.slowdown.refuse(network, now, longest)
        if delay:
            self.slowdown.release(network)
        return delay

    def test_growing(self) -> None:
        """The first ones are answered at once, the others later and later, up to a bound."""
        self.assertEqual([self.refuse() for _ in range(10)], [0, 0, 0, 0.25, 0.5, 1, 2, 4, 4, 4])
        self.assertEqual(self.slowdown.waiting, 0)

    def test_missing(self) -> None:
        """Where nothing was brought the bound is lower."""
        delays = [self.refuse(longest=LONGEST_MISSING) for _ in range(10)]
        self.assertEqual(delays, [0, 0, 0, 0.25, 0.5, 1, 2, 2, 2, 2])

    def test_others(self) -> None:
        """Others aren't slowed down."""
        for _ in range(10):
            self.refuse()
        self.assertEqual(self.refuse("192.0.2.8"), 0)

    def test_fading(self) -> None:
        """Refusals are forgotten with time, all of them after MAX_REFUSALS times FADING."""
        for _ in range(50):
            self.refuse()
        self.assertEqual(self.refuse(now=2 * FADING), 4)
        self.assertEqual(self.refuse(now=5 * FADING), 1)
        again = 5 * FADING + MAX_REFUSALS * FADING
        self.assertEqual([self.refuse(now=again) for _ in range(AT_ONCE + 1)], [0, 0, 0, 0.25])

    def test_clock_set_back(self) -> None:
        """A clock that is set back changes nothing."""
        delays = [self.refuse(now=now) for now in (1000, 900, 800, 700, 600)]
        self.assertEqual(delays, [0, 0, 0, 0.25, 0.5])

    def test_forgiven(self) -> None:
        """Each good request halves what is remembered, until nothing is."""
        for _ in range(50):
            self.refuse()
        self.slowdown.forgive(HERE, 0)
        self.assertEqual(self.refuse(), 0.25 * 2**1.5)
        for _ in range(5):
            self.slowdown.forgive(HERE, 0)
        self.assertEqual(len(self.slowdown), 0)
        self.slowdown.forgive(HERE, 0)
        self.assertEqual(self.refuse(), 0)

    def test_bound_of_one(self) -> None:
        """Not more than so many answers wait for one address; what comes then is never answered."""
        delays = [self.slowdown.refuse(HERE, 0) for _ in range(AT_ONCE + MAX_WAITING_OF_ONE + 5)]
        self.assertEqual(delays[AT_ONCE:].count(None), 5)
        self.assertEqual(self.slowdown.waiting, MAX_WAITING_OF_ONE)
        self.assertEqual(self.refuse("192.0.2.8"), 0)
        self.slowdown.release(HERE)
        self.assertIsNotNone(self.slowdown.refuse(HERE, 0))
        self.assertIsNone(self.slowdown.refuse(HERE, 0))

    def test_bound_of_all(self) -> None:
        """Nor do more wait in all; those that are answered at once don't wait."""
        networks = [f"198.51.100.{number}" for number in range(250)]
        for network in networks:
            for _ in range(AT_ONCE + 5):
                self.slowdown.refuse(network, 0)
        self.assertEqual(self.slowdown.waiting, MAX_WAITING)
        self.assertIsNone(self.slowdown.refuse(networks[-1], 0))
        self.assertEqual(self.slowdown.refuse(HERE, 0), 0)
        for network in networks:
            for _ in range(5):
                if self.slowdown._waiting_of[network]:
                    self.slowdown.release(network)
        self.assertEqual((self.slowdown.waiting, +self.slowdown._waiting_of), (0, {}))

    def test_memory(self) -> None:
        """Not more than so many addresses are remembered; those that were refused last are."""
        for number in range(MAX_ADDRESSES + 100):
            self.refuse(str(number))
            for _ in range(AT_ONCE):
                self.refuse(HERE)
        self.assertEqual(len(self.slowdown), MAX_ADDRESSES)
        self.assertEqual(self.refuse(HERE), 4)

    @given(st.lists(st.tuples(st.sampled_from(["refuse", "release", "forgive"]), st.floats(0, 60)), max_size=60))
    def test_any_order(self, steps: list[tuple[str, float]]) -> None:
        """In whatever order things come, no wait is below nothing or beyond the bound, and the counts agree."""
        slowdown, now, held = Slowdown(), 0.0, 0
        for step, passed in steps:
            now += passed
            if step == "refuse":
                delay = slowdown.refuse(HERE, now)
                assert delay is not None
                self.assertTrue(0 <= delay <= LONGEST)
                held += delay > 0
                if held == MAX_WAITING_OF_ONE:
                    break
            elif step == "forgive":
                slowdown.forgive(HERE, now)
            elif held:
                slowdown.release(HERE)
                held -= 1
            self.assertEqual(slowdown.waiting, held)


class NetworkTests(SynchronousTestCase):
    """What counts as one."""

    def test_networks(self) -> None:
        """An IPv4 address, also as IPv6 writes it; 64 bits of an IPv6 address; whatever else as it is."""
        for one, other in (
            ("192.0.2.7", "::ffff:192.0.2.7"),
            ("2001:db8::1", "2001:db8:0:0:ffff::2"),
            ("fe80::1%eth0", "fe80::2"),
            ("", ""),
        ):
            self.assertEqual(network_of(one), network_of(other))
        for one, other in (("192.0.2.7", "192.0.2.8"), ("2001:db8::1", "2001:db8:0:1::1"), ("", "192.0.2.7")):
            self.assertNotEqual(network_of(one), network_of(other))
