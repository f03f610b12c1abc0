"""Tests of the command line."""

from __future__ import annotations

import os
import socket
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from ota_server.fleet.policy import DEFAULT_POLICY
from ota_server.operator.door import OperatorDoor
from ota_server.service import PolicySource
from ota_server.tap import Options, makeService
from ota_server.tls.creator import TlsFiles
from ota_server.tls.endpoint import DeviceTlsEndpoint
from tests.certificates import make_pem
from tests.images import private_key, public_key


class OptionsCase(SynchronousTestCase):
    """A folder, and options that name it."""

    def setUp(self) -> None:
        """Make a firmware folder."""
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def parse(self, *arguments: str) -> Options:
        """Parse options with the folder named before them."""
        options = Options()
        options.parseOptions(["--dir", str(self.folder), *arguments])
        return options

    def refusal(self, *arguments: str) -> str:
        """Return the message with which options are refused."""
        return str(self.assertRaises(usage.UsageError, self.parse, *arguments))


class OptionsTests(OptionsCase):
    """What `twistd ota` makes of its options."""

    def test_defaults(self) -> None:
        """With a folder alone: port 8000, log level error, state in the folder, no certificate."""
        options = dict(self.parse())
        doors = [text for text, _ in options.pop("doors")]
        operator = options.pop("operator")
        assert isinstance(operator, OperatorDoor)
        self.assertEqual((operator.description, operator.token_file), ("tcp:8001:interface=127.0.0.1", None))
        self.assertEqual(options.pop("source"), PolicySource(self.folder / "ota.toml", False, DEFAULT_POLICY))
        self.assertEqual(
            (doors, options),
            (
                ["port 8000"],
                {
                    "dir": self.folder,
                    "state": self.folder / ".ota",
                    "policy": None,
                    "database": None,
                    "cert": None,
                    "log": "error",
                    "port": [],
                    "verify-key": [],
                    "keys": (),
                    "gzip-esp8266": 0,
                    "admin": "tcp:8001:interface=127.0.0.1",
                    "admin-token-file": None,
                    "admin-host": [],
                    "admin-insecure": 0,
                    "max-image": 64 << 20,
                },
            ),
        )

    def test_default_folder(self) -> None:
        """Without --dir the folder is ~/firmware."""
        home = Path(self.mktemp()).absolute()
        (home / "firmware").mkdir(parents=True)
        self.patch(os, "environ", {**os.environ, "HOME": str(home)})
        options = Options()
        options.parseOptions([])
        self.assertEqual(options["dir"], home / "firmware")

    def test_several_ports(self) -> None:
        """--port and its alias --listen may be given several times, as numbers and as endpoint strings."""
        options = self.parse("--port", "8001", "--listen", "tcp:8002:interface=127.0.0.1", "-p", "haproxy:tcp:8003")
        self.assertEqual(
            [text for text, _ in options["doors"]],
            ["port 8001", "tcp:8002:interface=127.0.0.1", "haproxy:tcp:8003"],
        )

    def test_bad_ports(self) -> None:
        """What is neither a port number nor an endpoint is refused, with an example of each."""
        for value in ("", "http", "65536", "-1", "nonsense:8000", "tcp", "tcp:x", "ssl:443:privateKey=/nowhere.pem"):
            message = self.refusal(f"--port={value}")
            self.assertIn(f"--port {value}:", message)
            self.assertNotIn("\n", message)

    def test_log_levels(self) -> None:
        """Levels are read in lower and upper case, and others are refused with the list of them."""
        self.assertEqual(self.parse("--log", "WARN")["log"], "warn")
        self.assertIn("debug, info, warn, error, critical", self.refusal("--log", "loud"))

    def test_sizes(self) -> None:
        """Sizes are numbers of bytes, or have a unit."""
        for text, size in (("1", 1), ("64M", 64 << 20), ("1g", 1 << 30), ("300 KiB", 300 << 10), ("5MB", 5 << 20)):
            self.assertEqual(self.parse("--max-image", text)["max-image"], size)
        for text in ("", "0", "-1", "64T", "1.5M", "M", "lots"):
            self.assertIn("no size", self.refusal(f"--max-image={text}"))

    def test_missing_folder(self) -> None:
        """A folder that isn't there is named, with what to do."""
        message = str(self.assertRaises(usage.UsageError, Options().parseOptions, ["--dir", "/nowhere/at/all"]))
        self.assertIn("--dir /nowhere/at/all: No such file or directory; make the folder", message)

    def test_folder_is_a_file(self) -> None:
        """A file in the place of the folder is refused."""
        file = self.folder / "file"
        file.touch()
        message = str(self.assertRaises(usage.UsageError, Options().parseOptions, ["--dir", str(file)]))
        self.assertIn("Not a directory", message)

    def test_empty_names(self) -> None:
        """An empty name of a folder, as an unset variable of the shell makes it, is not the current folder."""
        self.assertIn("--state: name a folder", self.refusal("--state", ""))
        message = str(self.assertRaises(usage.UsageError, Options().parseOptions, ["--dir", ""]))
        self.assertEqual(message, "--dir: name a folder")

    def test_state_folder_is_made(self) -> None:
        """The state folder is made when it isn't there, for the owner alone."""
        state = self.folder.parent / "kept" / "here"
        self.parse("--state", str(state))
        self.assertEqual(state.stat().st_mode & 0o777, 0o700)
        self.assertEqual(list(state.iterdir()), [])

    def test_unwritable_state_folder(self) -> None:
        """A state folder that can't be written is an error that names the option."""
        (self.folder / "file").touch()
        self.assertIn("name another with --state DIR", self.refusal("--state", str(self.folder / "file" / "state")))

    def test_unknown_option(self) -> None:
        """An unknown option is refused."""
        self.assertIn("--frobnicate", self.refusal("--frobnicate"))

    def test_stray_argument(self) -> None:
        """A word that is no option is refused, with a hint at --dir."""
        self.assertIn("--dir", self.refusal("firmware"))

    def test_certificate(self) -> None:
        """With --cert, ports given as numbers speak HTTPS, and endpoint strings are left alone."""
        pem = self.folder / "cert.pem"
        pem.write_bytes(make_pem("localhost"))
        options = self.parse("--cert", str(pem), "--port", "8443", "--port", "tcp:8000")
        self.assertEqual([text for text, _ in options["doors"]], ["port 8443 (HTTPS)", "tcp:8000"])
        (secure, plain) = (endpoint for _, endpoint in options["doors"])
        # Which follows the file as long as it listens.
        self.assertEqual(secure.tls.files, TlsFiles(((pem, None),)))
        self.assertNotIsInstance(plain, DeviceTlsEndpoint)

    def test_certificate_for_the_default_port(self) -> None:
        """With --cert alone the default port speaks HTTPS."""
        pem = self.folder / "cert.pem"
        pem.write_bytes(make_pem("localhost"))
        self.assertEqual([text for text, _ in self.parse("--cert", str(pem))["doors"]], ["port 8000 (HTTPS)"])

    def test_certificate_without_use(self) -> None:
        """A certificate that no port would use is refused, lest one believes in HTTPS that isn't there."""
        pem = self.folder / "cert.pem"
        pem.write_bytes(make_pem("localhost"))
        self.assertIn("add --port NUMBER", self.refusal("--cert", str(pem), "--port", "tcp:8000"))

    def test_tls_endpoint(self) -> None:
        """An endpoint string `device-tls:` speaks HTTPS without --cert, and beside it."""
        pem = self.folder / "cert.pem"
        pem.write_bytes(make_pem("localhost"))
        string = f"device-tls:8443:cert={pem}:interface=127.0.0.1"
        self.assertEqual([text for text, _ in self.parse("--port", string)["doors"]], [string])
        doors = self.parse("--cert", str(pem), "--port", "443", "--port", string)["doors"]
        self.assertEqual([text for text, _ in doors], ["port 443 (HTTPS)", string])

    def test_bad_tls_endpoints(self) -> None:
        """What is wrong with an endpoint string `device-tls:` is said as such, without a lecture on endpoints."""
        for value, words in (
            ("device-tls:443", "device-tls needs a certificate: device-tls:443:cert=fullchain.pem:key=privkey.pem"),
            ("device-tls:443:cert=/nowhere.pem", "/nowhere.pem can't be read: No such file or directory"),
            ("haproxy:device-tls:443:cert=/nowhere.pem", "/nowhere.pem can't be read: No such file or directory"),
            (
                "haproxy:device-tls:443",
                "device-tls needs a certificate: device-tls:443:cert=fullchain.pem:key=privkey.pem",
            ),
        ):
            self.assertEqual(self.refusal("--port", value), f"--port {value}: {words}")
        self.assertIn("device-tls has no crt=; it has cert=, ", self.refusal("--port", "device-tls:443:crt=x"))

    def test_bad_certificate_names(self) -> None:
        """A --cert without a name, or in the home folder of nobody, is refused in one line."""
        self.assertEqual(self.refusal("--cert="), "--cert: name a file")
        self.assertIn("no such home folder", self.refusal("--cert", "~nobody-of-that-name/x.pem"))

    def test_bad_certificate(self) -> None:
        """A certificate that can't be used is refused, also when no port would use it."""
        self.assertIn("--cert:", self.refusal("--cert", "/nowhere.pem"))
        self.assertIn("--cert:", self.refusal("--cert", "/nowhere.pem", "--port", "tcp:8000"))

    def put(self, name: str, content: bytes) -> str:
        """Write a file, and return its path."""
        path = self.folder.parent / name
        path.write_bytes(content)
        return str(path)

    def test_verify_keys(self) -> None:
        """--verify-key may be given several times, and a file may hold several keys."""
        pair = public_key(private_key("p256")) + public_key(private_key("rsa2048"))
        options = self.parse("--verify-key", self.put("pair.pem", pair), f"--verify-key={self.put('one.pem', pair)}")
        self.assertEqual([key.name for key in options["keys"]], ["pair.pem"] * 2 + ["one.pem"] * 2)
        self.assertEqual([key.kind for key in options["keys"]], ["ECDSA P-256", "RSA-2048"] * 2)

    def test_verify_key_in_home(self) -> None:
        """The tilde of a key's path is the home folder, also where the shell leaves it alone."""
        home = Path(self.mktemp()).absolute()
        home.mkdir()
        (home / "key.pem").write_bytes(public_key(private_key("p256")))
        self.patch(os, "environ", {**os.environ, "HOME": str(home)})
        self.assertEqual(len(self.parse("--verify-key=~/key.pem")["keys"]), 1)

    def test_bad_verify_keys(self) -> None:
        """What is no public key is refused in one line that names the file: private keys most of all."""
        private = private_key("p256")
        for content, words in (
            (private, "holds a private key, which has no place on the server"),
            (public_key(private) + private, "holds a private key"),
            (b"", "is empty"),
            (b"no key", "holds no public key in PEM form"),
            (public_key(private)[:-30], "has no end that belongs to it"),
            (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "is damaged"),
            (b"\xff\xfe\0\0", "holds no public key"),
        ):
            file = self.put("key.pem", content)
            good = self.put("good.pem", public_key(private))
            message = self.refusal("--verify-key", good, "--verify-key", file)
            self.assertTrue(message.startswith("--verify-key: "), message)
            self.assertIn(file, message)
            self.assertIn(words, message)
            self.assertNotIn("\n", message)
            self.assertNotIn("Traceback", message)
        self.assertIn("No such file or directory", self.refusal("--verify-key", "/nowhere.pem"))
        self.assertIn("Is a directory", self.refusal("--verify-key", str(self.folder)))
        self.assertIn("--verify-key", self.refusal("--verify-key"))

    def test_gzip(self) -> None:
        """--gzip-esp8266 is a flag."""
        self.assertTrue(self.parse("--gzip-esp8266")["gzip-esp8266"])
        self.assertIn("gzip-esp8266", self.refusal("--gzip-esp8266=yes"))

    def test_run_by_twistd(self) -> None:
        """Run by twistd, a refusal is one line on the standard error stream, and ends with status 1."""
        options = Options()
        options.parent = usage.Options()
        errors = StringIO()
        with redirect_stderr(errors):
            stop = self.assertRaises(SystemExit, options.parseOptions, ["--dir", "/nowhere"])
        self.assertEqual(stop.code, 1)
        self.assertRegex(errors.getvalue(), r"\Aota: --dir /nowhere: [^\n]* \(see: twistd ota --help\)\n\Z")


