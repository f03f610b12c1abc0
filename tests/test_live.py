"""Tests of the real program: `twistd ota` as a process of its own, used as a person uses it."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import TypeVar
from unittest import skipUnless

from twisted.trial.unittest import SynchronousTestCase

from tests.images import esp32_image, esp8266_image, esp8266_signed, private_key, public_key
from tests.serving import LONG_AGO

TWISTD = Path(sys.executable).with_name("twistd")
PATIENCE = 30.0
"""How long a process may take for a step before the test gives up, in seconds."""

T = TypeVar("T")


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(step: Callable[[], T | None]) -> T:
    """Try a step again and again until it returns something; the moments between leave time to the process."""
    end = time.monotonic() + PATIENCE
    while True:
        result = step()
        if result is not None:
            return result
        if time.monotonic() > end:
            raise AssertionError(f"nothing came of {step} in {PATIENCE} s")
        time.sleep(0.02)


def _md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


class TwistdCase(SynchronousTestCase):
    """A test that starts the daemon."""

    def setUp(self) -> None:
        """Make a firmware folder, and choose a port."""
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.port = free_port()

    def start(self, *arguments: str, runner: tuple[str, ...] = ("--nodaemon", "--pidfile=")) -> subprocess.Popen[str]:
        """Start `twistd ota` for the folder and the port; it ends with the test at the latest."""
        process = subprocess.Popen(
            [TWISTD, *runner, "ota", "--dir", self.folder, "--port", self.endpoint, "--admin", "none", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder.parent,
        )
        self.addCleanup(self.end, process)
        return process

    @property
    def endpoint(self) -> str:
        """The endpoint string for the port."""
        return f"tcp:{self.port}:interface=127.0.0.1"

    def end(self, process: subprocess.Popen[str]) -> str:
        """End a process as a supervisor does; return what it printed."""
        if process.poll() is None:
            process.terminate()
        return process.communicate(timeout=PATIENCE)[0]

    def ask(self, path: str, **headers: str) -> HTTPResponse | None:
        """Ask for a path; None while nobody listens."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        self.addCleanup(connection.close)
        try:
            connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        except ConnectionRefusedError:
            return None
        return connection.getresponse()

    def answer(self, path: str, status: int, **headers: str) -> HTTPResponse:
        """Ask until the answer has a status."""

        def step() -> HTTPResponse | None:
            response = self.ask(path, **headers)
            return response if response is not None and response.status == status else None

        return until(step)

    def refused(self, *arguments: str) -> str:
        """Start with options that can't work; return the one line that is printed."""
        process = self.start(*arguments)
        printed = process.communicate(timeout=PATIENCE)[0]
        self.assertEqual(process.returncode, 1, printed)
        self.assertEqual(printed.count("\n"), 1, printed)
        return printed


