"""Tests of the catalog: which image is best, and snapshots that share what is as it was."""

from __future__ import annotations

from itertools import permutations

from hypothesis import example, given, settings
from hypothesis import strategies as st
from semver import Version
from twisted.trial.unittest import SynchronousTestCase

from ota_server.firmware.catalog import STABLE, Catalog, Channel, Image, Project
from ota_server.firmware.naming import CHIPS, FileName, Kind, parse_file_name
from ota_server.firmware.versions import compare
from tests.firmware.samples import make_catalog, make_image, spell

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


def _best(project: Project, kind: Kind = Kind.APP, chip: str | None = None, *, compressed: bool = False) -> str | None:
    image = project.best(kind, chip, compressed=compressed)
    return image.file_name if image else None


class ImageTests(SynchronousTestCase):
    """What an image tells of itself."""

    def test_shortcuts(self) -> None:
        """Project, version and size are those of the file's name and of its facts."""
        image = make_image("my-lamp-1.2.fs.bin", b"12345")
        self.assertEqual((image.project, image.version, image.size), ("my-lamp", Version(1, 2, 0), 5))
        self.assertEqual(image.name, parse_file_name("my-lamp-1.2.fs.bin"))


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
                self.assertEqual(_best(_project(*order)), best)

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

    def test_kinds(self) -> None:
        """A sketch is never answered with a filesystem, nor the other way round, however new."""
        project = _project("lamp-1.0.bin", "lamp-2.0.fs.bin")
        self.assertEqual(_best(project), "lamp-1.0.bin")
        self.assertEqual(_best(project, Kind.FILESYSTEM), "lamp-2.0.fs.bin")
        self.assertIsNone(_best(_project("lamp-1.0.bin"), Kind.FILESYSTEM))
        self.assertIsNone(_best(_project("lamp-1.0.fs.bin"), Kind.APP))

    def test_chips(self) -> None:
        """A chip gets the image made for it, else the one for all chips, and never that of another chip."""
        project = _project("lamp-1.0.bin", "lamp-1.0.esp32.bin", "lamp-1.1.esp8266.bin", "lamp-0.9.rp2040.bin")
        for chip, best in (
            ("esp32", "lamp-1.0.esp32.bin"),
            ("esp8266", "lamp-1.1.esp8266.bin"),
            ("rp2040", "lamp-1.0.bin"),
            ("esp32s3", "lamp-1.0.bin"),
            (None, "lamp-1.0.bin"),
        ):
            with self.subTest(chip):
                self.assertEqual(_best(project, chip=chip), best)
        self.assertIsNone(_best(_project("lamp-1.0.esp32.bin"), chip="esp8266"))
        self.assertIsNone(_best(_project("lamp-1.0.esp32.bin")))

    def test_newer_for_all_beats_older_for_chip(self) -> None:
        """A newer image for all chips is better than an older one for the chip."""
        project = _project("lamp-1.0.esp32.bin", "lamp-1.1.bin")
        self.assertEqual(_best(project, chip="esp32"), "lamp-1.1.bin")

    def test_compressed(self) -> None:
        """A compressed image is offered where one is asked for, and only there."""
        project = _project("lamp-1.0.bin", "lamp-1.1.bin.gz")
        self.assertEqual(_best(project), "lamp-1.0.bin")
        self.assertEqual(_best(project, compressed=True), "lamp-1.1.bin.gz")
        self.assertIsNone(_best(_project("lamp-1.0.bin"), compressed=True))

    def test_answer_stays(self) -> None:
        """Asked again, a project gives the same image, also where it has none."""
        project = _project("lamp-1.0.bin")
        self.assertIs(project.best(Kind.APP, "esp32"), project.best(Kind.APP, "esp32"))
        for _ in range(2):
            self.assertIsNone(project.best(Kind.FILESYSTEM))

    @settings(deadline=None)
    @given(st.lists(_SPELLED, min_size=1, max_size=8, unique=True))
    def test_best_of_any(self, file_names: list[str]) -> None:
        """The best image is one that fits, and none that fits is higher."""
        images = [make_image(name) for name in file_names]
        project = Project.of_images("lamp", images)
        for kind in Kind:
            for chip in (None, "esp32", "esp8266", "rp2040"):
                for compressed in (False, True):
                    fitting = [
                        image
                        for image in images
                        if image.name.kind is kind
                        and image.name.chip in (None, chip)
                        and image.name.compressed is compressed
                    ]
                    best = project.best(kind, chip, compressed=compressed)
                    if best is None:
                        self.assertEqual(fitting, [])
                    else:
                        self.assertIn(best, fitting)
                        self.assertTrue(all(compare(image.version, best.version) <= 0 for image in fitting))

    @settings(deadline=None)
    @given(st.lists(_SPELLED, max_size=6, unique=True))
    @example(["lamp-1.0.esp32.fs.bin", "lamp-1.0.fs.esp32.bin"])
    def test_order_of_files(self, file_names: list[str]) -> None:
        """The order in which files are listed, which no filesystem promises, doesn't change which one is best."""
        images = [make_image(name) for name in file_names]
        project, turned = Project.of_images("lamp", images), Project.of_images("lamp", reversed(images))
        for image in images:
            wanted = (image.name.kind, image.name.chip)
            compressed = image.name.compressed
            self.assertIs(project.best(*wanted, compressed=compressed), turned.best(*wanted, compressed=compressed))

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
        for higher, lower in zip(project.releases, project.releases[1:], strict=False):
            self.assertGreater(compare(higher.version, lower.version), 0)


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
        self.assertIs(after.channels[STABLE].projects["lamp"].best(), newer)
        self.assertIs(before.channels[STABLE].projects["lamp"].best(), lamp)

    def test_replace_drops(self) -> None:
        """A project whose last image went is no more, and so is a channel, but for the stable one."""
        lamp, beta = make_image("lamp-1.0.bin"), make_image("lamp-1.1.bin", channel="beta")
        catalog = make_catalog([lamp, beta]).replace({STABLE: {"lamp-1.0.bin": lamp}})
        self.assertEqual(set(catalog.channels), {STABLE})
        self.assertNotIn(beta.facts.md5, catalog.by_hash)
        catalog = catalog.replace({})
        self.assertEqual(catalog.channels[STABLE].projects, {})
        self.assertEqual((len(catalog), catalog.by_hash), (0, {}))

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
        self.assertEqual([project.best(chip=chip) for chip in sorted(CHIPS)], images)
