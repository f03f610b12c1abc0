"""Every reason that an answer can have: what is asked, of which folder, and what comes back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

from ota_server.fleet.decide import REASONS
from ota_server.web.tree import PATIENCE
from tests.images import (
    bootloader,
    compress,
    damaged,
    esp32_image,
    esp8266_bootloader,
    esp8266_image,
    esp8266_v2_image,
    merged_image,
    partition_table,
)
from tests.web.answers import read_only_answer
from tests.web.memory import MemoryDoor

DOCUMENTATION = Path(__file__).absolute().parent.parent.parent / "docs" / "http.md"

ESP8266 = b"x-ESP8266-mode: sketch"
ESP32 = b"x-ESP32-mode: sketch"


@lru_cache
def files() -> Mapping[str, bytes]:
    """Return the files of the folder: made once, by the vendors' programs."""
    return {
        "lamp-1.0.0.bin": esp8266_image(seed=1),
        "lamp-1.1.0.bin": esp8266_image(seed=2),
        "large-1.0.0.bin": esp8266_image(flash_size="4MB"),
        "plug-1.0.0.bin": esp32_image("esp32"),
        "plug-2.0.0.bin": esp32_image("esp32c3"),
        "fan-1.0.0.esp32.bin": esp32_image("esp32", seed=1),
        "fan-1.0.0.esp32c3.bin": esp32_image("esp32c3", seed=1),
        "big-1.0.0.bin": esp32_image(flags=("--flash-size", "8MB")),
        "factory-1.0.0.bin": merged_image(),
        "boot-1.0.0.bin": bootloader(),
        "eboot-1.0.0.bin": esp8266_bootloader(),
        "table-1.0.0.bin": partition_table(),
        "second-1.0.0.bin": esp8266_v2_image(),
        "swapped-1.0.0.fs.bin": esp32_image(seed=2),
        "data-1.0.0.bin": b"\0\0\0\0\0\0\0\0littlefs" * 10,
        "data-1.0.0.fs.bin": b"\0\0\0\0\0\0\0\0littlefs" * 10,
        "packed-1.0.0.bin.gz": compress(esp8266_image(seed=3)),
        "odd-1.0.0.bin": compress(b"no program" * 100),
        "broken-1.0.0.bin": damaged(esp32_image(seed=3), -1),
    }


@attrs.frozen
class Row:
    """A request, and its answer."""

    reason: str
    code: int
    path: bytes
    fields: tuple[bytes, ...] = ()


def told(prefix: bytes, **values: object) -> tuple[bytes, ...]:
    """Return header fields with a prefix, as in `x-ESP32-`."""
    return tuple(b"%s%s: %s" % (prefix, n.replace("_", "-").encode(), str(v).encode()) for n, v in values.items())


def esp8266(**values: object) -> tuple[bytes, ...]:
    """Return the header fields of an ESP8266."""
    return (ESP8266, *told(b"x-ESP8266-", **values))


def esp32(**values: object) -> tuple[bytes, ...]:
    """Return the header fields of an ESP32."""
    return (ESP32, *told(b"x-ESP32-", **values))


UNKNOWN_MD5, UNKNOWN_SHA256 = "0" * 32, "0" * 64

