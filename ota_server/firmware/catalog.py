"""The catalog: an immutable snapshot of everything that can be served.

A `Catalog` is made of `Channel`s, these of `Project`s, these of `Release`s, and these of `Image`s. A change of
the folder makes a new snapshot, which shares with the last one whatever has not changed; a decision is always
made on one snapshot, whatever happens to the folder meanwhile.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import NamedTuple

import attrs
from semver import Version

from ota_server.firmware.facts import ESP_APPS, Format, ImageFacts
from ota_server.firmware.naming import FileName, Kind
from ota_server.firmware.versions import Numbers, compare, numbers_of

STABLE = "stable"
"""The channel that is the folder itself."""


class FileIdentity(NamedTuple):
    """What tells one state of a file from another: inode number, size in bytes, times in nanoseconds.

    The time of the last change of status (`ctime_ns`) is part of it, since builds that are made reproducible
    put the same modification time on every file, and a new file often gets the inode of the one it replaced.
    """

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        """Return the identity of the file that has this status."""
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@attrs.frozen(eq=False)
class Image:
    """One immutable file: its place (path, and the name alone), its identity, and what is known of its bytes."""

    channel: str
    path: str
    file_name: str
    name: FileName
    identity: FileIdentity
    facts: ImageFacts

    @property
    def project(self) -> str:
        """The name of its project."""
        return self.name.project

    @property
    def version(self) -> Version:
        """Its version, as the file's name says it."""
        return self.name.version

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self.facts.size

    @property
    def chips(self) -> frozenset[str]:
        """The chips that its name and its bytes say it is for: none, one, or two where they disagree."""
        return frozenset(filter(None, (self.name.chip, self.facts.chip)))

    @property
    def compressed(self) -> bool:
        """Whether a device would have to unpack it."""
        # Chips other than Espressif's may have use for a gzip file of any name.
        is_esp = self.facts.chip is not None and self.facts.chip.startswith("esp")
        return self.name.compressed or (is_esp and self.facts.format is Format.GZIP)

    @property
    def for_ota(self) -> bool:
        """Whether a device can be updated with it: it is no boot loader, and of the kind that its name says."""
        form = self.facts.core.format
        if self.name.kind is Kind.FILESYSTEM:
            return not self.facts.not_for_ota and form not in ESP_APPS
        return not self.facts.not_for_ota and form is not Format.LITTLEFS

    def packs(self, plain: Image) -> bool:
        """Say whether it is a gzip file that holds the bytes of another image of its kind, and nothing else."""
        facts = self.facts
        return (
            facts.format is Format.GZIP
            and self.name.kind is plain.name.kind
            and facts.core.sha256 == plain.facts.sha256
            and not facts.trailing
            and not facts.signatures
        )


@attrs.frozen(eq=False)
class Release:
    """One version of one project: its images, one for each kind and chip, best spelled name first."""

    version: Version
    images: tuple[Image, ...]

    def pick(self, kind: Kind, chip: str | None, family: str = "") -> Image | str:
        """Return the image of a kind for a chip, or in a word of the decisions' reasons why there is none.

        The one made for that chip is better than one that doesn't say. Where the chip is not known (None) it is one
        whose name begins with `family`; then an image for one chip only is returned where there is no other.
        """
        of_kind = [image for image in self.images if image.name.kind is kind and not image.compressed]
        able = [image for image in of_kind if image.for_ota]
        if not able:
            return "not-for-ota" if of_kind else "no-image"
        if chip is not None:
            fitting = [image for image in able if image.chips <= {chip}]
            best: list[Image] = sorted(fitting, key=lambda i: (i.name.chip != chip, i.facts.chip != chip))
        else:
            fitting = [
                image for image in able if len(image.chips) < 2 and all(each.startswith(family) for each in image.chips)
            ]
            best = [image for image in fitting if image.name.chip is None]
            if not best:
                if len({image.name.chip for image in fitting}) > 1:
                    return "unknown-chip"
                best = fitting
        return best[0] if best else "wrong-chip"

    def compressed(self, image: Image) -> Image | None:
        """Return the gzip file that holds the bytes of an image of this release and nothing else, or None."""
        for other in self.images:
            if other.packs(image):
                return other
        return None


