"""Tests of what is decided for a check-in: tables of the rules of serving, and their laws."""

from __future__ import annotations

import hashlib
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.catalog import STABLE, Catalog, Image
from ota_server.firmware.facts import ESP_APPS, NOT_FOR_OTA, EspFacts, Format, Scheme, Signature
from ota_server.firmware.naming import Kind
from ota_server.firmware.versions import VersionError, compare, read_reported_version
from ota_server.fleet.checkin import FAMILIES, CheckIn, Mode
from ota_server.fleet.decide import REASONS, Announce, Decision, Refuse, Send, UpToDate, Withhold, decide
from tests.firmware.samples import make_catalog, make_image

_UP_TO_DATE = "up-to-date"
_UNKNOWN_HASH = "0" * 32


def _hash(image: Image) -> str:
    return image.facts.sketch_hashes[0]


def _ask(
    images: list[Image],
    version: str | None = None,
    *,
    project: str = "lamp",
    channel: str = STABLE,
    dialect: str | None = None,
    chip: str | None = None,
    mode: Mode = Mode.SKETCH,
    free_space: int | None = None,
    chip_size: int | None = None,
    md5: str | None = None,
    sha256: str | None = None,
) -> Decision:
    check_in = CheckIn(
        channel,
        project,
        dialect,
        chip,
        version=version,
        mode=mode,
        free_space=free_space,
        chip_size=chip_size,
        sketch_md5=md5,
        sketch_sha256=sha256,
    )
    return decide(check_in, make_catalog(images))


def _sort(file_name: str, sort: str = "opaque", content: bytes | None = None, **values: Any) -> Image:
    """Return an image of a sort (see _SORTS), with other values of `make_image` if any are given."""
    image = make_image(file_name, content, **values)
    facts = attrs.evolve(image.facts, **_SORTS[sort])
    if facts.format is Format.ESP8266_SKETCH:
        # One for each flash mode.
        hashes = tuple(hashlib.md5(facts.md5.encode() + bytes([mode])).hexdigest() for mode in range(4))
        facts = attrs.evolve(facts, sketch_hashes=hashes)
    return attrs.evolve(image, facts=facts)


def _pack(image: Image, size: int = 100, **values: Any) -> Image:
    """Return the gzip file of an image, of `size` bytes, with other facts if any are given."""
    packed = make_image(f"{image.file_name}.gz", channel=image.channel, size=size)
    inner = image.facts
    facts = attrs.evolve(
        packed.facts, format=Format.GZIP, inner=inner, chip=inner.chip, sketch_hashes=inner.sketch_hashes, **values
    )
    return attrs.evolve(packed, facts=facts)


def _esp(**values: Any) -> EspFacts:
    """Return facts of an image that is built for 1 MB of flash in mode DIO, and is 8000 bytes long."""
    return attrs.evolve(EspFacts(0, 2, 1 << 20, None, (), 8000), **values)


_SIGNATURE = Signature(Scheme.ESP8266, 0, 256, "", "")
_SORTS: dict[str, dict[str, Any]] = {
    "opaque": {},
    "littlefs": {"format": Format.LITTLEFS},
    "packed-something": {"format": Format.GZIP},
    "mcuboot": {"format": Format.MCUBOOT},
    "esp8266": {"chip": "esp8266", "format": Format.ESP8266_SKETCH, "esp": _esp(can_unpack=True)},
    "esp8266-dout": {"chip": "esp8266", "format": Format.ESP8266_SKETCH, "esp": _esp(can_unpack=True, flash_mode=3)},
    "esp8266-old": {"chip": "esp8266", "format": Format.ESP8266_SKETCH, "esp": _esp()},
    "esp8266-large": {
        "chip": "esp8266",
        "format": Format.ESP8266_SKETCH,
        "esp": _esp(can_unpack=True, flash_size=1 << 22),
    },
    "esp8266-signed": {
        "chip": "esp8266",
        "format": Format.ESP8266_SKETCH,
        "esp": _esp(can_unpack=True),
        "signatures": (_SIGNATURE,),
    },
    "esp8266-v2": {"chip": "esp8266", "format": Format.ESP8266_V2, "esp": _esp(), "sketch_hashes": ()},
    "esp8266-bootloader": {"chip": "esp8266", "format": Format.ESP8266_BOOTLOADER, "esp": _esp(), "sketch_hashes": ()},
    "esp32": {"chip": "esp32", "format": Format.ESP32_APP, "esp": _esp()},
    "esp32c3": {"chip": "esp32c3", "format": Format.ESP32_APP, "esp": _esp(flash_size=1 << 22)},
    "esp32c3-bootloader": {"chip": "esp32c3", "format": Format.ESP32_BOOTLOADER, "esp": _esp()},
    "merged": {"format": Format.MERGED},
    "partition-table": {"format": Format.PARTITION_TABLE},
    "ota-data": {"format": Format.OTA_DATA},
}
"""What is known of images of several sorts."""

_NOT_FOR_OTA = ("esp8266-bootloader", "esp32c3-bootloader", "merged", "partition-table", "ota-data")


class DecideCase(SynchronousTestCase):
    """A test of decisions."""

    def expect(self, decision: Decision, expected: str, image: Image | None = None) -> None:
        """Check that a decision is to send an image with this reason, or, without one, that nothing newer is there."""
        self.assertEqual(decision, UpToDate(expected) if image is None else Send(image, expected))


