"""Downloads one address again and again: ``python reader.py PORT PATH CONNECTIONS SECONDS SIZE``.

A program of its own, so that its CPU time can be told from the server's. Each download has a new connection
and is read to its end. The last line that is printed is JSON; any answer but 200 with SIZE bytes is an error.
"""

import json
import resource
import selectors
import socket
import sys
import time

_BUFFER = 1 << 20


class Reader:
    """Keeps a number of downloads running until the time is over."""

    def __init__(self, port: int, path: str, size: int) -> None:
        self._address = ("127.0.0.1", port)
        self._head = f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode()
        self._size = size
        self._buffer = memoryview(bytearray(_BUFFER))
        self._selector = selectors.DefaultSelector()
        self._missing: dict[socket.socket, int] = {}  # bytes still to come; -1 before the head
        self.done = 0

    def run(self, connections: int, seconds: float) -> float:
        """Download for so many seconds, finish what has begun, and return the seconds that it took."""
        begun = time.perf_counter()
        for _ in range(connections):
            self._open()
        while self._missing:
            for key, _ in self._selector.select(10) or self._stalled():
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if self._read(connection):
                    self._selector.unregister(connection)
                    connection.close()
                    self.done += 1
                    if time.perf_counter() - begun < seconds:
                        self._open()
        return time.perf_counter() - begun

    @staticmethod
    def _stalled() -> list[tuple[selectors.SelectorKey, int]]:
        sys.exit("no download moved for 10 s")

    def _open(self) -> None:
        connection = socket.create_connection(self._address, timeout=10)
        connection.sendall(self._head)
        self._missing[connection] = -1
        self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: socket.socket) -> bool:
        """Read once; return whether the download is complete and the server has closed."""
        count = connection.recv_into(self._buffer)
        missing = self._missing[connection]
        if missing < 0:
            data = bytes(self._buffer[: min(count, 4096)])
            end = data.find(b"\r\n\r\n") + 4
            if data[9:13] != b"200 " or end < 4:
                sys.exit(f"not an answer with an image: {data[:80]!r}")
            missing = self._size
            count -= end
        elif count == 0:
            if missing:
                sys.exit(f"a download ended {missing} bytes short")
            del self._missing[connection]
            return True
        if count > missing:
            sys.exit(f"a download is longer than {self._size} bytes")
        self._missing[connection] = missing - count
        return False


def main() -> None:
    """Run, and print how many bytes came in how many seconds and the CPU seconds this program took."""
    port, path, connections, seconds, size = sys.argv[1:]
    reader = Reader(int(port), path, int(size))
    before = resource.getrusage(resource.RUSAGE_SELF)
    took = reader.run(int(connections), float(seconds))
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"bytes": reader.done * int(size), "seconds": took, "cpu": cpu}))


if __name__ == "__main__":
    main()
