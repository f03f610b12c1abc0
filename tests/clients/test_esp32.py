"""The update clients of the Arduino core for ESP32: `HTTPUpdate`, esp32FOTA's download and `Arduino_ESP32_OTA`."""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from typing import Any

import attrs
from twisted.trial.unittest import TestCase

from tests.images import (
    bootloader,
    compress,
    damaged,
    esp32_image,
    esp8266_image,
    merged_image,
    ota_data,
    partition_table,
    private_key,
    secure_boot_v2,
)
from tests.web.door import Door

OK, NO_UPDATES = 0, 304
NO_SPACE, NO_LENGTH, NOT_FOUND, FORBIDDEN, WRONG_CODE, WRONG_MD5, NO_MAGIC = -100, -101, -102, -103, -104, -105, -106
BAD_IMAGE, CUT_SHORT, MD5_DIFFERS = 9, 6, 7

FREE_SPACE = 1310720
CHIP_ESP32 = 0


def make_request(port: int, path: str = "/firmware", *, leave_out: tuple[str, ...] = (), **fields: str) -> bytes:
    """Return a check of the core's `HTTPUpdate`, with other values for some of its headers."""
    values = {
        "STA-MAC": "24:0A:C4:00:01:10",
        "AP-MAC": "24:0A:C4:00:01:11",
        "free-space": str(FREE_SPACE),
        "sketch-size": "876544",
        "sketch-md5": "a56f8ef78a0bebe649f62067daf1408a",
        "sketch-sha256": "3B0C1C7C3B5E8E2F9A6D4C1B0A998877665544332211FFEEDDCCBBAA00112233",
        "chip-size": "4194304",
        "sdk-version": "v4.4.7-dirty",
        "mode": "sketch",
        "version": "1.0.0",
    }
    values.update({name.replace("_", "-"): value for name, value in fields.items()})
    lines = [
        f"GET {path} HTTP/1.0",
        f"Host: 127.0.0.1:{port}",
        "User-Agent: ESP32-http-Update",
        "Connection: close",
        "Cache-Control: no-cache",
        *(f"x-ESP32-{name}: {value}" for name, value in values.items() if name not in leave_out),
    ]
    return "\r\n".join([*lines, "", ""]).encode("utf-8")


@attrs.frozen
class Outcome:
    """What `httpUpdate.update` returns: OK, NO_UPDATES or the number of an error, with what was written to flash."""

    code: int
    data: bytes = b""


