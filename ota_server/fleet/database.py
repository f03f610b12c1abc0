"""The database of the ledger: connecting, bringing its tables up to date, and setting a damaged file aside.

One server at a time has it: a second one would overwrite what the first remembers.
"""

from __future__ import annotations

import os
import sqlite3
import urllib.parse
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool, QueuePool

from ota_server.fleet import schema
from ota_server.fleet.errors import LedgerDamagedError, LedgerError
from ota_server.fleet.locking import FileLock, SessionLock

MIGRATIONS = Path(__file__).parent / "migrations"
"""Where alembic finds the changes of the tables."""

LOCK_PATIENCE = 5.0
"""How long to wait for another process that writes to the same file, or for PostgreSQL to answer, in seconds."""

_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}

_MAGIC = b"SQLite format 3\0"
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

_PRAGMAS = (
    # A halt has to outlive a power cut: with less than FULL, what was committed last may be lost by one.
    "PRAGMA synchronous = FULL",
    # 16 MB of pages: enough for the inner pages of every tree at a million devices, and little on a Raspberry Pi.
    "PRAGMA cache_size = -16384",
    # A failing SD card has to be an error here, where in mapped memory it would end the process.
    "PRAGMA mmap_size = 0",
    # After a large batch the log shrinks again.
    "PRAGMA journal_size_limit = 67108864",
    # The ledger needs no second writable place.
    "PRAGMA temp_store = MEMORY",
)

# Only one server may change the tables at a time; any number that no other program is likely to lock.
_POSTGRESQL_LOCK = 0x07A5E47E


def sqlite_url(path: str | os.PathLike[str]) -> str:
    """Return the URL of an SQLite file."""
    return URL.create("sqlite", database=os.path.abspath(path)).render_as_string(hide_password=False)


