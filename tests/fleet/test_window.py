"""Tests of reading windows, and of what time is inside of them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ota_server.fleet.rules import Window
from ota_server.fleet.window import DAYS, MAX_LENGTH, MINUTES_OF_DAY, WeeklyWindow, WindowError, read_window

EVERY_DAY = frozenset(range(7))

# With whole, half and quarter hours, clocks that are put forward and back by less than an hour or at midnight, and a
# day that was left out.
_ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Sao_Paulo",
     "Africa/Casablanca", "Pacific/Apia"]
).map(ZoneInfo)  # fmt: skip
_TIMES = st.integers(0, 4_102_444_800)
_MINUTES = st.integers(0, MINUTES_OF_DAY - 1)
_DAYS = st.frozensets(st.integers(0, 6), min_size=1)


def _at(text: str) -> float:
    """Return a time given in UTC, in seconds since 1970."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def _minutes_inside(window: Window, day: str, zone: str) -> int:
    """Count the minutes of a day of a zone that are inside."""
    first = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)).timestamp()
    last = (datetime.fromisoformat(day) + timedelta(days=1)).replace(tzinfo=ZoneInfo(zone)).timestamp()
    return sum(window.contains(now) for now in range(int(first), int(last), 60))


def _spell(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


class ReadingTests(SynchronousTestCase):
    """`read_window` reads `[DAYS] HH:MM-HH:MM [ZONE]`."""

    def test_forms(self) -> None:
        """Days, times and zone are read, and what is left out is every day and UTC."""
        for text, days, begin, end, zone in (
            ("02:00-05:00 Europe/Berlin", range(7), 120, 300, "Europe/Berlin"),
            ("02:00-05:00", range(7), 120, 300, "UTC"),
            ("2:00-5:30", range(7), 120, 330, "UTC"),
            ("Mon-Fri 22:00-04:00 Europe/Berlin", range(5), 1320, 240, "Europe/Berlin"),
            ("Sat,Sun 00:00-24:00", (5, 6), 0, 1440, "UTC"),
            ("Mon 23:00-00:00", (0,), 1380, 0, "UTC"),
            ("Wed 23:00-24:00", (2,), 1380, 1440, "UTC"),
            ("fri-MON 01:00-02:00", (4, 5, 6, 0), 60, 120, "UTC"),
            ("Mon-Tue,Sat 01:00-02:00", (0, 1, 5), 60, 120, "UTC"),
            ("Tue-Tue 01:00-02:00", (1,), 60, 120, "UTC"),
            ("Tue-Mon 01:00-02:00", range(7), 60, 120, "UTC"),
            ("  Mon , Tue   01:00 - 02:00\tAmerica/Argentina/Buenos_Aires\n", (0, 1), 60, 120,
             "America/Argentina/Buenos_Aires"),
            ("01:00-02:00 Etc/GMT+5", range(7), 60, 120, "Etc/GMT+5"),
        ):  # fmt: skip
            with self.subTest(text):
                window = read_window(text)
                self.assertEqual(
                    window, WeeklyWindow(" ".join(text.split()), frozenset(days), begin, end, ZoneInfo(zone))
                )

    def test_refused(self) -> None:
        """What is no window is refused, and the message says what is wrong and what to write."""
        for text, part in (
            ("", "Mon-Fri 22:00-04:00 Europe/Berlin"),
            ("always", "is no window"),
            ("2-5", "is no window"),
            ("02:00", "is no window"),
            ("02:00-05:00-06:00", "is no window"),
            ("02:0-05:00", "is no window"),
            ("02:00-05:00 Europe/Berlin Mon", "is no window"),
            ("Mon Tue 02:00-05:00", "is no window"),
            ("Mon02:00-05:00", "is no window"),
            ("٠٢:00-05:00", "is no window"),
            ("x" * 1_000_000, "is no window"),
            ("02:00-25:00", "the time 25:00, which no day has"),
            ("02:60-05:00", "the time 02:60"),
            ("02:00-24:01", "the time 24:01"),
            ("24:00-05:00", "write 00:00"),
            ("02:00-02:00", "00:00-24:00"),
            ("Mo 02:00-05:00", "the day Mo, which no week has; the days are Mon, Tue"),
            ("Mon-Fro 02:00-05:00", "the day Fro"),
            ("Mon-Wed-Fri 02:00-05:00", "more than two ends"),
            ("02:00-05:00 Europe/Berln", "did you mean Europe/Berlin?"),
            ("02:00-05:00 europe/berlin", "did you mean Europe/Berlin?"),
            ("02:00-05:00 Europe", "time zone Europe, which is unknown"),
            ("02:00-05:00 +02:00", "write one as in Europe/Berlin"),
            ("02:00-05:00 zone.tab", "is unknown"),
            ("02:00-05:00 leapseconds", "is unknown"),
            ("02:00-05:00 ../../../etc/passwd", "is unknown"),
            ("02:00-05:00 /etc/localtime", "is unknown"),
            ("02:00-05:00 Europe/Ber\0lin", "'Europe/Ber\\x00lin', which is unknown"),
        ):
            with self.subTest(text[:40]):
                error = self.assertRaises(WindowError, read_window, text)
                self.assertIn(part, str(error))
                self.assertTrue(str(error).isprintable())

    def test_longest(self) -> None:
        """A text is read up to MAX_LENGTH characters."""
        days = "Mon," * ((MAX_LENGTH - 15) // 4) + "Tue"
        text = f"{days} 01:00-02:00"
        self.assertLess(MAX_LENGTH - len(text), 4)
        self.assertEqual(read_window(text).days, {0, 1})
        self.assertRaises(WindowError, read_window, f"Mon,{text}")

    @settings(deadline=None)
    @given(_DAYS, _MINUTES, st.integers(0, MINUTES_OF_DAY), _ZONES)
    def test_printed_is_read_back(self, days: frozenset[int], begin: int, end: int, zone: ZoneInfo) -> None:
        """A window that is written out is read as that window."""
        assume(begin != end)
        names = ",".join(DAYS[day] for day in days)
        text = f"{names} {_spell(begin)}-{_spell(end)} {zone.key}"
        self.assertEqual(read_window(text), WeeklyWindow(text, days, begin, end, zone))

    @settings(deadline=None, max_examples=300)
    @given(
        st.text(max_size=40)
        | st.lists(
            st.sampled_from(["Mon", "Fri", "-", ",", " ", "02:00", "24:00", "99:99", "Europe/Berlin", "Europe", "\0"]),
            max_size=8,
        ).map("".join)
    )
    @example("02:00-05:00 \udcff")
    def test_any_text(self, text: str) -> None:
        """Any text is read or refused with WindowError, and a read one tells of any time."""
        try:
            window = read_window(text)
        except WindowError as error:
            self.assertTrue(str(error).isprintable())
        else:
            self.assertEqual(read_window(window.text), window)
            self.assertIn(window.contains(0), (True, False))


class ContainsTests(SynchronousTestCase):
    """What time is inside."""

    def assert_inside(self, window: Window, inside: dict[str, bool]) -> None:
        """Check times, given in UTC, against whether they are to be inside."""
        for text, expected in inside.items():
            with self.subTest(text):
                self.assertIs(window.contains(_at(text)), expected)

    def test_bounds(self) -> None:
        """The begin is inside, the end is not."""
        self.assert_inside(
            read_window("02:00-05:00"),
            {
                "2026-11-23T01:59:59.999": False,
                "2026-11-23T02:00:00": True,
                "2026-11-23T04:59:59.999": True,
                "2026-11-23T05:00:00": False,
            },
        )

    def test_zone(self) -> None:
        """Times are those of the zone, in summer and in winter."""
        self.assert_inside(
            read_window("02:00-05:00 Europe/Berlin"),
            {
                "2026-11-23T01:00:00": True,
                "2026-11-23T00:59:59": False,
                "2026-11-23T03:59:59": True,
                "2026-11-23T04:00:00": False,
                "2026-07-23T00:00:00": True,
                "2026-07-22T23:59:59": False,
                "2026-07-23T02:59:59": True,
                "2026-07-23T03:00:00": False,
            },
        )

    def test_over_midnight(self) -> None:
        """What goes on over midnight belongs to the day on which it began: Friday's lasts into Saturday."""
        self.assert_inside(
            read_window("Mon-Fri 22:00-04:00"),
            {
                "2026-11-23T03:59:00": False,  # a Monday, which is Sunday's night
                "2026-11-23T22:00:00": True,
                "2026-11-24T03:59:00": True,
                "2026-11-24T04:00:00": False,
                "2026-11-27T22:00:00": True,
                "2026-11-28T03:59:00": True,  # a Saturday
                "2026-11-28T22:00:00": False,
                "2026-11-29T22:00:00": False,
            },
        )

    def test_whole_days(self) -> None:
        """A window of whole days holds from midnight to midnight."""
        self.assert_inside(
            read_window("Sat,Sun 00:00-24:00"),
            {
                "2026-11-27T23:59:59": False,
                "2026-11-28T00:00:00": True,
                "2026-11-29T23:59:59": True,
                "2026-11-30T00:00:00": False,
            },
        )

    def test_clocks_are_put_forward(self) -> None:
        """On the day that lacks an hour a window lacks it too, and one that lies in it doesn't come."""
        for text, usual, short in (
            ("02:00-05:00", 180, 120),
            ("02:15-02:45", 30, 0),
            ("01:30-03:30", 120, 60),
            ("00:00-24:00", 1440, 1380),
            ("03:00-04:00", 60, 60),
        ):
            with self.subTest(text):
                window = read_window(f"{text} Europe/Berlin")
                self.assertEqual(_minutes_inside(window, "2026-03-28", "Europe/Berlin"), usual)
                self.assertEqual(_minutes_inside(window, "2026-03-29", "Europe/Berlin"), short)

    def test_clocks_are_put_back(self) -> None:
        """On the day that has an hour twice a window in it comes twice."""
        for text, usual, long in (
            ("02:00-05:00", 180, 240),
            ("02:15-02:45", 30, 60),
            ("01:30-02:30", 60, 90),
            ("00:00-24:00", 1440, 1500),
            ("03:00-04:00", 60, 60),
        ):
            with self.subTest(text):
                window = read_window(f"{text} Europe/Berlin")
                self.assertEqual(_minutes_inside(window, "2026-10-24", "Europe/Berlin"), usual)
                self.assertEqual(_minutes_inside(window, "2026-10-25", "Europe/Berlin"), long)

    def test_night_in_which_clocks_change(self) -> None:
        """A night that began on the day before ends at its time of the day, whatever the clocks did."""
        window = read_window("Sat 22:00-04:00 Europe/Berlin")
        for saturday, sunday, hours in (
            ("2026-11-21", "2026-11-22", 6),
            ("2026-03-28", "2026-03-29", 5),
            ("2026-10-24", "2026-10-25", 7),
        ):
            with self.subTest(saturday):
                minutes = [_minutes_inside(window, day, "Europe/Berlin") for day in (saturday, sunday)]
                self.assertEqual(minutes, [120, (hours - 2) * 60])

    @settings(deadline=None, max_examples=300)
    @given(_TIMES, _DAYS, _MINUTES, st.integers(0, MINUTES_OF_DAY), _ZONES)
    def test_follows_the_clock_on_the_wall(
        self, now: int, days: frozenset[int], begin: int, end: int, zone: ZoneInfo
    ) -> None:
        """A time is inside when the wall's clock is less than the window's length past its begin on one of its days."""
        assume(begin != end)
        wall = datetime.fromtimestamp(now, zone).replace(tzinfo=None)
        length = timedelta(minutes=(end - begin) % MINUTES_OF_DAY or MINUTES_OF_DAY)
        begins = [
            datetime.combine(wall.date() - timedelta(days=ago), datetime.min.time()) + timedelta(minutes=begin)
            for ago in (0, 1)
        ]
        expected = any(date.weekday(each) in days and timedelta(0) <= wall - each < length for each in begins)
        self.assertIs(WeeklyWindow("", days, begin, end, zone).contains(now), expected)

    @settings(deadline=None)
    @given(_TIMES, _MINUTES, _MINUTES, _ZONES)
    def test_other_way_round_is_the_rest(self, now: int, begin: int, end: int, zone: ZoneInfo) -> None:
        """Every time is either in a window of every day, or in the one from its end to its begin."""
        assume(begin != end)
        window = WeeklyWindow("", EVERY_DAY, begin, end, zone)
        rest = WeeklyWindow("", EVERY_DAY, end, begin, zone)
        self.assertIsNot(window.contains(now), rest.contains(now))

    @settings(deadline=None)
    @given(_TIMES, _DAYS, _DAYS, _MINUTES, _MINUTES, _ZONES)
    def test_days_add_up(
        self, now: int, some: frozenset[int], others: frozenset[int], begin: int, end: int, zone: ZoneInfo
    ) -> None:
        """A window on several days is those on each of them."""
        assume(begin != end)
        inside = [WeeklyWindow("", days, begin, end, zone).contains(now) for days in (some, others)]
        self.assertIs(WeeklyWindow("", some | others, begin, end, zone).contains(now), any(inside))

    @settings(deadline=None)
    @given(_TIMES, _DAYS, _MINUTES, _MINUTES)
    def test_comes_every_week(self, now: int, days: frozenset[int], begin: int, end: int) -> None:
        """In a zone whose clocks never change, a window is the same a week later."""
        assume(begin != end)
        window = WeeklyWindow("", days, begin, end, ZoneInfo("UTC"))
        self.assertIs(window.contains(now), window.contains(now + 7 * 86400))
