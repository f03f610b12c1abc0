"""Tests of conditional and range requests against a naive reading of RFC 9110."""

from __future__ import annotations

import re

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ota_server.web.ranges import NotModified, Part, Unsatisfiable, Whole, evaluate, matches, parse_range

Outcome = Whole | Part | Unsatisfiable

TAG = b'"0123456789abcdef"'


def naive(value: bytes, size: int) -> Outcome:
    """Read a range as section 14 of RFC 9110 says it, by looking at each byte of the file."""
    unit, equals, text = value.partition(b"=")
    if unit.lower() != b"bytes" or not equals:
        return Whole()
    found = re.fullmatch(rb"([0-9]*)-([0-9]*)", text.strip(b" \t"))
    if found is None or found[0] == b"-":
        return Whole()
    first, last = (int(digits) if digits else None for digits in found.groups())
    if first is not None and last is not None and last < first:
        return Whole()
    if first is None:
        assert last is not None
        wanted = [offset for offset in range(size) if offset >= size - last]
    else:
        wanted = [offset for offset in range(size) if first <= offset and (last is None or offset <= last)]
    return Part(wanted[0], len(wanted)) if wanted else Unsatisfiable()


numbers = st.one_of(st.integers(0, 60), st.integers(0, 10**25))
digits = st.one_of(numbers.map(lambda number: b"%d" % number), st.just(b""))


class ParseTests(SynchronousTestCase):
    """One `Range` header and the size of a file."""

    def check(self, size: int, table: dict[bytes, Outcome]) -> None:
        """Compare what each value of a table means with what it should."""
        for value, expected in table.items():
            self.assertEqual((value, parse_range(value, size)), (value, expected))

    def test_single_ranges(self) -> None:
        """A single range gives its bytes; its end is clamped to that of the file."""
        self.check(
            100,
            {
                b"bytes=0-0": Part(0, 1),
                b"bytes=0-": Part(0, 100),
                b"bytes=0-99": Part(0, 100),
                b"bytes=0-100": Part(0, 100),
                b"bytes=10-19": Part(10, 10),
                b"bytes=99-": Part(99, 1),
                b"bytes=99-99": Part(99, 1),
                b"bytes=99-1000000": Part(99, 1),
                b"bytes=007-008": Part(7, 2),
            },
        )

    def test_suffixes(self) -> None:
        """A suffix gives the last bytes, and the whole file where it is longer than that."""
        self.check(
            100,
            {
                b"bytes=-1": Part(99, 1),
                b"bytes=-100": Part(0, 100),
                b"bytes=-200": Part(0, 100),
                b"bytes=-0": Unsatisfiable(),
            },
        )

    def test_start_past_the_end(self) -> None:
        """A start at or past the end can't be satisfied."""
        self.check(100, {b"bytes=100-": Unsatisfiable(), b"bytes=100-200": Unsatisfiable()})

    def test_empty_file(self) -> None:
        """Of an empty file nothing can be had."""
        self.check(0, {b"bytes=0-": Unsatisfiable(), b"bytes=0-0": Unsatisfiable(), b"bytes=-5": Unsatisfiable()})

    def test_several_ranges(self) -> None:
        """A set of several ranges is ignored."""
        self.check(100, {b"bytes=0-1,5-6": Whole(), b"bytes=0-1, -1": Whole(), b"bytes=0-1,": Whole()})

    def test_bad_syntax(self) -> None:
        """What isn't a range by the letter is ignored."""
        bad = (
            b"", b"bytes", b"bytes=", b"bytes=-", b"bytes=--5", b"bytes=1_0-2_0", b"bytes=+1-+5", b"bytes=a-b",
            b"bytes=1.0-2", b"bytes=0x1-0x2", b"bytes=5-1", b"bytes= 1 - 2", b"bytes=1 -2", b"bytes =1-2",
            b"items=1-2", b"bytes:1-2", b"bytes=1-2-3", b"1-2", b"bytes=0-1\n", b"bytes=0-1\x00",
            "bytes=\u0663-\u0665".encode(), "bytes=\uff11-\uff12".encode(),
        )  # fmt: skip
        self.check(100, {value: Whole() for value in bad})

    def test_case_and_space(self) -> None:
        """The unit may be spelled in any case, and white space may stand around the range."""
        self.check(100, {b"Bytes=1-2": Part(1, 2), b"BYTES=1-2": Part(1, 2), b"bytes= \t1-2 \t": Part(1, 2)})

    def test_huge_numbers(self) -> None:
        """Numbers of any length are understood."""
        huge = b"9" * 5000
        self.check(
            100,
            {
                b"bytes=0-" + huge: Part(0, 100),
                b"bytes=" + huge + b"-": Unsatisfiable(),
                b"bytes=-" + huge: Part(0, 100),
                b"bytes=" + huge + b"-5": Whole(),
            },
        )

    def test_leading_zeros(self) -> None:
        """Leading zeros change nothing, however many they are."""
        self.check(100, {b"bytes=" + b"0" * 30 + b"1-5": Part(1, 5), b"bytes=" + b"0" * 30 + b"1-": Part(1, 99)})

    def test_huge_numbers_in_wrong_order(self) -> None:
        """A range whose huge end lies before its huge start is invalid, and so ignored."""
        self.check(100, {b"bytes=2000000000000000000-1000000000000000000": Whole()})

    @given(st.integers(0, 50), digits, digits, st.sampled_from([b"bytes", b"Bytes", b"byte", b"bYtEs"]))
    @example(100, b"0", b"", b"bytes")
    def test_naive_reading(self, size: int, first: bytes, last: bytes, unit: bytes) -> None:
        """Any range means what a naive reading of the RFC says."""
        value = unit + b"=" + first + b"-" + last
        self.assertEqual(parse_range(value, size), naive(value, size))

    @given(st.integers(0, 10**13), st.one_of(st.binary(max_size=30), st.from_regex(rb"bytes=[0-9,_ -]{0,12}")))
    def test_within_the_file(self, size: int, value: bytes) -> None:
        """Whatever is asked for: a part lies within the file, and is not empty."""
        outcome = parse_range(value, size)
        if isinstance(outcome, Part):
            self.assertGreaterEqual(outcome.start, 0)
            self.assertGreaterEqual(outcome.length, 1)
            self.assertLessEqual(outcome.start + outcome.length, size)


