"""The changes of the ledger's tables, applied in order by alembic."""