@attrs.frozen(eq=False)
class Choice:
    """The best image of a project for some device, or None, and what stands above it.

    `withheld` is the version of the highest release above that which has no image for the device, and `reason` says
    why; both are None where there is no such release.
    """

    image: Image | None
    compressed: Image | None = None
    withheld: Version | None = None
    reason: str | None = None


def _precedence(image: Image) -> Numbers:
    """Order images by version: those of files have no pre-release, so numbers are all."""
    return numbers_of(image.version)


_MAX_LIMITED = 256


def _is_among(version: Numbers, excluded: frozenset[Numbers], ceiling: Numbers | None) -> bool:
    return version not in excluded and (ceiling is None or version <= ceiling)


@attrs.frozen(eq=False)
class Project:
    """A project in one channel: its releases, highest precedence first."""

    name: str
    releases: tuple[Release, ...]
    _choices: dict[tuple[Kind, str | None, str], Choice] = attrs.field(factory=dict, init=False, repr=False)
    """What `choose` answered so far: a fleet asks for the same few."""
    _limited: dict[tuple[object, ...], Choice] = attrs.field(factory=dict, init=False, repr=False)
    """The same where not all releases were to choose from."""
    _twins: dict[str, tuple[Image, ...]] = attrs.field(factory=dict, init=False, repr=False)

    @classmethod
    def of_images(cls, name: str, images: Iterable[Image]) -> Project:
        """Make a project of its images, in any order."""
        # Among names of the same version the fully spelled one (1.2.0 before 1.2) is first, and so offered.
        ordered = sorted(
            images, key=lambda image: (_precedence(image), len(image.file_name), image.file_name), reverse=True
        )
        groups = (tuple(group) for _, group in groupby(ordered, _precedence))
        return cls(name, tuple(Release(group[0].version, group) for group in groups))

    def choose(self, kind: Kind = Kind.APP, chip: str | None = None, family: str = "") -> Choice:
        """Choose the image of highest precedence of a kind for a chip; see Release.pick."""
        wanted = (kind, chip, family)
        try:
            return self._choices[wanted]
        except KeyError:
            choice = self._choices[wanted] = self._choose(*wanted, self.releases)
            return choice

    def choose_among(
        self,
        kind: Kind,
        chip: str | None,
        family: str,
        excluded: frozenset[Numbers],
        ceiling: Numbers | None = None,
    ) -> Choice:
        """Choose as `choose`, but none of the versions `excluded`, and none above `ceiling`."""
        if not excluded and ceiling is None:
            return self.choose(kind, chip, family)
        wanted = (kind, chip, family, excluded, ceiling)
        choice = self._limited.get(wanted)
        if choice is None:
            if len(self._limited) >= _MAX_LIMITED:
                self._limited.clear()
            some = (release for release in self.releases if _is_among(numbers_of(release.version), excluded, ceiling))
            choice = self._limited[wanted] = self._choose(kind, chip, family, some)
        return choice

    @staticmethod
    def _choose(kind: Kind, chip: str | None, family: str, releases: Iterable[Release]) -> Choice:
        withheld, reason = None, None
        for release in releases:
            picked = release.pick(kind, chip, family)
            if isinstance(picked, Image):
                return Choice(picked, release.compressed(picked), withheld, reason)
            if withheld is None and picked != "no-image":
                withheld, reason = release.version, picked
        return Choice(None, None, withheld, reason)

    def release(self, version: Version) -> Release | None:
        """Return the release of a version, or None."""
        place = self._find(version)
        found = self.releases[place] if place < len(self.releases) else None
        return found if found is not None and compare(found.version, version) == 0 else None

    def below(self, version: Version) -> Iterator[Release]:
        """Yield the releases below a version, highest first."""
        for place in range(self._find(version), len(self.releases)):
            if compare(self.releases[place].version, version):
                yield self.releases[place]

    def _find(self, version: Version) -> int:
        """Return where in the releases a version is, or would be."""
        wanted = numbers_of(version)
        return bisect_left(self.releases, True, key=lambda release: numbers_of(release.version) <= wanted)

    def twins(self, image: Image) -> tuple[Image, ...]:
        """Return all images of the project that hold the same bytes as this one, itself among them."""
        if not self._twins:
            groups: dict[str, list[Image]] = {}
            for release in self.releases:
                for each in release.images:
                    groups.setdefault(each.facts.sha256, []).append(each)
            self._twins.update((sha256, tuple(images)) for sha256, images in groups.items())
        return self._twins.get(image.facts.sha256, ())


