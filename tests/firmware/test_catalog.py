"""Tests of the catalog: which image is best, and snapshots that share what is as it was."""

from __future__ import annotations

from itertools import permutations
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from semver import Version
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.catalog import STABLE, Catalog, Channel, Image, Project
from ota_server.firmware.facts import Format, Scheme, Signature
from ota_server.firmware.naming import CHIPS, FileName, Kind, parse_file_name
from ota_server.firmware.versions import compare
from tests.firmware.samples import make_catalog, make_image, read_as_image, spell
from tests.images import compress, esp32_image, esp8266_image, zoo

_SMALL_NAMES = st.builds(
    FileName,
    st.just("lamp"),
    st.builds(Version, st.integers(0, 2), st.integers(0, 11), st.integers(0, 1)),
    st.sampled_from(Kind),
    st.none() | st.sampled_from(["esp32", "esp8266"]),
    st.booleans(),
)
_SPELLED = st.builds(
    lambda name, patch, chip_first: spell(name, patch=patch, chip_first=chip_first),
    _SMALL_NAMES,
    st.booleans(),
    st.booleans(),
)

_CHIPS = st.sampled_from([None, "esp32", "esp8266", "esp32s3", "rp2040"])


def _make(name: str, content: bytes, chip: str | None, form: Format, inner: bytes | None) -> Image:
    if inner is not None:
        return _gzip(name, make_image("lamp-1.0.bin", inner, chip=chip, format=form))
    return make_image(name, content, chip=chip, format=form)


_CONTENTS = st.sampled_from([b"one", b"two", b"three"])
_IMAGES = st.lists(
    st.builds(
        _make,
        _SPELLED,
        _CONTENTS,
        st.sampled_from([None, None, "esp32", "esp8266"]),
        st.sampled_from([Format.OPAQUE, Format.OPAQUE, Format.ESP32_APP, Format.MERGED, Format.LITTLEFS]),
        st.none() | _CONTENTS,
    ),
    max_size=8,
    unique_by=lambda image: image.file_name,
)

# One step of a folder's life: in a channel, a file comes (with bytes that other files may have too) or goes.
_STEPS = st.lists(
    st.tuples(
        st.sampled_from([STABLE, "beta", "alpha"]),
        st.sampled_from(["a-1.0.bin", "a-1.0.0.bin", "a-1.1.bin", "b-1.0.bin", "b-1.0.fs.bin"]),
        st.none() | st.lists(st.sampled_from("wxyz"), max_size=3, unique=True).map(tuple),
    ),
    max_size=12,
)


def _project(*file_names: str) -> Project:
    return Project.of_images("lamp", [make_image(name) for name in file_names])


def _best(project: Project, kind: Kind = Kind.APP, chip: str | None = None, family: str = "") -> str | None:
    image = project.choose(kind, chip, family).image
    return image.file_name if image else None


def _withheld(project: Project, *wanted: Any) -> tuple[str, str] | None:
    """Return what stands above the best image and why that isn't it, or None where there is nothing."""
    choice = project.choose(*wanted)
    return None if choice.withheld is None or choice.reason is None else (str(choice.withheld), choice.reason)


def _gzip(file_name: str, plain: Image, **more: Any) -> Image:
    """Return an image of the catalog that is a gzip file of a plain one."""
    return make_image(file_name, sketch_hashes=(), chip=plain.facts.chip, format=Format.GZIP, inner=plain.facts, **more)


