"""What was found out about files by reading them whole, kept across restarts in a small SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path

from ota_server.firmware.catalog import FileIdentity
from ota_server.firmware.image import ImageError, ImageFacts

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

FORMAT = 2
"""Raised whenever reading an image finds out more, so that everything is read anew."""

Finding = ImageFacts | ImageError
"""What reading a file found: its facts, or why it must not be offered."""


class DigestStore:
    """Findings by the identity of the file they are of.

    Losing it costs time, never correctness: a file that is unreadable as a database, or of another format,
    is begun anew. One thread at a time may use it. `path` None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def load(self) -> dict[FileIdentity, Finding]:
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

    def _load(self, path: Path) -> dict[FileIdentity, Finding]:
        with _Connection(path) as database:
            if database.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
                # An empty table needs not be safe on disk; beside many new files that may take seconds.
                database.executescript(
                    "PRAGMA synchronous = OFF;"
                    "DROP TABLE IF EXISTS digests;"
                    "CREATE TABLE digests (inode INTEGER, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER,"
                    " finding TEXT NOT NULL, PRIMARY KEY (inode, size, mtime_ns, ctime_ns)) WITHOUT ROWID;"
                    f"PRAGMA user_version = {FORMAT};"
                )
            rows = database.execute("SELECT inode, size, mtime_ns, ctime_ns, finding FROM digests")
            return {FileIdentity(row[0] % _INODES, *row[1:4]): _decode(row[4], row[1]) for row in rows}

    def save(self, come: Mapping[FileIdentity, Finding], gone: Iterable[FileIdentity]) -> None:
        """Keep new findings and forget those of files that are no more. Raises OSError where it can't write."""
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
                    ((*_encode_identity(identity), _encode(finding)) for identity, finding in come.items()),
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


def _encode(finding: Finding) -> str:
    if isinstance(finding, ImageError):
        return json.dumps({"error": str(finding)})
    return json.dumps([finding.md5, finding.sha256, finding.chip, *finding.sketch_hashes])


def _decode(text: str, size: int) -> Finding:
    kept = json.loads(text)
    if isinstance(kept, dict):
        return ImageError(kept["error"])
    md5, sha256, chip, *sketch_hashes = kept
    return ImageFacts(size, md5, sha256, chip, tuple(sketch_hashes))