class VersionTests(DecideCase):
    """Rule 2: the smart address compares what the device reports with the best image."""

    def test_reported_version(self) -> None:
        """A newer image is sent, and to a device that reports the same or a higher version nothing is."""
        images = [make_image(f"lamp-{version}.bin") for version in ("1.9", "1.10", "1.2.3")]
        best = images[1]
        for version, sent in (
            ("1.0", True),
            ("1.9", True),
            ("1.9.99", True),
            ("0.1", True),
            ("1", True),
            ("1.10", False),
            ("1.10.0", False),
            ("1.10.1", False),
            ("1.11", False),
            ("2", False),
            ("10.0", False),
            ("v1.9", True),
            ("v1.10", False),
            ("1.9.5.4", True),
            ("1.10.0.4", False),
            ("1.10.0-rc.1", True),
            ("1.10rc1", True),
            ("1.11-alpha", False),
            ("1.10+build.5", False),
            ("1.10-4-gabc123", False),
            ("1.9-4-gabc123", True),
            ("v1.10-dirty", False),
            ("686f6d6965=lamp=1.9=1.10", True),
            ("686f6d6965=lamp=1.10=1.11", False),
            ("686f6d6965=lamp@1.9->[d41d8cd98f]@1.10", True),
            ("1.9(lamp)", True),
            ("1.10(lamp)", False),
        ):
            with self.subTest(version):
                self.expect(_ask(images, version), "newer" if sent else _UP_TO_DATE, best if sent else None)

    def test_no_version(self) -> None:
        """Who reports no version gets the best image."""
        images = [make_image("lamp-1.0.bin"), make_image("lamp-1.1.bin")]
        self.expect(_ask(images), "no-version", images[1])

    def test_unreadable_version(self) -> None:
        """A version that can't be read is refused, with one line of ASCII that says what was read."""
        images = [make_image("lamp-1.0.bin")]
        for version in (
            "latest",
            "unknown",
            "é",
            "\N{REPLACEMENT CHARACTER}",
            "a\nb",
            "\x1b[31m",
            "x" * 1000,
            "1" * 200,
        ):
            with self.subTest(version[:20]):
                decision = _ask(images, version)
                assert isinstance(decision, Refuse)
                self.assertEqual(decision.reason, "unreadable-version")
                self.assertTrue(decision.detail.isascii() and decision.detail.isprintable())
                self.assertIn(ascii(version[:5])[1:-1], decision.detail)
                self.assertLess(len(decision.detail), 600)

    def test_other_build(self) -> None:
        """A name in brackets other than the project's is another build: it gets the same version, and no lower one."""
        images = [make_image("tasmota-14.1.bin"), make_image("tasmota-14.2.0.bin")]
        best = images[1]
        for version, expected in (
            ("14.2.0(tasmota)", _UP_TO_DATE),
            ("14.2.0(Tasmota)", _UP_TO_DATE),
            ("14.2.0(release-tasmota)", _UP_TO_DATE),
            ("14.2.0(minimal)", "other-build"),
            ("14.2.0(release-minimal)", "other-build"),
            ("14.2.0(safeboot)", "other-build"),
            ("14.2.0(tasmota32)", "other-build"),
            ("14.2.0.4(minimal)", "other-build"),
            ("14.1.0(minimal)", "newer"),
            ("14.1.0(tasmota)", "newer"),
            ("14.3.0(minimal)", _UP_TO_DATE),
            ("15.0(minimal)", _UP_TO_DATE),
        ):
            with self.subTest(version):
                decision = _ask(images, version, project="tasmota")
                self.expect(decision, expected, None if expected == _UP_TO_DATE else best)

    def test_several_spellings(self) -> None:
        """Where a version is there by two names the device gets the fully spelled one, and once."""
        images = [make_image("lamp-1.2.bin"), make_image("lamp-1.2.0.bin")]
        self.expect(_ask(images, "1.1"), "newer", images[1])
        self.expect(_ask(images, "1.2"), _UP_TO_DATE)


class PlaceTests(DecideCase):
    """Which project and channel is asked for."""

    def test_unknown_project(self) -> None:
        """A project that isn't in the channel is refused, whatever the request says."""
        images = [make_image("lamp-1.0.bin"), make_image("door-1.0.bin", channel="beta")]
        for project, channel in (
            ("fan", STABLE),
            ("Lamp", STABLE),
            ("door", STABLE),
            ("lamp", "beta"),
            ("lamp", "alpha"),
        ):
            for mode in Mode:
                for version in (None, "1.0", "nonsense"):
                    with self.subTest(project, channel=channel):
                        decision = _ask(images, version, project=project, channel=channel, mode=mode)
                        assert isinstance(decision, Refuse)
                        self.assertEqual(decision.reason, "unknown-project")

    def test_empty_catalog(self) -> None:
        """An empty catalog knows no project."""
        decision = decide(CheckIn(STABLE, "lamp"), Catalog.empty())
        self.assertEqual(decision.reason, "unknown-project")

    def test_channels(self) -> None:
        """Each channel has its own best image, whichever is higher."""
        stable, beta = make_image("lamp-1.0.bin"), make_image("lamp-1.1.bin", channel="beta")
        self.expect(_ask([stable, beta], "0.9"), "newer", stable)
        self.expect(_ask([stable, beta], "0.9", channel="beta"), "newer", beta)
        self.expect(_ask([stable, beta], "1.0"), _UP_TO_DATE)
        self.expect(_ask([stable, beta], "1.1"), _UP_TO_DATE)


class ModeTests(DecideCase):
    """A sketch, a filesystem image, or the number of the newest version only."""

    def setUp(self) -> None:
        """Make a project with a sketch and a filesystem image, of different versions."""
        self.sketch, self.filesystem = make_image("lamp-1.0.bin"), make_image("lamp-2.0.fs.bin")
        self.images = [self.sketch, self.filesystem]

    def test_filesystem(self) -> None:
        """Asked for a filesystem, a device gets the filesystem image by its version, never a sketch."""
        self.expect(_ask(self.images, "1.5", mode=Mode.FILESYSTEM), "newer", self.filesystem)
        self.expect(_ask(self.images, "2.0", mode=Mode.FILESYSTEM), _UP_TO_DATE)
        self.expect(_ask(self.images, mode=Mode.FILESYSTEM), "no-version", self.filesystem)
        self.assertEqual(_ask([self.sketch], "0.1", mode=Mode.FILESYSTEM), Withhold("no-image"))

    def test_sketch(self) -> None:
        """Asked for a sketch, a device gets the sketch by its version, never a filesystem image."""
        self.expect(_ask(self.images, "0.9"), "newer", self.sketch)
        self.expect(_ask(self.images, "1.5"), _UP_TO_DATE)
        self.assertEqual(_ask([self.filesystem], "0.1"), Withhold("no-image"))

    def test_filesystem_ignores_hashes(self) -> None:
        """The hash is that of the sketch, and says nothing where a filesystem is asked for."""
        for sketch_hash in (_hash(self.sketch), _hash(self.filesystem)):
            for md5, sha256 in ((sketch_hash, None), (None, sketch_hash)):
                decision = _ask(self.images, "1.5", mode=Mode.FILESYSTEM, md5=md5, sha256=sha256)
                self.expect(decision, "newer", self.filesystem)
                self.expect(_ask(self.images, "2.0", mode=Mode.FILESYSTEM, md5=md5, sha256=sha256), _UP_TO_DATE)

    def test_filesystem_ignores_free_space(self) -> None:
        """The free space is that for a sketch, and says nothing where a filesystem is asked for."""
        self.expect(_ask(self.images, "1.0", mode=Mode.FILESYSTEM, free_space=0), "newer", self.filesystem)

    def test_filesystem_version_unreadable(self) -> None:
        """A version that can't be read is refused for a filesystem as well."""
        self.assertEqual(_ask(self.images, "x", mode=Mode.FILESYSTEM).reason, "unreadable-version")

    def test_version_asked(self) -> None:
        """Asked for the version, the answer is that of the best sketch, whatever the device runs or can't tell."""
        for version in (None, "0.1", "1.0", "9.9", "nonsense"):
            for sketch_hash in (None, _hash(self.sketch)):
                with self.subTest(version):
                    decision = _ask(self.images, version, mode=Mode.VERSION, md5=sketch_hash, free_space=0)
                    self.assertEqual(decision, Announce(self.sketch, "version-asked"))
        self.assertEqual(_ask([self.filesystem], mode=Mode.VERSION), Withhold("no-image"))

    def test_unknown_mode(self) -> None:
        """A mode that isn't known gets nothing, and never a sketch on trust."""
        for version in (None, "0.1", "nonsense"):
            self.assertEqual(_ask(self.images, version, mode=Mode.UNKNOWN), Withhold("unknown-mode"))