class ImageTests(SynchronousTestCase):
    """What an image tells of itself."""

    def test_shortcuts(self) -> None:
        """Project, version and size are those of the file's name and of its facts."""
        image = make_image("my-lamp-1.2.fs.bin", b"12345")
        self.assertEqual((image.project, image.version, image.size), ("my-lamp", Version(1, 2, 0), 5))
        self.assertEqual(image.name, parse_file_name("my-lamp-1.2.fs.bin"))

    def test_chips(self) -> None:
        """The chips of an image are those of its name and of its bytes, which may say none, one or two."""
        for name, chip, chips in (
            ("lamp-1.0.bin", None, set()),
            ("lamp-1.0.esp32.bin", None, {"esp32"}),
            ("lamp-1.0.bin", "esp32", {"esp32"}),
            ("lamp-1.0.esp32.bin", "esp32", {"esp32"}),
            ("lamp-1.0.esp32.bin", "esp32s3", {"esp32", "esp32s3"}),
        ):
            with self.subTest(name, chip=chip):
                self.assertEqual(make_image(name, chip=chip).chips, chips)

    def test_compressed(self) -> None:
        """Compressed is what is named so, and a gzip file for a chip of Espressif's by any name."""
        sketch, unknown = make_image("lamp-1.0.bin", chip="esp8266"), make_image("lamp-1.0.bin")
        for image, compressed in (
            (sketch, False),
            (make_image("lamp-1.0.bin.gz"), True),
            (_gzip("lamp-1.0.bin.gz", sketch), True),
            (_gzip("lamp-1.0.bin", sketch), True),
            (_gzip("lamp-1.0.bin", unknown), False),
            (_gzip("lamp-1.0.bin.gz", unknown), True),
        ):
            self.assertIs(image.compressed, compressed, image)

    def test_for_ota(self) -> None:
        """Boot loaders, merged images and the like are no updates, nor is a file of the other kind than its name's."""
        boot = {"bootloader", "merged", "table", "data"}
        for sort, data in zoo().items():
            as_sketch, as_files = (read_as_image(f"lamp-1.0{tag}.bin", data) for tag in ("", ".fs"))
            with self.subTest(sort):
                self.assertIs(as_sketch.for_ota, not boot & set(sort.split("-")))
                program = sort.startswith("esp") and not boot & set(sort.split("-"))
                self.assertIs(as_files.for_ota, sort in ("mcuboot", "mcuboot-signed", "arduino-ota") and not program)
        for name, form, for_ota in (
            ("lamp-1.0.bin", Format.LITTLEFS, False),
            ("lamp-1.0.fs.bin", Format.LITTLEFS, True),
            ("lamp-1.0.bin", Format.OPAQUE, True),
            ("lamp-1.0.fs.bin", Format.OPAQUE, True),
        ):
            with self.subTest(name, form=form):
                image = make_image(name, format=form)
                self.assertIs(image.for_ota, for_ota)
                self.assertIs(_gzip(f"{name}.gz", image).for_ota, for_ota)


