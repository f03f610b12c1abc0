"""Tests of lists: their pages don't shift, whatever comes and goes between them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ota_server.operator import listing
from ota_server.operator.calls import Call, Problem
from ota_server.operator.listing import (
    MAX_LIMIT,
    Listing,
    Order,
    Page,
    finish,
    read_cursor,
    scan,
    write_cursor,
)
from ota_server.operator.parameters import read_time
from ota_server.operator.scopes import EVERYTHING, Operator

Item = tuple[float, str]

ORDERS: Listing[Item] = Listing(
    {
        "time": Order(lambda item: item, (float, str), lambda item: item[0]),
        "both": Order(
            lambda item: (item[0] // 2, item[0], item[1]), (float, float, str), lambda i: (i[0] // 2, i[0]), 2
        ),
        "id": Order(lambda item: (item[1],), (str,)),
    },
    "time",
)

_items = st.dictionaries(st.text(max_size=3), st.integers(0, 5).map(float), max_size=30).map(
    lambda found: [(time, name) for name, time in found.items()]
)
_sorts = st.sampled_from(["time", "-time", "both", "-both", "id", "-id"])


def ask(sort: str, cursor: str | None, limit: int) -> Call:
    """Return a call for a page."""
    return Call(Operator("test", EVERYTHING), {"sort": sort, "cursor": cursor, "limit": limit})


def walk(items: list[Item], sort: str, limit: int) -> list[Item]:
    """Return the items of all pages."""
    found: list[Item] = []
    cursor = None
    while True:
        page = ORDERS.whole(ask(sort, cursor, limit), items, lambda item: item).json
        found += page["items"]
        cursor = page["next"]
        if cursor is None:
            return found


class ScanTests(SynchronousTestCase):
    """Pages of a list, gone through two items at a time."""

    def setUp(self) -> None:
        """Make the steps small, so that pages are made of several."""
        self.patch(listing, "STEP", 2)

    @given(_items, _sorts, st.integers(1, 7))
    def test_all_pages_are_the_list(self, items: list[Item], sort: str, limit: int) -> None:
        """One page after the other gives each item once, sorted."""
        order = ORDERS.orders[sort.removeprefix("-")]
        self.assertEqual(walk(items, sort, limit), sorted(items, key=order.key, reverse=sort.startswith("-")))

    @given(_items, _items, _sorts, st.integers(1, 5))
    def test_changes_between_pages(self, before: list[Item], after: list[Item], sort: str, limit: int) -> None:
        """What was there before and after a change is neither left out nor shown twice, whatever else changed."""
        first = ORDERS.whole(ask(sort, None, limit), before, lambda item: item).json
        shown = [tuple(item) for item in first["items"]]
        if first["next"] is None:
            return
        page = finish(ORDERS.scan(ask(sort, first["next"], 500), after))
        shown += page.items
        kept = set(before) & set(after)
        self.assertEqual(
            [item for item in shown if item in kept], [item for item in dict.fromkeys(shown) if item in kept]
        )
        self.assertLessEqual(kept, set(shown))

    @given(_items, _sorts)
    def test_total(self, items: list[Item], sort: str) -> None:
        """The total counts what matches, on every page."""
        call = ask(sort, None, 2)
        page = finish(ORDERS.scan(call, items, [lambda item: item[0] > 2]))
        self.assertEqual(page.total, sum(item[0] > 2 for item in items))

    def test_small_steps(self) -> None:
        """However long the list is, each step looks at few items only, also where none matches."""
        looked = 0

        def matches(number: int) -> bool:
            nonlocal looked
            looked += 1
            return False

        scanning = scan(range(20), [matches], Order(lambda n: (n,), (int,)), descending=False, after=None, limit=50)
        steps = []
        for _ in scanning:
            steps.append(looked)
            looked = 0
        self.assertEqual(steps, [2] * 10)

    def test_whole_page_last(self) -> None:
        """Where the last page is full there is no empty one behind it."""
        page: Page[int] = finish(
            scan(range(50), (), Order(lambda n: (n,), (int,)), descending=False, after=None, limit=50)
        )
        self.assertEqual((len(page.items), page.next, page.total), (50, None, 50))


class CursorTests(SynchronousTestCase):
    """Cursors are the server's own; whatever else comes in their place is refused."""

    @given(st.floats(allow_nan=False, allow_infinity=False), st.text())
    def test_round_trip(self, time: float, name: str) -> None:
        """A key comes back as it was, to the last digit."""
        self.assertEqual(read_cursor(write_cursor("-time", (time, name)), "-time", (float, str)), (time, name))

    def test_refused(self) -> None:
        """One of another list, another sort, or of no list at all."""
        good = write_cursor("time", (1.5, "a"))
        self.assertEqual(read_cursor(good, "time", (float, str)), (1.5, "a"))
        for text, sort, shape in (
            (good, "-time", (float, str)),
            (good, "time", (float,)),
            (good, "time", (str, str)),
            (write_cursor("time", (True, "a")), "time", (float, str)),
            (write_cursor("time", (1 << 63, "a")), "time", (int, str)),
            (good[:-3], "time", (float, str)),
            ("äöü", "time", (float, str)),
            ("A", "time", (float, str)),
            ("e30", "time", (float, str)),
            ("W10", "time", (float, str)),
            ("[[[[" * 400, "time", (float, str)),
        ):
            with self.subTest(text):
                error = self.assertRaises(Problem, read_cursor, text, sort, shape)
                self.assertEqual((error.status, error.kind), (400, "bad-cursor"))

    @given(st.text(max_size=60) | st.binary(max_size=40).map(lambda data: data.hex()))
    @settings(max_examples=300)
    def test_anything(self, text: str) -> None:
        """Whatever is sent is a key of the right form, or refused."""
        try:
            key = read_cursor(text, "time", (float, str))
        except Problem:
            return
        self.assertIsInstance(key[1], str)


class ParameterTests(SynchronousTestCase):
    """What parameters may be."""

    def parameter(self, name: str, text: str) -> object:
        """Read a parameter of a list."""
        return next(each for each in ORDERS.parameters if each.name == name).read(text)

    def test_limit(self) -> None:
        """A limit is from 1 to 500."""
        self.assertEqual([self.parameter("limit", text) for text in ("1", "50", str(MAX_LIMIT))], [1, 50, MAX_LIMIT])
        for text in ("0", "501", "-1", "1.0", "", " 5", "٣", "9" * 5000):
            with self.subTest(text[:9]):
                self.assertRaises(ValueError, self.parameter, "limit", text)

    def test_sort(self) -> None:
        """A sort is one of the names, with or without a sign."""
        self.assertEqual(self.parameter("sort", "-id"), "-id")
        for text in ("", "-", "--id", "name", "id,time"):
            with self.subTest(text):
                self.assertIn("time, both, id", str(self.assertRaises(ValueError, self.parameter, "sort", text)))

    def test_time(self) -> None:
        """Times are those of RFC 3339, in any zone."""
        for text, seconds in (
            ("1970-01-01T00:00:00Z", 0.0),
            ("1970-01-01t01:00:00.250+01:00", 0.25),
            ("1969-12-31T23:00:00-01:00", 0.0),
            ("2026-11-24T02:00:00z", 1795485600.0),
        ):
            with self.subTest(text):
                self.assertEqual(read_time(text), seconds)
        for text in (
            "now",
            "2026-11-24",
            "2026-11-24T02:00:00",
            "2026-13-24T02:00:00Z",
            "1795485600",
            "2026-W01-1T00Z",
        ):
            with self.subTest(text):
                self.assertRaises(ValueError, read_time, text)
