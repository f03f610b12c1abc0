"""Receiving an image: written beside its place, read, judged, and put into the folder whole or not at all.

Everything here blocks and runs in a thread. Whenever the process ends, the folder holds what it held before, or the
whole new file; what an upload had written until then is removed at the next start.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import os
import re
import secrets
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path

import attrs

from ota_server.firmware.catalog import STABLE, FileIdentity, Image
from ota_server.firmware.facts import ImageFacts
from ota_server.firmware.folder import find_reason, identify
from ota_server.firmware.image import ImageError, read_image
from ota_server.firmware.naming import FileName
from ota_server.firmware.notices import place_of
from ota_server.firmware.signatures import VerifyKey
from ota_server.firmware.stream import open_without_waiting
from ota_server.operator.calls import Problem

MAX_IMAGE = 64 << 20
"""The largest image that is taken, in bytes, where nothing else is said."""

MAX_UPLOADS = 8
"""How many images are received at once."""

LONGEST_NAME = 240
"""The longest name of a file, in bytes: most file systems take 255."""

DIGESTS = ("sha-256", "sha-512")
"""The algorithms of `Content-Digest` that are checked (RFC 9530, section 5)."""

_PART = re.compile(r"\.upload-[0-9a-f]{16}\.part")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
_CHUNK = 1 << 20

_DIGEST = re.compile(r"""([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/]*={0,2}):(?:;[^,]*)?""")


def read_content_digest(text: str) -> Mapping[str, bytes]:
    """Read a `Content-Digest` field (RFC 9530, section 2): digests by algorithm, those alone that are checked.

    Raises ValueError for what is no such field.
    """
    found: dict[str, bytes] = {}
    for item in text.split(","):
        read = _DIGEST.fullmatch(item.strip())
        if read is None:
            raise ValueError("write it as in sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:")
        try:
            found[read[1]] = base64.b64decode(read[2], validate=True)
        except ValueError:
            raise ValueError(f"what it says of {read[1]} is no base64") from None
    known = {name: digest for name, digest in found.items() if name in DIGESTS}
    for name, digest in known.items():
        if len(digest) != hashlib.new(name.replace("-", "")).digest_size:
            raise ValueError(f"what it says of {name} has the wrong length")
    return known


class Outcome(StrEnum):
    """What came of an image that was put into the folder."""

    NEW = "new"
    SAME = "same"
    """The very same bytes were there already."""
    REPLACED = "replaced"


@attrs.frozen
class Placed:
    """An image in its place: which state of the file it is, and what is known of it."""

    outcome: Outcome
    identity: FileIdentity
    facts: ImageFacts


@attrs.frozen
class Target:
    """Where an image is to go: its channel, the name of the file, and what that says."""

    channel: str
    file: str
    name: FileName

    @property
    def place(self) -> str:
        """The file as its owner sees it."""
        return place_of(self.channel, self.file)


class Inbox:
    """Takes images into a firmware folder. With `keys` only those are taken that one of these signed."""

    def __init__(self, root: Path, keys: Sequence[VerifyKey] = (), max_size: int = MAX_IMAGE) -> None:
        self.root = root
        self.max_size = max_size
        self.keys = keys
        self.placing = threading.Lock()
        """Held while the folder is changed, so that of two images for one place each finds what the other did."""

    def begin(self, target: Target, length: int | None = None, digests: Mapping[str, bytes] | None = None) -> Incoming:
        """Make room for an image of `length` bytes, None where that isn't known. Blocks. Raises Problem."""
        if length is not None and length > self.max_size:
            raise too_large(self.max_size)
        if len(os.fsencode(target.file)) > LONGEST_NAME:
            raise Problem(
                400, "bad-name", "The name can't be a file's", "the name is too long; choose a shorter project"
            )
        return Incoming(self, target, length, digests or {})

    def folder_of(self, channel: str) -> Path:
        """Return the folder of a channel, which needs not be there."""
        return self.root if channel == STABLE else self.root / channel

    def clean(self, *others: Path) -> list[str]:
        """Remove what was left behind here, and in other folders, when a process ended; return it. Blocks.

        Another server may be at work in the same folder: what that is writing is locked, and stays.
        """
        folders = [self.root, *others]
        with suppress(OSError), os.scandir(self.root) as entries:
            folders += [Path(entry.path) for entry in entries if _is_channel(entry)]
        parts = (part for folder in dict.fromkeys(folders) for part in _list_parts(folder))
        return [part for part in parts if _remove_part(part)]