class ProjectTests(SynchronousTestCase):
    """Which image of a project is best."""

    def test_best_has_highest_precedence(self) -> None:
        """The image of the highest version is best, by numbers and not by letters."""
        for names, best in (
            (("lamp-1.9.bin", "lamp-1.10.bin"), "lamp-1.10.bin"),
            (("lamp-1.0.9.bin", "lamp-1.0.10.bin", "lamp-1.0.bin"), "lamp-1.0.10.bin"),
            (("lamp-9.9.9.bin", "lamp-10.0.bin"), "lamp-10.0.bin"),
            (("lamp-0.1.bin",), "lamp-0.1.bin"),
        ):
            for order in permutations(names):
                project = _project(*order)
                self.assertEqual(_best(project), best)
                self.assertIsNone(_withheld(project))

    def test_fully_spelled_name_first(self) -> None:
        """Of two names of one version the fully spelled one is offered."""
        for order in permutations(["lamp-1.2.bin", "lamp-1.2.0.bin", "lamp-1.1.99.bin"]):
            project = _project(*order)
            self.assertEqual(_best(project), "lamp-1.2.0.bin")
            self.assertEqual(len(project.releases), 2)

    def test_releases(self) -> None:
        """Releases are in the order of precedence, highest first, each with all images of its version."""
        names = ["lamp-1.0.bin", "lamp-1.10.bin", "lamp-1.9.bin", "lamp-1.9.fs.bin", "lamp-1.9.0.esp32.bin"]
        project = _project(*names)
        self.assertEqual(
            [(str(release.version), {image.file_name for image in release.images}) for release in project.releases],
            [("1.10.0", {names[1]}), ("1.9.0", {names[2], names[3], names[4]}), ("1.0.0", {names[0]})],
        )

    def test_release(self) -> None:
        """A release is found by its version, and there is none of another one."""
        project = _project("lamp-1.0.bin", "lamp-1.1.bin")
        release = project.release(Version(1, 0, 0))
        assert release is not None
        self.assertEqual([image.file_name for image in release.images], ["lamp-1.0.bin"])
        self.assertIsNone(project.release(Version(1, 0, 1)))

    def test_below(self) -> None:
        """The releases below a version, which need not be there itself, are told from the highest on."""
        project = _project("lamp-1.0.bin", "lamp-1.1.bin", "lamp-1.10.bin")
        for version, below in (
            (Version(0, 9, 0), []),
            (Version(1, 0, 0), []),
            (Version(1, 0, 1), ["1.0.0"]),
            (Version(1, 10, 0), ["1.1.0", "1.0.0"]),
            (Version(2, 0, 0), ["1.10.0", "1.1.0", "1.0.0"]),
        ):
            with self.subTest(version):
                self.assertEqual([str(release.version) for release in project.below(version)], below)

    def test_kinds(self) -> None:
        """A sketch is never answered with a filesystem, nor the other way round, however new."""
        project = _project("lamp-1.0.bin", "lamp-2.0.fs.bin")
        self.assertEqual(_best(project), "lamp-1.0.bin")
        self.assertEqual(_best(project, Kind.FILESYSTEM), "lamp-2.0.fs.bin")
        for name, kind in (("lamp-1.0.bin", Kind.FILESYSTEM), ("lamp-1.0.fs.bin", Kind.APP)):
            self.assertIsNone(_best(_project(name), kind))
            self.assertIsNone(_withheld(_project(name), kind))
        # Nothing is withheld where there is nothing of that kind.
        self.assertIsNone(_withheld(project))

    def test_chips(self) -> None:
        """A chip gets the image made for it, else the one for all chips, and never that of another chip."""
        project = _project("lamp-1.0.bin", "lamp-1.0.esp32.bin", "lamp-1.1.esp8266.bin", "lamp-0.9.rp2040.bin")
        for chip, best, withheld in (
            ("esp32", "lamp-1.0.esp32.bin", ("1.1.0", "wrong-chip")),
            ("esp8266", "lamp-1.1.esp8266.bin", None),
            ("rp2040", "lamp-1.0.bin", ("1.1.0", "wrong-chip")),
            ("esp32s3", "lamp-1.0.bin", ("1.1.0", "wrong-chip")),
        ):
            with self.subTest(chip):
                self.assertEqual(_best(project, chip=chip), best)
                self.assertEqual(_withheld(project, Kind.APP, chip), withheld)
        one = _project("lamp-1.0.esp32.bin")
        self.assertIsNone(_best(one, chip="esp8266"))
        self.assertEqual(_withheld(one, Kind.APP, "esp8266"), ("1.0.0", "wrong-chip"))

    def test_chips_by_bytes(self) -> None:
        """A chip in the image counts as one in the name, and where the two disagree no device gets it."""
        for name, inside, chip, reason in (
            ("lamp-1.0.bin", "esp32", "esp32", None),
            ("lamp-1.0.bin", "esp32", "esp32s3", "wrong-chip"),
            ("lamp-1.0.esp32.bin", "esp32", "esp32", None),
            ("lamp-1.0.esp32.bin", "esp32s3", "esp32", "wrong-chip"),
            ("lamp-1.0.esp32.bin", "esp32s3", "esp32s3", "wrong-chip"),
            ("lamp-1.0.esp32.bin", "esp32s3", None, "wrong-chip"),
            ("lamp-1.0.bin", None, "esp32", None),
        ):
            with self.subTest(name, inside=inside, chip=chip):
                choice = Project.of_images("lamp", [make_image(name, chip=inside)]).choose(Kind.APP, chip)
                self.assertEqual((choice.image is None, choice.reason), (reason is not None, reason))

    def test_best_of_those_that_fit(self) -> None:
        """Of one release that is best whose name says the chip, then one whose bytes do, then one that says none."""
        names = ("lamp-1.0.esp32.bin", "lamp-1.0.0.bin", "lamp-1.0.bin")
        images = [make_image(names[0]), make_image(names[2], chip="esp32"), make_image(names[1])]
        for start in range(3):
            for order in permutations(images[start:]):
                self.assertIs(Project.of_images("lamp", order).choose(Kind.APP, "esp32").image, images[start])

    def test_unknown_chip(self) -> None:
        """A device of unknown chip gets what names no chip, else what is for one chip only; of several it gets none."""
        for names, family, best, withheld in (
            (("lamp-1.0.bin", "lamp-1.0.esp32.bin"), "esp32", "lamp-1.0.bin", None),
            (("lamp-1.0.esp32.bin",), "", "lamp-1.0.esp32.bin", None),
            (("lamp-1.0.esp32.bin",), "esp32", "lamp-1.0.esp32.bin", None),
            (("lamp-1.0.esp32.bin",), "rp2", None, ("1.0.0", "wrong-chip")),
            (("lamp-1.0.esp32.bin", "lamp-1.0.esp8266.bin"), "esp32", "lamp-1.0.esp32.bin", None),
            (("lamp-1.0.esp32.bin", "lamp-1.0.esp8266.bin"), "", None, ("1.0.0", "unknown-chip")),
            (("lamp-1.0.esp32.bin", "lamp-1.0.esp32s3.bin"), "esp32", None, ("1.0.0", "unknown-chip")),
            (("lamp-0.9.bin", "lamp-1.0.esp32.bin", "lamp-1.0.esp32c3.bin"), "esp32", "lamp-0.9.bin",
             ("1.0.0", "unknown-chip")),
        ):  # fmt: skip
            with self.subTest(names, family=family):
                project = _project(*names)
                self.assertEqual(_best(project, Kind.APP, None, family), best)
                self.assertEqual(_withheld(project, Kind.APP, None, family), withheld)

    def test_not_for_ota(self) -> None:
        """What can't be an update is never best; it is withheld, and an older update stands in for it."""
        update = make_image("lamp-1.0.bin", chip="esp32")
        merged = make_image("lamp-1.1.bin", format=Format.MERGED)
        project = Project.of_images("lamp", [update, merged])
        for wanted in ((Kind.APP, "esp32"), (Kind.APP, None, "esp32"), (Kind.APP,)):
            choice = project.choose(*wanted)
            self.assertIs(choice.image, update)
            self.assertEqual((choice.withheld, choice.reason), (merged.version, "not-for-ota"))
        alone = Project.of_images("lamp", [merged]).choose()
        self.assertEqual((alone.image, alone.withheld, alone.reason), (None, merged.version, "not-for-ota"))

    def test_not_for_ota_beside_an_update(self) -> None:
        """A merged image that stands beside an update of the same version doesn't keep that from being offered."""
        merged = make_image("lamp-1.0.0.bin", format=Format.MERGED)
        project = Project.of_images("lamp", [merged, make_image("lamp-1.0.bin")])
        self.assertEqual((_best(project), _withheld(project)), ("lamp-1.0.bin", None))

    def test_other_kind_inside(self) -> None:
        """A program named as a filesystem, and a filesystem named as a sketch, are sent to nobody."""
        app = read_as_image("lamp-1.0.fs.bin", esp32_image())
        files = make_image("lamp-1.0.bin", format=Format.LITTLEFS)
        project = Project.of_images("lamp", [app, files])
        for kind in Kind:
            choice = project.choose(kind, "esp32")
            self.assertEqual((choice.image, choice.reason), (None, "not-for-ota"))

    def test_highest_withheld(self) -> None:
        """Of several releases above the best one the highest that has something of the kind is told, and why."""
        project = Project.of_images(
            "lamp",
            [
                make_image("lamp-1.0.bin"),
                make_image("lamp-1.1.bin", format=Format.MERGED),
                make_image("lamp-1.2.esp8266.bin"),
                make_image("lamp-1.3.fs.bin"),
            ],
        )
        self.assertEqual(_withheld(project, Kind.APP, "esp32"), ("1.2.0", "wrong-chip"))
        self.assertEqual(_best(project, Kind.APP, "esp32"), "lamp-1.0.bin")

    def test_compressed(self) -> None:
        """A compressed image is never best by itself; beside the plain file of its bytes it is told along with that."""
        self.assertEqual(_best(_project("lamp-1.0.bin", "lamp-1.1.bin.gz")), "lamp-1.0.bin")
        self.assertIsNone(_withheld(_project("lamp-1.0.bin", "lamp-1.1.bin.gz")))
        self.assertIsNone(_best(_project("lamp-1.0.bin.gz")))
        plain = make_image("lamp-1.0.bin", chip="esp8266")
        other = make_image("lamp-1.0.bin", b"other", chip="esp8266")
        signature = Signature(Scheme.ESP8266, 10, 260, "", "")
        for packed, offered in (
            (_gzip("lamp-1.0.bin.gz", plain), True),
            (_gzip("lamp-1.0.esp8266.bin.gz", plain), True),
            (_gzip("lamp-1.0.0.bin", plain), True),
            (_gzip("lamp-1.0.bin.gz", other), False),
            (_gzip("lamp-1.0.fs.bin.gz", plain), False),
            (_gzip("lamp-1.1.bin.gz", plain), False),
            (_gzip("lamp-1.0.bin.gz", plain, trailing=1), False),
            (_gzip("lamp-1.0.bin.gz", plain, signatures=(signature,)), False),
            (make_image("lamp-1.0.bin.gz"), False),
        ):
            with self.subTest(packed):
                choice = Project.of_images("lamp", [plain, packed]).choose(Kind.APP, "esp8266")
                self.assertIs(choice.image, plain)
                self.assertIs(choice.compressed, packed if offered else None)

    def test_real_gzip(self) -> None:
        """A gzip file of a sketch is told along with that, a signed one isn't."""
        data = esp8266_image()
        plain = read_as_image("lamp-1.0.bin", data)
        packed = read_as_image("lamp-1.0.bin.gz", compress(data))
        signed = read_as_image("lamp-1.0.bin.gz", zoo()["esp8266-sketch-gzip-signed"])
        self.assertIs(Project.of_images("lamp", [packed, plain]).choose().compressed, packed)
        self.assertIsNone(Project.of_images("lamp", [signed, plain]).choose().compressed)

    def test_answer_stays(self) -> None:
        """Asked again, a project gives the same answer, also where it has none."""
        project = _project("lamp-1.0.bin")
        self.assertIs(project.choose(Kind.APP, "esp32"), project.choose(Kind.APP, "esp32"))
        for _ in range(2):
            self.assertIsNone(project.choose(Kind.FILESYSTEM).image)

    @settings(deadline=None, max_examples=200)
    @given(_IMAGES, st.sampled_from(Kind), _CHIPS, st.sampled_from(["", "esp32", "esp8266", "rp2"]))
    def test_best_of_any(self, images: list[Image], kind: Kind, chip: str | None, family: str) -> None:
        """The best image is one that fits, none that surely fits is higher, and what is withheld is above it."""
        choice = Project.of_images("lamp", images).choose(kind, chip, family)
        able = [i for i in images if i.name.kind is kind and not i.compressed and i.for_ota]
        if chip is not None:
            fitting = [image for image in able if image.chips <= {chip}]
            sure = fitting
        else:
            fitting = [i for i in able if len(i.chips) < 2 and all(each.startswith(family) for each in i.chips)]
            sure = [image for image in fitting if image.name.chip is None]
        best = choice.image
        if best is None:
            self.assertEqual((sure, choice.compressed), ([], None))
        else:
            self.assertIn(best, fitting)
            self.assertTrue(all(compare(image.version, best.version) <= 0 for image in sure))
        self.assertEqual(choice.withheld is None, choice.reason is None)
        if choice.withheld is not None:
            self.assertIn(choice.reason, ("wrong-chip", "unknown-chip", "not-for-ota"))
            above = [i for i in images if i.version == choice.withheld and i.name.kind is kind and not i.compressed]
            self.assertNotEqual(above, [])
            self.assertEqual(choice.reason == "not-for-ota", not any(image.for_ota for image in above))
            if best is not None:
                self.assertGreater(compare(choice.withheld, best.version), 0)
        elif best is None:
            self.assertEqual([i for i in images if i.name.kind is kind and not i.compressed], [])

    @settings(deadline=None)
    @given(_IMAGES, st.sampled_from(Kind), _CHIPS, st.sampled_from(["", "esp32"]))
    @example([make_image("lamp-1.0.esp32.fs.bin"), make_image("lamp-1.0.fs.esp32.bin")], Kind.FILESYSTEM, "esp32", "")
    def test_order_of_files(self, images: list[Image], kind: Kind, chip: str | None, family: str) -> None:
        """The order in which files are listed, which no filesystem promises, changes nothing of what is chosen."""
        one, other = (Project.of_images("lamp", order).choose(kind, chip, family) for order in (images, images[::-1]))
        self.assertIs(one.image, other.image)
        self.assertIs(one.compressed, other.compressed)
        self.assertEqual((one.withheld, one.reason), (other.withheld, other.reason))

    @settings(deadline=None)
    @given(st.lists(_SPELLED, max_size=8, unique=True))
    def test_releases_of_any(self, file_names: list[str]) -> None:
        """Every image is in exactly one release, that of its version, and releases go strictly downwards."""
        images = [make_image(name) for name in file_names]
        project = Project.of_images("lamp", images)
        listed = [image for release in project.releases for image in release.images]
        self.assertEqual(sorted(map(id, listed)), sorted(map(id, images)))
        for release in project.releases:
            self.assertEqual({image.version for image in release.images}, {release.version})
            lower = [each for each in project.releases if compare(each.version, release.version) < 0]
            self.assertEqual([*project.below(release.version)], lower)
        for one, next_one in zip(project.releases, project.releases[1:], strict=False):
            self.assertGreater(compare(one.version, next_one.version), 0)

    @settings(deadline=None)
    @given(_IMAGES)
    def test_twins(self, images: list[Image]) -> None:
        """The twins of an image are those with the very same bytes, itself among them."""
        project = Project.of_images("lamp", images)
        if len(project.releases) < 2:
            return
        for image in images:
            expected = {other for other in images if other.facts.sha256 == image.facts.sha256}
            self.assertEqual(set(project.twins(image)), expected)


