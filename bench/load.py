"""What asks the servers: single questions, checks by wrk, downloads by ``reader.py``, slow downloads."""

import contextlib
import json
import random
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_HOST = "127.0.0.1"


class BenchError(Exception):
    """A peer did not do its job, so its numbers would mean nothing."""


@dataclass(frozen=True)
class Load:
    """What a load got done: checks or bytes, in how many seconds, and the CPU seconds it took itself.

    All checks but one in a hundred were answered within ``slowest`` seconds.
    """

    amount: int
    seconds: float
    cpu: float
    slowest: float = 0.0


def mac_address(index: int) -> str:
    """Return the MAC address of a device of the load, as ``check.lua`` writes it."""
    return f"DE:BA:7A:{index >> 16 & 255:02X}:{index >> 8 & 255:02X}:{index & 255:02X}"


def request_head(
    path: str,
    port: int,
    version: str,
    *,
    kept: bool = False,
    device: tuple[str, str] = ("8000000", "DE:BA:7A:00:00:00"),
) -> bytes:
    """Return the request of an ESP8266 as its update client sends it, first line to empty line.

    With ``kept``, it is HTTP/1.1 without ``Connection: close``; ``device`` is chip id and MAC address.
    """
    chip, mac = device
    lines = [
        f"GET {path} HTTP/{'1.1' if kept else '1.0'}",
        f"Host: {_HOST}:{port}",
        "User-Agent: ESP8266-http-Update",
        *([] if kept else ["Connection: close"]),
        f"x-ESP8266-Chip-ID: {chip}",
        f"x-ESP8266-STA-MAC: {mac}",
        f"x-ESP8266-AP-MAC: {mac}",
        "x-ESP8266-free-space: 16777216",
        "x-ESP8266-sketch-size: 400000",
        "x-ESP8266-sketch-md5: a56f8ef78a0bebd812f62067daf1408a",
        "x-ESP8266-chip-size: 16777216",
        "x-ESP8266-sdk-version: 2.5.0",
        "x-ESP8266-mode: sketch",
        f"x-ESP8266-version: {version}",
        "Content-Length: 0",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def plain_head(path: str, port: int) -> bytes:
    """Return the request of a client that says nothing of itself and gets the newest image."""
    return f"GET {path} HTTP/1.0\r\nHost: {_HOST}:{port}\r\nConnection: close\r\n\r\n".encode()


def ask(port: int, head: bytes, timeout: float = 30) -> tuple[int, bytes]:
    """Send one request and return the status and the body of the answer; ``timeout`` in seconds."""
    with socket.create_connection((_HOST, port), timeout=timeout) as connection:
        connection.sendall(head)
        answer = bytearray()
        while data := connection.recv(1 << 20):
            answer += data
    top, blank, body = bytes(answer).partition(b"\r\n\r\n")
    if not blank:
        raise ConnectionError(f"no whole answer: {top[:80]!r}")
    return int(top.split(b" ", 2)[1]), body


def checks(
    port: int,
    path: str,
    version: str,
    *,
    kept: bool,
    connections: int,
    seconds: int,
    devices: int = 1000,
    chance: bool = False,
) -> Load:
    """Let wrk ask for updates for so many seconds, as so many devices, with so many connections at a time.

    They ask one after another, or with ``chance`` at random. Every answer must be 304. The requests in flight at the
    end are not counted.
    """
    head = request_head(path, port, version, kept=kept, device=("@CHIP@", "@MAC@"))
    with tempfile.NamedTemporaryFile(prefix="ota-bench-") as template:
        template.write(head)
        template.flush()
        command = ["wrk", "--threads=1", f"--connections={connections}", f"--duration={seconds}s"]
        command += ["--timeout=30s", f"--script={_HERE / 'check.lua'}"]
        command += [f"http://{_HOST}:{port}{path}", "--", template.name, str(devices)]
        command += [str(random.randrange(1 << 31))] if chance else []
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        output = _run(command, seconds)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = json.loads(output.splitlines()[-1])
    answers: int = said["not_modified"]
    if said["others"]:
        raise BenchError(f"{said['others']} answers to checks were not 304 but {said['other_status']}")
    if not answers or said["timeouts"] or said["failures"] > answers // 1000:
        raise BenchError(f"checks failed: {said}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Load(answers, said["seconds"], cpu, said["slowest"])


def downloads(port: int, path: str, size: int, *, connections: int, seconds: float) -> Load:
    """Download an image of ``size`` bytes again and again on so many connections; amount in bytes."""
    numbers = [str(port), path, str(connections), str(seconds), str(size)]
    output = _run([sys.executable, "-P", str(_HERE / "reader.py"), *numbers], seconds)
    said: dict[str, Any] = json.loads(output.splitlines()[-1])
    return Load(said["bytes"], said["seconds"], said["cpu"])


def handshakes(port: int, version: str, suite: str, mode: str, connections: int, seconds: float, head: str) -> Load:
    """Check over TLS, a connection each, as ``shaker.py`` says; ``head`` is the file with the request."""
    words = [str(port), version, suite, mode, str(connections), str(seconds), head]
    output = _run([sys.executable, "-P", str(_HERE / "shaker.py"), *words], seconds)
    said: dict[str, Any] = json.loads(output.splitlines()[-1])
    if not said["checks"]:
        raise BenchError(f"no check was answered: {said}")
    return Load(said["checks"], said["seconds"], said["cpu"])


def _run(command: list[str], seconds: float) -> str:
    """Run a load program and return what it printed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{command[0]} did not end in time") from error
    if done.returncode:
        raise BenchError(f"{command[0]} failed: {done.stdout}{done.stderr}")
    return done.stdout


@contextlib.contextmanager
def slow_downloads(port: int, path: str, version: str, count: int) -> Iterator[list[socket.socket]]:
    """Open ``count`` downloads that read about 2 KB and then stall, as devices far from their router do.

    ``version`` is what the devices say they run.
    """
    connections: list[socket.socket] = []
    try:
        for index in range(count):
            device = (str(9000000 + index), f"DE:BA:7A:01:{index >> 8:02X}:{index & 255:02X}")
            connection = socket.socket()
            connections.append(connection)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(30)
            connection.connect((_HOST, port))
            connection.sendall(request_head(path, port, version, device=device))
        for connection in connections:
            got = b""
            while len(got) < 2048:
                data = connection.recv(2048 - len(got))
                if not data:
                    raise BenchError(f"a slow download ended after {len(got)} bytes")
                got += data
            if got[9:13] != b"200 ":
                raise BenchError(f"a slow download was answered {got[:80]!r}")
        yield connections
    finally:
        for connection in connections:
            connection.close()


def still_open(connections: list[socket.socket]) -> int:
    """Return how many of these stalled downloads the server has not closed."""
    count = 0
    for connection in connections:
        connection.setblocking(False)
        try:
            count += bool(connection.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            count += 1
        except ConnectionError:
            continue
    return count


def wait_for(port: int, head: bytes, wanted: tuple[int, bytes | None], deadline: float, pause: float = 0.005) -> bool:
    """Ask until the answer has the wanted status, and body where one is named.

    ``deadline`` is in seconds of ``time.monotonic``, ``pause`` in seconds between two questions. Return False when
    the time is over; the caller looks whether the server still lives.
    """
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            status, body = ask(port, head, timeout=max(0.1, deadline - time.monotonic()))
            if status == wanted[0] and wanted[1] in (None, body):
                return True
        time.sleep(pause)
    return False
