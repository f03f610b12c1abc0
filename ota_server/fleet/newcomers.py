"""Devices that were first seen lately: so many are remembered and no more, since anybody can make up an id."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from functools import lru_cache

from ota_server.fleet.device import Device

MAX_NEWCOMERS = 1_000_000
"""How many newcomers are remembered in all."""

MAX_FROM_ADDRESS = 5_000
"""How many of them are from one address; of IPv6, from one network of 48 bits, which is the most that
one customer has."""

PROBATION = 86400.0
"""A device that still comes so many seconds after it was first seen is no newcomer any more; nor is one that confirmed
an update."""


@lru_cache(maxsize=4096)
def network_of(address: str) -> str | None:
    """Return what newcomers are counted by; None for this machine itself, where a proxy may stand before us all."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if parsed.is_loopback:
        return None
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return network_of(str(parsed.ipv4_mapped))
        return str(ipaddress.ip_network((int(parsed) >> 80 << 80, 48)))
    return address


class Newcomers:
    """The devices that haven't come again yet, oldest first."""

    def __init__(self) -> None:
        self.devices: OrderedDict[int, tuple[Device, str | None]] = OrderedDict()
        """They and their networks, by their keys."""
        self._of_network: dict[str | None, OrderedDict[int, None]] = {}

    def __len__(self) -> int:
        return len(self.devices)

    @property
    def oldest(self) -> Device | None:
        """The one that was seen first, if there are any."""
        return next(iter(self.devices.values()))[0] if self.devices else None

    def add(self, device: Device) -> Device | None:
        """Add a device; return the one that has to be forgotten for it, if there are too many."""
        network = network_of(device.address)
        self.devices[device.key] = (device, network)
        mine = self._of_network.setdefault(network, OrderedDict())
        mine[device.key] = None
        oldest = None
        if network is not None and len(mine) > MAX_FROM_ADDRESS:
            oldest = self.devices[next(iter(mine))][0]
        elif len(self.devices) > MAX_NEWCOMERS:
            oldest = next(iter(self.devices.values()))[0]
        if oldest is not None:
            self.remove(oldest)
        return oldest

    def remove(self, device: Device) -> None:
        """Take a device for known, or for forgotten."""
        found = self.devices.pop(device.key, None)
        if found is not None:
            mine = self._of_network[found[1]]
            del mine[device.key]
            if not mine:
                del self._of_network[found[1]]
