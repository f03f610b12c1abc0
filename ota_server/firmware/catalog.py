"""The catalog: an immutable snapshot of everything that can be served.

A `Catalog` is made of `Channel`s, these of `Project`s, these of `Release`s, and these of `Image`s. A change of
the folder makes a new snapshot, which shares with the last one whatever has not changed; a decision is always
made on one snapshot, whatever happens to the folder meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import NamedTuple

import attrs
from semver import Version

from ota_server.firmware.image import ImageFacts
from ota_server.firmware.naming import FileName, Kind

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


@attrs.frozen(eq=False)
class Release:
    """One version of one project: its images, one for each kind and chip, best spelled name first."""

    version: Version
    images: tuple[Image, ...]

    def pick(self, kind: Kind, chip: str | None, *, compressed: bool = False) -> Image | None:
        """Return the image of a kind for a chip: the one made for that chip, or else the one for all chips."""
        fitting = [i for i in self.images if i.name.kind is kind and i.name.compressed is compressed]
        for wanted in (chip, None):
            for image in fitting:
                if image.name.chip == wanted:
                    return image
        return None


def _precedence(image: Image) -> tuple[int, int, int]:
    """Order the versions of files as Semantic Versioning does: these have no pre-release, so numbers are all."""
    version = image.version
    return (version.major, version.minor, version.patch)


@attrs.frozen(eq=False)
class Project:
    """A project in one channel: its releases, highest precedence first."""

    name: str
    releases: tuple[Release, ...]
    _best: dict[tuple[Kind, str | None, bool], Image | None] = attrs.field(factory=dict, init=False, repr=False)
    """What `best` answered so far: a fleet asks for the same one or two."""

    @classmethod
    def of_images(cls, name: str, images: Iterable[Image]) -> Project:
        """Make a project of its images, in any order."""
        # Among names of the same version the fully spelled one (1.2.0 before 1.2) is first, and so offered.
        ordered = sorted(
            images, key=lambda image: (_precedence(image), len(image.file_name), image.file_name), reverse=True
        )
        groups = (tuple(group) for _, group in groupby(ordered, _precedence))
        return cls(name, tuple(Release(group[0].version, group) for group in groups))

    def best(self, kind: Kind = Kind.APP, chip: str | None = None, *, compressed: bool = False) -> Image | None:
        """Return the image of highest precedence of a kind for a chip, or None where there is none."""
        wanted = (kind, chip, compressed)
        try:
            return self._best[wanted]
        except KeyError:
            picked = (release.pick(kind, chip, compressed=compressed) for release in self.releases)
            best = self._best[wanted] = next(filter(None, picked), None)
            return best

    def release(self, version: Version) -> Release | None:
        """Return the release of a version, or None."""
        return next((release for release in self.releases if release.version == version), None)


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
