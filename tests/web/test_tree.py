"""Tests of the addresses of the device door."""

from __future__ import annotations

import hashlib

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.catalog import Catalog
from ota_server.web.tree import PATIENCE
from tests.images import bootloader, compress, esp32_image, merged_image
from tests.web.answers import read_only_answer
from tests.web.memory import MemoryDoor, write_files

FILES = {
    "firmware-1.0.0.bin": b"\0 1.0.0",
    "firmware-1.2.bin": b"\0 1.2",
    "firmware-1.2.0.fs.bin": b"\0 filesystem",
    "firmware-1.1.0.bin.gz": b"\x1f\x8b 1.1.0",
    "firmware-1.1.0.esp32c3.bin": b"\0 1.1.0 of C3",
    "firmware-1.1.0.esp32c3.fs.bin": b"\0 filesystem of C3",
    "my-lamp-10.0.0.bin": b"\0 lamp",
    "beta-1.0.0.bin": b"\0 project beta",
    "beta/firmware-2.0.0.bin": b"\0 2.0.0",
    "fan-1.0.0.esp32.bin": b"\0 fan 1.0.0 of ESP32",
    "fan-1.0.0.esp32.bin.gz": b"\x1f\x8b fan 1.0.0 of ESP32",
    "fan-1.0.0.esp32c3.bin": b"\0 fan 1.0.0 of C3",
    "fan-1.0.0.fs.bin": b"\0 filesystem of fan",
    "fan-2.0.0.esp32.bin": b"\0 fan 2.0.0 of ESP32",
    "fan-2.0.0-1.0.0.bin": b"\0 project fan-2.0.0",
    "hub-2.0.0.bin": b"\0 hub",
    "hub-2.0.0-1.0.0.bin": b"\0 project hub-2.0.0",
    "two-1.0.0.esp32.bin": b"\0 two of ESP32",
    "two-1.0.0.esp32c3.bin": b"\0 two of C3",
    "firmware.bin.txt": b"no image",
    "firmware-0.1-alpha.bin": b"no version",
}