class HashTests(DecideCase):
    """Rule 3: the running image is known by hash first, and by version second."""

    def setUp(self) -> None:
        """Make a project of three releases."""
        self.images = [make_image(f"lamp-{version}.bin") for version in ("1.0", "1.1", "1.2")]
        self.old, _, self.best = self.images

    def test_hash_of_best(self) -> None:
        """A device that runs the best image is up to date, whatever it says of its version."""
        for version in (None, "0.1", "1.2", "9.9", "nonsense", "1.2(minimal)"):
            for md5, sha256 in ((_hash(self.best), None), (None, self.best.facts.sha256)):
                with self.subTest(version):
                    self.expect(_ask(self.images, version, md5=md5, sha256=sha256), _UP_TO_DATE)

    def test_hash_of_older(self) -> None:
        """A device that runs an older image gets the best one, whatever it says of its version."""
        for version in (None, "0.1", "1.2", "9.9", "nonsense"):
            for md5, sha256 in ((_hash(self.old), None), (None, self.old.facts.sha256)):
                with self.subTest(version):
                    self.expect(_ask(self.images, version, md5=md5, sha256=sha256), "newer", self.best)

    def test_unknown_hash(self) -> None:
        """A hash that names nothing says nothing: the version counts, if there is one."""
        for md5, sha256 in ((_UNKNOWN_HASH, None), (None, "0" * 64), (_UNKNOWN_HASH, "0" * 64)):
            self.expect(_ask(self.images, "1.1", md5=md5, sha256=sha256), "newer", self.best)
            for version in ("1.2", "1.3"):
                self.expect(_ask(self.images, version, md5=md5, sha256=sha256), "unknown-build")
            self.expect(_ask(self.images, md5=md5, sha256=sha256), "no-version", self.best)
            self.assertEqual(_ask(self.images, "nonsense", md5=md5, sha256=sha256).reason, "unreadable-version")

    def test_either_hash(self) -> None:
        """Where one of two hashes names nothing the other one counts; where both do, the SHA-256 does."""
        self.expect(_ask(self.images, md5=_hash(self.best), sha256="0" * 64), _UP_TO_DATE)
        self.expect(_ask(self.images, md5=_UNKNOWN_HASH, sha256=self.best.facts.sha256), _UP_TO_DATE)
        self.expect(_ask(self.images, md5=_hash(self.old), sha256=self.best.facts.sha256), _UP_TO_DATE)
        self.expect(_ask(self.images, md5=_hash(self.best), sha256=self.old.facts.sha256), "newer", self.best)

    def test_same_bytes_under_several_versions(self) -> None:
        """A device whose bytes stand under several versions is never offered one below the highest of these."""
        low, high = make_image("lamp-1.0.bin", b"same"), make_image("lamp-1.5.bin", b"same")
        middle, newest = make_image("lamp-1.3.bin"), make_image("lamp-1.6.bin")
        self.expect(_ask([low, middle, high], "1.0", md5=_hash(low)), _UP_TO_DATE)
        self.expect(_ask([low, middle, high, newest], "1.0", md5=_hash(low)), "newer", newest)

    def test_best_has_the_same_bytes(self) -> None:
        """A device isn't sent the bytes that it has, though they stand under a higher version now."""
        low, high = make_image("lamp-1.0.bin", b"same"), make_image("lamp-2.0.bin", b"same")
        self.expect(_ask([low, high], "1.0", md5=_hash(low)), _UP_TO_DATE)

    def test_bytes_of_another_channel(self) -> None:
        """A device whose bytes are those of the best image under another channel's name is up to date."""
        stable, beta = make_image("lamp-1.0.bin", b"same"), make_image("lamp-1.1.bin", b"same", channel="beta")
        for channel in (STABLE, "beta"):
            self.expect(_ask([stable, beta], "0.5", channel=channel, md5=_hash(stable)), _UP_TO_DATE)

    def test_beta_is_not_downgraded(self) -> None:
        """A device that runs a newer image of the beta channel gets no older one of stable, known by its hash."""
        stable, beta = make_image("lamp-1.0.bin"), make_image("lamp-1.1.bin", channel="beta")
        for version in (None, "0.5", "1.1"):
            with self.subTest(version):
                self.expect(_ask([stable, beta], version, md5=_hash(beta)), _UP_TO_DATE)
                self.expect(_ask([stable, beta], version, channel="beta", md5=_hash(stable)), "newer", beta)

    def test_image_of_another_project(self) -> None:
        """A device that runs another project's image gets this project's at the same version, and never a lower one."""
        lamp = make_image("lamp-1.0.bin")
        for other, expected in (("0.9", "newer"), ("1.0", "other-build"), ("1.1", _UP_TO_DATE)):
            with self.subTest(other):
                door = make_image(f"door-{other}.bin")
                decision = _ask([lamp, door], "5.0", md5=_hash(door))
                self.expect(decision, expected, None if expected == _UP_TO_DATE else lamp)

    def test_own_image_before_another_projects(self) -> None:
        """Where the running bytes stand in two projects, their version in the project asked for counts."""
        old, best = make_image("lamp-1.0.bin", b"same"), make_image("lamp-1.1.bin")
        door = make_image("door-9.0.bin", b"same")
        self.expect(_ask([old, best, door], md5=_hash(old)), "newer", best)

    def test_same_version_for_another_chip(self) -> None:
        """A device that runs the project's image of the same version for another chip isn't sent it again and again."""
        plain, own = make_image("lamp-1.0.bin"), make_image("lamp-1.0.esp8266.bin")
        self.expect(_ask([plain, own], "1.0", chip="esp8266", md5=_hash(plain)), _UP_TO_DATE)


class FittingTests(DecideCase):
    """Rule 4: an image is refused before it is sent where it can't work."""

    def test_no_space(self) -> None:
        """An image larger than the free space is withheld, and one that just fits is sent."""
        images = [make_image("lamp-1.0.bin", size=900), make_image("lamp-1.1.bin", size=1000)]
        for version, sketch_hash in (("1.0", None), (None, None), (None, _hash(images[0])), ("1.1(minimal)", None)):
            with self.subTest(version):
                decision = _ask(images, version, free_space=999, md5=sketch_hash)
                self.assertEqual(decision, Withhold("no-space"))
                decision = _ask(images, version, free_space=1000, md5=sketch_hash)
                self.assertIsInstance(decision, Send)
        self.expect(_ask(images, "1.1", free_space=0), _UP_TO_DATE)
        self.assertEqual(_ask(images, "nonsense", free_space=0).reason, "unreadable-version")

    def test_whole_sectors(self) -> None:
        """An ESP8266 needs room for whole sectors of 4096 bytes, an ESP32 for the bytes alone."""
        for dialect, chip, size, space, fits in (
            ("esp8266", "esp8266", 4096, 4096, True),
            ("esp8266", "esp8266", 4096, 4095, False),
            ("esp8266", "esp8266", 4097, 8191, False),
            ("esp8266", "esp8266", 4097, 8192, True),
            ("esp8266", "esp8266", 1, 4095, False),
            ("esp32", None, 4097, 4097, True),
            ("esp32", "esp32c3", 4097, 4097, True),
            ("esp32", None, 4097, 4096, False),
            ("pico", None, 4097, 4097, True),
        ):
            with self.subTest(dialect, size=size, space=space):
                image = make_image("lamp-1.0.bin", size=size)
                decision = _ask([image], "0.1", dialect=dialect, chip=chip, free_space=space)
                self.assertEqual(decision, Send(image, "newer") if fits else Withhold("no-space"))

    def test_flash_size(self) -> None:
        """An image that is built for more flash than the device has is withheld; where either isn't known it is not."""
        small, large = _sort("lamp-1.0.bin", "esp8266"), _sort("lamp-1.1.bin", "esp8266-large")
        for image, chip_size, fits in (
            (small, 1 << 20, True),
            (small, (1 << 20) - 1, False),
            (large, 1 << 20, False),
            (large, 1 << 21, False),
            (large, 1 << 22, True),
            (large, 1 << 24, True),
            (large, 0, True),
            (large, None, True),
            (make_image("lamp-1.2.bin"), 1, True),
        ):
            with self.subTest(image.file_name, chip_size=chip_size):
                decision = _ask([image], "0.1", dialect="esp8266", chip="esp8266", chip_size=chip_size)
                self.assertEqual(decision, Send(image, "newer") if fits else Withhold("flash-size"))
        self.expect(_ask([large], "1.1", dialect="esp8266", chip="esp8266", chip_size=1), _UP_TO_DATE)

    def test_order_of_reasons(self) -> None:
        """Where several things are against an image, the one is told that no free space would mend."""
        image = make_image("lamp-1.0.bin", chip="esp32", size=1000)
        decision = _ask([image], "0.1", dialect="esp8266", chip="esp8266", free_space=1)
        self.assertEqual(decision, Withhold("wrong-chip"))
        decision = _ask(
            [_sort("lamp-1.0.bin", "esp8266")], "0.1", dialect="esp8266", chip="esp8266", free_space=1, chip_size=1
        )
        self.assertEqual(decision, Withhold("flash-size"))


