"""Tests of how the commands reach a door: HTTPS, sockets of the machine, what is refused early, and what breaks off."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import trustme
from twisted.trial.unittest import SynchronousTestCase

from ota_server.remote.address import Address
from ota_server.remote.client import Door
from ota_server.remote.failing import CommandError, Refusal, Status
from ota_server.remote.listing import list_releases
from ota_server.remote.publish import _pieces, publish
from tests.certificates import make_authority, make_pem
from tests.remote.commands import run_here
from tests.remote.server import LAMP, PATIENCE, ServerCase, environment


class HttpsTests(ServerCase):
    """A door with a certificate of a private authority."""

    def prepare(self) -> None:
        """Make certificates."""
        (self.work / "server.pem").write_bytes(make_pem("localhost"))
        self.ca = self.work / "ca.pem"
        self.ca.write_bytes(make_authority().cert_pem.bytes())
        self.other = self.work / "other.pem"
        self.other.write_bytes(trustme.CA().cert_pem.bytes())
        self.admin = f"device-tls:0:interface=127.0.0.1:cert={self.work / 'server.pem'}"

    def ask(self, *arguments: str, host: str = "localhost", **more: str) -> tuple[int, str, str]:
        """Ask the door by this name."""
        url = f"https://{host}:{self.url.rpartition(':')[2]}"
        variables = {"OTA_SERVER_URL": url, "OTA_SERVER_TOKEN": self.token, **more}
        return self.run_command("releases", *arguments, local=False, **variables)

    def test_trusted(self) -> None:
        """The authority is named by an option, or in the environment."""
        for status, out, errors in (self.ask("--ca", str(self.ca)), self.ask(OTA_SERVER_CA=str(self.ca))):
            self.assertEqual((status, errors), (0, ""))
            self.assertIn("lamp", out)

    def test_not_trusted(self) -> None:
        """Another authority, none, or another name: nothing is sent, and the line says what to do."""
        for arguments, host in (
            (["--ca", str(self.other)], "localhost"),
            ([], "localhost"),
            (["--ca", str(self.ca)], "127.0.0.1"),
        ):
            status, out, errors = self.ask(*arguments, host=host)
            self.assertEqual((status, out), (Status.UNREACHABLE, ""))
            self.assertRegex(errors, r"certificate isn't trusted \([^\n]+--ca FILE[^\n]+\n$")
        self.assertNotIn("GET /api", (self.work / "server.log").read_text())

    def test_no_authorities(self) -> None:
        """A file that holds no certificate is refused."""
        file = self.put_aside("empty.pem", b"no certificate\n")
        status, _, errors = self.ask("--ca", str(file))
        self.assertEqual(status, Status.USAGE)
        self.assertIn(f"{file}: no PEM file", errors)


class SocketTests(ServerCase):
    """A door at a socket of the machine."""

    def prepare(self) -> None:
        """Have a short path: those of sockets end at 107 bytes."""
        self.socket = Path(f"/tmp/ota-{os.getpid()}-{id(self):x}.sock")
        self.admin = f"unix:{self.socket}"
        self.addCleanup(self.socket.unlink, missing_ok=True)

    def test_socket(self) -> None:
        """It is found by the state, and asked like any other."""
        self.assertEqual(self.url, f"unix:{self.socket}")
        self.assertEqual(self.read("releases", "lamp")[0]["version"], "1.0.0")
        self.succeed("publish", str(self.put_aside("lamp-1.1.0.bin", LAMP[2])))


class LargeTests(ServerCase):
    """Images that are too large."""

    def more_options(self) -> Sequence[str]:
        """Take small images alone."""
        return ("--max-image", "1M")

    def test_too_large(self) -> None:
        """The server refuses before it has read all, and that is what the command tells, not that it was hung up."""
        file = self.work / "lamp-1.1.0.bin"
        with open(file, "wb") as written:
            written.truncate(300 << 20)
        status, out, errors = self.run_command("publish", str(file))
        self.assertEqual((status, out), (Status.FAILED, ""))
        self.assertIn("too large: at most 1048576 bytes", errors)

    def test_wrong_token(self) -> None:
        """So it is with a token that isn't known."""
        file = self.work / "lamp-1.1.0.bin"
        with open(file, "wb") as written:
            written.truncate(300 << 20)
        status, _, errors = self.run_command(
            "publish", str(file), local=False, OTA_SERVER_URL=self.url, OTA_SERVER_TOKEN="wrong" * 8
        )
        self.assertEqual(status, Status.FAILED)
        self.assertIn("doesn't know this token", errors)


