"""`python -m ota_server.container`: the server in the foreground, as process 1 of a container."""

from __future__ import annotations

import os
import signal
import sys


def end(number: int, frame: object) -> None:
    """End this process at once, with status 0, as a server that has been stopped does."""
    # The ordinary way out would wait for threads that the reactor, which does not run yet, is to end.
    os._exit(0)


def main() -> None:
    """Run the server with the arguments of the command line.

    Process 1 gets no signal that it has no handler for, so that a `stop` within the second that starting takes would
    be lost, and the container be killed long after. The reactor puts a handler of its own in the place of this one.
    """
    signal.signal(signal.SIGTERM, end)
    from ota_server import cli

    cli.main(["run", *sys.argv[1:]])


if __name__ == "__main__":
    main()