class ChipTests(DecideCase):
    """Which chip a device has, and what it gets for it."""

    def test_chip_by_name(self) -> None:
        """A device gets the image made for its chip, and none that is made for another one."""
        own, other = make_image("lamp-1.0.esp8266.bin"), make_image("lamp-2.0.esp32.bin")
        for version, expected in (
            ("0.1", Send(own, "newer")),
            ("1.0", Withhold("wrong-chip")),
            ("2.0", UpToDate()),
        ):
            for dialect in (None, "esp8266"):
                decision = _ask([own, other], version, dialect=dialect, chip="esp8266")
                self.assertEqual((version, decision), (version, expected))
        for dialect, chip in ((None, "rp2040"), ("pico", None), ("pico", "rp2350"), ("esp32", "esp32c3")):
            self.assertEqual(_ask([own, other], "0.1", dialect=dialect, chip=chip), Withhold("wrong-chip"))

    def test_chip_by_header(self) -> None:
        """An image whose own header says another chip than the device surely has isn't sent: the next lower one is."""
        for dialect, chip, header, sent in (
            ("esp8266", "esp8266", "esp8266", True),
            ("esp8266", "esp8266", "esp32", False),
            ("esp8266", "esp8266", None, True),
            ("esp32", None, "esp32", True),
            ("esp32", None, "esp32s3", True),
            ("esp32", "esp32s3", "esp32s3", True),
            ("esp32", "esp32s3", "esp32", False),
            ("esp32", None, "esp8266", False),
            ("esp32", None, None, True),
            ("pico", None, "esp8266", False),
            ("pico", None, "esp32c3", False),
            ("pico", None, "rp2040", True),
            ("pico", None, None, True),
            ("pico-early", None, "esp32", False),
            (None, None, "esp32", True),
            (None, None, "esp8266", True),
            (None, "esp32", "esp8266", False),
        ):
            with self.subTest(dialect, chip=chip, header=header):
                old, image = make_image("lamp-0.9.bin"), make_image("lamp-1.0.bin", chip=header)
                for version, md5 in ((None, None), ("0.1", None), ("0.8", _UNKNOWN_HASH)):
                    decision = _ask([old, image], version, dialect=dialect, chip=chip, md5=md5)
                    assert isinstance(decision, Send)
                    self.assertIs(decision.image, image if sent else old)
                for version, md5 in (("0.9", None), ("0.9", _hash(old)), ("0.1", _hash(old))):
                    decision = _ask([old, image], version, dialect=dialect, chip=chip, md5=md5)
                    self.assertEqual(decision, Send(image, "newer") if sent else Withhold("wrong-chip"))
                alone = _ask([image], "0.1", dialect=dialect, chip=chip)
                self.assertEqual(alone, Send(image, "newer") if sent else Withhold("wrong-chip"))
                self.expect(_ask([old, image], "1.0", dialect=dialect, chip=chip), _UP_TO_DATE)

    def test_several_chips(self) -> None:
        """Of images for several chips a device gets its own, by its address or by what it runs; else none."""
        old = [_sort(f"lamp-1.0.{chip}.bin", chip) for chip in ("esp32", "esp32c3")]
        new = [_sort(f"lamp-2.0.{chip}.bin", chip) for chip in ("esp32", "esp32c3")]
        images = [*old, *new]
        for number, chip in enumerate(("esp32", "esp32c3")):
            self.expect(_ask(images, "1.0", dialect="esp32", chip=chip), "newer", new[number])
            self.expect(_ask(images, "1.0", dialect="esp32", sha256=_hash(old[number])), "newer", new[number])
            self.expect(_ask(images, dialect="esp32", sha256=_hash(new[number])), _UP_TO_DATE)
        for dialect in (None, "esp32"):
            for version in (None, "1.0"):
                self.assertEqual(_ask(images, version, dialect=dialect), Withhold("unknown-chip"))
        self.assertEqual(_ask(images, "1.0", dialect="esp8266", chip="esp8266"), Withhold("wrong-chip"))
        self.assertEqual(_ask(images, "1.0", dialect="esp32", chip="esp32s3"), Withhold("wrong-chip"))

    def test_several_chips_above_one(self) -> None:
        """Where a release for several chips stands above one for any, nobody is sent that who may have the newer."""
        old, *new = _sort("lamp-1.0.bin", "esp32"), *(_sort(f"lamp-2.0.{chip}.bin") for chip in ("esp32", "esp32c3"))
        for version, told in ((None, None), (None, _UNKNOWN_HASH), ("1.0", None), ("2.0", None)):
            decision = _ask([old, *new], version, dialect="esp32", md5=told)
            expected = UpToDate() if version == "2.0" else Withhold("unknown-chip")
            self.assertEqual((version, decision), (version, expected))
        self.expect(_ask([old, *new], "0.9", dialect="esp32"), "newer", old)

    def test_address_before_running_image(self) -> None:
        """The chip that the address names counts more than that of the image that runs, the dialect's most of all."""
        images = [_sort(f"lamp-2.0.{chip}.bin", chip) for chip in ("esp32", "esp32c3", "esp8266")]
        running = _sort("lamp-1.0.bin", "esp32")
        decision = _ask([*images, running], "1.0", dialect="esp32", chip="esp32c3", sha256=_hash(running))
        self.expect(decision, "newer", images[1])
        # An ESP8266 can't run an image for the ESP32, whatever its hash says.
        decision = _ask([*images, running], "1.0", dialect="esp8266", chip="esp8266", md5=_hash(running))
        self.expect(decision, "newer", images[2])
        decision = _ask([images[1], running], "1.0", dialect="pico", md5=_hash(images[1]))
        self.assertEqual(decision, Withhold("wrong-chip"))

    def test_chip_of_running_image_for_filesystem(self) -> None:
        """The image that runs tells the chip for a filesystem image, too."""
        running = _sort("lamp-1.0.bin", "esp32c3")
        images = [running, _sort("lamp-2.0.esp32.fs.bin"), _sort("lamp-2.0.esp32c3.fs.bin")]
        decision = _ask(images, "1.0", dialect="esp32", mode=Mode.FILESYSTEM, sha256=_hash(running))
        self.expect(decision, "newer", images[2])
        self.assertEqual(_ask(images, "1.0", dialect="esp32", mode=Mode.FILESYSTEM), Withhold("unknown-chip"))

    def test_one_chip_only(self) -> None:
        """Where a release has an image for one chip of the family only, a device of an unknown chip gets that."""
        images = [make_image("lamp-1.0.esp32c3.bin"), make_image("lamp-1.0.esp8266.bin")]
        self.expect(_ask(images, "0.1", dialect="esp32"), "newer", images[0])
        self.expect(_ask(images, "0.1", dialect="esp8266", chip="esp8266"), "newer", images[1])
        self.assertEqual(_ask(images, "0.1"), Withhold("unknown-chip"))
        self.expect(_ask(images[:1], "0.1"), "newer", images[0])

    def test_unreadable_chip(self) -> None:
        """What is no chip is refused in one line of ASCII, before anything else but the project and the mode."""
        images = [make_image("lamp-1.0.bin")]
        for chip in ("esp9999", "lamp", "é", "\x1b[31m", "a\nb", "x" * 200):
            for dialect in (None, "esp32", "pico"):
                for version in (None, "0.1", "9.9", "nonsense"):
                    decision = _ask(images, version, dialect=dialect, chip=chip)
                    assert isinstance(decision, Refuse)
                    self.assertEqual(decision.reason, "unreadable-chip")
                    self.assertTrue(decision.detail.isascii() and decision.detail.isprintable())
                    self.assertLess(len(decision.detail), 600)
        self.assertEqual(_ask(images, chip="lamp", project="fan").reason, "unknown-project")
        self.assertEqual(_ask(images, chip="lamp", mode=Mode.UNKNOWN).reason, "unknown-mode")

    def test_above_the_best(self) -> None:
        """A newer release that has nothing for a device that runs the best for it is told of, with why."""
        best = _sort("lamp-1.0.bin", "esp32")
        for above, reason in (
            ([_sort("lamp-2.0.bin", "esp32c3")], "wrong-chip"),
            ([_sort("lamp-2.0.bin", "merged")], "not-for-ota"),
            ([_sort("lamp-2.0.bin", "littlefs")], "not-for-ota"),
            ([_sort("lamp-2.0.fs.bin", "littlefs")], _UP_TO_DATE),
            ([_sort("lamp-2.0.bin.gz", "packed-something")], _UP_TO_DATE),
        ):
            with self.subTest(reason):
                expected = UpToDate() if reason == _UP_TO_DATE else Withhold(reason)
                for version, sha256 in (("1.0", None), ("1.5", None), (None, _hash(best)), ("9.9", _hash(best))):
                    decision = _ask([best, *above], version, dialect="esp32", chip="esp32", sha256=sha256)
                    self.assertEqual(decision, expected)
                for version, sha256 in (("2.0", None), ("3.0", None)):
                    decision = _ask([best, *above], version, dialect="esp32", chip="esp32", sha256=sha256)
                    self.assertEqual(decision, UpToDate())
                self.expect(_ask([best, *above], "0.9", dialect="esp32", chip="esp32"), "newer", best)
        above = [make_image(f"lamp-2.0.{chip}.bin") for chip in ("esp32s3", "esp32c3")]
        self.assertEqual(_ask([make_image("lamp-1.0.bin"), *above], "1.0", dialect="esp32"), Withhold("unknown-chip"))


