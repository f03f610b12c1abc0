"""Tests of the operator's door of the real program: how it opens, to whom, and that devices can't reach it."""

from __future__ import annotations

import http.client
import json
import os
import pty
import re
import select
import socket
import ssl
import stat
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from ota_server.operator.door import DOOR_FILE
from ota_server.operator.tokens import TOKEN_FILE, TOKENS_FILE
from tests.certificates import make_pem
from tests.images import esp32_image
from tests.test_live import PATIENCE, TWISTD, TwistdCase, until
from tests.web.gating import basic

LOCAL = "tcp:0:interface=127.0.0.1"


class LiveCase(TwistdCase):
    """A test with a program that has an operator's door."""

    def setUp(self) -> None:
        """Choose where the state is."""
        super().setUp()
        self.state = self.folder / ".ota"

    def open(self, *arguments: str, admin: str = LOCAL) -> subprocess.Popen[str]:
        """Start the program, and wait until its door is open."""
        process = self.start("--admin", admin, *arguments)
        until(lambda: self.door_file() if process.poll() is None else {"url": "", "ended": True})
        return process

    def door_file(self) -> dict[str, str] | None:
        """Return what the program tells of its door on this machine."""
        try:
            told: dict[str, str] = json.loads((self.state / DOOR_FILE).read_text())
        except FileNotFoundError:
            return None
        return told

    @property
    def token(self) -> str:
        """The first token."""
        return (self.state / TOKEN_FILE).read_text().strip()

    @property
    def door_port(self) -> int:
        """The port of the door."""
        told = self.door_file()
        assert told is not None
        return int(told["url"].rpartition(":")[2])

    def call(
        self, method: str, path: str, body: bytes | None = None, token: str | None = None, **fields: str
    ) -> tuple[int, Any]:
        """Return status and body of an answer of the door."""
        connection = http.client.HTTPConnection("127.0.0.1", self.door_port, timeout=PATIENCE)
        self.addCleanup(connection.close)
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        headers["Authorization"] = f"Bearer {self.token if token is None else token}"
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


class FirstStartTests(LiveCase):
    """The token that is made, and who gets to see it."""

    def test_terminal(self) -> None:
        """At a terminal the first start shows a link with the token, once; the next one doesn't."""
        for link in (True, False):
            leader, follower = pty.openpty()
            process = subprocess.Popen(
                [TWISTD, "--nodaemon", "--pidfile=", "ota", "--dir", self.folder, "--port", LOCAL, "--admin", LOCAL],
                stdin=subprocess.DEVNULL,
                stdout=follower,
                stderr=follower,
            )
            os.close(follower)
            self.addCleanup(os.close, leader)
            self.addCleanup(process.wait)
            self.addCleanup(process.kill)
            until(self.door_file)
            url = (self.door_file() or {})["url"]
            until(lambda: self.call("GET", "/api/v1/session")[0] == 200 or None)
            process.terminate()
            process.wait()
            shown = b""
            while select.select([leader], [], [], 0)[0]:
                try:
                    shown += os.read(leader, 65536)
                except OSError:
                    break
            expected = f"The operator's door, with its token: {url}/login#token={self.token}\r\n".encode()
            self.assertEqual(shown.count(expected), 1 if link else 0, shown)
            self.assertEqual(shown.count(self.token.encode()), 1 if link else 0, shown)

    def test_journal(self) -> None:
        """Where what is printed goes elsewhere, the file is named, and the token isn't told at any log level."""
        process = self.open("--log", "debug")
        self.call("GET", "/api/v1/session")
        self.call("GET", f"/api/v1/session?token={self.token}", token="wrong")
        self.call("GET", f"/?token={self.token}", token="wrong")
        printed = self.end(process)
        self.assertIn("operators are served at http://127.0.0.1:", printed)
        self.assertIn(str(self.state / TOKEN_FILE), printed)
        self.assertNotIn(self.token, printed)

    def test_files(self) -> None:
        """Its files are for its user alone, and say where the door is for as long as it is open."""
        process = self.open()
        for name in (TOKEN_FILE, DOOR_FILE):
            self.assertEqual(stat.S_IMODE((self.state / name).stat().st_mode), 0o600, name)
        token = self.token
        body = b'{"name": "ci", "scopes": ["read"]}'
        self.answer("/-/ready", 200)
        status, made = self.call("POST", "/api/v1/tokens", body, Content_Type="application/json")
        self.assertEqual(status, 201, made)
        self.end(process)
        self.assertFalse((self.state / DOOR_FILE).exists())
        kept = (self.state / TOKENS_FILE).read_text()
        self.assertNotIn(json.loads(made)["token"], kept)

        self.open()
        self.assertEqual(self.token, token)
        self.assertEqual(self.call("GET", "/api/v1/session", token=json.loads(made)["token"])[0], 200)
        self.answer("/-/ready", 200)
        events = json.loads(self.call("GET", "/api/v1/events?kind=token-created")[1])
        self.assertEqual([event["actor"] for event in events["items"]], ["operator:admin"])

    def test_own_token(self) -> None:
        """With a token of one's own none is made."""
        path = self.folder.parent / "own.token"
        path.write_text("a-token-of-my-own\n")
        path.chmod(0o644)
        self.assertIn("chmod 600", self.refused("--admin", LOCAL, "--admin-token-file", str(path)))
        path.chmod(0o600)
        self.open("--admin-token-file", str(path))
        self.assertFalse((self.state / TOKEN_FILE).exists())
        self.assertEqual(self.call("GET", "/api/v1/session", token="a-token-of-my-own")[0], 200)
        self.assertEqual((self.door_file() or {})["token_file"], str(path))


