"""A device's rhythm: how often it checks in, learned from its last few check-ins.

Kept as bytes (one unsigned number of 32 bits for each interval, in seconds, oldest first), since there is one for
each of a million devices.
"""

from __future__ import annotations

import struct
from functools import lru_cache

LENGTH = 7
"""How many intervals are remembered: the median of so many bears three odd ones, as around a restart."""

MIN_INTERVAL = 1.0
"""Check-ins closer together, in seconds, are one to this."""

VISIT = 60.0
"""What is closer together, in seconds, belongs to one visit (retries, the questions for sketch and filesystem), unless
a device never stays away for longer."""

PART = 10
"""So many times shorter than usual an interval is no interval, but part of a longer visit."""

_NUMBER = struct.Struct("<I")
_pack_number = _NUMBER.pack
_KEPT = -_NUMBER.size * (LENGTH - 1)
_FULL = _NUMBER.size * LENGTH
_unpack_all = struct.Struct(f"<{LENGTH}I").unpack
_LARGEST = (1 << 32) - 1


def add_interval(rhythm: bytes, seconds: float) -> bytes:
    """Return a rhythm with one more interval, in seconds; the oldest gives way. One inside a visit is none."""
    if seconds < MIN_INTERVAL:
        return rhythm
    # As median_of does, in the form that nearly all have: this is done for every check-in, and calls cost.
    usual = sorted(_unpack_all(rhythm))[LENGTH // 2] if len(rhythm) == _FULL else median_of(rhythm)
    if usual is not None:
        if seconds * PART < usual or seconds < VISIT <= usual:
            return rhythm
        if usual < VISIT <= seconds:
            # What was taken for its rhythm was within its visits.
            rhythm = b""
    return rhythm[_KEPT:] + _pack_number(int(seconds) if seconds < _LARGEST else _LARGEST)


@lru_cache(maxsize=LENGTH + 1)
def _numbers(size: int) -> struct.Struct:
    """Return the form of a rhythm of so many bytes."""
    return struct.Struct(f"<{size // _NUMBER.size}I")


def median_of(rhythm: bytes) -> float | None:
    """Return the median interval in seconds, of an even number the longer of both in the middle; None of none."""
    # Not remembered: nearly each device has a rhythm of its own, and with each check-in another.
    intervals = sorted(_numbers(len(rhythm)).unpack(rhythm))
    return float(intervals[len(intervals) // 2]) if intervals else None


def count_of(rhythm: bytes) -> int:
    """Return how many intervals a rhythm was learned from, up to LENGTH."""
    return len(rhythm) // _NUMBER.size