class AddressTests(SynchronousTestCase):
    """What each address leads to."""

    def setUp(self) -> None:
        """Open a door to a folder."""
        self.door = MemoryDoor(self, FILES)

    def test_images(self) -> None:
        """Smart and plain addresses lead to the images that they name."""
        for path, name in {
            b"/firmware": "firmware-1.2.bin",
            b"/my-lamp": "my-lamp-10.0.0.bin",
            b"/stable/firmware": "firmware-1.2.bin",
            b"/beta/firmware": "beta/firmware-2.0.0.bin",
            b"/beta": "beta-1.0.0.bin",
            b"/firmware.bin": "firmware-1.2.bin",
            b"/my-lamp.bin": "my-lamp-10.0.0.bin",
            b"/beta/firmware.bin": "beta/firmware-2.0.0.bin",
            b"/firmware-1.0.0.bin": "firmware-1.0.0.bin",
            b"/firmware-1.0.bin": "firmware-1.0.0.bin",
            b"/firmware-1.2.bin": "firmware-1.2.bin",
            b"/firmware-1.2.0.bin": "firmware-1.2.bin",
            b"/beta/firmware-2.0.bin": "beta/firmware-2.0.0.bin",
            b"/firmware.bin.gz": "firmware-1.1.0.bin.gz",
            b"/firmware-1.1.bin.gz": "firmware-1.1.0.bin.gz",
            b"/firmware.fs.bin": "firmware-1.2.0.fs.bin",
            b"/firmware-1.2.fs.bin": "firmware-1.2.0.fs.bin",
            b"/firmware.esp32c3.bin": "firmware-1.2.bin",
            b"/firmware-1.1.esp32c3.bin": "firmware-1.1.0.esp32c3.bin",
            b"/firmware-1.1.0.esp32c3.fs.bin": "firmware-1.1.0.esp32c3.fs.bin",
            b"/firmware.esp32c3.fs.bin": "firmware-1.2.0.fs.bin",
            b"//firmware": "firmware-1.2.bin",
            b"///beta//firmware": "beta/firmware-2.0.0.bin",
            b"http://ota.example/firmware": "firmware-1.2.bin",
            b"HTTP://ota.example:8000//beta/firmware?x=/../": "beta/firmware-2.0.0.bin",
            b"/%66irm%77are": "firmware-1.2.bin",
            b"/firmware%2d1.0.0.bin": "firmware-1.0.0.bin",
            b"/firmware?version=9.9": "firmware-1.2.bin",
            b"/firmware.bin?": "firmware-1.2.bin",
            b"/firmware/": "firmware-1.2.bin",
            b"/firmware.bin//?x": "firmware-1.2.bin",
            b"/beta/firmware/": "beta/firmware-2.0.0.bin",
            b"/beta/": "beta-1.0.0.bin",
        }.items():
            answer = self.door.ask(path)
            self.assertEqual((path, answer.code, answer.body), (path, 200, FILES[name]))

    def test_texts(self) -> None:
        """Beside each plain address stand its hashes and its version."""
        for base, name, version in (
            (b"/firmware", "firmware-1.2.bin", b"1.2.0"),
            (b"/firmware.bin", "firmware-1.2.bin", b"1.2.0"),
            (b"/firmware-1.2.0.bin", "firmware-1.2.bin", b"1.2.0"),
            (b"/firmware.fs.bin", "firmware-1.2.0.fs.bin", b"1.2.0"),
            (b"/firmware.bin.gz", "firmware-1.1.0.bin.gz", b"1.1.0"),
            (b"/firmware-1.1.0.esp32c3.bin", "firmware-1.1.0.esp32c3.bin", b"1.1.0"),
            (b"/beta/firmware", "beta/firmware-2.0.0.bin", b"2.0.0"),
            (b"/beta/firmware-2.0.0.bin", "beta/firmware-2.0.0.bin", b"2.0.0"),
        ):
            file = name.rpartition("/")[2].encode()
            for what, text in (
                (b".md5", hashlib.md5(FILES[name]).hexdigest().encode() + b"  " + file + b"\n"),
                (b".sha256", hashlib.sha256(FILES[name]).hexdigest().encode() + b"  " + file + b"\n"),
                (b".version", version + b"\n"),
            ):
                answer = self.door.ask(base + what)
                self.assertEqual((base, answer.code, answer.body), (base, 200, text))
                self.assertEqual(answer.get(b"Content-Type"), b"text/plain")

    def test_own_addresses(self) -> None:
        """The root says what this is, and the addresses for supervision that it lives and serves."""
        self.assertIn(b"OTA Server", self.door.ask(b"/").body)
        self.assertEqual(self.door.ask(b"http://ota.example").body, self.door.ask(b"/").body)
        for path, text in ((b"/-/healthy", b"healthy\n"), (b"/-/ready", b"ready\n")):
            answer = self.door.ask(path)
            self.assertEqual((answer.code, answer.body), (200, text))

    def test_chips(self) -> None:
        """A plain address may name the chip in its query; what its path names counts more."""
        for path, name in {
            b"/fan.bin?chip=esp32": "fan-2.0.0.esp32.bin",
            b"/fan.bin?chip=ESP32": "fan-2.0.0.esp32.bin",
            b"/fan.bin?chip=esp32c3": "fan-1.0.0.esp32c3.bin",
            b"/fan.bin?chip=ESP32-C3&x=1": "fan-1.0.0.esp32c3.bin",
            b"/fan?chip=esp32c3": "fan-1.0.0.esp32c3.bin",
            b"/fan-1.0.0.bin?chip=esp32": "fan-1.0.0.esp32.bin",
            b"/fan-1.0.bin?chip=esp32c3": "fan-1.0.0.esp32c3.bin",
            b"/fan-1.0.0.bin.gz?chip=esp32": "fan-1.0.0.esp32.bin.gz",
            b"/fan.bin.gz?chip=esp32": "fan-1.0.0.esp32.bin.gz",
            b"/fan.esp32.bin": "fan-2.0.0.esp32.bin",
            b"/fan.esp32.bin?chip=esp32c3": "fan-2.0.0.esp32.bin",
            b"/fan-1.0.0.esp32.bin?chip=esp32c3": "fan-1.0.0.esp32.bin",
            b"/fan.fs.bin?chip=esp32": "fan-1.0.0.fs.bin",
            b"/fan-1.0.fs.bin?chip=esp32c3": "fan-1.0.0.fs.bin",
            b"/firmware.bin?chip=esp32c3": "firmware-1.2.bin",
            b"/firmware-1.1.0.bin?chip=esp32c3": "firmware-1.1.0.esp32c3.bin",
            b"/firmware.fs.bin?chip=esp32c3": "firmware-1.2.0.fs.bin",
            b"/firmware-1.1.fs.bin?chip=esp32c3": "firmware-1.1.0.esp32c3.fs.bin",
            b"/firmware-1.0.0.bin?chip=esp8266": "firmware-1.0.0.bin",
            b"/firmware-1.1.0.bin.gz?chip=esp8266": "firmware-1.1.0.bin.gz",
            b"/beta/firmware.bin?chip=esp8266": "beta/firmware-2.0.0.bin",
            b"/fan-2.0.0-1.0.0.bin": "fan-2.0.0-1.0.0.bin",
            b"/fan-2.0.0.bin?chip=esp32": "fan-2.0.0-1.0.0.bin",
            b"/hub-2.0.0.bin": "hub-2.0.0.bin",
            b"/hub-2.0.0.bin?chip=esp32": "hub-2.0.0.bin",
        }.items():
            answer = self.door.ask(path)
            self.assertEqual((path, answer.code, answer.body), (path, 200, FILES[name]))
            if b".bin" in path:
                base, _, query = path.partition(b"?")
                answer = self.door.ask(base + b".md5?" + query)
                expected = f"{hashlib.md5(FILES[name]).hexdigest()}  {name.rpartition('/')[2]}\n".encode()
                self.assertEqual((path, answer.code, answer.body), (path, 200, expected))

    def test_no_image_for_a_chip(self) -> None:
        """A plain address where the chip has to be named, or that has nothing for it, says so in its 404."""
        for path, reason in (
            (b"/fan.bin?chip=esp8266", "wrong-chip"),
            (b"/fan.bin?chip=lamp", "wrong-chip"),
            (b"/fan.bin?chip=%ff", "wrong-chip"),
            (b"/fan-1.0.0.bin?chip=esp8266", "wrong-chip"),
            (b"/fan-1.0.bin?chip=esp32s3", "wrong-chip"),
            (b"/fan.esp32s3.bin", "wrong-chip"),
            (b"/two.bin", "unknown-chip"),
            (b"/two.bin?x=chip", "unknown-chip"),
            (b"/two.bin?chip=", "unknown-chip"),
            (b"/fan.bin.gz?chip=esp32c3", "unknown-project"),
            (b"/fan-1.0.0.bin.gz?chip=esp32c3", "unknown-project"),
            (b"/two-9.9.bin?chip=esp32", "unknown-project"),
            (b"/nothing.bin?chip=esp32", "unknown-project"),
        ):
            body = {"wrong-chip": b"no image for this chip\n", "unknown-chip": b"name a chip: ?chip=CHIP\n"}.get(
                reason, b"unknown project\n"
            )
            base, _, query = path.partition(b"?")
            for each in (path, *(b"%s.%s?%s" % (base, what, query) for what in (b"md5", b"sha256", b"version"))):
                answer = self.door.ask(each)
                self.assertEqual((each, answer.code, answer.reason, answer.body), (each, 404, reason, body))
                self.assertLess(len(answer.body), 32)

    def test_newer_for_several_chips(self) -> None:
        """The newest is none while newer ones for several chips stand above it: a chip has to be named."""
        files = {f"lamp-2.0.0.{chip}.bin": esp32_image(chip) for chip in ("esp32", "esp32c3")}
        door = MemoryDoor(self, {"lamp-1.0.0.bin": esp32_image(), **files})
        for path in (b"/lamp.bin", b"/lamp.bin.version", b"/lamp-2.0.0.bin"):
            self.assertEqual((path, door.ask(path).reason), (path, "unknown-chip"))
        self.assertEqual(door.ask(b"/lamp.bin.version?chip=esp32c3").body, b"2.0.0\n")
        self.assertEqual(door.ask(b"/lamp-1.0.0.bin.version").body, b"1.0.0\n")

    def test_chip_by_its_bytes(self) -> None:
        """An image is for the chip that its own header says, whether it is compressed or not."""
        image = esp32_image("esp32c3")
        files = {"lamp-1.0.0.bin": image, "lamp-1.0.0.bin.gz": compress(image), "door-1.0.0.bin.gz": compress(image)}
        door = MemoryDoor(self, files)
        for path, name in {
            b"/lamp.bin": "lamp-1.0.0.bin",
            b"/lamp.bin?chip=esp32c3": "lamp-1.0.0.bin",
            b"/lamp-1.0.bin?chip=esp32c3": "lamp-1.0.0.bin",
            b"/lamp.bin.gz": "lamp-1.0.0.bin.gz",
            b"/lamp.bin.gz?chip=esp32c3": "lamp-1.0.0.bin.gz",
            b"/lamp-1.0.bin.gz?chip=esp32c3": "lamp-1.0.0.bin.gz",
            b"/door.bin.gz?chip=esp32c3": "door-1.0.0.bin.gz",
            b"/door-1.0.0.bin.gz?chip=esp32c3": "door-1.0.0.bin.gz",
        }.items():
            answer = door.ask(path)
            self.assertEqual((path, answer.code, answer.body), (path, 200, files[name]))
            self.assertEqual(answer.get(b"X-MD5"), hashlib.md5(files[name]).hexdigest().encode())
        for base in (b"/lamp.bin", b"/lamp-1.0.0.bin", b"/lamp.bin.gz", b"/lamp-1.0.0.bin.gz", b"/door-1.0.bin.gz"):
            answer = door.ask(base + b"?chip=esp32")
            self.assertEqual((base, answer.code), (base, 404))

    def test_never_the_newest_by_wire(self) -> None:
        """What is no update is found at its very own address, for those who write by wire, and is no newest image."""
        files = {"lamp-1.0.0.bin": esp32_image(), "lamp-1.1.0.bin": merged_image(), "boot-1.0.0.bin": bootloader()}
        door = MemoryDoor(self, files)
        for path in (b"/lamp", b"/lamp.bin", b"/lamp.bin?chip=esp32"):
            self.assertEqual((path, door.ask(path).body == files["lamp-1.0.0.bin"]), (path, True))
        self.assertEqual(door.ask(b"/lamp-1.1.0.bin").body, files["lamp-1.1.0.bin"])
        self.assertEqual(door.ask(b"/boot-1.0.0.bin").body, files["boot-1.0.0.bin"])
        self.assertEqual(door.ask(b"/boot.bin").code, 404)

    NOTHING = (
        b"/nothing", b"/nothing.bin", b"/nothing.version", b"/firmware-9.9.9.bin", b"/firmware-1.0.0", b"/Firmware",
        b"/firmware/firmware", b"/firmware/%20", b"/firmware/%2f", b"/beta/nothing", b"/beta/my-lamp",
        b"/firmware.elf", b"/firmware.bin.sha1", b"/firmware.bin.md5.md5", b"/firmware.bin.txt", b"/my-lamp.bin.gz",
        b"/my-lamp.fs.bin", b"/firmware-0.1-alpha.bin", b"/firmware-1.0.0.esp8266.bin", b"/firmware-01.0.0.bin",
        b"/stable", b"/-/nothing", b"/-/../firmware", b"/.ota", b"/.ota/digests.sqlite",
        b"/favicon.ico", b"/robots.txt", b"/.bin", b"/.md5", b"/.", b"/-.bin", b"/%", b"/%zz", b"/%ff", b"/\xa0",
    )  # fmt: skip

    ATTACKS = (
        b"/../firmware", b"/..", b"/../../etc/passwd", b"/beta/../firmware", b"/./firmware", b"/%2e%2e/firmware",
        b"/%2e%2e%2f%2e%2e%2fetc%2fpasswd", b"/beta/%2e%2e/firmware", b"/beta%2ffirmware", b"/..%5cfirmware",
        b"/firmware%00", b"/firmware%00.bin", b"/firmware.bin%00.md5", b"/%00", b"/firmware%0d%0aX-Evil:%20yes",
        b"/%2ffirmware", b"/firmware%20", b"/%e9", b"/%1f%8b", b"/\x7f", b"/" + b"x" * 8000, b"/" + b"%2e" * 3000,
        b"/a" * 4000, b"http://ota.example/../etc/passwd", b"/<script>alert(1)",
    )  # fmt: skip

    def test_nothing_there(self) -> None:
        """Whatever leads to nothing is answered 404, in less than 32 bytes, and breaks nothing."""
        for path in (*self.NOTHING, *self.ATTACKS):
            answer = self.door.ask(path)
            self.assertEqual((path, answer.code), (path, 404))
            self.assertLess(len(answer.body), 32)
            self.assertEqual(answer.reason, "unknown-project")
        self.assertEqual(self.door.ask(b"/firmware").code, 200)

    def test_below_supervision(self) -> None:
        """Around the addresses for supervision there is nothing."""
        for path in (b"/-", b"/-/", b"/-/ready/x", b"/-/healthy/x", b"/-/firmware"):
            answer = self.door.ask(path)
            self.flushLoggedErrors()
            self.assertEqual((path, answer.code), (path, 404))

    def test_no_path(self) -> None:
        """A target that is neither a path nor an address is not taken for one."""
        for path in (b"xfirmware", b"*", b"firmware", b"ota.example:8000", b"ftp://ota.example/firmware", b"."):
            answer = self.door.ask(path)
            self.assertIn((path, answer.code), [(path, 400), (path, 404)])

    def test_nothing_is_remembered_of_attacks(self) -> None:
        """Addresses that lead to nothing fill no memory."""
        root = self.door.site.resource
        self.door.ask(b"/firmware")
        for path in (*self.NOTHING, *self.ATTACKS):
            self.door.ask(path)
        self.flushLoggedErrors()
        made = {name for channel in root._channels.values() for name, _ in channel._made}
        self.assertLessEqual(made, {name.encode() for name in ("firmware", "firmware.bin", "beta")})

    def test_new_catalog(self) -> None:
        """A new catalog holds from the next request on, over connections that are open, too."""
        check = b"GET /firmware HTTP/1.1\r\nHost: h\r\nx-ESP8266-version: 1.2\r\n\r\n"
        connection = self.door.connect()
        connection.send(check)
        self.assertEqual(read_only_answer(connection.received).code, 304)
        write_files(self.door.folder, {"firmware-1.3.0.bin": b"\0 1.3.0", "gamma/new-1.0.0.bin": b"\0 new"})
        (self.door.folder / "my-lamp-10.0.0.bin").unlink()
        self.door.read()
        connection.transport.clear()
        connection.send(check)
        self.assertEqual(read_only_answer(connection.received).body, b"\0 1.3.0")
        self.assertEqual(self.door.ask(b"/firmware.version").body, b"1.3.0\n")
        self.assertEqual(self.door.ask(b"/gamma/new").body, b"\0 new")
        self.assertEqual(self.door.ask(b"/my-lamp").code, 404)