@attrs.frozen(eq=False)
class Channel:
    """One channel: its projects by name, and its images by the names of their files."""

    name: str
    projects: Mapping[str, Project]
    files: Mapping[str, Image]


@attrs.frozen(eq=False)
class Catalog:
    """A snapshot of the folder: channels by name, and images by every hash that a device may report."""

    channels: Mapping[str, Channel]
    by_hash: Mapping[str, tuple[Image, ...]]

    @classmethod
    def empty(cls) -> Catalog:
        """Return the catalog of an empty folder."""
        return cls({STABLE: Channel(STABLE, {}, {})}, {})

    def project(self, channel: str, name: str) -> Project | None:
        """Return a project of a channel, or None where either is unknown."""
        found = self.channels.get(channel)
        return found.projects.get(name) if found else None

    def image(self, channel: str, file_name: str) -> Image | None:
        """Return the image of a file of a channel, or None where there is none."""
        found = self.channels.get(channel)
        return found.files.get(file_name) if found else None

    def __len__(self) -> int:
        return sum(len(channel.files) for channel in self.channels.values())

    def replace(self, channels: Mapping[str, Mapping[str, Image]]) -> Catalog:
        """Return a snapshot with these images by channel and file name, sharing what is as it was.

        An image is as it was when it is the very same object.
        """
        by_hash = dict(self.by_hash)
        made: dict[str, Channel] = {}
        for name in channels.keys() | self.channels.keys():
            old = self.channels.get(name, Channel(name, {}, {}))
            new = channels.get(name, {})
            gone = [image for file, image in old.files.items() if new.get(file) is not image]
            come = [image for file, image in new.items() if old.files.get(file) is not image]
            _update_hashes(by_hash, gone, come)
            if new or name == STABLE:
                made[name] = _update_channel(old, new, {image.project for image in (*gone, *come)})
        return Catalog(made, by_hash)


def _update_hashes(by_hash: dict[str, tuple[Image, ...]], gone: list[Image], come: list[Image]) -> None:
    # By hash first, since thousands of files may have the same bytes, and a tuple grows by being copied.
    added: dict[str, list[Image]] = {}
    for image in come:
        for sketch_hash in image.facts.sketch_hashes:
            added.setdefault(sketch_hash, []).append(image)
    removed = {sketch_hash for image in gone for sketch_hash in image.facts.sketch_hashes}
    dead = set(gone)
    for sketch_hash in removed | added.keys():
        kept = by_hash.get(sketch_hash, ())
        if sketch_hash in removed:
            kept = tuple(image for image in kept if image not in dead)
        if kept := (*kept, *added.get(sketch_hash, ())):
            by_hash[sketch_hash] = kept
        else:
            del by_hash[sketch_hash]


def _update_channel(old: Channel, files: Mapping[str, Image], changed: set[str]) -> Channel:
    """Make a channel anew, sorting only the projects that changed."""
    if not changed:
        return old
    projects = {name: project for name, project in old.projects.items() if name not in changed}
    touched: dict[str, list[Image]] = {}
    for image in files.values():
        if image.project in changed:
            touched.setdefault(image.project, []).append(image)
    for name, images in touched.items():
        projects[name] = Project.of_images(name, images)
    return Channel(old.name, projects, dict(files))
