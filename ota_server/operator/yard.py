"""Where withdrawn images are kept: `yanked` among what the server keeps, a folder for each time, with who and when.

Everything here blocks and runs in a thread. What is to be moved is written down first, so that after a sudden end the
next start moves the rest.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from ota_server.firmware.catalog import FileIdentity, Image
from ota_server.firmware.versions import numbers_of, parse_file_version
from ota_server.fleet.journal import Event
from ota_server.operator.calls import Problem
from ota_server.operator.receiving import Inbox

YANKED = "yanked"
"""The folder, among what the server keeps."""

RECORD = "yanked.json"
"""What says, beside the images, which they were, who withdrew them, and when."""

_BEGUN = ".yanking.json"
_CHUNK = 1 << 20


@attrs.frozen
class _Move:
    """A file on its way: where it was, where it goes, and the bytes and times that it had."""

    source: Path
    kept: Path
    size: int
    mtime_ns: int


@attrs.frozen
class Recovered:
    """What had been cut off: a sentence about it, and its event where the rest of it is done now."""

    told: str
    event: Event | None = None


class Yard:
    """Keeps withdrawn images in a folder below `state`."""

    def __init__(self, inbox: Inbox, state: Path) -> None:
        self._inbox = inbox
        self.folder = state / YANKED

    def yank(self, images: Sequence[Image], actor: str, now: float) -> Path:
        """Move the files of images of one release out of the firmware folder; return where they are now.

        `now` is in seconds since 1970. Raises Problem; then all files are where they were.
        """
        first = images[0]
        with self._inbox.placing, _told_problems(first):
            for image in images:
                if FileIdentity.of(os.stat(image.path)) != image.identity:
                    raise Problem(409, "changing", "The file has changed just now", f"{image.file_name}; try again")
            kept = self._make_folder(first, now)
            moves = [_Move(Path(i.path), kept / i.file_name, i.size, i.identity.mtime_ns) for i in images]
            record = {
                "time": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "actor": actor,
                "channel": first.channel,
                "project": first.project,
                "version": str(first.version),
                "files": [
                    {"file": i.file_name, "size": i.size, "mtime_ns": i.identity.mtime_ns, "sha256": i.facts.sha256}
                    for i in images
                ],
            }
            done: list[_Move] = []
            try:
                _write(kept / _BEGUN, record)
                _sync(self.folder)
                for move in moves:
                    _move(move.source, move.kept)
                    done.append(move)
            except OSError:
                for move in done:
                    _move(move.kept, move.source)
                shutil.rmtree(kept)
                raise
            self._complete(kept, moves)
        return kept

    def _make_folder(self, image: Image, now: float) -> Path:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        when = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
        # Names of the firmware folder may fill what a file system allows.
        name = f"{when}-{secrets.token_hex(3)}-{image.channel}-{image.project}"[:180]
        kept = self.folder / f"{name}-{image.version}"
        kept.mkdir(mode=0o700)
        return kept

    def _complete(self, kept: Path, moves: Sequence[_Move]) -> None:
        for folder in {move.source.parent for move in moves}:
            _sync(folder)
        _sync(kept)
        os.rename(kept / _BEGUN, kept / RECORD)
        _sync(kept)

    def recover(self, now: float) -> list[Recovered]:
        """Move what was to be moved when the process ended; `now` is in seconds since 1970. Raises nothing."""
        found = []
        with suppress(OSError):
            for begun in sorted(self.folder.glob(f"*/{_BEGUN}")):
                try:
                    found.append(self._go_on(begun, now))
                except (OSError, ValueError, KeyError, TypeError) as error:
                    found.append(Recovered(f"{begun.parent}: what was withdrawn can't be moved there: {error}"))
        return found

    def _go_on(self, begun: Path, now: float) -> Recovered:
        record: Mapping[str, Any] = json.loads(begun.read_text())
        root = self._inbox.folder_of(str(record["channel"]))
        version = numbers_of(parse_file_version(str(record["version"])))
        moves = [
            _Move(
                root / Path(each["file"]).name, begun.parent / Path(each["file"]).name, each["size"], each["mtime_ns"]
            )
            for each in record["files"]
        ]
        for move in moves:
            with suppress(FileNotFoundError):
                status = os.stat(move.source)
                # Another file may have come in its place since.
                if (status.st_size, status.st_mtime_ns) == (move.size, move.mtime_ns):
                    _move(move.source, move.kept)
        with suppress(FileNotFoundError):
            self._complete(begun.parent, moves)
        names = ", ".join(move.kept.name for move in moves)
        actor, project = str(record["actor"]), str(record["project"])
        return Recovered(
            f"{begun.parent}: {names}: withdrawn by {actor}, which had been cut off",
            Event(
                now,
                actor,
                "yanked",
                f"{names}; kept in {YANKED}/{begun.parent.name}; begun at {record['time']}, and cut off",
                str(record["channel"]),
                project,
                version,
            ),
        )


def _move(source: Path, kept: Path) -> None:
    """Move a file, also to another file system: then it is copied, safe on disk, and removed. Raises OSError.

    So is what a link leads to, whose bytes would else not be kept.
    """
    if not source.is_symlink():
        try:
            os.rename(source, kept)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        else:
            return
    part = kept.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with open(source, "rb") as old, open(part, "xb") as new:
            shutil.copyfileobj(old, new, _CHUNK)
            new.flush()
            os.fsync(new.fileno())
        shutil.copystat(source, part)
        os.rename(part, kept)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    _sync(kept.parent)
    os.unlink(source)


def _write(path: Path, record: Mapping[str, Any]) -> None:
    with open(path, "x", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        json.dump(record, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _told_problems(image: Image) -> Iterator[None]:
    """Make problems of what the system says."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            detail = f"there is no room to keep {image.file_name}; nothing was changed"
            raise Problem(507, "disk-full", "The disk is full", detail) from error
        if error.errno == errno.ENOENT:
            raise Problem(409, "changing", "The file has changed just now", f"{image.file_name} has gone") from error
        raise Problem(
            409,
            "folder-not-writable",
            "The firmware folder can't be written",
            f"{image.file_name} can't be moved away: {error.strerror}; let the server's user write to the folder",
        ) from error
