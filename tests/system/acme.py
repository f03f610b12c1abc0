"""A certificate by ACME (RFC 8555), and its renewal into the running server; run as `python -m tests.system.acme`.

Pebble is the authority, certbot its client, both as Debian has them (`apt-get install pebble certbot`). The script
prints what it sees and when; it ends with status 1 where something isn't as it has to be.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar
from urllib.request import urlopen

import attrs
import trustme

HOST = "ota.test"
NAMES = {"ecdsa": "ota-ecdsa", "rsa": "ota-rsa"}
"""What certbot calls the certificates, by the kinds of their keys."""

IMAGE_SIZE = 40_000_000
"""More than fits into the buffers between server and client, in bytes, so that the download waits for its reader."""

PATIENCE = 60.0
"""How long a step may take, in seconds."""

MOST = 10.0
"""Within how many seconds a renewed certificate has to be in use."""

T = TypeVar("T")


class FaultError(Exception):
    """What isn't as it has to be."""


@attrs.frozen
class Door:
    """The server's port, and the authority that a client trusts there."""

    port: int
    root: str = attrs.field(repr=False)

    def connect(self, kind: str = "ecdsa") -> ssl.SSLSocket:
        """Connect, let the server prove itself with a certificate of a kind, and check that and its chain."""
        context = ssl.create_default_context(cadata=self.root)
        # The suites of TLS 1.3 don't tell the kind of the certificate.
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(f"a{kind.upper()}")
        plain = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        return context.wrap_socket(plain, server_hostname=HOST)

    def serials(self) -> dict[str, str]:
        """Return the serial numbers of the certificates that new connections are shown, by kind."""
        serials = {}
        for kind in NAMES:
            with self.connect(kind) as connection:
                serials[kind] = serial_of(connection)
        return serials


def serial_of(connection: ssl.SSLSocket) -> str:
    """Return the serial number of the certificate that a connection was shown."""
    certificate = connection.getpeercert()
    assert certificate is not None
    return str(certificate["serialNumber"])


def spell(serials: dict[str, str]) -> str:
    """Write serial numbers short."""
    return ", ".join(f"{kind} {serial[-8:]}" for kind, serial in serials.items())


class Clock:
    """Prints steps with the time since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def tell(self, step: str) -> None:
        """Print a step that is done."""
        print(f"{time.monotonic() - self._start:6.1f} s  {step}", flush=True)


def until(step: Callable[[], T | None], what: str) -> T:
    """Try a step until it returns something. Raises FaultError."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        # Nobody listens there yet.
        with contextlib.suppress(OSError):
            result = step()
            if result is not None:
                return result
        time.sleep(0.05)
    raise FaultError(f"{what}: not within {PATIENCE:.0f} s")


