"""Tests of keeping to one image while a client fetches it in parts."""

from __future__ import annotations

import random

from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.catalog import Image
from ota_server.web.continuation import MAX_AGE, MAX_PLACES, Continuations
from ota_server.web.delivery import LINGER
from tests.images import esp32_image
from tests.web.answers import Answer
from tests.web.memory import MemoryDoor, write_files

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
