"""A real PostgreSQL server for tests, and small file systems that are full or read-only."""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psycopg
from twisted.trial.unittest import SkipTest


def _find_programs() -> Path | None:
    """Return the folder with PostgreSQL's programs: that of the path, or the newest of Debian's."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).parent
    folders = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max(folders, key=lambda path: int(path.parent.parent.name), default=Path()).parent if folders else None


class PostgreSQL:
    """A server of its own in a folder below /tmp, reached by a socket in there, and without any safety on disk."""

    def __init__(self) -> None:
        programs = _find_programs()
        if programs is None or not (programs / "initdb").exists():
            raise SkipTest("there is no PostgreSQL server here (Debian package: postgresql)")
        self._programs = programs
        # Not where trial keeps its files: the path of a socket may have 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="ota-postgresql-", dir="/tmp"))
        # It refuses to run as root.
        self._user = "nobody" if os.geteuid() == 0 else None
        if self._user is not None:
            os.chown(self.folder, pwd.getpwnam(self._user).pw_uid, -1)
        atexit.register(self._remove)
        self._do("initdb", "--no-sync", "-A", "trust", "-U", "ota", "-E", "UTF8", "--locale=C")
        self.start()

    def _do(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), "-D", str(self.folder / "data"), *arguments]
        # Not captured: the server would keep the pipe open.
        with (self.folder / "log").open("ab") as log:
            subprocess.run(
                command, check=True, cwd="/", user=self._user, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        self._do("pg_ctl", "start", "-w", "-o", f"-k {self.folder} -h '' -c fsync=off")

    def stop(self) -> None:
        """Stop the server, and end its connections."""
        self._do("pg_ctl", "stop", "-w", "-m", "fast")

    def _remove(self) -> None:
        subprocess.run(
            [str(self._programs / "pg_ctl"), "-D", str(self.folder / "data"), "stop", "-w", "-m", "immediate"],
            check=False,
            cwd="/",
            user=self._user,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, name: str = "postgres") -> str:
        """Return the URL of a database."""
        return f"postgresql://ota:secret@/{name}?host={self.folder}"

    def do(self, *statements: str) -> None:
        """Carry out statements, each by itself."""
        with psycopg.connect(f"host={self.folder} user=ota dbname=postgres", autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def empty(self) -> str:
        """Take away all tables, and return the URL of the database."""
        self.do("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
        return self.url()


@cache
def postgresql() -> PostgreSQL:
    """Return the server of this process, which is started once, and ended with the process."""
    return PostgreSQL()


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a file system of its own at a folder, with so much room as `mount` may be told."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        raise SkipTest("only root may mount a small file system")
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False).returncode:
        raise SkipTest("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill_disk(file: Path, *, leave: int) -> None:
    """Write a file that leaves so many bytes free on its disk."""
    disk = os.statvfs(file.parent)
    file.write_bytes(b"x" * (disk.f_bavail * disk.f_frsize - leave))


def make_read_only(folder: Path) -> None:
    """Let nothing be written to a small disk any more."""
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
