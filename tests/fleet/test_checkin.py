"""Tests of reading what requests say of their devices."""

from __future__ import annotations

import attrs
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from ota_server.fleet.checkin import DIALECTS, CheckIn, Mode, read_check_in, read_chip

_MD5 = "a56f8ef7" * 4
_SHA256 = "0123456789abcdef" * 4

# What the genuine clients send, with values made up.
_ESP8266 = f"""
Host: 127.0.0.1:18095
User-Agent: ESP8266-http-Update
Connection: close
x-ESP8266-Chip-ID: 15602487
x-ESP8266-STA-MAC: DE:BA:7A:B1:E0:42
x-ESP8266-AP-MAC: DE:BA:7A:B1:E0:43
x-ESP8266-free-space: 4194304
x-ESP8266-sketch-size: 400000
x-ESP8266-sketch-md5: {_MD5}
x-ESP8266-chip-size: 8388608
x-ESP8266-sdk-version: 2.5.0
x-ESP8266-mode: sketch
x-ESP8266-version: 1.0
Content-Length: 0
"""
_ESP32 = f"""
Host: 127.0.0.1:18095
User-Agent: ESP32-http-Update
Connection: close
Cache-Control: no-cache
x-ESP32-STA-MAC: 24:0A:C4:00:11:22
x-ESP32-AP-MAC: 24:0A:C4:00:11:23
x-ESP32-free-space: 1310720
x-ESP32-sketch-size: 934880
x-ESP32-sketch-md5: {_MD5}
x-ESP32-sketch-sha256: {_SHA256.upper()}
x-ESP32-chip-size: 4194304
x-ESP32-sdk-version: v4.4.8
x-ESP32-mode: sketch
x-ESP32-version: 1.2.3
"""
_PICO = """
User-Agent: Pico-HTTP-Update
Connection: close
x-Pico-Chip-ID: 15602487
x-Pico-STA-MAC: 28:CD:C1:00:11:22
x-Pico-AP-MAC: 28:CD:C1:00:11:23
x-Pico-Mode: sketch
x-Pico-Version: 1.0
"""
_PICO_EARLY = """
User-Agent: -http-Update
Connection: close
x--Chip-ID: 15602487
x--STA-MAC: 28:CD:C1:00:11:22
x--AP-MAC: 28:CD:C1:00:11:23
x--mode: sketch
x--version: 1.0
"""


def _check_in(*lines: str) -> CheckIn:
    """Read a check-in from header lines, with names spelled as twisted.web hands them over."""
    headers = Headers()
    for line in filter(None, "\n".join(lines).splitlines()):
        name, _, value = line.partition(":")
        headers.addRawHeader(name.encode(), value.strip().encode())
    return read_check_in("stable", "lamp", dict(headers.getAllRawHeaders()))


