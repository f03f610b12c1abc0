"""Slowing down who is refused: pure, with the time as an argument, in seconds.

The clients repeat what is refused without a pause, ESP-IDF 12,000 times a second. Each refusal of an address is
answered later than the one before, up to a bound at which the clients still wait for it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from ipaddress import IPv6Address, ip_address

AT_ONCE = 3
"""So many refusals of one address are answered at once."""

FIRST = 0.25
"""The next one is answered after so many seconds, and each further one after twice as many as the one before."""

LONGEST = 4.0
"""No answer waits longer, in seconds: ESP-IDF gives up after 5."""

LONGEST_MISSING = 2.0
"""Nor does one to a request that brings nothing, which is how ESP-IDF begins with the right password."""

FADING = 15.0
"""So many seconds make one refusal forgotten."""

MAX_REFUSALS = 9
"""More refusals of one address are not counted."""

MAX_WAITING = 1000
"""How many answers wait at most, in all."""

MAX_WAITING_OF_ONE = 200
"""How many answers wait at most for one address: behind one router there may be many devices, all of which ESP-IDF has
ask without their tokens first."""

MAX_ADDRESSES = 4096
"""Of how many addresses refusals are remembered."""


def network_of(address: str) -> str:
    """Return what is slowed down as one: an IPv4 address, or the 64 bits of an IPv6 one that a network has."""
    try:
        read = ip_address(address)
    except ValueError:
        # No address of the internet, such as that of a UNIX socket.
        return address[:100]
    if not isinstance(read, IPv6Address):
        return address
    if read.ipv4_mapped is not None:
        return str(read.ipv4_mapped)
    return read.packed[:8].hex(":")


class Slowdown:
    """How often addresses were refused lately, and how many answers wait."""

    def __init__(self) -> None:
        self.waiting = 0
        """How many answers wait."""
        # How many refusals, and when that was, with the longest ago first.
        self._refused: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._waiting_of: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return of how many networks refusals are remembered."""
        return len(self._refused)

    def refuse(self, network: str, now: float, longest: float = LONGEST) -> float | None:
        """Count a refusal; return after how many seconds to answer it, or None for never.

        An answer that waits has to be given to `release` when it does no more.
        """
        count = min(self._count(network, now) + 1, MAX_REFUSALS)
        self._refused[network] = (count, now)
        self._refused.move_to_end(network)
        if len(self._refused) > MAX_ADDRESSES:
            self._refused.popitem(last=False)
        if count <= AT_ONCE:
            return 0.0
        if self.waiting >= MAX_WAITING or self._waiting_of[network] >= MAX_WAITING_OF_ONE:
            return None
        self.waiting += 1
        self._waiting_of[network] += 1
        delay: float = FIRST * 2.0 ** (count - AT_ONCE - 1)
        return min(longest, delay)

    def release(self, network: str) -> None:
        """Note that an answer doesn't wait any more."""
        self.waiting -= 1
        self._waiting_of[network] -= 1
        if not self._waiting_of[network]:
            del self._waiting_of[network]

    def forgive(self, network: str, now: float) -> None:
        """Note that somebody there brought the right thing: half of the refusals are forgotten."""
        if network in self._refused:
            count = self._count(network, now) / 2
            if count < 0.5:
                del self._refused[network]
            else:
                self._refused[network] = (count, now)

    def _count(self, network: str, now: float) -> float:
        count, then = self._refused.get(network, (0.0, now))
        # The clock may have been set back.
        return max(0.0, count - max(0.0, now - then) / FADING)
