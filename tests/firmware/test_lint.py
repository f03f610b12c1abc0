"""Tests of what is found odd about images: each word on real images, and on ones that are as they should be."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from semver import Version
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.catalog import Image, Project
from ota_server.firmware.lint import SIZE_JUMP, WORDS, Finding, lint, lint_alone
from ota_server.firmware.versions import VersionError, compare, read_reported_version
from tests.firmware.samples import make_image, read_as_image
from tests.images import (
    bootloader,
    compress,
    esp32_image,
    esp8266_image,
    esp8266_signed,
    merged_image,
    partition_table,
    private_key,
    secure_boot_v2,
    zoo,
)

_LITTLEFS = bytes(8) + b"littlefs" + bytes(1000)


def _homie(version: str) -> bytes:
    """Return the mark that a sketch made with Homie bears."""
    return b"\x6a\x3f\x3e\x0e\xe1" + version.encode() + b"\xb0\x30\x48\xd4\x1a"


class LintCase(SynchronousTestCase):
    """A test of findings about a file beside others, which are given as pairs of name and content."""

    def lint(self, name: str, content: bytes, *others: tuple[str, bytes], new: bool = True) -> tuple[Finding, ...]:
        """Return what is found about a file that has come to others."""
        image = read_as_image(name, content)
        images = [image, *(read_as_image(*other) for other in others)]
        found = lint(image, Project.of_images("lamp", images), new=new)
        for finding in found:
            self.assertIn(finding.word, WORDS)
        # Findings about the file alone are the first ones, whatever stands beside it.
        self.assertEqual(found[: len(lint_alone(image))], lint_alone(image))
        return found

    def assertFound(self, expected: dict[str, bool], name: str, content: bytes, *others: tuple[str, bytes]) -> str:
        """Check which words are found and which of them are serious; return the texts."""
        found = self.lint(name, content, *others)
        self.assertEqual({finding.word: finding.serious for finding in found}, expected)
        self.assertEqual(len(found), len(expected))
        return "; ".join(finding.text for finding in found)


class AloneTests(LintCase):
    """What is odd about a file by itself."""

    def test_nothing(self) -> None:
        """Images that are as they should be have no findings."""
        for name, content in (
            ("lamp-1.0.bin", esp32_image()),
            ("lamp-1.0.0.esp32.bin", esp32_image()),
            ("lamp-1.0.bin", esp8266_image()),
            ("lamp-1.0.esp8266.bin", esp8266_image()),
            ("lamp-1.0.bin", b"opaque"),
            ("lamp-1.0.rp2040.bin", b"opaque"),
            ("lamp-1.0.fs.bin", b"opaque"),
            ("lamp-1.0.fs.bin", _LITTLEFS),
            ("lamp-1.0.bin", zoo()["esp32c3-app"]),
            ("lamp-1.0.bin", zoo()["esp32-app-signed-v2-rsa"]),
            ("lamp-1.0.bin", zoo()["esp8266-sketch-signed"]),
            ("lamp-1.0.bin", zoo()["arduino-ota"]),
            ("lamp-1.2.3.bin", zoo()["mcuboot"]),
        ):
            with self.subTest(name):
                self.assertEqual(self.lint(name, content), ())

    def test_not_for_ota(self) -> None:
        """Parts of a flash are named, and files of another kind than their name's; nothing else is said of those."""
        for name, content, why in (
            ("lamp-1.0.bin", merged_image(), "merged factory image"),
            ("lamp-1.0.bin", bootloader(), "ESP32 boot loader"),
            ("lamp-1.0.bin", partition_table(), "partition table"),
            ("lamp-1.0.fs.bin", partition_table(), "partition table"),
            ("lamp-1.0.bin", zoo()["esp8266-bootloader"], "ESP8266 boot loader"),
            ("lamp-1.0.bin", _LITTLEFS, "name it .fs.bin"),
            ("lamp-1.0.fs.bin", esp32_image(), "inside is a program (ESP32 application)"),
            ("lamp-1.0.fs.bin", esp8266_image(), "inside is a program (ESP8266 sketch"),
        ):
            with self.subTest(name, why=why):
                text = self.assertFound({"not-for-ota": True}, name, content, ("lamp-0.9.bin", b"another"))
                self.assertIn(why, text)

    def test_version_differs(self) -> None:
        """A version inside other than that of the name is serious, and it is told what comes of it."""
        for name, content, what in (
            ("lamp-1.1.bin", esp32_image(version="1.0.0"), "updated without end"),
            ("lamp-1.0.bin", esp32_image(version="1.1"), "left out"),
            ("lamp-1.0.bin", esp32_image(version="v0.9-3-g1234abc"), "updated without end"),
            ("lamp-1.0.bin", esp32_image(version="1.0.0-rc.1"), "updated without end"),
            ("lamp-2.0.bin", esp8266_image(embedded=_homie("1.5.0")), "updated without end"),
            ("lamp-1.0.bin", zoo()["mcuboot"], "left out"),
            ("lamp-1.1.bin", zoo()["esp32-app-signed-esp32fota"], "updated without end"),
        ):
            with self.subTest(name, what=what):
                self.assertIn(what, self.assertFound({"version-differs": True}, name, content))

    def test_version_agrees(self) -> None:
        """A version inside that counts as that of the name, or as none, is as it should be."""
        for version in (
            "1.2", "1.2.0", "v1.2.0", "1.2.0-5-g1234abc", "1.2.0+build", "1.2(lamp)", "", "1", "a1b2c3d", "main",
        ):  # fmt: skip
            with self.subTest(version):
                name = "lamp-1.0.bin" if version == "1" else "lamp-1.2.bin"
                self.assertEqual(self.lint(name, esp32_image(version=version)), ())
        for core in (
            esp32_image(version="esp-idf: v4.4.7 38eeba213a", project="arduino-lib-builder"),
            esp32_image(version="v5.5", project="arduino-lib-builder"),
        ):
            self.assertEqual(self.lint("lamp-1.2.bin", core), ())

    @settings(deadline=None, max_examples=100)
    @given(
        st.builds(Version, *[st.integers(0, 3)] * 3),
        st.from_regex(r"\Av?[0-3](\.[0-3]){0,3}(-rc\.1|-dirty|-3-gabcd)?\Z") | st.text(max_size=20),
    )
    def test_any_version(self, version: Version, inside: str) -> None:
        """The version inside is as it should be just where a device that reports it would be taken for up to date."""
        image = make_image(f"lamp-{version}.bin", version=inside)
        try:
            differs = compare(read_reported_version(inside).version, version) != 0
        except VersionError:
            differs = False
        self.assertEqual("version-differs" in {finding.word for finding in lint_alone(image)}, differs)

    def test_chip_differs(self) -> None:
        """A chip in the name other than that of the image is serious."""
        for name, content in (
            ("lamp-1.0.esp32s3.bin", esp32_image()),
            ("lamp-1.0.esp32.bin", esp8266_image()),
            ("lamp-1.0.rp2040.bin", esp32_image("esp32c3")),
        ):
            with self.subTest(name):
                self.assertIn("no device will get it", self.assertFound({"chip-differs": True}, name, content))
        self.assertEqual(self.lint("lamp-1.0.esp32c3.bin", esp32_image("esp32c3")), ())

    def test_debug(self) -> None:
        """Traces of a build for debugging, or of one from changed sources, are odd."""
        marked = esp32_image(embedded=b"\0[V][%s:%u] %s(): \0")
        self.assertIn("log level verbose", self.assertFound({"debug": False}, "lamp-1.0.bin", marked))
        for version in ("1.0.0-dirty", "v1.0.0-3-g1234abc-dirty", "1.0.0+Debug"):
            with self.subTest(version):
                text = self.assertFound({"debug": False}, "lamp-1.0.bin", esp32_image(version=version))
                self.assertIn(version, text)

    def test_trailing_bytes(self) -> None:
        """Bytes behind an image that nothing explains are odd, and counted; a signature is none."""
        for content in (esp32_image(), esp8266_image(), compress(esp8266_image())):
            name = "lamp-1.0.bin.gz" if content[0] == 0x1F else "lamp-1.0.bin"
            found = {finding.word: finding for finding in self.lint(name, content + b"1234567")}
            self.assertIn("has 7 bytes behind", found["trailing-bytes"].text)
            self.assertFalse(found["trailing-bytes"].serious)
        self.assertEqual(self.lint("lamp-1.0.bin", zoo()["esp8266-sketch-signed"]), ())

    def test_gzip_without_the_name(self) -> None:
        """A compressed image of Espressif's chips that isn't named so is serious; others may be on purpose."""
        for content in (compress(esp8266_image()), compress(esp32_image())):
            text = self.assertFound({"gzip": True}, "lamp-1.0.bin", content)
            self.assertIn("name it .bin.gz", text)
        self.assertEqual(self.lint("lamp-1.0.bin", compress(b"opaque")), ())


