"""Tests of the commands for a device that is known by the name in its certificate, or by its token alone."""

from __future__ import annotations

from ota_server import orders
from ota_server.explain import run_explain
from ota_server.orders import run_device
from tests.test_explain import CommandCase
from tests.web.gating import OWN, bearer, hash_of

POLICY = (
    f'[access]\ndevices = "token"\n[devices."CN=sensor-17"]\nname = "cellar"\nhold = true\ntoken = {hash_of(OWN)}\n'
)


class NamedDeviceTests(CommandCase):
    """A device `CN=sensor-17`, which tells neither a MAC address nor a version."""

    def test_explain(self) -> None:
        """It is remembered, and explained by its id and by its name, as the door decided."""
        self.open(POLICY)
        given = self.door.ask(b"/lamp", bearer(OWN))
        self.assertEqual((given.code, given.reason), (304, "held"))
        self.door.pass_time(1)
        for device in ("CN=sensor-17", "cellar"):
            status, out, errors = self.run_command(run_explain, device)
            self.assertEqual((status, errors), (0, ""))
            self.assertTrue(out.startswith("CN=sensor-17 (cellar): project lamp"), out)
            self.assertIn("304  held", out)

    def test_orders(self) -> None:
        """Orders find it."""
        self.open(POLICY)
        self.door.ask(b"/lamp", bearer(OWN))
        self.door.pass_time(1)
        self.patch(orders, "PATIENCE", 0.0)
        for device in ("CN=sensor-17", "cellar"):
            status, out, errors = self.run_command(run_device, "forget", device)
            self.assertEqual((status, errors), (0, ""))
            self.assertIn("left for the server", out)
        self.door.pass_time(5)
        assert self.door.keeper is not None
        self.assertEqual(dict(self.door.keeper.loaded.devices), {})

    def test_wrong_name(self) -> None:
        """What can't be such a name is told."""
        self.open(POLICY)
        status, _, errors = self.run_command(run_explain, "CN= x")
        self.assertEqual(status, 2)
        self.assertIn("is no name of a certificate", errors)