def _is_channel(entry: os.DirEntry[str]) -> bool:
    try:
        return not entry.name.startswith(".") and entry.is_dir()
    except OSError:
        return False


def _list_parts(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.path for entry in entries if _PART.fullmatch(entry.name)]
    except OSError:
        return []


def _remove_part(path: str) -> bool:
    try:
        descriptor = open_without_waiting(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


class Incoming:
    """One image on its way in. One thread at a time; `abort` waits for the others."""

    def __init__(self, inbox: Inbox, target: Target, length: int | None, digests: Mapping[str, bytes]) -> None:
        self.target = target
        self.size = 0
        """How many bytes have come."""
        self._inbox = inbox
        self._length = length
        self._wanted = digests
        self._hashes = {name: hashlib.new(name.replace("-", "")) for name in digests}
        self._lock = threading.Lock()
        self._descriptor = -1
        self._placed = False
        # A new channel has no folder yet, and a folder is made only for an image that is whole.
        folder = inbox.folder_of(target.channel)
        parent = folder if folder.is_dir() else inbox.root
        self._part = parent / f".upload-{secrets.token_hex(8)}.part"
        with _told_problems(target):
            self._descriptor = os.open(self._part, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666)
        try:
            # Where there are no locks, nobody removes what others write either.
            with suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with _told_problems(target):
                room = os.fstatvfs(self._descriptor)
                if length is not None and room.f_bavail * room.f_frsize < length:
                    raise disk_full(target, f"{length:,} bytes are needed, and {room.f_bavail * room.f_frsize:,} free")
        except BaseException:
            self.abort()
            raise

    def write(self, data: bytes) -> None:
        """Take a piece. Raises Problem."""
        with self._lock:
            if self._descriptor < 0:
                return
            self.size += len(data)
            if self.size > self._inbox.max_size:
                raise too_large(self._inbox.max_size)
            with _told_problems(self.target):
                view = memoryview(data)
                while view:
                    view = view[os.write(self._descriptor, view) :]
            for each in self._hashes.values():
                each.update(data)

    def abort(self) -> None:
        """Leave nothing behind; harmless after the end."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._descriptor >= 0:
            if not self._placed:
                with suppress(OSError):
                    os.unlink(self._part)
            os.close(self._descriptor)
            self._descriptor = -1

    def finish(self, *, replace: bool = False) -> Placed:
        """Judge what has come, and put it into its place. Raises Problem; then there is nothing left of it.

        Other bytes in its place stay, unless they are to be replaced.
        """
        with self._lock:
            try:
                if self._descriptor < 0:
                    raise Problem(400, "incomplete", "The body isn't whole", "it was broken off; send it again")
                self._check_whole()
                facts = self._judge()
                with _told_problems(self.target):
                    os.fsync(self._descriptor)
                    with self._inbox.placing:
                        return self._place(facts, replace=replace)
            finally:
                self._drop()

    def _check_whole(self) -> None:
        if self._length is not None and self.size != self._length:
            raise Problem(
                400, "incomplete", "The body isn't whole", f"{self.size} of {self._length} bytes came; send it again"
            )
        for name, digest in self._wanted.items():
            if self._hashes[name].digest() != digest:
                told = base64.b64encode(self._hashes[name].digest()).decode()
                raise Problem(
                    400,
                    "digest-differs",
                    "The body isn't as Content-Digest says",
                    f"the bytes that came have {name}=:{told}:; send them again, or correct the field",
                )

    def _judge(self) -> ImageFacts:
        """Read the image, and judge it as the folder does. Raises Problem."""
        try:
            with open(os.dup(self._descriptor), "rb", buffering=0) as file:
                outcome: ImageFacts | ImageError = read_image(file)
        except ImageError as error:
            outcome = error
        except OSError as error:
            raise _explain(error, self.target) from error
        reason = find_reason(outcome, self._inbox.keys)
        if isinstance(outcome, ImageError) or reason:
            damage = outcome if isinstance(outcome, ImageError) else outcome.damage
            if damage is None:
                raise unfit("unsigned", f"{reason}; sign it with a key of the server's --verify-key")
            raise unfit("damaged", f"it is damaged: {reason}", offset=damage.offset)
        target = self.target
        image = Image(target.channel, "", target.file, target.name, FileIdentity(0, outcome.size, 0, 0), outcome)
        if len(image.chips) > 1:
            told = f"it says {target.name.chip} in its name and {outcome.chip} inside: no device would get it"
            raise unfit("chip-differs", told)
        return outcome

    def _place(self, facts: ImageFacts, *, replace: bool) -> Placed:
        folder = self._inbox.folder_of(self.target.channel)
        made = _make_folder(folder, self.target)
        try:
            final = folder / self.target.file
            outcome = Outcome.NEW
            if replace or not self._put_new(final):
                there = _compare(final, facts, self.target)
                if isinstance(there, FileIdentity):
                    return Placed(Outcome.SAME, there, facts)
                if there and not replace:
                    raise Problem(
                        409,
                        "exists",
                        "There is another file in its place",
                        f"{self.target.place} has other bytes; publish another version, or say replace=yes",
                    )
                outcome = Outcome.REPLACED if there else Outcome.NEW
                os.replace(self._part, final)
                self._placed = True
            made = False
            _sync_folder(folder)
            return Placed(outcome, identify(self._descriptor), facts)
        finally:
            if made:
                with suppress(OSError):
                    folder.rmdir()

    def _put_new(self, final: Path) -> bool:
        """Give the file its name, where nothing has that; say whether that was so."""
        try:
            os.link(self._part, final)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # Without links nothing but our own lock stands against two at once.
            if os.path.lexists(final):
                return False
            os.rename(self._part, final)
        else:
            os.unlink(self._part)
        self._placed = True
        return True


def _make_folder(folder: Path, target: Target) -> bool:
    """Make the folder of a channel; say whether it is new. Raises Problem, and OSError."""
    try:
        folder.mkdir()
    except FileExistsError:
        if folder.is_dir():
            return False
        raise Problem(
            409, "no-channel", "There can't be such a channel", f"{target.channel} is a file of the folder"
        ) from None
    _sync_folder(folder.parent)
    return True


def _compare(final: Path, facts: ImageFacts, target: Target) -> FileIdentity | bool:
    """Return the identity of a file that holds the bytes of an image, or whether there is anything at all.

    Raises Problem for what is no file.
    """
    try:
        descriptor = open_without_waiting(str(final), os.O_RDONLY)
    except FileNotFoundError:
        return os.path.lexists(final)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Problem(409, "exists", "There is another file in its place", f"{target.place} is no plain file")
        if status.st_size != facts.size:
            return True
        found = hashlib.sha256()
        while chunk := os.read(descriptor, _CHUNK):
            found.update(chunk)
        identity = identify(descriptor)
        same = found.hexdigest() == facts.sha256 and identity == FileIdentity.of(status)
        return identity if same else True
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def too_large(limit: int) -> Problem:
    """Say that an image is too large; `limit` is in bytes."""
    detail = f"at most {limit:,} bytes are taken; the server's --max-image says how many"
    return Problem(413, "too-large", "The body is too large", detail, limit=limit)


def disk_full(target: Target, why: str) -> Problem:
    """Say that there is no room for an image."""
    detail = f"there is no room for {target.place}: {why}; make some, nothing was left behind"
    return Problem(507, "disk-full", "The disk is full", detail)


def unfit(reason: str, detail: str, offset: int | None = None) -> Problem:
    """Say why an image can't be offered: `reason` is a stable word."""
    more = {} if offset is None else {"offset": offset}
    return Problem(422, "bad-image", "This image can't be offered", detail, reason=reason, **more)


def _explain(error: OSError, target: Target) -> Problem:
    if error.errno in _FULL:
        return disk_full(target, error.strerror or "")
    return Problem(
        409,
        "folder-not-writable",
        "The firmware folder can't be written",
        f"{target.place}: {error.strerror}; let the server's user write to the folder, or put the file there by hand",
    )


@contextmanager
def _told_problems(target: Target) -> Iterator[None]:
    """Make problems of what the system says."""
    try:
        yield
    except OSError as error:
        raise _explain(error, target) from error