def judge(segments: list[bytes], *, free_space: int = FREE_SPACE, mode: str = "sketch") -> Outcome:
    """Take what arrived, as it arrived, as `HTTPClient`, `HTTPUpdate` and `Update` do."""
    data = b"".join(segments)
    lines, _, body = data.partition(b"\r\n\r\n")
    status, *fields = lines.split(b"\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(b":") for field in fields)}
    if not status.startswith(b"HTTP/1.") or b"transfer-encoding" in headers:
        return Outcome(WRONG_CODE)
    code = int(status[9:12])
    if code != 200:
        return Outcome({304: NO_UPDATES, 403: FORBIDDEN, 404: NOT_FOUND}.get(code, WRONG_CODE))
    size = int(headers.get(b"content-length", b"-1"))
    if size <= 0:
        return Outcome(NO_LENGTH)
    if size > free_space:
        return Outcome(NO_SPACE)
    md5 = headers.get(b"x-md5")
    if md5 is not None and len(md5) != 32:
        return Outcome(WRONG_MD5)
    if mode == "sketch":
        # The client looks once whether a byte of the body is there, and never waits for it.
        _, _, arrived = segments[0].partition(b"\r\n\r\n")
        if arrived[:1] != b"\xe9":
            return Outcome(NO_MAGIC)
    if len(body) < size:
        return Outcome(CUT_SHORT)
    body = body[:size]
    if md5 is not None and md5 != hashlib.md5(body).hexdigest().encode():
        return Outcome(MD5_DIFFERS)
    if mode == "sketch" and int.from_bytes(body[12:14], "little") != CHIP_ESP32:
        return Outcome(BAD_IMAGE)
    return Outcome(OK, body)


def old() -> bytes:
    """Return the image that runs in the device."""
    return esp32_image("esp32", "1.0.0", seed=1)


def new() -> bytes:
    """Return the image that the device should get; it is larger than one buffer of the server."""
    return esp32_image("esp32", "1.1.0", size=150000, seed=2)


class UpdateTests(TestCase):
    """`httpUpdate.update` at a smart address."""

    async def update(self, files: dict[str, bytes] | None = None, path: str = "/firmware", **fields: Any) -> Outcome:
        """Serve a folder and let a device ask there."""
        door = Door(self, {"firmware-1.0.0.bin": old(), "firmware-1.1.0.bin": new()} if files is None else files)
        await door.open()
        connection = await door.connect()
        connection.send(make_request(door.port, path, **fields))
        await connection.until_end()
        mode, free_space = fields.get("mode", "sketch"), int(fields.get("free_space", FREE_SPACE))
        return judge(connection.segments, free_space=free_space, mode=mode)

    async def test_newer(self) -> None:
        """A device with an older version gets the newest image, its first byte together with the head."""
        self.assertEqual(await self.update(), Outcome(OK, new()))

    async def test_same_version(self) -> None:
        """A device with the same version is told that there are no updates."""
        self.assertEqual(await self.update(version="1.1.0"), Outcome(NO_UPDATES))

    async def test_known_by_appended_hash(self) -> None:
        """A device is known by the SHA-256 at the end of its image, in upper case, whatever its version says."""
        running = new()[-32:].hex().upper()
        self.assertEqual(await self.update(sketch_sha256=running), Outcome(NO_UPDATES))
        running = old()[-32:].hex().upper()
        self.assertEqual(await self.update(sketch_sha256=running, version="1.1.0"), Outcome(OK, new()))

    async def test_known_by_md5(self) -> None:
        """Where a core sends no SHA-256, its MD5 is that of the image as it is in the file."""
        outcome = await self.update(leave_out=("sketch-sha256",), sketch_md5=hashlib.md5(new()).hexdigest())
        self.assertEqual(outcome, Outcome(NO_UPDATES))

    async def test_early_core(self) -> None:
        """Cores that send no hash at all are served by their version."""
        without = ("sketch-sha256", "sketch-md5")
        self.assertEqual(await self.update(leave_out=without), Outcome(OK, new()))
        self.assertEqual(await self.update(leave_out=without, version="1.1.0"), Outcome(NO_UPDATES))

    async def test_no_space(self) -> None:
        """A device with too little space downloads nothing in vain."""
        self.assertEqual(await self.update(free_space="100000"), Outcome(NO_UPDATES))

    async def test_unknown_project(self) -> None:
        """A device that asks for an unknown project reports that by name."""
        self.assertEqual(await self.update(path="/nothing"), Outcome(NOT_FOUND))

    async def test_filesystem(self) -> None:
        """A filesystem image needs no magic byte."""
        outcome = await self.update({"firmware-1.1.0.fs.bin": b"\0littlefs" * 20000}, mode="spiffs")
        self.assertEqual(outcome, Outcome(OK, b"\0littlefs" * 20000))

    async def test_compressed_is_never_picked(self) -> None:
        """The smart address never picks a compressed image, which this client can't unpack."""
        files = {"firmware-1.1.0.bin.gz": zlib.compress(new()), "firmware-1.0.5.bin": new()}
        self.assertEqual(await self.update(files), Outcome(OK, new()))

    async def test_tasmota_safeboot(self) -> None:
        """A device on Tasmota's safeboot build gets the project's image at the very same version."""
        files = {"tasmota32-14.3.0.bin": new(), "tasmota32-safeboot-14.3.0.bin": old()}
        outcome = await self.update(files, "/tasmota32", version="14.3.0(tasmota32-safeboot)")
        self.assertEqual(outcome, Outcome(OK, new()))
        outcome = await self.update(files, "/tasmota32-safeboot.bin", version="14.2.0(tasmota32)")
        self.assertEqual(outcome, Outcome(OK, old()))


class ChipTests(TestCase):
    """Several chips at one address: the client names none, so the address has to, or what runs tells it."""

    async def update(self, files: dict[str, bytes], path: str = "/firmware", **fields: Any) -> bytes | int:
        """Serve a folder and let a device ask there; return the image, or the number of what came of it."""
        door = Door(self, files)
        await door.open()
        connection = await door.connect()
        connection.send(make_request(door.port, path, **fields))
        await connection.until_end()
        head, _, body = connection.received.partition(b"\r\n\r\n")
        if head[9:12] == b"200":
            self.assertIn(b"\r\nX-MD5: %s\r\n" % hashlib.md5(body).hexdigest().encode(), head)
            return body
        return int(head[9:12])

    def files(self) -> dict[str, bytes]:
        """Return a folder with two releases for two chips."""
        files = {f"firmware-1.0.0.{chip}.bin": esp32_image(chip, "1.0.0", seed=1) for chip in ("esp32", "esp32c3")}
        files |= {f"firmware-1.1.0.{chip}.bin": esp32_image(chip, "1.1.0", seed=2) for chip in ("esp32", "esp32c3")}
        return files

    async def test_chip_of_the_address(self) -> None:
        """Each gets its own by the address, also where the names of files say no chip; and none without it."""
        files = self.files()
        for chip, spelled in (("esp32", "esp32"), ("esp32c3", "ESP32-C3")):
            expected = files[f"firmware-1.1.0.{chip}.bin"]
            self.assertEqual(await self.update(files, f"/firmware?chip={spelled}"), expected)
            self.assertEqual(await self.update(files, f"/firmware.bin?chip={spelled}"), expected)
            self.assertEqual(await self.update(files, f"/firmware?chip={spelled}", version="1.1.0"), 304)
        self.assertEqual(await self.update(files), 304)
        self.assertEqual(await self.update(files, "/firmware?chip=esp32s3"), 304)
        files = {"firmware-1.0.0.bin": esp32_image("esp32"), "firmware-1.1.0.bin": esp32_image("esp32c3")}
        self.assertEqual(await self.update(files, "/firmware?chip=esp32", version="0.9"), files["firmware-1.0.0.bin"])
        self.assertEqual(await self.update(files, "/firmware?chip=esp32", version="1.0.0"), 304)

    async def test_chip_of_the_running_image(self) -> None:
        """A device whose image is known by its hash needs no more."""
        files = self.files()
        for chip in ("esp32", "esp32c3"):
            running = files[f"firmware-1.0.0.{chip}.bin"]
            expected = files[f"firmware-1.1.0.{chip}.bin"]
            self.assertEqual(await self.update(files, sketch_sha256=running[-32:].hex().upper()), expected)
            self.assertEqual(await self.update(files, sketch_sha256=expected[-32:].hex().upper()), 304)
            outcome = await self.update(
                files, leave_out=("sketch-sha256",), sketch_md5=hashlib.md5(running).hexdigest()
            )
            self.assertEqual(outcome, expected)

    async def test_signed_image_is_known(self) -> None:
        """The hash of a signed image is that before the signature."""
        old, new = (secure_boot_v2(esp32_image("esp32c3", seed=seed), private_key("rsa3072")) for seed in (1, 2))
        files = {"firmware-1.0.0.bin": old, "firmware-1.1.0.bin": new}
        for image, expected in ((old, new), (new, 304)):
            plain = esp32_image("esp32c3", seed=1 if image is old else 2)
            # espsecure fills the last sector up, and the hash stays where it was.
            self.assertEqual(await self.update(files, sketch_sha256=plain[-32:].hex().upper()), expected)

    async def test_never_compressed(self) -> None:
        """An ESP32 gets no gzip file, known or not, however little space it has."""
        image, old_image = esp32_image(embedded=bytes(20000)), esp32_image(seed=1)
        files = {
            "firmware-1.0.0.bin": old_image,
            "firmware-1.1.0.bin": image,
            "firmware-1.1.0.bin.gz": compress(image),
            "firmware-1.2.0.bin.gz": compress(image),
            "firmware-1.3.0.bin": compress(image),
        }
        known = old_image[-32:].hex().upper()
        self.assertEqual(await self.update(files, sketch_sha256=known), image)
        self.assertEqual(await self.update(files), image)
        self.assertEqual(await self.update(files, sketch_sha256=known, free_space=str(len(image))), image)
        self.assertEqual(await self.update(files, sketch_sha256=known, free_space=str(len(image) - 1)), 304)

    async def test_unfit(self) -> None:
        """What can't be an update isn't sent: the best that can is."""
        good = esp32_image(seed=1)
        for unfit in (
            bootloader(),
            merged_image(),
            partition_table(),
            ota_data(),
            esp8266_image(),
            damaged(esp32_image(seed=2), -1),
            damaged(esp32_image(seed=2), 400),
            esp32_image(seed=2)[:-1],
        ):
            files = {"firmware-1.1.0.bin": unfit, "firmware-1.0.0.bin": good}
            self.assertEqual(await self.update(files, version="0.9"), good)
            del files["firmware-1.0.0.bin"]
            self.assertIn(await self.update(files, version="0.9"), (304, 404))

    async def test_flash_size(self) -> None:
        """An image built for more flash than there is isn't sent."""
        image = esp32_image(flags=("--flash-size", "8MB"))
        files = {"firmware-1.1.0.bin": image}
        self.assertEqual(await self.update(files, chip_size=str(4 << 20)), 304)
        self.assertEqual(await self.update(files, chip_size=str(8 << 20)), image)


class SideCarTests(TestCase):
    """The checksums beside an image, which the newest core fetches first when a sketch names their addresses."""

    async def test_checksums(self) -> None:
        """Within the first 512 bytes stands a token of 32 or 64 hexadecimal digits: the hash of the image."""
        door = Door(self, {"firmware-1.1.0.bin": new()})
        await door.open()
        for name, expected in (("md5", hashlib.md5(new())), ("sha256", hashlib.sha256(new()))):
            for base in ("/firmware-1.1.0.bin", "/firmware.bin", "/firmware"):
                request = f"GET {base}.{name} HTTP/1.0\r\nHost: 127.0.0.1:{door.port}\r\n"
                request += "User-Agent: ESP32-http-Update\r\nConnection: close\r\n\r\n"
                head, _, body = (await door.ask(request.encode())).partition(b"\r\n\r\n")
                self.assertTrue(head.startswith(b"HTTP/1.0 200 "), head)
                digits = expected.digest_size * 2
                tokens = re.findall(rb"(?<![0-9A-Za-z])[0-9A-Fa-f]{%d}(?![0-9A-Za-z])" % digits, body[:512])
                self.assertEqual(tokens, [expected.hexdigest().encode()])


class FotaTests(TestCase):
    """The download of esp32FOTA, whose signature stands before the image."""

    async def test_signed_image(self) -> None:
        """The file is sent as it is: 512 bytes of signature, then the image that it signs."""
        signature = hashlib.shake_256(b"signature").digest(512)
        door = Door(self, {"esp32-fota-http-1.1.0.bin": signature + new()})
        await door.open()
        connection = await door.connect()
        connection.send(
            b"GET /esp32-fota-http-1.1.0.bin HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: ESP32HTTPClient\r\n"
            b"Connection: keep-alive\r\nAccept-Encoding: identity;q=1,chunked;q=0.1,*;q=0\r\n\r\n" % door.port
        )

        def size(data: bytes) -> int:
            found = re.search(rb"(?i)\r\nContent-Length:[ \t]*([0-9]+)\r\n", data.partition(b"\r\n\r\n")[0] + b"\r\n")
            self.assertIsNotNone(found)
            assert found is not None
            return int(found[1])

        def complete(data: bytes) -> bool:
            return b"\r\n\r\n" in data and len(data.partition(b"\r\n\r\n")[2]) >= size(data)

        data = await connection.until(complete)
        connection.close()
        head, _, body = data.partition(b"\r\n\r\n")
        self.assertEqual(head[9:12], b"200")
        self.assertNotIn(b"chunked", head.lower())
        self.assertEqual(size(data), 512 + len(new()))
        self.assertEqual((body[:512], body[512:513], body[512:]), (signature, b"\xe9", new()))


class ArduinoOtaTests(TestCase):
    """`Arduino_ESP32_OTA`, which speaks HTTP by hand and takes a container of its own."""

    GENERIC_ESP32 = 0x45535033

    async def test_container(self) -> None:
        """The head is found by its exact spelling, and the container's length and CRC are those of its bytes."""
        payload = struct.pack("<I8s", self.GENERIC_ESP32, b"\1") + zlib.compress(new())
        container = struct.pack("<II", len(payload), zlib.crc32(payload)) + payload
        door = Door(self, {"nano-1.1.0.bin": container})
        await door.open()
        answer = await door.ask(b"GET /nano.bin HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 200"), head)
        # The client takes the first place where these letters stand, in whatever header.
        length = int(head[head.index(b"Content-Length") + len(b"Content-Length: ") :].split(b"\r\n")[0])
        announced, checksum = struct.unpack("<II", body[:8])
        self.assertEqual(announced, length - 8)
        self.assertEqual(len(body), length)
        self.assertEqual(checksum, zlib.crc32(body[8:]))
