"""A second plain peer: the smallest ``twisted.web`` site that answers update checks, without access log.

``python twisted_server.py DIR PORT`` shows what Twisted itself costs. It knows one image for good.
"""

import os
import sys

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IReactorCore
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import Resource
from twisted.web.server import Request, Site
from twisted.web.static import File


class Firmware(Resource):
    """Answers 304 to the version it knows and sends the file to everybody else."""

    isLeaf = True

    def __init__(self, path: str) -> None:
        super().__init__()
        self._file = File(path, defaultType="application/octet-stream")

    def render_GET(self, request: Request) -> bytes | int:
        """Answer one request."""
        if request.getHeader(b"x-esp8266-version") == b"1.2.3":
            request.setResponseCode(304)
            return b""
        answer: bytes | int = self._file.render_GET(request)
        return answer


class QuietSite(Site):
    """A site that writes no access log: the other peers write none either."""

    def log(self, request: HTTPRequest) -> None:
        """Write nothing."""


def main() -> None:
    """Serve DIR/firmware-1.2.3.bin on 127.0.0.1:PORT until the process is stopped."""
    site = QuietSite(Firmware(os.path.join(sys.argv[1], "firmware-1.2.3.bin")))
    endpoint = TCP4ServerEndpoint(reactor, int(sys.argv[2]), backlog=1024, interface="127.0.0.1")
    endpoint.listen(site).addErrback(lambda failure: sys.exit(str(failure.value)))
    IReactorCore(reactor).run()


if __name__ == "__main__":
    main()