class PolicyOptionTests(OptionsCase):
    """--policy and --database."""

    def test_policy(self) -> None:
        """The policy is that of the folder, or of the file named."""
        (self.folder / "ota.toml").write_text("hold = true\n")
        self.assertTrue(self.parse()["source"].current.rules_for("lamp", None).hold)
        other = self.folder / "other.toml"
        other.write_text("rollback = true\n")
        rules = self.parse("--policy", str(other))["source"].current.rules_for("lamp", None)
        self.assertEqual((rules.hold, rules.rollback), (False, True))

    def test_wrong_policy(self) -> None:
        """A policy with an error, or one that isn't there though it was named, refuses to start."""
        (self.folder / "ota.toml").write_text('stages = ["1"]\nsoaking = "30m"\n')
        refusal = self.refusal()
        self.assertIn(f"{self.folder}/ota.toml", refusal)
        self.assertIn("line 2", refusal)
        self.assertIn("soak", refusal)
        self.assertIn("nowhere.toml", self.refusal("--policy", "nowhere.toml"))

    def test_database(self) -> None:
        """A URL of another database than SQLite and PostgreSQL is refused, and a password isn't shown."""
        self.assertEqual(self.parse("--database", "none")["database"], "none")
        self.assertEqual(self.parse("--database", "sqlite:////tmp/x")["database"], "sqlite:////tmp/x")
        self.assertIn("--database", self.refusal("--database", "somewhere"))
        self.assertNotIn("secret", self.refusal("--database", "mysql://me:secret@host/x"))


class ServiceTests(SynchronousTestCase):
    """What makeService makes."""

    def make(self, *arguments: str) -> list[str]:
        """Return the kinds of the parts of the service."""
        folder = Path(self.mktemp())
        folder.mkdir()
        options = Options()
        options.parseOptions(["--dir", str(folder), *arguments])
        return [type(part).__name__ for part in makeService(options)]

    def test_parts(self) -> None:
        """The parts: what hears SIGHUP, thread pools with their users, doors, and what the supervisor is told."""
        self.assertEqual(
            self.make("--port", "8001", "--port", "8002"),
            [
                "HangupService",
                *["ThreadPoolService"] * 3,
                *["DoorService"] * 2,
                "ThreadPoolService",
                "SupervisorService",
            ],
        )
        self.assertEqual(
            self.make("--admin", "none"),
            ["HangupService", *["ThreadPoolService"] * 3, "DoorService", "SupervisorService"],
        )

    def test_nothing_listens_yet(self) -> None:
        """Making the service takes no port: that is for the start."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            self.assertIn("DoorService", self.make("--port", f"tcp:{port}:interface=127.0.0.1"))
