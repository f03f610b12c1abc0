"""Windows: the times of the week at which updates may be sent, as the clock on the wall of a zone shows them."""

from __future__ import annotations

import difflib
import re
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import attrs

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
"""The days of the week, as a window names them, in the order of `datetime.weekday`."""

MINUTES_OF_DAY = 24 * 60

MAX_LENGTH = 200
"""The longest text, in characters, that is read as a window."""

_EXAMPLE = '"Mon-Fri 22:00-04:00 Europe/Berlin"'
_FORM = re.compile(
    r"(?: (?P<days> [A-Za-z]+ (?: [ ]?[,-][ ]? [A-Za-z]+ )* ) [ ] )?"
    r"(?P<begin> [0-9]{1,2}:[0-9]{2} ) [ ]?-[ ]? (?P<end> [0-9]{1,2}:[0-9]{2} )"
    r"(?: [ ] (?P<zone> [^ ]+ ) )?",
    re.ASCII | re.VERBOSE,
)
# Nothing that could lead out of the folder of zones, nor to a file there that is none.
_ZONE = re.compile(r"[A-Za-z0-9_+-]{1,40}(?:/[A-Za-z0-9_+-]{1,40}){0,3}", re.ASCII)


class WindowError(ValueError):
    """A text that is no window; its message says why, and what to write, for a person."""


@attrs.frozen
class WeeklyWindow:
    """Times of the week from one time of the day up to another, on some days, as the clock on the wall shows them.

    `begin` and `end` are in minutes since midnight, `end` up to MINUTES_OF_DAY; a window whose `end` comes before its
    `begin` goes on over midnight, and that part belongs to the day on which it began. `days` are numbers, Monday being
    0. `text` is as the operator wrote it, but for blanks.

    Where clocks are put forward in a window it is shorter, or not at all, and where they are put back, longer.
    """

    text: str
    days: frozenset[int]
    begin: int
    end: int
    zone: ZoneInfo

    def contains(self, now: float) -> bool:
        """Say whether a time, in seconds since 1970, is inside."""
        clock = datetime.fromtimestamp(now, self.zone)
        minute = clock.hour * 60 + clock.minute
        if self.begin < self.end:
            return self.begin <= minute < self.end and clock.weekday() in self.days
        if minute >= self.begin:
            return clock.weekday() in self.days
        return minute < self.end and (clock.weekday() - 1) % 7 in self.days


def read_window(text: str) -> WeeklyWindow:
    """Read a window: `[DAYS] HH:MM-HH:MM [ZONE]`, such as `Mon-Fri 22:00-04:00 Europe/Berlin`.

    DAYS are days or ranges of days, separated by commas; without them it is every day. ZONE is a name of the IANA time
    zone database, https://www.iana.org/time-zones; without it the times are UTC. Raises WindowError.
    """
    text = " ".join(text.split())
    found = _FORM.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if found is None:
        raise WindowError(f"is no window; write it as in {_EXAMPLE}, days and zone may be left out")
    begin, end = _read_time(found["begin"]), _read_time(found["end"])
    if begin == MINUTES_OF_DAY:
        raise WindowError("begins at 24:00; write 00:00, and the day that begins then")
    if begin == end:
        raise WindowError("ends when it begins; write 00:00-24:00 for the whole day")
    days = frozenset(range(7)) if found["days"] is None else _read_days(found["days"])
    return WeeklyWindow(text, days, begin, end, _read_zone(found["zone"] or "UTC"))


def _read_time(text: str) -> int:
    """Return a time of the day in minutes since midnight."""
    hour, minute = (int(part) for part in text.split(":"))
    if minute > 59 or hour * 60 + minute > MINUTES_OF_DAY:
        raise WindowError(f"has the time {text}, which no day has; a day goes from 00:00 to 24:00")
    return hour * 60 + minute


def _read_days(text: str) -> frozenset[int]:
    """Return the numbers of days; a range may go over the end of the week."""
    days: set[int] = set()
    for part in text.split(","):
        ends = [_read_day(name.strip()) for name in part.split("-")]
        if len(ends) > 2:
            raise WindowError("has a range of days with more than two ends; write it as in Mon-Fri")
        first, last = ends[0], ends[-1]
        days.update((first + offset) % 7 for offset in range((last - first) % 7 + 1))
    return frozenset(days)


def _read_day(name: str) -> int:
    try:
        return DAYS.index(name.capitalize())
    except ValueError:
        raise WindowError(f"has the day {name[:20]}, which no week has; the days are {', '.join(DAYS)}") from None


def _read_zone(name: str) -> ZoneInfo:
    if _ZONE.fullmatch(name):
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, OSError, ValueError):
            pass
    shown = name[:40] if name.isprintable() else ascii(name[:40])
    close = difflib.get_close_matches(name[:40], _zones(), 1)
    advice = f"did you mean {close[0]}?" if close else "write one as in Europe/Berlin"
    raise WindowError(f"has the time zone {shown}, which is unknown; {advice}")


@lru_cache(maxsize=1)
def _zones() -> tuple[str, ...]:
    """Return the names of all zones; it takes many files to read."""
    return tuple(sorted(available_timezones()))
