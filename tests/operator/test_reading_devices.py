"""Tests of what the operator's door tells of devices: searching, sorting, and one device with its history."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.versions import VersionError, compare, read_reported_version
from ota_server.operator.devices import precedence_of
from tests.fleet.play import mac
from tests.operator.library import LAMPS, Library

POLICY = """[devices."5C:CF:7F:00:00:02"]
name = "kitchen"
pin = "1.0.0"
[devices."5C:CF:7F:00:00:03"]
name = "attic"
"""

VERSIONS = st.from_regex(r"\A[0-3]\.[0-9]{1,2}\.[0-9](-[0-9a-c]{1,3}(\.([0-9]{1,2}|[a-c]{1,2})){0,3})?\Z")


def ids(*numbers: int) -> list[str]:
    """Return the ids of devices by their numbers."""
    return [mac(number) for number in numbers]


class ListTests(SynchronousTestCase):
    """The list of devices."""

    def setUp(self) -> None:
        """Let four devices check in, a second after each other, in an order that isn't that of their ids."""
        self.library = Library(self, {**LAMPS, "fan-1.0.0.bin": b"fan"}, POLICY)
        for number, version, told in (
            (3, "1.10.0", {}),
            (1, "1.9.0", {"chip": "esp32", "dialect": "esp32"}),
            (4, None, {"project": "fan"}),
            (2, "1.10.0-rc.1", {}),
        ):
            self.library.check(number, version, **told)
            self.library.pass_time()

    def found(self, **query: Any) -> list[str]:
        """Return the ids of the devices that are found, page by page, each with all that it has to have."""
        items = self.library.pages("list_devices", **query)
        self.assertEqual(self.library.call("list_devices", **query)["total"], len(items))
        return [each["id"] for each in items]

    def test_sorts(self) -> None:
        """Devices are sorted by id, name, precedence of version, and time, both ways, on pages of any size."""
        for sort, numbers in (
            ("id", (1, 2, 3, 4)),
            ("name", (3, 2, 1, 4)),
            ("version", (4, 1, 2, 3)),
            ("last_seen", (3, 1, 4, 2)),
            ("first_seen", (3, 1, 4, 2)),
        ):
            for limit in (1, 3, 50):
                with self.subTest(sort, limit=limit):
                    self.assertEqual(self.found(sort=sort, limit=limit), ids(*numbers))
                    self.assertEqual(self.found(sort=f"-{sort}", limit=limit), ids(*reversed(numbers)))

    def test_filters(self) -> None:
        """Each filter leaves out what it has to, and several together all that any leaves out."""
        queries: tuple[tuple[dict[str, Any], tuple[int, ...]], ...] = (
            ({"q": "00:00:04"}, (4,)),
            ({"q": "ATT"}, (3,)),
            ({"id": "5ccf7f000002"}, (2,)),
            ({"id": "nothing"}, ()),
            ({"id": "5C:CF:7F"}, ()),
            ({"name": "kitchen"}, (2,)),
            ({"project": "fan"}, (4,)),
            ({"channel": "beta"}, ()),
            ({"chip": "esp32"}, (1,)),
            ({"dialect": "esp32"}, (1,)),
            ({"address": "192.0.2.1"}, (1, 2, 3, 4)),
            ({"version": "v1.10"}, (3,)),
            ({"version": "1.10.0-rc.1"}, (2,)),
            ({"version": "no version"}, ()),
            ({"seen_after": "2026-11-23T12:00:02Z"}, (2, 4)),
            ({"seen_before": "2026-11-23T13:00:02+01:00"}, (1, 3)),
            ({"q": "5C:CF", "project": "lamp", "version": "1.9"}, (1,)),
            ({"outcome": "bounced"}, ()),
        )
        for query, numbers in queries:
            with self.subTest(query):
                self.assertEqual(self.found(**query), ids(*numbers))

    def test_outcome(self) -> None:
        """Devices are found by what is open of them."""
        self.library.bounce(5)
        self.library.update(6)
        self.assertEqual(self.found(outcome="bounced"), ids(5))
        self.assertEqual(self.found(outcome="downloaded"), ids(6))

    def test_bad(self) -> None:
        """What can't be is refused, and says what to write."""
        for query in (
            {"sort": "colour"},
            {"limit": "0"},
            {"seen_after": "yesterday"},
            {"outcome": "fine"},
            {"project": "a b"},
            {"q": ""},
            {"color": "red"},
            {"cursor": "x"},
        ):
            with self.subTest(query):
                self.library.call("list_devices", status=400, **query)

    def test_shown(self) -> None:
        """A device tells what is remembered of it."""
        (device,) = self.library.pages("list_devices", id=mac(2))
        self.assertEqual((device["name"], device["version"], device["project"]), ("kitchen", "1.10.0-rc.1", "lamp"))
        self.assertEqual((device["chip"], device["dialect"], device["address"]), ("esp8266", "esp8266", "192.0.2.1"))
        self.assertEqual((device["first_seen"], device["rhythm"]), ("2026-11-23T12:00:03Z", None))


