"""What was found out about files by reading them whole, kept across restarts in a small SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path

import cattrs

from ota_server.firmware.catalog import FileIdentity
from ota_server.firmware.facts import ImageFacts
from ota_server.firmware.image import ImageError

_INODES = 1 << 64

# Of a database that is sound, and can't be used now.
_NOT_ITS_FAULT = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
}

LOCK_PATIENCE = 5
"""How long to wait for another process that uses the file, in seconds."""

FORMAT = 3
"""Raised whenever reading an image finds out more, so that everything is read anew."""

Outcome = ImageFacts | ImageError
"""What came of reading a file: its facts, or why there is nothing to say of it."""

# What is not said otherwise is left out: most files have few facts, and there may be a hundred thousand.
_converter = cattrs.Converter(omit_if_default=True, detailed_validation=False)


class DigestStore:
    """What came of reading files, by the identity of the file they are of.

    Losing it costs time, never correctness: a file that is unreadable as a database, or of another format,
    is begun anew. One thread at a time may use it. `path` None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def load(self) -> dict[FileIdentity, Outcome]:
        """Return everything that is kept. Raises OSError where the file can't be made, or used now."""
        if self._path is None:
            return {}
        try:
            return self._load(self._path)
        except (sqlite3.DatabaseError, ValueError, KeyError, TypeError) as error:
            if getattr(error, "sqlite_errorcode", None) in _NOT_ITS_FAULT:
                raise OSError(f"can't read {self._path}: {error}") from error
            for suffix in ("", "-wal", "-shm", "-journal"):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
            return {}

    def _load(self, path: Path) -> dict[FileIdentity, Outcome]:
        with _Connection(path) as database:
            if database.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
                # An empty table needs not be safe on disk; beside many new files that may take seconds.
                database.executescript(
                    "PRAGMA synchronous = OFF;"
                    "DROP TABLE IF EXISTS digests;"
                    "CREATE TABLE digests (inode INTEGER, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER,"
                    " outcome TEXT NOT NULL, PRIMARY KEY (inode, size, mtime_ns, ctime_ns)) WITHOUT ROWID;"
                    f"PRAGMA user_version = {FORMAT};"
                )
            rows = database.execute("SELECT inode, size, mtime_ns, ctime_ns, outcome FROM digests")
            return {FileIdentity(row[0] % _INODES, *row[1:4]): _decode(row[4]) for row in rows}

    def save(self, come: Mapping[FileIdentity, Outcome], gone: Iterable[FileIdentity]) -> None:
        """Keep what is new and forget what came of files that are no more. Raises OSError where it can't write."""
        if self._path is None:
            return
        try:
            with _Connection(self._path) as database:
                database.executemany(
                    "DELETE FROM digests WHERE inode = ? AND size = ? AND mtime_ns = ? AND ctime_ns = ?",
                    map(_encode_identity, gone),
                )
                database.executemany(
                    "INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?, ?)",
                    ((*_encode_identity(identity), _encode(outcome)) for identity, outcome in come.items()),
                )
        except sqlite3.Error as error:
            raise OSError(f"can't write {self._path}: {error}") from error


class _Connection:
    """A connection that commits at the end of a `with` block, or rolls back, and then is closed."""

    def __init__(self, path: Path) -> None:
        try:
            self._database = sqlite3.connect(path, timeout=LOCK_PATIENCE)
        except sqlite3.OperationalError as error:
            raise OSError(f"can't open {path}: {error}") from error

    def __enter__(self) -> sqlite3.Connection:
        return self._database.__enter__()

    def __exit__(self, *problem: object) -> None:
        try:
            if problem[0] is None:
                self._database.commit()
        finally:
            self._database.close()


def _encode_identity(identity: FileIdentity) -> tuple[int, int, int, int]:
    """Bring an inode number, of 64 bits without a sign, into the range of SQLite's integers, which have one."""
    inode = identity.inode - _INODES if identity.inode >= _INODES // 2 else identity.inode
    return (inode, *identity[1:])


def _encode(outcome: Outcome) -> str:
    if isinstance(outcome, ImageError):
        return json.dumps({"error": [outcome.offset, outcome.reason]})
    return json.dumps(_converter.unstructure(outcome))


def _decode(text: str) -> Outcome:
    kept = json.loads(text)
    if "error" in kept:
        return ImageError(*kept["error"])
    return _converter.structure(kept, ImageFacts)