class DialectTests(SynchronousTestCase):
    """What each update client sends is understood."""

    def test_esp8266(self) -> None:
        """The request of ESP8266httpUpdate is read."""
        self.assertEqual(
            _check_in(_ESP8266),
            CheckIn(
                "stable",
                "lamp",
                "esp8266",
                "esp8266",
                "DE:BA:7A:B1:E0:42",
                "1.0",
                free_space=4194304,
                sketch_size=400000,
                chip_size=8388608,
                sketch_md5=_MD5,
            ),
        )

    def test_esp8266_of_old_cores(self) -> None:
        """Old cores, which leave out the chip id and the MD5, are read as well as the rest of what they say."""
        old = "\n".join(line for line in _ESP8266.splitlines() if "Chip-ID" not in line and "md5" not in line)
        self.assertEqual(
            _check_in(old),
            attrs.evolve(_check_in(_ESP8266), sketch_md5=None),
        )

    def test_esp32(self) -> None:
        """The request of arduino-esp32's HTTPUpdate is read: hashes in lower case, and nothing says which chip."""
        self.assertEqual(
            _check_in(_ESP32),
            CheckIn(
                "stable",
                "lamp",
                "esp32",
                None,
                "24:0A:C4:00:11:22",
                "1.2.3",
                free_space=1310720,
                sketch_size=934880,
                chip_size=4194304,
                sketch_md5=_MD5,
                sketch_sha256=_SHA256,
            ),
        )

    def test_pico(self) -> None:
        """The request of arduino-pico's HTTPUpdate is read."""
        self.assertEqual(
            _check_in(_PICO), CheckIn("stable", "lamp", "pico", None, "28:CD:C1:00:11:22", "1.0", Mode.SKETCH)
        )

    def test_early_pico(self) -> None:
        """The mangled headers of arduino-pico's first releases are read as the later ones."""
        self.assertEqual(
            _check_in(_PICO_EARLY),
            CheckIn("stable", "lamp", "pico-early", None, "28:CD:C1:00:11:22", "1.0", Mode.SKETCH),
        )

    def test_no_dialect(self) -> None:
        """A request without any such header, as people and esp_https_ota send it, says nothing of its device."""
        for lines in (
            "",
            "User-Agent: curl/8.5.0\nAccept: */*",
            "User-Agent: ESP32 HTTP Client/1.0\nHost: example.org",
            "X-MGOS-Device-ID: esp8266_ABCDEF ECFABCABCDEF",
            "X-ESP8266: 1\nX-Version: 1.0\nX-Mode: sketch",
        ):
            with self.subTest(lines):
                self.assertEqual(_check_in(lines), CheckIn("stable", "lamp"))

    def test_one_header_is_enough(self) -> None:
        """Any one of version, mode and MAC tells the dialect, whichever it is; nothing else is demanded."""
        for prefix, name, chip in (
            ("x-ESP8266-", "esp8266", "esp8266"),
            ("x-ESP32-", "esp32", None),
            ("x-Pico-", "pico", None),
            ("x--", "pico-early", None),
        ):
            with self.subTest(prefix):
                expected = CheckIn("stable", "lamp", name, chip)
                self.assertEqual(_check_in(f"{prefix}mode: sketch"), expected)
                self.assertEqual(_check_in(f"{prefix}version: 1").version, "1")
                self.assertEqual(_check_in(f"{prefix}STA-MAC: 28:CD:C1:00:11:22").device, "28:CD:C1:00:11:22")

    def test_names_in_any_case(self) -> None:
        """The case of header names doesn't matter."""
        for turned in (_ESP8266.lower(), _ESP8266.upper().replace("SKETCH\n", "sketch\n")):
            self.assertEqual(_check_in(turned), _check_in(_ESP8266))

    def test_dialects_do_not_mix(self) -> None:
        """Of headers of several dialects one dialect is read, and nothing of the others gets into it."""
        check_in = _check_in(
            _ESP8266, "x-ESP32-version: 9.9", f"x-ESP32-sketch-sha256: {_SHA256}", "x-Pico-mode: version"
        )
        self.assertEqual(check_in, _check_in(_ESP8266))

    def test_channel_and_project(self) -> None:
        """Channel and project are those of the address, also for a request that says nothing."""
        for headers in ({}, {b"X-Esp8266-Version": [b"1.0"]}):
            check_in = read_check_in("beta", "my-lamp", headers)
            self.assertEqual((check_in.channel, check_in.project), ("beta", "my-lamp"))


