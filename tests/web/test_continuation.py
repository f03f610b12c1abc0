"""Tests of keeping to one image while a client fetches it in parts."""

from __future__ import annotations

import random

from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.catalog import Image
from ota_server.firmware.versions import Numbers
from ota_server.fleet.checkin import CheckIn
from ota_server.fleet.decision import Send
from ota_server.fleet.policy import read_policy
from ota_server.web.continuation import MAX_AGE, MAX_PLACES, Continuations, Continuity, may_go_on
from ota_server.web.delivery import LINGER
from tests.firmware.samples import make_catalog, make_image
from tests.images import esp32_image
from tests.web.answers import Answer
from tests.web.memory import MemoryConnection, MemoryDoor, write_files

NAME = "firmware-1.0.0.bin"


class ContinuationTests(SynchronousTestCase):
    """Clients that fetch an image in parts while a newer one takes its place."""

    OLD, NEW = random.Random(1).randbytes(1000), random.Random(2).randbytes(800)

    def setUp(self) -> None:
        """Open a door to a folder, and fetch a first part."""
        self.door = MemoryDoor(self, {NAME: self.OLD})
        self.assertEqual(self.fetch(b"bytes=0-599").body, self.OLD[:600])

    def fetch(self, range_value: bytes, *fields: bytes) -> Answer:
        """Ask for a part, as a client that names itself."""
        return self.door.ask(b"/firmware.bin", b"User-Agent: client", b"Range: %s" % range_value, *fields)

    def publish(self) -> None:
        """Publish a newer and smaller image."""
        (self.door.folder / "firmware-1.1.0.bin").write_bytes(self.NEW)
        self.door.read()

    def test_goes_on(self) -> None:
        """The next parts are of the image that the first one was of."""
        self.publish()
        self.assertEqual(self.fetch(b"bytes=600-899").body, self.OLD[600:900])
        self.assertEqual(self.fetch(b"bytes=900-").body, self.OLD[900:])

    def test_begins_anew(self) -> None:
        """A first part is of the newest image."""
        self.publish()
        self.assertEqual(self.fetch(b"bytes=0-599").body, self.NEW[:600])
        self.assertEqual(self.fetch(b"bytes=600-").body, self.NEW[600:])

    def test_file_gone(self) -> None:
        """Where the old file is gone meanwhile the client is told to begin anew."""
        self.publish()
        (self.door.folder / NAME).unlink()
        self.door.clock.advance(LINGER)
        answer = self.fetch(b"bytes=600-")
        self.assertEqual((answer.code, answer.reason), (416, "image-changed"))

    def test_tag_named(self) -> None:
        """A client that names the old image's tag gets all of the new one, as RFC 9110 has it."""
        tag = self.fetch(b"bytes=0-0").get(b"ETag")
        assert tag is not None
        self.publish()
        answer = self.fetch(b"bytes=600-", b"If-Range: %s" % tag)
        self.assertEqual((answer.code, answer.body), (200, self.NEW))

    def test_after_long(self) -> None:
        """A download that rested for more than ten minutes is forgotten."""
        self.publish()
        self.door.clock.advance(601)
        self.assertEqual(self.fetch(b"bytes=600-").body, self.NEW[600:])

    def test_other_chips_behind_the_same_address(self) -> None:
        """Devices of several chips that share an address of the network each get the rest of their own image."""
        old = {chip: f"{chip} 1.0 ".encode() * 50 for chip in ("esp32", "esp32c3")}
        new = {chip: f"{chip} 1.1 ".encode() * 50 for chip in ("esp32", "esp32c3")}
        write_files(self.door.folder, {f"fan-1.0.0.{chip}.bin": data for chip, data in old.items()})
        self.door.read()

        def fetch(path: bytes, chip: str, piece: bytes) -> bytes:
            path = b"%s?chip=%s" % (path, chip.encode())
            return self.door.ask(path, b"User-Agent: client", b"Range: bytes=%s" % piece).body

        for path in (b"/fan", b"/fan.bin"):
            for chip in old:
                self.assertEqual(fetch(path, chip, b"0-199"), old[chip][:200])
            for chip in old:
                self.assertEqual(fetch(path, chip, b"200-299"), old[chip][200:300])
        write_files(self.door.folder, {f"fan-1.1.0.{chip}.bin": data for chip, data in new.items()})
        self.door.read()
        for path in (b"/fan", b"/fan.bin"):
            for chip in old:
                self.assertEqual(fetch(path, chip, b"300-"), old[chip][300:])

    def test_other_devices_behind_the_same_address(self) -> None:
        """What a device of another chip was sent at the very same address of the server is not gone on with."""
        images = {"esp32": esp32_image("esp32"), "esp32c3": esp32_image("esp32c3", seed=1)}
        newer = {chip: esp32_image(chip, "1.1.0", seed=seed) for seed, chip in enumerate(images, 2)}
        files = {f"fan-1.0.0.{chip}.bin": data for chip, data in images.items()}
        files |= {f"fan-1.1.0.{chip}.bin": data for chip, data in newer.items()}
        write_files(self.door.folder, files)
        self.door.read()
        for chip in ("esp32c3", "esp32", "esp32c3"):
            known = b"x-ESP32-sketch-sha256: %s" % images[chip][-32:].hex().encode()
            fields = (b"User-Agent: client", b"x-ESP32-mode: sketch", known)
            for piece, expected in ((b"0-999", newer[chip][:1000]), (b"1000-1999", newer[chip][1000:2000])):
                answer = self.door.ask(b"/fan", *fields, b"Range: bytes=%s" % piece)
                self.assertEqual((chip, answer.code, answer.body), (chip, 206, expected))
        # One goes on where the other one is.
        known = b"x-ESP32-sketch-sha256: %s" % images["esp32"][-32:].hex().encode()
        answer = self.door.ask(
            b"/fan", b"User-Agent: client", b"x-ESP32-mode: sketch", known, b"Range: bytes=1500-2500"
        )
        self.assertEqual(answer.body, newer["esp32"][1500:2501])

    def test_no_single_range(self) -> None:
        """A range that isn't understood, or is one of several, is ignored: the newest image is sent."""
        self.assertEqual(self.fetch(b"bytes=600-999").body, self.OLD[600:])
        self.publish()
        for value in (b"bytes=0-1,5-6", b"lines=5-6", b"bytes=9-5"):
            self.assertEqual((value, self.fetch(value).body), (value, self.NEW))


