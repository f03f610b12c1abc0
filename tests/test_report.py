"""Tests of the lines of `ota-server inspect`."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.image import read_image
from ota_server.report import LINES, Report, make_report, render, spell_chip
from tests.images import (
    bootloader,
    compress,
    esp32_image,
    esp8266_image,
    esp8266_plain_image,
    esp8266_signed,
    esp8266_v2_image,
    mcuboot_image,
    merged_image,
    private_key,
    zoo,
)


def _report(name: str, data: bytes) -> Report:
    return make_report(name, read_image(data), None)


def _line(report: Report, label: str) -> str:
    return dict(report.lines())[label]


class ReportTests(SynchronousTestCase):
    """What is said of a file."""

    def test_offered(self) -> None:
        """A good image is offered, and it is said to whom."""
        report = _report("lamp-1.2.3.bin", esp32_image("esp32c3", "1.2.3", "lamp"))
        self.assertTrue(report.offered)
        self.assertEqual(_line(report, "offered"), "yes, at /lamp, to an ESP32-C3 that runs a version below 1.2.3")
        self.assertEqual(_line(report, "version"), "1.2.3 in the name, 1.2.3 inside")
        self.assertEqual(_line(report, "project"), "lamp in the name, lamp inside")
        self.assertEqual(_line(report, "signature"), "none")
        self.assertEqual(report.findings, ())

    def test_kinds(self) -> None:
        """Filesystems, compressed files and opaque ones go to others than sketches do."""
        cases = {
            ("lamp-1.0.fs.bin", b"files"): "yes, at /lamp, to devices that run a version below 1.0.0 and ask for files",
            ("lamp-1.0.bin", b"what"): "yes, at /lamp, to devices that run a version below 1.0.0",
            ("lamp-1.0.bin.gz", compress(esp8266_image())): (
                "yes, at /lamp, beside the plain file, to an ESP8266 that surely unpacks it"
            ),
        }
        for (name, data), said in cases.items():
            self.assertEqual(_line(_report(name, data), "offered"), said)

    def test_refused(self) -> None:
        """A file that would not be offered is told with the reason."""
        good = esp32_image()
        cases = {
            ("lamp.bin", good): "its name has no version",
            ("lamp-1.0.bin", good[:-1]): "it is damaged: it ends inside the SHA-256",
            (
                "lamp-1.0.bin",
                bootloader(),
            ): "it is no update: ESP32 boot loader, which is written to a new device by wire",
            ("lamp-1.0.bin", merged_image()): "it is no update: merged factory image",
            ("boot.bin", bootloader()): "it is no update: ESP32 boot loader",
            ("lamp-1.0.fs.bin", good): "its name says filesystem, and inside is a program",
        }
        for (name, data), reason in cases.items():
            report = _report(name, data)
            self.assertFalse(report.offered)
            self.assertTrue((report.reason or "").startswith(reason), report.reason)
            self.assertEqual(_line(report, "offered"), f"no: {report.reason}")

    def test_nobody_takes_it(self) -> None:
        """A file that no device would be sent is refused, though nothing is wrong with its bytes."""
        c3 = esp32_image("esp32c3")
        for name, data in (
            ("lamp-1.0.esp32.bin", c3),
            ("lamp-1.0.bin", compress(c3)),
            ("lamp-1.0.bin.gz", compress(c3)),
            ("lamp-1.0.bin.gz", mcuboot_image()),
            ("lamp-1.0.fs.bin.gz", compress(b"files")),
            ("lamp-1.0.bin.gz", esp8266_signed(compress(esp8266_image()), private_key("rsa2048"))),
        ):
            report = _report(name, data)
            self.assertFalse(report.offered, _line(report, "offered"))
            self.assertTrue(_line(report, "offered").startswith("no: "))

    def test_other_clients(self) -> None:
        """What the Arduino cores' updaters refuse is for others."""
        for data in (esp8266_v2_image(), esp8266_plain_image()):
            line = _line(_report("lamp-1.0.bin", data), "offered")
            self.assertEqual(
                line, "yes, at /lamp, to clients other than those of the Arduino cores, with a version below 1.0.0"
            )

    def test_name(self) -> None:
        """A name that holds control characters, or bytes that are no text, is escaped."""
        for name in ("red\x1b[31m-1.0.bin", "byte\udcff-1.0.bin"):
            first = render(_report(name, b"data")).splitlines()[0]
            self.assertTrue(first.isprintable() and first.isascii())

    def test_finding(self) -> None:
        """What is odd is told, and keeps nothing from being offered."""
        report = _report("lamp-1.5.0.bin", esp32_image("esp32", "1.4.2"))
        self.assertTrue(report.offered)
        self.assertIn("1.5.0 in its name and 1.4.2 inside", _line(report, "finding"))

    def test_empty(self) -> None:
        """Of a file that there is nothing to say of, only that is said."""
        report = make_report("lamp-1.0.bin", None, "the file is empty")
        self.assertEqual(list(report.lines()), [("offered", "no: the file is empty")])
        self.assertIsNone(report.as_json()["facts"])

    def test_esp8266(self) -> None:
        """An ESP8266 sketch is told with its four names, its CRC, and whether it unpacks."""
        lines = list(_report("lamp-1.0.bin", esp8266_image()).lines())
        at = [label for label, _ in lines].index("reported")
        self.assertEqual([value.split()[-1] for _, value in lines[at : at + 4]], ["(QIO)", "(QOUT)", "(DIO)", "(DOUT)"])
        self.assertEqual(dict(lines)["unpacks"], "no (core 2.6 or earlier)")
        self.assertTrue(dict(lines)["CRC"].endswith(", holds"))

    def test_signature(self) -> None:
        """A signature is told with its place; whose it is needs a key."""
        image = esp8266_signed(esp8266_image(), private_key("rsa2048"))
        line = _line(_report("lamp-1.0.bin", image), "signature")
        self.assertEqual(line, f"ESP8266 (signing.py), 260 bytes at byte {len(image) - 260:,}")

    def test_debugging_and_trailing(self) -> None:
        """Traces of debugging and bytes that nothing explains are told."""
        image = esp32_image(embedded=b"[D][%s:%u] %s(): ") + b"unknown"
        report = _report("lamp-1.0.bin", image)
        self.assertEqual(_line(report, "debugging"), "log level debug (CORE_DEBUG_LEVEL 4)")
        self.assertEqual(_line(report, "trailing"), "7 bytes")
        self.assertEqual({finding.word for finding in report.findings}, {"debug", "trailing-bytes"})

    def test_labels(self) -> None:
        """Every label of every image is explained, and no text breaks a line."""
        seen = set()
        for image in zoo().values():
            for label, value in _report("lamp-1.0.bin", image).lines():
                seen.add(label)
                self.assertTrue(value.isprintable(), value)
        self.assertEqual(seen - LINES.keys(), {""})

    def test_screen(self) -> None:
        """The report of an ordinary application fits a screen."""
        self.assertLess(len(render(_report("lamp-1.0.bin", esp32_image())).splitlines()), 25)

    def test_json(self) -> None:
        """Every image's report can be written as JSON, with the same keys at the top."""
        keys = {tuple(_report("lamp-1.0.bin", image).as_json()) for image in zoo().values()}
        self.assertEqual(len(keys), 1)
        for image in zoo().values():
            made = json.loads(json.dumps(_report("lamp-1.0.bin", image).as_json()))
            self.assertEqual(made["facts"]["size"], len(image))

    @settings(max_examples=200)
    @given(st.text(max_size=40), st.binary(min_size=1, max_size=400))
    def test_any_bytes(self, name: str, data: bytes) -> None:
        """Any bytes under any name can be shown."""
        report = _report(name, data)
        render(report)
        json.dumps(report.as_json())


class SpellingTests(SynchronousTestCase):
    """Names of chips."""

    def test_spelling(self) -> None:
        """Chips are spelled as their makers do."""
        spelled = {"esp32": "ESP32", "esp32c3": "ESP32-C3", "esp8266": "ESP8266", "rp2040": "RP2040"}
        self.assertEqual({chip: spell_chip(chip) for chip in spelled}, spelled)
