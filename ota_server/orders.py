"""`ota-server rollout` and `ota-server device`: how rollouts stand, and orders that the server follows.

An order is left in the ledger, where a running server finds it within a second or two. Whoever may write to the
server's state may give orders; nothing goes over the network.
"""

from __future__ import annotations

import getpass
import sys
import time
from collections.abc import Callable, Sequence

from twisted.python import usage

from ota_server.arguments import put_options_first
from ota_server.explain import PlaceOptions, find_device
from ota_server.firmware.catalog import STABLE
from ota_server.firmware.versions import Numbers, VersionError, numbers_of, parse_file_version
from ota_server.fleet.device import Place
from ota_server.fleet.ledger import Ledger, LedgerError
from ota_server.fleet.settings import SettingError, read_device
from ota_server.fleet.tracing import tell_rollout
from ota_server.tap import load_source

PATIENCE = 5.0
"""How long the server is waited for, in seconds."""

ROLLOUT_ORDERS = ("halt", "resume", "restart", "complete")
DEVICE_ORDERS = ("clear-brake", "forget")


class RolloutOptions(PlaceOptions):
    """What `ota-server rollout` understands."""

    synopsis = "Usage: ota-server rollout [options] status [PROJECT] | halt|resume|restart|complete PROJECT VERSION"
    longdesc = (
        "Shows how far releases have got, or tells the server what to do with one: halt it; resume it, which "
        "acknowledges the failures seen so far; restart it with its first stage; complete it, so that all get it. With "
        "--url, or OTA_SERVER_URL, it asks a server elsewhere: ota-server rollout --url URL --help."
    )
    optParameters = [["channel", None, STABLE, "Channel of the release."]]

    def parseArgs(self, what: str = "status", project: str | None = None, version: str | None = None) -> None:
        """Take the order. Raises UsageError."""
        if what != "status" and what not in ROLLOUT_ORDERS:
            raise usage.UsageError(f"{what[:40]!r} is no order; there are status, {', '.join(ROLLOUT_ORDERS)}")
        if what != "status" and (project is None or version is None):
            raise usage.UsageError(f"{what}: name a project and a version")
        self["what"], self["project"], self["numbers"] = what, project, None
        if version is not None:
            try:
                self["numbers"] = numbers_of(parse_file_version(version))
            except VersionError as problem:
                raise usage.UsageError(str(problem)) from problem


class DeviceOptions(PlaceOptions):
    """What `ota-server device` understands."""

    synopsis = "Usage: ota-server device [options] clear-brake|forget DEVICE"
    longdesc = (
        "Tells the server to let a device try again that the loop brake holds (clear-brake), or to forget all that it "
        "knows of one. DEVICE is its MAC address, its chip id, or its name in the policy."
    )
    optParameters = [["policy", None, None, "File with the policy (default: DIR/ota.toml, if it is there)."]]

    def parseArgs(self, what: str = "", device: str = "") -> None:
        """Take the order. Raises UsageError."""
        if what not in DEVICE_ORDERS or not device:
            raise usage.UsageError(f"give an order ({' or '.join(DEVICE_ORDERS)}) and a device")
        self["what"], self["device"] = what, device

    def postOptions(self) -> None:
        """Find the device. Raises UsageError."""
        try:
            # Nothing that looks like an id is a name, so that only names need the policy.
            self["device"] = read_device(self["device"]) or find_device(
                self["device"], load_source(self["policy"], self.folder).current
            )
        except SettingError as problem:
            raise usage.UsageError(str(problem)) from problem


def run_rollout(arguments: Sequence[str]) -> int:
    """Show rollouts, or order something of one; return the exit status."""

    def act(options: PlaceOptions, ledger: Ledger) -> int:
        if options["what"] == "status":
            return _show(ledger, options["project"])
        place = (options["channel"], options["project"], options["numbers"])
        return _order(ledger, options["what"], *place, None)

    return _run("rollout", RolloutOptions(), arguments, act)


def run_device(arguments: Sequence[str]) -> int:
    """Order something of a device; return the exit status."""

    def act(options: PlaceOptions, ledger: Ledger) -> int:
        return _order(ledger, options["what"], None, None, None, options["device"])

    return _run("device", DeviceOptions(), arguments, act)


def _run(name: str, options: PlaceOptions, arguments: Sequence[str], act: Callable[[PlaceOptions, Ledger], int]) -> int:
    try:
        options.parseOptions(put_options_first(arguments, options))
        ledger = options.ledger()
        if ledger is None:
            raise usage.UsageError("--database none: there is nothing to ask or to order")
    except usage.UsageError as problem:
        print(f"ota-server {name}: {problem} (see: ota-server {name} --help)", file=sys.stderr)
        return 2
    try:
        ledger.open_for_reading()
        return act(options, ledger)
    except LedgerError as problem:
        print(f"ota-server {name}: {problem}", file=sys.stderr)
        return 1
    finally:
        ledger.close()


def _order(
    ledger: Ledger,
    what: str,
    channel: str | None,
    project: str | None,
    version: Numbers | None,
    device: str | None,
) -> int:
    """Leave an order, and wait a moment for the server to follow it."""
    now = time.time()
    newest = ledger.events(1)
    number = ledger.give_order(
        now,
        f"operator:{getpass.getuser()}",
        what,
        channel=channel,
        project=project,
        version=version,
        device=device,
    )
    while time.time() < now + PATIENCE:
        if all(order.id != number for order in ledger.orders()):
            for _, event in ledger.events(100, after=newest[0][0] if newest else (0, 0)):
                if event.kind == "refused" and event.text.startswith(f"{what}:"):
                    print(f"refused: {event.text}", file=sys.stderr)
                    return 1
            print("done")
            return 0
        time.sleep(0.1)
    print("left for the server, which doesn't seem to run: it will be done when that starts")
    return 0


def _show(ledger: Ledger, project: str | None) -> int:
    """Print how rollouts stand, newest first."""
    places = ledger.places(time.time())
    shown = 0
    for place, rollouts in sorted(places.items()):
        if project in (None, place[1]):
            for _, rollout in sorted(rollouts.by_version.items(), reverse=True):
                version = ".".join(map(str, rollout.version))
                print(f"{_name(place)} {version}: {tell_rollout(rollout, rollouts.fleet)}")
                shown += 1
    if not shown:
        print("nothing has been offered to any device yet")
    return 0


def _name(place: Place) -> str:
    return place[1] if place[0] == STABLE else f"{place[0]}/{place[1]}"
