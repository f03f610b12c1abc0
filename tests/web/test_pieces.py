"""Tests of putting together what a device has of an image."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.catalog import Image
from ota_server.web import pieces
from ota_server.web.pieces import MAX_AGE, MAX_DOWNLOADS, MAX_SPANS, Pieces, Span, unite
from tests.web.memory import read_folder, write_files

SIZE = 1000
SPANS = st.tuples(st.integers(0, 60), st.integers(1, 60)).map(lambda pair: (pair[0], pair[0] + pair[1]))


class UniteTests(SynchronousTestCase):
    """The union of spans, as a rule with laws."""

    @given(st.lists(SPANS))
    def test_union(self, spans: list[Span]) -> None:
        """It holds exactly the offsets that were in one of them; it is in order and nothing in it touches."""
        union: tuple[Span, ...] = ()
        for span in spans:
            union = unite(union, span)
        offsets = [offset for start, end in union for offset in range(start, end)]
        self.assertEqual(offsets, sorted({offset for start, end in spans for offset in range(start, end)}))
        for (_, end), (start, _) in pairwise(union):
            self.assertLess(end, start)


class PiecesTests(SynchronousTestCase):
    """The pieces of downloads."""

    def setUp(self) -> None:
        """Make two images of the same size."""
        folder = Path(self.mktemp())
        write_files(folder, {f"firmware-{version}.0.0.bin": bytes([version]) * SIZE for version in (1, 2)})
        found: list[Image] = sorted(set(read_folder(folder).channels["stable"].files.values()), key=lambda i: i.path)
        self.image, self.other = found
        self.pieces = Pieces()

    def add(self, start: int, end: int, *, device: str = "lamp", image: Image | None = None, now: float = 0.0) -> bool:
        """Add a piece."""
        return self.pieces.add(device, image or self.image, (start, end), now)

    def test_whole(self) -> None:
        """One piece may be all; nothing is kept of it, and the next download is told anew."""
        for _ in range(2):
            self.assertTrue(self.add(0, SIZE))
            self.assertEqual(len(self.pieces), 0)

    def test_in_order(self) -> None:
        """Pieces in order are whole with the last."""
        self.assertEqual([self.add(start, start + 100) for start in range(0, SIZE, 100)], [False] * 9 + [True])
        self.assertEqual(len(self.pieces), 0)

    def test_in_any_order(self) -> None:
        """The order doesn't matter, nor do pieces that overlap or come again."""
        spans = ((900, SIZE), (0, 300), (0, 300), (200, 500), (450, 800), (850, 950))
        self.assertEqual([self.add(*span) for span in spans], [False] * 6)
        self.assertTrue(self.pieces.completes("lamp", self.image, (799, 851), 0.0))
        self.assertFalse(self.pieces.completes("lamp", self.image, (801, 851), 0.0))
        self.assertTrue(self.add(800, 850))

    def test_gap(self) -> None:
        """One byte that is missing is missing."""
        self.assertFalse(self.add(0, 499))
        self.assertFalse(self.add(500, SIZE))
        self.assertTrue(self.add(499, 500))

    def test_last_piece_again(self) -> None:
        """The last piece alone, after the whole, is no second download."""
        self.add(0, 900)
        self.assertTrue(self.add(900, SIZE))
        self.assertFalse(self.add(900, SIZE))

    def test_empty(self) -> None:
        """A piece without a byte is none."""
        for span in ((0, 0), (5, 2)):
            self.assertFalse(self.add(*span))
        self.assertEqual(len(self.pieces), 0)

    def test_kept_apart(self) -> None:
        """Devices and images are kept apart."""
        self.assertFalse(self.add(0, 500))
        self.assertFalse(self.add(500, SIZE, device="door"))
        self.assertFalse(self.add(500, SIZE, image=self.other))
        self.assertTrue(self.add(500, SIZE))

    def test_same_bytes(self) -> None:
        """A file with the same bytes, read anew, is the same image."""
        folder = Path(self.mktemp())
        write_files(folder, {"firmware-1.0.0.bin": bytes([1]) * SIZE})
        (again,) = set(read_folder(folder).channels["stable"].files.values())
        self.add(0, 500)
        self.assertTrue(self.add(500, SIZE, image=again))

    def test_nameless(self) -> None:
        """Of devices without a name pieces aren't put together, since they may be of several; a whole image counts."""
        self.assertFalse(self.add(0, 500, device=""))
        self.assertFalse(self.add(500, SIZE, device=""))
        self.assertTrue(self.add(0, SIZE, device=""))
        self.assertEqual(len(self.pieces), 0)

    def test_forgotten_after_an_hour(self) -> None:
        """A download is forgotten after an hour without a piece, counted from the last one."""
        self.assertEqual(MAX_AGE, 3600)
        self.add(0, 500)
        self.add(500, 900, now=MAX_AGE)
        self.assertTrue(self.pieces.completes("lamp", self.image, (900, SIZE), 2 * MAX_AGE))
        self.assertFalse(self.pieces.completes("lamp", self.image, (900, SIZE), 2 * MAX_AGE + 1))
        self.assertFalse(self.add(900, SIZE, now=2 * MAX_AGE + 1))
        self.assertFalse(self.add(0, 500, device="door", now=4 * MAX_AGE))
        self.assertEqual(len(self.pieces), 1)

    def test_number_of_downloads(self) -> None:
        """Only so many downloads are remembered: those with the latest pieces."""
        self.assertEqual(MAX_DOWNLOADS, 10_000)
        self.patch(pieces, "MAX_DOWNLOADS", 3)
        for device in ("a", "b", "c", "a", "d"):
            self.add(0, 500, device=device)
        self.assertEqual([self.add(500, SIZE, device=device) for device in "acd"], [True, True, True])
        self.assertFalse(self.add(500, SIZE, device="b"))

    def test_number_of_spans(self) -> None:
        """Only so many gaps are remembered of a download: the smallest piece is forgotten, and may come again."""
        self.assertFalse(self.add(1, 4))
        for start in range(10, 10 + 5 * MAX_SPANS, 5):
            self.assertFalse(self.add(start, start + 4))
        self.assertFalse(self.add(4, SIZE))
        self.assertFalse(self.add(0, 1))
        self.assertTrue(self.add(1, 4))
