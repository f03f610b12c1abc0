"""Compressing images for devices that unpack them: once each, and kept in the state folder."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from ota_server.firmware.catalog import Catalog, FileIdentity, Image
from ota_server.firmware.facts import Format
from ota_server.firmware.image import ImageError, read_image
from ota_server.firmware.naming import Kind
from ota_server.firmware.stream import open_without_waiting

AT_ONCE = 8
"""So many images are compressed before the folder is read again."""

_CHUNK = 1 << 16
_CHIP = "esp8266"


class _PlainGoneError(Exception):
    """The file that was to be compressed is none any more, which the next reading of the folder will tell."""


class Packer:
    """Compresses the ESP8266 sketches that devices would be sent, each into a file of its SHA-256's name.

    Only where it makes the file smaller, and where the device's side of it is sure: whole sketches without a
    signature. One thread at a time may use it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._packed: dict[Image, Image | None] = {}
        self._cleared = False

    def pack(self, catalog: Catalog, keep_going: Callable[[], bool]) -> bool:
        """Compress what is to be compressed, AT_ONCE images at most, and delete what was and is no more.

        Returns whether there is more to do. `keep_going` is asked now and then; when it says no InterruptedError is
        raised. Raises OSError where a file can't be written; what was there before stays in use then.
        """
        wanted = set(_find_wanted(catalog))
        gone = self._packed.keys() - wanted
        # Backups and cleaners come by here, too.
        touched = [plain for plain, packed in self._packed.items() if packed is not None and not _is_as_it_was(packed)]
        for plain in gone.union(touched):
            del self._packed[plain]
        come = sorted(wanted - self._packed.keys(), key=lambda image: image.path)
        if come:
            self._folder.mkdir(mode=0o700, exist_ok=True)
        for plain in come[:AT_ONCE]:
            self._packed[plain] = self._pack(plain, keep_going)
        # The first time, too: what was packed may have gone while no server ran.
        if gone or (len(come) <= AT_ONCE and (come or not self._cleared)):
            self._clear({self._path(plain).name for plain in wanted})
            self._cleared = True
        return len(come) > AT_ONCE

    def add_to(self, channels: dict[str, dict[str, Image]]) -> None:
        """Put the compressed images beside their plain ones, in images by channel and file name."""
        for plain, packed in self._packed.items():
            files = channels.get(plain.channel, {})
            if packed is not None and files.get(plain.file_name) is plain:
                files.setdefault(packed.file_name, packed)

    def _path(self, plain: Image) -> Path:
        return self._folder / f"{plain.facts.sha256}.bin.gz"

    def _pack(self, plain: Image, keep_going: Callable[[], bool]) -> Image | None:
        """Return the compressed image of a plain one, from the folder or made anew; None where it is of no use."""
        path = self._path(plain)
        packed = _read(plain, path)
        if packed is None:
            temporary = path.with_suffix(".part")
            try:
                _compress(plain, temporary, keep_going)
                os.replace(temporary, path)
            except _PlainGoneError:
                return None
            finally:
                temporary.unlink(missing_ok=True)
            packed = _read(plain, path)
        # The plain file may have been overwritten meanwhile; then it is another image, and comes here as that.
        return packed if packed is not None and packed.size < plain.size else None

    def _clear(self, wanted: set[str]) -> None:
        """Delete files that belong to nothing that is offered."""
        for path in (*self._folder.glob("*.bin.gz"), *self._folder.glob("*.bin.part")):
            if path.name not in wanted:
                path.unlink(missing_ok=True)


def _find_wanted(catalog: Catalog) -> Iterator[Image]:
    """Find the images to compress."""
    for channel in catalog.channels.values():
        for project in channel.projects.values():
            plain = project.choose(Kind.APP, _CHIP, _CHIP).image
            if plain is None or plain.facts.format is not Format.ESP8266_SKETCH or plain.facts.signatures:
                continue
            release = project.release(plain.version)
            if release is not None and not any(_is_owners(image, plain) for image in release.images):
                yield plain


def _is_owners(image: Image, plain: Image) -> bool:
    """Say whether an image is a compressed one that the owner put beside a plain one, which counts more."""
    name = image.name
    return name.compressed and name.kind is plain.name.kind and name.chip in (None, _CHIP) and not _is_own(image)


def _is_own(image: Image) -> bool:
    """Say whether a compressed image was made here: its path isn't that of its name."""
    return os.path.basename(image.path) != image.file_name


def _compress(plain: Image, path: Path, keep_going: Callable[[], bool]) -> None:
    """Compress a file. The same comes out each time, since neither its name nor the time goes in."""
    with open(path, "wb") as file:
        with gzip.GzipFile("", "wb", 9, file, mtime=0) as target:
            for chunk in _read_pieces(plain):
                if not keep_going():
                    raise InterruptedError("compressing was called off")
                target.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _read_pieces(plain: Image) -> Iterator[bytes]:
    """Read the file of an image. Raises _PlainGoneError where it can't be read: then it is no image any more."""
    try:
        with open(plain.path, "rb", opener=open_without_waiting) as source:
            while chunk := source.read(_CHUNK):
                yield chunk
    except OSError as error:
        raise _PlainGoneError from error


def _is_as_it_was(packed: Image) -> bool:
    """Say whether a compressed file is still the one that was read back."""
    try:
        return FileIdentity.of(os.stat(packed.path)) == packed.identity
    except OSError:
        return False


def _read(plain: Image, path: Path) -> Image | None:
    """Read a compressed file back; None where it isn't there, or doesn't hold the bytes of the plain one."""
    try:
        with open(path, "rb") as file:
            facts = read_image(file)
            identity = FileIdentity.of(os.fstat(file.fileno()))
    except (FileNotFoundError, ImageError):
        return None
    if facts.format is not Format.GZIP or facts.damage or facts.trailing or facts.core.sha256 != plain.facts.sha256:
        return None
    name = attrs.evolve(plain.name, compressed=True)
    return Image(plain.channel, str(path), f"{plain.file_name}.gz", name, identity, facts)