class TwistdTests(TwistdCase):
    """The daemon, from its start to its end."""

    def test_drop_a_file_and_download_it(self) -> None:
        """A file dropped into the folder of the running server is offered soon, and as a whole."""
        self.start()
        self.answer("/firmware", 404)
        image = esp8266_image(8192)
        (self.folder / "firmware-1.2.3.bin").write_bytes(image)
        dropped = time.monotonic()
        response = self.answer("/firmware", 200, x_ESP8266_version="1.0")
        body = response.read()
        # It takes 1.1 s where the machine has nothing else to do.
        self.assertLess(time.monotonic() - dropped, 5)
        self.assertEqual(hashlib.sha256(body).digest(), hashlib.sha256(image).digest())
        self.assertEqual(response.headers["x-MD5"], hashlib.md5(image).hexdigest())
        self.assertEqual(self.answer("/firmware", 304, x_ESP8266_version="1.2.3").headers["Content-Length"], "0")

    def test_unix_socket(self) -> None:
        """An image is served at a UNIX socket as well."""
        image = bytes(200_000)
        (self.folder / "firmware-1.0.0.bin").write_bytes(image)
        with tempfile.TemporaryDirectory() as folder:
            address = f"{folder}/ota"
            process = self.start("--port", f"unix:{address}", "--log", "info")
            self.answer("/-/ready", 200)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(address)
                client.sendall(b"GET /firmware HTTP/1.0\r\n\r\n")
                with client.makefile("rb") as answer:
                    self.assertEqual(answer.read().partition(b"\r\n\r\n")[2], image)
            self.assertNotIn("Traceback", self.end(process))

    def test_follow_the_folder(self) -> None:
        """Replacing, renaming and removing files shows in the answers."""
        lamp = esp32_image(size=4096)
        (self.folder / "firmware-1.0.0.bin").write_bytes(lamp)
        self.start()
        self.assertEqual(self.answer("/firmware", 200).headers["X-Version"], "1.0.0")
        (self.folder / "firmware-1.0.0.bin").rename(self.folder / "firmware-1.1.0.bin")
        until(lambda: self.answer("/firmware", 200).headers["X-Version"] == "1.1.0" or None)
        (self.folder / "firmware-1.1.0.bin").write_bytes(esp32_image(size=4096, seed=1))
        wanted = hashlib.md5(esp32_image(size=4096, seed=1)).hexdigest()
        until(lambda: ((r := self.ask("/firmware")) is not None and r.headers.get("X-MD5") == wanted) or None)
        (self.folder / "firmware-1.1.0.bin").unlink()
        self.answer("/firmware", 404)

    def test_half_copied_files_are_never_offered(self) -> None:
        """While a file grows nothing of it is served, however long that takes; when it is whole it is."""
        image = esp32_image(size=65536)
        self.start()
        self.answer("/-/ready", 200)
        statuses = set()
        with open(self.folder / "firmware-1.0.0.bin", "wb", buffering=0) as file:
            for offset in range(0, len(image), 4096):
                file.write(image[offset : offset + 4096])
                response = self.ask("/firmware")
                statuses.add(response.status if response is not None else None)
        self.assertEqual(statuses, {404})
        self.assertEqual(self.answer("/firmware", 200).read(), image)

    @skipUnless(sys.platform == "linux", "other systems don't tell who has a file open")
    def test_a_copy_that_stalls(self) -> None:
        """A file of unknown form that is half written and still open is not offered, however long it stands still."""
        self.start()
        self.answer("/-/ready", 200)
        with open(self.folder / "firmware-1.0.0.bin", "wb", buffering=0) as file:
            file.write(b"\0half")
            os.utime(file.fileno(), (LONG_AGO, LONG_AGO))
            # A file that comes later, and settles as slowly, shows that the time for the first one is over.
            (self.folder / "other-1.0.0.bin").write_bytes(b"\0whole")
            self.answer("/other", 200)
            self.answer("/firmware", 404)
            file.write(b"\0rest")
        self.assertEqual(self.answer("/firmware", 200).read(), b"\0half\0rest")

    def test_terminate_during_a_download(self) -> None:
        """SIGTERM during a download ends the process at once, with the signal's status and not a word of trouble."""
        process = self.start("--log", "warn")
        path = self.folder / "firmware-1.0.0.bin"
        path.write_bytes(bytes(32 * 1024 * 1024))
        os.utime(path, (LONG_AGO, LONG_AGO))
        self.answer("/-/ready", 200)
        until(lambda: ((r := self.ask("/firmware.bin.md5")) is not None and r.status == 200) or None)
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as client:
            client.sendall(b"GET /firmware HTTP/1.0\r\n\r\n")
            self.assertTrue(client.recv(1024).startswith(b"HTTP/1.0 200 OK\r\n"))
            asked = time.monotonic()
            printed = self.end(process)
            self.assertLess(time.monotonic() - asked, 10)
        self.assertEqual((process.returncode, printed), (-signal.SIGTERM, ""))

    def test_terminate_during_a_reading(self) -> None:
        """SIGTERM while the folder is read ends the process at once, whenever in the reading it comes."""
        for number in range(5_000):
            (self.folder / f"p{number}-1.0.bin").write_bytes(b"\0%d" % number)
        for delay in (0.0, 0.1, 0.2, 0.4):
            process = self.start("--log", "warn")
            # The port is open before the folder is read.
            until(lambda: self.ask("/-/healthy"))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(delay)
            self.assertEqual((self.end(process), process.returncode), ("", -signal.SIGTERM), delay)

    def test_daemon(self) -> None:
        """Without --nodaemon it goes into the background, writes its log and pid file, and removes the latter."""
        (self.folder / "firmware-1.0.0.bin").write_bytes(esp32_image())
        pid_file, log_file = self.folder.parent / f"{self.port}.pid", self.folder.parent / f"{self.port}.log"
        starter = self.start("--log", "info", runner=("--pidfile", str(pid_file), "--logfile", str(log_file)))
        self.assertEqual((starter.wait(PATIENCE), starter.communicate()[0]), (0, ""))
        pid = int(pid_file.read_text())

        def end() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

        self.addCleanup(end)
        self.answer("/firmware", 200, x_ESP32_version="0.9")
        os.kill(pid, signal.SIGTERM)
        until(lambda: None if pid_file.exists() else True)
        self.assertIn("version '0.9': Send firmware-1.0.0.bin (newer)", log_file.read_text())

    def test_quiet_by_default(self) -> None:
        """At the default level an uneventful life leaves nothing in the log."""
        process = self.start()
        self.answer("/-/ready", 200)
        self.assertEqual(self.end(process), "")

    def test_compressed_sketches(self) -> None:
        """With --gzip-esp8266 a device that surely unpacks it is sent a sketch compressed, any other one as it is."""
        boot = random.Random(1).randbytes(3100)
        old, new = (esp8266_image(4096, seed, boot_embedded=boot, embedded=bytes(30000)) for seed in (1, 2))
        (self.folder / "firmware-1.0.0.bin").write_bytes(old)
        (self.folder / "firmware-1.1.0.bin").write_bytes(new)
        state = self.folder.parent / "state"
        headers = {
            "x_ESP8266_mode": "sketch",
            "x_ESP8266_version": "1.0.0",
            "x_ESP8266_free_space": "1000000",
            "x_ESP8266_sketch_md5": hashlib.md5(old).hexdigest(),
        }
        for _ in range(2):
            process = self.start("--gzip-esp8266", "--state", str(state))
            packed = self.answer("/firmware.bin.gz", 200)
            data = packed.read()
            self.assertEqual(gzip.decompress(data), new)
            self.assertLess(len(data), len(new) // 2)
            self.assertEqual(self.answer("/firmware.bin.gz.md5", 200).read().split()[0], _md5(data).encode())
            response = self.answer("/firmware", 200, **headers)
            self.assertEqual((response.read(), response.headers["X-MD5"]), (data, _md5(data)))
            self.assertEqual(response.headers["X-Version"], "1.1.0")
            for leave_out in ("x_ESP8266_sketch_md5", "x_ESP8266_free_space"):
                others = {name: value for name, value in headers.items() if name != leave_out}
                response = self.answer("/firmware", 200, **others)
                self.assertEqual((response.read(), response.headers["X-MD5"]), (new, _md5(new)))
            self.answer("/firmware", 304, **{**headers, "x_ESP8266_sketch_md5": _md5(new)})
            self.assertEqual(self.answer("/firmware.bin", 200).read(), new)
            kept = list((state / "gzip").iterdir())
            self.assertEqual([path.read_bytes() for path in kept], [data])
            self.assertEqual(self.end(process), "")
        self.assertEqual(
            sorted(path.name for path in self.folder.iterdir()), ["firmware-1.0.0.bin", "firmware-1.1.0.bin"]
        )

    def test_signed_images_only(self) -> None:
        """With --verify-key nothing is offered but what one of the keys signed."""
        key, other = private_key("rsa2048"), private_key("rsa2048", 1)
        file = self.folder.parent / "key.pem"
        file.write_bytes(public_key(key))
        signed = esp8266_signed(esp8266_image(seed=1), key)
        (self.folder / "firmware-1.0.0.bin").write_bytes(signed)
        (self.folder / "firmware-1.1.0.bin").write_bytes(esp8266_image(seed=2))
        (self.folder / "firmware-1.2.0.bin").write_bytes(esp8266_signed(esp8266_image(seed=3), other))
        process = self.start("--verify-key", str(file), "--log", "warn")
        response = self.answer("/firmware", 200, x_ESP8266_version="0.1")
        self.assertEqual((response.read(), response.headers["X-Version"]), (signed, "1.0.0"))
        self.answer("/firmware-1.1.0.bin", 404)
        self.answer("/firmware-1.2.0.bin", 404)
        printed = self.end(process)
        self.assertIn("'firmware-1.1.0.bin' is not offered: it has no signature", printed)
        self.assertIn(
            "'firmware-1.2.0.bin' is not offered: none of its signatures is by a key of --verify-key", printed
        )

    def test_port_in_use(self) -> None:
        """A port that is taken is named in one line, with what to do."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", self.port))
            taken.listen()
            self.assertRegex(
                self.refused(), rf"^ota: can't listen at {self.endpoint}: Address already in use; .*--port\n$"
            )

    def test_port_in_use_by_daemon(self) -> None:
        """In the background, too, the person who starts it is told, and the status is not 0."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", self.port))
            taken.listen()
            process = self.start(runner=("--pidfile", f"{self.port}.pid", "--logfile", f"{self.port}.log"))
            printed = process.communicate(timeout=PATIENCE)[0]
        self.assertEqual(process.returncode, 1)
        self.assertIn("can't listen at", printed)
        self.assertNotIn("Traceback", printed)

    def test_bad_options(self) -> None:
        """Options that can't work end the start with one line each."""
        self.assertIn("--frobnicate", self.refused("--frobnicate"))
        self.assertIn("no log level", self.refused("--log", "loud"))
        self.assertIn("--cert", self.refused("--cert", "/nowhere.pem", "--port", "0"))
        self.assertIn("--port nonsense", self.refused("--port", "nonsense"))
        key = self.folder.parent / "private.pem"
        key.write_bytes(private_key("p256"))
        self.assertIn("holds a private key", self.refused("--verify-key", str(key)))
        self.assertIn("can't listen at tcp:99999", self.refused("--port", "tcp:99999"))
        self.assertIn("No such file or directory", self.refused("--port", "unix:/nowhere/at/all"))

    def test_help(self) -> None:
        """--help and -h print the options."""
        for flag in ("--help", "-h"):
            done = subprocess.run([TWISTD, "ota", flag], capture_output=True, text=True, check=True)
            for option in (
                "--dir",
                "--port",
                "--listen",
                "--cert",
                "--log",
                "--state",
                "--verify-key",
                "--gzip-esp8266",
                "--admin",
                "--admin-token-file",
                "--admin-host",
                "--admin-insecure",
            ):
                self.assertIn(option, done.stdout)

    def test_state_is_kept(self) -> None:
        """What was found out about files is kept in the state folder across restarts."""
        (self.folder / "firmware-1.0.0.bin").write_bytes(esp32_image())
        state = self.folder.parent / "state"
        process = self.start("--state", str(state))
        self.answer("/firmware", 200)
        self.end(process)
        self.assertTrue((state / "digests.sqlite").stat().st_size > 0)
        self.assertFalse((self.folder / ".ota").exists())


class CommandTests(SynchronousTestCase):
    """The console script, and `python -m ota_server`."""

    def test_run_in_the_foreground(self) -> None:
        """Both serve in the foreground until they are told to end."""
        for command in ([Path(sys.executable).with_name("ota-server")], [sys.executable, "-m", "ota_server", "run"]):
            folder = Path(self.mktemp()).absolute()
            folder.mkdir()
            port = free_port()
            process = subprocess.Popen(
                [*command, "--dir", folder, "--port", f"tcp:{port}:interface=127.0.0.1", "--admin", "none"],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            try:

                def ready(port: int = port) -> bool | None:
                    try:
                        connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
                        connection.request("GET", "/-/ready")
                        return connection.getresponse().status == 200 or None
                    except ConnectionRefusedError:
                        return None

                self.assertTrue(until(ready))
            finally:
                process.terminate()
                printed = process.communicate(timeout=PATIENCE)[0]
            self.assertEqual((process.returncode, printed), (-signal.SIGTERM, ""))
