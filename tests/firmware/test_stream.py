"""Tests of reading in order and in pieces."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import reduce
from operator import xor

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.stream import ImageStream, Xor
from tests.firmware.reading import md5, sha256

_CHUNKS = st.lists(st.binary(min_size=1, max_size=20), max_size=8)


def _stream(chunks: list[bytes]) -> ImageStream:
    return ImageStream(iter(chunks), None)


class StreamTests(SynchronousTestCase):
    """A stream gives the same bytes whatever it is asked for, and hashes those that were read."""

    @given(_CHUNKS, st.lists(st.tuples(st.sampled_from(["peek", "ahead", "take", "skip"]), st.integers(0, 40))))
    def test_any_way_to_read(self, chunks: list[bytes], steps: list[tuple[str, int]]) -> None:
        """Peeking reads nothing, taking and skipping do; position, digests and sinks follow what was read."""
        data = b"".join(chunks)
        stream = _stream(chunks)
        seen, skipped = bytearray(), bytearray()
        stream.sinks.append(seen.extend)
        at = 0
        for step, count in steps:
            match step:
                case "peek":
                    self.assertEqual(stream.peek(count), data[at : at + count])
                case "ahead":
                    ahead = bytes(stream.ahead())
                    self.assertEqual(ahead, data[at : at + len(ahead)])
                    self.assertEqual(bool(ahead), at < len(data))
                case "take":
                    self.assertEqual(stream.take(count), data[at : at + count])
                    at = min(at + count, len(data))
                case _:
                    skipped.clear()
                    self.assertEqual(stream.skip(count, skipped.extend), len(data[at : at + count]))
                    self.assertEqual(skipped, data[at : at + count])
                    at = min(at + count, len(data))
            self.assertEqual(stream.position, at)
            self.assertEqual((stream.md5.hexdigest(), stream.sha256.hexdigest()), (md5(data[:at]), sha256(data[:at])))
            self.assertEqual(seen, data[:at])

    @given(_CHUNKS, st.integers(0, 40))
    def test_rest(self, chunks: list[bytes], count: int) -> None:
        """The rest can be read at once, or as pieces; both read to the end, and say what there was."""
        data = b"".join(chunks)
        for take_rest in (lambda stream: stream.skip_rest(), lambda stream: sum(map(len, stream.pieces()))):
            stream = _stream(chunks)
            stream.take(count)
            self.assertEqual(take_rest(stream), len(data[count:]))
            self.assertEqual((stream.position, stream.peek(1)), (len(data), b""))
            self.assertEqual(stream.sha256.hexdigest(), sha256(data))

    def test_reads_no_further_than_needed(self) -> None:
        """No piece is asked for before its bytes are."""
        asked = []

        def chunks() -> Iterator[bytes]:
            for number in range(4):
                asked.append(number)
                yield b"1234"

        stream = ImageStream(chunks(), 16)
        self.assertEqual(asked, [])
        stream.take(4)
        self.assertEqual(asked, [0])
        stream.peek(5)
        self.assertEqual(asked, [0, 1, 2])

    def test_sinks_begin_where_they_are_put_in(self) -> None:
        """A sink gets what is read from then on."""
        stream = _stream([b"one ", b"two"])
        stream.take(4)
        digest = hashlib.sha384()
        stream.sinks.append(digest.update)
        stream.skip_rest()
        self.assertEqual(digest.digest(), hashlib.sha384(b"two").digest())


class XorTests(SynchronousTestCase):
    """The XOR of all bytes."""

    @given(st.lists(st.binary(max_size=50)), st.integers(0, 2))
    def test_is_that_of_single_bytes(self, pieces: list[bytes], large: int) -> None:
        """It is the XOR of the bytes one by one, in pieces of any length."""
        pieces = [*pieces, b"\x5a\xa5\x01" * 8191 * large]
        value = Xor()
        for piece in pieces:
            value(memoryview(piece))
        self.assertEqual(value.value(), reduce(xor, b"".join(pieces), 0))
