"""Lists: sorted by a key, and given out in pages that don't shift when something changes.

A page ends with a cursor, which holds the key of its last item; the next page begins behind that key, whatever came or
went meanwhile. Everything here is pure; `scan` works in small steps, so that whoever calls it stays free for others.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any, Generic, TypeVar

import attrs

from ota_server.operator.calls import Answer, Call, Json, Parameter, Place, Problem

DEFAULT_LIMIT = 50
"""How many items a page has unless the caller says."""

MAX_LIMIT = 500
"""How many items a page has at most."""

STEP = 500
"""How many items are looked at in one step: for a fraction of a millisecond."""

MAX_CURSOR = 6000
"""The longest cursor, in characters: room for the longest path of a file in a channel."""

_HUGE = 1 << 63
"""No number of a key is so large, and no database takes it."""

_KEY = itemgetter(0)

T = TypeVar("T")

Key = tuple[Any, ...]
"""What items are sorted by: numbers and texts, the last of which tells apart items that are otherwise alike."""


@attrs.frozen
class Order(Generic[T]):
    """One way to sort items; `shape` are the types of the key's members.

    `quick` is what tells most items that are on another page, since keys take time: the first member of the key, or
    with `depth` a tuple of the first ones.
    """

    key: Callable[[T], Key]
    shape: tuple[type, ...]
    quick: Callable[[T], Any] | None = None
    depth: int | None = None

    def quick_of(self, key: Key) -> Any:
        """Return what `quick` returns of an item with this key."""
        return key[0] if self.depth is None else key[: self.depth]


@attrs.frozen
class Page(Generic[T]):
    """One page: its items, the key that the next one begins behind (None for the last), and how many match in all."""

    items: Sequence[T]
    next: Key | None
    total: int


def scan(
    items: Iterable[T],
    tests: Sequence[Callable[[T], bool]],
    order: Order[T],
    *,
    descending: bool,
    after: Key | None,
    limit: int,
) -> Generator[None, None, Page[T]]:
    """Find one page of the items that pass all tests in small steps; return it.

    `items` must not change meanwhile, though what they hold may.
    """
    key_of = order.key
    best: list[tuple[Key, T]] = []
    total = 0
    left = iter(items)
    while some := list(islice(left, STEP)):
        for test in tests:
            some = [item for item in some if test(item)]
        total += len(some)
        # What comes behind a whole page needs no sorting.
        bound = best[-1][0] if len(best) > limit else None
        first, last = (bound, after) if descending else (after, bound)
        if order.quick is not None:
            some = _between(
                some, order.quick, *(None if each is None else order.quick_of(each) for each in (first, last))
            )
        found = [(key_of(item), item) for item in some]
        if first is not None:
            found = [each for each in found if each[0] > first]
        if last is not None:
            found = [each for each in found if each[0] < last]
        if found:
            # What is sorted already makes this quick.
            best = sorted((*best, *found), key=_KEY, reverse=descending)[: limit + 1]
        yield
    shown = best[:limit]
    return Page([item for _, item in shown], shown[-1][0] if len(best) > limit else None, total)


def _between(items: list[T], value_of: Callable[[T], Any], first: Any, last: Any) -> list[T]:
    """Leave out what is before or behind these values, where there are any; those that are alike stay."""
    if first is None and last is None:
        return items
    pairs = zip(items, map(value_of, items), strict=True)
    if last is None:
        return [item for item, value in pairs if value >= first]
    if first is None:
        return [item for item, value in pairs if value <= last]
    return [item for item, value in pairs if first <= value <= last]


def write_cursor(sort: str, key: Key) -> str:
    """Return the text of a cursor of a list sorted so."""
    return base64.urlsafe_b64encode(json.dumps([sort, *key]).encode()).decode().rstrip("=")


def read_cursor(text: str, sort: str, shape: tuple[type, ...]) -> Key:
    """Return the key that a cursor holds. Raises Problem where it isn't one of this list, sorted so."""
    try:
        members = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
        if isinstance(members, list) and members[0] == sort and _is_of(members[1:], shape):
            return tuple(members[1:])
    except (ValueError, IndexError, RecursionError, binascii.Error):
        pass
    raise Problem(
        400, "bad-cursor", "The cursor is none of this list", "take `next` of the page before, with the same sort"
    )