class DeviceTests(SynchronousTestCase):
    """One device."""

    def test_settings(self) -> None:
        """The settings that hold are told, and where each comes from."""
        library = Library(self, policy=POLICY + '[groups.all]\nmembers = ["kitchen"]\nhold = true\n')
        library.check(2)
        library.pass_time()
        for text in ("kitchen", mac(2), mac(2).lower(), mac(2).replace(":", "")):
            with self.subTest(text):
                device = library.call("get_device", text)
                self.assertEqual((device["id"], device["name"]), (mac(2), "kitchen"))
        self.assertEqual(device["settings"]["pin"]["value"], "1.0.0")
        self.assertEqual(device["settings"]["pin"]["origin"], {"table": '[devices."5C:CF:7F:00:00:02"]', "line": 3})
        self.assertEqual(device["settings"]["hold"]["origin"], {"table": "[groups.all]", "line": 8})
        self.assertIsNone(device["settings"]["stages"]["origin"])

    def test_history(self) -> None:
        """Attempts and events are told, open and settled ones, the newest first, and on pages of their own."""
        library = Library(self, {"lamp-1.0.0.bin": b"one", "lamp-1.1.0.bin": b"two", "lamp-1.2.0.bin": b"three"})
        library.update(1, "1.1.0")
        library.pass_time(60)
        library.check(1, "1.2.0")
        library.pass_time(60)
        for _ in range(3):
            library.bounce(1)
            library.pass_time(60)
        device = library.call("get_device", mac(1))
        attempts = device["attempts"]["items"]
        self.assertEqual({each["version"] for each in attempts}, {"1.2.0"})
        self.assertEqual(device["attempts"]["total"], len(attempts))
        self.assertEqual(attempts, library.pages("list_attempts", mac(1), limit=1))
        kinds = [each["kind"] for each in device["events"]["items"]]
        self.assertIn("braked", kinds)
        self.assertEqual(device["events"]["items"], library.pages("list_device_events", mac(1), limit=1))
        self.assertTrue(all(each["device"] == mac(1) for each in device["events"]["items"]))
        self.assertEqual(device["rhythm"], 60.0)

    def test_not_written_yet(self) -> None:
        """What is open is told as it is in memory, though the ledger is behind."""
        library = Library(self)
        library.update(1)
        device = library.call("get_device", mac(1))
        self.assertEqual([each["outcome"] for each in device["attempts"]["items"]], ["downloaded"])
        self.assertEqual(device["attempts"]["items"], device["open_attempts"])

    def test_unknown(self) -> None:
        """A device that never checked in is unknown, also one that has a name."""
        library = Library(self, policy=POLICY)
        for text in (mac(9), "kitchen", "5C:CF:7F", "nobody", "1234"):
            for name in ("get_device", "list_attempts", "list_device_events"):
                with self.subTest(text, name=name):
                    self.assertEqual(library.call(name, text, status=404)["type"], "/problems/unknown-device")

    def test_ledger_trouble(self) -> None:
        """Where the ledger can't be read, what is in memory is told all the same."""
        library = Library(self)
        library.check(1)
        library.pass_time()
        library.house.reader.close()  # type: ignore[union-attr]
        aside = library.folder / ".aside"
        (library.folder / ".ledger.sqlite").rename(aside)
        self.assertEqual(library.call("get_device", mac(1), status=503)["type"], "/problems/ledger-trouble")
        self.assertEqual(library.call("list_devices")["total"], 1)
        aside.rename(library.folder / ".ledger.sqlite")
        self.assertEqual(library.call("get_device", mac(1))["id"], mac(1))

    def test_another_ledger(self) -> None:
        """Where another file takes the ledger's place that one is read."""
        library = Library(self)
        library.bounce(1, 2)
        library.pass_time()
        self.assertGreater(library.call("list_events")["total"], 0)
        other = Library(self)
        other.bounce(1, 2, 3)
        other.pass_time()
        count = other.call("list_events")["total"]
        for service in (other.keeper, library.keeper):
            assert service is not None
            service.stopService()
        (other.folder / ".ledger.sqlite").replace(library.folder / ".ledger.sqlite")
        self.assertEqual(library.call("list_events")["total"], count)


class PrecedenceTests(SynchronousTestCase):
    """What versions are sorted by."""

    @given(VERSIONS, VERSIONS)
    def test_as_versions_compare(self, one: str, other: str) -> None:
        """Keys are ordered as Semantic Versioning orders what was read."""
        versions = [read_reported_version(each).version for each in (one, other)]
        keys = [precedence_of(each) for each in (one, other)]
        order = compare(*versions)
        self.assertEqual((keys[0] > keys[1]) - (keys[0] < keys[1]), (order > 0) - (order < 0))

    @given(st.text(max_size=20))
    def test_any(self, text: str) -> None:
        """Whatever a device told has its place; what is no version comes first."""
        key = precedence_of(text)
        self.assertEqual([type(each) for each in key], [int, int, int, str])
        try:
            read_reported_version(text)
        except VersionError:
            self.assertEqual(key, precedence_of(None))
