"""Running commands for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO


def run_here(command: Callable[[Sequence[str]], int], *arguments: str) -> tuple[int, str, str]:
    """Run a command in this process; return its exit status, and what it printed, also as errors."""
    out, errors = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(errors):
        status = command(arguments)
    return status, out.getvalue(), errors.getvalue()