FIRST, SECOND, THIRD = (random.Random(number).randbytes(1000) for number in (1, 2, 3))
LAMPS = {"lamp-1.1.0.bin": b"\0" + FIRST, "lamp-1.2.0.bin": b"\0" + SECOND}
NEWER = {"lamp-1.3.0.bin": b"\0" + THIRD}


class AllowedTests(SynchronousTestCase):
    """Devices that fetch an image in pieces, and may not have the rest of it, or may, though another one is due now."""

    def open(self, policy: str = "") -> None:
        """Open a door with a policy, and a real ledger."""
        self.door = MemoryDoor(self, LAMPS, policy=policy)

    def fetch(self, number: int | None, piece: bytes, version: str = "1.0.0", path: bytes = b"/lamp") -> Answer:
        """Ask for a piece, all devices from one address of the network; with no number a device tells no id."""
        fields = [b"User-Agent: ESP32 HTTP Client/1.0", b"Range: bytes=%s" % piece]
        if number is not None:
            fields.append(b"x-ESP32-STA-MAC: 24:0A:C4:00:00:%02X" % number)
        return self.door.ask(path, *fields, b"x-ESP32-version: %s" % version.encode())

    def assert_piece(self, answer: Answer, name: str, start: int, end: int | None = None) -> None:
        """Assert that an answer is a piece of a file."""
        self.assertEqual((answer.code, answer.body), (206, (LAMPS | NEWER)[name][start:end]))

    def assert_begins_anew(self, answer: Answer) -> None:
        """Assert that an answer tells the client to begin anew."""
        self.assertEqual((answer.code, answer.reason, answer.body), (416, "image-changed", b""))
        self.assertEqual(answer.get(b"Content-Range"), b"bytes */1001")

    def halt(self, version: Numbers) -> None:
        """Let the operator halt a release."""
        assert self.door.keeper is not None
        self.door.keeper._ledger.give_order(
            self.door.clock.seconds(), "operator:test", "halt", channel="stable", project="lamp", version=version
        )
        self.door.pass_time(3)
        self.assertIn(version, self.door.keeper.barred(("stable", "lamp")))

    def publish(self) -> None:
        """Publish a newer image."""
        write_files(self.door.folder, NEWER)
        self.door.read()

    def take_policy(self, text: str) -> None:
        """Go by another policy from now on."""
        assert self.door.keeper is not None
        self.door.keeper.take_policy(read_policy(text, "ota.toml"))

    def test_halted(self) -> None:
        """The rest of a release that is halted in mid-download isn't sent; the device begins anew with the one before.

        Whether it tells an id or none.
        """
        for number in (1, None):
            self.open()
            self.assert_piece(self.fetch(number, b"0-299"), "lamp-1.2.0.bin", 0, 300)
            self.assert_piece(self.fetch(number, b"300-599"), "lamp-1.2.0.bin", 300, 600)
            self.halt((1, 2, 0))
            for piece in (b"600-899", b"600-", b"450-599", b"600-"):
                self.assert_begins_anew(self.fetch(number, piece))
            self.assert_piece(self.fetch(number, b"0-299"), "lamp-1.1.0.bin", 0, 300)
            self.assert_piece(self.fetch(number, b"300-599"), "lamp-1.1.0.bin", 300, 600)
            self.assert_piece(self.fetch(number, b"600-"), "lamp-1.1.0.bin", 600)

    def test_halted_and_newer(self) -> None:
        """Nor where a newer one has taken the place of the halted one."""
        self.open()
        self.fetch(1, b"0-299")
        self.publish()
        self.halt((1, 2, 0))
        self.assert_begins_anew(self.fetch(1, b"300-"))
        self.assert_piece(self.fetch(1, b"0-299"), "lamp-1.3.0.bin", 0, 300)
        self.assert_piece(self.fetch(1, b"300-"), "lamp-1.3.0.bin", 300)

    def test_plain_address(self) -> None:
        """Nor at the plain address of the newest; that of the version leads to it all the same."""
        self.open()
        for path in (b"/lamp.bin", b"/lamp-1.2.0.bin"):
            self.assert_piece(self.fetch(1, b"0-299", path=path), "lamp-1.2.0.bin", 0, 300)
        self.halt((1, 2, 0))
        self.assert_begins_anew(self.fetch(1, b"300-", path=b"/lamp.bin"))
        self.assert_piece(self.fetch(1, b"0-299", path=b"/lamp.bin"), "lamp-1.1.0.bin", 0, 300)
        self.assert_piece(self.fetch(1, b"300-", path=b"/lamp.bin"), "lamp-1.1.0.bin", 300)
        self.assert_piece(self.fetch(1, b"300-", path=b"/lamp-1.2.0.bin"), "lamp-1.2.0.bin", 300)

    def test_very_file(self) -> None:
        """A file that is replaced in mid-download is sent to its end as it was, also where its release is halted."""
        self.open()
        self.halt((1, 2, 0))
        self.assert_piece(self.fetch(1, b"0-299", path=b"/lamp-1.2.0.bin"), "lamp-1.2.0.bin", 0, 300)
        newer = self.door.folder / "newer"
        newer.write_bytes(b"\0" + THIRD)
        newer.rename(self.door.folder / "lamp-1.2.0.bin")
        self.door.read()
        self.assert_piece(self.fetch(1, b"300-", path=b"/lamp-1.2.0.bin"), "lamp-1.2.0.bin", 300)
        self.assertEqual(self.fetch(1, b"0-299", path=b"/lamp-1.2.0.bin").body, b"\0" + THIRD[:299])

    def test_pinned_neighbour(self) -> None:
        """Devices behind one address, of which one is pinned, each get the pieces of their own image."""
        self.open('[devices."24:0A:C4:00:00:01"]\npin = "1.1.0"')
        names = {1: "lamp-1.1.0.bin", 2: "lamp-1.2.0.bin", None: "lamp-1.2.0.bin"}
        for order in ((2, 1, None), (None, 1, 2), (1, None, 2)):
            for start, end, piece in ((0, 300, b"0-299"), (300, 600, b"300-599"), (600, None, b"600-")):
                for number in order:
                    self.assert_piece(self.fetch(number, piece), names[number], start, end)

    def test_newer_release(self) -> None:
        """A newer release that appears meanwhile doesn't disturb, to whomever it is."""
        for number in (1, None):
            self.open()
            self.fetch(number, b"0-299")
            self.publish()
            self.assert_piece(self.fetch(number, b"300-599"), "lamp-1.2.0.bin", 300, 600)
            self.assert_piece(self.fetch(number, b"600-"), "lamp-1.2.0.bin", 600)
            self.assert_piece(self.fetch(number, b"0-299"), "lamp-1.3.0.bin", 0, 300)

    def test_pinned_meanwhile(self) -> None:
        """A device that is pinned in mid-download goes on with nothing but its pin."""
        for pin, name in (("1.1.0", "lamp-1.1.0.bin"), ("1.3.0", "lamp-1.3.0.bin")):
            self.open()
            self.publish()
            self.take_policy('[devices."24:0A:C4:00:00:01"]\npin = "1.2.0"')
            self.assert_piece(self.fetch(1, b"0-299"), "lamp-1.2.0.bin", 0, 300)
            self.take_policy(f'[devices."24:0A:C4:00:00:01"]\npin = "{pin}"')
            self.assert_begins_anew(self.fetch(1, b"300-"))
            self.assert_piece(self.fetch(1, b"0-299"), name, 0, 300)
            self.assert_piece(self.fetch(1, b"300-"), name, 300)

    def test_held_meanwhile(self) -> None:
        """Where nothing may be sent any more nothing is, of the image begun neither."""
        self.open()
        self.fetch(1, b"0-299")
        self.take_policy("hold = true")
        answer = self.fetch(1, b"300-")
        self.assertEqual((answer.code, answer.reason), (304, "held"))

    def test_stepping_stone_meanwhile(self) -> None:
        """A device that has to pass through another release first begins with that."""
        self.open()
        self.fetch(1, b"0-299")
        self.take_policy('stepping-stones = ["1.1.0"]')
        self.assert_begins_anew(self.fetch(1, b"300-"))
        self.assert_piece(self.fetch(1, b"0-299"), "lamp-1.1.0.bin", 0, 300)

    def test_rollback(self) -> None:
        """A device that is led back goes on with the release before, unless that is halted meanwhile, too."""
        self.open("rollback = true")
        write_files(self.door.folder, {"lamp-1.0.0.bin": b"\0 first"})
        self.door.read()
        self.halt((1, 2, 0))
        self.assert_piece(self.fetch(1, b"0-299", "1.2.0"), "lamp-1.1.0.bin", 0, 300)
        answer = self.fetch(1, b"300-599", "1.2.0")
        self.assert_piece(answer, "lamp-1.1.0.bin", 300, 600)
        self.assertEqual(answer.reason, "rollback")
        self.halt((1, 1, 0))
        answer = self.fetch(1, b"600-", "1.2.0")
        self.assertEqual((answer.code, answer.reason), (416, "image-changed"))
        self.assertEqual(self.fetch(1, b"0-", "1.2.0").body, b"\0 first")

    def test_filesystem(self) -> None:
        """What a device began of a sketch isn't gone on with where it asks for the filesystem at the same address."""
        self.open()
        write_files(self.door.folder, {"lamp-1.2.0.fs.bin": b"\0" + THIRD})
        self.door.read()
        self.fetch(1, b"0-299")
        fields = (b"x-ESP32-STA-MAC: 24:0A:C4:00:00:01", b"x-ESP32-mode: spiffs", b"x-ESP32-version: 1.0.0")
        answer = self.door.ask(b"/lamp", *fields, b"User-Agent: client", b"Range: bytes=300-")
        self.assertEqual((answer.code, answer.body), (206, THIRD[299:]))

    def test_head(self) -> None:
        """`HEAD` knows no ranges: it tells of the image that a download would begin with."""
        self.open()
        self.fetch(1, b"0-299")
        self.halt((1, 2, 0))
        fields = (b"x-ESP32-STA-MAC: 24:0A:C4:00:00:01", b"x-ESP32-version: 1.0.0", b"Range: bytes=300-")
        answer = self.door.ask(b"/lamp", *fields, method=b"HEAD")
        self.assertEqual((answer.code, answer.get(b"X-Version")), (200, b"1.1.0"))

    def test_turn(self) -> None:
        """A device that fetches in pieces once more, since it came back as it was, keeps its turn, too."""
        self.open("max-downloads = 1")
        self.assert_piece(self.fetch(1, b"0-"), "lamp-1.2.0.bin", 0)
        self.door.hang_up()
        self.door.pass_time(30)
        # One that only comes back has no turn yet.
        other = self.begin_whole(2)
        self.assertEqual(self.fetch(1, b"0-299").reason, "busy")
        other.lose()
        self.door.pass_time(1)
        self.assert_piece(self.fetch(1, b"0-299"), "lamp-1.2.0.bin", 0, 300)
        self.door.pass_time(1)
        self.begin_whole(2)
        self.assertEqual(self.fetch(3, b"0-299").reason, "busy")
        self.assert_piece(self.fetch(1, b"300-599"), "lamp-1.2.0.bin", 300, 600)
        # But not for ever.
        self.door.pass_time(61)
        self.assertEqual(self.fetch(1, b"600-").reason, "busy")

    def begin_whole(self, number: int) -> MemoryConnection:
        """Begin a download whose last bytes don't arrive."""
        connection = self.door.connect()
        connection.unacknowledged = 500
        connection.send(
            b"GET /lamp HTTP/1.1\r\nHost: h\r\nx-ESP32-STA-MAC: 24:0A:C4:00:00:%02X\r\n"
            b"x-ESP32-version: 1.0.0\r\n\r\n" % number
        )
        self.assertTrue(connection.received.startswith(b"HTTP/1.1 200 "), connection.received[:200])
        return connection


