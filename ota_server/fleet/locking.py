"""The lock of the ledger: one server at a time has it."""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Connection, Engine, delete, insert, select, text
from sqlalchemy.exc import SQLAlchemyError

from ota_server.fleet import schema
from ota_server.fleet.errors import LedgerError

# Only one server may have the database; another number, since this one is held all the time.
_SERVER_LOCK = 0x07A5E47F

SERVER_MARK = "server"
"""Name of the mark that says which server opened the ledger last."""

# A server whose machine is cut off gives the lock back in a minute. Not every PostgreSQL knows all of these, and one
# that is reached by a socket of the file system needs none.
_LOCK_SETTINGS = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "idle_session_timeout": "0",
}


class FileLock:
    """Keeps other servers from an SQLite file, for as long as this process lives: a lock on a file beside it.

    That file holds the number of the process, and stays when the lock is gone. Raises OSError, and LedgerError where
    another server has the lock.
    """

    def __init__(self, path: Path) -> None:
        # Beside the file itself, by whatever links it is reached.
        self._file = os.open(f"{os.path.realpath(path)}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                told = os.read(self._file, 20).strip()
                who = f"process {int(told)}" if told.isdigit() else ""
                raise _taken(str(path), who, "--state") from None
        except BaseException:
            os.close(self._file)
            raise
        # On a full disk nobody learns which process it is; the lock holds.
        with suppress(OSError):
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Let another server have the file."""
        os.close(self._file)


class SessionLock:
    """Keeps other servers from a PostgreSQL database, for as long as one connection lives.

    Raises SQLAlchemyError, and LedgerError where another server has the lock.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._name = name
        self._session: Connection | None = None
        self._number: int | None = None
        self._take()

    def mark(self, connection: Connection) -> None:
        """Write down that this is the server that opened the ledger last."""
        self._number = secrets.randbelow(1 << 62)
        connection.execute(delete(schema.MARKS).where(schema.MARKS.c.name == SERVER_MARK))
        connection.execute(insert(schema.MARKS).values(name=SERVER_MARK, value=self._number))

    def keep(self) -> None:
        """See whether the connection still lives, and take the lock again where it was lost.

        Raises LedgerError as well where another server was there meanwhile, so that the memory of this one is old.
        """
        if self._session is not None:
            try:
                self._session.execute(text("SELECT 1"))
                return
            except SQLAlchemyError:
                self._drop()
        self._take()
        assert self._session is not None
        try:
            mark = select(schema.MARKS.c.value).where(schema.MARKS.c.name == SERVER_MARK)
            if self._session.execute(mark).scalar() != self._number:
                raise LedgerError(
                    f"another server has used the ledger {self._name} while this one was cut off from it; "
                    "what this one remembers is old: start it anew"
                )
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let another server have the database."""
        if self._session is not None:
            # Where that fails it has been lost anyway. It isn't left to the end of the connection, which PostgreSQL
            # takes a moment to notice.
            with suppress(SQLAlchemyError):
                self._session.execute(text(f"SELECT pg_advisory_unlock({_SERVER_LOCK})"))
            self._drop()

    def _drop(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            session.invalidate()
            session.close()

    def _take(self) -> None:
        session = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._session = session
        try:
            for name, value in _LOCK_SETTINGS.items():
                known = text("SELECT set_config(name, :value, false) FROM pg_settings WHERE name = :name")
                session.execute(known, {"name": name, "value": value})
            who = f"process {os.getpid()} on {socket.gethostname()}"
            session.execute(text("SELECT set_config('application_name', :who, false)"), {"who": f"ota-server, {who}"})
            if not session.execute(text(f"SELECT pg_try_advisory_lock({_SERVER_LOCK})")).scalar():
                found = session.execute(text(_WHO_HAS_IT)).scalar()
                raise _taken(self._name, str(found or "").removeprefix("ota-server, "), "--database")
        except BaseException:
            self._drop()
            raise


_WHO_HAS_IT = (
    "SELECT application_name FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE locktype = 'advisory' AND granted "  # noqa: S608
    f"AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    f"AND classid = 0 AND objid = {_SERVER_LOCK} AND objsubid = 1"
)


def _taken(name: str, who: str, option: str) -> LedgerError:
    who = f"another server ({who})" if who.isprintable() and who else "another server"
    return LedgerError(f"{who} uses the ledger {name}; end it, or give this one a {option} of its own")
