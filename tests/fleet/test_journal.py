"""Tests of check-ins as they are packed for the ledger."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ota_server.fleet.journal import SightingsLog, unpack_sightings
from tests.fleet.play import DAY, NOW


class SightingsTests(SynchronousTestCase):
    """Packing and unpacking."""

    @settings(deadline=None, max_examples=100)
    @given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.floats(-3600, 30 * DAY)), max_size=50))
    def test_round_trip(self, sightings: list[tuple[int, float]]) -> None:
        """All come back in order, at eight bytes each, and their times to a quarter of a second in a month."""
        log = SightingsLog(NOW)
        for key, offset in sightings:
            log.add(key, NOW + offset)
        self.assertEqual(len(log), len(sightings))
        packed = log.pack()
        self.assertEqual(len(packed), 8 * len(sightings))
        found = list(unpack_sightings(NOW, packed))
        self.assertEqual([key for key, _ in found], [key for key, _ in sightings])
        for (_, time), (_, offset) in zip(found, sightings, strict=True):
            self.assertLessEqual(abs(time - (NOW + offset)), 0.25)
            if abs(offset) <= 600:
                self.assertLessEqual(abs(time - (NOW + offset)), 1e-4)

    def test_packed_again(self) -> None:
        """Packing changes nothing: more can be added, and what was packed stays as it is."""
        log = SightingsLog(NOW)
        log.add(1, NOW + 1)
        first = log.pack()
        log.add(2, NOW + 2)
        self.assertEqual(list(unpack_sightings(NOW, first)), [(1, NOW + 1)])
        self.assertEqual(list(unpack_sightings(NOW, log.pack())), [(1, NOW + 1), (2, NOW + 2)])

    def test_form(self) -> None:
        """The form is that of every machine: keys, then offsets, little-endian."""
        log = SightingsLog(NOW)
        log.add(1, NOW + 1)
        log.add(0x01020304, NOW + 0.5)
        self.assertEqual(log.pack().hex(), "01000000040302010000803f0000003f")

    @settings(deadline=None, max_examples=100)
    @given(st.binary(max_size=100))
    def test_damaged(self, packed: bytes) -> None:
        """Of bytes that nobody packed so many come as there are whole ones, and nothing is raised."""
        self.assertEqual(len(list(unpack_sightings(NOW, packed))), len(packed) // 8)

    def test_empty(self) -> None:
        """Of no check-ins there are no bytes."""
        self.assertEqual(SightingsLog(NOW).pack(), b"")
        self.assertEqual(list(unpack_sightings(NOW, b"")), [])
