"""On which line of a TOML file each table, key and item of a list stands, which `tomllib` doesn't tell."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

Path = tuple[str | int, ...]
"""The way to a value: keys of tables, and numbers of items of lists."""

MAX_DEPTH = 8
"""Paths are noted up to so many steps."""

_BLANKS = re.compile(r"[ \t]*")
_BETWEEN = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_LINE_END = re.compile(r"[^\n]*")
_KEY = re.compile(r"""([A-Za-z0-9_-]+) | "((?:[^"\\\n]|\\.)*)" | '([^'\n]*)'""", re.VERBOSE)
# A text of several lines may end with two quotation marks of its own.
_PLAIN = re.compile(
    r'''"""(?:[^\\]|\\.)*?"{3,5} | \'\'\'.*?'{3,5} | "(?:[^"\\\n]|\\.)*" | '[^'\n]*' | [^,\]}\n#]+''',
    re.DOTALL | re.VERBOSE,
)


def find_lines(text: str) -> Mapping[Path, int]:
    """Return the line, counted from 1, on which each path of a TOML text is written first.

    The text is one that `tomllib` has read.
    """
    scanner = _Scanner(text)
    # A form of TOML may be newer than this: what is found so far is better than nothing.
    with suppress(_LostError):
        scanner.scan()
    return scanner.lines


def line_of(lines: Mapping[Path, int], path: Sequence[str | int]) -> int:
    """Return the line of a path, or of the nearest place above it that has one; 1 where nothing has."""
    for length in range(len(path), 0, -1):
        line = lines.get(tuple(path[:length]))
        if line is not None:
            return line
    return 1


class Section(NamedTuple):
    """The lines of one table: its path, () for what stands before all headers; and its lines, counted from 1.

    `first` is the line of the header, and `last` that of the end of its last value: what comes behind, as comments and
    empty lines, may be about the next table as well.
    """

    path: Path
    first: int
    last: int


def find_sections(text: str) -> tuple[Section, ...]:
    """Return the tables of a TOML text that have a header, in the order that they stand there, and the top.

    The text is one that `tomllib` has read. Of a form of TOML that is newer than this there may be fewer.
    """
    scanner = _Scanner(text)
    with suppress(_LostError):
        scanner.scan()
    return tuple(scanner.sections)


class _LostError(Exception):
    """The text isn't as expected."""


class _Scanner:
    """Walks once through a text."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self.sections = [Section((), 1, 0)]
        self._text = text
        self._at = 0
        self._ends = [found.start() for found in re.finditer("\n", text)]

    def scan(self) -> None:
        """Note the lines of all there is. Raises _LostError."""
        table: Path = ()
        while self._skip(_BETWEEN) < len(self._text):
            if self._take("["):
                first = self._line()
                self._take("[")
                table = self._key(())
                self.sections.append(Section(table, first, first))
            else:
                self._pair(table)
            # Nothing but a comment comes behind, and the brackets of a header.
            self._skip(_LINE_END)
            self.sections[-1] = self.sections[-1]._replace(last=self._line())

    def _skip(self, pattern: re.Pattern[str]) -> int:
        """Step over what matches, which may be nothing; return where that leads."""
        found = pattern.match(self._text, self._at)
        if found is None:
            raise _LostError
        self._at = found.end()
        return self._at

    def _take(self, character: str) -> bool:
        """Step over a character if it comes next."""
        taken = self._text.startswith(character, self._at)
        self._at += taken
        return taken

    def _line(self) -> int:
        """Return the line of the character before this place."""
        return bisect_right(self._ends, self._at - 1) + 1

    def _note(self, path: Path) -> None:
        if len(path) <= MAX_DEPTH:
            self.lines.setdefault(path, self._line())

    def _key(self, table: Path) -> Path:
        """Step over a key, with dots or without, and note it and the tables that it leads through."""
        path = table
        while True:
            self._skip(_BLANKS)
            found = _KEY.match(self._text, self._at)
            if found is None:
                raise _LostError
            bare, quoted, literal = found.groups()
            if quoted is not None and "\\" in quoted:
                (quoted,) = tomllib.loads(f"{found[0]}=0")
            if len(path) <= MAX_DEPTH:
                path = (*path, bare or quoted or literal or "")
            self._at = found.end()
            self._note(path)
            self._skip(_BLANKS)
            if not self._take("."):
                return path

    def _pair(self, table: Path) -> None:
        """Step over a key and its value."""
        path = self._key(table)
        if not self._take("="):
            raise _LostError
        self._skip(_BLANKS)
        self._value(path)

    def _value(self, path: Path) -> None:
        if self._take("["):
            self._items(path)
        elif self._take("{"):
            self._pairs(path)
        else:
            self._skip(_PLAIN)

    def _items(self, path: Path) -> None:
        """Step over the items of a list, and note each."""
        number = 0
        self._skip(_BETWEEN)
        while not self._take("]"):
            self._note((*path, number))
            self._value((*path, number))
            self._next()
            number += 1

    def _pairs(self, path: Path) -> None:
        """Step over the pairs of an inline table."""
        self._skip(_BETWEEN)
        while not self._take("}"):
            self._pair(path)
            self._next()

    def _next(self) -> None:
        """Step to the next item, or to the end of list or table."""
        self._skip(_BETWEEN)
        self._take(",")
        self._skip(_BETWEEN)
