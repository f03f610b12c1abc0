"""The plain peer: the same job done with ``http.server`` as simply as one would.

``python plain_server.py DIR PORT`` serves ``GET /firmware`` out of DIR: it lists the folder at each request,
takes the newest ``firmware-MAJOR.MINOR[.PATCH].bin`` and answers 304 when the device already has it.
"""

import os
import re
import shutil
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_IMAGE = re.compile(r"(.+)-(\d+)\.(\d+)(?:\.(\d+))?\.bin")


def _newest(folder: str, project: str) -> tuple[tuple[int, ...], str] | None:
    """Return the highest version of a project in the folder, and the path of its file."""
    found = []
    for name in os.listdir(folder):
        match = _IMAGE.fullmatch(name)
        if match and match[1] == project:
            version = tuple(int(part or 0) for part in match.groups()[1:])
            found.append((version, os.path.join(folder, name)))
    return max(found, default=None)


class Handler(BaseHTTPRequestHandler):
    """Answers an update check: 304 when the device is up to date, else 200 with the image."""

    protocol_version = "HTTP/1.1"  # keeps connections alive
    folder = "."

    def do_GET(self) -> None:
        """Answer one request."""
        newest = _newest(self.folder, self.path.removeprefix("/"))
        if newest is None:
            self.send_error(404)
            return
        version, path = newest
        running = self.headers["x-ESP8266-version"]
        if running and tuple(int(part) for part in running.split(".")) >= version:
            self._begin(304)
            self.end_headers()
            return
        with open(path, "rb") as file:
            self._begin(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(os.fstat(file.fileno()).st_size))
            self.end_headers()
            shutil.copyfileobj(file, self.wfile)

    def _begin(self, status: int) -> None:
        """Begin an answer, and say where the connection ends with it."""
        self.send_response(status)
        if self.close_connection:
            self.send_header("Connection", "close")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Write no access log: the other peers write none either."""


class Server(ThreadingHTTPServer):
    """One thread for each connection; the queue is long enough that no connection has to be tried twice."""

    request_queue_size = 1024


def main() -> None:
    """Serve DIR on 127.0.0.1:PORT until the process is stopped."""
    Handler.folder = sys.argv[1]
    Server(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()


if __name__ == "__main__":
    main()
