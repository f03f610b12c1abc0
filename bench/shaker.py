"""Checks over TLS, a connection each: ``python -P shaker.py PORT VERSION SUITE MODE CONNECTIONS SECONDS HEAD``.

A program of its own, so that its CPU time can be told from the server's. VERSION is 1.2 or 1.3, SUITE one of TLS 1.2,
which decides on the certificate. MODE says what each connection begins with: a ``new`` handshake, or the resumption of
the thread's session before, by ``id`` or by ``ticket``. HEAD is a file with the request. The last line that is printed
is JSON; any answer but 304, and any handshake of the other kind, is an error.
"""

import json
import resource
import socket
import ssl
import sys
import threading
import time
from pathlib import Path

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class Shaker:
    """Checks with as many connections at a time as there are threads, until the time is over."""

    def __init__(self, port: int, version: str, suite: str, mode: str, head: bytes) -> None:
        self._address = ("127.0.0.1", port)
        self._head = head
        self._mode = mode
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # Judging the certificate is the load's own work, and the same with every server.
        self._context.check_hostname, self._context.verify_mode = False, ssl.CERT_NONE
        self._context.minimum_version = self._context.maximum_version = VERSIONS[version]
        # Under TLS 1.3 this says nothing, and the server chooses.
        self._context.set_ciphers(suite)
        if mode == "id":
            self._context.options |= ssl.OP_NO_TICKET
        self._deadline = 0.0
        self.done = 0
        self.problems: list[str] = []
        self._lock = threading.Lock()

    def run(self, connections: int, seconds: float) -> float:
        """Check for so many seconds, finish what has begun, and return the seconds that it took."""
        begun = time.perf_counter()
        self._deadline = begun + seconds
        threads = [threading.Thread(target=self._check_on) for _ in range(connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - begun

    def _check_on(self) -> None:
        """Check again and again; each thread is a device with a session of its own."""
        done, session = 0, None
        try:
            if self._mode != "new":
                session = self._check(None)
            while time.perf_counter() < self._deadline and not self.problems:
                following = self._check(session)
                # A ticket of TLS 1.3 is for one connection (RFC 8446, appendix C.4).
                session = following if self._mode != "new" else None
                done += 1
        except (OSError, ValueError) as error:
            self.problems.append(f"{type(error).__name__}: {error}")
        with self._lock:
            self.done += done

    def _check(self, session: ssl.SSLSession | None) -> ssl.SSLSession | None:
        with socket.create_connection(self._address, timeout=10) as plain:
            # What ends the handshake and the request are written apart.
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = self._context.wrap_socket(plain, session=session)
            connection.sendall(self._head)
            answer = b""
            while piece := connection.recv(4096):
                answer += piece
            reused, following = connection.session_reused, connection.session
            connection.close()
        if answer[9:13] != b"304 ":
            raise ValueError(f"no 304: {answer[:80]!r}")
        if reused is (session is None) or following is None:
            raise ValueError("the session was resumed" if session is None else "the session was not resumed")
        return following


def main() -> None:
    """Run, and print how many checks were answered in how many seconds, and the CPU seconds this program took."""
    port, version, suite, mode, connections, seconds, head = sys.argv[1:]
    shaker = Shaker(int(port), version, suite, mode, Path(head).read_bytes())
    before = resource.getrusage(resource.RUSAGE_SELF)
    took = shaker.run(int(connections), float(seconds))
    after = resource.getrusage(resource.RUSAGE_SELF)
    if shaker.problems:
        sys.exit(shaker.problems[0])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"checks": shaker.done, "seconds": took, "cpu": cpu}))


if __name__ == "__main__":
    main()
