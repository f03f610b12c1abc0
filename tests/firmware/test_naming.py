"""Tests of reading file names."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st
from semver import Version
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.naming import CHIPS, FileName, Kind, NamingError, is_name, parse_file_name
from tests.firmware.samples import FILE_NAMES, spell

_PIECES = st.sampled_from(
    ["firmware", "my-lamp", "-", "1.0", "1", ".", "0", "007", "9" * 16, ".bin", ".gz", ".fs", ".esp32", ".esp8266", "v",
     "/", "..", "\0", "\n", " ", "é", "²", "٣", "\udcff", "_", "+", ".zip", "alpha"]
)  # fmt: skip


class FileNameTests(SynchronousTestCase):
    """`parse_file_name` reads names of the scheme, and says what is wrong with others."""

    def test_valid(self) -> None:
        """Names of the scheme are read: project, version, kind, chip and compression."""
        app, filesystem = Kind.APP, Kind.FILESYSTEM
        for name, expected in (
            ("firmware-0.1.bin", FileName("firmware", Version(0, 1, 0))),
            ("firmware-0.1.0.bin", FileName("firmware", Version(0, 1, 0))),
            ("firmware-10.20.30.bin", FileName("firmware", Version(10, 20, 30))),
            ("my-lamp-1.2.3.bin", FileName("my-lamp", Version(1, 2, 3))),
            ("a-b-c-1.0.bin", FileName("a-b-c", Version(1, 0, 0))),
            ("my--lamp-1.0.bin", FileName("my--lamp", Version(1, 0, 0))),
            ("lamp--1.0.bin", FileName("lamp-", Version(1, 0, 0))),
            ("lamp-1.0-2.0.bin", FileName("lamp-1.0", Version(2, 0, 0))),
            ("lamp-alpha-0.1.bin", FileName("lamp-alpha", Version(0, 1, 0))),
            ("lamp.eu_2+x-1.0.bin", FileName("lamp.eu_2+x", Version(1, 0, 0))),
            ("lamp.bin-1.0.bin", FileName("lamp.bin", Version(1, 0, 0))),
            ("_lamp-1.0.bin", FileName("_lamp", Version(1, 0, 0))),
            ("4-1.0.bin", FileName("4", Version(1, 0, 0))),
            ("LAMP-1.0.bin", FileName("LAMP", Version(1, 0, 0))),
            ("lamp-1.0.fs.bin", FileName("lamp", Version(1, 0, 0), filesystem)),
            ("lamp-1.0.3.fs.bin", FileName("lamp", Version(1, 0, 3), filesystem)),
            ("lamp-1.0.esp32.bin", FileName("lamp", Version(1, 0, 0), app, "esp32")),
            ("lamp-1.2.3.esp32s3.bin", FileName("lamp", Version(1, 2, 3), app, "esp32s3")),
            ("lamp-1.0.esp8266.fs.bin", FileName("lamp", Version(1, 0, 0), filesystem, "esp8266")),
            ("lamp-1.0.fs.esp8266.bin", FileName("lamp", Version(1, 0, 0), filesystem, "esp8266")),
            ("lamp-1.0.bin.gz", FileName("lamp", Version(1, 0, 0), compressed=True)),
            ("lamp-1.0.esp32.fs.bin.gz", FileName("lamp", Version(1, 0, 0), filesystem, "esp32", compressed=True)),
        ):
            with self.subTest(name):
                self.assertEqual(parse_file_name(name), expected)

    def test_every_chip(self) -> None:
        """Every chip that the server knows can stand in a name."""
        for chip in sorted(CHIPS):
            with self.subTest(chip):
                self.assertEqual(parse_file_name(f"lamp-1.0.{chip}.bin").chip, chip)

    def test_invalid(self) -> None:
        """Names outside the scheme are refused, each with the reason."""
        for name, reason in (
            ("firmware.bin", "has no version"),
            ("firmware-0.1-alpha.bin", "has no version"),
            ("firmware-0.1.zip", "does not end in .bin"),
            ("", "does not end in .bin"),
            ("firmware-0.1", "does not end in .bin"),
            ("firmware-0.1.bin.bak", "does not end in .bin"),
            ("firmware-0.1.bin~", "does not end in .bin"),
            ("firmware-0.1.bin.md5", "does not end in .bin"),
            ("firmware-0.1.bin.gz.gz", "does not end in .bin"),
            ("firmware-0.1.gz", "does not end in .bin"),
            ("firmware-0.1.BIN", "does not end in .bin"),
            ("firmware-0.1.bin\n", "does not end in .bin"),
            (".bin", "has no version"),
            ("-.bin", "has no version"),
            ("firmware-.bin", "has no version"),
            ("firmware-1.bin", "is not MAJOR.MINOR"),
            ("firmware-1.2.3.4.bin", "is not MAJOR.MINOR"),
            ("firmware-v1.2.bin", "is not MAJOR.MINOR"),
            ("firmware-1.esp32.bin", "is not MAJOR.MINOR"),
            ("firmware-01.2.bin", "leading zero"),
            ("firmware-1.2.03.bin", "leading zero"),
            ("firmware-1.٣.bin", "is not MAJOR.MINOR"),
            ("firmware-1.².bin", "is not MAJOR.MINOR"),
            (f"firmware-1.{'9' * 16}.bin", "more than 15 digits"),
            ("-1.0.bin", "project names are made of"),
            (".firmware-1.0.bin", "project names are made of"),
            ("+firmware-1.0.bin", "project names are made of"),
            ("--1.0.bin", "project names are made of"),
            ("my lamp-1.0.bin", "project names are made of"),
            ("lämp-1.0.bin", "project names are made of"),
            ("../lamp-1.0.bin", "project names are made of"),
            ("a/b-1.0.bin", "project names are made of"),
            ("lamp\n-1.0.bin", "project names are made of"),
            ("lamp\udcff-1.0.bin", "project names are made of"),
            ("lamp-1.0.alpha.bin", "'alpha' after its version"),
            ("lamp-1.0.esp99.bin", "'esp99' after its version"),
            ("lamp-1.0.ESP32.bin", "'ESP32' after its version"),
            ("lamp-1.0..bin", "'' after its version"),
            ("lamp-1.0.fs.fs.bin", "'fs' after its version"),
            ("lamp-1.0.esp32.esp32.bin", "'esp32' after its version"),
            ("lamp-1.0.esp32.esp32s3.bin", "'esp32s3' after its version"),
            ("lamp-1.0.fs.1.bin", "'1' after its version"),
        ):
            with self.subTest(repr(name)):
                error = self.assertRaises(NamingError, parse_file_name, name)
                self.assertIn(reason, str(error))

    @settings(deadline=None)
    @given(FILE_NAMES, st.booleans(), st.booleans())
    def test_formatted_is_read_back(self, name: FileName, patch: bool, chip_first: bool) -> None:
        """A name formatted by the scheme is read back as what it was made of, however it is spelled."""
        self.assertEqual(parse_file_name(spell(name, patch=patch, chip_first=chip_first)), name)
        self.assertEqual(parse_file_name(name.spell()), name)

    @settings(deadline=None, max_examples=300)
    @given(st.text(max_size=60) | st.lists(_PIECES, max_size=10).map("".join))
    @example("firmware-" + "1" * 100_000 + ".0.bin")
    def test_any_text(self, text: str) -> None:
        """Any text is refused with NamingError, or what it says can be formatted to a name that says the same."""
        try:
            name = parse_file_name(text)
        except NamingError as error:
            self.assertNotEqual(str(error), "")
        else:
            self.assertTrue(is_name(name.project))
            self.assertEqual(parse_file_name(spell(name)), name)


class NameTests(SynchronousTestCase):
    """`is_name` says what can name a project or a channel."""

    def test_names(self) -> None:
        """Letters, digits and `_` may begin a name, and `.`, `+` and `-` follow them."""
        for name in ("firmware", "beta", "my-lamp", "a", "1", "_x", "a.b", "a+b", "a-", "A_1.2+3-4"):
            with self.subTest(name):
                self.assertTrue(is_name(name))

    def test_other_texts(self) -> None:
        """Anything that could lead out of the folder, hide a file, or can't stand in an address is no name."""
        for text in (
            "",
            ".",
            "..",
            "-",
            "+",
            ".hidden",
            "-x",
            "a/b",
            "a\\b",
            "a b",
            "a\n",
            "é",
            "a\0",
            "a%",
            "a?",
            "²",
        ):
            with self.subTest(repr(text)):
                self.assertFalse(is_name(text))
