"""Tests of reading and ordering versions."""

from __future__ import annotations

import re

from hypothesis import example, given, settings
from hypothesis import strategies as st
from semver import Version
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.versions import (
    MAX_DIGITS,
    MAX_REPORTED_LENGTH,
    ReportedVersion,
    VersionError,
    compare,
    parse_file_version,
    read_reported_version,
)
from tests.firmware.samples import FILE_VERSIONS, NUMBERS

_NUMERIC = st.integers(0, 999).map(str)
_WORD = st.from_regex(r"\A[0-9a-z-]{0,3}[a-z-][0-9a-z-]{0,3}\Z")
_PRERELEASE = st.lists(_NUMERIC | _WORD, min_size=1, max_size=3).map(".".join)
_VERSIONS = st.builds(Version, NUMBERS, NUMBERS, NUMBERS, st.none() | _PRERELEASE)

# Texts that are nearly versions, so that readings go deep.
_PIECES = st.sampled_from(
    ["1", "0", "007", "9" * 15, "9" * 16, ".", "-", "+", "_", "v", "V", "rc", "beta", "dev", "dirty", "-4-gabc123", "g",
     "(", ")", "(tasmota)", "(release-x)", "=", "@", "->", "[", "]", " ", "\n", "\t", "\0", "é", "٣", "²", "\udcff"]
)  # fmt: skip
_TEXTS = st.text(max_size=200) | st.lists(_PIECES, max_size=12).map("".join)


class FileVersionTests(SynchronousTestCase):
    """`parse_file_version` reads exactly MAJOR.MINOR[.PATCH]."""

    def test_valid(self) -> None:
        """Two or three numbers in digits are read, and a missing PATCH is 0."""
        for text, expected in (
            ("0.1", (0, 1, 0)),
            ("0.1.0", (0, 1, 0)),
            ("1.0", (1, 0, 0)),
            ("1.2.3", (1, 2, 3)),
            ("0.0.0", (0, 0, 0)),
            ("10.20.30", (10, 20, 30)),
            ("2026.11.23", (2026, 11, 23)),
            (f"1.{'9' * MAX_DIGITS}", (1, 10**MAX_DIGITS - 1, 0)),
        ):
            with self.subTest(text):
                self.assertEqual(parse_file_version(text), Version(*expected))

    def test_invalid(self) -> None:
        """Whatever isn't MAJOR.MINOR[.PATCH] in ASCII digits without leading zeros is refused."""
        for text in (
            *("", ".", "..", "1", "1.", ".1", "1..2", "1.2.", "1.2.3.", "1.2.3.4", "1.2.3.4.5"),
            *("v1.2", "1.2-alpha", "1.2.3-rc.1", "1.2+5", "1.x", "alpha", "1,2", "1_0.2"),
            *(" 1.2", "1.2 ", "1. 2", "1.2\n", "+1.2", "-1.2", "1.-2", "0x1.2", "1e3.2"),
            *("01.2", "1.02", "1.2.03", "00.1", "1.00", "1.2.00"),
            *("\u0663.\u0661", "\uff11.\uff12", "²,1", "1.²", "1.२"),
            f"1.{'9' * (MAX_DIGITS + 1)}",
            f"1.{'9' * 100_000}",
        ):
            with self.subTest(text[:40]):
                self.assertRaises(VersionError, parse_file_version, text)

    def test_reasons(self) -> None:
        """The message of a refusal tells the text and what is wrong with it."""
        for text, part in (
            ("1", "is not MAJOR.MINOR or MAJOR.MINOR.PATCH"),
            ("1.02", "leading zero"),
            (f"1.{'9' * (MAX_DIGITS + 1)}", f"more than {MAX_DIGITS} digits"),
        ):
            with self.subTest(text):
                error = self.assertRaises(VersionError, parse_file_version, text)
                self.assertIn(part, str(error))
                self.assertIn(repr(text), str(error))

    @settings(deadline=None)
    @given(FILE_VERSIONS)
    def test_printed_is_read_back(self, version: Version) -> None:
        """A version printed in full is read as the same version, and so is a short one without its PATCH of 0."""
        self.assertEqual(parse_file_version(str(version)), version)
        self.assertEqual(parse_file_version(f"{version.major}.{version.minor}"), version.replace(patch=0))

    @settings(deadline=None)
    @given(_TEXTS | st.from_regex(r"\A[0-9]{0,3}(\.[0-9]{0,3}){0,3}\Z"))
    def test_any_text(self, text: str) -> None:
        """Any text is either refused with VersionError, or is of the form that the scheme of file names says."""
        number = "(0|[1-9][0-9]{0,14})"
        if re.fullmatch(rf"{number}\.{number}(\.{number})?", text, re.ASCII):
            numbers = [int(part) for part in text.split(".")]
            self.assertEqual(parse_file_version(text), Version(*numbers))
        else:
            self.assertRaises(VersionError, parse_file_version, text)