class Database:
    """One database, which one thread at a time may use. `name` says which, without its password."""

    def __init__(self, url: str) -> None:
        try:
            self.url = make_url(url)
        except (ArgumentError, ValueError):
            # The text may hold a password, and isn't shown.
            raise LedgerError(
                "the database's URL can't be read; such as postgresql://user@host/name is meant"
            ) from None
        backend = self.url.get_backend_name()
        if backend not in _DRIVERS:
            raise LedgerError(f"the ledger can be kept in SQLite or PostgreSQL, not in {backend!r}")
        self.url = self.url.set(drivername=_DRIVERS[backend])
        self.path: Path | None = None
        self.name = self.url.render_as_string(hide_password=True)
        if self.url.drivername == "sqlite":
            if not self.url.database or self.url.database == ":memory:":
                raise LedgerError(
                    "the ledger needs a file; such as sqlite:////var/lib/ota-server/ledger.sqlite is meant"
                )
            self.path = Path(self.url.database)
            self.name = str(self.path)
        self.dialect = self.url.get_backend_name()
        self._engine: Engine | None = None
        self._lock: FileLock | SessionLock | None = None

    @property
    def engine(self) -> Engine:
        """What connections come from, while this is open."""
        if self._engine is None:
            raise LedgerError(f"the ledger {self.name} isn't open")
        return self._engine

    def open(self, now: float) -> tuple[str, ...]:
        """Open for reading and writing, and bring the tables up to date.

        `now` is in seconds since 1970, and names a damaged file that is set aside. Returns what the owner has to be
        told, as sentences. Raises LedgerError, also where another server has it, and then nothing is changed.
        """
        had_lock = self._lock is not None
        try:
            self._take_lock()
            try:
                self._open()
            except LedgerDamagedError:
                return self.begin_anew(now)
        except BaseException:
            if not had_lock:
                self.close()
            raise
        return ()

    def begin_anew(self, now: float) -> tuple[str, ...]:
        """Set a damaged file aside, and open a new one; see open. The lock stays this server's, come what may."""
        self._disconnect()
        if self.path is None:
            raise LedgerError(f"the ledger {self.name} is damaged")
        self._take_lock()
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%S")
        aside = self.path.with_name(f"{self.path.name}.damaged-{stamp}")
        with self.speaking("can't be set aside"):
            # The file itself goes last: when that fails, the next start finds it again.
            for suffix in ("-wal", "-shm", "-journal", ""):
                part = Path(f"{self.path}{suffix}")
                if part.exists():
                    part.replace(f"{aside}{suffix}")
        try:
            self._open()
        except LedgerError as error:
            # Told now, since the next start finds no file, and nothing odd about that.
            raise LedgerError(
                f"the ledger {self.path} was damaged, and is kept as {aside.name}; now {error}"
            ) from error
        return (
            f"The ledger {self.path} was damaged; it is kept as {aside.name}, and a new one was begun.",
            "What was known of devices and rollouts is forgotten: releases that were halted are offered again.",
        )

    def open_for_reading(self) -> None:
        """Open for reading only, beside a running server. Raises LedgerError; nothing is ever changed."""
        if self.path is not None and not self.path.exists():
            raise LedgerError(f"there is no ledger yet at {self.path}")
        self._engine = self._create_engine(read_only=True)
        try:
            with self.speaking("can't be read"), self._engine.connect() as connection:
                self._demand_head(connection)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Give a connection whose changes are committed at the end, or none of them. Raises LedgerError."""
        engine = self.engine
        if isinstance(self._lock, SessionLock):
            with self.speaking("can't be written"):
                self._lock.keep()
        with self.speaking("can't be written"), engine.execution_options(writes=True).begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection that sees one state of the database. Raises LedgerError."""
        engine = self.engine
        if self.dialect == "postgresql":
            engine = engine.execution_options(isolation_level="REPEATABLE READ")
        with self.speaking("can't be read"), engine.connect() as connection:
            yield connection

    @contextmanager
    def writing_beside(self) -> Iterator[Connection]:
        """Give a connection to write with beside a running server; see writing."""
        if self.path is not None and not self.path.exists():
            raise LedgerError(f"there is no ledger yet at {self.path}")
        engine = self._create_engine()
        try:
            with self.speaking("can't be written"), engine.execution_options(writes=True).begin() as connection:
                self._demand_head(connection)
                yield connection
        finally:
            engine.dispose()

    def close(self) -> None:
        """Close all connections, and let another server have the ledger; harmless when there is nothing to close."""
        self._disconnect()
        if self._lock is not None:
            lock, self._lock = self._lock, None
            lock.release()

    def _disconnect(self) -> None:
        if self._engine is not None:
            engine, self._engine = self._engine, None
            engine.dispose()

    def _take_lock(self) -> None:
        """Take the ledger for this server. Raises LedgerError where another one has it."""
        if self._lock is not None:
            return
        with self.speaking("can't be opened"):
            if self.path is not None:
                self._lock = FileLock(self.path)
            else:
                self._lock = SessionLock(self._create_engine(lasting=True), self.name)

    @contextmanager
    def speaking(self, what: str) -> Iterator[None]:
        """Turn errors of the database into LedgerError, which says that the ledger `what`."""
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, OSError, OverflowError, ValueError, KeyError, TypeError) as error:
            cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
            kind = LedgerDamagedError if _is_damage(cause) else LedgerError
            reason = " ".join(str(cause).split()) or type(cause).__name__
            raise kind(f"the ledger {self.name} {what}: {reason}") from error

    def _open(self) -> None:
        self._disconnect()
        if self.path is not None:
            with self.speaking("can't be opened"):
                _prepare_file(self.path)
        self._engine = self._create_engine()
        try:
            with self.speaking("can't be opened"):
                with self._engine.connect() as connection:
                    self._demand_unicode(connection)
                    is_new = not inspect(connection).get_table_names()
                    revision = _read_revision(connection)
                    if revision not in (None, schema.REVISION):
                        self._demand_known(revision)
                    if self.path is not None:
                        connection.rollback()
                        # Outside of a transaction, and only once it is known to be ours to change.
                        connection.connection.cursor().execute("PRAGMA journal_mode = WAL").close()
                if revision != schema.REVISION:
                    self._upgrade(copy=not is_new)
                with self._engine.execution_options(writes=True).begin() as connection:
                    # This also shows whether it can be written at all.
                    if isinstance(self._lock, SessionLock):
                        self._lock.mark(connection)
        except BaseException:
            self._disconnect()
            raise

    def _create_engine(self, *, read_only: bool = False, lasting: bool = False) -> Engine:
        if self.path is not None:
            path = self.path
            engine = create_engine(
                self.url,
                creator=lambda: _connect(path, read_only=read_only),
                poolclass=QueuePool,
                pool_size=1,
            )
            event.listen(engine, "begin", _begin)
            return engine
        connect_args = {
            "client_encoding": "utf8",
            "connect_timeout": int(LOCK_PATIENCE),
            "keepalives_idle": 30,
            "tcp_user_timeout": 30_000,
        }
        try:
            return create_engine(
                self.url,
                connect_args={key: value for key, value in connect_args.items() if key not in self.url.query},
                execution_options={"postgresql_readonly": True} if read_only else {},
                # PostgreSQL may have been restarted in between.
                **({"poolclass": NullPool} if lasting else {"pool_size": 1, "pool_pre_ping": True}),
            )
        except ModuleNotFoundError as error:
            raise LedgerError(f"the ledger {self.name} needs the package {error.name}") from error

    def _upgrade(self, *, copy: bool) -> None:
        # Only here, since it takes long to import, and is needed once for each new version of the server.
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        with self.engine.execution_options(writes=True).begin() as connection:
            if self.dialect == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_POSTGRESQL_LOCK})"))
            if copy and self.path is not None:
                _copy(self.path, self.path.with_name(f"{self.path.name}.before-{schema.REVISION}"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def _demand_unicode(self, connection: Connection) -> None:
        if self.dialect == "postgresql":
            encoding = connection.execute(text("SHOW server_encoding")).scalar()
            if encoding != "UTF8":
                raise LedgerError(f"the ledger {self.name} needs a database of the encoding UTF8, and not {encoding}")

    def _demand_known(self, revision: str) -> None:
        from alembic.script import ScriptDirectory
        from alembic.util import CommandError

        try:
            ScriptDirectory(str(MIGRATIONS)).get_revision(revision)
        except CommandError:
            raise LedgerError(
                f"the ledger {self.name} was written by a newer OTA Server (its tables are of revision {revision}, "
                f"and this program knows them up to {schema.REVISION}); nothing was changed"
            ) from None

    def _demand_head(self, connection: Connection) -> None:
        revision = _read_revision(connection)
        if revision is None:
            raise LedgerError(f"there is no ledger yet in {self.name}")
        if revision != schema.REVISION:
            raise LedgerError(
                f"the ledger {self.name} is of another version of the OTA Server (its tables are of revision "
                f"{revision}, and this program reads {schema.REVISION})"
            )


def _is_damage(error: BaseException) -> bool:
    # What stands in the upper bits says more closely where the damage was found.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED


def _prepare_file(path: Path) -> None:
    """Make the file where there is none, readable for its owner only, as the files that SQLite puts beside it are."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        if not path.is_file():
            return
        with path.open("rb") as file:
            begins = file.read(len(_MAGIC))
        log = Path(f"{path}-wal")
        # SQLite takes an empty file, and one of a single byte, for a new database, and removes the log without a word.
        if begins != _MAGIC if begins else log.exists() and log.stat().st_size > 0:
            raise LedgerDamagedError(f"the ledger {path} is damaged: it doesn't begin as a database does") from None


def _connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    address = f"file:{urllib.parse.quote(os.fsencode(path.absolute()))}?mode={'ro' if read_only else 'rw'}"
    # Transactions are begun by _begin: left to Python, they would not hold changes of tables.
    connection = sqlite3.connect(address, LOCK_PATIENCE, isolation_level=None, check_same_thread=False, uri=True)
    try:
        for pragma in _PRAGMAS:
            connection.execute(pragma).close()
    except BaseException:
        connection.close()
        raise
    return connection


def _begin(connection: Connection) -> None:
    # Who wants to write says so at once: a reader that becomes a writer later may find that somebody else was first.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _read_revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(schema.VERSION_TABLE):
        return None
    revision = connection.execute(text(f"SELECT version_num FROM {schema.VERSION_TABLE}")).scalar()  # noqa: S608
    return None if revision is None else str(revision)


def _copy(path: Path, target: Path) -> None:
    part = target.with_name(f"{target.name}.part")
    try:
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with closing(_connect(path, read_only=True)) as source, closing(sqlite3.connect(part)) as copy:
            source.backup(copy)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