class BesideTests(LintCase):
    """What is odd about a file beside others of its project."""

    def test_nothing(self) -> None:
        """A release that follows another one as it should has no findings, also one for further chips and kinds."""
        last = ("lamp-1.0.bin", esp32_image(size=40000))
        for name, content in (
            ("lamp-1.1.bin", esp32_image(version="1.1.0", size=40000)),
            ("lamp-1.1.bin", secure_boot_v2(esp32_image(version="1.1.0", size=40000), private_key("rsa3072"))),
            ("lamp-1.1.esp32s3.bin", esp32_image("esp32s3", "1.1.0", "other")),
            ("lamp-1.1.fs.bin", _LITTLEFS),
            ("lamp-1.0.esp8266.bin", esp8266_image()),
        ):
            with self.subTest(name):
                self.assertEqual(self.lint(name, content, last), ())

    def test_same_version(self) -> None:
        """Two spellings of one version are odd, for both, and it is told which one is offered."""
        files = (("lamp-1.2.bin", b"one"), ("lamp-1.2.0.bin", b"other"))
        for mine, other in (files, files[::-1]):
            text = self.assertFound({"same-version": False}, *mine, other)
            self.assertIn(f"{other[0]}: lamp-1.2.0.bin is offered", text)
        self.assertEqual(
            self.lint("lamp-1.2.bin", b"one", ("lamp-1.2.0.fs.bin", b"x"), ("lamp-1.2.0.esp32.bin", b"y")), ()
        )

    def test_lower_version(self) -> None:
        """A file below the newest release is odd where it has just come, and not otherwise."""
        newer = ("lamp-1.10.bin", esp32_image(version="1.10.0"))
        text = self.assertFound({"lower-version": False}, "lamp-1.9.bin", esp32_image(version="1.9.0"), newer)
        self.assertIn("1.10.0 is there", text)
        self.assertEqual(self.lint("lamp-1.9.bin", esp32_image(version="1.9.0"), newer, new=False), ())
        self.assertEqual(self.lint("lamp-1.11.bin", esp32_image(version="1.11.0"), newer), ())

    def test_lower_version_for_others(self) -> None:
        """A file for other devices than a higher version's isn't odd: a filesystem, another chip."""
        app = ("lamp-1.10.esp32.bin", esp32_image(version="1.10.0"))
        self.assertEqual(self.lint("lamp-1.9.fs.bin", b"files", app), ())
        self.assertEqual(self.lint("lamp-1.9.esp32c3.bin", esp32_image("esp32c3", "1.9.0"), app), ())
        self.assertEqual(
            self.lint("lamp-1.9.esp32.bin", esp32_image(version="1.9.0"), ("lamp-2.0.esp32.bin", merged_image())), ()
        )

    def test_same_bytes(self) -> None:
        """The same bytes under another version are serious; under another spelling of the same version they aren't."""
        data = esp8266_image()
        text = self.assertFound({"same-bytes": True}, "lamp-1.1.bin", data, ("lamp-1.0.bin", data))
        self.assertIn("lamp-1.0.bin", text)
        self.assertFound({"same-bytes": True, "lower-version": False}, "lamp-1.0.bin", data, ("lamp-1.1.bin", data))
        self.assertFound(
            {"same-version": False},
            "lamp-1.1.bin",
            data,
            ("lamp-1.1.0.bin", data),
            ("lamp-1.0.bin", esp8266_image(seed=1)),
        )

    def test_other_chip(self) -> None:
        """A file for another chip than that of the release before is serious, unless its name says a chip as well."""
        last = ("lamp-1.0.bin", esp32_image())
        for content, chip in ((esp32_image("esp32c3", "1.1.0"), "esp32c3"), (b"x" * 4000, "no chip")):
            text = self.assertFound({"other-chip": True}, "lamp-1.1.bin", content, last)
            self.assertIn(f"is for {chip}", text)
        self.assertEqual(self.lint("lamp-1.1.esp32c3.bin", esp32_image("esp32c3", "1.1.0"), last), ())
        self.assertEqual(self.lint("lamp-1.1.bin", esp32_image(version="1.1.0"), ("lamp-1.0.bin", b"x" * 4000)), ())

    def test_other_project(self) -> None:
        """A file that calls itself otherwise than the release before is serious, and one that says nothing isn't."""
        last = ("lamp-1.0.bin", esp32_image(project="lamp"))
        door = esp32_image(version="1.1.0", project="door")
        text = self.assertFound({"other-project": True}, "lamp-1.1.bin", door, last)
        self.assertIn("calls itself door inside, lamp-1.0.bin calls itself lamp", text)
        self.assertEqual(self.lint("lamp-1.1.bin", esp32_image(version="1.1.0", project=""), last), ())
        self.assertEqual(self.lint("lamp-1.1.bin", esp32_image(version="1.1.0", project="lamp"), last), ())

    def test_unsigned(self) -> None:
        """A file without a signature is serious where the release before has one."""
        key = private_key("rsa2048")
        signed, unsigned = esp8266_signed(esp8266_image(), key), esp8266_image(seed=1)
        self.assertFound({"unsigned": True}, "lamp-1.1.bin", unsigned, ("lamp-1.0.bin", signed))
        self.assertEqual(self.lint("lamp-1.1.bin", esp8266_signed(unsigned, key), ("lamp-1.0.bin", signed)), ())
        self.assertEqual(self.lint("lamp-1.1.bin", signed, ("lamp-1.0.bin", unsigned)), ())

    def test_size_jump(self) -> None:
        """A sketch much larger or smaller than the one before is odd; a filesystem may be of any size."""
        for size, odd in ((1000, False), (1500, False), (1501, True), (500, False), (499, True), (1, True)):
            with self.subTest(size=size):
                expected = {"size-jump": False} if odd else {}
                text = self.assertFound(expected, "lamp-1.1.bin", b"x" * size, ("lamp-1.0.bin", b"y" * 1000))
                if odd:
                    self.assertIn(f"({(size - 1000) / 1000:+.0%})", text)
                self.assertEqual(self.lint("lamp-1.1.fs.bin", b"x" * size, ("lamp-1.0.fs.bin", b"y" * 1000)), ())
        self.assertEqual(SIZE_JUMP, 0.5)

    def test_flash_size(self) -> None:
        """A sketch built for more flash than the one before is serious, one built for less isn't."""
        small, large = (esp8266_image(seed=n, flash_size=size) for n, size in enumerate(("1MB", "4MB")))
        text = self.assertFound({"flash-size": True}, "lamp-1.1.bin", large, ("lamp-1.0.bin", small))
        self.assertIn("4,096 KiB of flash, lamp-1.0.bin for 1,024 KiB", text)
        self.assertEqual(self.lint("lamp-1.1.bin", small, ("lamp-1.0.bin", large)), ())

    def test_chip_revision(self) -> None:
        """An image that needs a newer revision of the chip than the one before is odd."""
        any_revision = esp32_image("esp32c3", "1.1.0")
        newer = esp32_image("esp32c3", "1.1.0", flags=("--min-rev-full", "3"))
        self.assertFound({"chip-revision": False}, "lamp-1.1.bin", newer, ("lamp-1.0.bin", any_revision))
        self.assertEqual(self.lint("lamp-1.1.bin", any_revision, ("lamp-1.0.bin", newer)), ())

    def test_secure_version(self) -> None:
        """A lower secure version than that of the release before is serious, a higher one isn't."""
        low, high = (esp32_image(version="1.1.0", secure_version=number) for number in (1, 2))
        text = self.assertFound({"secure-version": True}, "lamp-1.1.bin", low, ("lamp-1.0.bin", high))
        self.assertIn("has secure version 1, lamp-1.0.bin has 2", text)
        self.assertEqual(self.lint("lamp-1.1.bin", high, ("lamp-1.0.bin", low)), ())

    def test_gzip(self) -> None:
        """A compressed file is odd without its plain one, serious beside one of other bytes, else as it should be."""
        data = esp8266_image()
        name = "lamp-1.0.bin.gz"
        self.assertIn("missing", self.assertFound({"gzip": False}, name, compress(data)))
        self.assertFound({"gzip": False}, name, compress(data), ("lamp-1.0.fs.bin", _LITTLEFS))
        text = self.assertFound({"gzip": True}, name, compress(data), ("lamp-1.0.bin", esp8266_image(seed=1)))
        self.assertIn("doesn't hold the bytes of lamp-1.0.bin", text)
        self.assertFound({"gzip": True}, name, b"no gzip file at all", ("lamp-1.0.bin", data))
        signed = esp8266_signed(compress(data), private_key("rsa2048"))
        self.assertIn("is signed", self.assertFound({"gzip": True}, name, signed, ("lamp-1.0.bin", data)))
        for plain in ("lamp-1.0.bin", "lamp-1.0.0.bin", "lamp-1.0.esp8266.bin"):
            with self.subTest(plain):
                self.assertEqual(self.lint(name, compress(data), (plain, data)), ())
        self.assertEqual(self.lint("lamp-1.0.bin", data, (name, compress(data))), ())

    def test_compared_with_the_next_lower(self) -> None:
        """An image is compared with the next lower one for the same devices: not with older, newer or other ones."""
        others = (
            ("lamp-1.0.bin", esp32_image("esp32c3", project="old")),
            ("lamp-1.2.bin", esp32_image(version="1.2.0", project="lamp")),
            ("lamp-1.3.fs.bin", _LITTLEFS),
            ("lamp-1.4.esp32s3.bin", esp32_image("esp32s3", "1.4.0", "s3")),
            ("lamp-1.5.bin", merged_image()),
            ("lamp-1.6.bin.gz", compress(esp32_image(version="1.6.0", project="gzip"))),
            ("lamp-2.0.bin", esp32_image("esp32c6", "2.0.0", "new")),
        )
        newest = esp32_image(version="1.9.0", project="lamp")
        self.assertEqual([each.word for each in self.lint("lamp-1.9.bin", newest, *others)], ["lower-version"])
        self.assertEqual(self.lint("lamp-1.9.bin", newest, *others, new=False), ())
        self.assertFound({"other-project": True}, "lamp-2.1.bin", esp32_image("esp32c6", "2.1.0", "next"), *others)

    def test_inside_of_gzip(self) -> None:
        """A compressed image is compared with the compressed one before it, by what is inside."""
        first, second = (esp8266_image(seed=n, flash_size=size) for n, size in enumerate(("1MB", "4MB")))
        files = (("lamp-1.0.bin.gz", compress(first)), ("lamp-1.1.bin", second))
        self.assertFound({"flash-size": True}, "lamp-1.1.bin.gz", compress(second), *files)