class MatchesTests(SynchronousTestCase):
    """`If-None-Match` and an entity tag."""

    def test_values(self) -> None:
        """Lists, weak tags and the asterisk match; other tags, tags in other case or without quotes don't."""
        table = {
            TAG: True,
            b"W/" + TAG: True,
            b"*": True,
            b" * ": True,
            b'"other", ' + TAG: True,
            b'W/"other",W/' + TAG + b' , "more"': True,
            b'"a,b", ' + TAG: True,
            b'"other"': False,
            TAG.upper(): False,
            TAG.strip(b'"'): False,
            b'"*"': False,
            b"": False,
            b'"0123456789abcdef': False,
        }
        for value, expected in table.items():
            self.assertEqual((value, matches(value, TAG)), (value, expected))


class EvaluateTests(SynchronousTestCase):
    """All conditions of one request."""

    def evaluate(
        self,
        method: bytes = b"GET",
        *,
        range_header: bytes | None = b"bytes=1-2",
        if_none_match: bytes | None = None,
        if_range: bytes | None = None,
    ) -> Outcome | NotModified:
        """Evaluate a request for a file of 100 bytes."""
        return evaluate(
            method=method,
            size=100,
            etag=TAG,
            range_header=range_header,
            if_none_match=if_none_match,
            if_range=if_range,
        )

    def test_nothing_asked(self) -> None:
        """Without conditions all is sent."""
        self.assertEqual(self.evaluate(range_header=None), Whole())

    def test_range(self) -> None:
        """A range alone gives a part, or that it can't be satisfied."""
        self.assertEqual(self.evaluate(), Part(1, 2))
        self.assertEqual(self.evaluate(range_header=b"bytes=100-"), Unsatisfiable())

    def test_head_ignores_range(self) -> None:
        """A range means nothing to HEAD."""
        self.assertEqual(self.evaluate(b"HEAD"), Whole())
        self.assertEqual(self.evaluate(b"HEAD", range_header=b"bytes=100-"), Whole())

    def test_head_heeds_if_none_match(self) -> None:
        """A HEAD of what the client has is answered so."""
        self.assertEqual(self.evaluate(b"HEAD", if_none_match=TAG), NotModified())

    def test_if_none_match_goes_first(self) -> None:
        """What the client has already is not sent, whichever part it asks for."""
        self.assertEqual(self.evaluate(if_none_match=TAG), NotModified())
        self.assertEqual(self.evaluate(if_none_match=TAG, range_header=b"bytes=100-"), NotModified())
        self.assertEqual(self.evaluate(if_none_match=b"*"), NotModified())
        self.assertEqual(self.evaluate(if_none_match=b'"other"'), Part(1, 2))

    def test_if_range(self) -> None:
        """Only the very tag, compared strongly, lets a part be sent; a date is never enough."""
        self.assertEqual(self.evaluate(if_range=TAG), Part(1, 2))
        self.assertEqual(self.evaluate(if_range=b" " + TAG + b" "), Part(1, 2))
        for value in (b'"other"', b"W/" + TAG, b"Sun, 09 Sep 2001 01:46:40 GMT", b"*", b""):
            self.assertEqual((value, self.evaluate(if_range=value)), (value, Whole()))

    def test_if_range_mismatch_and_start_past_the_end(self) -> None:
        """Where the tag is another one, the range counts for nothing, even where it can't be satisfied."""
        self.assertEqual(self.evaluate(if_range=b'"other"', range_header=b"bytes=100-"), Whole())
