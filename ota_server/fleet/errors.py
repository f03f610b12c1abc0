"""What can go wrong with the ledger."""

from __future__ import annotations


class LedgerError(Exception):
    """The ledger can't be used; the message says why, in one line for a person."""


class LedgerDamagedError(LedgerError):
    """The file is no database any more, or not a whole one."""