class AnyTests(SynchronousTestCase):
    """Whatever stands in a project."""

    @settings(deadline=None, max_examples=60)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["0.9", "1.0", "1.0.0", "1.1", "2.0"]),
                st.sampled_from(["", ".fs", ".esp32", ".esp8266"]),
                st.sampled_from(["", ".gz"]),
                st.integers(0, len(zoo()) - 1),
            ),
            min_size=1,
            max_size=5,
            unique_by=lambda part: part[:3],
        ),
        st.booleans(),
    )
    def test_any_project(self, files: list[tuple[str, str, str, int]], new: bool) -> None:
        """Findings have known words, each text begins after a file's name, and the order of files changes nothing."""
        contents = list(zoo().values())
        images = [
            read_as_image(f"lamp-{version}{tag}.bin{end}", contents[number]) for version, tag, end, number in files
        ]
        project, turned = (Project.of_images("lamp", order) for order in (images, images[::-1]))
        for image in images:
            found = lint(image, project, new=new)
            self.assertEqual(set(found), set(lint(image, turned, new=new)))
            self._check(image, found)
            if not new:
                self.assertNotIn("lower-version", {finding.word for finding in found})

    def _check(self, image: Image, found: tuple[Finding, ...]) -> None:
        for finding in found:
            self.assertIn(finding.word, WORDS)
            self.assertRegex(finding.text, r"^(is|has|says|was|holds|calls|needs|doesn't) .*[^.]$")
            self.assertTrue(finding.text.isprintable())
        self.assertEqual("not-for-ota" in {finding.word for finding in found}, not image.for_ota)

    def test_every_word(self) -> None:
        """Every word is explained, in one line."""
        for word, meaning in WORDS.items():
            self.assertRegex(word, r"^[a-z-]+$")
            self.assertTrue(meaning and "\n" not in meaning)
