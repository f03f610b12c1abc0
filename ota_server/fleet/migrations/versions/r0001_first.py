"""The first tables of the ledger."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _version(prefix: str = "", *, optional: bool = False) -> list[sa.Column[int]]:
    return [sa.Column(f"{prefix}{part}", _NUMBER, nullable=optional) for part in ("major", "minor", "patch")]


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "devices",
        sa.Column("key", _NUMBER, autoincrement=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("dialect", sa.Text),
        sa.Column("channel", sa.Text, nullable=False),
        sa.Column("project", sa.Text, nullable=False),
        sa.Column("first_seen", sa.Double, nullable=False),
        sa.Column("last_seen", sa.Double, nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("version", sa.Text),
        sa.Column("image", sa.Text),
        sa.Column("chip", sa.Text),
        sa.Column("rhythm", sa.LargeBinary, nullable=False),
        sa.Column("taken_channel", sa.Text),
        sa.Column("taken_project", sa.Text),
        *_version("taken_", optional=True),
        sa.Column("taken_image", sa.Text),
        sa.Column("taken_downloads", _NUMBER, nullable=False),
        sa.PrimaryKeyConstraint("key"),
        sa.UniqueConstraint("id"),
    )
    op.create_index("ix_devices_project_version", "devices", ["project", "version"])
    op.create_table(
        "attempts",
        sa.Column("device", _NUMBER, autoincrement=False),
        sa.Column("channel", sa.Text),
        sa.Column("project", sa.Text),
        *_version(),
        sa.Column("kind", sa.Text),
        sa.Column("image", sa.Text),
        sa.Column("before", sa.Text),
        sa.Column("offered_at", sa.Double, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("outcome_at", sa.Double, nullable=False),
        sa.Column("downloaded_at", sa.Double),
        sa.Column("downloads", _NUMBER, nullable=False),
        sa.Column("fetched", sa.Boolean, nullable=False),
        sa.Column("braked_until", sa.Double, nullable=False),
        sa.Column("acknowledged", sa.Boolean, nullable=False),
        sa.Column("settled", sa.Boolean, nullable=False),
        sa.Column("counted", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("device", "channel", "project", "major", "minor", "patch", "kind", "image"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_attempts_release",
        "attempts",
        ["channel", "project", "major", "minor", "patch", "counted", "outcome", "offered_at"],
    )
    op.create_table(
        "rollouts",
        sa.Column("channel", sa.Text),
        sa.Column("project", sa.Text),
        *_version(),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("stage", _NUMBER, nullable=False),
        sa.Column("seats", _NUMBER),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("stage_since", sa.Double, nullable=False),
        sa.Column("acknowledged", _NUMBER, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("channel", "project", "major", "minor", "patch"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "events",
        sa.Column("batch", _NUMBER, autoincrement=False),
        sa.Column("place", _NUMBER, autoincrement=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("channel", sa.Text),
        sa.Column("project", sa.Text),
        *_version(optional=True),
        sa.Column("device", sa.Text),
        sa.PrimaryKeyConstraint("batch", "place"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_events_time", "events", ["time"])
    op.create_index("ix_events_device", "events", ["device"])
    op.create_table(
        "orders",
        sa.Column("id", _NUMBER),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("channel", sa.Text),
        sa.Column("project", sa.Text),
        *_version(optional=True),
        sa.Column("device", sa.Text),
        sa.Column("done", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "sightings",
        sa.Column("id", _NUMBER, autoincrement=False),
        sa.Column("began", sa.Double, nullable=False),
        sa.Column("packed", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "marks",
        sa.Column("name", sa.Text),
        sa.Column("value", _NUMBER, nullable=False),
        sa.PrimaryKeyConstraint("name"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Take the tables away, with all that is in them."""
    for table in ("marks", "sightings", "orders", "events", "rollouts", "attempts", "devices"):
        op.drop_table(table)
