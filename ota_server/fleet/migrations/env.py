"""Run by alembic: applies the changes to the connection that `fleet/database.py` hands over."""

from __future__ import annotations

from alembic import context

from ota_server.fleet.schema import METADATA

# One transaction for all changes, also on SQLite, which can do that though alembic doesn't expect it.
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