class ReportedVersionTests(SynchronousTestCase):
    """`read_reported_version` reads what devices say, leniently."""

    def test_forms(self) -> None:
        """Every form of version text that update clients are known to send is read."""
        for text, expected, name in (
            # Plain numbers, as sketches of the Arduino cores pass them; a missing number is 0.
            ("1.0", "1.0.0", None),
            ("1.2", "1.2.0", None),
            ("1.2.3", "1.2.3", None),
            ("5", "5.0.0", None),
            ("20261123", "20261123.0.0", None),
            ("0", "0.0.0", None),
            ("01.02.03", "1.2.3", None),
            ("2026.04.01", "2026.4.1", None),
            (" 1.2.3 ", "1.2.3", None),
            # Prefixes.
            ("v1.2.3", "1.2.3", None),
            ("V1.2", "1.2.0", None),
            ("v7", "7.0.0", None),
            ("ver1.2", "1.2.0", None),
            ("version 1.2.3", "1.2.3", None),
            ("Version_1.2", "1.2.0", None),
            ("version:1.2", "1.2.0", None),
            # More numbers than three: the first three count.
            ("1.2.3.4", "1.2.3", None),
            ("1.2.3.4.5.6.7.8", "1.2.3", None),
            # Tasmota: version and image name.
            ("14.2.0(tasmota)", "14.2.0", "tasmota"),
            ("14.2.0(minimal)", "14.2.0", "minimal"),
            ("14.2.0(safeboot)", "14.2.0", "safeboot"),
            ("14.2.0(tasmota-DE)", "14.2.0", "tasmota-DE"),
            ("14.2.0(release-tasmota)", "14.2.0", "tasmota"),
            ("14.2.0(release-tasmota32c3)", "14.2.0", "tasmota32c3"),
            ("14.2.0.1(tasmota)", "14.2.0", "tasmota"),
            ("v14.2.0-rc.1(minimal)", "14.2.0-rc.1", "minimal"),
            # Semantic Versioning.
            ("1.2.3-rc.1", "1.2.3-rc.1", None),
            ("1.2.3-alpha", "1.2.3-alpha", None),
            ("1.2.3-0", "1.2.3-0", None),
            ("1.2.3-beta+build.5", "1.2.3-beta", None),
            ("1.2.3+build.5", "1.2.3", None),
            ("1.2-rc.1", "1.2.0-rc.1", None),
            ("1.2.3-rc.01", "1.2.3-rc.1", None),
            # Pre-releases without a dash, as Python and others spell them.
            ("1.2.3rc1", "1.2.3-rc1", None),
            ("1.0.dev3", "1.0.0-dev3", None),
            ("1.2.3.RELEASE", "1.2.3", None),
            ("1.2.3-DIRTY", "1.2.3", None),
            ("1.2.3.dev4", "1.2.3-dev4", None),
            ("1.2.3.rc1", "1.2.3-rc1", None),
            ("1.2beta", "1.2.0-beta", None),
            ("1.2.3dev", "1.2.3-dev", None),
            # git describe: the tag or later.
            ("1.2.3-4-gabc123", "1.2.3", None),
            ("v1.2.3-4-gabc123", "1.2.3", None),
            ("v1.2.3-14-g2414721c07", "1.2.3", None),
            ("v1.2.3-4-gabc123-dirty", "1.2.3", None),
            ("v1.2-dirty", "1.2.0", None),
            ("1.2.3-4-gabc123(tasmota)", "1.2.3", "tasmota"),
            # Homie: device=firmware=have=want, and the form with an arrow.
            ("686f6d6965=lamp=1.0.0=1.1.0", "1.0.0", None),
            ("686f6d6965=lamp=1.9=1.10", "1.9.0", None),
            ("686f6d6965=lamp@1.0.0->1.1.0", "1.0.0", None),
            ("686f6d6965=lamp@1.0.0->[d41d8cd98f00b204]@1.1.0", "1.0.0", None),
            ("686f6d6965=lamp@1.0.0->@1.1.0", "1.0.0", None),
            # Suffixes that may mean "before" as well as "after" count as the same.
            ("1.2.3_special", "1.2.3", None),
            ("1.2.3a", "1.2.3", None),
            ("1.2.3 Nov 23 2026", "1.2.3", None),
            ("1.2.3/esp32", "1.2.3", None),
        ):
            with self.subTest(text):
                self.assertEqual(read_reported_version(text), ReportedVersion(Version.parse(expected), name))

    def test_unreadable(self) -> None:
        """A text with no version number at its start is refused."""
        for text in (
            *("", " ", "latest", "firmware", "unknown", "v", "v.", "(tasmota)", "(14.2.0)"),
            *("lamp=1.0", "=1.0", "dev=fw=one=two", "dev=fw@one->[x]@two", "firmware-1.0"),
            *("\u0663.\u0661", "\uff11.\uff12", "²", "\0", "\udcff", "\u200b1.0"),
            *("9" * (MAX_DIGITS + 1), f"1.{'9' * (MAX_DIGITS + 1)}", ".".join("1" * 9), "1.", "1.2."),
        ):
            with self.subTest(repr(text)):
                self.assertRaises(VersionError, read_reported_version, text)

    def test_longest(self) -> None:
        """A text is read up to the bound of its length and refused beyond it, and blanks around it don't count."""
        longest = "1.2.3+".ljust(MAX_REPORTED_LENGTH, "x")
        self.assertEqual(read_reported_version(longest).version, Version(1, 2, 3))
        self.assertEqual(read_reported_version(f"  {longest}\t").version, Version(1, 2, 3))
        error = self.assertRaises(VersionError, read_reported_version, f"{longest}x")
        self.assertIn(str(MAX_REPORTED_LENGTH + 1), str(error))
        self.assertRaises(VersionError, read_reported_version, "1" * 1_000_000)

    def test_git_describe_is_no_older_than_its_tag(self) -> None:
        """What `git describe` prints after a tag is never lower than the tag, so the tag's image isn't sent back."""
        tag = Version(1, 2, 3)
        for text in ("1.2.3-1-g1234567", "1.2.3-1-g1234567-dirty", "1.2.3-dirty", "v1.2.3-250-gdeadbeefdeadbeef"):
            with self.subTest(text):
                self.assertEqual(compare(tag, read_reported_version(text).version), 0)

    @settings(deadline=None)
    @given(FILE_VERSIONS)
    def test_printed_is_read_back(self, version: Version) -> None:
        """The version of a file, as the server prints it, is read from a device as the same version."""
        self.assertEqual(read_reported_version(str(version)), ReportedVersion(version))
        self.assertEqual(read_reported_version(f"v{version}(lamp)"), ReportedVersion(version, "lamp"))

    @settings(deadline=None)
    @given(st.builds(Version, NUMBERS, NUMBERS, NUMBERS, st.lists(_NUMERIC | st.sampled_from(["rc", "beta", "x-y"]),
                                                                   min_size=1, max_size=3).map(".".join)))  # fmt: skip
    def test_printed_prerelease_is_read_back(self, version: Version) -> None:
        """A pre-release in the form of Semantic Versioning is read as that very pre-release."""
        self.assertEqual(read_reported_version(str(version)), ReportedVersion(version))
        self.assertEqual(read_reported_version(f"{version}+build.7"), ReportedVersion(version))

    @settings(deadline=None)
    @given(FILE_VERSIONS, st.from_regex(r"\A[0-9A-Za-z_+-][0-9A-Za-z_.+-]{0,12}\Z"))
    def test_suffix_changes_nothing_before_it(self, version: Version, suffix: str) -> None:
        """Whatever follows three numbers, it doesn't change these."""
        if suffix[0].isdigit():
            suffix = f"+{suffix}"
        read = read_reported_version(f"{version}{suffix}").version
        self.assertEqual((read.major, read.minor, read.patch), (version.major, version.minor, version.patch))

    @settings(deadline=None, max_examples=300)
    @given(_TEXTS)
    @example("1-" + "9" * 126)
    @example("=@->")
    def test_any_text(self, text: str) -> None:
        """Any text is read or refused with VersionError, a read one is comparable, and reading again is the same."""
        try:
            reported = read_reported_version(text)
        except VersionError as error:
            self.assertTrue(str(error).isascii())
            self.assertRaises(VersionError, read_reported_version, text)
        else:
            self.assertEqual(compare(reported.version, Version.parse(str(reported.version))), 0)
            self.assertEqual(read_reported_version(text), reported)


