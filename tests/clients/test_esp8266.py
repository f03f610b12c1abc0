"""`ESP8266httpUpdate` of the Arduino core for ESP8266, and the firmwares that are built on it."""

from __future__ import annotations

import gzip
import hashlib
import random
from functools import lru_cache
from pathlib import Path
from typing import Any

import attrs
from twisted.trial.unittest import TestCase

from ota_server.firmware.digests import DigestStore
from ota_server.firmware.folder import Folder
from ota_server.firmware.packing import Packer
from tests.images import (
    compress,
    damaged,
    esp32_image,
    esp8266_bootloader,
    esp8266_image,
    esp8266_plain_image,
    esp8266_signed,
    esp8266_v2_image,
    esp8266_v3_image,
    merged_image,
    partition_table,
    private_key,
)
from tests.web.door import Door, until

OK, NO_UPDATES = 0, 304
NO_SPACE, NO_LENGTH, NOT_FOUND, FORBIDDEN, WRONG_CODE, WRONG_MD5, NO_MAGIC = -100, -101, -102, -103, -104, -105, -106
UNAUTHORIZED, NO_VERSION, ENCODING, CUT_SHORT, MD5_DIFFERS = -108, -109, -9, 6, 7

FREE_SPACE = 4194304


def make_request(port: int, path: str = "/firmware", *, leave_out: tuple[str, ...] = (), **fields: str) -> bytes:
    """Return a check of `ESP8266httpUpdate` 3.2, with other values for some of its headers."""
    values = {
        "Chip-ID": "15602487",
        "STA-MAC": "DE:BA:7A:B1:E0:42",
        "AP-MAC": "DE:BA:7A:B1:E0:42",
        "free-space": str(FREE_SPACE),
        "sketch-size": "400000",
        "sketch-md5": "a56f8ef78a0bebe649f62067daf1408a",
        "chip-size": "4194304",
        "sdk-version": "2.5.0",
        "mode": "sketch",
        "version": "1.0",
    }
    values.update({name.replace("_", "-"): value for name, value in fields.items()})
    lines = [
        f"GET {path} HTTP/1.0",
        f"Host: 127.0.0.1:{port}",
        "User-Agent: ESP8266-http-Update",
        "Connection: close",
        *(f"x-ESP8266-{name}: {value}" for name, value in values.items() if name not in leave_out),
        "Content-Length: 0",
    ]
    return "\r\n".join([*lines, "", ""]).encode("utf-8")


@attrs.frozen
class Outcome:
    """What `ESPhttpUpdate.update` returns: OK, NO_UPDATES or the number of an error, with the body or the version."""

    code: int
    data: bytes = b""


def judge(data: bytes, *, free_space: int = FREE_SPACE, mode: str = "sketch") -> Outcome:
    """Take what arrived until the end of the connection as `HTTPClient` and `ESP8266HTTPUpdate` do."""
    lines, _, body = data.partition(b"\r\n\r\n")
    status, *fields = lines.split(b"\r\n")
    if not status.startswith(b"HTTP/1."):
        return Outcome(WRONG_CODE)
    code = int(status[9:12])
    headers: dict[bytes, bytes] = {}
    for field in fields:
        name, _, value = field.partition(b":")
        key, value = name.lower(), value.strip()
        headers[key] = headers[key] + b"," + value if key in headers else value
    if headers.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
        return Outcome(ENCODING)
    size = int(headers.get(b"content-length", b"-1"))
    if mode == "version":
        if code != 200:
            return Outcome(WRONG_CODE)
        return Outcome(OK, headers[b"x-version"]) if b"x-version" in headers else Outcome(NO_VERSION)
    named = {304: NO_UPDATES, 401: UNAUTHORIZED, 403: FORBIDDEN, 404: NOT_FOUND}
    if code != 200:
        return Outcome(named.get(code, WRONG_CODE))
    if size <= 0:
        return Outcome(NO_LENGTH)
    md5 = headers.get(b"x-md5", b"")
    if md5 and len(md5) != 32:
        return Outcome(WRONG_MD5)
    if size > free_space:
        return Outcome(NO_SPACE)
    if mode == "sketch" and body[:1] not in (b"\xe9", b"\x1f"):
        return Outcome(NO_MAGIC)
    if len(body) < size:
        return Outcome(CUT_SHORT)
    body = body[:size]
    if md5 and md5.lower() != hashlib.md5(body).hexdigest().encode():
        return Outcome(MD5_DIFFERS)
    return Outcome(OK, body)


