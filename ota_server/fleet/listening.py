"""Whether the server itself was deaf: silence of all devices at once tells of the network, not of the devices."""

from __future__ import annotations

WINDOW = 86400.0
"""How long a pause is remembered, in seconds; up to twice that, to be exact."""

ODD = 1.5
"""A pause so many times as long as any lately is an outage."""

MIN_PAUSE = 120.0
"""A shorter pause, in seconds, is never taken for one."""


class Listening:
    """Follows how long nobody at all checks in. Times are in seconds since 1970.

    A fleet may call evenly, or all at once every night, so that it is compared with itself: what is an outage is a
    pause that is longer than those before. Where one like it comes again, it is the fleet's habit.
    """

    def __init__(self, now: float) -> None:
        self.since = now
        """Since when silence counts: the start, or the end of the last outage."""
        self.heard_at = now
        """When somebody checked in last."""
        self._began = now
        # The longest pauses of this window and of the one before: habits, and what was taken for an outage.
        self._habit = self._habit_before = 0.0
        self._odd = self._odd_before = 0.0

    def heard(self, now: float) -> None:
        """Note a check-in. For one within MIN_PAUSE of the last it is enough to set `heard_at`."""
        pause = now - self.heard_at
        self.heard_at = now
        if pause > MIN_PAUSE or pause < 0:
            self._judge(now, pause)

    def _judge(self, now: float, pause: float) -> None:
        # A clock that is set back must not make the window any longer.
        self._began = min(self._began, now)
        if now - self._began > WINDOW:
            self._habit_before, self._odd_before = self._habit, self._odd
            self._habit = self._odd = 0.0
            self._began = now
        if 0 <= pause <= self._longest():
            self._habit = max(self._habit, pause)
            return
        self.since = now
        if pause <= ODD * max(self._odd, self._odd_before):
            self._habit = max(self._habit, pause)
        self._odd = max(self._odd, pause)

    def _longest(self) -> float:
        """Return how long a pause, in seconds, is nothing odd."""
        return max(MIN_PAUSE, ODD * max(self._habit, self._habit_before))

    def is_deaf(self, now: float) -> bool:
        """Say whether nobody has checked in for oddly long, so that nothing can be said of anybody."""
        return now - self.heard_at > self._longest()