ROWS = (
    Row("newer", 200, b"/lamp", esp8266(version="1.0.0")),
    Row("newer", 200, b"/lamp?chip=ESP8266", (b"User-Agent: person", *esp8266(version="1.0.0"))),
    Row("newer", 200, b"/plug?chip=esp32", esp32(version="0.9")),
    Row("newer", 200, b"/fan?chip=ESP32-C3", esp32(version="0.9")),
    Row("newer", 200, b"/lamp", esp8266(version="1.0.0", chip_size=1 << 20)),
    Row("newer", 200, b"/lamp", esp8266(version="1.0.0", sketch_md5=UNKNOWN_MD5)),
    Row("newer", 200, b"/data", (b"x-ESP8266-mode: spiffs", b"x-ESP8266-version: 0.1")),
    Row("no-version", 200, b"/lamp"),
    Row("no-version", 200, b"/lamp", esp8266(sketch_md5=UNKNOWN_MD5)),
    Row("no-version", 200, b"/fan?chip=esp32"),
    Row("other-build", 200, b"/lamp", esp8266(version="1.1.0(minimal)")),
    Row("version-asked", 200, b"/lamp", (b"x-ESP8266-mode: version",)),
    Row("up-to-date", 304, b"/lamp", esp8266(version="1.1.0")),
    Row("up-to-date", 304, b"/lamp", esp8266(version="9.9")),
    Row("up-to-date", 304, b"/lamp?chip=esp8266", esp8266(version="1.1.0", free_space=1)),
    Row("unknown-build", 304, b"/lamp", esp8266(version="1.1.0", sketch_md5=UNKNOWN_MD5)),
    Row("unknown-build", 304, b"/plug?chip=esp32c3", esp32(version="2.0.0", sketch_sha256=UNKNOWN_SHA256)),
    Row("no-space", 304, b"/lamp", esp8266(version="1.0.0", free_space=4096)),
    Row("no-space", 304, b"/plug", esp32(version="1.0.0", free_space=100)),
    Row("flash-size", 304, b"/large", esp8266(version="0.9", chip_size=1 << 20)),
    Row("flash-size", 304, b"/big", esp32(version="0.9", chip_size=4 << 20)),
    Row("wrong-chip", 304, b"/lamp", esp32(version="1.0.0")),
    Row("wrong-chip", 304, b"/plug", esp8266(version="0.1")),
    Row("wrong-chip", 304, b"/plug?chip=esp32", esp32(version="1.0.0")),
    Row("wrong-chip", 304, b"/fan?chip=esp32s3", esp32(version="0.1")),
    Row("wrong-chip", 304, b"/fan?chip=esp8266"),
    Row("wrong-chip", 304, b"/lamp", (b"x-Pico-version: 0.1",)),
    Row("unknown-chip", 304, b"/fan", esp32(version="0.1")),
    Row("unknown-chip", 304, b"/fan"),
    Row("not-for-ota", 304, b"/factory", esp32(version="0.1")),
    Row("not-for-ota", 304, b"/factory"),
    Row("not-for-ota", 304, b"/boot", esp32(version="0.1")),
    Row("not-for-ota", 304, b"/eboot", esp8266(version="0.1")),
    Row("not-for-ota", 304, b"/table", esp32(version="0.1")),
    Row("not-for-ota", 304, b"/second", esp8266(version="0.1")),
    Row("not-for-ota", 304, b"/swapped", (b"x-ESP32-mode: spiffs", b"x-ESP32-version: 0.1")),
    Row("not-for-ota", 304, b"/data", esp8266(version="0.1")),
    Row("not-for-ota", 304, b"/odd", esp8266(version="0.1")),
    Row("not-for-ota", 304, b"/odd", esp32(version="0.1")),
    Row("no-image", 304, b"/packed", esp8266(version="0.1")),
    Row("no-image", 304, b"/swapped", esp32(version="0.1")),
    Row("no-image", 304, b"/lamp", (b"x-ESP8266-mode: spiffs", b"x-ESP8266-version: 0.1")),
    Row("unknown-mode", 304, b"/lamp", (b"x-ESP8266-mode: bootloader",)),
    Row("unreadable-chip", 400, b"/lamp?chip=lamp", esp32(version="1.0.0")),
    Row("unreadable-chip", 400, b"/lamp?chip=esp%ff"),
    Row("unreadable-version", 400, b"/lamp", esp8266(version="latest")),
    Row("unknown-project", 404, b"/nothing", esp8266(version="1.0.0")),
    Row("unknown-project", 404, b"/broken", esp32(version="0.1")),
    # At plain addresses.
    Row("wrong-chip", 404, b"/plug.bin?chip=esp32s3"),
    Row("wrong-chip", 404, b"/plug-1.0.0.bin.md5?chip=esp32c3"),
    Row("unknown-chip", 404, b"/fan.bin"),
    Row("unknown-project", 404, b"/broken-1.0.0.bin"),
)


class ReasonTests(SynchronousTestCase):
    """Real images at a real site."""

    def test_requests(self) -> None:
        """Each request gets the status and the reason of the table, and no more of a body than that allows."""
        door = MemoryDoor(self, files())
        for row in ROWS:
            answer = door.ask(row.path, *row.fields)
            with self.subTest(row):
                self.assertEqual((row, answer.code, answer.reason), (row, row.code, row.reason))
                if answer.code == 304:
                    self.assertEqual(answer.body, b"")
                elif answer.code >= 400:
                    self.assertRegex(answer.body, rb"\A[ -~]{1,100}\n\Z")
                    self.assertNotIn(answer.body[:1], (b"\xe9", b"\x1f"))

    def test_starting(self) -> None:
        """Before the folder is read it is 503."""
        door = MemoryDoor(self, {}, read=False)
        connection = door.connect()
        connection.send(b"GET /lamp HTTP/1.1\r\nHost: h\r\n\r\n")
        door.clock.advance(PATIENCE + 1)
        answer = read_only_answer(connection.received)
        self.assertEqual((answer.code, answer.reason), (503, "starting"))

    def test_image_changed(self) -> None:
        """A file that has changed since it was read isn't sent: 304 at a smart address."""
        door = MemoryDoor(self, {"lamp-1.0.0.bin": b"\0 as it was"})
        (door.folder / "lamp-1.0.0.bin").write_bytes(b"\0 as it is")
        answer = door.ask(b"/lamp", *esp8266(version="0.1"))
        self.assertEqual((answer.code, answer.reason), (304, "image-changed"))

    def test_table_is_whole(self) -> None:
        """No reason is left out."""
        tested = {row.reason for row in ROWS} | {"starting", "image-changed"}
        self.assertEqual(tested, REASONS.keys())

    def test_documentation(self) -> None:
        """The documentation tells the very status that a smart address answers with."""
        rows = re.findall(r"(?m)^\| `([a-z-]+)` \| ([0-9]{3}) \|", DOCUMENTATION.read_text())
        told = {reason: int(code) for reason, code in rows}
        self.assertGreater(len(told), 10)
        found = {row.reason: row.code for row in ROWS if b".bin" not in row.path}
        found |= {"starting": 503, "image-changed": 304}
        self.assertEqual(told, {reason: found.get(reason) for reason in told})