class CompareTests(SynchronousTestCase):
    """`compare` orders as Semantic Versioning 2.0.0 does."""

    def test_numbers_are_no_text(self) -> None:
        """Numbers are compared as numbers: 1.10 is higher than 1.9."""
        self.assertGreater(compare(parse_file_version("1.10"), parse_file_version("1.9")), 0)
        self.assertLess(compare(parse_file_version("1.9.9"), parse_file_version("1.10")), 0)
        self.assertGreater(compare(parse_file_version("10.0"), parse_file_version("9.99.99")), 0)
        self.assertEqual(compare(parse_file_version("1.2"), parse_file_version("1.2.0")), 0)

    def test_the_standards_example(self) -> None:
        """The chain of clause 11 of the standard is in ascending order."""
        chain = "1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1 1.0.0"
        versions = [read_reported_version(text).version for text in chain.split()]
        for left, lower in enumerate(versions):
            for right, higher in enumerate(versions):
                with self.subTest(f"{lower} {higher}"):
                    self.assertEqual(compare(lower, higher), (left > right) - (left < right))

    def test_build_metadata_does_not_count(self) -> None:
        """Build metadata is no part of the precedence."""
        self.assertEqual(compare(Version.parse("1.0.0+a"), Version.parse("1.0.0+b")), 0)

    @settings(deadline=None)
    @given(_VERSIONS, _VERSIONS)
    def test_agrees_with_semver(self, left: Version, right: Version) -> None:
        """Any two versions are in the order that the library `semver` says, the other way round as well."""
        expected = (left > right) - (left < right)
        self.assertEqual(compare(left, right), expected)
        self.assertEqual(compare(right, left), -expected)

    @settings(deadline=None)
    @given(FILE_VERSIONS, FILE_VERSIONS)
    def test_file_versions_are_ordered_by_their_numbers(self, left: Version, right: Version) -> None:
        """Versions of files are in the order of their numbers, the first that differs deciding."""
        low, high = (left.major, left.minor, left.patch), (right.major, right.minor, right.patch)
        self.assertEqual(compare(left, right), (low > high) - (low < high))
