"""Tests of what is decided for a check-in: tables of the rules of serving, and their laws."""

from __future__ import annotations

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.catalog import STABLE, Catalog, Image
from ota_server.firmware.naming import Kind
from ota_server.firmware.versions import VersionError, compare, read_reported_version
from ota_server.fleet.checkin import CheckIn, Mode
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
    md5: str | None = None,
    sha256: str | None = None,
) -> Decision:
    check_in = CheckIn(channel, project, dialect, chip, None, version, mode, free_space, md5, sha256)
    return decide(check_in, make_catalog(images))


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
            self.expect(_ask(self.images, "1.2", md5=md5, sha256=sha256), _UP_TO_DATE)
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

    def test_chip_by_name(self) -> None:
        """A device gets the image made for its chip, and none that is made for another one."""
        own, other = make_image("lamp-1.0.esp8266.bin"), make_image("lamp-2.0.esp32.bin")
        self.expect(_ask([own, other], "0.1", chip="esp8266"), "newer", own)
        self.expect(_ask([own, other], "1.0", chip="esp8266"), _UP_TO_DATE)
        for chip in ("rp2040", None):
            self.assertEqual(_ask([own, other], "0.1", chip=chip), Withhold("no-image"))

    def test_chip_by_header(self) -> None:
        """An image whose own header says another chip than the device surely has isn't sent, nor asked for again."""
        for dialect, chip, header, sent in (
            ("esp8266", "esp8266", "esp8266", True),
            ("esp8266", "esp8266", "esp32", False),
            ("esp8266", "esp8266", None, True),
            ("esp32", None, "esp32", True),
            ("esp32", None, "esp32s3", True),
            ("esp32", None, "esp8266", False),
            ("esp32", None, None, True),
            ("pico", None, "esp8266", False),
            ("pico", None, "esp32c3", False),
            ("pico", None, None, True),
            (None, None, "esp32", True),
            (None, None, "esp8266", True),
        ):
            with self.subTest(dialect, header=header):
                old, image = make_image("lamp-0.9.bin"), make_image("lamp-1.0.bin", chip=header)
                for version, md5 in ((None, None), ("0.1", None), ("1.0(minimal)", None), ("0.9", _hash(old))):
                    decision = _ask([old, image], version, dialect=dialect, chip=chip, md5=md5)
                    if sent:
                        assert isinstance(decision, Send)
                        self.assertIs(decision.image, image)
                    else:
                        self.assertEqual(decision, Withhold("wrong-chip"))
                self.expect(_ask([image], "1.0", dialect=dialect, chip=chip), _UP_TO_DATE)

    def test_wrong_chip_before_no_space(self) -> None:
        """An image that is for another chip and too large besides is said to be for another chip."""
        image = make_image("lamp-1.0.bin", chip="esp32", size=1000)
        decision = _ask([image], "0.1", dialect="esp8266", chip="esp8266", free_space=1)
        self.assertEqual(decision, Withhold("wrong-chip"))


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
    st.sampled_from(["lamp", "door"]),
    st.integers(0, 2),
    st.integers(0, 11),
    st.sampled_from(["", ".0", ".fs", ".esp8266", ".esp32", ".esp8266.fs"]),
)
_CATALOGS = st.dictionaries(
    st.tuples(st.sampled_from([STABLE, "beta"]), _NAMES),
    st.tuples(_CONTENTS, st.integers(0, 1000), st.sampled_from([None, None, "esp8266", "esp32", "esp32s3"])),
    max_size=8,
).map(
    lambda files: make_catalog(
        make_image(name, content, channel=channel, size=size, chip=chip)
        for (channel, name), (content, size, chip) in files.items()
    )
)


@st.composite
def _cases(draw: st.DrawFn) -> tuple[CheckIn, Catalog]:
    """Draw a catalog, and a check-in that has often to do with it."""
    catalog = draw(_CATALOGS)
    hashes = st.none() | st.just(_UNKNOWN_HASH)
    if catalog.by_hash:
        hashes |= st.sampled_from(sorted(catalog.by_hash))
    dialect, chip = draw(st.sampled_from([(None, None), ("esp8266", "esp8266"), ("esp32", None), ("pico", None)]))
    check_in = CheckIn(
        channel=draw(st.sampled_from([STABLE, "beta", "alpha"])),
        project=draw(st.sampled_from(["lamp", "door", "fan"])),
        dialect=dialect,
        chip=chip,
        version=draw(_VERSION_TEXTS),
        mode=draw(st.sampled_from([Mode.SKETCH, *Mode])),
        free_space=draw(st.none() | st.integers(0, 1000)),
        sketch_md5=draw(hashes),
        sketch_sha256=draw(hashes),
    )
    return check_in, catalog


def _running(check_in: CheckIn, catalog: Catalog) -> list[Image]:
    """Return the images that a device may run by its hashes, the stronger one first, those of its project if any."""
    for sketch_hash in (check_in.sketch_sha256, check_in.sketch_md5):
        images = catalog.by_hash.get(sketch_hash or "", ())
        if images and check_in.mode is not Mode.FILESYSTEM:
            return [image for image in images if image.project == check_in.project] or list(images)
    return []


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
        """What is sent or announced is the best image of what was asked for, and it fits the device."""
        check_in, catalog = case
        decision = decide(check_in, catalog)
        if not isinstance(decision, Send | Announce):
            return
        image = decision.image
        self.assertIs(catalog.channels[check_in.channel].files[image.file_name], image)
        self.assertEqual(image.project, check_in.project)
        self.assertIs(image.name.kind, Kind.FILESYSTEM if check_in.mode is Mode.FILESYSTEM else Kind.APP)
        self.assertIn(image.name.chip, (None, check_in.chip))
        for other in catalog.channels[check_in.channel].files.values():
            if (other.project, other.name.kind) == (image.project, image.name.kind) and other.name.chip in (
                None,
                check_in.chip,
            ):
                self.assertLessEqual(compare(other.version, image.version), 0)
        if isinstance(decision, Send):
            self.assertIn(check_in.mode, (Mode.SKETCH, Mode.FILESYSTEM))
            if check_in.dialect is not None and image.facts.chip is not None:
                self.assertTrue(image.facts.chip.startswith(check_in.chip or "esp32"))
            if check_in.mode is Mode.SKETCH:
                self.assertLessEqual(image.size, 1000 if check_in.free_space is None else check_in.free_space)
                running = [running.facts.sha256 for running in _running(check_in, catalog)]
                self.assertNotIn(image.facts.sha256, running)

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
            self.assertEqual(decide(by_version, catalog), UpToDate())
            if check_in.mode is Mode.SKETCH:
                for version in (None, check_in.version):
                    by_hash = attrs.evolve(by_version, version=version, sketch_md5=image.facts.md5)
                    self.assertEqual(decide(by_hash, catalog), UpToDate())

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

    def test_reasons_are_explained(self) -> None:
        """Every reason has a meaning, in words."""
        for reason, meaning in REASONS.items():
            self.assertRegex(reason, r"\A[a-z]+(-[a-z]+)*\Z")
            self.assertGreater(len(meaning.split()), 3)
