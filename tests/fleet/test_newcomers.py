"""Tests of how many devices are remembered that were only seen for a moment."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ota_server.fleet import fleet, newcomers
from ota_server.fleet.device import Device
from ota_server.fleet.newcomers import PROBATION, Newcomers, network_of
from tests.fleet.play import NOW, Play, mac

_ADDRESSES = (
    "192.0.2.1",
    "::ffff:192.0.2.1",
    "192.0.2.2",
    "2001:db8:1::1",
    "2001:db8:1:2::1",
    "2001:db8:2::1",
    "::1",
    "",
)


class NetworkTests(SynchronousTestCase):
    """What newcomers are counted by."""

    def test_networks(self) -> None:
        """An address of IPv4 is one, of IPv6 what one customer has; this machine, and what is no address, are none."""
        for address, network in (
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1::1", "2001:db8:1::/48"),
            ("2001:db8:1:ffff:ffff::1", "2001:db8:1::/48"),
            ("2001:db8:2::1", "2001:db8:2::/48"),
            ("fe80::1%eth0", "fe80::/48"),
            ("127.0.0.1", None),
            ("127.255.255.255", None),
            ("::1", None),
            ("::ffff:127.0.0.1", None),
            ("", None),
            ("/run/ota.sock", None),
            ("192.0.2.256", None),
        ):
            with self.subTest(address):
                self.assertEqual(network_of(address), network)


class NewcomerTests(SynchronousTestCase):
    """Which of them has to be forgotten."""

    @settings(deadline=None, max_examples=100)
    @given(
        st.lists(st.tuples(st.sampled_from(["add", "add", "add", "remove"]), st.integers(0, 7)), max_size=60),
        st.integers(1, 4),
        st.integers(1, 10),
    )
    def test_bounds(self, steps: list[tuple[str, int]], of_network: int, in_all: int) -> None:
        """There are never more than may be of one network, nor in all, and it is the oldest that goes."""
        self.patch(newcomers, "MAX_FROM_ADDRESS", of_network)
        self.patch(newcomers, "MAX_NEWCOMERS", in_all)
        known, model = Newcomers(), list[Device]()
        for key, (step, choice) in enumerate(steps):
            if step == "remove":
                if model:
                    gone = model.pop(choice % len(model))
                    known.remove(gone)
                    # Once more does no harm.
                    known.remove(gone)
            else:
                device = Device(key, str(key), None, "stable", "lamp", NOW, NOW, _ADDRESSES[choice])
                network = network_of(device.address)
                model.append(device)
                mine = [each for each in model if network_of(each.address) == network]
                oldest = None
                if network is not None and len(mine) > of_network:
                    oldest = mine[0]
                elif len(model) > in_all:
                    oldest = model[0]
                self.assertIs(known.add(device), oldest)
                if oldest is not None:
                    model.remove(oldest)
            self.assertEqual([device for device, _ in known.devices.values()], model)
            self.assertIs(known.oldest, model[0] if model else None)
            self.assertLessEqual(len(known), in_all)
        for device in model:
            known.remove(device)
        self.assertEqual((len(known), known._of_network), (0, {}))

    def test_proxy(self) -> None:
        """Behind a proxy on this machine all come from one address, which has no bound of its own."""
        self.patch(newcomers, "MAX_FROM_ADDRESS", 2)
        known = Newcomers()
        for key in range(10):
            self.assertIsNone(known.add(Device(key, str(key), None, "stable", "lamp", NOW, NOW, "127.0.0.1")))


class FleetTests(SynchronousTestCase):
    """The bounds in the memory of the fleet."""

    def test_all_devices(self) -> None:
        """There is room for so many devices: newcomers give way to newcomers, and known ones to nobody."""
        self.patch(fleet, "MAX_DEVICES", 10)
        play = Play.of("lamp-1.0.0.bin", "lamp-1.1.0.bin")
        for number in range(8):
            play.check(number, "1.1.0")
        play.now += PROBATION
        for number in range(8):
            play.check(number, "1.1.0")
        for number in range(100, 200):
            play.check(number, "1.1.0")
            self.assertLessEqual(len(play.fleet.devices), 10)
        self.assertEqual(set(play.fleet.devices), {*map(mac, range(8)), mac(198), mac(199)})
        self.assertEqual(play.fleet.turned_away, 98)
        play.now += PROBATION
        for number in (198, 199):
            play.check(number, "1.1.0")
        # Now there is room for nobody else, who is served all the same.
        self.assertEqual(play.check(300, "1.0.0").reason, "newer")
        self.assertEqual(len(play.fleet.devices), 10)
        self.assertNotIn(mac(300), play.fleet.devices)
        self.assertEqual(play.fleet.course.rollouts(("stable", "lamp")).fleet, 10)