def old() -> bytes:
    """Return the image that runs in the device."""
    return esp8266_image(8192, seed=1)


def new() -> bytes:
    """Return the image that the device should get."""
    return esp8266_image(8192, seed=2)


class UpdateTests(TestCase):
    """`ESPhttpUpdate.update` at a smart address."""

    async def update(self, files: dict[str, bytes] | None = None, path: str = "/firmware", **fields: Any) -> Outcome:
        """Serve a folder and let a device ask there."""
        door = Door(self, {"firmware-1.0.0.bin": old(), "firmware-1.1.0.bin": new()} if files is None else files)
        await door.open()
        answer = await door.ask(make_request(door.port, path, **fields))
        return judge(answer, free_space=int(fields.get("free_space", FREE_SPACE)), mode=fields.get("mode", "sketch"))

    async def test_newer(self) -> None:
        """A device with an older version gets the newest image, byte for byte."""
        self.assertEqual(await self.update(version="1.0"), Outcome(OK, new()))

    async def test_same_version(self) -> None:
        """A device with the same version is told that there are no updates."""
        self.assertEqual(await self.update(version="1.1.0"), Outcome(NO_UPDATES))

    async def test_newer_than_the_newest(self) -> None:
        """A device with a higher version is never sent a lower one."""
        self.assertEqual(await self.update(version="1.10"), Outcome(NO_UPDATES))

    async def test_flash_mode_of_its_own(self) -> None:
        """A device is known by the MD5 of its flash, where its flash mode stands in the place of the file's."""
        for mode in range(4):
            flash = new()[:2] + bytes([mode]) + new()[3:]
            outcome = await self.update(sketch_md5=hashlib.md5(flash).hexdigest(), version="1.0")
            self.assertEqual(outcome, Outcome(NO_UPDATES))

    async def test_hash_of_old_image(self) -> None:
        """The hash of the old image overrules a version that was never counted up."""
        outcome = await self.update(sketch_md5=hashlib.md5(old()).hexdigest(), version="1.1.0")
        self.assertEqual(outcome, Outcome(OK, new()))

    async def test_no_space(self) -> None:
        """A device with too little space is told that there are no updates, and downloads nothing in vain."""
        self.assertEqual(await self.update(free_space=str(len(new()) - 1)), Outcome(NO_UPDATES))

    async def test_just_enough_space(self) -> None:
        """A device whose space is just enough gets the image: the updater needs whole sectors."""
        needed = -(-len(new()) // 4096) * 4096
        self.assertEqual(await self.update(free_space=str(needed)), Outcome(OK, new()))
        self.assertEqual(await self.update(free_space=str(needed - 1)), Outcome(NO_UPDATES))

    async def test_unknown_project(self) -> None:
        """A device that asks for an unknown project reports that by name."""
        self.assertEqual(await self.update(path="/nothing"), Outcome(NOT_FOUND))

    async def test_core_before_2_4(self) -> None:
        """Old cores send no chip id, and the first ones no MD5 either."""
        for left_out in (("Chip-ID",), ("Chip-ID", "sketch-md5")):
            self.assertEqual(await self.update(leave_out=left_out), Outcome(OK, new()))

    async def test_no_version(self) -> None:
        """A sketch that names no version gets the newest image as long as its hash is unknown, and then no more."""
        self.assertEqual(await self.update(leave_out=("version",)), Outcome(OK, new()))
        hashed = hashlib.md5(new()).hexdigest()
        self.assertEqual(await self.update(leave_out=("version",), sketch_md5=hashed), Outcome(NO_UPDATES))

    async def test_unreadable_version(self) -> None:
        """A version that is none is an error at the device, so that somebody notices."""
        self.assertEqual(await self.update(version="latest"), Outcome(WRONG_CODE))

    async def test_version_only(self) -> None:
        """`getAvailableVersion` reads the version from a header, and needs no body."""
        self.assertEqual(await self.update(mode="version"), Outcome(OK, b"1.1.0"))

    async def test_filesystem(self) -> None:
        """`updateFS` gets the filesystem image, which needs no magic byte, and never a sketch."""
        files = {"firmware-1.1.0.bin": new(), "firmware-1.1.0.fs.bin": b"\0filesystem" * 100}
        outcome = await self.update(files, mode="spiffs", version="1.0")
        self.assertEqual(outcome, Outcome(OK, b"\0filesystem" * 100))
        outcome = await self.update({"firmware-1.1.0.bin": new()}, mode="spiffs", version="1.0")
        self.assertEqual(outcome, Outcome(NO_UPDATES))

    async def test_image_of_another_chip(self) -> None:
        """Where a release has images for several chips, an ESP8266 gets its own."""
        files = {"firmware-1.1.0.esp8266.bin": new(), "firmware-1.1.0.esp32.bin": b"\xe9 of another chip"}
        self.assertEqual(await self.update(files), Outcome(OK, new()))

    async def test_channel(self) -> None:
        """A device of a channel gets that channel's newest image."""
        files = {"firmware-1.0.0.bin": old(), "beta/firmware-1.1.0.bin": new()}
        self.assertEqual(await self.update(files, path="/beta/firmware"), Outcome(OK, new()))
        self.assertEqual(await self.update(files, path="/firmware"), Outcome(NO_UPDATES))

    async def test_compressed_at_plain_address(self) -> None:
        """A compressed image is sent as it is, with the MD5 of what is sent."""
        packed = gzip.compress(new(), mtime=0)
        outcome = await self.update({"firmware-1.1.0.bin.gz": packed}, path="/firmware.bin.gz")
        self.assertEqual(outcome, Outcome(OK, packed))

    async def test_credentials_in_advance(self) -> None:
        """A device that sends credentials nobody asked for is served all the same."""
        door = Door(self, {"firmware-1.1.0.bin": new()})
        await door.open()
        request = make_request(door.port)
        request = request.replace(b"Connection: close", b"Authorization: Basic dTpw\r\nConnection: close")
        self.assertEqual(judge(await door.ask(request)), Outcome(OK, new()))

    async def test_auto_connect(self) -> None:
        """AutoConnect fetches the very file that was chosen, whatever version the device has."""
        files = {"firmware-1.0.0.bin": old(), "firmware-1.1.0.bin": new()}
        self.assertEqual(await self.update(files, path="/firmware-1.0.0.bin", version="9.9"), Outcome(OK, old()))

    async def test_homie(self) -> None:
        """Homie 1.5 reports device, firmware, and the versions it has and wants in one text."""
        for have, expected in (("1.0.0", Outcome(OK, new())), ("1.1.0", Outcome(NO_UPDATES))):
            plain = f"lamp-7=firmware={have}=1.1.0"
            arrow = f"lamp-7=firmware@{have}->[a56f8ef78a0bebe649f62067daf1408a]@1.1.0"
            for version in (plain, arrow):
                self.assertEqual(await self.update(version=version), expected)


BOOT = random.Random(7).randbytes(3100)
"""What makes a boot loader as long as those are that unpack."""


@lru_cache
def unpacking(seed: int, flash_mode: str = "dio") -> bytes:
    """Return an image of core 2.7 or later, which compresses well."""
    return esp8266_image(4096, seed, flash_mode, boot_embedded=BOOT, embedded=bytes(30000))


def in_flash(image: bytes, mode: int = 2) -> bytes:
    """Return an image as the updater writes it in a device of this flash mode."""
    return image[:2] + bytes([mode]) + image[3:]


def install(running: bytes, received: bytes) -> bytes:
    """Start anew after an update, with the image in flash that runs: return the one that is in flash then.

    The boot loader that came with the running image copies, and unpacks if it can; a device whose flash mode is not
    that of the image, or whose boot loader copies packed bytes, doesn't start any more: ValueError.
    """
    if received[:1] == b"\xe9":
        return in_flash(received, running[2])
    boot_loader = int.from_bytes(running[12:16], "little")
    if boot_loader < len(BOOT) or received[:1] != b"\x1f":
        raise ValueError("what was copied is no program")
    image = gzip.decompress(received)
    if image[2] != running[2]:
        raise ValueError("its flash mode is wrong")
    return image


class PackedTests(TestCase):
    """Compressed images: `Update` takes a first byte of 1F, and the boot loader unpacks at the next start."""

    async def update(self, files: dict[str, bytes], running: bytes, *, packs: bool = False, **fields: Any) -> Outcome:
        """Serve a folder and let a device ask there, in whose flash an image runs."""
        state = Path(self.mktemp()).absolute()
        state.mkdir()

        def make_folder(root: Path, digests: DigestStore) -> Folder:
            return Folder(root, digests, packer=Packer(state / "gzip") if packs else None)

        door = Door(self, files, folder=make_folder)
        await door.open()
        if packs:
            await until(lambda: door.watcher.catalog and door.watcher.catalog.image("stable", "firmware-1.1.0.bin.gz"))
        fields.setdefault("sketch_md5", hashlib.md5(running).hexdigest())
        answer = await door.ask(make_request(door.port, **fields))
        return judge(answer, free_space=int(fields.get("free_space", FREE_SPACE)), mode=fields.get("mode", "sketch"))

    def files(self, old: bytes, new: bytes, packed: bytes | None = None) -> dict[str, bytes]:
        """Return a folder with the running image, and a newer one with its gzip file."""
        packed = compress(new) if packed is None else packed
        return {"firmware-1.0.0.bin": old, "firmware-1.1.0.bin": new, "firmware-1.1.0.bin.gz": packed}

    async def test_packed(self) -> None:
        """A device that surely unpacks it gets the gzip file, with the MD5 of just that, and is up to date after."""
        old, new = unpacking(1), unpacking(2)
        files = self.files(old, new)
        outcome = await self.update(files, in_flash(old))
        self.assertEqual(outcome, Outcome(OK, compress(new)))
        flash = install(in_flash(old), outcome.data)
        self.assertEqual(flash, new)
        for version in ("1.0", "1.1.0"):
            self.assertEqual(await self.update(files, flash, version=version), Outcome(NO_UPDATES))

    async def test_packed_by_the_server(self) -> None:
        """What the server compressed itself is sent as well as what stands in the folder."""
        old, new = unpacking(1), unpacking(2)
        files = {"firmware-1.0.0.bin": old, "firmware-1.1.0.bin": new}
        outcome = await self.update(files, in_flash(old), packs=True)
        self.assertEqual((outcome.code, outcome.data[:2]), (OK, b"\x1f\x8b"))
        self.assertEqual(install(in_flash(old), outcome.data), new)
        outcome = await self.update(files, in_flash(old, 3), packs=True)
        self.assertEqual(outcome, Outcome(OK, new))

    async def test_one_condition_less(self) -> None:
        """Where it isn't sure that the device unpacks it, it gets the plain image, and starts with that."""
        old, new, key = unpacking(1), unpacking(2), private_key("rsa2048")
        incompressible = esp8266_image(65536, 2, boot_embedded=BOOT)
        room = str(-(-len(incompressible) // 4096) * 4096)
        cases: tuple[tuple[str, dict[str, bytes], bytes, dict[str, Any]], ...] = (
            ("another flash mode", self.files(old, new), in_flash(old, 3), {}),
            ("an image of another flash mode", self.files(old, unpacking(2, "dout")), in_flash(old), {}),
            ("an unknown image", self.files(old, new), in_flash(unpacking(3)), {}),
            ("no MD5", self.files(old, new), in_flash(old), {"leave_out": ("sketch-md5",)}),
            ("no free space", self.files(old, new), in_flash(old), {"leave_out": ("free-space",)}),
            ("not room for both", self.files(old, incompressible), in_flash(old), {"free_space": room}),
            ("an old boot loader", self.files(esp8266_image(seed=1), new), in_flash(esp8266_image(seed=1)), {}),
            ("a signed gzip file", self.files(old, new, esp8266_signed(compress(new), key)), in_flash(old), {}),
            ("bytes behind it", self.files(old, new, compress(new) + bytes(99)), in_flash(old), {}),
            ("another image in it", self.files(old, new, compress(unpacking(3))), in_flash(old), {}),
            ("all signed", self.files(old, esp8266_signed(new, key)), in_flash(old), {}),
        )
        for why, files, running, fields in cases:
            with self.subTest(why):
                outcome = await self.update(files, running, **fields)
                self.assertEqual((why, outcome.code), (why, OK))
                self.assertEqual(outcome.data, files["firmware-1.1.0.bin"])
                install(running, outcome.data)

    async def test_room_for_packed_only(self) -> None:
        """A device without room for the plain image gets the packed one, if both fit that it becomes."""
        old, new = esp8266_image(65536, 1, boot_embedded=BOOT), unpacking(2)
        files = self.files(old, new)
        space = str(-(-len(compress(new)) // 4096) * 4096)
        self.assertLess(int(space), len(new))
        self.assertEqual(await self.update(files, in_flash(old), free_space=space), Outcome(OK, compress(new)))
        del files["firmware-1.1.0.bin.gz"]
        self.assertEqual(await self.update(files, in_flash(old), free_space=space), Outcome(NO_UPDATES))

    async def test_packed_alone(self) -> None:
        """A gzip file without its plain one is not offered at the smart address: who doesn't unpack has nothing."""
        old = unpacking(1)
        files = {"firmware-1.0.0.bin": old, "firmware-1.1.0.bin.gz": compress(unpacking(2))}
        self.assertEqual(await self.update(files, in_flash(old)), Outcome(NO_UPDATES))

    async def test_filesystem(self) -> None:
        """A filesystem is never sent compressed, since nothing unpacks it."""
        old, data = unpacking(1), b"\0\0\0\0\0\0\0\0littlefs" * 1000
        files = {"firmware-1.1.0.fs.bin": data, "firmware-1.1.0.fs.bin.gz": compress(data), **self.files(old, old)}
        outcome = await self.update(files, in_flash(old), mode="spiffs", version="1.0")
        self.assertEqual(outcome, Outcome(OK, data))
        packed = {"firmware-1.1.0.fs.bin": compress(data), "firmware-1.0.0.bin": old}
        outcome = await self.update(packed, in_flash(old), mode="spiffs", version="1.0")
        self.assertEqual(outcome, Outcome(NO_UPDATES))


class UnfitTests(TestCase):
    """Images that would be downloaded in vain, or leave a device that doesn't start."""

    async def test_unfit(self) -> None:
        """None of them is sent, neither alone nor above a good one, which is sent instead."""
        good = esp8266_image(8192, seed=1)
        for unfit in (
            esp32_image(),
            esp8266_bootloader(),
            esp8266_v2_image(),
            esp8266_plain_image(8192),
            esp8266_v3_image(),
            esp8266_image(flash_size="8MB"),
            merged_image(),
            partition_table(),
            damaged(esp8266_image(8192, seed=2), 5000),
            esp8266_image(8192, seed=2)[:-100],
        ):
            door = Door(self, {"lamp-1.0.0.bin": unfit, "fan-1.1.0.bin": unfit, "fan-1.0.0.bin": good})
            await door.open()
            outcome = judge(await door.ask(make_request(door.port, "/lamp", version="0.9")))
            self.assertIn(outcome, (Outcome(NO_UPDATES), Outcome(NOT_FOUND)))
            outcome = judge(await door.ask(make_request(door.port, "/fan", version="0.9")))
            self.assertIn(outcome, (Outcome(NO_UPDATES), Outcome(OK, good)))

    async def test_several_chips(self) -> None:
        """Of a release for several chips, whose files are told apart by their bytes only, an ESP8266 gets its own."""
        files = {
            "lamp-1.0.0.bin": esp8266_image(8192, seed=1),
            "lamp-1.1.0.esp32.bin": esp32_image("esp32", "1.1.0"),
            "lamp-1.1.0.bin": esp8266_image(8192, seed=2),
            "lamp-1.2.0.bin": esp32_image("esp32", "1.2.0"),
        }
        door = Door(self, files)
        await door.open()
        for path in ("/lamp", "/lamp?chip=esp8266", "/lamp?chip=esp32"):
            outcome = judge(await door.ask(make_request(door.port, path)))
            self.assertEqual(outcome, Outcome(OK, files["lamp-1.1.0.bin"]))


class TasmotaTests(TestCase):
    """Tasmota on an ESP8266, whose version names its build in brackets."""

    async def update(self, path: str, version: str, free_space: int = FREE_SPACE) -> Outcome:
        """Serve the usual builds and let a device ask there."""
        files = {
            "tasmota-14.3.0.bin": esp8266_image(16384, seed=3),
            "tasmota-14.3.0.bin.gz": gzip.compress(esp8266_image(16384, seed=3), mtime=0),
            "tasmota-minimal-14.3.0.bin": esp8266_image(4096, seed=4),
            "tasmota-minimal-14.3.0.bin.gz": gzip.compress(esp8266_image(4096, seed=4), mtime=0),
        }
        door = Door(self, files)
        await door.open()
        request = make_request(door.port, path, version=version, free_space=str(free_space))
        return judge(await door.ask(request), free_space=free_space)

    @staticmethod
    def retry(path: str, word: str = "minimal") -> str:
        """Rewrite the last segment of a path as Tasmota does after a lack of space."""
        folder, _, name = path.rpartition("/")
        stem, dot, extension = name.partition(".")
        stem = stem.rpartition("-")[0] or stem
        return f"{folder}/{stem}-{word}{dot}{extension}"

    async def test_version_with_name(self) -> None:
        """The version with its name in brackets is read, and compared as a version."""
        full = esp8266_image(16384, seed=3)
        self.assertEqual(await self.update("/tasmota", "14.2.0(tasmota)"), Outcome(OK, full))
        self.assertEqual(await self.update("/tasmota", "14.3.0(tasmota)"), Outcome(NO_UPDATES))

    async def test_minimal_comes_back(self) -> None:
        """A device on the small build gets the full one at the very same version."""
        full = esp8266_image(16384, seed=3)
        self.assertEqual(await self.update("/tasmota", "14.3.0(minimal)"), Outcome(OK, full))

    async def test_minimal_after_lack_of_space(self) -> None:
        """After a lack of space the device rewrites the plain address, and gets the small build there."""
        path = "/tasmota.bin"
        small = len(esp8266_image(4096, seed=4))
        self.assertEqual(await self.update(path, "14.2.0(tasmota)", small), Outcome(NO_SPACE))
        self.assertEqual(self.retry(path), "/tasmota-minimal.bin")
        outcome = await self.update(self.retry(path), "14.2.0(tasmota)", small)
        self.assertEqual(outcome, Outcome(OK, esp8266_image(4096, seed=4)))

    async def test_compressed(self) -> None:
        """After half of its attempts the device appends `.gz`, and the retry keeps the whole extension."""
        path = "/tasmota.bin.gz"
        packed = gzip.compress(esp8266_image(16384, seed=3), mtime=0)
        self.assertEqual(await self.update(path, "14.2.0(tasmota)"), Outcome(OK, packed))
        self.assertEqual(self.retry(path), "/tasmota-minimal.bin.gz")
        packed = gzip.compress(esp8266_image(4096, seed=4), mtime=0)
        self.assertEqual(await self.update(self.retry(path), "14.2.0(tasmota)"), Outcome(OK, packed))

    async def test_upgrade_by_hand(self) -> None:
        """A person who types `upgrade 1` gets the file of a plain address at the same version, too."""
        self.assertEqual(
            await self.update("/tasmota.bin", "14.3.0(tasmota)"), Outcome(OK, esp8266_image(16384, seed=3))
        )