class MemoryTests(ServerCase):
    """Images of many bytes."""

    def more_options(self) -> Sequence[str]:
        """Take large images, too."""
        return ("--max-image", "512M")

    def test_memory(self) -> None:
        """The command keeps no image in memory: 160 MB are sent with less than 100 MB of its own."""
        file = self.work / "lamp-1.1.0.bin"
        with open(file, "wb") as written:
            written.truncate(160 << 20)
        program = (
            "import re, sys; from ota_server.remote.publish import publish; publish(sys.argv[1:]); "
            # What getrusage(2) tells holds also for the process that this one was made by.
            "print(re.search('VmHWM:[^0-9]*([0-9]+)', open('/proc/self/status').read())[1])"
        )
        done = subprocess.run(
            [*self.words()[:1], "-c", program, "--dir", str(self.folder), str(file)],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        self.assertLess(int(done.stdout.split()[-1]) * 1024, 100 << 20)
        # It was judged when all of it was there.
        self.assertIn("lamp-1.1.0.bin", done.stdout + done.stderr)
        self.assertNotIn("too large", done.stderr)


class FileTests(SynchronousTestCase):
    """Files that change while they are sent."""

    def test_shorter(self) -> None:
        """A file that became shorter is no file to send; one that grew is sent as it was."""
        self.assertRaises(CommandError, list, _pieces(BytesIO(b"abc"), 4, lambda _: None))
        self.assertEqual(list(_pieces(BytesIO(b"abcd"), 3, lambda _: None)), [b"abc"])


class StrangerTests(SynchronousTestCase):
    """What answers isn't what was expected."""

    def listen(self, answer: bytes) -> str:
        """Give this answer to whoever asks, and return the address."""
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    def fail_with(self, answer: bytes) -> CommandError:
        """Ask who answers so, and return the error."""
        with Door(Address(self.listen(answer), "a-token-of-an-operator")) as door:
            error: CommandError = self.assertRaises(CommandError, door.get, "/projects")
        return error

    def test_no_door(self) -> None:
        """Other servers are told from a door, whatever they answer."""
        for answer in (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n[1]",
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n{",
            b"HTTP/1.1 302 Found\r\nLocation: https://evil.example\r\nContent-Length: 0\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"",
        ):
            error = self.fail_with(answer)
            self.assertEqual(error.status, Status.UNREACHABLE, answer)
            self.assertNotIn("\n", str(error))

    def test_no_work(self) -> None:
        """A proxy whose server is away says so."""
        error = self.fail_with(b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n")
        assert isinstance(error, Refusal)
        self.assertEqual((error.status, error.code), (Status.FAILED, 502))

    def test_problem(self) -> None:
        """What a problem says is on one line, and can't write to the terminal."""
        body = b'{"type": "/problems/x-y", "title": "No\\u001b[2J", "detail": "two\\nlines"}'
        error = self.fail_with(
            b"HTTP/1.1 409 Conflict\r\nContent-Type: application/problem+json\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body)
        )
        assert isinstance(error, Refusal)
        self.assertEqual((str(error), error.kind, error.code), ("No\\x1b[2J: two lines", "x-y", 409))

    def test_other_version(self) -> None:
        """An answer that lacks something is told of on one line."""
        url = self.listen(
            b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{"items": [{"a":1}]}'
        )
        file = Path(self.mktemp())
        file.write_text("a-token-of-an-operator")
        status, _, errors = run_here(list_releases, "--url", url, "--token-file", str(file))
        self.assertEqual((status, errors.count("\n")), (Status.FAILED, 1))
        self.assertIn("another version", errors)

    def test_warning(self) -> None:
        """Who sends a token over a network in the clear is warned; nobody answers at this address."""
        file = Path(self.mktemp())
        file.write_text("a-token-of-an-operator")
        image = Path(self.mktemp()).with_name("lamp-1.0.0.bin")
        image.write_bytes(LAMP[1])
        self.patch(__import__("ota_server.remote.client").remote.client, "CONNECT_TIME", 0.1)
        told = run_here(publish, "--url", "http://192.0.2.1:9", "--token-file", str(file), str(image))
        self.assertEqual(told[0], Status.UNREACHABLE)
        self.assertIn("isn't encrypted", told[2].splitlines()[0])