class StartingTests(SynchronousTestCase):
    """Requests that come before the folder is read."""

    def setUp(self) -> None:
        """Open a door to a folder that is not read yet."""
        self.door = MemoryDoor(self, FILES, read=False)

    def send(self, path: bytes, method: bytes = b"GET") -> tuple[bytes, bytes]:
        """Send a request and let some time pass; return what came at once, and what came after all patience."""
        connection = self.door.connect()
        connection.send(b"%s %s HTTP/1.1\r\nHost: h\r\nx-ESP8266-version: 1.0.0\r\n\r\n" % (method, path))
        at_once = connection.received
        self.door.clock.advance(PATIENCE - 0.5)
        self.assertEqual(connection.received, at_once)
        self.door.clock.advance(1)
        return at_once, connection.received

    def test_answered_when_read(self) -> None:
        """They wait, and are answered as if they had come later, in any number, over any connection."""
        connections = [self.door.connect() for _ in range(3)]
        paths = (b"/firmware", b"/beta/firmware", b"/firmware.version")
        for connection, path in zip(connections, paths, strict=True):
            connection.send(b"GET %s HTTP/1.1\r\nHost: h\r\nx-ESP8266-version: 1.2\r\n\r\n" % path)
            self.assertEqual(connection.received, b"")
        self.door.clock.advance(PATIENCE - 1)
        self.door.read()
        answers = [read_only_answer(connection.received) for connection in connections]
        self.assertEqual([answer.code for answer in answers], [304, 200, 200])
        self.assertEqual([answer.body for answer in answers], [b"", b"\0 2.0.0", b"1.2.0\n"])

    def test_patience(self) -> None:
        """After 5 s they are answered 503 with a hint, and the connection stays for the next one."""
        self.assertEqual(PATIENCE, 5)
        for path in (b"/firmware", b"/firmware.bin", b"/nothing", b"/beta/firmware"):
            at_once, received = self.send(path)
            self.assertEqual(at_once, b"")
            answer = read_only_answer(received)
            self.assertEqual((answer.code, answer.reason), (503, "starting"))
            self.assertIsNotNone(answer.get(b"Retry-After"))
        self.assertEqual(read_only_answer(self.send(b"/firmware", b"HEAD")[1], b"HEAD").code, 503)

    def test_late_catalog(self) -> None:
        """A catalog that comes after the 503 doesn't answer the same request once more."""
        connection = self.door.connect()
        connection.send(b"GET /firmware.version HTTP/1.1\r\nHost: h\r\n\r\n")
        self.door.clock.advance(PATIENCE + 1)
        self.door.read()
        self.assertEqual(read_only_answer(connection.received).code, 503)
        connection.transport.clear()
        connection.send(b"GET /firmware.version HTTP/1.1\r\nHost: h\r\n\r\n")
        self.assertEqual(read_only_answer(connection.received).body, b"1.2.0\n")

    def test_client_gone(self) -> None:
        """A client that leaves while it waits is no failure, whether the catalog comes or the time is up."""
        for end in (self.door.read, lambda: self.door.clock.advance(PATIENCE + 1)):
            door = self.door = MemoryDoor(self, FILES, read=False)
            connection = door.connect()
            connection.send(b"GET /firmware HTTP/1.1\r\nHost: h\r\n\r\n")
            connection.lose()
            with capturedLogs() as events:
                end()
                door.read()
                door.clock.advance(PATIENCE + 1)
            self.assertEqual(events, [])
            self.assertEqual(connection.received, b"")

    def test_supervision(self) -> None:
        """`/-/healthy` is 200 from the start on, `/-/ready` 503 until the folder is read; neither waits."""
        for path, code in ((b"/-/healthy", 200), (b"/-/ready", 503), (b"/", 200)):
            at_once, received = self.send(path)
            self.assertEqual(at_once, received)
            self.assertEqual((path, read_only_answer(received).code), (path, code))
        self.door.read()
        self.assertEqual(self.door.ask(b"/-/ready").code, 200)

    def test_empty_folder(self) -> None:
        """An empty folder is served like any other: with 404."""
        self.door.shelf.put(Catalog.empty())
        self.assertEqual(self.door.ask(b"/firmware").code, 404)
        self.assertEqual(self.door.ask(b"/-/ready").code, 200)

    def test_shelf_waits(self) -> None:
        """Those whose patience ended don't wait at the shelf any more."""
        waiting: list[Deferred[None]] = self.door.shelf._waiting
        self.send(b"/firmware")
        self.assertEqual(waiting, [])