class JudgementTests(SynchronousTestCase):
    """Which image a device may go on with: the rules alone."""

    NAMES = tuple(f"lamp-{version}.bin" for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0"))

    def setUp(self) -> None:
        """Make a catalog."""
        self.images = {name: make_image(name) for name in (*self.NAMES, "fan-1.1.0.bin", "lamp-1.1.0.fs.bin")}
        self.catalog = make_catalog(self.images.values())

    def may(
        self,
        begun: str,
        now: str,
        reason: str = "newer",
        running: str | None = "1.0.0",
        device: str | None = "24:0A:C4:00:00:01",
        barred: frozenset[Numbers] = frozenset(),
    ) -> bool:
        """Say whether a device may go on with a file, where another one would be sent now."""
        check_in = CheckIn("stable", "lamp", "esp32", None, device, running)
        decision = Send(self.images[now], reason)
        return may_go_on(self.images[begun], check_in, decision, self.catalog, lambda place: barred)

    def test_newer(self) -> None:
        """One may go on with a lower one than would be sent now, and never with a higher one."""
        one, two, three = self.NAMES[1:]
        self.assertTrue(self.may(one, three))
        self.assertTrue(self.may(two, three))
        self.assertTrue(self.may(two, two))
        self.assertTrue(self.may(one, three, "no-version", None))
        self.assertFalse(self.may(three, two))

    def test_step_back(self) -> None:
        """Nor with one that is no higher than what runs."""
        self.assertFalse(self.may("lamp-1.1.0.bin", "lamp-1.3.0.bin", running="1.1.0"))
        self.assertFalse(self.may("lamp-1.1.0.bin", "lamp-1.2.0.bin", "other-build", "1.2.0(minimal)"))
        self.assertFalse(self.may("lamp-1.0.0.bin", "lamp-1.1.0.bin", "rollback", "1.2.0"))
        self.assertTrue(self.may("lamp-1.1.0.bin", "lamp-1.1.0.bin", "rollback", "1.2.0"))

    def test_pinned(self) -> None:
        """A pinned device goes on with its pin only."""
        self.assertTrue(self.may("lamp-1.2.0.bin", "lamp-1.2.0.bin", "pinned"))
        self.assertFalse(self.may("lamp-1.1.0.bin", "lamp-1.2.0.bin", "pinned"))
        self.assertFalse(self.may("lamp-1.3.0.bin", "lamp-1.2.0.bin", "pinned"))

    def test_barred(self) -> None:
        """Nobody goes on with a release that is barred."""
        barred = frozenset({(1, 1, 0)})
        for device in ("24:0A:C4:00:00:01", None):
            self.assertFalse(self.may("lamp-1.1.0.bin", "lamp-1.2.0.bin", device=device, barred=barred))
            self.assertTrue(self.may("lamp-1.2.0.bin", "lamp-1.3.0.bin", device=device, barred=barred))

    def test_other_place(self) -> None:
        """Nor does a device that is led to another project."""
        self.assertFalse(self.may("fan-1.1.0.bin", "lamp-1.2.0.bin"))

    def test_no_id(self) -> None:
        """Of a device without an id nothing else is known."""
        self.assertTrue(self.may("lamp-1.3.0.bin", "lamp-1.2.0.bin", device=None))

    def test_concerns(self) -> None:
        """A sketch is no filesystem; and behind one address may be devices with several chips."""
        plain, filesystem = self.images["lamp-1.1.0.bin"], self.images["lamp-1.1.0.fs.bin"]
        chip, packed = make_image("lamp-1.2.0.esp32c3.bin"), make_image("lamp-1.2.0.bin.gz")
        for device, other in (("24:0A:C4:00:00:01", True), (None, False)):
            continuity = Continuity(device)
            self.assertTrue(continuity.concerns(plain, self.images["lamp-1.2.0.bin"]))
            self.assertFalse(continuity.concerns(plain, filesystem))
            self.assertEqual(continuity.concerns(plain, chip), other)
            self.assertEqual(continuity.concerns(plain, packed), other)


class MemoryTests(SynchronousTestCase):
    """What is remembered, for how long, and of how many."""

    HERE = ("192.0.2.7", b"/firmware")

    def setUp(self) -> None:
        """Read some images."""
        files = {f"firmware-1.{number}.0.bin": b"%d" % number for number in range(20)}
        door = MemoryDoor(self, files)
        catalog = door.shelf.catalog
        assert catalog is not None
        stable = catalog.channels["stable"].files
        self.images: list[Image] = [stable[name] for name in files]
        self.memory = Continuations()

    def test_beginning(self) -> None:
        """A request from the beginning goes on with nothing."""
        self.memory.sent(self.HERE, self.images[0], 100, 0.0)
        self.assertIsNone(self.memory.find(self.HERE, 0, 1.0))

    def test_exact_place_counts_most(self) -> None:
        """Of several downloads at one address that one goes on whose part ended exactly there."""
        self.memory.sent(self.HERE, self.images[0], 100, 0.0)
        self.memory.sent(self.HERE, self.images[1], 150, 1.0)
        self.assertIs(self.memory.find(self.HERE, 100, 2.0), self.images[0])
        self.assertIs(self.memory.find(self.HERE, 150, 2.0), self.images[1])

    def test_after_a_broken_connection(self) -> None:
        """A start before what was sent goes on with the last image; one beyond it goes on with none."""
        self.memory.sent(self.HERE, self.images[0], 100, 0.0)
        self.assertIs(self.memory.find(self.HERE, 60, 1.0), self.images[0])
        self.assertIsNone(self.memory.find(self.HERE, 101, 1.0))

    def test_other_places(self) -> None:
        """Other addresses, of the client or of the image, know nothing of it."""
        self.memory.sent(self.HERE, self.images[0], 100, 0.0)
        self.assertIsNone(self.memory.find(("192.0.2.8", b"/firmware"), 100, 1.0))
        self.assertIsNone(self.memory.find(("192.0.2.7", b"/lamp"), 100, 1.0))

    def test_age(self) -> None:
        """It is forgotten some time after the last part."""
        self.memory.sent(self.HERE, self.images[0], 100, 0.0)
        self.memory.sent(self.HERE, self.images[0], 200, 500.0)
        self.assertIs(self.memory.find(self.HERE, 200, 500.0 + MAX_AGE), self.images[0])
        self.assertIsNone(self.memory.find(self.HERE, 200, 501.0 + MAX_AGE))

    def test_number_of_places(self) -> None:
        """So many places are remembered, and the oldest is forgotten first."""
        places = [(f"host {number}", b"/firmware") for number in range(MAX_PLACES + 1)]
        for place in places[:-1]:
            self.memory.sent(place, self.images[0], 100, 0.0)
        self.memory.sent(places[0], self.images[0], 200, 0.0)
        self.memory.sent(places[-1], self.images[0], 100, 0.0)
        found = [self.memory.find(place, 100, 0.0) is not None for place in places]
        self.assertEqual(found, [True, False] + [True] * (MAX_PLACES - 1))

    def test_number_of_images(self) -> None:
        """At one place only the last few images are remembered."""
        for number, image in enumerate(self.images):
            self.memory.sent(self.HERE, image, 100 + number, 0.0)
        self.assertIsNone(self.memory.find(self.HERE, 100 + len(self.images), 0.0))
        self.assertIs(self.memory.find(self.HERE, 100 + len(self.images) - 1, 0.0), self.images[-1])
        # What the first image was at is within what the last ones got.
        self.assertIs(self.memory.find(self.HERE, 100, 0.0), self.images[-1])
