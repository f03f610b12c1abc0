"""`python -m ota_server.health [URL]`: asks a server whether it is ready, for images that have no curl."""

from __future__ import annotations

import http.client
import os
import ssl
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

DEFAULT_URL = "http://127.0.0.1:8000/-/ready"
"""Asked where neither the command line nor OTA_HEALTH_URL names another."""

TIMEOUT = 4.0
"""How long the server may take to be connected to, and then for each part of its answer, in seconds."""

MAX_BODY = 200
"""How much of the answer is shown, in bytes."""


class HealthError(Exception):
    """The server isn't ready, or can't be asked; the message says which, on one line."""


def ask(url: str) -> str:
    """Return what a server that is ready answers. Raises HealthError, also for an address that is none.

    Certificates aren't judged: it is asked over the loopback interface, where theirs names another host.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as problem:
        raise HealthError(f"{url} is no address: {problem}") from problem
    if parts.scheme not in ("http", "https") or host is None:
        raise HealthError(f"{url} is no address such as {DEFAULT_URL}")
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    try:
        connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        response = connection.getresponse()
        text = response.read(MAX_BODY).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as problem:
        raise HealthError(f"{url}: {problem or type(problem).__name__}") from problem
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise HealthError(f"{url}: {response.status} {text}")
    return text


def _printable(text: str) -> str:
    """Bring a text onto one line, and put something else in the place of what would move a terminal's cursor."""
    return "".join(char if char.isprintable() else "?" for char in " ".join(text.split()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what the server says, and return the exit status: 0 where it is ready, 1 where not, 2 for wrong use."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) > 1 or any(argument.startswith("-") for argument in given):
        sys.stderr.write("usage: python -m ota_server.health [URL]\n")
        return 2
    try:
        text = ask(given[0] if given else os.environ.get("OTA_HEALTH_URL") or DEFAULT_URL)
    except HealthError as problem:
        sys.stderr.write(f"ota: not ready: {_printable(str(problem))}\n")
        return 1
    sys.stdout.write(f"{_printable(text)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
