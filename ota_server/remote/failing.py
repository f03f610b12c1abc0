"""How the commands end: exit statuses, and `CommandError` with the line that says why."""

from __future__ import annotations

import enum


class Status(enum.IntEnum):
    """The exit statuses of the commands that ask the operator's door."""

    DONE = 0
    """What was asked for is done."""
    FAILED = 1
    """The server refused it, or the rollout that was waited for halted."""
    USAGE = 2
    """The command line, or a file that it names, is wrong; nothing was asked."""
    LATE = 3
    """The time of --timeout was over first."""
    UNREACHABLE = 4
    """The server can't be reached, or what answers is no operator's door."""


class CommandError(Exception):
    """Why a command ends before it is done: one line for people, and the exit status."""

    def __init__(self, text: str, status: Status = Status.FAILED) -> None:
        super().__init__(text)
        self.status = status


class Refusal(CommandError):  # noqa: N818 - no error of ours
    """What the server answered instead: a problem (RFC 9457).

    `code` is the HTTP status, `kind` the last part of the problem's type, empty where the answer is no problem.
    """

    def __init__(self, text: str, code: int, kind: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.kind = kind
