"""Every reason that an answer can have: what is asked, of which folder, and what comes back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

from ota_server.fleet.access import ALL_REFUSALS
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
from tests.web.memory import NOW, MemoryDoor

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


def device(number: int, version: str = "1.0.0") -> tuple[bytes, ...]:
    """Return the header fields of an ESP8266 of this number."""
    return (b"x-ESP8266-STA-MAC: 5C:CF:7F:00:00:%02X" % number, *esp8266(version=version))


POLICIES = (
    ("hold = true", device(1), 304, "held"),
    ("hold = true", device(1, "1.1.0"), 304, "up-to-date"),
    ('minimum = "1.0.1"', device(1), 304, "below-minimum"),
    ('minimum = "1.0.0"', (), 304, "version-unknown"),
    ('window = "00:00-00:01"', device(1), 304, "window-closed"),
    ('stages = ["1", "100%"]', (), 304, "stage-full"),
    ("hold = true", (*device(1), b"x-ESP8266-mode: version"), 304, "held"),
    ('window = "00:00-00:01"', (*device(1), b"x-ESP8266-mode: version"), 304, "window-closed"),
    ('[devices."5C:CF:7F:00:00:01"]\nchannel = "beta"', device(1), 200, "newer"),
    ('stepping-stones = ["1.0.5"]', device(1), 304, "stepping-stone"),
    ('[devices."5C:CF:7F:00:00:01"]\npin = "1.0.0"', device(1, "0.9"), 200, "pinned"),
    ('[devices."5C:CF:7F:00:00:01"]\npin = "1.0.0"', device(1, "1.1.0"), 304, "pinned"),
    ('[devices."5C:CF:7F:00:00:01"]\npin = "1.0.0"', device(1, "1.0.0"), 304, "up-to-date"),
    ('[devices."5C:CF:7F:00:00:01"]\npin = "1.0.0"\ndowngrade = true', device(1, "1.1.0"), 200, "pinned"),
    ('[devices."5C:CF:7F:00:00:01"]\npin = "1.0.0"', device(2, "0.9"), 200, "newer"),
    ('[devices."5C:CF:7F:00:00:01"]\nproject = "nothing"', device(1), 404, "unknown-project"),
)
"""Policies, what a device says, and its answer."""

REMEMBERED = {"halted": 304, "deciding": 304, "bounced": 304, "busy": 304, "rollback": 200}
"""The reasons that go by what devices did before, tested apart."""


class PolicyReasonTests(SynchronousTestCase):
    """The reasons of the policy, and of what devices did before, at a door that remembers."""

    def door(self, policy: str) -> MemoryDoor:
        """Return a door with this policy."""
        return MemoryDoor(self, {name: files()[name] for name in ("lamp-1.0.0.bin", "lamp-1.1.0.bin")}, policy=policy)

    def test_policies(self) -> None:
        """Each rule of the policy has its reason."""
        for policy, fields, code, reason in POLICIES:
            with self.subTest(f"{policy}: {fields}"):
                answer = self.door(policy).ask(b"/lamp", *fields)
                self.assertEqual((answer.code, answer.reason), (code, reason))

    def bounce(self, door: MemoryDoor, number: int) -> str | None:
        """Let a device download, and come back on the old version; return the reason then."""
        answer = door.ask(b"/lamp", *device(number))
        self.assertEqual((answer.code, answer.reason), (200, "newer"))
        door.hang_up()
        return door.ask(b"/lamp", *device(number)).reason

    def test_halted(self) -> None:
        """After two bounces the release is halted, once that is written; the plain address gives the one before."""
        door = self.door("")
        self.assertEqual(door.ask(b"/lamp.bin.version").body, b"1.1.0\n")
        self.assertEqual([self.bounce(door, number) for number in (1, 2)], ["newer", "deciding"])
        door.pass_time(1)
        for fields in (device(1), device(3), ()):
            answer = door.ask(b"/lamp", *fields)
            self.assertEqual((answer.code, answer.reason), (304, "halted"))
        self.assertEqual(door.ask(b"/lamp.bin.version").body, b"1.0.0\n")
        self.assertEqual(door.ask(b"/lamp-1.1.0.bin").code, 200)

    def test_broken_off(self) -> None:
        """A download that is under way when its release is halted is broken off; one of another release goes on."""
        large = {"lamp-1.0.0.bin": files()["lamp-1.0.0.bin"], "lamp-1.1.0.bin": esp8266_image(size=400_000)}
        door = MemoryDoor(self, {**large, "fan-1.1.0.bin": esp8266_image(size=400_000, seed=5)}, policy="")
        downloads = []
        for path in (b"/lamp", b"/fan"):
            connection = door.connect()
            connection.send(b"\r\n".join((b"GET %s HTTP/1.1" % path, b"Host: h", *device(len(path)), b"", b"")))
            self.assertTrue(connection.transport.paused)
            downloads.append(connection)
        keeper = door.keeper
        assert keeper is not None
        rollout = keeper.loaded.course.find(("stable", "lamp"), (1, 1, 0))
        assert rollout is not None
        keeper.loaded.course.halt(rollout, "operator:test", NOW)
        door.pass_time(1)
        self.assertEqual([connection.transport.aborted for connection in downloads], [True, False])

    def test_all_halted(self) -> None:
        """Where all that there is is halted, the plain address has nothing to give."""
        door = self.door("")
        (door.folder / "lamp-1.0.0.bin").unlink()
        door.read()
        self.bounce(door, 1)
        self.bounce(door, 2)
        door.pass_time(1)
        answer = door.ask(b"/lamp.bin")
        self.assertEqual((answer.code, answer.reason), (404, "halted"))
        self.assertLess(len(answer.body), 32)

    def test_rollback(self) -> None:
        """If the policy says so, a device on a halted release is led back."""
        door = self.door("rollback = true")
        self.bounce(door, 1)
        self.bounce(door, 2)
        door.pass_time(1)
        answer = door.ask(b"/lamp", *device(3, "1.1.0"))
        self.assertEqual((answer.code, answer.reason), (200, "rollback"))

    def test_bounced(self) -> None:
        """The loop brake."""
        door = self.door("halt = { failures = 100 }")
        reasons = [self.bounce(door, 1) for _ in range(3)]
        self.assertEqual(reasons, ["newer", "newer", "bounced"])

    def test_busy(self) -> None:
        """As many download as may."""
        door = MemoryDoor(self, {"lamp-1.1.0.bin": esp8266_image(size=400_000)}, policy="max-downloads = 1")
        connection = door.connect()
        head = b"\r\n".join((b"GET /lamp HTTP/1.1", b"Host: h", *device(1)))
        connection.send(head + b"\r\n\r\n")
        self.assertTrue(connection.transport.paused)
        other = door.connect()
        other.send(head.replace(b"00:01", b"00:02") + b"\r\n\r\n")
        answer = read_only_answer(other.received)
        self.assertEqual((answer.code, answer.reason), (304, "busy"))


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
        tested |= {reason for *_, reason in POLICIES} | REMEMBERED.keys()
        self.assertEqual(tested, REASONS.keys())

    def test_documentation(self) -> None:
        """The documentation tells the very status that a smart address answers with."""
        rows = re.findall(r"(?m)^\| `([a-z-]+)` \| ([0-9]{3}) \|", DOCUMENTATION.read_text())
        told = {reason: int(code) for reason, code in rows}
        self.assertGreater(len(told), 10)
        found = {row.reason: row.code for row in ROWS if b".bin" not in row.path}
        found |= {"starting": 503, "image-changed": 304} | REMEMBERED
        found |= {refusal.reason: refusal.code for refusal in ALL_REFUSALS}
        for *_, code, reason in POLICIES:
            found.setdefault(reason, code)
        self.assertEqual(told, {reason: found.get(reason) for reason in told})
