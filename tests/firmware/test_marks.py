"""Tests of the marks that builds leave."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.marks import ESP32_DEBUG, ESP8266_DEBUG, Marks
from tests.firmware.reading import HOMIE_NAME, HOMIE_VERSION


def _look(*pieces: bytes) -> Marks:
    marks = Marks({**ESP32_DEBUG, **ESP8266_DEBUG})
    for piece in pieces:
        marks(memoryview(piece))
    return marks


def _found(marks: Marks) -> tuple[object, ...]:
    return marks.homie_name, marks.homie_version, marks.esphome, marks.debug


_SCRAPS = st.sampled_from(
    [
        *HOMIE_NAME,
        *HOMIE_VERSION,
        b"lamp",
        b"x" * 140,
        b"y" * 9,
        b"\0",
        b"\xff",
        b"ESPHome version ",
        b"[V][%s:%u] %s(): ",
        b"\0D (%lu) %s: ",
        bytes(400),
    ]
)


class MarksTests(SynchronousTestCase):
    """Marks are found wherever they stand."""

    @given(st.lists(_SCRAPS, max_size=20), st.integers(1, 300))
    def test_any_pieces(self, scraps: list[bytes], most: int) -> None:
        """What is found doesn't depend on the pieces that the program comes in."""
        data = b"".join(scraps)
        pieces = [data[start : start + most] for start in range(0, len(data), most)]
        self.assertEqual(_found(_look(*pieces)), _found(_look(data)))

    def test_across_pieces(self) -> None:
        """Marks that lie across the end of a piece are found, wherever that is."""
        data = b"begin" + HOMIE_NAME[0] + b"lamp" + HOMIE_NAME[1] + HOMIE_VERSION[0] + b"1.2.3" + HOMIE_VERSION[1]
        data += b"ESPHome version 2026.1.0\0[D][%s:%u] %s(): "
        found = ("lamp", "1.2.3", True, ("log level debug (CORE_DEBUG_LEVEL 4)",))
        for end in range(len(data)):
            self.assertEqual(_found(_look(bytes(1000) + data[:end], data[end:] + bytes(1000))), found)

    def test_lengths(self) -> None:
        """A text of up to 150 bytes is one; a longer one, an empty one and one that can't be printed are none."""
        begin, end = HOMIE_NAME
        for text, found in (
            (b"x" * 150, "x" * 150),
            (b"x" * 151, None),
            (b"", None),
            (b"a\0b", None),
            ("Küche".encode(), "Küche"),
        ):
            self.assertEqual(_look(begin + text + end).homie_name, found)
        self.assertIsNone(_look(begin + b"lamp").homie_name)

    def test_second_beginning(self) -> None:
        """What only looks like a mark's beginning doesn't hide one behind it; of two marks the first counts."""
        begin, end = HOMIE_NAME
        self.assertEqual(_look(begin + b"\0\0" + begin + b"lamp" + end).homie_name, "lamp")
        self.assertEqual(_look(begin + b"lamp" + end + begin + b"door" + end).homie_name, "lamp")