def _is_of(members: Sequence[Json], shape: tuple[type, ...]) -> bool:
    # A whole number of seconds is written without a point, and true is a number in Python.
    allowed = [(float, int) if each is float else (each,) for each in shape]
    return len(members) == len(shape) and all(
        type(member) in kinds and not (type(member) is int and abs(member) >= _HUGE)
        for member, kinds in zip(members, allowed, strict=True)
    )


def _read_limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= MAX_LIMIT):
        raise ValueError(f"write a number from 1 to {MAX_LIMIT}")
    return int(text)


def _read_cursor_text(text: str) -> str:
    if not 0 < len(text) <= MAX_CURSOR or not text.isascii():
        raise ValueError("take `next` of the page before")
    return text


LIMIT = Parameter(
    "limit",
    Place.QUERY,
    "How many items a page has at most.",
    _read_limit,
    {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT},
    default=DEFAULT_LIMIT,
)

CURSOR = Parameter(
    "cursor",
    Place.QUERY,
    "What the page before gave as `next`; without it the list begins.",
    _read_cursor_text,
    {"type": "string", "pattern": "^[A-Za-z0-9_-]+$", "maxLength": MAX_CURSOR},
)


def page_schema(item: Mapping[str, Json]) -> dict[str, Json]:
    """Return the JSON Schema of a page of such items."""
    return {
        "type": "object",
        "properties": {
            "items": {"type": "array", "items": item},
            "next": {"type": ["string", "null"], "description": "the cursor of the next page, null on the last one"},
            "total": {"type": "integer", "minimum": 0, "description": "how many match, on all pages"},
        },
        "required": ["items", "next", "total"],
        "additionalProperties": False,
    }


@attrs.frozen
class Listing(Generic[T]):
    """A list that can be sorted by several names; `default` is what it is sorted by unless told, with its sign."""

    orders: Mapping[str, Order[T]]
    default: str

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters of every list: `limit`, `cursor` and `sort`."""
        names = [sign + name for name in self.orders for sign in ("", "-")]

        def read(text: str) -> str:
            if text not in names:
                raise ValueError(f"write one of {', '.join(self.orders)}, with - before it for the other way round")
            return text

        schema = {"type": "string", "enum": names}
        summary = "What the list is sorted by; with `-` before it from the highest to the lowest."
        return (LIMIT, CURSOR, Parameter("sort", Place.QUERY, summary, read, schema, default=self.default))

    def scan(
        self, call: Call, items: Iterable[T], tests: Sequence[Callable[[T], bool]] = ()
    ) -> Generator[None, None, Page[T]]:
        """Find the page that a call asks for; see the function. Raises Problem."""
        sort = call["sort"]
        order = self.orders[sort.removeprefix("-")]
        after = None if call["cursor"] is None else read_cursor(call["cursor"], sort, order.shape)
        return scan(items, tests, order, descending=sort.startswith("-"), after=after, limit=call["limit"])

    def answer(self, call: Call, page: Page[T], show: Callable[[T], Json]) -> Answer:
        """Return the answer with a page."""
        following = None if page.next is None else write_cursor(call["sort"], page.next)
        return Answer({"items": [show(item) for item in page.items], "next": following, "total": page.total})

    def whole(self, call: Call, items: Iterable[T], show: Callable[[T], Json], *tests: Callable[[T], bool]) -> Answer:
        """Answer with a page of a list that is short enough to be gone through at once."""
        return self.answer(call, finish(self.scan(call, items, tests)), show)


def finish(scanning: Generator[None, None, T]) -> T:
    """Let a scan work to its end at once, and return what it found."""
    while True:
        try:
            next(scanning)
        except StopIteration as end:
            found: T = end.value
            return found