class UnfitTests(DecideCase):
    """Files that can be no update, or none for the client that asks."""

    def test_not_for_ota(self) -> None:
        """What is written to a new device by wire is never sent: the next lower release is."""
        for sort in (*_NOT_FOR_OTA, "littlefs"):
            for dialect, chip in (("esp8266", "esp8266"), ("esp32", None), (None, None), (None, "esp32c3")):
                with self.subTest(sort, dialect=dialect):
                    unfit, old = _sort("lamp-2.0.bin", sort), make_image("lamp-1.0.bin")
                    for version in (None, "0.1", "1.0"):
                        alone = _ask([unfit], version, dialect=dialect, chip=chip)
                        self.assertEqual(alone, Withhold("not-for-ota"))
                    self.expect(_ask([unfit, old], "0.1", dialect=dialect, chip=chip), "newer", old)
                    self.expect(_ask([unfit, old], dialect=dialect, chip=chip), "no-version", old)

    def test_not_arduinos(self) -> None:
        """What would take the place of Arduino's boot loader, or is for other clients, isn't sent to its updaters."""
        running = _sort("lamp-0.9.bin", "esp8266")
        for form in (Format.ESP8266_IMAGE, Format.SIGNED, Format.MCUBOOT, Format.ARDUINO_OTA):
            image = make_image("lamp-1.0.bin")
            image = attrs.evolve(image, facts=attrs.evolve(image.facts, format=form))
            for md5 in (None, _hash(running)):
                decision = _ask([image, running], "0.9", dialect="esp8266", chip="esp8266", md5=md5)
                self.assertEqual((form, decision), (form, Withhold("not-for-ota")))
            self.assertEqual(_ask([image], "0.9", dialect="esp32"), Withhold("not-for-ota"))
            self.expect(_ask([image], "0.9"), "newer", image)

    def test_second_version_for_the_esp8266(self) -> None:
        """An image for Espressif's own boot loader isn't sent to the Arduino core's updater, which would refuse it."""
        image = _sort("lamp-1.0.bin", "esp8266-v2")
        self.assertEqual(_ask([image], "0.1", dialect="esp8266", chip="esp8266"), Withhold("not-for-ota"))
        self.expect(_ask([image], "1.0", dialect="esp8266", chip="esp8266"), _UP_TO_DATE)
        self.expect(_ask([image]), "no-version", image)

    def test_sketch_named_as_filesystem(self) -> None:
        """A program under a filesystem's name is never sent, nor a filesystem under a sketch's."""
        for sort in ("esp8266", "esp32", "esp8266-v2", "merged"):
            decision = _ask([_sort("lamp-1.0.fs.bin", sort)], "0.1", dialect="esp8266", mode=Mode.FILESYSTEM)
            self.assertEqual((sort, decision), (sort, Withhold("not-for-ota")))
        filesystem = _sort("lamp-1.0.fs.bin", "littlefs")
        decision = _ask([filesystem], "0.1", dialect="esp8266", chip="esp8266", mode=Mode.FILESYSTEM)
        self.expect(decision, "newer", filesystem)

    def test_gzip_of_something(self) -> None:
        """A gzip file of what is no program, named as one or as a filesystem, isn't sent to Espressif's chips."""
        sketch, filesystem = (_sort(f"lamp-1.0{tag}.bin", "packed-something") for tag in ("", ".fs"))
        for dialect, chip in (("esp8266", "esp8266"), ("esp32", None), ("esp32", "esp32c3"), (None, "esp32c3")):
            decision = _ask([sketch, filesystem], "0.1", dialect=dialect, chip=chip)
            self.assertEqual((dialect, decision), (dialect, Withhold("not-for-ota")))
            decision = _ask([sketch, filesystem], "0.1", dialect=dialect, chip=chip, mode=Mode.FILESYSTEM)
            self.assertEqual((dialect, decision), (dialect, Withhold("not-for-ota")))
        self.expect(_ask([sketch], "0.1", dialect="pico"), "newer", sketch)