def free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextlib.contextmanager
def running(name: str, folder: Path, *command: object, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the end of the block; what it prints goes to a file of the folder."""
    with open(folder / f"{name}.log", "wb") as log:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, **environment},
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@attrs.frozen
class Certbot:
    """Debian's certbot, with folders and an authority of its own."""

    folder: Path
    directory: str
    http_port: int

    def run(self, *arguments: str) -> None:
        """Run it to its end. Raises FaultError."""
        folders = [f"--{name}-dir={self.folder / name}" for name in ("config", "work", "logs")]
        done = subprocess.run(
            ["certbot", *arguments, *folders, "--non-interactive", "--server", self.directory],
            env={**os.environ, "REQUESTS_CA_BUNDLE": str(self.folder / "pebble-authority.pem")},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise FaultError(f"certbot {arguments[0]} failed: {done.stdout}{done.stderr}")

    def issue(self, kind: str) -> None:
        """Get a certificate with a key of a kind."""
        self.run(
            *("certonly", "--standalone", "--http-01-address", "127.0.0.1", "--http-01-port", str(self.http_port)),
            *("--agree-tos", "--register-unsafely-without-email", "--domain", HOST),
            *("--cert-name", NAMES[kind], "--key-type", kind),
        )

    def file(self, kind: str, name: str) -> Path:
        """Return a file of a certificate; certbot keeps links there to the newest."""
        return self.folder / "config" / "live" / NAMES[kind] / name


@contextlib.contextmanager
def authority(folder: Path) -> Iterator[tuple[Certbot, Callable[[], str]]]:
    """Run Pebble; yield a certbot for it, and what returns Pebble's root certificate as PEM."""
    acme, management, http, tls, dns, challenges = free_ports(6)
    own = trustme.CA()
    own.cert_pem.write_to_path(folder / "pebble-authority.pem")
    issued = own.issue_cert("127.0.0.1", "localhost")
    issued.private_key_pem.write_to_path(folder / "pebble.key")
    issued.cert_chain_pems[0].write_to_path(folder / "pebble.pem")
    settings = {
        "listenAddress": f"127.0.0.1:{acme}",
        "managementListenAddress": f"127.0.0.1:{management}",
        "certificate": str(folder / "pebble.pem"),
        "privateKey": str(folder / "pebble.key"),
        "httpPort": http,
        "tlsPort": tls,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": False,
    }
    (folder / "pebble.json").write_text(json.dumps({"pebble": settings}))
    trust = ssl.create_default_context(cafile=str(folder / "pebble-authority.pem"))

    def fetch(address: str) -> str:
        with urlopen(address, context=trust, timeout=PATIENCE) as answer:
            text: str = answer.read().decode()
            return text

    names = ["pebble-challtestsrv", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", f"127.0.0.1:{dns}"]
    names += ["-http01", "", "-https01", "", "-tlsalpn01", "", "-management", f"127.0.0.1:{challenges}"]
    pebble = ["pebble", "-config", folder / "pebble.json", "-dnsserver", f"127.0.0.1:{dns}"]
    with (
        running("challtestsrv", folder, *names),
        running("pebble", folder, *pebble, PEBBLE_VA_NOSLEEP="1", PEBBLE_WFE_NONCEREJECT="0"),
    ):
        directory = f"https://127.0.0.1:{acme}/dir"
        until(lambda: fetch(directory), "Pebble answers")
        yield Certbot(folder, directory, http), lambda: fetch(f"https://127.0.0.1:{management}/roots/0")


@contextlib.contextmanager
def server(folder: Path, certbot: Certbot, root: str) -> Iterator[Door]:
    """Run the server with certbot's certificates; yield its door once it is open."""
    [port] = free_ports(1)
    string = f"device-tls:{port}:interface=127.0.0.1"
    for number, kind in zip(("", "2"), NAMES, strict=True):
        string += f":cert{number}={certbot.file(kind, 'fullchain.pem')}:key{number}={certbot.file(kind, 'privkey.pem')}"
    program = Path(sys.executable).with_name("twistd")
    command = [program, "--nodaemon", "--pidfile=", "ota", "--dir", folder / "firmware", "--state", folder / "state"]
    door = Door(port, root)

    def ready() -> bool | None:
        with door.connect() as connection:
            connection.sendall(b"GET /-/ready HTTP/1.0\r\n\r\n")
            return connection.recv(100).startswith(b"HTTP/1.0 200") or None

    with running("server", folder, *command, "--port", string, "--admin", "none", "--log", "info") as process:
        until(ready, "the server is ready")
        yield door
        if process.poll() is not None:
            raise FaultError(f"the server ended with status {process.returncode}")
    log = (folder / "server.log").read_text()
    if "Traceback" in log:
        raise FaultError(f"the server's log has a traceback: {log}")


def slow_download(door: Door, image: bytes) -> Iterator[str]:
    """Begin a download and yield its certificate's serial number; go on with it, and check that it is whole."""
    with door.connect() as connection:
        connection.sendall(b"GET /firmware HTTP/1.0\r\nHost: ota.test\r\n\r\n")
        answer = bytearray(connection.recv(10_000))
        yield serial_of(connection)
        while piece := connection.recv(1 << 20):
            answer += piece
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.0 200") or hashlib.sha256(body).digest() != hashlib.sha256(image).digest():
        raise FaultError(f"the download is not whole: {len(body):,} of {len(image):,} bytes")


def show(folder: Path) -> None:
    """Do all of it. Raises FaultError."""
    clock = Clock()
    image = random.Random(1).randbytes(IMAGE_SIZE)
    (folder / "firmware").mkdir()
    (folder / "firmware" / "firmware-1.0.0.bin").write_bytes(image)
    with authority(folder) as (certbot, root):
        clock.tell("Pebble runs")
        for kind in NAMES:
            certbot.issue(kind)
            clock.tell(f"certbot got a certificate for {HOST}, {kind}")
        with server(folder, certbot, root()) as door:
            old = door.serials()
            clock.tell(f"the server is ready; a client trusts its chains: {spell(old)}")
            download = slow_download(door, image)
            begun_with = next(download)
            clock.tell(f"a download of {IMAGE_SIZE:,} bytes has begun, on a connection with {begun_with[-8:]}")
            certbot.run("renew", "--force-renewal", "--no-random-sleep-on-renew")
            renewed = time.monotonic()
            clock.tell("certbot renewed both certificates")

            def both_new() -> dict[str, str] | None:
                serials = door.serials()
                return serials if all(serials[kind] != old[kind] for kind in NAMES) else None

            new = until(both_new, "the new certificates are in use")
            took = time.monotonic() - renewed
            clock.tell(f"new connections are shown the new ones, {took:.1f} s after the last renewal: {spell(new)}")
            if took > MOST:
                raise FaultError(f"that took {took:.1f} s, and has to be done in {MOST:.0f} s")
            if next(download, None) is not None or begun_with != old["ecdsa"]:
                raise FaultError("the download was not on a connection with the old certificate")
            clock.tell(f"the download came to its end, whole, on its connection with {begun_with[-8:]}")
    clock.tell("the server ended without an error in its log")


def main() -> None:
    """Run it in a folder of its own, which is left where something was wrong."""
    missing = [name for name in ("pebble", "pebble-challtestsrv", "certbot") if shutil.which(name) is None]
    if missing:
        sys.exit(f"acme: there is no {', '.join(missing)}; on Debian: apt-get install pebble certbot")
    folder = Path(tempfile.mkdtemp(prefix="ota-acme-"))
    try:
        show(folder)
    except FaultError as fault:
        sys.exit(f"acme: {fault} (logs: {folder})")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
