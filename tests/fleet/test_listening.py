"""Tests of whether the server takes itself for cut off."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ota_server.fleet.listening import MIN_PAUSE, WINDOW, Listening
from tests.fleet.play import DAY, HOUR, NOW

_YEAR = 365 * DAY


class ListeningTests(SynchronousTestCase):
    """A fleet is compared with itself."""

    def setUp(self) -> None:
        """Begin to listen."""
        self.now = NOW
        self.listening = Listening(NOW)

    def hear(self, *pauses: float) -> None:
        """Let check-ins come after pauses."""
        for seconds in pauses:
            self.now += seconds
            self.listening.heard(self.now)

    def is_deaf_after(self, seconds: float) -> bool:
        """Say whether after so many seconds without a check-in it takes itself for cut off."""
        return self.listening.is_deaf(self.now + seconds)

    def test_even_fleet(self) -> None:
        """A fleet that calls all the time: a pause of more than two minutes is odd."""
        self.hear(*[10.0] * 1000)
        self.assertFalse(self.is_deaf_after(MIN_PAUSE))
        self.assertTrue(self.is_deaf_after(MIN_PAUSE + 1))
        self.assertEqual(self.listening.since, NOW)

    def test_outage(self) -> None:
        """Silence counts anew from the end of an outage on; one outage makes no habit."""
        self.hear(*[10.0] * 100, 6 * HOUR)
        self.assertEqual(self.listening.since, self.now)
        since = self.now
        self.hear(*[10.0] * 100)
        self.assertEqual(self.listening.since, since)
        self.assertTrue(self.is_deaf_after(HOUR))

    def test_habit(self) -> None:
        """A pause like one before is the fleet's habit, and what is half as long again is nothing odd."""
        self.hear(10.0, 6 * HOUR, 10.0, 6 * HOUR)
        since = self.listening.since
        self.assertFalse(self.is_deaf_after(9 * HOUR))
        self.assertTrue(self.is_deaf_after(9 * HOUR + 1))
        self.hear(10.0, 8 * HOUR)
        self.assertEqual(self.listening.since, since)
        # So it has grown.
        self.assertFalse(self.is_deaf_after(12 * HOUR))

    def test_longer_one(self) -> None:
        """A pause much longer than the odd ones before is another outage."""
        self.hear(10.0, HOUR, 10.0, 6 * HOUR)
        self.assertEqual(self.listening.since, self.now)
        self.assertTrue(self.is_deaf_after(HOUR))

    def test_nightly_fleet(self) -> None:
        """A fleet that calls once a night is heard from the third night on, also when it is late."""
        for _ in range(3):
            self.hear(DAY - 600, *[6.0] * 100)
        since = self.listening.since
        for _ in range(10):
            self.assertFalse(self.is_deaf_after(1.4 * DAY))
            self.assertTrue(self.is_deaf_after(1.6 * DAY))
            self.hear(DAY - 600, *[6.0] * 100)
        self.assertEqual(self.listening.since, since)

    def test_forgotten_habit(self) -> None:
        """A habit that doesn't come again is forgotten after two windows."""
        self.hear(10.0, HOUR, 10.0, HOUR)
        self.assertFalse(self.is_deaf_after(HOUR))
        while self.now < NOW + 2 * WINDOW + 4 * HOUR:
            self.hear(*[60.0] * 10, MIN_PAUSE + 1)
        self.assertTrue(self.is_deaf_after(HOUR))

    def test_short_pause(self) -> None:
        """Of a check-in shortly after the last it is enough to set the time."""
        other = Listening(NOW)
        for pause in (10.0, MIN_PAUSE, 0.0, 50.0):
            self.hear(pause)
            other.heard_at = self.now
        for seconds in (MIN_PAUSE, MIN_PAUSE + 1, DAY):
            self.assertEqual(self.is_deaf_after(seconds), other.is_deaf(self.now + seconds))
        self.assertEqual(self.listening.since, other.since)

    def test_clock_ahead(self) -> None:
        """A clock that is put forward by a year makes silence count anew; two windows later all is as it was."""
        self.hear(*[10.0] * 100)
        self.assertTrue(self.is_deaf_after(_YEAR))
        self.hear(_YEAR)
        self.assertEqual(self.listening.since, self.now)
        self.assertTrue(self.is_deaf_after(HOUR))
        end = self.now + 2 * WINDOW + HOUR
        while self.now < end:
            self.hear(*[60.0] * 10, MIN_PAUSE + 1)
        self.hear(6 * HOUR)
        self.assertEqual(self.listening.since, self.now)
        self.assertTrue(self.is_deaf_after(HOUR))

    def test_clock_set_back(self) -> None:
        """A clock that was a year ahead and is set right does no harm for longer than two windows."""
        self.hear(*[10.0] * 100, _YEAR, *[10.0] * 100, -_YEAR)
        self.assertEqual(self.listening.since, self.now)
        self.assertFalse(self.is_deaf_after(MIN_PAUSE))
        self.assertTrue(self.is_deaf_after(HOUR))
        end = self.now + 2 * WINDOW + HOUR
        while self.now < end:
            self.hear(*[60.0] * 10, MIN_PAUSE + 1)
        # Outages as they come now and then: the next one is no habit because of the one before.
        self.hear(6 * HOUR)
        self.assertEqual(self.listening.since, self.now)
        self.assertTrue(self.is_deaf_after(8 * HOUR))

    def test_slightly_back(self) -> None:
        """A clock that is set back by seconds is nothing to speak of."""
        self.hear(*[10.0] * 100, -3.0, 10.0)
        self.assertFalse(self.is_deaf_after(MIN_PAUSE))
        self.assertTrue(self.is_deaf_after(MIN_PAUSE + 1))
