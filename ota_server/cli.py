"""The command `ota-server`: the server in the foreground."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `twistd ota` in the foreground, with these options or those of the command line."""
    from twisted.scripts.twistd import run

    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["run"]:
        del given[0]
    sys.argv[1:] = ["--nodaemon", "--pidfile=", "ota", *given]
    run()