class ValueTests(SynchronousTestCase):
    """How each value is read, and what becomes of nonsense."""

    def _one(self, *lines: str) -> CheckIn:
        return _check_in("x-ESP8266-mode: sketch", *(f"x-ESP8266-{line}" for line in lines))

    def test_mode(self) -> None:
        """Each mode that clients have is known, in any case; none is a sketch, and another one is unknown."""
        for text, expected in (
            ("sketch", Mode.SKETCH),
            ("spiffs", Mode.FILESYSTEM),
            ("littlefs", Mode.FILESYSTEM),
            ("fs", Mode.FILESYSTEM),
            ("version", Mode.VERSION),
            ("SKETCH", Mode.SKETCH),
            ("Spiffs", Mode.FILESYSTEM),
            ("bootloader", Mode.UNKNOWN),
            ("sketch2", Mode.UNKNOWN),
            ("", Mode.UNKNOWN),
            ("é", Mode.UNKNOWN),
        ):
            with self.subTest(text):
                self.assertIs(_check_in(f"x-ESP8266-mode: {text}").mode, expected)
        self.assertIs(_check_in("x-ESP8266-version: 1.0").mode, Mode.SKETCH)

    def test_version(self) -> None:
        """The version is handed on as text, whatever it is; an empty one is none."""
        for text in ("1.0", "v1.2.3", "14.2.0(tasmota)", "dev=fw=1.0=1.1", "no version", "x" * 1000, "é"):
            with self.subTest(text):
                self.assertEqual(self._one(f"version: {text}").version, text)
        self.assertIsNone(self._one("version:").version)
        self.assertIsNone(self._one().version)

    def test_version_that_is_no_text(self) -> None:
        """A version that isn't UTF-8 is handed on with signs in place of what can't be read."""
        check_in = read_check_in("stable", "lamp", {b"X-Esp8266-Version": [b"1.0\xff"]})
        self.assertEqual(check_in.version, "1.0\N{REPLACEMENT CHARACTER}")

    def test_device(self) -> None:
        """A device is its MAC address in upper case, or else its chip id, and None where both are nonsense."""
        for lines, expected in (
            (("STA-MAC: DE:BA:7A:B1:E0:42", "Chip-ID: 15602487"), "DE:BA:7A:B1:E0:42"),
            (("STA-MAC: de:ba:7a:b1:e0:42",), "DE:BA:7A:B1:E0:42"),
            (("Chip-ID: 15602487",), "15602487"),
            (("STA-MAC: unknown", "Chip-ID: 15602487"), "15602487"),
            (("STA-MAC:", "Chip-ID: 15602487"), "15602487"),
            (("AP-MAC: DE:BA:7A:B1:E0:42",), None),
            (("STA-MAC: DE:BA:7A:B1:E0",), None),
            (("STA-MAC: DE:BA:7A:B1:E0:42:00",), None),
            (("STA-MAC: DE-BA-7A-B1-E0-42",), None),
            (("STA-MAC: DE:BA:7A:B1:E0:4G",), None),
            (("STA-MAC: DE:BA:7A:B1:E0:42\\n",), None),
            (("Chip-ID: 0x1234",), None),
            (("Chip-ID: -1",), None),
            (("Chip-ID: 1234567890123456",), None),
            ((), None),
        ):
            with self.subTest(lines):
                self.assertEqual(self._one(*lines).device, expected)

    def test_sizes(self) -> None:
        """The sizes are numbers of bytes, or None where they are no such number."""
        for text, expected in (
            ("0", 0),
            ("4194304", 4194304),
            ("0004096", 4096),
            ("999999999999999", 999999999999999),
            ("9999999999999999", None),
            ("9" * 10000, None),
            ("-1", None),
            ("+1", None),
            ("1e6", None),
            ("1.5", None),
            ("4 MB", None),
            ("0x1000", None),
            ("1_000", None),
            ("٣", None),
            ("", None),
        ):
            with self.subTest(text[:30]):
                for name in ("free-space", "sketch-size", "chip-size"):
                    check_in = self._one(f"{name}: {text}")
                    self.assertEqual(getattr(check_in, name.replace("-", "_")), expected)
                    sizes = [check_in.free_space, check_in.sketch_size, check_in.chip_size]
                    self.assertEqual(sizes.count(None), 3 if expected is None else 2)

    def test_hashes(self) -> None:
        """Hashes are read in either case and kept in lower case, and None where they aren't of their length."""
        for name, field, good in (("sketch-md5", "sketch_md5", _MD5), ("sketch-sha256", "sketch_sha256", _SHA256)):
            for text, expected in (
                (good, good),
                (good.upper(), good),
                (good[:-1], None),
                (good + "0", None),
                (good[:-1] + "g", None),
                (good[:-1] + " ", None),
                (f'"{good}"', None),
                (f"{good},{good}", None),
                ("", None),
            ):
                with self.subTest(text):
                    self.assertEqual(getattr(self._one(f"{name}: {text}"), field), expected)

    def test_first_of_several(self) -> None:
        """Of a header that is there several times the first one counts."""
        check_in = self._one(
            *("version: 1.0", "version: 2.0", "STA-MAC: DE:BA:7A:B1:E0:42", "STA-MAC: DE:BA:7A:B1:E0:43"),
            *(
                "free-space: 1000",
                "free-space: 2000",
                f"sketch-md5: {_MD5}",
                f"sketch-md5: {'0' * 32}",
                "mode: version",
            ),
        )
        self.assertEqual(
            (check_in.version, check_in.device, check_in.free_space, check_in.sketch_md5, check_in.mode),
            ("1.0", "DE:BA:7A:B1:E0:42", 1000, _MD5, Mode.SKETCH),
        )

    def test_first_is_nonsense(self) -> None:
        """A second value doesn't stand in for a first one that can't be read."""
        self.assertIsNone(self._one("free-space: much", "free-space: 2000").free_space)

    def test_header_without_values(self) -> None:
        """A header name without any value says nothing."""
        check_in = read_check_in(
            "stable", "lamp", {b"X-Esp32-Version": [], b"X-Esp32-Mode": [], b"X-Esp32-Sta-Mac": []}
        )
        self.assertEqual(check_in, CheckIn("stable", "lamp", "esp32"))

    def test_chip_of_the_address(self) -> None:
        """The query may name the chip, in any case and with dashes; the dialect that has one chip only counts more."""
        for query, expected in (
            (b"", None),
            (b"chip=esp32c3", "esp32c3"),
            (b"chip=ESP32-C3", "esp32c3"),
            (b"chip=Esp32-S2&x=1", "esp32s2"),
            (b"x=1&chip=esp8266", "esp8266"),
            (b"chip=esp32&chip=esp32c3", "esp32"),
            (b"chip=%45sp32", "esp32"),
            (b"chip=lamp", "lamp"),
            (b"chip=esp32+c3", "esp32 c3"),
            (b"chip=", None),
            (b"chip", None),
            (b"Chip=esp32", None),
            (b"chips=esp32", None),
            (b"?chip=esp32", None),
            (b"&&=&", None),
            (b"x=" + b"1" * 300 + b"&chip=esp32", None),
        ):
            with self.subTest(query):
                self.assertEqual(read_chip(query), expected)
                self.assertEqual(read_check_in("stable", "lamp", {}, query), CheckIn("stable", "lamp", chip=expected))
                for name, chip in (("Esp8266", "esp8266"), ("Esp32", expected), ("Pico", expected)):
                    headers = {f"X-{name}-Mode".encode(): [b"sketch"]}
                    check_in = read_check_in("stable", "lamp", headers, query)
                    self.assertEqual(check_in, CheckIn("stable", "lamp", name.lower(), chip))

    @settings(deadline=None, max_examples=200)
    @given(st.binary(max_size=40) | st.from_regex(rb"\A(chip=)?(%[0-9a-f]{2}|[a-z0-9&;=+-]){0,12}\Z"))
    @example(b"chip=%ff")
    @example(b"chip=\xff")
    @example(b"x=%ff&chip=esp32")
    def test_any_query(self, query: bytes) -> None:
        """Whatever stands behind the question mark, it names a chip, or something that is none, or nothing."""
        chip = read_chip(query)
        self.assertEqual(read_check_in("stable", "lamp", {}, query), CheckIn("stable", "lamp", chip=chip))
        if b"chip" not in query and b"%" not in query:
            self.assertIsNone(chip)

    @settings(deadline=None, max_examples=200)
    @given(
        st.dictionaries(
            st.sampled_from([
                name
                for dialect in DIALECTS
                for name in (dialect.version, dialect.mode, dialect.mac, dialect.chip_id, dialect.free_space,
                             dialect.sketch_size, dialect.chip_size, dialect.sketch_md5, dialect.sketch_sha256)
            ]),
            st.lists(
                st.binary(max_size=80)
                | st.from_regex(rb"\A[0-9A-Fa-f:]{0,70}\Z")
                | st.sampled_from([b"sketch", b"version", _MD5.encode(), _SHA256.encode(), b"DE:BA:7A:B1:E0:42"]),
                max_size=3,
            ),
        )
    )  # fmt: skip
    def test_any_values(self, headers: dict[bytes, list[bytes]]) -> None:
        """Whatever the headers hold, a check-in is read of them, and all that it holds is of the form it should be."""
        check_in = read_check_in("stable", "lamp", headers)
        self.assertIn(check_in.dialect, [None, *(dialect.name for dialect in DIALECTS)])
        for text, form in (
            (check_in.device, r"\A(([0-9A-F]{2}:){5}[0-9A-F]{2}|[0-9]{1,15})\Z"),
            (check_in.sketch_md5, r"\A[0-9a-f]{32}\Z"),
            (check_in.sketch_sha256, r"\A[0-9a-f]{64}\Z"),
        ):
            if text is not None:
                self.assertRegex(text, form)
        for size in (check_in.free_space, check_in.sketch_size, check_in.chip_size):
            if size is not None:
                self.assertGreaterEqual(size, 0)
        if check_in.dialect is None:
            self.assertEqual(check_in, CheckIn("stable", "lamp"))