class PackedTests(DecideCase):
    """When a device is sent a gzip file: only where it surely unpacks it."""

    def setUp(self) -> None:
        """Make a project with a sketch that runs, and a newer one with its gzip file."""
        self.old, self.new = _sort("lamp-1.0.bin", "esp8266"), _sort("lamp-1.1.bin", "esp8266", size=9000)
        self.packed = _pack(self.new, 3000)
        self.images = [self.old, self.new, self.packed]
        self.check_in = CheckIn(
            STABLE,
            "lamp",
            "esp8266",
            "esp8266",
            version="1.0",
            free_space=100_000,
            sketch_md5=self.old.facts.sketch_hashes[2],
        )

    def ask(self, images: list[Image] | None = None, **values: Any) -> Decision:
        """Decide, with other values in the check-in."""
        return decide(attrs.evolve(self.check_in, **values), make_catalog(images or self.images))

    def test_all_conditions(self) -> None:
        """Where all holds the gzip file is sent, for the reason that the plain one would be."""
        self.expect(self.ask(), "newer", self.packed)
        self.expect(self.ask(version=None), "newer", self.packed)
        self.expect(self.ask(sketch_md5=self.new.facts.sketch_hashes[2]), _UP_TO_DATE)

    def test_one_condition_less(self) -> None:
        """Where one condition doesn't hold the plain image is sent."""
        old, new, packed = self.images
        other = _sort("door-1.1.bin", "esp8266", size=9000)
        values: dict[str, Any]
        for why, images, values in (
            ("the running image isn't known", [old, new, packed], {"sketch_md5": _UNKNOWN_HASH}),
            ("it is told by its version only", [old, new, packed], {"sketch_md5": None}),
            ("its boot loader is too old", None, {"old": "esp8266-old"}),
            ("the device has another flash mode", [old, new, packed], {"sketch_md5": old.facts.sketch_hashes[3]}),
            ("and another", [old, new, packed], {"sketch_md5": old.facts.sketch_hashes[0]}),
            ("the image has another flash mode", None, {"new": "esp8266-dout"}),
            ("the plain image is signed", None, {"new": "esp8266-signed"}),
            ("the gzip file is signed", [old, new, _pack(new, 3000, signatures=(_SIGNATURE,))], {}),
            ("something stands behind it", [old, new, _pack(new, 3000, trailing=1)], {}),
            ("it holds something else", [old, new, attrs.evolve(_pack(other, 3000), name=packed.name)], {}),
            ("there is none", [old, new], {}),
            ("the free space isn't told", [old, new, packed], {"free_space": None}),
            ("both together don't fit", [old, new, _pack(new, 8000)], {"free_space": 12_288}),
        ):
            with self.subTest(why):
                if images is None:
                    first = _sort("lamp-1.0.bin", str(values.get("old", "esp8266")))
                    second = _sort("lamp-1.1.bin", str(values.get("new", "esp8266")), size=9000)
                    images = [first, second, _pack(second, 3000)]
                    values = {"sketch_md5": first.facts.sketch_hashes[2]}
                self.expect(self.ask(images, **values), "newer", images[1])

    def test_room_for_both(self) -> None:
        """What is unpacked and what it is unpacked from have to fit, with a sector between, in whole sectors."""
        # Running 8000 bytes (2 sectors); the plain one has 9000 (3), the gzip file 3000 (1): 3 + 1 + 1 = 2 + 3.
        for sectors, expected in (
            (5, self.packed),
            (4, self.packed),
            (3, self.packed),
            (2.99, None),
            (1, None),
        ):
            decision = self.ask(free_space=int(sectors * 4096))
            if expected is None:
                self.assertEqual((sectors, decision), (sectors, Withhold("no-space")))
            else:
                self.expect(decision, "newer", expected)
        # A gzip file that doesn't fit by itself isn't sent either, however small the rest is.
        large = _pack(self.new, 8000)
        self.expect(self.ask([self.old, self.new, large], free_space=4 * 4096), "newer", large)
        self.expect(self.ask([self.old, self.new, large], free_space=3 * 4096), "newer", self.new)

    def test_more_than_fits_plain(self) -> None:
        """The compressed size counts: a device gets packed what it has no room for otherwise."""
        new = _sort("lamp-1.1.bin", "esp8266", size=12_289)
        running = attrs.evolve(self.old, facts=attrs.evolve(self.old.facts, esp=_esp(can_unpack=True, end=5 * 4096)))
        packed = _pack(new, 4096)
        images = [running, new, packed]
        self.expect(self.ask(images, free_space=3 * 4096), "newer", packed)
        self.assertEqual(self.ask([running, new], free_space=3 * 4096), Withhold("no-space"))
        self.assertEqual(self.ask(images, free_space=3 * 4096, sketch_md5=None), Withhold("no-space"))

    def test_other_clients(self) -> None:
        """Only an ESP8266 gets it: no ESP32, nobody else, and no filesystem is meant by it."""
        new = _sort("lamp-1.1.bin", "esp32")
        old = _sort("lamp-1.0.bin", "esp32")
        images = [old, new, _pack(new)]
        for dialect in ("esp32", None):
            for md5, sha256 in ((_hash(old), None), (None, old.facts.sha256)):
                decision = self.ask(images, dialect=dialect, chip="esp32", sketch_md5=md5, sketch_sha256=sha256)
                self.expect(decision, "newer", new)
        self.expect(self.ask(dialect=None), "newer", self.new)
        self.assertEqual(self.ask(mode=Mode.FILESYSTEM), Withhold("no-image"))
        filesystem = _sort("lamp-1.1.fs.bin", "littlefs", size=9000)
        images = [*self.images, filesystem, _pack(filesystem)]
        self.expect(self.ask(images, mode=Mode.FILESYSTEM), "newer", filesystem)

    def test_obstacles_hold(self) -> None:
        """What is against the plain image is against the gzip file."""
        self.assertEqual(self.ask(chip_size=1 << 19), Withhold("flash-size"))
        self.assertEqual(self.ask(mode=Mode.VERSION), Announce(self.new, "version-asked"))


_VERSION_TEXTS = st.one_of(
    st.none(),
    st.builds("{}.{}".format, st.integers(0, 2), st.integers(0, 11)),
    st.builds("{}.{}.{}{}".format, st.integers(0, 2), st.integers(0, 11), st.integers(0, 1),
              st.sampled_from(["", "-rc.1", "(lamp)", "(minimal)", "-4-gabc123", ".9", "x"])),
    st.text(max_size=20),
)  # fmt: skip
_CONTENTS = st.sampled_from([b"a", b"b", b"c", b"d", None])
_NAMES = st.builds(
    "{}-{}.{}{}.bin".format,
    st.sampled_from(["lamp", "lamp", "door"]),
    st.integers(0, 2),
    st.integers(0, 11),
    st.sampled_from(["", "", "", ".0", ".fs", ".esp8266", ".esp32", ".esp32c3", ".esp8266.fs"]),
)
_PACKINGS = st.sampled_from(
    [None, None, {}, {}, {"signatures": (_SIGNATURE,)}, {"trailing": 1}]
)  # fmt: skip


