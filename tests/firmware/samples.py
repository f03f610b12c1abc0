"""Samples that several tests of the firmware and of the fleet are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import count
from typing import Any

import attrs
from hypothesis import strategies as st
from semver import Version

from ota_server.firmware.catalog import STABLE, Catalog, FileIdentity, Image
from ota_server.firmware.facts import ImageFacts
from ota_server.firmware.image import read_image
from ota_server.firmware.naming import CHIPS, FileName, Kind, parse_file_name

_inodes = count(1)


def make_image(
    file_name: str,
    content: bytes | None = None,
    *,
    channel: str = STABLE,
    chip: str | None = None,
    sketch_hashes: tuple[str, ...] | None = None,
    size: int | None = None,
    **more: Any,
) -> Image:
    """Return an image of the catalog; one whose content isn't given has bytes of its own, told by its name.

    Its sketch hashes are, where they aren't given, the MD5 and the SHA-256 of its content. `more` are other facts.
    """
    if content is None:
        content = f"{channel}/{file_name}".encode()
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    sha256 = hashlib.sha256(content).hexdigest()
    length = len(content) if size is None else size
    return Image(
        channel,
        f"/firmware/{file_name}" if channel == STABLE else f"/firmware/{channel}/{file_name}",
        file_name,
        parse_file_name(file_name),
        FileIdentity(next(_inodes), length, 0, 0),
        ImageFacts(length, md5, sha256, chip, (md5, sha256) if sketch_hashes is None else sketch_hashes, **more),
    )


def read_as_image(file_name: str, content: bytes, *, channel: str = STABLE) -> Image:
    """Return an image of the catalog with the facts that reading its content tells."""
    return attrs.evolve(make_image(file_name, content, channel=channel), facts=read_image(content))


def make_catalog(images: Iterable[Image]) -> Catalog:
    """Return a catalog of images, put into their channels."""
    channels: dict[str, dict[str, Image]] = {}
    for image in images:
        channels.setdefault(image.channel, {})[image.file_name] = image
    return Catalog.empty().replace(channels)


def spell(name: FileName, *, patch: bool = True, chip_first: bool = True) -> str:
    """Return how a file is called by the scheme; a PATCH of 0 may be left out, and `fs` stand before the chip."""
    version = name.version
    numbers = (
        [version.major, version.minor, version.patch] if patch or version.patch else [version.major, version.minor]
    )
    tags = [f".{name.chip}"] if name.chip else []
    if name.kind is Kind.FILESYSTEM:
        tags.insert(len(tags) if chip_first else 0, ".fs")
    return f"{name.project}-{'.'.join(map(str, numbers))}{''.join(tags)}.bin{'.gz' if name.compressed else ''}"


NUMBERS = st.one_of(st.integers(0, 12), st.integers(0, 10**15 - 1))
"""Numbers of versions, small ones most often so that equal ones come up."""

FILE_VERSIONS = st.builds(Version, NUMBERS, NUMBERS, NUMBERS)
"""Versions that a file can have."""

PROJECTS = st.from_regex(r"\A[0-9A-Za-z_][0-9A-Za-z_.+-]{0,20}\Z")
"""Names of projects."""

FILE_NAMES = st.builds(
    FileName,
    PROJECTS,
    FILE_VERSIONS,
    st.sampled_from(Kind),
    st.none() | st.sampled_from(sorted(CHIPS)),
    st.booleans(),
)
"""What the names of files can say."""
