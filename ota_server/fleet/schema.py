"""The tables of the ledger, as the newest of `migrations/` leaves them, for SQLite and PostgreSQL alike.

Versions are three numbers, each of up to 15 digits. Times are in seconds since 1970. See the values of
`fleet/journal.py` for what the columns mean.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

REVISION = "0001"
"""The revision of the tables that this program reads and writes: the last one in `migrations/versions/`."""

VERSION_TABLE = "alembic_version"
"""Where alembic keeps the revision."""

METADATA = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(column_0_label)s",
    }
)

# Of 64 bits. SQLite's integers are that anyway, and only a column of type INTEGER may be the number of the row.
NUMBER = BigInteger().with_variant(Integer(), "sqlite")


def _version(prefix: str = "", *, optional: bool = False, primary_key: bool = False) -> list[Column[int]]:
    return [
        Column(f"{prefix}{part}", NUMBER, nullable=optional, primary_key=primary_key, autoincrement=False)
        for part in ("major", "minor", "patch")
    ]


# There is no index of `last_seen`: it would double what is written for a device that only checked in again.
DEVICES = Table(
    "devices",
    METADATA,
    Column("key", NUMBER, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False, unique=True),
    Column("dialect", Text),
    Column("channel", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("first_seen", Double, nullable=False),
    Column("last_seen", Double, nullable=False),
    Column("address", Text, nullable=False),
    Column("version", Text),
    Column("image", Text),
    Column("chip", Text),
    Column("rhythm", LargeBinary, nullable=False),
    Column("taken_channel", Text),
    Column("taken_project", Text),
    *_version("taken_", optional=True),
    Column("taken_image", Text),
    Column("taken_downloads", NUMBER, nullable=False),
    Index("ix_devices_project_version", "project", "version"),
)

# The key begins with the device and goes on with the release, so that what a device made of each release is counted
# in the order of the table. Without numbers of rows the key is the table, and no second tree.
ATTEMPTS = Table(
    "attempts",
    METADATA,
    Column("device", NUMBER, primary_key=True, autoincrement=False),
    Column("channel", Text, primary_key=True),
    Column("project", Text, primary_key=True),
    *_version(primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("image", Text, primary_key=True),
    Column("before", Text),
    Column("offered_at", Double, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("outcome_at", Double, nullable=False),
    Column("downloaded_at", Double),
    Column("downloads", NUMBER, nullable=False),
    Column("fetched", Boolean, nullable=False),
    Column("braked_until", Double, nullable=False),
    Column("acknowledged", Boolean, nullable=False),
    Column("settled", Boolean, nullable=False),
    Column("counted", Boolean, nullable=False),
    Index("ix_attempts_release", "channel", "project", "major", "minor", "patch", "counted", "outcome", "offered_at"),
    sqlite_with_rowid=False,
)

ROLLOUTS = Table(
    "rollouts",
    METADATA,
    Column("channel", Text, primary_key=True),
    Column("project", Text, primary_key=True),
    *_version(primary_key=True),
    Column("state", Text, nullable=False),
    Column("stage", NUMBER, nullable=False),
    Column("seats", NUMBER),
    Column("started_at", Double, nullable=False),
    Column("stage_since", Double, nullable=False),
    Column("acknowledged", NUMBER, nullable=False),
    Column("why", Text, nullable=False),
    sqlite_with_rowid=False,
)

# Batch and place in it are the number of an event, so that a batch that is written again adds none.
EVENTS = Table(
    "events",
    METADATA,
    Column("batch", NUMBER, primary_key=True, autoincrement=False),
    Column("place", NUMBER, primary_key=True, autoincrement=False),
    Column("time", Double, nullable=False, index=True),
    Column("actor", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("channel", Text),
    Column("project", Text),
    *_version(optional=True),
    Column("device", Text, index=True),
    sqlite_with_rowid=False,
)

ORDERS = Table(
    "orders",
    METADATA,
    Column("id", NUMBER, primary_key=True),
    Column("time", Double, nullable=False),
    Column("actor", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("channel", Text),
    Column("project", Text),
    *_version(optional=True),
    Column("device", Text),
    Column("done", Boolean, nullable=False),
)

SIGHTINGS = Table(
    "sightings",
    METADATA,
    Column("id", NUMBER, primary_key=True, autoincrement=False),
    Column("began", Double, nullable=False),
    Column("packed", LargeBinary, nullable=False),
)

# The largest number of a batch and of a device that was ever written, since their rows may be gone.
MARKS = Table(
    "marks",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("value", NUMBER, nullable=False),
    sqlite_with_rowid=False,
)