class OpeningTests(LiveCase):
    """Where the door opens, and where it doesn't."""

    def test_exposed(self) -> None:
        """Where others could listen in the program doesn't start, unless told so."""
        for string in ("tcp:0", "tcp:0:interface=0.0.0.0", r"tcp6:0:interface=\:\:", "haproxy:tcp:0"):
            self.assertIn("--admin-insecure", self.refused("--admin", string))
        self.open("--admin-insecure", admin="tcp:0")
        self.assertEqual(self.call("GET", "/api/v1/session")[0], 200)

    def test_refusals(self) -> None:
        """What can't be is refused with one line."""
        self.assertIn("--admin nonsense", self.refused("--admin", "nonsense"))
        self.assertIn("--admin 70000: port numbers end at 65535", self.refused("--admin", "70000"))
        self.assertIn("--admin none closes it", self.refused("--admin", "none", "--admin-insecure"))
        self.assertIn("No such file", self.refused("--admin", LOCAL, "--admin-token-file", "/nowhere/at/all"))
        self.state.mkdir(exist_ok=True)
        (self.state / TOKENS_FILE).write_text("{")
        self.assertIn("tokens.json: it can't be read", self.refused("--admin", LOCAL))
        (self.state / TOKENS_FILE).unlink()
        (self.state / TOKEN_FILE).write_text("a-token-that-all-can-read")
        (self.state / TOKEN_FILE).chmod(0o644)
        message = self.refused("--admin", LOCAL)
        self.assertIn("others than its owner can read", message)
        self.assertNotIn("a-token-that-all-can-read", message)

    def test_port_taken(self) -> None:
        """A port of another program's is refused with what to do."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            message = self.refused("--admin", str(taken.getsockname()[1]))
        self.assertIn("Address already in use; end the program that does, or choose another --admin PORT", message)

    def test_none(self) -> None:
        """Without the door there is no token, either."""
        self.start()
        self.answer("/-/ready", 200)
        self.assertFalse((self.state / TOKEN_FILE).exists())

    def test_tls(self) -> None:
        """With TLS it may be open to others; the cookie is for TLS alone."""
        path = Path(self.mktemp()).absolute()
        path.write_bytes(make_pem("127.0.0.1"))
        self.open(admin=f"device-tls:0:cert={path}")
        self.assertTrue((self.door_file() or {})["url"].startswith("https://127.0.0.1:"))
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", self.door_port, timeout=PATIENCE, context=context)
        self.addCleanup(connection.close)
        origin = f"https://127.0.0.1:{self.door_port}"
        fields = {"Origin": origin, "Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", "/login", f"token={self.token}", fields)
        answer = connection.getresponse()
        answer.read()
        cookie = answer.headers["Set-Cookie"]
        self.assertEqual(answer.status, 303)
        self.assertRegex(cookie, r"^__Host-ota-\d+=.*; Secure$")
        connection.request("GET", "/api/v1/session", headers={"Cookie": cookie.partition(";")[0]})
        self.assertEqual(json.loads(connection.getresponse().read())["name"], "admin")

    def test_unix(self) -> None:
        """At a socket of this machine there is no host name to check, and everything else is the same."""
        path = f"/tmp/ota-door-{os.getpid()}"
        self.addCleanup(Path(path).unlink, missing_ok=True)
        self.open(admin=f"unix:{path}:mode=600")
        self.assertEqual((self.door_file() or {})["url"], f"unix:{path}")
        for token, status in ((self.token, b"200"), ("wrong", b"401")):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(path)
                fields = f"Host: anything\r\nAuthorization: Bearer {token}\r\nConnection: close"
                connection.sendall(f"GET /api/v1/session HTTP/1.1\r\n{fields}\r\n\r\n".encode())
                self.assertEqual(connection.recv(65536)[9:12], status)


class TwoDoorsTests(LiveCase):
    """What is reachable by which door."""

    def test_devices_reach_nothing_of_it(self) -> None:
        """Each operation and page is unknown at the device door, with token or not; and no image is served here."""
        (self.folder / "firmware-1.2.3.bin").write_bytes(esp32_image())
        self.open()
        self.answer("/firmware", 200)
        document = json.loads(self.call("GET", "/api/v1/openapi.json")[1])
        addresses = [
            (method.upper(), re.sub(r"\{[a-z_]+\}", "firmware", path))
            for path, methods in document["paths"].items()
            for method in methods
        ]
        self.assertGreater(len(addresses), 20)
        pages = [("GET", path) for path in ("/login", "/login.js", "/login.css", "/upload/firmware-1.2.3.bin")]
        bring = basic(self.token.encode()).decode().partition(": ")[2]
        for method, path in [*addresses, *pages, ("POST", "/login"), ("POST", "/logout")]:
            for headers in ({}, {"Authorization": f"Bearer {self.token}"}, {"Authorization": bring}):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
                connection.request(method, path, headers=headers)
                answer = connection.getresponse()
                # The device door answers every other method so, wherever it is asked.
                self.assertEqual(answer.status, 404 if method == "GET" else 405, (method, path))
                connection.close()
        for path in (
            "/firmware",
            "/firmware.bin",
            "/firmware-1.2.3.bin",
            "/firmware.bin.md5",
            "/-/ready",
            "/-/healthy",
        ):
            self.assertEqual(self.call("GET", path)[0], 404, path)

    def test_answer_before_body(self) -> None:
        """A client that sends a large body at once gets to see why nobody wants it."""
        self.open()
        for path, token, status in (
            ("/api/v1/projects/lamp/releases/1.2.3", "wrong", b"401"),
            ("/api/v1/tokens", self.token, b"413"),
        ):
            with socket.create_connection(("127.0.0.1", self.door_port), timeout=PATIENCE) as connection:
                method = "PUT" if "releases" in path else "POST"
                head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
                connection.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 20000000\r\n\r\n".encode())

                def send(connection: socket.socket = connection) -> None:
                    for _ in range(300):
                        connection.sendall(b"x" * 65536)

                sending = threading.Thread(target=send)
                sending.start()
                sending.join(PATIENCE)
                received = b""
                while piece := connection.recv(65536):
                    received += piece
                self.assertEqual(received[9:12], status)
                self.assertIn(b"problem+json", received)

    def test_wrong_tokens_cost_others_nothing(self) -> None:
        """While wrong tokens are tried at the operator's door, the right one and devices are answered at once."""
        (self.folder / "firmware-1.2.3.bin").write_bytes(esp32_image())
        self.open()
        self.answer("/firmware", 200)
        wrong = b"GET /api/v1/session HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\n\r\n"
        for _ in range(200):
            with socket.create_connection(("127.0.0.1", self.door_port)) as connection:
                connection.sendall(wrong)
        begun = time.monotonic()
        self.assertEqual(self.call("GET", "/api/v1/session")[0], 200)
        self.assertEqual(self.answer("/firmware", 304, x_ESP8266_version="1.2.3").status, 304)
        self.assertLess(time.monotonic() - begun, 2.0)