class CatalogTests(SynchronousTestCase):
    """Snapshots of the folder."""

    def test_empty(self) -> None:
        """An empty catalog has the stable channel, and nothing in it."""
        catalog = Catalog.empty()
        self.assertEqual(len(catalog), 0)
        self.assertEqual(set(catalog.channels), {STABLE})
        self.assertIsNone(catalog.project(STABLE, "lamp"))

    def test_project(self) -> None:
        """A project is found by channel and name, and None says that either is unknown."""
        catalog = make_catalog([make_image("lamp-1.0.bin"), make_image("lamp-2.0.bin", channel="beta")])
        self.assertEqual(len(catalog), 2)
        for channel, best in ((STABLE, "lamp-1.0.bin"), ("beta", "lamp-2.0.bin")):
            project = catalog.project(channel, "lamp")
            assert project is not None
            self.assertEqual(_best(project), best)
        self.assertIsNone(catalog.project("alpha", "lamp"))
        self.assertIsNone(catalog.project("beta", "firmware"))

    def test_files(self) -> None:
        """A channel finds its images by the names of their files."""
        image = make_image("lamp-1.0.bin", channel="beta")
        catalog = make_catalog([image])
        self.assertIs(catalog.channels["beta"].files["lamp-1.0.bin"], image)
        self.assertEqual(catalog.channels[STABLE].files, {})

    def test_replace_shares_what_is_as_it_was(self) -> None:
        """A new snapshot has the very projects and channels that didn't change."""
        lamp, door, beta = make_image("lamp-1.0.bin"), make_image("door-1.0.bin"), make_image("x-1.0.bin", channel="b")
        before = make_catalog([lamp, door, beta])
        newer = make_image("lamp-1.1.bin")
        after = before.replace({STABLE: {i.file_name: i for i in (lamp, door, newer)}, "b": {"x-1.0.bin": beta}})
        self.assertIs(after.project(STABLE, "door"), before.project(STABLE, "door"))
        self.assertIs(after.channels["b"], before.channels["b"])
        self.assertIsNot(after.project(STABLE, "lamp"), before.project(STABLE, "lamp"))
        self.assertEqual(len(before), 3)
        self.assertIs(after.channels[STABLE].projects["lamp"].choose().image, newer)
        self.assertIs(before.channels[STABLE].projects["lamp"].choose().image, lamp)

    def test_replace_drops(self) -> None:
        """A project whose last image went is no more, and so is a channel, but for the stable one."""
        lamp, beta = make_image("lamp-1.0.bin"), make_image("lamp-1.1.bin", channel="beta")
        catalog = make_catalog([lamp, beta]).replace({STABLE: {"lamp-1.0.bin": lamp}})
        self.assertEqual(set(catalog.channels), {STABLE})
        self.assertNotIn(beta.facts.md5, catalog.by_hash)
        catalog = catalog.replace({})
        self.assertEqual(catalog.channels[STABLE].projects, {})
        self.assertEqual((len(catalog), catalog.by_hash), (0, {}))

    def test_image(self) -> None:
        """An image is found by channel and file name, and None says that either is unknown."""
        lamp, beta = make_image("lamp-1.0.bin"), make_image("lamp-1.0.bin", channel="beta")
        catalog = make_catalog([lamp, beta])
        self.assertIs(catalog.image(STABLE, "lamp-1.0.bin"), lamp)
        self.assertIs(catalog.image("beta", "lamp-1.0.bin"), beta)
        self.assertIsNone(catalog.image("alpha", "lamp-1.0.bin"))
        self.assertIsNone(catalog.image(STABLE, "lamp-1.0.0.bin"))

    def test_replaced_file(self) -> None:
        """A file with new bytes is found by its new hashes, and no more by its old ones."""
        old, new = make_image("lamp-1.0.bin", b"old"), make_image("lamp-1.0.bin", b"new")
        before = make_catalog([old])
        after = before.replace({STABLE: {"lamp-1.0.bin": new}})
        self.assertEqual(after.by_hash, {new.facts.md5: (new,), new.facts.sha256: (new,)})
        self.assertEqual(before.by_hash, {old.facts.md5: (old,), old.facts.sha256: (old,)})

    def test_same_bytes(self) -> None:
        """Files with the same bytes are all found by their hash, and the rest of them when one goes."""
        one, two = make_image("lamp-1.0.bin", b"same"), make_image("lamp-1.1.bin", b"same")
        beta = make_image("door-1.0.bin", b"same", channel="beta")
        catalog = make_catalog([one, two, beta])
        self.assertEqual(set(catalog.by_hash[one.facts.md5]), {one, two, beta})
        catalog = catalog.replace({STABLE: {"lamp-1.1.bin": two}, "beta": {"door-1.0.bin": beta}})
        self.assertEqual(set(catalog.by_hash[one.facts.md5]), {two, beta})

    @settings(deadline=None, max_examples=150)
    @given(st.lists(_STEPS, max_size=6))
    def test_replace_is_a_rebuild(self, life: list[list[tuple[str, str, tuple[str, ...] | None]]]) -> None:
        """After any series of changes a catalog is what one made from scratch of the same images would be."""
        catalog = Catalog.empty()
        files: dict[str, dict[str, Image]] = {}
        for steps in life:
            files = {channel: dict(images) for channel, images in files.items()}
            for channel, name, hashes in steps:
                if hashes is None:
                    files.get(channel, {}).pop(name, None)
                else:
                    files.setdefault(channel, {})[name] = make_image(name, channel=channel, sketch_hashes=hashes)
            before, catalog = catalog, catalog.replace(files)
            self._check_rebuilt(catalog, files)
            self._check_shared(before, catalog)

    def _check_rebuilt(self, catalog: Catalog, files: dict[str, dict[str, Image]]) -> None:
        images = [image for channel in files.values() for image in channel.values()]
        by_hash: dict[str, set[Image]] = {}
        for image in images:
            for sketch_hash in image.facts.sketch_hashes:
                by_hash.setdefault(sketch_hash, set()).add(image)
        self.assertEqual({key: set(found) for key, found in catalog.by_hash.items()}, by_hash)
        self.assertEqual([len(found) for found in catalog.by_hash.values()],
                         [len(by_hash[key]) for key in catalog.by_hash])  # fmt: skip
        self.assertEqual(len(catalog), len(images))
        self.assertEqual(set(catalog.channels), {STABLE} | {name for name, channel in files.items() if channel})
        for name, channel in catalog.channels.items():
            self.assertEqual(channel.name, name)
            self.assertEqual(channel.files, files.get(name, {}))
            self.assertEqual(set(channel.projects), {image.project for image in channel.files.values()})
            for project in channel.projects.values():
                listed = {image for release in project.releases for image in release.images}
                self.assertEqual(listed, {image for image in channel.files.values() if image.project == project.name})

    def _check_shared(self, before: Catalog, after: Catalog) -> None:
        for name, channel in after.channels.items():
            old = before.channels.get(name, Channel(name, {}, {}))
            for project in channel.projects:
                mine = {file: image for file, image in channel.files.items() if image.project == project}
                theirs = {file: image for file, image in old.files.items() if image.project == project}
                self.assertEqual(channel.projects[project] is old.projects.get(project), mine == theirs)

    def test_chips_of_names_are_known(self) -> None:
        """Every chip that a file's name may say finds its image."""
        images = [make_image(f"lamp-1.0.{chip}.bin") for chip in sorted(CHIPS)]
        project = Project.of_images("lamp", images)
        self.assertEqual([project.choose(Kind.APP, chip).image for chip in sorted(CHIPS)], images)