def _make(files: dict[tuple[str, str], tuple[bytes | None, int, str, dict[str, Any] | None]]) -> Catalog:
    """Make a catalog of files of several sorts, some of them with their gzip files."""
    images = []
    for (channel, name), (content, size, sort, packing) in files.items():
        image = _sort(name, sort, None if content is None else content + sort.encode(), channel=channel, size=size)
        images.append(image)
        if packing is not None:
            images.append(_pack(image, max(1, size // 3), **packing))
    return make_catalog(images)


_CATALOGS = st.dictionaries(
    st.tuples(st.sampled_from([STABLE, STABLE, "beta"]), _NAMES),
    st.tuples(_CONTENTS, st.integers(1, 20_000), st.sampled_from([*_SORTS, "esp32", "opaque"]), _PACKINGS),
    max_size=8,
).map(_make)
# Of sketches for the ESP8266 alone, where compressing matters.
_SKETCHES = st.dictionaries(
    st.tuples(st.just(STABLE), st.builds("lamp-1.{}.bin".format, st.integers(0, 9))),
    st.tuples(
        _CONTENTS,
        st.integers(1, 20_000),
        st.sampled_from(["esp8266", "esp8266", "esp8266", *(sort for sort in _SORTS if sort.startswith("esp8266"))]),
        _PACKINGS,
    ),
    min_size=2,
    max_size=5,
).map(_make)


@st.composite
def _cases(draw: st.DrawFn) -> tuple[CheckIn, Catalog]:
    """Draw a catalog, and a check-in that has often to do with it."""
    catalog = draw(_SKETCHES | _CATALOGS)
    hashes = st.just(_UNKNOWN_HASH) | st.none()
    if catalog.by_hash:
        hashes |= st.sampled_from(sorted(catalog.by_hash))
    places = [(channel.name, project) for channel in catalog.channels.values() for project in channel.projects]
    channel, project = draw(st.sampled_from([*places, *places, *places, ("alpha", "fan"), ("beta", "lamp")]))
    dialect, chip = draw(
        st.sampled_from(
            [
                ("esp8266", "esp8266"), ("esp8266", "esp8266"), ("esp8266", "esp8266"), (None, None), (None, "esp32c3"),
                (None, "esp8266"), ("esp32", None), ("esp32", "esp32"), ("esp32", "esp32c3"), ("esp32", "esp8266"),
                ("pico", None), ("pico", "rp2040"), ("pico-early", None), ("esp32", "lamp"),
            ]
        )
    )  # fmt: skip
    check_in = CheckIn(
        channel=channel,
        project=project,
        dialect=dialect,
        chip=chip,
        version=draw(_VERSION_TEXTS),
        mode=draw(st.sampled_from([Mode.SKETCH, Mode.SKETCH, Mode.SKETCH, Mode.FILESYSTEM, *Mode])),
        free_space=draw(st.none() | st.integers(0, 40_000)),
        chip_size=draw(st.none() | st.sampled_from([0, 1 << 19, 1 << 20, 1 << 22])),
        sketch_md5=draw(hashes),
        sketch_sha256=draw(st.none() | hashes),
    )
    return check_in, catalog


def _running(check_in: CheckIn, catalog: Catalog) -> list[Image]:
    """Return the images that a device may run by its hashes, the stronger one first, those of its project if any."""
    for sketch_hash in (check_in.sketch_sha256, check_in.sketch_md5):
        images = catalog.by_hash.get(sketch_hash or "", ())
        if images and check_in.mode is not Mode.FILESYSTEM:
            return [image for image in images if image.project == check_in.project] or list(images)
    return []


def _chip(check_in: CheckIn, catalog: Catalog) -> str | None:
    """Return the chip that a device surely has."""
    if check_in.chip is not None:
        return check_in.chip
    for sketch_hash in (check_in.sketch_sha256, check_in.sketch_md5):
        images = catalog.by_hash.get(sketch_hash or "", ())
        if images:
            family = FAMILIES.get(check_in.dialect or "", "")
            chips = [image.facts.chip for image in images if image.facts.chip is not None]
            return next((chip for chip in chips if chip.startswith(family)), None)
    return None


class LawTests(SynchronousTestCase):
    """What holds for every decision."""

    @settings(deadline=None, max_examples=300)
    @given(_cases())
    def test_never_a_downgrade(self, case: tuple[CheckIn, Catalog]) -> None:
        """No image is ever sent that is lower than what the device runs, by its hash or else by what it reports."""
        check_in, catalog = case
        decision = decide(check_in, catalog)
        if not isinstance(decision, Send):
            return
        running = [image.version for image in _running(check_in, catalog)]
        if not running and check_in.version is not None:
            running = [read_reported_version(check_in.version).version]
        for version in running:
            self.assertGreaterEqual(compare(decision.image.version, version), 0)

    @settings(deadline=None, max_examples=300)
    @given(_cases())
    def test_what_is_sent(self, case: tuple[CheckIn, Catalog]) -> None:
        """What is sent or announced is of the project, channel and kind asked for, and isn't what runs already."""
        check_in, catalog = case
        decision = decide(check_in, catalog)
        if not isinstance(decision, Send | Announce):
            return
        image = decision.image
        self.assertIs(catalog.channels[check_in.channel].files[image.file_name], image)
        self.assertEqual(image.project, check_in.project)
        self.assertIs(image.name.kind, Kind.FILESYSTEM if check_in.mode is Mode.FILESYSTEM else Kind.APP)
        if isinstance(decision, Send):
            self.assertIn(check_in.mode, (Mode.SKETCH, Mode.FILESYSTEM))
            if check_in.mode is Mode.SKETCH:
                running = [running.facts.sha256 for running in _running(check_in, catalog)]
                self.assertNotIn(image.facts.core.sha256, running)

    @settings(deadline=None, max_examples=300)
    @given(_cases())
    def test_the_best_is_sent(self, case: tuple[CheckIn, Catalog]) -> None:
        """Whatever is above what is sent can't be sent to this device."""
        check_in, catalog = case
        decision = decide(check_in, catalog)
        if not isinstance(decision, Send | Announce):
            return
        image = decision.image
        for other in catalog.channels[check_in.channel].files.values():
            if (
                (other.project, other.name.kind) == (image.project, image.name.kind)
                and compare(other.version, image.version) > 0
                and not other.compressed
                and other.for_ota
            ):
                family = FAMILIES.get(check_in.dialect or "", "")
                fitting = other.chips <= {_chip(check_in, catalog)} if _chip(check_in, catalog) else False
                self.assertFalse(fitting)
                if other.name.chip is None and _chip(check_in, catalog) is None:
                    self.assertFalse(all(chip.startswith(family) for chip in other.chips))

    @settings(deadline=None, max_examples=500)
    @given(_cases())
    def test_it_can_work(self, case: tuple[CheckIn, Catalog]) -> None:
        """Nothing is sent that can't work: nothing for another chip or for the wire, too large, or of another kind."""
        check_in, catalog = case
        decision = decide(check_in, catalog)
        if not isinstance(decision, Send):
            return
        image = decision.image
        family = FAMILIES.get(check_in.dialect or "", "")
        self.assertTrue(all(chip.startswith(family) for chip in image.chips))
        chip = _chip(check_in, catalog)
        if chip is not None:
            self.assertLessEqual(image.chips, {chip})
        self.assertLessEqual(len(image.chips), 1)
        form = image.facts.core.format
        self.assertNotIn(form, NOT_FOR_OTA)
        self.assertFalse(check_in.dialect == "esp8266" and form is Format.ESP8266_V2)
        esp = image.facts.core.esp
        if esp is not None and esp.flash_size is not None and check_in.chip_size:
            self.assertLessEqual(esp.flash_size, check_in.chip_size)
        if check_in.mode is Mode.FILESYSTEM:
            self.assertNotIn(form, ESP_APPS)
        else:
            self.assertIsNot(form, Format.LITTLEFS)
            if check_in.free_space is not None:
                self.assertLessEqual(image.size, check_in.free_space)
                if check_in.dialect == "esp8266":
                    self.assertLessEqual(-(-image.size // 4096) * 4096, check_in.free_space)

    @settings(deadline=None, max_examples=500)
    @given(_cases())
    def test_gzip_only_where_it_is_unpacked(self, case: tuple[CheckIn, Catalog]) -> None:
        """Of Espressif's chips only an ESP8266 of which all is known gets a gzip file, and never as a filesystem."""
        check_in, catalog = case
        decision = decide(check_in, catalog)
        if not isinstance(decision, Send):
            return
        image = decision.image
        form = image.facts.format
        if form is not Format.GZIP or check_in.dialect in (None, "pico", "pico-early"):
            self.assertFalse(image.name.compressed)
            return
        self.assertEqual((check_in.dialect, check_in.mode), ("esp8266", Mode.SKETCH))
        inner, space = image.facts.inner, check_in.free_space
        assert inner is not None
        assert inner.esp is not None
        assert space is not None
        assert check_in.sketch_md5 is not None
        self.assertEqual((image.facts.signatures, inner.signatures, image.facts.trailing), ((), (), 0))
        self.assertTrue(
            any(
                running.facts.core.esp is not None
                and running.facts.core.esp.can_unpack
                and running.facts.core.sketch_hashes.index(check_in.sketch_md5) == inner.esp.flash_mode
                and inner.size + image.size <= space + -(-running.facts.core.esp.end // 4096) * 4096
                for running in catalog.by_hash[check_in.sketch_md5]
            )
        )

    @settings(deadline=None, max_examples=200)
    @given(_cases())
    def test_pure(self, case: tuple[CheckIn, Catalog]) -> None:
        """The same arguments give the same decision, with a reason that is explained, and change nothing."""
        check_in, catalog = case
        before = attrs.evolve(check_in), dict(catalog.by_hash), {n: c.files for n, c in catalog.channels.items()}
        decision = decide(check_in, catalog)
        self.assertEqual(decide(check_in, catalog), decision)
        self.assertEqual(decide(before[0], Catalog.empty().replace(before[2])), decision)
        self.assertEqual((check_in, catalog.by_hash), before[:2])
        self.assertIn(decision.reason, REASONS)
        self.assertRegex(decision.reason, r"\A[a-z]+(-[a-z]+)*\Z")

    @settings(deadline=None, max_examples=200)
    @given(_cases())
    def test_it_settles(self, case: tuple[CheckIn, Catalog]) -> None:
        """A device that installed what it was sent, and reports so, is up to date: no update goes round in a loop."""
        check_in, catalog = case
        decision = decide(check_in, catalog)
        if isinstance(decision, Send):
            image = decision.image
            by_version = attrs.evolve(check_in, version=str(image.version), sketch_md5=None, sketch_sha256=None)
            self.assertNotIsInstance(decide(by_version, catalog), Send)
            if check_in.mode is Mode.SKETCH and image.facts.sketch_hashes:
                for version in (None, check_in.version):
                    for sketch_hash in image.facts.sketch_hashes:
                        by_hash = attrs.evolve(by_version, version=version, sketch_md5=sketch_hash)
                        self.assertIsInstance(decide(by_hash, catalog), UpToDate | Withhold)

    @settings(deadline=None, max_examples=200)
    @given(st.text(max_size=200))
    def test_any_version_text(self, version: str) -> None:
        """Any text as a version is decided on: refused in one line of ASCII, or compared."""
        image = make_image("lamp-1.0.bin")
        decision = _ask([image], version)
        try:
            reported = read_reported_version(version)
        except VersionError:
            assert isinstance(decision, Refuse)
            self.assertEqual(decision.reason, "unreadable-version")
            self.assertTrue(decision.detail.isascii() and decision.detail.isprintable())
        else:
            self.assertEqual(
                isinstance(decision, Send),
                compare(image.version, reported.version) > 0
                or (
                    compare(image.version, reported.version) == 0
                    and (reported.build_name or "lamp").casefold() != "lamp"
                ),
            )
            self.assertEqual(isinstance(decision, UpToDate), not isinstance(decision, Send))

    @settings(deadline=None, max_examples=300)
    @given(
        st.sampled_from(["esp8266", "esp8266", "esp8266-old", "esp8266-dout"]),
        st.sampled_from(["esp8266", "esp8266", "esp8266-dout", "esp8266-signed"]),
        st.sampled_from([{}, {}, {"trailing": 1}, {"signatures": (_SIGNATURE,)}]),
        st.integers(1, 20_000),
        st.integers(1, 20_000),
        st.sampled_from([2, 2, 3, 0, None]),
        st.none() | st.integers(0, 60_000),
        st.sampled_from(["esp8266", "esp8266", "esp8266", "esp32", None]),
    )
    def test_gzip_wherever_it_is_unpacked(
        self,
        old_sort: str,
        new_sort: str,
        packing: dict[str, Any],
        size: int,
        packed_size: int,
        mode: int | None,
        free_space: int | None,
        dialect: str | None,
    ) -> None:
        """The gzip file is sent if all of the conditions hold, and only then."""
        old, new = _sort("lamp-1.0.bin", old_sort), _sort("lamp-1.1.bin", new_sort, size=size)
        packed = _pack(new, packed_size, **packing)
        md5 = _UNKNOWN_HASH if mode is None else old.facts.sketch_hashes[mode]
        check_in = CheckIn(STABLE, "lamp", dialect, dialect and "esp8266", free_space=free_space, sketch_md5=md5)
        decision = decide(check_in, make_catalog([old, new, packed]))
        space = -1 if free_space is None else free_space
        sectors = -(-size // 4096) + -(-packed_size // 4096) + 1
        unpacked = (
            dialect == "esp8266"
            and old_sort != "esp8266-old"
            and new_sort != "esp8266-signed"
            and not packing
            and packed_size < size
            and mode == (3 if new_sort == "esp8266-dout" else 2)
            and -(-packed_size // 4096) * 4096 <= space
            and sectors * 4096 <= space + 8192
        )
        sent = decision.image if isinstance(decision, Send) else None
        self.assertEqual(sent is packed, unpacked)
        self.assertIn(sent, (packed, new, None))

    def test_reasons_are_explained(self) -> None:
        """Every reason has a meaning, in words."""
        for reason, meaning in REASONS.items():
            self.assertRegex(reason, r"\A[a-z]+(-[a-z]+)*\Z")
            self.assertGreater(len(meaning.split()), 3)
