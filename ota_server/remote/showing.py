"""What the commands print: tables on a terminal, tab-separated lines or JSON elsewhere.

Everything that a server says is escaped, so that no device can write to an operator's terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from ota_server.firmware.esp import escape


def is_terminal(stream: TextIO) -> bool:
    """Say whether a stream leads to a person."""
    return stream.isatty()


def spell(value: object) -> str:
    """Write a value for people, on one line."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ", ".join(map(spell, value)) or "-"
        case dict():
            return ", ".join(f"{spell(each)} {spell(name)}" for name, each in value.items()) or "-"
    return escape(str(value))


def print_line(text: str = "") -> None:
    """Print a line, at once."""
    print(text, flush=True)


def print_json(value: Any, *, lines: bool = False) -> None:
    """Print one JSON document; with `lines` on one line of its own."""
    print_line(json.dumps(value) if lines else json.dumps(value, indent=2))


def print_table(heads: Sequence[str], rows: Iterable[Sequence[object]], nothing: str) -> None:
    """Print rows under their heads on a terminal, and elsewhere lines of values with tabs between them.

    `nothing` is told, on standard error, where there are none.
    """
    spelled = ([spell(value) for value in row] for row in rows)
    if not is_terminal(sys.stdout):
        shown = 0
        for shown, row in enumerate(spelled, 1):  # noqa: B007 - counts
            print("\t".join(row))
    else:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for head in heads:
            table.add_column(head, overflow="fold")
        for row in spelled:
            # Not strings, in which brackets would be marks.
            table.add_row(*(Text(value, style=_STYLES.get(value, "")) for value in row))
        shown = len(table.rows)
        if shown:
            Console().print(table)
    if not shown:
        print(nothing, file=sys.stderr)


_STYLES = {
    "halted": "red",
    "bounced": "red",
    "silent": "red",
    "complete": "green",
    "confirmed": "green",
    "running": "cyan",
}
"""Words that are shown in a colour, where the terminal has colours and NO_COLOR isn't set."""


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Print facts one to a line; those that aren't known are left out."""
    shown = [(name, spell(value)) for name, value in facts if value not in (None, "", [], {})]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"{name:<{width}}  {value}")


def spell_time(text: str | None) -> str | None:
    """Write a time of RFC 3339 for people, to the second: `2026-11-24 02:00:00 UTC`."""
    if not text:
        return None
    return f"{text[:19].replace('T', ' ')} UTC"


def spell_attempt(attempt: dict[str, Any]) -> str:
    """Write what a device was sent, and what came of it, for people."""
    what = f"{spell(attempt['project'])} {spell(attempt['version'])} {spell(attempt['kind'])}"
    counts = f"{spell(attempt['outcome'])}, {spell(attempt['downloads'])} downloads"
    return f"{spell_time(attempt['offered_at'])}  {what}: {counts}"


def spell_size(size: int) -> str:
    """Write a count of bytes."""
    return f"{size:,} bytes"
